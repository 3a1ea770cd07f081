//! The broker with its sockets, where a test must be inside.

#[path = "../../tests/common/kernel.rs"]
mod kernel;

use super::*;
use crate::Client;
use std::thread;

const PATIENCE: Duration = Duration::from_secs(20);
const WHILE: Duration = Duration::from_millis(200);

fn serve(broker: &mut Broker) {
    broker.look(Some(Duration::from_millis(1))).unwrap();
    while broker.turn() {}
}

/// A client that the broker has let in.
fn client(broker: &mut Broker) -> Client {
    let path = broker.path().to_owned();
    let connecting = thread::spawn(move || Client::connect(path).unwrap());
    while !connecting.is_finished() {
        serve(broker);
    }
    connecting.join().unwrap()
}

#[test]
fn rings_and_pages_for_which_there_was_no_memory_are_sent_later() {
    // Nothing but a ring is due for the first; pages are for the others, and end the sleep, too.
    for (len, messages) in [(8, 1), (512 * 1024, 4)] {
        let place = tempfile::tempdir().unwrap();
        // Copied, so that the broker has pages to tell of.
        let builder = Broker::builder().lend_from(usize::MAX);
        let mut broker = builder.bind(place.path().join("bus")).unwrap();
        let (mut sender, mut receiver) = (client(&mut broker), client(&mut broker));
        let (report, reports) = std::sync::mpsc::channel();
        let receiving = thread::spawn(move || {
            for _ in 0..messages {
                report.send(receiver.recv().unwrap().payload.len()).unwrap();
            }
        });
        thread::sleep(WHILE);
        for _ in 0..messages {
            sender.send(1, &vec![7; len]).unwrap();
        }
        let mut broker = kernel::refusing(libc::SYS_sendmsg, libc::ENOBUFS, move || {
            serve(&mut broker);
            assert!(!broker.turn(), "what can't be sent is no work");
            assert!(broker.short_of_memory);
            broker
        });
        assert!(reports.recv_timeout(WHILE).is_err(), "nobody has rung");
        serve(&mut broker);
        assert!(!broker.short_of_memory);
        let lens: Vec<usize> =
            (0..messages).map(|_| reports.recv_timeout(PATIENCE).unwrap()).collect();
        assert_eq!(lens, vec![len; messages]);
        receiving.join().unwrap();
    }
}

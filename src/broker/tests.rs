//! The broker with its sockets, where a test must be inside.

#[path = "../../tests/common/kernel.rs"]
mod kernel;

use super::*;
use crate::{Client, ClientBuilder, Wait};
use std::thread::{self, JoinHandle};

const PATIENCE: Duration = Duration::from_secs(20);
const WHILE: Duration = Duration::from_millis(200);

fn serve(broker: &mut Broker) {
    broker.look(Some(Duration::from_millis(1))).unwrap();
    while broker.turn() {}
}

/// A client that the broker has let in.
fn client(broker: &mut Broker) -> Client {
    let connecting = connecting(broker, Client::builder());
    let_in(broker, connecting)
}

/// A client on its way in.
fn connecting(broker: &Broker, client: ClientBuilder) -> JoinHandle<Client> {
    let path = broker.path().to_owned();
    thread::spawn(move || client.connect(path).unwrap())
}

fn let_in(broker: &mut Broker, connecting: JoinHandle<Client>) -> Client {
    let deadline = Instant::now() + PATIENCE;
    while !connecting.is_finished() && Instant::now() < deadline {
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

#[test]
fn who_could_not_be_welcomed_for_want_of_memory_is_welcomed_later() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = Broker::bind(place.path().join("bus")).unwrap();
    let client = connecting(&broker, Client::builder());
    let mut broker = kernel::refusing(libc::SYS_sendmsg, libc::ENOMEM, move || {
        let deadline = Instant::now() + PATIENCE;
        while !broker.short_of_memory && Instant::now() < deadline {
            serve(&mut broker);
        }
        assert!(broker.short_of_memory, "it goes on trying");
        broker
    });
    assert_eq!(let_in(&mut broker, client).id(), ClientId(1));
}

#[test]
fn a_broker_that_ends_without_memory_for_its_rings_does_not_burn_the_processor() {
    let place = tempfile::tempdir().unwrap();
    let builder =
        Broker::builder().chain_budget(64 * 1024).max_message_len(4096).page_len(16 * 1024);
    let mut broker = builder.bind(place.path().join("bus")).unwrap();
    let (mut sender, mut asleep) = (client(&mut broker), client(&mut broker));
    assert_eq!(asleep.prepare_wait(), Wait::Readable { timeout: None });
    // All that there is room for on the bus and in the sender's chain.
    let mut broker = kernel::refusing(libc::SYS_sendmsg, libc::ENOBUFS, move || {
        serve(&mut broker);
        broker
    });
    while sender.try_send(1, &[7; 4096]).is_ok() {}
    broker.stop_handle().stop();
    kernel::refusing(libc::SYS_sendmsg, libc::ENOBUFS, move || {
        serve(&mut broker);
        assert!(broker.core.is_blocked() && broker.short_of_memory);
        kernel::idling(|| broker.run()).unwrap();
    });
}

#[test]
fn who_watches_is_told_the_last_number_whatever_has_happened_within_one_look() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = Broker::bind(place.path().join("bus")).unwrap();
    let leaving = client(&mut broker);
    let watching = connecting(&broker, Client::builder().watch_receivers());
    while broker.connections.len() < 2 {
        broker.look(None).unwrap();
    }
    // Nothing but its greeting is taken.
    let (&token, _) = broker.connections.last_key_value().unwrap();
    while broker.take_packet(token) != Taken::Packet {}
    // Its next packet is there, and then that the other one has left: one look takes in both.
    thread::sleep(WHILE);
    drop(leaving);
    broker.look(None).unwrap();
    let mut watching = let_in(&mut broker, watching);
    let deadline = Instant::now() + PATIENCE;
    assert!(watching.wait_for_receivers(1, Some(deadline)).unwrap());
    serve(&mut broker);
    assert_eq!(watching.receivers(), Some(1), "itself");
}

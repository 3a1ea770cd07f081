//! A kernel that refuses what it granted before: it has no memory for a ring.

#[path = "common/kernel.rs"]
mod kernel;

use kernel::{idling, refusing};
use llmp::{Broker, Client, SendError, Wait};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Long enough that a waiting thread sleeps.
const WHILE: Duration = Duration::from_millis(300);

/// Starts a thread that sleeps until there is a message. Returns where it reports its messages.
fn sleeper(mut receiver: llmp::Receiver) -> mpsc::Receiver<Vec<u8>> {
    let (report, reports) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(message) = receiver.recv() {
            report.send(message.payload.to_vec()).unwrap();
        }
    });
    thread::sleep(WHILE);
    reports
}

#[test]
fn a_failed_ring_is_sent_by_the_next_call() {
    type Call = fn(&mut llmp::Sender);
    let calls: [Call; 3] = [
        |sender| sender.try_send(1, b"second").unwrap(),
        |sender| sender.flush().unwrap(),
        |sender| {
            let mut batch = sender.batch();
            batch.try_send(1, b"second").unwrap();
            batch.commit();
        },
    ];
    for call in calls {
        let (mut sender, receiver) = llmp::channel().unwrap();
        let received = sleeper(receiver);
        let mut sender = refusing(libc::SYS_sendmsg, libc::ENOBUFS, move || {
            sender.try_send(1, b"first").unwrap();
            sender
        });
        assert!(received.recv_timeout(WHILE).is_err(), "the receiver was rung");
        call(&mut sender);
        assert_eq!(received.recv_timeout(TIMEOUT).unwrap(), b"first");
    }
}

#[test]
fn a_failed_ring_is_sent_by_a_sender_that_finds_no_room() {
    let fill = |sender: &mut llmp::Sender| while sender.try_send(1, &[7; 4096]).is_ok() {};
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    // From now on the chain has all its pages, and the receiver knows them.
    fill(&mut sender);
    while receiver.try_recv().unwrap().is_some() {
        // A receiver that never prepares to sleep polls, and finds messages without a ring.
        receiver.prepare_wait();
    }
    let received = sleeper(receiver);
    let mut sender = refusing(libc::SYS_sendmsg, libc::ENOBUFS, move || {
        fill(&mut sender);
        sender
    });
    assert!(received.recv_timeout(WHILE).is_err(), "the receiver was rung");
    assert!(matches!(sender.try_send(1, &[7; 4096]), Err(SendError::Full { .. })));
    assert_eq!(received.recv_timeout(TIMEOUT).unwrap(), [7; 4096]);
}

/// Returns the number of voluntary context switches of the calling thread.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn waits_with_a_failed_ring_are_short() {
    let place = tempfile::tempdir().unwrap();
    let bus = place.path().join("bus");
    let broker = Broker::bind(&bus).unwrap();
    let stop = broker.stop_handle();
    let serving = thread::spawn(move || broker.run().unwrap());
    let mut sender = Client::builder().track_receivers().connect(&bus).unwrap();
    thread::sleep(WHILE);
    refusing(libc::SYS_sendmsg, libc::ENOBUFS, || {
        sender.try_send(1, b"the broker sleeps").unwrap();
        let before = sleeps();
        let deadline = Some(Instant::now() + WHILE);
        assert!(!idling(|| sender.wait_for_receivers(2, deadline)).unwrap());
        let naps = sleeps() - before;
        assert!((10..100).contains(&naps), "{naps} naps in {WHILE:?}");
        let Wait::Readable { timeout: Some(timeout) } = sender.prepare_wait() else {
            panic!("it must not sleep for long");
        };
        assert!((WHILE / 100..WHILE).contains(&timeout), "{timeout:?}");
    });
    // Its own message comes back meanwhile.
    let deadline = Instant::now() + TIMEOUT;
    while sender.prepare_wait() != (Wait::Readable { timeout: None }) {
        assert!(Instant::now() < deadline, "the ring is still due");
        sender.try_recv().unwrap();
    }
    stop.stop();
    serving.join().unwrap();
}

#[test]
fn a_flush_with_a_failed_ring_retries_without_spinning() {
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    let waiting = thread::spawn(move || {
        // The first wait times out, so that the receiver sleeps for the message.
        assert!(receiver.recv_timeout(WHILE).unwrap().is_none());
        assert!(receiver.recv_timeout(3 * WHILE).unwrap().is_some());
        // The next call releases the message.
        let _ = receiver.recv_timeout(WHILE);
    });
    thread::sleep(2 * WHILE);
    refusing(libc::SYS_sendmsg, libc::ENOMEM, move || {
        let begin = Instant::now();
        sender.try_send(1, b"unheard").unwrap();
        idling(|| sender.flush()).unwrap_or_else(|e| panic!("it takes it when it wakes up: {e}"));
        assert!(begin.elapsed() > WHILE, "the receiver was rung");
    });
    waiting.join().unwrap();
}

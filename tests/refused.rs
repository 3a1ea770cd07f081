//! A kernel that refuses what it granted before: it has no memory for a ring, or a process has
//! forbidden itself barriers since it connected.

#[path = "common/kernel.rs"]
mod kernel;

use kernel::refusing;
use llmp::{Broker, Client, Ended, SendError};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough that whoever waits sleeps.
const WHILE: Duration = Duration::from_millis(300);

/// The processor time that the calling thread has used.
fn thread_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// What a thread may use of a processor while it waits.
fn assert_idle(used: Duration, waited: Duration) {
    assert!(used < waited / 4, "{used:?} of processor time in {waited:?} of waiting");
}

/// Someone who sleeps until there is a message, and where they report.
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
fn a_ring_for_which_there_was_no_memory_is_sent_by_the_next_call() {
    type Call = fn(&mut llmp::Sender);
    let calls: [Call; 3] = [
        |sender| sender.try_send(1, b"second").unwrap(),
        |sender| sender.flush().unwrap(),
        |sender| {
            let mut batch = sender.batch();
            batch.send(1, b"second").unwrap();
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
        assert!(received.recv_timeout(WHILE).is_err(), "nobody has rung");
        call(&mut sender);
        assert_eq!(received.recv_timeout(PATIENCE).unwrap(), b"first");
    }
}

#[test]
fn who_waits_without_memory_for_a_ring_neither_burns_the_processor_nor_sleeps_for_ever() {
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    let waiting = thread::spawn(move || {
        // In vain at first, so that it sleeps for the message.
        assert!(receiver.recv_timeout(WHILE).unwrap().is_none());
        assert!(receiver.recv_timeout(3 * WHILE).unwrap().is_some());
        // The next look gives the message up.
        let _ = receiver.recv_timeout(WHILE);
    });
    thread::sleep(2 * WHILE);
    refusing(libc::SYS_sendmsg, libc::ENOMEM, move || {
        let (begin, used) = (Instant::now(), thread_time());
        sender.try_send(1, b"unheard").unwrap();
        sender.flush().unwrap_or_else(|error| panic!("it takes it when it wakes up: {error}"));
        assert!(begin.elapsed() > WHILE, "somebody has rung");
        assert_idle(thread_time() - used, begin.elapsed());
    });
    waiting.join().unwrap();
}

#[test]
fn who_may_make_no_barrier_any_more_hears_of_the_end_and_does_not_burn_the_processor() {
    let (mut sender, receiver) = llmp::channel().unwrap();
    let leaving = thread::spawn(move || {
        thread::sleep(2 * WHILE);
        drop(receiver);
    });
    refusing(libc::SYS_membarrier, libc::EPERM, move || {
        sender.send(1, b"never taken").unwrap();
        let (begin, used) = (Instant::now(), thread_time());
        let ended = sender.flush().unwrap_err();
        assert!(matches!(ended, SendError::Ended(Ended::Closed)), "{ended}");
        assert!(begin.elapsed() > WHILE);
        assert_idle(thread_time() - used, begin.elapsed());
    });
    leaving.join().unwrap();
}

#[test]
fn a_broker_and_clients_that_may_make_no_barrier_any_more_serve_and_idle_as_before() {
    let place = tempfile::tempdir().unwrap();
    let bus = place.path().join("bus");
    let broker = Broker::bind(&bus).unwrap();
    let stop = broker.stop_handle();
    let serving = thread::spawn(move || {
        refusing(libc::SYS_membarrier, libc::EPERM, move || {
            let (begin, used) = (Instant::now(), thread_time());
            broker.run().unwrap();
            assert_idle(thread_time() - used, begin.elapsed());
        })
    });
    let mut sender = Client::connect(&bus).unwrap();
    let mut receiver = Client::connect(&bus).unwrap();
    refusing(libc::SYS_membarrier, libc::EPERM, || {
        for i in 0..20u8 {
            thread::sleep(WHILE / 10);
            sender.send(1, &[i]).unwrap();
            let message = receiver.recv_timeout(PATIENCE).unwrap().unwrap();
            assert_eq!(message.payload, [i]);
            if i == 10 {
                let used = thread_time();
                assert!(receiver.recv_timeout(WHILE).unwrap().is_none());
                assert_idle(thread_time() - used, WHILE);
            }
        }
    });
    thread::sleep(2 * WHILE);
    stop.stop();
    serving.join().unwrap();
}

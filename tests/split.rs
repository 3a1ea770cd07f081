//! The two halves of a client, used in two threads.

mod common;

use common::TIMEOUT;
use common::bus::{Bus, Place};
use llmp::{Broker, Client, Disconnected, Receiver, RecvError, SendError, Sender, Wait};
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MESSAGES: u32 = 30_000;
const SHORT: Duration = Duration::from_millis(5);

/// A bus with so little memory that senders wait for room again and again.
fn bus() -> Bus {
    Bus::new(Broker::builder().page_len(4096).max_message_len(64).chain_budget(3 * 4096))
}

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

/// Sends all messages, each of which may wait for room.
fn send_all(sender: &mut Sender) {
    for number in 0..MESSAGES {
        sender.send_timeout(number, &number.to_le_bytes(), TIMEOUT).unwrap();
    }
    assert!(sender.flush_timeout(TIMEOUT).unwrap());
}

fn receive_all(receiver: &mut Receiver) {
    for number in 0..MESSAGES {
        let message = receiver.recv_timeout(TIMEOUT).unwrap().expect("a lost wake-up");
        assert_eq!((message.tag.0, message.payload), (number, &number.to_le_bytes()[..]));
    }
}

// P9, P10
#[test]
fn both_halves_of_two_clients_sleep_and_are_woken() {
    let bus = bus();
    let mut ends = [(); 2].map(|()| Client::connect(bus.path()).unwrap().into_split());
    // The receivers live until all senders have ended, as a dropped one ends its sender.
    let sending = AtomicU32::new(2);
    thread::scope(|scope| {
        for (sender, receiver) in &mut ends {
            scope.spawn(|| {
                send_all(sender);
                sending.fetch_sub(1, Ordering::Relaxed);
            });
            scope.spawn(|| {
                receive_all(receiver);
                // It still receives, and leaves out, what its own sending half sends.
                while sending.load(Ordering::Relaxed) > 0 {
                    assert!(receiver.recv_timeout(SHORT).unwrap().is_none());
                }
            });
        }
    });
}

// P10
#[test]
fn borrowed_halves_are_used_in_two_threads() {
    let bus = bus();
    let mut client = Client::builder().own_messages().connect(bus.path()).unwrap();
    let (sender, receiver) = client.split();
    thread::scope(|scope| {
        scope.spawn(|| send_all(sender));
        receive_all(receiver);
    });
    // Afterwards the client is whole again.
    client.send(7, b"again").unwrap();
    assert_eq!(client.recv().unwrap().payload, b"again");
}

// P10
#[test]
fn a_half_in_an_event_loop_is_woken_while_the_other_one_reads_the_socket() {
    for is_watched_before in [false, true] {
        let bus = bus();
        let client = Client::builder().own_messages().connect(bus.path()).unwrap();
        if is_watched_before {
            let _ = std::os::fd::AsFd::as_fd(&client);
        }
        let (mut sender, mut receiver) = client.into_split();
        thread::scope(|scope| {
            scope.spawn(|| send_all(&mut sender));
            let mut number = 0;
            while number < MESSAGES {
                if let Wait::Readable { timeout } = receiver.prepare_wait() {
                    let longest = timeout.map_or(TIMEOUT, |timeout| timeout.min(TIMEOUT));
                    let longest = longest.try_into().unwrap();
                    let ready =
                        poll(&mut [PollFd::new(&receiver, PollFlags::IN)], Some(&longest)).unwrap();
                    assert!(ready > 0 || timeout.is_some(), "a lost wake-up");
                }
                while let Some(message) = receiver.try_recv().unwrap() {
                    assert_eq!(message.tag.0, number);
                    number += 1;
                }
            }
        });
    }
}

#[test]
fn a_receiving_half_that_is_dropped_ends_the_connection() {
    let bus = bus();
    let (mut sender, receiver) = Client::connect(bus.path()).unwrap().into_split();
    drop(receiver);
    assert_eq!(sender.ended(), Some(Disconnected::Closed));
    let error = sender.send(1, b"late").unwrap_err();
    assert!(matches!(error, SendError::Disconnected(Disconnected::Closed)), "{error}");
    // The bus does not wait for it.
    let mut other = Client::builder().own_messages().connect(bus.path()).unwrap();
    for number in 0..1000 {
        other.send(number, &[7; 64]).unwrap();
        assert_eq!(other.recv().unwrap().tag.0, number);
    }
}

#[test]
fn a_sending_half_that_is_dropped_leaves_the_receiving_one() {
    let bus = bus();
    let client = Client::builder().own_messages().connect(bus.path()).unwrap();
    let (mut sender, mut receiver) = client.into_split();
    let mut other = Client::connect_sender(bus.path()).unwrap();
    sender.send(1, b"last").unwrap();
    drop(sender);
    assert_eq!(receiver.recv().unwrap().payload, b"last");
    for number in 0..1000u32 {
        other.send(number, b"goes on").unwrap();
        assert_eq!(receiver.recv().unwrap().tag.0, number);
    }
}

// P5
#[test]
fn a_broker_that_is_killed_ends_the_sleep_of_both_halves() {
    let place = Place::new();
    let mut broker = place.broker(&[4096, 64, 12288]);
    let (mut sender, mut receiver) = Client::connect(place.path()).unwrap().into_split();
    // It receives nothing, so that the bus is full.
    let _stopped = Client::connect_receiver(place.path()).unwrap();
    let died = Disconnected::PeerDied;
    thread::scope(|scope| {
        let sending = scope.spawn(move || {
            loop {
                if let Err(SendError::Disconnected(ended)) = sender.send(1, &[7; 64]) {
                    break ended;
                }
            }
        });
        let receiving = scope.spawn(move || receiver.recv().map(drop).unwrap_err());
        // Both sleep, or will do so.
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            thread::yield_now();
        }
        broker.kill();
        assert_eq!(receiving.join().unwrap(), RecvError::Disconnected(died.clone()));
        assert_eq!(sending.join().unwrap(), died);
    });
}

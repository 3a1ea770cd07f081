//! Long messages pass by reference: receivers read them in the sender's pages.

mod common;

use common::TIMEOUT;
use common::bus::{Bus, Place};
use common::content::{END, Ear};
use common::proc::{holdings, wait_until};
use llmp::core::broker::hook::Verdict;
use llmp::{Broker, Client, Message, SendError, Sender};
use std::thread;
use std::time::{Duration, Instant};

const LEN: usize = 64 << 10;

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

fn payload(number: u32) -> Vec<u8> {
    (0..LEN as u32 / 4).flat_map(|i| (i ^ number << 16).to_le_bytes()).collect()
}

/// Connects a client that only sends. A client that also receives would hold messages by reference
/// until it has received them.
fn sender(bus: &Bus) -> Sender {
    Client::connect_sender(bus.path()).unwrap()
}

fn hear(receiver: &mut Client, number: u32) {
    let message = receiver.recv_timeout(TIMEOUT).unwrap().expect("a message");
    assert_eq!(message.tag.0, number);
    assert!(message.payload == payload(number), "torn: {number}");
}

/// Sends messages that two clients receive at once. Returns the number of messages by reference.
fn by_ref(bus: Bus, count: u32) -> u64 {
    let mut sender = sender(&bus);
    let mut receivers = [bus.connect(), bus.connect()];
    for number in 0..count {
        sender.send(number, &payload(number)).unwrap();
        receivers.iter_mut().for_each(|receiver| hear(receiver, number));
    }
    let report = bus.end();
    assert_eq!(report.broadcast.payload_bytes, u64::from(count) * LEN as u64);
    report.broadcast.by_ref
}

// P1, P2, P3
#[test]
fn long_messages_pass_by_reference_and_arrive_whole() {
    // A message passes by reference only if all receivers have its page. The first one is copied.
    let by_ref = by_ref(Bus::new(Broker::builder()), 200);
    assert!(by_ref > 150, "{by_ref} by reference");
}

#[test]
fn a_hook_or_a_high_threshold_disables_references() {
    let hook = |_: &Message<'_>| Verdict::Forward;
    assert_eq!(by_ref(Bus::new(Broker::builder().hook(hook)), 20), 0);
    assert_eq!(by_ref(Bus::new(Broker::builder().zero_copy_threshold(usize::MAX)), 20), 0);
    assert_eq!(by_ref(Bus::new(Broker::builder().zero_copy_threshold(LEN + 1)), 20), 0);
}

// P9
#[test]
fn consumed_pages_return_while_unread_messages_remain() {
    let bus = Bus::new(Broker::builder());
    let (mut sender, mut receiver) = (sender(&bus), bus.connect());
    let (mut sent, mut full_since) = (0, Instant::now());
    while full_since.elapsed() < Duration::from_millis(300) {
        match sender.try_send(sent, &payload(sent)) {
            Ok(()) => (sent, full_since) = (sent + 1, Instant::now()),
            Err(SendError::Full { .. }) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    // More than one page of the sender's chain. The broker's chain stays within its first page, so
    // nothing else makes the receiver publish its cursor.
    (0..7).for_each(|number| hear(&mut receiver, number));
    wait_until("there is room again", || sender.try_send(sent, &payload(sent)).is_ok());
}

// P9
#[test]
fn a_slow_receiver_leaves_the_sender_its_whole_budget() {
    let bus = Bus::new(Broker::builder());
    let (mut sender, mut slow) = (sender(&bus), bus.connect());
    // A page holds three.
    let least = 3 * sender.limits().budget() / sender.limits().page_len();
    let mut sent = 0;
    for _ in 0..20 {
        sender.send(sent, &payload(sent)).unwrap();
        sent += 1;
    }
    // The broker has consumed them, and the receiver has received none.
    sender.flush().unwrap();
    let deadline = Instant::now() + TIMEOUT;
    loop {
        assert!(Instant::now() < deadline, "{sent} sent of {least}");
        match sender.try_send(sent, &payload(sent)) {
            Ok(()) => sent += 1,
            Err(SendError::Full { .. }) if sent as usize >= least => break,
            // The broker has not consumed everything yet.
            Err(SendError::Full { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    for number in 0..sent {
        hear(&mut slow, number);
    }
    let report = bus.end();
    assert!(report.broadcast.by_ref > 10, "{report:?}");
}

// P4, P7
#[test]
fn pages_of_a_dead_sender_are_read_and_then_released() {
    const COUNT: u32 = 30;
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let (mut receiver, mut ear) = (place.connect(), Ear::default());
    let mut marker = place.sender();
    let mut burst = place.child("burst", &[&COUNT]);
    let id = burst.says_number("id");
    burst.tell("go");
    burst.says("sent");
    burst.kill();
    broker.says(&format!("log client {id} has left"));
    marker.send(END, b"").unwrap();
    marker.flush().unwrap();
    let foreign = holdings(broker.pid()).foreign.0;
    ear.hear_until_end(&mut receiver, 0);
    assert_eq!(ear.heard_of(id), COUNT);
    // Releases the received messages.
    receiver.prepare_wait();
    wait_until("the broker lets go of the dead's pages", || {
        // The control regions and first pages of the two remaining clients.
        holdings(broker.pid()).foreign.0 == 4
    });
    assert!(foreign > 4, "no message referred to its pages");
}

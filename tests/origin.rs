//! The origin of a message arrives unchanged on every way: copied, by reference, in a batch, and with the
//! longest message.

mod common;

use common::TIMEOUT;
use common::bus::Bus;
use llmp::core::memory::TrustPeers;
use llmp::{Broker, Client, ClientId, Envelope, Limits, Message, Origin, SendError, Sender};
use std::num::NonZeroU64;

/// Returns an envelope with an origin whose values all differ. Every third message has none.
fn envelope(number: u32) -> Envelope {
    let bus = NonZeroU64::MAX;
    let seq = u64::from(number) << 40 | 0xabcd;
    let origin = Origin::new(bus, ClientId(1 << 31 | number), seq).in_epoch(!number);
    Envelope::tagged(number).with_origin((number % 3 != 2).then_some(origin))
}

fn payload(number: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i ^ i >> 8 ^ number) as u8).collect()
}

#[track_caller]
fn check(message: Message<'_>, number: u32, len: usize) {
    assert_eq!((message.tag.0, message.origin), (number, envelope(number).origin.as_ref()));
    assert!(message.payload == payload(number, len), "torn: {number}");
}

fn hear(receiver: &mut Client, number: u32, len: usize) {
    check(receiver.recv_timeout(TIMEOUT).unwrap().expect("a message"), number, len);
}

fn sender(bus: &Bus) -> Sender {
    Client::connect_sender(bus.path()).unwrap()
}

/// Returns a receiver that reads payloads where they are.
#[allow(unsafe_code)]
fn borrowing(bus: &Bus) -> Client {
    // SAFETY: all processes of this bus are this test, and none writes what it has sent.
    let promise = unsafe { TrustPeers::assume() };
    Client::builder().borrow_payloads(promise).connect(bus.path()).unwrap()
}

/// Sends messages of `len` bytes that two clients receive at once. Returns the number of messages by
/// reference.
fn by_ref(len: usize) -> u64 {
    let bus = Bus::new(Broker::builder());
    let mut sender = sender(&bus);
    let mut receivers = [bus.connect(), borrowing(&bus)];
    for number in 0..300 {
        sender.send_envelope(envelope(number), &payload(number, len)).unwrap();
        receivers.iter_mut().for_each(|receiver| hear(receiver, number, len));
    }
    bus.end().broadcast.by_ref
}

// P3
#[test]
fn an_origin_crosses_a_bus_copied_and_by_reference() {
    for len in [0, 1, 64, 1000] {
        assert_eq!(by_ref(len), 0);
    }
    for len in [4096, 64 << 10] {
        // A message passes by reference only if all receivers have its page.
        let by_ref = by_ref(len);
        assert!(by_ref > 200, "{by_ref} by reference");
    }
}

// P3
#[test]
fn an_origin_waits_in_the_inbox_of_a_client_whose_chain_is_full() {
    let bus = Bus::new(Broker::builder().page_len(4096).max_message_len(1000).chain_budget(8192));
    let (mut receiver, mut sender) = (bus.connect(), bus.connect());
    // The receiver's own sends wait until it has taken the messages of the sender.
    let thread = std::thread::spawn(move || {
        for number in 0..200 {
            sender.send_envelope(envelope(number), &payload(number, 500)).unwrap();
        }
        sender.flush().unwrap();
    });
    for _ in 0..200 {
        receiver.send(0, &[0; 500]).unwrap();
    }
    (0..200).for_each(|number| hear(&mut receiver, number, 500));
    thread.join().unwrap();
}

// P3
#[test]
fn an_origin_crosses_a_channel() {
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    for number in 0..300 {
        for len in [0, 3, 300, 5000] {
            sender.send_envelope(envelope(number), &payload(number, len)).unwrap();
            check(receiver.recv().unwrap(), number, len);
        }
    }
}

// P1, P3
#[test]
fn each_message_of_a_batch_has_its_own_origin() {
    let (mut sender, mut receiver) = llmp::channel().unwrap();
    for _ in 0..50 {
        let mut batch = sender.batch();
        for number in 0..40 {
            batch.try_send_envelope(envelope(number), &payload(number, 100)).unwrap();
        }
        batch.commit();
        (0..40).for_each(|number| check(receiver.recv().unwrap(), number, 100));
    }
}

// P14
#[test]
fn the_longest_message_of_a_bus_may_have_an_origin() {
    // With the header of the page, the extension and the end of the page, 8192 bytes exactly.
    const LONGEST: usize = 2 * 4096 - 64 - 48 - 16;
    let budget = Limits::least_budget(4096, LONGEST);
    assert_eq!(budget, 2 * 8192);
    let copies = Broker::builder().zero_copy_threshold(usize::MAX);
    let bus = Bus::new(copies.page_len(4096).max_message_len(LONGEST).chain_budget(budget));
    let (mut sender, mut receiver) = (sender(&bus), bus.connect());
    for number in 0..30 {
        let error = sender.send_envelope(envelope(number), &[0; LONGEST + 1]).unwrap_err();
        assert!(matches!(error, SendError::TooLong { .. }), "{error}");
        sender.send_envelope(envelope(number), &payload(number, LONGEST)).unwrap();
        hear(&mut receiver, number, LONGEST);
    }
}

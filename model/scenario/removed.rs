//! A receiver that is removed and reads on. The broker has ended or lost its connection, but its
//! process lives.

use super::chain::{OWNER, PAYLOAD, Sending, Step, control_memory, envelope, limits, payload};
use super::{Descriptors, Runtime};
use llmp::core::chain::{ChainReader, Event};
use llmp::core::control::Control;
use llmp::core::memory::Memory;

/// The receiver, and the id under which it has its entry.
const RECEIVER: u32 = 1;

/// A receiver that copies. The messages that it takes are those that were sent. The sender no
/// longer waits for it and may reuse any page meanwhile. [P8]
pub fn copies<R: Runtime>(runtime: &R, messages: u64, steps: usize) {
    removed(&runtime.racing(true), messages, steps, false);
}

/// A receiver that reads in place. Its pages are retired, so no page is written while it reads
/// there. [P8]
pub fn reads_in_place<R: Runtime>(runtime: &R, messages: u64, steps: usize) {
    removed(&runtime.racing(false), messages, steps, true);
}

fn removed<R: Runtime>(runtime: &R, messages: u64, steps: usize, in_place: bool) {
    // A receiver that reads in place also knows a page that it has left. That page is reused and
    // not retired.
    let pages = if in_place { 3 } else { 2 };
    let limits = limits(1, pages);
    let mut sending = Sending::new(runtime, limits);
    // The sender's own control region, in which the receiver has its entry.
    let place = control_memory(runtime);
    let places = Control::create(place.clone(), 1);
    places.give_place(0, RECEIVER);
    let memory = control_memory(runtime);
    let control = Control::create(memory.clone(), 1);
    let socket: Descriptors<R::Memory> = Descriptors::default();
    let start = sending.admit(RECEIVER, memory, socket.clone());
    // One message for each page.
    for _ in 0..pages {
        assert_eq!(sending.send(), Step::Done);
    }
    let mut pages = Vec::new();
    while let Some(page) = socket.receive() {
        pages.push(page);
    }
    let receiver = ChainReader::new(limits, OWNER, pages, start, control, 0).unwrap();
    let mut receiver = receiver.in_place(Control::check(place, 0).unwrap(), 0, RECEIVER);
    if in_place {
        // Two messages, and the ends of their pages. One of these pages is free after the next
        // message.
        for _ in 0..4 {
            assert!(take(&mut receiver, in_place));
        }
        receiver.release();
        assert_eq!(sending.send(), Step::Done);
    }
    let reads = runtime.spawn(move || {
        for _ in 0..steps {
            if !take(&mut receiver, in_place) {
                return;
            }
        }
    });
    places.end_membership(0);
    sending.remove_receiver(RECEIVER);
    if in_place {
        sending.retire();
    }
    while sending.next() < messages {
        assert_eq!(sending.send(), Step::Done, "nothing waits for a removed receiver");
    }
    reads();
}

/// Takes a step. Returns whether to continue: the receiver has not found yet that it was removed.
pub fn take<M: Memory>(receiver: &mut ChainReader<M>, in_place: bool) -> bool {
    match receiver.poll() {
        Ok(Event::Empty | Event::PageAdvanced) => true,
        Ok(Event::Message(slot)) => {
            if in_place && !receiver.is_member() {
                return false;
            }
            let number = receiver.next_message();
            let mut copy = [0; PAYLOAD];
            let found = receiver.envelope(&slot);
            // By now the slot may hold any message.
            let len = slot.payload_len();
            assert_eq!(len, PAYLOAD, "all have this length");
            receiver.read(&slot, &mut copy);
            if !in_place && !receiver.is_whole() {
                return false;
            }
            assert_eq!(copy, payload(number), "payload of message {number}");
            assert_eq!(found, envelope(number));
            receiver.advance(&slot);
            true
        }
        Ok(Event::Unknown(_)) | Err(_) => {
            assert!(!receiver.is_whole(), "an honest sender makes no fault");
            false
        }
    }
}

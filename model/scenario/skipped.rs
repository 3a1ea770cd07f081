//! A receiver that is skipped, reads on for a while, and receives again.

use super::chain::{OWNER, Sending, Step, control_memory, limits};
use super::removed::take;
use super::{Descriptors, Mailbox, Runtime};
use llmp::core::chain::{ChainReader, Start};
use llmp::core::control::Control;
use llmp::core::layout::cursor_offset;
use llmp::core::memory::Memory;
use llmp::core::order::Site;

/// The receiver, and the id under which it has its entry.
const RECEIVER: u32 = 1;

/// A mistake on purpose, which a checker must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "the mistakes are for loom")]
pub enum Mistake {
    None,
    /// The sender skips the receiver and does not mark its entry.
    Unmarked,
    /// The sender counts the receiver again before that has asked.
    CountedEarly,
    /// The receiver asks first, and then reads once more.
    ReadsAfterAsking,
    /// The receiver asks with its old cursor.
    OldCursor,
}

/// What a process tells the other one.
enum Packet {
    Skipped,
    Rejoin,
    Start(Start),
}

/// The sender skips the receiver while it reads, goes on in its pages, and admits it again. All
/// that the receiver takes was sent, and it learns how many messages are missing. [P3 P8]
pub fn receives_again<R: Runtime>(runtime: &R, messages: u64, in_place: bool, mistake: Mistake) {
    let runtime = &runtime.racing(!in_place);
    let pages = if in_place { 3 } else { 2 };
    let reads_at_most = pages;
    let limits = limits(1, pages);
    let mut sending = Sending::new(runtime, limits);
    let place = control_memory(runtime);
    let places = Control::create(place.clone(), 1);
    places.give_place(0, RECEIVER);
    let memory = control_memory(runtime);
    let control = Control::create(memory.clone(), 1);
    let sockets: [Descriptors<R::Memory>; 2] = Default::default();
    let (to_receiver, to_sender) = (runtime.mailbox(), runtime.mailbox());
    let start = sending.admit(RECEIVER, memory.clone(), sockets[0].clone());
    // One message for each page.
    for _ in 0..pages {
        assert_eq!(sending.send(), Step::Done);
    }
    let pages = std::iter::from_fn(|| sockets[0].receive()).collect();
    let receiver = ChainReader::new(limits, OWNER, pages, start, control, 0).unwrap();
    let receiver = receiver.in_place(Control::check(place, 0).unwrap(), 0, RECEIVER);
    let reads = runtime.spawn({
        let (inbox, outbox, memory, socket) =
            (to_receiver.clone(), to_sender.clone(), memory.clone(), sockets[1].clone());
        move || {
            let mut receiver = receiver;
            // It finds its entry marked, or reads the packet.
            for _ in 0..2 * reads_at_most {
                if !inbox.is_empty() || !take(&mut receiver, in_place) {
                    break;
                }
            }
            assert!(matches!(inbox.wait(), Packet::Skipped));
            if mistake == Mistake::ReadsAfterAsking {
                outbox.put(Packet::Rejoin);
                take(&mut receiver, in_place);
                receiver.leave();
            } else {
                let old = memory.load(cursor_offset(0), Site::CursorRead);
                receiver.leave();
                if mistake == Mistake::OldCursor {
                    memory.store(cursor_offset(0), old.max(1), Site::CursorPublish);
                }
                outbox.put(Packet::Rejoin);
            }
            let Packet::Start(start) = inbox.wait() else { panic!("no start") };
            let pages = std::iter::from_fn(|| socket.receive()).collect();
            let next = receiver.next_message();
            let missed = receiver.restart(pages, start).unwrap();
            assert_eq!(next + missed, start.message, "it learns what it has missed");
            receiver
        }
    });
    if mistake != Mistake::Unmarked {
        places.skip(0, RECEIVER);
    }
    sending.skip_receiver(RECEIVER);
    if in_place {
        sending.retire();
    }
    to_receiver.put(Packet::Skipped);
    if mistake == Mistake::CountedEarly {
        places.count_again(0, RECEIVER);
    }
    while sending.next() < messages {
        assert_eq!(sending.send(), Step::Done, "nothing waits for a skipped receiver");
    }
    assert!(matches!(to_sender.wait(), Packet::Rejoin));
    places.count_again(0, RECEIVER);
    let start = sending.admit(RECEIVER, memory, sockets[1].clone());
    to_receiver.put(Packet::Start(start));
    // It may be read at once.
    assert_eq!(sending.send(), Step::Done);
    let mut receiver = reads();
    while receiver.next_message() < sending.next() {
        assert!(take(&mut receiver, in_place), "it is a receiver again");
    }
    receiver.release();
    assert!(sending.is_consumed(), "its cursor counts again");
}

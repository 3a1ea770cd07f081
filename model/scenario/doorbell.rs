//! Sleeping and waking: two endpoints, each with a doorbell at which it blocks.

use crate::scenario::chain::control_memory;
use crate::scenario::{Descriptors, Mailbox, Note, Runtime, Who};
use llmp::chain::{Blocked, Event, Notice, Receiver, Refused, Sender};
use llmp::control::Control;
use llmp::endpoint::{Endpoint, Wanted};
use llmp::layout::PAGE_HEADER;
use llmp::memory::Memory;
use llmp::{Envelope, Limits};

/// What a receiver does while there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a receiver that polls would never let loom come to an end")]
pub enum Waiting {
    Sleeps,
    /// It looks again and again, so that only what it gives up on the way can wake the sender.
    Polls,
}

/// The processes in a run that is written down.
const SENDER: Who = 0;
const RECEIVER: Who = 1;

/// A sender and a receiver that both sleep whenever they can't go on: the receiver for a message,
/// the sender for room. A lost wake-up is a deadlock, which the checker reports. [P9 P10]
pub fn both_sleep<R: Runtime>(runtime: &R, limits: Limits, messages: u64, waiting: Waiting) {
    let (ours, theirs) = (control_memory(runtime), control_memory(runtime));
    let seen = |memory: &R::Memory| [SENDER, RECEIVER].map(|who| runtime.seen_by(memory, who));
    for (memory, who) in [(&ours, SENDER), (&theirs, RECEIVER)] {
        runtime.note(Note::Born { who });
        runtime.is_control(memory, who);
    }
    let [ours, ours_to_receiver] = seen(&ours);
    let [theirs_to_sender, theirs] = seen(&theirs);
    let sends = Control::create(ours, 1);
    let receives = Control::create(theirs, 1);
    let [first, first_to_receiver] = seen(&runtime.memory(limits.page_len()));
    let inbound = {
        let sender = Sender::new(1, limits, first);
        let (chain, by, position) = (SENDER, RECEIVER, PAGE_HEADER as u64);
        runtime.note(Note::Sent { chain, page: 0, to: by });
        runtime.note(Note::Admitted { chain, by, page: 0, position, number: 0 });
        let inbound = Receiver::from_beginning(limits, 1, first_to_receiver, receives.clone(), 0);
        (sender, inbound.unwrap())
    };
    let (sender, inbound) = inbound;
    let mut sending =
        Endpoint::new(sends, Control::check(theirs_to_sender, 0).unwrap(), Some((sender, 0)), None);
    sending.told();
    let mut receiving =
        Endpoint::new(receives, Control::check(ours_to_receiver, 0).unwrap(), None, Some(inbound));

    // Each doorbell, and the descriptors that arrive with it.
    let (bell_of_sender, bell_of_receiver) = (runtime.mailbox::<()>(), runtime.mailbox::<()>());
    let socket: Descriptors<R::Memory> = Descriptors::default();

    let receiver = {
        let (ring, bell, socket) =
            (bell_of_sender.clone(), bell_of_receiver.clone(), socket.clone());
        let runtime = runtime.clone();
        runtime.clone().spawn(move || {
            let by = RECEIVER;
            let mut next = 0;
            while next < messages {
                let (event, must_ring) = receiving.poll().unwrap();
                if must_ring {
                    runtime.note(Note::Rings { by, to: SENDER });
                    ring.put(());
                }
                let inbound = receiving.inbound_mut().unwrap();
                match event {
                    Event::Message(slot) => {
                        let mut number = [0; 8];
                        inbound.read(&slot, &mut number);
                        assert_eq!(u64::from_le_bytes(number), next);
                        inbound.advance(&slot);
                        next += 1;
                    }
                    Event::Turned => {}
                    Event::Unknown(page) => {
                        let (id, memory) = socket.receive().expect("sent before it was named");
                        assert_eq!(id, page);
                        inbound.add_page(id, runtime.seen_by(&memory, by)).unwrap();
                    }
                    Event::Empty if waiting == Waiting::Polls => {}
                    Event::Empty => {
                        let wanted = Wanted { message: true, ..Wanted::default() };
                        let (may_sleep, must_ring) = receiving.park(wanted);
                        if must_ring {
                            runtime.note(Note::Rings { by, to: SENDER });
                            ring.put(());
                        }
                        if may_sleep {
                            runtime.note(Note::Sleeps { by, message: true, room: false });
                            bell.wait();
                            runtime.note(Note::Wakes { by });
                            receiving.unpark();
                        }
                    }
                }
            }
        })
    };
    let mut number = 0u64;
    let mut pages = vec![(0, limits.page_len())];
    let by = SENDER;
    while number < messages {
        match sending.send(Envelope::tagged(number as u32), &number.to_le_bytes()) {
            Ok(must_ring) => {
                number += 1;
                if must_ring {
                    runtime.note(Note::Rings { by, to: RECEIVER });
                    bell_of_receiver.put(());
                }
            }
            Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                let page = runtime.memory(len);
                let outbound = sending.outbound_mut().unwrap();
                outbound.add_page(runtime.seen_by(&page, by));
                if let Some(Notice::Page(id)) = sending.notice() {
                    pages.push((id, page.region_len()));
                    runtime.note(Note::Pool { chain: by, pages: pages.clone() });
                    runtime.note(Note::Sent { chain: by, page: id, to: RECEIVER });
                    socket.send(id, page);
                }
                sending.told();
            }
            Err(Refused::Blocked(Blocked::Full)) => {
                let room = Sender::<R::Memory>::room_for(&Envelope::default(), 8);
                let wanted = Wanted { room: Some(room), ..Wanted::default() };
                let (may_sleep, must_ring) = sending.park(wanted);
                assert!(!must_ring, "a sender has no cursor");
                if may_sleep {
                    runtime.note(Note::Sleeps { by, message: false, room: true });
                    bell_of_sender.wait();
                    runtime.note(Note::Wakes { by });
                    sending.unpark();
                }
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    receiver();
    runtime.note(Note::Finished);
}

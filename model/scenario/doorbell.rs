//! Sleeping and waking: two endpoints, each with a doorbell at which it blocks.

use crate::scenario::chain::control_memory;
use crate::scenario::{Descriptors, Mailbox, Runtime};
use llmp::chain::{Blocked, Event, Notice, Receiver, Refused, Sender};
use llmp::control::Control;
use llmp::endpoint::{Endpoint, Wanted};
use llmp::{Envelope, Limits};

/// What a receiver does while there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a receiver that polls would never let loom come to an end")]
pub enum Waiting {
    Sleeps,
    /// It looks again and again, so that only what it gives up on the way can wake the sender.
    Polls,
}

/// A sender and a receiver that both sleep whenever they can't go on: the receiver for a message,
/// the sender for room. A lost wake-up is a deadlock, which the checker reports. [P9 P10]
pub fn both_sleep<R: Runtime>(runtime: &R, limits: Limits, messages: u64, waiting: Waiting) {
    let (ours, theirs) = (control_memory(runtime), control_memory(runtime));
    let sends = Control::create(ours.clone(), 1);
    let receives = Control::create(theirs.clone(), 1);
    let first = runtime.memory(limits.page_len());
    let inbound = {
        let sender = Sender::new(1, limits, first.clone());
        let inbound = Receiver::from_beginning(limits, 1, first.clone(), receives.clone(), 0);
        (sender, inbound.unwrap())
    };
    let (sender, inbound) = inbound;
    let mut sending =
        Endpoint::new(sends, Control::check(theirs, 0).unwrap(), Some((sender, 0)), None);
    sending.told();
    let mut receiving =
        Endpoint::new(receives, Control::check(ours, 0).unwrap(), None, Some(inbound));

    // Each doorbell, and the descriptors that arrive with it.
    let (bell_of_sender, bell_of_receiver) = (runtime.mailbox::<()>(), runtime.mailbox::<()>());
    let socket: Descriptors<R::Memory> = Descriptors::default();

    let receiver = {
        let (ring, bell, socket) =
            (bell_of_sender.clone(), bell_of_receiver.clone(), socket.clone());
        runtime.spawn(move || {
            let mut next = 0;
            while next < messages {
                let (event, must_ring) = receiving.poll().unwrap();
                if must_ring {
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
                        inbound.add_page(id, memory).unwrap();
                    }
                    Event::Empty if waiting == Waiting::Polls => {}
                    Event::Empty => {
                        let wanted = Wanted { message: true, ..Wanted::default() };
                        let (may_sleep, must_ring) = receiving.park(wanted);
                        if must_ring {
                            ring.put(());
                        }
                        if may_sleep {
                            bell.wait();
                            receiving.unpark();
                        }
                    }
                }
            }
        })
    };
    let mut number = 0u64;
    while number < messages {
        match sending.send(Envelope::default(), &number.to_le_bytes()) {
            Ok(must_ring) => {
                number += 1;
                if must_ring {
                    bell_of_receiver.put(());
                }
            }
            Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                let page = runtime.memory(len);
                sending.outbound_mut().unwrap().add_page(page.clone());
                if let Some(Notice::Page(id)) = sending.notice() {
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
                    bell_of_sender.wait();
                    sending.unpark();
                }
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    receiver();
}

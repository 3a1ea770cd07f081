//! Sleeping and waking: two endpoints, each with a doorbell at which it blocks, and which one of
//! them may die beside.

use crate::scenario::chain::control_memory;
use crate::scenario::{Descriptors, Mailbox, Runtime};
use llmp::chain::{Blocked, Event, Notice, Receiver, Refused, Sender};
use llmp::control::Control;
use llmp::endpoint::{Endpoint, Wanted};
use llmp::memory::{Crashing, Lifeline};
use llmp::{Envelope, Limits};

/// What a receiver does while there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a receiver that polls would never let loom come to an end")]
pub enum Waiting {
    Sleeps,
    /// It looks again and again, so that only what it gives up on the way can wake the sender.
    Polls,
}

/// What comes over a connection beside descriptors.
enum Bell {
    Ring,
    /// The other process is gone. The kernel says so, whenever it died.
    HangUp,
}

/// A sender and a receiver that both sleep whenever they can't go on: the receiver for a message,
/// the sender for room. A lost wake-up is a deadlock, which the checker reports. [P9 P10]
pub fn both_sleep<R: Runtime>(runtime: &R, limits: Limits, messages: u64, waiting: Waiting) {
    let lives = [Lifeline::endless(), Lifeline::endless()];
    let (committed, received) = until_death(runtime, limits, messages, waiting, lives);
    assert_eq!((committed, received), (messages, messages));
}

/// The same, where sender and receiver live so long. Who sleeps when the other one dies is woken
/// by the hang-up; what the sender had committed is received before. Returns how many messages
/// were committed for sure, and how many were received. [P4 P5 P9 P10]
pub fn until_death<R: Runtime>(
    runtime: &R,
    limits: Limits,
    messages: u64,
    waiting: Waiting,
    [sender_life, receiver_life]: [Lifeline; 2],
) -> (u64, u64) {
    let (ours, theirs) = (control_memory(runtime), control_memory(runtime));
    let first = runtime.memory(limits.page_len());
    let by_sender = |memory: &R::Memory| Crashing::new(memory.clone(), sender_life.clone());
    let by_receiver = |memory: &R::Memory| Crashing::new(memory.clone(), receiver_life.clone());
    let sends = Control::create(by_sender(&ours), 1);
    let receives = Control::create(by_receiver(&theirs), 1);
    let sender = Sender::new(1, limits, by_sender(&first));
    if sender_life.is_over() || receiver_life.is_over() {
        // It died before the other one had heard of it.
        return (0, 0);
    }
    let inbound = Receiver::from_beginning(limits, 1, by_receiver(&first), receives.clone(), 0);
    let peer = Control::check(by_sender(&theirs), 0).unwrap();
    let mut sending = Endpoint::new(sends, peer, Some((sender, 0)), None);
    sending.told();
    let peer = Control::check(by_receiver(&ours), 0).unwrap();
    let receiving = Endpoint::new(receives, peer, None, Some(inbound.unwrap()));

    // Each doorbell, and the descriptors that arrive with it.
    let (bell_of_sender, bell_of_receiver) = (runtime.mailbox::<Bell>(), runtime.mailbox::<Bell>());
    let socket: Descriptors<R::Memory> = Descriptors::default();
    let receiver = {
        let mut receiver = Receiving::<R> {
            endpoint: receiving,
            life: receiver_life,
            bell: bell_of_receiver.clone(),
            peer: bell_of_sender.clone(),
            socket: socket.clone(),
            waiting,
            next: 0,
        };
        runtime.spawn(move || receiver.live(messages))
    };
    let mut sender = Sending {
        runtime: runtime.clone(),
        endpoint: sending,
        life: sender_life,
        bell: bell_of_sender,
        peer: bell_of_receiver,
        socket,
    };
    let committed = sender.live(messages);
    (committed, receiver())
}

struct Receiving<R: Runtime> {
    endpoint: Endpoint<Crashing<R::Memory>>,
    life: Lifeline,
    bell: R::Mailbox<Bell>,
    peer: R::Mailbox<Bell>,
    socket: Descriptors<R::Memory>,
    waiting: Waiting,
    next: u64,
}

impl<R: Runtime> Receiving<R> {
    /// Receives until it has everything, or one of the two is dead.
    fn live(&mut self, messages: u64) -> u64 {
        let mut hung_up = false;
        while self.next < messages {
            let (event, must_ring) = self.endpoint.poll().unwrap();
            if self.life.is_over() {
                self.peer.put(Bell::HangUp);
                break;
            }
            if must_ring {
                self.peer.put(Bell::Ring);
            }
            match event {
                Event::Empty if hung_up => break,
                Event::Empty if self.waiting == Waiting::Polls => {}
                Event::Empty => hung_up = self.sleep(),
                event => self.take(event),
            }
        }
        self.next
    }

    fn take(&mut self, event: Event) {
        let inbound = self.endpoint.inbound_mut().unwrap();
        match event {
            Event::Message(slot) => {
                let mut number = [0; 8];
                inbound.read(&slot, &mut number);
                assert_eq!(u64::from_le_bytes(number), self.next);
                inbound.advance(&slot);
                self.next += 1;
            }
            Event::Unknown(page) => {
                let (id, memory) = self.socket.receive().expect("sent before it was named");
                assert_eq!(id, page);
                inbound.add_page(id, Crashing::new(memory, self.life.clone())).unwrap();
            }
            Event::Turned | Event::Empty => {}
        }
    }

    /// Returns whether the other one is gone.
    fn sleep(&mut self) -> bool {
        let wanted = Wanted { message: true, ..Wanted::default() };
        let (may_sleep, must_ring) = self.endpoint.park(wanted);
        if must_ring && !self.life.is_over() {
            self.peer.put(Bell::Ring);
        }
        if !may_sleep || self.life.is_over() {
            return false;
        }
        let hung_up = matches!(self.bell.wait(), Bell::HangUp);
        self.endpoint.unpark();
        hung_up
    }
}

struct Sending<R: Runtime> {
    runtime: R,
    endpoint: Endpoint<Crashing<R::Memory>>,
    life: Lifeline,
    bell: R::Mailbox<Bell>,
    peer: R::Mailbox<Bell>,
    socket: Descriptors<R::Memory>,
}

impl<R: Runtime> Sending<R> {
    /// Sends until it has sent everything, or one of the two is dead.
    fn live(&mut self, messages: u64) -> u64 {
        let mut number = 0u64;
        let mut hung_up = false;
        while number < messages {
            let sent = self.endpoint.send(Envelope::default(), &number.to_le_bytes());
            if self.life.is_over() {
                self.peer.put(Bell::HangUp);
                break;
            }
            match sent {
                Ok(must_ring) => {
                    number += 1;
                    if must_ring {
                        self.peer.put(Bell::Ring);
                    }
                }
                Err(Refused::Blocked(Blocked::NeedPage(len))) => self.add_page(len),
                Err(Refused::Blocked(Blocked::Full)) if hung_up => break,
                Err(Refused::Blocked(Blocked::Full)) => hung_up = self.sleep(),
                Err(error) => panic!("{error:?}"),
            }
        }
        number
    }

    fn add_page(&mut self, len: usize) {
        let page = self.runtime.memory(len);
        let ours = Crashing::new(page.clone(), self.life.clone());
        self.endpoint.outbound_mut().unwrap().add_page(ours);
        if let Some(Notice::Page(id)) = self.endpoint.notice() {
            self.socket.send(id, page);
        }
        self.endpoint.told();
    }

    /// Returns whether the other one is gone.
    fn sleep(&mut self) -> bool {
        let room = Sender::<R::Memory>::room_for(&Envelope::default(), 8);
        let wanted = Wanted { room: Some(room), ..Wanted::default() };
        let (may_sleep, must_ring) = self.endpoint.park(wanted);
        assert!(!must_ring, "a sender has no cursor");
        if !may_sleep || self.life.is_over() {
            return false;
        }
        let hung_up = matches!(self.bell.wait(), Bell::HangUp);
        self.endpoint.unpark();
        hung_up
    }
}

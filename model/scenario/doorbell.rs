//! Sleeping and waking: two endpoints, each with a doorbell at which it blocks. A lost wake-up is
//! a deadlock, which the checker reports.

use crate::scenario::chain::control_memory;
use crate::scenario::{Descriptors, Mailbox, Runtime};
use llmp::chain::{Blocked, Event, Notice, Receiver, Refused, Sender};
use llmp::control::Control;
use llmp::endpoint::{Endpoint, Wanted};
use llmp::{Envelope, Limits};

/// What a receiver does while there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "not every checker has all of them")]
pub enum Waiting {
    Sleeps,
    /// It looks again and again, so that only what it gives up on the way can wake the sender.
    Polls,
}

/// One end of a channel with the doorbells and the descriptors on their way.
struct End<R: Runtime> {
    runtime: R,
    endpoint: Endpoint<R::Memory>,
    bell: R::Mailbox<()>,
    peers_bell: R::Mailbox<()>,
    socket: Descriptors<R::Memory>,
    /// Number of the next message.
    next: u64,
}

fn channel<R: Runtime>(runtime: &R, limits: Limits) -> (End<R>, End<R>) {
    let (ours, theirs) = (control_memory(runtime), control_memory(runtime));
    let sends = Control::create(ours.clone(), 1);
    let receives = Control::create(theirs.clone(), 1);
    let first = runtime.memory(limits.page_len());
    let outbound = Sender::new(1, limits, first.clone());
    let inbound = Receiver::from_beginning(limits, 1, first, receives.clone(), 0).unwrap();
    let theirs = Control::check(theirs, 0).unwrap();
    let mut sending = Endpoint::new(sends, theirs, Some((outbound, 0)), None);
    sending.told();
    let ours = Control::check(ours, 0).unwrap();
    let receiving = Endpoint::new(receives, ours, None, Some(inbound));
    let bells = (runtime.mailbox::<()>(), runtime.mailbox::<()>());
    let socket: Descriptors<R::Memory> = Descriptors::default();
    let end = |endpoint, bell: &R::Mailbox<()>, peers_bell: &R::Mailbox<()>| End {
        runtime: runtime.clone(),
        endpoint,
        bell: bell.clone(),
        peers_bell: peers_bell.clone(),
        socket: socket.clone(),
        next: 0,
    };
    (end(sending, &bells.0, &bells.1), end(receiving, &bells.1, &bells.0))
}

impl<R: Runtime> End<R> {
    fn ring(&self, must_ring: bool) {
        if must_ring {
            self.peers_bell.put(());
        }
    }

    fn sleep(&mut self, wanted: Wanted) {
        let (may_sleep, must_ring) = self.endpoint.park(wanted);
        self.ring(must_ring);
        if may_sleep {
            self.bell.wait();
            self.endpoint.unpark();
        }
    }

    /// Sends the next message. Returns whether there was room.
    fn send(&mut self) -> bool {
        loop {
            match self.endpoint.send(Envelope::default(), &self.next.to_le_bytes()) {
                Ok(must_ring) => {
                    self.next += 1;
                    self.ring(must_ring);
                    return true;
                }
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    let page = self.runtime.memory(len);
                    self.endpoint.outbound_mut().unwrap().add_page(page.clone());
                    if let Some(Notice::Page(id)) = self.endpoint.notice() {
                        self.socket.send(id, page);
                    }
                    self.endpoint.told();
                }
                Err(Refused::Blocked(Blocked::Full)) => return false,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Sends until `messages` are sent, and sleeps while there is no room.
    fn send_until(&mut self, messages: u64) {
        while self.next < messages {
            if !self.send() {
                let room = Sender::<R::Memory>::room_for(&Envelope::default(), 8);
                self.sleep(Wanted { room: Some(room), ..Wanted::default() });
            }
        }
    }

    /// Receives until `messages` are received.
    fn receive_until(&mut self, messages: u64, waiting: Waiting) {
        while self.next < messages {
            let (event, must_ring) = self.endpoint.poll().unwrap();
            self.ring(must_ring);
            let inbound = self.endpoint.inbound_mut().unwrap();
            match event {
                Event::Message(slot) => {
                    let mut number = [0; 8];
                    inbound.read(&slot, &mut number);
                    assert_eq!(u64::from_le_bytes(number), self.next);
                    inbound.advance(&slot);
                    self.next += 1;
                }
                Event::Turned => {}
                Event::Unknown(page) => {
                    let (id, memory) = self.socket.receive().expect("sent before it was named");
                    assert_eq!(id, page);
                    inbound.add_page(id, memory).unwrap();
                }
                Event::Empty if waiting == Waiting::Polls => {}
                Event::Empty => self.sleep(Wanted { message: true, ..Wanted::default() }),
            }
        }
    }
}

/// A sender and a receiver that both sleep whenever they can't go on: the receiver for a message,
/// the sender for room. [P9 P10]
pub fn both_sleep<R: Runtime>(runtime: &R, limits: Limits, messages: u64, waiting: Waiting) {
    let (mut sending, mut receiving) = channel(runtime, limits);
    let receiver = runtime.spawn(move || receiving.receive_until(messages, waiting));
    sending.send_until(messages);
    receiver();
}

/// A sender that sleeps for room, and a receiver that never sleeps: only what it gives up on the
/// way can wake the sender. [P9 P10]
pub fn sender_sleeps<R: Runtime>(runtime: &R, limits: Limits) {
    let (mut sending, mut receiving) = channel(runtime, limits);
    while sending.send() {}
    let full = sending.next;
    let has_sent = runtime.mailbox::<()>();
    let receiver = {
        let has_sent = has_sent.clone();
        runtime.spawn(move || {
            // All that is there, and so over a page turn; then it waits elsewhere.
            receiving.receive_until(full, Waiting::Polls);
            has_sent.wait();
            receiving.receive_until(full + 1, Waiting::Polls);
        })
    };
    sending.send_until(full + 1);
    has_sent.put(());
    receiver();
}

//! Sleeping and waking: two links, each with a doorbell at which it blocks. One of them may die. A
//! lost wake-up is a deadlock, which the checker reports.
//!
//! A process that has polled bounds its sleeps (`llmp::core::control`). Here time passes when the other
//! process blocks or ends. Then every store that it has made is visible. This ends a bounded sleep,
//! but only if that process has left out a fence. So these models show that a store without a fence
//! needs a bounded sleep, and that no other store does. Where both poll, the first bounded sleep of
//! each may also end before anything is visible.

use crate::scenario::chain::{PAYLOAD, control_memory, payload};
use crate::scenario::doubles::{CrashBudget, Crashing};
use crate::scenario::{Bounds, Descriptors, Mailbox, Note, Runtime, Who};
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::PAGE_HEADER;
use llmp::core::link::{Interest, Link};
use llmp::core::memory::Memory;
use llmp::{Envelope, Limits};

/// What a receiver does while there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "not every checker has all of them")]
pub enum Waiting {
    Sleeps,
    /// It sleeps, and takes a ring that comes while it is awake, as a client that reads its socket.
    TakesRings,
    /// It polls again and again, so that only its releases on the way can wake the sender.
    Polls,
}

/// Whether processes poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    Never,
    /// From the beginning, and then after each page that they have read without a sleep.
    Both,
}

/// What comes over a connection in addition to descriptors, and what else ends a sleep.
enum Bell {
    Ring,
    /// Time has passed, which ends a bounded sleep.
    Time,
    /// The other process is gone. The kernel reports it, whenever the process died.
    HangUp,
}

/// The processes in a recorded run.
const SENDER: Who = 0;
const RECEIVER: Who = 1;

/// One end of a channel with the doorbells and the descriptors under way.
struct End<R: Runtime> {
    runtime: R,
    who: Who,
    /// The ids and lengths of the pages of its own chain.
    pages: Vec<(u32, usize)>,
    link: Link<Crashing<R::Memory>>,
    life: CrashBudget,
    bell: R::Mailbox<Bell>,
    peers_bell: R::Mailbox<Bell>,
    /// Whether the other process is known to be gone.
    hung_up: bool,
    /// The last sleep that cleared the flag and that it has already slept.
    first_bounded: Option<u64>,
    socket: Descriptors<R::Memory>,
    /// Number of the next message.
    next: u64,
}

/// Returns the two ends with these crash budgets. Returns `None` if one died before the other could
/// notice.
fn channel<R: Runtime>(
    runtime: &R,
    limits: Limits,
    lives: [CrashBudget; 2],
    polling: Polling,
) -> Option<(End<R>, End<R>)> {
    let [sender_life, receiver_life] = &lives;
    let by_sender =
        |memory: &R::Memory| Crashing::new(runtime.seen_by(memory, SENDER), sender_life.clone());
    let by_receiver = |memory: &R::Memory| {
        Crashing::new(runtime.seen_by(memory, RECEIVER), receiver_life.clone())
    };
    let (ours, theirs) = (control_memory(runtime), control_memory(runtime));
    for (memory, who) in [(&ours, SENDER), (&theirs, RECEIVER)] {
        runtime.note(Note::Born { who });
        runtime.is_control(memory, who);
    }
    let sends = Control::create(by_sender(&ours), 1);
    let receives = Control::create(by_receiver(&theirs), 1);
    receives.give_place(0, 1);
    let first = runtime.memory(limits.page_len());
    let outbound = ChainWriter::new(1, limits, by_sender(&first));
    if lives.iter().any(CrashBudget::is_over) {
        return None;
    }
    let (chain, by, position) = (SENDER, RECEIVER, PAGE_HEADER as u64);
    runtime.note(Note::Sent { chain, page: 0, to: by });
    runtime.note(Note::Admitted { chain, by, page: 0, position, number: 0 });
    let first = by_receiver(&first);
    let inbound = ChainReader::from_beginning(limits, 1, first, receives.clone(), 0).unwrap();
    let theirs = Control::check(by_sender(&theirs), 0).unwrap();
    let mut sending = Link::new(sends, theirs, Some((outbound, 0)), None);
    sending.mark_sent();
    let ours = Control::check(by_receiver(&ours), 0).unwrap();
    let mut receiving = Link::new(receives, ours, None, Some(inbound));
    for link in [&mut sending, &mut receiving] {
        match polling {
            Polling::Never => link.parking.never_poll(),
            Polling::Both => link.parking.poll_from_now(),
        }
    }
    let bells = (runtime.mailbox::<Bell>(), runtime.mailbox::<Bell>());
    if polling == Polling::Both {
        bells.0.put(Bell::Time);
        bells.1.put(Bell::Time);
    }
    let socket: Descriptors<R::Memory> = Descriptors::default();
    let end = |who, link, life, bell: &R::Mailbox<Bell>, peers_bell: &R::Mailbox<Bell>| End {
        runtime: runtime.clone(),
        who,
        pages: vec![(0, limits.page_len())],
        link,
        life,
        bell: bell.clone(),
        peers_bell: peers_bell.clone(),
        hung_up: false,
        first_bounded: None,
        socket: socket.clone(),
        next: 0,
    };
    let [sender_life, receiver_life] = lives;
    let sending = end(SENDER, sending, sender_life, &bells.0, &bells.1);
    Some((sending, end(RECEIVER, receiving, receiver_life, &bells.1, &bells.0)))
}

/// Returns two ends that live for ever.
fn endless<R: Runtime>(runtime: &R, limits: Limits, polling: Polling) -> (End<R>, End<R>) {
    let lives = [CrashBudget::endless(), CrashBudget::endless()];
    channel(runtime, limits, lives, polling).expect("no process dies")
}

impl<R: Runtime> End<R> {
    fn peer(&self) -> Who {
        SENDER + RECEIVER - self.who
    }

    fn ring(&self, must_ring: bool) {
        if must_ring && !self.life.is_over() {
            self.runtime.note(Note::Rings { by: self.who, to: self.peer() });
            self.peers_bell.put(Bell::Ring);
        }
    }

    fn sleep(&mut self, interest: Interest) {
        let (may_sleep, must_ring) = self.link.park(interest);
        self.ring(must_ring);
        if may_sleep && !self.life.is_over() {
            let (by, Interest { message, room, .. }) = (self.who, interest);
            self.runtime.note(Note::Sleeps { by, message, room: room.is_some() });
            let is_bounded = self.is_bounded();
            self.let_time_pass();
            loop {
                match self.bell.wait() {
                    Bell::Time if !is_bounded => {}
                    bell => {
                        self.hung_up |= matches!(bell, Bell::HangUp);
                        break;
                    }
                }
            }
            self.runtime.note(Note::Wakes { by });
            self.link.unpark();
        }
    }

    /// Returns whether the sleep that begins is bounded.
    fn is_bounded(&mut self) -> bool {
        let first = self.link.parking.first_bounded_sleep();
        let is_first = std::mem::replace(&mut self.first_bounded, first) != first;
        match self.runtime.bounds() {
            Bounds::All => first.is_some(),
            Bounds::First => first.is_some() && is_first,
            Bounds::None => false,
        }
    }

    /// This process blocks or ends, so all that it has stored is visible.
    fn let_time_pass(&self) {
        if self.runtime.has_left_out_a_fence(self.who) {
            self.peers_bell.put(Bell::Time);
        }
    }

    /// Returns whether there is nothing left to wait for.
    fn is_over(&self) -> bool {
        self.hung_up || self.life.is_over()
    }

    /// Does what the kernel does for a process that has died.
    fn hang_up_if_dead(&self) {
        if self.life.is_over() {
            self.runtime.note(Note::Ended { who: self.who });
            self.peers_bell.put(Bell::HangUp);
        }
        self.let_time_pass();
    }

    /// Sends the next message. Returns whether there was room.
    fn send(&mut self) -> bool {
        loop {
            let envelope = Envelope::tagged(self.next as u32);
            let sent = self.link.send(envelope, &payload(self.next));
            match sent {
                _ if self.life.is_over() => return false,
                Ok(must_ring) => {
                    self.next += 1;
                    self.ring(must_ring);
                    return true;
                }
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    let page = self.runtime.memory(len);
                    let seen = self.runtime.seen_by(&page, self.who);
                    let ours = Crashing::new(seen, self.life.clone());
                    self.link.outbound_mut().unwrap().add_page(ours);
                    if let Some(Announcement::Page(id)) = self.link.announcement() {
                        self.pages.push((id, page.region_len()));
                        let (chain, pages) = (self.who, self.pages.clone());
                        self.runtime.note(Note::Pool { chain, pages });
                        self.runtime.note(Note::Sent { chain, page: id, to: self.peer() });
                        self.socket.send(id, page);
                    }
                    self.link.mark_sent();
                }
                Err(Refused::Blocked(Blocked::Full)) => return false,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Sends until `messages` are sent, and sleeps while there is no room.
    fn send_until(&mut self, messages: u64) {
        while self.next < messages && !self.life.is_over() {
            if !self.send() {
                if self.is_over() {
                    break;
                }
                let room = ChainWriter::<R::Memory>::room_for(&Envelope::default(), PAYLOAD);
                self.sleep(Interest { room: Some(room), ..Interest::default() });
            }
        }
        self.hang_up_if_dead();
    }

    /// Receives until `messages` are received.
    fn receive_until(&mut self, messages: u64, waiting: Waiting) {
        while self.next < messages {
            // Messages from before the hang-up are visible to this poll, too.
            let (event, must_ring) = self.link.poll().unwrap();
            if self.life.is_over() {
                break;
            }
            self.ring(must_ring);
            let inbound = self.link.inbound_mut().unwrap();
            match event {
                Event::Message(slot) => {
                    let mut copy = [0; PAYLOAD];
                    inbound.read(&slot, &mut copy);
                    assert_eq!(copy, payload(self.next));
                    inbound.advance(&slot);
                    self.next += 1;
                }
                Event::PageAdvanced => {}
                Event::Unknown(page) => {
                    let (id, memory) = self.socket.receive().expect("sent before it was named");
                    assert_eq!(id, page);
                    let memory = self.runtime.seen_by(&memory, self.who);
                    inbound.add_page(id, Crashing::new(memory, self.life.clone())).unwrap();
                }
                Event::Empty if self.hung_up => break,
                Event::Empty if waiting == Waiting::Polls => {}
                Event::Empty => {
                    self.sleep(Interest { message: true, ..Interest::default() });
                    while waiting == Waiting::TakesRings && self.bell.take().is_some() {}
                }
            }
        }
        self.hang_up_if_dead();
    }
}

/// A sender and a receiver that both sleep whenever they can't continue: the receiver for a
/// message, the sender for room. [P9 P10]
pub fn both_sleep<R: Runtime>(
    runtime: &R,
    limits: Limits,
    messages: u64,
    waiting: Waiting,
    polling: Polling,
) {
    let (mut sending, mut receiving) = endless(runtime, limits, polling);
    let receiver = runtime.spawn(move || receiving.receive_until(messages, waiting));
    sending.send_until(messages);
    receiver();
    runtime.note(Note::Finished);
}

/// Both sleep, and one of them dies. The hang-up wakes the other one from its sleep. It first
/// receives what the sender had committed. Returns how many messages were certainly committed, and
/// how many were received. [P4 P5 P9 P10]
#[allow(dead_code, reason = "not every checker has all of them")]
pub fn until_death<R: Runtime>(
    runtime: &R,
    limits: Limits,
    messages: u64,
    lives: [CrashBudget; 2],
) -> (u64, u64) {
    let ends = channel(runtime, limits, lives, Polling::Never);
    let Some((mut sending, mut receiving)) = ends else {
        return (0, 0);
    };
    let receiver = runtime.spawn(move || {
        receiving.receive_until(messages, Waiting::Sleeps);
        receiving.next
    });
    sending.send_until(messages);
    (sending.next, receiver())
}

/// A sender that sleeps for room, and a receiver that never sleeps: only its releases on the way
/// can wake the sender, which has `more` messages to send than there is room for. The receiver
/// releases room for as many before it waits elsewhere. [P9 P10]
pub fn sender_sleeps<R: Runtime>(runtime: &R, limits: Limits, more: u64, polling: Polling) {
    let (mut sending, mut receiving) = endless(runtime, limits, polling);
    while sending.send() {}
    let full = sending.next;
    let has_sent = runtime.mailbox::<()>();
    let receiver = {
        let has_sent = has_sent.clone();
        runtime.spawn(move || {
            // Everything that is there, over as many page rollovers. Then it waits elsewhere.
            receiving.receive_until(full, Waiting::Polls);
            has_sent.wait();
            receiving.receive_until(full + more, Waiting::Polls);
        })
    };
    sending.send_until(full + more);
    has_sent.put(());
    receiver();
    runtime.note(Note::Finished);
}

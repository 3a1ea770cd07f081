//! Production's broker without its sockets, and its clients. Correct clients join, send, sleep,
//! receive and leave. One client is hostile: any word of its regions changes at any access, or its
//! descriptors arrive wrongly.
//!
//! The correct part of the traffic arrives exactly, in one order and once, whatever the hostile
//! client does [P1 P2 P3]. It does not change before its receiver has released it, by reference or
//! not [P8]. The hostile client is disconnected with a typed fault or is harmless (P12). The
//! broadcast chain keeps to its budget (P6). No process sleeps although an event has happened
//! (P10). The broker finishes in a bounded number of steps.

mod broker;
mod client;
mod hooking;
mod ledger;
mod mail;

use super::chain::{PAGE_LEN, Sent, limits};
use super::input::Input;
use super::regions::heap;
use super::seen::Seen;
use super::world::{CONTROL, World};
use client::{Birth, Client};
use hooking::Hooking;
use ledger::Ledger;
use llmp::core::broker::{Core, Quota};
use llmp::core::chain::Announcement;
use llmp::core::control::Control;
use llmp::core::layout::control_bytes;
use llmp::core::link::Interest;
use llmp::core::wire::Roles;
use llmp::{Limits, Message};

/// Greatest number of clients at one time.
const CLIENTS: usize = 5;

/// What the hostile client may forge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forged {
    /// The words of its regions.
    Words,
    /// Its pages' descriptors.
    Mail,
}

pub struct Bus<W: World> {
    world: W,
    forged: Forged,
    limits: Limits,
    budget: Quota,
    hooking: Hooking,
    /// Whether the clients' pages may become foreign pages.
    by_ref: bool,
    core: Core<W::Memory>,
    is_asleep: bool,
    /// Client 0 is there from the beginning to the end, so that it sees everything.
    clients: Vec<Client<W::Memory>>,
    ledger: Ledger,
    /// Whether any descriptor was tampered with.
    mail_tampered: bool,
    number: usize,
    pub seen: Seen,
}

impl<W: World> Bus<W> {
    pub fn new(world: W, forged: Forged, input: &mut Input) -> Self {
        let limits = limits(input);
        let control = world.honest(heap(control_bytes(CLIENTS)));
        let first = world.honest(heap(PAGE_LEN));
        let mut core = Core::new(limits, control, CLIENTS, first);
        let budget = Quota::new(1 + input.below(16), 1 + input.half() as usize % 2000);
        core.set_quota(budget);
        let kinds = [Hooking::None, Hooking::Forward, Hooking::Replace, Hooking::Drop];
        let kind = input.below(16);
        let (hooking, zero_copy_threshold) =
            (kinds[kind % 4], [None, Some(0), Some(60), Some(200)][kind / 4]);
        if let Some(zero_copy_threshold) = zero_copy_threshold {
            core.set_zero_copy_threshold(zero_copy_threshold);
        }
        if hooking != Hooking::None {
            core.set_hook(Box::new(move |message: &Message<'_>| {
                hooking.verdict(message.flags, message.payload)
            }));
        }
        let (clients, ledger, seen) = (Vec::new(), Ledger::default(), Seen::default());
        let (is_asleep, mail_tampered) = (false, false);
        let mut bus = Bus {
            world,
            forged,
            limits,
            budget,
            hooking,
            by_ref: zero_copy_threshold.is_some(),
            core,
            is_asleep,
            clients,
            ledger,
            mail_tampered,
            number: 0,
            seen,
        };
        for is_hostile in [false, false, true] {
            bus.join(is_hostile, Roles::SEND.and(Roles::RECEIVE));
        }
        bus
    }

    /// Performs all operations of the input, then lets all clients finish.
    pub fn run(mut self, input: &mut Input) -> Seen {
        while !input.is_over() {
            self.step(input);
            self.look();
        }
        self.end()
    }

    fn step(&mut self, input: &mut Input) {
        let (kind, i) = (input.below(16), input.below(CLIENTS));
        if kind < 4
            && let Some(client) = self.clients.get_mut(i)
        {
            // A client that acts is awake.
            client.awake();
        }
        match kind {
            0 | 1 => {
                let sent = Sent::arbitrary(input, self.number);
                self.number += 1;
                if let Some(client) = self.clients.get_mut(i) {
                    client.append(&self.world, sent, &mut self.seen);
                }
                if kind == 0 {
                    self.publish(i);
                }
            }
            2 => self.publish(i),
            3 => {
                if let Some(client) = self.clients.get_mut(i) {
                    client.abort();
                }
            }
            4 => drop(self.cycle(input)),
            5 => drop(self.receive(i, 1 + input.below(8))),
            6 => self.sleep(i, input),
            7 => self.park(),
            8 if self.clients.len() < CLIENTS => {
                let roles = [Roles::SEND.and(Roles::RECEIVE), Roles::SEND][input.below(2)];
                self.join(input.below(2) == 1, roles);
            }
            9 if i > 0 && i < self.clients.len() => self.leave(i),
            10 if self.forged == Forged::Words => self.world.forge(input),
            10 => self.fault_in_mail(input),
            11 => self.deliver(i, 1 + input.below(3)),
            13 if self.by_ref => {
                if let Some(client) = self.clients.get_mut(i) {
                    client.is_socket_full ^= true;
                    self.seen.mark("a socket was full");
                }
            }
            _ => {
                // One round of everything, so that short inputs get far. Pages after the first are
                // sent when they are named.
                for i in 0..self.clients.len() {
                    if self.clients.get(i).is_some_and(|client| !client.has_begun) {
                        self.deliver(i, 1);
                    }
                }
                self.cycle(input);
                for i in 0..self.clients.len() {
                    self.receive(i, usize::MAX);
                }
            }
        }
    }

    fn is_tampered(&self) -> bool {
        self.mail_tampered || self.world.is_tampered()
    }

    fn join(&mut self, is_hostile: bool, roles: Roles) {
        if is_hostile && self.clients.iter().any(|client| client.is_hostile) {
            return;
        }
        // A client that has left and is not removed yet still has a cursor.
        let Some(reserved) = self.core.reserve(roles) else { return };
        let (id, cursor) = (reserved.client, reserved.cursor);
        // Exactly as long as its only cursor needs.
        let region = heap(control_bytes(1));
        let own = Control::create(self.world.honest(region.clone()), 1);
        let seen_by_broker = match is_hostile {
            true => self.world.see(CONTROL, region),
            false => self.world.honest(region),
        };
        self.wake();
        let start = match self.core.join(id, seen_by_broker) {
            Ok(start) => start,
            Err(fault) => {
                assert!(is_hostile && self.is_tampered(), "{fault}");
                self.core.disconnect(id, Some(fault));
                return self.act(&mut Input::new(&[]));
            }
        };
        let mut pages = Vec::new();
        while let Some(Announcement::Page(page)) = self.core.announcement(id) {
            pages.push((page, self.core.page(page).expect("a page in the pool").clone()));
            self.core.mark_sent(id);
        }
        let peer = Control::check(self.core.control().clone(), cursor).expect("the broker's own");
        let start = roles.has(Roles::RECEIVE).then_some(start);
        if start.is_some_and(|start| start.message > 0) {
            self.seen.mark("joined late");
        }
        self.ledger.joined(id, is_hostile);
        let birth = Birth { id, is_hostile, own, peer, cursor, pages, start };
        self.clients.push(Client::new(&self.world, self.limits, birth));
    }

    fn publish(&mut self, i: usize) {
        let Some(client) = self.clients.get_mut(i) else { return };
        let hooking = self.hooking;
        let must_ring = client.publish(&mut self.ledger, |sent| hooking.passes(sent));
        self.rung(must_ring);
    }

    /// A client rings the broker if it must.
    fn rung(&mut self, must_ring: bool) {
        if must_ring && self.is_asleep {
            self.seen.mark("broker slept and was rung");
        }
        if must_ring {
            self.wake();
        }
    }

    fn wake(&mut self) {
        self.is_asleep = false;
        self.core.unpark();
    }

    /// Takes up to `steps` steps with a client. Returns whether it did anything.
    fn receive(&mut self, i: usize, steps: usize) -> bool {
        self.note_tampering();
        let Some(client) = self.clients.get_mut(i) else { return false };
        client.awake();
        client.read_inbox();
        let (world, mail_tampered) = (&self.world, self.mail_tampered);
        let is_tampered = || mail_tampered || world.is_tampered();
        let may_share = self.by_ref && self.hooking == Hooking::None;
        let (worked, must_ring) =
            client.receive(&mut self.ledger, steps, is_tampered, may_share, &mut self.seen);
        let must_ring = must_ring | client.link.release();
        self.rung(must_ring);
        worked || must_ring
    }

    fn sleep(&mut self, i: usize, input: &mut Input) {
        let interest = input.byte();
        let room = (interest & 2 != 0).then(|| input.half() as usize % 450);
        let interest = Interest { message: interest & 1 != 0, room, consumed: interest & 4 != 0 };
        let Some(client) = self.clients.get_mut(i) else { return };
        client.read_inbox();
        let (may_sleep, must_ring) = client.link.park(interest);
        client.asleep = may_sleep.then_some(interest);
        if !may_sleep {
            client.link.unpark();
        }
        self.rung(must_ring);
    }

    fn park(&mut self) {
        self.is_asleep = self.core.park();
        if !self.is_asleep {
            self.wake();
        }
    }

    /// The broker reads everything that the client has sent, then the client is gone.
    fn leave(&mut self, i: usize) {
        let id = self.clients[i].id;
        self.deliver(i, usize::MAX);
        // It may have been disconnected for it.
        if self.clients.get(i).is_some_and(|client| client.id == id) {
            self.clients.remove(i);
            self.core.hung_up(id);
            self.wake();
            self.seen.mark("left");
        }
    }

    fn note_tampering(&mut self) {
        if self.is_tampered() {
            self.ledger.tampered();
        }
    }

    /// Checks the invariants.
    fn look(&mut self) {
        self.note_tampering();
        let stats = self.core.stats();
        assert!(stats.page_bytes_peak <= self.limits.budget() as u64, "beyond the budget");
        for client in &mut self.clients {
            client.look();
            let honest = client.asleep.filter(|_| !client.is_hostile);
            let sleeps_on = honest.is_some_and(|interest| client.link.is_ready(interest));
            assert!(!sleeps_on, "client {} sleeps, and what it waits for is there", client.id);
        }
    }

    /// The hostile client leaves, and all others receive the rest.
    fn end(mut self) -> Seen {
        (0..self.clients.len()).for_each(|i| self.publish(i));
        if let Some(i) = self.clients.iter().position(|client| client.is_hostile) {
            if self.is_tampered() {
                self.seen.mark("harmless");
            }
            self.leave(i);
        }
        self.rounds();
        self.note_tampering();
        self.ledger.check();
        assert_eq!(
            self.core.clients(),
            self.clients.len(),
            "a client that has left is still there"
        );
        self.all_refs_are_released();
        let stats = self.core.stats();
        if stats.reuses > 0 {
            self.seen.mark("broadcast page reused");
        }
        if stats.by_ref > 0 {
            self.seen.mark("by reference");
        }
        self.seen
    }

    /// Checks that all messages by reference are released, and that no client keeps pages of a
    /// client that is gone. [P7 P9]
    fn all_refs_are_released(&mut self) {
        let mut pages = self.core.stats().page_bytes;
        for client in &mut self.clients {
            client.read_inbox();
            let outbound = client.link.outbound_mut().expect("every client sends");
            assert_eq!(
                outbound.passed(),
                outbound.position(),
                "client {} has unreleased messages",
                client.id
            );
            pages += outbound.stats().page_bytes;
        }
        for inbound in self.clients.iter().filter_map(|client| client.link.inbound()) {
            assert!(inbound.pages_len() as u64 <= pages, "pages without an owner");
        }
    }

    /// Runs until no process has anything to do. [P9]
    fn rounds(&mut self) {
        self.clients.iter_mut().for_each(|client| client.is_socket_full = false);
        let mut nothing = Input::new(&[]);
        // A dead chain holds at most its pages, a live one at most its budget.
        for _ in 0..CLIENTS * self.limits.budget() + 1000 {
            let mut worked = self.cycle(&mut nothing);
            for i in 0..self.clients.len() {
                // A client that was disconnected meanwhile is gone.
                worked |= self.clients.get(i).is_some_and(|client| !client.outbox.is_empty());
                self.deliver(i, usize::MAX);
                worked |= self.receive(i, usize::MAX);
            }
            if !worked {
                self.park();
                if self.is_asleep {
                    return;
                }
            }
        }
        panic!("the bus does not come to an end");
    }
}

//! A bus in one thread, driven operation by operation: the real broker and the real links over
//! memory that records accesses.

use crate::plain::Reached;
use crate::scenario::doubles::{CrashBudget, Crashing};
use crate::scenario::{Note, Runtime, Who};
use llmp::core::broker::{Action, Core, Quota};
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused, Start};
use llmp::core::control::Control;
use llmp::core::layout::{PAGE_HEADER, PAGE_ID, control_bytes, high, low};
use llmp::core::link::{Interest, Link};
use llmp::core::memory::Memory;
use llmp::core::wire::Roles;
use llmp::{ClientId, Envelope, Limits, Origin};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;

const BROKER: Who = 0;
/// Greatest number of clients on the bus at one time.
const PLACES: usize = 4;

type Own<R> = Crashing<<R as Runtime>::Memory>;

/// Small pages, messages of up to three of them, and a budget that is soon used up.
pub fn limits() -> Limits {
    Limits::new(192, 300, Limits::least_budget(192, 300)).unwrap()
}

fn payload(sender: Who, number: u32, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u32 ^ number).wrapping_mul(167).wrapping_add(sender.into()) as u8)
        .collect()
}

enum ToBroker<M> {
    Page { client: Who, id: u32, page: M },
    Forget { client: Who, id: u32 },
    HangUp(Who),
}

enum ToClient<M> {
    Page(u32, M),
    Forget(u32),
}

struct Client<R: Runtime> {
    id: Who,
    runtime: R,
    link: Link<Own<R>>,
    crash_budget: CrashBudget,
    mailbox: VecDeque<ToClient<R::Memory>>,
    /// Its own pages, as they are shared.
    pages: Vec<(u32, R::Memory)>,
    next: u32,
    is_asleep: bool,
}

/// A bus.
pub struct World<R: Runtime> {
    runtime: R,
    core: Core<Own<R>>,
    crash_budget: CrashBudget,
    /// Its control region.
    control: R::Memory,
    /// The broadcast chain's pages by id, foreign pages included, as they are shared.
    pages: BTreeMap<u32, R::Memory>,
    /// Clients' pages that may become foreign pages, with their owner and its id for them.
    shareable_pages: Vec<(Who, u32, R::Memory)>,
    by_ref: bool,
    /// The ids of the foreign pages.
    foreign_pages: BTreeSet<u32>,
    to_broker: VecDeque<ToBroker<R::Memory>>,
    clients: Vec<Client<R>>,
    is_asleep: bool,
    pub reached: Reached,
}

impl<R: Runtime> World<R> {
    /// Returns a bus whose broker dies after `dies_after` writes and forwards messages of at least
    /// `zero_copy_threshold` bytes by reference.
    pub fn new(runtime: &R, dies_after: Option<usize>, zero_copy_threshold: Option<usize>) -> Self {
        let crash_budget = dies_after.map_or(CrashBudget::endless(), CrashBudget::ends_after);
        let region = |len| runtime.seen_by(&runtime.memory(len), BROKER);
        let (control, first) = (region(control_bytes(PLACES)), region(limits().page_len()));
        runtime.note(Note::Born { who: BROKER });
        runtime.is_control(&control, BROKER);
        let own = |memory: &R::Memory| Crashing::new(memory.clone(), crash_budget.clone());
        let mut core = Core::new(limits(), own(&control), PLACES, own(&first));
        core.set_quota(Quota::new(3, 200));
        core.set_zero_copy_threshold(zero_copy_threshold.unwrap_or(usize::MAX));
        World {
            runtime: runtime.clone(),
            core,
            crash_budget,
            control,
            pages: BTreeMap::from([(0, first)]),
            shareable_pages: Vec::new(),
            by_ref: zero_copy_threshold.is_some(),
            foreign_pages: BTreeSet::new(),
            to_broker: VecDeque::new(),
            clients: Vec::new(),
            is_asleep: false,
            reached: Reached::default(),
        }
    }

    pub fn is_over(&self) -> bool {
        self.crash_budget.is_over()
    }

    /// Adds a client that dies after `dies_after` writes.
    pub fn join(&mut self, dies_after: Option<usize>) {
        self.wake_broker();
        let Some(reserved) = self.core.reserve(Roles::SEND.and(Roles::RECEIVE)) else { return };
        if self.is_over() {
            return;
        }
        let (client, id, runtime) = (reserved.client, reserved.client.0 as Who, &self.runtime);
        runtime.note(Note::Born { who: id });
        runtime.note(Note::Cursor { slot: reserved.cursor, client: id });
        let memory = runtime.memory(control_bytes(1));
        runtime.is_control(&memory, id);
        Control::create(memory.clone(), 1);
        let seen = Crashing::new(runtime.seen_by(&memory, BROKER), self.crash_budget.clone());
        let start = self.core.join(client, seen).unwrap();
        let Start { page, position, message: number } = start;
        runtime.note(Note::Admitted { chain: BROKER, by: id, page, position, number });
        self.reached.late += u64::from(number > 0);

        let first = runtime.seen_by(&runtime.memory(limits().page_len()), id);
        // It lives at least until it has joined.
        let crash_budget =
            dies_after.map_or(CrashBudget::endless(), |n| CrashBudget::ends_after(2 + n));
        let own = |memory: &R::Memory| Crashing::new(memory.clone(), crash_budget.clone());
        let sender = ChainWriter::new(id.into(), limits(), own(&first));
        let at = PAGE_HEADER as u64;
        let begins = Note::Admitted { chain: id, by: BROKER, page: 0, position: at, number: 0 };
        let mut pages = Vec::new();
        while let Some(announcement) = self.core.announcement(client) {
            if let Announcement::Page(page) = announcement {
                runtime.note(Note::Sent { chain: BROKER, page, to: id });
                pages.push((page, own(&runtime.seen_by(&self.pages[&page], id))));
            }
            self.core.mark_sent(client);
        }
        let control = Control::check(own(&runtime.seen_by(&memory, id)), 0).unwrap();
        let peer =
            Control::check(own(&runtime.seen_by(&self.control, id)), reserved.cursor).unwrap();
        let inbound = ChainReader::new(limits(), 0, pages, start, control.clone(), 0).unwrap();
        let outbound = Some((sender, reserved.cursor));
        let mut link = Link::new(control, peer, outbound, Some(inbound));
        link.mark_sent();
        runtime.note(begins);
        let page = Crashing::new(runtime.seen_by(&first, BROKER), self.crash_budget.clone());
        self.core.page_arrived(client, 0, page).unwrap();
        if self.by_ref {
            self.core.may_share(client, 0);
            self.shareable_pages.push((id, 0, first.clone()));
        }
        let (mailbox, pages) = (VecDeque::new(), vec![(0, first)]);
        let (runtime, next, is_asleep) = (self.runtime.clone(), 0, false);
        let client = Client { id, runtime, link, crash_budget, mailbox, pages, next, is_asleep };
        self.clients.push(client);
    }

    /// Returns the client of this operation, awake.
    fn pick(&mut self, nth: usize) -> Option<usize> {
        let nth = nth.checked_rem(self.clients.len())?;
        let client = &mut self.clients[nth];
        if std::mem::take(&mut client.is_asleep) {
            self.runtime.note(Note::Wakes { by: client.id });
            client.link.unpark();
        }
        self.bury();
        (nth < self.clients.len()).then_some(nth)
    }

    /// Ends the connections of dead processes.
    fn bury(&mut self) {
        for client in self.clients.extract_if(.., |client| client.crash_budget.is_over()) {
            self.reached.deaths += 1;
            self.runtime.note(Note::Ended { who: client.id });
            self.to_broker.push_back(ToBroker::HangUp(client.id));
        }
    }

    pub fn leave(&mut self, nth: usize) {
        let Some(nth) = self.pick(nth) else { return };
        let client = self.clients.remove(nth);
        self.runtime.note(Note::Ended { who: client.id });
        self.to_broker.push_back(ToBroker::HangUp(client.id));
    }

    /// Appends messages of these lengths. Then publishes them at once, or discards them if
    /// `publish` is `false`.
    pub fn send(&mut self, nth: usize, lens: &[usize], origin: bool, publish: bool) {
        let Some(nth) = self.pick(nth) else { return };
        let first = self.clients[nth].next;
        for len in lens {
            if !self.append(nth, *len, origin, true) {
                break;
            }
        }
        let client = &mut self.clients[nth];
        if publish {
            let must_ring = client.link.publish();
            self.ring_broker(nth, must_ring);
        } else {
            client.link.outbound_mut().unwrap().abort();
            client.next = first;
        }
        self.bury();
    }

    /// Claims room for a message, possibly in another page, and drops the claim.
    pub fn drop_claim(&mut self, nth: usize, len: usize) {
        let Some(nth) = self.pick(nth) else { return };
        self.append(nth, len, false, false);
        let must_ring = self.clients[nth].link.publish();
        self.ring_broker(nth, must_ring);
        self.bury();
    }

    fn append(&mut self, nth: usize, len: usize, origin: bool, commit: bool) -> bool {
        loop {
            let client = &mut self.clients[nth];
            let number = client.next;
            let origin = origin.then(|| Origin::new(NonZeroU64::MAX, ClientId(7), number.into()));
            let envelope = Envelope::tagged(number).with_origin(origin);
            match client.link.outbound_mut().unwrap().claim(envelope, len) {
                Ok(claim) => {
                    claim.write_all(&payload(client.id, number, len));
                    if commit {
                        claim.commit();
                        client.next += 1;
                    }
                    return true;
                }
                Err(Refused::Blocked(Blocked::NeedPage(len))) => self.add_page(nth, len),
                Err(Refused::Blocked(_)) => {
                    self.reached.full += 1;
                    return false;
                }
                Err(refused) => panic!("{refused:?}"),
            }
        }
    }

    fn add_page(&mut self, nth: usize, len: usize) {
        let Client { id, link, crash_budget, pages, .. } = &mut self.clients[nth];
        let page = self.runtime.seen_by(&self.runtime.memory(len), *id);
        pages.push((pages.len() as u32, page.clone()));
        let outbound = link.outbound_mut().unwrap();
        outbound.add_page(Crashing::new(page, crash_budget.clone()));
        let there = pages.iter().filter(|(id, _)| outbound.page(*id).is_some());
        let there = there.map(|(id, page)| (*id, page.region_len())).collect();
        self.runtime.note(Note::Pool { chain: *id, pages: there });
        while let Some(announcement) = link.announcement() {
            let client = *id;
            self.to_broker.push_back(match announcement {
                Announcement::Page(id) => {
                    self.runtime.note(Note::Sent { chain: client, page: id, to: BROKER });
                    ToBroker::Page { client, id, page: pages[id as usize].1.clone() }
                }
                Announcement::Forget(id) => ToBroker::Forget { client, id },
            });
            link.mark_sent();
        }
    }

    fn ring_broker(&mut self, nth: usize, must_ring: bool) {
        let client = &self.clients[nth];
        if must_ring && !client.crash_budget.is_over() {
            self.reached.rung += 1;
            self.runtime.note(Note::Rings { by: client.id, to: BROKER });
        }
    }

    /// Receives up to `most` messages. Returns whether there was any.
    pub fn receive(&mut self, nth: usize, most: usize) -> bool {
        let Some(nth) = self.pick(nth) else { return false };
        let mut any = false;
        for _ in 0..most {
            let client = &mut self.clients[nth];
            let (event, must_ring) = client.link.poll().expect("the broker is honest");
            match event {
                Event::Empty => break,
                Event::PageAdvanced => {}
                Event::Unknown(_) => client.take_mail(),
                Event::Message(slot) => {
                    let inbound = client.link.inbound_mut().unwrap();
                    let envelope = inbound.envelope(&slot);
                    let mut copy = vec![0; slot.payload_len()];
                    inbound.read(&slot, &mut copy);
                    let (sender, number) = (envelope.sender.0 as Who, envelope.tag.0);
                    assert_eq!(copy, payload(sender, number, copy.len()), "torn or mixed up");
                    let origin = envelope.origin.map(|origin| origin.seq);
                    assert!(origin.is_none_or(|id| id == u64::from(number)));
                    inbound.advance(&slot);
                    self.reached.delivered += 1;
                }
            }
            any = true;
            self.ring_broker(nth, must_ring);
            if self.clients[nth].crash_budget.is_over() {
                break;
            }
        }
        self.bury();
        any
    }

    /// Sleeps for a message and optionally for room for `len` bytes.
    pub fn doze(&mut self, nth: usize, room: Option<usize>) {
        let Some(nth) = self.pick(nth) else { return };
        let client = &mut self.clients[nth];
        client.take_mail();
        let envelope = Envelope::default();
        let room = room.map(|len| ChainWriter::<Own<R>>::room_for(&envelope, len));
        let (may_sleep, must_ring) =
            client.link.park(Interest { message: true, room, consumed: false });
        let by = client.id;
        client.is_asleep = may_sleep && !client.crash_budget.is_over();
        let sleeps = client.is_asleep;
        self.ring_broker(nth, must_ring);
        if sleeps {
            self.reached.slept += 1;
            self.runtime.note(Note::Sleeps { by, message: true, room: room.is_some() });
        }
        self.bury();
    }

    fn wake_broker(&mut self) {
        if std::mem::take(&mut self.is_asleep) {
            self.runtime.note(Note::Wakes { by: BROKER });
            self.core.unpark();
        }
    }

    fn drain(&mut self) {
        while let Some(packet) = self.to_broker.pop_front() {
            let id = |client: Who| ClientId(client.into());
            match packet {
                ToBroker::Page { client, id: page, page: memory } => {
                    if self.by_ref {
                        self.shareable_pages.push((client, page, memory.clone()));
                    }
                    let memory = Crashing::new(
                        self.runtime.seen_by(&memory, BROKER),
                        self.crash_budget.clone(),
                    );
                    self.core.page_arrived(id(client), page, memory).unwrap();
                    if self.by_ref {
                        self.core.may_share(id(client), page);
                    }
                }
                ToBroker::Forget { client, id: page } => {
                    self.core.page_forgotten(id(client), page).unwrap();
                }
                ToBroker::HangUp(client) => {
                    self.runtime.note(Note::ReceiverRemoved { who: client });
                    self.core.hung_up(id(client));
                }
            }
        }
    }

    /// Runs one cycle of the broker, which first reads its packets if `looks`. Returns whether it
    /// did anything.
    pub fn cycle(&mut self, looks: bool) -> bool {
        self.wake_broker();
        if looks {
            self.drain();
        }
        let before = self.core.stats();
        let cycle = self.core.cycle();
        let stats = self.core.stats();
        self.reached.reuses += stats.reuses - before.reuses;
        self.reached.by_ref += stats.by_ref - before.by_ref;
        if self.is_over() {
            return false;
        }
        self.note_foreign_pages();
        let mut worked = cycle.consumed > 0;
        self.reached.full += u64::from(cycle.blocked == Some(Blocked::Full));
        if let Some(Blocked::NeedPage(len)) = cycle.blocked {
            let page = self.runtime.seen_by(&self.runtime.memory(len), BROKER);
            self.core.add_page(Crashing::new(page.clone(), self.crash_budget.clone()));
            let id = self.new_pages().last().expect("it has an id");
            self.pages.insert(id, page);
            self.note_pool();
            worked = true;
        }
        for action in self.core.take_actions() {
            worked = true;
            match action {
                Action::Ring(client) => {
                    self.reached.rung += 1;
                    self.runtime.note(Note::Rings { by: BROKER, to: client.0 as Who });
                }
                Action::Drain(client) => {
                    self.drain();
                    self.core.drained(client);
                }
                Action::Remove(client, fault) => {
                    assert_eq!(fault, None, "client {client} is honest");
                    self.runtime.note(Note::Removed { client: client.0 as Who });
                }
            }
        }
        // Otherwise the sockets are full.
        if looks {
            self.announce();
        }
        worked
    }

    /// Returns pages of the broadcast chain that have just got their ids.
    fn new_pages(&self) -> impl Iterator<Item = u32> + use<R> {
        let next = self.pages.last_key_value().map_or(0, |(id, _)| id + 1);
        // A page that was added and dropped in one cycle leaves a gap.
        let last = (next..next + 2 * PLACES as u32).rev().find(|id| self.core.page(*id).is_some());
        let there = |id: &u32| self.core.page(*id).is_some();
        (next..last.map_or(next, |last| last + 1)).filter(there).collect::<Vec<_>>().into_iter()
    }

    /// Records which clients' pages became foreign pages in the last cycle, and which no longer
    /// are.
    fn note_foreign_pages(&mut self) {
        if !self.by_ref {
            return;
        }
        // Some may have been replaced by new ones.
        let foreign_pages = self.foreign_pages.len();
        self.foreign_pages.retain(|id| self.core.page(*id).is_some());
        self.reached.recalled += (foreign_pages - self.foreign_pages.len()) as u64;
        self.note_pool();
        for id in self.new_pages() {
            // Only the page's header names its owner.
            let page = self.core.page(id).expect("it is there");
            let [name] = page.read_words(PAGE_ID);
            let (client, of) = (high(name) as Who, low(name));
            let is_it = |page: &&(Who, u32, R::Memory)| (page.0, page.1) == (client, of);
            let memory = self
                .shareable_pages
                .iter()
                .find(is_it)
                .expect("a page that may be foreign")
                .2
                .clone();
            self.pages.insert(id, memory);
            self.foreign_pages.insert(id);
            self.runtime.note(Note::Adopted { page: id, client, of });
        }
    }

    fn note_pool(&mut self) {
        let there = self.pages.iter().filter(|(id, _)| self.core.page(**id).is_some());
        let there = there.map(|(id, page)| (*id, page.region_len())).collect();
        self.runtime.note(Note::Pool { chain: BROKER, pages: there });
    }

    fn announce(&mut self) {
        for client in &mut self.clients {
            let id = ClientId(client.id.into());
            while let Some(announcement) = self.core.announcement(id) {
                client.mailbox.push_back(match announcement {
                    Announcement::Page(page) => {
                        self.runtime.note(Note::Sent { chain: BROKER, page, to: client.id });
                        ToClient::Page(page, self.pages[&page].clone())
                    }
                    Announcement::Forget(page) => ToClient::Forget(page),
                });
                self.core.mark_sent(id);
            }
        }
    }

    pub fn doze_broker(&mut self) {
        self.wake_broker();
        if !self.is_over() {
            self.announce();
        }
        if self.core.park() && !self.is_over() {
            let room = self.core.is_blocked();
            self.reached.slept += 1;
            self.runtime.note(Note::Sleeps { by: BROKER, message: !room, room });
            self.is_asleep = true;
        }
    }

    /// Lets all processes finish. The specification then says whether everything is done.
    pub fn finish(mut self) -> Reached {
        let mut has_ended = false;
        loop {
            let mut any = !self.is_over() && self.cycle(true);
            if self.is_over() && !std::mem::replace(&mut has_ended, true) {
                self.runtime.note(Note::Ended { who: BROKER });
                self.reached.deaths += 1;
                any = true;
            }
            for nth in (0..self.clients.len()).rev() {
                any |= self.receive(nth, usize::MAX);
                // So that the broker gets its room.
                self.doze(nth, None);
            }
            if any || !self.to_broker.is_empty() && !self.is_over() {
                continue;
            }
            // It may not sleep while a message by reference can be released.
            self.doze_broker();
            // It may have died on the way to sleep, which is still to be recorded.
            if self.is_asleep || has_ended {
                break;
            }
        }
        self.runtime.note(Note::Finished);
        self.reached
    }
}

impl<R: Runtime> Client<R> {
    fn take_mail(&mut self) {
        let inbound = self.link.inbound_mut().unwrap();
        for packet in self.mailbox.drain(..) {
            match packet {
                ToClient::Page(id, page) => {
                    let page = Crashing::new(
                        self.runtime.seen_by(&page, self.id),
                        self.crash_budget.clone(),
                    );
                    inbound.add_page(id, page).unwrap();
                }
                ToClient::Forget(id) => inbound.forget_page(id).unwrap(),
            }
        }
    }
}

//! A broker that dies: production's [`Core`] and clients that poll, so that a checker can make
//! every step of the broker its last. The full bus with sleeping processes is in `bus`.

#[allow(dead_code, reason = "not every checker has it")]
pub mod share;

use crate::scenario::chain::{PAYLOAD, control_memory, limits, payload};
use crate::scenario::doubles::{CrashBudget, Crashing};
use crate::scenario::{Descriptors, Runtime, Who};
use llmp::core::broker::{Action, Core, Quota};
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::intent::BrokerPages;
use llmp::core::layout::{
    INTENT_CONSUMED, PAGE_HEADER, control_bytes, cursor_offset, intent_offset,
};
use llmp::core::link::Link;
use llmp::core::memory::Memory;
use llmp::core::order::Site;
use llmp::core::wire::Roles;
use llmp::{ClientId, Envelope, Tag};

/// The broker among the processes. A client's number is its id.
const BROKER: Who = 0;

/// The size of a bus.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Messages that fit into a page.
    pub messages_per_page: usize,
    /// Pages that the budget of each chain allows.
    pub pages: usize,
    /// Messages that each sender sends.
    pub messages: u64,
    /// The roles of each client.
    pub roles: &'static [Roles],
    /// Cycles of the broker, and steps of each client, while the others run.
    pub cycles: usize,
    pub steps: usize,
}

/// A bus whose broker dies after `k` writes. Returns whether it died. [P2 P3 P5]
#[allow(dead_code, reason = "not every checker has it")]
pub fn broker_dies<R: Runtime>(runtime: &R, size: Size, k: usize) -> bool {
    let crash_budget = CrashBudget::ends_after(k);
    let Some((mut broker, members)) = Broker::with_clients(runtime, size, &crash_budget) else {
        return true;
    };
    let threads: Vec<_> = members
        .into_iter()
        .map(|mut member| {
            runtime.spawn(move || {
                for _ in 0..size.steps {
                    member.step();
                }
                member
            })
        })
        .collect();
    for _ in 0..size.cycles {
        if !crash_budget.is_over() {
            broker.cycle();
        }
    }
    let mut members: Vec<_> = threads.into_iter().map(|join| join()).collect();
    // Surviving processes continue until there is nothing to do.
    loop {
        let worked = !crash_budget.is_over() && broker.cycle();
        if members.iter_mut().fold(worked, |worked, member| member.step() || worked) {
            continue;
        }
        break;
    }
    check(&mut members, &broker);
    crash_budget.is_over()
}

/// A broker that dies after each of its writes, with nothing beside it: what its memory says of each
/// client is what it had published. [P3]
#[allow(dead_code, reason = "not every checker has it")]
pub fn broker_dies_alone<R: Runtime>(runtime: &R, size: Size) {
    let dies = |k| {
        let crash_budget = CrashBudget::ends_after(k);
        let Some((mut broker, mut members)) = Broker::with_clients(runtime, size, &crash_budget)
        else {
            return true;
        };
        // Each message is a batch of its own.
        for _ in 0..size.messages {
            members
                .iter_mut()
                .filter(|member| member.sends > 0)
                .for_each(|member| _ = member.send());
            if !crash_budget.is_over() {
                broker.cycle();
            }
        }
        while members.iter_mut().any(Member::step) {}
        check(&mut members, &broker);
        crash_budget.is_over()
    };
    assert!((0..).take_while(|k| dies(*k)).count() > 10, "it writes more");
}

/// A process reads what a broker says that it consumes, while the broker goes on. Consumed is found
/// with the begin of the same batch or a later one, and the begin with the cursor of the batch before.
#[allow(dead_code, reason = "not every checker has it")]
pub fn intents_read<R: Runtime>(runtime: &R, size: Size) {
    let (mut broker, mut members) =
        Broker::with_clients(runtime, size, &CrashBudget::endless()).expect("it lives");
    broker.core.set_quota(Quota::new(1, usize::MAX));
    // For clients that sleep, the broker executes a fence after each batch.
    members.iter_mut().for_each(|member| member.link.parking.poll_from_now());
    let sender = members.iter_mut().find(|member| member.sends > 0).expect("a sender");
    while sender.sent < sender.sends {
        sender.send();
    }
    let batch = |tails: &[u64], position| tails.iter().filter(|tail| **tail <= position).count();
    let (memory, cursor) = sender.cursor.clone();
    let at = intent_offset(size.roles.len(), sender.cursor_index);
    let tails = sender.tails.clone();
    let reading = runtime.spawn(move || {
        let consumed = memory.load(at + INTENT_CONSUMED, Site::IntentConsumedRead);
        let begin = memory.load(at, Site::IntentBeginRead);
        let cursor = memory.load(cursor, Site::CursorRead);
        (batch(&tails, consumed), begin, batch(&tails, cursor))
    });
    let mut begins = Vec::new();
    for _ in 0..size.messages {
        begins.push(broker.core.position());
        broker.core.cycle();
    }
    let (consumed, begin, cursor) = reading();
    let begin = batch(&begins, begin);
    assert!(begin >= consumed, "consumed {consumed} with the begin of batch {begin}");
    assert!(cursor + 1 >= begin, "the begin of batch {begin} with the cursor of batch {cursor}");
}

/// Checks what all clients have seen.
fn check<R: Runtime>(members: &mut [Member<R>], broker: &Broker<R>) {
    let died = broker.crash_budget.is_over();
    let mut receivers = members.iter_mut().filter(|member| member.link.inbound().is_some());
    let first = receivers.next().expect("a receiver");
    let order = std::mem::take(&mut first.received);
    for other in receivers {
        assert_eq!(other.received, order, "two orders, or one has drained less");
    }
    for sender in members {
        let heard: Vec<u64> =
            order.iter().filter(|(id, _)| *id == sender.id).map(|(_, number)| *number).collect();
        assert_eq!(heard, (0..heard.len() as u64).collect::<Vec<_>>(), "from {}", sender.id);
        assert!(heard.len() as u64 <= sender.sent);
        let taken = sender.consumed();
        assert!(heard.len() >= taken, "{taken} given up, {} sent on", heard.len());
        if died && sender.sends > 0 {
            // What a client decides when another broker answers.
            assert_eq!(
                heard.len(),
                sender.decided(&broker.regions),
                "consumed, as its broker's memory says"
            );
        } else {
            assert_eq!(heard.len() as u64, sender.sends, "lost although everybody lives");
        }
    }
}

struct Broker<R: Runtime> {
    runtime: R,
    core: Core<Crashing<R::Memory>>,
    crash_budget: CrashBudget,
    /// The broadcast chain's pages as they are shared.
    regions: Vec<(u32, R::Memory)>,
    sides: Vec<BrokerSide<R>>,
}

/// Descriptors to a client and from it.
struct BrokerSide<R: Runtime> {
    client: ClientId,
    to_client: Descriptors<R::Memory>,
    from_client: Descriptors<R::Memory>,
}

impl<R: Runtime> Broker<R> {
    /// Returns a broker and clients that have joined. `None` if it died before.
    fn with_clients(
        runtime: &R,
        size: Size,
        crash_budget: &CrashBudget,
    ) -> Option<(Self, Vec<Member<R>>)> {
        let limits = limits(size.messages_per_page, size.pages);
        let mortal = |memory: &R::Memory| {
            Crashing::new(runtime.seen_by(memory, BROKER), crash_budget.clone())
        };
        let control = runtime.memory(control_bytes(size.roles.len()));
        let first = runtime.memory(limits.page_len());
        let mut core = Core::new(limits, mortal(&control), size.roles.len(), mortal(&first));
        let mut sides = Vec::new();
        let mut members = Vec::new();
        for &roles in size.roles {
            let reserved = core.reserve(roles)?;
            let (id, cursor) = (reserved.client, reserved.cursor);
            if crash_budget.is_over() {
                return None;
            }
            let seen = |memory: &R::Memory| runtime.seen_by(memory, id.0 as Who);
            let own = control_memory(runtime);
            let ours = Control::create(seen(&own), 1);
            let start = core.join(id, mortal(&own)).unwrap();
            while core.announcement(id).is_some() {
                core.mark_sent(id);
            }
            let peer = Control::check(seen(&control), cursor).unwrap();
            let page = runtime.memory(limits.page_len());
            let outbound = roles.has(Roles::SEND).then(|| {
                let sender = ChainWriter::new(id.0, limits, seen(&page));
                core.page_arrived(id, 0, mortal(&page)).unwrap();
                (sender, cursor)
            });
            let inbound = roles.has(Roles::RECEIVE).then(|| {
                let pages = vec![(0, seen(&first))];
                ChainReader::new(limits, 0, pages, start, ours.clone(), 0).unwrap()
            });
            let mut link = Link::new(ours, peer, outbound, inbound);
            link.mark_sent();
            let (to_client, from_client) = (Descriptors::default(), Descriptors::default());
            members.push(Member {
                runtime: runtime.clone(),
                link,
                id,
                cursor: (control.clone(), cursor_offset(cursor)),
                cursor_index: cursor,
                sends: if roles.has(Roles::SEND) { size.messages } else { 0 },
                sent: 0,
                tails: Vec::new(),
                pages: 1,
                to_broker: from_client.clone(),
                from_broker: to_client.clone(),
                received: Vec::new(),
            });
            sides.push(BrokerSide { client: id, to_client, from_client });
        }
        let (runtime, crash_budget) = (runtime.clone(), crash_budget.clone());
        Some((Broker { runtime, core, crash_budget, regions: vec![(0, first)], sides }, members))
    }

    /// Runs one cycle and its actions. Returns whether there was anything to do.
    fn cycle(&mut self) -> bool {
        let cycle = self.core.cycle();
        let mut worked = cycle.consumed > 0;
        if self.crash_budget.is_over() {
            return true;
        }
        if let Some(Blocked::NeedPage(len)) = cycle.blocked {
            let page = self.runtime.memory(len);
            let id = self.regions.len() as u32;
            self.regions.push((id, page.clone()));
            self.core.add_page(self.mortal(&page));
            worked = true;
        }
        for action in self.core.take_actions() {
            match action {
                // No process sleeps.
                Action::Ring(_) => {}
                Action::Drain(client) => {
                    worked = true;
                    self.drain(client);
                }
                Action::Remove(client, fault) => panic!("{client} is removed: {fault:?}"),
            }
        }
        for side in &self.sides {
            while let Some(announcement) = self.core.announcement(side.client) {
                if let Announcement::Page(id) = announcement {
                    side.to_client.send(id, self.regions[id as usize].1.clone());
                }
                self.core.mark_sent(side.client);
            }
        }
        worked
    }

    /// Returns a region as the broker sees it while it lives.
    fn mortal(&self, memory: &R::Memory) -> Crashing<R::Memory> {
        Crashing::new(self.runtime.seen_by(memory, BROKER), self.crash_budget.clone())
    }

    fn drain(&mut self, client: ClientId) {
        let side = self.sides.iter().find(|side| side.client == client).unwrap();
        while let Some((id, page)) = side.from_client.receive() {
            self.core.page_arrived(client, id, self.mortal(&page)).unwrap();
        }
        self.core.drained(client);
    }
}

/// A client.
struct Member<R: Runtime> {
    runtime: R,
    link: Link<R::Memory>,
    id: ClientId,
    /// Location of the broker's cursor in our chain.
    cursor: (R::Memory, usize),
    cursor_index: usize,
    sends: u64,
    sent: u64,
    /// The chain's tail after each message that was sent.
    tails: Vec<u64>,
    pages: u32,
    to_broker: Descriptors<R::Memory>,
    from_broker: Descriptors<R::Memory>,
    /// The sender of each received message, and its number there.
    received: Vec<(ClientId, u64)>,
}

impl<R: Runtime> Member<R> {
    /// Returns the number of messages that the dead broker has consumed, as its memory says. `pages`
    /// are those of its chain.
    fn decided(&self, pages: &[(u32, R::Memory)]) -> usize {
        let mut broker = BrokerPages::new(usize::MAX);
        for (id, page) in pages {
            broker.add(*id, self.runtime.seen_by(page, self.id.0 as Who)).unwrap();
        }
        broker.complete();
        let begin = PAGE_HEADER as u64;
        let chain = [begin, self.tails.last().copied().unwrap_or(begin)];
        let seen = Control::check(self.cursor.0.clone(), self.cursor_index).unwrap();
        let consumed = seen.consumed_until(self.cursor_index, self.id, chain, &broker);
        let consumed = consumed.expect("an honest broker").expect("a member");
        self.tails.iter().filter(|tail| **tail <= consumed).count()
    }

    /// Returns the number of messages that the broker has released.
    fn consumed(&self) -> usize {
        let (memory, at) = &self.cursor;
        let position = memory.load(*at, Site::CursorRead);
        self.tails.iter().filter(|tail| **tail <= position).count()
    }

    /// Sends and receives, if it can. Returns whether it could.
    fn step(&mut self) -> bool {
        let sent = self.sent < self.sends && self.send();
        if self.link.inbound().is_none() {
            return sent;
        }
        // A process that sees that a message was consumed also sees it in the broadcast chain.
        let taken = self.consumed();
        let mut received = self.receive();
        while self.received.iter().filter(|(id, _)| *id == self.id).count() < taken {
            assert!(self.receive(), "given up, and not sent on");
            received = true;
        }
        sent || received
    }

    fn send(&mut self) -> bool {
        match self.link.send(Envelope::tagged(Tag(self.sent as u32)), &payload(self.sent)) {
            Ok(_) => {
                self.sent += 1;
                self.tails.push(self.link.outbound().unwrap().tail());
                true
            }
            Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                let page = self.runtime.memory(len);
                self.to_broker.send(self.pages, page.clone());
                self.pages += 1;
                let seen = self.runtime.seen_by(&page, self.id.0 as Who);
                self.link.outbound_mut().unwrap().add_page(seen);
                self.link.mark_sent();
                true
            }
            Err(Refused::Blocked(_)) => false,
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Takes one step along the broadcast chain. Returns whether there was any.
    fn receive(&mut self) -> bool {
        let (event, _) = self.link.poll().expect("the broker is honest");
        let inbound = self.link.inbound_mut().unwrap();
        match event {
            Event::Empty => return false,
            Event::PageAdvanced => {}
            Event::Message(slot) => {
                let mut copy = [0; PAYLOAD];
                inbound.read(&slot, &mut copy);
                let envelope = inbound.envelope(&slot);
                let number = envelope.tag.0.into();
                assert_eq!(copy, payload(number), "torn or mixed up");
                inbound.advance(&slot);
                self.received.push((envelope.sender, number));
            }
            Event::Unknown(page) => {
                let mut found = false;
                while let Some((id, memory)) = self.from_broker.receive() {
                    found |= id == page;
                    let seen = self.runtime.seen_by(&memory, self.id.0 as Who);
                    inbound.add_page(id, seen).unwrap();
                }
                assert!(found, "page {page} was named before it was sent");
            }
        }
        true
    }
}

//! A whole bus: a broker and its clients, which join, send, receive, sleep, leave and die.
//!
//! The broker's [`Core`] and the clients' [`Endpoint`]s are production's; what is written here is
//! only what sockets and descriptors do in production: it puts packets into mailboxes.

use crate::scenario::{Mailbox, Note, Runtime, Who};
use llmp::broker::core::{Action, Core, TurnBudget};
use llmp::chain::{Blocked, Event, Notice, Receiver, Refused, Sender, Start};
use llmp::control::Control;
use llmp::endpoint::{Endpoint, Wanted};
use llmp::layout::{PAGE_HEADER, cursor_offset};
use llmp::memory::{Crashing, Lifeline, Memory};
use llmp::wire::Roles;
use llmp::{ClientId, Envelope, Limits, Tag};
use std::collections::BTreeMap;

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// Messages that it sends.
    pub sends: u64,
    /// After so many writes to shared memory it dies; `None`: it lives to the end.
    pub dies_after: Option<usize>,
    /// After its messages it hangs up instead of staying to the end.
    pub leaves: bool,
}

/// Writes of a client before it sends anybody its first page. It lives at least until it has
/// joined; the steps of joining die in tests with real processes.
const FIRST_PAGE_WRITES: usize = 2;

/// What a client has lived through.
#[derive(Debug)]
pub struct Life {
    pub id: ClientId,
    script: Script,
    /// Where it began to receive.
    start: Start,
    /// Messages that it had committed for sure.
    committed: u64,
    /// Whether it died.
    died: bool,
    /// Number on the bus, sender, number there.
    received: Vec<(u64, ClientId, u64)>,
}

enum ToBroker<R: Runtime> {
    Connect { control: R::Memory, mailbox: R::Mailbox<ToClient<R>> },
    Page { client: ClientId, id: u32, page: R::Memory },
    Forget { client: ClientId, id: u32 },
    Ring,
    HangUp(ClientId),
    Stop,
}

enum ToClient<R: Runtime> {
    Welcome { client: ClientId, cursor: usize, control: R::Memory },
    Page { id: u32, page: R::Memory },
    Forget { id: u32 },
    Start(Start),
    Ring,
    Bye,
}

/// Sizes around the boundaries of words, slots and pages.
fn payload(number: u64) -> Vec<u8> {
    let len = [8, 9, 15, 16, 17, 40, 64][number as usize % 7];
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(len, number as u8);
    payload
}

/// Small pages, and a budget that is soon used up.
pub fn limits() -> Limits {
    Limits::new(192, 64, Limits::least_budget(192, 64)).unwrap()
}

/// Runs a bus to its end and checks what everybody has seen. Returns the broker's statistics.
pub fn run<R: Runtime>(runtime: &R, scripts: &[Script]) -> llmp::chain::Stats {
    let to_broker = runtime.mailbox::<ToBroker<R>>();
    let broker = {
        let (runtime, inbox, clients) = (runtime.clone(), to_broker.clone(), scripts.len());
        runtime.clone().spawn(move || Brokering::new(&runtime, inbox, clients).run())
    };
    let done = runtime.mailbox::<()>();
    let clients: Vec<_> = scripts
        .iter()
        .map(|script| {
            let (runtime, script) = (runtime.clone(), *script);
            let (to_broker, done) = (to_broker.clone(), done.clone());
            runtime.clone().spawn(move || {
                let mut client = Clienting::connect(&runtime, script, to_broker);
                client.play();
                done.put(());
                client.live_on()
            })
        })
        .collect();
    for _ in scripts {
        done.wait();
    }
    to_broker.put(ToBroker::Stop);
    let lives: Vec<Life> = clients.into_iter().map(|join| join()).collect();
    let stats = broker();
    runtime.note(Note::Finished);
    check(&lives);
    stats
}

/// The oracle: what everybody must have seen. [P1 P2 P3 P4]
fn check(lives: &[Life]) {
    // One order: nobody disagrees about what a number on the bus was.
    let mut order: BTreeMap<u64, (ClientId, u64)> = BTreeMap::new();
    for life in lives {
        for (i, (number, sender, message)) in life.received.iter().enumerate() {
            assert_eq!(*number, life.start.message + i as u64, "a gap for client {}", life.id);
            let known = *order.entry(*number).or_insert((*sender, *message));
            assert_eq!(known, (*sender, *message), "two orders");
        }
    }
    let end = lives.iter().filter(|l| !l.script.leaves && !l.died);
    let ends: Vec<u64> = end.map(|l| l.start.message + l.received.len() as u64).collect();
    assert!(ends.windows(2).all(|w| w[0] == w[1]), "they don't end together: {ends:?}");
    // Per sender in order and once, from the first that a receiver could see.
    for life in lives {
        let mut next: BTreeMap<ClientId, u64> = BTreeMap::new();
        for (_, sender, message) in &life.received {
            let expected = next.entry(*sender).or_insert(*message);
            assert_eq!(message, expected, "from client {sender} to client {}", life.id);
            *expected += 1;
        }
    }
    for life in lives {
        let messages = order.values().filter(|(sender, _)| *sender == life.id);
        // Who was there from the beginning to the end has seen everything that was committed.
        let witness = lives.iter().any(|l| l.start.message == 0 && !l.script.leaves && !l.died);
        if witness {
            let most = life.committed + u64::from(life.died);
            let seen = messages.count() as u64;
            assert!((life.committed..=most).contains(&seen), "{seen} of {life:?}");
        }
    }
}

/// A client's mailbox, and where it starts until it has been told so.
type Link<R> = (<R as Runtime>::Mailbox<ToClient<R>>, Option<Start>);

/// The broker in a run that is written down. Clients are their ids.
const BROKER: Who = 0;

fn who(client: ClientId) -> Who {
    client.0 as Who
}

struct Brokering<R: Runtime> {
    runtime: R,
    core: Core<R::Memory>,
    /// The lengths of the pages that the broadcast chain has been given.
    pages: Vec<usize>,
    inbox: R::Mailbox<ToBroker<R>>,
    clients: BTreeMap<ClientId, Link<R>>,
    stopping: bool,
}

impl<R: Runtime> Brokering<R> {
    fn new(runtime: &R, inbox: R::Mailbox<ToBroker<R>>, clients: usize) -> Self {
        let control = runtime.seen_by(&runtime.memory(cursor_offset(clients)), BROKER);
        let first = runtime.seen_by(&runtime.memory(limits().page_len()), BROKER);
        runtime.note(Note::Born { who: BROKER });
        runtime.is_control(&control, BROKER);
        let mut core = Core::new(limits(), control, clients, first);
        core.set_turn_budget(TurnBudget { messages: 3, bytes: 200 });
        let runtime = runtime.clone();
        let pages = vec![limits().page_len()];
        Brokering { runtime, core, pages, inbox, clients: BTreeMap::new(), stopping: false }
    }

    fn run(mut self) -> llmp::chain::Stats {
        loop {
            while let Some(packet) = self.inbox.take() {
                self.on_packet(packet);
            }
            let worked = self.turn();
            self.tell();
            if !worked && self.core.park() {
                if self.stopping && !self.core.is_blocked() {
                    break;
                }
                let room = self.core.is_blocked();
                self.runtime.note(Note::Sleeps { by: BROKER, message: !room, room });
                let packet = self.inbox.wait();
                self.runtime.note(Note::Wakes { by: BROKER });
                self.core.unpark();
                self.on_packet(packet);
            }
        }
        for (mailbox, _) in self.clients.values() {
            mailbox.put(ToClient::Bye);
        }
        self.core.stats()
    }

    fn turn(&mut self) -> bool {
        let turn = self.core.turn();
        let mut worked = turn.taken > 0;
        if let Some(Blocked::NeedPage(len)) = turn.blocked {
            self.core.add_page(self.runtime.seen_by(&self.runtime.memory(len), BROKER));
            self.pages.push(len);
            let is_there = |id: &u32| self.core.page(*id).is_some();
            let pages = (0..).zip(self.pages.iter().copied()).filter(|(id, _)| is_there(id));
            self.runtime.note(Note::Pool { chain: BROKER, pages: pages.collect() });
            worked = true;
        }
        let actions = self.core.take_actions();
        // They are removed already, whatever is done before that is said.
        for action in &actions {
            if let Action::Remove(client, _) = action {
                self.runtime.note(Note::Removed { client: who(*client) });
            }
        }
        for action in actions {
            worked = true;
            match action {
                Action::Ring(client) => {
                    self.runtime.note(Note::Rings { by: BROKER, to: who(client) });
                    if let Some((mailbox, _)) = self.clients.get(&client) {
                        mailbox.put(ToClient::Ring);
                    }
                }
                Action::Drain(client) => {
                    while let Some(packet) = self.inbox.take() {
                        self.on_packet(packet);
                    }
                    self.core.drained(client);
                }
                Action::Remove(client, fault) => {
                    assert_eq!(fault, None, "client {client} is honest");
                    self.clients.remove(&client);
                }
            }
        }
        worked
    }

    fn tell(&mut self) {
        for (client, (mailbox, start)) in &mut self.clients {
            while let Some(notice) = self.core.notice(*client) {
                if let Notice::Page(page) = notice {
                    self.runtime.note(Note::Sent { chain: BROKER, page, to: who(*client) });
                }
                mailbox.put(match notice {
                    Notice::Page(id) => {
                        ToClient::Page { id, page: self.core.page(id).unwrap().clone() }
                    }
                    Notice::Forget(id) => ToClient::Forget { id },
                });
                self.core.told(*client);
            }
            if let Some(start) = start.take() {
                mailbox.put(ToClient::Start(start));
            }
        }
    }

    fn on_packet(&mut self, packet: ToBroker<R>) {
        match packet {
            ToBroker::Connect { control, mailbox } => {
                let roles = Roles::SEND.and(Roles::RECEIVE);
                let reserved = self.core.reserve(roles).expect("a place for everybody");
                let ours = self.core.control().clone();
                let (client, cursor) = (reserved.client, reserved.cursor);
                self.runtime.note(Note::Born { who: who(client) });
                self.runtime.note(Note::Cursor { slot: cursor, client: who(client) });
                self.runtime.is_control(&control, who(client));
                let control = self.runtime.seen_by(&control, BROKER);
                mailbox.put(ToClient::Welcome { client, cursor, control: ours });
                let start = self.core.join(client, control).unwrap();
                let Start { page, position, message: number } = start;
                let (chain, by) = (BROKER, who(client));
                self.runtime.note(Note::Admitted { chain, by, page, position, number });
                self.clients.insert(client, (mailbox, Some(start)));
            }
            ToBroker::Page { client, id, page } => {
                if id == 0 {
                    let (chain, page, position) = (who(client), 0, PAGE_HEADER as u64);
                    let start = Note::Admitted { chain, by: BROKER, page, position, number: 0 };
                    self.runtime.note(start);
                }
                let page = self.runtime.seen_by(&page, BROKER);
                self.core.page_arrived(client, id, page).unwrap();
            }
            ToBroker::Forget { client, id } => self.core.page_forgotten(client, id).unwrap(),
            ToBroker::Ring => {}
            ToBroker::HangUp(client) => {
                self.clients.remove(&client);
                self.runtime.note(Note::Struck { who: who(client) });
                self.core.hung_up(client);
            }
            ToBroker::Stop => self.stopping = true,
        }
    }
}

struct Clienting<R: Runtime> {
    runtime: R,
    to_broker: R::Mailbox<ToBroker<R>>,
    mailbox: R::Mailbox<ToClient<R>>,
    lifeline: Lifeline,
    endpoint: Endpoint<Crashing<R::Memory>>,
    /// Our pages as they are handed on.
    regions: Vec<(u32, R::Memory)>,
    next_page: u32,
    closed: bool,
    life: Life,
}

impl<R: Runtime> Clienting<R> {
    fn connect(runtime: &R, script: Script, to_broker: R::Mailbox<ToBroker<R>>) -> Self {
        let mailbox = runtime.mailbox::<ToClient<R>>();
        let memory = crate::scenario::chain::control_memory(runtime);
        Control::create(memory.clone(), 1);
        to_broker.put(ToBroker::Connect { control: memory.clone(), mailbox: mailbox.clone() });
        let ToClient::Welcome { client, cursor, control } = mailbox.wait() else {
            panic!("no welcome");
        };
        let [memory, control] = [memory, control].map(|m| runtime.seen_by(&m, who(client)));
        let first = runtime.seen_by(&runtime.memory(limits().page_len()), who(client));
        let lifeline = script
            .dies_after
            .map_or(Lifeline::endless(), |writes| Lifeline::ends_after(FIRST_PAGE_WRITES + writes));
        let mortal = Crashing::new(first.clone(), lifeline.clone());
        let sender = Sender::new(client.0, limits(), mortal);
        assert_eq!(lifeline.made(), FIRST_PAGE_WRITES);
        to_broker.put(ToBroker::Page { client, id: 0, page: first.clone() });
        let mut pages = Vec::new();
        let start = loop {
            match mailbox.wait() {
                ToClient::Page { id, page } => {
                    let page = runtime.seen_by(&page, who(client));
                    pages.push((id, Crashing::new(page, lifeline.clone())));
                }
                ToClient::Start(start) => break start,
                ToClient::Ring => {}
                _ => panic!("unexpected before the start"),
            }
        };
        let own = Control::check(Crashing::new(memory, lifeline.clone()), 0).unwrap();
        let peer = Control::check(Crashing::new(control, lifeline.clone()), cursor).unwrap();
        let inbound = Receiver::new(limits(), 0, pages, start, own.clone(), 0).unwrap();
        let mut endpoint = Endpoint::new(own, peer, Some((sender, cursor)), Some(inbound));
        endpoint.told();
        let life = Life { id: client, script, start, committed: 0, died: false, received: vec![] };
        Clienting {
            runtime: runtime.clone(),
            to_broker,
            mailbox,
            lifeline,
            endpoint,
            regions: vec![(0, first)],
            next_page: 1,
            closed: false,
            life,
        }
    }

    /// Sends its messages, taking in what comes meanwhile.
    fn play(&mut self) {
        while self.life.committed < self.life.script.sends && !self.dead() {
            let number = self.life.committed;
            let envelope = Envelope::tagged(Tag(number as u32));
            match self.endpoint.send(envelope, &payload(number)) {
                Ok(must_ring) => {
                    if self.dead() {
                        break;
                    }
                    self.life.committed += 1;
                    self.ring(must_ring);
                }
                Err(Refused::Blocked(Blocked::NeedPage(len))) => self.add_page(len),
                Err(Refused::Blocked(_)) => {
                    let room =
                        Some(Sender::<R::Memory>::room_for(&envelope, payload(number).len()));
                    self.take_in();
                    self.sleep(Wanted { message: true, room, taken: false });
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        if self.dead() || self.life.script.leaves {
            self.life.died = self.dead();
            self.runtime.note(Note::Ended { who: who(self.life.id) });
            self.to_broker.put(ToBroker::HangUp(self.life.id));
        }
    }

    /// Receives to the end, if it is still there.
    fn live_on(mut self) -> Life {
        if !self.life.died && !self.life.script.leaves {
            while !self.closed && !self.dead() {
                self.take_in();
                self.sleep(Wanted { message: true, ..Wanted::default() });
            }
            self.take_in();
            if self.dead() {
                self.life.died = true;
                self.runtime.note(Note::Ended { who: who(self.life.id) });
                self.to_broker.put(ToBroker::HangUp(self.life.id));
            }
        }
        self.life
    }

    fn dead(&self) -> bool {
        self.lifeline.is_over()
    }

    fn ring(&self, must_ring: bool) {
        if must_ring && !self.dead() {
            self.runtime.note(Note::Rings { by: who(self.life.id), to: BROKER });
            self.to_broker.put(ToBroker::Ring);
        }
    }

    fn add_page(&mut self, len: usize) {
        let page = self.runtime.seen_by(&self.runtime.memory(len), who(self.life.id));
        self.regions.push((self.next_page, page.clone()));
        self.next_page += 1;
        let mortal = Crashing::new(page, self.lifeline.clone());
        let outbound = self.endpoint.outbound_mut().unwrap();
        outbound.add_page(mortal);
        let client = self.life.id;
        let there = self.regions.iter().filter(|(id, _)| outbound.page(*id).is_some());
        let pages = there.map(|(id, page)| (*id, page.region_len())).collect();
        self.runtime.note(Note::Pool { chain: who(client), pages });
        while let Some(notice) = self.endpoint.notice() {
            if !self.dead() {
                if let Notice::Page(page) = notice {
                    self.runtime.note(Note::Sent { chain: who(client), page, to: BROKER });
                }
                self.to_broker.put(match notice {
                    Notice::Page(id) => {
                        let region = self.regions.iter().find(|(known, _)| *known == id);
                        ToBroker::Page { client, id, page: region.unwrap().1.clone() }
                    }
                    Notice::Forget(id) => ToBroker::Forget { client, id },
                });
            }
            self.endpoint.told();
        }
    }

    /// Takes everything that has come.
    fn take_in(&mut self) {
        while !self.dead() {
            let (event, must_ring) = self.endpoint.poll().expect("the broker is honest");
            self.ring(must_ring);
            match event {
                Event::Empty => return,
                Event::Turned => {}
                Event::Message(slot) => {
                    let inbound = self.endpoint.inbound_mut().unwrap();
                    let envelope = inbound.envelope(&slot);
                    let mut copy = vec![0; slot.payload_len()];
                    inbound.read(&slot, &mut copy);
                    let number = u64::from(envelope.tag.0);
                    if !self.lifeline.is_over() {
                        assert_eq!(copy, payload(number), "torn or mixed up");
                        let place = inbound.next_message();
                        self.life.received.push((place, envelope.sender, number));
                    }
                    inbound.advance(&slot);
                }
                Event::Unknown(id) => {
                    while let Some(packet) = self.mailbox.take() {
                        self.on_packet(packet);
                    }
                    let (event, must_ring) = self.endpoint.poll().unwrap();
                    assert_ne!(event, Event::Unknown(id), "named before it was sent");
                    self.ring(must_ring);
                }
            }
        }
    }

    fn sleep(&mut self, wanted: Wanted) {
        while let Some(packet) = self.mailbox.take() {
            self.on_packet(packet);
        }
        let (may_sleep, must_ring) = self.endpoint.park(wanted);
        self.ring(must_ring);
        if may_sleep && !self.dead() && !self.closed {
            let (by, Wanted { message, room, .. }) = (who(self.life.id), wanted);
            self.runtime.note(Note::Sleeps { by, message, room: room.is_some() });
            let packet = self.mailbox.wait();
            self.runtime.note(Note::Wakes { by });
            self.on_packet(packet);
        }
        self.endpoint.unpark();
    }

    fn on_packet(&mut self, packet: ToClient<R>) {
        let client = who(self.life.id);
        let inbound = self.endpoint.inbound_mut().unwrap();
        match packet {
            ToClient::Page { id, page } => {
                let page = self.runtime.seen_by(&page, client);
                inbound.add_page(id, Crashing::new(page, self.lifeline.clone())).unwrap();
            }
            ToClient::Forget { id } => inbound.forget_page(id).unwrap(),
            ToClient::Ring => {}
            ToClient::Bye => self.closed = true,
            ToClient::Welcome { .. } | ToClient::Start(_) => panic!("unexpected after the start"),
        }
    }
}

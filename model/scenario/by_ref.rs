//! Messages by reference: a client that sends, the broker that forwards without a copy, and a
//! client that receives and reads in the sender's pages. Each of the three may sleep and die.
//!
//! The setup sends, copies and receives two messages, one in each of the sender's pages. Then the
//! broker knows the pages and forwards by reference. The scenario proper follows.

pub mod due;
pub mod hooked;
pub mod place;

use super::chain::{PAYLOAD, control_memory, limits, payload};
use super::{Descriptors, Mailbox, Runtime, Who};
use crate::scenario::doubles::{CrashBudget, Crashing};
use llmp::core::broker::{Action, Core};
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::{CONTROL_CONSUMED, control_bytes, cursor_offset};
use llmp::core::link::{Interest, Link};
use llmp::core::memory::Memory;
use llmp::core::order::Site;
use llmp::core::wire::Roles;
use llmp::{ClientId, Envelope, Limits, Tag};

/// The processes. A client's number is its id.
const BROKER: Who = 0;
const SENDER: Who = 1;
const RECEIVER: Who = 2;

/// Messages that the setup copies. Each fills one of the sender's pages.
const COPIED: u64 = 2;

/// The size of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Messages that are forwarded by reference before the other processes run.
    pub by_ref: u64,
    /// Messages in all.
    pub messages: u64,
    /// Tries of the sender, cycles of the broker and steps of the receiver while the others run.
    pub tries: usize,
    pub cycles: usize,
    pub steps: usize,
}

/// The crash budget of each process.
#[derive(Clone)]
pub struct Lives {
    pub sender: CrashBudget,
    pub broker: CrashBudget,
    pub receiver: CrashBudget,
    /// Whether the broker must check if a client is gone.
    pub clients_die: bool,
}

impl Lives {
    pub fn endless() -> Self {
        let endless = CrashBudget::endless;
        Lives { sender: endless(), broker: endless(), receiver: endless(), clients_die: false }
    }
}

/// What comes over a connection in addition to descriptors.
enum Bell {
    Ring,
    /// Nothing more will come.
    Stop,
}

/// The broker's end of a connection.
struct BrokerSide<R: Runtime> {
    client: ClientId,
    bell: R::Mailbox<Bell>,
    /// Pages to the client; `None`: it must forget this one.
    to_client: Descriptors<Option<R::Memory>>,
    from_client: Descriptors<R::Memory>,
}

struct Broker<R: Runtime> {
    runtime: R,
    core: Core<Crashing<R::Memory>>,
    /// Its control region and the first page of the broadcast chain, as they are shared.
    control: R::Memory,
    first: R::Memory,
    life: CrashBudget,
    bell: R::Mailbox<Bell>,
    sides: Vec<BrokerSide<R>>,
}

struct Client<R: Runtime> {
    runtime: R,
    who: Who,
    link: Link<Crashing<R::Memory>>,
    life: CrashBudget,
    bell: R::Mailbox<Bell>,
    brokers_bell: R::Mailbox<Bell>,
    from_broker: Descriptors<Option<R::Memory>>,
    to_broker: Descriptors<R::Memory>,
    /// Number of the next message.
    next: u64,
    pages: u32,
    /// Location of the broker's cursor in our chain, and our tail after each message.
    cursor: (R::Memory, usize),
    tails: Vec<u64>,
}

/// Returns the limits of the broadcast chain, whose first page has room for all messages.
fn broadcast_limits() -> Limits {
    let longest = limits(1, 2).max_message_len();
    Limits::new(448, longest, 896).unwrap()
}

/// A sender, a broker and a receiver. The stacks of loom's threads are too short for them.
type Three<R> = (Box<Client<R>>, Box<Broker<R>>, Box<Client<R>>);

/// Connects the three. Returns `None` if one died before.
fn connect<R: Runtime>(runtime: &R, lives: &Lives, receives: Roles) -> Option<Three<R>> {
    let mut broker = Broker::new(runtime, &lives.broker);
    let sender = broker.admit(SENDER, &lives.sender, Roles::SEND)?;
    broker.core.may_share(ClientId(SENDER.into()), 0);
    let receiver = broker.admit(RECEIVER, &lives.receiver, receives)?;
    Some((sender, broker, receiver))
}

/// Connects the three and forwards messages by reference that no receiver has read. Returns `None`
/// if one died before.
fn refer<R: Runtime>(runtime: &R, referred: u64, lives: &Lives) -> Option<Three<R>> {
    refer_to(runtime, referred, lives, Roles::RECEIVE)
}

/// Like [`refer`], with a receiver of these roles.
fn refer_to<R: Runtime>(
    runtime: &R,
    referred: u64,
    lives: &Lives,
    receives: Roles,
) -> Option<Three<R>> {
    let (mut sender, mut broker, mut receiver) = connect(runtime, lives, receives)?;
    let is_over = || [&lives.sender, &lives.broker, &lives.receiver].iter().any(|l| l.is_over());
    while sender.next < COPIED + referred && !is_over() {
        sender.send();
        while broker.cycle() {}
        if sender.next <= COPIED {
            while receiver.step() {}
            receiver.release();
        }
    }
    if is_over() {
        return None;
    }
    assert_eq!(broker.core.stats().by_ref, referred);
    Some((sender, broker, receiver))
}

impl<R: Runtime> Broker<R> {
    /// Returns a broker without clients, with room for two at a time.
    fn new(runtime: &R, life: &CrashBudget) -> Box<Self> {
        let limits = broadcast_limits();
        let seen =
            |memory: &R::Memory| Crashing::new(runtime.seen_by(memory, BROKER), life.clone());
        let control = runtime.memory(control_bytes(2));
        let first = runtime.memory(limits.page_len());
        let mut core = Core::new(limits, seen(&control), 2, seen(&first));
        core.set_zero_copy_threshold(1);
        let (runtime, life) = (runtime.clone(), life.clone());
        let bell = runtime.mailbox::<Bell>();
        Box::new(Broker { runtime, core, control, first, life, bell, sides: Vec::new() })
    }

    /// Admits a client, which sends or receives. Returns `None` if it or the broker died before.
    fn admit(&mut self, who: Who, life: &CrashBudget, roles: Roles) -> Option<Box<Client<R>>> {
        let runtime = self.runtime.clone();
        let by_client =
            |memory: &R::Memory| Crashing::new(runtime.seen_by(memory, who), life.clone());
        let memory = control_memory(&runtime);
        let own = Control::create(by_client(&memory), 1);
        let page = runtime.memory(self::limits(1, 2).page_len());
        let sender = ChainWriter::new(who.into(), self::limits(1, 2), by_client(&page));
        let reserved = self.core.reserve(roles)?;
        if life.is_over() || self.life.is_over() {
            return None;
        }
        let client = reserved.client;
        assert_eq!(client, ClientId(who.into()));
        let start = self.core.join(client, self.seen(&memory)).unwrap();
        while self.core.announcement(client).is_some() {
            self.core.mark_sent(client);
        }
        let peer = Control::check(by_client(&self.control), reserved.cursor).unwrap();
        let outbound = roles.has(Roles::SEND).then(|| {
            let page = self.seen(&page);
            self.core.page_arrived(client, 0, page).unwrap();
            (sender, reserved.cursor)
        });
        let inbound = roles.has(Roles::RECEIVE).then(|| {
            let pages = vec![(0, by_client(&self.first))];
            let limits = broadcast_limits();
            let receiver = ChainReader::new(limits, 0, pages, start, own.clone(), 0).unwrap();
            receiver.in_place(peer.clone(), reserved.cursor, client.0)
        });
        let mut link = Link::new(own, peer, outbound, inbound);
        link.mark_sent();
        let side: BrokerSide<R> = BrokerSide {
            client,
            bell: runtime.mailbox::<Bell>(),
            to_client: Descriptors::default(),
            from_client: Descriptors::default(),
        };
        let client = Box::new(Client {
            runtime: runtime.clone(),
            who,
            link,
            life: life.clone(),
            bell: side.bell.clone(),
            brokers_bell: self.bell.clone(),
            from_broker: side.to_client.clone(),
            to_broker: side.from_client.clone(),
            next: 0,
            pages: 1,
            cursor: (self.control.clone(), cursor_offset(reserved.cursor)),
            tails: Vec::new(),
        });
        self.sides.push(side);
        Some(client)
    }

    /// Returns a region as the broker sees it while it lives.
    fn seen(&self, memory: &R::Memory) -> Crashing<R::Memory> {
        Crashing::new(self.runtime.seen_by(memory, BROKER), self.life.clone())
    }

    /// Runs one cycle and its actions. Returns whether there was anything to do.
    fn cycle(&mut self) -> bool {
        if self.life.is_over() {
            return false;
        }
        let cycle = self.core.cycle();
        if self.life.is_over() {
            return false;
        }
        assert_eq!(cycle.blocked, None, "there is room for all");
        let mut worked = cycle.consumed > 0;
        for action in self.core.take_actions() {
            worked = true;
            match action {
                Action::Ring(client) => self.side(client).bell.put(Bell::Ring),
                Action::Drain(client) => self.drain(client),
                Action::Remove(_, fault) => assert_eq!(fault, None, "everybody is honest"),
            }
        }
        self.announce();
        worked
    }

    fn side(&self, client: ClientId) -> &BrokerSide<R> {
        self.sides.iter().find(|side| side.client == client).unwrap()
    }

    fn drain(&mut self, client: ClientId) {
        while let Some((id, page)) = self.side(client).from_client.receive() {
            let page = self.seen(&page);
            self.core.page_arrived(client, id, page).unwrap();
            self.core.may_share(client, id);
        }
        self.core.drained(client);
    }

    fn announce(&mut self) {
        for side in &self.sides {
            while let Some(announcement) = self.core.announcement(side.client) {
                match announcement {
                    Announcement::Page(id) => {
                        let page = self.core.page(id).expect("an announced page");
                        side.to_client.send(id, Some(page.memory().clone()));
                    }
                    Announcement::Forget(id) => side.to_client.send(id, None),
                }
                self.core.mark_sent(side.client);
            }
        }
    }

    /// The kernel reports that the client is gone.
    fn hung_up(&mut self, who: Who) {
        if !self.life.is_over() {
            let client = ClientId(who.into());
            self.drain(client);
            self.core.hung_up(client);
        }
    }

    /// Runs cycles, and sleeps while there is nothing to do, until it is stopped.
    fn serve(&mut self) {
        let mut stopping = false;
        loop {
            if self.cycle() {
                continue;
            }
            if stopping {
                return;
            }
            if self.core.park() {
                stopping = matches!(self.bell.wait(), Bell::Stop);
                self.core.unpark();
            }
        }
    }
}

impl<R: Runtime> Client<R> {
    /// Sends the next message without a ring. Returns whether there was room.
    fn send(&mut self) -> bool {
        if self.life.is_over() {
            return false;
        }
        loop {
            let (envelope, payload) = (Envelope::tagged(Tag(self.next as u32)), payload(self.next));
            match self.link.outbound_mut().unwrap().send(envelope, &payload) {
                _ if self.life.is_over() => return false,
                Ok(()) => break,
                Err(refused) => {
                    if !self.makes_room(&refused) {
                        return false;
                    }
                }
            }
        }
        self.has_sent();
        true
    }

    /// Sends until `messages` are sent, rings sleeping peers, and sleeps while there is no room.
    fn send_until(&mut self, messages: u64) {
        while self.next < messages {
            let (envelope, payload) = (Envelope::tagged(Tag(self.next as u32)), payload(self.next));
            match self.link.send(envelope, &payload) {
                Ok(must_ring) => {
                    self.has_sent();
                    self.ring(must_ring);
                }
                Err(refused) => {
                    if !self.makes_room(&refused) {
                        let room =
                            Some(ChainWriter::<R::Memory>::room_for(&envelope, payload.len()));
                        self.sleep(Interest { room, ..Interest::default() });
                    }
                }
            }
        }
    }

    fn has_sent(&mut self) {
        self.next += 1;
        self.tails.push(self.link.outbound().unwrap().tail());
    }

    /// Creates a page if one was missing.
    fn makes_room(&mut self, refused: &Refused) -> bool {
        let len = match refused {
            Refused::Blocked(Blocked::NeedPage(len)) => *len,
            Refused::Blocked(_) => return false,
            Refused::TooLong { .. } => panic!("{refused:?}"),
        };
        let page = self.runtime.memory(len);
        let seen = self.runtime.seen_by(&page, self.who);
        let mortal = Crashing::new(seen, self.life.clone());
        self.link.outbound_mut().unwrap().add_page(mortal);
        if !self.life.is_over() {
            self.to_broker.send(self.pages, page);
        }
        // The announcement that the broker must forget a page may come later.
        while self.link.announcement().is_some() {
            self.link.mark_sent();
        }
        self.pages += 1;
        true
    }

    /// Waits until the broker has consumed everything.
    fn flush(&mut self) {
        let interest = Interest { consumed: true, ..Interest::default() };
        while !self.link.is_ready(interest) {
            self.sleep(interest);
        }
    }

    fn ring(&self, must_ring: bool) {
        if must_ring {
            self.brokers_bell.put(Bell::Ring);
        }
    }

    fn sleep(&mut self, interest: Interest) {
        let (may_sleep, must_ring) = self.link.park(interest);
        self.ring(must_ring);
        if may_sleep {
            self.bell.wait();
            self.link.unpark();
        }
    }

    /// Takes one step along the broadcast chain. Returns whether there was any.
    fn step(&mut self) -> bool {
        if self.life.is_over() {
            return false;
        }
        let event = self.link.inbound_mut().unwrap().poll().expect("the broker is honest");
        !self.life.is_over() && self.take(event)
    }

    /// Like [`step`](Client::step), with the releases and rings of a client that never sleeps.
    fn poll(&mut self) -> bool {
        let (event, must_ring) = self.link.poll().expect("the broker is honest");
        self.ring(must_ring);
        self.take(event)
    }

    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Empty => return false,
            Event::PageAdvanced => {}
            Event::Message(slot) => {
                let inbound = self.link.inbound_mut().unwrap();
                let mut copy = [0; PAYLOAD];
                inbound.read(&slot, &mut copy);
                assert_eq!(copy, payload(self.next), "torn, or mixed up");
                let envelope = inbound.envelope(&slot);
                assert_eq!(envelope.tag, Tag(self.next as u32));
                assert_eq!(envelope.sender, ClientId(SENDER.into()));
                inbound.advance(&slot);
                self.next += 1;
            }
            Event::Unknown(id) => {
                self.take_in();
                let event = self.link.inbound_mut().unwrap().poll().unwrap();
                assert_ne!(event, Event::Unknown(id), "named before it was sent");
            }
        }
        true
    }

    /// Reads everything that the broker has sent.
    fn take_in(&mut self) {
        while let Some((id, page)) = self.from_broker.receive() {
            let inbound = self.link.inbound_mut().unwrap();
            match page {
                Some(page) => {
                    let seen = self.runtime.seen_by(&page, self.who);
                    inbound.add_page(id, Crashing::new(seen, self.life.clone())).unwrap();
                }
                None => inbound.forget_page(id).unwrap(),
            }
        }
    }

    fn release(&mut self) {
        self.link.inbound_mut().unwrap().release();
    }

    /// Reads the messages that were sent before the run, until it finds that it was removed.
    fn read_on(&mut self, in_place: bool) {
        // So that the mistake of checking too early can occur with the first message.
        if !self.link.inbound().unwrap().is_whole() {
            return;
        }
        for _ in 0..COPIED {
            let inbound = self.link.inbound_mut().unwrap();
            let Ok(Event::Message(slot)) = inbound.poll() else { panic!("it was sent before") };
            if in_place && !inbound.is_member() {
                return;
            }
            let mut copy = [0; PAYLOAD];
            inbound.read(&slot, &mut copy);
            if !in_place && !inbound.is_whole() {
                return;
            }
            assert_eq!(copy, payload(self.next), "torn, or mixed up");
            inbound.advance(&slot);
            self.next += 1;
        }
    }

    /// Receives until `messages` are received, and sleeps while there is nothing.
    fn receive_until(&mut self, messages: u64) {
        while self.next < messages {
            if !self.step() {
                self.sleep(Interest { message: true, ..Interest::default() });
            }
        }
    }

    /// Returns the number of our messages before the position in the word at offset `at` from our
    /// cursor: the broker's cursor or its consumed position.
    fn consumed(&self, at: usize, site: Site) -> u64 {
        let (memory, cursor) = &self.cursor;
        let position = memory.load(cursor + at, site);
        self.tails.iter().filter(|tail| **tail <= position).count() as u64
    }
}

/// Runs all three concurrently. One of them may die, and then the kernel reports it. What was
/// committed arrives. What receivers read is not overwritten meanwhile. A surviving process
/// continues, and its pages are released. Returns whether one died. [P3 P4 P5 P7 P8 P9]
pub fn by_reference<R: Runtime>(runtime: &R, size: Size, lives: &Lives) -> bool {
    refer(runtime, size.by_ref, lives).is_none_or(|three| run(runtime, three, size, lives))
}

/// Runs the three concurrently, see [`by_reference`].
fn run<R: Runtime>(runtime: &R, three: Three<R>, size: Size, lives: &Lives) -> bool {
    let (mut sender, mut broker, mut receiver) = three;
    // The kernel's part: the processes that have hung up.
    let hang_ups = runtime.mailbox::<Who>();
    let hang_up = {
        let hang_ups = hang_ups.clone();
        move |client: &Client<R>| {
            if client.life.is_over() {
                hang_ups.put(client.who);
            }
        }
    };
    let sends = {
        let hang_up = hang_up.clone();
        runtime.spawn(move || {
            for _ in 0..size.tries {
                if sender.next < size.messages {
                    sender.send();
                }
            }
            hang_up(&sender);
            sender
        })
    };
    let receives = runtime.spawn(move || {
        for _ in 0..size.steps {
            receiver.step();
            receiver.release();
        }
        hang_up(&receiver);
        receiver
    });
    let mut gone = None;
    for _ in 0..size.cycles {
        if lives.clients_die && gone.is_none() {
            gone = hang_ups.take();
            gone.into_iter().for_each(|who| broker.hung_up(who));
        }
        broker.cycle();
    }
    let (mut sender, mut receiver) = (sends(), receives());
    loop {
        // In this order: the broker's release is room for the sender.
        let mut worked = broker.cycle();
        worked |= sender.next < size.messages && sender.send();
        while receiver.step() {
            worked = true;
        }
        receiver.release();
        if let Some(dead) = [&sender, &receiver].into_iter().find(|client| client.life.is_over())
            && gone.is_none()
        {
            gone = Some(dead.who);
            broker.hung_up(dead.who);
            worked = true;
        }
        if !worked {
            break;
        }
    }
    end(&mut sender, &mut broker, &mut receiver, size.messages)
}

/// Checks the final state. Returns whether a process has died.
fn end<R: Runtime>(
    sender: &mut Client<R>,
    broker: &mut Broker<R>,
    receiver: &mut Client<R>,
    messages: u64,
) -> bool {
    let (sent, received) = (sender.next, receiver.next);
    if broker.life.is_over() {
        let released = sender.consumed(0, Site::CursorRead);
        let taken = sender.consumed(CONTROL_CONSUMED, Site::ConsumedRead).max(released);
        assert!((taken..=sent).contains(&received), "{taken} taken, {received} received");
        return true;
    }
    if sender.life.is_over() {
        // Its last write may have published one more message.
        assert!((sent..=sent + 1).contains(&received), "{sent} sent, {received} received");
    } else {
        assert_eq!(sent, messages, "some messages are not released");
    }
    if receiver.life.is_over() {
        return true;
    }
    if !sender.life.is_over() {
        assert_eq!(received, messages, "a message is lost");
        assert_eq!(sender.consumed(0, Site::CursorRead), messages, "it is not given up");
        return false;
    }
    // No page of the dead process remains mapped in a surviving one.
    receiver.take_in();
    let pages = receiver.link.inbound().unwrap().pages_len();
    assert_eq!(pages, broadcast_limits().page_len(), "pages of the dead");
    true
}

/// A receiver that copies is removed and reads on in the sender's pages. The messages that it takes
/// are whole. [P8]
pub fn removed_copies<R: Runtime>(runtime: &R) {
    removed(&runtime.racing(true), Roles::RECEIVE);
}

/// A receiver that reads in place is removed and reads on in the sender's pages, which are not
/// reused. [P8]
pub fn removed_in_place<R: Runtime>(runtime: &R) {
    removed(&runtime.racing(false), Roles::RECEIVE.and(Roles::IN_PLACE));
}

fn removed<R: Runtime>(runtime: &R, roles: Roles) {
    let lives = Lives::endless();
    let (mut sender, mut broker, mut receiver) = refer_to(runtime, COPIED, &lives, roles).unwrap();
    let in_place = roles.has(Roles::IN_PLACE);
    receiver.take_in();
    let reads = runtime.spawn(move || receiver.read_on(in_place));
    let sends = runtime.spawn(move || {
        for _ in 0..3 {
            sender.send();
        }
    });
    broker.core.hung_up(ClientId(RECEIVER.into()));
    broker.cycle();
    sends();
    reads();
}

/// The broker sleeps until a message by reference is released, the sender until its page is, the
/// receiver until there is a message. The receiver is one thread, the others are one or two more.
/// [P9 P10]
pub fn ref_asleep<R: Runtime>(runtime: &R, messages: u64) {
    let lives = Lives::endless();
    let (mut sender, mut broker, mut receiver) = refer(runtime, COPIED, &lives).unwrap();
    let receives = runtime.spawn(move || receiver.receive_until(messages));
    let sends = runtime.spawn(move || {
        sender.send_until(messages);
        sender.brokers_bell.put(Bell::Stop);
    });
    broker.serve();
    sends();
    receives();
}

/// The same with a sender that never sleeps, in the broker's thread. Only a release can wake that
/// thread. [P9 P10]
pub fn broker_asleep<R: Runtime>(runtime: &R, messages: u64) {
    let lives = Lives::endless();
    let (mut sender, mut broker, mut receiver) = refer(runtime, COPIED, &lives).unwrap();
    let receives = runtime.spawn(move || receiver.receive_until(messages));
    while sender.next < messages {
        // In this order: the broker's release is room for the sender.
        let worked = broker.cycle();
        if !sender.send() && !worked && broker.core.park() {
            broker.bell.wait();
            broker.core.unpark();
        }
    }
    broker.cycle();
    receives();
}

/// A flush ends while the flushed messages are still referenced, because no receiver has read them.
/// A process that learns of the flush finds them. [P3 P10]
pub fn flush<R: Runtime>(runtime: &R) {
    let (mut sender, mut broker, mut receiver) = refer(runtime, 1, &Lives::endless()).unwrap();
    let flushes = runtime.spawn(move || {
        let messages = sender.next + 1;
        sender.send_until(messages);
        sender.flush();
        assert!(sender.consumed(0, Site::CursorRead) < messages - 1, "given up, and still read");
        while receiver.next < messages {
            assert!(receiver.step(), "taken, and not sent on");
        }
        sender.brokers_bell.put(Bell::Stop);
    });
    broker.serve();
    flushes();
}

//! A client: production's [`Link`], with mailboxes for sockets.

use super::{BROKER, Dead, Life, Script, ToBroker, ToClient, Token, payload, who};
use crate::scenario::doubles::{CrashBudget, Crashing};
use crate::scenario::{Mailbox, Note, Runtime};
use llmp::core::chain::{Announcement, Blocked, ChainWriter, Event, Refused};
use llmp::core::handshake::{Attach, Connecting};
use llmp::core::layout::{CONTROL_CONSUMED, SLOT_ALIGN, cursor_offset};
use llmp::core::link::{Interest, Link};
use llmp::core::memory::Memory;
use llmp::core::order::Site;
use llmp::core::wire::{Packet, Roles};
use llmp::{ClientId, Envelope, Tag};

pub(super) struct Clienting<R: Runtime> {
    runtime: R,
    token: Token,
    to_broker: R::Mailbox<ToBroker<R>>,
    mailbox: R::Mailbox<ToClient<R>>,
    crash_budget: CrashBudget,
    link: Link<Crashing<R::Memory>>,
    /// Our pages as they are shared.
    regions: Vec<(u32, R::Memory)>,
    next_page: u32,
    /// Location of the broker's cursor in our chain, and our tail after each message.
    cursor: (R::Memory, usize),
    tails: Vec<u64>,
    /// The broker has sent `Bye` or is dead.
    closed: bool,
    life: Life,
}

impl<R: Runtime> Clienting<R> {
    /// Joins, or returns which process died meanwhile.
    pub fn connect(
        runtime: &R,
        script: Script,
        token: Token,
        to_broker: R::Mailbox<ToBroker<R>>,
    ) -> Result<Self, Dead> {
        let crash_budget =
            script.dies_after.map_or(CrashBudget::endless(), CrashBudget::ends_after);
        if crash_budget.is_over() {
            return Err(Dead::Client);
        }
        let mailbox = runtime.mailbox::<ToClient<R>>();
        let put = |packet, region| to_broker.put(ToBroker::Packet { token, packet, region });
        to_broker.put(ToBroker::Connect { token, mailbox: mailbox.clone() });
        // A model's regions have any length.
        let connecting = Connecting::new(Roles::SEND.and(Roles::RECEIVE), SLOT_ALIGN);
        put(connecting.hello(), None);
        let (packet, control) = match mailbox.wait() {
            ToClient::Packet(packet, region) => (packet, region.expect("a control region")),
            ToClient::HangUp => return Err(Dead::Broker),
        };
        let Packet::Welcome { client, cursor, .. } = packet else { panic!("no welcome") };
        let (client, cursor) = (ClientId(client), cursor as usize);
        // From here on it has a name in a recorded run.
        let mortal = |memory: &R::Memory| {
            Crashing::new(runtime.seen_by(memory, who(client)), crash_budget.clone())
        };
        let welcomed = connecting.take(packet, |_| Ok(mortal(&control))).unwrap();
        let memory = crate::scenario::chain::control_memory(runtime);
        let mut joining = welcomed.join(mortal(&memory));
        if crash_budget.is_over() {
            to_broker.put(ToBroker::HangUp(token));
            return Err(Dead::Client);
        }
        // Its id is its own from here on.
        runtime.note(Note::Born { who: who(client) });
        put(Packet::Join, Some(memory));
        let first = runtime.memory(joining.first_page_len().expect("it sends"));
        let packet = joining.begin_chain(mortal(&first));
        if crash_budget.is_over() {
            runtime.note(Note::Ended { who: who(client) });
            to_broker.put(ToBroker::HangUp(token));
            return Err(Dead::Client);
        }
        put(packet, Some(first.clone()));
        let mut forgets = 0;
        let (joined, start) = loop {
            let ToClient::Packet(packet, region) = mailbox.wait() else {
                runtime.note(Note::Ended { who: who(client) });
                return Err(Dead::Broker);
            };
            forgets += u64::from(matches!(packet, Packet::Forget { .. }));
            let attach = |_: Attach<'_>| Ok(mortal(&region.expect("a page")));
            let joined = joining.take(packet, attach).expect("the broker is honest");
            if let (Some(joined), Packet::Start(start)) = (joined, packet) {
                break (joined, start);
            }
        };
        let link = joined.link;
        let life = Life {
            id: client,
            script,
            start,
            forgets,
            committed: 0,
            consumed: 0,
            died: false,
            received: vec![],
        };
        Ok(Clienting {
            runtime: runtime.clone(),
            token,
            to_broker,
            mailbox,
            crash_budget,
            link,
            regions: vec![(0, first)],
            next_page: 1,
            cursor: (control, cursor_offset(cursor)),
            tails: Vec::new(),
            closed: false,
            life,
        })
    }

    /// Sends its messages and reads its mailbox meanwhile.
    pub fn play(&mut self) {
        // The broker sends no `Bye` before all clients have joined.
        while self.life.committed < self.life.script.sends && !self.dead() && !self.closed {
            let number = self.life.committed;
            let envelope = Envelope::tagged(Tag(number as u32));
            match self.link.send(envelope, &payload(number)) {
                Ok(must_ring) => {
                    if self.dead() {
                        break;
                    }
                    self.life.committed += 1;
                    self.tails.push(self.link.outbound().unwrap().tail());
                    self.ring(must_ring);
                }
                Err(Refused::Blocked(Blocked::NeedPage(len))) => self.add_page(len),
                Err(Refused::Blocked(_)) => {
                    let room =
                        Some(ChainWriter::<R::Memory>::room_for(&envelope, payload(number).len()));
                    self.take_in();
                    self.sleep(Interest { message: true, room, consumed: false });
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        if self.dead() || self.life.script.leaves {
            self.life.died = self.dead();
            self.runtime.note(Note::Ended { who: who(self.life.id) });
            self.to_broker.put(ToBroker::HangUp(self.token));
        }
    }

    /// Receives to the end, if it still lives.
    pub fn live_on(mut self) -> Life {
        if !self.life.died && !self.life.script.leaves {
            while !self.closed && !self.dead() {
                self.take_in();
                self.sleep(Interest { message: true, ..Interest::default() });
            }
            self.take_in();
            if self.dead() {
                self.life.died = true;
                self.runtime.note(Note::Ended { who: who(self.life.id) });
                self.to_broker.put(ToBroker::HangUp(self.token));
            }
        }
        let (control, at) = &self.cursor;
        let released = control.load(*at, Site::CursorRead);
        let taken = released.max(control.load(at + CONTROL_CONSUMED, Site::ConsumedRead));
        self.life.consumed = self.tails.iter().filter(|tail| **tail <= taken).count() as u64;
        self.life
    }

    /// Returns a region as this client sees it while it lives.
    fn mortal(&self, memory: &R::Memory) -> Crashing<R::Memory> {
        Crashing::new(self.runtime.seen_by(memory, who(self.life.id)), self.crash_budget.clone())
    }

    fn put(&self, packet: Packet, region: Option<R::Memory>) {
        self.to_broker.put(ToBroker::Packet { token: self.token, packet, region });
    }

    fn dead(&self) -> bool {
        self.crash_budget.is_over()
    }

    fn ring(&self, must_ring: bool) {
        if must_ring && !self.dead() {
            self.runtime.note(Note::Rings { by: who(self.life.id), to: BROKER });
            self.put(Packet::Ring, None);
        }
    }

    fn add_page(&mut self, len: usize) {
        let page = self.runtime.memory(len);
        self.regions.push((self.next_page, page.clone()));
        self.next_page += 1;
        let client = self.life.id;
        let mortal = self.mortal(&page);
        let outbound = self.link.outbound_mut().unwrap();
        outbound.add_page(mortal);
        let there = self.regions.iter().filter(|(id, _)| outbound.page(*id).is_some());
        let pages = there.map(|(id, page)| (*id, page.region_len())).collect();
        self.runtime.note(Note::Pool { chain: who(client), pages });
        while let Some(announcement) = self.link.announcement() {
            if !self.dead() {
                if let Announcement::Page(page) = announcement {
                    self.runtime.note(Note::Sent { chain: who(client), page, to: BROKER });
                }
                match announcement {
                    Announcement::Page(id) => {
                        let region = self.regions.iter().find(|(known, _)| *known == id);
                        self.put(Packet::Page { id }, Some(region.unwrap().1.clone()));
                    }
                    Announcement::Forget(id) => self.put(Packet::Forget { id }, None),
                }
            }
            self.link.mark_sent();
        }
    }

    /// Reads everything in its mailbox.
    fn take_in(&mut self) {
        while !self.dead() {
            let (event, must_ring) = self.link.poll().expect("the broker is honest");
            self.ring(must_ring);
            match event {
                Event::Empty => return,
                Event::PageAdvanced => {}
                Event::Message(slot) => {
                    let inbound = self.link.inbound_mut().unwrap();
                    let envelope = inbound.envelope(&slot);
                    let mut copy = vec![0; slot.payload_len()];
                    inbound.read(&slot, &mut copy);
                    let number = u64::from(envelope.tag.0);
                    if !self.crash_budget.is_over() {
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
                    let (event, must_ring) = self.link.poll().unwrap();
                    assert_ne!(event, Event::Unknown(id), "named before it was sent");
                    self.ring(must_ring);
                }
            }
        }
    }

    fn sleep(&mut self, interest: Interest) {
        while let Some(packet) = self.mailbox.take() {
            self.on_packet(packet);
        }
        let (may_sleep, must_ring) = self.link.park(interest);
        self.ring(must_ring);
        if may_sleep && !self.dead() && !self.closed {
            let (by, Interest { message, room, .. }) = (who(self.life.id), interest);
            self.runtime.note(Note::Sleeps { by, message, room: room.is_some() });
            let packet = self.mailbox.wait();
            self.runtime.note(Note::Wakes { by });
            self.on_packet(packet);
        }
        self.link.unpark();
    }

    fn on_packet(&mut self, packet: ToClient<R>) {
        let ToClient::Packet(packet, region) = packet else {
            self.closed = true;
            return;
        };
        match packet {
            Packet::Page { id } => {
                let page = self.mortal(&region.expect("a page"));
                self.link.inbound_mut().unwrap().add_page(id, page).unwrap();
            }
            Packet::Forget { id } => {
                self.link.inbound_mut().unwrap().forget_page(id).unwrap();
            }
            Packet::Ring => {}
            Packet::Bye(_) => self.closed = true,
            packet => panic!("{packet:?} after the start"),
        }
    }
}

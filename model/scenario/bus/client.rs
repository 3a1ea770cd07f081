//! A client: production's [`Link`], with mailboxes for sockets.

use super::{BROKER, Dead, Life, Script, ToBroker, ToClient, limits, payload, who};
use crate::scenario::doubles::{CrashBudget, Crashing};
use crate::scenario::{Mailbox, Note, Runtime};
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::{CONTROL_CONSUMED, cursor_offset};
use llmp::core::link::{Interest, Link};
use llmp::core::memory::Memory;
use llmp::core::order::Site;
use llmp::{Envelope, Tag};

pub(super) struct Clienting<R: Runtime> {
    runtime: R,
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
        to_broker: R::Mailbox<ToBroker<R>>,
    ) -> Result<Self, Dead> {
        let crash_budget =
            script.dies_after.map_or(CrashBudget::endless(), CrashBudget::ends_after);
        let mailbox = runtime.mailbox::<ToClient<R>>();
        let memory = crate::scenario::chain::control_memory(runtime);
        Control::create(Crashing::new(memory.clone(), crash_budget.clone()), 1);
        if crash_budget.is_over() {
            return Err(Dead::Client);
        }
        to_broker.put(ToBroker::Connect { control: memory.clone(), mailbox: mailbox.clone() });
        let (client, cursor, control) = match mailbox.wait() {
            ToClient::Welcome { client, cursor, control } => (client, cursor, control),
            ToClient::HangUp => return Err(Dead::Broker),
            _ => panic!("no welcome"),
        };
        // From here on it has a name in a recorded run.
        let mortal = |memory: &R::Memory| {
            Crashing::new(runtime.seen_by(memory, who(client)), crash_budget.clone())
        };
        let own = Control::check(mortal(&memory), 0).unwrap();
        let first = runtime.memory(limits().page_len());
        let sender = ChainWriter::new(client.0, limits(), mortal(&first));
        if crash_budget.is_over() {
            runtime.note(Note::Ended { who: who(client) });
            to_broker.put(ToBroker::HangUp(client));
            return Err(Dead::Client);
        }
        to_broker.put(ToBroker::Page { client, id: 0, page: first.clone() });
        let mut pages = Vec::new();
        let start = loop {
            match mailbox.wait() {
                ToClient::Page { id, page } => pages.push((id, mortal(&page))),
                ToClient::Start(start) => break start,
                ToClient::Ring => {}
                ToClient::HangUp => {
                    runtime.note(Note::Ended { who: who(client) });
                    return Err(Dead::Broker);
                }
                _ => panic!("unexpected before the start"),
            }
        };
        let peer = Control::check(mortal(&control), cursor).unwrap();
        let inbound = ChainReader::new(limits(), 0, pages, start, own.clone(), 0).unwrap();
        let mut link = Link::new(own, peer, Some((sender, cursor)), Some(inbound));
        link.mark_sent();
        let life = Life {
            id: client,
            script,
            start,
            committed: 0,
            consumed: 0,
            died: false,
            received: vec![],
        };
        Ok(Clienting {
            runtime: runtime.clone(),
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
            self.to_broker.put(ToBroker::HangUp(self.life.id));
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
                self.to_broker.put(ToBroker::HangUp(self.life.id));
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

    fn dead(&self) -> bool {
        self.crash_budget.is_over()
    }

    fn ring(&self, must_ring: bool) {
        if must_ring && !self.dead() {
            self.runtime.note(Note::Rings { by: who(self.life.id), to: BROKER });
            self.to_broker.put(ToBroker::Ring);
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
                self.to_broker.put(match announcement {
                    Announcement::Page(id) => {
                        let region = self.regions.iter().find(|(known, _)| *known == id);
                        ToBroker::Page { client, id, page: region.unwrap().1.clone() }
                    }
                    Announcement::Forget(id) => ToBroker::Forget { client, id },
                });
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
        match packet {
            ToClient::Page { id, page } => {
                let page = self.mortal(&page);
                self.link.inbound_mut().unwrap().add_page(id, page).unwrap();
            }
            ToClient::Forget { id } => {
                self.link.inbound_mut().unwrap().forget_page(id).unwrap();
            }
            ToClient::Ring => {}
            ToClient::Bye | ToClient::HangUp => self.closed = true,
            ToClient::Welcome { .. } | ToClient::Start(_) => panic!("unexpected after the start"),
        }
    }
}

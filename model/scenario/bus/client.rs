//! A client: production's [`Endpoint`], with mailboxes for sockets.

use super::{BROKER, Dead, Life, Script, ToBroker, ToClient, limits, payload, who};
use crate::scenario::{Mailbox, Note, Runtime};
use llmp::chain::{Blocked, Event, Notice, Receiver, Refused, Sender};
use llmp::control::Control;
use llmp::endpoint::{Endpoint, Wanted};
use llmp::layout::{CONTROL_TAKEN, cursor_offset};
use llmp::memory::{Crashing, Lifeline, Memory};
use llmp::order::Site;
use llmp::{Envelope, Tag};

pub(super) struct Clienting<R: Runtime> {
    runtime: R,
    to_broker: R::Mailbox<ToBroker<R>>,
    mailbox: R::Mailbox<ToClient<R>>,
    lifeline: Lifeline,
    endpoint: Endpoint<Crashing<R::Memory>>,
    /// Our pages as they are handed on.
    regions: Vec<(u32, R::Memory)>,
    next_page: u32,
    /// Where the broker says how far it has taken our chain, and our tail behind each message.
    cursor: (R::Memory, usize),
    tails: Vec<u64>,
    /// The broker has said that this is the end, or is dead.
    closed: bool,
    life: Life,
}

impl<R: Runtime> Clienting<R> {
    /// Joins, or says who died meanwhile.
    pub fn connect(
        runtime: &R,
        script: Script,
        to_broker: R::Mailbox<ToBroker<R>>,
    ) -> Result<Self, Dead> {
        let lifeline = script.dies_after.map_or(Lifeline::endless(), Lifeline::ends_after);
        let mailbox = runtime.mailbox::<ToClient<R>>();
        let memory = crate::scenario::chain::control_memory(runtime);
        Control::create(Crashing::new(memory.clone(), lifeline.clone()), 1);
        if lifeline.is_over() {
            return Err(Dead::Client);
        }
        to_broker.put(ToBroker::Connect { control: memory.clone(), mailbox: mailbox.clone() });
        let (client, cursor, control) = match mailbox.wait() {
            ToClient::Welcome { client, cursor, control } => (client, cursor, control),
            ToClient::HangUp => return Err(Dead::Broker),
            _ => panic!("no welcome"),
        };
        // From here on it has a name in a run that is written down.
        let mortal = |memory: &R::Memory| {
            Crashing::new(runtime.seen_by(memory, who(client)), lifeline.clone())
        };
        let own = Control::check(mortal(&memory), 0).unwrap();
        let first = runtime.memory(limits().page_len());
        let sender = Sender::new(client.0, limits(), mortal(&first));
        if lifeline.is_over() {
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
        let inbound = Receiver::new(limits(), 0, pages, start, own.clone(), 0).unwrap();
        let mut endpoint = Endpoint::new(own, peer, Some((sender, cursor)), Some(inbound));
        endpoint.told();
        let life = Life {
            id: client,
            script,
            start,
            committed: 0,
            taken: 0,
            died: false,
            received: vec![],
        };
        Ok(Clienting {
            runtime: runtime.clone(),
            to_broker,
            mailbox,
            lifeline,
            endpoint,
            regions: vec![(0, first)],
            next_page: 1,
            cursor: (control, cursor_offset(cursor)),
            tails: Vec::new(),
            closed: false,
            life,
        })
    }

    /// Sends its messages, taking in what comes meanwhile.
    pub fn play(&mut self) {
        // The broker says no Bye before everybody is here.
        while self.life.committed < self.life.script.sends && !self.dead() && !self.closed {
            let number = self.life.committed;
            let envelope = Envelope::tagged(Tag(number as u32));
            match self.endpoint.send(envelope, &payload(number)) {
                Ok(must_ring) => {
                    if self.dead() {
                        break;
                    }
                    self.life.committed += 1;
                    self.tails.push(self.endpoint.outbound().unwrap().tail());
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
    pub fn live_on(mut self) -> Life {
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
        let (control, at) = &self.cursor;
        let given_up = control.load(*at, Site::CursorRead);
        let taken = given_up.max(control.load(at + CONTROL_TAKEN, Site::TakenRead));
        self.life.taken = self.tails.iter().filter(|tail| **tail <= taken).count() as u64;
        self.life
    }

    /// A region as this client sees it, while it lives.
    fn mortal(&self, memory: &R::Memory) -> Crashing<R::Memory> {
        Crashing::new(self.runtime.seen_by(memory, who(self.life.id)), self.lifeline.clone())
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
        let page = self.runtime.memory(len);
        self.regions.push((self.next_page, page.clone()));
        self.next_page += 1;
        let client = self.life.id;
        let mortal = self.mortal(&page);
        let outbound = self.endpoint.outbound_mut().unwrap();
        outbound.add_page(mortal);
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
        match packet {
            ToClient::Page { id, page } => {
                let page = self.mortal(&page);
                self.endpoint.inbound_mut().unwrap().add_page(id, page).unwrap();
            }
            ToClient::Forget { id } => {
                self.endpoint.inbound_mut().unwrap().forget_page(id).unwrap();
            }
            ToClient::Ring => {}
            ToClient::Bye | ToClient::HangUp => self.closed = true,
            ToClient::Welcome { .. } | ToClient::Start(_) => panic!("unexpected after the start"),
        }
    }
}

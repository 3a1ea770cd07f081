//! What the broker does, one step at a time: `broker::core::Core` with its sockets.
//!
//! Steps are cut as in [`client`](crate::client): appending to the run is seen by nobody, and
//! comes with the look that found the message.

use crate::protocol::Action;
use crate::run::{Break, Hand, Pen, Run};
use crate::state::*;
use Action::*;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pc {
    /// Takes in what its sockets hold.
    Draining,
    /// It is this client's turn.
    Taking(Id),
    /// This client's message has no room; it reads the cursor of the n-th receiver.
    Asking(Id, u8),
    Publishing,
    /// It gives up what it took of this client's chain and the later ones'.
    GivingUp(Id),
    Looking,
    Ringing,
    /// It has done all that it could: makes the page that was missing, lets the dead go.
    Finishing,
    LookingAgain(Id),
    AskingAgain(u8),
    Asleep,
    Waking,
    Over,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Blocked {
    #[default]
    No,
    NeedsPage,
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Broker {
    pub pc: Pc,
    /// The run that it has not published yet.
    pub run: Option<Pen>,
    pub blocked: Blocked,
    /// Messages taken of the client whose turn it is.
    pub taken: u8,
    pub worked: bool,
    /// Clients that are gone and hold nothing any more.
    pub empty: Set,
}

impl Broker {
    pub const fn new() -> Self {
        let empty = Set::NONE;
        Broker { pc: Pc::Draining, run: None, blocked: Blocked::No, taken: 0, worked: false, empty }
    }
}

/// A choice that the broker has: what a liar's memory says, or which lie.
pub type Choice = u8;
pub const HONEST: Choice = 0;

/// How many choices the next step has; 0: it sleeps, or is gone.
pub fn steps(run: &Run) -> u8 {
    let lies = run.lies_left > 0;
    let liar = |id: Id| lies && run.bus.process(id).is_liar && run.bus.lives(id);
    match run.broker.pc {
        Pc::Over => 0,
        Pc::Asleep => u8::from(run.bus.process(BROKER).bell),
        // Nothing, a message, or nonsense.
        Pc::Taking(id) if liar(id) => 3,
        // What it says, everything, backwards, ahead.
        Pc::Asking(_, n) | Pc::AskingAgain(n) => {
            let reader = run.bus.chain(BROADCAST).readers.get(usize::from(n));
            if reader.is_some_and(|reader| liar(reader.by)) { 4 } else { 1 }
        }
        _ => 1,
    }
}

pub fn step(hand: &mut Hand, choice: Choice) {
    let mut me = hand.run.broker;
    me.step(hand, choice);
    if me.pc == Pc::Over {
        me = Broker { pc: Pc::Over, ..Broker::new() };
    }
    hand.run.broker = me;
}

impl Broker {
    fn step(&mut self, hand: &mut Hand, choice: Choice) {
        match self.pc {
            Pc::Draining => self.drain(hand),
            Pc::Taking(id) if hand.bus().process(id).is_liar => self.take_of_liar(hand, id, choice),
            Pc::Taking(id) => self.take(hand, id),
            Pc::Asking(id, n) => self.ask(hand, id, n, choice),
            Pc::Publishing => {
                if let Some(Pen { first: Some(word), .. }) = self.run.take() {
                    Pen::publish(hand, BROADCAST, word);
                }
                self.go_on(hand, 1);
            }
            Pc::GivingUp(id) => {
                if let Some(to) = hand.has_to_give_up(id, BROKER) {
                    hand.act(GiveUp { chain: id, by: BROKER, to });
                }
                self.go_on(hand, id + 1);
            }
            Pc::Looking => {
                let peer = hand.bus().process(BROKER).owes.iter().next();
                if let Some(of) = peer {
                    hand.act(RingFence { by: BROKER });
                    let parked = hand.bus().process(of).is_parked;
                    hand.act(RingRead { by: BROKER, of, parked });
                }
                self.go_on(hand, Id::MAX);
            }
            Pc::Ringing => {
                let peer = hand.bus().process(BROKER).must_ring.iter().next();
                if let Some(to) = peer {
                    hand.act(Ring { by: BROKER, to });
                }
                self.go_on(hand, Id::MAX);
            }
            Pc::Finishing => self.finish(hand),
            Pc::LookingAgain(id) => self.look_again(hand, id),
            Pc::AskingAgain(n) => self.ask_again(hand, n, choice),
            Pc::Asleep => {
                hand.act(Wake { by: BROKER });
                self.pc = Pc::Waking;
            }
            Pc::Waking => {
                hand.act(Unpark { by: BROKER });
                self.pc = Pc::Draining;
            }
            Pc::Over => unreachable!(),
        }
    }

    /// Hang-ups and newcomers.
    fn drain(&mut self, hand: &mut Hand) {
        hand.act(Wake { by: BROKER });
        for id in hand.bus().ids().skip(1) {
            let is_there = hand.bus().chain(id).is_open();
            let is_known = hand.bus().chain(BROADCAST).reader(id).is_some();
            let life = hand.bus().process(id).life;
            if life == Life::Ended && is_there && !hand.bus().chain(id).is_orphan {
                if hand.is_broken(Break::NoStrike) {
                    continue;
                }
                hand.act(Strike { by: id });
                if hand.is_broken(Break::DeadForgottenAtOnce) {
                    hand.act(Remove { client: id });
                }
            } else if life == Life::Lives && is_there && !is_known {
                let pages: Vec<u16> =
                    hand.bus().chain(BROADCAST).pages.iter().map(|page| page.id).collect();
                for page in pages {
                    hand.act(Send { chain: BROADCAST, page, to: id });
                }
                let chain = hand.bus().chain(BROADCAST);
                let (tail, number) = (chain.tail, chain.published);
                let Place { page, mut position } = tail;
                if hand.is_broken(Break::AdmittedInThePast) {
                    let base = chain.page(page).and_then(|page| page.header).map_or(0, |h| h.0);
                    position = base + crate::run::HEADER;
                }
                hand.act(Admit { chain: BROADCAST, by: id, page, position, number });
                let (page, position, number) = (0, crate::run::HEADER, 0);
                hand.act(Admit { chain: id, by: BROKER, page, position, number });
            }
        }
        (self.blocked, self.worked, self.taken) = (Blocked::No, false, 0);
        self.pc = Pc::Taking(1);
    }

    fn pen(&self, hand: &Hand) -> Pen {
        self.run.unwrap_or(Pen::at_tail(hand.bus(), BROADCAST))
    }

    fn next_client(&mut self, hand: &mut Hand, id: Id) {
        self.taken = 0;
        self.pc = Pc::Taking(id + 1);
        if usize::from(id) == hand.run.clients.len() {
            self.end_turn(hand);
        }
    }

    fn end_turn(&mut self, hand: &mut Hand) {
        self.taken = 0;
        if self.run.is_some_and(|pen| pen.first.is_some())
            && !hand.is_broken(Break::GivesUpBeforeSendingOn)
        {
            self.pc = Pc::Publishing;
        } else {
            self.go_on(hand, 1);
        }
    }

    /// What is to be done after the run is published: give up, look who sleeps, ring.
    fn go_on(&mut self, hand: &mut Hand, from: Id) {
        let bus = hand.bus();
        let behind = bus.ids().find(|id| *id >= from && hand.has_to_give_up(*id, BROKER).is_some());
        let process = bus.process(BROKER);
        self.pc = if let Some(id) = behind {
            Pc::GivingUp(id)
        } else if self.run.is_some_and(|pen| pen.first.is_some()) {
            Pc::Publishing
        } else if !process.owes.is_empty() {
            Pc::Looking
        } else if !process.must_ring.is_empty() {
            Pc::Ringing
        } else {
            Pc::Finishing
        };
    }

    fn take(&mut self, hand: &mut Hand, id: Id) {
        if hand.bus().chain(id).reader(BROKER).is_none() {
            return self.next_client(hand, id);
        }
        let mut pen = self.pen(hand);
        if hand.look(id, BROKER) == Word::Zero {
            if hand.bus().chain(id).is_orphan {
                self.empty.insert(id);
            }
            return self.next_client(hand, id);
        }
        while hand.run.violation.is_none() {
            let Some(reader) = hand.bus().chain(id).reader(BROKER) else { break };
            let number = reader.next;
            if let Some(Word::Message { .. }) = reader.found {
                if !hand.has_room(BROADCAST, pen.place) {
                    self.pc = Pc::Asking(id, 0);
                    break;
                }
                pen.append(hand, BROADCAST, id, number);
            }
            hand.act(Pass { chain: id, by: BROKER });
            self.worked = true;
            self.taken += 1;
            if self.taken == hand.setup.share {
                self.run = Some(pen);
                return self.next_client(hand, id);
            }
            if !hand.is_there(id, BROKER) {
                break;
            }
            hand.look(id, BROKER);
        }
        self.run = Some(pen).filter(|pen| pen.first.is_some());
    }

    /// Whatever a liar's chain says: nothing, a message, or nonsense.
    fn take_of_liar(&mut self, hand: &mut Hand, id: Id, choice: Choice) {
        if hand.bus().chain(id).reader(BROKER).is_none() {
            return self.next_client(hand, id);
        }
        hand.run.lies_left -= u8::from(choice != HONEST);
        let mut pen = self.pen(hand);
        match choice {
            HONEST => {
                if hand.bus().chain(id).is_orphan {
                    self.empty.insert(id);
                }
                self.next_client(hand, id);
            }
            1 => {
                if !hand.has_room(BROADCAST, pen.place) {
                    self.pc = Pc::Asking(id, 0);
                    return;
                }
                // One a turn, so that none of its own is in the run already.
                let number = hand.bus().chain(id).forwarded;
                pen.append(hand, BROADCAST, id, number);
                self.run = Some(pen);
                self.worked = true;
                self.next_client(hand, id);
            }
            _ => {
                self.expel(hand, id);
                self.next_client(hand, id);
            }
        }
    }

    fn expel(&mut self, hand: &mut Hand, id: Id) {
        hand.act(End { process: id });
        hand.act(Strike { by: id });
        hand.act(Remove { client: id });
        self.worked = true;
    }

    /// Reads the n-th receiver's cursor. Returns whether there is another to ask.
    fn learn(&mut self, hand: &mut Hand, n: u8, choice: Choice) -> Option<u8> {
        let chain = hand.bus().chain(BROADCAST);
        let reader = chain.readers.get(usize::from(n))?;
        let (by, seen, tail) = (reader.by, reader.seen, chain.tail.position);
        hand.run.lies_left -= u8::from(choice != HONEST);
        let reader = &hand.bus().chain(BROADCAST).readers[usize::from(n)];
        let cursor = match choice {
            HONEST => reader.cursor,
            1 => tail,
            2 => seen - 1,
            _ => tail + 3,
        };
        let is_lie = cursor != 0 && !(seen..=tail).contains(&cursor);
        if is_lie && !hand.is_broken(Break::LieBelieved) {
            self.expel(hand, by);
            return (usize::from(n) < hand.bus().chain(BROADCAST).readers.len()).then_some(n);
        }
        if hand.is_broken(Break::LieBelieved) && is_lie {
            // As if one count were kept for all.
            for reader in hand.run.bus.chain_mut(BROADCAST).readers.iter_mut() {
                reader.seen = cursor;
            }
        }
        hand.act(Learn { chain: BROADCAST, by, cursor });
        (usize::from(n) + 1 < hand.bus().chain(BROADCAST).readers.len()).then_some(n + 1)
    }

    fn ask(&mut self, hand: &mut Hand, id: Id, n: u8, choice: Choice) {
        match self.learn(hand, n, choice) {
            Some(n) => self.pc = Pc::Asking(id, n),
            None => self.decide(hand, id),
        }
    }

    /// Every cursor is known: another page, or none.
    fn decide(&mut self, hand: &mut Hand, id: Id) {
        let mut pen = self.pen(hand);
        if let Some(next) = hand.free_page(BROADCAST, pen.place) {
            pen.turn(hand, BROADCAST, next);
            self.run = Some(pen);
            self.pc = Pc::Taking(id);
            return;
        }
        let grows = hand.may_grow(BROADCAST);
        self.blocked = if grows { Blocked::NeedsPage } else { Blocked::Full };
        self.end_turn(hand);
    }

    fn finish(&mut self, hand: &mut Hand) {
        for id in std::mem::take(&mut self.empty).iter() {
            hand.act(Remove { client: id });
            self.worked = true;
        }
        if self.blocked == Blocked::NeedsPage {
            hand.grow(BROADCAST);
            self.worked = true;
        }
        if self.worked {
            self.pc = Pc::Draining;
            return;
        }
        hand.act(Park { by: BROKER });
        hand.act(ParkFence { by: BROKER });
        self.pc = match self.blocked {
            Blocked::Full => Pc::AskingAgain(0),
            _ => Pc::LookingAgain(1),
        };
        if hand.is_broken(Break::NoSecondLook) {
            self.doze(hand);
        }
    }

    fn doze(&mut self, hand: &mut Hand) {
        let room = self.blocked == Blocked::Full;
        hand.act(Sleep { by: BROKER, message: !room, room });
        self.pc = Pc::Asleep;
        (self.blocked, self.worked) = (Blocked::No, false);
    }

    fn up(&mut self, hand: &mut Hand) {
        hand.act(Unpark { by: BROKER });
        self.pc = Pc::Draining;
        (self.blocked, self.worked) = (Blocked::No, false);
    }

    fn look_again(&mut self, hand: &mut Hand, id: Id) {
        let chain = hand.bus().chain(id);
        let has_reader = chain.reader(BROKER).is_some();
        let is_liar = hand.bus().process(id).is_liar;
        if has_reader && chain.is_orphan {
            return self.up(hand);
        }
        if has_reader && is_liar {
            // It has nothing, as far as anybody can say.
            let again = hand.run.bus.process_mut(BROKER).second_look.as_mut();
            again.into_iter().for_each(|again| again.empty.insert(id));
        } else if has_reader && hand.look(id, BROKER) != Word::Zero {
            return self.up(hand);
        }
        self.pc = Pc::LookingAgain(id + 1);
        if usize::from(id) == hand.run.clients.len() {
            self.doze(hand);
        }
    }

    fn ask_again(&mut self, hand: &mut Hand, n: u8, choice: Choice) {
        let receivers = hand.bus().chain(BROADCAST).readers.len();
        let next = self.learn(hand, n, choice);
        let was_struck = hand.bus().chain(BROADCAST).readers.len() < receivers;
        match next {
            Some(n) => self.pc = Pc::AskingAgain(n),
            None => {
                let tail = hand.bus().chain(BROADCAST).tail;
                if was_struck || hand.free_page(BROADCAST, tail).is_some() {
                    self.up(hand);
                } else {
                    self.doze(hand);
                }
            }
        }
    }
}

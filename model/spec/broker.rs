//! The steps of the broker, one at a time: `core::broker::Core` with its sockets.
//!
//! Steps are defined as in [`client`](crate::client). No process sees an append to the pending
//! batch, so it belongs to the step that found the message.

use crate::polling::{POLLS, check_for_sleeper};
use crate::protocol::Action;
use crate::run::{Break, Hand, Pen, Run, Setup};
use crate::state::*;
use Action::*;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pc {
    /// It reads its sockets.
    Draining,
    /// It reads how far the n-th receiver has passed messages by reference.
    Returning(u8),
    /// It reads this client's chain.
    Taking(Id),
    /// This client's message has no room. It reads the cursor of the n-th receiver.
    Asking(Id, u8),
    Publishing,
    /// It releases what it consumed of this client's chain and the later ones'.
    GivingUp(Id),
    Looking,
    Ringing,
    /// It has done everything possible: it adds the page that was missing and removal dead clients.
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
    /// The batch that it has not published yet.
    pub run: Option<Pen>,
    pub blocked: Blocked,
    /// Messages consumed of the current client.
    pub taken: u8,
    pub worked: bool,
    /// Clients that are gone and whose chains are empty.
    pub empty: Set,
    /// The position that every receiver had passed when it checked in this cycle.
    pub passed: u32,
}

impl Broker {
    pub const fn new() -> Self {
        Broker {
            pc: Pc::Draining,
            run: None,
            blocked: Blocked::No,
            taken: 0,
            worked: false,
            empty: Set::NONE,
            passed: 0,
        }
    }
}

/// A choice of the broker: the value in a hostile client's memory, or a decision.
pub type Choice = u8;
pub const HONEST: Choice = 0;
/// The choice to forward by reference where that is possible, instead of copying.
pub const BY_REFERENCE: Choice = 1;

/// Returns the number of choices of the next step. 0: it sleeps or is gone.
pub fn steps(setup: &Setup, run: &Run) -> u8 {
    let has_faults = run.faults_left > 0;
    let hostile = |id: Id| has_faults && run.bus.process(id).is_hostile && run.bus.lives(id);
    match run.broker.pc {
        Pc::Over => 0,
        Pc::Asleep => u8::from(run.bus.process(BROKER).bell),
        // Nothing, a message, an invalid word, or a message by reference.
        Pc::Taking(id) if hostile(id) => 3 + u8::from(setup.by_ref),
        Pc::Taking(id) if setup.by_ref && setup.copies => 1 + u8::from(finds_message(run, id)),
        Pc::Finishing if setup.polls => 1 + u8::from(run.broker.is_idle()),
        // The real value, the tail, a backward move, a position ahead.
        Pc::Asking(_, n) | Pc::AskingAgain(n) | Pc::Returning(n) => {
            let reader = run.bus.chain(BROADCAST).readers.get(usize::from(n));
            if reader.is_some_and(|reader| hostile(reader.by)) { 4 } else { 1 }
        }
        _ => 1,
    }
}

/// Returns whether the broker would find a message of this client.
fn finds_message(run: &Run, id: Id) -> bool {
    let chain = run.bus.chain(id);
    let word = chain.reader(BROKER).and_then(|reader| chain.word(reader.place));
    word.is_some_and(|word| word.message().is_some())
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
            Pc::Taking(id) if hand.bus().process(id).is_hostile => {
                self.take_of_hostile(hand, id, choice)
            }
            Pc::Taking(id) => self.take(hand, id, choice),
            Pc::Returning(n) => match self.learn(hand, n, choice) {
                Some(n) => self.pc = Pc::Returning(n),
                None => self.take_back(hand),
            },
            Pc::Asking(id, n) => self.ask(hand, id, n, choice),
            Pc::Publishing => {
                if let Some(Pen { first: Some(word), .. }) = self.run.take() {
                    Pen::publish(hand, BROADCAST, word);
                }
                self.go_on(hand, 1);
            }
            Pc::GivingUp(id) => {
                if let Some(to) = hand.must_release(id, BROKER) {
                    hand.act(Release { chain: id, by: BROKER, to });
                }
                self.go_on(hand, id + 1);
            }
            Pc::Looking => {
                let peer = hand.bus().process(BROKER).owed_rings.iter().next();
                if let Some(of) = peer {
                    check_for_sleeper(hand, BROKER, of);
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
            Pc::Finishing if choice == POLLS => self.poll(hand),
            Pc::Finishing => self.finish(hand),
            Pc::LookingAgain(id) => self.look_again(hand, id),
            Pc::AskingAgain(n) => self.ask_again(hand, n, choice),
            Pc::Asleep => {
                hand.act(Wake { by: BROKER });
                self.pc = Pc::Waking;
            }
            Pc::Waking => {
                if hand.is_broken(Break::RingsBack) {
                    let clients = hand.bus().ids().skip(1);
                    clients.for_each(|to| hand.act(Ring { by: BROKER, to }));
                }
                hand.act(Unpark { by: BROKER });
                self.pc = Pc::Draining;
            }
            Pc::Over => unreachable!(),
        }
    }

    /// Processes hang-ups and new clients.
    fn drain(&mut self, hand: &mut Hand) {
        hand.act(Wake { by: BROKER });
        for id in hand.bus().ids().skip(1) {
            let is_there = hand.bus().chain(id).is_open();
            let is_known = hand.bus().chain(BROADCAST).reader(id).is_some();
            let Process { life, is_skipped, asks, .. } = *hand.bus().process(id);
            if life == Life::Ended && is_there && !hand.bus().chain(id).is_orphan {
                if hand.is_broken(Break::NoRemoval) {
                    continue;
                }
                hand.act(RemoveReceiver { by: id });
                if hand.is_broken(Break::DeadForgottenAtOnce) {
                    hand.act(Remove { client: id });
                }
            } else if life == Life::Lives
                && is_there
                && !is_known
                && !hand.bus().chain(id).is_orphan
                && is_skipped == asks
                && !(asks && hand.is_broken(Break::NotReadmitted))
            {
                admit(hand, id, asks);
                if !asks {
                    let (page, position, number) = (0, crate::run::HEADER, 0);
                    hand.act(Admit { chain: id, by: BROKER, page, position, number });
                }
            }
        }
        (self.blocked, self.worked, self.taken) = (Blocked::No, false, 0);
        self.pc = match hand.bus().has_refs() || hand.bus().refers_to_dropped() {
            false => Pc::Taking(1),
            true if hand.bus().chain(BROADCAST).readers.is_empty() => return self.take_back(hand),
            true => Pc::Returning(0),
        };
    }

    /// All cursors are known: releases messages by reference that all have passed.
    fn take_back(&mut self, hand: &mut Hand) {
        let bus = hand.bus();
        self.passed = match hand.is_broken(Break::HeldUntilPublished) {
            true => bus.chain(BROADCAST).tail.position,
            false => bus.chain(BROADCAST).left_by_all(),
        };
        let is_over = |foreign_page: &&ForeignPage| {
            foreign_page.rest.is_some() && foreign_page.until <= self.passed
        };
        let recalled: Vec<u16> =
            bus.foreign_pages.iter().filter(is_over).map(|foreign_page| foreign_page.id).collect();
        for page in recalled {
            hand.act(Forget { chain: BROADCAST, page });
        }
        self.pc = Pc::Taking(1);
    }

    /// Returns whether all receivers have passed a message by reference, as far as it knows now.
    fn has_returns(&self, hand: &Hand) -> bool {
        let bus = hand.bus();
        let passed = bus.chain(BROADCAST).left_by_all();
        let is_due = |held: &Held| bus.is_held_back(held) && held.until <= passed;
        let is_over = |foreign_page: &ForeignPage| {
            foreign_page.rest.is_some() && foreign_page.until <= passed
        };
        bus.held.iter().any(is_due) || bus.foreign_pages.iter().any(is_over)
    }

    pub fn pen(&self, hand: &Hand) -> Pen {
        self.run.unwrap_or(Pen::at_tail(hand.bus(), BROADCAST))
    }

    fn next_client(&mut self, hand: &mut Hand, id: Id) {
        self.taken = 0;
        self.pc = Pc::Taking(id + 1);
        let is_blind = hand.is_broken(Break::PollsFirstClientAlone);
        let is_last = is_blind && hand.bus().process(BROKER).is_polling;
        if usize::from(id) == hand.run.clients.len() || is_last {
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

    /// Continues after the batch is published: releases, checks for sleeping peers, rings.
    fn go_on(&mut self, hand: &mut Hand, from: Id) {
        let bus = hand.bus();
        let behind = bus.ids().find(|id| *id >= from && hand.must_release(*id, BROKER).is_some());
        let process = bus.process(BROKER);
        self.pc = if let Some(id) = behind {
            Pc::GivingUp(id)
        } else if self.run.is_some_and(|pen| pen.first.is_some()) {
            Pc::Publishing
        } else if !process.owed_rings.is_empty() {
            Pc::Looking
        } else if !process.must_ring.is_empty() {
            Pc::Ringing
        } else {
            Pc::Finishing
        };
    }

    fn take(&mut self, hand: &mut Hand, id: Id, choice: Choice) {
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
            let (number, place) = (reader.next, reader.place);
            if let Some(Word::Message { .. }) = reader.found {
                if !hand.has_room(BROADCAST, pen.place) {
                    self.pc = Pc::Asking(id, 0);
                    break;
                }
                let by_ref = choice == BY_REFERENCE || hand.setup.by_ref && !hand.setup.copies;
                let reference = by_ref.then(|| refer(hand, id, number, place, &pen));
                let units = 1;
                let copied = Word::Message { from: id, number, units };
                pen.append_word(hand, BROADCAST, reference.flatten().unwrap_or(copied));
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

    /// Consumes from a hostile client's chain: nothing, a message, or an invalid word.
    fn take_of_hostile(&mut self, hand: &mut Hand, id: Id, choice: Choice) {
        if hand.bus().chain(id).reader(BROKER).is_none() {
            return self.next_client(hand, id);
        }
        hand.run.faults_left -= u8::from(choice != HONEST);
        let mut pen = self.pen(hand);
        match choice {
            HONEST => {
                if hand.bus().chain(id).is_orphan {
                    self.empty.insert(id);
                }
                self.next_client(hand, id);
            }
            1 | 3 => {
                if !hand.has_room(BROADCAST, pen.place) {
                    self.pc = Pc::Asking(id, 0);
                    return;
                }
                // One for each cycle, so that the batch has none of its messages already.
                let number = hand.bus().chain(id).forwarded;
                let place = Place { page: 0, position: crate::run::HEADER };
                let reference = (choice == 3).then(|| refer(hand, id, number, place, &pen));
                let copied = Word::Message { from: id, number, units: 1 };
                pen.append_word(hand, BROADCAST, reference.flatten().unwrap_or(copied));
                self.run = Some(pen);
                self.worked = true;
                self.next_client(hand, id);
            }
            _ => {
                self.disconnect(hand, id);
                self.next_client(hand, id);
            }
        }
    }

    fn disconnect(&mut self, hand: &mut Hand, id: Id) {
        hand.act(End { process: id });
        hand.act(RemoveReceiver { by: id });
        hand.act(Remove { client: id });
        self.worked = true;
    }

    /// Reads the n-th receiver's cursor. Returns whether there is another to read.
    fn learn(&mut self, hand: &mut Hand, n: u8, choice: Choice) -> Option<u8> {
        let chain = hand.bus().chain(BROADCAST);
        let reader = chain.readers.get(usize::from(n))?;
        let (by, seen, tail) = (reader.by, reader.seen, chain.tail.position);
        hand.run.faults_left -= u8::from(choice != HONEST);
        let reader = &hand.bus().chain(BROADCAST).readers[usize::from(n)];
        let cursor = match choice {
            HONEST => reader.cursor,
            1 => tail,
            2 => seen - 1,
            _ => tail + 3,
        };
        let is_lie = cursor != 0 && !(seen..=tail).contains(&cursor);
        if is_lie && !hand.is_broken(Break::ViolationBelieved) {
            self.disconnect(hand, by);
            return (usize::from(n) < hand.bus().chain(BROADCAST).readers.len()).then_some(n);
        }
        if hand.is_broken(Break::ViolationBelieved) && is_lie {
            // As if all receivers shared one counter.
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

    /// All cursors are known: another page, or none.
    fn decide(&mut self, hand: &mut Hand, id: Id) {
        let mut pen = self.pen(hand);
        hand.drop_retired(BROADCAST, pen.place);
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
        self.passed = 0;
        if hand.is_broken(Break::RetiredAfterCursor) {
            Self::retire_late(hand);
        }
        for id in std::mem::take(&mut self.empty).iter() {
            hand.act(Remove { client: id });
            self.worked = true;
            if hand.is_broken(Break::LentForgottenAtOnce) {
                hand.run.bus.foreign_pages.retain(|foreign_page| foreign_page.of != id);
            }
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
        let by_ref = hand.bus().has_refs() || hand.bus().refers_to_dropped();
        let asks = by_ref && !hand.is_broken(Break::SleepsOnReturns);
        self.pc = match self.blocked {
            _ if asks && hand.bus().chain(BROADCAST).readers.is_empty() => return self.up(hand),
            Blocked::Full => Pc::AskingAgain(0),
            _ if asks => Pc::AskingAgain(0),
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
        let is_hostile = hand.bus().process(id).is_hostile;
        if has_reader && chain.is_orphan {
            return self.up(hand);
        }
        if has_reader && is_hostile {
            // It has nothing to do, as far as it can know.
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
        let was_removed = hand.bus().chain(BROADCAST).readers.len() < receivers;
        match next {
            Some(n) => self.pc = Pc::AskingAgain(n),
            None => {
                let tail = hand.bus().chain(BROADCAST).tail;
                let is_full = self.blocked == Blocked::Full;
                let has_room = is_full
                    && (hand.drop_retired(BROADCAST, tail)
                        || hand.free_page(BROADCAST, tail).is_some());
                let asks = !hand.is_broken(Break::SleepsOnReturns);
                if was_removed || has_room || asks && self.has_returns(hand) {
                    self.up(hand);
                } else if is_full {
                    self.doze(hand);
                } else {
                    self.pc = Pc::LookingAgain(1);
                }
            }
        }
    }
}

/// Admits a receiver to the broadcast chain, for the first time or again.
fn admit(hand: &mut Hand, id: Id, again: bool) {
    let mut pages: Vec<u16> =
        hand.bus().chain(BROADCAST).pages.iter().map(|page| page.id).collect();
    if !hand.is_broken(Break::LentUnknownToLate) {
        pages.extend(hand.bus().foreign_pages.iter().map(|foreign_page| foreign_page.id));
    }
    if again && hand.is_broken(Break::ReadmittedWithoutPages) {
        pages.clear();
    }
    for page in pages {
        hand.act(Send { chain: BROADCAST, page, to: id });
    }
    let chain = hand.bus().chain(BROADCAST);
    let (tail, number) = (chain.tail, chain.published);
    let Place { page, mut position } = tail;
    let is_past = if again { Break::ReadmittedInThePast } else { Break::AdmittedInThePast };
    if hand.is_broken(is_past) {
        let base = chain.page(page).and_then(|page| page.header).map_or(0, |h| h.0);
        position = base + crate::run::HEADER;
    }
    hand.act(Admit { chain: BROADCAST, by: id, page, position, number });
}

/// Returns the word that refers to a message, if it can be forwarded by reference.
fn refer(hand: &mut Hand, from: Id, number: u16, place: Place, pen: &Pen) -> Option<Word> {
    let foreign_page = hand.borrow_page(from, place.page, pen.first.is_some())?;
    let page = hand.bus().chain(from).page(place.page);
    let at = page.and_then(|page| page.unit(place.position))? as u16;
    Some(Word::Reference { from, number, units: 1, foreign_page, at })
}

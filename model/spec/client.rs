//! The steps of a client, one at a time.
//!
//! A step is one access that others can see, or one action on the socket. Accesses to memory that
//! no other process reads belong to the next step: a message is written in one step and shown by
//! the next. Finding a message is one step together with all that follow it on the page. What is
//! published does not change until the reader releases it. So what other processes do in between
//! makes no difference, and no process sees that the message was found. Finding *nothing* is a step
//! of its own.

use crate::polling::check_for_sleeper;
use crate::protocol::Action;
use crate::run::{Break, Hand, Pen, Run, Setup};
use crate::state::*;
use Action::*;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pc {
    /// It has not connected yet, or waits to be admitted.
    Joining,
    /// It was skipped, has asked to receive again, and waits to be admitted.
    Rejoining,
    Going,
    /// A batch is written, and its first commit word is deferred.
    Written(Word),
    /// It has stored something and must check whether the broker sleeps. Then it continues, or goes
    /// on to sleep.
    Looking {
        to_sleep: bool,
    },
    Ringing {
        to_sleep: bool,
    },
    /// It has found a message, which it copies or hands out in place; see
    /// [`reading`](crate::reading).
    Found,
    Copied,
    HasInHand,
    /// It has entered the next page.
    Turned,
    /// It has found nothing to do.
    Drowsy,
    Parking,
    LookingAgain,
    AskingAgain,
    Asleep,
    Waking,
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    pub pc: Pc,
    /// Batches of its script that it has published.
    pub sent: u8,
    /// Whether it waits for room.
    pub is_full: bool,
    /// Whether it knows that the broker is gone.
    pub is_closed: bool,
}

impl Client {
    pub const fn new() -> Self {
        Client { pc: Pc::Joining, sent: 0, is_full: false, is_closed: false }
    }
}

/// A step that a client can take, with its choice if it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Next,
    Send,
    Receive,
    HangUp,
    /// Polls instead of going to sleep.
    Poll,
}

fn client(run: &Run, id: Id) -> &Client {
    &run.clients[usize::from(id) - 1]
}

/// Returns the steps that it can take now. Without any it sleeps or is gone.
pub fn steps(setup: &Setup, run: &Run, id: Id) -> impl Iterator<Item = Step> {
    let me = client(run, id);
    let bus = &run.bus;
    let script = setup.scripts[usize::from(id) - 1];
    let has_more = usize::from(me.sent) < script.len() && !me.is_closed;
    let reader = bus.chain(BROADCAST).reader(id);
    let is_there = reader.is_some_and(|r| bus.chain(BROADCAST).word(r.place) != Some(Word::Zero));
    let is_last = usize::from(id) == setup.scripts.len();
    let leaves = setup.leaves && is_last && !has_more;
    let mut steps: [Option<Step>; 3] = [None; 3];
    match me.pc {
        Pc::Joining => {
            let waits = bus.process(id).life == Life::Lives && reader.is_none();
            let is_over = !bus.lives(BROKER);
            steps[0] = (!waits || is_over).then_some(Step::Next);
        }
        Pc::Going => {
            let sends = has_more && !me.is_full;
            steps[0] = sends.then_some(Step::Send);
            steps[1] = (is_there || !sends).then_some(Step::Receive);
            steps[2] = leaves.then_some(Step::HangUp);
        }
        Pc::Rejoining => {
            // It may be skipped again before it has read where to begin.
            let is_skipped = bus.removed(id).is_some();
            let is_answered = reader.is_some() || is_skipped || !bus.lives(BROKER);
            steps[0] = is_answered.then_some(Step::Next);
        }
        Pc::Drowsy => {
            steps[0] = Some(Step::Next);
            steps[1] = setup.polls.then_some(Step::Poll);
        }
        Pc::Asleep => steps[0] = bus.process(id).bell.then_some(Step::Next),
        Pc::Over => {}
        _ => steps[0] = Some(Step::Next),
    }
    steps.into_iter().flatten()
}

pub fn step(hand: &mut Hand, id: Id, step: Step) {
    let mut me = *client(hand.run, id);
    match (me.pc, step) {
        (_, Step::HangUp) => {
            hand.act(End { process: id });
            me = Client { pc: Pc::Over, ..me };
        }
        (Pc::Going, Step::Send) => me.send(hand, id),
        (Pc::Going, _) if hand.run.may_be_removed(id) => me.find(hand, id),
        (Pc::Going, _) => me.receive(hand, id),
        (Pc::Found | Pc::Copied | Pc::HasInHand, _) => me.read(hand, id),
        _ if Client::is_told(hand, id) => me.after_removal(hand, id),
        (_, Step::Poll) => me.poll(hand, id),
        _ => me.next(hand, id),
    }
    if me.pc == Pc::Over {
        me = Client { pc: Pc::Over, ..Client::new() };
    }
    hand.run.clients[usize::from(id) - 1] = me;
}

impl Client {
    fn send(&mut self, hand: &mut Hand, id: Id) {
        let batch = hand.setup.scripts[usize::from(id) - 1][usize::from(self.sent)];
        let mut pen = Pen::at_tail(hand.bus(), id);
        let units = u32::from(batch) - 1;
        let last = Place { position: pen.place.position + units, ..pen.place };
        let mut free = None;
        if !hand.has_room(id, last) {
            let Some(cursor) = hand.bus().chain(id).reader(BROKER).map(|r| r.cursor) else {
                // The broker is gone, so no room will come.
                self.is_full = true;
                return;
            };
            if !hand.is_broken(Break::StaleCursor) {
                hand.act(Learn { chain: id, by: BROKER, cursor });
            }
            let is_early = hand.is_broken(Break::RetiredReadBeforeCursor);
            if !is_early {
                hand.learn_retired(id);
            }
            hand.drop_retired(id, pen.place);
            free = hand.free_page(id, pen.place);
            if is_early {
                // It uses this when it asks next.
                hand.learn_retired(id);
            }
            if free.is_none() {
                if hand.may_grow(id) {
                    hand.grow(id);
                } else {
                    self.is_full = true;
                }
                return;
            }
        }
        let first = hand.bus().chain(id).published;
        for number in first..first + u16::from(batch) {
            if !hand.has_room(id, pen.place)
                && let Some(next) = free.take()
            {
                pen.turn(hand, id, next);
            }
            pen.append(hand, id, id, number);
        }
        if let Some(word) = pen.first {
            self.pc = Pc::Written(word);
        }
    }

    fn receive(&mut self, hand: &mut Hand, id: Id) {
        if self.is_closed && hand.is_broken(Break::EndsUndrained) {
            hand.act(End { process: id });
            self.pc = Pc::Over;
            return;
        }
        let mut found = hand.look(BROADCAST, id);
        if found == Word::Zero {
            self.pc = if self.is_closed { Pc::Over } else { Pc::Drowsy };
            if self.pc == Pc::Over {
                hand.act(End { process: id });
            }
            return;
        }
        while found.message().is_some() && hand.run.violation.is_none() {
            if let Word::Reference { foreign_page, at, .. } = found
                && let Some(ForeignPage { of, page, .. }) = hand.bus().foreign_page(foreign_page)
            {
                hand.act(Borrow { by: id, of: *of, page: *page, at: at.into() });
            }
            hand.act(Pass { chain: BROADCAST, by: id });
            if !crate::merge::finds_message(hand.run, id) {
                return;
            }
            found = hand.look(BROADCAST, id);
        }
        if matches!(found, Word::EndOfPage { .. }) {
            self.follow(hand, id);
        }
    }

    pub fn follow(&mut self, hand: &mut Hand, id: Id) {
        if hand.is_broken(Break::StaysAtEndOfPage) {
            self.pc = Pc::Drowsy;
            return;
        }
        if hand.is_broken(Break::GivesUpBeforeNextPage) {
            let chain = hand.bus().chain(BROADCAST);
            let reader = chain.reader(id);
            let end = reader.and_then(|reader| chain.page(reader.place.page)?.end());
            if let Some(to) = end.filter(|end| reader.is_some_and(|r| r.cursor != *end)) {
                hand.act(Release { chain: BROADCAST, by: id, to });
                self.pc = Pc::Looking { to_sleep: false };
                return;
            }
        }
        hand.act(Pass { chain: BROADCAST, by: id });
        self.pc = Pc::Turned;
    }

    pub fn next(&mut self, hand: &mut Hand, id: Id) {
        self.pc = match self.pc {
            Pc::Joining if hand.bus().process(id).life == Life::Unborn => {
                hand.act(Born { process: id });
                hand.act(Open { chain: id, len: crate::run::PAGE });
                Pc::Joining
            }
            Pc::Joining if hand.bus().chain(BROADCAST).reader(id).is_none() => {
                hand.act(End { process: id });
                Pc::Over
            }
            Pc::Rejoining if hand.bus().chain(BROADCAST).reader(id).is_none() => {
                hand.act(End { process: id });
                Pc::Over
            }
            Pc::Joining | Pc::Rejoining => Pc::Going,
            Pc::Written(word) => {
                Pen::publish(hand, id, word);
                self.sent += 1;
                if hand.bus().process(id).owed_rings.is_empty() {
                    Pc::Going
                } else {
                    Pc::Looking { to_sleep: false }
                }
            }
            Pc::Looking { to_sleep } => {
                check_for_sleeper(hand, id, BROKER);
                match (hand.bus().process(id).must_ring.has(BROKER), to_sleep) {
                    (true, _) => Pc::Ringing { to_sleep },
                    (false, true) => Pc::LookingAgain,
                    (false, false) => Pc::Going,
                }
            }
            Pc::Ringing { to_sleep } => {
                hand.act(Ring { by: id, to: BROKER });
                if to_sleep { Pc::LookingAgain } else { Pc::Going }
            }
            Pc::Turned => {
                if let Some(to) = hand.must_release(BROADCAST, id) {
                    hand.act(Release { chain: BROADCAST, by: id, to });
                }
                Pc::Looking { to_sleep: false }
            }
            Pc::Drowsy => {
                hand.act(Wake { by: id });
                self.is_closed = !hand.bus().lives(BROKER);
                match hand.must_release(BROADCAST, id) {
                    Some(to) => {
                        hand.act(Release { chain: BROADCAST, by: id, to });
                        Pc::Parking
                    }
                    None => self.park(hand, id),
                }
            }
            Pc::Parking => self.park(hand, id),
            Pc::LookingAgain => self.look_again(hand, id),
            Pc::AskingAgain => {
                let cursor = hand.bus().chain(id).reader(BROKER).map_or(0, |r| r.cursor);
                hand.act(Learn { chain: id, by: BROKER, cursor });
                if !hand.is_broken(Break::RetiredReadBeforeCursor) {
                    hand.learn_retired(id);
                }
                let place = hand.bus().chain(id).tail;
                if hand.drop_retired(id, place) || hand.free_page(id, place).is_some() {
                    self.up(hand, id)
                } else {
                    doze(hand, id, true)
                }
            }
            Pc::Asleep => {
                hand.act(Wake { by: id });
                self.is_closed = !hand.bus().lives(BROKER);
                Pc::Waking
            }
            Pc::Waking => {
                if hand.is_broken(Break::RingsBack) {
                    hand.act(Ring { by: id, to: BROKER });
                }
                self.up(hand, id)
            }
            Pc::Going | Pc::Found | Pc::Copied | Pc::HasInHand | Pc::Over => unreachable!(),
        };
    }

    fn park(&mut self, hand: &mut Hand, id: Id) -> Pc {
        let polls = hand.bus().process(id).is_polling;
        hand.act(Park { by: id });
        if hand.is_broken(Break::ParksPolling) {
            hand.run.bus.process_mut(id).is_polling = polls;
        }
        hand.act(ParkFence { by: id });
        if hand.bus().process(id).owed_rings.is_empty() {
            Pc::LookingAgain
        } else {
            Pc::Looking { to_sleep: true }
        }
    }

    fn look_again(&mut self, hand: &mut Hand, id: Id) -> Pc {
        if hand.is_broken(Break::NoSecondLook) {
            return doze(hand, id, false);
        }
        if hand.look(BROADCAST, id) != Word::Zero || self.is_closed {
            self.up(hand, id)
        } else if self.is_full {
            Pc::AskingAgain
        } else {
            doze(hand, id, false)
        }
    }

    fn up(&mut self, hand: &mut Hand, id: Id) -> Pc {
        hand.act(Unpark { by: id });
        self.is_full = false;
        Pc::Going
    }
}

/// Blocks. Blocking and being woken at once is the same as not blocking, so it always blocks.
fn doze(hand: &mut Hand, id: Id, room: bool) -> Pc {
    hand.act(Sleep { by: id, message: true, room });
    Pc::Asleep
}

//! The steps of clients and brokers. Each is one store that outlives its process, or one packet.

use super::moves::{Move, free_places};
use super::promises::harm;
use super::state::*;
use super::{Break, Setup};
use crate::state::{Id, Set};

impl Setup {
    pub fn begin(&self) -> Bus {
        let client = Client {
            lives: true,
            receives: true,
            link: Link::None,
            sent: 0,
            first: 0,
            judge: 0,
            place: 0,
            next_place: 0,
            segments: (0..=self.broker_deaths).map(|_| None).collect(),
            dropped: Set::NONE,
            was_late: false,
            was_cut: false,
        };
        let mut bus = Bus {
            clients: (0..self.clients).map(|_| client.clone()).collect(),
            brokers: Default::default(),
            roster: (0..self.clients).map(|_| 0).collect(),
            broker_deaths_left: self.broker_deaths,
            client_deaths_left: self.client_deaths,
            drops_left: self.drops,
            cuts_left: self.cuts,
            graces_left: self.graces,
            violation: None,
        };
        let receivers = usize::from(self.clients - self.senders);
        bus.clients.iter_mut().skip(receivers).for_each(|client| client.receives = false);
        self.make(&mut bus, Move::Succeed);
        bus
    }

    pub fn has(&self, broken: Break) -> bool {
        self.broken == Some(broken)
    }

    pub fn make(&self, bus: &mut Bus, what: Move) {
        match what {
            Move::Send(id) => bus.client_mut(id).sent += 1,
            Move::Admit(id) => self.admit(bus, id),
            Move::Restart(id) => self.restart(bus, id),
            Move::Page(id) => {
                let (first, at) = (bus.client(id).first, bus.client(id).place);
                bus.last_mut().places[usize::from(at)].next = Some(first);
                bus.client_mut(id).link = Link::Member(bus.epoch());
            }
            Move::AskAgain(id) | Move::FindOut(id) => bus.client_mut(id).link = Link::Over,
            Move::Step { drops } => self.step(bus, drops),
            Move::Free(at) => {
                let place = &mut bus.last_mut().places[usize::from(at)];
                (place.next, place.is_used) = (None, false);
                let owner = place.owner;
                if !self.has(Break::OwnerKept) {
                    place.owner = None;
                }
                owner.into_iter().for_each(|id| bus.strike(id));
            }
            Move::SeeDeath(id) => {
                bus.last_mut().waits_for.remove(id);
                bus.strike(id);
            }
            Move::Expire => {
                bus.graces_left -= 1;
                let late = bus.last().waits_for;
                late.iter().for_each(|id| bus.client_mut(id).was_late = true);
                if self.has(Break::ExpiryWrittenLate) {
                    bus.last_mut().waits_for = Set::NONE;
                } else {
                    bus.last_mut().step = Step::Expiring(late);
                }
            }
            Move::Cut(id) => {
                bus.cuts_left -= 1;
                let epoch = bus.epoch();
                let client = bus.client_mut(id);
                (client.link, client.was_cut) = (Link::Cut(epoch), true);
                if !self.has(Break::CutStaysInRoster) {
                    bus.strike(id);
                }
                if self.has(Break::HangUpIsDeath) {
                    self.decide(bus, id);
                }
            }
            Move::Succeed => self.succeed(bus),
            Move::KillClient(id) => {
                bus.client_deaths_left -= 1;
                bus.client_mut(id).lives = false;
            }
            Move::KillBroker => {
                bus.broker_deaths_left -= 1;
                let broker = bus.last_mut();
                // Its private state is gone.
                (broker.lives, broker.step) = (false, Step::Taking(0));
                (broker.batch, broker.waits_for) = (Default::default(), Set::NONE);
                for place in &mut broker.places {
                    (place.next, place.is_due) = (None, false);
                }
            }
        }
        bus.violation = harm(bus);
    }

    fn succeed(&self, bus: &mut Bus) {
        let waits_for = match self.has(Break::RosterForgotten) && bus.epoch() > 0 {
            // Those that came to the last broker alone.
            true => members(bus),
            false => set(bus.ids().filter(|id| bus.is_known(*id))),
        };
        bus.brokers.push(Broker {
            lives: true,
            log: Default::default(),
            batch: Default::default(),
            places: (0..self.places).map(|_| Place::default()).collect(),
            waits_for,
            step: Step::Taking(0),
        });
    }

    /// Writes the roster and the place. `Start` comes next.
    fn admit(&self, bus: &mut Bus, id: Id) {
        let at = free_places(bus).next().expect("a free place");
        let place = &mut bus.last_mut().places[usize::from(at)];
        let owner = if self.has(Break::OwnerKept) { place.owner } else { Some(id) };
        *place = Place { owner, is_used: true, ..Place::default() };
        let broker = bus.last_mut();
        broker.waits_for.remove(id);
        broker.step = Step::Admitting(id);
        bus.client_mut(id).next_place = at;
        if self.has(Break::AdmittedBeforeWritten) {
            start(bus, id);
        } else {
            enter(bus, id);
        }
        if self.has(Break::RosterWithoutEpoch) {
            bus.roster[usize::from(id)] = 1;
        }
    }

    /// A client decides what its last broker took, and begins a chain for the next one.
    fn restart(&self, bus: &mut Bus, id: Id) {
        let Link::Started { epoch, at, since } = bus.client(id).link else { unreachable!() };
        let was_decided = self.has(Break::HangUpIsDeath) && bus.client(id).was_cut;
        if !was_decided {
            self.decide(bus, id);
        }
        let client = bus.client_mut(id);
        let has_gap = client.judge > 0 && since > client.judge;
        client.segments[usize::from(epoch) - 1] = Some(Segment { from: at, has_gap });
        (client.judge, client.link) = (epoch, Link::Answered(epoch));
        client.place = client.next_place;
    }

    /// Sets the first message of the next chain.
    fn decide(&self, bus: &mut Bus, id: Id) {
        let Client { judge, place, first, .. } = *bus.client(id);
        if judge == 0 {
            return;
        }
        let broker = bus.broker(judge);
        let end = match self.has(Break::EndIsWhereItReads) {
            // It may have read nothing of what that broker published last.
            true => 0,
            false => broker.log.len() as u8,
        };
        let Place { cursor, published, taken, .. } = broker.places[usize::from(place)];
        let mut first = first.max(cursor.unwrap_or(0));
        if published > 0 && published <= end && !self.has(Break::NoIntent) {
            first = first.max(taken);
        }
        bus.client_mut(id).first = first;
    }

    fn step(&self, bus: &mut Bus, drops: bool) {
        let step = bus.last().step;
        let broker = bus.last_mut();
        match step {
            Step::Taking(at) => self.take(bus, at, drops),
            Step::Intending(at, is_second) => {
                let published = broker.log.len() as u8 + 1;
                let place = &mut broker.places[usize::from(at)];
                match is_second != self.has(Break::TakenBeforePublished) {
                    false => place.published = published,
                    true => place.taken = place.next.expect("it has its page"),
                }
                broker.step = match is_second {
                    false => Step::Intending(at, true),
                    true => self.after_intent(broker, at + 1),
                };
            }
            Step::Publishing => {
                let batch = std::mem::take(&mut broker.batch);
                broker.log.extend(batch);
                broker.step = match self.has(Break::IntentAfterPublish) {
                    true => Step::Intending(first_due(broker, 0).unwrap_or(0), false),
                    false => storing(broker, 0),
                };
            }
            Step::Storing(at) => {
                let place = &mut broker.places[usize::from(at)];
                place.is_due = false;
                if !self.has(Break::CursorNotStored) {
                    place.cursor = place.next;
                }
                broker.step = storing(broker, at + 1);
            }
            Step::Admitting(id) => {
                broker.step = Step::Taking(0);
                if self.has(Break::AdmittedBeforeWritten) {
                    enter(bus, id);
                    return;
                }
                let at = usize::from(bus.client(id).next_place);
                bus.last_mut().places[at].owner = Some(id);
                start(bus, id);
            }
            Step::Expiring(late) => {
                (broker.step, broker.waits_for) = (Step::Taking(0), Set::NONE);
                late.iter().for_each(|id| bus.strike(id));
            }
        }
    }

    /// Takes one message of the client at this place, if there is one, and goes on.
    fn take(&self, bus: &mut Bus, at: u8, drops: bool) {
        let count = bus.last().places.len() as u8;
        let has_one = bus.waiting(at) > 0;
        let place = &bus.last().places[usize::from(at)];
        if has_one && let (Some(id), Some(next)) = (place.owner, place.next) {
            if drops {
                bus.drops_left -= 1;
                bus.client_mut(id).dropped.insert(next);
            } else {
                bus.last_mut().batch.push((id, next));
            }
            let place = &mut bus.last_mut().places[usize::from(at)];
            (place.next, place.is_due) = (Some(next + 1), true);
        }
        let broker = bus.last_mut();
        broker.step = if at + 1 < count {
            Step::Taking(at + 1)
        } else if broker.batch.is_empty() {
            storing(broker, 0)
        } else if self.has(Break::IntentAfterPublish) {
            Step::Publishing
        } else {
            self.after_intent(broker, 0)
        };
    }

    /// Returns the step after the intents before this place.
    fn after_intent(&self, broker: &Broker, from: u8) -> Step {
        match first_due(broker, from) {
            Some(at) if !self.has(Break::NoIntent) => Step::Intending(at, false),
            _ if self.has(Break::IntentAfterPublish) => storing(broker, 0),
            _ => Step::Publishing,
        }
    }
}

fn first_due(broker: &Broker, from: u8) -> Option<u8> {
    (from..broker.places.len() as u8).find(|at| broker.places[usize::from(*at)].is_due)
}

fn storing(broker: &Broker, from: u8) -> Step {
    first_due(broker, from).map_or(Step::Taking(0), Step::Storing)
}

/// Writes a client into the roster, unless it is there.
fn enter(bus: &mut Bus, id: Id) {
    let epoch = bus.epoch();
    let since = &mut bus.roster[usize::from(id)];
    *since = if *since > 0 { *since } else { epoch };
}

/// Sends `Start`.
fn start(bus: &mut Bus, id: Id) {
    let (epoch, at) = (bus.epoch(), bus.last().log.len() as u8);
    let since = bus.roster[usize::from(id)];
    let since = if since > 0 { since } else { epoch };
    bus.client_mut(id).link = Link::Started { epoch, at, since };
}

/// Returns the clients whose first page the last broker has.
fn members(bus: &Bus) -> Set {
    set(bus.ids().filter(|id| bus.client(*id).link == Link::Member(bus.epoch())))
}

fn set(ids: impl Iterator<Item = Id>) -> Set {
    let mut set = Set::NONE;
    ids.for_each(|id| set.insert(id));
    set
}

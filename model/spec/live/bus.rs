//! The properties that hold in each fair run of a bus.
//!
//! Each process is owed weak fairness: a process that can always continue takes a step again and
//! again. Which of its steps it takes is its own choice. These steps are owed nothing, so a run may
//! have none of them: deaths, the removal of a client that lives, a client that joins, and a sleep
//! that ends by itself.
//!
//! A coarse model receives a message before any other process moves. That step is on no cycle,
//! because the receiver's position only grows. So no process is disabled by it on a cycle.

use super::graph::{Class, Classes, LeadsTo, System};
use crate::broker::{HONEST, Pc};
use crate::explore::Move;
use crate::polling::POLLS;
use crate::promises::is_held_by_hostile;
use crate::run::{Run, Setup};
use crate::state::*;
use stateright::Model;

impl System for Setup {
    type State = Run;
    type Step = Move;

    fn begin(&self) -> Run {
        self.begin()
    }

    fn steps(&self, run: &Run) -> Vec<(Move, Run)> {
        let mut moves = Vec::new();
        self.actions(run, &mut moves);
        moves.into_iter().map(|what| (what, self.make(run, what))).collect()
    }

    fn fairness(&self) -> Vec<Class> {
        let clients = (1..=self.scripts.len()).map(|id| Class::weak(format!("client {id}")));
        [Class::weak("the broker")].into_iter().chain(clients).collect()
    }

    fn classes(&self, run: &Run, what: &Move) -> Classes {
        match *what {
            Move::Client(id, _) if run.bus.process(id).life == Life::Unborn => 0,
            Move::Client(id, _) => 1 << id,
            Move::Broker(_) => 1 << BROKER,
            Move::Remove | Move::Wakes(_) | Move::Death(..) => 0,
        }
    }

    fn harm(&self, run: &Run) -> Option<String> {
        Some(run.violation.clone().or_else(|| self.undone(run))?.to_string())
    }

    fn show(&self, run: &Run, what: &Move, next: &Run) -> String {
        let client = |id: Id| usize::from(id) - 1;
        let pcs = |id: Id| match id {
            BROKER => format!("{:?} -> {:?}", run.broker.pc, next.broker.pc),
            _ => format!("{:?} -> {:?}", run.clients[client(id)].pc, next.clients[client(id)].pc),
        };
        let name = |id: Id| match id {
            BROKER => "the broker".to_string(),
            _ => format!("client {id}"),
        };
        match *what {
            Move::Client(id, step) => format!("{}: {step:?}, {}", name(id), pcs(id)),
            Move::Broker(HONEST) => format!("the broker: {}", pcs(BROKER)),
            Move::Broker(POLLS) if run.broker.pc == Pc::Finishing => {
                format!("the broker polls, {}", pcs(BROKER))
            }
            Move::Broker(choice) => format!("the broker: choice {choice}, {}", pcs(BROKER)),
            Move::Wakes(id) => format!("{} wakes by itself, {}", name(id), pcs(id)),
            Move::Death(id, ..) => format!("{} dies, {}", name(id), pcs(id)),
            Move::Remove => "the broker removes the last client".to_string(),
        }
    }
}

/// Returns the properties that a setup must have. Each says something in a run of it.
pub fn properties(setup: &Setup) -> Vec<LeadsTo<Run>> {
    let honest = setup.scripts.len() as Id - Id::from(setup.has_faults > 0);
    let clients = 1..=honest;
    let mut properties = Vec::new();
    for sender in clients.clone() {
        let script = setup.scripts[usize::from(sender) - 1];
        let messages = script.iter().map(|batch| u16::from(*batch)).sum();
        for number in 0..messages {
            properties.extend(clients.clone().map(|to| is_delivered(sender, number, to)));
        }
        properties.extend((0..script.len()).map(|batch| is_sent(sender, batch)));
        if u32::from(messages) > 2 * setup.pages {
            properties.extend([finds_room(sender), wakes_for_room(sender)]);
        }
        properties.push(wakes_for_message(sender));
    }
    properties.push(broker_wakes_for_message());
    if setup.deaths > 0 {
        properties.extend(clients.clone().flat_map(|id| [ends_after_broker(id), is_freed(id)]));
    }
    if setup.deaths > 0 || setup.late > 0 {
        properties.push(broker_wakes_for_news());
    }
    if setup.by_ref {
        properties.push(is_released());
    }
    if setup.removal.is_some() {
        let is_removed = |run: &Run| !run.bus.removed.is_empty();
        let name = "a removed client lives on for ever";
        properties.push(LeadsTo::new(10, name, is_removed, move |run| !is_removed(run)));
    }
    if !setup.polls {
        let name = "the bus never comes to rest";
        let rests = |bus: &Bus, id| {
            let process = bus.process(id);
            !bus.lives(id) || process.is_asleep || process.is_hostile
        };
        let rest = move |run: &Run| run.bus.ids().all(|id| rests(&run.bus, id));
        properties.push(LeadsTo::new(11, name, |_| true, rest));
    }
    properties
}

/// Returns how many messages of a sender a receiver has received or was not there for.
fn received(bus: &Bus, sender: Id, reader: &Reader) -> u16 {
    let chain = bus.chain(BROADCAST);
    let first = chain.published - chain.log.len() as u16;
    let left = usize::from(reader.next.saturating_sub(first));
    let left = chain.log.iter().skip(left).filter(|(from, _)| *from == sender).count();
    bus.chain(sender).forwarded - left as u16
}

/// P3, P4: a committed message is received by each member that lives. No process waits for a
/// hostile receiver that never advances, but its pages do.
fn is_delivered(sender: Id, number: u16, to: Id) -> LeadsTo<Run> {
    let is_owed = move |run: &Run| {
        let is_committed = run.bus.chain(sender).published > number;
        is_committed && run.bus.lives(BROKER) && run.bus.chain(BROADCAST).reader(to).is_some()
    };
    let has_it = move |run: &Run| {
        let reader = run.bus.chain(BROADCAST).reader(to);
        let has_it = reader.is_some_and(|r| received(&run.bus, sender, r) > number);
        !run.bus.lives(to) || has_it || is_held_by_hostile(&run.bus)
    };
    let name = format!("client {to} never receives message {number} of client {sender}, and lives");
    LeadsTo::new(3, name, is_owed, has_it)
}

/// P9: a client that has something to send sends it, or ends.
fn is_sent(sender: Id, batch: usize) -> LeadsTo<Run> {
    let sent = move |run: &Run| usize::from(run.clients[usize::from(sender) - 1].sent);
    let waits = move |run: &Run| run.bus.lives(sender) && sent(run) == batch;
    let done = move |run: &Run| !waits(run) || is_held_by_hostile(&run.bus);
    let name = format!("client {sender} never sends its batch {batch}, and lives");
    LeadsTo::new(9, name, waits, done)
}

/// P9: a client that waits for room gets it, or ends.
fn finds_room(id: Id) -> LeadsTo<Run> {
    let waits = move |run: &Run| run.bus.lives(id) && run.clients[usize::from(id) - 1].is_full;
    let done = move |run: &Run| !run.bus.lives(id) || has_room(&run.bus, id);
    let name = format!("client {id} waits for room for ever, and lives");
    LeadsTo::new(9, name, waits, move |run| done(run) || is_held_by_hostile(&run.bus))
}

/// P9: a message by reference that all have received is released.
fn is_released() -> LeadsTo<Run> {
    let is_over = |run: &Run| {
        let bus = &run.bus;
        let readers = bus.chain(BROADCAST).readers.iter();
        let passed = readers.map(|reader| reader.place.position).min().unwrap_or(u32::MAX);
        bus.held.iter().any(|held| bus.is_held_back(held) && held.until <= passed)
    };
    let name = "a message by reference is never released, and all have received it";
    LeadsTo::new(9, name, is_over, move |run| !is_over(run) || is_held_by_hostile(&run.bus))
}

/// P10: while `has_work` holds, a process does not sleep for ever.
fn wakes(
    id: Id,
    name: impl Into<String>,
    has_work: impl Fn(&Run) -> bool + 'static,
) -> LeadsTo<Run> {
    let is_asleep = move |run: &Run| run.bus.lives(id) && run.bus.process(id).is_asleep;
    let asks = move |run: &Run| is_asleep(run) && has_work(run);
    LeadsTo::new(10, name, asks, move |run| !is_asleep(run))
}

fn wakes_for_message(id: Id) -> LeadsTo<Run> {
    let name = format!("client {id} sleeps for ever, and a message is there");
    wakes(id, name, move |run| has_message(&run.bus, BROADCAST, id))
}

fn wakes_for_room(id: Id) -> LeadsTo<Run> {
    let name = format!("client {id} sleeps for ever, and room is there");
    let waits = move |run: &Run| run.clients[usize::from(id) - 1].is_full;
    wakes(id, name, move |run| waits(run) && has_room(&run.bus, id))
}

fn broker_wakes_for_message() -> LeadsTo<Run> {
    wakes(BROKER, "the broker sleeps for ever, and can forward a message", |run| {
        let (bus, chain) = (&run.bus, run.bus.chain(BROADCAST));
        let has_room = chain.has_room(chain.tail) || has_room(bus, BROADCAST);
        has_room && bus.ids().skip(1).any(|id| has_message(bus, id, BROKER))
    })
}

fn broker_wakes_for_news() -> LeadsTo<Run> {
    wakes(BROKER, "the broker sleeps for ever, and a client has come or gone", |run| {
        let bus = &run.bus;
        let is_gone = |id| bus.process(id).life == Life::Ended && bus.chain(id).is_open();
        let is_known = |id| bus.chain(BROADCAST).reader(id).is_some();
        let is_new = |id| bus.lives(id) && bus.chain(id).is_open() && !is_known(id);
        bus.ids().skip(1).any(|id| is_gone(id) || is_new(id))
    })
}

/// Returns whether a page of a chain can be written again.
fn has_room(bus: &Bus, chain: Id) -> bool {
    let chain = bus.chain(chain);
    let left = chain.passed_by_all();
    chain.pages.iter().any(|page| page.id != chain.tail.page && page.is_free(left))
}

fn has_message(bus: &Bus, chain: Id, by: Id) -> bool {
    let chain = bus.chain(chain);
    let word = chain.reader(by).and_then(|reader| chain.word(reader.place));
    word.is_some_and(|word| word != Word::Zero)
}

/// P5: a client whose broker has died ends.
fn ends_after_broker(id: Id) -> LeadsTo<Run> {
    let is_left = move |run: &Run| !run.bus.lives(BROKER) && run.bus.lives(id);
    let name = format!("client {id} never reports the death of its broker");
    LeadsTo::new(5, name, is_left, move |run| !run.bus.lives(id))
}

/// P7: the memory of a client that has died comes back.
fn is_freed(id: Id) -> LeadsTo<Run> {
    let holds = move |run: &Run| {
        let is_held = run.bus.chain(id).is_open() || run.bus.chain(BROADCAST).reader(id).is_some();
        run.bus.lives(BROKER) && run.bus.process(id).life == Life::Ended && is_held
    };
    let name = format!("the broker never frees the memory of client {id}, which is gone");
    LeadsTo::new(7, name, holds, move |run| !holds(run))
}

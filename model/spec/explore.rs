//! The bus as a model of stateright's, and its exploration.

use crate::broker::{self, Broker};
use crate::client::{self, Client, Pc};
use crate::grouped::grouped;
use crate::merge;
use crate::polling;
use crate::promises::{harm, is_held_by_hostile, unmet};
use crate::protocol::{Action, Violation};
use crate::reading::{Reads, is_reading};
use crate::removal;
use crate::report::report;
use crate::run::{HEADER, Hand, PAGE, Run, Setup};
use crate::state::*;
use smallvec::SmallVec;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};
use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::hash::BuildHasherDefault;
use std::time::Instant;

/// A process and its move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    Client(Id, client::Step),
    Broker(broker::Choice),
    /// The broker removes or skips the last client, which lives.
    Remove,
    /// A sleep ends by itself.
    Wakes(Id),
    /// A process is killed after the given number of accesses of its next move.
    Death(Id, Next, u8),
}

/// The next move of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    Nothing,
    Client(client::Step),
    Broker(broker::Choice),
}

const ALWAYS: &str = "no rule is broken and no harm is done";
const QUIET: &str = "who stops has nothing left to do";

type Moves = SmallVec<[Move; 12]>;

impl Setup {
    fn moves(&self, run: &Run) -> Moves {
        let mut moves = Moves::new();
        for id in 1..=run.clients.len() as Id {
            if !self.fine && merge::finds_message(run, id) {
                return Moves::from_slice(&[Move::Client(id, client::Step::Receive)]);
            }
            moves.extend(client::steps(self, run, id).map(|step| Move::Client(id, step)));
        }
        moves.extend((0..broker::steps(self, run)).map(Move::Broker));
        moves
    }

    fn deaths(&self, run: &Run, moves: &Moves) -> Moves {
        let alive = run.bus.ids().filter(|id| run.bus.lives(*id));
        let mut deaths: Moves = alive.map(|id| Move::Death(id, Next::Nothing, 0)).collect();
        for what in moves {
            let (id, next) = match *what {
                Move::Client(id, step) => (id, Next::Client(step)),
                Move::Broker(choice) => (BROKER, Next::Broker(choice)),
                Move::Death(..) | Move::Remove | Move::Wakes(_) => continue,
            };
            let accesses = self.advance(&mut run.clone(), id, next, u8::MAX);
            deaths.extend((1..accesses).map(|after| Move::Death(id, next, after)));
        }
        deaths
    }

    /// Lets a process take the steps that belong together, with at most `most` accesses. Returns
    /// the number of accesses.
    fn advance(&self, run: &mut Run, id: Id, next: Next, most: u8) -> u8 {
        let mut hand = Hand { setup: self, run };
        for done in 0..most {
            let goes_on = match next {
                Next::Nothing => return 0,
                Next::Client(step) => {
                    let step = if done == 0 { step } else { client::Step::Next };
                    client::step(&mut hand, id, step);
                    merge::client_goes_on(hand.run, id)
                }
                Next::Broker(choice) => {
                    let before = hand.run.broker.pc;
                    broker::step(&mut hand, if done == 0 { choice } else { broker::HONEST });
                    merge::broker_goes_on(hand.run, before) && broker::steps(self, hand.run) == 1
                }
            };
            if self.fine || !goes_on || hand.run.violation.is_some() {
                return done + 1;
            }
        }
        most
    }

    /// Returns whether no process can do anything but die.
    fn is_quiet(&self, run: &Run) -> bool {
        run.violation.is_none() && self.moves(run).is_empty()
    }

    /// Returns what is never done.
    pub fn undone(&self, run: &Run) -> Option<Violation> {
        if !self.is_quiet(run) {
            return None;
        }
        let is_stuck = |(i, me): (usize, &Client)| {
            let honest = !run.bus.process(i as Id + 1).is_hostile;
            let unsent = usize::from(me.sent) < self.scripts[i].len();
            honest && unsent && me.pc != Pc::Over
        };
        if run.clients.iter().enumerate().any(is_stuck) && !is_held_by_hostile(&run.bus) {
            let why = "a sender waits for ever although there is room".into();
            return Some(Violation { promise: 9, why });
        }
        unmet(&run.bus)
    }

    pub fn begin(&self) -> Run {
        let sizes = Sizes { header: HEADER, budget: self.pages * PAGE, bells: true };
        let mut bus = Bus::new(sizes);
        let clients = self.scripts.len();
        bus.know(clients as Id);
        let mut run = Run {
            bus,
            broker: Broker::new(),
            clients: (0..clients).map(|_| Client::new()).collect(),
            deaths_left: self.deaths,
            faults_left: self.has_faults,
            removal: self.removal,
            removals_left: self.skips.max(self.removal.is_some().into()),
            discarded: false,
            tore: false,
            violation: None,
        };
        let mut hand = Hand { setup: self, run: &mut run };
        hand.act(Action::Born { process: BROKER });
        hand.act(Action::Open { chain: BROKER, len: PAGE });
        for id in 1..=(clients - self.late) as Id {
            hand.act(Action::Born { process: id });
            hand.act(Action::Open { chain: id, len: PAGE });
            hand.act(Action::Send { chain: BROADCAST, page: 0, to: id });
            let (page, position, number) = (0, HEADER, 0);
            hand.act(Action::Admit { chain: BROADCAST, by: id, page, position, number });
            hand.act(Action::Admit { chain: id, by: BROKER, page, position, number });
            hand.run.clients[usize::from(id) - 1].pc = Pc::Going;
        }
        if let Some(reads) = self.removal {
            assert_eq!(
                self.scripts[clients - 1].len(),
                0,
                "a client that may be removed sends nothing"
            );
            run.bus.process_mut(clients as Id).reads_in_place = reads == Reads::InPlace;
        }
        if self.has_faults > 0 {
            run.bus.process_mut(clients as Id).is_hostile = true;
            run.clients[clients - 1] = Client { pc: Pc::Over, ..Client::new() };
        }
        run
    }

    pub fn make(&self, run: &Run, what: Move) -> Run {
        let mut run = run.clone();
        match what {
            Move::Client(id, step) => {
                self.advance(&mut run, id, Next::Client(step), u8::MAX);
            }
            Move::Broker(choice) => {
                self.advance(&mut run, BROKER, Next::Broker(choice), u8::MAX);
            }
            Move::Wakes(BROKER) => {
                self.advance(&mut run, BROKER, Next::Broker(broker::HONEST), u8::MAX);
            }
            Move::Wakes(id) => {
                self.advance(&mut run, id, Next::Client(client::Step::Next), u8::MAX);
            }
            Move::Remove => removal::remove(&mut Hand { setup: self, run: &mut run }),
            Move::Death(id, next, after) => {
                self.advance(&mut run, id, next, after);
                self.kill(&mut run, id);
            }
        }
        if let Move::Client(id, client::Step::Receive) = what {
            run.violation = run.violation.or_else(|| ended_too_early(&run.bus, id));
        }
        if run.violation.is_none() {
            run.violation = harm(&run.bus);
        }
        merge::settle(self, &mut run);
        run
    }

    fn kill(&self, run: &mut Run, id: Id) {
        run.deaths_left -= 1;
        if id == BROKER {
            run.tore |= run.broker.run.is_some();
            run.broker = Broker { pc: broker::Pc::Over, ..Broker::new() };
        } else {
            let me = &mut run.clients[usize::from(id) - 1];
            run.tore |= matches!(me.pc, Pc::Written(_));
            *me = Client { pc: Pc::Over, ..Client::new() };
        }
        // It may have hung up in the previous step.
        if run.bus.lives(id) {
            Hand { setup: self, run }.act(Action::End { process: id });
        }
    }

    fn successors(&self, run: &Run) -> Vec<Run> {
        let mut moves = Vec::new();
        self.actions(run, &mut moves);
        moves.into_iter().map(|what| self.make(run, what)).collect()
    }

    fn is_reached(&self, run: &Run, what: fn(&Run) -> bool) -> bool {
        run.violation.is_none() && what(run)
    }
}

impl Model for Setup {
    type State = Run;
    type Action = Move;

    fn init_states(&self) -> Vec<Run> {
        vec![self.begin()]
    }

    fn actions(&self, run: &Run, moves: &mut Vec<Move>) {
        if run.violation.is_some() {
            return;
        }
        let steps = self.moves(run);
        let received = matches!(steps[..], [Move::Client(id, _)] if !self.fine && merge::finds_message(run, id));
        if run.deaths_left > 0 && !received {
            moves.extend(self.deaths(run, &steps));
        }
        if !received && removal::may_remove(self, run) {
            moves.push(Move::Remove);
        }
        if !received {
            let ids = run.bus.ids().filter(|id| polling::may_wake(self, run, *id));
            moves.extend(ids.map(Move::Wakes));
        }
        moves.extend(steps);
    }

    fn next_state(&self, run: &Run, what: Move) -> Option<Run> {
        Some(self.make(run, what))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ALWAYS, |_: &Setup, run: &Run| run.violation.is_none()),
            Property::always(QUIET, |setup: &Setup, run: &Run| setup.undone(run).is_none()),
            Property::sometimes("everybody sleeps, and everything is delivered", |setup, run| {
                setup.is_reached(run, |run| {
                    run.bus.ids().all(|id| !run.bus.lives(id) || run.bus.process(id).is_asleep)
                }) && setup.is_quiet(run)
            }),
        ];
        let messages: u32 = self.scripts.iter().flat_map(|s| s.iter()).map(|n| u32::from(*n)).sum();
        if messages > 2 {
            properties.push(Property::sometimes("page turn", |setup: &Setup, run: &Run| {
                setup.is_reached(run, |run| run.bus.chain(BROADCAST).tail.position > PAGE)
            }));
        }
        if messages > 2 * self.pages {
            properties.push(Property::sometimes("reuse", |setup: &Setup, run: &Run| {
                setup.is_reached(run, |run| {
                    let chain = run.bus.chain(BROADCAST);
                    let all = chain.len();
                    let reused = |page: &Page| page.header.is_some_and(|(base, _)| base >= all);
                    chain.pages.iter().any(reused)
                })
            }));
            properties.push(Property::sometimes("full chain", |setup: &Setup, run: &Run| {
                setup.is_reached(run, |run| run.broker.blocked == broker::Blocked::Full)
            }));
        }
        if self.deaths > 0 {
            properties.push(Property::sometimes("death in mid-message", |setup: &Setup, run| {
                setup.is_reached(run, |run| run.tore)
            }));
        }
        if self.late > 0 {
            properties.push(Property::sometimes("late join", |setup: &Setup, run: &Run| {
                setup.is_reached(run, |run| {
                    let is_late = |reader: &Reader| reader.cursor == 0 && reader.next > 0;
                    run.bus.chain(BROADCAST).readers.iter().any(is_late)
                })
            }));
        }
        if let Some(reads) = self.removal {
            properties.push(sometimes(REMOVED_WHILE_IT_READS));
            properties.push(sometimes(if self.skips > 0 { RECEIVES_AGAIN } else { HAS_ENDED }));
            properties.push(sometimes(match reads {
                Reads::Copies => DISCARDED,
                Reads::InPlace => RETIRED,
            }));
            if reads == Reads::InPlace && self.by_ref {
                properties.push(sometimes(REF_RETIRED));
            }
        }
        if self.by_ref {
            properties.extend(BY_REF.map(sometimes));
            if self.scripts.iter().any(|s| s.iter().sum::<u8>() > 2 * self.pages as u8) {
                let name = "a sender has no room because messages refer to its pages";
                properties.push(Property::sometimes(name, waits_for_returns));
            }
            if self.deaths > 0 {
                properties.push(Property::sometimes("recall from the dead", recalled));
            }
        }
        properties
    }
}

type Condition = fn(&Setup, &Run) -> bool;

fn sometimes((name, condition): (&'static str, Condition)) -> Property<Setup> {
    Property { expectation: Expectation::Sometimes, name, condition }
}

// Conditions that a setup with a removed or skipped live receiver must reach.
const REMOVED_WHILE_IT_READS: (&str, Condition) =
    ("a receiver is removed while it reads", |setup, run| {
        setup.is_reached(run, |run| {
            run.clients.last().is_some_and(is_reading) && !run.bus.removed.is_empty()
        })
    });
const HAS_ENDED: (&str, Condition) = ("a removed receiver has ended", |setup, run| {
    let nobody_died = run.deaths_left == setup.deaths;
    setup.is_reached(run, |run| run.removals_left == 0 && !run.bus.lives(run.clients.len() as Id))
        && nobody_died
});
const RECEIVES_AGAIN: (&str, Condition) = ("a skipped receiver receives again", |setup, run| {
    setup.is_reached(run, |run| {
        let reader = run.bus.chain(BROADCAST).reader(run.clients.len() as Id);
        let is_reading = run.clients.last().is_some_and(is_reading);
        run.removals_left == 0 && is_reading && reader.is_some()
    })
});
const DISCARDED: (&str, Condition) =
    ("a changed copy is discarded", |setup, run| setup.is_reached(run, |run| run.discarded));
const RETIRED: (&str, Condition) =
    ("a page is dropped that a removed receiver reads", |setup, run| {
        setup.is_reached(run, |run| {
            let is_dropped = |it: &Removed| run.bus.word_under(it).is_none();
            run.bus.removed.iter().any(|it| it.reader.has_in_hand && is_dropped(it))
        })
    });
const REF_RETIRED: (&str, Condition) =
    ("a foreign page is dropped that a removed receiver reads", |setup, run| {
        setup.is_reached(run, |run| {
            let is_dropped = |it: &Removed| {
                it.reference.is_some_and(|(of, page, _)| run.bus.chain(of).page(page).is_none())
            };
            run.bus.removed.iter().any(|it| it.reader.has_in_hand && is_dropped(it))
        })
    });

/// Conditions that a setup with messages by reference must reach.
const BY_REF: [(&str, Condition); 4] = [
    ("a message by reference is read", |setup, run| {
        setup.is_reached(run, |run| run.bus.held.iter().any(|held| !run.bus.is_unread(held)))
    }),
    ("a cursor is held back", |setup, run| {
        setup.is_reached(run, |run| {
            let bus = &run.bus;
            let is_asleep = bus.process(BROKER).is_asleep;
            is_asleep && bus.held.iter().any(|held| bus.is_held_back(held))
        })
    }),
    ("everything is returned", |setup, run| {
        setup.is_reached(run, |run| {
            let is_back = |foreign_page: &ForeignPage| {
                run.bus.held.iter().all(|held| held.foreign_page != foreign_page.id)
            };
            run.bus.lives(BROKER) && run.bus.foreign_pages.iter().any(is_back)
        })
    }),
    ("a sleeping broker is woken by what is returned", |setup, run| {
        setup.is_reached(run, |run| {
            let (bus, passed) = (&run.bus, run.bus.chain(BROADCAST).passed_by_all());
            let is_woken = run.broker.pc == broker::Pc::Asleep && bus.process(BROKER).bell;
            is_woken && bus.held.iter().any(|held| bus.is_held_back(held) && held.until <= passed)
        })
    }),
];

/// Returns whether a sender's chain is full although the broker has consumed all of it.
fn waits_for_returns(setup: &Setup, run: &Run) -> bool {
    setup.is_reached(run, |run| {
        run.bus.held.iter().any(|held| {
            let chain = run.bus.chain(held.from);
            let taken = chain.reader(BROKER).is_some_and(|reader| reader.place == chain.tail);
            run.clients[usize::from(held.from) - 1].is_full && taken
        })
    })
}

/// Returns whether messages referred to a page of a client that is gone, and it has been released.
fn recalled(setup: &Setup, run: &Run) -> bool {
    setup.is_reached(run, |run| {
        let bus = &run.bus;
        let chain = bus.chain(BROADCAST);
        let known = chain.pages.len() + bus.foreign_pages.len();
        let is_gone = |id: Id| bus.process(id).life == Life::Ended && !bus.chain(id).is_open();
        bus.lives(BROKER) && usize::from(chain.next_page) > known && bus.ids().skip(1).any(is_gone)
    })
}

/// Returns the first rule that a run breaks, the first harm, or what is left undone.
pub fn judge(setup: &Setup) -> Option<Violation> {
    let checker = setup.clone().checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let last = |name| checker.discovery(name).map(|path| path.into_states().pop());
    let run = last(ALWAYS).or_else(|| last(QUIET))??;
    run.violation.clone().or_else(|| setup.undone(&run))
}

/// Returns whether a client ends after its broker and leaves messages behind. [P5]
fn ended_too_early(bus: &Bus, id: Id) -> Option<Violation> {
    let chain = bus.chain(BROADCAST);
    let left = chain.reader(id).is_some_and(|reader| reader.place != chain.tail);
    let why = "it ends without what its broker had committed".to_string();
    (left && bus.process(id).life == Life::Ended).then_some(Violation { promise: 5, why })
}

/// The extent of an exploration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    Exhaustive,
    /// This many transitions, depth first.
    CutAt(usize),
}

/// Explores everything, or up to the cut. Panics with the path to a violation, or names what was
/// not reached.
pub fn explore(name: &str, setup: &Setup, extent: Extent) {
    let start = Instant::now();
    let mut checker = setup.clone().checker().threads(2);
    if let Extent::CutAt(transitions) = extent {
        checker = checker.target_state_count(transitions);
    }
    // Exploring beyond the first violation would take long without benefit.
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let found = checker.discoveries();
    let (states, time) = (checker.unique_state_count(), start.elapsed().as_secs_f64());
    for always in [ALWAYS, QUIET] {
        if let Some(path) = found.get(always) {
            let last = path.last_state();
            for step in path.clone().into_actions() {
                report(&format!("  {step:?}"));
            }
            let why = last.violation.clone().or_else(|| setup.undone(last)).expect("a reason");
            panic!("{name}: not always {always}: {why}");
        }
    }
    let (extent, is_cut) = match extent {
        Extent::Exhaustive => ("exhaustive".to_string(), false),
        Extent::CutAt(transitions) => {
            (format!("cut at {} transitions", grouped(transitions)), true)
        }
    };
    for property in setup.properties() {
        let is_done = is_cut || [ALWAYS, QUIET].contains(&property.name);
        assert!(is_done || found.contains_key(property.name), "{name}: never {}", property.name);
    }
    report(&format!("spec {name}: {extent}, {} states in {time:.1} s", grouped(states)));
}

/// Follows all runs from beginning to end and panics if one returns to an earlier state. So all
/// runs are finite. With [`QUIET`], each ends with everything done. That is liveness, for processes
/// that are scheduled again and again.
pub fn every_run_ends(name: &str, setup: &Setup) {
    let start = Instant::now();
    let hash = |run: &Run| {
        std::hash::BuildHasher::hash_one(&BuildHasherDefault::<DefaultHasher>::default(), run)
    };
    let mut on_path: HashMap<u64, bool> = HashMap::new();
    let begin = setup.begin();
    on_path.insert(hash(&begin), true);
    let mut path = vec![(hash(&begin), setup.successors(&begin))];
    while let Some((here, rest)) = path.last_mut() {
        let Some(run) = rest.pop() else {
            on_path.insert(*here, false);
            path.pop();
            continue;
        };
        match on_path.entry(hash(&run)) {
            Entry::Occupied(known) => assert!(!known.get(), "{name}: a run goes in circles"),
            Entry::Vacant(new) => {
                path.push((*new.key(), setup.successors(&run)));
                new.insert(true);
            }
        }
    }
    let (states, time) = (grouped(on_path.len()), start.elapsed().as_secs_f64());
    report(&format!("spec {name}: every run ends, exhaustive, {states} states in {time:.1} s"));
}

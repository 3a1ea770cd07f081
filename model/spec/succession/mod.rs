//! Succession: brokers die one after the other, and clients go over to the next one.
//!
//! It is specified beside the bus of one broker, and before the code. [`state`] has what each
//! process knows, [`moves`] what it may do, [`steps`] what it does, [`promises`] what must hold. A process may be killed
//! between any two steps. Each step is one store that outlives its process, or one packet;
//! three steps of the broker between two cycles have several stores.
//!
//! The protocol, in short:
//!
//! * A broker writes an *intent* for each client before it publishes a batch: how long its chain is
//!   then, and how many of the client's messages it has taken then. It stores the cursors afterwards.
//! * A client that is answered by a later broker decides by the memory of the earlier one what that
//!   one took: the cursor, or the intent if its batch was published. It begins a new chain with the
//!   rest.
//! * The lock file has the roster of the clients. A broker publishes nothing until each receiver among
//!   them has come, is dead, or is late.
//!
//! The model leaves out pages, positions, sleeps, passing by reference, sessions of clients that
//! died, and hostile processes.

mod moves;
mod promises;
mod state;
mod steps;

use crate::explore::Extent;
use crate::grouped::grouped;
use crate::is_full;
use crate::protocol::Violation;
use crate::report::report;
use moves::{Move, is_free};
use promises::unmet;
use state::{Bus, Client, Link};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::Instant;

/// A bus, and what may happen to it.
#[derive(Clone, Debug)]
struct Setup {
    clients: u8,
    /// How many of them only send.
    senders: u8,
    /// Messages of each client.
    messages: u8,
    /// Entries of a broker's control region.
    places: u8,
    broker_deaths: u8,
    client_deaths: u8,
    /// Messages that a hook may drop.
    drops: u8,
    /// Connections that a living broker may end.
    cuts: u8,
    /// Grace periods that may be over before all have come.
    graces: u8,
    broken: Option<Break>,
}

/// A step that a program leaves out, or takes too early or too late.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Break {
    /// The broker writes no intent.
    NoIntent,
    /// The broker writes how much it has taken before it writes when that counts.
    TakenBeforePublished,
    /// The broker writes the intent after it has published.
    IntentAfterPublish,
    /// The broker relies on the intent and does not store the cursor before the next one.
    CursorNotStored,
    /// A client takes a hang-up for the broker's death, and decides at once what was taken.
    HangUpIsDeath,
    /// A client compares the intent with what it has read, not with all that was published.
    EndIsWhereItReads,
    /// A client does not check that its place in the broker's memory is still its own.
    OwnerUnread,
    /// The broker leaves the owner of a free place in the place, until the next client has it.
    OwnerKept,
    /// The broker publishes before all of the roster have come.
    PublishesAtOnce,
    /// The next broker waits only for those that had come to the last one.
    RosterForgotten,
    /// The broker sends `Start` before it writes the client into the roster.
    AdmittedBeforeWritten,
    /// The broker publishes without those that are late before it takes them off the roster.
    ExpiryWrittenLate,
    /// The broker disconnects a client and leaves it in the roster.
    CutStaysInRoster,
    /// The roster says that brokers wait for a client, and not since which epoch.
    RosterWithoutEpoch,
}

impl Break {
    const ALL: [Break; 14] = [
        Break::NoIntent,
        Break::TakenBeforePublished,
        Break::IntentAfterPublish,
        Break::CursorNotStored,
        Break::HangUpIsDeath,
        Break::EndIsWhereItReads,
        Break::OwnerUnread,
        Break::OwnerKept,
        Break::PublishesAtOnce,
        Break::RosterForgotten,
        Break::AdmittedBeforeWritten,
        Break::ExpiryWrittenLate,
        Break::CutStaysInRoster,
        Break::RosterWithoutEpoch,
    ];
}

const ALWAYS: &str = "each message comes once and in order";
const QUIET: &str = "when nothing happens any more, everything is delivered";

impl Setup {
    /// Returns what is never done, if no process will do anything any more.
    fn undone(&self, bus: &Bus) -> Option<Violation> {
        let is_quiet = self.moves(bus).into_iter().all(is_free);
        if is_quiet { unmet(bus) } else { None }
    }
}

impl Model for Setup {
    type State = Bus;
    type Action = Move;

    fn init_states(&self) -> Vec<Bus> {
        vec![self.begin()]
    }

    fn actions(&self, bus: &Bus, moves: &mut Vec<Move>) {
        if bus.violation.is_none() {
            moves.extend(self.moves(bus));
        }
    }

    fn next_state(&self, bus: &Bus, what: Move) -> Option<Bus> {
        let mut bus = bus.clone();
        self.make(&mut bus, what);
        Some(bus)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ALWAYS, |_: &Setup, bus: &Bus| bus.violation.is_none()),
            Property::always(QUIET, |setup: &Setup, bus: &Bus| setup.undone(bus).is_none()),
            Property::sometimes("an intent decides", |_, bus: &Bus| {
                bus.clients.iter().any(|client| {
                    let Link::Started { .. } = client.link else { return false };
                    let Some(judge) = client.judge.checked_sub(1) else { return false };
                    let broker = &bus.brokers[usize::from(judge)];
                    let place = &broker.places[usize::from(client.place)];
                    let counts = place.published > 0 && place.published <= broker.log.len() as u8;
                    counts && place.taken > place.cursor.unwrap_or(0)
                })
            }),
            Property::sometimes("messages move to a new chain", |setup, bus: &Bus| {
                // With one message all of it moves.
                let least = u8::from(setup.messages > 1);
                let moves = |it: &Client| it.judge > 1 && (least..it.sent).contains(&it.first);
                bus.clients.iter().any(moves)
            }),
            Property::sometimes("two brokers have published", |_, bus: &Bus| {
                bus.brokers.iter().filter(|broker| !broker.log.is_empty()).count() == 2
            }),
        ]
    }
}

/// Explores everything. Panics with the path to a violation, or names what was not reached.
fn explore(name: &str, setup: &Setup, extent: Extent) {
    let start = Instant::now();
    let mut checker = setup.clone().checker().threads(2);
    if let Extent::CutAt(transitions) = extent {
        checker = checker.target_state_count(transitions);
    }
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let found = checker.discoveries();
    for always in [ALWAYS, QUIET] {
        if let Some(path) = found.get(always) {
            let last = path.last_state();
            path.clone().into_actions().iter().for_each(|step| report(&format!("  {step:?}")));
            let why = last.violation.clone().or_else(|| setup.undone(last)).expect("a reason");
            panic!("{name}: not always {always}: {why}\n{last:#?}");
        }
    }
    for property in setup.properties().iter().filter(|it| ![ALWAYS, QUIET].contains(&it.name)) {
        assert!(found.contains_key(property.name), "{name}: never {}", property.name);
    }
    let (states, time) = (grouped(checker.unique_state_count()), start.elapsed().as_secs_f64());
    let extent = match extent {
        Extent::Exhaustive => "exhaustive".to_owned(),
        Extent::CutAt(transitions) => format!("cut at {} transitions", grouped(transitions)),
    };
    report(&format!("spec {name}: {extent}, {states} states in {time:.1} s"));
}

/// Returns the first harm, or what is left undone.
fn judge(setup: &Setup) -> Option<Violation> {
    let checker = setup.clone().checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    let last = |name| checker.discovery(name).map(|path| path.into_states().pop());
    let bus = last(ALWAYS).or_else(|| last(QUIET))??;
    bus.violation.clone().or_else(|| setup.undone(&bus))
}

/// Two clients that send three messages each. One broker dies, and one client.
const BUS: Setup = Setup {
    clients: 2,
    senders: 0,
    messages: 3,
    places: 2,
    broker_deaths: 1,
    client_deaths: 1,
    drops: 0,
    cuts: 0,
    graces: 0,
    broken: None,
};
/// Two messages each. Two brokers die, one after the other.
const TWICE: Setup = Setup { messages: 2, broker_deaths: 2, client_deaths: 0, ..BUS };

fn all(name: &str, setup: Setup) {
    explore(name, &setup, Extent::Exhaustive);
}

#[test]
fn p1_p2_p3_p4_a_broker_and_a_client_die() {
    all("succession", BUS);
    all("succession_drops", Setup { messages: 2, drops: 2, client_deaths: 0, ..BUS });
    all("succession_cuts", Setup { messages: 2, cuts: 1, graces: 1, client_deaths: 0, ..BUS });
}

#[test]
fn p1_p2_p3_two_brokers_die() {
    all("succession_twice", TWICE);
    all("succession_twice_late", Setup { messages: 1, graces: 1, ..TWICE });
    all("succession_twice_cuts", Setup { messages: 1, cuts: 1, ..TWICE });
    all("succession_twice_sender", Setup { senders: 1, ..TWICE });
    all("succession_twice_late_sender", Setup { messages: 1, senders: 1, graces: 1, ..TWICE });
    if is_full() {
        all("succession_twice_late_2_messages", Setup { graces: 1, ..TWICE });
        all("succession_3_clients", Setup { clients: 3, places: 3, messages: 1, ..BUS });
        let mortal = Setup { client_deaths: 1, cuts: 1, graces: 1, ..TWICE };
        explore("succession_twice_death", &mortal, Extent::CutAt(30_000_000));
    }
}

/// Returns the smallest bus on which a break does harm.
fn stage(broken: Break) -> Setup {
    let alone = Setup { clients: 1, places: 1, client_deaths: 0, ..BUS };
    let setup = match broken {
        Break::NoIntent
        | Break::TakenBeforePublished
        | Break::IntentAfterPublish
        | Break::CursorNotStored
        | Break::EndIsWhereItReads => alone,
        Break::HangUpIsDeath => Setup { cuts: 1, ..alone },
        Break::CutStaysInRoster => Setup { messages: 1, cuts: 1, client_deaths: 0, ..BUS },
        Break::OwnerUnread | Break::OwnerKept => {
            Setup { clients: 2, messages: 1, cuts: 1, client_deaths: 1, ..alone }
        }
        Break::PublishesAtOnce | Break::AdmittedBeforeWritten => {
            Setup { messages: 1, client_deaths: 0, ..BUS }
        }
        Break::RosterForgotten => Setup { messages: 1, broker_deaths: 2, client_deaths: 0, ..BUS },
        Break::ExpiryWrittenLate | Break::RosterWithoutEpoch => {
            Setup { messages: 1, broker_deaths: 2, client_deaths: 0, graces: 1, ..BUS }
        }
    };
    Setup { broken: Some(broken), ..setup }
}

#[test]
fn every_broken_succession_does_harm() {
    let mut survivors = Vec::new();
    for broken in Break::ALL {
        match judge(&stage(broken)) {
            Some(violation) => report(&format!("spec canary {broken:?}: {violation}")),
            None => survivors.push(broken),
        }
    }
    let (all, left) = (Break::ALL.len(), survivors.len());
    report(&format!("spec canaries of succession: {all}, {left} survived"));
    assert!(survivors.is_empty(), "no harm is done by {survivors:?}");
}

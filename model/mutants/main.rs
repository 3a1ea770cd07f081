//! Shows that the models can fail. This binary makes every mistake in orderings and in the order of
//! steps in turn, and a model must detect each.
//!
//! ```text
//! cargo test --features loom --test mutants
//! ```
//!
//! prints the matrix: the mutant, the model that kills it, after how many executions, in what time.
//! A mutant that no model kills fails the test, unless `docs/orderings.md` explains why it is
//! *equivalent*. An equivalent mutant that is killed fails the test, and so does a site without a
//! mutant. The same models first pass with production's protocol.

#[path = "../scenario/broker.rs"]
mod broker;
#[path = "../scenario/doorbell.rs"]
mod doorbell;
#[path = "../loom/explore.rs"]
#[allow(dead_code, reason = "its other half is for the proofs")]
mod explore;
#[path = "../grouped.rs"]
mod grouped;
#[path = "../loom/models.rs"]
#[allow(dead_code, reason = "not every model judges")]
mod models;
#[path = "../report.rs"]
mod report;
#[path = "../scenario/mod.rs"]
#[allow(dead_code, reason = "not every scenario judges")]
mod scenario;
#[path = "../scenario/sleepers.rs"]
mod sleepers;

use crate::scenario::doubles::{Step, Swap};
use explore::{Explored, Model, Protocol, explore, report};
use llmp::core::order::Site;
use std::any::Any;
use std::time::Instant;

/// The subject of a mutant, which decides the models that judge it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// The words and bytes of a chain.
    Chain,
    /// What a broker releases, and when.
    Broker,
    /// What a broker says that it has consumed, if it dies now.
    Intents,
    /// In what order another process sees that.
    IntentsRead,
    /// Sleeping and waking. In other scenarios no process rings, so an access that is delayed until
    /// a ring would never happen.
    Waking,
    /// Sleeping and waking of processes that poll before they sleep.
    Polling,
    /// Waking a process by one that also sees a process that polls.
    BesidePolling,
    /// What a broker forwards by reference, and when it releases it.
    ByRef,
    /// Sleeping until a message by reference is released.
    Returns,
    /// What a broker reads for its hook.
    Hooked,
    /// A release that is due because much was passed by reference.
    Due,
    /// An entry that is given to another client, while pages behind it are retired.
    Place,
    /// The consumed position that a broker publishes while it forwards by reference.
    Taken,
    /// A receiver that copies and reads on after its removal, in the broker's pages.
    Removed,
    /// The same in a client's pages.
    RemovedRef,
    /// The same for a receiver that reads in place.
    RemovedInPlace,
}

/// A model that judges, with the number of preemptions that it explores here. Mistakes show with
/// few.
struct Judge {
    model: Model,
    subject: Subject,
    bound: usize,
}

/// In ascending order of cost.
const JUDGES: &[Judge] = &[
    Judge { model: models::COMMIT_1, subject: Subject::Chain, bound: 2 },
    Judge { model: models::BATCH, subject: Subject::Chain, bound: 2 },
    Judge { model: models::TURNS, subject: Subject::Chain, bound: 2 },
    Judge { model: models::REUSE_1, subject: Subject::Chain, bound: 3 },
    Judge { model: models::DROPPED_CLAIMS, subject: Subject::Chain, bound: 3 },
    Judge { model: models::BROKER, subject: Subject::Broker, bound: 2 },
    Judge { model: models::INTENTS, subject: Subject::Intents, bound: 1 },
    Judge { model: models::INTENTS_READ, subject: Subject::IntentsRead, bound: 2 },
    Judge { model: models::WAKE_RECEIVER, subject: Subject::Waking, bound: 3 },
    Judge { model: models::WAKE_SENDER, subject: Subject::Waking, bound: 3 },
    Judge { model: models::WAKE_BOTH, subject: Subject::Waking, bound: 2 },
    Judge { model: models::WAKE_RECEIVER_POLLING, subject: Subject::Polling, bound: 3 },
    Judge { model: models::WAKE_SENDER_POLLING, subject: Subject::Polling, bound: 3 },
    Judge { model: models::WAKE_SENDER_TWICE_POLLING, subject: Subject::Polling, bound: 3 },
    Judge { model: models::WAKE_BOTH_POLLING, subject: Subject::Polling, bound: 1 },
    Judge { model: models::BROKER_BESIDE_POLLING, subject: Subject::BesidePolling, bound: 3 },
    Judge { model: models::REF, subject: Subject::ByRef, bound: 3 },
    Judge { model: models::REF_BROKER_ASLEEP, subject: Subject::Returns, bound: 3 },
    Judge { model: models::REF_HOOKED, subject: Subject::Hooked, bound: 3 },
    Judge { model: models::REF_DUE_1, subject: Subject::Due, bound: 3 },
    Judge { model: models::PLACE_REMOVED, subject: Subject::Place, bound: 3 },
    Judge { model: models::REMOVED, subject: Subject::Removed, bound: 2 },
    Judge { model: models::REF_REMOVED, subject: Subject::RemovedRef, bound: 3 },
    Judge { model: models::REF_REMOVED_IN_PLACE, subject: Subject::RemovedInPlace, bound: 3 },
    Judge { model: models::REF_FLUSH, subject: Subject::Taken, bound: 3 },
];

/// Mutants that no model can kill. `docs/orderings.md` argues each.
const EQUIVALENT: &[&str] = &["ParkClear behind ParkStore"];

impl Judge {
    /// Returns how far it came when it failed, and why it failed.
    fn kills(&self, protocol: Protocol) -> Option<(Explored, String)> {
        let failure = explore(Some(self.bound), protocol, self.model.scenario).err()?;
        Some((failure.explored, first_line(&*failure.panic)))
    }
}

/// Returns the first line of a failure's message.
fn first_line(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    said.lines().next().unwrap_or_default().chars().take(70).collect()
}

/// Returns the subjects of a mutant. A model of each must detect it.
fn subjects(mutant: Protocol) -> &'static [Subject] {
    use Site::{ParkClear, ParkFence, ParkStore, RingFence, RingRead};
    let wakes = |site: &Site| matches!(site, ParkStore | ParkClear | RingRead);
    match mutant {
        Protocol::Unbounded(_) => &[Subject::Polling],
        Protocol::PollingHidesFence => &[Subject::BesidePolling],
        Protocol::Swapped(swap) if swap.first == Step::Store(Site::PollingStore) => {
            &[Subject::Polling]
        }
        Protocol::Swapped(Swap {
            first: Step::Store(Site::IntentBegin | Site::IntentConsumed),
            ..
        })
        | Protocol::Swapped(Swap { then: [Site::IntentConsumed], .. }) => &[Subject::Intents],
        Protocol::Weakened(
            Site::IntentBegin
            | Site::IntentConsumed
            | Site::IntentBeginRead
            | Site::IntentConsumedRead,
            _,
        ) => &[Subject::IntentsRead],
        Protocol::Weakened(Site::ConsumedPublish | Site::ConsumedRead, _)
        | Protocol::Swapped(Swap { first: Step::Store(Site::ConsumedPublish), .. }) => {
            &[Subject::Taken]
        }
        Protocol::Weakened(Site::ReuseFence | Site::CopyFence, _)
        | Protocol::Swapped(Swap { first: Step::Store(Site::MemberStore), .. }) => {
            &[Subject::Removed, Subject::RemovedRef, Subject::Place]
        }
        Protocol::Swapped(Swap { first: Step::Look(Site::RetiredRead), .. }) => &[Subject::Place],
        Protocol::Swapped(Swap { then: [Site::MemberRead], .. }) => {
            &[Subject::Removed, Subject::RemovedRef]
        }
        Protocol::Swapped(Swap {
            first: Step::Store(Site::RetiredPublish) | Step::Look(Site::CursorRead),
            ..
        }) => &[Subject::RemovedInPlace, Subject::Place],
        // Only a broker publishes and releases in one cycle.
        Protocol::Swapped(Swap { first: Step::Store(Site::CommitPublish), then, .. })
            if then.contains(&Site::CursorPublish) =>
        {
            &[Subject::Broker, Subject::Taken]
        }
        Protocol::Swapped(Swap { first: Step::LookAtReaders, .. }) | Protocol::WeakenedIn(..) => {
            &[Subject::ByRef]
        }
        // A client's `CopyFence` follows this load. To loom, it acquires what the broker has seen.
        Protocol::Weakened(Site::CursorRead, _) => &[Subject::Chain],
        Protocol::Weakened(Site::CursorPublish, _)
        | Protocol::Swapped(Swap { first: Step::ReadPayload, .. }) => {
            &[Subject::Chain, Subject::ByRef, Subject::Hooked]
        }
        Protocol::Swapped(Swap { first: Step::Store(ParkStore | Site::CursorPublish), .. }) => {
            &[Subject::Waking, Subject::Polling, Subject::Returns, Subject::Due]
        }
        Protocol::Swapped(swap)
            if matches!(swap.first, Step::Store(site) if wakes(&site))
                || swap.then.iter().any(wakes) =>
        {
            &[Subject::Waking, Subject::Polling]
        }
        Protocol::Weakened(ParkFence | RingFence, _) => &[
            Subject::Waking,
            Subject::Polling,
            Subject::BesidePolling,
            Subject::Returns,
            Subject::Due,
        ],
        _ => &[Subject::Chain],
    }
}

#[test]
fn production_passes_what_judges_the_mutants() {
    for judge in JUDGES {
        let explored = explore(Some(judge.bound), Protocol::Production, judge.model.scenario);
        let explored = explored.unwrap_or_else(|failure| {
            std::panic::resume_unwind(failure.panic);
        });
        report(&format!("judge {}: {}", judge.model.name, explored.says(Some(judge.bound))));
    }
}

#[test]
fn every_mutant_is_killed_by_a_model_or_equivalent() {
    let start = Instant::now();
    let (mut killed, mut equivalent, mut unexplained) = (0, 0, Vec::new());
    let mutants = Protocol::mutants()
        .flat_map(|mutant| subjects(mutant).iter().map(move |subject| (mutant, *subject)));
    for (mutant, subject) in mutants {
        let name = mutant.to_string();
        let mut judges = JUDGES.iter().filter(|judge| judge.subject == subject);
        let killer = judges.find_map(|judge| Some((judge.model.name, judge.kills(mutant)?)));
        let is_equivalent = EQUIVALENT.contains(&name.as_str());
        match killer {
            Some((model, (Explored { executions, time, .. }, why))) => {
                let time = time.as_secs_f64();
                report(&format!(
                    "mutant {name:<42} killed by {model:<20} {executions:>6} executions {time:>6.2} s  {why}"
                ));
                killed += 1;
                if is_equivalent {
                    unexplained.push(format!("{name} is killed and was taken for equivalent"));
                }
            }
            None if is_equivalent => {
                report(&format!("mutant {name:<42} equivalent"));
                equivalent += 1;
            }
            None => {
                report(&format!("mutant {name:<42} SURVIVES"));
                unexplained.push(format!("{name} survives"));
            }
        }
    }
    let time = start.elapsed().as_secs_f64();
    report(&format!("mutants: {killed} killed, {equivalent} equivalent, {time:.1} s"));
    assert!(unexplained.is_empty(), "{}", unexplained.join("; "));
}

#[test]
fn every_site_has_a_mutant() {
    // The ordering of this load does not matter: a bounded sleep finds every store whose publisher
    // left out its fence. The mutants of `Bounds` show that the bounds are needed.
    for site in Site::ALL.iter().filter(|site| **site != Site::PollingRead) {
        let is_moved = |mutant| match mutant {
            Protocol::Production | Protocol::Unbounded(_) => false,
            Protocol::PollingHidesFence => *site == Site::RingFence,
            Protocol::Weakened(weak, _) | Protocol::WeakenedIn(_, weak, _) => weak == *site,
            Protocol::Swapped(swap) => swap.first == Step::Store(*site) || swap.then.contains(site),
        };
        assert!(Protocol::mutants().any(is_moved), "{site:?} has no mutant");
    }
}

#[test]
fn every_equivalent_mutant_exists() {
    for name in EQUIVALENT {
        assert!(Protocol::mutants().any(|mutant| mutant.to_string() == *name), "{name}");
    }
}

//! Checks a model in a test: reports how far it came, stores the failed execution and replays it.

use crate::explore::{Explored, Loom, Model, Protocol, explore, explore_from, report};
use crate::scenario::doubles::KEPT_VALUES;
use std::panic::resume_unwind;
use std::path::PathBuf;

/// Models in which a word has more values than loom keeps. A load there never returns an older one.
/// `docs/lab/models.md` says what that leaves out.
const SAYS_LESS: &[&str] = &[
    "receiver_dies_beside_a_sleeper",
    "ref_asleep",
    "wake_both",
    "wake_both_polling",
    "wake_receiver_polling",
    "wake_sender_twice_polling",
];

/// The preemptions of a full run, where a model has a bound.
const FULL: usize = 4;
/// Models with another bound in a full run. The first two would take too much of it. In the last
/// two, a word would have more values than loom keeps.
const LESS: &[(&str, usize)] = &[
    ("receiver_dies_beside_a_sleeper", 3),
    ("wake_both_polling", 2),
    ("wake_two_room_first", 3),
    ("wake_two_message_first", 3),
];

impl Model {
    /// Explores the model and prints how far it came.
    pub fn check(&self) {
        let check = Check { name: self.name, bound: bound(self.name, self.bound), death: None };
        let explored = check.run(self.scenario);
        report(&format!("model {}: {}", self.name, explored.says(check.bound)));
    }

    /// Explores a model with a mistake on purpose, and prints when it was noticed.
    pub fn fails(&self) {
        let failure = explore(self.bound, Protocol::Production, self.scenario).err();
        let failure = failure.unwrap_or_else(|| panic!("{}: no execution fails", self.name));
        let executions = failure.explored.executions;
        report(&format!("mistake {}: noticed after {executions} executions", self.name));
    }
}

/// Returns the preemption bound of a model. If it has one, `LLMP_PREEMPTIONS` overrides it with a
/// number, with `full` or with `all`.
pub fn bound(name: &str, bound: Option<usize>) -> Option<usize> {
    let asked = std::env::var("LLMP_PREEMPTIONS").ok();
    asked.map_or(bound, |asked| overridden(name, bound?, &asked))
}

fn overridden(name: &str, bound: usize, asked: &str) -> Option<usize> {
    match asked {
        "all" => None,
        "full" => {
            let less = LESS.iter().find(|(less, _)| *less == name);
            Some(less.map_or(FULL.max(bound), |(_, bound)| *bound))
        }
        asked => Some(asked.parse().expect("LLMP_PREEMPTIONS is a number, full or all")),
    }
}

#[test]
fn a_full_run_goes_further_but_in_some_models() {
    let full = |name, bound| overridden(name, bound, "full");
    assert_eq!([full("wake_both", 3), full("a", 5)], [Some(4), Some(5)]);
    assert_eq!([full("wake_both_polling", 2), full("wake_two_room_first", 3)], [Some(2), Some(3)]);
    assert_eq!(
        ["3", "all"].map(|asked| overridden("wake_both_polling", 2, asked)),
        [Some(3), None]
    );
}

/// Returns the steps after which a process dies: all from 0 on, or the one in `LLMP_DEATH`.
pub fn deaths() -> std::ops::RangeInclusive<usize> {
    match std::env::var("LLMP_DEATH") {
        Ok(k) => {
            let k = k.parse().expect("LLMP_DEATH is a number of writes");
            k..=k
        }
        Err(_) => 0..=usize::MAX,
    }
}

/// One exploration.
pub struct Check<'a> {
    pub name: &'a str,
    pub bound: Option<usize>,
    /// Number of writes after which a process dies, in a model of crashes.
    pub death: Option<usize>,
}

impl Check<'_> {
    /// Explores everything, or replays the execution in `LLMP_REPLAY`. Stores an execution that
    /// fails and fails with it.
    pub fn run(&self, scenario: impl Fn(&Loom) + Clone + Send + Sync + 'static) -> Explored {
        let protocol = protocol();
        if let Some(kept) = std::env::var_os("LLMP_REPLAY").map(PathBuf::from) {
            assert!(kept.exists(), "{} is not there", kept.display());
            match explore_from(Some(kept), usize::MAX, self.bound, protocol, scenario) {
                Ok(_) => panic!("the execution that was kept does not fail"),
                Err(failure) => {
                    report(&format!("failed in execution {}", failure.explored.executions));
                    resume_unwind(failure.panic);
                }
            }
        }
        let explored = explore(self.bound, protocol, scenario.clone()).unwrap_or_else(|failure| {
            self.keep(protocol, failure.explored.executions, scenario);
            resume_unwind(failure.panic);
        });
        let most = explored.most_values;
        assert!(
            !explored.forgets() || SAYS_LESS.contains(&self.name),
            "a word of {} has {most} values, of which loom keeps {KEPT_VALUES}",
            self.name
        );
        explored
    }

    /// Runs up to the failed execution again and stores it.
    fn keep(
        &self,
        protocol: Protocol,
        execution: usize,
        scenario: impl Fn(&Loom) + Send + Sync + 'static,
    ) {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.json", self.name));
        let _ = std::fs::remove_file(&file);
        let _ = explore_from(Some(file.clone()), execution, self.bound, protocol, scenario);
        let mutant = match protocol {
            Protocol::Production => String::new(),
            mutant => format!("LLMP_MUTANT='{mutant}' "),
        };
        let death = self.death.map_or(String::new(), |k| format!("LLMP_DEATH={k} "));
        let test = std::thread::current();
        report(&format!(
            "model {} ({protocol}) failed in execution {execution}. That one alone: {mutant}{death}\
             LLMP_REPLAY={} cargo test --features loom --test loom {}",
            self.name,
            file.display(),
            test.name().unwrap_or_default()
        ));
    }
}

/// Returns production's protocol, or the mutant named by `LLMP_MUTANT`.
fn protocol() -> Protocol {
    let Ok(name) = std::env::var("LLMP_MUTANT") else { return Protocol::Production };
    Protocol::mutants().find(|mutant| mutant.to_string() == name).unwrap_or_else(|| {
        let known: Vec<_> = Protocol::mutants().map(|mutant| format!("'{mutant}'")).collect();
        panic!("LLMP_MUTANT='{name}' is none of: {}", known.join(" "))
    })
}

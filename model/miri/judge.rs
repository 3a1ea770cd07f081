//! Runs Miri with each mutant, as the second judge beside loom. Each run has a fixed number of
//! seeds. A mutant in [`NOTICED`] must make Miri fail. [`Source`] has mistakes in the source, which must do
//! so, too. Those in [`NOT_NOTICED`] are there for the record.
//!
//! ```text
//! cargo test --no-default-features --features std --test miri -- judge
//! ```
//!
//! judges those that Miri notices soonest, and `-- judge-all` judges all of them.

use crate::scenario::protocol::Protocol;
use crate::source::{self, Source};
use std::path::Path;
use std::process::Command;

/// A mutant with the scenario that judges it.
struct Judged {
    mutant: &'static str,
    scenario: &'static str,
    /// The seeds from 0 up to this one.
    seeds: u32,
    /// `quick` if it is judged each time, else `all`.
    extent: &'static str,
}

macro_rules! judged {
    ($($extent:ident $seeds:literal seeds, $scenario:literal: $mutant:literal;)*) => {
        &[$(Judged {
            mutant: $mutant,
            scenario: $scenario,
            seeds: $seeds,
            extent: stringify!($extent),
        },)*]
    };
}

/// A run ends with the first seed that notices. None needed more than 4, with the toolchain of this
/// day.
const NOTICED: &[Judged] = judged! {
    quick 16 seeds, "lengths": "CommitPublish as Relaxed";
    quick 16 seeds, "lengths": "CommitRead as Relaxed";
    quick 16 seeds, "lengths": "CursorPublish as Relaxed";
    quick 16 seeds, "lengths": "CursorRead as Relaxed";
    quick 16 seeds, "lengths": "WritePayload behind CommitPublish";
    quick 16 seeds, "lengths": "WriteSlot behind CommitPublish";
    quick 16 seeds, "lengths": "CommitClear behind CommitPublish";
    quick 16 seeds, "lengths": "WritePage behind CommitPublish";
    quick 16 seeds, "broker_dies_alone": "IntentBegin behind CommitPublish";
    quick 16 seeds, "broker_dies_alone": "IntentConsumed behind CursorPublish";
    quick 16 seeds, "broker_dies_alone": "CursorPublish behind IntentConsumed";
    quick 16 seeds, "sender_sleeps": "RingFence as AcqRel";
    all 16 seeds, "sender_sleeps": "RingFence as Release";
    all 16 seeds, "sender_sleeps": "RingFence as Acquire";
    all 16 seeds, "sender_sleeps": "RingFence as no fence";
    all 16 seeds, "flush": "CommitPublish behind CursorPublish/ConsumedPublish";
};

/// The scenario that should notice it most easily. Each needs a rarer order of threads.
const NOT_NOTICED: &[Judged] = judged! {
    all 4 seeds, "flush": "ConsumedPublish as Relaxed";
    all 4 seeds, "flush": "ConsumedRead as Relaxed";
    all 4 seeds, "removed_copies": "ReuseFence as no fence";
    all 4 seeds, "removed_copies": "CopyFence as no fence";
    all 4 seeds, "sender_sleeps": "ParkFence as AcqRel";
    all 4 seeds, "sender_sleeps": "ParkFence as Release";
    all 4 seeds, "sender_sleeps": "ParkFence as Acquire";
    all 4 seeds, "sender_sleeps": "ParkFence as no fence";
    all 4 seeds, "by_reference": "CursorPublish as Relaxed in a broker";
    all 4 seeds, "by_reference": "CursorPublish as Relaxed in a client";
    all 4 seeds, "drop_claims": "PageClear behind CommitPublish";
    all 4 seeds, "batch": "CommitFill behind CommitPublish";
    all 4 seeds, "lengths": "ReadPayload behind CursorPublish";
    all 4 seeds, "by_reference": "LookAtReaders behind CursorPublish";
    all 4 seeds, "sender_sleeps": "ParkStore behind CommitRead/CursorRead";
    all 4 seeds, "both_sleep": "CommitPublish behind RingRead";
    all 4 seeds, "sender_sleeps": "CursorPublish behind RingRead";
    all 4 seeds, "flush": "ConsumedPublish behind RingRead";
    all 4 seeds, "sender_sleeps": "PollingStore behind ParkStore";
    all 4 seeds, "removed_copies": "MemberStore behind CommitPublish/CursorPublish";
    all 4 seeds, "removed_copies": "ReadPayload behind MemberRead";
    all 4 seeds, "ref_removed_in_place": "RetiredPublish behind CursorPublish";
    all 4 seeds, "ref_removed_in_place": "CursorRead behind RetiredRead";
    all 4 seeds, "intents_read": "IntentBegin as Relaxed";
    all 4 seeds, "intents_read": "IntentConsumed as Relaxed";
    all 4 seeds, "intents_read": "IntentBeginRead as Relaxed";
    all 4 seeds, "intents_read": "IntentConsumedRead as Relaxed";
    all 4 seeds, "flush": "RetiredRead behind MemberRead";
    all 4 seeds, "sender_sleeps": "ParkClear behind ParkStore";
};

/// The package.
const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// What Miri says of a run that it ends, and the panic of a scenario.
const VERDICTS: &[&str] = &["Undefined Behavior: Data race", "panicked at ", "deadlock"];

/// How a run ended.
enum Verdict {
    Noticed { seed: String, why: String },
    NotNoticed,
}

/// Runs a scenario of the package in `folder` with some seeds.
fn run(folder: &Path, mutant: &str, scenario: &str, seeds: u32) -> Verdict {
    // Neither is needed to notice a mutant. Without them a run is shorter.
    let flags = "-Zmiri-disable-stacked-borrows -Zmiri-disable-validation";
    let command = "+nightly miri test --no-default-features --features std --test miri --";
    let flags = format!("{flags} -Zmiri-preemption-rate=0.05 -Zmiri-many-seeds=0..{seeds}");
    let output = Command::new("cargo")
        .args(command.split(' '))
        .args([mutant, scenario])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", Path::new(HERE).join("target"))
        .env("MIRIFLAGS", flags)
        .output()
        .expect("cargo runs");
    let said = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    let lines = || said.iter().flat_map(|out| out.lines());
    if output.status.success() {
        let ended = lines().filter(|line| line.ends_with(crate::NO_MISTAKE)).count();
        assert_eq!(ended, seeds as usize, "{mutant}: seeds that ran to their end");
        return Verdict::NotNoticed;
    }
    let after = |what: &str| lines().find_map(|line| Some(line.split_once(what)?.1.to_owned()));
    let seed = after("FAILING SEED: ");
    let why = VERDICTS.iter().find_map(|what| lines().find(|line| line.contains(what)));
    match (seed, why) {
        (Some(seed), Some(why)) => Verdict::Noticed { seed, why: why.trim().to_owned() },
        _ => panic!("Miri did not run {mutant}:\n{}", said.join("\n")),
    }
}

/// Judges the mutants that Miri notices soonest, or all of them.
pub fn judge(all: bool) {
    let (mut noticed, mut not_noticed, mut seeds, mut wrong) = (0, 0, 0, Vec::new());
    let mut judge = |folder: &Path, protocol: &str, judged: &Judged, must_be_noticed: bool| {
        let Judged { mutant, scenario, .. } = judged;
        seeds += judged.seeds;
        match run(folder, protocol, scenario, judged.seeds) {
            Verdict::Noticed { seed, why } => {
                println!(
                    "mutant {mutant:<42} killed by Miri, seed {seed} of {} ({scenario})  {why}",
                    judged.seeds
                );
                noticed += 1;
            }
            Verdict::NotNoticed => {
                println!(
                    "mutant {mutant:<42} not noticed with {} seeds ({scenario})",
                    judged.seeds
                );
                not_noticed += 1;
                if must_be_noticed {
                    wrong.push(format!("{mutant} is not noticed"));
                }
            }
        }
    };
    let here = Path::new(HERE);
    for judged in NOTICED.iter().filter(|judged| all || judged.extent == "quick") {
        judge(here, judged.mutant, judged, true);
    }
    for source in Source::ALL.iter().filter(|source| all || source.extent == "quick") {
        let Source { what, scenario, seeds, extent, .. } = *source;
        let judged = Judged { mutant: what, scenario, seeds, extent };
        judge(&source::copy_with(source), "production", &judged, true);
    }
    for judged in NOT_NOTICED.iter().filter(|_| all) {
        judge(here, judged.mutant, judged, false);
    }
    println!("mutants: {noticed} killed by Miri, {not_noticed} not noticed, {seeds} seeds");
    assert!(wrong.is_empty(), "{}", wrong.join("; "));
}

/// Checks that each mutant in an ordering or in the order of steps is judged.
pub fn check_tables() {
    let listed = || NOTICED.iter().chain(NOT_NOTICED).map(|judged| judged.mutant);
    for mutant in Protocol::mutants().filter(|mutant| crate::mutant::Mutant::of(*mutant).is_some())
    {
        let times = listed().filter(|name| *name == mutant.to_string()).count();
        assert_eq!(times, 1, "{mutant} must be in one table of model/miri/judge.rs");
    }
    for name in listed() {
        assert!(Protocol::mutants().any(|mutant| mutant.to_string() == name), "no mutant {name}");
    }
}

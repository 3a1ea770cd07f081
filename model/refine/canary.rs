//! Shows that the refinement can fail: the specification refuses each sabotage.

use crate::bus::{self, run};
use crate::programs;
use crate::report::report;
use crate::sabotage::{Sabotage, Sabotaged};
use crate::scenario::doubles::CrashBudget;
use crate::schedules::Shuttle;
use crate::trace::{Tracing, refused};
use shuttle::scheduler::RandomScheduler;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Each schedule alone: an oracle of the scenario, or a deadlock, may detect the sabotage before
/// the specification does.
const SCHEDULES: u64 = 200;

/// Returns why the specification refuses one schedule of a sabotaged bus.
fn refusal(how: Sabotage, seed: u64) -> Option<String> {
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 18;
    config.failure_persistence = shuttle::FailurePersistence::None;
    // A sabotaged bus may loop for ever.
    config.max_steps = shuttle::MaxSteps::ContinueAfter(20_000);
    let runner = shuttle::Runner::new(RandomScheduler::new_from_seed(seed, 1), config);
    let scenario = move || {
        let runtime = Tracing::new(Shuttle, bus::limits().budget(), true);
        run(&Sabotaged::new(runtime, how), &[crate::STAYS, crate::STAYS], CrashBudget::endless());
    };
    let panic = catch_unwind(AssertUnwindSafe(|| runner.run(scenario))).err()?;
    refused(&*panic)
}

#[test]
fn every_canary_is_refused_by_the_specification() {
    let start = Instant::now();
    let mut survivors = Vec::new();
    for how in Sabotage::ALL {
        let schedule = (0..SCHEDULES).find_map(|seed| refusal(*how, seed));
        let program = programs::refusal(*how);
        let both = (schedule.is_some(), program.is_some());
        let by = match both {
            (true, true) => "schedules and programs",
            (true, false) => "schedules alone",
            (false, true) => "programs alone",
            (false, false) => "nothing",
        };
        let why = schedule.as_ref().or(program.as_ref()).map_or("", String::as_str);
        report(&format!("spec canary {how:?}: refused in {by}, {why}"));
        if schedule.or(program).is_none() {
            survivors.push(how);
        }
    }
    let (all, time) = (Sabotage::ALL.len(), start.elapsed().as_secs_f64());
    report(&format!("spec canaries of the code: {all}, {} survived, {time:.1} s", survivors.len()));
    assert!(survivors.is_empty(), "the specification allows {survivors:?}");
}

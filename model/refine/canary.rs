//! The refinement can fail: each way of being broken is refused by the specification.

use crate::bus::{self, run};
use crate::sabotage::{Sabotage, Sabotaged};
use crate::schedules::{Shuttle, report};
use crate::trace::{REFUSED, Tracing};
use shuttle::scheduler::RandomScheduler;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Each schedule alone: an oracle of the scenario's, or a deadlock, may be faster than the
/// specification.
const SCHEDULES: u64 = 200;

/// Why the specification refuses one schedule of a broken bus.
fn refusal(how: Sabotage, seed: u64) -> Option<String> {
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 18;
    config.failure_persistence = shuttle::FailurePersistence::None;
    // A broken bus may run in circles.
    config.max_steps = shuttle::MaxSteps::ContinueAfter(20_000);
    let runner = shuttle::Runner::new(RandomScheduler::new_from_seed(seed, 1), config);
    let scenario = move || {
        let runtime = Tracing::new(Shuttle, bus::limits().budget(), true);
        run(&Sabotaged::new(runtime, how), &[crate::STAYS, crate::STAYS]);
    };
    let panic = catch_unwind(AssertUnwindSafe(|| runner.run(scenario))).err()?;
    let text = panic.downcast_ref::<String>()?;
    text.strip_prefix(REFUSED)?.lines().next()?.split_once(": ").map(|(_, why)| why.to_string())
}

#[test]
fn every_canary_is_refused_by_the_specification() {
    let start = Instant::now();
    let mut survivors = Vec::new();
    for how in Sabotage::ALL {
        match (0..SCHEDULES).find_map(|seed| Some((seed, refusal(*how, seed)?))) {
            Some((seed, why)) => report(&format!("spec refuses {how:?}, schedule {seed}: {why}")),
            None => survivors.push(how),
        }
    }
    let (all, time) = (Sabotage::ALL.len(), start.elapsed().as_secs_f64());
    report(&format!("spec refuses canaries: {all}, {} survived, {time:.1} s", survivors.len()));
    assert!(survivors.is_empty(), "the specification allows {survivors:?}");
}

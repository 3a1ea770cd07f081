//! Many schedules of a scenario, each checked against the specification.

use crate::report::report;
pub use crate::runtime::Shuttle;
use crate::trace::Tracing;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Runs a scenario under `schedules` random and as many priority schedules. Panics at the first
/// action that the specification does not allow. shuttle then prints the schedule, which
/// `LLMP_REPLAY` runs again.
pub fn refine(
    name: &str,
    schedules: usize,
    budget: usize,
    bells: bool,
    scenario: impl Fn(&Tracing<Shuttle>) + Send + Sync + 'static,
) {
    let scenario = Arc::new(scenario);
    let start = Instant::now();
    let actions = Arc::new(AtomicU64::new(0));
    let under = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = shuttle::Config::new();
        config.stack_size = 1 << 18;
        config.max_steps = shuttle::MaxSteps::FailAfter(5_000_000);
        let (scenario, actions) = (scenario.clone(), actions.clone());
        shuttle::Runner::new(scheduler, config).run(move || {
            let runtime = Tracing::new(Shuttle, budget, bells);
            scenario(&runtime);
            actions.fetch_add(runtime.log.actions(), Ordering::Relaxed);
        })
    };
    if let Ok(schedule) = std::env::var("LLMP_REPLAY") {
        under(Box::new(ReplayScheduler::new_from_encoded(&schedule)));
        return;
    }
    let asked = std::env::var("LLMP_ITERATIONS").ok().and_then(|n| n.parse().ok());
    let schedules = asked.unwrap_or(schedules);
    let mut runs = under(Box::new(RandomScheduler::new(schedules)));
    runs += under(Box::new(PctScheduler::new(3, schedules)));
    let (actions, time) = (actions.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
    report(&format!("spec refined by {name}: {runs} schedules, {actions} actions in {time:.1} s"));
}

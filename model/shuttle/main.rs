//! Large scenarios under random and priority (PCT) schedules, on production's code.
//!
//! shuttle knows only sequential consistency; loom explores weaker memory. A failure prints a
//! schedule. `LLMP_REPLAY=SCHEDULE cargo test --features shuttle --test shuttle NAME` runs it
//! again. `LLMP_ITERATIONS=N` explores further than the default: N schedules of a scenario, N / 100
//! of each of the hundreds of crashes.

#[path = "../scenario/broker.rs"]
#[allow(dead_code, reason = "its other half is for loom")]
mod broker;
#[path = "../scenario/bus/mod.rs"]
mod bus;
#[path = "../scenario/doorbell.rs"]
mod doorbell;
#[path = "../report.rs"]
mod report;
mod runtime;
#[path = "../scenario/mod.rs"]
mod scenario;

use crate::scenario::doubles::CrashBudget;
use broker::share::{By, share};
use bus::{Script, run, run_by_ref};
use doorbell::{Polling, Waiting, both_sleep, sender_sleeps};
use report::report;
use runtime::Shuttle;
use scenario::chain::{
    Size, batch, deliver, drop_claims, join_during_reuse, leave_during_reuse,
    limits as chain_limits,
};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// States that a scenario must reach in at least one of its schedules.
#[derive(Default)]
struct Reached {
    rollovers: AtomicU64,
    reuses: AtomicU64,
    by_ref: AtomicU64,
    forgets: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Random,
    /// PCT. Its depth is the number of preemptions that a bug needs.
    Priority,
}

fn explore(name: &str, iterations: usize, scenario: impl Fn() + Send + Sync + 'static) {
    explore_under(name, iterations, &[Kind::Random, Kind::Priority], scenario);
}

fn explore_under(
    name: &str,
    iterations: usize,
    kinds: &[Kind],
    scenario: impl Fn() + Send + Sync + 'static,
) {
    let iterations = asked().unwrap_or(iterations);
    let scenario = Arc::new(scenario);
    for kind in kinds {
        let start = Instant::now();
        let schedules = schedule(*kind, iterations, scenario.clone());
        let time = start.elapsed().as_secs_f64();
        report(&format!("model {name}: {schedules} schedules in {time:.2} s"));
    }
}

/// Runs a scenario under `iterations` schedules, or under the one in `LLMP_REPLAY`. Returns their
/// number and kind.
fn schedule(kind: Kind, iterations: usize, scenario: Arc<dyn Fn() + Send + Sync>) -> String {
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 17;
    config.max_steps = shuttle::MaxSteps::FailAfter(5_000_000);
    let replayed = std::env::var("LLMP_REPLAY");
    let (name, scheduler): (_, Box<dyn Scheduler + Send>) = match (&replayed, kind) {
        (Ok(replayed), _) => ("replayed", Box::new(ReplayScheduler::new_from_encoded(replayed))),
        (_, Kind::Random) => ("random", Box::new(RandomScheduler::new(iterations))),
        (_, Kind::Priority) => ("priority", Box::new(PctScheduler::new(3, iterations))),
    };
    let schedules = shuttle::Runner::new(scheduler, config).run(move || scenario());
    assert!(replayed.is_ok() || schedules == iterations);
    format!("{schedules} {name}")
}

/// Returns the number of schedules per model from `LLMP_ITERATIONS`.
fn asked() -> Option<usize> {
    std::env::var("LLMP_ITERATIONS").ok().and_then(|n| n.parse().ok())
}

/// Runs a scenario with a crash after each number of writes, until no process dies in any schedule.
/// `scenario` returns whether a process died. `LLMP_DEATH=K` explores one number of writes alone.
fn explore_deaths(
    name: &str,
    iterations: usize,
    scenario: impl Fn(usize) -> bool + Send + Sync + Copy + 'static,
) {
    let iterations = asked().map_or(iterations, |n| (n / 100).max(1));
    let only: Option<usize> = std::env::var("LLMP_DEATH").ok().and_then(|k| k.parse().ok());
    let start = Instant::now();
    for k in only.unwrap_or(0).. {
        // Prints the step in case of a failure.
        println!("LLMP_DEATH={k}");
        let died = Arc::new(AtomicBool::new(false));
        let explored = [Kind::Random, Kind::Priority].map(|kind| {
            let seen = died.clone();
            let scenario = move || {
                seen.fetch_or(scenario(k), Ordering::Relaxed);
            };
            schedule(kind, iterations, Arc::new(scenario))
        });
        if only.is_some() || !died.load(Ordering::Relaxed) {
            let [random, priority] = explored;
            let time = start.elapsed().as_secs_f64();
            return report(&format!(
                "model {name}: death after each of {} writes, {random} and {priority} schedules each, {time:.2} s",
                k
            ));
        }
    }
}

fn explore_bus(name: &str, iterations: usize, scripts: &'static [Script]) {
    explore_by_ref_bus(name, iterations, usize::MAX, scripts);
}

/// Returns how many pages were taken back while a client joined.
fn explore_by_ref_bus(
    name: &str,
    iterations: usize,
    zero_copy_threshold: usize,
    scripts: &'static [Script],
) -> u64 {
    let reached = Arc::new(Reached::default());
    let counts = reached.clone();
    explore(name, iterations, move || {
        let outcome = run_by_ref(&Shuttle, scripts, CrashBudget::endless(), zero_copy_threshold);
        let stats = outcome.stats;
        counts.forgets.fetch_add(outcome.forgets, Ordering::Relaxed);
        counts.by_ref.fetch_add(stats.by_ref, Ordering::Relaxed);
        counts.rollovers.fetch_add(stats.rollovers, Ordering::Relaxed);
        counts.reuses.fetch_add(stats.reuses, Ordering::Relaxed);
    });
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    assert!(count(&reached.rollovers) > 0, "no page was ever turned");
    assert!(count(&reached.reuses) > 0, "no page was ever written again");
    assert_eq!(
        count(&reached.by_ref) > 0,
        zero_copy_threshold < usize::MAX,
        "by reference, or not"
    );
    count(&reached.forgets)
}

const STAYS: Script = Script { sends: 6, dies_after: None, leaves: false };
const LEAVES: Script = Script { leaves: true, ..STAYS };

#[test]
fn p1_p2_p3_three_clients_send_to_each_other() {
    explore_bus("bus_of_three", 4000, &[STAYS, STAYS, STAYS]);
}

#[test]
fn p3_clients_leave_while_others_go_on() {
    explore_bus("bus_with_leavers", 4000, &[STAYS, LEAVES, LEAVES]);
}

#[test]
fn p4_clients_die_in_the_middle_of_a_message() {
    const DEATHS: [[Script; 3]; 6] = {
        let mut deaths = [[STAYS; 3]; 6];
        let mut i = 0;
        while i < deaths.len() {
            deaths[i][1].dies_after = Some(1 + 3 * i);
            deaths[i][2].dies_after = Some(2 + 5 * i);
            i += 1;
        }
        deaths
    };
    for (i, scripts) in DEATHS.iter().enumerate() {
        explore_bus(&format!("bus_with_deaths_{i}"), 1000, scripts);
    }
}

#[test]
fn p4_a_client_dies_after_each_of_its_steps() {
    explore_deaths("bus_with_a_dying_client", 80, |k| {
        // Enough messages to fill the bus while the dead receiver holds it.
        let stays = Script { sends: 16, ..STAYS };
        let dies = Script { dies_after: Some(k), sends: 12, ..STAYS };
        run(&Shuttle, &[stays, dies, stays], CrashBudget::endless()).died
    });
}

#[test]
fn p3_p5_the_broker_dies_after_each_of_its_steps() {
    explore_deaths("bus_with_a_dying_broker", 100, |k| {
        run(&Shuttle, &[STAYS, STAYS, STAYS], CrashBudget::ends_after(k)).died
    });
}

/// Half of the messages have at least this length.
const ZERO_COPY_THRESHOLD: usize = 16;

/// Enough messages that all pages become foreign pages and some replace others.
const SENDS_MORE: Script = Script { sends: 12, ..STAYS };

const REFER_AND_LEAVE: &[Script] =
    &[SENDS_MORE, Script { leaves: true, ..SENDS_MORE }, Script { leaves: true, ..SENDS_MORE }];

#[test]
fn p1_p2_p3_p8_a_bus_by_reference() {
    explore_by_ref_bus(
        "by_ref_bus",
        4000,
        ZERO_COPY_THRESHOLD,
        &[SENDS_MORE, SENDS_MORE, SENDS_MORE],
    );
    let (name, scripts) = ("by_ref_bus_with_leavers", REFER_AND_LEAVE);
    let forgets = explore_by_ref_bus(name, 4000, ZERO_COPY_THRESHOLD, scripts);
    assert!(forgets > 0, "no page was ever taken back while a client joined");
}

#[test]
fn p4_p8_a_client_dies_after_each_step_by_reference() {
    explore_deaths("by_ref_bus_with_a_dying_client", 80, |k| {
        let dies = Script { dies_after: Some(k), ..SENDS_MORE };
        let scripts = [SENDS_MORE, dies, SENDS_MORE];
        run_by_ref(&Shuttle, &scripts, CrashBudget::endless(), ZERO_COPY_THRESHOLD).died
    });
}

#[test]
fn p3_p5_the_broker_dies_after_each_step_by_reference() {
    explore_deaths("by_ref_bus_with_a_dying_broker", 50, |k| {
        let scripts = [SENDS_MORE, SENDS_MORE, SENDS_MORE];
        run_by_ref(&Shuttle, &scripts, CrashBudget::ends_after(k), ZERO_COPY_THRESHOLD).died
    });
}

#[test]
fn p3_p9_each_sender_has_its_share_of_a_full_bus() {
    for by in [By::Messages, By::Bytes] {
        let blocked = Arc::new(AtomicU64::new(0));
        let count = blocked.clone();
        explore(&format!("share_by_{by:?}").to_lowercase(), 1000, move || {
            count.fetch_add(share(&Shuttle, by), Ordering::Relaxed);
        });
        assert!(blocked.load(Ordering::Relaxed) > 0, "the broker always had room");
    }
}

const CHAIN: Size = Size { messages_per_page: 2, pages: 3, messages: 24, receivers: 3, steps: 40 };

#[test]
fn p8_a_chain_with_many_receivers_and_reuses() {
    explore("chain_of_three_receivers", 5000, || deliver(&Shuttle, CHAIN));
}

#[test]
fn p9_p10_both_ends_of_a_channel_sleep_and_are_woken() {
    for (name, polling) in [("both_sleep", Polling::Never), ("both_poll_and_sleep", Polling::Both)]
    {
        // Without weak memory no store becomes visible late, so no sleep needs a bound.
        let scenario =
            move || both_sleep(&Shuttle, chain_limits(2, 2), 12, Waiting::Sleeps, polling);
        explore(name, 1000, scenario);
    }
}

#[test]
fn p9_p10_a_sender_is_woken_by_a_receiver_that_never_sleeps() {
    // Only random schedules: a priority schedule may never run the sender.
    let scenario = || both_sleep(&Shuttle, chain_limits(2, 2), 12, Waiting::Polls, Polling::Both);
    explore_under("polling_receiver", 1000, &[Kind::Random], scenario);
    let scenario = || sender_sleeps(&Shuttle, chain_limits(2, 2), 1, Polling::Both);
    explore_under("sender_sleeps", 1000, &[Kind::Random], scenario);
}

#[test]
fn p8_receivers_join_and_leave_a_long_chain() {
    explore("join_a_long_chain", 5000, || join_during_reuse(&Shuttle, CHAIN, 9));
    explore("batch_over_many_pages", 5000, || {
        batch(&Shuttle, Size { messages: 6, receivers: 1, steps: 20, ..CHAIN });
    });
    explore("dropped_claims_over_many_pages", 5000, || {
        drop_claims(&Shuttle, Size { receivers: 1, ..CHAIN });
    });
    explore("leave_a_long_chain", 5000, || leave_during_reuse(&Shuttle, CHAIN));
}

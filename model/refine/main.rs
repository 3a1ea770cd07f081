//! Runs of the real code are behaviours of the specification.

#[path = "../scenario/bus/mod.rs"]
mod bus;
#[path = "../spec/chains.rs"]
mod chains;
#[path = "../scenario/doorbell.rs"]
mod doorbell;
#[path = "../spec/doorbells.rs"]
mod doorbells;
#[path = "../spec/foreign_pages.rs"]
mod foreign_pages;
#[path = "../spec/promises.rs"]
mod promises;
#[path = "../spec/protocol.rs"]
mod protocol;
#[path = "../../tests/common/regions.rs"]
mod regions;
#[path = "../spec/removed.rs"]
mod removed;
#[path = "../report.rs"]
mod report;
#[path = "../shuttle/runtime.rs"]
mod runtime;
#[path = "../spec/sabotage.rs"]
mod sabotage;
#[path = "../scenario/mod.rs"]
mod scenario;
#[path = "../spec/state.rs"]
mod state;
#[path = "../spec/trace.rs"]
mod trace;
#[path = "../spec/translate.rs"]
mod translate;

mod canary;
mod plain;
mod programs;
mod schedules;
mod world;

use crate::scenario::doubles::CrashBudget;
use bus::{Script, run};
use doorbell::{Polling, Waiting, both_sleep, sender_sleeps};
use scenario::chain::{
    Size, batch, deliver, drop_claims, join_during_reuse, leave_during_reuse,
    limits as chain_limits,
};
use schedules::{Shuttle, refine};
use shuttle::rand::Rng;
use trace::Tracing;

const STAYS: Script = Script { sends: 6, dies_after: None, leaves: false };
const LEAVES: Script = Script { leaves: true, ..STAYS };

const CHAIN: Size = Size { messages_per_page: 2, pages: 3, messages: 24, receivers: 3, steps: 40 };

fn refine_bus(name: &str, schedules: usize, scripts: &'static [Script]) {
    let budget = bus::limits().budget();
    refine(name, schedules, budget, true, move |runtime| {
        run(runtime, scripts, CrashBudget::endless());
    });
}

fn refine_chain(name: &str, scenario: impl Fn(&Tracing<Shuttle>) + Send + Sync + 'static) {
    refine(name, 1000, CHAIN.limits().budget(), false, scenario);
}

#[test]
fn p1_p2_p3_a_bus_is_a_behaviour_of_the_specification() {
    refine_bus("bus_of_three", 1000, &[STAYS, STAYS, STAYS]);
}

#[test]
fn p3_a_bus_that_clients_leave_is_a_behaviour_of_the_specification() {
    refine_bus("bus_with_leavers", 1000, &[STAYS, LEAVES, LEAVES]);
}

#[test]
fn p4_a_bus_on_which_clients_die_is_a_behaviour_of_the_specification() {
    let budget = bus::limits().budget();
    refine("bus_with_a_dying_client", 3000, budget, true, |runtime| {
        let dies = Script { dies_after: Some(any_below(150)), ..STAYS };
        let leaves = Script { dies_after: Some(any_below(150)), ..LEAVES };
        run(runtime, &[STAYS, dies, leaves], CrashBudget::endless());
    });
}

#[test]
fn p3_p5_a_bus_whose_broker_dies_is_a_behaviour_of_the_specification() {
    let budget = bus::limits().budget();
    refine("bus_with_a_dying_broker", 2000, budget, true, |runtime| {
        run(runtime, &[STAYS, STAYS, LEAVES], CrashBudget::ends_after(any_below(250)));
    });
}

/// Returns a number that belongs to the schedule.
fn any_below(bound: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..bound)
}

#[test]
fn p8_chains_are_behaviours_of_the_specification() {
    refine_chain("chain_of_three_receivers", |runtime| deliver(runtime, CHAIN));
    refine_chain("join_a_long_chain", |runtime| join_during_reuse(runtime, CHAIN, 9));
    refine_chain("leave_a_long_chain", |runtime| leave_during_reuse(runtime, CHAIN));
    refine_chain("batch_over_many_pages", |runtime| {
        batch(runtime, Size { messages: 6, receivers: 1, steps: 20, ..CHAIN });
    });
    refine_chain("dropped_claims", |runtime| drop_claims(runtime, CHAIN));
}

#[test]
fn p9_p10_a_channel_whose_ends_sleep_is_a_behaviour_of_the_specification() {
    let limits = chain_limits(2, 2);
    for (name, polling) in [("both_sleep", Polling::Never), ("both_poll_and_sleep", Polling::Both)]
    {
        refine(name, 1000, limits.budget(), true, move |runtime| {
            both_sleep(runtime, limits, 12, Waiting::Sleeps, polling);
        });
    }
    refine("sender_sleeps", 1000, limits.budget(), true, move |runtime| {
        sender_sleeps(runtime, limits, 1, Polling::Both);
    });
}

//! Thousands of generated programs on the real code in one thread. Every trace is a behaviour of
//! the specification.

use crate::plain::{Plain, Reached};
use crate::report::report;
use crate::sabotage::{Sabotage, Sabotaged};
use crate::scenario::Runtime;
use crate::trace::{Log, Tracing, refused};
use crate::world::{World, limits};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// The next operation of a process. Client indices wrap around.
#[derive(Clone, Debug)]
enum Step {
    Send {
        client: usize,
        len: usize,
        origin: bool,
    },
    Batch {
        client: usize,
        lens: Vec<usize>,
        publish: bool,
    },
    DropClaim {
        client: usize,
        len: usize,
    },
    Receive {
        client: usize,
        most: usize,
    },
    Doze {
        client: usize,
        room: Option<usize>,
    },
    Join {
        dies_after: Option<usize>,
    },
    Leave {
        client: usize,
    },
    Cycle {
        looks: bool,
    },
    DozeBroker,
    /// The broker ends, and all processes start again with a new one.
    Restart,
}

/// Lengths around the boundaries of words, slots and ordinary pages, and up to the limit.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..20usize, 2 => 76..100usize, 1 => 284..=300usize]
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..4usize;
    let lens = prop::collection::vec(len(), 1..6);
    let dies_after = prop::option::weighted(0.4, 1..60usize);
    prop_oneof![
        8 => (client.clone(), len(), any::<bool>())
            .prop_map(|(client, len, origin)| Step::Send { client, len, origin }),
        4 => (client.clone(), lens, prop::bool::weighted(0.9))
            .prop_map(|(client, lens, publish)| Step::Batch { client, lens, publish }),
        1 => (client.clone(), len()).prop_map(|(client, len)| Step::DropClaim { client, len }),
        8 => (client.clone(), 1..6usize).prop_map(|(client, most)| Step::Receive { client, most }),
        4 => (client.clone(), prop::option::of(len()))
            .prop_map(|(client, room)| Step::Doze { client, room }),
        2 => dies_after.prop_map(|dies_after| Step::Join { dies_after }),
        1 => client.prop_map(|client| Step::Leave { client }),
        12 => prop::bool::weighted(0.8).prop_map(|looks| Step::Cycle { looks }),
        3 => Just(Step::DozeBroker),
        1 => Just(Step::Restart),
    ]
}

/// A program, and the properties of its brokers.
#[derive(Clone, Debug)]
struct Program {
    steps: Vec<Step>,
    /// The number of writes after which the first broker dies.
    mortal: Option<usize>,
    /// The length in bytes from which brokers forward by reference.
    zero_copy_threshold: Option<usize>,
}

/// Runs one program on as many brokers as it needs. `runtime` makes a runtime for each.
fn follow<R: Runtime>(runtime: impl Fn() -> R, program: &Program) -> Vec<Reached> {
    let Program { steps, mortal, zero_copy_threshold } = program;
    let mut ended = Vec::new();
    let mut world = World::new(&runtime(), *mortal, *zero_copy_threshold);
    world.join(None);
    for step in steps {
        match step {
            Step::Send { client, len, origin } => world.send(*client, &[*len], *origin, true),
            Step::Batch { client, lens, publish } => world.send(*client, lens, false, *publish),
            Step::DropClaim { client, len } => world.drop_claim(*client, *len),
            Step::Receive { client, most } => drop(world.receive(*client, *most)),
            Step::Doze { client, room } => world.doze(*client, *room),
            Step::Join { dies_after } => world.join(*dies_after),
            Step::Leave { client } => world.leave(*client),
            Step::Cycle { looks } => drop(world.cycle(*looks)),
            Step::DozeBroker => world.doze_broker(),
            Step::Restart => {}
        }
        if world.is_over() || matches!(step, Step::Restart) {
            let next = World::new(&runtime(), None, *zero_copy_threshold);
            ended.push(std::mem::replace(&mut world, next).finish());
        }
    }
    ended.push(world.finish());
    ended
}

fn program() -> impl Strategy<Value = Program> {
    let steps = prop::collection::vec(step(), 1..150);
    let (mortal, zero_copy_threshold) =
        (prop::option::of(20..400usize), prop::option::of(0..40usize));
    (steps, mortal, zero_copy_threshold).prop_map(|(steps, mortal, zero_copy_threshold)| Program {
        steps,
        mortal,
        zero_copy_threshold,
    })
}

fn traced() -> Tracing<Plain> {
    Tracing::new(Plain, limits().budget(), true)
}

#[test]
fn p1_p3_p4_p5_p8_generated_programs_are_behaviours_of_the_specification() {
    let asked = std::env::var("LLMP_PROGRAMS").ok().and_then(|n| n.parse().ok());
    let cases = asked.unwrap_or(10_000);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let start = Instant::now();
    let (all, buses) = (Cell::new(Reached::default()), Cell::new(0));
    let actions = Cell::new(0);
    // proptest prints the smallest failing program. Its test is in `follow`.
    let verdict = TestRunner::new(config).run(&program(), |program| {
        let logs = RefCell::new(Vec::new());
        let runtime = || {
            let runtime = traced();
            logs.borrow_mut().push(runtime.log.clone());
            runtime
        };
        let reached = follow(runtime, &program);
        let acted: u64 = logs.take().iter().map(Log::actions).sum();
        actions.set(actions.get() + acted);
        for bus in reached {
            buses.set(buses.get() + 1);
            all.set(all.get() + bus);
        }
        Ok(())
    });
    if let Err(error) = verdict {
        panic!("{error}");
    }
    let (all, time) = (all.get(), start.elapsed().as_secs_f64());
    let (buses, actions) = (buses.get(), actions.get());
    report(&format!(
        "spec refined by programs: {cases} programs, {buses} buses, {actions} actions in {time:.1} s"
    ));
    report(&format!("  {all:?}"));
    let reached = [all.delivered, all.reuses, all.full, all.deaths, all.late, all.slept, all.rung];
    let by_ref = [all.by_ref, all.recalled];
    assert!(reached.iter().chain(&by_ref).all(|count| *count > 0), "not reached: {all:?}");
}

/// Runs proptest's programs from a fixed seed until the specification refuses one.
pub fn refusal(how: Sabotage) -> Option<String> {
    let mut runner = TestRunner::deterministic();
    (0..200).find_map(|_| {
        let program = program().new_tree(&mut runner).ok()?.current();
        let runtime = || Sabotaged::new(traced(), how);
        let panic = catch_unwind(AssertUnwindSafe(|| follow(runtime, &program))).err()?;
        refused(&*panic)
    })
}

//! The models can fail: each ordering that is stronger than relaxed is weakened in turn, in this
//! very binary, and at least one model must fail then.

use crate::explore::{Loom, explore, report};
use crate::models;
use llmp::order::{Orders, Site};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// A model with its bound of preemptions.
type Judge = (&'static str, usize, fn(&Loom));

/// The models that judge, cheapest first.
const JUDGES: &[Judge] = &[
    ("commit_1_receiver", 2, models::commit_1),
    ("page_turn", 2, models::turn),
    ("reuse_1_receiver", 3, models::reuse_1),
    ("wake_receiver", 3, models::wake_receiver),
    ("wake_both", 2, models::wake_both),
];

#[test]
fn every_weakened_ordering_is_caught_by_a_model() {
    let start = Instant::now();
    let mut survivors = Vec::new();
    let mut mutants = 0;
    for site in Site::ALL {
        for ordering in site.weaker() {
            mutants += 1;
            let killer = JUDGES.iter().find(|(_, bound, scenario)| {
                let orders = Orders::weakened(*site, *ordering);
                let run = || explore(Some(*bound), orders, scenario);
                catch_unwind(AssertUnwindSafe(run)).is_err()
            });
            match killer {
                Some((name, ..)) => {
                    report(&format!("mutant {site:?} as {ordering:?}: killed by {name}"));
                }
                None => survivors.push(format!("{site:?} as {ordering:?}")),
            }
        }
    }
    let time = start.elapsed().as_secs_f64();
    report(&format!("{mutants} mutants, {} survived, {time:.2} s", survivors.len()));
    assert!(survivors.is_empty(), "no model fails with {}", survivors.join(", "));
}

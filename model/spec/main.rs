//! The bus as an abstract state machine.

mod broker;
mod client;
mod explore;
mod merge;
mod promises;
mod protocol;
mod run;
mod state;

use explore::{every_run_ends, explore, judge, report};
use run::{Break, Setup};
use std::time::Instant;

const TWO: Setup = Setup {
    scripts: &[&[1, 1, 1], &[2, 1]],
    pages: 2,
    late: 0,
    leaves: false,
    deaths: 0,
    lies: 0,
    share: 2,
    fine: false,
    broken: None,
};
const SMALL: Setup = Setup { scripts: &[&[1, 1], &[2]], ..TWO };

#[test]
fn canary() {
    let judges = [
        ("small", SMALL),
        ("small death", Setup { deaths: 1, ..SMALL }),
        ("two", TWO),
        ("late", Setup { late: 1, ..TWO }),
        ("lies", Setup { lies: 3, ..TWO }),
    ];
    let mut survivors = vec![];
    for broken in [Break::GivesUpBeforeSendingOn, Break::DeadForgottenAtOnce].iter() {
        let start = Instant::now();
        let killer = judges.iter().find_map(|(name, setup)| {
            let setup = Setup { broken: Some(*broken), ..setup.clone() };
            Some((name, judge(&setup)?))
        });
        match killer {
            Some((name, violation)) => {
                let s = start.elapsed().as_secs_f64();
                report(&format!("spec {broken:?}: fails in {name}, {violation} ({s:.1} s)"));
            }
            None => survivors.push(broken),
        }
    }
    assert!(survivors.is_empty(), "{survivors:?}");
}

#[test]
fn ends() {
    every_run_ends("small", &Setup { deaths: 1, ..SMALL });
}

#[test]
fn p1_two() {
    explore("fine_1_1", &Setup {fine: true, deaths:1, scripts: &[&[1],&[1]],  ..TWO });
    explore("two_deaths_1", &Setup { deaths: 1, ..TWO });
}

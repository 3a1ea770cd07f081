//! The buses on which liveness is checked, and the broken programs that never stop.

use super::bus::properties;
use super::report::{prove, refute, violated};
use crate::explore::judge;
use crate::report::report;
use crate::run::{Break, Setup};
use crate::{BUS, BY_REF, IN_PLACE, REMOVED, SMALL, is_full};
use std::collections::BTreeSet;
use std::time::Instant;

fn live(name: &str, setup: Setup) {
    prove(name, &setup, &properties(&setup), usize::MAX);
}

/// Two clients that send a message each.
const TWO: Setup = Setup { scripts: &[&[1], &[1]], ..BUS };
/// A client that sends to itself until its chain is full.
const FULL: Setup = Setup { scripts: &[&[1, 1, 1, 1, 1]], ..BUS };
/// All processes may poll, and may sleep.
const POLLS: Setup = Setup { polls: true, ..TWO };
const POLLS_FULL: Setup = Setup { polls: true, ..FULL };

#[test]
fn p3_p4_p5_p7_p9_p10_p11_each_fair_run_with_sleeping() {
    live("live_2_clients", Setup { deaths: 1, ..TWO });
    live("live_full_chain", Setup { deaths: 1, ..FULL });
    live("live_late_join", Setup { late: 1, ..TWO });
    live("live_hostile", Setup { has_faults: 3, ..SMALL });
    live("live_by_ref", Setup { scripts: &[&[1, 2, 1, 1]], ..BY_REF });
    live("live_removed", Setup { scripts: &[&[2, 1], &[]], ..REMOVED });
    if is_full() {
        live("live_bus", Setup { deaths: 1, ..BUS });
        live("live_small_late", Setup { deaths: 1, late: 1, ..SMALL });
        live("live_by_ref_2_receivers", Setup { scripts: &[&[1, 2], &[]], deaths: 1, ..BY_REF });
        live("live_removed_in_place", IN_PLACE);
    }
}

#[test]
fn p3_p5_p7_p9_p10_each_fair_run_with_polling() {
    live("live_polls_2_clients", POLLS);
    live("live_polls_full_chain", Setup { deaths: 1, ..POLLS_FULL });
    live("live_polls_death", Setup { scripts: &[&[1], &[]], deaths: 1, ..POLLS });
    live("live_polls_late_join", Setup { late: 1, ..POLLS });
    live("live_polls_hostile", Setup { has_faults: 2, ..POLLS });
    live("live_polls_by_ref", Setup { scripts: &[&[1, 2, 1, 1]], polls: true, ..BY_REF });
    live("live_polls_removed", Setup { scripts: &[&[2], &[]], polls: true, ..REMOVED });
    live("fine_live_polls", Setup { scripts: &[&[1], &[]], fine: true, ..POLLS });
    if is_full() {
        live("live_polls_2_clients_death", Setup { deaths: 1, ..POLLS });
        live("live_polls_small", Setup { polls: true, ..SMALL });
        live("live_polls_2_receivers", Setup { scripts: &[&[1, 2, 2], &[]], ..POLLS });
        live("live_polls_removed_in_place", Setup { polls: true, ..IN_PLACE });
        live("fine_live_polls_2_clients", Setup { fine: true, ..POLLS });
    }
}

#[test]
fn p3_p9_p10_three_clients_that_may_poll() {
    let limit = if is_full() { 2_000_000 } else { 50_000 };
    let three = Setup { scripts: &[&[1], &[1], &[1]], ..POLLS };
    prove("live_polls_3_clients", &three, &properties(&three), limit);
}

/// Returns the smallest bus on which a break goes on for ever.
fn stage(broken: Break) -> Setup {
    let setup = match broken {
        Break::PollsSocketAlone | Break::PollsFirstClientAlone => POLLS,
        Break::PollsChainAlone => Setup { scripts: &[&[1]], deaths: 1, ..POLLS },
        Break::RingsBack => Setup { scripts: &[&[1]], ..BUS },
        Break::PollsUnreleased => Setup { scripts: &[&[1]], polls: true, ..BY_REF },
        _ => POLLS_FULL,
    };
    Setup { broken: Some(broken), ..setup }
}

#[test]
fn p3_p9_p10_p11_each_endless_program_is_found_by_a_lasso_alone() {
    for broken in Break::ENDLESS {
        let start = Instant::now();
        let setup = stage(*broken);
        let lasso = refute(&setup, &properties(&setup));
        let lasso = lasso.unwrap_or_else(|| panic!("each fair run of {broken:?} is right"));
        let time = start.elapsed().as_secs_f64();
        report(&format!("spec canary {broken:?}: {lasso}({time:.1} s)"));
        assert!(lasso.contains("for ever:"), "{broken:?} is no cycle");
        assert!(judge(&setup).is_none(), "{broken:?} does harm, so it needs no lasso");
    }
}

#[test]
fn p10_a_lost_wake_up_is_found_although_each_sleep_may_end_by_itself() {
    let setup = crate::stage(Break::ParksPolling);
    let lasso = refute(&setup, &properties(&setup)).expect("it sleeps for ever");
    report(&format!("spec canary of a sleep: {lasso}"));
    assert!(lasso.contains("fair: client 1 is disabled again and again"), "its sleep need not end");
}

/// Returns the name of a property without the numbers in it.
fn kind(name: &str) -> String {
    name.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[test]
fn p3_p5_p7_p9_p10_p11_each_kind_of_property_is_violated_by_a_broken_program() {
    let one = |broken| (broken, Setup { scripts: &[&[1]], ..BUS });
    let setups = [
        one(Break::NoRing),
        one(Break::RingsBack),
        (Break::NoRemoval, Setup { deaths: 1, ..TWO }),
        (Break::NoSecondLook, FULL),
        (Break::PollsChainAlone, stage(Break::PollsChainAlone)),
        (Break::PollsUnreleased, stage(Break::PollsUnreleased)),
        (Break::StaysAtEndOfPage, Setup { scripts: &[&[2, 2, 2, 2, 1]], ..BUS }),
        (Break::RemovedUnannounced, Setup { scripts: &[&[1], &[]], ..IN_PLACE }),
    ];
    let (mut all, mut found) = (BTreeSet::new(), BTreeSet::new());
    for (broken, setup) in setups {
        let setup = Setup { broken: Some(broken), ..setup };
        let properties = properties(&setup);
        all.extend(properties.iter().map(|property| kind(&property.name)));
        found.extend(violated(&setup, &properties).iter().map(|property| kind(&property.name)));
    }
    let missing: Vec<_> = all.difference(&found).collect();
    assert!(missing.is_empty(), "no broken program violates {missing:#?}");
    report(&format!("spec canaries of the properties: {} kinds, each violated", all.len()));
}

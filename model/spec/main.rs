//! The bus as an abstract state machine, explored exhaustively.
//!
//! [`protocol`] is the specification: the rules of `docs/protocol.md` over actions, with
//! [`chains`], [`foreign_pages`], [`removed`] and [`doorbells`]. [`client`], with [`reading`], and
//! [`broker`], with [`removal`], are programs that follow it. [`promises`] defines what must never
//! happen and what must hold in the end. [`merge`] defines which steps are taken together, and why.
//! A process may be killed before and after any of its accesses.
//!
//! [`succession`] specifies what follows a broker's death. No code of the library does that yet.
//!
//! Each run reports its extent:
//!
//! ```text
//! spec bus_2_clients: exhaustive, 2,769,945 states in 41.8 s
//! ```
//!
//! `LLMP_SPEC=full` adds larger buses. `model/refine` checks by the same rules that the real code
//! does what is allowed here.
//!
//! The model leaves out:
//!
//! * payloads: a message is its sender and its number;
//! * hooks and origins;
//! * page and message lengths: a page holds two messages and its end, while the traces have all
//!   lengths;
//! * the handshake;
//! * the separate arrival of packets on one connection;
//! * weak memory, which is loom's part.
//!
//! It does not store a hostile client's words: each read of them yields every value that makes a
//! difference.

mod breaks;
mod broker;
mod chains;
mod client;
mod doorbells;
mod explore;
mod foreign_pages;
#[path = "../grouped.rs"]
mod grouped;
mod live;
mod merge;
mod polling;
mod promises;
mod protocol;
mod reading;
mod removal;
mod removed;
#[path = "../report.rs"]
mod report;
mod run;
mod sleepers;
mod state;
mod succession;

use explore::{Extent, every_run_ends, explore, judge};
use reading::Reads;
use report::report;
use run::{Break, Setup};
use std::time::Instant;

/// Two clients that send three messages each, one of them two at once. Each chain has two pages.
const BUS: Setup = Setup {
    scripts: &[&[1, 1, 1], &[2, 1]],
    pages: 2,
    late: 0,
    leaves: false,
    deaths: 0,
    has_faults: 0,
    removal: None,
    skips: 0,
    share: 2,
    by_ref: false,
    copies: true,
    fine: false,
    polls: false,
    broken: None,
};
const MORTAL: Setup = Setup { deaths: 1, ..BUS };
/// A client that sends five messages, which may be by reference, to itself and to one that sends
/// none.
const BY_REF: Setup = Setup { scripts: &[&[1, 1, 1, 1, 1], &[]], by_ref: true, ..BUS };
/// Two messages each.
const SMALL: Setup = Setup { scripts: &[&[1, 1], &[2]], ..BUS };

fn all(name: &str, setup: Setup) {
    explore(name, &setup, Extent::Exhaustive);
}

/// Returns whether the larger buses are requested.
fn is_full() -> bool {
    std::env::var("LLMP_SPEC").is_ok_and(|extent| extent == "full")
}

#[test]
fn p1_p2_p3_p4_p5_p6_p7_p8_p9_p10_two_clients_one_death() {
    all("bus_2_clients", MORTAL);
}

#[test]
fn p3_p8_a_client_joins_late() {
    all("bus_late_join", Setup { late: 1, ..MORTAL });
}

#[test]
fn p3_p7_a_client_leaves() {
    all("bus_leaver", Setup { leaves: true, ..BUS });
}

#[test]
fn p12_a_hostile_client_harms_no_other() {
    all("bus_hostile", Setup { has_faults: 3, deaths: 1, ..BUS });
}

#[test]
fn p8_p9_a_long_chain() {
    all("bus_1_client", Setup { scripts: &[&[1, 2, 1, 1, 2, 1]], deaths: 2, ..BUS });
}

#[test]
fn p10_every_step_alone() {
    all("fine_1_client", Setup { scripts: &[&[1, 1, 2, 1]], deaths: 1, fine: true, ..BUS });
    all("fine_2_clients", Setup { scripts: &[&[1], &[1]], deaths: 1, fine: true, ..BUS });
    all("fine_page_advance", Setup { scripts: &[&[1], &[1, 1]], fine: true, ..BUS });
    if is_full() {
        all("fine_small", Setup { fine: true, ..SMALL });
        all("fine_bus", Setup { fine: true, deaths: 1, ..BUS });
        all("fine_death", Setup { scripts: &[&[1], &[1, 1]], deaths: 1, fine: true, ..BUS });
    }
}

#[test]
fn p9_p10_every_run_comes_to_an_end() {
    every_run_ends("bus_small", &Setup { deaths: 1, ..SMALL });
    every_run_ends("bus_small_late", &Setup { late: 1, deaths: 1, ..SMALL });
    every_run_ends("bus_hostile", &Setup { has_faults: 3, ..SMALL });
}

#[test]
fn p8_p9_p10_a_referenced_page_is_held_until_all_passed_it() {
    all("by_ref_1_client", Setup { scripts: &[&[1, 2, 1, 1]], deaths: 2, ..BY_REF });
    all("by_ref_2_receivers", Setup { scripts: &[&[1, 2], &[]], deaths: 1, ..BY_REF });
    all("fine_by_ref_1_client", Setup { scripts: &[&[1, 1, 1]], deaths: 1, fine: true, ..BY_REF });
    if is_full() {
        all("by_ref_full_chain", BY_REF);
        all("by_ref_2_clients", Setup { by_ref: true, ..SMALL });
        all("fine_by_ref_2_receivers", Setup { scripts: &[&[1, 1], &[]], fine: true, ..BY_REF });
    }
}

#[test]
fn p3_p8_a_client_joins_late_by_reference() {
    all("by_ref_late_join", Setup { scripts: &[&[1, 2], &[]], late: 1, ..BY_REF });
}

#[test]
fn p12_a_hostile_client_by_reference_harms_no_other() {
    all("by_ref_hostile", Setup { scripts: &[&[1, 1], &[]], has_faults: 3, ..BY_REF });
}

#[test]
fn p9_p10_every_run_by_reference_ends() {
    const TWO: Setup = Setup { scripts: &[&[1, 1], &[]], ..BY_REF };
    every_run_ends("by_ref_1_client", &Setup { scripts: &[&[1, 2, 1, 1]], deaths: 1, ..BY_REF });
    every_run_ends("by_ref_late_join", &Setup { late: 1, ..TWO });
    every_run_ends("by_ref_hostile", &Setup { has_faults: 2, ..TWO });
}

/// A client that sends, and one that may be removed while it reads. There are enough messages to
/// reuse the first page.
const REMOVED: Setup = Setup { scripts: &[&[2, 2, 1], &[]], removal: Some(Reads::Copies), ..BUS };
/// The same, but the client that may be removed reads in place.
const IN_PLACE: Setup = Setup { removal: Some(Reads::InPlace), ..REMOVED };

#[test]
fn p3_p6_p8_a_removed_receiver_lives_on() {
    all("removed_copies", Setup { deaths: 1, ..REMOVED });
    all("removed_in_place", Setup { deaths: 1, ..IN_PLACE });
    all("removed_by_ref_copies", Setup { by_ref: true, copies: false, ..REMOVED });
    all("removed_by_ref_in_place", Setup { by_ref: true, copies: false, ..IN_PLACE });
    if is_full() {
        all("removed_maybe_by_ref_copies", Setup { by_ref: true, ..REMOVED });
        all("removed_maybe_by_ref_in_place", Setup { by_ref: true, ..IN_PLACE });
        all("fine_removed_copies", Setup { fine: true, ..REMOVED });
        all("fine_removed_in_place", Setup { fine: true, ..IN_PLACE });
    }
}

/// The same as [`REMOVED`], but that client is skipped and asks to receive again.
const SKIPPED: Setup = Setup { skips: 1, ..REMOVED };
const SKIPPED_IN_PLACE: Setup = Setup { skips: 1, ..IN_PLACE };

#[test]
fn p2_p3_p8_p10_a_skipped_receiver_receives_again() {
    all("skipped_copies", Setup { deaths: 1, ..SKIPPED });
    all("skipped_in_place", SKIPPED_IN_PLACE);
    all("skipped_by_ref_in_place", Setup { by_ref: true, copies: false, ..SKIPPED_IN_PLACE });
    if is_full() {
        all("skipped_twice", Setup { skips: 2, ..SKIPPED });
        all("skipped_in_place_death", Setup { deaths: 1, ..SKIPPED_IN_PLACE });
        all("skipped_by_ref_copies", Setup { by_ref: true, copies: false, ..SKIPPED });
        all("fine_skipped_copies", Setup { fine: true, ..SKIPPED });
    }
}

#[test]
fn p9_p10_every_run_with_a_skipped_receiver_ends() {
    every_run_ends("skipped_copies", &SKIPPED);
    every_run_ends("skipped_in_place", &SKIPPED_IN_PLACE);
}

#[test]
fn p9_p10_every_run_with_a_removed_receiver_ends() {
    every_run_ends("removed_copies", &REMOVED);
    every_run_ends("removed_in_place", &IN_PLACE);
    every_run_ends("removed_by_ref_in_place", &Setup { by_ref: true, copies: false, ..IN_PLACE });
}

#[test]
fn larger_buses() {
    const THREE: &[&[u8]] = &[&[1, 1, 1], &[2, 1], &[1, 2]];
    let three = Setup { scripts: THREE, deaths: 2, late: 1, ..BUS };
    if !is_full() {
        return explore("bus_3_clients", &three, Extent::CutAt(1_000_000));
    }
    all("bus_3_clients_small", Setup { scripts: &[&[1], &[2], &[1]], ..BUS });
    all("bus_two_deaths", Setup { deaths: 2, ..SMALL });
    all("bus_leaver_and_death", Setup { leaves: true, ..MORTAL });
    all("bus_4_messages", Setup { scripts: &[&[1, 1, 1, 1], &[2, 2]], ..BUS });
    all("bus_fair_shares", Setup { share: 1, ..MORTAL });
    every_run_ends("bus_2_clients", &MORTAL);
    explore("bus_3_clients", &three, Extent::CutAt(30_000_000));
}

/// Returns the smallest bus on which a break does harm.
pub fn stage(broken: Break) -> Setup {
    use Break::*;
    let setup = match broken {
        NoSecondLook | NoRing | NoClear | NamedBeforeSent | GivesUpBeforeSendingOn => SMALL,
        GivesUpBeforeNextPage | OneCursorUnread => BUS,
        NoRemoval | DeadForgottenAtOnce | EndsUndrained => Setup { deaths: 1, ..SMALL },
        AdmittedInThePast => Setup { late: 1, ..SMALL },
        PageNotEmptied | ViolationBelieved => Setup { has_faults: 3, ..BUS },
        LentNotHeld | HeldUntilPublished | SleepsOnReturns | LentBeforeSent => BY_REF,
        LentForgottenAtOnce => Setup { deaths: 1, ..BY_REF },
        ChangedCopyConsumed | MemberReadBeforeCopy | MemberNotCleared => REMOVED,
        MemberUnreadInPlace | NotRetired | RetiredNotCounted | RemovedUnannounced => IN_PLACE,
        RetiredForEver => Setup { scripts: &[&[2, 2, 2, 2, 2, 1], &[]], ..IN_PLACE },
        LentNotRetired | RetiredAfterCursor | RetiredUnread | RetiredReadBeforeCursor => {
            Setup { by_ref: true, copies: false, ..IN_PLACE }
        }
        SkippedNotMarked | SkippedUnannounced | ReadmittedInThePast => SKIPPED,
        ReadmittedWithoutPages | NotReadmitted => SKIPPED,
        SkippedNotRetired => SKIPPED_IN_PLACE,
        ParksPolling => Setup { scripts: &[&[1], &[]], polls: true, ..BUS },
        PollsChainAlone
        | PollsUnreleased
        | PollsSocketAlone
        | StaysAtEndOfPage
        | PollsFirstClientAlone
        | StaleCursor
        | RingsBack => unreachable!("it does no harm"),
        LentUnknownToLate => Setup { scripts: &[&[1, 1], &[]], late: 1, ..BY_REF },
    };
    Setup { broken: Some(broken), ..setup }
}

#[test]
fn every_broken_program_does_harm() {
    let mut survivors = Vec::new();
    for broken in Break::HARMFUL {
        let start = Instant::now();
        let Some(violation) = judge(&stage(*broken)) else {
            survivors.push(broken);
            continue;
        };
        let time = start.elapsed().as_secs_f64();
        report(&format!("spec canary {broken:?}: {violation} ({time:.1} s)"));
    }
    report(&format!(
        "spec canaries of the programs: {}, {} survived",
        Break::HARMFUL.len(),
        survivors.len()
    ));
    assert!(survivors.is_empty(), "no harm is done by {survivors:?}");
}

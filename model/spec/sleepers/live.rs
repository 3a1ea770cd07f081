//! Two halves that sleep, in each fair run: what is there for a half, the half takes.
//!
//! Bounded sleeps may end by themselves, so runs are infinite. They need not end: no property relies
//! on it. The peer need not publish, but looks and rings when it has. Each half is owed weak
//! fairness. Where it waits for the lock it is owed strong fairness: a lock that is free again and
//! again is acquired at some time.

use super::{At, Break, POLLING, SETUPS, Setup, State, Step, explore};
use crate::live::{Class, Classes, LeadsTo, System, prove, refute};
use crate::report::report;

struct Halves {
    setup: Setup,
    broken: Option<Break>,
}

const PEER: Classes = 1;

impl System for Halves {
    type State = State;
    type Step = Step;

    fn begin(&self) -> State {
        State::new(self.setup)
    }

    fn steps(&self, state: &State) -> Vec<(Step, State)> {
        let steps = state.next(self.broken).into_iter();
        steps.map(|(step, next)| (step, renumbered(next))).collect()
    }

    fn fairness(&self) -> Vec<Class> {
        vec![
            Class::weak("the peer"),
            Class::weak("the sending half"),
            Class::weak("the receiving half"),
            Class::strong("the sending half's lock"),
            Class::strong("the receiving half's lock"),
        ]
    }

    fn classes(&self, _: &State, step: &Step) -> Classes {
        match step {
            Step::Begins | Step::TimesOut(_) => 0,
            Step::GoesOn => PEER,
            Step::Free(half) => 1 << (1 + half),
            Step::Locks(half) => 1 << (1 + half) | 1 << (3 + half),
        }
    }

    fn show(&self, state: &State, step: &Step, next: &State) -> String {
        let halves = ["the sending half", "the receiving half"];
        match step {
            Step::Begins => format!("the peer publishes or sends, {:?}", next.peer),
            Step::GoesOn => format!("the peer: {:?} -> {:?}", state.peer, next.peer),
            Step::TimesOut(half) => format!("{} wakes by itself", halves[*half]),
            Step::Free(half) | Step::Locks(half) => {
                let (before, after) = (state.halves[*half].at, next.halves[*half].at);
                format!("{}: {before:?} -> {after:?}", halves[*half])
            }
        }
    }
}

/// Numbers the sleeps anew. Only two things matter: whether the word has the number of the last
/// sleep, and whether the peer has rung for that one.
fn renumbered(mut state: State) -> State {
    let (last, has_number) = (state.sleeps, state.word != 0 && state.word != POLLING);
    assert!(!has_number || state.word == last, "the word has the number of the last sleep");
    state.rung = u8::from(state.rung == last);
    state.word = if has_number { 1 } else { state.word };
    state.sleeps = 1;
    state
}

fn properties(setup: Setup) -> Vec<LeadsTo<State>> {
    let mut properties = Vec::new();
    for half in 0..2 {
        let is_there = move |state: &State| state.halves[half].there > 0;
        let name = format!("half {half} never takes what was published for it");
        properties.push(LeadsTo::new(10, name, is_there, move |state| !is_there(state)));
        let sleeps = move |state: &State| {
            let me = &state.halves[half];
            let has_some = me.there > 0 || me.kept > 0;
            matches!(me.at, At::Sleeps | At::Wakes) && has_some
        };
        let name = format!("half {half} sleeps for ever, and has something to take");
        properties.push(LeadsTo::new(10, name, sleeps, move |state| !sleeps(state)));
        if setup.packets > 0 {
            let has = move |state: &State| state.packets[half] > 0 || state.halves[half].kept > 0;
            let name = format!("half {half} never gets a packet for it");
            properties.push(LeadsTo::new(10, name, has, move |state| !has(state)));
        }
    }
    properties
}

#[test]
fn p10_each_fair_run_of_two_sleepers() {
    for (name, setup) in ["live_two_sleepers", "live_two_sleepers_with_packets"].iter().zip(SETUPS)
    {
        prove(name, &Halves { setup, broken: None }, &properties(setup), usize::MAX);
    }
}

#[test]
fn p10_two_halves_that_hand_a_wake_up_back_and_forth_are_found_by_a_lasso_alone() {
    let (setup, broken) = (SETUPS[0], Some(Break::HandsOver));
    let lasso = refute(&Halves { setup, broken }, &properties(setup));
    let lasso = lasso.expect("each fair run is right");
    report(&format!("spec canary of two sleepers, HandsOver: {lasso}"));
    assert!(lasso.contains("for ever:"), "it is no cycle");
    assert!(!explore(setup, broken).1, "it loses a wake-up, so it needs no lasso");
}

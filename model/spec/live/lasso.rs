//! Decides whether a property holds in all fair runs, and finds a lasso if it does not.
//!
//! A run violates `from` *leads to* `to` if it reaches a state with `from` and then stays among
//! states without `to` for ever. A state may be repeated for ever, so a run that ends is also one
//! that repeats its last state.
//!
//! **Why the components decide.** The states and edges that an infinite run repeats again and again
//! are strongly connected, so they lie in one component of the states without `to`. *Weak* fairness
//! of a class says: again and again the class is disabled, or a step of it is taken. If that holds
//! for a run, it holds for one that repeats all states and edges of the component, because these
//! have more of both. So a component is a violation if each class has an edge in it, or is disabled
//! in one of its states. *Strong* fairness also forbids: enabled again and again, and not taken. A
//! component may have such a state and a part without it that is fair. So the states that enable an
//! untaken class are removed, and the components of the rest are examined in the same way.
//!
//! O. Lichtenstein and A. Pnueli, *Checking that finite state concurrent programs satisfy their
//! linear specification*, POPL 1985; C. Baier and J.-P. Katoen, *Principles of Model Checking*, MIT
//! Press 2008, sections 3.5 (fairness) and 6.5 (fair components); weak and strong fairness:
//! L. Lamport, *Specifying Systems*, Addison-Wesley 2002, chapter 8.
//!
//! One difference to Lamport: a step that changes nothing counts as taken. So a process that polls
//! and finds nothing has had its turn. That permits more runs, and so proves more.

use super::components::components;
use super::graph::{Classes, Edge, Fairness, Graph, Path};
use std::collections::HashSet;
use std::ops::ControlFlow;

/// A violation: a path from the first state, and a cycle that a fair run repeats for ever. An empty
/// cycle is the end of the run.
#[derive(Debug)]
pub struct Lasso {
    pub prefix: Vec<Edge>,
    pub cycle: Vec<Edge>,
    /// Steps of the prefix after which the property waits for `to`.
    pub since: usize,
}

#[derive(Debug)]
pub enum Verdict {
    Holds,
    /// No state has `from` and not `to`, so the property says nothing.
    Vacuous,
    Violated(Lasso),
}

/// Decides about the property with this index.
pub fn check(graph: &Graph, property: usize) -> Verdict {
    let waits = |state: u32| graph.is_expanded(state) && !graph.is_to(property, state);
    let states = 0..graph.states() as u32;
    let roots: Vec<u32> =
        states.filter(|state| waits(*state) && graph.is_from(property, *state)).collect();
    if roots.is_empty() {
        return Verdict::Vacuous;
    }
    let is_member = reachable(graph, &roots, waits);
    let found = components(
        graph,
        roots.iter().copied(),
        |state| is_member[state as usize],
        |component| match fair_part(graph, component) {
            Some(part) => ControlFlow::Break(part),
            None => ControlFlow::Continue(()),
        },
    );
    let ControlFlow::Break(part) = found else { return Verdict::Holds };
    let lasso = lasso(graph, property, &roots, waits, &part);
    assert!(is_violation(graph, property, &lasso), "the lasso is not a fair violation");
    Verdict::Violated(lasso)
}

fn reachable(graph: &Graph, roots: &[u32], is_inside: impl Fn(u32) -> bool) -> Vec<bool> {
    let mut is_reached = vec![false; graph.states()];
    let mut left = roots.to_vec();
    roots.iter().for_each(|root| is_reached[*root as usize] = true);
    while let Some(state) = left.pop() {
        for next in graph.edges(state).map(|edge| graph.target(edge)) {
            if is_inside(next) && !std::mem::replace(&mut is_reached[next as usize], true) {
                left.push(next);
            }
        }
    }
    is_reached
}

/// The classes of the steps within a set of states, of those that are enabled in one of the states,
/// and of those that are disabled in one.
#[derive(Default)]
struct Occurs {
    taken: Classes,
    enabled: Classes,
    disabled: Classes,
}

impl Occurs {
    fn within(graph: &Graph, states: &[u32], is_member: impl Fn(u32) -> bool) -> Occurs {
        let mut occurs = Occurs::default();
        for state in states {
            let enabled = graph.enabled(*state);
            occurs.enabled |= enabled;
            occurs.disabled |= !enabled;
            let within = graph.edges(*state).filter(|edge| is_member(graph.target(*edge)));
            occurs.taken |= within.fold(0, |taken, edge| taken | graph.classes_of(edge));
        }
        occurs
    }

    /// Returns the classes of this fairness that a run of these states and steps neglects.
    fn neglected(&self, graph: &Graph, fairness: Fairness) -> Classes {
        let classes = graph.classes.iter().enumerate();
        let classes = classes.filter(|(_, class)| class.fairness == fairness);
        let classes = classes.fold(0, |classes, (i, _)| classes | 1 << i);
        let owed = match fairness {
            Fairness::Weak => !self.disabled,
            Fairness::Strong => self.enabled,
        };
        classes & owed & !self.taken
    }
}

/// Returns the states of a component that a fair run repeats for ever, if there are any.
fn fair_part(graph: &Graph, component: &[u32]) -> Option<Vec<u32>> {
    let members: HashSet<u32>;
    let single = component[0];
    let occurs = if component.len() == 1 {
        Occurs::within(graph, component, |state| state == single)
    } else {
        members = component.iter().copied().collect();
        Occurs::within(graph, component, |state| members.contains(&state))
    };
    if occurs.neglected(graph, Fairness::Weak) != 0 {
        return None;
    }
    let neglected = occurs.neglected(graph, Fairness::Strong);
    if neglected == 0 {
        return Some(component.to_vec());
    }
    let rest = component.iter().copied().filter(|state| graph.enabled(*state) & neglected == 0);
    let rest: HashSet<u32> = rest.collect();
    let found = components(
        graph,
        rest.iter().copied(),
        |state| rest.contains(&state),
        |part| match fair_part(graph, part) {
            Some(part) => ControlFlow::Break(part),
            None => ControlFlow::Continue(()),
        },
    );
    found.break_value()
}

/// Makes the run that comes soonest to a fair part, and there does what each class is owed.
fn lasso(
    graph: &Graph,
    property: usize,
    roots: &[u32],
    waits: impl Fn(u32) -> bool,
    part: &[u32],
) -> Lasso {
    let members: HashSet<u32> = part.iter().copied().collect();
    let is_inside = |state: u32| members.contains(&state);
    let waiting = graph.path(roots, waits, is_inside).expect("the part is reachable");
    let first = graph.path(&[0], |_| true, |state| state == waiting.from);
    let mut prefix = first.expect("each state is reachable").edges;
    let since = prefix.len();
    prefix.extend(waiting.edges);
    let since = asked_at(graph, property, &prefix).unwrap_or(since);
    let start = waiting.to;
    let mut cycle = Vec::new();
    let has_class = |class: usize| move |edge: &Edge| graph.classes_of(*edge) >> class & 1 != 0;
    let within = |state: u32| graph.edges(state).filter(|edge| is_inside(graph.target(*edge)));
    let mut at = start;
    let travel = |at: &mut u32, is_goal: &dyn Fn(u32) -> bool| -> Path {
        let way = graph.path(&[*at], is_inside, is_goal).expect("the part is connected");
        *at = way.to;
        way
    };
    // Where no class is enabled, the run may end.
    let classes = if graph.enabled(start) == 0 { 0 } else { graph.classes.len() };
    for class in 0..classes {
        let is_taken = |state: u32| within(state).any(|edge| has_class(class)(&edge));
        let is_disabled = |state: u32| graph.enabled(state) >> class & 1 == 0;
        if part.iter().any(|state| is_taken(*state)) {
            if cycle.iter().any(has_class(class)) {
                continue;
            }
            cycle.extend(travel(&mut at, &is_taken).edges);
            let edge = within(at).find(|edge| has_class(class)(edge)).expect("it is taken here");
            cycle.push(edge);
            at = graph.target(edge);
        } else if graph.classes[class].fairness == Fairness::Weak {
            cycle.extend(travel(&mut at, &is_disabled).edges);
        }
    }
    if !cycle.is_empty() {
        cycle.extend(travel(&mut at, &|state| state == start).edges);
    }
    Lasso { prefix, cycle, since }
}

/// Returns the number of steps after which a run first has `from`, and never `to` from there on.
fn asked_at(graph: &Graph, property: usize, run: &[Edge]) -> Option<usize> {
    let states = run.iter().map(|edge| graph.target(*edge));
    let states: Vec<u32> = [0].into_iter().chain(states).collect();
    let answered = states.iter().rposition(|state| graph.is_to(property, *state));
    let open = answered.map_or(0, |last| last + 1)..states.len();
    open.into_iter().find(|i| graph.is_from(property, states[*i]))
}

/// Follows a lasso, and returns whether it is a fair run that violates the property.
fn is_violation(graph: &Graph, property: usize, lasso: &Lasso) -> bool {
    let mut at = 0;
    let mut waits = lasso.since == 0 && graph.is_from(property, 0) && !graph.is_to(property, 0);
    for (i, edge) in lasso.prefix.iter().chain(&lasso.cycle).enumerate() {
        if graph.source(*edge) != at {
            return false;
        }
        at = graph.target(*edge);
        waits |= i + 1 == lasso.since && graph.is_from(property, at);
        waits &= !(i + 1 >= lasso.since && graph.is_to(property, at));
    }
    let states: Vec<u32> = match lasso.cycle.is_empty() {
        true => vec![at],
        false => lasso.cycle.iter().map(|edge| graph.source(*edge)).collect(),
    };
    let mut occurs = Occurs::within(graph, &states, |_| false);
    occurs.taken = lasso.cycle.iter().fold(0, |taken, edge| taken | graph.classes_of(*edge));
    let is_fair = occurs.neglected(graph, Fairness::Weak) == 0
        && occurs.neglected(graph, Fairness::Strong) == 0;
    waits && is_fair && at == states[0]
}

//! Graphs of a few states, whose verdicts are known, and random ones, whose verdicts a search
//! through all sets of states gives.

use super::graph::{Class, Classes, Graph, LeadsTo, System};
use super::lasso::{Verdict, check};
use std::collections::HashSet;

/// A graph by its edges: from, to, and the classes. The run begins in state 0.
struct HandMade {
    edges: Vec<(u32, u32, Classes)>,
    classes: Vec<Class>,
}

impl System for HandMade {
    type State = u32;
    type Step = Classes;

    fn begin(&self) -> u32 {
        0
    }

    fn steps(&self, state: &u32) -> Vec<(Classes, u32)> {
        let edges = self.edges.iter().filter(|(from, ..)| from == state);
        edges.map(|(_, to, classes)| (*classes, *to)).collect()
    }

    fn fairness(&self) -> Vec<Class> {
        self.classes.clone()
    }

    fn classes(&self, _: &u32, step: &Classes) -> Classes {
        *step
    }

    fn show(&self, state: &u32, step: &Classes, next: &u32) -> String {
        format!("{step:#b}: {state} -> {next}")
    }
}

/// No process has to take this step.
const FREE: Classes = 0;
const A: Classes = 1;
const B: Classes = 2;

/// Decides whether each run from state 0 comes to a state of `to`. Returns the steps of the prefix
/// and of the cycle if one does not.
fn judge(classes: &[Class], edges: &[(u32, u32, Classes)], to: &'static [u32]) -> Option<Steps> {
    let system = HandMade { edges: edges.to_vec(), classes: classes.to_vec() };
    let property = LeadsTo::new(9, "", |state| *state == 0, move |state| to.contains(state));
    let graph = Graph::explore(&system, &[property], usize::MAX);
    match check(&graph, 0) {
        Verdict::Holds => None,
        Verdict::Vacuous => panic!("state 0 asks for something"),
        Verdict::Violated(lasso) => {
            let run: Vec<u32> = lasso.prefix.iter().chain(&lasso.cycle).copied().collect();
            let mut prefix = graph.show(&system, &run);
            let cycle = prefix.split_off(lasso.prefix.len());
            Some((prefix, cycle))
        }
    }
}

type Steps = (Vec<String>, Vec<String>);

fn weak() -> [Class; 2] {
    [Class::weak("A"), Class::weak("B")]
}

/// A is owed strong fairness, and B weak fairness.
fn strong() -> [Class; 2] {
    [Class::strong("A"), Class::weak("B")]
}

#[test]
fn a_cycle_without_the_goal_is_a_violation() {
    let found = judge(&weak(), &[(0, 1, A), (1, 0, A)], &[9]);
    let (prefix, cycle) = found.expect("A goes round for ever");
    assert!(prefix.is_empty());
    assert_eq!(cycle, ["0b1: 0 -> 1", "0b1: 1 -> 0"]);
}

#[test]
fn a_cycle_that_a_process_would_leave_is_none() {
    // B can leave in both states and never does: that is not fair.
    let edges = [(0, 1, A), (1, 0, A), (0, 2, B), (1, 2, B)];
    assert_eq!(judge(&weak(), &edges, &[2]), None);
    // If B need not take the step, A goes round for ever.
    let edges = [(0, 1, A), (1, 0, A), (0, 2, FREE), (1, 2, FREE)];
    assert!(judge(&weak(), &edges, &[2]).is_some());
}

#[test]
fn a_process_that_is_disabled_again_and_again_is_owed_nothing_by_weak_fairness() {
    let edges = [(0, 1, A), (1, 0, A), (0, 2, B)];
    let (_, cycle) = judge(&weak(), &edges, &[2]).expect("B is disabled in state 1");
    assert_eq!(cycle.len(), 2);
    let classes = [Class::weak("A"), Class::strong("B")];
    assert_eq!(judge(&classes, &edges, &[2]), None, "strong fairness owes it the step");
}

#[test]
fn the_part_of_a_component_without_the_neglected_class_is_examined() {
    // A round over 0 passes a state that enables A, the round of 1 and 2 does not.
    let edges = [(0, 1, B), (1, 2, B), (2, 1, B), (2, 0, B), (0, 3, A)];
    let (prefix, cycle) = judge(&strong(), &edges, &[3]).expect("B stays in 1 and 2");
    assert_eq!((prefix.len(), cycle.len()), (1, 2));
    let edges = [(0, 1, B), (1, 2, B), (2, 0, B), (0, 3, A)];
    assert_eq!(judge(&strong(), &edges, &[3]), None);
}

#[test]
fn a_cycle_through_two_processes() {
    let edges = [(0, 1, FREE), (1, 2, A), (2, 1, B), (2, 3, FREE)];
    let (prefix, cycle) = judge(&weak(), &edges, &[3]).expect("A and B take turns for ever");
    assert_eq!(prefix, ["0b0: 0 -> 1"]);
    assert_eq!(cycle, ["0b1: 1 -> 2", "0b10: 2 -> 1"]);
    // With B alone in it, the cycle is not fair to A, which is enabled in both states.
    let edges = [(0, 1, B), (1, 0, B), (0, 2, A), (1, 2, A)];
    assert_eq!(judge(&weak(), &edges, &[2]), None);
}

#[test]
fn the_cycle_serves_every_process() {
    // Each of three loops belongs to another process, and each process can always go on.
    let classes = [Class::weak("A"), Class::weak("B"), Class::weak("C")];
    let edges = [(0, 1, A), (1, 0, FREE), (0, 2, B), (2, 0, FREE), (0, 0, 4)];
    let all = edges.iter().chain(&[(1, 9, 7), (2, 9, 7)]).copied().collect::<Vec<_>>();
    let (_, cycle) = judge(&classes, &all, &[9]).expect("all three take turns");
    for class in ["0b1:", "0b10:", "0b100:"] {
        assert!(cycle.iter().any(|step| step.starts_with(class)), "{class} {cycle:?}");
    }
}

#[test]
fn a_state_that_ends_the_run_without_the_goal_is_a_violation() {
    let (prefix, cycle) = judge(&weak(), &[(0, 1, A)], &[9]).expect("nothing follows state 1");
    assert_eq!((prefix.len(), cycle.len()), (1, 0));
    assert_eq!(judge(&weak(), &[(0, 1, A)], &[1]), None);
}

#[test]
fn a_run_need_not_take_a_step_that_no_process_owes() {
    let (prefix, cycle) = judge(&weak(), &[(0, 1, FREE)], &[1]).expect("it stays in state 0");
    assert!(prefix.is_empty() && cycle.is_empty());
}

#[test]
fn a_self_loop_is_a_turn_of_its_process() {
    let (_, cycle) = judge(&weak(), &[(0, 0, A), (0, 1, A)], &[1]).expect("A polls for ever");
    assert_eq!(cycle, ["0b1: 0 -> 0"]);
    // Its loop is no turn of B.
    assert_eq!(judge(&weak(), &[(0, 0, A), (0, 1, B)], &[1]), None);
}

#[test]
fn the_goal_counts_only_after_the_question() {
    let edges = [(0, 1, A), (1, 2, A), (2, 2, A)];
    let system = HandMade { edges: edges.to_vec(), classes: weak().to_vec() };
    let later = LeadsTo::new(9, "", |state| *state == 2, |state| *state == 1);
    let never = LeadsTo::new(9, "", |state| *state == 7, |state| *state == 1);
    let at_once = LeadsTo::new(9, "", |state| *state == 2, |state| *state == 2);
    let graph = Graph::explore(&system, &[later, never, at_once], usize::MAX);
    let Verdict::Violated(lasso) = check(&graph, 0) else { panic!("state 1 does not return") };
    assert_eq!((lasso.prefix.len(), lasso.since), (2, 2));
    assert!(matches!(check(&graph, 1), Verdict::Vacuous), "no state asks for it");
    assert!(matches!(check(&graph, 2), Verdict::Vacuous), "each question is answered at once");
}

#[test]
fn a_state_that_was_not_expanded_is_neither_an_end_nor_on_a_cycle() {
    let edges = vec![(0, 1, A), (1, 0, A), (0, 2, B)];
    let system = HandMade { edges, classes: weak().to_vec() };
    let property = || [LeadsTo::new(9, "", |_: &u32| true, |state| *state == 3)];
    let whole = Graph::explore(&system, &property(), usize::MAX);
    assert!(whole.is_whole() && matches!(check(&whole, 0), Verdict::Violated(_)));
    let cut = Graph::explore(&system, &property(), 1);
    assert!(!cut.is_whole() && matches!(check(&cut, 0), Verdict::Holds));
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

/// Returns the states that `from` reaches through states of `inside`.
fn reach(edges: &[(u32, u32, Classes)], from: u32, inside: &HashSet<u32>) -> HashSet<u32> {
    let mut reached = HashSet::from([from]);
    loop {
        let next =
            edges.iter().filter(|(from, to, _)| reached.contains(from) && inside.contains(to));
        let next: Vec<u32> = next.map(|edge| edge.1).filter(|to| !reached.contains(to)).collect();
        if next.is_empty() {
            return reached;
        }
        reached.extend(next);
    }
}

/// Decides by trying each set of states: can a fair run stay in it for ever, and repeat all of it?
fn is_violated(system: &HandMade, states: u32, goal: u32) -> bool {
    let edges = &system.edges;
    let waiting: HashSet<u32> = (0..states).filter(|state| *state != goal).collect();
    let reached = reach(edges, 0, &waiting);
    let is_fair = |set: &HashSet<u32>| {
        let enables = |state: u32, class: usize| {
            edges.iter().any(|(from, _, classes)| *from == state && classes >> class & 1 != 0)
        };
        system.classes.iter().enumerate().all(|(i, class)| {
            let is_taken = edges.iter().any(|(from, to, classes)| {
                set.contains(from) && set.contains(to) && classes >> i & 1 != 0
            });
            let owes_nothing = match class.fairness {
                super::graph::Fairness::Weak => set.iter().any(|state| !enables(*state, i)),
                super::graph::Fairness::Strong => set.iter().all(|state| !enables(*state, i)),
            };
            is_taken || owes_nothing
        })
    };
    (1..1u32 << states).any(|bits| {
        let set: HashSet<u32> = (0..states).filter(|state| bits >> state & 1 != 0).collect();
        let is_connected = set.iter().all(|state| reach(edges, *state, &set) == set);
        set.is_subset(&reached) && is_connected && is_fair(&set)
    })
}

#[test]
fn random_graphs_get_the_verdict_of_a_search_through_all_sets() {
    let mut dice = Dice(1);
    let mut violated = 0;
    const GRAPHS: u32 = 20_000;
    for _ in 0..GRAPHS {
        let states = 2 + dice.roll(4) as u32;
        let mut side = || dice.roll(states.into()) as u32;
        let ends: Vec<(u32, u32)> = (0..2 * states).map(|_| (side(), side())).collect();
        let edges = ends.iter().map(|(from, to)| (*from, *to, dice.roll(4) as Classes)).collect();
        let fair = |is_strong: bool| if is_strong { Class::strong("") } else { Class::weak("") };
        let classes = vec![fair(dice.roll(2) == 0), fair(dice.roll(2) == 0)];
        let system = HandMade { edges, classes };
        let goal = states - 1;
        let property = LeadsTo::new(9, "", |state| *state == 0, move |state| *state == goal);
        let graph = Graph::explore(&system, &[property], usize::MAX);
        let found = matches!(check(&graph, 0), Verdict::Violated(_));
        assert_eq!(found, is_violated(&system, states, goal), "{:?}", system.edges);
        violated += u32::from(found);
    }
    assert!((GRAPHS / 5..GRAPHS * 4 / 5).contains(&violated), "{violated}: too easy");
}

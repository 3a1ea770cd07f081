//! Checks properties of a system in all fair runs, and prints a violation as a lasso.

use super::components::components;
use super::graph::{Graph, LeadsTo, System};
use super::lasso::{Lasso, Verdict, check};
use crate::grouped::grouped;
use crate::report::report;
use std::convert::Infallible;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::time::Instant;

/// Checks that no state is harmed and that all properties hold in all fair runs. Prints the extent. `limit` is the number
/// of states to expand at most. Panics with a lasso, or names a property that says nothing.
pub fn prove<S: System>(name: &str, system: &S, properties: &[LeadsTo<S::State>], limit: usize) {
    let start = Instant::now();
    let graph = Graph::explore(system, properties, limit);
    if let Some((state, why)) = &graph.harm {
        let path = graph.path(&[0], |_| true, |reached| reached == *state);
        let steps = graph.show(system, &path.expect("each state is reachable").edges);
        panic!("{name}: {why}\n  {}", steps.join("\n  "));
    }
    for (i, property) in properties.iter().enumerate() {
        match check(&graph, i) {
            Verdict::Holds => {}
            Verdict::Vacuous => {
                panic!("{name}: P{}, {}: never asked", property.promise, property.name)
            }
            Verdict::Violated(lasso) => {
                panic!("{name}: {}", show(system, &graph, property, &lasso))
            }
        }
    }
    let extent = match graph.is_whole() {
        true => "exhaustive".to_string(),
        false => format!("cut at {} expanded states", grouped(limit)),
    };
    assert!(graph.is_whole() || limit != usize::MAX, "{name}: the graph is whole without a limit");
    let (states, on_cycles) = (grouped(graph.states()), grouped(on_cycles(&graph)));
    let (count, time) = (properties.len(), start.elapsed().as_secs_f64());
    report(&format!(
        "spec {name}: {count} properties in every fair run, {extent}, {states} states, {on_cycles} \
         of them on cycles in {time:.1} s"
    ));
}

/// Returns the first violation of a property in a fair run, as text.
pub fn refute<S: System>(system: &S, properties: &[LeadsTo<S::State>]) -> Option<String> {
    let graph = Graph::explore(system, properties, usize::MAX);
    properties.iter().enumerate().find_map(|(i, property)| match check(&graph, i) {
        Verdict::Violated(lasso) => Some(show(system, &graph, property, &lasso)),
        Verdict::Holds | Verdict::Vacuous => None,
    })
}

/// Returns the properties that a fair run violates.
pub fn violated<'a, S: System>(
    system: &S,
    properties: &'a [LeadsTo<S::State>],
) -> Vec<&'a LeadsTo<S::State>> {
    let graph = Graph::explore(system, properties, usize::MAX);
    let is_violated = |(i, _): &(usize, _)| matches!(check(&graph, *i), Verdict::Violated(_));
    properties.iter().enumerate().filter(is_violated).map(|(_, property)| property).collect()
}

fn on_cycles(graph: &Graph) -> usize {
    let mut count = 0;
    let states = 0..graph.states() as u32;
    let is_member = |state| graph.is_expanded(state);
    let _ = components(graph, states, is_member, |component| {
        let single = component[0];
        let loops = || graph.edges(single).any(|edge| graph.target(edge) == single);
        if component.len() > 1 || loops() {
            count += component.len();
        }
        ControlFlow::<Infallible>::Continue(())
    });
    count
}

/// Describes a lasso: its prefix, its cycle, and why it is fair.
fn show<S: System>(
    system: &S,
    graph: &Graph,
    property: &LeadsTo<S::State>,
    lasso: &Lasso,
) -> String {
    let run: Vec<u32> = lasso.prefix.iter().chain(&lasso.cycle).copied().collect();
    let steps = graph.show(system, &run);
    let (prefix, cycle) = steps.split_at(lasso.prefix.len());
    let mut text = format!("P{}: {}\n", property.promise, property.name);
    for (i, step) in prefix.iter().enumerate() {
        let _ = writeln!(text, "  {:3} {step}", i + 1);
        if i + 1 == lasso.since {
            text.push_str("      from here on it waits\n");
        }
    }
    if cycle.is_empty() {
        text.push_str("  and no process takes a step any more\n");
        return text;
    }
    let _ = writeln!(text, "  then these {} steps for ever:", cycle.len());
    for step in cycle {
        let _ = writeln!(text, "    ~ {step}");
    }
    for (i, class) in graph.classes.iter().enumerate() {
        let is_taken = lasso.cycle.iter().any(|edge| graph.classes_of(*edge) >> i & 1 != 0);
        let why = if is_taken { "takes steps" } else { "is disabled again and again" };
        let _ = writeln!(text, "  fair: {} {why}", class.name);
    }
    text
}

//! Strongly connected components, by Tarjan's algorithm without recursion.
//!
//! R. Tarjan, *Depth-first search and linear graph algorithms*, SIAM Journal on Computing 1(2),
//! 1972.

use super::graph::{Edge, Graph};
use std::ops::ControlFlow;

const UNSEEN: u32 = u32::MAX;

struct Search<'a> {
    graph: &'a Graph,
    /// The number of each state in the order of the search.
    order: Vec<u32>,
    /// The smallest number that a state reaches, among states without a component yet.
    low: Vec<u32>,
    has_component: Vec<bool>,
    /// States without a component yet, in the order of the search.
    open: Vec<u32>,
    /// The states on the path from the root, and the next edge of each.
    path: Vec<(u32, Edge)>,
    seen: u32,
}

/// Calls `each` with every strongly connected component of the states of which `is_member` holds.
/// A state without a cycle is a component of its own.
pub fn components<B>(
    graph: &Graph,
    states: impl Iterator<Item = u32>,
    is_member: impl Fn(u32) -> bool,
    mut each: impl FnMut(&[u32]) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let count = graph.states();
    let mut search = Search {
        graph,
        order: vec![UNSEEN; count],
        low: vec![UNSEEN; count],
        has_component: vec![false; count],
        open: Vec::new(),
        path: Vec::new(),
        seen: 0,
    };
    for root in states {
        if !is_member(root) || search.order[root as usize] != UNSEEN {
            continue;
        }
        search.enter(root);
        while let Some((state, edge)) = search.path.last_mut() {
            let state = *state;
            if *edge == graph.edges(state).end {
                search.path.pop();
                search.leave(state, &mut each)?;
                continue;
            }
            let next = graph.target(*edge);
            *edge += 1;
            if !is_member(next) || search.has_component[next as usize] {
                continue;
            }
            if search.order[next as usize] == UNSEEN {
                search.enter(next);
            } else {
                let reached = search.order[next as usize];
                let low = &mut search.low[state as usize];
                *low = reached.min(*low);
            }
        }
    }
    ControlFlow::Continue(())
}

impl Search<'_> {
    fn enter(&mut self, state: u32) {
        self.order[state as usize] = self.seen;
        self.low[state as usize] = self.seen;
        self.seen += 1;
        self.open.push(state);
        self.path.push((state, self.graph.edges(state).start));
    }

    fn leave<B>(
        &mut self,
        state: u32,
        each: &mut impl FnMut(&[u32]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let low = self.low[state as usize];
        if let Some((parent, _)) = self.path.last() {
            let parent = &mut self.low[*parent as usize];
            *parent = low.min(*parent);
        }
        if low != self.order[state as usize] {
            return ControlFlow::Continue(());
        }
        let first = self.open.iter().rposition(|open| *open == state).unwrap_or(0);
        for member in &self.open[first..] {
            self.has_component[*member as usize] = true;
        }
        let component = self.open.split_off(first);
        each(&component)
    }
}

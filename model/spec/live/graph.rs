//! The graph of all states that a system reaches, with what its edges mean for fairness.
//!
//! States are numbered in the order in which a breadth-first search finds them, and distinguished
//! by hashes of 64 bits. Only the numbers are kept. A run is shown by taking its steps again.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash};

/// A set of classes of steps. Bit *i* is the class with index *i*.
pub type Classes = u16;

/// What a fair run owes to the steps of a class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fairness {
    /// If they are enabled in all states from some state on, they are taken again and again.
    Weak,
    /// If they are enabled again and again, they are taken again and again.
    Strong,
}

/// Steps that a fair run takes again and again, such as those of a process.
#[derive(Clone, Debug)]
pub struct Class {
    pub name: String,
    pub fairness: Fairness,
}

impl Class {
    pub fn weak(name: impl Into<String>) -> Self {
        Class { name: name.into(), fairness: Fairness::Weak }
    }

    pub fn strong(name: impl Into<String>) -> Self {
        Class { name: name.into(), fairness: Fairness::Strong }
    }
}

/// A state machine whose runs are explored.
pub trait System {
    type State: Clone + Hash;
    type Step;

    fn begin(&self) -> Self::State;

    /// Returns all steps and where they lead. The order is the same at each call.
    fn steps(&self, state: &Self::State) -> Vec<(Self::Step, Self::State)>;

    fn fairness(&self) -> Vec<Class>;

    /// Returns the classes of a step. A step without a class need never be taken.
    fn classes(&self, state: &Self::State, step: &Self::Step) -> Classes;

    /// Returns what is wrong with a state, whatever follows it.
    fn harm(&self, _: &Self::State) -> Option<String> {
        None
    }

    /// Describes a step in words.
    fn show(&self, state: &Self::State, step: &Self::Step, next: &Self::State) -> String;
}

type Condition<S> = Box<dyn Fn(&S) -> bool>;

/// A property of all runs: a state in which `from` holds is followed by one in which `to` holds, or
/// is such a state.
pub struct LeadsTo<S> {
    pub promise: u8,
    /// The sentence that is false if the property is violated.
    pub name: String,
    pub from: Condition<S>,
    pub to: Condition<S>,
}

impl<S> LeadsTo<S> {
    pub fn new(
        promise: u8,
        name: impl Into<String>,
        from: impl Fn(&S) -> bool + 'static,
        to: impl Fn(&S) -> bool + 'static,
    ) -> Self {
        LeadsTo { promise, name: name.into(), from: Box::new(from), to: Box::new(to) }
    }
}

/// An edge, by its number.
pub type Edge = u32;

/// What holds in a state: bit *i* belongs to the property with index *i*.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Facts {
    pub from: u64,
    pub to: u64,
}

/// All states from the first one on, or a part of them.
#[derive(Default)]
pub struct Graph {
    pub classes: Vec<Class>,
    /// The first edge of each state that was expanded, and the number of edges.
    first_edge: Vec<Edge>,
    target: Vec<u32>,
    edge_classes: Vec<Classes>,
    facts: Vec<Facts>,
    /// The first state in which something is wrong, and what.
    pub harm: Option<(u32, String)>,
}

impl Graph {
    /// Explores a system, and evaluates the properties in each state. Expands at most `limit`
    /// states.
    pub fn explore<S: System>(system: &S, properties: &[LeadsTo<S::State>], limit: usize) -> Graph {
        assert!(properties.len() <= 64, "a state has 64 bits for the properties");
        let hash = BuildHasherDefault::<DefaultHasher>::default();
        let mut graph = Graph { classes: system.fairness(), ..Graph::default() };
        let mut numbers: HashMap<u64, u32> = HashMap::new();
        let begin = system.begin();
        numbers.insert(hash.hash_one(&begin), 0);
        graph.facts.push(facts(properties, &begin));
        let mut queue = VecDeque::from([begin]);
        while let Some(state) = queue.pop_front() {
            if graph.first_edge.len() == limit {
                break;
            }
            let here = graph.first_edge.len() as u32;
            graph.harm = graph.harm.or_else(|| Some((here, system.harm(&state)?)));
            graph.first_edge.push(graph.target.len() as Edge);
            for (step, next) in system.steps(&state) {
                let fresh = numbers.len() as u32;
                let number = match numbers.entry(hash.hash_one(&next)) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(new) => {
                        graph.facts.push(facts(properties, &next));
                        queue.push_back(next);
                        *new.insert(fresh)
                    }
                };
                graph.target.push(number);
                graph.edge_classes.push(system.classes(&state, &step));
            }
        }
        graph.first_edge.push(graph.target.len() as Edge);
        graph
    }

    /// Returns the number of states, also of those that were not expanded.
    pub fn states(&self) -> usize {
        self.facts.len()
    }

    /// Returns whether the edges of a state are known.
    pub fn is_expanded(&self, state: u32) -> bool {
        (state as usize) + 1 < self.first_edge.len()
    }

    /// Returns whether all states were expanded.
    pub fn is_whole(&self) -> bool {
        self.first_edge.len() == self.facts.len() + 1
    }

    pub fn edges(&self, state: u32) -> std::ops::Range<Edge> {
        let state = state as usize;
        self.first_edge[state]..self.first_edge[state + 1]
    }

    pub fn target(&self, edge: Edge) -> u32 {
        self.target[edge as usize]
    }

    pub fn source(&self, edge: Edge) -> u32 {
        self.first_edge.partition_point(|first| *first <= edge) as u32 - 1
    }

    pub fn classes_of(&self, edge: Edge) -> Classes {
        self.edge_classes[edge as usize]
    }

    /// Returns the classes of which a step can be taken in a state.
    pub fn enabled(&self, state: u32) -> Classes {
        self.edges(state).fold(0, |enabled, edge| enabled | self.classes_of(edge))
    }

    /// Returns whether a property's `from` holds in a state.
    pub fn is_from(&self, property: usize, state: u32) -> bool {
        self.facts[state as usize].from >> property & 1 != 0
    }

    /// Returns whether a property's `to` holds in a state.
    pub fn is_to(&self, property: usize, state: u32) -> bool {
        self.facts[state as usize].to >> property & 1 != 0
    }

    /// Returns a shortest path from one of `roots` to a state of which `is_goal` holds. It passes
    /// only states of which `is_inside` holds.
    pub fn path(
        &self,
        roots: &[u32],
        is_inside: impl Fn(u32) -> bool,
        is_goal: impl Fn(u32) -> bool,
    ) -> Option<Path> {
        let mut reached: HashMap<u32, Option<Edge>> = roots.iter().map(|r| (*r, None)).collect();
        let mut queue: VecDeque<u32> = roots.iter().copied().collect();
        while let Some(state) = queue.pop_front() {
            if is_goal(state) {
                return Some(self.path_back(&reached, state));
            }
            for edge in self.edges(state) {
                let next = self.target(edge);
                if self.is_expanded(next) && is_inside(next) && !reached.contains_key(&next) {
                    reached.insert(next, Some(edge));
                    queue.push_back(next);
                }
            }
        }
        None
    }

    fn path_back(&self, reached: &HashMap<u32, Option<Edge>>, to: u32) -> Path {
        let (mut edges, mut from) = (Vec::new(), to);
        while let Some(edge) = reached[&from] {
            edges.push(edge);
            from = self.source(edge);
        }
        edges.reverse();
        Path { from, edges, to }
    }

    /// Takes the steps of a run again, from the first state on, and describes each.
    pub fn show<S: System>(&self, system: &S, run: &[Edge]) -> Vec<String> {
        let mut state = system.begin();
        let mut lines = Vec::new();
        for edge in run {
            let nth = edge - self.edges(self.source(*edge)).start;
            let (step, next) = system.steps(&state).swap_remove(nth as usize);
            lines.push(system.show(&state, &step, &next));
            state = next;
        }
        lines
    }
}

fn facts<S>(properties: &[LeadsTo<S>], state: &S) -> Facts {
    let mut facts = Facts::default();
    for (i, property) in properties.iter().enumerate() {
        facts.from |= u64::from((property.from)(state)) << i;
        facts.to |= u64::from((property.to)(state)) << i;
    }
    facts
}

/// A path through a graph.
pub struct Path {
    pub from: u32,
    pub edges: Vec<Edge>,
    pub to: u32,
}

//! All candidate executions of a program: every path of every thread, every source of every load
//! (`rf`), every order of the stores to a word (`co`). A model then says which of them exist.

use crate::program::{Access, Fact, Fence, Location, Program, Register, Step, Value};
use crate::relation::Relation;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Fence(Fence),
}

#[derive(Clone, Debug)]
pub struct Event {
    /// The thread, or `None` for the store of an initial value.
    pub thread: Option<usize>,
    pub kind: Kind,
    /// Empty for a fence.
    pub location: Location,
    pub value: u64,
    pub access: Access,
}

/// A candidate execution. `po` has no initial stores, `co` begins with them.
pub struct Execution {
    pub events: Vec<Event>,
    pub po: Relation,
    pub addr: Relation,
    pub data: Relation,
    pub ctrl: Relation,
    pub rf: Relation,
    pub co: Relation,
    pub fr: Relation,
    registers: Vec<BTreeMap<Register, u64>>,
}

impl Execution {
    /// Returns the relation of all pairs that `holds` accepts.
    pub fn pairs(&self, holds: impl Fn(&Event, &Event) -> bool) -> Relation {
        Relation::of(self.events.len(), |a, b| holds(&self.events[a], &self.events[b]))
    }

    /// Returns `[S]`: the identity on the events that `holds` accepts.
    pub fn only(&self, holds: impl Fn(&Event) -> bool) -> Relation {
        Relation::of(self.events.len(), |a, b| a == b && holds(&self.events[a]))
    }

    /// Returns whether all facts of a clause of the program's outcome hold.
    pub fn shows(&self, outcome: &[Vec<Fact>]) -> bool {
        let holds = |fact: &Fact| match *fact {
            Fact::Register(thread, register, value) => {
                self.registers[thread].get(&register).copied().unwrap_or(0) == value
            }
            Fact::Final(location, value) => (0..self.events.len()).any(|last| {
                let event = &self.events[last];
                event.kind == Kind::Write
                    && (event.location, event.value) == (location, value)
                    && (0..self.events.len()).all(|later| !self.co.has(last, later))
            }),
        };
        outcome.iter().any(|clause| clause.iter().all(holds))
    }
}

/// One path through a thread, with a guess for the value of each load.
#[derive(Clone, Default)]
struct Path {
    events: Vec<Event>,
    /// Pairs of events of this path: a load, and what depends on it.
    addr: Vec<(usize, usize)>,
    data: Vec<(usize, usize)>,
    ctrl: Vec<(usize, usize)>,
    /// The value of each register, and the load that wrote it.
    registers: BTreeMap<Register, (u64, usize)>,
    /// The loads that were branched on.
    branched: Vec<usize>,
}

/// The values that a load from each location can return.
type Domain = BTreeMap<Location, BTreeSet<u64>>;

/// Calls `visit` with each candidate execution of `program`.
pub fn for_each(program: &Program, mut visit: impl FnMut(&Execution)) {
    let domain = domain(program);
    let mut products = vec![Vec::new()];
    for (thread, steps) in program.threads.iter().enumerate() {
        let mut paths = Vec::new();
        walk(thread, steps, &[], Path::default(), &domain, &mut paths);
        let extend = |product: &Vec<Path>| {
            let product = product.clone();
            paths.clone().into_iter().map(move |path| [product.clone(), vec![path]].concat())
        };
        products = products.iter().flat_map(extend).collect();
    }
    for product in products {
        of_paths(program, &product, &mut visit);
    }
}

fn domain(program: &Program) -> Domain {
    let locations = program.locations();
    let mut domain: Domain =
        locations.iter().map(|at| (*at, BTreeSet::from([program.initial(at)]))).collect();
    let mut copied = Vec::new();
    for steps in &program.threads {
        Program::visit(steps, &mut |step| match step {
            Step::Store { to, value: Value::Constant(v) | Value::Computed(v, _), .. } => {
                domain.entry(to).or_default().insert(*v);
            }
            Step::Store { to, value: Value::Copy(_), .. } => copied.push(*to),
            _ => {}
        });
    }
    let any: BTreeSet<u64> = domain.values().flatten().copied().chain([1]).collect();
    for to in copied {
        domain.insert(to, any.clone());
    }
    domain
}

/// Appends every path through `steps` and then `rest` to `paths`.
fn walk(
    thread: usize,
    steps: &[Step],
    rest: &[&[Step]],
    mut path: Path,
    domain: &Domain,
    paths: &mut Vec<Path>,
) {
    let Some((step, steps)) = steps.split_first() else {
        match rest.split_first() {
            Some((next, rest)) => walk(thread, next, rest, path, domain, paths),
            None => paths.push(path),
        }
        return;
    };
    match step {
        Step::Load { to, from, access, address } => {
            for value in &domain[from] {
                let mut path = path.clone();
                let at = path.push(thread, Kind::Read, from, *value, *access, *address);
                path.registers.insert(*to, (*value, at));
                walk(thread, steps, rest, path, domain, paths);
            }
        }
        Step::Store { to, value, access, address } => {
            let (value, from) = match *value {
                Value::Constant(value) => (value, None),
                Value::Copy(register) => (path.registers[&register].0, Some(register)),
                Value::Computed(value, register) => (value, Some(register)),
            };
            let at = path.push(thread, Kind::Write, to, value, *access, *address);
            if let Some(register) = from {
                path.data.push((path.registers[&register].1, at));
            }
            walk(thread, steps, rest, path, domain, paths);
        }
        Step::Fence(Fence::Absent) => walk(thread, steps, rest, path, domain, paths),
        Step::Fence(fence) => {
            path.push(thread, Kind::Fence(*fence), "", 0, Access::Plain, None);
            walk(thread, steps, rest, path, domain, paths);
        }
        Step::When { register, equal, value, then } => {
            let (found, load) = path.registers[register];
            path.branched.push(load);
            if (found == *value) == *equal {
                let rest: Vec<_> = [&[steps], rest].concat();
                walk(thread, then, &rest, path, domain, paths);
            } else {
                walk(thread, steps, rest, path, domain, paths);
            }
        }
    }
}

impl Path {
    fn push(
        &mut self,
        thread: usize,
        kind: Kind,
        location: Location,
        value: u64,
        access: Access,
        address: Option<Register>,
    ) -> usize {
        let at = self.events.len();
        self.events.push(Event { thread: Some(thread), kind, location, value, access });
        self.ctrl.extend(self.branched.iter().map(|load| (*load, at)));
        self.addr.extend(address.map(|register| (self.registers[&register].1, at)));
        at
    }
}

/// Visits each choice of `rf` and `co` for one path of each thread.
fn of_paths(program: &Program, paths: &[Path], visit: &mut impl FnMut(&Execution)) {
    let initial = |at: &Location| Event {
        thread: None,
        kind: Kind::Write,
        location: at,
        value: program.initial(at),
        access: Access::Relaxed,
    };
    let mut events: Vec<Event> = program.locations().iter().map(initial).collect();
    let (mut addr, mut data, mut ctrl) = (Vec::new(), Vec::new(), Vec::new());
    for path in paths {
        let first = events.len();
        let shift = |pairs: &[(usize, usize)]| -> Vec<_> {
            pairs.iter().map(|(a, b)| (a + first, b + first)).collect()
        };
        addr.extend(shift(&path.addr));
        data.extend(shift(&path.data));
        ctrl.extend(shift(&path.ctrl));
        events.extend(path.events.iter().cloned());
    }
    let count = events.len();
    let listed = |pairs: &[(usize, usize)]| Relation::of(count, |a, b| pairs.contains(&(a, b)));
    let values = |path: &Path| path.registers.iter().map(|(r, (value, _))| (*r, *value)).collect();
    let po = Relation::of(count, |a, b| {
        a < b && events[a].thread.is_some() && events[a].thread == events[b].thread
    });
    let empty = listed(&[]);
    let mut execution = Execution {
        po,
        addr: listed(&addr),
        data: listed(&data),
        ctrl: listed(&ctrl),
        rf: empty.clone(),
        co: empty.clone(),
        fr: empty,
        registers: paths.iter().map(values).collect(),
        events,
    };
    let sources = sources(&execution.events);
    let orders = orders(&execution.events, &program.locations());
    for rf in &sources {
        execution.rf = listed(rf);
        for co in &orders {
            execution.co = Relation::of(count, |a, b| {
                execution.events[a].kind == Kind::Write
                    && execution.events[b].kind == Kind::Write
                    && execution.events[a].location == execution.events[b].location
                    && co[a] < co[b]
            });
            execution.fr = crate::relation::seq([&execution.rf.inverse(), &execution.co]);
            visit(&execution);
        }
    }
}

/// Returns every choice of a store for each load, as pairs of store and load.
fn sources(events: &[Event]) -> Vec<Vec<(usize, usize)>> {
    let mut choices = vec![Vec::new()];
    for (read, event) in events.iter().enumerate().filter(|(_, event)| event.kind == Kind::Read) {
        let fits = |write: &Event| {
            write.kind == Kind::Write
                && (write.location, write.value) == (event.location, event.value)
        };
        let writes: Vec<_> = (0..events.len()).filter(|write| fits(&events[*write])).collect();
        let extend = |choice: &Vec<(usize, usize)>| {
            let choice = choice.clone();
            writes.clone().into_iter().map(move |w| [choice.clone(), vec![(w, read)]].concat())
        };
        choices = choices.iter().flat_map(extend).collect();
    }
    choices
}

/// Returns every order of the stores to each location, as the rank of each event. The initial store
/// has rank zero.
fn orders(events: &[Event], locations: &[Location]) -> Vec<Vec<usize>> {
    let mut choices = vec![vec![0; events.len()]];
    for location in locations {
        let is_store =
            |e: &Event| e.kind == Kind::Write && e.location == *location && e.thread.is_some();
        let stores: Vec<_> = (0..events.len()).filter(|at| is_store(&events[*at])).collect();
        let permutations = permutations(&stores);
        let extend = |ranks: &Vec<usize>| {
            let ranks = ranks.clone();
            permutations.clone().into_iter().map(move |order| {
                let mut ranks = ranks.clone();
                order.iter().enumerate().for_each(|(rank, at)| ranks[*at] = rank + 1);
                ranks
            })
        };
        choices = choices.iter().flat_map(extend).collect();
    }
    choices
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |i: usize| {
        let mut rest = items.to_vec();
        let first = rest.remove(i);
        permutations(&rest).into_iter().map(move |order| [vec![first], order].concat())
    };
    (0..items.len()).flat_map(with_first).collect()
}

//! The protocol's edges as litmus tests: what each must never show, with the orderings of
//! `src/core/order.rs`.
//!
//! A thread has only the accesses of one edge, in the order of the code. A load of a commit word or
//! a cursor branches as the code does. Headers and payload are plain accesses, which must not race.
//! Two kinds are relaxed instead. The copies of a removed reader race on purpose. The variants named
//! *words* show what an edge forbids where production uses relaxed words.

use crate::program::{Access, Fact, Fence, Location, Program, Register, Step, load, store, when};
use Fact::Register as Reg;
use llmp::core::order::{Kind, Orders, Site};
use std::cell::RefCell;
use std::sync::atomic::Ordering;

mod intent;
mod reuse;
mod sleep;

pub use sleep::polled;

/// An edge of the protocol.
pub struct Edge {
    pub name: &'static str,
    /// Builds the test. Its outcome is what must never happen.
    pub test: fn(&Sites) -> Test,
    /// Sites whose weaker orderings do not permit the outcome of this edge, with the reason.
    pub covered: &'static [(Site, &'static str)],
}

/// The threads of an edge, and its forbidden outcome.
pub struct Test {
    pub init: Vec<(Location, u64)>,
    pub threads: Vec<Vec<Step>>,
    pub forbidden: Vec<Vec<Fact>>,
}

/// Returns all edges.
pub fn all() -> impl Iterator<Item = &'static Edge> {
    COMMIT.iter().chain(reuse::EDGES).chain(intent::EDGES).chain(sleep::EDGES)
}

impl Edge {
    /// Returns the test with production's orderings, and the site of each access.
    pub fn production(&self) -> (Program, Vec<Site>) {
        self.with(Orders::production(), None)
    }

    /// Returns the test with one site weakened: everywhere, or in its access number `only` alone.
    pub fn weakened(&self, site: Site, ordering: Ordering, only: Option<usize>) -> Program {
        let mut program = self.with(Orders::weakened(site, ordering), only).0;
        program.name = format!("{}.{site:?}-{ordering:?}", self.name);
        program
    }

    fn with(&self, orders: Orders, only: Option<usize>) -> (Program, Vec<Site>) {
        let sites = Sites { orders, only, used: RefCell::default() };
        let Test { init, threads, forbidden } = (self.test)(&sites);
        let name = self.name.to_owned();
        (Program { name, init, threads, outcome: forbidden }, sites.used.into_inner())
    }
}

/// Makes accesses with the orderings of their sites.
pub struct Sites {
    orders: Orders,
    /// The only access that has `orders`. Others have production's.
    only: Option<usize>,
    /// The site of each access so far.
    used: RefCell<Vec<Site>>,
}

impl Sites {
    pub fn load(&self, to: Register, from: Location, site: Site) -> Step {
        load(to, from, self.access(site, Kind::Load))
    }

    pub fn store(&self, to: Location, value: u64, site: Site) -> Step {
        store(to, value, self.access(site, Kind::Store))
    }

    pub fn fence(&self, site: Site) -> Step {
        Step::Fence(match self.ordering(site, Kind::Fence) {
            Ordering::Relaxed => Fence::Absent,
            Ordering::Acquire => Fence::Acquire,
            Ordering::Release => Fence::Release,
            Ordering::AcqRel => Fence::AcqRel,
            Ordering::SeqCst => Fence::SeqCst,
            other => panic!("{site:?} is {other:?}"),
        })
    }

    fn access(&self, site: Site, kind: Kind) -> Access {
        match self.ordering(site, kind) {
            Ordering::Relaxed => Access::Relaxed,
            Ordering::Acquire => Access::Acquire,
            Ordering::Release => Access::Release,
            Ordering::SeqCst => Access::SeqCst,
            other => panic!("{site:?} is {other:?}"),
        }
    }

    fn ordering(&self, site: Site, kind: Kind) -> Ordering {
        assert_eq!(site.access(), kind, "{site:?}");
        let mut used = self.used.borrow_mut();
        used.push(site);
        match self.only {
            Some(only) if only != used.len() - 1 => site.ordering(),
            _ => self.orders.of(site),
        }
    }
}

fn read(to: Register, from: Location) -> Step {
    load(to, from, Access::Plain)
}

fn write(to: Location, value: u64) -> Step {
    store(to, value, Access::Plain)
}

/// The commit edge: what a sender has written, a receiver sees.
const COMMIT: &[Edge] = &[
    Edge {
        name: "commit",
        // A receiver that finds the commit word sees the whole payload.
        test: |s| Test {
            init: vec![],
            threads: vec![
                vec![write("p", 1), write("q", 1), s.store("c", 1, Site::CommitPublish)],
                vec![
                    s.load(0, "c", Site::CommitRead),
                    when(0, 1, vec![read(1, "p"), read(2, "q")]),
                ],
            ],
            forbidden: vec![vec![Reg(1, 0, 1), Reg(1, 1, 0)], vec![Reg(1, 0, 1), Reg(1, 2, 0)]],
        },
        covered: &[],
    },
    Edge {
        name: "commit-next",
        // The commit word of the next slot was zeroed: no old byte is taken for a message.
        test: |s| Test {
            init: vec![("n", 9)],
            threads: vec![
                vec![s.store("n", 0, Site::CommitClear), s.store("c", 1, Site::CommitPublish)],
                vec![
                    s.load(0, "c", Site::CommitRead),
                    when(0, 1, vec![s.load(1, "n", Site::CommitRead)]),
                ],
            ],
            forbidden: vec![vec![Reg(1, 0, 1), Reg(1, 1, 9)]],
        },
        covered: &[],
    },
    Edge {
        name: "commit-batch",
        // A receiver that finds the first message of a batch finds the second, and its payload.
        test: |s| Test {
            init: vec![],
            threads: vec![
                vec![
                    write("p", 1),
                    s.store("d", 1, Site::CommitFill),
                    s.store("c", 1, Site::CommitPublish),
                ],
                vec![
                    s.load(0, "c", Site::CommitRead),
                    when(
                        0,
                        1,
                        vec![s.load(1, "d", Site::CommitRead), when(1, 1, vec![read(2, "p")])],
                    ),
                ],
            ],
            forbidden: vec![
                vec![Reg(1, 0, 1), Reg(1, 1, 0)],
                vec![Reg(1, 0, 1), Reg(1, 1, 1), Reg(1, 2, 0)],
            ],
        },
        covered: &[],
    },
    Edge {
        name: "commit-page",
        // A receiver that finds the end of a page finds the next page's header, and no old message.
        test: |s| Test {
            init: vec![("n", 9)],
            threads: vec![
                vec![
                    write("h", 1),
                    s.store("n", 0, Site::PageClear),
                    s.store("c", 1, Site::CommitPublish),
                ],
                vec![
                    s.load(0, "c", Site::CommitRead),
                    when(0, 1, vec![read(1, "h"), s.load(2, "n", Site::CommitRead)]),
                ],
            ],
            forbidden: vec![vec![Reg(1, 0, 1), Reg(1, 1, 0)], vec![Reg(1, 0, 1), Reg(1, 2, 9)]],
        },
        covered: &[],
    },
    Edge {
        name: "commit-by-reference",
        // The broker passes a reference on. A receiver that finds it sees the sender's payload.
        test: |s| Test {
            init: vec![],
            threads: vec![
                vec![write("p", 1), s.store("c", 1, Site::CommitPublish)],
                vec![
                    s.load(0, "c", Site::CommitRead),
                    when(0, 1, vec![s.store("b", 1, Site::CommitPublish)]),
                ],
                vec![s.load(0, "b", Site::CommitRead), when(0, 1, vec![read(1, "p")])],
            ],
            forbidden: vec![vec![Reg(2, 0, 1), Reg(2, 1, 0)]],
        },
        covered: &[],
    },
];

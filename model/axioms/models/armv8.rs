//! The axioms of the Armv8 memory model: section B2.3 of the Arm Architecture Reference Manual
//! (DDI 0487), and `aarch64.cat` of herdtools7 for normal memory.
//!
//! The protocol has no read-modify-write, no exclusive, no conditional select and one size of
//! access. So `aob`, the order within an atomic access, and `pob`, the order after a *pick*
//! dependency, are left out. A dependency here goes through registers alone.

use super::Model;
use crate::executions::{Event, Execution, Kind};
use crate::program::{Access, Fence, Program, Step};
use crate::relation::{Relation, seq, union};

pub struct Armv8 {
    /// The load to which an acquire load of C11 is compiled: `ldar`, or `ldapr` of FEAT_LRCPC.
    pub acquire: Access,
    /// Whether the machine sees the program's dependencies. A compiler may remove them.
    pub keeps_dependencies: bool,
}

impl Armv8 {
    pub const LDAR: Armv8 = Armv8 { acquire: Access::Acquire, keeps_dependencies: true };
    pub const LDAPR: Armv8 = Armv8 { acquire: Access::AcquirePc, keeps_dependencies: true };
    pub const NO_DEPENDENCIES: Armv8 =
        Armv8 { acquire: Access::AcquirePc, keeps_dependencies: false };
}

impl Model for Armv8 {
    fn name(&self) -> &'static str {
        match (self.acquire, self.keeps_dependencies) {
            (Access::AcquirePc, false) => "Armv8 ldapr without dependencies",
            (Access::AcquirePc, true) => "Armv8 ldapr",
            _ => "Armv8 ldar",
        }
    }

    /// Compiles C11 as LLVM does. Programs of AArch64 stay as they are.
    fn compiled(&self, program: &Program) -> Program {
        let fence = |fence| match fence {
            Fence::Acquire => Fence::DmbLd,
            Fence::Release | Fence::AcqRel | Fence::SeqCst => Fence::DmbSy,
            fence => fence,
        };
        program.map(&|step| match step {
            Step::Load { to, from, access, address } => {
                let access = match access {
                    Access::Relaxed => Access::Plain,
                    Access::Acquire => self.acquire,
                    Access::SeqCst => Access::Acquire,
                    access => access,
                };
                Step::Load { to, from, access, address }
            }
            Step::Store { to, value, access, address } => {
                let access = match access {
                    Access::Relaxed => Access::Plain,
                    Access::SeqCst => Access::Release,
                    access => access,
                };
                Step::Store { to, value, access, address }
            }
            Step::Fence(f) => Step::Fence(fence(f)),
            step => step,
        })
    }

    fn is_consistent(&self, x: &Execution) -> bool {
        let same_word = &x.po & &x.pairs(|a, b| !a.location.is_empty() && a.location == b.location);
        // Internal visibility: each word alone is sequentially consistent.
        if !union([&same_word, &x.rf, &x.co, &x.fr]).is_acyclic() {
            return false;
        }
        // External visibility: ordered-before is acyclic. Explicitly-hazard-ordered-before adds
        // nothing: by internal visibility, the older load is also `fr` before that store.
        let external = x.pairs(|a, b| a.thread.is_none() || a.thread != b.thread);
        let observed = &union([&x.rf, &x.co, &x.fr]) & &external;
        let none = x.pairs(|_, _| false);
        let by_dependency =
            if self.keeps_dependencies { dependencies(x, &same_word) } else { none };
        let local_write = seq([&same_word, &writes(x)]);
        union([&observed, &local_write, &by_dependency, &barriers(x)]).is_acyclic()
    }
}

/// Dependency-ordered-before, and the order after an `isb`.
fn dependencies(x: &Execution, same_word: &Relation) -> Relation {
    let (reads, writes) = (reads(x), writes(x));
    let isb = x.only(|e| e.kind == Kind::Fence(Fence::Isb));
    // The load of a word after the thread's last store to it.
    let stored = seq([&writes, same_word, &reads]);
    let read_back = &stored - &seq([same_word, &writes, same_word]);
    let address_or_data = &x.addr | &x.data;
    union([
        &address_or_data,
        &seq([&x.ctrl, &writes]),
        &seq([&x.addr, &x.po, &writes]),
        &seq([&address_or_data, &read_back]),
        &seq([&(&x.ctrl | &seq([&x.addr, &x.po])), &isb, &x.po]),
    ])
}

/// Barrier-ordered-before.
fn barriers(x: &Execution) -> Relation {
    let (reads, writes) = (reads(x), writes(x));
    let memory = &reads | &writes;
    let dmb = |fence| x.only(move |e| e.kind == Kind::Fence(fence));
    let read_as = |access| x.only(move |e| e.kind == Kind::Read && e.access == access);
    let acquire = read_as(Access::Acquire);
    let acquire_pc = read_as(Access::AcquirePc);
    let release = x.only(|e| e.kind == Kind::Write && e.access == Access::Release);
    union([
        &seq([&memory, &x.po, &dmb(Fence::DmbSy), &x.po, &memory]),
        &seq([&reads, &x.po, &dmb(Fence::DmbLd), &x.po, &memory]),
        &seq([&writes, &x.po, &dmb(Fence::DmbSt), &x.po, &writes]),
        &seq([&release, &x.po, &acquire]),
        &seq([&(&acquire | &acquire_pc), &x.po, &memory]),
        &seq([&memory, &x.po, &release]),
    ])
}

fn reads(x: &Execution) -> Relation {
    x.only(|e: &Event| e.kind == Kind::Read)
}

fn writes(x: &Execution) -> Relation {
    x.only(|e: &Event| e.kind == Kind::Write)
}

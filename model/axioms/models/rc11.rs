//! RC11, and C11 without an axiom against values out of thin air.
//!
//! The axioms are those of Lahav, Vafeiadis, Kang, Hur, Dreyer: *Repairing Sequential Consistency in
//! C/C++11* (PLDI 2017), without read-modify-writes. `sb` is program order, `rb` is `fr`, `mo` is
//! `co`. An initial store happens before everything.

use super::Model;
use crate::executions::{Event, Execution, Kind};
use crate::program::{Access, Fence};
use crate::relation::{Relation, seq, union};

/// RC11 with two choices.
pub struct Rc11 {
    /// Whether `sb ∪ rf` must be acyclic. RC11 says so, and thereby forbids load buffering. C11
    /// doesn't, and neither do compilers and machines.
    pub forbids_load_buffering: bool,
    /// Whether later stores of the same thread continue a release sequence, as in C11 and in the
    /// paper. C++20, and so Rust, has dropped that (P0982).
    pub continues_release: bool,
}

impl Rc11 {
    /// RC11 as published.
    pub const PUBLISHED: Rc11 = Rc11 { forbids_load_buffering: true, continues_release: true };
    /// RC11 with C++20's release sequences.
    pub const RC11: Rc11 = Rc11 { forbids_load_buffering: true, continues_release: false };
    /// The same without an axiom against values out of thin air.
    pub const C11: Rc11 = Rc11 { forbids_load_buffering: false, continues_release: false };

    fn happens_before(&self, x: &Execution) -> Relation {
        let from_initial = x.pairs(|a, b| a.thread.is_none() && b.thread.is_some());
        let sb = &x.po | &from_initial;
        let (release, acquire) = (x.only(is_release), x.only(is_acquire));
        let fences = x.only(is_fence);
        let atomic_reads = x.only(|e| e.kind == Kind::Read && e.access != Access::Plain);
        let atomic_writes = x.only(|e| e.kind == Kind::Write && e.access != Access::Plain);
        let sequence = match self.continues_release {
            true => seq([
                &x.only(|e| e.kind == Kind::Write),
                &(&x.po & &x.pairs(same_location)).maybe(),
                &atomic_writes,
            ]),
            false => atomic_writes,
        };
        let after_fence = seq([&fences, &x.po]).maybe();
        let before_fence = seq([&x.po, &fences]).maybe();
        let sw =
            seq([&release, &after_fence, &sequence, &x.rf, &atomic_reads, &before_fence, &acquire]);
        (&sb | &sw).plus()
    }
}

impl Model for Rc11 {
    fn name(&self) -> &'static str {
        match (self.forbids_load_buffering, self.continues_release) {
            (true, true) => "RC11 as published",
            (true, false) => "RC11",
            (false, _) => "C11 without thin-air axiom",
        }
    }

    fn is_consistent(&self, x: &Execution) -> bool {
        if self.forbids_load_buffering && !(&x.po | &x.rf).is_acyclic() {
            return false;
        }
        let hb = self.happens_before(x);
        let eco = union([&x.rf, &x.co, &x.fr]).plus();
        seq([&hb, &eco.maybe()]).is_irreflexive() && sc_order(x, &hb, &eco).is_acyclic()
    }

    /// Two accesses of a word race if one is a store, one is not atomic, and neither happens before
    /// the other.
    fn has_race(&self, x: &Execution) -> bool {
        let conflict = x.pairs(|a, b| {
            let is_write = |e: &Event| e.kind == Kind::Write;
            let is_plain = |e: &Event| e.access == Access::Plain;
            a.thread.is_some()
                && b.thread.is_some()
                && a.thread != b.thread
                && same_location(a, b)
                && (is_write(a) || is_write(b))
                && (is_plain(a) || is_plain(b))
        });
        if conflict.is_empty() {
            return false;
        }
        let hb = self.happens_before(x);
        !(&conflict - &(&hb | &hb.inverse())).is_empty()
    }
}

/// Returns `psc`, the partial order of the sequentially consistent accesses and fences.
fn sc_order(x: &Execution, hb: &Relation, eco: &Relation) -> Relation {
    let sc = x.only(|e| e.access == Access::SeqCst || e.kind == Kind::Fence(Fence::SeqCst));
    let sc_fences = x.only(|e| e.kind == Kind::Fence(Fence::SeqCst));
    let same = x.pairs(same_location);
    let elsewhere = &x.po - &same;
    let scb = union([&x.po, &seq([&elsewhere, hb, &elsewhere]), &(hb & &same), &x.co, &x.fr]);
    let base = seq([
        &(&sc | &seq([&sc_fences, &hb.maybe()])),
        &scb,
        &(&sc | &seq([&hb.maybe(), &sc_fences])),
    ]);
    let fences = seq([&sc_fences, &(hb | &seq([hb, eco, hb])), &sc_fences]);
    &base | &fences
}

fn same_location(a: &Event, b: &Event) -> bool {
    !a.location.is_empty() && a.location == b.location
}

fn is_fence(event: &Event) -> bool {
    matches!(event.kind, Kind::Fence(_))
}

fn is_release(event: &Event) -> bool {
    match event.kind {
        Kind::Write => matches!(event.access, Access::Release | Access::SeqCst),
        Kind::Fence(fence) => matches!(fence, Fence::Release | Fence::AcqRel | Fence::SeqCst),
        Kind::Read => false,
    }
}

fn is_acquire(event: &Event) -> bool {
    match event.kind {
        Kind::Read => matches!(event.access, Access::Acquire | Access::SeqCst),
        Kind::Fence(fence) => matches!(fence, Fence::Acquire | Fence::AcqRel | Fence::SeqCst),
        Kind::Write => false,
    }
}

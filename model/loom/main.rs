//! Explores every interleaving and every C11 reordering of small scenarios, on production's code.
//!
//! Each model reports how many executions it took and whether they were all:
//!
//! ```text
//! model reuse_1_receiver: exhaustive, N executions in 2.31 s
//! model reuse_2_receivers: at most 3 preemptions, N executions in 31.02 s
//! ```
//!
//! A failing model stores the failed execution and prints how to run that one alone.
//! `LLMP_MUTANT='CommitRead as Relaxed'` makes one mistake for one run, so that models fail. The
//! test target `mutants` makes all mistakes in turn.
//!
//! loom does not explore load buffering and `SeqCst` accesses. It explores `SeqCst` fences; the
//! protocol has no `SeqCst` accesses. See `docs/verification.md`.

#[path = "../scenario/broker.rs"]
mod broker;
#[path = "../scenario/doorbell.rs"]
mod doorbell;
#[path = "../grouped.rs"]
mod grouped;
#[path = "../report.rs"]
mod report;
#[path = "../scenario/mod.rs"]
mod scenario;
#[path = "../scenario/sleepers.rs"]
mod sleepers;

mod check;
mod crash;
mod explore;
mod litmus;
mod models;
mod proofs;

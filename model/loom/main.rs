//! Every interleaving and every C11 reordering of small scenarios, on the code that production
//! runs.
//!
//! Each model says how many executions it took and whether that was all there are:
//!
//! ```text
//! model reuse_1_receiver: exhaustive, 23114 executions in 2.31 s
//! model reuse_2_receivers: at most 3 preemptions, 181220 executions in 31.02 s
//! ```
//!
//! A model that fails keeps the execution that failed, and says how to run that one alone.
//! `LLMP_MUTANT='CommitRead as Relaxed'` makes one mistake for one run, so that they do fail; all
//! mistakes in turn are made by the test target `mutants`.
//!
//! What loom does not explore: load buffering, and `SeqCst` accesses (fences it does; the
//! protocol has no others). See `docs/verification.md`.

#[path = "../scenario/broker.rs"]
mod broker;
#[path = "../scenario/doorbell.rs"]
mod doorbell;
#[path = "../scenario/mod.rs"]
mod scenario;

mod check;
mod crash;
mod explore;
mod litmus;
mod models;
mod proofs;

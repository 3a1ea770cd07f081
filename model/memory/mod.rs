//! Memories for models, tests and fuzzers: those of the model checkers, and decorators that crash,
//! reorder steps or change words.
#![allow(dead_code, unused_imports, reason = "each test program uses some of them")]

mod crashing;
#[cfg(feature = "loom")]
mod loom;
mod reordered;
#[cfg(feature = "shuttle")]
mod shuttle;

pub use crashing::{CrashBudget, Crashing};
#[cfg(feature = "loom")]
pub use loom::LoomMemory;
pub use reordered::{Reordered, Reordering, Step, Swap};
#[cfg(feature = "shuttle")]
pub use shuttle::ShuttleMemory;

//! Memories for models and tests. Those of the checkers are [`Cells`]. Others crash or reorder steps.
#![allow(dead_code, unused_imports, reason = "each test program uses some of them")]

mod cells;
mod crashing;
#[cfg(feature = "loom")]
mod loom;
mod reordered;
#[cfg(feature = "shuttle")]
mod shuttle;

pub use cells::{Cells, Checker, Plain};
pub use crashing::{CrashBudget, Crashing};
#[cfg(feature = "loom")]
pub use loom::LoomMemory;
pub use reordered::{Reordered, Reordering, Step, Swap};
#[cfg(feature = "shuttle")]
pub use shuttle::ShuttleMemory;

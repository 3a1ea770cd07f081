//! Memories for models and tests. Those of the checkers are [`Cells`]. Those that crash or reorder
//! steps are [`Interposed`] in any memory.
#![allow(dead_code, unused_imports, reason = "each test program uses some of them")]

mod cells;
mod crashing;
mod interposed;
#[cfg(feature = "loom")]
mod loom;
mod reordered;
#[cfg(feature = "shuttle")]
mod shuttle;

pub use cells::{Cells, Checker, Plain};
pub use crashing::{CrashBudget, Crashing};
pub use interposed::{Access, Interpose, Interposed};
#[cfg(feature = "loom")]
pub use loom::{KEPT_VALUES, LoomMemory, SawPolling, Values};
pub use reordered::{Reordered, Reordering, Step, Swap};
#[cfg(feature = "shuttle")]
pub use shuttle::ShuttleMemory;

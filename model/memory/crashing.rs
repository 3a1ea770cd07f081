//! Memory of a process that crashes after a given number of writes.

use super::interposed::{Access, Interpose, Interposed};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The remaining writes of a process before it crashes, over all its regions. Clones share the
/// count.
#[derive(Clone, Debug)]
pub struct CrashBudget {
    made: Arc<AtomicUsize>,
    limit: usize,
}

impl CrashBudget {
    /// Returns the budget of a process that crashes after `writes` writes.
    pub fn ends_after(writes: usize) -> Self {
        CrashBudget { made: Arc::new(AtomicUsize::new(0)), limit: writes }
    }

    /// Returns the budget of a process that never crashes. Its writes are counted.
    pub fn endless() -> Self {
        Self::ends_after(usize::MAX)
    }

    /// Returns the number of writes until now. Writes after the crash do not count.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed).min(self.limit)
    }

    /// Returns whether the process has crashed.
    pub fn is_over(&self) -> bool {
        self.made.load(Ordering::Relaxed) >= self.limit
    }

    fn step(&self) -> bool {
        let alive = !self.is_over();
        if alive {
            self.made.fetch_add(1, Ordering::Relaxed);
        }
        alive
    }
}

/// Memory of a process that may crash. Only writes count as steps, because no other process sees a
/// read.
///
/// After the crash the code that uses the memory runs on, but its writes have no effect and its
/// reads return zeroes. For all other processes that is the same as if it had stopped.
pub type Crashing<M> = Interposed<M, CrashBudget>;

impl<M> Interpose<M> for CrashBudget {
    fn before(&self, _: &M, _: usize, access: Access<'_>) -> bool {
        match access {
            Access::Store(..) | Access::WriteWords(_) | Access::WriteBytes(_) => self.step(),
            _ => !self.is_over(),
        }
    }
}

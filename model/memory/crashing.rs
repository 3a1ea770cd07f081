//! Memory of a process that crashes after a given number of writes.

use llmp::core::memory::{Intent, Memory, Offset};
use llmp::core::order::Site;
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
#[derive(Clone, Debug)]
pub struct Crashing<M> {
    memory: M,
    crash_budget: CrashBudget,
}

impl<M: Memory> Crashing<M> {
    /// Returns `memory` as the process with this budget sees it.
    pub fn new(memory: M, crash_budget: CrashBudget) -> Self {
        Crashing { memory, crash_budget }
    }

    /// Returns the memory as other processes see it.
    pub fn memory(&self) -> &M {
        &self.memory
    }
}

impl<M: Memory> Memory for Crashing<M> {
    type Part<'a>
        = Offset<'a, Self>
    where
        Self: 'a;

    fn region_len(&self) -> usize {
        self.memory.region_len()
    }

    fn part(&self, at: usize, len: usize, _: Intent) -> Offset<'_, Self> {
        Offset::new(self, at, len)
    }

    fn load(&self, at: usize, site: Site) -> u64 {
        if self.crash_budget.is_over() { 0 } else { self.memory.load(at, site) }
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        if self.crash_budget.step() {
            self.memory.store(at, value, site);
        }
    }

    fn fence(&self, site: Site) {
        if !self.crash_budget.is_over() {
            self.memory.fence(site);
        }
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        if self.crash_budget.is_over() { [0; N] } else { self.memory.read_words(at) }
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        if self.crash_budget.step() {
            self.memory.write_words(at, words);
        }
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        if !self.crash_budget.is_over() {
            self.memory.read_bytes(at, into);
        }
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        if self.crash_budget.step() {
            self.memory.write_bytes(at, from);
        }
    }
}

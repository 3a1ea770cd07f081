//! Memory that loom explores: every interleaving and every reordering that C11 allows.

use super::cells::{Cells, Checker, Plain};
use llmp::core::layout::CONTROL_POLLING;
use llmp::core::order::{Orders, Site};
use loom::sync::atomic::{AtomicU64, fence};
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A region of loom's atomic words.
///
/// Words and bytes that are not atomic accesses of the protocol use loom's *tracked* plain
/// accesses. A race on a header or on payload fails the model.
pub type LoomMemory = Cells<Tracked>;

/// How one process accesses loom's words.
#[derive(Clone)]
pub struct Tracked {
    orders: Arc<Orders>,
    /// Whether accesses other than the protocol's atomic ones may race.
    races: fn(Plain) -> bool,
    /// Set when this process sees that its peer polls and so leaves out its fence.
    saw_polling: Arc<AtomicBool>,
}

/// One of loom's atomic words, which may also be accessed plainly.
pub struct Word(UnsafeCell<AtomicU64>);

// SAFETY: loom runs its threads one at a time and switches only inside `load`, `store` and `fence`;
// `with_mut` below ends before the next switch.
#[allow(unsafe_code)]
unsafe impl Send for Word {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Word {}

impl Default for Word {
    fn default() -> Self {
        Word(UnsafeCell::new(AtomicU64::new(0)))
    }
}

impl Word {
    fn atomic(&self) -> &AtomicU64 {
        // SAFETY: only `write` makes a `&mut`, which ends before any other thread runs.
        #[allow(unsafe_code)]
        unsafe {
            &*self.0.get()
        }
    }
}

impl Checker for Tracked {
    type Cell = Word;

    fn load(&self, word: &Word, site: Site) -> u64 {
        let value = word.atomic().load(self.orders.of(site));
        if site == Site::PollingRead && value & CONTROL_POLLING != 0 {
            // Relaxed and invisible to loom: the model's own bookkeeping orders nothing.
            self.saw_polling.store(true, Ordering::Relaxed);
        }
        value
    }

    fn store(&self, word: &Word, value: u64, site: Site) {
        word.atomic().store(value, self.orders.of(site));
    }

    fn fence(&self, site: Site) {
        match self.orders.of(site) {
            Ordering::Relaxed => {}
            order => fence(order),
        }
    }

    fn read(&self, word: &Word, plain: Plain) -> u64 {
        if (self.races)(plain) {
            return word.atomic().load(Ordering::Relaxed);
        }
        // SAFETY: loom stops the model when this races with a write.
        #[allow(unsafe_code)]
        unsafe {
            word.atomic().unsync_load()
        }
    }

    fn write(&self, word: &Word, value: u64, plain: Plain) {
        if (self.races)(plain) {
            return word.atomic().store(value, Ordering::Relaxed);
        }
        // SAFETY: loom's threads run one at a time, and this call doesn't switch between them. loom
        // stops the model when it races with any other access.
        #[allow(unsafe_code)]
        let word = unsafe { &mut *word.0.get() };
        word.with_mut(|word| *word = value);
    }
}

impl LoomMemory {
    /// Returns a zeroed region of `len` bytes, a multiple of 8, with the orderings of this run.
    pub fn new(len: usize, orders: &Arc<Orders>) -> Self {
        let (orders, saw_polling) = (orders.clone(), Arc::default());
        Cells::zeroed(len, Tracked { orders, races: |_| false, saw_polling })
    }

    /// Returns the same region with relaxed atomic accesses to words of headers, and to bytes of
    /// payloads if `bytes`. Reads and writes may then overlap, so that a model can show that the
    /// reader discards what it read meanwhile.
    #[must_use]
    pub fn racing(self, bytes: bool) -> Self {
        let races = if bytes { |_| true } else { |plain| plain == Plain::Header };
        self.map(|tracked| Tracked { races, ..tracked })
    }

    /// Returns the same region for a process with other orderings.
    #[must_use]
    pub fn with_orders(self, orders: &Arc<Orders>) -> Self {
        self.map(|tracked| Tracked { orders: orders.clone(), ..tracked })
    }

    /// Returns the same region for a process that notes here when it sees that its peer polls.
    #[must_use]
    pub fn noting_polling(self, saw_polling: &Arc<AtomicBool>) -> Self {
        self.map(|tracked| Tracked { saw_polling: saw_polling.clone(), ..tracked })
    }
}

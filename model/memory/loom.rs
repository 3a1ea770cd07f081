//! Memory that loom explores: every interleaving and every reordering that C11 allows.

use super::cells::{Cells, Checker, Plain};
use llmp::core::layout::CONTROL_POLLING;
use llmp::core::order::{Orders, Site};
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread::{self, ThreadId};
use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The values of a word that loom 0.7.3 keeps: the last ones in the order of its execution. A load
/// never returns an older one.
pub const KEPT_VALUES: usize = 7;

thread_local! {
    static VALUES: Values = const { Values { threads: Cell::new(0), most: Cell::new(1) } };
}

/// Counts how many values a word has while several threads run, if a thread other than its writer
/// loads it. Loom loses values beyond [`KEPT_VALUES`], and with them executions. The last value from
/// before these threads hides all earlier ones.
///
/// Loom runs a model's threads as coroutines of one thread, which has one count.
pub struct Values {
    /// Threads that run beside the first one.
    threads: Cell<usize>,
    /// The most values of any word.
    most: Cell<usize>,
}

impl Values {
    /// Begins an exploration.
    pub fn begin() {
        VALUES.with(|values| values.most.set(1));
    }

    /// Begins an execution.
    pub fn begin_execution() {
        VALUES.with(|values| values.threads.set(0));
    }

    /// Records that a thread begins.
    pub fn thread_begins() {
        VALUES.with(|values| values.threads.update(|threads| threads + 1));
    }

    /// Records that a thread has ended.
    pub fn thread_has_ended() {
        VALUES.with(|values| values.threads.update(|threads| threads - 1));
    }

    /// Returns the most values that a word had in this exploration.
    pub fn most() -> usize {
        VALUES.with(|values| values.most.get())
    }
}

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
    saw_polling: Arc<SawPolling>,
}

/// Whether a process has seen that a peer polls.
#[derive(Default)]
pub struct SawPolling {
    pub saw: AtomicBool,
    /// A mistake: then it leaves out its fence before it looks at its other peers, too.
    pub hides_fence: bool,
}

/// One of loom's atomic words, which may also be accessed plainly.
pub struct Word {
    word: UnsafeCell<AtomicU64>,
    /// Stores while several threads ran.
    stores: Cell<usize>,
    writer: Cell<Option<ThreadId>>,
    /// Whether a thread other than the writer has loaded it.
    is_shared: Cell<bool>,
}

// SAFETY: loom runs its threads one at a time and switches only inside `load`, `store` and `fence`;
// `with_mut` below ends before the next switch.
#[allow(unsafe_code)]
unsafe impl Send for Word {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Word {}

impl Default for Word {
    fn default() -> Self {
        Word {
            word: UnsafeCell::new(AtomicU64::new(0)),
            stores: Cell::new(0),
            writer: Cell::new(None),
            is_shared: Cell::new(false),
        }
    }
}

impl Word {
    fn atomic(&self) -> &AtomicU64 {
        // SAFETY: only `write` makes a `&mut`, which ends before any other thread runs.
        #[allow(unsafe_code)]
        unsafe {
            &*self.word.get()
        }
    }

    fn store(&self, value: u64, order: Ordering) {
        self.count(true);
        self.atomic().store(value, order);
    }

    fn load(&self, order: Ordering) -> u64 {
        let value = self.atomic().load(order);
        self.count(false);
        value
    }

    fn count(&self, is_store: bool) {
        VALUES.with(|values| {
            if values.threads.get() == 0 {
                return;
            }
            let thread = Some(thread::current().id());
            match is_store {
                true => {
                    self.stores.update(|stores| stores + 1);
                    self.writer.set(thread);
                }
                false => {
                    self.is_shared.update(|is_shared| is_shared || self.writer.get() != thread)
                }
            }
            if self.is_shared.get() {
                values.most.update(|most| most.max(1 + self.stores.get()));
            }
        });
    }
}

impl Checker for Tracked {
    type Cell = Word;

    fn load(&self, word: &Word, site: Site) -> u64 {
        let value = word.load(self.orders.of(site));
        if site == Site::PollingRead && value & CONTROL_POLLING != 0 {
            // Relaxed and invisible to loom: the model's own bookkeeping orders nothing.
            self.saw_polling.saw.store(true, Ordering::Relaxed);
        }
        value
    }

    fn store(&self, word: &Word, value: u64, site: Site) {
        word.store(value, self.orders.of(site));
    }

    fn fence(&self, site: Site) {
        let SawPolling { saw, hides_fence } = &*self.saw_polling;
        match self.orders.of(site) {
            Ordering::Relaxed => {}
            _ if site == Site::RingFence && *hides_fence && saw.load(Ordering::Relaxed) => {}
            order => fence(order),
        }
    }

    fn read(&self, word: &Word, plain: Plain) -> u64 {
        if (self.races)(plain) {
            return word.load(Ordering::Relaxed);
        }
        // SAFETY: loom stops the model when this races with a write.
        #[allow(unsafe_code)]
        unsafe {
            word.atomic().unsync_load()
        }
    }

    fn write(&self, word: &Word, value: u64, plain: Plain) {
        if (self.races)(plain) {
            return word.store(value, Ordering::Relaxed);
        }
        // SAFETY: loom's threads run one at a time, and this call doesn't switch between them. loom
        // stops the model when it races with any other access.
        #[allow(unsafe_code)]
        let word = unsafe { &mut *word.word.get() };
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
    pub fn noting_polling(self, saw_polling: &Arc<SawPolling>) -> Self {
        self.map(|tracked| Tracked { saw_polling: saw_polling.clone(), ..tracked })
    }
}

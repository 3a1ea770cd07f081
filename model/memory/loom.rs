//! Memory that loom explores: every interleaving and every reordering that C11 allows.

use llmp::core::layout::CONTROL_POLLING;
use llmp::core::memory::{Intent, Memory, Offset};
use llmp::core::order::{Orders, Site};
use loom::sync::atomic::{AtomicU64, fence};
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A region of loom's atomic words.
///
/// Words and bytes that are not atomic accesses of the protocol use loom's *tracked* plain
/// accesses. A race on a header or on payload fails the model.
#[derive(Clone)]
pub struct LoomMemory {
    words: Arc<Vec<Word>>,
    orders: Arc<Orders>,
    /// Whether accesses other than the protocol's atomic ones may race: of words, and of bytes.
    races: [bool; 2],
    /// Set when this process sees that its peer polls and so leaves out its fence.
    saw_polling: Arc<AtomicBool>,
}

struct Word(UnsafeCell<AtomicU64>);

// SAFETY: loom runs its threads one at a time and switches only inside `load`, `store` and `fence`;
// `with_mut` below ends before the next switch.
#[allow(unsafe_code)]
unsafe impl Send for Word {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Word {}

impl Word {
    fn atomic(&self) -> &AtomicU64 {
        // SAFETY: only `write` makes a `&mut`, which ends before any other thread runs.
        #[allow(unsafe_code)]
        unsafe {
            &*self.0.get()
        }
    }

    fn read(&self, is_racing: bool) -> u64 {
        if is_racing {
            return self.atomic().load(Ordering::Relaxed);
        }
        // SAFETY: loom stops the model when this races with a write.
        #[allow(unsafe_code)]
        unsafe {
            self.atomic().unsync_load()
        }
    }

    fn write(&self, value: u64, is_racing: bool) {
        if is_racing {
            return self.atomic().store(value, Ordering::Relaxed);
        }
        // SAFETY: loom's threads run one at a time, and this call doesn't switch between them. loom
        // stops the model when it races with any other access.
        #[allow(unsafe_code)]
        let word = unsafe { &mut *self.0.get() };
        word.with_mut(|word| *word = value);
    }
}

impl LoomMemory {
    /// Returns a zeroed region of `len` bytes, a multiple of 8, with the orderings of this run.
    ///
    /// # Panics
    ///
    /// If `len` is not a multiple of 8.
    pub fn new(len: usize, orders: &Arc<Orders>) -> Self {
        assert!(len.is_multiple_of(8));
        let words = (0..len / 8).map(|_| Word(UnsafeCell::new(AtomicU64::new(0)))).collect();
        LoomMemory {
            words: Arc::new(words),
            orders: orders.clone(),
            races: [false; 2],
            saw_polling: Arc::default(),
        }
    }

    /// Returns the same region with relaxed atomic accesses to words of headers, and to bytes of
    /// payloads if `bytes`. Reads and writes may then overlap, so that a model can show that the
    /// reader discards what it read meanwhile.
    #[must_use]
    pub fn racing(self, bytes: bool) -> Self {
        LoomMemory { races: [true, bytes], ..self }
    }

    /// Returns the same region for a process with other orderings.
    #[must_use]
    pub fn with_orders(self, orders: &Arc<Orders>) -> Self {
        LoomMemory { orders: orders.clone(), ..self }
    }

    /// Returns the same region for a process that notes here when it sees that its peer polls.
    #[must_use]
    pub fn noting_polling(self, saw_polling: &Arc<AtomicBool>) -> Self {
        LoomMemory { saw_polling: saw_polling.clone(), ..self }
    }

    fn word(&self, at: usize) -> &Word {
        assert!(at.is_multiple_of(8), "misaligned: {at}");
        &self.words[at / 8]
    }
}

impl Memory for LoomMemory {
    type Part<'a>
        = Offset<'a, Self>
    where
        Self: 'a;

    fn region_len(&self) -> usize {
        self.words.len() * 8
    }

    fn part(&self, at: usize, len: usize, _: Intent) -> Offset<'_, Self> {
        Offset::new(self, at, len)
    }

    fn load(&self, at: usize, site: Site) -> u64 {
        let value = self.word(at).atomic().load(self.orders.of(site));
        if site == Site::PollingRead && value & CONTROL_POLLING != 0 {
            // Relaxed and invisible to loom: the model's own bookkeeping orders nothing.
            self.saw_polling.store(true, Ordering::Relaxed);
        }
        value
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        self.word(at).atomic().store(value, self.orders.of(site));
    }

    fn fence(&self, site: Site) {
        match self.orders.of(site) {
            Ordering::Relaxed => {}
            order => fence(order),
        }
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        core::array::from_fn(|i| self.word(at + 8 * i).read(self.races[0]))
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        for (i, word) in words.into_iter().enumerate() {
            self.word(at + 8 * i).write(word, self.races[0]);
        }
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        for (i, part) in into.chunks_mut(8).enumerate() {
            let word = self.word(at + 8 * i).read(self.races[1]).to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        for (i, part) in from.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.word(at + 8 * i).write(u64::from_le_bytes(word), self.races[1]);
        }
    }
}

impl core::fmt::Debug for LoomMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LoomMemory").field("len", &self.region_len()).finish_non_exhaustive()
    }
}

//! Memory that shuttle schedules: large scenarios, many random interleavings, sequentially
//! consistent.

use llmp::core::memory::{Intent, Memory, Offset};
use llmp::core::order::Site;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A region in which shuttle may switch threads at every atomic access. Copies of bytes may be
/// interrupted after every word, so they tear if the protocol permits it.
#[derive(Clone)]
pub struct ShuttleMemory {
    words: Arc<Vec<AtomicU64>>,
    /// shuttle switches at accesses to its own atomics.
    gate: Arc<shuttle::sync::atomic::AtomicU64>,
}

impl ShuttleMemory {
    /// Returns a zeroed region of `len` bytes, a multiple of 8.
    ///
    /// # Panics
    ///
    /// If `len` is not a multiple of 8.
    pub fn new(len: usize) -> Self {
        assert!(len.is_multiple_of(8));
        ShuttleMemory {
            words: Arc::new((0..len / 8).map(|_| AtomicU64::new(0)).collect()),
            gate: Arc::default(),
        }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8), "misaligned: {at}");
        &self.words[at / 8]
    }

    fn switch(&self) {
        self.gate.load(Ordering::SeqCst);
    }
}

impl Memory for ShuttleMemory {
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

    fn load(&self, at: usize, _: Site) -> u64 {
        self.switch();
        self.word(at).load(Ordering::SeqCst)
    }

    fn store(&self, at: usize, value: u64, _: Site) {
        self.switch();
        self.word(at).store(value, Ordering::SeqCst);
    }

    /// Does nothing: shuttle knows only sequential consistency.
    fn fence(&self, _: Site) {}

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        core::array::from_fn(|i| self.word(at + 8 * i).load(Ordering::SeqCst))
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        for (i, word) in words.into_iter().enumerate() {
            self.word(at + 8 * i).store(word, Ordering::SeqCst);
        }
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        for (i, part) in into.chunks_mut(8).enumerate() {
            self.switch();
            let [word] = self.read_words(at + 8 * i);
            part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
        }
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        for (i, part) in from.chunks(8).enumerate() {
            self.switch();
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_words(at + 8 * i, [u64::from_le_bytes(word)]);
        }
    }
}

impl core::fmt::Debug for ShuttleMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ShuttleMemory").field("len", &self.region_len()).finish_non_exhaustive()
    }
}

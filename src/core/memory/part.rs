//! A part of a region, a slot above all, in which several accesses follow each other.
//!
//! In production its bounds are checked once, when it is made. What is left to be checked inside
//! it is the length that was asked for, which the compiler knows.

use super::Memory;
use crate::core::order::Site;

/// What a part is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Nothing but reading.
    Read,
    /// Writing; only the region's owner may.
    Write,
}

/// A part of a region. Offsets count from its beginning; else every method is as the one of
/// [`Memory`] with its name.
///
/// # Panics
///
/// Every method panics when it is asked to reach outside the part.
#[allow(clippy::missing_panics_doc, reason = "said above, once for all methods")]
pub trait Part {
    /// Loads an atomic word.
    fn load(&self, at: usize, site: Site) -> u64;

    /// Stores an atomic word.
    fn store(&self, at: usize, value: u64, site: Site);

    /// Reads `N` words that nobody writes now.
    fn read_words<const N: usize>(&self, at: usize) -> [u64; N];

    /// Writes `N` words that nobody else touches now.
    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]);

    /// Copies bytes in that nobody else touches now.
    fn write_bytes(&self, at: usize, from: &[u8]);
}

/// A part that is nothing but a place in its region: for memory that watches every access.
#[derive(Debug)]
pub struct Offset<'a, M> {
    memory: &'a M,
    start: usize,
    len: usize,
}

impl<'a, M: Memory> Offset<'a, M> {
    /// The `len` bytes at `start`.
    ///
    /// # Panics
    ///
    /// If they reach outside the region.
    pub fn new(memory: &'a M, start: usize, len: usize) -> Self {
        let region_len = memory.region_len();
        assert!(start <= region_len && len <= region_len - start, "{len} bytes at {start}");
        Offset { memory, start, len }
    }

    fn at(&self, at: usize, len: usize) -> usize {
        assert!(at <= self.len && len <= self.len - at, "{len} bytes at {at} of {}", self.len);
        self.start + at
    }
}

impl<M: Memory> Part for Offset<'_, M> {
    fn load(&self, at: usize, site: Site) -> u64 {
        self.memory.load(self.at(at, 8), site)
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        self.memory.store(self.at(at, 8), value, site);
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        self.memory.read_words(self.at(at, 8 * N))
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        self.memory.write_words(self.at(at, 8 * N), words);
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        self.memory.write_bytes(self.at(at, from.len()), from);
    }
}

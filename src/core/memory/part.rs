//! A part of a region, usually a slot, for several accesses in a row.
//!
//! In production its bounds are checked once, when it is created. Inside the part only the
//! requested length is checked, which the compiler knows.

use super::Memory;
use crate::core::order::Site;

/// The purpose of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Reading only.
    Read,
    /// Writing. Only the region's owner may request it.
    Write,
}

/// A part of a region. Offsets count from its beginning. Every method is otherwise like the method
/// of [`Memory`] with the same name.
///
/// # Panics
///
/// Every method panics on an access outside the part.
#[allow(clippy::missing_panics_doc, reason = "said above, once for all methods")]
pub trait Part {
    /// Loads an atomic word.
    fn load(&self, at: usize, site: Site) -> u64;

    /// Stores an atomic word.
    fn store(&self, at: usize, value: u64, site: Site);

    /// Reads `N` words. No other process or thread may write them meanwhile.
    fn read_words<const N: usize>(&self, at: usize) -> [u64; N];

    /// Writes `N` words. No other process or thread may access them meanwhile.
    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]);

    /// Copies bytes into the part. No other process or thread may access them meanwhile.
    fn write_bytes(&self, at: usize, from: &[u8]);
}

/// A part that is only an offset into its region, for memory that watches every access.
#[derive(Debug)]
pub struct Offset<'a, M> {
    memory: &'a M,
    start: usize,
    len: usize,
}

impl<'a, M: Memory> Offset<'a, M> {
    /// Returns the `len` bytes at `start`.
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

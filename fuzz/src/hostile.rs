//! Memory of a hostile peer: its words change at any moment, also between two reads.

use llmp::core::memory::{Intent, Memory, Offset};
use llmp::core::order::Site;
use std::sync::{Arc, Mutex, PoisonError};

/// Changes that a hostile peer makes to the words that we read.
pub trait Mischief {
    /// Returns the value that the reader sees. Called for every word that is read, with its offset
    /// and its real value.
    fn word(&mut self, at: usize, actual: u64) -> u64;
}

impl<F: FnMut(usize, u64) -> u64> Mischief for F {
    fn word(&mut self, at: usize, actual: u64) -> u64 {
        self(at, actual)
    }
}

/// Memory of a hostile peer. Copies are split into words, so that they can tear.
#[derive(Debug)]
pub struct Hostile<M, F> {
    memory: M,
    mischief: Arc<Mutex<F>>,
}

impl<M: Clone, F> Clone for Hostile<M, F> {
    fn clone(&self) -> Self {
        Hostile { memory: self.memory.clone(), mischief: self.mischief.clone() }
    }
}

impl<M: Memory, F: Mischief> Hostile<M, F> {
    /// Returns `memory` as seen through `mischief`.
    pub fn new(memory: M, mischief: Arc<Mutex<F>>) -> Self {
        Hostile { memory, mischief }
    }

    fn tamper(&self, at: usize, actual: u64) -> u64 {
        self.mischief.lock().unwrap_or_else(PoisonError::into_inner).word(at, actual)
    }
}

impl<M: Memory, F: Mischief> Memory for Hostile<M, F> {
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
        self.tamper(at, self.memory.load(at, site))
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        self.memory.store(at, value, site);
    }

    fn fence(&self, site: Site) {
        self.memory.fence(site);
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        let actual = self.memory.read_words::<N>(at);
        core::array::from_fn(|i| self.tamper(at + 8 * i, actual[i]))
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        self.memory.write_words(at, words);
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        // Reads the whole first, so that a read outside the region is detected.
        self.memory.read_bytes(at, into);
        for (i, part) in into.chunks_mut(8).enumerate() {
            let [actual] = self.memory.read_words(at + 8 * i);
            let seen = self.tamper(at + 8 * i, actual).to_le_bytes();
            part.copy_from_slice(&seen[..part.len()]);
        }
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        self.memory.write_bytes(at, from);
    }
}

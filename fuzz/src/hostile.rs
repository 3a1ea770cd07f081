//! Memory of a hostile peer: its words change at any moment, also between two reads.

use super::interposed::{Access, Interpose, Interposed};
use llmp::core::memory::Memory;
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
pub type Hostile<M, F> = Interposed<M, Arc<Mutex<F>>>;

impl<M: Memory, F: Mischief> Interpose<M> for Arc<Mutex<F>> {
    fn after(&self, memory: &M, at: usize, access: Access<'_>) {
        let see = |at, actual| self.lock().unwrap_or_else(PoisonError::into_inner).word(at, actual);
        match access {
            Access::Load(_, value) => *value = see(at, *value),
            Access::ReadWords(words) => {
                for (i, word) in words.iter_mut().enumerate() {
                    *word = see(at + 8 * i, *word);
                }
            }
            // The whole was read first, so that a read outside the region is detected.
            Access::ReadBytes(into) => {
                for (i, part) in into.chunks_mut(8).enumerate() {
                    let [actual] = memory.read_words(at + 8 * i);
                    let seen = see(at + 8 * i, actual).to_le_bytes();
                    part.copy_from_slice(&seen[..part.len()]);
                }
            }
            _ => {}
        }
    }
}

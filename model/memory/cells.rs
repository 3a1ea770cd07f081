//! Memory of one cell per word, which a checker accesses in its own way.

use llmp::core::memory::{Intent, Memory, Offset};
use llmp::core::order::Site;
use std::sync::Arc;

/// What a plain access reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// A word of a header.
    Header,
    /// A word of a payload.
    Payload,
}

/// How a checker accesses cells. A clone belongs to the same region.
pub trait Checker: Clone {
    /// One word, zero at first.
    type Cell: Default;

    fn load(&self, cell: &Self::Cell, site: Site) -> u64;
    fn store(&self, cell: &Self::Cell, value: u64, site: Site);
    fn fence(&self, site: Site);
    fn read(&self, cell: &Self::Cell, plain: Plain) -> u64;
    fn write(&self, cell: &Self::Cell, value: u64, plain: Plain);
}

/// A region of cells.
pub struct Cells<C: Checker> {
    cells: Arc<Vec<C::Cell>>,
    checker: C,
}

impl<C: Checker> Cells<C> {
    /// Returns a zeroed region of `len` bytes, a multiple of 8.
    ///
    /// # Panics
    ///
    /// If `len` is not a multiple of 8.
    pub fn zeroed(len: usize, checker: C) -> Self {
        assert!(len.is_multiple_of(8));
        Cells { cells: Arc::new((0..len / 8).map(|_| C::Cell::default()).collect()), checker }
    }

    /// Returns the same region for a process with another checker.
    #[must_use]
    pub fn map(self, checker: impl FnOnce(C) -> C) -> Self {
        Cells { checker: checker(self.checker), ..self }
    }

    fn cell(&self, at: usize) -> &C::Cell {
        assert!(at.is_multiple_of(8), "misaligned: {at}");
        &self.cells[at / 8]
    }
}

impl<C: Checker> Memory for Cells<C> {
    type Part<'a>
        = Offset<'a, Self>
    where
        Self: 'a;

    fn region_len(&self) -> usize {
        self.cells.len() * 8
    }

    fn part(&self, at: usize, len: usize, _: Intent) -> Offset<'_, Self> {
        Offset::new(self, at, len)
    }

    fn load(&self, at: usize, site: Site) -> u64 {
        self.checker.load(self.cell(at), site)
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        self.checker.store(self.cell(at), value, site);
    }

    fn fence(&self, site: Site) {
        self.checker.fence(site);
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        core::array::from_fn(|i| self.checker.read(self.cell(at + 8 * i), Plain::Header))
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        for (i, word) in words.into_iter().enumerate() {
            self.checker.write(self.cell(at + 8 * i), word, Plain::Header);
        }
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        for (i, part) in into.chunks_mut(8).enumerate() {
            let word = self.checker.read(self.cell(at + 8 * i), Plain::Payload).to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        for (i, part) in from.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            let word = u64::from_le_bytes(word);
            self.checker.write(self.cell(at + 8 * i), word, Plain::Payload);
        }
    }
}

impl<C: Checker> Clone for Cells<C> {
    fn clone(&self) -> Self {
        Cells { cells: self.cells.clone(), checker: self.checker.clone() }
    }
}

//! Memory with plainly accessed headers and payloads, so that ThreadSanitizer sees a race on them.
//! Production's relaxed words and opaque copies would hide it.

use llmp::core::memory::{Intent, Memory, Offset};
use llmp::core::order::{Orders, Site};
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A region on the heap, with the orderings of this run.
#[derive(Clone)]
pub struct PlainMemory {
    words: Arc<Words>,
    orders: Arc<Orders>,
}

struct Words(Box<[UnsafeCell<u64>]>);

// SAFETY: the protocol orders every access that is not atomic. The test checks exactly that:
// ThreadSanitizer reports a race.
#[allow(unsafe_code)]
unsafe impl Sync for Words {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Send for Words {}

impl PlainMemory {
    pub fn new(len: usize, orders: &Arc<Orders>) -> Self {
        assert!(len.is_multiple_of(8));
        let words = (0..len / 8).map(|_| UnsafeCell::new(0)).collect();
        PlainMemory { words: Arc::new(Words(words)), orders: orders.clone() }
    }

    fn cell(&self, at: usize) -> *mut u64 {
        assert!(at.is_multiple_of(8), "misaligned: {at}");
        self.words.0[at / 8].get()
    }

    fn atomic(&self, at: usize) -> &AtomicU64 {
        // SAFETY: aligned, and alive as long as `self`.
        #[allow(unsafe_code)]
        unsafe {
            AtomicU64::from_ptr(self.cell(at))
        }
    }

    fn read(&self, at: usize) -> u64 {
        // SAFETY: in bounds and aligned; the protocol orders it.
        #[allow(unsafe_code)]
        unsafe {
            self.cell(at).read()
        }
    }

    fn write(&self, at: usize, word: u64) {
        // SAFETY: as for `read`.
        #[allow(unsafe_code)]
        unsafe {
            self.cell(at).write(word);
        }
    }
}

impl Memory for PlainMemory {
    type Part<'a>
        = Offset<'a, Self>
    where
        Self: 'a;

    fn region_len(&self) -> usize {
        self.words.0.len() * 8
    }

    fn part(&self, at: usize, len: usize, _: Intent) -> Offset<'_, Self> {
        Offset::new(self, at, len)
    }

    fn load(&self, at: usize, site: Site) -> u64 {
        self.atomic(at).load(self.orders.of(site))
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        self.atomic(at).store(value, self.orders.of(site));
    }

    fn fence(&self, site: Site) {
        match self.orders.of(site) {
            Ordering::Relaxed => {}
            order => fence(order),
        }
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        core::array::from_fn(|i| self.read(at + 8 * i))
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        for (i, word) in words.into_iter().enumerate() {
            self.write(at + 8 * i, word);
        }
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        for (i, part) in into.chunks_mut(8).enumerate() {
            let word = self.read(at + 8 * i).to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        for (i, part) in from.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write(at + 8 * i, u64::from_le_bytes(word));
        }
    }
}

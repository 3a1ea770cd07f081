//! Memory with plainly accessed headers and payloads, so that ThreadSanitizer sees a race on them.
//! Production's relaxed words and opaque copies would hide it.

use crate::scenario::doubles::{Cells, Checker, Plain};
use llmp::core::order::{Orders, Site};
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A region on the heap.
pub type PlainMemory = Cells<Orderings>;

/// The orderings of this run.
#[derive(Clone)]
pub struct Orderings(pub Arc<Orders>);

#[derive(Default)]
pub struct Word(UnsafeCell<u64>);

// SAFETY: the protocol orders every access that is not atomic. The test checks exactly that:
// ThreadSanitizer reports a race.
#[allow(unsafe_code)]
unsafe impl Sync for Word {}

impl Word {
    fn atomic(&self) -> &AtomicU64 {
        // SAFETY: aligned, and alive as long as `self`.
        #[allow(unsafe_code)]
        unsafe {
            AtomicU64::from_ptr(self.0.get())
        }
    }
}

impl Checker for Orderings {
    type Cell = Word;

    fn load(&self, word: &Word, site: Site) -> u64 {
        word.atomic().load(self.0.of(site))
    }

    fn store(&self, word: &Word, value: u64, site: Site) {
        word.atomic().store(value, self.0.of(site));
    }

    fn fence(&self, site: Site) {
        match self.0.of(site) {
            Ordering::Relaxed => {}
            order => fence(order),
        }
    }

    fn read(&self, word: &Word, _: Plain) -> u64 {
        // SAFETY: aligned and alive; the protocol orders it.
        #[allow(unsafe_code)]
        unsafe {
            word.0.get().read()
        }
    }

    fn write(&self, word: &Word, value: u64, _: Plain) {
        // SAFETY: as for `read`.
        #[allow(unsafe_code)]
        unsafe {
            word.0.get().write(value);
        }
    }
}

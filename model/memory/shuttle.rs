//! Memory that shuttle schedules: large scenarios, many random interleavings, sequentially
//! consistent.

use super::cells::{Cells, Checker, Plain};
use llmp::core::order::Site;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A region in which shuttle may switch threads at every atomic access. Copies of bytes may be
/// interrupted after every word, so they tear if the protocol permits it.
pub type ShuttleMemory = Cells<Switching>;

/// shuttle switches at accesses to its own atomics.
#[derive(Clone, Default)]
pub struct Switching(Arc<shuttle::sync::atomic::AtomicU64>);

impl Switching {
    fn switch(&self) {
        self.0.load(Ordering::SeqCst);
    }

    fn switch_in(&self, plain: Plain) {
        if plain == Plain::Payload {
            self.switch();
        }
    }
}

impl Checker for Switching {
    type Cell = AtomicU64;

    fn load(&self, cell: &AtomicU64, _: Site) -> u64 {
        self.switch();
        cell.load(Ordering::SeqCst)
    }

    fn store(&self, cell: &AtomicU64, value: u64, _: Site) {
        self.switch();
        cell.store(value, Ordering::SeqCst);
    }

    /// Does nothing: shuttle knows only sequential consistency.
    fn fence(&self, _: Site) {}

    fn read(&self, cell: &AtomicU64, plain: Plain) -> u64 {
        self.switch_in(plain);
        cell.load(Ordering::SeqCst)
    }

    fn write(&self, cell: &AtomicU64, value: u64, plain: Plain) {
        self.switch_in(plain);
        cell.store(value, Ordering::SeqCst);
    }
}

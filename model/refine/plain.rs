//! A runtime of one thread and its heap, and counters of what programs on it have reached.

use crate::regions::heap;
use crate::scenario::{Mailbox, Runtime};
use llmp::core::memory::Region;

/// The heap, in one thread.
#[derive(Clone)]
pub struct Plain;

/// A mailbox without synchronization: one thread puts in and takes out.
#[derive(Clone)]
pub struct NoMailbox;

impl<T> Mailbox<T> for NoMailbox {
    fn put(&self, _: T) {}

    fn take(&self) -> Option<T> {
        None
    }

    fn wait(&self) -> T {
        unreachable!("there is one thread")
    }

    fn is_empty(&self) -> bool {
        true
    }
}

impl Runtime for Plain {
    type Memory = Region;
    type Mailbox<T: Send + 'static> = NoMailbox;

    fn memory(&self, len: usize) -> Region {
        heap(len)
    }

    fn mailbox<T: Send + 'static>(&self) -> NoMailbox {
        NoMailbox
    }

    fn spawn<T: Send + 'static>(
        &self,
        _: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        unreachable!("there is one thread")
    }
}

/// How often each state that traces must show was reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    pub delivered: u64,
    pub reuses: u64,
    pub full: u64,
    pub deaths: u64,
    pub late: u64,
    pub slept: u64,
    pub rung: u64,
    pub by_ref: u64,
    pub recalled: u64,
}

impl std::ops::Add for Reached {
    type Output = Reached;

    fn add(self, other: Reached) -> Reached {
        Reached {
            delivered: self.delivered + other.delivered,
            reuses: self.reuses + other.reuses,
            full: self.full + other.full,
            deaths: self.deaths + other.deaths,
            late: self.late + other.late,
            slept: self.slept + other.slept,
            rung: self.rung + other.rung,
            by_ref: self.by_ref + other.by_ref,
            recalled: self.recalled + other.recalled,
        }
    }
}

//! Scenarios, written once and explored by loom, by shuttle and by real threads.
//!
//! A scenario runs in two parts. In the first, each process is a thread that takes a bounded number
//! of steps, so that a checker can explore all their interleavings. In the second, one thread lets
//! all of them finish in turn. So "everything arrives" can be asserted after any first part.

#[allow(dead_code, reason = "not every checker has all of it")]
pub mod by_ref;
pub mod chain;
#[path = "../memory/mod.rs"]
pub mod doubles;
mod note;
#[allow(dead_code, reason = "not every checker has it")]
pub mod polls_beside;
#[allow(dead_code, reason = "not every checker makes mistakes")]
pub mod protocol;
#[allow(dead_code, reason = "not every checker has it")]
pub mod removed;
#[allow(dead_code, reason = "not every checker has it")]
pub mod skipped;

pub use note::{Note, Who};

use llmp::core::memory::Memory;
use std::collections::VecDeque;

/// The environment of a scenario: a checker's threads, memory and locks.
pub trait Runtime: Clone + Send + Sync + 'static {
    type Memory: Memory + Send + Sync + 'static;
    type Mailbox<T: Send + 'static>: Mailbox<T>;

    /// Returns a zeroed region.
    fn memory(&self, len: usize) -> Self::Memory;

    fn mailbox<T: Send + 'static>(&self) -> Self::Mailbox<T>;

    /// Returns a region as one process sees it, so that a recorded run can attribute its accesses.
    fn seen_by(&self, memory: &Self::Memory, _: Who) -> Self::Memory {
        memory.clone()
    }

    /// Returns the same runtime with memory in which headers may be read while they are written,
    /// and payloads if `bytes`.
    #[must_use]
    fn racing(&self, _bytes: bool) -> Self {
        self.clone()
    }

    /// Records the owner of the region's parked word and cursors.
    fn is_control(&self, _: &Self::Memory, _of: Who) {}

    /// Records an event that is no memory access.
    fn note(&self, _: Note) {}

    /// Returns whether the process has published something without a fence since the last call,
    /// because its peer polls. Then it has not checked whether the peer sleeps.
    fn has_left_out_a_fence(&self, _: Who) -> bool {
        false
    }

    /// Returns how a process that has polled bounds its sleeps in this run.
    fn bounds(&self) -> Bounds {
        Bounds::All
    }

    /// Starts a thread. The result waits for it.
    fn spawn<T: Send + 'static>(
        &self,
        thread: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T>;
}

/// The bounded sleeps of a process that has polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "the mistakes are for loom")]
pub enum Bounds {
    All,
    /// A mistake: only the sleep that clears the flag is bounded.
    First,
    /// A mistake: no sleep is bounded.
    None,
}

/// The kernel's part of a connection. Items arrive in order, and putting one in happens before
/// taking it out.
pub trait Mailbox<T>: Clone + Send + Sync + 'static {
    fn put(&self, item: T);
    fn take(&self) -> Option<T>;
    /// Blocks until there is an item and takes it.
    fn wait(&self) -> T;
    #[allow(dead_code, reason = "not every checker asks")]
    fn is_empty(&self) -> bool;
}

/// Defines a mailbox with a checker's mutex and condition variable.
macro_rules! mailbox {
    ($name:ident, $checker:ident) => {
        /// A mailbox of this checker's threads.
        pub struct $name<T>(
            std::sync::Arc<(
                $checker::sync::Mutex<std::collections::VecDeque<T>>,
                $checker::sync::Condvar,
            )>,
        );

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                $name(self.0.clone())
            }
        }

        impl<T> Default for $name<T> {
            fn default() -> Self {
                $name(std::sync::Arc::new((
                    $checker::sync::Mutex::new(std::collections::VecDeque::new()),
                    $checker::sync::Condvar::new(),
                )))
            }
        }

        impl<T: Send + 'static> $crate::scenario::Mailbox<T> for $name<T> {
            fn put(&self, item: T) {
                self.0.0.lock().unwrap().push_back(item);
                self.0.1.notify_all();
            }

            fn take(&self) -> Option<T> {
                self.0.0.lock().unwrap().pop_front()
            }

            fn is_empty(&self) -> bool {
                self.0.0.lock().unwrap().is_empty()
            }

            fn wait(&self) -> T {
                let mut items = self.0.0.lock().unwrap();
                loop {
                    if let Some(item) = items.pop_front() {
                        return item;
                    }
                    items = self.0.1.wait(items).unwrap();
                }
            }
        }
    };
}
pub(crate) use mailbox;

/// Descriptors under way. Unlike a [`Mailbox`] their delivery must not order anything, so that the
/// protocol's own edges are tested.
pub struct Descriptors<M>(std::sync::Arc<std::sync::Mutex<VecDeque<(u32, M)>>>);

impl<M> Clone for Descriptors<M> {
    fn clone(&self) -> Self {
        Descriptors(self.0.clone())
    }
}

impl<M> Default for Descriptors<M> {
    fn default() -> Self {
        Descriptors(std::sync::Arc::default())
    }
}

impl<M> Descriptors<M> {
    pub fn send(&self, id: u32, page: M) {
        self.0.lock().unwrap().push_back((id, page));
    }

    pub fn receive(&self) -> Option<(u32, M)> {
        self.0.lock().unwrap().pop_front()
    }
}

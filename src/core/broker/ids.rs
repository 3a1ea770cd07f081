//! The ids of clients.

use alloc::vec::Vec;

/// Ids to give. The id of a client that has joined is never given again. One that was given at the
/// greeting of a client that did not join is, as it was known to that client alone.
pub(super) struct Ids {
    /// The next one that was never given.
    next: u32,
    /// Taken back, from clients whose removal the owner of the core has not heard of yet.
    leaving: Vec<u32>,
    /// Taken back, and free. No more than there are places.
    free: Vec<u32>,
}

impl Ids {
    pub fn new() -> Self {
        Ids { next: 1, leaving: Vec::new(), free: Vec::new() }
    }

    pub fn has_some(&self) -> bool {
        !self.free.is_empty() || self.next < u32::MAX
    }

    pub fn give(&mut self) -> Option<u32> {
        if let Some(free) = self.free.pop() {
            return Some(free);
        }
        let id = self.next;
        self.next = id.checked_add(1)?;
        Some(id)
    }

    /// The client that had it is gone, and has not joined.
    pub fn take_back(&mut self, id: u32) {
        self.leaving.push(id);
    }

    /// The owner of the core removes all clients that have gone: ids taken back can be given again.
    pub fn all_removed(&mut self) {
        self.free.append(&mut self.leaving);
    }

    /// All ids but one were given.
    #[cfg(test)]
    pub fn exhaust(&mut self) {
        self.next = u32::MAX - 1;
    }
}

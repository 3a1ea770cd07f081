//! Client ids.

use alloc::vec::Vec;

/// Assigns client ids. The id of a client that has joined is never reused. The id of a client that
/// was greeted and did not join is reused, because only that client knew it.
pub(super) struct Ids {
    /// The next id that was never assigned.
    next: u32,
    /// Returned ids of clients whose removal the owner of the core has not processed yet.
    leaving: Vec<u32>,
    /// Returned ids that are free. At most one for each cursor.
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

    /// Returns the id of a client that was removed and had not joined.
    pub fn take_back(&mut self, id: u32) {
        self.leaving.push(id);
    }

    /// Frees the returned ids: the owner of the core now removes all clients that are gone.
    pub fn all_removed(&mut self) {
        self.free.append(&mut self.leaving);
    }

    /// Uses up all ids but one.
    #[cfg(test)]
    pub fn exhaust(&mut self) {
        self.next = u32::MAX - 1;
    }
}

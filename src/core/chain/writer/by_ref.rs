//! Messages by reference: a broker names pages of its clients in its own chain.
//!
//! A foreign page gets an id of this chain and is announced to the receivers like a page of its
//! own. The chain never advances into it. A message by reference names the location of its payload
//! in it. The page's writer must not write it again before every receiver has passed all messages
//! that refer to it. The broker is the reader of the page's chain: it keeps its cursor there until
//! [`passed`](ChainWriter::passed) covers these messages.

use super::ChainWriter;
use super::pool::Page;
use crate::core::chain::{Blocked, Refused};
use crate::core::layout::*;
use crate::core::memory::Memory;
use crate::core::message::Envelope;

/// A page of another chain.
#[derive(Debug)]
pub(super) struct ForeignPage<M> {
    pub(super) page: Page<M>,
    /// Position after the last message that refers to the page, or at which the page was added.
    until: u64,
}

/// First id reserved for the chain's own pages. Ids are never reused, and clients' pages come and
/// go as often as the clients like. So these must not use up the ids that the chain needs.
const FOREIGN_IDS: u32 = u32::MAX / 2;

impl<M: Memory> ChainWriter<M> {
    /// Adds a page of another chain to which messages can refer. Returns its id in this chain, or
    /// `None` if foreign pages would exceed the budget or the ids are used up.
    pub fn add_foreign_page(&mut self, memory: M) -> Option<u32> {
        let foreign: usize =
            self.foreign.iter().map(|foreign| foreign.page.memory.region_len()).sum();
        if foreign + memory.region_len() > self.limits.budget() || self.next_page >= FOREIGN_IDS {
            return None;
        }
        if self.next_page == u32::MAX {
            return None;
        }
        let page = self.announce(memory);
        let id = page.id;
        let until = self.position();
        self.foreign.push(ForeignPage { page, until });
        Some(id)
    }

    /// Returns whether messages can refer to a page: every receiver was sent it.
    pub fn can_refer_to(&self, id: u32) -> bool {
        self.foreign.iter().any(|foreign| foreign.page.id == id && foreign.page.unannounced == 0)
    }

    /// Appends a message of `len` bytes whose payload lies in the foreign page `id` at `offset`.
    /// Returns the position after it.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written.
    pub fn send_ref(
        &mut self,
        envelope: Envelope,
        len: usize,
        id: u32,
        offset: usize,
    ) -> Result<u64, Refused> {
        // The caller has checked that messages can refer to the page.
        let foreign = self.foreign.iter().position(|foreign| foreign.page.id == id);
        let foreign = foreign.ok_or(Refused::Blocked(Blocked::Announce))?;
        let slot_len = Self::room_for_ref(&envelope);
        let claim = self.claim_slot(envelope, len, slot_len, KIND_REF)?;
        claim.write_ref(id, offset);
        claim.commit();
        let until = self.position();
        self.foreign[foreign].until = until;
        self.stats.by_ref += 1;
        Ok(until)
    }

    /// Returns the bytes that a message by reference takes in a page.
    pub fn room_for_ref(envelope: &Envelope) -> usize {
        Self::room_for(envelope, SLOT_REF)
    }

    /// Returns the position that every receiver has passed.
    pub fn passed(&mut self) -> u64 {
        self.left_by_all()
    }

    /// Returns whether every receiver has passed all messages that refer to a page, given that all
    /// are at `passed` or beyond.
    pub fn is_released(&self, id: u32, passed: u64) -> bool {
        self.foreign.iter().all(|foreign| foreign.page.id != id || foreign.until <= passed)
    }

    /// Drops a foreign page that [is released](ChainWriter::is_released).
    pub fn forget_foreign_page(&mut self, id: u32) {
        let Some(i) = self.foreign.iter().position(|foreign| foreign.page.id == id) else { return };
        self.foreign.swap_remove(i);
        self.cancel_announcement(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limits::Limits;
    use crate::core::memory::Region;

    #[test]
    fn foreign_pages_leave_ids_for_the_chains_own_pages() {
        let limits = Limits::new(256, 64, 4096).unwrap();
        let mut sender = ChainWriter::new(0, limits, Region::heap(256));
        sender.next_page = FOREIGN_IDS - 1;
        let last = sender.add_foreign_page(Region::heap(256)).unwrap();
        assert_eq!(sender.add_foreign_page(Region::heap(256)), None);
        sender.forget_foreign_page(last);
        assert_eq!(sender.add_foreign_page(Region::heap(256)), None, "an id is not used again");
        sender.add_page(Region::heap(256));
        assert!(sender.page(FOREIGN_IDS).is_some());
    }

    #[test]
    fn foreign_pages_are_added_up_to_the_budget() {
        let limits = Limits::new(256, 64, 512).unwrap();
        let mut sender = ChainWriter::new(0, limits, Region::heap(256));
        let added = [(); 3].map(|()| sender.add_foreign_page(Region::heap(256)));
        assert_eq!(added, [Some(1), Some(2), None]);
        sender.forget_foreign_page(1);
        assert_eq!(sender.add_foreign_page(Region::heap(256)), Some(3), "no id comes twice");
    }
}

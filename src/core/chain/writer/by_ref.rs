//! Messages that a broker lends: pages of others, named in its own chain.
//!
//! Such a page gets an id of this chain and is announced to the receivers like a page of its own.
//! Nobody goes on in it; a lent message says where in it its payload lies. Whoever wrote the page
//! must not write it again before every receiver has passed all that was lent of it: its owner,
//! which is its receiver, holds back its cursor until [`passed`](ChainWriter::passed) says so.

use super::ChainWriter;
use super::pool::Page;
use crate::core::chain::{Blocked, Refused};
use crate::core::layout::*;
use crate::core::memory::Memory;
use crate::core::message::Envelope;

/// A page of somebody else's.
#[derive(Debug)]
pub(super) struct ForeignPage<M> {
    pub(super) page: Page<M>,
    /// The position behind the last message that was lent of it, or where it was adopted.
    until: u64,
}

/// Ids from here on are for the chain's own pages. Ids are never used again, and pages of others
/// come and go as often as these like: they must not use up what the chain cannot do without.
const FOREIGN_IDS: u32 = u32::MAX / 2;

impl<M: Memory> ChainWriter<M> {
    /// Takes a page of somebody else's among those of which messages can be lent, and returns what
    /// it is called in this chain; `None` if they would take more than the budget, or all ids.
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

    /// Whether messages can be lent of a page: every receiver has been sent it.
    pub fn can_refer_to(&self, id: u32) -> bool {
        self.foreign.iter().any(|foreign| foreign.page.id == id && foreign.page.unannounced == 0)
    }

    /// Appends a message of `len` bytes whose payload lies in the lent page `id` at `offset`.
    /// Returns the position behind it.
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
        // It was asked before whether the page can be lent.
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

    /// The bytes that a lent message takes in a page.
    pub fn room_for_ref(envelope: &Envelope) -> usize {
        Self::room_for(envelope, SLOT_REF)
    }

    /// The position that every receiver has passed.
    pub fn passed(&mut self) -> u64 {
        self.left_by_all()
    }

    /// Whether every receiver, being at `passed` or beyond, has passed what was lent of a page.
    pub fn is_released(&self, id: u32, passed: u64) -> bool {
        self.foreign.iter().all(|foreign| foreign.page.id != id || foreign.until <= passed)
    }

    /// Lets go of a lent page that [is returned](ChainWriter::is_released).
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
    fn pages_of_others_leave_ids_for_those_of_the_chain() {
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
    fn pages_are_adopted_up_to_the_budget_and_not_beyond() {
        let limits = Limits::new(256, 64, 512).unwrap();
        let mut sender = ChainWriter::new(0, limits, Region::heap(256));
        let adopted = [(); 3].map(|()| sender.add_foreign_page(Region::heap(256)));
        assert_eq!(adopted, [Some(1), Some(2), None]);
        sender.forget_foreign_page(1);
        assert_eq!(sender.add_foreign_page(Region::heap(256)), Some(3), "no id comes twice");
    }
}

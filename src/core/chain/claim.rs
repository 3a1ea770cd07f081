//! A claim: room for one message, which is filled and then committed or dropped.

use super::writing::Writing;
use crate::core::layout::*;
use crate::core::memory::{Intent, Memory, Part};
use crate::core::message::Envelope;
use crate::core::order::Site;

/// Room for one message that no receiver sees yet. Dropping it without a commit discards the
/// message.
pub struct Claim<'a, M: Memory + 'a> {
    writing: &'a mut Writing,
    page: &'a M,
    /// The slot and the commit word of the next slot.
    slot: M::Part<'a>,
    slot_len: usize,
    /// Offset of the payload in the slot, in bytes.
    payload_at: usize,
    len: usize,
    commit: u64,
    tag: u64,
}

impl<'a, M: Memory> Claim<'a, M> {
    /// Begins a message in `page` at the writing position. `slot_len` bytes must be free there,
    /// followed by room for an end-of-page message.
    ///
    /// A short message is written from its end to its beginning, and the commit word last. A
    /// receiver that polls that word fetches its line again and again. So the writer writes that
    /// line in one go, after the lines that follow.
    #[inline(always)]
    pub(super) fn new(
        page: &'a M,
        writing: &'a mut Writing,
        envelope: &Envelope,
        len: usize,
        slot_len: usize,
        kind: u8,
    ) -> Self {
        let slot = page.part(writing.at, slot_len + SLOT_HEADER, Intent::Write);
        let mut payload_at = SLOT_HEADER;
        if let Some(origin) = envelope.origin {
            slot.write_words(payload_at, origin.words());
            payload_at += SLOT_EXTENSION;
        }
        // Relaxed: the publishing store of this batch comes after it
        slot.store(slot_len + SLOT_COMMIT, 0, Site::CommitClear);
        let commit = envelope.commit_word(len as u32, kind);
        let tag = envelope.tag_word();
        Claim { writing, page, slot, slot_len, payload_at, len, commit, tag }
    }

    /// Writes the whole payload.
    ///
    /// # Panics
    ///
    /// If `payload` is longer than the claim.
    #[inline(always)]
    pub fn write_all(&self, payload: &[u8]) {
        assert!(payload.len() <= self.len, "more payload than was claimed");
        self.slot.write_bytes(self.payload_at, payload);
    }

    /// Copies the whole payload from another region.
    #[inline(always)]
    pub fn copy_from(&self, memory: &M, at: usize) {
        self.page.copy_bytes(self.writing.at + self.payload_at, memory, at, self.len);
    }

    /// Writes a reference: the payload lies in page `page` at `offset`.
    pub(super) fn write_ref(&self, page: u32, offset: usize) {
        self.slot.write_words(self.payload_at, [halves(page, 0), offset as u64]);
    }

    /// Shortens the message to `len` bytes. Does nothing if it is not longer.
    ///
    /// A receiver computes the end of a slot from the length of its payload, so the slot shrinks with
    /// the payload. The next slot begins at the new end. Bytes of the payload may lie there, so its
    /// commit word is cleared.
    pub fn truncate(&mut self, len: usize) {
        debug_assert_eq!(high(self.commit) as u8, KIND_MESSAGE, "a reference has a fixed length");
        let is_extended = self.payload_at > SLOT_HEADER;
        // A shorter message has a length that fits.
        let Some(slot_len) = slot_len(len, is_extended).filter(|_| len < self.len) else { return };
        (self.len, self.slot_len) = (len, slot_len);
        self.commit = halves(len as u32, high(self.commit));
        // Relaxed: the publishing store of this batch comes after it
        self.slot.store(slot_len + SLOT_COMMIT, 0, Site::CommitClear);
    }

    /// Adds the message to the pending batch. [`ChainWriter::publish`](super::ChainWriter::publish)
    /// makes it visible.
    #[inline(always)]
    pub fn commit(self) {
        self.slot.write_words(SLOT_TAG, [self.tag]);
        self.writing.commit(&self.slot, self.commit);
        self.writing.pass(self.slot_len, self.len);
    }

    /// Returns whether no batch is pending.
    #[inline(always)]
    pub(super) fn is_alone(&self) -> bool {
        self.writing.pending.is_none()
    }

    /// Makes the message visible at once. It must be [alone](Claim::is_alone).
    #[inline(always)]
    pub(super) fn publish(self) {
        self.slot.write_words(SLOT_TAG, [self.tag]);
        // pairs with CommitRead: the whole message was written before
        self.slot.store(SLOT_COMMIT, self.commit, Site::CommitPublish);
        self.writing.pass(self.slot_len, self.len);
    }
}

impl<'a> Claim<'a, crate::core::memory::Region> {
    /// Returns the payload's bytes to be written in place. Their initial values are unspecified.
    #[allow(unsafe_code)]
    pub fn payload(&mut self) -> &mut [u8] {
        let (at, len) = (self.payload_at, self.len);
        // SAFETY: the slot lies beyond the tail, where no receiver reads. The claim borrows the
        // writer exclusively, and the slice borrows the claim. One writer alone writes the region:
        // that is the contract of `Region::new_heap`, which the crate keeps.
        unsafe { self.slot.bytes_mut(at, len) }
    }

    /// Returns the same bytes and drops the claim. A claim of the same length, made next, has the
    /// same place.
    #[allow(unsafe_code)]
    pub(crate) fn into_payload(self) -> &'a mut [u8] {
        // SAFETY: as for `payload`. The slice keeps the borrow of the writer, so the place cannot
        // be claimed again while the slice exists.
        unsafe { self.slot.bytes_mut(self.payload_at, self.len) }
    }
}

impl<M: Memory> core::fmt::Debug for Claim<'_, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Claim").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::core::chain::ChainWriter;
    use crate::core::layout::*;
    use crate::core::limits::Limits;
    use crate::core::memory::{Memory, Region};
    use crate::core::message::Envelope;
    use crate::core::order::Site;
    use crate::core::origin::Origin;

    #[test]
    fn truncate_moves_the_next_slot_and_clears_its_commit_word() {
        let limits = Limits::new(512, 300, 4096).unwrap();
        for origin in [None, Some(Origin::example())] {
            for kept in [0, 1, 15, 16, 17, 100, 199, 200, 201, 300] {
                let page = Region::heap(512);
                let mut writer = ChainWriter::new(1, limits, page.clone());
                let envelope = Envelope::tagged(7).with_origin(origin);
                let mut claim = writer.claim(envelope, 200).unwrap();
                claim.payload().fill(0xee);
                claim.truncate(kept);
                let len = kept.min(200);
                assert_eq!(claim.payload(), vec![0xee; len]);
                claim.commit();
                writer.publish();
                let end = PAGE_HEADER + slot_len(len, origin.is_some()).unwrap();
                assert_eq!(writer.position(), end as u64, "{len}");
                assert_eq!(writer.stats().payload_bytes, len as u64);
                let word = |at| page.load(at + SLOT_COMMIT, Site::CommitRead);
                assert_eq!(word(end), 0, "{len}: payload where the next commit word is");
                let expected = envelope.commit_word(len as u32, KIND_MESSAGE);
                assert_eq!(word(PAGE_HEADER), expected, "{len}");
            }
        }
    }

    #[test]
    fn a_payload_that_outlives_its_claim_is_that_of_the_next_claim() {
        let limits = Limits::new(512, 300, 4096).unwrap();
        let mut sender = ChainWriter::new(1, limits, Region::heap(512));
        let claim = sender.claim(Envelope::default(), 100).unwrap();
        claim.into_payload().fill(7);
        let mut claim = sender.claim(Envelope::default(), 100).unwrap();
        assert_eq!(claim.payload(), [7; 100]);
    }
}

//! The writing position of a chain, and the pending batch that is not visible yet.

use crate::core::layout::*;
use crate::core::memory::Part;
use crate::core::order::Site;

/// The writing position of a chain. The chain's writer is its single user.
#[derive(Debug)]
pub(super) struct Writing {
    /// Position of the first byte of the page that is being written.
    pub base: u64,
    /// Offset in that page of the next slot, in bytes. Its commit word is zero, and there is room
    /// for an end-of-page message after it.
    pub at: usize,
    /// Number of the next message in the chain.
    pub next_message: u64,
    /// Payload bytes written until now.
    pub payload_bytes: u64,
    /// The pending batch, if a slot of it is committed.
    pub pending: Option<Pending>,
}

/// The messages written since the last `publish`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Number of page rollovers since the batch's first slot.
    pub turned: usize,
    /// Where the batch begins, and where an abort returns to.
    pub base: u64,
    pub at: usize,
    pub first_message: u64,
    /// The deferred commit word of the batch's first slot.
    pub commit: u64,
}

impl Writing {
    /// Returns the writing position of an empty chain, whose first message has this number.
    pub fn new(next_message: u64) -> Self {
        Writing { base: 0, at: PAGE_HEADER, next_message, payload_bytes: 0, pending: None }
    }

    /// Commits the slot that is being written as part of the pending batch. Defers the commit word
    /// of the batch's first slot.
    #[inline(always)]
    pub fn commit(&mut self, slot: &impl Part, commit: u64) {
        match self.pending {
            None => {
                let Writing { base, at, next_message: first_message, .. } = *self;
                self.pending = Some(Pending { turned: 0, base, at, first_message, commit });
            }
            // Relaxed: a receiver gets here only after the batch's first commit word, which is a
            // release
            Some(_) => slot.store(SLOT_COMMIT, commit, Site::CommitFill),
        }
    }

    /// Moves past a message.
    #[inline(always)]
    pub fn pass(&mut self, slot_len: usize, payload_len: usize) {
        self.at += slot_len;
        self.next_message += 1;
        self.payload_bytes += payload_len as u64;
    }

    /// Discards the pending batch and returns it.
    pub fn abort(&mut self) -> Option<Pending> {
        let pending = self.pending.take()?;
        (self.base, self.at, self.next_message) = (pending.base, pending.at, pending.first_message);
        Some(pending)
    }
}

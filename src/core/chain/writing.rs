//! How far a chain has been written, and what of that is not visible yet.

use crate::core::layout::*;
use crate::core::memory::Part;
use crate::core::order::Site;

/// How far a chain has been written.
#[derive(Debug)]
pub(super) struct Writing {
    /// Position of the first byte of the page that is being written.
    pub base: u64,
    /// Offset in that page of the next slot. Its commit word is zero, and behind it there is room
    /// for an end-of-page message.
    pub at: usize,
    pub next_message: u64,
    pub payload_bytes: u64,
    pub pending: Option<Pending>,
}

/// What has been written since the last `publish`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Page turns since the run's first slot.
    pub turned: usize,
    /// Where the run begins, and so what to go back to if it is given up.
    pub base: u64,
    pub at: usize,
    pub first_message: u64,
    /// The commit word held back.
    pub commit: u64,
}

impl Writing {
    /// At the beginning of a chain.
    pub fn new() -> Self {
        Writing { base: 0, at: PAGE_HEADER, next_message: 0, payload_bytes: 0, pending: None }
    }

    /// Commits the slot that is being written as part of the run: the run's first commit word is
    /// held back.
    #[inline(always)]
    pub fn commit(&mut self, slot: &impl Part, commit: u64) {
        match self.pending {
            None => {
                let Writing { base, at, next_message: first_message, .. } = *self;
                self.pending = Some(Pending { turned: 0, base, at, first_message, commit });
            }
            // Relaxed: nobody gets here before the run's first commit word, which is a release
            Some(_) => slot.store(SLOT_COMMIT, commit, Site::CommitFill),
        }
    }

    /// Goes on behind a message.
    #[inline(always)]
    pub fn pass(&mut self, slot_len: usize, payload_len: usize) {
        self.at += slot_len;
        self.next_message += 1;
        self.payload_bytes += payload_len as u64;
    }

    /// Gives the run up, as if it had never been written. Returns it.
    pub fn abort(&mut self) -> Option<Pending> {
        let pending = self.pending.take()?;
        (self.base, self.at, self.next_message) = (pending.base, pending.at, pending.first_message);
        Some(pending)
    }
}

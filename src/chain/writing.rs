//! How far a chain has been written, and what of that is not visible yet.

use crate::layout::*;
use crate::memory::Part;
use crate::order::Site;

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
    pub run: Option<Run>,
}

/// What has been written since the last `publish`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
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
        Writing { base: 0, at: PAGE_HEADER, next_message: 0, payload_bytes: 0, run: None }
    }

    /// Commits the slot that is being written as part of the run: the run's first commit word is
    /// held back.
    #[inline(always)]
    pub fn commit(&mut self, slot: &impl Part, commit: u64) {
        match self.run {
            None => {
                let Writing { base, at, next_message: first_message, .. } = *self;
                self.run = Some(Run { turned: 0, base, at, first_message, commit });
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
    pub fn abort(&mut self) -> Option<Run> {
        let run = self.run.take()?;
        (self.base, self.at, self.next_message) = (run.base, run.at, run.first_message);
        Some(run)
    }
}

//! Room for one message: filled, then committed or dropped.

use super::sender::Sender;
use crate::layout::*;
use crate::memory::Memory;
use crate::message::{Envelope, Origin};
use crate::order::Site;

/// Room for one message that nobody sees yet. Dropped without a commit, it was never there.
#[derive(Debug)]
pub struct Claim<'a, M: Memory> {
    sender: &'a mut Sender<M>,
    envelope: Envelope,
    len: usize,
    slot_len: usize,
    kind: u8,
}

impl<'a, M: Memory> Claim<'a, M> {
    /// `slot_len` bytes at the sender's place are free, and behind them there is room for an
    /// end-of-page message.
    #[inline]
    pub(super) fn new(
        sender: &'a mut Sender<M>,
        envelope: Envelope,
        len: usize,
        slot_len: usize,
        kind: u8,
    ) -> Self {
        Claim { sender, envelope, len, slot_len, kind }
    }

    fn payload_at(&self) -> usize {
        let extension = if self.envelope.origin.is_some() { SLOT_EXTENSION } else { 0 };
        self.sender.at + SLOT_HEADER + extension
    }

    /// Writes the whole payload.
    ///
    /// # Panics
    ///
    /// If `payload` is longer than what was claimed.
    #[inline]
    pub fn write_all(&self, payload: &[u8]) {
        assert!(payload.len() <= self.len, "more payload than was claimed");
        self.sender.page.write_bytes(self.payload_at(), payload);
    }

    /// Copies the whole payload from another region.
    #[inline]
    pub fn copy_from(&self, memory: &M, at: usize) {
        self.sender.page.copy_bytes(self.payload_at(), memory, at, self.len);
    }

    /// Says that the payload lies in page `page`, at `offset`.
    pub(super) fn lend(&self, page: u32, offset: usize) {
        self.sender.page.write_words(self.payload_at(), [halves(page, 0), offset as u64]);
    }

    /// Puts the message into the run. It is visible after [`Sender::publish`].
    #[inline]
    pub fn commit(self) {
        let commit = self.seal();
        self.sender.commit_slot(commit);
        self.pass();
    }

    /// Makes the message visible, with all of the run before it.
    #[inline]
    pub fn publish(self) {
        let commit = self.seal();
        if self.sender.has_run() {
            self.sender.commit_slot(commit);
            self.sender.publish();
        } else {
            // pairs with CommitRead: the whole message was written before
            self.sender.page.store(self.sender.at + SLOT_COMMIT, commit, Site::CommitPublish);
        }
        self.pass();
    }

    /// Writes everything but the commit word, which it returns.
    #[inline]
    fn seal(&self) -> u64 {
        let sender = &*self.sender;
        if let Some(Origin { broker, id }) = self.envelope.origin {
            sender.page.write_words(sender.at + SLOT_HEADER, [broker, id]);
        }
        sender.page.write_words(sender.at + SLOT_TAG, [self.envelope.tag_word()]);
        // Relaxed: the publishing store of this run comes after it
        sender.page.store(sender.at + self.slot_len + SLOT_COMMIT, 0, Site::CommitClear);
        self.envelope.commit_word(self.len as u32, self.kind)
    }

    /// Goes on behind the message.
    #[inline]
    fn pass(self) {
        let sender = self.sender;
        sender.at += self.slot_len;
        sender.next_message += 1;
        sender.stats.payload_bytes += self.len as u64;
    }
}

impl Claim<'_, crate::memory::Region> {
    /// The payload's bytes, to be written in place. What they hold before is not defined.
    #[allow(unsafe_code)]
    pub fn payload(&mut self) -> &mut [u8] {
        let at = self.payload_at();
        // SAFETY: the slot lies beyond the tail, where no receiver looks, and the claim borrows
        // the sender exclusively, so that nobody else writes or claims there.
        unsafe { self.sender.page.bytes_mut(at, self.len) }
    }
}

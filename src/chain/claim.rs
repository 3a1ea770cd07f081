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
    payload_at: usize,
    len: usize,
    slot_len: usize,
    commit: u64,
    tag: u64,
}

impl<'a, M: Memory> Claim<'a, M> {
    /// `slot_len` bytes at the sender's place are free, and behind them there is room for an
    /// end-of-page message.
    ///
    /// A short message is written from its end to its beginning, the commit word last. A receiver that
    /// polls that word fetches its line again and again: so it is written at one go, when the lines
    /// behind it are done.
    #[inline(always)]
    pub(super) fn new(
        sender: &'a mut Sender<M>,
        envelope: &Envelope,
        len: usize,
        slot_len: usize,
        kind: u8,
    ) -> Self {
        let (page, at) = (&sender.page, sender.at);
        let mut payload_at = at + SLOT_HEADER;
        if let Some(Origin { broker, id }) = envelope.origin {
            page.write_words(payload_at, [broker, id]);
            payload_at += SLOT_EXTENSION;
        }
        // Relaxed: the publishing store of this run comes after it
        page.store(at + slot_len + SLOT_COMMIT, 0, Site::CommitClear);
        let commit = envelope.commit_word(len as u32, kind);
        Claim { sender, payload_at, len, slot_len, commit, tag: envelope.tag_word() }
    }

    /// Writes the whole payload.
    ///
    /// # Panics
    ///
    /// If `payload` is longer than what was claimed.
    #[inline(always)]
    pub fn write_all(&self, payload: &[u8]) {
        assert!(payload.len() <= self.len, "more payload than was claimed");
        self.sender.page.write_bytes(self.payload_at, payload);
    }

    /// Copies the whole payload from another region.
    #[inline(always)]
    pub fn copy_from(&self, memory: &M, at: usize) {
        self.sender.page.copy_bytes(self.payload_at, memory, at, self.len);
    }

    /// Says that the payload lies in page `page`, at `offset`.
    pub(super) fn lend(&self, page: u32, offset: usize) {
        self.sender.page.write_words(self.payload_at, [halves(page, 0), offset as u64]);
    }

    /// Puts the message into the run. It is visible after [`Sender::publish`].
    #[inline(always)]
    pub fn commit(self) {
        self.write_tag();
        self.sender.commit_slot(self.commit);
        self.pass();
    }

    /// Makes the message visible, with all of the run before it.
    #[inline(always)]
    pub fn publish(self) {
        self.write_tag();
        if self.sender.has_run() {
            self.sender.commit_slot(self.commit);
            self.sender.publish();
        } else {
            // pairs with CommitRead: the whole message was written before
            self.sender.page.store(self.sender.at + SLOT_COMMIT, self.commit, Site::CommitPublish);
        }
        self.pass();
    }

    #[inline(always)]
    fn write_tag(&self) {
        self.sender.page.write_words(self.sender.at + SLOT_TAG, [self.tag]);
    }

    /// Goes on behind the message.
    #[inline(always)]
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
        let at = self.payload_at;
        // SAFETY: the slot lies beyond the tail, where no receiver looks, and the claim borrows
        // the sender exclusively, so that nobody else writes or claims there.
        unsafe { self.sender.page.bytes_mut(at, self.len) }
    }
}

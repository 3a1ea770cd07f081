//! A chain's writing end.
//!
//! What a sender does with a slot, in this order:
//!
//! 1. write the tag word and the payload: beyond the tail, so nobody reads there;
//! 2. zero the commit word of the slot behind: a receiver that takes this message looks there next;
//!    whether before the payload or after it is all the same;
//! 3. store the commit word: directly and with `Release` if it is the first of a *run*, else
//!    relaxed. A run is what is visible only when its first commit word is stored, by
//!    [`publish`](ChainWriter::publish).
//!
//! Slots follow each other in the order in which they are sent, and become visible in no other
//! (P1). A sender that dies before 3 leaves nothing that anybody could see (P4).
//!
//! Where its pages come from, who reads them and when they may be written again is told in
//! `pool`.

mod by_ref;
mod pool;

use self::by_ref::ForeignPage;
use self::pool::{Page, Peer};
use super::claim::Claim;
use super::page::PageHeader;
use super::terms::{Blocked, Refused, Stats};
use super::writing::Writing;
use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::limits::Limits;
use crate::core::memory::{Intent, Memory, Part};
use crate::core::message::Envelope;
use crate::core::order::Site;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The writing end of a chain.
#[derive(Debug)]
pub struct ChainWriter<M> {
    owner: u32,
    limits: Limits,
    /// Pages in use, oldest first. The last is being written; `page` is a second handle to it.
    chain: VecDeque<Page<M>>,
    /// Pages that everybody has left, those left first in front, and new ones.
    free: VecDeque<Page<M>>,
    /// Pages of others from which messages are lent.
    foreign: Vec<ForeignPage<M>>,
    page: M,
    writing: Writing,
    receivers: Vec<Peer<M>>,
    next_page: u32,
    pages_len: usize,
    /// While there is less than this in pages, none is written again.
    reuse_distance: usize,
    /// Pages that begin before this position are not written again.
    retired: u64,
    /// Receivers struck because their cursor lied; taken by the owner.
    faults: Vec<(u32, Fault)>,
    stats: Stats,
}

impl<M: Memory> ChainWriter<M> {
    /// A new chain of the client `owner`, beginning in `first`, which becomes page 0.
    pub fn new(owner: u32, limits: Limits, first: M) -> Self {
        PageHeader { id: super::FIRST_PAGE, owner, base: 0, first: 0 }.write(&first);
        let len = first.region_len();
        let page = Page {
            id: super::FIRST_PAGE,
            memory: first.clone(),
            base: 0,
            unannounced: 0,
            used: true,
        };
        let page_bytes = len as u64;
        ChainWriter {
            owner,
            limits,
            chain: VecDeque::from([page]),
            free: VecDeque::new(),
            foreign: Vec::new(),
            page: first,
            writing: Writing::new(),
            receivers: Vec::new(),
            next_page: super::FIRST_PAGE + 1,
            pages_len: len,
            reuse_distance: 0,
            retired: 0,
            faults: Vec::new(),
            stats: Stats { page_bytes, page_bytes_peak: page_bytes, ..Stats::default() },
        }
    }

    /// Whether a message has its place in the page that is being written: what is sent nearly
    /// always has. It need not have been asked.
    #[inline(always)]
    pub(crate) fn fits(&self, envelope: &Envelope, len: usize) -> bool {
        len <= self.limits.max_message_len()
            && slot_len(len, envelope.origin.is_some()).is_some_and(|len| self.fits_slot(len))
    }

    #[inline(always)]
    fn fits_slot(&self, slot_len: usize) -> bool {
        self.writing.at + slot_len + SLOT_HEADER <= self.page.region_len()
    }

    /// Room for a payload of `len` bytes, to be filled and committed.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written, and the run is as it was but for a page turn.
    #[inline(always)]
    pub fn claim(&mut self, envelope: Envelope, len: usize) -> Result<Claim<'_, M>, Refused> {
        let max = self.limits.max_message_len();
        let slot_len = slot_len(len, envelope.origin.is_some());
        let Some(slot_len) = slot_len.filter(|_| len <= max) else {
            // Before anything is written (P14).
            return Err(Refused::TooLong { len, max });
        };
        self.claim_slot(envelope, len, slot_len, KIND_MESSAGE)
    }

    #[inline(always)]
    fn claim_slot(
        &mut self,
        envelope: Envelope,
        len: usize,
        slot_len: usize,
        kind: u8,
    ) -> Result<Claim<'_, M>, Refused> {
        if !self.fits_slot(slot_len) {
            self.advance_page(slot_len).map_err(Refused::Blocked)?;
        }
        Ok(Claim::new(&self.page, &mut self.writing, &envelope, len, slot_len, kind))
    }

    /// Appends one message to the run. It is visible after [`publish`](ChainWriter::publish).
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written.
    #[inline(always)]
    pub fn append(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), Refused> {
        let claim = self.claim(envelope, payload.len())?;
        claim.write_all(payload);
        claim.commit();
        Ok(())
    }

    /// Appends one message and makes it visible at once, with all of the run before it.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written.
    #[inline(always)]
    pub fn send(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), Refused> {
        let claim = self.claim(envelope, payload.len())?;
        claim.write_all(payload);
        if claim.is_alone() {
            claim.publish();
        } else {
            claim.commit();
            self.publish();
        }
        Ok(())
    }

    /// Makes the run visible, all of it at once. Returns whether there was any.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let Some(pending) = self.writing.pending.take() else { return false };
        // pairs with CommitRead: the whole run was written before
        self.page_back(pending.turned).store(
            pending.at + SLOT_COMMIT,
            pending.commit,
            Site::CommitPublish,
        );
        true
    }

    /// Gives the run up, as if it had never been written.
    pub fn abort(&mut self) {
        let Some(pending) = self.writing.abort() else { return };
        for _ in 0..pending.turned {
            // Never named to anybody, so it is as free as before.
            if let Some(page) = self.chain.pop_back() {
                self.free.push_front(page);
            }
        }
        if let Some(page) = self.chain.back() {
            self.page = page.memory.clone();
        }
    }

    /// The handle of the page `turned` turns ago.
    #[inline]
    fn page_back(&self, turned: usize) -> &M {
        if turned == 0 { &self.page } else { &self.chain[self.chain.len() - 1 - turned].memory }
    }

    /// Goes on in another page with room for `slot_len` bytes.
    #[cold]
    fn advance_page(&mut self, slot_len: usize) -> Result<(), Blocked> {
        let mut page = self.take_free(slot_len)?;
        if page.used {
            // pairs with CopyFence: who finds anything of what follows, finds that it was struck
            page.memory.fence(Site::ReuseFence);
        }
        page.base = self.writing.base + self.page.region_len() as u64;
        let header = PageHeader {
            id: page.id,
            owner: self.owner,
            base: page.base,
            first: self.writing.next_message,
        };
        header.write(&page.memory);
        let slot = self.page.part(self.writing.at, SLOT_HEADER, Intent::Write);
        slot.write_words(SLOT_TAG, [halves(page.id, 0)]);
        self.writing.commit(&slot, commit_word(0, KIND_EOP, 0, 0));
        drop(slot);
        if let Some(pending) = &mut self.writing.pending {
            pending.turned += 1;
        }
        self.stats.rollovers += 1;
        self.stats.reuses += u64::from(page.used);
        page.used = true;
        self.page = page.memory.clone();
        self.writing.base = page.base;
        self.writing.at = PAGE_HEADER;
        self.chain.push_back(page);
        Ok(())
    }

    /// The position behind the last message that was appended.
    pub fn position(&self) -> u64 {
        self.writing.base + self.writing.at as u64
    }

    /// The position behind the last published message.
    pub fn tail(&self) -> u64 {
        self.writing.pending.map_or(self.position(), |pending| pending.base + pending.at as u64)
    }

    /// The bytes that a message takes in a page: what [`has_room`](ChainWriter::has_room) asks for.
    pub fn room_for(envelope: &Envelope, payload_len: usize) -> usize {
        // What overflows is refused by `claim` before anybody waits for it.
        slot_len(payload_len, envelope.origin.is_some()).unwrap_or(0)
    }

    /// Whether a message that takes `slot_len` bytes could be written now, perhaps into a new page.
    pub fn has_room(&mut self, slot_len: usize) -> bool {
        self.fits_slot(slot_len) || matches!(self.room(slot_len), Ok(_) | Err(Blocked::NeedPage(_)))
    }

    /// Whether every receiver has taken everything that was published: given it up, or lent it.
    pub fn is_consumed(&mut self) -> bool {
        let end = self.position();
        self.left_by_all();
        self.receivers.iter().all(|peer| peer.has_consumed(end))
    }

    /// Number of the next message.
    pub fn next_message(&self) -> u64 {
        self.writing.next_message
    }

    /// What the chain has done until now.
    pub fn stats(&self) -> Stats {
        let Writing { next_message: messages, payload_bytes, .. } = self.writing;
        Stats { messages, payload_bytes, ..self.stats }
    }
}

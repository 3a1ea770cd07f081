//! A chain's writing end.
//!
//! A writer fills a slot in this order:
//!
//! 1. It writes the tag word and the payload. The slot is beyond the tail, so no receiver reads it.
//! 2. It zeroes the commit word of the next slot, because a receiver that takes this message reads
//!    that word next. This may come before or after the payload.
//! 3. It stores the commit word. The first store of a *pending batch* is deferred to
//!    [`publish`](ChainWriter::publish), which stores it with `Release`. The others are relaxed. A
//!    single message is stored directly with `Release`. A pending batch is invisible until its
//!    first commit word is stored.
//!
//! Slots follow each other in the order in which they are sent, and become visible in that order
//! (P1). A sender that dies before step 3 leaves nothing visible (P4).
//!
//! The module `pool` explains where pages come from, which receivers read them, and when they may be
//! written again.

mod by_ref;
mod pool;
mod retire;

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
    /// Owner of the chain: a client's id, or 0 for a broker.
    owner: u32,
    limits: Limits,
    /// Pages in use, oldest first. The last one is being written, and `page` is a second handle to
    /// it.
    chain: VecDeque<Page<M>>,
    /// Free pages: new ones, and those that all receivers have left, the first left in front.
    free: VecDeque<Page<M>>,
    /// Pages of clients to which messages refer.
    foreign: Vec<ForeignPage<M>>,
    /// The page that is being written, `chain`'s last.
    page: M,
    writing: Writing,
    /// Sorted by id.
    receivers: Vec<Peer<M>>,
    /// The next page id. Only grows; ids are never reused.
    next_page: u32,
    /// Bytes in the pages of `chain` and `free`. At most the budget.
    pages_len: usize,
    /// While the pages have less than this many bytes, none is written again. At most the budget.
    reuse_distance: usize,
    /// Pages that begin before this position are never written again.
    retired: u64,
    /// Receivers removed for an invalid cursor. The owner takes them.
    faults: Vec<(u32, Fault)>,
    /// Whether there were any. They may not have consumed what was published.
    has_had_fault: bool,
    stats: Stats,
}

impl<M: Memory> ChainWriter<M> {
    /// Returns a new chain of the client `owner`. It begins in `first`, which becomes page 0.
    pub fn new(owner: u32, limits: Limits, first: M) -> Self {
        Self::continuing(owner, limits, first, 0)
    }

    /// Returns a new chain whose first message has the number `message`.
    fn continuing(owner: u32, limits: Limits, first: M, message: u64) -> Self {
        PageHeader { id: super::FIRST_PAGE, owner, base: 0, first: message }.write(&first);
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
            writing: Writing::new(message),
            receivers: Vec::new(),
            next_page: super::FIRST_PAGE + 1,
            pages_len: len,
            reuse_distance: 0,
            retired: 0,
            faults: Vec::new(),
            has_had_fault: false,
            stats: Stats { page_bytes, page_bytes_peak: page_bytes, ..Stats::default() },
        }
    }

    /// Returns whether a message fits into the page that is being written, which is the usual case.
    /// Calling this before a claim is optional.
    #[inline(always)]
    pub(crate) fn fits(&self, envelope: &Envelope, len: usize) -> bool {
        len <= self.limits.max_message_len()
            && slot_len(len, envelope.origin.is_some()).is_some_and(|len| self.fits_slot(len))
    }

    #[inline(always)]
    fn fits_slot(&self, slot_len: usize) -> bool {
        self.writing.at + slot_len + SLOT_HEADER <= self.page.region_len()
    }

    /// Claims room for a payload of `len` bytes, to be filled and committed.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then no message was written. The pending batch is unchanged except for a
    /// possible page rollover.
    #[inline(always)]
    pub fn claim(&mut self, envelope: Envelope, len: usize) -> Result<Claim<'_, M>, Refused> {
        let max = self.limits.max_message_len();
        let slot_len = slot_len(len, envelope.origin.is_some());
        let Some(slot_len) = slot_len.filter(|_| len <= max) else {
            // Checked before any write (P14).
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

    /// Appends one message to the pending batch. [`publish`](ChainWriter::publish) makes it
    /// visible.
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

    /// Appends one message and publishes it at once, together with the pending batch.
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

    /// Publishes the whole pending batch at once. Returns whether there was one.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let Some(pending) = self.writing.pending.take() else { return false };
        // pairs with CommitRead: the whole batch was written before
        self.page_back(pending.turned).store(
            pending.at + SLOT_COMMIT,
            pending.commit,
            Site::CommitPublish,
        );
        true
    }

    /// Discards the pending batch as if it had never been written.
    pub fn abort(&mut self) {
        let Some(pending) = self.writing.abort() else { return };
        for _ in 0..pending.turned {
            // No receiver has seen its name, so it is free as before.
            if let Some(page) = self.chain.pop_back() {
                self.free.push_front(page);
            }
        }
        if let Some(page) = self.chain.back() {
            self.page = page.memory.clone();
        }
    }

    /// Returns the page `turned` rollovers ago.
    #[inline]
    fn page_back(&self, turned: usize) -> &M {
        if turned == 0 { &self.page } else { &self.chain[self.chain.len() - 1 - turned].memory }
    }

    /// Advances to another page with room for `slot_len` bytes.
    #[cold]
    fn advance_page(&mut self, slot_len: usize) -> Result<(), Blocked> {
        let page = self.take_free(slot_len)?;
        if page.used {
            // pairs with CopyFence: a removed receiver that reads any of the following writes also
            // finds that it was removed
            page.memory.fence(Site::ReuseFence);
        }
        self.enter(page);
        Ok(())
    }

    /// Goes on in this page, which is not in use.
    fn enter(&mut self, mut page: Page<M>) {
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
    }

    /// Returns the position after the last appended message.
    pub fn position(&self) -> u64 {
        self.writing.base + self.writing.at as u64
    }

    /// Returns the position after the last published message.
    pub fn tail(&self) -> u64 {
        self.writing.pending.map_or(self.position(), |pending| pending.base + pending.at as u64)
    }

    /// Returns the bytes that a message takes in a page, as [`has_room`](ChainWriter::has_room)
    /// expects them.
    pub fn room_for(envelope: &Envelope, payload_len: usize) -> usize {
        // `claim` refuses a message that overflows before a sender waits for room.
        slot_len(payload_len, envelope.origin.is_some()).unwrap_or(0)
    }

    /// Returns whether a message that takes `slot_len` bytes could be written now, possibly into a
    /// new page.
    pub fn has_room(&mut self, slot_len: usize) -> bool {
        self.fits_slot(slot_len) || matches!(self.room(slot_len), Ok(_) | Err(Blocked::NeedPage(_)))
    }

    /// Returns whether every receiver has consumed everything that was published: its cursor or its
    /// consumed position has reached the end. A receiver with an invalid cursor never has.
    pub fn is_consumed(&mut self) -> bool {
        let end = self.position();
        self.left_by_all();
        !self.has_had_fault && self.receivers.iter().all(|peer| peer.has_consumed(end))
    }

    /// Returns the number of the next message.
    pub fn next_message(&self) -> u64 {
        self.writing.next_message
    }

    /// Returns the ids of the chain's own pages, in ascending order.
    pub fn own_pages(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.chain.iter().chain(&self.free).map(|page| page.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Returns whether a page belongs to another chain.
    pub fn is_foreign(&self, id: u32) -> bool {
        self.foreign.iter().any(|foreign| foreign.page.id == id)
    }

    /// Returns the chain's counters.
    pub fn stats(&self) -> Stats {
        let Writing { next_message: messages, payload_bytes, .. } = self.writing;
        Stats { messages, payload_bytes, ..self.stats }
    }
}

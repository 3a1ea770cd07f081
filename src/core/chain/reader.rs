//! A chain's reading end.
//!
//! A reader has one position: the slot whose commit word it reads next. Zero means that the slot is
//! empty. Any other value begins a raw header ([`message`]), which the reader
//! validates before use. Every call does a bounded amount of work, whatever the page contains: one
//! message or one end-of-page message is one step.
//!
//! The reader releases what it has read by one store of its cursor. The store leaves the old page
//! and holds the new one. The reader is the cursor's single writer, and its owner decides when to
//! store it. The writer reuses whole pages only, so once per page and before sleeping is enough. A
//! message by reference is different: it is small and holds a large part of another client's page.
//! So a store is due once the reader has passed `REF_BYTES_BEFORE_RELEASE` bytes of such payload.

use super::page::PageHeader;
use super::terms::Start;
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::limits::Limits;
use crate::core::memory::{Intent, Memory, Part};
use crate::core::message::{self, Envelope, Header, RawHeader, RefMessage, Slot};
use crate::core::order::Site;
use crate::core::origin::Origin;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of referenced payload after which the reader must store its cursor, unless
/// [`set_release_after`](ChainReader::set_release_after) changes it.
const REF_BYTES_BEFORE_RELEASE: usize = 64 * 1024;

/// The reading end of a chain.
///
/// The fields that an empty poll touches come first, because a broker polls hundreds of chains in a
/// cycle.
#[derive(Debug)]
#[repr(C)]
pub struct ChainReader<M> {
    /// Offset in `page` of the next slot, in bytes.
    at: usize,
    /// The page that is being read, one of `pages`.
    page: M,
    limits: Limits,
    /// Owner of the chain: a client's id, or 0 for a broker.
    owner: u32,
    /// All pages that the sender has sent and not taken back, by id.
    pages: Vec<(u32, M)>,
    /// The sender's id of `page`.
    id: u32,
    /// Position of the first byte of `page`.
    base: u64,
    /// Number of the next message in the chain.
    next_message: u64,
    /// Cached page of the last message by reference, with its id.
    ref_page: Option<(u32, M)>,
    /// Bytes of referenced payload passed since the last cursor store.
    foreign: usize,
    /// Bytes of referenced payload after which a cursor store is due.
    release_after: usize,
    /// The origin of the message that [`poll`](ChainReader::poll) has just returned, if it is
    /// extended.
    origin: Option<Origin>,
    /// Our own control region, and the index of this chain's cursor there.
    control: Control<M>,
    slot: usize,
    /// Last stored cursor; zero before the first store. Never stale, as the reader is its single
    /// writer.
    cursor: u64,
    /// Last stored consumed position; zero before the first store. May be below the cursor.
    consumed: u64,
    /// The entry in which the sender stores whether it waits for this reader. `None` if the sender
    /// has no such entry.
    place: Option<Membership<M>>,
}

/// A client's entry in the control region of a broker.
#[derive(Clone, Debug)]
pub(crate) struct Membership<M> {
    control: Control<M>,
    slot: usize,
    client: u32,
}

/// What a sender does about a client that reads its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It waits for the client.
    Member,
    /// It does not wait, until the client asks to receive again.
    Skipped,
    /// It has ended the connection.
    Removed,
}

impl<M: Memory> Membership<M> {
    /// Returns what the sender does about this client. All that was read before is whole if the
    /// client is a member.
    pub(crate) fn standing(&self) -> Standing {
        // pairs with ReuseFence
        self.control.memory().fence(Site::CopyFence);
        match self.control.member(self.slot) {
            word if word == u64::from(self.client) => Standing::Member,
            word if low(word) == self.client => Standing::Skipped,
            _ => Standing::Removed,
        }
    }

    /// Returns whether the broker waits for this client.
    #[inline(always)]
    fn is_member(&self) -> bool {
        self.control.member(self.slot) == u64::from(self.client)
    }

    /// Returns whether everything that was read until now is whole.
    #[inline(always)]
    pub(crate) fn is_whole(&self) -> bool {
        // pairs with ReuseFence
        self.control.memory().fence(Site::CopyFence);
        self.is_member()
    }
}

/// The result of one step of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// No message yet.
    Empty,
    /// A message. It stays until [`ChainReader::advance`] passes it.
    Message(Slot),
    /// The page ended, and the reader has entered the next one. The sender may reuse the old page
    /// after the next [`release`](ChainReader::release).
    PageAdvanced,
    /// An end-of-page message or a message by reference names a page that has not arrived. The
    /// sender sends a page before it names it. So [add](ChainReader::add_page) all pages that have
    /// arrived and poll again. If the page is still missing, the sender is at fault:
    /// [`ChainReader::unknown_page`].
    Unknown(u32),
}

/// What a reader sees at its position without a step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peek {
    Nothing,
    /// A message with its payload in the slot and without an extension.
    Message(Slot),
    /// Any other message, an end-of-page message, or a fault.
    Other(RawHeader),
}

impl<M: Memory> ChainReader<M> {
    /// Returns a reader of the chain of `owner` (a client's id, or 0 for a broker) that begins at
    /// `start`. The page of `start` is among `pages`. The reader stores its cursor at index `slot`
    /// of `control`, our own region.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the page or the position is invalid.
    pub fn new(
        limits: Limits,
        owner: u32,
        pages: Vec<(u32, M)>,
        start: Start,
        control: Control<M>,
        slot: usize,
    ) -> Result<Self, Fault> {
        let unknown = Fault::UnknownPage { page: start.page, at: 0, next: start.page };
        let found = pages.iter().find(|(id, _)| *id == start.page);
        let page = found.ok_or(unknown)?.1.clone();
        let header = PageHeader::read(&page, start.page, owner)?;
        let fault = Fault::Start { page: start.page, position: start.position };
        let at = start.position.checked_sub(header.base);
        let at = at.and_then(|at| usize::try_from(at).ok()).ok_or(fault.clone())?;
        let last = page.region_len().saturating_sub(SLOT_HEADER);
        if !(PAGE_HEADER..=last).contains(&at) || !at.is_multiple_of(SLOT_ALIGN) {
            return Err(fault);
        }
        // The first slot of a page holds the page's first message.
        if at == PAGE_HEADER && header.first != start.message {
            let (found, expected) = (header.first, start.message);
            return Err(Fault::PageFirst { page: start.page, found, expected });
        }
        // Rules out a later overflow: positions grow by less than a page at a time.
        if start.position > u64::MAX / 2 || start.message > u64::MAX / 2 {
            return Err(fault);
        }
        Ok(ChainReader {
            limits,
            owner,
            pages,
            page,
            id: start.page,
            base: header.base,
            at,
            next_message: start.message,
            ref_page: None,
            foreign: 0,
            release_after: REF_BYTES_BEFORE_RELEASE,
            origin: None,
            control,
            slot,
            cursor: 0,
            consumed: 0,
            place: None,
        })
    }

    /// Returns a reader of a chain from its beginning.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the page can't be a chain's first.
    pub fn from_beginning(
        limits: Limits,
        owner: u32,
        first: M,
        control: Control<M>,
        slot: usize,
    ) -> Result<Self, Fault> {
        let page = super::FIRST_PAGE;
        let start = Start { page, position: PAGE_HEADER as u64, message: 0 };
        Self::new(limits, owner, vec![(page, first)], start, control, slot)
    }

    /// Returns a reader of a chain from its beginning, whose first message may have any number.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the page can't be a chain's first.
    pub fn continuing(
        limits: Limits,
        owner: u32,
        first: M,
        control: Control<M>,
        slot: usize,
    ) -> Result<Self, Fault> {
        let page = super::FIRST_PAGE;
        let message = PageHeader::read(&first, page, owner)?.first;
        let start = Start { page, position: PAGE_HEADER as u64, message };
        Self::new(limits, owner, vec![(page, first)], start, control, slot)
    }

    /// Returns the reader of a client that has the entry `slot` in the sender's control region.
    #[must_use]
    pub fn in_place(self, control: Control<M>, slot: usize, client: u32) -> Self {
        ChainReader { place: Some(Membership { control, slot, client }), ..self }
    }

    /// Returns whether the sender still waits for this reader. Call it after a message was found.
    /// While it waits, it keeps the message in place until our cursor has passed it. A message that
    /// is published after the membership has ended is detected, because its commit word is stored
    /// after the member word.
    #[inline(always)]
    pub fn is_member(&self) -> bool {
        self.place.as_ref().is_none_or(Membership::is_member)
    }

    /// Returns this reader's entry in its sender's control region, if it has one.
    pub(crate) fn membership(&self) -> Option<&Membership<M>> {
        self.place.as_ref()
    }

    /// Returns whether a payload that was just copied is whole. The sender writes a page again once
    /// all receivers that it waits for have left it, and it may no longer wait for this one.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.place.as_ref().is_none_or(Membership::is_whole)
    }

    /// Takes one step.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the header is invalid. The reader stays at its position.
    #[inline(always)]
    pub fn poll(&mut self) -> Result<Event, Fault> {
        match self.peek() {
            Peek::Nothing => Ok(Event::Empty),
            Peek::Message(slot) => Ok(Event::Message(slot)),
            Peek::Other(raw) => self.poll_other(raw),
        }
    }

    /// Validates the header again, so that the large `Fault` is not returned on the fast path.
    #[inline(never)]
    fn poll_other(&mut self, raw: RawHeader) -> Result<Event, Fault> {
        if let Some(slot) = self.peek_ref(raw) {
            return Ok(Event::Message(slot));
        }
        let header = raw.validate(self.place())?;
        if let Header::Message(slot) | Header::Ref(slot) = header
            && slot.is_extended()
        {
            let words = self.page.read_words(slot.at + SLOT_HEADER);
            self.origin = Some(Origin::raw(words, self.id, self.at)?);
        }
        match header {
            Header::Message(slot) => Ok(Event::Message(slot)),
            Header::Ref(slot) => self.resolve(slot),
            Header::EndOfPage { next } => self.follow(next),
        }
    }

    /// Returns what is at the position, without a step. Covers the two frequent answers and leaves
    /// all slower ones to [`poll`](ChainReader::poll).
    #[inline(always)]
    pub(crate) fn peek(&self) -> Peek {
        // pairs with CommitPublish
        let slot = self.page.part(self.at, SLOT_HEADER, Intent::Read);
        let commit = slot.load(SLOT_COMMIT, Site::CommitRead);
        if commit == 0 {
            return Peek::Nothing;
        }
        let [tag] = slot.read_words(SLOT_TAG);
        let raw = RawHeader { commit, tag };
        if !raw.is_plain() {
            return Peek::Other(raw);
        }
        match raw.validate(self.place()) {
            Ok(Header::Message(slot)) => Peek::Message(slot),
            _ => Peek::Other(raw),
        }
    }

    /// Fast path: a message by reference without an extension whose payload page is already cached,
    /// with no release due before it.
    pub(crate) fn peek_ref(&self, raw: RawHeader) -> Option<Slot> {
        let (id, page) = self.ref_page.as_ref().filter(|_| !self.must_release())?;
        let Ok(Header::Ref(slot)) = raw.validate(self.place()) else { return None };
        if slot.is_extended() {
            return None;
        }
        let reference = self.reference(&slot).ok().filter(|reference| reference.page == *id)?;
        slot.resolve(reference, page.region_len()).ok()
    }

    /// Reads a message's reference. Each use reads it once.
    #[inline(always)]
    fn reference(&self, slot: &Slot) -> Result<RefMessage, Fault> {
        RefMessage::raw(self.page.read_words(slot.payload_at), self.id, self.at)
    }

    /// Prefetches the second cache line of the next message. It arrives while the reader checks the
    /// commit word.
    #[inline(always)]
    pub(crate) fn expect(&self) {
        self.page.prefetch(self.at + LINE);
    }

    #[inline(always)]
    fn place(&self) -> message::SlotContext {
        message::SlotContext {
            page: self.id,
            page_len: self.page.region_len(),
            at: self.at,
            max_message_len: self.limits.max_message_len(),
            allows_refs: self.owner == super::BROKER,
        }
    }

    /// Finds the page that holds the payload of a message by reference.
    fn resolve(&mut self, slot: Slot) -> Result<Event, Fault> {
        let reference = self.reference(&slot)?;
        if self.ref_page.as_ref().is_none_or(|(id, _)| *id != reference.page) {
            let found = self.pages.iter().find(|(id, _)| *id == reference.page);
            let Some(page) = found else { return Ok(Event::Unknown(reference.page)) };
            self.ref_page = Some(page.clone());
        }
        let len = self.ref_page.as_ref().map_or(0, |(_, page)| page.region_len());
        slot.resolve(reference, len).map(Event::Message)
    }

    /// Enters page `next`.
    #[cold]
    fn follow(&mut self, next: u32) -> Result<Event, Fault> {
        let Some((_, page)) = self.pages.iter().find(|(id, _)| *id == next) else {
            return Ok(Event::Unknown(next));
        };
        let header = PageHeader::read(page, next, self.owner)?;
        let expected = self.base + self.page.region_len() as u64;
        // No correct sender reaches the last position.
        let is_beyond = expected.checked_add(page.region_len() as u64).is_none();
        if header.base != expected || is_beyond {
            return Err(Fault::PageBase { page: next, found: header.base, expected });
        }
        if header.first != self.next_message {
            let expected = self.next_message;
            return Err(Fault::PageFirst { page: next, found: header.first, expected });
        }
        self.page = page.clone();
        self.id = next;
        self.base = header.base;
        self.at = PAGE_HEADER;
        Ok(Event::PageAdvanced)
    }

    /// Returns whether there is a message or an end-of-page message to read.
    pub fn has_message(&self) -> bool {
        self.page.load(self.at + SLOT_COMMIT, Site::CommitRead) != 0
    }

    /// Returns the envelope of a message, with its origin. `slot` is the message that
    /// [`poll`](ChainReader::poll) has just returned.
    #[inline(always)]
    pub fn envelope(&self, slot: &Slot) -> Envelope {
        let mut envelope = slot.envelope();
        if slot.is_extended() {
            envelope.origin = self.origin;
        }
        envelope
    }

    /// Returns the origin of a message. `slot` is the message that [`poll`](ChainReader::poll) has
    /// just returned.
    #[inline(always)]
    pub(crate) fn origin(&self, slot: &Slot) -> Option<&Origin> {
        self.origin.as_ref().filter(|_| slot.is_extended())
    }

    /// Copies a message's payload out. `into` has at least [`Slot::payload_len`] bytes.
    #[inline(always)]
    pub fn read(&self, slot: &Slot, into: &mut [u8]) {
        let (page, at) = self.payload(slot);
        page.read_bytes(at, &mut into[..slot.payload_len()]);
    }

    /// Returns the region and the offset of a message's payload. `slot` is the message that
    /// [`poll`](ChainReader::poll) has just returned.
    #[inline(always)]
    pub fn payload(&self, slot: &Slot) -> (&M, usize) {
        match &self.ref_page {
            Some((_, page)) if slot.is_ref() => (page, slot.payload_at),
            _ => (&self.page, slot.payload_at),
        }
    }

    /// Moves past the message that [`poll`](ChainReader::poll) has just returned.
    #[inline(always)]
    pub fn advance(&mut self, slot: &Slot) {
        debug_assert_eq!(slot.at, self.at, "a slot is passed once, and in order");
        self.at = slot.end;
        self.next_message += 1;
        if slot.is_ref() {
            self.foreign += slot.payload_len();
        }
    }

    /// Sets the bytes of referenced payload after which a cursor store is due. Without it, 64 KiB.
    pub fn set_release_after(&mut self, bytes: usize) {
        self.release_after = bytes;
    }

    /// Returns whether the cursor must be stored now, because much referenced payload was passed.
    #[inline]
    pub fn must_release(&self) -> bool {
        self.foreign >= self.release_after
    }

    /// Stores the cursor if it has moved. Returns whether it has: then the sender may be waiting
    /// for it and must be rung.
    #[inline]
    pub fn release(&mut self) -> bool {
        self.foreign = 0;
        self.store_cursor(self.position())
    }

    /// Like [`release`](ChainReader::release), but keeps the cursor at `position` while later
    /// messages are still referenced. Publishes the consumed position separately.
    pub fn release_to(&mut self, position: u64) -> bool {
        let moved = self.store_cursor(position);
        let consumed = self.position();
        let has_consumed = consumed != position && consumed != self.consumed;
        if has_consumed {
            // pairs with ConsumedRead
            self.control.publish_consumed(self.slot, consumed);
            self.consumed = consumed;
        }
        moved || has_consumed
    }

    #[inline]
    fn store_cursor(&mut self, position: u64) -> bool {
        let moved = position != self.cursor;
        if moved {
            // pairs with CursorRead
            self.control.publish_cursor(self.slot, position);
            self.cursor = position;
        }
        moved
    }

    /// Adds a page that the sender has sent.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if it was sent before or exceeds the chain's budget.
    pub fn add_page(&mut self, id: u32, memory: M) -> Result<(), Fault> {
        let budget = self.budget();
        admit_page(&mut self.pages, id, memory, budget)
    }

    /// Returns the most bytes that the sender's pages may have together.
    pub(crate) fn budget(&self) -> usize {
        match self.owner {
            super::BROKER => self.limits.broadcast_receiver_budget(),
            _ => self.limits.receiver_budget(),
        }
    }

    /// Drops a page that the sender will not name again.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if it is being read or was never sent.
    pub fn forget_page(&mut self, id: u32) -> Result<(), Fault> {
        if id == self.id {
            return Err(Fault::PageInUse { page: id });
        }
        let known = self.pages.iter().position(|(known, _)| *known == id);
        let known = known.ok_or(Fault::UnknownPage { page: self.id, at: self.at, next: id })?;
        self.pages.swap_remove(known);
        self.ref_page.take_if(|(known, _)| *known == id);
        Ok(())
    }

    /// Stops reading after this client was skipped: drops all pages but the current one, and stores
    /// zero in the cursor. Nothing may be read until [`restart`](ChainReader::restart).
    pub fn leave(&mut self) {
        self.pages.clear();
        self.ref_page = None;
        // The reader has no position, so that a release leaves its cursor at zero.
        (self.base, self.at) = (0, 0);
        self.release();
    }

    /// Continues at `start`, in pages that were sent since the reader has
    /// [left](ChainReader::leave). Returns the number of messages in between.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the page or the position is invalid, or if the message was received before.
    /// Then nothing has changed.
    pub fn restart(&mut self, pages: Vec<(u32, M)>, start: Start) -> Result<u64, Fault> {
        let fault = Fault::Start { page: start.page, position: start.position };
        let missed = start.message.checked_sub(self.next_message).ok_or(fault)?;
        let control = self.control.clone();
        let reader = Self::new(self.limits, self.owner, pages, start, control, self.slot)?;
        *self = ChainReader { place: self.place.take(), ..reader };
        Ok(missed)
    }

    /// Returns the fault of a sender whose page `next` never arrived.
    pub fn unknown_page(&self, next: u32) -> Fault {
        Fault::UnknownPage { page: self.id, at: self.at, next }
    }

    /// Returns the bytes of shared memory in the pages that the sender has sent.
    pub fn pages_len(&self) -> usize {
        pages_len(&self.pages)
    }

    /// Returns the position of the next message.
    pub fn position(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Returns the sender's id of the page in which the next message is or will be.
    pub fn page_id(&self) -> u32 {
        self.id
    }

    /// Returns a page that the sender has sent.
    pub fn page(&self, id: u32) -> Option<&M> {
        self.pages.iter().find(|(known, _)| *known == id).map(|(_, page)| page)
    }

    /// Returns the number of the next message.
    pub fn next_message(&self) -> u64 {
        self.next_message
    }
}

/// Adds a page to the pages of a chain, which together have at most `budget` bytes.
///
/// # Errors
///
/// A [`Fault`] if it was sent before or exceeds the budget.
pub(crate) fn admit_page<M: Memory>(
    pages: &mut Vec<(u32, M)>,
    id: u32,
    memory: M,
    budget: usize,
) -> Result<(), Fault> {
    if pages.iter().any(|(known, _)| *known == id) {
        return Err(Fault::PageTwice { page: id });
    }
    let found = pages_len(pages) + memory.region_len();
    if found > budget {
        return Err(Fault::OverBudget { found, budget });
    }
    pages.push((id, memory));
    Ok(())
}

fn pages_len<M: Memory>(pages: &[(u32, M)]) -> usize {
    pages.iter().map(|(_, page)| page.region_len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::chain::ChainWriter;
    use crate::core::layout::{KIND_EOP, VERSION, commit_word, control_len, halves};
    use crate::core::memory::Region;

    #[test]
    fn a_page_beyond_the_last_position_is_a_fault() {
        let limits = Limits::new(256, 64, 4096).unwrap();
        let pages = [Region::heap(256), Region::heap(256)];
        let header = |base| PageHeader { id: 0, owner: 0, base, first: 0 };
        header(0).write(&pages[0]);
        let control = Control::create(Region::heap(control_len(1)), 1);
        let mut receiver =
            ChainReader::from_beginning(limits, 0, pages[0].clone(), control, 0).unwrap();
        receiver.add_page(1, pages[1].clone()).unwrap();
        receiver.base = u64::MAX - 511;
        pages[0].write_words(PAGE_HEADER, [commit_word(0, KIND_EOP, 0, 0), 1]);
        let version = halves(VERSION, PAGE_HEADER as u32);
        pages[1].write_words(0, [PAGE_MAGIC, version, 256, 1, u64::MAX - 255, 0]);
        assert!(matches!(receiver.poll(), Err(Fault::PageBase { page: 1, .. })));
    }

    #[test]
    fn pages_are_taken_up_to_the_budget_and_not_beyond() {
        let limits = Limits::new(256, 64, 512).unwrap();
        let first = Region::heap(256);
        PageHeader { id: 0, owner: 1, base: 0, first: 0 }.write(&first);
        let control = Control::create(Region::heap(control_len(1)), 1);
        let mut receiver = ChainReader::from_beginning(limits, 1, first, control, 0).unwrap();
        // One page above the budget, because it may arrive before another one is taken back.
        for id in 1..3 {
            receiver.add_page(id, Region::heap(256)).unwrap();
        }
        assert_eq!(receiver.pages_len(), limits.receiver_budget());
        let fault = Fault::OverBudget { found: 1024, budget: 768 };
        assert_eq!(receiver.add_page(3, Region::heap(256)), Err(fault));
    }

    /// Returns whether the next message, one by reference, takes the fast path. Passes it.
    fn takes_fast_path(receiver: &mut ChainReader<Region>) -> bool {
        let Peek::Other(raw) = receiver.peek() else { panic!("no message by reference") };
        let is_fast = receiver.peek_ref(raw).is_some();
        let Ok(Event::Message(slot)) = receiver.poll() else { panic!("no message") };
        assert!(slot.is_ref());
        receiver.advance(&slot);
        is_fast
    }

    #[test]
    fn messages_by_reference_take_the_fast_path_within_one_page() {
        const LEN: usize = REF_BYTES_BEFORE_RELEASE / 4;
        let limits = Limits::new(4096, 2 * LEN, 16 * LEN).unwrap();
        let first = Region::heap(4096);
        let mut sender = ChainWriter::new(0, limits, first.clone());
        let control = Control::create(Region::heap(control_len(1)), 1);
        let mut receiver = ChainReader::from_beginning(limits, 0, first, control, 0).unwrap();
        let pages = [(); 2].map(|()| Region::heap(2 * LEN));
        let [one, other] = pages.clone().map(|page| sender.add_foreign_page(page).unwrap());
        receiver.add_page(one, pages[0].clone()).unwrap();
        receiver.add_page(other, pages[1].clone()).unwrap();
        for page in [one, one, one, one, one, one, other, other] {
            sender.send_ref(Envelope::default(), LEN, page, PAGE_HEADER).unwrap();
        }
        sender.publish();
        let fast = [(); 5].map(|()| takes_fast_path(&mut receiver));
        assert_eq!(fast, [false, true, true, true, false], "first use, then a release is due");
        receiver.release();
        let fast = [(); 3].map(|()| takes_fast_path(&mut receiver));
        assert_eq!(fast, [true, false, true], "first use of the other page");
    }
}

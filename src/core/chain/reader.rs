//! A chain's reading end.
//!
//! A receiver is always at one place: the slot whose commit word it looks at next. Zero means
//! that nothing is there yet; anything else is an allegation ([`message`](crate::core::message)), which
//! is checked before it is used. Every call does a bounded amount of work, whatever the page
//! says: a message or an end-of-page is one step.
//!
//! What has been read is given up by one store of the cursor, which both leaves the old page and
//! holds the new one. When to do that is the owner's choice; since nothing smaller than a page is
//! ever given back, after each page and before sleeping is enough. But a lent message is small, and
//! holds a large part of somebody else's page: so much of that is passed and no more before the
//! cursor is stored.

use super::page::PageHeader;
use super::terms::Start;
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::limits::Limits;
use crate::core::memory::{Intent, Memory, Part};
use crate::core::message::{self, Envelope, Header, Origin, RawHeader, RefMessage, Slot};
use crate::core::order::Site;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of lent payload that are passed before the cursor is stored.
const REF_BYTES_BEFORE_RELEASE: usize = 64 * 1024;

/// The reading end of a chain.
///
/// What an empty look touches comes first: a broker looks at hundreds of chains in a turn.
#[derive(Debug)]
#[repr(C)]
pub struct ChainReader<M> {
    /// Offset in `page` of the next slot.
    at: usize,
    page: M,
    limits: Limits,
    /// Whose chain it is: a client's id, or 0 for a broker's.
    owner: u32,
    /// Every page of the pool that the sender has sent us.
    pages: Vec<(u32, M)>,
    id: u32,
    /// Position of the first byte of `page`.
    base: u64,
    next_message: u64,
    /// The page of the last lent message.
    lender: Option<(u32, M)>,
    /// Bytes of lent payload that were passed since the cursor was stored.
    foreign: usize,
    control: Control<M>,
    slot: usize,
    /// The cursor as we stored it last.
    cursor: u64,
    /// The taken word as we stored it last; zero while the cursor says as much.
    consumed: u64,
    /// Where the sender says whether it waits for us.
    place: Option<Place<M>>,
}

/// A client's place in the control region of a broker.
#[derive(Debug)]
struct Place<M> {
    control: Control<M>,
    slot: usize,
    client: u32,
}

/// What a receiver finds at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing yet.
    Empty,
    /// A message. It stays until [`ChainReader::advance`] has passed it.
    Message(Slot),
    /// The page had ended, and the receiver has gone on to the next. The sender gets the old one
    /// back when the receiver [gives it up](ChainReader::release).
    PageAdvanced,
    /// The page has ended, or a message was lent, and the page that is named has not arrived. It
    /// was sent before this could be seen, so what has arrived must be
    /// [added](ChainReader::add_page) first; if it is not there either, the peer lies:
    /// [`ChainReader::unknown_page`].
    Unknown(u32),
}

/// What a receiver sees at its place at a peek.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peek {
    Nothing,
    /// A message with nothing but a payload, and that in the page itself.
    Message(Slot),
    /// Any other message, the end of a page, or a fault.
    Other(RawHeader),
}

impl<M: Memory> ChainReader<M> {
    /// A receiver of the chain of `owner` (a client's id, or 0 for a broker's) that begins at
    /// `start`, whose page is among `pages`, and that gives up what it
    /// has read in cursor `slot` of `control`, a region of our own.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the page or the position can't be.
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
        // In front of a page's first message there is no other.
        if at == PAGE_HEADER && header.first != start.message {
            let (found, expected) = (header.first, start.message);
            return Err(Fault::PageFirst { page: start.page, found, expected });
        }
        // Nothing may overflow later: positions grow by less than a page at a time.
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
            lender: None,
            foreign: 0,
            control,
            slot,
            cursor: 0,
            consumed: 0,
            place: None,
        })
    }

    /// A receiver of a chain from its beginning.
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

    /// The same receiver, as a client that has the place `slot` in the sender's control region.
    #[must_use]
    pub fn in_place(self, control: Control<M>, slot: usize, client: u32) -> Self {
        ChainReader { place: Some(Place { control, slot, client }), ..self }
    }

    /// After a message was found: whether the sender waits for us, so that it keeps the message in
    /// place for as long as our cursor holds it. A message that is published later than that ends is
    /// found to be: its commit word comes behind the member word.
    #[inline(always)]
    pub fn is_member(&self) -> bool {
        let Some(place) = &self.place else { return true };
        place.control.member(place.slot) == u64::from(place.client)
    }

    /// Whether this end has a place in its sender's control region.
    pub(crate) fn has_place(&self) -> bool {
        self.place.is_some()
    }

    /// After a payload was copied: whether the copy is whole. The sender writes a page again only
    /// when all have left it for whom it waits; it may wait for us no more.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        if self.place.is_none() {
            return true;
        }
        // pairs with ReuseFence
        self.page.fence(Site::CopyFence);
        self.is_member()
    }

    /// Takes one step.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if what is there can't be. The receiver stays where it is.
    #[inline(always)]
    pub fn poll(&mut self) -> Result<Event, Fault> {
        match self.peek() {
            Peek::Nothing => Ok(Event::Empty),
            Peek::Message(slot) => Ok(Event::Message(slot)),
            Peek::Other(raw) => self.poll_other(raw),
        }
    }

    /// Checked once more, so that the fault, which is large, is not handed up each time.
    #[inline(never)]
    fn poll_other(&mut self, raw: RawHeader) -> Result<Event, Fault> {
        if let Some(slot) = self.peek_ref(raw) {
            return Ok(Event::Message(slot));
        }
        match raw.validate(self.place())? {
            Header::Message(slot) => Ok(Event::Message(slot)),
            Header::Ref(slot) => self.resolve(slot),
            Header::EndOfPage { next } => self.follow(next),
        }
    }

    /// What stands at its place, without a step: the two answers that come all the time, apart
    /// from all that takes longer.
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

    /// What is no plain message, if it is lent of the same page as the last one and nothing has to be
    /// done before it is taken.
    pub(crate) fn peek_ref(&self, raw: RawHeader) -> Option<Slot> {
        let (id, page) = self.lender.as_ref().filter(|_| !self.must_release())?;
        let Ok(Header::Ref(slot)) = raw.validate(self.place()) else { return None };
        let reference = self.reference(&slot).ok().filter(|reference| reference.page == *id)?;
        slot.resolve(reference, page.region_len()).ok()
    }

    /// Where a lent message says that its payload lies. What that says is read once for each use.
    #[inline(always)]
    fn reference(&self, slot: &Slot) -> Result<RefMessage, Fault> {
        RefMessage::raw(self.page.read_words(slot.payload_at), self.id, self.at)
    }

    /// Has the line fetched in which the rest of a short message will lie, while its commit word is
    /// looked at: when that shows the message, the rest is there or on its way.
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
            lends: self.owner == super::BROKER,
        }
    }

    /// Finds the page in which a lent message's payload lies.
    fn resolve(&mut self, slot: Slot) -> Result<Event, Fault> {
        let reference = self.reference(&slot)?;
        if self.lender.as_ref().is_none_or(|(id, _)| *id != reference.page) {
            let found = self.pages.iter().find(|(id, _)| *id == reference.page);
            let Some(page) = found else { return Ok(Event::Unknown(reference.page)) };
            self.lender = Some(page.clone());
        }
        let len = self.lender.as_ref().map_or(0, |(_, page)| page.region_len());
        slot.resolve(reference, len).map(Event::Message)
    }

    /// Goes on in page `next`.
    #[cold]
    fn follow(&mut self, next: u32) -> Result<Event, Fault> {
        let Some((_, page)) = self.pages.iter().find(|(id, _)| *id == next) else {
            return Ok(Event::Unknown(next));
        };
        let header = PageHeader::read(page, next, self.owner)?;
        let expected = self.base + self.page.region_len() as u64;
        // The end of all positions is out of an honest sender's reach.
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

    /// Whether there is something to take.
    pub fn has_message(&self) -> bool {
        self.page.load(self.at + SLOT_COMMIT, Site::CommitRead) != 0
    }

    /// The whole envelope of a message, with its origin.
    #[inline(always)]
    pub fn envelope(&self, slot: &Slot) -> Envelope {
        let mut envelope = slot.envelope();
        if slot.is_extended() {
            let [broker, id] = self.page.read_words(slot.at + SLOT_HEADER);
            envelope.origin = Some(Origin { broker, id });
        }
        envelope
    }

    /// Copies a message's payload out. `into` has [`Slot::payload_len`] bytes.
    #[inline(always)]
    pub fn read(&self, slot: &Slot, into: &mut [u8]) {
        let (page, at) = self.payload(slot);
        page.read_bytes(at, &mut into[..slot.payload_len()]);
    }

    /// The region and the offset at which a message's payload begins. The message is the one that
    /// [`poll`](ChainReader::poll) has just returned.
    #[inline(always)]
    pub fn payload(&self, slot: &Slot) -> (&M, usize) {
        match &self.lender {
            Some((_, page)) if slot.is_ref() => (page, slot.payload_at),
            _ => (&self.page, slot.payload_at),
        }
    }

    /// Goes on behind a message that [`poll`](ChainReader::poll) has just returned.
    #[inline(always)]
    pub fn advance(&mut self, slot: &Slot) {
        debug_assert_eq!(slot.at, self.at, "a slot is passed once, and in order");
        self.at = slot.end;
        self.next_message += 1;
        if slot.is_ref() {
            self.foreign += slot.payload_len();
        }
    }

    /// Whether so much lent payload was passed that it has to be given up before anything else.
    #[inline]
    pub fn must_release(&self) -> bool {
        self.foreign >= REF_BYTES_BEFORE_RELEASE
    }

    /// Stores the cursor if it has moved. Returns whether it had: then the sender may be waiting
    /// for it and has to be rung.
    #[inline]
    pub fn release(&mut self) -> bool {
        self.foreign = 0;
        self.store_cursor(self.position())
    }

    /// The same, of a receiver that still lends what comes behind `position`; and says that it has
    /// taken it.
    pub fn release_to(&mut self, position: u64) -> bool {
        let moved = self.store_cursor(position);
        let taken = self.position();
        let takes = taken != position && taken != self.consumed;
        if takes {
            // pairs with ConsumedRead
            self.control.publish_consumed(self.slot, taken);
            self.consumed = taken;
        }
        moved || takes
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

    /// Takes a page that the sender has sent.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if it was sent before or is more than the chain may have.
    pub fn add_page(&mut self, id: u32, memory: M) -> Result<(), Fault> {
        if self.pages.iter().any(|(known, _)| *known == id) {
            return Err(Fault::PageTwice { page: id });
        }
        let found = self.pages_len() + memory.region_len();
        let budget = match self.owner {
            super::BROKER => self.limits.broadcast_receiver_budget(),
            _ => self.limits.receiver_budget(),
        };
        if found > budget {
            return Err(Fault::OverBudget { found, budget });
        }
        self.pages.push((id, memory));
        Ok(())
    }

    /// Lets go of a page that the sender will not name again.
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
        self.lender.take_if(|(lender, _)| *lender == id);
        Ok(())
    }

    /// The fault of a sender whose page `next` never arrived.
    pub fn unknown_page(&self, next: u32) -> Fault {
        Fault::UnknownPage { page: self.id, at: self.at, next }
    }

    /// Bytes of shared memory in the pages that the sender has sent.
    pub fn pages_len(&self) -> usize {
        self.pages.iter().map(|(_, page)| page.region_len()).sum()
    }

    /// The position of the next message.
    pub fn position(&self) -> u64 {
        self.base + self.at as u64
    }

    /// The page in which the next message is or will be, as the sender calls it.
    pub fn page_id(&self) -> u32 {
        self.id
    }

    /// A page that the sender has sent.
    pub fn page(&self, id: u32) -> Option<&M> {
        self.pages.iter().find(|(known, _)| *known == id).map(|(_, page)| page)
    }

    /// The number of the next message.
    pub fn next_message(&self) -> u64 {
        self.next_message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::chain::ChainWriter;
    use crate::core::layout::{KIND_EOP, VERSION, commit_word, control_len, halves};
    use crate::core::memory::Region;

    #[test]
    fn a_page_that_reaches_beyond_the_last_position_is_a_fault() {
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
        // One page more than the budget: it may be sent before another one is taken back.
        for id in 1..3 {
            receiver.add_page(id, Region::heap(256)).unwrap();
        }
        assert_eq!(receiver.pages_len(), limits.receiver_budget());
        let fault = Fault::OverBudget { found: 1024, budget: 768 };
        assert_eq!(receiver.add_page(3, Region::heap(256)), Err(fault));
    }

    /// Whether a lent message at its place can be taken at a peek. It is passed.
    fn takes_at_a_glance(receiver: &mut ChainReader<Region>) -> bool {
        let Peek::Other(raw) = receiver.peek() else { panic!("no lent message") };
        let at_a_glance = receiver.peek_ref(raw).is_some();
        let Ok(Event::Message(slot)) = receiver.poll() else { panic!("no message") };
        assert!(slot.is_ref());
        receiver.advance(&slot);
        at_a_glance
    }

    #[test]
    fn lent_messages_are_taken_at_a_glance_until_they_have_to_be_given_up_or_lie_elsewhere() {
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
        let taken = [(); 5].map(|()| takes_at_a_glance(&mut receiver));
        assert_eq!(taken, [false, true, true, true, false], "it finds the page, and owes");
        receiver.release();
        let taken = [(); 3].map(|()| takes_at_a_glance(&mut receiver));
        assert_eq!(taken, [true, false, true], "it finds the other page");
    }
}

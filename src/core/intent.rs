//! Intents: what a broker had consumed of each client when it died.
//!
//! A broker publishes a batch and stores its cursors afterwards. If it dies in between, the cursors
//! say too little. So it first stores an *intent* for each client of which the batch has messages:
//! where the batch begins in the broadcast chain, and then how far it has consumed the client's
//! chain. The intent counts if the batch was published. One store publishes a batch, that of its
//! first commit word. So the word at that position says it.
//!
//! ```text
//!   intent: begin     (Release)   after the cursors of the previous batch
//!   intent: consumed  (Release)
//!   publish the batch             the intent counts from here on
//!   cursor                        and from here on it is not needed
//! ```
//!
//! A client reads them in the opposite order, after the broker's death: consumed, begin, cursor.

use crate::core::chain::{BROKER, PageHeader, admit_page};
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::memory::Memory;
use crate::core::message::ClientId;
use crate::core::order::Site;
use alloc::vec::Vec;

/// The pages of a broker's own chain that a client has been sent. They say, after the broker's
/// death, whether it had published a batch.
#[derive(Clone, Debug)]
pub struct BrokerPages<M> {
    pages: Vec<(u32, M)>,
    /// The highest id of a page that was sent.
    newest: Option<u32>,
    /// Pages that were sent, and did not arrive.
    missing: Vec<u32>,
    /// Whether all pages were sent that the broker had when the client began to receive.
    is_complete: bool,
    /// The most bytes of these pages together.
    budget: usize,
}

/// The most missing pages that are told apart. Beyond it, some stay missing.
const MOST_MISSING: usize = 64;

impl<M: Memory> BrokerPages<M> {
    /// Returns an empty set, whose pages together may have `budget` bytes.
    pub fn new(budget: usize) -> Self {
        let (pages, missing) = (Vec::new(), Vec::new());
        BrokerPages { pages, newest: None, missing, is_complete: false, budget }
    }

    /// Records that all pages were sent that the broker has now.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Drops everything: the client was skipped, and is sent all pages again later.
    pub fn restart(&mut self) {
        *self = BrokerPages::new(self.budget);
    }

    /// Records that a page was sent, and did not arrive.
    pub fn miss(&mut self, id: u32) {
        if self.missing.len() < MOST_MISSING {
            self.missing.push(id);
        }
    }

    /// Returns whether this page has come.
    pub fn has(&self, id: u32) -> bool {
        self.pages.iter().any(|(known, _)| *known == id)
    }

    /// Adds a page that the broker has sent. One that came before is replaced: a skipped client is
    /// sent all pages again.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the pages exceed the budget.
    pub fn add(&mut self, id: u32, page: M) -> Result<(), Fault> {
        self.forget(id);
        admit_page(&mut self.pages, id, page, self.budget)?;
        self.newest = self.newest.max(Some(id));
        Ok(())
    }

    /// Drops a page that the broker does not use any more.
    pub fn forget(&mut self, id: u32) {
        self.pages.retain(|(known, _)| *known != id);
        self.missing.retain(|missing| *missing != id);
    }

    /// Returns whether the owner of `control`, a dead broker, has published the batch that begins at
    /// `position`. Returns `None` if this client was not sent all pages.
    fn has_published(&self, control: &Control<M>, position: u64) -> Option<bool> {
        let at = self.pages.iter().find_map(|(id, page)| {
            let header = PageHeader::read(page, *id, BROKER).ok()?;
            let at = usize::try_from(position.checked_sub(header.base)?).ok()?;
            let is_slot = at >= PAGE_HEADER && at.is_multiple_of(SLOT_ALIGN);
            (is_slot && at + SLOT_HEADER <= page.region_len()).then_some((page, at))
        });
        match at {
            // pairs with CommitPublish
            Some((page, at)) => Some(page.load(at + SLOT_COMMIT, Site::CommitRead) != 0),
            // A page that was written again or dropped had been published and read.
            None if self.is_complete && self.missing.is_empty() => {
                (self.newest >= control.newest_page()).then_some(true)
            }
            None => None,
        }
    }
}

impl<M: Memory> Control<M> {
    /// Stores what the owner has consumed of a client, with the pending batch that begins at
    /// `begin`. Call it before the batch is published.
    #[inline]
    pub(crate) fn intend(&self, cursor_index: usize, begin: u64, consumed: u64) {
        let at = intent_offset(self.cursors, cursor_index);
        self.memory().store(at, begin, Site::IntentBegin);
        self.memory().store(at + INTENT_CONSUMED, consumed, Site::IntentConsumed);
    }

    /// Resets the intent of an entry whose client is gone.
    pub(crate) fn forget_intent(&self, cursor_index: usize) {
        self.intend(cursor_index, 0, 0);
    }

    /// States the id of the newest page in the owner's chain. Call it before the page is used.
    pub(crate) fn set_newest_page(&self, id: u32) {
        self.memory().write_words(CONTROL_NEWEST, [u64::from(id) + 1]);
    }

    /// Returns the id of the newest page in the chain of the owner, a dead broker.
    fn newest_page(&self) -> Option<u32> {
        let [newest] = self.memory().read_words(CONTROL_NEWEST);
        newest.checked_sub(1).map(low)
    }

    /// Returns how far the owner, a dead broker, has consumed a client's chain, which begins at
    /// `begin` and ends at `tail`. `pages` are those of the broker's chain. Returns `None` if the
    /// broker had removed the client, or if a page is missing: then it is not known.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the broker's memory has no such entry, or says what can't be.
    pub fn consumed_until(
        &self,
        cursor_index: usize,
        client: ClientId,
        [begin, tail]: [u64; 2],
        pages: &BrokerPages<M>,
    ) -> Result<Option<u64>, Fault> {
        let len = self.memory().region_len();
        if cursor_index >= self.cursors || control_bytes(self.cursors) > len {
            return Err(Fault::NoCursor { cursor_index, len });
        }
        if self.member(cursor_index) & !CONTROL_SKIPPED != u64::from(client.0) {
            return Ok(None);
        }
        let at = intent_offset(self.cursors, cursor_index);
        let memory = self.memory();
        // pairs with IntentConsumed: with what a pending batch consumed comes that batch's begin
        let intended = memory.load(at + INTENT_CONSUMED, Site::IntentConsumedRead);
        // pairs with IntentBegin: with the begin of a pending batch come the last batch's cursors
        let batch = memory.load(at, Site::IntentBeginRead);
        let mut consumed = self.cursor(cursor_index).max(self.consumed(cursor_index));
        if batch != 0 && intended > consumed {
            match pages.has_published(self, batch) {
                None => return Ok(None),
                Some(true) => consumed = intended,
                Some(false) => {}
            }
        }
        match consumed {
            0 => Ok(Some(begin)),
            found if found < begin => Err(Fault::CursorBackwards { found, seen: begin }),
            found if found > tail => Err(Fault::CursorAhead { found, tail }),
            consumed => Ok(Some(consumed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::chain::ChainWriter;
    use crate::core::limits::Limits;
    use crate::core::memory::Region;
    use crate::core::message::Envelope;

    const ALICE: ClientId = ClientId(7);
    const CHAIN: [u64; 2] = [64, 320];

    /// A dead broker's control region with two entries. The second is of Alice's. And its chain,
    /// with the pages that Alice knows.
    struct Dead {
        control: Control<Region>,
        chain: ChainWriter<Region>,
        pages: BrokerPages<Region>,
    }

    fn dead() -> Dead {
        let control = Control::create(Region::heap(control_len(2)), 2);
        control.give_place(1, ALICE.0);
        let page = Region::heap(256);
        let chain = ChainWriter::new(BROKER, Limits::new(256, 64, 1024).unwrap(), page.clone());
        control.set_newest_page(0);
        let mut pages = BrokerPages::new(1024);
        pages.add(0, page).unwrap();
        pages.complete();
        Dead { control, chain, pages }
    }

    impl Dead {
        fn consumed(&self) -> Option<u64> {
            let seen = Control::check(self.control.memory().clone(), 1).unwrap();
            seen.consumed_until(1, ALICE, CHAIN, &self.pages).unwrap()
        }

        /// Appends a message to the batch, and states that `consumed` is consumed with it.
        fn batch(&mut self, consumed: u64) {
            self.chain.append(Envelope::default(), &[7; 32]).unwrap();
            self.control.intend(1, self.chain.tail(), consumed);
        }
    }

    #[test]
    fn an_intent_counts_once_its_batch_is_published() {
        let mut dead = dead();
        assert_eq!(dead.consumed(), Some(64), "nothing was consumed");
        dead.control.publish_cursor(1, 96);
        dead.batch(128);
        dead.batch(160);
        assert_eq!(dead.consumed(), Some(96), "the batch is not published");
        dead.chain.publish();
        assert_eq!(dead.consumed(), Some(160));
        dead.control.publish_cursor(1, 192);
        assert_eq!(dead.consumed(), Some(192), "a later batch");
        dead.control.publish_consumed(1, 256);
        assert_eq!(dead.consumed(), Some(256), "by reference");
    }

    #[test]
    fn a_batch_that_goes_on_in_another_page_counts_from_its_first_word() {
        let mut dead = dead();
        let page = Region::heap(256);
        dead.chain.add_page(page.clone());
        dead.control.set_newest_page(1);
        dead.batch(128);
        dead.batch(160);
        dead.batch(192);
        dead.batch(224);
        assert!(dead.chain.position() > 256, "it is in the other page");
        assert_eq!(dead.consumed(), Some(64), "the batch is not published");
        dead.chain.publish();
        assert_eq!(dead.consumed(), Some(224), "the other page need not have come");
    }

    #[test]
    fn without_the_newest_page_it_is_not_known() {
        let mut dead = dead();
        dead.control.publish_cursor(1, 96);
        dead.control.set_newest_page(3);
        dead.control.intend(1, 512 + 64, 128);
        assert_eq!(dead.consumed(), None, "the batch may begin in the page that is missing");
        dead.control.intend(1, 512 + 64, 96);
        assert_eq!(dead.consumed(), Some(96), "it makes no difference");
        dead.control.intend(1, 512 + 64, 128);
        let page = Region::heap(256);
        PageHeader { id: 3, owner: BROKER, base: 1024, first: 9 }.write(&page);
        dead.pages.add(3, page).unwrap();
        assert_eq!(dead.consumed(), Some(128), "its page was written again since");
        let forged = Region::heap(256);
        PageHeader { id: 2, owner: 5, base: 512, first: 9 }.write(&forged);
        dead.pages.add(2, forged).unwrap();
        assert_eq!(dead.consumed(), Some(128), "that page is not the broker's");
        assert!(dead.pages.add(4, Region::heap(512)).is_err(), "beyond the budget");
    }

    #[test]
    fn a_client_that_lacks_a_page_does_not_know() {
        let mut dead = dead();
        dead.control.intend(1, 512 + 64, 128);
        assert_eq!(dead.consumed(), Some(128));
        dead.pages.miss(0);
        assert_eq!(dead.consumed(), None, "its descriptor was lost");
        dead.pages.add(0, Region::heap(256)).unwrap();
        assert_eq!(dead.consumed(), Some(128), "it came again");
        dead.pages.restart();
        dead.pages.add(0, Region::heap(256)).unwrap();
        assert_eq!(dead.consumed(), None, "others may follow");
        dead.pages.complete();
        assert_eq!(dead.consumed(), Some(128));
    }

    #[test]
    fn a_client_that_was_removed_learns_nothing() {
        let dead = dead();
        dead.control.publish_cursor(1, 96);
        dead.control.skip(1, ALICE.0);
        assert_eq!(dead.consumed(), Some(96), "a skipped client is a member");
        dead.control.end_membership(1);
        assert_eq!(dead.consumed(), None);
        dead.control.give_place(1, ALICE.0 + 1);
        assert_eq!(dead.consumed(), None);
    }

    #[test]
    fn what_a_broker_can_not_have_consumed_is_a_fault() {
        let mut dead = dead();
        dead.batch(0);
        dead.chain.publish();
        let Dead { control, pages, .. } = dead;
        for position in [1, 63, 321, u64::MAX] {
            control.intend(1, PAGE_HEADER as u64, position);
            let found = control.consumed_until(1, ALICE, CHAIN, &pages);
            let expected = match position < 64 {
                true => Fault::CursorBackwards { found: position, seen: 64 },
                false => Fault::CursorAhead { found: position, tail: 320 },
            };
            assert_eq!(found, Err(expected));
        }
        // Positions at which no batch begins.
        for begin in [1, 63, 72, 248, 256, u64::MAX] {
            control.intend(1, begin, 128);
            let found = control.consumed_until(1, ALICE, CHAIN, &pages);
            assert_eq!(found, Ok(Some(128)), "{begin}");
        }
        for cursor_index in [2, 3, usize::MAX] {
            let found = control.consumed_until(cursor_index, ALICE, CHAIN, &pages);
            assert!(matches!(found, Err(Fault::NoCursor { .. })), "{found:?}");
        }
        // A peer's header that states more cursors than there is room for.
        control.memory().write_words(CONTROL_VERSION, [halves(VERSION, 1 << 20)]);
        let seen = Control::check(control.memory().clone(), 1).unwrap();
        let found = seen.consumed_until(1, ALICE, CHAIN, &pages);
        assert!(matches!(found, Err(Fault::NoCursor { .. })));
    }

    #[test]
    fn the_next_client_in_a_place_finds_no_intent() {
        let mut dead = dead();
        dead.batch(128);
        dead.chain.publish();
        dead.control.end_membership(1);
        dead.control.give_place(1, ALICE.0);
        assert_eq!(dead.consumed(), Some(64));
    }
}

//! Intents: what a broker had consumed of each client when it died.
//!
//! A broker publishes a batch and stores its cursors afterwards. If it dies in between, the cursors
//! say too little. So it first stores an *intent* for each client of which the batch has messages:
//! the position in the broadcast chain after that client's last message, and then how far it has
//! consumed the client's chain. The intent counts if the broadcast chain is as long as it says.
//!
//! ```text
//!   intent: end       (Release)   after the cursors of the previous batch
//!   intent: consumed  (Release)
//!   publish the batch             the intent counts from here on
//!   cursor                        and from here on it is not needed
//! ```
//!
//! A client reads them in the opposite order, after the broker's death: consumed, end, cursor.

use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::memory::Memory;
use crate::core::message::ClientId;
use crate::core::order::Site;

impl<M: Memory> Control<M> {
    /// Stores what the owner has consumed of a client, with the pending batch that ends at `end` or
    /// later. Call it before the batch is published.
    #[inline]
    pub(crate) fn intend(&self, cursor_index: usize, end: u64, consumed: u64) {
        let at = intent_offset(self.cursors, cursor_index);
        self.memory().store(at, end, Site::IntentEnd);
        self.memory().store(at + INTENT_CONSUMED, consumed, Site::IntentConsumed);
    }

    /// Resets the intent of an entry whose client is gone.
    pub(crate) fn forget_intent(&self, cursor_index: usize) {
        self.intend(cursor_index, 0, 0);
    }

    /// Returns how far the owner, a dead broker, has consumed a client's chain, which begins at
    /// `begin` and ends at `tail`. `end` is the position after the last message in the broker's
    /// chain. Returns `None` if the broker had removed the client: then it is not known.
    ///
    /// # Errors
    ///
    /// A [`Fault`] if the broker's memory has no such entry, or says what can't be.
    pub fn consumed_until(
        &self,
        cursor_index: usize,
        client: ClientId,
        [begin, tail]: [u64; 2],
        end: u64,
    ) -> Result<Option<u64>, Fault> {
        let len = self.memory().region_len();
        if cursor_index >= self.cursors || control_bytes(self.cursors) > len {
            return Err(Fault::NoCursor { cursor_index, len });
        }
        if self.member(cursor_index) & !CONTROL_SKIPPED != client.0.into() {
            return Ok(None);
        }
        let at = intent_offset(self.cursors, cursor_index);
        let memory = self.memory();
        // pairs with IntentConsumed: with what a pending batch consumed comes that batch's end
        let intended = memory.load(at + INTENT_CONSUMED, Site::IntentConsumedRead);
        // pairs with IntentEnd: with the end of a pending batch come the last batch's cursors
        let intended_end = memory.load(at, Site::IntentEndRead);
        let counts = intended_end != 0 && intended_end <= end;
        let intended = if counts { intended } else { 0 };
        let consumed = self.cursor(cursor_index).max(self.consumed(cursor_index)).max(intended);
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
    use crate::core::memory::Region;

    const ALICE: ClientId = ClientId(7);
    const CHAIN: [u64; 2] = [64, 320];

    /// A dead broker's control region with two entries. The second is of Alice's.
    fn control() -> Control<Region> {
        let memory = Region::heap(control_len(2));
        let control = Control::create(memory.clone(), 2);
        control.give_place(1, ALICE.0);
        control
    }

    fn consumed(control: &Control<Region>, end: u64) -> Option<u64> {
        let seen = Control::check(control.memory().clone(), 1).unwrap();
        seen.consumed_until(1, ALICE, CHAIN, end).unwrap()
    }

    #[test]
    fn an_intent_counts_from_its_end_on() {
        let control = control();
        assert_eq!(consumed(&control, 640), Some(64), "nothing was consumed");
        control.publish_cursor(1, 96);
        control.intend(1, 160, 128);
        assert_eq!(consumed(&control, 159), Some(96), "the batch is not published");
        assert_eq!(consumed(&control, 160), Some(128));
        control.publish_cursor(1, 192);
        assert_eq!(consumed(&control, 160), Some(192), "a later batch");
        control.publish_consumed(1, 256);
        assert_eq!(consumed(&control, 160), Some(256), "by reference");
    }

    #[test]
    fn a_client_that_was_removed_learns_nothing() {
        let control = control();
        control.publish_cursor(1, 96);
        control.skip(1, ALICE.0);
        assert_eq!(consumed(&control, 0), Some(96), "a skipped client is a member");
        control.end_membership(1);
        assert_eq!(consumed(&control, 0), None);
        control.give_place(1, ALICE.0 + 1);
        assert_eq!(consumed(&control, 0), None);
    }

    #[test]
    fn what_a_broker_can_not_have_consumed_is_a_fault() {
        let control = control();
        for position in [1, 63, 321, u64::MAX] {
            control.intend(1, 1, position);
            let found = control.consumed_until(1, ALICE, CHAIN, 1);
            let expected = match position < 64 {
                true => Fault::CursorBackwards { found: position, seen: 64 },
                false => Fault::CursorAhead { found: position, tail: 320 },
            };
            assert_eq!(found, Err(expected));
        }
        for cursor_index in [2, 3, usize::MAX] {
            let found = control.consumed_until(cursor_index, ALICE, CHAIN, 1);
            assert!(matches!(found, Err(Fault::NoCursor { .. })), "{found:?}");
        }
        // A peer's header that states more cursors than there is room for.
        control.memory().write_words(CONTROL_VERSION, [halves(VERSION, 1 << 20)]);
        let seen = Control::check(control.memory().clone(), 1).unwrap();
        assert!(matches!(seen.consumed_until(1, ALICE, CHAIN, 1), Err(Fault::NoCursor { .. })));
    }

    #[test]
    fn the_next_client_in_a_place_finds_no_intent() {
        let control = control();
        control.intend(1, 160, 128);
        control.end_membership(1);
        control.give_place(1, ALICE.0);
        assert_eq!(consumed(&control, 640), Some(64));
    }
}

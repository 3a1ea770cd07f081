//! Control region: cursors, consumed positions, and sleeping without a lost wake-up.
//!
//! The owner is the region's only writer. Peers map it read-only. It holds one *parked word*, and
//! one entry with a *cursor* for every chain that the owner reads. A broker's also has
//! [intents](crate::core::intent).
//!
//! Sleeping and waking, with the sleeping process on the left:
//!
//! ```text
//!   park():  parked = n               publish: commit word or cursor   (Release)
//!            fence                    fence
//!            check again              parked?  -> ring the doorbell, once for each n
//!            block on the doorbell
//! ```
//!
//! No wake-up is lost (P10). Both fences are in one total order. If the sleeper's fence comes
//! first, the publisher sees `parked`. If the publisher's fence comes first, the sleeper's second
//! check sees what was published.
//!
//! # Polling
//!
//! The publisher's fence costs more than the message, because it waits until earlier stores have
//! left the processor. A receiver that reads a stream rarely sleeps. Such a receiver sets
//! [`CONTROL_POLLING`] in its parked word while it is awake: it *polls*. Publishers that see the
//! flag leave out their fence and don't ring.
//!
//! Parking clears the flag: it stores the number of the sleep. A publisher may miss that, because
//! its processor may have read the flag before the publisher's own store became visible. Such a
//! store becomes visible in a finite time. So the sleeper bounds every sleep from now on. It sleeps
//! for at most the time since it cleared the flag, checks again, and sleeps again. A message that
//! needs the time *d* to become visible is found after at most 2*d*, for any *d*. An idle process
//! wakes once each time its idle time has doubled.
//!
//! The protocol does not ask the kernel to make another process fence. `membarrier(2)` offers that
//! but is not reliable: `docs/lab/membarrier.md`.
//!
//! A spurious wake-up costs the receiver one byte to read. The sleeps are numbered, and a publisher
//! rings once for each. So rings don't fill the socket of a stopped process.

use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::memory::Memory;
use crate::core::order::Site;

/// A control region, our own or a peer's.
///
/// In a peer's region the fields other than `memory` and `cursors` are unused.
#[derive(Clone, Debug)]
pub struct Control<M> {
    memory: M,
    /// The number of cursors that the region's header states.
    pub(super) cursors: usize,
    /// Number of times that the owner has parked. The parked word holds it during a sleep.
    sleeps: u64,
    /// The value of `sleeps` at the owner's last page rollover.
    sleeps_at_rollover: u64,
    /// Whether the polling flag is set in the parked word.
    is_polling: bool,
    /// Whether the owner may set the polling flag.
    may_poll: bool,
    /// Number of the last sleep that cleared the flag, or zero before the first.
    first_bounded: u64,
}

/// The ringing side of a peer's doorbell.
#[derive(Debug)]
pub struct Doorbell<M> {
    control: Control<M>,
    /// Number of the last sleep for which the peer was rung, or zero if that ring failed.
    rung: u64,
    /// Whether the owner polled when its parked word was last read. May be stale. If it is `false`,
    /// the publisher does not check for the flag before its fence.
    polled: bool,
}

#[inline]
fn is_polling(word: u64) -> bool {
    word & CONTROL_POLLING != 0
}

impl<M: Memory> Doorbell<M> {
    /// Returns the doorbell of the owner of `control`.
    pub fn new(control: Control<M>) -> Self {
        Doorbell { control, rung: 0, polled: false }
    }

    /// Returns the owner's control region.
    pub fn control(&self) -> &Control<M> {
        &self.control
    }

    /// Returns whether the owner polls. Then neither a ring nor a fence is needed.
    #[inline]
    pub fn is_polling(&mut self) -> bool {
        self.polled =
            self.polled && is_polling(self.control.memory.load(CONTROL_PARKED, Site::PollingRead));
        self.polled
    }

    /// Returns whether the owner must be rung, at most once for each of its sleeps. Call it after
    /// publishing and after [`ring_fence`](Control::ring_fence).
    ///
    /// [`not_rung`](Doorbell::not_rung) undoes the answer.
    #[inline]
    pub fn must_ring(&mut self) -> bool {
        let word = self.control.memory.load(CONTROL_PARKED, Site::RingRead);
        self.polled = is_polling(word);
        let is_asleep = !self.polled && word != 0;
        is_asleep && core::mem::replace(&mut self.rung, word) != word
    }

    /// Returns whether the owner must be rung after one publish or release, with the fence that this
    /// needs.
    #[inline(always)]
    pub fn must_ring_after_publish(&mut self) -> bool {
        if self.is_polling() {
            return false;
        }
        self.control.ring_fence();
        self.must_ring()
    }

    /// Records that the ring could not be sent, so that the next [`must_ring`](Doorbell::must_ring)
    /// asks again.
    pub fn not_rung(&mut self) {
        self.rung = 0;
    }
}

impl<M: Memory> Control<M> {
    /// Initializes our own region, which must be zeroed and `control_len(cursors)` long.
    ///
    /// # Panics
    ///
    /// If the region is too small for its cursors.
    pub fn create(memory: M, cursors: usize) -> Self {
        assert!(control_bytes(cursors) <= memory.region_len());
        let count = u32::try_from(cursors).expect("a region is not that large");
        memory.write_words(0, [CONTROL_MAGIC, halves(VERSION, count)]);
        Control::new(memory, cursors)
    }

    /// Validates a peer's region, in which our link has the entry `cursor_index`.
    ///
    /// # Errors
    ///
    /// A [`Fault`] that says what is invalid.
    pub fn check(memory: M, cursor_index: usize) -> Result<Self, Fault> {
        let len = memory.region_len();
        // Bounds of the entry's line. The index comes from the peer, so the arithmetic must not
        // overflow.
        let room = len.saturating_sub(CONTROL_CURSORS) / LINE;
        if cursor_index >= room {
            return Err(Fault::NoCursor { cursor_index, len });
        }
        let [magic, version] = memory.read_words(0);
        if magic != CONTROL_MAGIC {
            let expected = CONTROL_MAGIC;
            return Err(Fault::Control { what: "the magic number", found: magic, expected });
        }
        if low(version) != VERSION {
            let (found, expected) = (low(version).into(), VERSION.into());
            return Err(Fault::Control { what: "the version", found, expected });
        }
        Ok(Control::new(memory, high(version) as usize))
    }

    fn new(memory: M, cursors: usize) -> Self {
        Control {
            memory,
            cursors,
            sleeps: 0,
            sleeps_at_rollover: 0,
            is_polling: false,
            may_poll: true,
            first_bounded: 0,
        }
    }

    /// Returns the region.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Releases everything before `position` in the chain that the owner reads at `cursor_index`.
    #[inline]
    pub(crate) fn publish_cursor(&self, cursor_index: usize, position: u64) {
        // pairs with CursorRead: all reads before `position` come before this store
        self.memory.store(cursor_offset(cursor_index), position, Site::CursorPublish);
    }

    /// Returns the owner's cursor in the chain that it reads at `cursor_index`; zero before its
    /// first store.
    #[inline]
    pub(crate) fn cursor(&self, cursor_index: usize) -> u64 {
        // pairs with CursorPublish: later writes can't be seen by the reads before it
        self.memory.load(cursor_offset(cursor_index), Site::CursorRead)
    }

    /// Publishes that the owner has consumed everything before `position`, while its cursor stays
    /// behind.
    pub(crate) fn publish_consumed(&self, cursor_index: usize, position: u64) {
        // pairs with ConsumedRead: everything consumed was forwarded before this store
        self.memory.store(
            cursor_offset(cursor_index) + CONTROL_CONSUMED,
            position,
            Site::ConsumedPublish,
        );
    }

    /// Returns the owner's consumed position in the chain that it reads at `cursor_index`.
    pub(crate) fn consumed(&self, cursor_index: usize) -> u64 {
        // pairs with ConsumedPublish
        self.memory.load(cursor_offset(cursor_index) + CONTROL_CONSUMED, Site::ConsumedRead)
    }

    /// Returns the member word of the entry `cursor_index`: the id of the client that owns it, with
    /// [`CONTROL_SKIPPED`] while it is skipped, or zero after its membership has ended.
    #[inline(always)]
    pub(crate) fn member(&self, cursor_index: usize) -> u64 {
        self.memory.load(cursor_offset(cursor_index) + CONTROL_MEMBER, Site::MemberRead)
    }

    /// Ends the membership of an entry's client. From now on the pages that it reads may be
    /// written.
    pub fn end_membership(&self, cursor_index: usize) {
        self.memory.store(cursor_offset(cursor_index) + CONTROL_MEMBER, 0, Site::MemberStore);
    }

    /// Publishes that the entry's client is skipped. From now on the pages that it reads may be
    /// written, until it is [counted again](Control::count_again).
    pub fn skip(&self, cursor_index: usize, client: u32) {
        let skipped = u64::from(client) | CONTROL_SKIPPED;
        let at = cursor_offset(cursor_index) + CONTROL_MEMBER;
        self.memory.store(at, skipped, Site::MemberStore);
    }

    /// Publishes that a skipped client, which has asked for it, receives again.
    pub fn count_again(&self, cursor_index: usize, client: u32) {
        let at = cursor_offset(cursor_index) + CONTROL_MEMBER;
        self.memory.store(at, client.into(), Site::MemberStore);
    }

    /// Publishes that pages which begin before `position`, in the chain read at `cursor_index`, are
    /// never written again. Call it before the cursor store that releases them.
    pub(crate) fn retire(&self, cursor_index: usize, position: u64) {
        self.memory.store(
            cursor_offset(cursor_index) + CONTROL_RETIRED,
            position,
            Site::RetiredPublish,
        );
    }

    /// Returns the position before which pages are never written again. Read the cursor first.
    pub(crate) fn retired(&self, cursor_index: usize) -> u64 {
        self.memory.load(cursor_offset(cursor_index) + CONTROL_RETIRED, Site::RetiredRead)
    }

    /// Assigns an entry to a client and resets the words of its previous client, whose membership
    /// has ended.
    pub fn give_place(&self, cursor_index: usize, client: u32) {
        // pairs with CopyFence: a client that still reads the entry, and finds a word reset, also
        // finds that its membership has ended
        self.memory.fence(Site::ReuseFence);
        self.memory.store(cursor_offset(cursor_index), 0, Site::CursorPublish);
        self.memory.store(cursor_offset(cursor_index) + CONTROL_CONSUMED, 0, Site::ConsumedPublish);
        self.retire(cursor_index, 0);
        self.forget_intent(cursor_index);
        self.memory.store(
            cursor_offset(cursor_index) + CONTROL_MEMBER,
            client.into(),
            Site::MemberStore,
        );
    }

    /// Announces that the owner is about to sleep. Afterwards the owner must check everything that
    /// it waits for once more. [`first_bounded_sleep`](Control::first_bounded_sleep) says how long
    /// it may sleep.
    pub fn park(&mut self) {
        self.sleeps += 1;
        // Clears the polling flag: publishers that see the number fence.
        self.memory.store(CONTROL_PARKED, self.sleeps, Site::ParkStore);
        if core::mem::take(&mut self.is_polling) {
            self.first_bounded = self.sleeps;
        }
        // pairs with RingFence
        self.memory.fence(Site::ParkFence);
    }

    /// Returns the sleep since which publishers may have missed that the owner sleeps, or `None` if
    /// it has never polled. From that sleep on, each sleep lasts at most the time since it began.
    pub fn first_bounded_sleep(&self) -> Option<u64> {
        (self.first_bounded != 0).then_some(self.first_bounded)
    }

    /// Announces that the owner is awake.
    pub fn unpark(&self) {
        self.memory.store(CONTROL_PARKED, 0, Site::ParkClear);
    }

    /// Records that the owner has reached the end of a page. If it has not slept in that page, it
    /// reads a stream and starts to [poll](crate::core::control#polling).
    pub fn page_advanced(&mut self) {
        let sleeps_before = core::mem::replace(&mut self.sleeps_at_rollover, self.sleeps);
        if sleeps_before == self.sleeps && self.may_poll && !self.is_polling {
            self.poll();
        }
    }

    /// Disables polling, so that no sleep of the owner is ever bounded.
    pub fn never_poll(&mut self) {
        self.may_poll = false;
    }

    /// Announces that the owner is awake and polls.
    pub fn poll(&mut self) {
        self.is_polling = true;
        self.memory.store(CONTROL_PARKED, CONTROL_POLLING, Site::PollingStore);
    }

    /// Executes the fence between all that was published and [`must_ring`](Doorbell::must_ring).
    /// One fence serves many peers.
    #[inline]
    pub fn ring_fence(&self) {
        // pairs with ParkFence
        self.memory.fence(Site::RingFence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::memory::Region;

    #[test]
    fn an_invalid_control_region_is_a_fault() {
        let memory = Region::heap(control_len(1));
        assert!(matches!(Control::check(memory.clone(), 0), Err(Fault::Control { .. })));
        let ours = Control::create(memory.clone(), 1);
        assert!(Control::check(memory.clone(), 0).is_ok());
        for cursor_index in [62, 63, usize::MAX / 64, usize::MAX] {
            assert!(matches!(
                Control::check(memory.clone(), cursor_index),
                Err(Fault::NoCursor { .. })
            ));
        }
        ours.memory().write_words(CONTROL_VERSION, [halves(VERSION + 1, 1)]);
        assert!(matches!(Control::check(memory, 0), Err(Fault::Control { .. })));
    }

    #[test]
    fn a_reader_of_a_whole_page_polls_and_then_bounds_its_sleeps() {
        let memory = Region::heap(control_len(1));
        let mut owner = Control::create(memory.clone(), 1);
        let mut doorbell = Doorbell::new(Control::check(memory.clone(), 0).unwrap());
        owner.park();
        owner.unpark();
        assert_eq!(owner.first_bounded_sleep(), None, "it has never polled");
        owner.page_advanced();
        assert!(!doorbell.is_polling(), "it has slept in that page");
        for first in [2, 4] {
            owner.page_advanced();
            assert!(!doorbell.is_polling(), "the flag is seen after the next fence");
            assert!(!doorbell.must_ring(), "it is awake");
            assert!(doorbell.is_polling());
            for _ in 0..2 {
                owner.park();
                assert!(!doorbell.is_polling(), "the sleep clears the flag");
                assert!(doorbell.must_ring());
                assert_eq!(owner.first_bounded_sleep(), Some(first));
                owner.unpark();
                assert!(!doorbell.is_polling(), "waking up does not set it again");
            }
            owner.page_advanced();
            assert!(!doorbell.is_polling(), "it has slept in that page");
        }
    }

    #[test]
    fn a_process_is_rung_once_per_sleep_and_never_while_awake() {
        let memory = Region::heap(control_len(1));
        let mut owner = Control::create(memory.clone(), 1);
        let mut doorbell = Doorbell::new(Control::check(memory, 0).unwrap());
        assert!(!doorbell.must_ring());
        for _ in 0..3 {
            owner.park();
            assert!(doorbell.must_ring());
            assert!(!doorbell.must_ring());
            owner.unpark();
            assert!(!doorbell.must_ring());
        }
        // A polling owner is awake, whatever the other bits say.
        owner.memory().store(CONTROL_PARKED, CONTROL_POLLING | 77, Site::ParkStore);
        assert!(!doorbell.must_ring());
        // The owner is awake again before the publisher checks.
        owner.park();
        owner.unpark();
        assert!(!doorbell.must_ring());
    }
}

//! A control region: what a process tells its peers beside its chain, and how it sleeps and wakes
//! without losing a wake-up.
//!
//! The owner alone writes the region; peers map it read-only. It holds one *parked word*, and one
//! *cursor* for every chain that the owner reads.
//!
//! Sleeping and waking, with the sleeper on the left:
//!
//! ```text
//!   park():  parked = n               publish: commit word or cursor   (Release)
//!            fence                    fence
//!            look again               parked?  -> ring the doorbell, once for each n
//!            block on the doorbell
//! ```
//!
//! No wake-up is lost (P10). Both fences are in one total order. If the sleeper's fence comes first,
//! the publisher sees `parked`. If the publisher's fence comes first, the sleeper's second look sees
//! what was published.
//!
//! # Polling
//!
//! The publisher's fence costs more than the message does, as it waits until earlier stores have
//! left the processor. A receiver that reads a stream hardly ever sleeps. So it may set a flag in its
//! parked word: it *polls*. Publishers that see the flag leave out their fence and don't ring.
//!
//! The number of the next sleep takes the flag back. A publisher may miss that: its processor may
//! have read the flag before the publisher's store became visible. Such a store is on its way, and
//! becomes visible in a finite time. So the sleeper bounds every sleep from now on: it sleeps for at
//! most as long as the time since it took the flag back, looks again, and sleeps again. A message
//! that needs the time *d* to become visible is found after 2*d* at most, whatever *d* is; and an
//! idle process wakes once each time its idle time has doubled.
//!
//! Nothing here asks the kernel to make another process fence. `membarrier(2)` offers that, and
//! does not always do it: `docs/lab/membarrier.md`.
//!
//! A ring to a process that is awake costs it one byte to read, and nothing else. The sleeps are
//! numbered: each is rung once, so that rings don't fill the socket of a stopped process.

use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::memory::Memory;
use crate::core::order::Site;

/// A control region, our own or a peer's.
#[derive(Clone, Debug)]
pub struct Control<M> {
    memory: M,
    /// How often the owner has parked.
    sleeps: u64,
    /// How often it had when it came to the end of a page last.
    sleeps_at_turn: u64,
    /// Whether the flag stands in the parked word, and whether the owner may set it.
    is_polling: bool,
    may_poll: bool,
    /// The number of the sleep that took the flag back last; zero if none has.
    first_bounded: u64,
}

/// A peer's doorbell, as somebody sees it who may have to ring it.
#[derive(Debug)]
pub struct Doorbell<M> {
    control: Control<M>,
    /// The last sleep for which it was rung.
    rung: u64,
    /// Whether the owner polled when its parked word was read last. If it did not, there is no point
    /// in looking for the flag before the fence.
    polled: bool,
}

#[inline]
fn is_polling(word: u64) -> bool {
    word & CONTROL_POLLING != 0
}

impl<M: Memory> Doorbell<M> {
    /// The doorbell of the owner of `control`.
    pub fn new(control: Control<M>) -> Self {
        Doorbell { control, rung: 0, polled: false }
    }

    /// Whether the owner polls: it need not be rung, and no fence is needed to find that out.
    #[inline]
    pub fn is_polling(&mut self) -> bool {
        self.polled =
            self.polled && is_polling(self.control.memory.load(CONTROL_PARKED, Site::PollingRead));
        self.polled
    }

    /// After something was published and [`ring_fence`](Control::ring_fence) was called:
    /// must the owner be rung? Says so once for each of its sleeps.
    ///
    /// [`not_rung`](Doorbell::not_rung) takes that back.
    #[inline]
    pub fn must_ring(&mut self) -> bool {
        let word = self.control.memory.load(CONTROL_PARKED, Site::RingRead);
        self.polled = is_polling(word);
        let is_asleep = !self.polled && word != 0;
        is_asleep && core::mem::replace(&mut self.rung, word) != word
    }

    /// The ring could not be sent.
    pub fn not_rung(&mut self) {
        self.rung = 0;
    }
}

impl<M: Memory> Control<M> {
    /// Sets up a region of our own, which must be zeroed and `control_len(cursors)` long.
    ///
    /// # Panics
    ///
    /// If the region is too small for its cursors.
    pub fn create(memory: M, cursors: usize) -> Self {
        assert!(cursor_offset(cursors) <= memory.region_len());
        let cursors = u32::try_from(cursors).expect("a region is not that large");
        memory.write_words(0, [CONTROL_MAGIC, halves(VERSION, cursors)]);
        Control::new(memory)
    }

    /// Checks a peer's region, in which `slot` is the number of our link's cursor.
    ///
    /// # Errors
    ///
    /// A [`Fault`] that says what is wrong with it.
    pub fn check(memory: M, cursor_index: usize) -> Result<Self, Fault> {
        let len = memory.region_len();
        // The last cursor's line, with care: the slot number is the peer's.
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
        Ok(Control::new(memory))
    }

    fn new(memory: M) -> Self {
        Control {
            memory,
            sleeps: 0,
            sleeps_at_turn: 0,
            is_polling: false,
            may_poll: true,
            first_bounded: 0,
        }
    }

    /// The region itself.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The owner gives up everything before `position` in the chain that it reads as `slot`.
    #[inline]
    pub(crate) fn publish_cursor(&self, cursor_index: usize, position: u64) {
        // pairs with CursorRead: all reads of what is given up come before it
        self.memory.store(cursor_offset(cursor_index), position, Site::CursorPublish);
    }

    /// How far the owner is in the chain that it reads as `slot`; zero if it has not said yet.
    #[inline]
    pub(crate) fn cursor(&self, cursor_index: usize) -> u64 {
        // pairs with CursorPublish: what is written after it can't be seen by reads before it
        self.memory.load(cursor_offset(cursor_index), Site::CursorRead)
    }

    /// The owner has taken everything before `position`, and still lends what its cursor holds.
    pub(crate) fn publish_consumed(&self, cursor_index: usize, position: u64) {
        // pairs with ConsumedRead: what was taken has been sent on before
        self.memory.store(
            cursor_offset(cursor_index) + CONTROL_CONSUMED,
            position,
            Site::ConsumedPublish,
        );
    }

    /// How far the owner has taken the chain that it reads as `slot`, if it lends.
    pub(crate) fn consumed(&self, cursor_index: usize) -> u64 {
        // pairs with ConsumedPublish
        self.memory.load(cursor_offset(cursor_index) + CONTROL_CONSUMED, Site::ConsumedRead)
    }

    /// The id of the client that has the place of cursor `slot`; zero once nothing waits for it any
    /// more.
    #[inline(always)]
    pub(crate) fn member(&self, cursor_index: usize) -> u64 {
        self.memory.load(cursor_offset(cursor_index) + CONTROL_MEMBER, Site::MemberRead)
    }

    /// Nothing waits any more for the client that has a place: pages that it reads may be written.
    pub fn end_membership(&self, cursor_index: usize) {
        self.memory.store(cursor_offset(cursor_index) + CONTROL_MEMBER, 0, Site::MemberStore);
    }

    /// Pages that begin before `position`, in the chain that the owner reads as `slot`, are not
    /// written again. Comes before the cursor that gives them up.
    pub(crate) fn retire(&self, cursor_index: usize, position: u64) {
        self.memory.store(
            cursor_offset(cursor_index) + CONTROL_RETIRED,
            position,
            Site::RetiredPublish,
        );
    }

    /// The position before which pages are not written again. The cursor was read before.
    pub(crate) fn retired(&self, cursor_index: usize) -> u64 {
        self.memory.load(cursor_offset(cursor_index) + CONTROL_RETIRED, Site::RetiredRead)
    }

    /// Gives a place to a client, and takes back what a former one in it was told. That one's
    /// membership has ended.
    pub fn give_place(&self, cursor_index: usize, client: u32) {
        self.memory.store(cursor_offset(cursor_index), 0, Site::CursorPublish);
        self.memory.store(cursor_offset(cursor_index) + CONTROL_CONSUMED, 0, Site::ConsumedPublish);
        self.retire(cursor_index, 0);
        self.memory.store(
            cursor_offset(cursor_index) + CONTROL_MEMBER,
            client.into(),
            Site::MemberStore,
        );
    }

    /// The owner says that it is about to sleep. Before it does, it must look again at everything
    /// that it waits for. [`first_bounded_sleep`](Control::first_bounded_sleep) says how long it may
    /// sleep.
    pub fn park(&mut self) {
        self.sleeps += 1;
        // Takes the flag back: publishers that see the number fence.
        self.memory.store(CONTROL_PARKED, self.sleeps, Site::ParkStore);
        if core::mem::take(&mut self.is_polling) {
            self.first_bounded = self.sleeps;
        }
        // pairs with RingFence
        self.memory.fence(Site::ParkFence);
    }

    /// The sleep since which publishers may have missed that the owner sleeps; `None` if it has never
    /// polled. From that sleep on, the owner sleeps for at most as long as the time since it began.
    pub fn first_bounded_sleep(&self) -> Option<u64> {
        (self.first_bounded != 0).then_some(self.first_bounded)
    }

    /// The owner is awake.
    pub fn unpark(&self) {
        self.memory.store(CONTROL_PARKED, 0, Site::ParkClear);
    }

    /// The owner has come to the end of a page. If it has not slept in that page, it reads a stream,
    /// and [polls](crate::core::control#polling).
    pub fn page_advanced(&mut self) {
        let sleeps_before = core::mem::replace(&mut self.sleeps_at_turn, self.sleeps);
        if sleeps_before == self.sleeps && self.may_poll && !self.is_polling {
            self.poll();
        }
    }

    /// The owner never polls, so that its sleeps are never bounded.
    pub fn never_poll(&mut self) {
        self.may_poll = false;
    }

    /// The owner, awake, says that it polls.
    pub fn poll(&mut self) {
        self.is_polling = true;
        self.memory.store(CONTROL_PARKED, CONTROL_POLLING, Site::PollingStore);
    }

    /// Comes between everything that was published and [`must_ring`](Doorbell::must_ring). One fence
    /// serves for many peers.
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
    fn a_lying_control_region_is_a_fault() {
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
    fn a_reader_of_a_whole_page_polls_and_bounds_its_sleeps_from_then_on() {
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
            assert!(!doorbell.is_polling(), "that is seen behind the next fence");
            assert!(!doorbell.must_ring(), "it is awake");
            assert!(doorbell.is_polling());
            for _ in 0..2 {
                owner.park();
                assert!(!doorbell.is_polling(), "the sleep takes the flag back");
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
    fn a_sleeper_is_rung_once_for_each_sleep_and_who_is_awake_never() {
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
        // A polling owner is awake, whatever else stands there.
        owner.memory().store(CONTROL_PARKED, CONTROL_POLLING | 77, Site::ParkStore);
        assert!(!doorbell.must_ring());
        // Awake again before anybody has looked.
        owner.park();
        owner.unpark();
        assert!(!doorbell.must_ring());
    }
}

//! A control region: what a process tells its peers beside its chain; how to sleep and wake
//! without losing a wake-up.
//!
//! The region's owner alone writes it; peers map it read-only. It holds one *parked word* and one
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
//! No wake-up is lost (P10): either the sleeper's second look sees what was published, or the
//! publisher sees `parked`. Both fences are in one total order, and whichever comes second sees
//! what stood before the first.
//!
//! A fence costs the publisher more than the message does. Where the kernel can make all other
//! processes fence, the sleeper may have it do so (a *barrier*) and says in its region that it will;
//! then the publisher, who must have registered to be reached, only keeps the compiler from moving
//! its look in front of its store. Wherever it is when the barrier comes: it has stored, and the
//! second look sees it; or it has not yet, and it will see `parked`.
//!
//! A barrier costs a thousand fences. So it is for those who read a stream and hardly ever sleep: the
//! flag that promises it stands in the parked word while its owner is awake, and the sleep that makes
//! the barrier takes it back. From then on publishers fence, until a whole page was read without a
//! sleep. Nobody overlooks that it was taken back: whoever had seen the flag has been reached by the
//! barrier since, and does not see it again.
//!
//! A ring to somebody who is awake already costs him one byte to read, and nothing else. The
//! sleeps are numbered, so that each is rung once and rings don't fill the socket of a process that
//! has been stopped.

use crate::fault::Fault;
use crate::layout::*;
use crate::memory::Memory;
use crate::order::Site;

/// A control region, our own or a peer's.
#[derive(Clone, Debug)]
pub struct Control<M> {
    memory: M,
    /// How often the owner has parked.
    sleeps: u64,
    /// How often it had when it came to the end of a page last.
    sleeps_at_turn: u64,
    /// Whether the owner makes a barrier before it sleeps next, and has said so.
    barrier: bool,
}

/// A peer's doorbell, as somebody sees it who may have to ring it.
#[derive(Debug)]
pub struct Doorbell<M> {
    control: Control<M>,
    /// The last sleep for which it was rung.
    rung: u64,
}

impl<M: Memory> Doorbell<M> {
    /// The doorbell of the owner of `control`.
    pub fn new(control: Control<M>) -> Self {
        Doorbell { control, rung: 0 }
    }

    /// Whether the owner must not be looked at without a fence: it makes no barrier before it sleeps,
    /// or that does not reach us.
    #[inline]
    pub fn needs_fence(&self) -> bool {
        let memory = &self.control.memory;
        let word = || memory.load(CONTROL_PARKED, Site::PromiseRead);
        !(memory.is_reached() && word() & CONTROL_BARRIER != 0)
    }

    /// After something was published and [`ring_fence`](Control::ring_fence) was called:
    /// must the owner be rung? Says so once for each of its sleeps.
    ///
    /// [`not_rung`](Doorbell::not_rung) takes that back.
    #[inline]
    pub fn must_ring(&mut self) -> bool {
        let sleep = self.control.memory.load(CONTROL_PARKED, Site::RingRead) & !CONTROL_BARRIER;
        sleep != 0 && core::mem::replace(&mut self.rung, sleep) != sleep
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
        let mut control = Control { memory, sleeps: 0, sleeps_at_turn: 0, barrier: false };
        control.turned();
        control
    }

    /// Checks a peer's region, in which `slot` is the number of our link's cursor.
    ///
    /// # Errors
    ///
    /// A [`Fault`] that says what is wrong with it.
    pub fn check(memory: M, slot: usize) -> Result<Self, Fault> {
        let len = memory.region_len();
        // The last cursor's line, with care: the slot number is the peer's.
        let room = len.saturating_sub(CONTROL_CURSORS) / LINE;
        if slot >= room {
            return Err(Fault::NoCursor { slot, len });
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
        Ok(Control { memory, sleeps: 0, sleeps_at_turn: 0, barrier: false })
    }

    /// The region itself.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The owner gives up everything before `position` in the chain that it reads as `slot`.
    #[inline]
    pub(crate) fn publish_cursor(&self, slot: usize, position: u64) {
        // pairs with CursorRead: all reads of what is given up come before it
        self.memory.store(cursor_offset(slot), position, Site::CursorPublish);
    }

    /// How far the owner is in the chain that it reads as `slot`; zero if it has not said yet.
    #[inline]
    pub(crate) fn cursor(&self, slot: usize) -> u64 {
        // pairs with CursorPublish: what is written after it can't be seen by reads before it
        self.memory.load(cursor_offset(slot), Site::CursorRead)
    }

    /// The owner has taken everything before `position`, and still lends what its cursor holds.
    pub(crate) fn publish_taken(&self, slot: usize, position: u64) {
        // pairs with TakenRead: what was taken has been sent on before
        self.memory.store(cursor_offset(slot) + CONTROL_TAKEN, position, Site::TakenPublish);
    }

    /// How far the owner has taken the chain that it reads as `slot`, if it lends.
    pub(crate) fn taken(&self, slot: usize) -> u64 {
        // pairs with TakenPublish
        self.memory.load(cursor_offset(slot) + CONTROL_TAKEN, Site::TakenRead)
    }

    /// Takes back what a former reader in `slot` said. Nobody may be using the slot.
    pub(crate) fn reset_cursor(&self, slot: usize) {
        self.memory.store(cursor_offset(slot), 0, Site::CursorPublish);
        self.memory.store(cursor_offset(slot) + CONTROL_TAKEN, 0, Site::TakenPublish);
    }

    /// The owner says that it is about to sleep. It must look again at everything it waits for
    /// before it does, and must not sleep for long if it [may be
    /// overlooked](Control::may_be_overlooked).
    pub fn park(&mut self) {
        self.sleeps += 1;
        // Takes the flag back, if it was there: who publishes from now on makes a fence.
        self.memory.store(CONTROL_PARKED, self.sleeps, Site::ParkStore);
        if self.barrier {
            // pairs with RingOrder, and with RingFence
            self.barrier = !self.memory.barrier(Site::ParkBarrier);
        } else {
            // pairs with RingFence
            self.memory.fence(Site::ParkFence);
        }
    }

    /// After [`park`](Control::park): whether somebody may not see that the owner sleeps, since the
    /// barrier that it had promised could not be made. A process may forbid itself that after it
    /// has connected.
    pub fn may_be_overlooked(&self) -> bool {
        self.barrier
    }

    /// The owner is awake.
    pub fn unpark(&self) {
        let word = if self.barrier { CONTROL_BARRIER } else { 0 };
        self.memory.store(CONTROL_PARKED, word, Site::ParkClear);
    }

    /// The owner has come to the end of a page. If it has not slept in it, it reads a stream, and
    /// will make a barrier before it does.
    pub fn turned(&mut self) {
        let sleeps_before = core::mem::replace(&mut self.sleeps_at_turn, self.sleeps);
        if sleeps_before == self.sleeps && !self.barrier && self.memory.has_barrier() {
            self.barrier = true;
            self.memory.store(CONTROL_PARKED, CONTROL_BARRIER, Site::BarrierPromise);
        }
    }

    /// Comes between everything that was published and [`must_ring`](Doorbell::must_ring); one
    /// fence serves for many peers, and is needed if [one of them](Doorbell::needs_fence) does.
    #[inline]
    pub fn ring_fence(&self, is_needed: impl FnOnce() -> bool) {
        // pairs with ParkBarrier
        self.memory.fence(Site::RingOrder);
        if is_needed() {
            // pairs with ParkFence, and with ParkBarrier
            self.memory.fence(Site::RingFence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;

    #[test]
    fn a_lying_control_region_is_a_fault() {
        let memory = Region::heap(control_len(1));
        assert!(matches!(Control::check(memory.clone(), 0), Err(Fault::Control { .. })));
        let ours = Control::create(memory.clone(), 1);
        assert!(Control::check(memory.clone(), 0).is_ok());
        for slot in [62, 63, usize::MAX / 64, usize::MAX] {
            assert!(matches!(Control::check(memory.clone(), slot), Err(Fault::NoCursor { .. })));
        }
        ours.memory().write_words(CONTROL_VERSION, [halves(VERSION + 1, 1)]);
        assert!(matches!(Control::check(memory, 0), Err(Fault::Control { .. })));
    }

    #[test]
    fn no_fence_is_needed_only_towards_who_makes_barriers_that_reach_us() {
        for word in [0, 1, CONTROL_BARRIER] {
            let memory = Region::heap(control_len(1));
            Control::create(memory.clone(), 1);
            memory.store(CONTROL_PARKED, word, Site::ParkStore);
            let doorbell = Doorbell::new(Control::check(memory.clone(), 0).unwrap());
            assert_eq!(doorbell.needs_fence(), word != CONTROL_BARRIER || !memory.is_reached());
        }
    }

    #[test]
    fn a_barrier_is_promised_by_who_reads_a_page_without_a_sleep_and_made_once() {
        let memory = Region::heap(control_len(1));
        let mut owner = Control::create(memory.clone(), 1);
        let promised = if memory.has_barrier() { CONTROL_BARRIER } else { 0 };
        let word = || memory.load(CONTROL_PARKED, Site::RingRead);
        for _ in 0..2 {
            assert_eq!(word(), promised);
            for _ in 0..2 {
                owner.park();
                assert!(!owner.may_be_overlooked());
                assert_eq!(word(), owner.sleeps, "the promise is taken back while it sleeps");
                owner.unpark();
                assert_eq!(word(), 0, "and not made again by waking up");
            }
            owner.turned();
            assert_eq!(word(), 0, "it has slept in that page");
            owner.turned();
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
        // Awake again before anybody has looked.
        owner.park();
        owner.unpark();
        assert!(!doorbell.must_ring());
    }
}

//! A control region: what a process tells its peers beside its chain; how to sleep and wake
//! without losing a wake-up.
//!
//! The region's owner alone writes it; peers map it read-only. It holds one *parked word* and one
//! *cursor* for every chain that the owner reads.
//!
//! Sleeping and waking, with the sleeper on the left:
//!
//! ```text
//!   park():  parked = 1               publish: commit word or cursor   (Release)
//!            fence                    fence
//!            look again               parked?  -> ring the doorbell
//!            block on the doorbell
//! ```
//!
//! No wake-up is lost (P10): either the sleeper's second look sees what was published, or the publisher sees `parked`: both
//! fences are in one total order, and whichever comes second sees what stood before the first.
//! A ring to somebody who is awake already costs him one byte to read, and nothing else.

use crate::fault::Fault;
use crate::layout::*;
use crate::memory::Memory;
use crate::order::Site;

/// A control region, our own or a peer's.
#[derive(Clone, Debug)]
pub struct Control<M> {
    memory: M,
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
        Control { memory }
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
        Ok(Control { memory })
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

    /// Takes back what a former reader in `slot` said. Nobody may be using the slot.
    pub(crate) fn reset_cursor(&self, slot: usize) {
        self.memory.store(cursor_offset(slot), 0, Site::CursorPublish);
    }

    /// The owner says that it is about to sleep. It must look again at everything it waits for
    /// before it does.
    pub fn park(&self) {
        self.memory.store(CONTROL_PARKED, 1, Site::ParkStore);
        // pairs with RingFence
        self.memory.fence(Site::ParkFence);
    }

    /// The owner is awake.
    pub fn unpark(&self) {
        self.memory.store(CONTROL_PARKED, 0, Site::ParkClear);
    }

    /// After something was published and [`ring_fence`](Control::ring_fence) has been called:
    /// does the owner sleep, so that it must be rung?
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.memory.load(CONTROL_PARKED, Site::RingRead) != 0
    }

    /// Comes between everything that was published and [`is_parked`](Control::is_parked); one
    /// fence serves for many peers.
    #[inline]
    pub fn ring_fence(&self) {
        // pairs with ParkFence
        self.memory.fence(Site::RingFence);
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
}

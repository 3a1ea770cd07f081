//! The parked word of a connection whose two halves may sleep in two threads.
//!
//! A process has one parked word and one socket for each connection. The owner of [`Parking`] locks
//! it for each call. The rules keep every wake-up (P10):
//!
//! * A half that parks stores a new number, fences, and checks again. Both halves can be parked.
//! * The half that leaves last clears the word. While a half sleeps, the word is not zero, so
//!   publishers ring.
//! * The half that reads a packet wakes the other half if that half is parked. The packet may be the
//!   only ring for both.
//! * What packets have told is kept for both halves, with a version. A half parks only at the version
//!   at which it has looked.
//! * No half starts to [poll](crate::core::control#polling) while the other one is parked, because
//!   that overwrites the number.
//!
//! `model/spec/sleepers.rs` explores these rules and programs that break each of them.

use crate::core::control::Control;
use crate::core::link::{Ends, Interest};
use crate::core::memory::Memory;

/// One half of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The half that sends.
    Sender = 1,
    /// The half that receives.
    Receiver = 2,
}

impl Half {
    /// Returns the other half.
    pub fn other(self) -> Half {
        match self {
            Half::Sender => Half::Receiver,
            Half::Receiver => Half::Sender,
        }
    }
}

/// The sleeping side of a connection.
#[derive(Debug)]
pub struct Parking<M> {
    control: Control<M>,
    /// The halves that are parked, one bit each.
    parked: u8,
}

impl<M: Memory> Parking<M> {
    /// Returns the sleeping side that stores into our own `control` region.
    pub fn new(control: Control<M>) -> Self {
        Parking { control, parked: 0 }
    }

    /// Returns our control region.
    pub fn control(&self) -> &Control<M> {
        &self.control
    }

    /// Announces a sleep of `half` and checks again. Returns whether it may block until it is rung,
    /// and whether the peer must be rung first. If it may not block, it is not parked.
    /// [`first_bounded_sleep`](Parking::first_bounded_sleep) says how long it may block.
    pub fn park(&mut self, half: Half, ends: &mut Ends<'_, M>, interest: Interest) -> (bool, bool) {
        let has_released = ends.release();
        self.parked |= half as u8;
        self.control.park();
        let ring = has_released && ends.must_ring();
        let may_sleep = !ends.is_ready(interest);
        if !may_sleep {
            self.unpark(half);
        }
        (may_sleep, ring)
    }

    /// Announces that `half` is awake.
    pub fn unpark(&mut self, half: Half) {
        self.parked &= !(half as u8);
        if self.parked == 0 {
            self.control.unpark();
        }
    }

    /// Returns whether `half` is parked.
    pub fn is_parked(&self, half: Half) -> bool {
        self.parked & half as u8 != 0
    }

    /// Records that the receiving half has reached the end of a page, see
    /// [`Control::page_advanced`].
    pub fn page_advanced(&mut self) {
        if self.parked == 0 {
            self.control.page_advanced();
        }
    }

    /// See [`Control::first_bounded_sleep`].
    pub fn first_bounded_sleep(&self) -> Option<u64> {
        self.control.first_bounded_sleep()
    }

    /// See [`Control::poll`].
    pub fn poll_from_now(&mut self) {
        self.control.poll();
    }

    /// See [`Control::never_poll`].
    pub fn never_poll(&mut self) {
        self.control.never_poll();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::control::Doorbell;
    use crate::core::layout::control_len;
    use crate::core::memory::Region;

    fn parking() -> (Parking<Region>, Doorbell<Region>) {
        let memory = Region::heap(control_len(1));
        let parking = Parking::new(Control::create(memory.clone(), 1));
        (parking, Doorbell::new(Control::check(memory, 0).unwrap()))
    }

    fn park(parking: &mut Parking<Region>, half: Half) {
        let mut ends = Ends { outbound: None, inbound: None };
        assert_eq!(parking.park(half, &mut ends, Interest::default()), (true, false));
    }

    // P10
    #[test]
    fn a_half_is_rung_for_as_long_as_it_sleeps() {
        let (mut parking, mut doorbell) = parking();
        park(&mut parking, Half::Sender);
        assert!(doorbell.must_ring_after_publish());
        // The ring was for the other half's sleep, too. It sleeps under a number of its own.
        park(&mut parking, Half::Receiver);
        assert!(doorbell.must_ring_after_publish());
        parking.unpark(Half::Receiver);
        park(&mut parking, Half::Receiver);
        parking.unpark(Half::Sender);
        assert!(doorbell.must_ring_after_publish(), "the receiving half sleeps");
        parking.unpark(Half::Receiver);
        assert!(!doorbell.must_ring_after_publish(), "both are awake");
    }

    // P10
    #[test]
    fn no_half_polls_while_the_other_one_sleeps() {
        let (mut parking, mut doorbell) = parking();
        // The receiving half reads a stream.
        parking.page_advanced();
        park(&mut parking, Half::Sender);
        (0..3).for_each(|_| parking.page_advanced());
        assert!(doorbell.must_ring_after_publish(), "the sending half sleeps");
        parking.unpark(Half::Sender);
        (0..2).for_each(|_| parking.page_advanced());
        assert!(!doorbell.must_ring_after_publish());
        assert!(doorbell.is_polling());
    }
}

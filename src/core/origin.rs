//! Where a message first entered a bus, and its bytes in the origin extension.

use crate::core::fault::Fault;
use crate::core::layout::{SLOT_EXTENSION, WORD, halves, high, low};
use crate::core::message::ClientId;
use core::num::NonZeroU64;

/// Where a message first entered a bus. A message that crosses from one bus to another carries it,
/// so that a receiver can detect a message that comes twice.
///
/// A message has one number in one epoch of one bus. So `bus`, `epoch` and `seq` together identify
/// the message. The library carries all four values unchanged.
///
/// ```
/// use llmp::{ClientId, Envelope, Origin};
/// use std::num::NonZeroU64;
///
/// let bus = NonZeroU64::new(0x5eed).unwrap();
/// let origin = Origin::new(bus, ClientId(3), 42).in_epoch(2);
///
/// let (mut sender, mut receiver) = llmp::channel()?;
/// sender.send_envelope(Envelope::tagged(7).with_origin(origin), b"hello")?;
/// let found = receiver.recv()?.origin.unwrap();
/// assert_eq!((found.bus(), found.client, found.epoch, found.seq), (bus, ClientId(3), 2, 42));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Origin {
    /// The identity of that bus, not zero. As a `NonZeroU64`, it would change where the compiler keeps
    /// the result of `recv`, which then costs a tenth more instructions.
    bus: u64,
    /// The client that sent the message there. Zero stands for the broker.
    pub client: ClientId,
    /// The epoch of that bus. Each broker that succeeds another begins a new epoch.
    pub epoch: u32,
    /// The message's number there, in that epoch.
    pub seq: u64,
}

impl Origin {
    /// Returns the origin of the message with the number `seq` that `client` sent on the bus with
    /// the identity `bus`, in epoch 0.
    pub fn new(bus: NonZeroU64, client: ClientId, seq: u64) -> Self {
        Origin { bus: bus.get(), client, epoch: 0, seq }
    }

    /// Returns the identity of that bus. Brokers that succeed each other on one bus share it.
    pub fn bus(&self) -> NonZeroU64 {
        // Every constructor sets a value that is not zero.
        NonZeroU64::new(self.bus).unwrap_or(NonZeroU64::MIN)
    }

    /// Sets the epoch in which the message has its number.
    #[must_use]
    pub fn in_epoch(mut self, epoch: u32) -> Self {
        self.epoch = epoch;
        self
    }

    /// Returns the words of the extension.
    #[inline]
    pub(crate) fn words(self) -> [u64; SLOT_EXTENSION / WORD] {
        [self.bus, halves(self.client.0, self.epoch), self.seq, 0]
    }

    /// Validates the words of the extension of the slot at `at` in page `page`, read once.
    pub(crate) fn raw(
        [bus, sender, seq, reserved]: [u64; SLOT_EXTENSION / WORD],
        page: u32,
        at: usize,
    ) -> Result<Self, Fault> {
        if reserved != 0 {
            return Err(Fault::Reserved { page, at, found: reserved });
        }
        let bus = NonZeroU64::new(bus).ok_or(Fault::OriginBus { page, at })?;
        Ok(Origin::new(bus, ClientId(low(sender)), seq).in_epoch(high(sender)))
    }
}

#[cfg(test)]
impl Origin {
    /// Returns an origin whose values all differ.
    pub(crate) fn example() -> Self {
        Origin::new(NonZeroU64::MAX, ClientId(0xfedc_ba98), 1 << 63 | 5).in_epoch(0x7654_3210)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_the_documented_bytes() {
        let words = Origin::example().words();
        assert_eq!(words, [u64::MAX, 0x7654_3210_fedc_ba98, 0x8000_0000_0000_0005, 0]);
        assert_eq!(Origin::raw(words, 3, 64), Ok(Origin::example()));
        let least = Origin::new(NonZeroU64::MIN, ClientId(0), 0);
        assert_eq!(least.words(), [1, 0, 0, 0]);
        assert_eq!(Origin::raw([1, 0, 0, 0], 3, 64), Ok(least));
    }

    // P12
    #[test]
    fn an_origin_with_a_reserved_bit_or_without_a_bus_is_a_fault() {
        for bit in 0..64 {
            let found = 1 << bit;
            let fault = Fault::Reserved { page: 3, at: 64, found };
            assert_eq!(Origin::raw([1, 2, 3, found], 3, 64), Err(fault));
        }
        let fault = Fault::OriginBus { page: 3, at: 64 };
        assert_eq!(Origin::raw([0, 2, 3, 0], 3, 64), Err(fault));
    }
}

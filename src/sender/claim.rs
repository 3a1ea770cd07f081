//! Claims: messages that are written in place.

use super::Sender;
use crate::core::chain;
use crate::core::memory::Region;
use crate::core::message::Envelope;
use crate::error::SendError;

/// Room for one message in the sender's page, to be filled and committed. A claim that is dropped or
/// forgotten without a [`commit`](Claim::commit) sends nothing.
///
/// ```
/// use llmp::Envelope;
/// use std::io::Write;
///
/// let (mut sender, mut receiver) = llmp::channel()?;
/// let mut claim = sender.claim(Envelope::tagged(1), 100)?;
/// let mut rest = claim.payload_mut();
/// write!(rest, "{} messages", 3)?;
/// let unused = rest.len();
/// claim.truncate(100 - unused);
/// claim.commit()?;
/// assert_eq!(receiver.recv()?.payload, b"3 messages");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Claim<'a> {
    sender: &'a mut Sender,
    envelope: Envelope,
    /// The claimed length in bytes.
    claimed: usize,
    /// The length of the message in bytes.
    len: usize,
}

impl<'a> Claim<'a> {
    /// Claims room, if there is room now. [`reserved`](Claim::reserved) returns the claim.
    pub(super) fn reserve(
        sender: &mut Sender,
        envelope: Envelope,
        len: usize,
    ) -> Result<(), SendError> {
        // If the claim is forgotten or unwound, the next operation discards it.
        sender.begin();
        let claimed = sender.with_room(|outbound| outbound.chain.claim(envelope, len).map(drop));
        if claimed.is_err() {
            sender.discard_unfinished();
        }
        claimed
    }

    /// Returns the claim that was [reserved](Claim::reserve) just before.
    pub(super) fn reserved(sender: &'a mut Sender, envelope: Envelope, len: usize) -> Self {
        let envelope = Envelope { sender: sender.connection.id, ..envelope };
        Claim { sender, envelope, claimed: len, len }
    }

    /// Claims the same room again. It is free, because the sender is borrowed since the first claim.
    fn again(&mut self) -> Option<chain::Claim<'_, Region>> {
        let mut claim = self.sender.outbound.chain.claim(self.envelope, self.claimed).ok()?;
        claim.truncate(self.len);
        Some(claim)
    }

    /// Returns the payload, to be written in place. Its initial content is unspecified.
    ///
    /// In a forked child these bytes are the child's own, and it cannot commit them.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        // The page is not mapped in a child.
        if !self.sender.connection.owner.is_here() {
            let scratch = &mut self.sender.scratch;
            scratch.resize(scratch.len().max(self.len), 0);
            return &mut scratch[..self.len];
        }
        self.again().map_or(&mut [], chain::Claim::into_payload)
    }

    /// Returns the length of the message in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the message has no payload.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Shortens the message to its first `len` bytes. Does nothing if it is not longer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Fills the payload and makes the message visible, unless `fill` fails.
    pub(crate) fn fill<E>(
        mut self,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, SendError> {
        match fill(self.payload_mut()) {
            Err(error) => Ok(Err(error)),
            Ok(()) => self.commit().map(Ok),
        }
    }

    /// Makes the message visible.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Disconnected`] in a forked child. The message is not sent then.
    pub fn commit(mut self) -> Result<(), SendError> {
        self.sender.connection.check_owner()?;
        if let Some(claim) = self.again() {
            claim.commit();
        }
        self.sender.finish();
        Ok(())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Does nothing after a commit.
        self.sender.discard_unfinished();
    }
}

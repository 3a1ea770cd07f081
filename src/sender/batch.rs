//! Batches: messages that become visible together.

use super::Sender;
use crate::core::message::{Envelope, Tag};
use crate::error::SendError;

/// Messages that become visible together. A batch that is dropped or forgotten without a
/// [`commit`](Batch::commit) sends nothing.
///
/// ```
/// let (mut sender, mut receiver) = llmp::channel()?;
/// let mut batch = sender.batch();
/// batch.try_send(1, b"one")?;
/// batch.try_send(2, b"two")?;
/// batch.commit();
/// assert_eq!(receiver.recv()?.payload, b"one");
/// assert_eq!(receiver.recv()?.payload, b"two");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Batch<'a> {
    sender: &'a mut Sender,
}

impl<'a> Batch<'a> {
    pub(super) fn new(sender: &'a mut Sender) -> Self {
        sender.begin();
        Batch { sender }
    }

    /// Adds a message to the batch. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if the chain has no room for the message. The message was not
    /// added then, and the earlier messages stay in the batch. Commit or drop the batch, and
    /// receive, before the next attempt.
    #[inline]
    pub fn try_send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        self.try_send_envelope(Envelope::tagged(tag), payload)
    }

    /// Adds a message with flags or an origin to the batch, like [`try_send`](Batch::try_send).
    ///
    /// ```
    /// use llmp::{Envelope, Flags};
    ///
    /// let (mut sender, mut receiver) = llmp::channel()?;
    /// let mut batch = sender.batch();
    /// batch.try_send(1, b"part")?;
    /// batch.try_send_envelope(Envelope::tagged(1).with_flags(Flags(1)), b"last part")?;
    /// batch.commit();
    /// assert_eq!(receiver.recv()?.flags, Flags(0));
    /// assert_eq!(receiver.recv()?.flags, Flags(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`try_send`](Batch::try_send).
    #[inline(always)]
    pub fn try_send_envelope(
        &mut self,
        envelope: Envelope,
        payload: &[u8],
    ) -> Result<(), SendError> {
        self.sender.append(envelope, payload)
    }

    /// Makes all messages of the batch visible. Does nothing in a forked child.
    pub fn commit(self) {
        self.sender.finish();
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // Does nothing after a commit.
        self.sender.discard_unfinished();
    }
}

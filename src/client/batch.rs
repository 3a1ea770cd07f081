//! Messages that become visible together.

use super::Client;
use crate::core::message::{Envelope, Tag};
use crate::error::SendError;

/// Messages that become visible together. Dropped or forgotten without a [`commit`](Batch::commit),
/// none of them was ever there.
///
/// ```
/// let (mut sender, mut receiver) = llmp::channel()?;
/// let mut batch = sender.batch();
/// batch.send(1, b"one")?;
/// batch.send(2, b"two")?;
/// batch.commit();
/// assert_eq!(receiver.recv()?.payload, b"one");
/// assert_eq!(receiver.recv()?.payload, b"two");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Batch<'a> {
    client: &'a mut Client,
}

impl<'a> Batch<'a> {
    pub(super) fn new(client: &'a mut Client) -> Self {
        client.connection.begin();
        Batch { client }
    }

    /// Adds a message to the batch.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if the batch fills the chain, or what was sent before still does: commit
    /// it, or drop it, and receive. In any case this message was not added, and the ones before are
    /// still in the batch.
    #[inline]
    pub fn send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        let envelope = Envelope { sender: self.client.connection.id, ..Envelope::tagged(tag) };
        self.client.connection.append(envelope, payload)
    }

    /// Makes the batch visible. In a forked child it does nothing.
    pub fn commit(self) {
        self.client.connection.finish();
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // Nothing, if it was committed.
        self.client.connection.discard_unfinished();
    }
}

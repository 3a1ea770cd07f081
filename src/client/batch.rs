//! Messages that become visible together.

use super::Client;
use crate::error::SendError;
use crate::message::{Envelope, Tag};

/// Messages that become visible together. Dropped without a [`commit`](Batch::commit), none of
/// them was ever there.
#[derive(Debug)]
pub struct Batch<'a> {
    client: &'a mut Client,
    committed: bool,
}

impl<'a> Batch<'a> {
    pub(super) fn new(client: &'a mut Client) -> Self {
        Batch { client, committed: false }
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
        let envelope = Envelope { sender: self.client.port.id, ..Envelope::tagged(tag) };
        self.client.port.append(envelope, payload)
    }

    /// Makes the batch visible.
    pub fn commit(mut self) {
        self.committed = true;
        self.client.port.publish();
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !self.committed
            && let Some(outbound) = self.client.port.endpoint.outbound_mut()
        {
            outbound.abort();
        }
    }
}

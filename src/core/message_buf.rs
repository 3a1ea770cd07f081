//! A message that owns its payload.

use crate::core::message::{ClientId, Envelope, Flags, Message, Tag};
use crate::core::origin::Origin;
use alloc::vec::Vec;

/// A received message that owns its payload. It stays valid after later calls on the client, and can
/// move to another thread.
///
/// ```
/// let (mut sender, mut receiver) = llmp::channel()?;
/// sender.send(1, b"one")?;
/// sender.send(2, b"two")?;
/// let one = receiver.recv()?.to_owned_buf();
/// let two = receiver.recv()?;
/// assert_eq!((one.payload.as_slice(), two.payload), (&b"one"[..], &b"two"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageBuf {
    /// The application's kind of message.
    pub tag: Tag,
    /// The application's bits.
    pub flags: Flags,
    /// The sending client. On a bus the broker sets it.
    pub sender: ClientId,
    /// Number of the message in the chain that it was received from, see [`Message::seq`].
    pub seq: u64,
    /// Where the message first entered a bus, if it carries that.
    pub origin: Option<Origin>,
    /// The payload.
    pub payload: Vec<u8>,
}

impl MessageBuf {
    /// Returns the header fields of the message.
    pub fn envelope(&self) -> Envelope {
        self.as_message().envelope()
    }

    /// Returns the message with a borrowed payload.
    pub fn as_message(&self) -> Message<'_> {
        let MessageBuf { tag, flags, sender, seq, ref origin, ref payload } = *self;
        Message { tag, flags, sender, seq, origin: origin.as_ref(), payload }
    }
}

impl From<Message<'_>> for MessageBuf {
    fn from(message: Message<'_>) -> Self {
        let Message { tag, flags, sender, seq, origin, payload } = message;
        let origin = origin.copied();
        MessageBuf { tag, flags, sender, seq, origin, payload: payload.to_vec() }
    }
}

impl Message<'_> {
    /// Returns the message with a copy of its payload.
    pub fn to_owned_buf(&self) -> MessageBuf {
        MessageBuf::from(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owned_message_has_every_field_of_the_borrowed_one() {
        let envelope = Envelope::tagged(7)
            .with_flags(Flags(5))
            .with_sender(ClientId(3))
            .with_origin(Origin::example());
        let message = Message::new(&envelope, 9, b"payload");
        let owned = message.to_owned_buf();
        assert_eq!(owned.as_message(), message);
        assert_eq!(owned.envelope(), envelope);
    }
}

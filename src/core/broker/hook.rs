//! Hooks: code of the user that sees each message before the broker forwards it.

use crate::core::message::Message;
use alloc::vec::Vec;

/// Sees every message that a broker forwards, in the order in which it is forwarded.
pub trait Hook: Send {
    /// Decides what happens to a message. The payload is the broker's own copy.
    fn on_message(&mut self, message: &Message<'_>) -> Verdict;
}

impl<F: FnMut(&Message<'_>) -> Verdict + Send> Hook for F {
    fn on_message(&mut self, message: &Message<'_>) -> Verdict {
        self(message)
    }
}

/// What happens to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The broker forwards it to all receivers.
    Forward,
    /// The broker forwards it to no receiver.
    Drop,
    /// The broker forwards this payload instead. It drops the message if the payload is above the
    /// bus's limit, and logs that.
    Replace(Vec<u8>),
}

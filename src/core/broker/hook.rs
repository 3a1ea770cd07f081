//! What a broker does with a message beside passing it on.

use crate::core::message::Message;
use alloc::vec::Vec;

/// Looks at every message that a broker takes, in the order in which it will be sent on.
pub trait Hook: Send {
    /// Decides what becomes of a message. The payload is the broker's own copy.
    fn on_message(&mut self, message: &Message<'_>) -> Verdict;
}

impl<F: FnMut(&Message<'_>) -> Verdict + Send> Hook for F {
    fn on_message(&mut self, message: &Message<'_>) -> Verdict {
        self(message)
    }
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everybody gets it.
    Forward,
    /// Nobody gets it.
    Drop,
    /// Everybody gets this payload instead. A payload above the bus's limit drops the message,
    /// and the broker's log says so.
    Replace(Vec<u8>),
}

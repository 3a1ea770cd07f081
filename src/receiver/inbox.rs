//! Messages that arrived while a client waited for room to send.

use crate::core::message::Envelope;
use std::collections::VecDeque;

/// A message: its envelope, its number in the broadcast chain, and its payload.
type Kept = (Envelope, u64, Vec<u8>);

/// Messages that were taken in before the user asked for them.
#[derive(Debug)]
pub(super) struct Inbox {
    messages: VecDeque<Kept>,
    /// The memory of these messages in bytes.
    pub bytes: usize,
    /// No message is taken in above this number of bytes.
    pub limit: usize,
}

impl Inbox {
    pub fn new(limit: usize) -> Self {
        Inbox { messages: VecDeque::new(), bytes: 0, limit }
    }

    /// Returns the memory that a message takes, in bytes.
    fn cost(payload: &[u8]) -> usize {
        payload.len() + size_of::<Kept>() + 32
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn push(&mut self, envelope: Envelope, seq: u64, payload: Vec<u8>) {
        self.bytes += Self::cost(&payload);
        self.messages.push_back((envelope, seq, payload));
    }

    pub fn pop(&mut self) -> Option<Kept> {
        let kept = self.messages.pop_front()?;
        self.bytes -= Self::cost(&kept.2);
        Some(kept)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.messages.len()
    }
}

//! Messages that arrived while a client waited for room to send, and missed messages.

use crate::core::message::Envelope;
use std::collections::VecDeque;

/// A message: its envelope, its number in the broadcast chain, and its payload.
type Kept = (Envelope, u64, Vec<u8>);

/// What is received next.
#[derive(Debug)]
pub(super) enum Entry {
    Message(Kept),
    /// This many messages were missed, or an unknown number.
    Gap(Option<u64>),
}

/// Messages that were taken in before the user asked for them, and gaps between them.
#[derive(Debug)]
pub(super) struct Inbox {
    entries: VecDeque<Entry>,
    /// The memory of these messages in bytes.
    pub bytes: usize,
    /// No message is taken in above this number of bytes.
    pub limit: usize,
}

impl Inbox {
    pub fn new(limit: usize) -> Self {
        Inbox { entries: VecDeque::new(), bytes: 0, limit }
    }

    /// Returns the memory that a message takes, in bytes.
    fn cost(payload: &[u8]) -> usize {
        payload.len() + size_of::<Kept>() + 32
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn push(&mut self, envelope: Envelope, seq: u64, payload: Vec<u8>) {
        self.bytes += Self::cost(&payload);
        self.entries.push_back(Entry::Message((envelope, seq, payload)));
    }

    /// Records missed messages, which come after all that is here.
    pub fn push_gap(&mut self, missed: Option<u64>) {
        match self.entries.back_mut() {
            Some(Entry::Gap(before)) => {
                *before = before.zip(missed).map(|(before, missed)| before + missed);
            }
            _ if missed != Some(0) => self.entries.push_back(Entry::Gap(missed)),
            _ => {}
        }
    }

    pub fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        if let Entry::Message((_, _, payload)) = &entry {
            self.bytes -= Self::cost(payload);
        }
        Some(entry)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

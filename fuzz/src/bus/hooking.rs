//! A broker's hook of which the ledger knows what it does.

use super::super::chain::{MAX_MESSAGE_LEN, Sent};
use llmp::Flags;
use llmp::core::broker::hook::Verdict;

/// What the broker's hook does with every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooking {
    None,
    Forward,
    /// By the same.
    Replace,
    /// Messages whose flags are all set are dropped, some others replaced by what is too long.
    Drop,
}

impl Hooking {
    pub fn verdict(self, flags: Flags, payload: &[u8]) -> Verdict {
        match self {
            Hooking::Drop if flags.0 == u16::MAX => Verdict::Drop,
            Hooking::Drop if payload.len() % 16 == 13 => {
                Verdict::Replace(vec![0; MAX_MESSAGE_LEN + 1])
            }
            Hooking::Replace => Verdict::Replace(payload.to_vec()),
            _ => Verdict::Forward,
        }
    }

    /// Whether a message gets past it.
    pub fn passes(self, sent: &Sent) -> bool {
        match self.verdict(sent.envelope.flags, &sent.payload) {
            Verdict::Forward => true,
            Verdict::Drop => false,
            Verdict::Replace(payload) => payload.len() <= MAX_MESSAGE_LEN,
        }
    }
}

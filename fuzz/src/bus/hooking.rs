//! A hook of the broker whose effect the ledger predicts.

use super::super::chain::{MAX_MESSAGE_LEN, Sent};
use llmp::Flags;
use llmp::core::broker::hook::Verdict;

/// What the hook does with every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooking {
    None,
    Forward,
    /// Replaces the payload by the same bytes.
    Replace,
    /// Drops messages whose flags are all set. Replaces some others by a payload that is too long.
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

    /// Returns whether the hook forwards a message.
    pub fn passes(self, sent: &Sent) -> bool {
        match self.verdict(sent.envelope.flags, &sent.payload) {
            Verdict::Forward => true,
            Verdict::Replace(payload) => payload.len() <= MAX_MESSAGE_LEN,
            _ => false,
        }
    }
}

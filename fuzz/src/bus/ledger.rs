//! What was sent on a bus, and what arrived.

use super::super::chain::Sent;
use llmp::ClientId;
use std::collections::BTreeMap;

/// The truth about a bus.
#[derive(Default)]
pub struct Ledger {
    /// What each client has committed and the broker's hook lets pass.
    sent: BTreeMap<ClientId, Vec<Sent>>,
    /// The one order, as whoever saw a message first saw it.
    order: BTreeMap<u64, Sent>,
    /// Liars, with the number of messages that had arrived of each before anything but the truth
    /// was shown; `None`: nothing but the truth was shown.
    liars: BTreeMap<ClientId, Option<usize>>,
}

impl Ledger {
    pub fn joined(&mut self, client: ClientId, lies: bool) {
        self.sent.insert(client, Vec::new());
        if lies {
            self.liars.insert(client, None);
        }
    }

    pub fn committed(&mut self, client: ClientId, sent: Sent) {
        self.sent.entry(client).or_default().push(sent);
    }

    /// Somebody honest has received the message of that number.
    pub fn arrived(&mut self, number: u64, sent: Sent) {
        // One order, and one content, even if its sender changes it all the time. [P2 P12]
        let first = self.order.entry(number).or_insert_with(|| sent.clone());
        assert_eq!(*first, sent, "two clients saw something else as message {number}");
    }

    /// From now on a liar's messages are its own business.
    pub fn tampered(&mut self) {
        for (liar, clean) in &mut self.liars {
            let arrived = || self.order.values().filter(|sent| sent.envelope.sender == *liar);
            clean.get_or_insert_with(|| arrived().count());
        }
    }

    /// Everybody honest has received everything. [P1 P2 P3 P4 P12]
    pub fn check(&self) {
        let numbers: Vec<u64> = self.order.keys().copied().collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "a gap");
        for (client, sent) in &self.sent {
            let arrived: Vec<_> =
                self.order.values().filter(|sent| sent.envelope.sender == *client).collect();
            let clean = match self.liars.get(client) {
                // After the first lie anything may have come, or nothing.
                Some(Some(clean)) => *clean,
                _ => {
                    assert_eq!(arrived.len(), sent.len(), "messages of client {client}");
                    sent.len()
                }
            };
            for (arrived, sent) in arrived.into_iter().zip(&sent[..clean]) {
                assert_eq!(arrived, sent, "of client {client}");
            }
        }
        let senders = self.order.values().map(|sent| sent.envelope.sender);
        let unknown: Vec<_> = senders.filter(|id| !self.sent.contains_key(id)).collect();
        assert!(unknown.is_empty(), "messages of nobody: {unknown:?}");
    }
}

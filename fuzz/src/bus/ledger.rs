//! Records what was sent on a bus and what arrived.

use super::super::chain::Sent;
use super::super::seen::Seen;
use llmp::ClientId;
use std::collections::BTreeMap;

/// The expected traffic of a bus.
#[derive(Default)]
pub struct Ledger {
    /// The messages of each client that are committed and that the broker's hook forwards.
    sent: BTreeMap<ClientId, Vec<Sent>>,
    /// The one order, as the first receiver of each message saw it.
    order: BTreeMap<u64, Arrived>,
    /// Hostile clients, with the number of their messages that had arrived before a forged word was
    /// shown; `None`: none was shown.
    hostile: BTreeMap<ClientId, Option<usize>>,
}

/// A message as a receiver saw it.
struct Arrived {
    sent: Sent,
    /// Whether its payload may differ from the sent one, because its sender may have forged it later.
    is_doubtful: bool,
}

impl Ledger {
    pub fn joined(&mut self, client: ClientId, is_hostile: bool) {
        self.sent.insert(client, Vec::new());
        if is_hostile {
            self.hostile.insert(client, None);
        }
    }

    pub fn is_hostile(&self, client: ClientId) -> bool {
        self.hostile.contains_key(&client)
    }

    pub fn committed(&mut self, client: ClientId, sent: Sent) {
        self.sent.entry(client).or_default().push(sent);
    }

    /// Records that a correct receiver got the message of that number.
    pub fn arrived(&mut self, number: u64, sent: Sent, is_by_ref: bool, seen: &mut Seen) {
        let has_forged = self.hostile.get(&sent.envelope.sender).is_some_and(Option::is_some);
        let is_doubtful = is_by_ref && has_forged;
        // One order, and one content, even if its sender changes it all the time. [P2 P12]
        let first = self.order.entry(number).or_insert_with(|| {
            let sent = sent.clone();
            Arrived { sent, is_doubtful }
        });
        if !is_doubtful {
            let first = &first.sent;
            assert_eq!(*first, sent, "two clients saw something else as message {number}");
            return;
        }
        // By reference the payload stays in the sender's page, which may forge it. Its length and
        // its position are fixed.
        let header = |sent: &Sent| (sent.envelope, sent.payload.len());
        assert_eq!(header(&first.sent), header(&sent), "two clients saw another message {number}");
        if first.sent != sent {
            seen.mark("payload by reference changed");
        }
    }

    /// From now on a hostile client's messages are not predicted.
    pub fn tampered(&mut self) {
        for (client, clean) in &mut self.hostile {
            let is_its = |arrived: &&Arrived| arrived.sent.envelope.sender == *client;
            clean.get_or_insert_with(|| self.order.values().filter(is_its).count());
        }
    }

    /// Checks that the correct clients have received everything. [P1 P2 P3 P4 P12]
    pub fn check(&self) {
        let numbers: Vec<u64> = self.order.keys().copied().collect();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "a gap");
        for (client, sent) in &self.sent {
            let is_its = |arrived: &&Arrived| arrived.sent.envelope.sender == *client;
            let arrived: Vec<_> = self.order.values().filter(is_its).collect();
            let clean = match self.hostile.get(client) {
                // After the first forged word, any number of messages may have come.
                Some(Some(clean)) => *clean,
                _ => {
                    assert_eq!(arrived.len(), sent.len(), "messages of client {client}");
                    sent.len()
                }
            };
            for (Arrived { sent: arrived, is_doubtful }, sent) in
                arrived.into_iter().zip(&sent[..clean])
            {
                assert_eq!(arrived.envelope, sent.envelope, "of client {client}");
                let len = arrived.payload.len();
                assert_eq!(len, sent.payload.len(), "length, of client {client}");
                let is_same = *is_doubtful || arrived.payload == sent.payload;
                assert!(is_same, "{len} bytes of client {client} are not what it sent");
            }
        }
        let senders = self.order.values().map(|arrived| arrived.sent.envelope.sender);
        let unknown: Vec<_> = senders.filter(|id| !self.sent.contains_key(id)).collect();
        assert!(unknown.is_empty(), "messages without a sender: {unknown:?}");
    }
}

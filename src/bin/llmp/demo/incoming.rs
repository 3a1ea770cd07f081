//! The receiving half of a demo's client. It counts every message and checks every file.

use super::note::Received;
use super::wire::{Digest, Part, Said};
use llmp::{ClientId, Message};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// A file whose end has not arrived.
struct Open {
    number: u64,
    name: String,
    len: u64,
    hash: Sha256,
}

/// Another client of the demo.
#[derive(Default)]
struct Peer {
    /// The next sequence number.
    next: u64,
    open: Option<Open>,
    done: bool,
}

/// The state of the files of the other clients.
#[derive(Default)]
pub struct Incoming {
    peers: BTreeMap<ClientId, Peer>,
    received: Received,
}

impl Incoming {
    /// Returns the counters.
    pub fn received(&self) -> Received {
        self.received
    }

    /// Returns how many of the others have announced that they are done.
    pub fn done(&self) -> usize {
        self.peers.values().filter(|peer| peer.done).count()
    }

    /// Handles a message. Returns a warning if a file did not arrive whole.
    pub fn take(&mut self, message: &Message<'_>) -> Option<String> {
        let received = &mut self.received;
        let Some(said) = Said::read(message.tag.0, message.payload) else {
            received.corrupt += 1;
            return Some(format!("a message of client {} can't be parsed", message.sender));
        };
        let peer = self.peers.entry(message.sender).or_default();
        if said.sequence < peer.next {
            received.duplicated += 1;
            return None;
        }
        received.lost += said.sequence - peer.next;
        peer.next = said.sequence + 1;
        received.messages += 1;
        received.bytes += message.payload.len() as u64;
        match said.part {
            Part::Data(bytes) => {
                received.file_bytes += bytes.len() as u64;
                // If the beginning of a file was lost, its bytes are dropped here, and its end
                // reports that.
                if let Some(open) = peer.open.as_mut().filter(|open| open.number == said.file) {
                    open.len += bytes.len() as u64;
                    open.hash.update(bytes);
                }
                None
            }
            Part::Begin { name } => {
                let unfinished = peer.open.take();
                let name = String::from_utf8_lossy(name).into_owned();
                let number = said.file;
                peer.open = Some(Open { number, name, len: 0, hash: Sha256::new() });
                self.unfinished(unfinished)
            }
            Part::End { len, digest } => {
                let open = peer.open.take();
                self.end(open, said.file, len, digest)
            }
            Part::Done => {
                peer.done = true;
                let unfinished = peer.open.take();
                self.unfinished(unfinished)
            }
        }
    }

    fn end(
        &mut self,
        open: Option<Open>,
        number: u64,
        len: u64,
        digest: &Digest,
    ) -> Option<String> {
        match open {
            Some(open) if open.number == number => {
                let found: Digest = open.hash.finalize().into();
                if open.len == len && found == *digest {
                    self.received.files += 1;
                    return None;
                }
                self.received.corrupt += 1;
                let Open { name, len: found, .. } = open;
                Some(if found == len {
                    format!("{name} arrived corrupt: its SHA-256 differs")
                } else {
                    format!("{name} arrived corrupt: it has {found} bytes instead of {len}")
                })
            }
            other => {
                self.received.corrupt += 1;
                let unfinished = self.unfinished(other);
                unfinished.or_else(|| Some(format!("the beginning of file {number} never arrived")))
            }
        }
    }

    fn unfinished(&mut self, open: Option<Open>) -> Option<String> {
        let open = open?;
        self.received.corrupt += 1;
        Some(format!("the end of {} never arrived", open.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmp::Envelope;

    /// Returns a file of two pieces, as its sender sends it.
    fn file() -> Vec<(u32, Vec<u8>)> {
        let digest: Digest = Sha256::digest(b"hello world").into();
        let parts = [
            Part::Begin { name: b"name" },
            Part::Data(b"hello "),
            Part::Data(b"world"),
            Part::End { len: 11, digest: &digest },
            Part::Done,
        ];
        let say = |(sequence, part)| {
            let mut payload = Vec::new();
            let file = 0;
            (Said { sequence: sequence as u64, file, part }.write(&mut payload), payload)
        };
        parts.into_iter().enumerate().map(say).collect()
    }

    fn take(messages: Vec<(u32, Vec<u8>)>) -> (Received, Vec<String>, usize) {
        let mut incoming = Incoming::default();
        let mut wrong = Vec::new();
        for (id, (tag, payload)) in messages.iter().enumerate() {
            let envelope = Envelope::tagged(*tag).with_sender(ClientId(1));
            let message = Message::new(&envelope, id as u64, payload);
            wrong.extend(incoming.take(&message));
        }
        (incoming.received(), wrong, incoming.done())
    }

    #[test]
    fn a_whole_file_is_whole() {
        let (received, wrong, done) = take(file());
        assert_eq!((received.files, received.messages, received.file_bytes), (1, 5, 11));
        assert_eq!((received.lost, received.duplicated, received.corrupt), (0, 0, 0));
        assert_eq!((wrong.len(), done), (0, 1));
    }

    #[test]
    fn every_lost_message_is_counted_and_spoils_its_file() {
        for i in 0..4 {
            let mut messages = file();
            messages.remove(i);
            let (received, wrong, _) = take(messages);
            assert_eq!((received.lost, received.corrupt, received.files), (1, 1, 0), "{i}");
            assert_eq!(wrong.len(), 1);
        }
    }

    #[test]
    fn every_repeated_message_is_counted_and_spoils_nothing() {
        for i in 0..5 {
            let mut messages = file();
            messages.insert(i, messages[i].clone());
            let (received, ..) = take(messages);
            assert_eq!((received.duplicated, received.corrupt, received.files), (1, 0, 1), "{i}");
        }
    }

    #[test]
    fn a_byte_that_changed_is_seen() {
        for (i, at) in [(1, 16), (2, 20), (3, 20), (3, 50)] {
            let mut messages = file();
            messages[i].1[at] ^= 1;
            let (received, wrong, _) = take(messages);
            assert_eq!((received.corrupt, received.files), (1, 0), "{i}");
            assert_eq!(wrong.len(), 1);
        }
    }
}

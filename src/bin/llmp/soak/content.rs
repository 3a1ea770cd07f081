//! The messages of a soak. Each says its sender and its number, and its other bytes follow from these.

use std::ops::Range;

/// Length of the sender, the client id and the number.
const HEAD: usize = 16;

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The number of the process that has sent it.
    pub sender: u32,
    /// The sender's client id.
    pub client: u32,
    /// The sender's number of the message, from 0.
    pub number: u64,
}

impl Head {
    /// Writes the payload with `more` bytes after the head.
    pub fn write(self, more: usize, payload: &mut Vec<u8>) {
        payload.clear();
        payload.extend(self.sender.to_le_bytes());
        payload.extend(self.client.to_le_bytes());
        payload.extend(self.number.to_le_bytes());
        let words = more.div_ceil(8) as u64;
        payload.extend((0..words).flat_map(|word| self.word(word).to_le_bytes()));
        payload.truncate(HEAD + more);
    }

    /// Reads a payload. Returns `None` if a byte is wrong.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let u32_at = |at: Range<usize>| Some(u32::from_le_bytes(payload.get(at)?.try_into().ok()?));
        let number = u64::from_le_bytes(payload.get(8..HEAD)?.try_into().ok()?);
        let head = Head { sender: u32_at(0..4)?, client: u32_at(4..8)?, number };
        let (words, rest) = payload[HEAD..].as_chunks();
        let is_right =
            |(word, bytes): (u64, &[u8])| head.word(word).to_le_bytes().starts_with(bytes);
        let all = words.iter().map(<[u8; 8]>::as_slice).chain([rest]);
        (0..).zip(all).all(is_right).then_some(head)
    }

    fn word(self, word: u64) -> u64 {
        let seed = self.number << 32 ^ u64::from(self.sender);
        (seed ^ word.rotate_right(16)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_as_it_was_written_and_each_wrong_byte_is_noticed() {
        let head = Head { sender: 3, client: 9, number: 1 << 40 | 7 };
        let mut payload = Vec::new();
        for more in [0, 1, 7, 8, 9, 100] {
            head.write(more, &mut payload);
            assert_eq!((payload.len(), Head::read(&payload)), (HEAD + more, Some(head)));
            for at in 0..payload.len() {
                payload[at] ^= 1;
                assert_ne!(Head::read(&payload), Some(head), "byte {at} of {more}");
                payload[at] ^= 1;
            }
        }
        assert_eq!(Head::read(&payload[..HEAD - 1]), None);
    }
}

//! The messages that the clients of a demo exchange on the bus.
//!
//! The tag of a message is its kind. Every payload begins with the sender's sequence number and the
//! number of its file, both of 8 bytes, little-endian:
//!
//! ```text
//!   BEGIN  sequence | file | name
//!   DATA   sequence | file | bytes
//!   END    sequence | file | length | SHA-256
//!   DONE   sequence | number of files        (the sequence number is the number of messages before)
//! ```

/// Sequence number and file number.
pub const HEAD: usize = 16;

const BEGIN: u32 = 1;
const DATA: u32 = 2;
const END: u32 = 3;
const DONE: u32 = 4;

/// SHA-256 of a file.
pub type Digest = [u8; 32];

/// The content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The beginning of a file.
    Begin { name: &'a [u8] },
    /// The next bytes of a file.
    Data(&'a [u8]),
    /// The end of a file, with its length and hash as its sender read them.
    End { len: u64, digest: &'a Digest },
    /// The sender has sent all its files. The message's file number is their count.
    Done,
}

/// A message of a demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// Counts the messages of a sender, from 0.
    pub sequence: u64,
    /// Counts the files of a sender, from 0.
    pub file: u64,
    /// The content.
    pub part: Part<'a>,
}

impl<'a> Said<'a> {
    /// Writes the payload of this message to `payload` and returns the tag.
    pub fn write(&self, payload: &mut Vec<u8>) -> u32 {
        payload.clear();
        payload.extend(self.sequence.to_le_bytes());
        payload.extend(self.file.to_le_bytes());
        match self.part {
            Part::Begin { name } => payload.extend(name),
            Part::Data(bytes) => payload.extend(bytes),
            Part::End { len, digest } => {
                payload.extend(len.to_le_bytes());
                payload.extend(digest);
            }
            Part::Done => {}
        }
        match self.part {
            Part::Begin { .. } => BEGIN,
            Part::Data(_) => DATA,
            Part::End { .. } => END,
            Part::Done => DONE,
        }
    }

    /// Parses a received message. Returns `None` if it is not a message of a demo.
    pub fn read(tag: u32, payload: &'a [u8]) -> Option<Said<'a>> {
        let (sequence, rest) = number(payload)?;
        let (file, rest) = number(rest)?;
        let part = match tag {
            BEGIN => Part::Begin { name: rest },
            DATA => Part::Data(rest),
            END => {
                let (len, digest) = number(rest)?;
                Part::End { len, digest: digest.try_into().ok()? }
            }
            DONE if rest.is_empty() => Part::Done,
            _ => return None,
        };
        Some(Said { sequence, file, part })
    }
}

/// Writes the header in front of the bytes of a file, which are in `payload` already. Returns the
/// tag.
pub fn write_data_head(sequence: u64, file: u64, payload: &mut [u8]) -> u32 {
    payload[..8].copy_from_slice(&sequence.to_le_bytes());
    payload[8..HEAD].copy_from_slice(&file.to_le_bytes());
    DATA
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_message_is_read_back() {
        let end = Part::End { len: 77, digest: &[5; 32] };
        for part in [Part::Begin { name: b"a\xff" }, Part::Data(b""), end, Part::Done] {
            let said = Said { sequence: 3, file: 9, part };
            let mut payload = Vec::new();
            let tag = said.write(&mut payload);
            assert_eq!(Said::read(tag, &payload), Some(said));
            assert_eq!(Said::read(9, &payload), None);
            assert_eq!(Said::read(tag, &payload[..HEAD - 1]), None);
        }
    }
}

//! What the clients of a demo say to each other on the bus.
//!
//! The message's tag tells its kind. Every payload begins with the sender's sequence number and
//! the number of the file it is about, both of 8 bytes, little-endian:
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

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A file begins.
    Begin { name: &'a [u8] },
    /// It goes on.
    Data(&'a [u8]),
    /// It has ended; this is what its sender has read.
    End { len: u64, digest: &'a Digest },
    /// The sender has sent all its files, as many as the message's file number says.
    Done,
}

/// A message of a demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// Counts the messages of a sender, from 0.
    pub sequence: u64,
    /// Counts the files of a sender, from 0.
    pub file: u64,
    /// What it is about.
    pub part: Part<'a>,
}

impl<'a> Said<'a> {
    /// The tag and, in `payload`, the payload of this message.
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

    /// What a received message says. `None` if no client of a demo has said it.
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

/// Writes what stands before the bytes of a file, which are in their place behind it already.
/// Returns the tag.
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
    fn what_is_said_is_understood() {
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

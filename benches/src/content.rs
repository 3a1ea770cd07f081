//! The content of messages, and how a receiver detects a lost, repeated or changed one.
//!
//! A message begins with a word that names its sender and its number. Its other bytes are one of a
//! few windows into random bytes, chosen by the number. A receiver that reads every byte compares
//! their checksum with that of the window. So it detects the bytes of a stale slot or of a torn
//! copy. A sender need not write every byte anew, which would measure the sender's memory.

use serde::{Deserialize, Serialize};

/// The least length of a message in bytes: its first word.
pub const LEAST: usize = 8;

const END: u64 = 1 << 63;
const SENDER_SHIFT: u32 = 48;
const NUMBER: u64 = (1 << SENDER_SHIFT) - 1;
const WINDOWS: usize = 8;
/// A line apart, so that the copy of each window is aligned alike.
const WINDOW_STEP: usize = 64;

/// A deliberate error of a sender, which the receiver must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Sabotage {
    /// Leaves out a message.
    Drop,
    /// Sends a message twice.
    Repeat,
    /// Changes the last byte of a message.
    Corrupt,
}

/// The number of the message that a sabotaged sender spoils: so early that each workload reaches it.
const SPOILT: u64 = 30;

/// The messages of one sender, one after the other.
pub struct Content {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    head: u64,
    number: u64,
    /// The random bytes under the last message's first word, and their place.
    hidden: ([u8; LEAST], usize),
    sabotage: Option<Sabotage>,
    spoilt: u64,
}

impl Content {
    pub fn new(len: usize, sender: usize, sabotage: Option<Sabotage>) -> Self {
        assert!(len >= LEAST, "a message holds its number");
        let mut bytes = vec![0; len + (WINDOWS + 1) * WINDOW_STEP];
        let start = bytes.as_ptr().align_offset(WINDOW_STEP);
        fill(&mut bytes[start..]);
        let hidden = (bytes[start..].first_chunk().copied().unwrap_or_default(), start);
        let spoilt = if sabotage.is_some() { SPOILT } else { u64::MAX };
        let head = (sender as u64) << SENDER_SHIFT;
        Content { bytes, start, len, head, number: 0, hidden, sabotage, spoilt }
    }

    /// Returns the number of messages so far.
    pub fn count(&self) -> u64 {
        self.number
    }

    /// Length of each message in bytes.
    pub fn message_len(&self) -> usize {
        self.len
    }

    /// The next message.
    #[inline]
    pub fn message(&mut self) -> &[u8] {
        if self.number == self.spoilt {
            self.spoil();
        }
        self.put(0)
    }

    /// The first word of the next message, which is written in place and has no other bytes.
    #[inline]
    pub fn head(&mut self) -> [u8; LEAST] {
        if self.number == self.spoilt {
            self.spoil();
        }
        self.number += 1;
        (self.head | (self.number - 1) & NUMBER).to_le_bytes()
    }

    /// The last message.
    pub fn end(&mut self) -> &[u8] {
        self.put(END)
    }

    /// The last message found no room and is the next one again.
    pub fn take_back(&mut self) {
        self.number -= 1;
    }

    #[inline]
    fn put(&mut self, flag: u64) -> &[u8] {
        let (word, at) = self.hidden;
        self.bytes[at..at + LEAST].copy_from_slice(&word);
        let at = self.start + window(self.number);
        let message = &mut self.bytes[at..at + self.len];
        let head = flag | self.head | self.number & NUMBER;
        let (first, _) = message.split_at_mut(LEAST);
        self.hidden = ([0; LEAST], at);
        self.hidden.0.copy_from_slice(first);
        first.copy_from_slice(&head.to_le_bytes());
        self.number += 1;
        message
    }

    #[cold]
    fn spoil(&mut self) {
        self.spoilt = u64::MAX;
        match self.sabotage {
            Some(Sabotage::Drop) => self.number += 1,
            Some(Sabotage::Repeat) => self.number -= 1,
            // Detected only where every byte is read, and not in a message without other bytes.
            Some(Sabotage::Corrupt) => {
                let last = self.start + window(self.number) + self.len - 1;
                self.bytes[last] ^= 0x10;
            }
            None => {}
        }
    }
}

#[inline]
fn window(number: u64) -> usize {
    number as usize % WINDOWS * WINDOW_STEP
}

/// Random bytes, the same in every process.
fn fill(bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 24) as u8;
    }
}

/// A receiver's view of what it has got.
pub struct Check {
    every_byte: bool,
    len: usize,
    sums: [u64; WINDOWS],
    /// The number of the next message of each sender.
    next: Vec<u64>,
    ended: Vec<bool>,
    messages: u64,
}

impl Check {
    pub fn new(len: usize, senders: usize, every_byte: bool) -> Self {
        let mut content = Content::new(len, 0, None);
        let sums = std::array::from_fn(|_| sum(&content.message()[LEAST..]));
        Check {
            every_byte,
            len,
            sums,
            next: vec![0; senders],
            ended: vec![false; senders],
            messages: 0,
        }
    }

    /// Returns the number of verified messages.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Returns the number of verified messages of a sender.
    pub fn messages_of(&self, sender: usize) -> u64 {
        self.next.get(sender).copied().unwrap_or(0)
    }

    /// Returns whether a sender has sent its last message.
    pub fn has_ended(&self, sender: usize) -> bool {
        self.ended.get(sender).copied().unwrap_or(false)
    }

    /// Verifies a message. Returns whether it is its sender's last one.
    #[inline]
    pub fn look(&mut self, message: &[u8]) -> Result<bool, Wrong> {
        let Some(head) = message.first_chunk().filter(|_| message.len() == self.len) else {
            return Err(Wrong::Length);
        };
        let head = u64::from_le_bytes(*head);
        let sender = ((head & !END) >> SENDER_SHIFT) as usize;
        let number = head & NUMBER;
        match self.next.get_mut(sender) {
            Some(next) if *next == number => *next += 1,
            Some(next) if *next < number => return Err(Wrong::Missing),
            Some(_) => return Err(Wrong::Again),
            None => return Err(Wrong::Sender),
        }
        if self.every_byte && sum(&message[LEAST..]) != self.sums[number as usize % WINDOWS] {
            return Err(Wrong::Bytes);
        }
        self.messages += 1;
        let is_last = head & END != 0;
        self.ended[sender] |= is_last;
        Ok(is_last)
    }
}

/// The error in a message. It is small, so that returning it costs nothing. The measurement must
/// not include how a receiver verifies a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Length,
    Missing,
    Again,
    Sender,
    Bytes,
}

impl std::error::Error for Wrong {}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wrong::Length => "a message of another length than was sent",
            Wrong::Missing => "a message is missing",
            Wrong::Again => "a message has come before",
            Wrong::Sender => "a message of an unknown sender",
            Wrong::Bytes => "a message has other bytes than were sent",
        })
    }
}

/// A checksum that reads every byte at the speed of memory and depends on their order.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (lines, rest) = bytes.as_chunks::<64>();
    let (mut plain, mut placed) = ([0u64; 8], [0u64; 8]);
    for line in lines {
        for (i, word) in line.as_chunks::<8>().0.iter().enumerate() {
            plain[i] = plain[i].wrapping_add(u64::from_le_bytes(*word));
            placed[i] = placed[i].wrapping_add(plain[i]);
        }
    }
    let (words, bytes) = rest.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let bytes = bytes.iter().map(|byte| u64::from(*byte));
    let mut sum = Sum::default();
    if !lines.is_empty() {
        plain.into_iter().chain(placed).for_each(|word| sum.add(word));
    }
    words.chain(bytes).for_each(|word| sum.add(word));
    sum.plain ^ sum.placed.rotate_left(32)
}

/// A sum of words, and the sum of these sums, which depends on their order.
#[derive(Default)]
struct Sum {
    plain: u64,
    placed: u64,
}

impl Sum {
    #[inline]
    fn add(&mut self, word: u64) {
        self.plain = self.plain.wrapping_add(word);
        self.placed = self.placed.wrapping_add(self.plain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(len: usize, sabotage: Option<Sabotage>) -> Result<u64, Wrong> {
        let mut content = Content::new(len, 0, sabotage);
        let mut check = Check::new(len, 1, true);
        for _ in 0..1000 {
            check.look(content.message())?;
        }
        assert!(check.look(content.end())?);
        Ok(check.messages())
    }

    #[test]
    fn sent_messages_match_the_expected_ones() {
        for len in [8, 16, 24, 64, 100, 4096] {
            assert_eq!(exchange(len, None).unwrap(), 1001);
        }
    }

    #[test]
    fn a_missing_a_repeated_and_a_changed_message_are_noticed() {
        for sabotage in [Sabotage::Drop, Sabotage::Repeat, Sabotage::Corrupt] {
            for len in [16, 64, 100, 4096] {
                assert!(exchange(len, Some(sabotage)).is_err(), "{sabotage:?} of {len} bytes");
            }
        }
    }

    #[test]
    fn every_bit_of_every_byte_counts() {
        let mut message = Content::new(200, 0, None).message().to_vec();
        for at in 0..200 {
            message[at] ^= 1;
            assert!(Check::new(200, 1, true).look(&message).is_err(), "byte {at}");
            message[at] ^= 1;
        }
        assert!(Check::new(200, 1, true).look(&message).is_ok());
    }
}

//! The content of the messages. A payload follows from its sender and its tag alone, so that a
//! receiver can verify every byte. Tags count up, so that a gap shows.

use super::TIMEOUT;
use llmp::{Client, Message, Sender};
use std::collections::HashMap;

/// A kind of content: the tag's upper bits, which decide how long messages are.
pub const SMALL: u32 = 0;
pub const MEDIUM: u32 = 1 << 28;
pub const WIDE: u32 = 2 << 28;
/// Lengths that follow from the number alone, so that a script takes the same steps every time. Some
/// are longer than a page of 4096 bytes.
pub const STEADY: u32 = 4 << 28;
/// The last message of a sender, or of a round. It is empty.
pub const END: u32 = 3 << 28;
const KIND: u32 = 0xf << 28;

const PAGE: usize = llmp::Limits::DEFAULT_PAGE_LEN;
/// What a page holds besides one message without an origin.
const AROUND: usize = 64 + 16 + 16;
const LENS: &[usize] = &[
    0,
    1,
    7,
    8,
    9,
    15,
    16,
    17,
    100,
    4000,
    4095,
    4096,
    4097,
    65_536,
    PAGE / 2,
    PAGE / 3,
    PAGE - AROUND - 1,
    PAGE - AROUND,
    PAGE - AROUND + 1,
    PAGE - 1,
    PAGE,
    PAGE + 1,
    2 * PAGE - AROUND,
    2 * PAGE,
    1 << 20,
    3 << 20,
];

const STEADY_LENS: &[usize] = &[1500, 2500, 0, 100, 6000, 3000, 1200, 8, 16, 3000, 700, 2000];

/// The next of a row of numbers that look random (splitmix64).
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Returns a new seed each time. It is printed when the test fails.
pub fn seed() -> u64 {
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).unwrap();
    let seed = u64::from_le_bytes(seed);
    println!("seed {seed:#x}");
    seed
}

/// The payload of `sender`'s message with this tag.
pub fn payload(sender: u32, tag: u32) -> Vec<u8> {
    let mut state = u64::from(sender) << 32 | u64::from(tag);
    let choice = random(&mut state) as usize;
    let len = match tag & KIND {
        SMALL => choice % 2001,
        MEDIUM => choice % 80_001,
        WIDE => LENS[choice % LENS.len()],
        STEADY => STEADY_LENS[(tag & !KIND) as usize % STEADY_LENS.len()],
        _ => 0,
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(random(&mut state).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Sends one message of a kind.
pub fn send(client: &mut impl Sends, kind: u32, number: u32) {
    let tag = kind | number;
    client.send_tagged(tag, &payload(client.number(), tag));
}

/// A client with a chain of its own.
pub trait Sends {
    fn number(&self) -> u32;
    fn send_tagged(&mut self, tag: u32, payload: &[u8]);
}

impl Sends for Client {
    fn number(&self) -> u32 {
        self.id().0
    }

    fn send_tagged(&mut self, tag: u32, payload: &[u8]) {
        self.send(tag, payload).unwrap();
    }
}

impl Sends for Sender {
    fn number(&self) -> u32 {
        self.id().0
    }

    fn send_tagged(&mut self, tag: u32, payload: &[u8]) {
        self.send(tag, payload).unwrap();
    }
}

/// Checks every byte of a message.
pub fn check(message: &Message<'_>) {
    let expected = payload(message.sender.0, message.tag.0);
    assert!(message.payload == expected, "torn: {:?} of {}", message.tag, message.sender);
}

/// Verifies all messages of a bus and counts them. A gap fails the test.
#[derive(Clone, Debug, Default)]
pub struct Ear {
    /// The number of each sender's next message.
    pub next: HashMap<u32, u32>,
    id: Option<u64>,
}

impl Ear {
    /// Takes one message: whole, in its sender's order, and with the next number on the bus.
    pub fn hear(&mut self, message: &Message<'_>) {
        check(message);
        let id = self.id.get_or_insert(message.seq);
        assert_eq!(message.seq, *id, "a gap on the bus");
        *id += 1;
        let next = self.next.entry(message.sender.0).or_default();
        if message.tag.0 & KIND != END {
            assert_eq!(message.tag.0 & !KIND, *next, "a gap in what {} sent", message.sender);
            *next += 1;
        }
    }

    /// Listens until `END` with this number.
    pub fn hear_until_end(&mut self, client: &mut Client, number: u32) {
        loop {
            let message = client.recv_timeout(TIMEOUT).unwrap().expect("a message");
            self.hear(&message);
            if message.tag.0 == END | number {
                return;
            }
        }
    }

    pub fn heard_of(&self, sender: u32) -> u32 {
        self.next.get(&sender).copied().unwrap_or(0)
    }

    pub fn heard(&self) -> u32 {
        self.next.values().sum()
    }
}

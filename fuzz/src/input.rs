//! A fuzzer's input as a sequence of choices, and the same sequence as a seed.
//!
//! The format is simple, so that seeds can be written by hand and a changed byte changes one
//! choice. After its end an input continues with zeroes.

use arbitrary::Unstructured;

pub struct Input<'a>(Unstructured<'a>);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Input(Unstructured::new(bytes))
    }

    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        self.0.bytes(len.min(self.0.len())).unwrap_or_default()
    }

    /// Returns the rest.
    #[cfg(feature = "cli")]
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.byte() as usize % end
    }

    pub fn half(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub fn word(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or_default()
    }
}

/// A seed under construction.
#[derive(Clone, Default)]
pub struct Seed(pub Vec<u8>);

impl Seed {
    pub fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn half(self, half: u16) -> Self {
        self.bytes(&half.to_le_bytes())
    }

    pub fn word(self, word: u64) -> Self {
        self.bytes(&word.to_le_bytes())
    }
}

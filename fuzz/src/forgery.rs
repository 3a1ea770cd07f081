//! Forged words that an input decides: which words, from when, for how long, and how.

use super::hostile::Mischief;
use super::input::Input;
use std::sync::{Arc, Mutex, PoisonError};

/// Forgeries of the words of several regions, which share one count of accesses.
#[derive(Debug, Default)]
pub struct Script {
    forgeries: Vec<Forgery>,
    /// Words that were read until now.
    pub accesses: u64,
    /// Whether a reader was shown any forged word.
    pub tampered: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Forgery {
    pub region: usize,
    pub from: usize,
    pub to: usize,
    first_access: u64,
    accesses: u64,
    change: Change,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Flip(u64),
    Set(u64),
    Add(u64),
}

impl Forgery {
    /// Reads a forgery: three halves and four bytes, then a word.
    pub fn arbitrary(input: &mut Input) -> Forgery {
        let (region, offset, words) = (input.below(8), input.half(), input.byte());
        let (first, accesses) = (input.half(), input.half());
        let (change, value) = (input.below(3), input.word());
        let from = offset as usize % 512 * 8;
        Forgery {
            region,
            from,
            to: from + 8 * (words as usize + 1),
            first_access: first.into(),
            accesses: accesses.into(),
            change: [Change::Flip(value), Change::Set(value), Change::Add(value)][change],
        }
    }

    /// Returns the forged value of a word.
    pub fn change(&self, word: u64) -> u64 {
        match self.change {
            Change::Flip(bits) => word ^ bits,
            Change::Set(value) => value,
            Change::Add(value) => word.wrapping_add(value),
        }
    }
}

impl Script {
    pub fn add(&mut self, input: &mut Input) {
        self.forgeries.push(Forgery::arbitrary(input));
    }
}

/// The forgeries of one region.
#[derive(Clone, Debug)]
pub struct ForgedRegion {
    pub region: usize,
    pub script: Arc<Mutex<Script>>,
}

impl Mischief for ForgedRegion {
    fn word(&mut self, at: usize, honest: u64) -> u64 {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let now = script.accesses;
        script.accesses += 1;
        let applies = |forgery: &&Forgery| {
            forgery.region == self.region
                && (forgery.from..forgery.to).contains(&at)
                && now >= forgery.first_access
                && now - forgery.first_access <= forgery.accesses
        };
        let applied = script.forgeries.iter().filter(applies);
        let seen = applied.fold(honest, |word, forgery| forgery.change(word));
        script.tampered |= seen != honest;
        seen
    }
}

//! Honest chains, lied about in one place, at once or between two reads.

use super::{Seed, Seeds};
use llmp::layout::*;

/// The reader is shown `word` of page `region`, from its `first` access on, changed by `value`:
/// 0 flips these bits, 1 sets the word, 2 adds to it.
fn lie(region: u8, offset: usize, first: u16, change: u8, value: u64) -> Seed {
    let seed = Seed::default().byte(0).byte(1);
    let seed = seed.byte(region).half((offset / WORD) as u16).byte(0);
    seed.half(first).half(u16::MAX).byte(change).word(value)
}

/// Twelve messages in four pages, read as they come.
fn chain(seed: Seed) -> Vec<u8> {
    seed.repeat(12, |seed| seed.send(64, 1).read(2).give_up()).0
}

pub fn seeds() -> Seeds {
    let header = [
        ("magic", 0),
        ("version", PAGE_VERSION),
        ("length", PAGE_LENGTH),
        ("id", PAGE_ID),
        ("base", PAGE_BASE),
        ("first", PAGE_FIRST),
    ];
    let mut seeds: Seeds = Vec::new();
    for (name, offset) in header {
        seeds.push((format!("{name}_of_the_first_page"), chain(lie(0, offset, 0, 0, 1))));
        seeds.push((format!("{name}_of_the_next_page"), chain(lie(1, offset, 0, 0, 1 << 40 | 1))));
    }
    let slot = PAGE_HEADER;
    for (name, offset, change, value) in [
        ("kind", slot, 0, 1 << 33),
        ("reserved", slot, 0, 1 << 42),
        ("extended", slot, 0, 1 << 40),
        ("length", slot, 1, commit_word(u32::MAX, KIND_MESSAGE, 0, 0)),
        ("longer", slot, 2, 16),
        ("vanished", slot, 1, 0),
        ("end_of_page", slot, 1, commit_word(0, KIND_EOP, 0, 0)),
        ("tag", slot + SLOT_TAG, 0, 1),
        ("origin", slot + SLOT_HEADER, 0, 1),
        ("payload", slot + SLOT_HEADER + SLOT_EXTENSION, 0, 1),
        ("no_commit", slot + 96, 2, 1),
    ] {
        for first in [0, 7, 9, 20] {
            seeds.push((
                format!("{name}_after_{first}"),
                chain(lie(0, offset, first, change, value)),
            ));
        }
    }
    seeds.push(("honest".to_owned(), chain(Seed::default().byte(0).byte(0))));
    seeds
}

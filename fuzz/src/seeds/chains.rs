//! Seeds with correct chains and one forged word, at once or between two reads.

use super::{Seed, Seeds};
use llmp::core::layout::*;

/// The reader is shown `word` of page `region`, from its `first` access on, changed by `value`: 0
/// flips these bits, 1 sets the word, 2 adds to it.
fn forged(region: u8, offset: usize, first: u16, change: u8, value: u64) -> Seed {
    forged_in(false, region, offset, first, change, value)
}

/// The same, in a client's chain or in a broker's, which has messages by reference.
fn forged_in(by_ref: bool, region: u8, offset: usize, first: u16, change: u8, value: u64) -> Seed {
    let seed = Seed::default().byte(0).byte(if by_ref { 6 } else { 1 });
    let seed = seed.byte(region).half((offset / WORD) as u16).byte(0);
    seed.half(first).half(u16::MAX).byte(change).word(value)
}

/// Twelve messages in four pages, read as they come.
fn chain(seed: Seed) -> Vec<u8> {
    seed.repeat(12, |seed| seed.send(64, 1).read(2).release()).0
}

/// The second message is the first by reference, in page 1.
fn chain_by_ref(seed: Seed) -> Vec<u8> {
    let seed = seed.send(64, 8).announces();
    seed.repeat(12, |seed| seed.send(64, 8).read(2).announces().release()).0
}

/// Its offset.
const REF: usize = PAGE_HEADER + SLOT_HEADER + 64;

fn by_reference() -> Seeds {
    let mut seeds: Seeds = Vec::new();
    for (name, region, offset, change, value) in [
        ("kind", 0, REF, 0, 1 << 33),
        ("extended", 0, REF, 0, 1 << 40),
        ("length", 0, REF, 1, commit_word(u32::MAX, KIND_REF, 0, 0)),
        ("longer", 0, REF, 2, 300),
        ("page", 0, REF + SLOT_HEADER, 0, 1),
        ("unknown_page", 0, REF + SLOT_HEADER, 0, 1 << 7),
        ("reserved", 0, REF + SLOT_HEADER, 0, 1 << 32),
        ("askew", 0, REF + SLOT_HEADER + WORD, 0, 1 << 3),
        ("beyond", 0, REF + SLOT_HEADER + WORD, 2, 960),
        ("far_out", 0, REF + SLOT_HEADER + WORD, 1, u64::MAX - 15),
        ("payload", 1, PAGE_HEADER + WORD, 0, 1),
        ("header", 1, 0, 0, 1),
    ] {
        // Before the first read, or between any two reads of that message.
        let is_used = ["length", "page", "beyond"].contains(&name);
        let between = (16..34).step_by(if is_used { 1 } else { 9 });
        for first in [0].into_iter().chain(between) {
            let seed = forged_in(true, region, offset, first, change, value);
            seeds.push((format!("by_ref_{name}_after_{first}"), chain_by_ref(seed)));
        }
    }
    seeds.push(("by_ref_honest".to_owned(), chain_by_ref(Seed::default().byte(0).byte(5))));
    seeds
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
    let mut seeds = by_reference();
    for (name, offset) in header {
        seeds.push((format!("{name}_of_the_first_page"), chain(forged(0, offset, 0, 0, 1))));
        seeds.push((
            format!("{name}_of_the_next_page"),
            chain(forged(1, offset, 0, 0, 1 << 40 | 1)),
        ));
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
        ("origin_bus", slot + SLOT_HEADER, 1, 0),
        ("origin_reserved", slot + SLOT_HEADER + SLOT_EXTENSION - WORD, 0, 1),
        ("payload", slot + SLOT_HEADER + SLOT_EXTENSION, 0, 1),
        ("no_commit", slot + SLOT_HEADER + SLOT_EXTENSION + 64, 2, 1),
    ] {
        for first in [0, 7, 9, 20] {
            seeds.push((
                format!("{name}_after_{first}"),
                chain(forged(0, offset, first, change, value)),
            ));
        }
    }
    seeds.push(("honest".to_owned(), chain(Seed::default().byte(0).byte(0))));
    seeds
}

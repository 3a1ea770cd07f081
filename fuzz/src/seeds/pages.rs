//! Pages as bytes, each with one forged word; and pages of a correct sender.

use super::{Seed, Seeds, named};
use llmp::core::layout::*;

/// All words of the header are corrected, or this many of them.
const RIGHT: u8 = 0b11_1111;
const LEN: usize = 256;

/// An input of raw pages of 256 bytes. `right` says which words of their headers are corrected.
fn raw(right: u8, pages: &[Vec<u64>]) -> Seed {
    of_kind(0, right, pages)
}

/// The same for a broker.
fn broadcast(right: u8, pages: &[Vec<u64>]) -> Seed {
    of_kind(2, right, pages)
}

fn of_kind(kind: u8, right: u8, pages: &[Vec<u64>]) -> Seed {
    let seed = Seed::default().byte(kind).byte(0).byte(pages.len() as u8 - 1).byte(right);
    pages.iter().fold(seed, |seed, words| {
        let mut words = words.clone();
        words.resize(LEN / WORD, 0);
        words.into_iter().fold(seed.byte(0), Seed::word)
    })
}

/// A page with these words after its header.
fn slots(words: &[u64]) -> Vec<u64> {
    [vec![0; PAGE_HEADER / WORD], words.to_vec()].concat()
}

fn header(words: [u64; 6]) -> Vec<u64> {
    words.to_vec()
}

const fn message(len: u32, flags: u8) -> u64 {
    commit_word(len, KIND_MESSAGE, flags, 0)
}

const fn reference(len: u32, flags: u8) -> u64 {
    commit_word(len, KIND_REF, flags, 0)
}

/// A slot with an origin extension and a reference, or two words of payload.
fn extended(commit: u64, bus: u64, reserved: u64) -> [u64; 8] {
    [commit, 7, bus, 9, 10, reserved, 1, 64]
}

const END: u64 = commit_word(0, KIND_EOP, 0, 0);

/// An input of a correct sender and its receiver.
fn written(budget: u8) -> Seed {
    Seed::default().byte(1).byte(budget)
}

pub fn seeds() -> Seeds {
    let to_page_1 = slots(&[END, 1]);
    let mut seeds = named([
        ("no_magic", raw(0, &[vec![]])),
        ("no_version", raw(0b1, &[vec![]])),
        ("no_length", raw(0b11, &[vec![]])),
        ("another_id", raw(0b111, &[header([0, 0, 0, 5, 0, 0])])),
        ("another_base", raw(0b10_1111, &[to_page_1.clone(), header([0, 0, 0, 0, 1, 0])])),
        ("another_first", raw(0b01_1111, &[to_page_1.clone(), header([0, 0, 0, 0, 0, 1])])),
        ("empty", raw(RIGHT, &[vec![]])),
        ("messages", raw(RIGHT, &[slots(&[message(8, 0), 7, 1, 0, message(0, 0), 7])])),
        ("extended", raw(RIGHT, &[slots(&extended(message(1, FLAG_EXTENDED), 8, 0))])),
        (
            "extended_without_a_bus",
            raw(RIGHT, &[slots(&extended(message(1, FLAG_EXTENDED), 0, 0))]),
        ),
        ("extended_reserved", raw(RIGHT, &[slots(&extended(message(1, FLAG_EXTENDED), 8, 1))])),
        ("extended_longest", raw(RIGHT, &[slots(&extended(message(128, FLAG_EXTENDED), 8, 0))])),
        ("extended_too_long", raw(RIGHT, &[slots(&extended(message(129, FLAG_EXTENDED), 8, 0))])),
        ("two_pages", raw(RIGHT, &[to_page_1.clone(), slots(&[message(8, 0), 7, 1])])),
        ("a_ring_of_pages", raw(RIGHT, &[to_page_1.clone(), slots(&[END, 0])])),
        ("unknown_kind", raw(RIGHT, &[slots(&[commit_word(0, 3, 0, 0)])])),
        ("unknown_kind_of_all", raw(RIGHT, &[slots(&[commit_word(0, 4, 0, 0)])])),
        ("by_ref_of_a_client", raw(RIGHT, &[slots(&[reference(8, 0), 7, 0, 64])])),
        ("reserved_flag", raw(RIGHT, &[slots(&[message(8, 2)])])),
        ("reserved_in_end", raw(RIGHT, &[slots(&[END, 1 << 32])])),
        ("longest", raw(RIGHT, &[slots(&[message(160, 0), 7])])),
        ("one_too_long", raw(RIGHT, &[slots(&[message(161, 0), 7])])),
        ("longest_of_all", raw(RIGHT, &[slots(&[message(u32::MAX, FLAG_EXTENDED), 7])])),
        ("unknown_page", raw(RIGHT, &[slots(&[END, 77])])),
        ("start_in_header", raw(RIGHT | 64, &[vec![]]).byte(0).word(0).word(0)),
        ("start_at_the_end", raw(RIGHT | 64, &[vec![]]).byte(0).word(u64::MAX).word(0)),
        (
            "start_far_out",
            raw(0b10_1111 | 64, &[header([0, 0, 0, 0, u64::MAX - 64, 0])])
                .byte(0)
                .word(u64::MAX)
                .word(0),
        ),
        ("start_unknown", raw(RIGHT | 64, &[vec![]]).byte(9).word(64).word(0)),
        ("page_twice", raw(RIGHT, &[vec![]]).byte(1).byte(0).byte(0)),
        ("forget_current", raw(RIGHT, &[vec![]]).byte(1).byte(0).byte(1)),
        ("forget_unknown", raw(RIGHT, &[vec![]]).byte(1).byte(7).byte(1)),
        ("forget_next", raw(RIGHT, &[to_page_1, vec![]]).byte(1).byte(1).byte(1)),
        ("over_budget", (1..8).fold(raw(RIGHT, &[vec![]]).byte(7), |s, id| s.byte(id).byte(0))),
        ("batches", written(6).repeat(9, |s| s.append(60, 7).append(0, 0).append(33, 1).publish())),
        (
            "aborted_rollovers",
            written(6).repeat(9, |s| s.append(150, 0).append(150, 1).abort().send(9, 2)),
        ),
        ("reuse", written(0).repeat(30, |s| s.send(150, 0).read(3).release())),
        ("a_batch_that_fills_the_chain", written(1).repeat(12, |s| s.append(200, 0))),
        (
            "small_and_large_alternately",
            written(0).repeat(9, |s| s.send(384, 1).send(10, 0).read(9).release()),
        ),
        ("unread", written(3).repeat(20, |s| s.send(100, 0).has_room(400))),
    ]);
    seeds.extend(of_a_broker());
    // All lengths around the boundaries of words, slots, pages and the limit.
    let lengths = (0..40).chain(120..=180).chain(364..=392);
    let each = lengths.fold(written(2), |seed, len| seed.send(len, len as u8));
    seeds.push(("every_length".to_owned(), each.0));
    seeds
}

/// Messages of a broker that refer to page 1, or claim to.
fn of_a_broker() -> Seeds {
    let by_ref = |words: &[u64]| broadcast(RIGHT, &[slots(words), vec![]]);
    let len = LEN as u64;
    let three = [reference(8, 0), 7, 1, 64, reference(9, 0), 7, 1, 80, reference(9, 0), 7, 1, 64];
    // Before each step pages come and go.
    let forgets = |seed: Seed| seed.byte(1).byte(1).byte(1);
    let gets = |seed: Seed| seed.byte(1).byte(1).byte(0);
    let written = Seed::default().byte(3).byte(6);
    named([
        (
            "by_ref",
            by_ref(&[
                reference(8, 0),
                7,
                1,
                64,
                reference(0, 0),
                7,
                1,
                len,
                reference(8, 0),
                7,
                0,
                64,
            ]),
        ),
        ("by_ref_extended", by_ref(&extended(reference(8, FLAG_EXTENDED), 8, 0))),
        ("by_ref_extended_without_a_bus", by_ref(&extended(reference(8, FLAG_EXTENDED), 0, 0))),
        ("by_ref_extended_reserved", by_ref(&extended(reference(8, FLAG_EXTENDED), 8, 1 << 63))),
        ("by_ref_unknown", by_ref(&[reference(8, 0), 7, 77, 64])),
        ("by_ref_reserved", by_ref(&[reference(8, 0), 7, 1 << 32 | 1, 64])),
        ("by_ref_reserved_flag", by_ref(&[reference(8, 2), 7, 1, 64])),
        ("by_ref_in_the_header", by_ref(&[reference(8, 0), 7, 1, 48])),
        ("by_ref_askew", by_ref(&[reference(8, 0), 7, 1, 72])),
        ("by_ref_at_the_end", by_ref(&[reference(16, 0), 7, 1, len - 16])),
        ("by_ref_beyond_the_end", by_ref(&[reference(17, 0), 7, 1, len - 16])),
        ("by_ref_after_the_end", by_ref(&[reference(0, 0), 7, 1, len + 16])),
        ("by_ref_far_out", by_ref(&[reference(32, 0), 7, 1, u64::MAX - 15])),
        ("by_ref_longest_of_all", by_ref(&[reference(u32::MAX, 0), 7, 1, 64])),
        ("by_ref_too_long", by_ref(&[reference(385, 0), 7, 1, 64])),
        ("by_ref_without_room", {
            let mut words = vec![message(144, 0), 7];
            words.resize(20, 0);
            by_ref(&[words, vec![reference(8, 0), 7]].concat())
        }),
        ("by_ref_to_a_forgotten_page", forgets(by_ref(&three).byte(0).byte(0))),
        ("by_ref_to_a_page_that_returns", gets(forgets(by_ref(&three).byte(0).byte(0)).byte(0))),
        ("by_ref_to_another_page_of_that_id", {
            let both = by_ref(&three).byte(0).byte(0).byte(2);
            both.byte(1).byte(1).byte(1).byte(0)
        }),
        (
            "by_ref_written",
            written
                .clone()
                .repeat(30, |s| s.send(100, 8).send(90, 9).announces().read(3).release()),
        ),
        (
            "by_ref_in_a_batch",
            written.repeat(9, |s| s.append(60, 8).append(0, 9).announces().publish()),
        ),
    ])
}

//! Seeds with receivers that forge words, and one that does not.

use super::{Seed, Seeds, named};
use llmp::core::layout::*;

/// Begins with a region of `words` words of its own, then a bus with two receivers: 0 is correct.
fn bus(words: u8, first: u64, second: u64, slot: u64) -> Seed {
    Seed::default().byte(words - 2).word(first).word(second).word(slot).byte(0)
}

/// Forgery of the consumed word alone, at least of the tail.
const CONSUMED: u8 = 6 + 1;
const CURSOR: u8 = 12 + 1;

fn honest() -> Seed {
    bus(24, CONTROL_MAGIC, halves(VERSION, 1), 0)
}

impl Seed {
    /// Receiver 1 shows another value after `reads` more reads.
    fn shows(self, reads: u8, kind: u8, any: u64) -> Seed {
        self.byte(6).byte(1).byte(reads).byte(kind).word(any)
    }

    /// Asks whether everything is consumed.
    fn asks(self) -> Seed {
        self.byte(9).half(0)
    }

    fn receive(self, receiver: u8) -> Seed {
        self.byte(4).byte(receiver).byte(20).byte(5).byte(receiver)
    }

    fn admit(self, hostile: u8) -> Seed {
        self.byte(7).byte(hostile)
    }

    fn remove_receiver(self, receiver: u8) -> Seed {
        self.byte(8).byte(receiver)
    }
}

/// Traffic with page rollovers and reuse.
fn traffic(seed: Seed) -> Seed {
    seed.repeat(12, |seed| seed.send(150, 1).append(30, 0).append(90, 2).publish().receive(0))
}

pub fn seeds() -> Seeds {
    let version = halves(VERSION, 1);
    named([
        ("no_room_for_a_cursor", bus(10, CONTROL_MAGIC, version, 0)),
        ("a_cursor_beyond_all", bus(24, CONTROL_MAGIC, version, u64::MAX)),
        ("no_magic", bus(24, 0, version, 0)),
        ("another_version", bus(24, CONTROL_MAGIC, version + 1, 0)),
        ("honest", traffic(honest())),
        ("follows_the_tail", traffic(traffic(honest().shows(0, 1, 0)).shows(0, 1, 0))),
        (
            "consumed_by_a_hostile_receiver",
            honest().send(9, 0).shows(0, CONSUMED, 0).asks().receive(0).asks(),
        ),
        (
            "consumed_in_a_batch",
            honest().append(9, 0).shows(0, CONSUMED, 0).asks().receive(0).asks(),
        ),
        ("consumed_when_asked", traffic(honest().shows(0, CONSUMED + 3, 0).asks()).asks()),
        ("all_consumed", traffic(honest().remove_receiver(1)).asks().send(9, 0).asks()),
        ("ahead_in_its_cursor_alone", traffic(honest().shows(0, CURSOR + 3, 0).asks())),
        ("ahead", traffic(honest().shows(0, 4, 0))),
        ("one_ahead", traffic(honest().shows(0, 2, 1))),
        ("ahead_later", traffic(honest().shows(3, 4, 0))),
        ("backwards", traffic(honest().send(100, 0).shows(0, 5, 0))),
        ("back_by_one", traffic(traffic(honest().send(9, 0).shows(0, 1, 0)).shows(0, 3, 1))),
        ("never_reads", traffic(honest()).repeat(9, |seed| seed.send(380, 0))),
        ("comes_late", traffic(traffic(honest()).admit(0).admit(1)).receive(2)),
        ("comes_in_a_batch", traffic(honest().append(200, 0).append(200, 0).admit(0)).receive(2)),
        ("leaves", traffic(traffic(honest()).remove_receiver(1))),
        ("all_leave", traffic(honest().remove_receiver(0).remove_receiver(0)).admit(0).send(9, 0)),
        ("aborts", honest().repeat(9, |s| s.append(200, 0).append(200, 1).abort().send(40, 0))),
    ])
}

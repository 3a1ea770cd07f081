//! Seeds of buses with a hostile client: it forges words, descriptors, or uses a thread of its own.

use super::super::world::CONTROL;
use super::{Seed, Seeds};
use llmp::core::layout::*;

/// The clients: two correct ones and the hostile one.
const WITNESS: u8 = 0;
const HONEST: u8 = 1;
const HOSTILE: u8 = 2;

/// Ways of tampering with a packet.
const DROP: u8 = 0;
const HOLD: u8 = 1;
const RELEASE: u8 = 2;
const TWICE: u8 = 3;
const FORGET_FIRST: u8 = 4;
const FORGET: u8 = 5;
const ANOTHER_PAGE: u8 = 6;
const RENAME: u8 = 7;
const FOREIGN: u8 = 8;
const REVERSE: u8 = 9;

/// The hook's behaviour.
const NO_HOOK: u8 = 0;
const REPLACE: u8 = 2;
const DROPS: u8 = 3;
/// Messages of at least 60 bytes are by reference; or all.
const BY_REFERENCE: u8 = 8;
const ALL_BY_REFERENCE: u8 = 4;

/// A bus with limits that are soon reached.
fn bus(seed: Seed, hook: u8) -> Seed {
    seed.byte(1).byte(7).half(1500).byte(hook)
}

/// One step and its client.
impl Seed {
    fn does(self, what: u8, client: u8) -> Seed {
        self.byte(what).byte(client)
    }

    fn says(self, client: u8, len: u16, kind: u8) -> Seed {
        self.does(0, client).half(len).byte(kind)
    }

    fn appends(self, client: u8, len: u16, kind: u8) -> Seed {
        self.does(1, client).half(len).byte(kind)
    }

    /// A cycle of the broker. The last byte is read only if the broker is to drain a socket.
    fn cycles(self) -> Seed {
        self.does(4, 0)
    }

    fn receives(self, client: u8, steps: u8) -> Seed {
        self.does(5, client).byte(steps - 1)
    }

    fn sleeps(self, client: u8, interest: u8, room: u16) -> Seed {
        let seed = self.does(6, client).byte(interest);
        if interest & 2 == 0 { seed } else { seed.half(room) }
    }

    fn parks(self) -> Seed {
        self.does(7, 0)
    }

    fn comes(self, send_only: u8, hostile: u8) -> Seed {
        self.does(8, 0).byte(send_only).byte(hostile)
    }

    fn leaves(self, client: u8) -> Seed {
        self.does(9, client)
    }

    /// Forges a word from the `first` access on, for `long` accesses.
    fn forges(
        self,
        region: u32,
        offset: usize,
        first: u16,
        long: u16,
        change: u8,
        by: u64,
    ) -> Seed {
        let seed = self.does(10, 0).byte(region as u8).half((offset / WORD) as u16).byte(0);
        seed.half(first).half(long).byte(change).word(by)
    }

    fn mischief(self, kind: u8, id: u8) -> Seed {
        self.does(10, 0).byte(kind).byte(id)
    }

    fn delivers(self, client: u8, packets: u8) -> Seed {
        self.does(11, client).byte(packets - 1)
    }

    /// Its socket is full from now on, or no longer.
    fn toggles_full_socket(self, client: u8) -> Seed {
        self.does(13, client)
    }

    /// All processes do what there is to do.
    fn rounds(self, rounds: usize) -> Seed {
        self.repeat(rounds, |seed| seed.does(12, 0))
    }
}

/// All three send, with page rollovers and reuse.
fn traffic(seed: Seed, times: usize) -> Seed {
    seed.repeat(times, |seed| {
        let seed = seed.says(HOSTILE, 60, 1).says(WITNESS, 150, 2).says(HONEST, 90, 5);
        seed.appends(HOSTILE, 33, 0).appends(HOSTILE, 7, 1).does(2, HOSTILE).rounds(2)
    })
}

/// The forged words of a hostile client, by name.
const FORGERIES: [(&str, u32, usize, u8, u64); 25] = [
    ("commit_kind", 0, PAGE_HEADER, 0, 1 << 33),
    ("commit_reserved", 0, PAGE_HEADER, 0, 1 << 42),
    ("commit_extended", 0, PAGE_HEADER, 0, 1 << 40),
    ("commit_longest", 0, PAGE_HEADER, 1, commit_word(u32::MAX, KIND_MESSAGE, 0, 0)),
    ("commit_longer", 0, PAGE_HEADER, 2, 16),
    ("commit_shorter", 0, PAGE_HEADER, 2, u64::MAX),
    ("commit_vanishes", 0, PAGE_HEADER, 1, 0),
    ("commit_end", 0, PAGE_HEADER, 1, commit_word(0, KIND_EOP, 0, 0)),
    ("tag", 0, PAGE_HEADER + SLOT_TAG, 0, 1 << 32 | 1),
    ("payload", 0, PAGE_HEADER + 48, 0, 1),
    ("first_magic", 0, 0, 0, 1),
    ("first_id", 0, PAGE_ID, 0, 1),
    ("first_base", 0, PAGE_BASE, 1, 64),
    ("magic", 1, 0, 0, 1),
    ("version", 1, PAGE_VERSION, 0, 1),
    ("length", 1, PAGE_LENGTH, 2, 16),
    ("id", 1, PAGE_ID, 0, 1),
    ("owner", 1, PAGE_ID, 0, 1 << 32),
    ("base", 1, PAGE_BASE, 2, u64::MAX),
    ("first", 1, PAGE_FIRST, 2, 1),
    ("cursor_zero", CONTROL, CONTROL_CURSORS, 1, 0),
    ("cursor_ahead", CONTROL, CONTROL_CURSORS, 1, u64::MAX),
    ("cursor_back", CONTROL, CONTROL_CURSORS, 1, 1),
    ("parked", CONTROL, CONTROL_PARKED, 2, 1),
    ("consumed", CONTROL, CONTROL_CURSORS + CONTROL_CONSUMED, 1, u64::MAX),
];

/// Buses with messages by reference.
fn by_reference() -> Seeds {
    let by_ref = || bus(Seed::default(), BY_REFERENCE);
    let mut seeds = Vec::new();
    let mut add = |name: &str, seed: Seed| seeds.push((format!("by_ref_{name}"), seed.0));
    add("honest", traffic(by_ref(), 9));
    add("all", traffic(bus(Seed::default(), ALL_BY_REFERENCE), 9));
    add("nothing_behind_a_hook", traffic(bus(Seed::default(), BY_REFERENCE | REPLACE), 4));
    add("kind_of_a_client", {
        let kind = |seed: Seed| seed.forges(0, PAGE_HEADER, 0, u16::MAX, 0, 1 << 33 | 1 << 32);
        traffic(kind(by_ref()), 3)
    });
    // Everything is consumed by the broker, and no client receives it: no page may be reused.
    add("and_no_client_receives", {
        let seed = traffic(by_ref(), 3).repeat(20, |seed| seed.says(HONEST, 150, 0).cycles());
        seed.receives(WITNESS, 3).repeat(9, |seed| seed.says(HONEST, 150, 1).cycles()).rounds(3)
    });
    // One client receives, the other does not.
    add("and_one_client_receives", {
        let seed = traffic(by_ref(), 3);
        let seed = seed.repeat(20, |seed| seed.says(HONEST, 150, 0).cycles().receives(HONEST, 8));
        seed.repeat(9, |seed| seed.receives(WITNESS, 1).says(HONEST, 90, 1).cycles()).rounds(3)
    });
    add("and_sleeps_until_consumed", {
        let seed = traffic(by_ref(), 2).says(HONEST, 150, 0).sleeps(HONEST, 4, 0).cycles().cycles();
        seed.parks().receives(WITNESS, 8).cycles().sleeps(HONEST, 4, 0).rounds(2)
    });
    add("and_sleeps_until_there_is_room", {
        let seed = traffic(by_ref(), 2).repeat(12, |seed| seed.says(HONEST, 150, 0).cycles());
        seed.sleeps(HONEST, 2, 150).parks().rounds(2).says(HONEST, 150, 0).rounds(2)
    });
    // Its pages are read when it is gone.
    add("and_dies", {
        let seed = traffic(by_ref(), 2).repeat(4, |seed| seed.says(HONEST, 150, 0).cycles());
        seed.leaves(HONEST).cycles().cycles().comes(0, 0).rounds(4)
    });
    add("and_dies_unconsumed", {
        let seed = traffic(by_ref(), 2).repeat(4, |seed| seed.says(HONEST, 150, 0));
        seed.leaves(HONEST).comes(0, 0).rounds(4)
    });
    add("and_a_reader_dies", {
        let seed = traffic(by_ref().comes(0, 0), 2);
        let seed = seed.repeat(9, |seed| seed.says(HONEST, 150, 0).cycles().receives(WITNESS, 8));
        seed.leaves(3).cycles().says(HONEST, 150, 0).rounds(3)
    });
    add("and_one_comes", {
        let seed = traffic(by_ref(), 2).repeat(4, |seed| seed.says(HONEST, 150, 0).cycles());
        let seed = seed.comes(0, 0).repeat(4, |seed| seed.says(HONEST, 150, 0).cycles());
        traffic(seed.receives(3, 8), 2)
    });
    add("and_a_socket_is_full", {
        let seed = traffic(by_ref().toggles_full_socket(WITNESS), 4);
        traffic(seed.toggles_full_socket(WITNESS), 2)
    });
    // More pages than may be foreign together: pages are dropped for others.
    add("more_than_there_is", {
        let seed = by_ref().comes(0, 0).comes(0, 0);
        let all = |seed: Seed| (0..5).fold(seed, |seed, i| seed.says(i, 150, 0).says(i, 90, 1));
        seed.repeat(12, |seed| all(seed).rounds(2))
            .toggles_full_socket(WITNESS)
            .repeat(6, |s| all(s).rounds(1))
    });
    add("of_large_pages", {
        by_ref().repeat(9, |seed| seed.says(HONEST, 384, 1).says(HONEST, 9, 0).rounds(2))
    });
    for (name, region, offset, change, by) in FORGERIES {
        for first in [0, 300, 800] {
            let seed = by_ref().forges(region, offset, first, u16::MAX, change, by);
            add(&format!("{name}_after_{first}"), traffic(seed, 5));
        }
    }
    // Each page arrives in time, so that no drain reads a step's byte.
    let sends = |seed: Seed, client, len| seed.says(client, len, 0).delivers(client, 3);
    // Its pages are still referenced when they would be reused, and no client receives: it has to
    // wait.
    add("and_unread", {
        let seed = by_ref().repeat(5, |seed| sends(seed, HONEST, 150).rounds(1));
        let seed = seed.repeat(6, |seed| sends(seed, HONEST, 150).cycles()).receives(WITNESS, 8);
        seed.repeat(3, |seed| sends(seed, HONEST, 150).cycles()).rounds(3)
    });
    // A client that only sends is rung for what was consumed, although nothing is released.
    add("and_awaited", {
        let seed = by_ref().comes(1, 0).repeat(6, |seed| sends(seed, 3, 60).rounds(1));
        let seed = sends(seed, 3, 60).cycles().says(3, 60, 0).sleeps(3, 4, 0);
        seed.cycles().parks().rounds(2)
    });
    // One reader is shown another value than the other.
    for len in [9, 100, 150] {
        let seed = by_ref().repeat(6, |seed| sends(seed, HOSTILE, 100).rounds(1));
        let seed = sends(seed, HOSTILE, len).cycles().receives(WITNESS, 8);
        let seed = (0..6).fold(seed, |seed, page| {
            seed.does(10, 0).byte(page).half(8).byte(30).half(0).half(u16::MAX).byte(0).word(1)
        });
        add(&format!("payload_of_one_{len}"), traffic(seed.receives(HONEST, 8), 2));
    }
    seeds
}

pub fn live_bus() -> Seeds {
    let honest = || bus(Seed::default(), NO_HOOK);
    let named = |name: &str, seed: Seed| (name.to_owned(), seed.0);
    let mut seeds = vec![
        named("honest", traffic(honest(), 9)),
        named("honest_behind_a_hook", traffic(bus(Seed::default(), REPLACE), 6)),
        named(
            "a_hook_that_drops",
            traffic(bus(Seed::default(), DROPS), 6).says(0, 77, 0).rounds(2),
        ),
        named(
            "joins_and_leaves",
            traffic(traffic(honest().comes(0, 0).rounds(1), 3).leaves(3).comes(1, 0), 2)
                .says(3, 50, 1)
                .leaves(3)
                .leaves(1)
                .comes(0, 0)
                .rounds(3),
        ),
        named(
            "a_hostile_client_that_returns",
            traffic(traffic(honest(), 2).leaves(HOSTILE).comes(0, 1), 2),
        ),
        named(
            "sleepers",
            honest()
                .rounds(2)
                .sleeps(HONEST, 1, 0)
                .parks()
                .says(WITNESS, 9, 0)
                .cycles()
                .receives(HONEST, 8),
        ),
        named(
            "waits_for_room",
            honest()
                .repeat(12, |seed| seed.says(HONEST, 300, 0))
                .sleeps(HONEST, 2, 300)
                .rounds(9)
                .repeat(9, |seed| seed.cycles().says(WITNESS, 300, 1)),
        ),
        // Nothing is published that would ring all clients anyway.
        named(
            "room_by_dropped_messages",
            bus(Seed::default(), DROPS)
                .repeat(12, |seed| seed.says(HONEST, 300, 2))
                .delivers(HONEST, 3)
                .sleeps(HONEST, 2, 300)
                .cycles(),
        ),
        named(
            "room_for_a_send_only_client",
            honest()
                .comes(1, 0)
                .repeat(12, |seed| seed.says(3, 300, 0))
                .delivers(3, 3)
                .sleeps(3, 2, 300)
                .cycles()
                .cycles(),
        ),
        named(
            "more_than_its_share",
            // One message for each cycle.
            Seed::default()
                .byte(1)
                .byte(0)
                .half(1500)
                .byte(NO_HOOK)
                .repeat(60, |seed| seed.says(HONEST, 0, 0))
                .repeat(2, |seed| seed.delivers(HONEST, 3))
                .repeat(9, Seed::cycles),
        ),
        // The hostile client never reads and never stores its cursor: all others wait for it.
        named(
            "no_client_receives",
            honest()
                .repeat(20, |seed| seed.says(HONEST, 350, 0).cycles().cycles())
                .rounds(1)
                .repeat(9, |seed| seed.says(WITNESS, 350, 0).cycles().parks()),
        ),
        named(
            "work_before_sleep",
            honest().delivers(HONEST, 1).says(HONEST, 9, 0).parks().cycles().receives(WITNESS, 3),
        ),
        named("aborts", honest().appends(HONEST, 300, 0).appends(HONEST, 300, 0).does(3, HONEST)),
        named(
            "a_region_forged_from_the_start",
            traffic(honest().leaves(HOSTILE).forges(CONTROL, 0, 0, u16::MAX, 0, 1).comes(0, 1), 2),
        ),
        named(
            "dies_unconsumed",
            honest().repeat(9, |seed| seed.says(HOSTILE, 200, 0)).leaves(HOSTILE),
        ),
    ];
    seeds.extend(by_reference());
    // A message grows between two reads, whichever these are.
    for first in 46..62 {
        let seed = honest().says(HOSTILE, 30, 0).says(HOSTILE, 30, 0);
        let seed = seed.forges(0, PAGE_HEADER, first, u16::MAX, 2, 200).rounds(2);
        seeds.push(named(&format!("grows_after_{first}"), seed));
    }
    for (name, region, offset, change, by) in FORGERIES {
        for first in [0, 30, 200, 500] {
            let seed = honest().forges(region, offset, first, u16::MAX, change, by);
            seeds.push(named(&format!("{name}_after_{first}"), traffic(seed, 5)));
        }
        // Only for some accesses: the next one reads the real word again.
        let seed = bus(Seed::default(), REPLACE).forges(region, offset, 40, 3, change, by);
        seeds.push(named(&format!("{name}_for_a_moment"), traffic(seed, 5)));
    }
    seeds
}

/// Tampering with the hostile client's packets while it sends many pages.
fn mail(hook: u8) -> Seeds {
    let honest = || bus(Seed::default().byte(0), hook);
    // Its first page has arrived, four more are under way.
    let pages = |seed: Seed| seed.delivers(HOSTILE, 1).repeat(5, |seed| seed.says(HOSTILE, 150, 0));
    let mut seeds = vec![("honest".to_owned(), traffic(pages(honest()), 4).0)];
    for (name, kind) in [
        ("never", DROP),
        ("held", HOLD),
        ("twice", TWICE),
        ("forgotten", FORGET_FIRST),
        ("forgotten_later", FORGET),
        ("empty", ANOTHER_PAGE),
        ("renamed", RENAME),
        ("reversed", REVERSE),
    ] {
        for id in 0..3 {
            let at_once = traffic(honest().mischief(kind, id), 2);
            seeds.push((format!("{name}_{id}_at_once"), at_once.0));
            let later = traffic(pages(honest()).mischief(kind, id), 2).leaves(HOSTILE).rounds(2);
            seeds.push((format!("{name}_{id}"), later.0));
        }
    }
    for (i, name) in ["owner", "length", "id", "base", "first"].into_iter().enumerate() {
        let foreign = |seed: Seed| seed.mischief(FOREIGN, 0).byte(i as u8).byte(1);
        seeds.push((format!("another_{name}_at_once"), traffic(foreign(honest()), 2).0));
        seeds.push((format!("another_{name}"), traffic(foreign(pages(honest())), 2).0));
    }
    // In parts, in time, and too late.
    let late = |seed: Seed| pages(seed).mischief(HOLD, 0);
    seeds.push(("in_time".to_owned(), late(honest()).mischief(RELEASE, 0).rounds(3).0));
    seeds.push(("too_late".to_owned(), late(honest()).rounds(3).mischief(RELEASE, 0).rounds(2).0));
    let drained_in_part = pages(honest()).cycles().byte(3).cycles().byte(3).cycles().byte(3);
    seeds.push(("in_parts".to_owned(), drained_in_part.rounds(2).0));
    let many = (1..8).fold(honest(), |seed, id| seed.mischief(ANOTHER_PAGE, id));
    seeds.push((
        "too_many".to_owned(),
        many.repeat(3, |seed| seed.delivers(HOSTILE, 3)).rounds(1).0,
    ));
    seeds
}

/// A receiver with a prediction for every answer, of a client's chain or a broker's, which has
/// messages by reference.
fn foreseen(by_ref: bool) -> Seeds {
    let (kind, sent) = if by_ref { (3, 9) } else { (1, 1) };
    let chain = || Seed::default().byte(kind).byte(6);
    let sends =
        |seed: Seed, times| seed.repeat(times, |seed: Seed| seed.byte(0).half(150).byte(sent));
    let arrives = |seed: Seed| seed.byte(2);
    let reads = |seed: Seed| seed.byte(4);
    let forge = |seed: Seed, kind: u8, id: u8| seed.byte(3).byte(kind).byte(id);
    let named = |name: &str, seed: Seed| (name.to_owned(), seed.0);
    let all = |times| reads(sends(chain(), times));
    let grown = || {
        let small =
            chain().repeat(9, |seed| seed.byte(0).half(100).byte(0).byte(4).byte(0).byte(5));
        small.repeat(9, |seed| {
            let large = seed.byte(0).half(384).byte(0).byte(4).byte(0).byte(5);
            large.byte(0).half(10).byte(0).byte(4).byte(0).byte(5)
        })
    };
    let mut seeds = vec![
        named("drained", all(3)),
        named("before_it_is_named", reads(arrives(sends(chain(), 3)))),
        named("gave_in", reads(sends(chain(), 3)).byte(3)),
        named("never", reads(sends(chain(), 2).byte(7)).byte(0)),
        named("twice", reads(forge(sends(chain(), 2), 0, 0)).byte(0)),
        named("out_of_order", reads(sends(chain(), 4).byte(6)).byte(0)),
        named("forgotten_in_use", arrives(forge(chain(), 1, 0))),
        named("forgotten_before_it_came", arrives(forge(sends(chain(), 2), 1, 1))),
        named(
            "forgotten_before_it_was_read",
            reads(arrives(forge(arrives(sends(chain(), 2)), 1, 1))).byte(0),
        ),
        named(
            "reused",
            reads(sends(chain(), 3))
                .repeat(9, |seed| reads(seed.byte(5).byte(0).half(150).byte(sent)).byte(0)),
        ),
        named("small_ones_for_a_large_one", grown()),
        named("too_many", (1..7).fold(chain(), |seed, id| arrives(forge(seed, 3, id).byte(3)))),
        named("nothing_written", reads(arrives(forge(chain(), 3, 1).byte(0).byte(2)))),
        named("renamed", reads(forge(sends(chain(), 2), 4, 2)).byte(0)),
        named("renamed_and_named", reads(forge(sends(chain(), 3), 4, 2)).byte(0)),
        named("another_and_shorter", reads(forge(sends(chain(), 4), 3, 1).byte(0)).byte(0)),
    ];
    for (i, name) in
        ["magic", "version", "length", "id", "owner", "base", "first"].iter().enumerate()
    {
        let seed = forge(sends(chain(), 2), 2, 0).byte(i as u8);
        seeds.push(named(&format!("another_{name}"), reads(arrives(seed))));
    }
    seeds
}

pub fn end_of_page() -> Seeds {
    let on = |side: &str, seeds: Seeds| {
        let side = side.to_owned();
        seeds.into_iter().map(move |(name, bytes)| (format!("{side}_{name}"), bytes))
    };
    let plain = on("broker", mail(NO_HOOK)).chain(on("receiver", foreseen(false)));
    let by_ref =
        on("broker_by_ref", mail(BY_REFERENCE)).chain(on("receiver_by_ref", foreseen(true)));
    plain.chain(by_ref).collect()
}

/// A few only: the machine decides what they reach.
pub fn live_page() -> Seeds {
    // One of the forgeries above, all the time.
    let forge = |kind: u8, region: u32, offset: usize, change: u8, by: u64| {
        let seed = Seed::default().byte(kind).byte(0).byte(region as u8);
        let seed = seed.half((offset / WORD) as u16).byte(0).half(0).half(0);
        seed.byte(change).word(by)
    };
    let mut seeds = Vec::new();
    for (name, region, offset, change, by) in FORGERIES {
        let bus = bus(forge(2, region, offset, change, by), NO_HOOK);
        seeds.push((format!("bus_{name}"), traffic(bus, 3).0));
        let has_a_case_by_ref = ["commit_longer", "payload", "tag", "consumed"].contains(&name);
        if has_a_case_by_ref {
            let by_ref = self::bus(forge(2, region, offset, change, by), BY_REFERENCE);
            seeds.push((format!("bus_by_ref_{name}"), traffic(by_ref, 3).0));
        }
        if region == CONTROL {
            continue;
        }
        for (kind, memory) in ["heap", "mapping"].into_iter().enumerate() {
            let chain = forge(kind as u8, region, offset, change, by).byte(0);
            let chain = chain.repeat(40, |seed| seed.send(200, 1).read(2).release());
            seeds.push((format!("{memory}_{name}"), chain.0));
        }
        if has_a_case_by_ref {
            let by_ref = forge(3, region, offset, change, by).byte(0);
            let by_ref = by_ref.repeat(40, |seed| seed.send(200, 9).announces().read(2).release());
            seeds.push((format!("heap_by_ref_{name}"), by_ref.0));
        }
    }
    seeds
}

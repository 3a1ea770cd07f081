//! Sessions on the control socket, complete and broken off, with the right descriptors and all
//! others.

use super::super::descriptors::{
    CONTROL, EVENTFD, KINDS, ORDINARY_PAGE, PAGE as PAGE_FD, SLOW, SLOW_INSIDE,
};
use super::super::handshake::{BROKER, CHANNEL_RECEIVER, CHANNEL_SENDER, CLIENT};
use super::super::packets::*;
use super::{Seed, Seeds, named};
use llmp::core::layout::PAGE_HEADER;

const SEND: u8 = 1;
const RECEIVE: u8 = 2;
const WATCH: u8 = 4;

fn session(side: u8) -> Seed {
    Seed::default().byte(side)
}

impl Seed {
    /// A packet of one byte without a descriptor.
    fn packet(self, kind: u8, value: u8) -> Seed {
        self.byte(kind).byte(value).byte(0)
    }

    fn bare(self, kind: u8) -> Seed {
        self.byte(kind).byte(0)
    }

    fn hello(self, roles: u8) -> Seed {
        self.byte(HELLO).byte(0).byte(roles).byte(0)
    }

    fn control(self) -> Seed {
        self.byte(1).byte(CONTROL)
    }

    fn join(self) -> Seed {
        self.byte(JOIN).control()
    }

    fn welcome(self) -> Seed {
        self.byte(WELCOME).byte(0).byte(0).control()
    }

    /// A page with three messages.
    fn page(self, id: u8) -> Seed {
        self.byte(PAGE).byte(id).byte(1).byte(PAGE_FD).byte(3).bytes(&[10, 20, 30])
    }

    fn start(self, page: u8, position: u64) -> Seed {
        self.byte(START).byte(page).word(position).word(0).byte(0)
    }

    /// Raw bytes with one descriptor.
    fn raw(self, bytes: &[u8]) -> Seed {
        self.byte(RAW).byte(bytes.len() as u8).bytes(bytes).control()
    }
}

/// Returns a welcome of that version.
fn welcome(version: u8) -> [u8; 48] {
    let mut bytes = [0; 48];
    (bytes[0], bytes[4]) = (3, version);
    bytes
}

/// A broker with these limits: page, message, budget.
fn limited(limits: [u64; 3]) -> Seed {
    let seed = session(BROKER).byte(WELCOME).byte(0).byte(1);
    limits.into_iter().fold(seed, Seed::word).control()
}

pub fn seeds() -> Seeds {
    let client = || session(CLIENT).hello(SEND | RECEIVE);
    let broker = || session(BROKER).welcome();
    let first = PAGE_HEADER as u64;
    let mut seeds = named([
        ("nothing", session(CLIENT)),
        ("an_empty_packet", session(CLIENT).raw(&[])),
        ("client", client().join().page(0).bare(RING)),
        ("client_without_a_join", client().page(0)),
        ("client_joins_twice", client().join().join()),
        ("client_greets_twice", client().hello(SEND)),
        ("client_of_another_version", session(CLIENT).byte(HELLO).byte(1).byte(3).byte(0)),
        ("client_without_a_role", session(CLIENT).hello(0).join().page(0)),
        ("client_of_another_role", session(CLIENT).hello(8)),
        ("client_that_watches", session(CLIENT).hello(RECEIVE | WATCH).join().packet(FORGET, 0)),
        ("client_with_page_1_first", client().join().page(1)),
        ("client_with_a_page_twice", client().join().page(0).page(0)),
        ("client_with_too_many_pages", (0..9).fold(client().join(), Seed::page)),
        ("client_takes_back_its_page", client().join().page(0).packet(FORGET, 0)),
        ("client_takes_back_nothing", client().join().packet(FORGET, 0)),
        ("client_plays_broker", client().join().welcome().start(0, first)),
        ("client_rings", client().join().page(0).repeat(40, |seed| seed.bare(RING))),
        ("client_of_garbage", session(CLIENT).raw(b"GET / HTTP/1.1").raw(&[0; 70])),
        ("client_in_a_hurry", session(CLIENT).join().page(0).hello(SEND)),
        ("broker", broker().page(0).start(0, first).packet(RECEIVER_COUNT, 2).bare(RING)),
        ("broker_ends", broker().page(0).start(0, first).packet(BYE, 0)),
        ("broker_disconnects", broker().page(0).start(0, first).packet(BYE, 1)),
        ("broker_ends_early", broker().packet(BYE, 0)),
        ("broker_disconnects_early", broker().packet(BYE, 1)),
        ("broker_counts_early", broker().packet(RECEIVER_COUNT, 2).page(0).start(0, first)),
        ("broker_greets_early", broker().hello(SEND)),
        ("broker_of_another_version", session(BROKER).raw(&welcome(9))),
        ("broker_of_endless_messages", limited([4096, 1 << 32, u64::MAX])),
        ("broker_of_no_budget", limited([4096, 1000, 0])),
        ("broker_refuses", session(BROKER).packet(REFUSED, 1)),
        ("broker_starts_nowhere", broker().page(0).start(1, first)),
        ("broker_starts_in_the_header", broker().page(0).start(0, 0)),
        ("broker_starts_without_pages", broker().start(0, first)),
        ("broker_starts_twice", broker().page(0).start(0, first).start(0, first)),
        ("broker_with_a_page_twice", broker().page(0).page(0).start(0, first)),
        ("broker_takes_back", broker().page(0).page(1).packet(FORGET, 1).start(0, first)),
        ("broker_takes_back_all", broker().page(0).start(0, first).packet(FORGET, 0)),
        ("broker_with_too_many_pages", (0..9).fold(broker(), Seed::page)),
        ("broker_of_another_cursor", session(BROKER).byte(WELCOME).byte(99).byte(0).control()),
        (
            "broker_without_limits",
            session(BROKER)
                .byte(WELCOME)
                .byte(0)
                .byte(1)
                .word(4096)
                .word(1 << 31)
                .word(u64::MAX)
                .control()
                .page(0)
                .start(0, first)
                .page(1),
        ),
        (
            "broker_of_odd_limits",
            session(BROKER).byte(WELCOME).byte(0).byte(1).word(3).word(u64::MAX).word(0).control(),
        ),
        ("broker_plays_client", session(BROKER).hello(SEND).join()),
        ("channel_receiver", session(CHANNEL_RECEIVER).welcome().start(0, first).bare(RING)),
        ("channel_receiver_ends", session(CHANNEL_RECEIVER).welcome().packet(BYE, 0)),
        (
            "channel_receiver_with_a_page",
            session(CHANNEL_RECEIVER).welcome().page(0).start(0, first),
        ),
        (
            "channel_sender",
            session(CHANNEL_SENDER)
                .hello(SEND)
                .join()
                .byte(PAGE)
                .byte(0)
                .byte(1)
                .byte(ORDINARY_PAGE)
                .byte(3)
                .bytes(&[10, 20, 30])
                .page(1),
        ),
        ("channel_sender_of_short_pages", session(CHANNEL_SENDER).hello(SEND).join().page(0)),
        ("channel_sender_that_receives", session(CHANNEL_SENDER).hello(SEND | RECEIVE).join()),
    ]);
    for kind in 0..KINDS as u8 {
        let page = |seed: Seed| seed.byte(PAGE).byte(0).byte(1).byte(kind).byte(0).byte(0);
        let join = |seed: Seed| seed.byte(JOIN).byte(1).byte(kind);
        seeds.push((format!("client_page_{kind}"), page(client().join()).0));
        seeds.push((format!("client_join_{kind}"), join(client()).0));
        seeds.push((format!("broker_page_{kind}"), page(broker()).start(0, first).0));
        let three = [3, kind, 10, 10];
        seeds.push((format!("three_descriptors_{kind}"), client().byte(JOIN).bytes(&three).0));
    }
    for (name, kinds) in [
        ("strange", [EVENTFD, 6, 8]),
        ("of_memory", [5, 5, 5]),
        ("slow", [SLOW, EVENTFD, SLOW]),
        ("slow_inside", [EVENTFD, SLOW_INSIDE, 7]),
    ] {
        for count in [4, 253] {
            let many = |seed: Seed| seed.byte(count).bytes(&kinds);
            let empty = |seed: Seed| many(seed.byte(RAW).byte(0));
            let behind = |seed: Seed| many(empty(empty(seed)).byte(RING));
            let welcome = |side| session(side).byte(WELCOME).byte(0).byte(0);
            for (way, seed) in [
                ("with_a_join", many(client().byte(JOIN))),
                ("with_an_empty_packet", empty(client().join())),
                ("behind_empty_packets", behind(session(CLIENT))),
                ("behind_a_fault", behind(session(CLIENT).byte(RING).byte(0))),
                ("to_a_client", many(welcome(BROKER))),
                ("behind_a_broker", behind(broker().page(0).start(0, first))),
                ("to_a_channel", behind(session(CHANNEL_RECEIVER).welcome().start(0, first))),
            ] {
                seeds.push((format!("{count}_{name}_{way}"), seed.0));
            }
        }
    }
    // Inputs of the decoder alone.
    let refusal = |reason| [4, 0, 0, 0, reason, 0, 0, 0, 0, 0, 0, 0];
    let mut foreign_hello = [0; 20];
    (foreign_hello[0], foreign_hello[4]) = (2, 1);
    for (i, bytes) in [
        &[1][..],
        &[8; 24],
        &refusal(2),
        &refusal(3),
        &refusal(4),
        &refusal(99),
        &[9, 0, 0, 0, 99, 0, 0, 0],
        &foreign_hello,
    ]
    .iter()
    .enumerate()
    {
        seeds.push((format!("packet_{i}"), bytes.to_vec()));
    }
    seeds
}

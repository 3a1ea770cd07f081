//! Clients that abuse their being skipped. Two honest clients exchange messages during each case
//! and lose nothing (P12).

mod common;

use common::bus::Bus;
use common::honest::Honest;
use common::raw::Raw;
use llmp::Broker;
use llmp::core::wire::{ByeReason, Packet, Roles};

/// A bus that waits for its honest clients.
fn bus() -> Bus {
    Bus::new(Broker::builder().page_len(8192).max_message_len(10_000).chain_budget(64 << 10))
}

/// A receiver that reads nothing until it is skipped.
fn skipped(bus: &Bus, honest: &Honest) -> Raw {
    let raw = Raw::join(bus.path(), Roles::RECEIVE.and(Roles::SKIP));
    raw.start();
    honest.go_on(10);
    loop {
        match raw.socket.next().expect("a connection").0 {
            Packet::Skipped => return raw,
            Packet::Page { .. } | Packet::Forget { .. } => {}
            packet => panic!("{packet:?}"),
        }
    }
}

/// Asks to receive again and waits until that is granted.
fn rejoin(raw: &Raw) {
    assert!(raw.socket.send(&Packet::Rejoin, &[]));
    loop {
        match raw.socket.next().expect("a connection").0 {
            Packet::Start(_) => return,
            Packet::Page { .. } => {}
            packet => panic!("{packet:?}"),
        }
    }
}

// P12
#[test]
fn a_client_that_was_not_skipped_may_not_rejoin() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    for roles in [Roles::RECEIVE, Roles::SEND, Roles(0)] {
        let raw = Raw::join(bus.path(), roles);
        if roles.has(Roles::SEND) {
            raw.page(0, &raw.chain(&[]).1);
        }
        raw.start();
        raw.socket.send(&Packet::Rejoin, &[]);
        raw.is_disconnected();
        bus.disconnects(raw.id, "unexpected packet of kind 14 from a client that was not skipped");
        honest.go_on(10);
    }
    honest.finish();
}

// P12
#[test]
fn a_skipped_client_may_rejoin_once() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    let raw = skipped(&bus, &honest);
    raw.socket.send(&Packet::Rejoin, &[]);
    raw.socket.send(&Packet::Rejoin, &[]);
    raw.is_disconnected();
    bus.disconnects(raw.id, "unexpected packet of kind 14");
    honest.finish();
}

// P12
#[test]
fn a_skipped_client_that_keeps_a_cursor_is_disconnected() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    let raw = skipped(&bus, &honest);
    // Where it was, and where it never was.
    for cursor in [64, 1 << 62] {
        raw.cursor(cursor);
    }
    rejoin(&raw);
    bus.disconnects(raw.id, "cursor at position");
    honest.finish();
}

// P12
#[test]
fn a_client_that_asks_for_a_lost_page_while_it_is_skipped_gets_none() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    let raw = skipped(&bus, &honest);
    for id in 0..100 {
        raw.socket.send(&Packet::Again { id }, &[]);
    }
    honest.go_on(10);
    // Each page comes once.
    let mut pages = Vec::new();
    assert!(raw.socket.send(&Packet::Rejoin, &[]));
    loop {
        match raw.socket.next().expect("a connection").0 {
            Packet::Start(_) => break,
            Packet::Page { id } => pages.push(id),
            packet => panic!("{packet:?}"),
        }
    }
    pages.sort_unstable();
    let all = pages.len();
    pages.dedup();
    assert_eq!(pages.len(), all);
    honest.finish();
}

// P9, P12
#[test]
fn a_client_that_never_reads_is_skipped_a_hundred_times_and_harms_no_other() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    let raw = skipped(&bus, &honest);
    for _ in 0..100 {
        raw.cursor(0);
        rejoin(&raw);
        loop {
            match raw.socket.next().expect("a connection").0 {
                Packet::Skipped => break,
                Packet::Page { .. } | Packet::Forget { .. } => {}
                packet => panic!("{packet:?}"),
            }
        }
    }
    honest.finish();
    assert!(bus.end().skipped > 100);
}

// P12
#[test]
fn an_evicted_client_is_gone_whatever_it_sends() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    let raw = Raw::join(bus.path(), Roles::RECEIVE.and(Roles::EVICT));
    raw.start();
    assert_eq!(raw.socket.bye(), Some(Packet::Bye(ByeReason::Slow)));
    raw.socket.send(&Packet::Rejoin, &[]);
    bus.has_left(raw.id);
    honest.finish();
    assert_eq!(bus.end().faults, 0);
}

//! Faults in the memory of a hostile client: invalid pages and cursors. Two honest clients exchange
//! messages on the bus during each case and lose nothing (P12).

mod common;

use common::bus::Bus;
use common::honest::Honest;
use common::raw::{Raw, region};
use common::regions::heap;
use llmp::core::broker::{Action, Core, Quota};
use llmp::core::chain::ChainWriter;
use llmp::core::control::Control;
use llmp::core::layout::*;
use llmp::core::memory::{Memory, Region};
use llmp::core::order::Site;
use llmp::core::wire::{Packet, Roles};
use llmp::{Broker, Envelope, Fault, Limits};
use std::sync::mpsc::channel;

const PAGE: usize = 4096;
/// Where the first slot is, and where its tag is.
const SLOT: usize = PAGE_HEADER;
const TAG: usize = PAGE_HEADER + SLOT_TAG;
/// Where the first slot's origin is, if it has one.
const BUS: usize = PAGE_HEADER + SLOT_HEADER;
const EXTENDED: u64 = commit_word(8, KIND_MESSAGE, FLAG_EXTENDED, 0);
const NEXT: u64 = commit_word(0, KIND_EOP, 0, 0);

fn bus() -> Bus {
    Bus::new(Broker::builder().page_len(PAGE).max_message_len(10_000).chain_budget(32 << 10))
}

const fn message(len: u32) -> u64 {
    commit_word(len, KIND_MESSAGE, 0, 0)
}

/// The header of a page as its owner should have written it.
fn header(page: &Region, id: u32, owner: u32, base: u64, first: u64) {
    let version = halves(VERSION, PAGE_HEADER as u32);
    let len = page.region_len() as u64;
    page.write_words(0, [PAGE_MAGIC, version, len, halves(id, owner), base, first]);
}

/// Words to be written into a page: offset and value.
type Words = &'static [(usize, u64)];

/// Turns the correct value into an invalid one.
type Invalid = fn(u64) -> u64;

/// Writes an invalid value into a region.
type Writes = fn(&Region);

// P12
#[test]
fn every_fault_in_a_page_is_logged_and_harms_no_other_client() {
    const ROWS: &[(Words, &str)] = &[
        (&[(0, 1)], "page 0: magic number 0x0000000000000001 instead of"),
        (&[(PAGE_VERSION, 1)], "page 0: version and header length 0x1 instead of 0x4000000002"),
        (&[(PAGE_LENGTH, 1 << 40)], "page 0: its header says 1099511627776 bytes"),
        (&[(PAGE_LENGTH, 0)], "page 0: its header says 0 bytes"),
        (&[(PAGE_ID, 5)], "page 0: its header names page 5"),
        (&[(PAGE_BASE, PAGE as u64)], "page 0: start position 64 is not a valid slot"),
        (&[(PAGE_BASE, 48)], "page 0: start position 64 is not a valid slot"),
        (&[(PAGE_BASE, u64::MAX)], "page 0: start position 64 is not a valid slot"),
        (&[(SLOT, message(u32::MAX))], "page 0, offset 64: message length 4294967295 exceeds"),
        (&[(SLOT, message(4096))], "page 0, offset 64: message length 4096 exceeds the 4000 bytes"),
        (&[(SLOT, message(4001))], "page 0, offset 64: message length 4001 exceeds the 4000 bytes"),
        (&[(SLOT, commit_word(0, 9, 0, 0))], "page 0, offset 64: unknown message kind 9"),
        (&[(SLOT, commit_word(8, 0, 0, 0))], "page 0, offset 64: unknown message kind 0"),
        (&[(SLOT, commit_word(8, KIND_REF, 0, 0))], "page 0, offset 64: unknown message kind 3"),
        (&[(SLOT, commit_word(8, KIND_MESSAGE, 2, 0))], "offset 64: reserved bits are set in"),
        (&[(SLOT, commit_word(8, KIND_EOP, 0, 0))], "offset 64: reserved bits are set in"),
        (&[(SLOT, EXTENDED)], "page 0, offset 64: the origin names bus 0"),
        (&[(BUS, 5), (BUS + 24, 1), (SLOT, EXTENDED)], "offset 64: reserved bits are set in 0x1"),
        (&[(BUS, 5), (BUS + 24, 1 << 63), (SLOT, EXTENDED)], "reserved bits are set in 0x8000"),
        (&[(TAG, halves(0, 1)), (SLOT, NEXT)], "offset 64: reserved bits are set in"),
        (&[(TAG, 7), (SLOT, NEXT)], "page 0, offset 64: the next page is 7, which never arrived"),
        (&[(TAG, 0), (SLOT, NEXT)], "page 0: it begins at position 0 instead of 4096"),
    ];
    let bus = bus();
    let honest = Honest::pair(&bus);
    for (words, fault) in ROWS {
        let raw = Raw::join(bus.path(), Roles::SEND);
        let (_, page) = raw.chain(&[]);
        for (at, word) in *words {
            page.write_words(*at, [*word]);
        }
        raw.page(0, &page);
        raw.is_disconnected();
        bus.disconnects(raw.id, fault);
    }
    assert_eq!(honest.finish(), []);
    assert_eq!(bus.end().faults, ROWS.len() as u64);
}

// P12
#[test]
fn a_wrong_next_page_is_logged_after_earlier_messages_arrive() {
    let rows: &[(Words, &str)] = &[
        (&[(PAGE_BASE, 0)], "page 1: it begins at position 0 instead of 4096"),
        (&[(PAGE_BASE, 64)], "page 1: it begins at position 64 instead of 4096"),
        (&[(PAGE_BASE, 1 << 40)], "page 1: it begins at position 1099511627776 instead of 4096"),
        (&[(PAGE_FIRST, 0)], "page 1: it begins with message 0 instead of 1"),
        (&[(PAGE_FIRST, 9)], "page 1: it begins with message 9 instead of 1"),
        (&[(PAGE_ID, 2)], "page 1: its header names page 2"),
        (&[(0, 0)], "page 1: magic number"),
    ];
    let bus = bus();
    let honest = Honest::pair(&bus);
    let mut ids = Vec::new();
    for (words, fault) in rows {
        let raw = Raw::join(bus.path(), Roles::SEND);
        let (sender, first) = raw.chain(&[(1, b"before")]);
        let second = region(PAGE);
        header(&second, 1, raw.id, PAGE as u64, 1);
        for (at, word) in *words {
            second.write_words(*at, [*word]);
        }
        let end = sender.tail() as usize;
        raw.page(0, &first);
        raw.page(1, &second);
        // Named when it has been sent, and not before.
        first.write_words(end + SLOT_TAG, [1]);
        first.store(end, NEXT, Site::CommitPublish);
        raw.socket.send(&Packet::Ring, &[]);
        raw.is_disconnected();
        bus.disconnects(raw.id, fault);
        ids.push(raw.id);
    }
    let heard: Vec<_> = honest.finish().into_iter().map(|(id, _, payload)| (id, payload)).collect();
    let expected: Vec<_> = ids.into_iter().map(|id| (id, b"before".to_vec())).collect();
    assert_eq!(heard, expected);
}

// P12
#[test]
fn pages_beyond_the_budget_or_forgotten_in_use_are_logged() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    let raw = Raw::join(bus.path(), Roles::SEND);
    let (_sender, page) = raw.chain(&[(1, b"here")]);
    raw.page(0, &page);
    let more = region(PAGE);
    for id in 1..100 {
        raw.page(id, &more);
    }
    // The budget and one longest page: eleven pages have room, the twelfth has not.
    bus.disconnects(raw.id, "49152 bytes of pages, the chain's budget is 45056");

    let raw = Raw::join(bus.path(), Roles::SEND);
    let (_sender, page) = raw.chain(&[(2, b"here")]);
    raw.page(0, &page);
    raw.page(1, &more);
    raw.page(1, &more);
    bus.disconnects(raw.id, "page 1 arrived twice");

    let raw = Raw::join(bus.path(), Roles::SEND);
    let (_sender, page) = raw.chain(&[(3, b"here")]);
    raw.page(0, &page);
    raw.socket.send(&Packet::Forget { id: 0 }, &[]);
    raw.is_disconnected();
    bus.disconnects(raw.id, "page 0 was removed while it was being read");
    honest.finish();
}

// P12
#[test]
fn an_invalid_control_region_is_logged() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    let rows: &[(Words, &str)] = &[
        (&[(0, 7)], "control region: the magic number is 0x7 instead of"),
        (&[(CONTROL_VERSION, 1)], "control region: the version is 0x1 instead of 0x2"),
    ];
    for (words, fault) in rows {
        let raw = Raw::greet(bus.path(), Roles::SEND);
        for (at, word) in *words {
            raw.control.write_words(*at, [*word]);
        }
        raw.socket.send(&Packet::Join, &[raw.control.descriptor().unwrap()]);
        raw.is_disconnected();
        bus.disconnects(raw.id, fault);
    }
    honest.finish();
}

// P8, P12
#[test]
fn an_invalid_cursor_is_logged_and_delays_no_other_client() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    let rows: [(Invalid, &str); 4] = [
        (|start| start - 16, "after it had been at"),
        (|_| 1, "cursor at position 1, after it had been at"),
        (|start| start + (1 << 40), "nothing is sent beyond"),
        (|_| u64::MAX, "cursor at position 18446744073709551615, nothing is sent beyond"),
    ];
    for (invalid, fault) in rows {
        let raw = Raw::join(bus.path(), Roles::RECEIVE);
        raw.cursor(invalid(raw.start().position));
        bus.disconnects(raw.id, fault);
        raw.is_disconnected();
        honest.go_on(50);
    }
    honest.finish();
}

// P4
#[test]
fn a_client_that_dies_within_a_message_loses_only_that_one() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    let raw = Raw::join(bus.path(), Roles::SEND);
    let (mut sender, page) = raw.chain(&[(1, b"one"), (2, b"two"), (3, b"three")]);
    raw.page(0, &page);
    let claim = sender.claim(Envelope::tagged(4), 1000).unwrap();
    claim.write_all(&[4; 1000]);
    // The whole message is there, except for the commit word.
    let id = raw.id;
    drop(raw);
    bus.has_left(id);
    let expected = [(1, "one"), (2, "two"), (3, "three")];
    let expected = expected.map(|(tag, payload)| (id, tag, payload.as_bytes().to_vec()));
    assert_eq!(honest.finish(), expected);
}

/// Fills pages, each of which names the next, and the last the first.
struct Lap {
    owner: u32,
    base: u64,
    number: u64,
}

impl Lap {
    fn run(&mut self, pages: &[Region]) {
        for (i, page) in pages.iter().enumerate() {
            header(page, i as u32, self.owner, self.base, self.number);
            self.base += PAGE as u64;
            let end = SLOT + 100 * SLOT_HEADER;
            for at in (SLOT..end).step_by(SLOT_HEADER) {
                page.write_words(at, [message(0), self.number & 0xffff]);
                self.number += 1;
            }
            page.write_words(end, [NEXT, (i as u64 + 1) % pages.len() as u64]);
        }
    }
}

// P12
#[test]
fn a_client_that_appends_after_its_connection_ended_is_cut_off() {
    let bus = bus();
    let honest = Honest::pair(&bus);
    for _ in 0..20 {
        let raw = Raw::join(bus.path(), Roles::SEND);
        let id = raw.id;
        let pages: Vec<_> = (0..8).map(|_| region(PAGE)).collect();
        let mut reuse_distance = Lap { owner: id, base: 0, number: 0 };
        reuse_distance.run(&pages);
        for (id, page) in (0..).zip(&pages) {
            raw.page(id, page);
        }
        drop(raw);
        // Rewrites the same pages, whether or not the broker still reads them.
        let (over, is_over) = channel::<()>();
        let writer = std::thread::spawn(move || {
            while is_over.try_recv().is_err() {
                reuse_distance.run(&pages);
            }
        });
        // The timing decides which words are reported.
        bus.logs(&format!("client {id} is disconnected"));
        over.send(()).unwrap();
        writer.join().unwrap();
        honest.go_on(10);
    }
    honest.finish();
}

// P12
#[test]
fn a_dead_chain_of_endless_pages_ends() {
    let limits = Limits::new(PAGE, 1000, 32 << 10).unwrap();
    let control = heap(control_len(1));
    let mut core = Core::new(limits, control, 1, heap(PAGE));
    core.set_quota(Quota::new(1, 1));
    let client = core.reserve(Roles::SEND).unwrap().client;
    let own = heap(control_len(1));
    Control::create(own.clone(), 1);
    core.join(client, own).unwrap();
    let pages = [heap(PAGE), heap(PAGE)];
    drop(ChainWriter::new(client.0, limits, pages[0].clone()));
    for (id, page) in (0..).zip(&pages) {
        core.page_arrived(client, id, page.clone()).unwrap();
    }
    core.hung_up(client);
    // Empty pages. Each names the next one just before that is needed.
    for turn in 0..1000 {
        let (here, next) = (turn % 2, (turn + 1) % 2);
        header(&pages[next], next as u32, client.0, (turn as u64 + 1) * PAGE as u64, 0);
        pages[here].write_words(TAG, [next as u64]);
        pages[here].write_words(SLOT, [NEXT]);
        core.cycle();
        if let [Action::Remove(removed, Some(Fault::Endless))] = core.take_actions()[..] {
            assert_eq!(removed, client);
            return;
        }
    }
    panic!("it goes on for ever");
}

// P12
#[test]
fn a_client_reports_the_fault_of_its_broker() {
    let place = common::bus::Place::new();
    let limits = (&Limits::default()).into();
    let welcome = Packet::Welcome { version: VERSION, client: 1, cursor: 0, broker: 0, limits };
    let faults: [(Packet, Writes, &str); 3] = [
        (welcome, |_| {}, "control region: the magic number is 0x0"),
        (welcome, |r| r.write_words(0, [CONTROL_MAGIC, 9]), "control region: the version is 0x9"),
        (Packet::Ring, |_| {}, "packet of kind 1 instead of a welcome"),
    ];
    for (packet, write, fault) in faults {
        let accept = common::raw::RawSocket::listen(&place.path());
        let path = place.path();
        let client = std::thread::spawn(move || llmp::Client::connect(path));
        let fake = accept();
        let control = region(4096);
        write(&control);
        fake.send(&packet, &[control.descriptor().unwrap()][..packet.descriptors()]);
        let error = client.join().unwrap().unwrap_err().to_string();
        assert!(error.contains(fault), "{error}");
        std::fs::remove_file(place.path()).unwrap();
    }
}

//! Hostile input: descriptors, packets, handshakes. Two honest clients exchange messages on the bus
//! during each case and lose nothing (P12).

mod common;

use common::TIMEOUT;
use common::bus::{Bus, Place};
use common::honest::Honest;
use common::raw::{Raw, RawSocket, memfd, region, seals};
use llmp::core::layout::VERSION;
use llmp::core::wire::{Packet, Refusal, Roles};
use llmp::{Broker, BrokerBuilder, Client, ConnectError, PeerFilter, SendError};
use rustix::fs::SealFlags;
use std::os::fd::{AsFd, OwnedFd};

const PAGE: usize = 8192;

fn small() -> BrokerBuilder {
    Broker::builder().page_len(PAGE).max_message_len(10_000).chain_budget(64 << 10)
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn file(len: u64) -> OwnedFd {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file.into()
}

// P12, P13
#[test]
fn descriptors_of_memory_that_may_change_are_refused() {
    let bus = Bus::new(small());
    let honest = Honest::pair(&bus);
    let pipe = std::io::pipe().unwrap();
    let without = |seal: SealFlags| memfd(PAGE, seals().difference(seal));
    let rows: [(&str, OwnedFd, &str); 9] = [
        ("a pipe", pipe.0.into(), "the descriptor is not a memfd"),
        // On a tmpfs a file answers like a memfd that has no seals.
        ("a file", file(PAGE as u64), "memfd"),
        ("no F_SEAL_SHRINK", without(SealFlags::SHRINK), "lacks the seals F_SEAL_SHRINK"),
        ("no F_SEAL_GROW", without(SealFlags::GROW), "lacks the seals F_SEAL_GROW"),
        ("writable", without(SealFlags::FUTURE_WRITE), "lacks the seals F_SEAL_FUTURE_WRITE"),
        ("no F_SEAL_SEAL", without(SealFlags::SEAL), "lacks the seals F_SEAL_SEAL"),
        ("too small", memfd(4096, seals()), "the memfd has 4096 bytes, expected"),
        ("too large", memfd(1 << 20, seals()), "the memfd has 1048576 bytes, expected"),
        ("not whole pages", memfd(PAGE + 16, seals()), "the memfd has 8208 bytes, expected"),
    ];
    for (what, descriptor, fault) in rows {
        println!("{what}");
        let raw = Raw::join(bus.path(), Roles::SEND);
        raw.page_of(&descriptor);
        raw.is_disconnected();
        bus.disconnects(raw.id, fault);
        // The same in the place of a control region.
        if what != "too small" && what != "too large" && what != "not whole pages" {
            let raw = Raw::greet(bus.path(), Roles::SEND);
            raw.socket.send(&Packet::Join, &[descriptor.as_fd()]);
            raw.is_disconnected();
            bus.disconnects(raw.id, "a control region: ");
        }
        honest.go_on(10);
    }
    honest.finish();
    assert_eq!(bus.end().faults, 15);
}

// P12, P13
#[test]
fn truncating_sent_memory_kills_no_process() {
    let bus = Bus::new(small());
    let honest = Honest::pair(&bus);
    for descriptor in [file(PAGE as u64), memfd(PAGE, SealFlags::empty())] {
        for again in [0, PAGE as u64] {
            let raw = Raw::join(bus.path(), Roles::SEND);
            raw.page_of(&descriptor);
            rustix::fs::ftruncate(&descriptor, 0).unwrap();
            raw.is_disconnected();
            bus.disconnects(raw.id, "a page: ");
            rustix::fs::ftruncate(&descriptor, again).unwrap();
        }
    }
    // Memory with the seals cannot be truncated, not even by its owner.
    let raw = Raw::join(bus.path(), Roles::SEND);
    let (_, page) = raw.chain(&[(1, b"here")]);
    raw.page(0, &page);
    assert!(rustix::fs::ftruncate(page.descriptor().unwrap(), 0).is_err());
    let id = raw.id;
    drop(raw);
    bus.has_left(id);
    assert_eq!(honest.finish(), [(id, 1, b"here".to_vec())]);
}

// P16
#[test]
fn another_version_is_refused_clearly_on_both_sides() {
    let bus = Bus::new(small());
    let honest = Honest::pair(&bus);
    let stranger = RawSocket::connect(bus.path());
    stranger.send(&Packet::Hello { version: 99, roles: Roles::SEND }, &[]);
    let answer = stranger.next().unwrap().0;
    assert_eq!(answer, Packet::Refused(Refusal::Version { broker: VERSION }));
    assert!(stranger.next().is_none());
    bus.logs("was refused: the bus speaks version");
    honest.finish();

    let limits = (&llmp::Limits::default()).into();
    let welcome = Packet::Welcome { version: 99, client: 1, cursor: 0, broker: 0, limits };
    for answer in [Packet::Refused(Refusal::Version { broker: 99 }), welcome] {
        let place = Place::new();
        let accept = RawSocket::listen(&place.path());
        let client = std::thread::spawn({
            let path = place.path();
            move || Client::connect(path)
        });
        let fake = accept();
        assert!(matches!(fake.next(), Some((Packet::Hello { version: VERSION, .. }, None))));
        let control = region(4096);
        let descriptors = [control.descriptor().unwrap()];
        fake.send(&answer, &descriptors[..answer.descriptors()]);
        let error = client.join().unwrap().unwrap_err();
        let expected = ConnectError::Refused(Refusal::Version { broker: 99 });
        assert_eq!(error.to_string(), expected.to_string());
        let text = error.to_string();
        assert!(text.contains("version 99") && text.contains(&format!("version {VERSION}")));
    }
}

// P16
#[test]
fn another_user_is_refused_clearly_on_both_sides() {
    let bus = Bus::new(small().access(PeerFilter::Users(vec![user() + 1])));
    // Repeated, because the answer may come before or after the question.
    for _ in 0..200 {
        let error = Client::connect(bus.path()).unwrap_err();
        assert!(matches!(error, ConnectError::Refused(Refusal::User)), "{error}");
    }
    let (process, user_id) = (std::process::id(), user());
    bus.logs(&format!(
        "process {process} of user {user_id} was refused: the broker does not admit"
    ));
    let builder = Client::builder().access(PeerFilter::Users(vec![user() + 1]));
    let error = builder.connect(bus.path()).unwrap_err();
    assert!(matches!(error, ConnectError::Stranger { user: found } if found == user()));
}

// P12
#[test]
fn more_clients_than_are_admitted_are_refused_until_one_leaves() {
    let bus = Bus::new(small().max_clients(3));
    let clients = [bus.connect(), bus.connect(), bus.connect()];
    for _ in 0..20 {
        let error = Client::connect(bus.path()).unwrap_err();
        assert!(matches!(error, ConnectError::Refused(Refusal::Crowded)), "{error}");
    }
    let [mut a, mut b, c] = clients;
    bus.logs("was refused: 3 clients are connected, and no more are admitted");
    let id = c.id().0;
    drop(c);
    bus.has_left(id);
    let _works = bus.connect();
    a.send(1, b"still here").unwrap();
    assert_eq!(b.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"still here");
}

// P12
#[test]
fn an_unfinished_handshake_delays_no_other_client() {
    let bus = Bus::new(small());
    let honest = Honest::pair(&bus);
    let silent = RawSocket::connect(bus.path());
    let greeted = Raw::greet(bus.path(), Roles::SEND.and(Roles::RECEIVE));
    let pageless = Raw::join(bus.path(), Roles::SEND.and(Roles::RECEIVE));
    pageless.start();
    honest.go_on(5);
    drop(silent);
    // The one that receives first: it holds what it has not read.
    for raw in [pageless, greeted] {
        let id = raw.id;
        drop(raw);
        bus.has_left(id);
    }
    honest.finish();
}

// P12
#[test]
fn a_flood_of_rings_delays_no_other_client() {
    let bus = Bus::new(small());
    let honest = Honest::pair(&bus);
    let raw = Raw::join(bus.path(), Roles::SEND);
    let id = raw.id;
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    let flood = std::thread::spawn(move || {
        while is_over.try_recv().is_err() {
            assert!(raw.socket.send(&Packet::Ring, &[]));
        }
    });
    honest.go_on(2000);
    over.send(()).unwrap();
    flood.join().unwrap();
    bus.has_left(id);
    honest.finish();
}

// P12
#[test]
fn an_unexpected_packet_is_logged_and_ends_the_connection() {
    let bus = Bus::new(small());
    let honest = Honest::pair(&bus);
    let page = region(PAGE);
    let fd = page.descriptor().unwrap();
    let encoded = |packet: Packet| {
        let mut bytes = [0; llmp::core::wire::MAX_PACKET];
        let len = packet.encode(&mut bytes);
        bytes[..len].to_vec()
    };
    let id_of = |id| encoded(Packet::Page { id });
    let hello = encoded(Packet::Hello { version: VERSION, roles: Roles::SEND });
    let rows = [
        (vec![0xee], 0, "packet kind 238"),
        (vec![1, 2], 0, "packet kind 1: 2 bytes instead of 1"),
        (vec![7; 65], 0, "packet kind 7: 65 bytes instead of 8"),
        (vec![7, 0, 1, 0, 0, 0, 0, 0], 0, "packet kind 7: reserved bytes are not zero"),
        (hello, 0, "packet of kind 2 from a client that has joined"),
        (id_of(0), 0, "packet kind 6: 0 descriptors instead of 1"),
        (id_of(0), 2, "packet kind 6: 2 descriptors instead of 1"),
        (id_of(0), 4, "descriptors instead of 1"),
        (encoded(Packet::Ring), 1, "packet kind 1: 1 descriptors instead of 0"),
        (id_of(3), 1, "the next page is 3, which never arrived"),
        (encoded(Packet::Forget { id: 0 }), 0, "the next page is 0, which never arrived"),
    ];
    for (bytes, descriptors, fault) in rows {
        let raw = Raw::join(bus.path(), Roles::SEND);
        raw.socket.send_bytes(&bytes, &[fd; 4][..descriptors]);
        raw.is_disconnected();
        bus.disconnects(raw.id, fault);
    }
    for bytes in [vec![2; 4], vec![5, 0, 0, 0], vec![1], vec![0xff; 64]] {
        let stranger = RawSocket::connect(bus.path());
        stranger.send_bytes(&bytes, &[]);
        assert!(stranger.next().is_none());
    }
    bus.logs("is disconnected before it has joined: on the control socket");
    honest.finish();
}

// P14
#[test]
fn a_message_above_the_limit_fails_before_any_write() {
    let bus = Bus::new(small());
    let (mut a, mut b) = (bus.connect(), bus.connect());
    a.send(1, &[7; 10_000]).unwrap();
    let before = a.stats();
    for len in [10_001, 64 << 10, 1 << 20] {
        let error = a.send(2, &vec![1; len]).unwrap_err();
        assert!(matches!(error, SendError::TooLong { len: found, max: 10_000 } if found == len));
        let error = a.try_send(2, &vec![1; len]).unwrap_err();
        assert!(matches!(error, SendError::TooLong { .. }), "{error}");
    }
    assert_eq!(a.stats(), before);
    a.send(3, b"next").unwrap();
    for expected in [&[7; 10_000][..], b"next"] {
        assert_eq!(b.recv_timeout(TIMEOUT).unwrap().unwrap().payload, expected);
    }
}

// P9, P12
#[test]
fn an_unread_connection_does_not_stop_the_bus() {
    // More pages than its socket has room for announcements.
    let bus = Bus::new(Broker::builder().page_len(4096).max_message_len(1000));
    let silent = Raw::join(bus.path(), Roles::RECEIVE);
    silent.start();
    let mut sender = Client::connect_sender(bus.path()).unwrap();
    while sender.send_timeout(1, &[7; 1000], std::time::Duration::from_millis(200)).is_ok() {}
    bus.logs(&format!("client {} (process {}) has not received", silent.id, std::process::id()));
    bus.disconnects(silent.id, "the client has not read its connection for 10 s");
    sender.send_timeout(1, b"the bus goes on", TIMEOUT).unwrap();
    assert!(sender.flush_timeout(TIMEOUT).unwrap());
}

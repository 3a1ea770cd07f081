//! Clients that outlive their broker: brokers are killed at any time, and the next one goes on.

mod common;

use common::TIMEOUT;
use common::bus::Place;
use common::child::Child;
use common::content::{MEDIUM, SMALL, WIDE, payload, random, seed};
use common::raw::{Raw, RawSocket};
use common::regions::shared;
use llmp::core::control::Control;
use llmp::core::layout::{PAGE_FIRST, VERSION, control_len};
use llmp::core::memory::Memory;
use llmp::core::wire::{ByeReason, Packet, RawLimits, Refusal, Roles, Session};
use llmp::{Broker, Client, ClientBuilder, Disconnected, Receiver, RecvError, SlowReceiver, Tag};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

fn outliving() -> ClientBuilder {
    Client::builder().outlive_broker(TIMEOUT)
}

/// Kills a broker, and starts the next one at once.
fn kill(place: &Place, broker: &mut Child) {
    broker.kill();
    *broker = place.broker(&[]);
}

/// Lets a broker hand the bus over to the next one.
fn replace(place: &Place, broker: &mut Child) {
    Broker::request_hand_over(place.path(), TIMEOUT).unwrap();
    *broker = place.broker(&[]);
}

/// What a client has received: each message's sender and tag, in order.
type Heard = Vec<(u32, u32)>;

/// Receives a message and checks its content. Returns whether there was one.
fn hear(client: &mut Client, heard: &mut Heard, timeout: Duration) -> bool {
    let Some(message) = client.recv_timeout(timeout).unwrap() else { return false };
    let (sender, tag) = (message.sender.0, message.tag.0);
    assert_eq!(message.payload, payload(sender, tag), "from {sender}, {tag:#x}");
    heard.push((sender, tag));
    true
}

/// Three clients send `count` messages each and receive all of them, while `ends` brokers are killed,
/// or also hand the bus over.
fn exchange(kind: u32, count: u32, ends: u32, hand_over: bool) {
    let mut chance = seed();
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let (done, all_done) = channel();
    let all_are_done = Arc::new(AtomicBool::new(false));
    // All are there before the first message is sent.
    let connect = || outliving().own_messages().connect(place.path()).unwrap();
    let clients: Vec<_> = [(); 3]
        .map(|()| connect())
        .into_iter()
        .map(|mut client| {
            let (done, all_are_done) = (done.clone(), all_are_done.clone());
            let mut chance = random(&mut chance);
            std::thread::spawn(move || {
                let (id, mut heard) = (client.id().0, Heard::new());
                for number in 0..count {
                    let tag = kind | number;
                    client.send(tag, &payload(id, tag)).unwrap();
                    while hear(&mut client, &mut heard, Duration::ZERO) {}
                    if random(&mut chance).is_multiple_of(64) {
                        std::thread::sleep(Duration::from_millis(random(&mut chance) % 5));
                    }
                }
                let began = Instant::now();
                while heard.len() < 3 * count as usize {
                    hear(&mut client, &mut heard, TIMEOUT);
                    assert!(began.elapsed() < TIMEOUT, "{} of {}", heard.len(), 3 * count);
                }
                done.send((client.id().0, heard)).unwrap();
                // Nothing comes twice, from no later broker either. It also goes on with each, as
                // the others would wait for it.
                while !all_are_done.load(Ordering::Relaxed) {
                    let more = client.recv_timeout(Duration::from_millis(10)).unwrap();
                    assert!(more.is_none(), "{more:?}");
                }
                assert_eq!(client.id().0, id);
            })
        })
        .collect();
    for _ in 0..ends {
        std::thread::sleep(Duration::from_millis(random(&mut chance) % 40));
        match hand_over && !random(&mut chance).is_multiple_of(4) {
            true => replace(&place, &mut broker),
            false => kill(&place, &mut broker),
        }
    }
    let heard: HashMap<u32, Heard> =
        (0..3).map(|_| all_done.recv_timeout(TIMEOUT).expect("a client is done")).collect();
    all_are_done.store(true, Ordering::Relaxed);
    let first = heard.values().next().unwrap();
    for sender in heard.keys() {
        let numbers: Vec<_> = first.iter().filter(|(from, _)| from == sender).collect();
        let expected: Vec<_> = (0..count).map(|number| (*sender, kind | number)).collect();
        assert_eq!(numbers, expected.iter().collect::<Vec<_>>(), "from {sender}");
    }
    assert!(heard.values().all(|other| other == first), "two orders");
    clients.into_iter().for_each(|client| client.join().unwrap());
}

// P1, P2, P3
#[test]
fn short_messages_arrive_once_and_in_one_order_while_brokers_are_killed() {
    exchange(SMALL, 3000, 12, false);
}

// P1, P2, P3
#[test]
fn messages_by_reference_arrive_once_and_in_one_order_while_brokers_are_killed() {
    exchange(MEDIUM, 600, 12, false);
}

// P1, P2, P3
#[test]
fn messages_of_all_lengths_arrive_once_and_in_one_order_while_brokers_are_killed() {
    exchange(WIDE, 200, 6, false);
}

// P1, P2, P3
#[test]
fn messages_arrive_once_and_in_one_order_while_brokers_hand_over() {
    exchange(SMALL, 3000, 12, true);
    exchange(MEDIUM, 600, 12, true);
    exchange(WIDE, 200, 6, true);
}

// P3
#[test]
fn the_half_that_finds_a_death_tells_the_other_one() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let client = outliving().own_messages().connect(place.path()).unwrap();
    let (mut sender, mut receiver) = client.into_split();
    let (done, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let sending = std::thread::spawn({
        let (done, sent) = (done.clone(), sent.clone());
        move || {
            // It only sends, and so little that a page lasts for ten seconds.
            while !done.load(Ordering::Relaxed) {
                sender.send(sent.fetch_add(1, Ordering::Relaxed), b"").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(20));
        kill(&place, &mut broker);
        let (killed, began) = (sent.load(Ordering::Relaxed), Instant::now());
        while receiver.recv_timeout(TIMEOUT).unwrap().expect("a message").tag.0 <= killed {}
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    done.store(true, Ordering::Relaxed);
    sending.join().unwrap();
}

// P3
#[test]
fn claims_and_batches_go_on_with_the_next_broker() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let receiver = outliving().connect_receiver(place.path()).unwrap();
    let mut sender = outliving().connect_sender(place.path()).unwrap();
    let hearing = std::thread::spawn(move || {
        let mut receiver = receiver;
        for number in 0..300u32 {
            let message = receiver.recv_timeout(TIMEOUT).unwrap().expect("a message");
            assert_eq!(message.tag.0, number);
        }
    });
    for number in 0..100u32 {
        if number % 20 == 10 {
            // The end of the last broker is noticed, and the calls below do the rest.
            kill(&place, &mut broker);
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(sender.ended(), None);
        }
        let tag = |at: u32| llmp::Envelope::tagged(3 * number + at);
        sender.send_with(tag(0), 1, |_| Ok::<_, std::convert::Infallible>(())).unwrap().unwrap();
        loop {
            let mut batch = sender.batch();
            if batch.try_send_envelope(tag(1), b"").is_ok() {
                break batch.commit();
            }
            drop(batch);
            std::thread::sleep(Duration::from_millis(1));
        }
        let claim = loop {
            match sender.try_claim(tag(2), 1) {
                Ok(claim) => break claim,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        claim.commit().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    sender.flush().unwrap();
    hearing.join().unwrap();
}

// P3
#[test]
fn a_client_that_calls_seldom_goes_on_with_a_broker_that_is_there() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let patience = Duration::from_millis(200);
    let mut sender =
        Client::builder().outlive_broker(patience).connect_sender(place.path()).unwrap();
    kill(&place, &mut broker);
    assert_eq!(sender.ended(), None, "it notices the death");
    std::thread::sleep(2 * patience);
    sender.send(1, b"").unwrap();
    sender.flush().unwrap();
    assert_eq!(sender.ended(), None);
}

// P3
#[test]
fn a_half_that_comes_late_to_an_ended_bus_reports_the_end() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let client = outliving().own_messages().connect(place.path()).unwrap();
    let (mut sender, mut receiver) = client.into_split();
    kill(&place, &mut broker);
    // The receiving half goes on, and hears the end of the bus. The other half does nothing.
    let (first, began) = (receiver.broker_id(), Instant::now());
    while receiver.broker_id() == first {
        assert_eq!(receiver.recv_timeout(Duration::from_millis(10)).unwrap(), None);
        assert!(began.elapsed() < TIMEOUT);
    }
    Broker::request_stop(place.path(), TIMEOUT).unwrap();
    let error = receiver.recv_timeout(TIMEOUT).unwrap_err();
    assert_eq!(error, RecvError::Disconnected(Disconnected::Closed));
    let began = Instant::now();
    let error = loop {
        match sender.send_timeout(1, b"", Duration::from_secs(1)) {
            Ok(()) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => break error,
        }
        assert!(began.elapsed() < TIMEOUT);
    };
    assert_eq!(error.kind(), llmp::ErrorKind::Closed, "{error}");
}

// P3
#[test]
fn halves_in_threads_of_their_own_outlive_many_brokers() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut sender = outliving().connect_sender(place.path()).unwrap();
    let mut receiver = outliving().connect_receiver(place.path()).unwrap();
    let (halves_sender, mut halves_receiver) =
        outliving().connect(place.path()).unwrap().into_split();
    let id = sender.id();
    let count = 500u32;
    let hearing = |receiver: &mut llmp::Receiver| {
        let mut next = 0;
        while next < count {
            let message = receiver.recv_timeout(TIMEOUT).unwrap().expect("a message");
            assert_eq!((message.sender, message.tag), (id, Tag(next)));
            next += 1;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| hearing(&mut receiver));
        scope.spawn(|| hearing(&mut halves_receiver));
        scope.spawn(|| {
            for number in 0..count {
                sender.send(number, &payload(id.0, number)).unwrap();
                std::thread::sleep(Duration::from_micros(300));
            }
            assert!(sender.flush_timeout(TIMEOUT).unwrap());
        });
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(30));
            kill(&place, &mut broker);
        }
    });
    drop(halves_sender);
}

// P10
#[test]
fn clients_that_sleep_find_the_next_broker() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut asleep = outliving().connect_receiver(place.path()).unwrap();
    let mut sender = outliving().connect_sender(place.path()).unwrap();
    let sleeping = std::thread::spawn(move || {
        for number in 0..5 {
            let message = asleep.recv_timeout(TIMEOUT).unwrap().expect("a message");
            assert_eq!(message.tag.0, number);
        }
    });
    for number in 0..5u32 {
        std::thread::sleep(Duration::from_millis(50));
        kill(&place, &mut broker);
        std::thread::sleep(Duration::from_millis(50));
        sender.send(number, b"").unwrap();
        assert!(sender.flush_timeout(TIMEOUT).unwrap());
    }
    sleeping.join().unwrap();
}

// P5
#[test]
fn without_a_next_broker_the_connection_ends_after_its_time() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let timeout = Duration::from_millis(300);
    let mut client = Client::builder().outlive_broker(timeout).connect(place.path()).unwrap();
    let began = Instant::now();
    broker.kill();
    let error = client.recv().unwrap_err();
    assert_eq!(error, RecvError::Disconnected(Disconnected::PeerDied));
    assert!(began.elapsed() >= timeout);
    assert!(client.send(1, b"").is_err());
}

// P3
#[test]
fn a_client_that_comes_back_too_late_is_told_how_many_messages_it_has_missed() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut late = outliving().connect(place.path()).unwrap();
    let mut early = outliving().connect(place.path()).unwrap();
    early.send(1, b"before").unwrap();
    assert!(early.flush_timeout(TIMEOUT).unwrap());
    broker.stop();
    late.send(2, b"own").unwrap();
    broker.kill();
    let next = Broker::builder().grace_period(Duration::from_millis(300)).bind(place.path());
    let (next, began) = (next.unwrap(), Instant::now());
    let stop = next.stop_handle();
    let next = std::thread::spawn(move || next.run());
    for number in 0..10u32 {
        early.send(number, b"missed").unwrap();
    }
    assert!(early.flush_timeout(TIMEOUT).unwrap());
    assert!(began.elapsed() >= Duration::from_millis(300), "the late one was not waited for");
    // It calls nothing until now.
    assert_eq!(late.recv().unwrap().payload, b"before");
    assert_eq!(late.recv_timeout(TIMEOUT), Err(RecvError::Gap { missed: 10 }));
    early.send(3, b"after").unwrap();
    assert_eq!(late.recv().unwrap().payload, b"after");
    // What it had sent is not lost.
    let own = early.recv_timeout(TIMEOUT).unwrap().expect("a message");
    assert_eq!((own.sender, own.payload), (late.id(), &b"own"[..]));
    drop((early, late));
    stop.stop();
    next.join().unwrap().unwrap();
}

/// Returns the broker's answer to a greeting.
fn answer(place: &Place, greeting: Packet) -> Packet {
    let socket = RawSocket::connect(&place.path());
    assert!(socket.send(&greeting, &[]));
    socket.next().expect("an answer").0
}

// P12, P16
#[test]
fn no_process_returns_as_another_client() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let roles = Roles::OUTLIVE.and(Roles::SEND);
    let raw = Raw::greet(&place.path(), roles);
    let Some((Packet::Session(session), None)) = raw.socket.next() else { panic!("no session") };
    assert!(raw.socket.send(&Packet::Join, &[raw.control.descriptor().unwrap()]));
    raw.start();
    let (client, version, Session { epoch, token, .. }) = (raw.id, VERSION, session);
    let back = Packet::Return { version, roles, client, epoch, token };
    let refused = Packet::Refused(Refusal::Unknown);
    assert_eq!(answer(&place, back), refused, "its broker lives");
    kill(&place, &mut broker);
    for (client, token) in [(client, token ^ 1), (client + 1, token), (0, token), (client, 0)] {
        let back = Packet::Return { version, roles, client, epoch, token };
        assert_eq!(answer(&place, back), refused);
    }
    for epoch in [epoch + 1, u32::MAX] {
        let back = Packet::Return { version, roles, client, epoch, token };
        assert_eq!(answer(&place, back), refused, "a later broker's client");
    }
    let without = Packet::Return { version, roles: Roles::SEND, client, epoch, token };
    let socket = RawSocket::connect(&place.path());
    assert!(socket.send(&without, &[]));
    assert!(socket.next().is_none(), "without the role");
    // The client itself may, and a second one with its token may not beside it.
    let socket = RawSocket::connect(&place.path());
    assert!(socket.send(&back, &[]));
    let welcome = socket.next().expect("a welcome").0;
    assert!(matches!(welcome, Packet::Welcome { client: found, .. } if found == client));
    assert_eq!(answer(&place, back), Packet::Refused(Refusal::Crowded));
    let Some((Packet::Session(next), None)) = socket.next() else { panic!("no session") };
    assert_eq!((next.bus, next.epoch, next.since), (session.bus, epoch + 1, epoch));
}

/// Comes back to the next broker of the bus, without `Join`.
fn come_back(place: &Place, raw: &Raw, roles: Roles, session: Session) -> RawSocket {
    let (client, version, Session { epoch, token, .. }) = (raw.id, VERSION, session);
    let socket = RawSocket::connect(&place.path());
    assert!(socket.send(&Packet::Return { version, roles, client, epoch, token }, &[]));
    let welcome = socket.next().expect("a welcome").0;
    assert!(matches!(welcome, Packet::Welcome { client: found, .. } if found == client));
    assert!(matches!(socket.next(), Some((Packet::Session(_), None))));
    socket
}

// P12
#[test]
fn a_client_that_comes_back_a_hundred_times_or_with_impossible_numbers_harms_no_other() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let roles = Roles::OUTLIVE.and(Roles::SEND);
    let mut raw = Raw::greet(&place.path(), roles);
    let Some((Packet::Session(session), None)) = raw.socket.next() else { panic!("no session") };
    assert!(raw.socket.send(&Packet::Join, &[raw.control.descriptor().unwrap()]));
    raw.start();
    let mut honest = outliving().own_messages().connect(place.path()).unwrap();
    kill(&place, &mut broker);
    for _ in 0..100 {
        // It hangs up before it joins, or leaves the place.
        drop(come_back(&place, &raw, roles, session));
    }
    honest.send(1, b"after a hundred times").unwrap();
    assert_eq!(honest.recv().unwrap().payload, b"after a hundred times");
    raw.socket = come_back(&place, &raw, roles, session);
    assert!(raw.socket.send(&Packet::Join, &[raw.control.descriptor().unwrap()]));
    raw.start();
    let (_, page) = raw.chain(&[(1, b"first"), (1, b"second")]);
    // The number of the first message. There is none behind it.
    page.write_words(PAGE_FIRST, [u64::MAX]);
    raw.page(0, &page);
    raw.is_disconnected();
    honest.send(1, b"after the last number").unwrap();
    assert_eq!(honest.recv().unwrap().payload, b"after the last number");
}

// P9
#[test]
fn a_client_that_does_not_come_back_says_so_and_is_not_waited_for() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let roles = Roles::OUTLIVE.and(Roles::RECEIVE);
    let raw = Raw::greet(&place.path(), roles);
    let Some((Packet::Session(session), None)) = raw.socket.next() else { panic!("no session") };
    assert!(raw.socket.send(&Packet::Join, &[raw.control.descriptor().unwrap()]));
    raw.start();
    let mut honest = outliving().own_messages().connect(place.path()).unwrap();
    kill(&place, &mut broker);
    let began = Instant::now();
    let socket = come_back(&place, &raw, roles, session);
    assert!(socket.send(&Packet::Bye(ByeReason::Closed), &[]));
    honest.send(1, b"without it").unwrap();
    assert_eq!(honest.recv().unwrap().payload, b"without it");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

// P9
#[test]
fn a_forgotten_batch_keeps_no_client_from_the_next_broker() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut client = outliving().connect(place.path()).unwrap();
    let mut other = outliving().connect(place.path()).unwrap();
    let mut batch = client.batch();
    batch.try_send(1, b"forgotten").unwrap();
    std::mem::forget(batch);
    kill(&place, &mut broker);
    other.send(2, b"hello").unwrap();
    let flushing = std::thread::spawn(move || other.flush_timeout(TIMEOUT).map(|_| other));
    assert_eq!(client.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"hello");
    let mut other = flushing.join().unwrap().unwrap();
    client.send(3, b"later").unwrap();
    assert_eq!(other.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"later");
}

/// Answers a client that looks for its bus with these packets.
fn pretend(place: &Place, welcome: Packet, session: Packet) {
    let _ = std::fs::remove_file(place.path());
    let accept = RawSocket::listen(&place.path());
    let control = shared("llmp-control", control_len(1)).unwrap();
    Control::create(control.clone(), 1).give_place(0, 1);
    let socket = loop {
        let socket = accept();
        assert!(matches!(socket.next(), Some((Packet::Return { .. }, None))));
        // If the path has changed while the client connected, it connects anew.
        if socket.send(&welcome, &[control.descriptor().unwrap()]) {
            break socket;
        }
    };
    // It may have gone by then.
    socket.send(&session, &[]);
    // It does not join.
    assert!(!matches!(socket.next(), Some((Packet::Join, _))));
}

// P3, P12
#[test]
fn a_client_goes_on_only_with_a_later_broker_of_its_bus() {
    for case in ["the same epoch", "another bus", "another client", "no epoch"] {
        let place = Place::new();
        let mut broker = place.broker(&[]);
        let mut client = outliving().connect(place.path()).unwrap();
        // What its bus and its epoch are is known to this test from another client.
        let raw = Raw::greet(&place.path(), Roles::OUTLIVE);
        let Some((Packet::Session(session), None)) = raw.socket.next() else { panic!("none") };
        let limits = RawLimits::from(client.limits());
        let mut next = Session { epoch: session.epoch + 1, ..session };
        let mut id = client.id().0;
        match case {
            "the same epoch" => next.epoch = session.epoch,
            "another bus" => next.bus ^= 1,
            "another client" => id += 1,
            _ => next.epoch = 0,
        }
        let (version, cursor) = (VERSION, 0);
        let welcome = Packet::Welcome { version, client: id, cursor, broker: 2, limits };
        broker.kill();
        let waiting = std::thread::spawn(move || client.recv().map(|_| ()));
        pretend(&place, welcome, Packet::Session(next));
        let ended = waiting.join().unwrap();
        assert_eq!(ended, Err(RecvError::Disconnected(Disconnected::PeerDied)), "{case}");
    }
}

// P3
#[test]
fn a_receiver_that_is_skipped_while_it_changes_brokers_is_told_how_many_messages_it_has_missed() {
    const LIMITS: [usize; 3] = [4096, 1000, 64 * 1024];
    const COUNT: u32 = 500;
    let place = Place::new();
    let mut broker = place.broker(&LIMITS);
    let skipped = outliving().when_slow(SlowReceiver::Skip);
    let mut receiver = skipped.connect_receiver(place.path()).unwrap();
    let mut sender = outliving().connect_sender(place.path()).unwrap();
    let mut skips = 0;
    // It stops after each of its steps to the next broker.
    for steps in 0..16 {
        broker.kill();
        broker = place.broker(&LIMITS);
        let sending = std::thread::spawn(move || {
            for number in 0..COUNT {
                sender.send(number, &[7; 900]).unwrap();
            }
            sender.flush().unwrap();
            sender
        });
        let mut next = 0;
        let mut take = |receiver: &mut Receiver, timeout| match receiver.recv_timeout(timeout) {
            Ok(Some(message)) => {
                assert_eq!(message.tag.0, next, "after {steps} steps");
                next += 1;
                next
            }
            Ok(None) => next,
            Err(RecvError::Gap { missed }) => {
                skips += 1;
                next += u32::try_from(missed).unwrap();
                next
            }
            Err(error) => panic!("{error}"),
        };
        for _ in 0..steps {
            take(&mut receiver, Duration::ZERO);
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(100));
        let deadline = Instant::now() + TIMEOUT;
        while take(&mut receiver, Duration::from_millis(1)) < COUNT {
            assert!(Instant::now() < deadline, "after {steps} steps");
        }
        sender = sending.join().unwrap();
    }
    assert!(skips > 0);
}

// P3
#[test]
fn a_skipped_client_that_goes_on_by_its_sending_half_is_told_of_each_gap() {
    const LIMITS: [usize; 3] = [4096, 1000, 64 * 1024];
    for steps in 0..8 {
        let place = Place::new();
        let mut broker = place.broker(&LIMITS);
        let skipped = outliving().when_slow(SlowReceiver::Skip);
        let mut client = skipped.connect(place.path()).unwrap();
        let mut sender = outliving().connect_sender(place.path()).unwrap();
        let mut sent = 0;
        let mut send = |count| {
            for _ in 0..count {
                sender.send(sent, &[7; 900]).unwrap();
                sent += 1;
            }
            assert!(sender.flush_timeout(TIMEOUT).unwrap());
            sent
        };
        // The number of the next message, unless it is not known.
        let mut next = Some(0);
        let mut take = |client: &mut Client| match client.try_recv() {
            Ok(Some(message)) => {
                let tag = message.tag.0;
                assert_eq!(next.unwrap_or(tag), tag, "after {steps} steps");
                next = Some(tag + 1);
                next
            }
            Ok(None) => next,
            Err(RecvError::Gap { missed }) => {
                let missed = u32::try_from(missed).unwrap();
                next = next.map(|next| next + missed).filter(|_| missed > 0);
                next
            }
            Err(error) => panic!("{error}"),
        };
        // Reads packets for both halves.
        let wait = |client: &mut Client, time: u64| {
            let end = Instant::now() + Duration::from_millis(time);
            while Instant::now() < end {
                client.held_up();
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        send(500);
        for _ in 0..steps {
            take(&mut client);
        }
        wait(&mut client, 30);
        send(10);
        kill(&place, &mut broker);
        wait(&mut client, 200);
        let all = send(10);
        let deadline = Instant::now() + TIMEOUT;
        while take(&mut client) != Some(all) {
            assert!(Instant::now() < deadline, "after {steps} steps");
        }
    }
}

// P9
#[test]
fn a_receiver_with_much_to_read_of_a_dead_broker_delays_no_later_one() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut late = outliving().connect_receiver(place.path()).unwrap();
    let mut other = outliving().own_messages().connect(place.path()).unwrap();
    for number in 0..2000 {
        other.send(number, b"much").unwrap();
    }
    while other.recv().unwrap().tag != Tag(1999) {}
    let is_over = Arc::new(AtomicBool::new(false));
    kill(&place, &mut broker);
    let reading = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(late.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"much");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    for round in 0..3 {
        let began = Instant::now();
        other.send(round, b"more").unwrap();
        assert_eq!(other.recv().unwrap().payload, b"more");
        assert!(began.elapsed() < Duration::from_secs(3), "round {round}: {:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(100));
        kill(&place, &mut broker);
    }
    is_over.store(true, Ordering::Relaxed);
    reading.join().unwrap();
}

//! A bus of real processes that all stay alive.

mod common;

use common::TIMEOUT;
use common::bus::{Bus, Place};
use common::content::{END, Ear, SMALL, payload, send};
use common::proc::{activity, holdings, maps, wait_asleep};
use llmp::{Broker, Client, Disconnected, RecvError, Wait};
use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

// P1, P2, P3
#[test]
fn every_message_arrives_exactly_once_and_in_one_order() {
    const COUNT: u32 = 250;
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut clients = [(); 3].map(|()| place.child("exchange", &[&COUNT]));
    let ids: HashSet<_> = clients.iter_mut().map(|client| client.says("id")).collect();
    assert_eq!(ids.len(), 3);
    clients.iter_mut().for_each(|client| client.tell("go"));
    // Each process has verified its messages. Only their order is left to compare.
    let orders: Vec<_> = clients.iter_mut().map(|client| client.says("order")).collect();
    assert!(orders.iter().all(|order| *order == orders[0]), "{orders:?}");
    clients.iter_mut().for_each(|client| client.tell("enough"));
    clients.iter_mut().for_each(|client| assert!(client.wait().success()));
    broker.tell("stop");
    assert_eq!(broker.says("ended"), "3 0");
}

// P10
#[test]
fn a_client_in_an_event_loop_of_its_own_misses_no_wake_up() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut echo = place.child("echo", &[]);
    echo.says("id");
    let mut client = place.connect();
    for i in 0..10_000u32 {
        client.send(i, &i.to_le_bytes()).unwrap();
        let message = client.recv_timeout(TIMEOUT).unwrap().expect("an echo");
        assert_eq!((message.tag.0, message.payload), (i, &b"echo"[..]));
    }
    broker.tell("stop");
    echo.says("closed");
}

// P10, P11
#[test]
fn an_idle_bus_uses_no_processor_and_wakes_up_afterwards() {
    let place = Place::new();
    let broker = place.broker(&[]);
    let mut receivers = [(); 3].map(|()| place.child("receiver", &[]));
    receivers.iter_mut().for_each(|receiver| drop(receiver.says("id")));
    let mut client = place.sender();
    for round in 1..=3 {
        let pids = [&broker, &receivers[0], &receivers[1], &receivers[2]].map(|c| c.pid());
        pids.into_iter().for_each(wait_asleep);
        // Each receiver looks once after its peer's process.
        std::thread::sleep(Duration::from_millis(300));
        let before = pids.map(activity);
        // This sleep waits for no event: the test asserts that nothing happens in this time.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(pids.map(activity), before, "processor time and wake-ups while idle");
        client.send(END | round, b"").unwrap();
        receivers.iter_mut().for_each(|receiver| assert_eq!(receiver.says("heard"), "0"));
    }
}

// P7, P13
#[test]
fn a_child_inherits_no_descriptor_and_no_writable_mapping() {
    let bus = Bus::new(Broker::builder());
    let _client = bus.connect();
    let _channel = llmp::channel().unwrap();
    let own = holdings(std::process::id() as i32);
    assert!(own.sockets >= 5 && own.memfds >= 6, "{own:?}");
    let list = ["-c", "ls -l /proc/self/fd; cat /proc/self/maps"];
    let mut child = Command::new("sh");
    let child = child.args(list).stdin(Stdio::null()).stderr(Stdio::null());
    let seen = String::from_utf8(child.output().unwrap().stdout).unwrap();
    assert!(seen.contains("/dev/null"), "{seen}");
    for trace in ["memfd", "socket:", "eventpoll", "eventfd", "bus.sock"] {
        assert!(!seen.contains(trace), "{trace} was inherited: {seen}");
    }
    // A fork without an exec would inherit these.
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut ours = false;
    let mut found = 0;
    for line in smaps.lines() {
        if line.contains("-s ") {
            ours = line.contains("memfd:llmp") && line.contains(" rw-s ");
        } else if ours && line.starts_with("VmFlags:") {
            assert!(line.contains(" dc"), "a fork would copy the mapping: {line}");
            (ours, found) = (false, found + 1);
        }
    }
    assert!(found >= 6, "{found} writable regions");
}

// P3
#[test]
fn short_lived_clients_lose_nothing_and_harm_no_other_client() {
    const EACH: u32 = 100;
    let place = Place::new();
    let broker = place.broker(&[]);
    let (mut a, mut b) = (place.connect(), place.connect());
    let mut storms = [(); 3].map(|()| place.child("storm", &[&EACH]));
    let mut ids = HashSet::from([a.id().0, b.id().0]);
    let (mut heard_by_a, mut heard_by_b) = (HashSet::new(), HashSet::new());
    let mut number = 0;
    // The two exchange messages until both have received a message of each other client.
    while heard_by_a.len().min(heard_by_b.len()) < 3 * EACH as usize {
        send(&mut a, SMALL, number);
        hear_other(&mut b, a.id().0, number, &mut heard_by_b);
        send(&mut b, SMALL, number);
        hear_other(&mut a, b.id().0, number, &mut heard_by_a);
        number += 1;
    }
    for storm in &mut storms {
        for _ in 0..EACH {
            assert!(ids.insert(storm.says_number("id")), "an id was used twice");
        }
        assert!(storm.wait().success());
    }
    let strangers = &ids - &HashSet::from([a.id().0, b.id().0]);
    assert_eq!((&heard_by_a, &heard_by_b), (&strangers, &strangers));
    assert!(!maps(broker.pid()).is_empty());
}

/// Receives until the other's next message. Each other client sends exactly one message.
fn hear_other(me: &mut Client, other: u32, number: u32, strangers: &mut HashSet<u32>) {
    loop {
        let message = me.recv_timeout(TIMEOUT).unwrap().expect("a message");
        common::content::check(&message);
        if message.sender.0 == other {
            assert_eq!(message.tag.0, SMALL | number);
            return;
        }
        assert!(strangers.insert(message.sender.0), "{} was heard twice", message.sender);
    }
}

// P6, P9
#[test]
fn a_stopped_receiver_costs_one_budget_and_loses_nothing() {
    const LIMITS: [usize; 3] = [64 << 10, 256 << 10, 1 << 20];
    let place = Place::new();
    let broker = place.broker(&LIMITS);
    let mut stopped = place.child("receiver", &[]);
    stopped.says("id");
    let (mut other, mut ear) = (place.connect(), Ear::default());
    let mut sender = place.sender();
    stopped.stop();
    let sent = fill(&mut sender, &mut other, &mut ear, broker.pid());

    let held = holdings(broker.pid());
    let control = llmp::core::layout::control_len(1024);
    assert!(held.own.1 <= LIMITS[2] + control, "{held:?}");
    assert!(held.foreign.1 <= 3 * 4096 + 3 * (64 << 10) + LIMITS[2], "{held:?}");
    assert!(sender.stats().page_bytes_peak <= LIMITS[2] as u64);
    assert!(sent > 2 * LIMITS[2] as u32 / 2001 / 2, "{sent} messages fill two chains");

    stopped.go_on();
    sender.send(END, b"").unwrap();
    ear.hear_until_end(&mut other, 0);
    assert_eq!(ear.heard(), sent);
    assert_eq!(stopped.says_number("heard"), sent);
}

// P7, P9
#[test]
fn a_stopped_receiver_that_is_killed_frees_the_bus() {
    let place = Place::new();
    let broker = place.broker(&[4096, 16 << 10, 64 << 10]);
    let mut stopped = place.child("receiver", &[]);
    stopped.says("id");
    let (mut other, mut ear) = (place.connect(), Ear::default());
    let mut sender = place.sender();
    stopped.stop();
    let sent = fill(&mut sender, &mut other, &mut ear, broker.pid());
    stopped.kill();
    let deadline = Instant::now() + TIMEOUT;
    let mut number = sent;
    while number < sent + 1000 {
        assert!(Instant::now() < deadline, "the dead hold the bus");
        let tag = SMALL | number;
        number += u32::from(sender.try_send(tag, &payload(sender.id().0, tag)).is_ok());
        while let Some(message) = other.try_recv().unwrap() {
            ear.hear(&message);
        }
        // Releases the messages that it has read.
        other.prepare_wait();
    }
    sender.send(END, b"").unwrap();
    ear.hear_until_end(&mut other, 0);
    assert_eq!(ear.heard(), sent + 1000);
}

/// Sends until the bus stands still: the broker sleeps, the other receiver has received everything
/// available, and there is no room.
fn fill(sender: &mut llmp::Sender, other: &mut Client, ear: &mut Ear, broker: i32) -> u32 {
    let mut number = 0;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        assert!(Instant::now() < deadline, "it is never full");
        let tag = SMALL | number;
        match sender.try_send(tag, &payload(sender.id().0, tag)) {
            Ok(()) => {
                number += 1;
                continue;
            }
            Err(error) => assert!(matches!(error, llmp::SendError::Full { .. }), "{error}"),
        }
        let mut moved = false;
        while let Some(message) = other.try_recv().unwrap() {
            ear.hear(&message);
            moved = true;
        }
        // Releases the page that it has read.
        moved |= other.prepare_wait() == Wait::Ready;
        if !moved {
            wait_asleep(broker);
            let again = sender.try_send(tag, &payload(sender.id().0, tag));
            match again {
                Ok(()) => number += 1,
                Err(_) => return number,
            }
        }
    }
}

// P15
#[test]
fn the_end_of_a_busy_broker_is_closed_and_never_died() {
    for _ in 0..6 {
        let bus = Bus::new(Broker::builder().page_len(4096).max_message_len(8000));
        let mut witness = bus.connect();
        let threads: Vec<_> = [bus.connect(), bus.connect()]
            .into_iter()
            .map(|mut client| {
                std::thread::spawn(move || {
                    let mut number = 0;
                    loop {
                        let sent = client.send(number, &[7; 2000]);
                        number += 1;
                        match sent.map_err(|error| error.to_string()) {
                            Err(error) => break (client, error),
                            Ok(()) => while client.try_recv().is_ok_and(|m| m.is_some()) {},
                        }
                    }
                })
            })
            .collect();
        witness.recv_timeout(TIMEOUT).unwrap().expect("a message");
        bus.end();
        for thread in threads {
            let (mut client, error) = thread.join().unwrap();
            assert_eq!(error, Disconnected::Closed.to_string());
            let ended = loop {
                if let Err(ended) = client.recv() {
                    break ended;
                }
            };
            assert_eq!(ended, RecvError::Disconnected(Disconnected::Closed));
        }
    }
}

//! Processes of different machines on one bus: the machine at hand, aarch64, and s390x, which is
//! big-endian.
//!
//! `.ci/cross` builds this program for the other machines and says how to run it, under an emulator.

mod common;

use common::TIMEOUT;
use common::bus::{Bus, Place};
use common::child::Child;
use common::content::{END, Ear};
use llmp::{Broker, Client};
use std::collections::HashSet;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::sync::Once;

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

/// The command that starts this program on a machine. It is empty for the machine at hand.
type Machine = Vec<String>;

const NATIVE: usize = 0;
const AARCH64: usize = 1;
const S390X: usize = 2;

/// Returns the three machines, if this test has the other two.
fn machines() -> Option<[Machine; 3]> {
    let other = |name| {
        let command = std::env::var(name).ok()?;
        Some(command.lines().map(str::to_owned).collect())
    };
    let (aarch64, s390x) = (other("LLMP_TEST_AARCH64"), other("LLMP_TEST_S390X"));
    let machines = aarch64.zip(s390x).map(|(aarch64, s390x)| [vec![], aarch64, s390x]);
    if machines.is_none() {
        static ONCE: Once = Once::new();
        let reason = "the test programs of other machines are not there; run .ci/cross";
        // Unlike `println`, it is shown for a test that passes, too.
        ONCE.call_once(|| drop(writeln!(std::io::stderr(), "SKIPPED: {reason}")));
    }
    machines
}

/// Starts a process on a machine. Its first argument is the place of the bus.
fn start(machine: &Machine, role: &str, path: &Path, arguments: &[&dyn Display]) -> Child {
    let path = path.display();
    let mut all: Vec<&dyn Display> = vec![&path];
    all.extend(arguments);
    if machine.is_empty() {
        return Child::start(role, &all);
    }
    Child::start_by(machine, role, &all)
}

/// Returns how many messages a killed sender has reported as sent.
fn reported(sender: &mut Child) -> u32 {
    let sent = |line: &String| line.strip_prefix("sent ")?.parse::<u32>().ok();
    sender.last_words().iter().filter_map(sent).max().map_or(0, |last| last + 1)
}

// P1, P2, P3, P4
#[test]
fn a_message_has_the_same_bytes_on_each_machine_copied_or_by_reference() {
    const COUNT: u32 = 360;
    let Some(machines) = machines() else { return };
    let bus = Bus::new(Broker::builder());
    let mut receivers = machines.each_ref().map(|m| start(m, "receiver", bus.path(), &[]));
    receivers.iter_mut().for_each(|receiver| drop(receiver.says("id")));
    let mut client = bus.connect();
    let listening = std::thread::spawn(move || {
        let mut ear = Ear::default();
        ear.hear_until_end(&mut client, 0);
        ear
    });
    let mut senders =
        [AARCH64, S390X].map(|m| start(&machines[m], "mixture", bus.path(), &[&COUNT]));
    let ids = senders.each_mut().map(|sender| sender.says_number("id"));
    senders.iter_mut().for_each(|sender| sender.tell("go"));
    // Meanwhile a sender on each machine is killed.
    let mut killed = machines.each_ref().map(|m| start(m, "sender", bus.path(), &[&"only"]));
    let killed_ids = killed.each_mut().map(|sender| sender.says_number("id"));
    for sender in &mut killed {
        sender.says("sent 40");
        sender.kill();
    }
    killed_ids.into_iter().for_each(|id| bus.has_left(id));
    for (sender, id) in senders.iter_mut().zip(ids) {
        sender.says("sent");
        bus.has_left(id);
    }
    let mut marker = Client::connect_sender(bus.path()).unwrap();
    marker.send(END, b"").unwrap();

    // Each receiver has verified every byte, every sender's order, and the order of the bus.
    let ear = listening.join().unwrap();
    receivers
        .iter_mut()
        .for_each(|receiver| assert_eq!(receiver.says_number("heard"), ear.heard()));
    ids.into_iter().for_each(|id| assert_eq!(ear.heard_of(id), COUNT));
    for (sender, id) in killed.iter_mut().zip(killed_ids) {
        let reported = reported(sender);
        assert!(ear.heard_of(id) >= reported.max(41), "{reported} reported, {ear:?}");
    }
    let report = bus.end();
    let (all, by_ref) = (report.broadcast.messages, report.broadcast.by_ref);
    assert!(report.broadcast.payload_bytes >= 60_000_000, "{report:?}");
    assert!(by_ref >= 200 && all - by_ref >= 200, "{by_ref} of {all} by reference");
    assert_eq!((report.faults, report.refused), (0, 0));
    for receiver in &mut receivers {
        assert_eq!(receiver.says("ended"), format!("Closed after {}", ear.heard()));
    }
}

// P1, P2, P3, P15
#[test]
fn a_broker_of_each_machine_serves_clients_of_all() {
    const COUNT: u32 = 24;
    let Some(machines) = machines() else { return };
    for machine in &machines {
        let place = Place::new();
        let mut broker = start(machine, "broker", &place.path(), &[&"[]"]);
        broker.says("ready");
        let mut clients =
            machines.each_ref().map(|m| start(m, "exchange", &place.path(), &[&COUNT]));
        let ids: HashSet<_> = clients.iter_mut().map(|client| client.says("id")).collect();
        assert_eq!(ids.len(), 3);
        clients.iter_mut().for_each(|client| client.tell("go"));
        let orders = clients.each_mut().map(|client| client.says("order"));
        assert!(orders.iter().all(|order| *order == orders[0]), "{orders:?}");
        clients.iter_mut().for_each(|client| client.tell("enough"));
        clients.iter_mut().for_each(|client| assert!(client.wait().success()));
        broker.tell("stop");
        assert_eq!(broker.says("ended"), "3 0");
    }
}

// P4
#[test]
fn a_channel_between_two_machines_delivers_what_a_killed_sender_had_sent() {
    let Some(machines) = machines() else { return };
    let pairs = [(NATIVE, S390X), (S390X, NATIVE), (AARCH64, S390X), (S390X, AARCH64)];
    for (receiving, sending) in pairs {
        let place = Place::new();
        let mut receiver = start(&machines[receiving], "channel-receiver", &place.path(), &[]);
        receiver.says("ready");
        let mut sender = start(&machines[sending], "channel-sender", &place.path(), &[]);
        sender.says("sent 100");
        sender.kill();
        let received: u32 = receiver.says("ended PeerDied after").parse().unwrap();
        assert!(received >= reported(&mut sender).max(101));
    }
}

// P5
#[test]
fn clients_of_each_machine_notice_a_killed_broker_of_another() {
    let Some(machines) = machines() else { return };
    for machine in &machines {
        let place = Place::new();
        let mut broker = start(machine, "broker", &place.path(), &[&"[]"]);
        broker.says("ready");
        let mut clients = machines.each_ref().map(|m| start(m, "receiver", &place.path(), &[]));
        clients.iter_mut().for_each(|client| drop(client.says("id")));
        broker.kill();
        for client in &mut clients {
            assert_eq!(client.says("ended"), "PeerDied after 0", "within {TIMEOUT:?}");
        }
    }
}

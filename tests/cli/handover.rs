//! The orderly end of a broker: `llmp stop`, `llmp broker --replace`, and signals.

use crate::standby::{Standby, next};
use crate::{Bus, Process, broker, llmp, only_line};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

/// A sender and a receiver that outlive their broker.
struct Pair {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    sender: Process,
    receiver: Process,
}

impl Pair {
    fn new(bus: &Bus) -> Self {
        let mut receiver = bus.recv(&["--outlive"]);
        let send = ["send", &bus.path, "--lines", "--outlive"];
        let mut sender = Process::start(llmp(&send).stdin(Stdio::piped()));
        let stdin = sender.child().stdin.take().unwrap();
        let stdout = BufReader::new(receiver.child().stdout.take().unwrap());
        let mut pair = Pair { stdin, stdout, sender, receiver };
        pair.works("joined");
        pair
    }

    #[track_caller]
    fn works(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").unwrap();
        let mut heard = String::new();
        self.stdout.read_line(&mut heard).unwrap();
        assert_eq!(heard.trim(), word);
    }
}

// P3
#[test]
fn a_broker_replaces_another_one_and_clients_go_on() {
    let mut bus = Bus::new();
    let mut pair = Pair::new(&bus);
    for word in ["one", "two", "three"] {
        let mut next = Process::start(&mut llmp(&["broker", &bus.path, "--replace"]));
        let mut stderr = BufReader::new(next.child().stderr.take().unwrap());
        let mut said = String::new();
        stderr.read_line(&mut said).unwrap();
        assert!(said.contains("this broker replaces the one at"), "{said}");
        stderr.read_line(&mut said).unwrap();
        assert!(said.contains("listens at"), "{said}");
        assert_eq!(bus.broker.child().wait().unwrap().code(), Some(0));
        let mut last = String::new();
        bus.stderr.read_to_string(&mut last).unwrap();
        assert!(last.contains("goes on without this broker"), "{last}");
        (bus.broker, bus.stderr) = (next, stderr);
        pair.works(word);
    }
    // Without another broker it just starts.
    bus.end();
    (bus.broker, bus.stderr) = broker(&bus.path, &["--replace"]);
    assert_eq!(pair.receiver.output().status.code(), Some(0));
}

// P3
#[test]
fn sigterm_hands_over_to_a_standby_and_sigint_ends_the_bus() {
    let mut bus = Bus::new();
    let mut pair = Pair::new(&bus);
    let mut standbys: Vec<_> = (0..3).map(|_| Standby::of(&bus.path)).collect();
    bus.broker.signal(Signal::TERM);
    assert_eq!(bus.broker.child().wait().unwrap().code(), Some(0));
    pair.works("handed over");
    let serving = next(&mut standbys).expect("one serves");
    let mut serving = standbys.remove(serving);
    // By then the others wait for its end.
    std::thread::sleep(Duration::from_millis(300));
    serving.process.signal(Signal::INT);
    // The others don't go on with a bus that has ended.
    for mut standby in standbys {
        let mut said = standby.line();
        if said.contains("this one waits until it ends") {
            said = standby.line();
        }
        assert!(said.contains("was ended, so this broker ends too"), "{said}");
        assert_eq!(standby.process.output().status.code(), Some(0));
    }
    assert_eq!(pair.receiver.output().status.code(), Some(0));
    assert!(only_line(&pair.sender.output(), 4).contains("the broker has ended the bus"));
}

// P15
#[test]
fn stop_ends_the_broker_and_those_that_wait() {
    let mut bus = Bus::new();
    let mut standby = Standby::of(&bus.path);
    let stop = Process::start(&mut llmp(&["stop", &bus.path]));
    assert!(only_line(&stop.output(), 0).contains("has ended"));
    assert_eq!(bus.broker.child().wait().unwrap().code(), Some(0));
    assert!(standby.line().contains("was ended"));
    assert_eq!(standby.process.output().status.code(), Some(0));
    let missing = Process::start(&mut llmp(&["stop", &bus.path]));
    assert!(only_line(&missing.output(), 2).contains("no broker listens at"));
    let left: Vec<_> = std::fs::read_dir(bus.dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn stop_ends_a_respawned_broker_and_its_supervisor() {
    let (mut broker, _stderr, bus) = {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
        let (broker, stderr) = broker(&path, &["--respawn"]);
        (broker, stderr, (dir, path))
    };
    Process::start(&mut llmp(&["stop", &bus.1])).stdout();
    assert_eq!(broker.child().wait().unwrap().code(), Some(0));
}

#[test]
fn stop_reports_a_broker_that_does_not_answer() {
    let mut bus = Bus::new();
    bus.broker.signal(Signal::STOP);
    let stop = Process::start(&mut llmp(&["stop", &bus.path, "--timeout", "0.2"]));
    assert!(only_line(&stop.output(), 3).contains("is its broker stopped or overloaded"));
    bus.broker.signal(Signal::CONT);
    // The request is in its socket.
    assert_eq!(bus.broker.child().wait().unwrap().code(), Some(0));
}

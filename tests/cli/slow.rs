//! Receivers that are stopped, with each policy.

use crate::{Bus, Process, llmp};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const COUNT: usize = 300_000;

/// Starts `llmp send` and returns it.
fn sender(bus: &Bus) -> Process {
    let mut command = llmp(&["send", &bus.path, "--lines"]);
    Process::start(command.stdin(Stdio::piped()))
}

/// Gives a sender its lines and waits for its end. Returns how long that took.
fn send(mut sender: Process, lines: usize) -> Duration {
    let began = Instant::now();
    let mut input = sender.child().stdin.take().unwrap();
    let text: String = (0..lines).map(|line| format!("{line}\n")).collect();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    sender.stdout();
    began.elapsed()
}

/// Reads a receiver's output until its end. Returns the number of lines.
fn lines(receiver: Process) -> JoinHandle<usize> {
    std::thread::spawn(|| receiver.stdout().iter().filter(|byte| **byte == b'\n').count())
}

/// Starts two receivers that have both joined and were sent one line.
fn receivers(bus: &Bus, slow: &[&str]) -> (Process, Process) {
    let receivers = (bus.recv(&["--count", &(COUNT + 1).to_string()]), bus.recv(slow));
    let input = bus.file("first", b"first\n");
    bus.send(&input, &["--lines", "--receivers", "2"]).stdout();
    receivers
}

// P3
#[test]
fn a_stopped_receiver_is_skipped_and_is_told_what_it_missed() {
    let mut bus = Bus::new();
    let (fast, mut slow) = receivers(&bus, &["--when-slow", "skip", "--count", "2"]);
    let sending = sender(&bus);

    let mut out = BufReader::new(slow.child().stdout.take().unwrap()).lines();
    assert_eq!(out.next().unwrap().unwrap(), "first");
    let err = BufReader::new(slow.child().stderr.take().unwrap());
    slow.signal(Signal::STOP);
    let lines = lines(fast);
    send(sending, COUNT);
    assert_eq!(lines.join().unwrap(), COUNT + 1);
    slow.signal(Signal::CONT);
    let said = err.lines().next().unwrap().unwrap();
    assert_eq!(
        said,
        format!("llmp: {COUNT} messages were missed, because this client received too slowly")
    );
    let input = bus.file("last", b"last\n");
    bus.send(&input, &["--lines"]).stdout();
    assert_eq!(out.next().unwrap().unwrap(), "last");
    slow.stdout();
    let log = bus.end();
    assert!(log.contains("is too slow and is skipped"), "{log}");
    assert!(log.contains("skipped 1, evicted 0"), "{log}");
}

#[test]
fn a_stopped_receiver_is_evicted_and_is_told_why() {
    let mut bus = Bus::with(&["--slow-after", "0.2"]);
    let (fast, mut slow) = receivers(&bus, &["--when-slow", "evict"]);
    let sending = sender(&bus);
    slow.signal(Signal::STOP);
    let lines = lines(fast);
    let took = send(sending, COUNT);
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert_eq!(lines.join().unwrap(), COUNT + 1);
    slow.signal(Signal::CONT);
    let output = slow.output();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("because it received too slowly"), "{said}");
    assert_eq!(output.status.code(), Some(4), "{said}");
    let log = bus.end();
    assert!(log.contains("is too slow and is disconnected"), "{log}");
    assert!(log.contains("skipped 0, evicted 1"), "{log}");
}

// P3, P9
#[test]
fn a_bus_waits_for_a_stopped_receiver_by_default() {
    let mut bus = Bus::new();
    let (fast, mut slow) = receivers(&bus, &["--count", &(COUNT + 1).to_string()]);
    let sending = sender(&bus);
    slow.signal(Signal::STOP);
    let fast = lines(fast);
    let sending = std::thread::spawn(move || send(sending, COUNT));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!sending.is_finished());
    slow.signal(Signal::CONT);
    let slow = lines(slow);
    sending.join().unwrap();
    for lines in [fast, slow] {
        assert_eq!(lines.join().unwrap(), COUNT + 1);
    }
    let log = bus.end();
    assert!(log.contains("holds up the bus"), "{log}");
    assert!(log.contains("skipped 0, evicted 0"), "{log}");
}

//! How things end: in order, by a signal, by a crash, by a closed or full output.

use crate::{Bus, Process, broker, llmp, only_line};
use rustix::process::Signal;
use std::fs::File;
use std::io::{BufRead, BufReader};

/// A receiver that is known to be connected, because it has written a line.
fn connected(bus: &Bus) -> Process {
    let mut receiver = bus.recv(&[]);
    let file = bus.file("hello", b"hello\n");
    bus.send(&file, &["--lines"]).stdout();
    let mut line = String::new();
    let stdout = receiver.child().stdout.take().unwrap();
    let mut stdout = BufReader::new(stdout);
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    receiver.child().stdout = Some(stdout.into_inner());
    receiver
}

#[test]
fn a_broker_that_is_told_to_end_ends_its_receivers_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut bus = Bus::new();
        let receiver = connected(&bus);
        bus.broker.signal(signal);
        assert_eq!(bus.broker.child().wait().unwrap().code(), Some(0));
        let output = receiver.output();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
        assert!(!std::path::Path::new(&bus.path).exists());
    }
}

#[test]
fn a_killed_broker_is_an_error_and_its_socket_no_obstacle() {
    let mut bus = Bus::new();
    let receiver = connected(&bus);
    bus.broker.signal(Signal::KILL);
    let line = only_line(&receiver.output(), 1);
    assert!(line.contains("died or was killed"), "{line}");
    bus.broker.child().wait().unwrap();
    assert!(std::path::Path::new(&bus.path).exists());
    let nobody = bus.recv(&[]).output();
    assert!(only_line(&nobody, 2).contains("llmp broker"));

    (bus.broker, bus.stderr) = broker(&bus.path, &[]);
    drop(connected(&bus));
}

#[test]
fn a_receiver_ends_quietly_with_a_signal() {
    let bus = Bus::new();
    for signal in [Signal::INT, Signal::TERM] {
        let mut receiver = connected(&bus);
        receiver.signal(signal);
        let output = receiver.output();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    }
}

#[test]
fn a_receiver_ends_when_nobody_reads_its_output_even_if_nothing_comes() {
    let bus = Bus::new();
    let mut receiver = bus.recv(&[]);
    drop(receiver.child().stdout.take());
    let output = receiver.output();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn a_full_disk_is_an_error() {
    let bus = Bus::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let receiver = Process::start(llmp(&["recv", &bus.path]).stdout(full));
    bus.send(&bus.file("input", b"lost\n"), &["--lines"]).stdout();
    let line = only_line(&receiver.output(), 1);
    assert!(line.contains("cannot write to standard output"), "{line}");
}

#[test]
fn a_receiver_that_waits_in_vain_fails() {
    let bus = Bus::new();
    let line = only_line(&bus.recv(&["--timeout", "0.1"]).output(), 1);
    assert!(line.contains("no message came within 0.1 s"), "{line}");
}

#[test]
fn a_sender_waits_for_receivers_says_so_and_can_be_told_not_to() {
    let mut bus = Bus::new();
    let file = bus.file("input", b"one\n");
    bus.send(&file, &["--lines", "--receivers", "0"]).stdout();
    let line = only_line(&bus.send(&file, &["--timeout", "0.1"]).output(), 1);
    assert!(line.contains("0 of 1 receivers") && line.contains("--receivers 0"), "{line}");

    let mut sender = bus.send(&file, &["--lines"]);
    let mut stderr = BufReader::new(sender.child().stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("waiting for receivers (0 of 1)"), "{line}");
    assert!(line.contains("--receivers 0"), "{line}");
    let receiver = bus.recv(&["--count", "1"]);
    sender.stdout();
    assert_eq!(receiver.stdout(), b"one\n");

    // And if the broker ends meanwhile, waiting ends.
    let mut sender = bus.send(&file, &["--lines"]);
    let mut stderr = BufReader::new(sender.child().stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    bus.end();
    assert_eq!(sender.output().status.code(), Some(1));
    line.clear();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("closed by its broker"), "{line}");
}

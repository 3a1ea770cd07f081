//! How processes end: in order, by a signal, by a crash, by a closed or full output.

use crate::{Bus, Process, broker, llmp, noise, only_line};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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
fn stopping_a_broker_ends_its_receivers_in_order() {
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
    let line = only_line(&receiver.output(), 4);
    assert!(line.contains("died or was killed"), "{line}");
    bus.broker.child().wait().unwrap();
    assert!(std::path::Path::new(&bus.path).exists());
    let without_broker = bus.recv(&[]).output();
    assert!(only_line(&without_broker, 2).contains("llmp broker"));

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
fn a_receiver_that_a_signal_has_kept_from_its_work_says_so() {
    let bus = Bus::new();
    for options in [&["--count", "5"][..], &["--until-eof"]] {
        let mut receiver = bus.recv(options);
        let mut sender = llmp::Client::connect_sender(bus.path.as_str()).unwrap();
        assert!(sender.wait_for_receivers(1, None).unwrap());
        receiver.signal(Signal::TERM);
        assert_eq!(receiver.output().status.code(), Some(128 + 15));
    }
}

#[test]
fn an_idle_receiver_ends_when_its_output_is_closed() {
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
    let line = only_line(&bus.recv(&["--timeout", "0.1"]).output(), 3);
    assert!(line.contains("no message came within 0.1 s"), "{line}");
}

#[test]
fn a_sender_reports_its_wait_for_receivers_or_skips_it() {
    let mut bus = Bus::new();
    let file = bus.file("input", b"one\n");
    bus.send(&file, &["--lines", "--receivers", "0"]).stdout();
    let line = only_line(&bus.send(&file, &["--timeout", "0.1"]).output(), 3);
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
    assert_eq!(sender.output().status.code(), Some(4));
    line.clear();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("the broker has ended the bus"), "{line}");
}

pub fn silent(path: &str) -> OwnedFd {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    // Not for the processes that other tests start meanwhile.
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, kind, flags, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

fn descriptors_of(process: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count() as u64
}

// P9: a broker without free descriptors waits for one and keeps reading its sockets.
#[test]
fn a_broker_without_descriptors_resumes_when_some_are_free() {
    let bus = Bus::new();
    let mut sender = llmp::Client::connect_sender(bus.path.as_str()).unwrap();
    let mut receiver = llmp::Client::connect_receiver(bus.path.as_str()).unwrap();
    let broker = bus.broker.0.as_ref().unwrap().id();
    let payload = noise(100 << 10);
    // Until the sender has all the pages that it needs if it waits for the broker each time.
    for _ in 0..50 {
        sender.send(1, &payload).unwrap();
        sender.flush().unwrap();
        assert!(receiver.recv().unwrap().payload == payload);
    }
    let before = descriptors_of(broker);
    let strangers: Vec<_> = (0..3).map(|_| silent(&bus.path)).collect();
    while descriptors_of(broker) < before + 3 {
        std::thread::yield_now();
    }
    // One more, which the broker keeps to receive others with: the sender needs more pages, too.
    let limit = Rlimit { current: Some(before + 4), maximum: Some(before + 4) };
    prlimit(Pid::from_raw(broker as i32), Resource::Nofile, limit).unwrap();

    // The receiver takes nothing, so that the broadcast chain needs more pages.
    let messages = 20;
    let taken = Arc::new(AtomicUsize::new(0));
    let sending = std::thread::spawn({
        let (payload, taken) = (payload.clone(), taken.clone());
        move || {
            for _ in 0..messages {
                sender.send(1, &payload).unwrap();
                sender.flush().unwrap();
                taken.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut stderr = bus.stderr;
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("the bus waits until there is memory again"), "{line}");
    let before = taken.load(Ordering::Relaxed);
    drop(strangers);
    // Only the closed connections of the strangers free a descriptor.
    let deadline = Instant::now() + Duration::from_secs(20);
    while taken.load(Ordering::Relaxed) == before {
        assert!(Instant::now() < deadline, "the broker does not read its sockets");
        std::thread::yield_now();
    }
    for _ in 0..messages {
        let message = receiver.recv_timeout(crate::TIMEOUT).unwrap().expect("a message");
        assert!(message.payload == payload);
    }
    sending.join().unwrap();
}

// P9: connections leave enough descriptors for pages.
#[test]
fn a_broker_with_few_descriptors_admits_few_clients() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    // The descriptors that this process has inherited must not count.
    let script = "import os, resource, sys
os.closerange(3, 1 << 16)
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))
os.execv(sys.argv[1], sys.argv[1:])";
    let mut python = std::process::Command::new("python3");
    python.args(["-c", script, env!("CARGO_BIN_EXE_llmp"), "broker", &path]);
    let mut broker = Process::start(python.stderr(std::process::Stdio::piped()));
    let mut stderr = BufReader::new(broker.child().stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("listens at"), "{line}");
    let mut sender = llmp::Client::connect_sender(path.as_str()).unwrap();
    let mut receiver = llmp::Client::connect(path.as_str()).unwrap();
    // Silent connections give way to clients, and clients that have joined don't.
    let _strangers: Vec<_> = (0..100).map(|_| silent(&path)).collect();
    let mut clients = Vec::new();
    let refused = loop {
        assert!(clients.len() < 20, "more clients than descriptors");
        match llmp::Client::connect_sender(path.as_str()) {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("as many clients as it admits"), "{refused}");
    // 64 of the 80 descriptors are for the process, 4 for foreign pages and 12 for six clients.
    assert_eq!(clients.len() + 2, 6);
    let large = noise(2 << 20);
    for _ in 0..10 {
        sender.send(1, &large).unwrap();
        let message = receiver.recv_timeout(crate::TIMEOUT).unwrap().expect("a message");
        assert!(message.payload == large);
    }
}

//! `llmp broker --standby`: brokers that wait for the end of another one.

use crate::{Bus, Process, TIMEOUT, llmp};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::ChildStderr;
use std::time::{Duration, Instant};

/// A broker that waits.
pub struct Standby {
    pub process: Process,
    stderr: BufReader<ChildStderr>,
}

impl Standby {
    /// Starts it and waits until it says that it waits.
    pub fn of(path: &str) -> Self {
        let mut process = Process::start(&mut llmp(&["broker", path, "--standby"]));
        let stderr = BufReader::new(process.child().stderr.take().unwrap());
        let mut standby = Standby { process, stderr };
        let said = standby.line();
        assert!(said.contains("this one waits until it ends"), "{said}");
        standby
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    /// Returns whether it serves the bus, as far as it has said.
    pub fn serves(&mut self) -> bool {
        let fd = [rustix::event::PollFd::new(self.stderr.get_ref(), rustix::event::PollFlags::IN)];
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut { fd }, Some(&at_once)) == Ok(1)
            && self.line().contains("listens at")
    }
}

/// A message goes from a new client to another one.
fn works(path: &str) {
    let mut receiver = llmp::Client::connect_receiver(path).unwrap();
    let mut sender = llmp::Client::connect_sender(path).unwrap();
    sender.send(1, b"hello").unwrap();
    assert_eq!(receiver.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"hello");
}

// P7
#[test]
fn one_of_many_standbys_serves_when_the_broker_is_killed() {
    let mut bus = Bus::new();
    let path = bus.path.clone();
    let mut standbys: Vec<_> = (0..4).map(|_| Standby::of(&path)).collect();
    // While it lives, none of them takes its place, even if it is stopped.
    bus.broker.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!standbys.iter_mut().any(Standby::serves));
    bus.broker.signal(Signal::KILL);
    while let Some(of_this_round) = next(&mut standbys) {
        works(&path);
        let mut broker = standbys.remove(of_this_round);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!standbys.iter_mut().any(Standby::serves), "two brokers on one bus");
        // Killed, or ended in order: the next one takes over.
        let signal = if standbys.len() % 2 == 0 { Signal::TERM } else { Signal::KILL };
        broker.process.signal(signal);
    }
}

// P9
#[test]
fn a_stopped_standby_delays_no_other_and_serves_when_it_goes_on() {
    let mut bus = Bus::new();
    let path = bus.path.clone();
    let [mut stopped, mut other] = [Standby::of(&path), Standby::of(&path)];
    stopped.process.signal(Signal::STOP);
    let builder = llmp::Client::builder().outlive_broker(TIMEOUT).own_messages();
    let mut client = builder.connect(path.as_str()).unwrap();
    let mut send = |text: &[u8], timeout| {
        client.send(1, text).unwrap();
        client.recv_timeout(timeout).unwrap().map(|message| message.payload.to_vec())
    };
    bus.broker.signal(Signal::KILL);
    assert_eq!(next(std::slice::from_mut(&mut other)), Some(0));
    assert_eq!(send(b"to the other", TIMEOUT).unwrap(), b"to the other");
    // The stopped one is the only one left, and the bus waits for it.
    other.process.signal(Signal::KILL);
    other.process.output();
    let pause = Duration::from_millis(300);
    assert_eq!(send(b"while it is stopped", pause), None);
    stopped.process.signal(Signal::CONT);
    assert_eq!(next(std::slice::from_mut(&mut stopped)), Some(0));
    assert_eq!(send(b"after that", TIMEOUT).unwrap(), b"while it is stopped");
}

/// Waits until one of them serves, and returns which. `None` if none is left.
pub fn next(standbys: &mut [Standby]) -> Option<usize> {
    let began = Instant::now();
    while !standbys.is_empty() {
        if let Some(serves) = standbys.iter_mut().position(Standby::serves) {
            return Some(serves);
        }
        assert!(began.elapsed() < TIMEOUT, "none takes over");
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

#[test]
fn a_standby_ends_by_a_signal_and_leaves_the_bus_alone() {
    let bus = Bus::new();
    let mut standby = Standby::of(&bus.path);
    standby.process.signal(Signal::TERM);
    let output = standby.process.output();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(15));
    works(&bus.path);
}

#[test]
fn a_standby_of_a_free_bus_serves_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let (mut broker, _stderr) = crate::broker(&path, &["--standby"]);
    works(&path);
    broker.signal(Signal::TERM);
    assert_eq!(broker.output().status.code(), Some(0));
}

//! `llmp broker --respawn`: a broker that is started again when it dies.

use crate::{Process, TIMEOUT, kill, llmp};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::ChildStderr;

/// The process that starts brokers.
struct Supervisor {
    process: Process,
    stderr: BufReader<ChildStderr>,
    path: String,
    _dir: tempfile::TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
        let mut process = Process::start(&mut llmp(&["broker", &path, "--respawn"]));
        let stderr = BufReader::new(process.child().stderr.take().unwrap());
        let mut supervisor = Supervisor { process, stderr, path, _dir: dir };
        supervisor.says("listens at");
        supervisor
    }

    fn says(&mut self, what: &str) {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        assert!(line.contains(what), "{line}");
    }

    /// Returns the process of its broker.
    fn broker(&mut self) -> u32 {
        let id = self.process.child().id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.trim().parse().unwrap()
    }
}

#[test]
fn a_broker_that_is_killed_is_started_again() {
    let mut supervisor = Supervisor::new();
    for _ in 0..3 {
        let mut receiver = llmp::Client::connect_receiver(supervisor.path.as_str()).unwrap();
        let mut sender = llmp::Client::connect_sender(supervisor.path.as_str()).unwrap();
        sender.send(1, b"hello").unwrap();
        assert_eq!(receiver.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"hello");
        kill(supervisor.broker(), Signal::KILL);
        supervisor.says("has died (signal: 9 (SIGKILL)); a new one starts");
        supervisor.says("listens at");
    }
    supervisor.process.signal(Signal::TERM);
    supervisor.says("has ended");
    let path = supervisor.path.clone();
    assert_eq!(supervisor.process.output().status.code(), Some(0));
    assert!(!std::path::Path::new(&path).exists());
}

#[test]
fn a_broker_that_can_not_start_is_not_started_again() {
    let bus = crate::Bus::new();
    let output = Process::start(&mut llmp(&["broker", &bus.path, "--respawn"])).output();
    let line = crate::only_line(&output, 2);
    assert!(line.contains("already a broker"), "{line}");
}

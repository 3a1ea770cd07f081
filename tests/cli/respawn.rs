//! `llmp broker --respawn`: a broker that is started again when it dies.

use crate::{Process, TIMEOUT, kill, llmp};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::ChildStderr;

/// The process that starts brokers.
struct Supervisor {
    process: Process,
    stderr: BufReader<ChildStderr>,
    path: String,
    _dir: tempfile::TempDir,
}

impl Supervisor {
    /// Starts it in a process group of its own, as a shell does in a terminal.
    fn new(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
        let mut command = llmp(&["broker", "--respawn"]);
        command.args(options).args(["--", &path]);
        let mut process = Process::start(command.process_group(0));
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

    /// It and its broker have ended in order.
    fn ends(mut self) {
        self.says("has ended");
        let path = self.path.clone();
        assert_eq!(self.process.output().status.code(), Some(0));
        assert!(!std::path::Path::new(&path).exists());
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
    let mut supervisor = Supervisor::new(&[]);
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
    supervisor.ends();
}

// A terminal sends the signal to all processes of the group.
#[test]
fn a_signal_of_the_terminal_ends_the_broker_in_order() {
    for signal in [Signal::INT, Signal::HUP] {
        let mut supervisor = Supervisor::new(&[]);
        let group = Pid::from_raw(supervisor.process.child().id() as i32).unwrap();
        kill_process_group(group, signal).unwrap();
        supervisor.ends();
    }
}

#[test]
fn the_reader_of_ready_may_close_its_end_after_the_first_line() {
    let mut supervisor = Supervisor::new(&["--ready-fd", "1"]);
    let mut line = String::new();
    let stdout = supervisor.process.child().stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), format!("ready {}", supervisor.path));
    for _ in 0..2 {
        kill(supervisor.broker(), Signal::KILL);
        supervisor.says("a new one starts");
        supervisor.says("listens at");
    }
    supervisor.process.signal(Signal::TERM);
    supervisor.ends();
}

#[test]
fn a_broker_that_can_not_start_is_not_started_again() {
    let bus = crate::Bus::new();
    let output = Process::start(&mut llmp(&["broker", &bus.path, "--respawn"])).output();
    let line = crate::only_line(&output, 2);
    assert!(line.contains("already a broker"), "{line}");
}

//! The command line, with real processes.
#![cfg(feature = "cli")]

mod activation;
mod demo;
mod diagnosis;
mod ends;
mod exchange;
mod handover;
mod help;
mod inherited;
mod life;
mod mistakes;
mod place;
mod respawn;
mod slow;
mod soak;
mod standby;
mod unread;

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// A program that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The program with these arguments, nothing on its standard input.
fn llmp(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmp"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("RUST_LOG");
    command
}

/// A process that does not survive its test.
struct Process(Option<Child>);

impl Process {
    fn start(command: &mut Command) -> Self {
        Process(Some(command.spawn().unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn signal(&mut self, signal: Signal) {
        kill(self.child().id(), signal);
    }

    /// Waits for its end.
    fn output(mut self) -> Output {
        let child = self.0.take().unwrap();
        let id = child.id();
        let (sender, receiver) = channel();
        std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
        receiver.recv_timeout(TIMEOUT).unwrap_or_else(|_| {
            kill(id, Signal::KILL);
            panic!("process {id} hangs");
        })
    }

    /// Waits for its end, which must be a good one, and returns what it has written.
    fn stdout(self) -> Vec<u8> {
        let output = self.output();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        output.stdout
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn kill(id: u32, signal: Signal) {
    kill_process(Pid::from_raw(id as i32).unwrap(), signal).unwrap();
}

/// A bus with its broker.
struct Bus {
    broker: Process,
    stderr: BufReader<ChildStderr>,
    path: String,
    dir: tempfile::TempDir,
}

impl Bus {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
        let (broker, stderr) = broker(&path, options);
        Bus { broker, stderr, path, dir }
    }

    fn recv(&self, options: &[&str]) -> Process {
        Process::start(llmp(&["recv", &self.path]).args(options))
    }

    /// Sends a file's content from standard input.
    fn send(&self, input: &Path, options: &[&str]) -> Process {
        let input = File::open(input).unwrap();
        Process::start(llmp(&["send", &self.path]).args(options).stdin(input))
    }

    /// A file with this content, next to the socket.
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Stops the broker and returns its last output.
    fn end(&mut self) -> String {
        self.broker.signal(Signal::TERM);
        assert_eq!(self.broker.child().wait().unwrap().code(), Some(0));
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// Starts a broker and waits until it listens.
fn broker(path: &str, options: &[&str]) -> (Process, BufReader<ChildStderr>) {
    let mut broker = Process::start(llmp(&["broker", path]).args(options));
    let mut stderr = BufReader::new(broker.child().stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("listens at") && line.contains(path), "{line}");
    (broker, stderr)
}

/// Returns the only line that a failing command prints.
fn only_line(output: &Output, status: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("llmp: "), "{text}");
    text
}

/// Bytes that look random and are the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

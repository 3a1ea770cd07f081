//! The processes of a soak, as their parent starts, stops and kills them.

use super::record::{Record, read_all};
use crate::arguments::{Role, WhenSlow};
use crate::failure::Failure;
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Events that wait. More than that slow the clients down.
const EVENTS: usize = 64;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Broker,
    Client {
        role: Role,
        when_slow: WhenSlow,
        /// It ends with its broker.
        is_mortal: bool,
    },
}

/// What a process has done.
pub enum Event {
    Reported(u32, Vec<Record>),
    /// It has closed its standard output.
    Ended(u32, io::Result<()>),
    /// The user ends the soak.
    Signal(i32),
}

/// A process.
pub struct Process {
    pub kind: Kind,
    pub has_joined: bool,
    pub is_quiet: bool,
    /// Whether its connection has ended, as it may.
    pub has_ended: bool,
    /// Whether it serves the bus.
    pub serves: bool,
    pub killed: Option<(Instant, Signal)>,
    /// Stopped by SIGSTOP until then.
    pub stopped: Option<Instant>,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it can be killed or stopped now.
    pub fn is_free(&self) -> bool {
        self.killed.is_none() && self.stopped.is_none() && self.stdin.is_some()
    }

    /// Gives it an order. A process that has ended does not mind.
    pub fn order(&mut self, order: u8) {
        let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(&[order]));
    }

    /// Lets it leave.
    pub fn leave(&mut self) {
        self.stdin = None;
    }

    /// Returns whether it was let go.
    pub fn leaves(&self) -> bool {
        self.stdin.is_none()
    }

    pub fn kill(&mut self, signal: Signal) {
        self.killed = Some((Instant::now(), signal));
        self.signal(signal);
    }

    pub fn stop(&mut self, time: Duration) {
        self.stopped = Some(Instant::now() + time);
        self.signal(Signal::STOP);
    }

    pub fn go_on(&mut self) {
        if self.stopped.take().is_some() {
            self.signal(Signal::CONT);
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Returns what it holds of the kernel's resources.
    pub fn holds(&self) -> Held {
        let id = self.child.id();
        let count =
            |what| std::fs::read_dir(format!("/proc/{id}/{what}")).map_or(0, Iterator::count);
        let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).unwrap_or_default();
        let regions = maps.lines().filter(|line| line.contains("/memfd:llmp-")).count();
        Held { descriptors: count("fd"), threads: count("task"), regions }
    }

    fn signal(&self, signal: Signal) {
        // It was not waited for, so the id is its own.
        let _ = Pid::from_raw(self.child.id() as i32).map(|id| kill_process(id, signal));
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    descriptors: usize,
    threads: usize,
    /// Mappings of shared memory.
    regions: usize,
}

impl Held {
    /// Returns whether that is no more than a process needs, whatever came before.
    pub fn is_little(self) -> bool {
        self.descriptors <= 48 && self.threads <= 4 && self.regions <= 64
    }
}

/// All processes, by their number. Dropping it kills them.
pub struct Processes {
    pub all: BTreeMap<u32, Process>,
    socket: PathBuf,
    stderr: File,
    next: u32,
    events: Receiver<Event>,
    to_us: SyncSender<Event>,
}

impl Processes {
    /// Makes an empty set. The processes write their errors to `stderr`.
    pub fn new(socket: PathBuf, stderr: &Path) -> io::Result<Self> {
        let (to_us, events) = sync_channel(EVENTS);
        let stderr = File::options().create(true).append(true).open(stderr)?;
        let signals = to_us.clone();
        let interest = [SIGINT, SIGTERM, SIGHUP];
        let mut caught = signal_hook::iterator::Signals::new(interest)?;
        std::thread::spawn(move || {
            for signal in caught.forever() {
                let _ = signals.send(Event::Signal(signal));
            }
        });
        Ok(Processes { all: BTreeMap::new(), socket, stderr, next: 0, events, to_us })
    }

    /// Returns the number that the next process gets.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Starts a process, which is this program with a hidden subcommand.
    pub fn start(&mut self, kind: Kind, seed: u64) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::other(format!("cannot start a process: {error}"));
        // Also if the program's file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        match kind {
            Kind::Broker => command.arg("soak-broker").arg(&self.socket),
            Kind::Client { role, when_slow, is_mortal } => {
                let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
                    value().map_or(String::new(), |value| value.get_name().to_owned())
                };
                command
                    .arg("soak-client")
                    .arg(&self.socket)
                    .args(["--number", &self.next.to_string(), "--seed", &seed.to_string()])
                    .args(["--role", &name(&|| role.to_possible_value())])
                    .args(["--when-slow", &name(&|| when_slow.to_possible_value())])
                    .args(is_mortal.then_some("--mortal"))
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(self.stderr.try_clone().map_err(failed)?);
        // Ctrl-C reaches only the parent, which ends its children.
        let mut child = command.process_group(0).spawn().map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (number, to_us) = (self.next, self.to_us.clone());
        std::thread::spawn(move || {
            let read = stdout.map_or(Ok(()), |stdout| {
                read_all(stdout, |records| drop(to_us.send(Event::Reported(number, records))))
            });
            let _ = to_us.send(Event::Ended(number, read));
        });
        let process = Process {
            kind,
            has_joined: false,
            is_quiet: false,
            has_ended: false,
            serves: false,
            killed: None,
            stopped: None,
            child,
            stdin,
        };
        self.all.insert(number, process);
        self.next += 1;
        Ok(())
    }

    /// Returns the next event, or `None` after `timeout`.
    pub fn event(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// Describes each process: its number, id, kind, and the kernel's state of it.
    pub fn states(&self) -> impl Iterator<Item = String> {
        self.all.iter().map(|(number, process)| {
            let id = process.id();
            let read = |file| std::fs::read_to_string(format!("/proc/{id}/{file}"));
            let status = read("status").unwrap_or_default();
            let state = status.lines().find_map(|line| line.strip_prefix("State:"));
            let state = state.map_or("unknown", str::trim).to_owned();
            let waits = read("wchan").unwrap_or_default();
            let Process { kind, has_joined, serves, .. } = process;
            format!(
                "process {number} ({id}), {kind:?}: state {state}, in {waits}, joined {has_joined}, \
                 serves {serves}"
            )
        })
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in self.all.values_mut() {
            // A child that has ended already can't be killed, which is no problem.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

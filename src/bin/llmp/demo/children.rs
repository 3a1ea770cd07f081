//! The processes of a demo, as their parent manages them.

use super::note::Note;
use super::walk::{Found, Walked, walk};
use crate::failure::Failure;
use signal_hook::iterator::Signals;
use std::io::{self, BufRead, BufReader};
use std::ops::RangeFrom;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// If one process dies because of another's death, the other one is found dead within this time.
const AUTOPSY: Duration = Duration::from_millis(200);

/// An event of a demo.
#[derive(Debug)]
pub enum Event {
    /// A child has sent a note.
    Note(usize, Note),
    /// A child has closed its standard output, so it has ended.
    Disconnected(usize),
    /// All names were given to the clients.
    Walked(Walked),
    /// A file or directory can't be read.
    Unreadable(String),
    /// The user ends the demo.
    Signal(i32),
}

struct Process {
    name: &'static str,
    process: Child,
    ready: bool,
    ended: bool,
    /// The reported reason of its failure.
    failed: Option<String>,
}

/// All children. Dropping it kills them.
pub struct Children {
    socket: PathBuf,
    all: Vec<Process>,
    events: Receiver<Event>,
    to_us: Sender<Event>,
}

impl Children {
    /// Makes an empty set of children for a bus at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        let (to_us, events) = channel();
        Children { socket, all: Vec::new(), events, to_us }
    }

    /// Reports these signals as events from now on.
    pub fn tell_signals(&self, signals: [i32; 3]) -> io::Result<()> {
        let mut signals = Signals::new(signals)?;
        let to_us = self.to_us.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                let _ = to_us.send(Event::Signal(signal));
            }
        });
        Ok(())
    }

    /// Starts a child, which is this program with a hidden subcommand.
    pub fn start(&mut self, name: &'static str, subcommand: &str) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::other(format!("cannot start a {name}: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg(subcommand).arg(&self.socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C reaches only the parent, which ends its children.
        let mut process = command.process_group(0).spawn().map_err(failed)?;
        let child = self.all.len();
        let output = process.stdout.take();
        self.all.push(Process { name, process, ready: false, ended: false, failed: None });
        let to_us = self.to_us.clone();
        std::thread::spawn(move || {
            let lines = output.map(|output| BufReader::new(output).lines());
            for line in lines.into_iter().flatten().map_while(Result::ok) {
                let note = serde_json::from_str(&line).unwrap_or(Note::Warning(line));
                let _ = to_us.send(Event::Note(child, note));
            }
            let _ = to_us.send(Event::Disconnected(child));
        });
        Ok(())
    }

    /// Walks `dir` in its own thread and gives the files to these children, which are all connected
    /// by now. Keeps their inputs open until they have ended.
    pub fn walk(&mut self, dir: PathBuf, clients: RangeFrom<usize>, found: Arc<Found>) {
        let clients = self.all[clients].iter_mut();
        let mut inputs: Vec<ChildStdin> =
            clients.filter_map(|client| client.process.stdin.take()).collect();
        let to_us = self.to_us.clone();
        std::thread::spawn(move || {
            // An error means that a client has ended, and the client's end is an event of its own.
            if let Ok(walked) = walk(&dir, &mut inputs, &found, &to_us) {
                let _ = to_us.send(Event::Walked(walked));
            }
            // Kept open until this process ends.
            std::mem::forget(inputs);
        });
    }

    /// Returns the next event, or `None` after `timeout`.
    pub fn event(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// Marks a child as ready.
    pub fn set_ready(&mut self, child: usize) {
        self.all[child].ready = true;
    }

    /// Returns the number of ready children.
    pub fn ready(&self) -> usize {
        self.all.iter().filter(|child| child.ready).count()
    }

    /// Records why a child has failed.
    pub fn set_failed(&mut self, child: usize, why: String) {
        self.all[child].failed = Some(why);
    }

    /// Returns the number of children that have not ended.
    pub fn running(&self) -> usize {
        self.all.iter().filter(|child| !child.ended).count()
    }

    /// Closes a child's input, so that it ends in order.
    pub fn end(&mut self, child: usize) {
        drop(self.all[child].process.stdin.take());
    }

    /// Handles the end of a child. It should have reported before.
    pub fn on_end(&mut self, child: usize, reported: bool) -> Result<(), Failure> {
        self.all[child].ended = true;
        let status = self.all[child].process.wait();
        let status = status.map_err(|error| Failure::other(format!("cannot wait: {error}")))?;
        if status.success() && reported {
            return Ok(());
        }
        // If one was killed, the others may have failed because of it.
        let mut statuses = vec![(child, status)];
        while statuses.iter().all(|(_, status)| status.signal().is_none()) {
            match self.events.recv_timeout(AUTOPSY) {
                Ok(Event::Disconnected(other)) => {
                    if let Ok(status) = self.all[other].process.wait() {
                        statuses.push((other, status));
                    }
                }
                Ok(Event::Note(other, Note::Failed(why))) => self.set_failed(other, why),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let first = statuses.iter().find(|(_, status)| status.signal().is_some());
        let &(child, status) = first.unwrap_or(&statuses[0]);
        Err(Failure::other(format!("{}; the other processes were ended", self.fate(child, status))))
    }

    fn fate(&self, child: usize, status: ExitStatus) -> String {
        let Process { name, process, failed, .. } = &self.all[child];
        let id = process.id();
        match (status.signal(), failed) {
            (Some(_), _) => format!("{name} (process {id}) was killed: {status}"),
            (None, Some(why)) => format!("{name} (process {id}) failed: {why}"),
            (None, None) => format!("{name} (process {id}) ended too early: {status}"),
        }
    }

    /// Returns the names and processes of all children: `broker is process 17, client 1 is process
    /// 18, …`
    pub fn who(&self) -> String {
        let who = |child: &Process| format!("{} is process {}", child.name, child.process.id());
        self.all.iter().map(who).collect::<Vec<_>>().join(", ")
    }

    /// Returns the kernel's state of each child that has not ended.
    pub fn states(&self) -> impl Iterator<Item = (usize, String)> {
        let running = self.all.iter().enumerate().filter(|(_, child)| !child.ended);
        running.map(|(i, Process { name, process, .. })| {
            let id = process.id();
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let state = status.lines().find_map(|line| line.strip_prefix("State:"));
            let state = state.map_or("state unknown", str::trim).to_owned();
            (i, format!("{name} (process {id}) is {state}"))
        })
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.all {
            // A child that has ended already can't be killed, which is no problem.
            let _ = child.process.kill();
            let _ = child.process.wait();
        }
    }
}

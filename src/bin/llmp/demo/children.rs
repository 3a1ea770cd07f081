//! The processes of a demo, seen from their parent.

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

/// When one process has died of another's death, the other is found dead within this time.
const AUTOPSY: Duration = Duration::from_millis(200);

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A child has told something.
    Note(usize, Note),
    /// A child has closed its standard output: it has ended.
    Disconnected(usize),
    /// All names are with the clients.
    Walked(Walked),
    /// Something that can't be read.
    Unreadable(String),
    /// The user wants an end.
    Signal(i32),
}

struct Process {
    name: &'static str,
    process: Child,
    ready: bool,
    ended: bool,
    /// Why it says that it failed.
    failed: Option<String>,
}

/// All children. When they are dropped, none survives.
pub struct Children {
    socket: PathBuf,
    all: Vec<Process>,
    events: Receiver<Event>,
    to_us: Sender<Event>,
}

impl Children {
    /// No children yet, and a bus for them at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        let (to_us, events) = channel();
        Children { socket, all: Vec::new(), events, to_us }
    }

    /// Tells about these signals from now on.
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

    /// Starts a child: this program, with a hidden subcommand.
    pub fn start(&mut self, name: &'static str, subcommand: &str) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::other(format!("cannot start a {name}: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg(subcommand).arg(&self.socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for the parent, which ends its children.
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

    /// Walks `dir` in a thread of its own and gives the files to these children, who are all
    /// connected by now. Their inputs stay open until they have ended.
    pub fn walk(&mut self, dir: PathBuf, clients: RangeFrom<usize>, found: Arc<Found>) {
        let clients = self.all[clients].iter_mut();
        let mut inputs: Vec<ChildStdin> =
            clients.filter_map(|client| client.process.stdin.take()).collect();
        let to_us = self.to_us.clone();
        std::thread::spawn(move || {
            // An error is the end of a client, which the parent hears of from the client itself.
            if let Ok(walked) = walk(&dir, &mut inputs, &found, &to_us) {
                let _ = to_us.send(Event::Walked(walked));
            }
            // For ever: the process's end closes them.
            std::mem::forget(inputs);
        });
    }

    /// The next event, if there is one in time.
    pub fn event(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// A child is set up.
    pub fn set_ready(&mut self, child: usize) {
        self.all[child].ready = true;
    }

    /// How many children are set up.
    pub fn ready(&self) -> usize {
        self.all.iter().filter(|child| child.ready).count()
    }

    /// A child has said why it ends.
    pub fn set_failed(&mut self, child: usize, why: String) {
        self.all[child].failed = Some(why);
    }

    /// How many children have not ended.
    pub fn running(&self) -> usize {
        self.all.iter().filter(|child| !child.ended).count()
    }

    /// Lets a child end in order.
    pub fn end(&mut self, child: usize) {
        drop(self.all[child].process.stdin.take());
    }

    /// A child has ended: it should have reported before.
    pub fn on_end(&mut self, child: usize, reported: bool) -> Result<(), Failure> {
        self.all[child].ended = true;
        let status = self.all[child].process.wait();
        let status = status.map_err(|error| Failure::other(format!("cannot wait: {error}")))?;
        if status.success() && reported {
            return Ok(());
        }
        // If one was killed, the others may have failed of that.
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

    /// Who they are: `broker 17, client 1 18, …`
    pub fn who(&self) -> String {
        let who = |child: &Process| format!("{} is process {}", child.name, child.process.id());
        self.all.iter().map(who).collect::<Vec<_>>().join(", ")
    }

    /// The state in which the kernel has each child that has not ended.
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
            // What has ended before can't be killed, and need not be.
            let _ = child.process.kill();
            let _ = child.process.wait();
        }
    }
}

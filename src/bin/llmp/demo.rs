//! `llmp demo`: a broker and three clients exchange the files of a directory. Each is a process.
//!
//! The parent walks the directory and gives each client its share. All of them report their
//! progress to it. It kills all of them if one dies or progress stops.

pub mod broker;
mod children;
pub mod client;
mod incoming;
mod names;
mod note;
mod outgoing;
mod show;
mod table;
mod walk;
mod wire;

use self::children::{Children, Event};
use self::note::{BrokerReport, ClientReport, Note};
use self::show::Show;
use self::table::Table;
use self::walk::{Found, Walked};
use crate::arguments;
use crate::failure::{Failure, say};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of clients.
pub const CLIENTS: usize = 3;
/// The demo fails after this time without progress.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// The interval between two updates of the display.
const TICK: Duration = Duration::from_millis(100);

/// The broker's index among the children. The clients are 1 to 3.
const BROKER: usize = 0;

/// Runs the demo and prints its results.
pub fn run(arguments: arguments::Demo) -> Result<(), Failure> {
    let dir = arguments.dir;
    std::fs::read_dir(&dir).map_err(|error| {
        Failure::usage(format!("cannot read the directory {}: {error}", dir.display()))
    })?;
    let home = tempfile::Builder::new().prefix("llmp-demo-").tempdir();
    let home = home.map_err(|error| {
        Failure::other(format!("cannot make a temporary directory: {error}; set TMPDIR"))
    })?;
    let mut demo = Demo {
        children: Children::new(home.path().join("bus.sock")),
        show: Show::new(),
        found: Arc::default(),
        progress: [(0, 0); CLIENTS + 1],
        moved: (Instant::now(), 0),
        reports: [None; CLIENTS + 1],
        broker: None,
        walked: None,
        unreadable: 0,
    };
    demo.children
        .tell_signals([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Failure::other(format!("signals can't be caught: {error}")))?;
    let table = demo.exchange(dir)?;
    // A closed standard output is not an error.
    let _ = write!(io::stdout(), "{table}");
    demo.judge(&table)
}

struct Demo {
    children: Children,
    show: Show,
    found: Arc<Found>,
    /// Bytes of files sent and received, as reported by each client.
    progress: [(u64, u64); CLIENTS + 1],
    /// The time of the last progress, and the sum of all progress counters.
    moved: (Instant, u64),
    reports: [Option<ClientReport>; CLIENTS + 1],
    broker: Option<BrokerReport>,
    walked: Option<Walked>,
    unreadable: u64,
}

impl Demo {
    fn exchange(&mut self, dir: std::path::PathBuf) -> Result<Table, Failure> {
        self.children.start("broker", "demo-broker")?;
        self.wait_until_ready(1)?;
        for name in ["client 1", "client 2", "client 3"] {
            self.children.start(name, "demo-client")?;
        }
        self.wait_until_ready(1 + CLIENTS)?;
        say(format_args!("{}; exchanging the files in {}", self.children.who(), dir.display()));
        let started = Instant::now();
        self.children.walk(dir, BROKER + 1.., self.found.clone());
        while self.walked.is_none() || self.children.running() > 1 {
            self.next_event()?;
        }
        let elapsed = started.elapsed();
        self.children.end(BROKER);
        while self.children.running() > 0 {
            self.next_event()?;
        }
        self.show.finish();
        let clients = self.reports.into_iter().flatten().collect();
        Ok(Table::new(clients, self.broker.unwrap_or_default(), elapsed))
    }

    fn wait_until_ready(&mut self, count: usize) -> Result<(), Failure> {
        while self.children.ready() < count {
            self.next_event()?;
        }
        Ok(())
    }

    /// Waits for the next event and handles it. Updates the display.
    fn next_event(&mut self) -> Result<(), Failure> {
        let event = self.children.event(TICK);
        match event {
            None => {}
            Some(Event::Note(child, note)) => self.on_note(child, note)?,
            Some(Event::Disconnected(child)) => {
                let reported = if child == BROKER {
                    self.broker.is_some()
                } else {
                    self.reports[child].is_some()
                };
                self.children.on_end(child, reported)?;
            }
            Some(Event::Walked(walked)) => {
                self.unreadable += walked.unreadable;
                self.walked = Some(walked);
            }
            Some(Event::Unreadable(what)) => self.show.line(format_args!("cannot read {what}")),
            Some(Event::Signal(signal)) => {
                self.show.finish();
                return Err(Failure::silent(128u8.saturating_add(signal as u8)));
            }
        }
        let (files, bytes) = self.found.get();
        let delivered = self.progress.iter().map(|(_, received)| received).sum();
        self.show.progress(delivered, (CLIENTS as u64 - 1) * bytes);
        self.look_for_hang(files + delivered)
    }

    fn on_note(&mut self, child: usize, note: Note) -> Result<(), Failure> {
        match note {
            Note::Ready => self.children.set_ready(child),
            Note::Progress { sent, received } => self.progress[child] = (sent, received),
            Note::Unreadable(what) => {
                self.unreadable += 1;
                self.show.line(format_args!("cannot read {what}"));
            }
            Note::Warning(what) => self.show.line(what),
            Note::Failed(why) => self.children.set_failed(child, why),
            Note::Client(report) => {
                self.progress[child].1 = report.received.file_bytes;
                self.reports[child] = Some(report);
            }
            Note::Broker(report) => self.broker = Some(report),
        }
        Ok(())
    }

    fn look_for_hang(&mut self, moved: u64) -> Result<(), Failure> {
        let sent: u64 = self.progress.iter().map(|(sent, _)| sent).sum();
        let moved = moved + sent + self.children.ready() as u64;
        if moved != self.moved.1 {
            self.moved = (Instant::now(), moved);
        }
        if self.moved.0.elapsed() < HANDSHAKE_TIMEOUT {
            return Ok(());
        }
        let mut text = format!("no progress for {} s:", HANDSHAKE_TIMEOUT.as_secs());
        for (child, state) in self.children.states() {
            let (sent, received) = self.progress[child];
            let _ = write!(text, " {state}, sent {sent} bytes, received {received};");
        }
        self.show.finish();
        Err(Failure::other(text + " all of them are killed"))
    }

    /// Succeeds only if every file arrived whole at every other client.
    fn judge(&self, table: &Table) -> Result<(), Failure> {
        let walked = self.walked.unwrap_or_default();
        if let Some(wrong) = table.wrong() {
            return Err(Failure::other(wrong));
        }
        if self.unreadable > 0 {
            let n = self.unreadable;
            return Err(Failure::other(format!(
                "{n} files or directories could not be read; everything else arrived whole"
            )));
        }
        if walked.files != table.files() {
            let files = table.files();
            let found = walked.files;
            return Err(Failure::other(format!("{found} files were found, but {files} were sent")));
        }
        Ok(())
    }
}

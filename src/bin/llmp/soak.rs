//! `llmp soak`: processes of a bus are killed and stopped at random, and each message is checked.
//!
//! The parent starts brokers and clients, kills and stops them, and replaces those that have ended.
//! Each client reports to it what it has sent and received, and an oracle compares that.

pub mod broker;
pub mod client;
mod content;
mod deeds;
mod oracle;
mod processes;
mod record;
mod report;

use self::oracle::{End, Id, Oracle};
use self::processes::{Event, Kind, Process, Processes};
use self::record::Record;
use self::report::{Counts, Pauses, Progress, report};
use crate::arguments::{self, Role, WhenSlow};
use crate::failure::{Failure, say};
use crate::random::Random;
use llmp::Broker;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Number of brokers. One serves, and the others stand by.
const BROKERS: usize = 3;
/// The longest message.
const MAX_MESSAGE_LEN: usize = 128 << 10;
/// How long a broker waits for the clients of the one before it.
const GRACE_PERIOD: Duration = Duration::from_secs(2);

/// The longest pause between two deeds.
const PAUSE: Duration = Duration::from_millis(50);
/// Brokers are killed for `STORM`, and then left alone for `CALM`. In a calm, a killed client must lose
/// nothing.
const STORM: Duration = Duration::from_secs(10);
const CALM: Duration = Duration::from_secs(15);
/// The longest stop of a process for which the bus waits, and of another one.
const STOP: Duration = Duration::from_millis(200);
const LONG_STOP: Duration = Duration::from_secs(4);
/// The soak fails after this time without a message.
const HANG: Duration = Duration::from_secs(30);
/// How long the bus may take to deliver everything at the end.
const SETTLE: Duration = Duration::from_secs(60);
/// A time without a message that is noted.
const LONG_PAUSE: Duration = Duration::from_millis(500);
/// Nothing more arrives after this time without a message.
const SILENCE: Duration = Duration::from_millis(300);
/// How often progress is shown.
const TICK: Duration = Duration::from_millis(100);

/// The number of the process whose messages are the order for all others. It is never killed.
const WITNESS: u32 = 0;

/// Runs a soak and prints its report.
pub fn run(arguments: &arguments::Soak) -> Result<(), Failure> {
    let cannot = |error: io::Error| {
        Failure::other(format!("cannot make a temporary directory: {error}; set TMPDIR"))
    };
    let home = tempfile::Builder::new().prefix("llmp-soak-").tempdir().map_err(cannot)?;
    let seed = arguments.seed.unwrap_or_else(|| std::process::id().into());
    let time = arguments.minutes;
    let path = |name| home.path().join(name);
    let mut soak = Soak {
        processes: Processes::new(path("bus.sock"), &path("processes.log")).map_err(cannot)?,
        socket: path("bus.sock"),
        log: File::create(path("events.log")).map_err(cannot)?,
        random: Random::new(seed),
        oracle: Oracle::new(WITNESS),
        wanted: Wanted { brokers: BROKERS, clients: 1 + arguments.clients },
        began: Instant::now(),
        brokers: Vec::new(),
        counts: Counts::default(),
        pauses: Pauses::new(),
    };
    say(format_args!(
        "seed {seed}: {} clients and {BROKERS} brokers for {} s; evidence in {}",
        arguments.clients,
        time.as_secs(),
        home.path().display()
    ));
    let report = soak.soak(time);
    // A signal is no failure, and has no text.
    let wrong = report.as_ref().err().map(Failure::to_string).filter(|text| !text.is_empty());
    if let Some(wrong) = &wrong {
        soak.note(format_args!("failed: {wrong}"));
        let states: Vec<_> = soak.processes.states().collect();
        states.iter().for_each(|state| soak.note(state));
    }
    let (time, killed) = (soak.began.elapsed().as_secs(), soak.counts.killed());
    drop(soak);
    match report {
        Err(failure) => Err(match wrong {
            None => {
                say(format_args!("interrupted after {time} s; {killed} were killed, all right"));
                failure
            }
            Some(wrong) => Failure::other(format!(
                "{wrong}; the evidence is in {}, and --seed {seed} makes the same choices again",
                home.keep().display()
            )),
        }),
        Ok(report) => {
            // A closed standard output is not an error.
            let _ = io::stdout().write_all(report.as_bytes());
            if arguments.keep {
                say(format_args!("the log of events is in {}", home.keep().display()));
            }
            Ok(())
        }
    }
}

/// How many processes are to run.
struct Wanted {
    brokers: usize,
    /// The witness included.
    clients: usize,
}

struct Soak {
    processes: Processes,
    socket: PathBuf,
    log: File,
    random: Random,
    oracle: Oracle,
    wanted: Wanted,
    began: Instant,
    /// When brokers have ended.
    brokers: Vec<Instant>,
    counts: Counts,
    pauses: Pauses,
}

impl Soak {
    /// Returns the report, if nothing was wrong.
    fn soak(&mut self, time: Duration) -> Result<String, Failure> {
        for _ in 0..self.wanted.brokers + self.wanted.clients {
            self.replace()?;
            while self.processes.all.get(&WITNESS).is_some_and(|it| !it.has_joined)
                && self.processes.all.len() > BROKERS
            {
                self.next_event(TICK)?;
            }
        }
        let mut progress = Progress::new(time);
        let mut deed = Instant::now();
        while self.began.elapsed() < time {
            self.next_event(deed.saturating_duration_since(Instant::now()).min(TICK))?;
            progress.show(self.began.elapsed(), time, &self.counts, self.oracle.messages());
            self.look_for_hang()?;
            if deed <= Instant::now() {
                self.act();
                deed = Instant::now() + PAUSE.mul_f64(self.random.below(1000) as f64 / 1000.0);
            }
        }
        progress.finish();
        self.settle()?;
        let totals = self.oracle.finish(&self.brokers).map_err(Failure::other)?;
        Ok(report(&totals, &self.counts, &self.pauses, self.began.elapsed()))
    }

    /// Starts processes for those that are missing.
    fn replace(&mut self) -> Result<(), Failure> {
        let all = self.processes.all.values();
        let brokers = all.filter(|process| process.kind == Kind::Broker).count();
        let clients = self.processes.all.len() - brokers;
        let kind = if self.processes.next() == WITNESS {
            let role = Role::Receives;
            Kind::Client { role, when_slow: WhenSlow::Block, is_mortal: false }
        } else if brokers < self.wanted.brokers {
            Kind::Broker
        } else if clients < self.wanted.clients {
            let role = [Role::Both, Role::Both, Role::Sends, Role::Receives];
            let policy = [WhenSlow::Block, WhenSlow::Block, WhenSlow::Skip, WhenSlow::Evict];
            let role = role[self.random.below(4) as usize];
            Kind::Client {
                role,
                // The bus never waits for a client that only sends.
                when_slow: policy
                    [if role == Role::Sends { 0 } else { self.random.below(4) as usize }],
                is_mortal: self.random.below(8) == 0,
            }
        } else {
            return Ok(());
        };
        let number = self.processes.next();
        self.oracle.starts(number);
        self.processes.start(kind, self.random.next())?;
        let id = self.processes.all.get(&number).map_or(0, Process::id);
        self.note(format_args!("process {number} ({id}) is {kind:?}"));
        Ok(())
    }

    /// Waits for the next event and handles it.
    fn next_event(&mut self, timeout: Duration) -> Result<(), Failure> {
        match self.processes.event(timeout) {
            None => {}
            Some(Event::Reported(number, records)) => {
                for record in records {
                    self.on_record(number, record)?;
                }
                self.oracle.compare().map_err(Failure::other)?;
            }
            Some(Event::Ended(number, read)) => self.on_end(number, read)?,
            Some(Event::Signal(signal)) => return Err(Failure::signal(signal)),
        }
        let now = Instant::now();
        let stopped = self.processes.all.values_mut();
        for process in stopped.filter(|it| it.stopped.is_some_and(|until| until <= now)) {
            process.go_on();
        }
        Ok(())
    }

    fn on_record(&mut self, number: u32, record: Record) -> Result<(), Failure> {
        let Some(process) = self.processes.all.get_mut(&number) else { return Ok(()) };
        match record {
            Record::Joined => {
                process.has_joined = true;
                self.oracle.joined(number, self.processes.next());
            }
            Record::Quiet => process.is_quiet = true,
            Record::Ended => {
                process.has_ended = true;
                self.counts.disconnected += 1;
            }
            Record::Serving => {
                process.serves = true;
                self.pauses.serves();
                self.note(format_args!("process {number} serves"));
            }
            Record::HandedOver => {
                process.serves = false;
                self.brokers.push(Instant::now());
                self.counts.handed_over += 1;
                self.note(format_args!("process {number} has handed the bus over"));
            }
            Record::Sent(count) => self.oracle.sent(number, count),
            Record::Flushed(count) => self.oracle.flushed(number, count),
            Record::Missed(count) => {
                if matches!(process.kind, Kind::Client { when_slow: WhenSlow::Block, .. }) {
                    return Err(Failure::other(format!(
                        "process {number} has missed {count} messages, but the bus waits for it; or \
                         this machine has not run it for {} s",
                        GRACE_PERIOD.as_secs()
                    )));
                }
                self.note(format_args!("process {number} has missed {count} messages"));
                self.oracle.missed(number, count).map_err(Failure::other)?;
            }
            Record::Got { sender, number: message } => {
                if number == WITNESS {
                    let pause = self.pauses.message();
                    if pause > LONG_PAUSE {
                        self.note(format_args!("no message for {pause:?}"));
                    }
                }
                let id = Id { sender, number: message };
                self.oracle.got(number, id).map_err(Failure::other)?;
            }
        }
        Ok(())
    }

    fn on_end(&mut self, number: u32, read: io::Result<()>) -> Result<(), Failure> {
        let Some(mut process) = self.processes.all.remove(&number) else { return Ok(()) };
        let status = process.wait().map_err(Failure::other)?;
        self.note(format_args!("process {number} has ended: {status}"));
        let is_right = match process.killed {
            Some((_, signal)) => status.signal() == Some(signal.as_raw()) || status.success(),
            None => status.success() && (process.leaves() || process.has_ended),
        };
        read.map_err(|error| Failure::other(format!("process {number} reports {error}")))?;
        if !is_right {
            let (what, id) = (process.kind, process.id());
            return Err(Failure::other(format!(
                "process {number} ({id}), {what:?}, has ended: {status}; processes.log says why"
            )));
        }
        let end = match process.killed {
            None if process.leaves() && !process.has_ended => End::Left,
            killed => End::Killed(killed.map_or_else(Instant::now, |(at, _)| at)),
        };
        self.oracle.ended(number, end);
        self.replace()
    }

    fn look_for_hang(&self) -> Result<(), Failure> {
        match self.pauses.since() < HANG {
            true => Ok(()),
            false => Err(Failure::other(format!("no message in {} s", HANG.as_secs()))),
        }
    }

    /// Lets everything be delivered, and ends all processes.
    fn settle(&mut self) -> Result<(), Failure> {
        self.note("settle");
        self.wanted.clients = 0;
        let began = Instant::now();
        for process in self.processes.all.values_mut() {
            process.go_on();
            process.order(client::QUIET);
        }
        // Clients that were started last must join first.
        loop {
            let mut clients = self.processes.all.values_mut().filter(|it| it.kind != Kind::Broker);
            let are_quiet = clients.all(|it| {
                it.order(client::QUIET);
                it.is_quiet
            });
            let missing = self.oracle.missing(&self.brokers);
            // What killed clients have sent arrives as well.
            if are_quiet && missing.is_none() && self.pauses.since() > SILENCE {
                break;
            }
            if began.elapsed() > SETTLE {
                let text = format!("a client is not quiet after {} s", SETTLE.as_secs());
                return Err(Failure::other(missing.filter(|_| are_quiet).unwrap_or(text)));
            }
            self.next_event(TICK)?;
        }
        self.note("everything was delivered");
        let is_other =
            |(number, it): &(&u32, &mut Process)| **number != WITNESS && it.kind != Kind::Broker;
        self.processes.all.iter_mut().filter(is_other).for_each(|(_, it)| it.leave());
        self.wait_until_left(1 + BROKERS, began)?;
        self.look_for_leaks()?;
        self.processes.all.get_mut(&WITNESS).into_iter().for_each(Process::leave);
        self.wait_until_left(BROKERS, began)?;
        self.wanted.brokers = 0;
        self.processes.all.values_mut().for_each(Process::leave);
        // A takeover may be under way, and a broker that was started last may begin a bus of its own.
        while !self.processes.all.is_empty() {
            let asked = Broker::request_stop(&self.socket, STOP);
            if began.elapsed() > 2 * SETTLE {
                asked?;
                return Err(Failure::other("a broker does not end"));
            }
            self.next_event(TICK)?;
        }
        Ok(())
    }

    /// Waits until only that many processes are left.
    fn wait_until_left(&mut self, count: usize, began: Instant) -> Result<(), Failure> {
        while self.processes.all.len() > count {
            if began.elapsed() > 2 * SETTLE {
                return Err(Failure::other("a client does not end"));
            }
            self.next_event(TICK)?;
        }
        Ok(())
    }

    /// Looks at the witness, which has outlived all brokers but one, and at that broker, when there are
    /// no other clients.
    fn look_for_leaks(&mut self) -> Result<(), Failure> {
        let all = self.processes.all.iter();
        let longest = all.filter(|(number, it)| **number == WITNESS || it.serves);
        let held: Vec<_> = longest.map(|(number, it)| (*number, it.holds())).collect();
        for (number, held) in held {
            self.note(format_args!("process {number} holds {held:?}"));
            if !held.is_little() {
                return Err(Failure::other(format!("process {number} leaks: it holds {held:?}")));
            }
        }
        Ok(())
    }

    /// Adds a line to the evidence.
    fn note(&mut self, text: impl std::fmt::Display) {
        let time = self.began.elapsed().as_secs_f64();
        // A full disk must not end the soak.
        let _ = writeln!(self.log, "{time:10.6} {text}");
    }
}

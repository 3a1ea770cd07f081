//! A receiver that is stopped for a minute: what it costs the others, and what it gets afterwards.
//!
//! Two buses take turns, one message stream each. They differ in one thing: one of them has a receiver
//! that is stopped by `SIGSTOP` the whole time. So both meet the same load of the machine.

use crate::stats::quantile;
use anyhow::{Context, Result, ensure};
use llmp::{
    Broker, BrokerStats, Client, Disconnected, RecvError, Sender, SlowReceiver, StopHandle,
};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Receivers that keep up.
const READERS: usize = 2;

/// How long a receiver is stopped, and how long a bus sends before the other one does.
const MINUTE: Duration = Duration::from_secs(60);
const SLICE: Duration = Duration::from_millis(250);

/// The policies, by their names on the command line.
const POLICIES: [(&str, SlowReceiver); 2] =
    [("skip", SlowReceiver::Skip), ("evict", SlowReceiver::Evict)];

/// A bus with a sender and receivers that keep up.
struct Bus {
    stop: StopHandle,
    broker: JoinHandle<std::io::Result<BrokerStats>>,
    readers: Vec<JoinHandle<()>>,
    received: Vec<Arc<AtomicU64>>,
    sender: Sender,
    sent: u64,
}

impl Bus {
    fn new(path: &Path) -> Result<Self> {
        // It waits for all others, so that their messages count.
        let broker = Broker::bind(path)?;
        let stop = broker.stop_handle();
        let broker = std::thread::spawn(move || broker.run());
        let received: Vec<Arc<AtomicU64>> = (0..READERS).map(|_| Arc::default()).collect();
        let readers = received.iter().cloned().map(|count| {
            let mut client = Client::connect_receiver(path)?;
            Ok(std::thread::spawn(move || {
                while client.recv().is_ok() {
                    count.fetch_add(1, Ordering::Release);
                }
            }))
        });
        let readers = readers.collect::<Result<_>>()?;
        let sender = Client::connect_sender(path)?;
        Ok(Bus { stop, broker, readers, received, sender, sent: 0 })
    }

    /// Sends for a while, and waits until the readers have everything. Returns messages a second.
    fn slice(&mut self, payload: &[u8]) -> Result<f64> {
        let (began, before) = (Instant::now(), self.sent);
        while began.elapsed() < SLICE {
            for _ in 0..64 {
                self.sender.send(1, payload)?;
            }
            self.sent += 64;
        }
        let has_all = |count: &Arc<AtomicU64>| count.load(Ordering::Acquire) == self.sent;
        while !self.received.iter().all(has_all) {
            ensure!(began.elapsed() < MINUTE, "a reader lacks messages");
            std::thread::yield_now();
        }
        Ok((self.sent - before) as f64 / began.elapsed().as_secs_f64())
    }

    fn end(self) -> Result<BrokerStats> {
        self.stop.stop();
        let stats = self.broker.join().map_err(|_| anyhow::anyhow!("the broker panicked"))?;
        self.readers.into_iter().for_each(|reader| drop(reader.join()));
        Ok(stats?)
    }
}

/// A receiver in a process of its own.
struct Stopped {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Stopped {
    /// Starts it, and stops it when it has joined.
    fn start(path: &Path, policy: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bystander", policy]).arg(path).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        let mut stopped = Stopped { process, lines };
        ensure!(stopped.line()? == "joined");
        stopped.signal(Signal::STOP)?;
        Ok(stopped)
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().context("it has ended")??)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = Pid::from_raw(self.process.id() as i32).context("a process")?;
        Ok(kill_process(process, signal)?)
    }

    /// Shared memory that it keeps mapped, in bytes.
    fn mapped(&self) -> Result<u64> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.process.id()))?;
        let lengths = maps.lines().filter(|line| line.contains("/memfd:llmp-page")).map(|line| {
            let (from, to) = line.split(' ').next()?.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some(number(to)? - number(from)?)
        });
        Ok(lengths.map(Option::unwrap_or_default).sum())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Measures, and prints a table in Markdown.
pub fn run(quick: bool) -> Result<()> {
    println!(
        "| policy | message | without, messages/s | with a stopped receiver | ratio, median (5 to 95 of 100) \
         | broker's memory at most | the same with it | the stopped one keeps | when it goes on |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    let time = if quick { 4 * SLICE } else { MINUTE };
    for (name, policy) in POLICIES {
        for len in [64, 1024, 16 << 10] {
            measure(name, policy, len, time)?;
        }
    }
    Ok(())
}

fn measure(name: &str, policy: SlowReceiver, len: usize, time: Duration) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [path, other] = ["with", "without"].map(|name| dir.path().join(name));
    let mut with = Bus::new(&path)?;
    let mut without = Bus::new(&other)?;
    let payload = vec![7; len];
    let mut stopped = Stopped::start(&path, name)?;
    let began = Instant::now();
    let mut rates = Vec::new();
    // The first slices fill the chains.
    for round in 0.. {
        let pair = match round % 2 {
            0 => [without.slice(&payload)?, with.slice(&payload)?],
            _ => {
                let with = with.slice(&payload)?;
                [without.slice(&payload)?, with]
            }
        };
        rates.extend((round >= 2).then_some(pair));
        if began.elapsed() > time && rates.len() > 1 {
            break;
        }
    }
    let sent = with.sent;
    let keeps = stopped.mapped()?;
    stopped.signal(Signal::CONT)?;
    let told = stopped.line()?;
    let [without, with] = [without.end()?, with.end()?];
    let end = stopped.line()?;
    let missed: u64 = told.strip_prefix("missed ").map_or(Ok(0), str::parse)?;
    let received: u64 = end.strip_prefix("received ").context("its report")?.parse()?;
    ensure!(
        policy == SlowReceiver::Evict || missed + received == sent,
        "{missed} {received} {sent}"
    );
    let median = |mut all: Vec<f64>, part| {
        all.sort_by(f64::total_cmp);
        quantile(&all, part)
    };
    let of = |index: usize, part| median(rates.iter().map(|pair| pair[index]).collect(), part);
    let ratio = |part| median(rates.iter().map(|[without, with]| with / without).collect(), part);
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64);
    println!(
        "| {name} | {len} B | {:.0} | {:.0} | {:.3} ({:.2} to {:.2}) | {} | {} | {} | {told} of {sent} |",
        of(0, 0.5),
        of(1, 0.5),
        ratio(0.5),
        ratio(0.05),
        ratio(0.95),
        mib(without.shared_bytes_peak),
        mib(with.shared_bytes_peak),
        mib(keeps),
    );
    Ok(())
}

/// Plays the receiver that is stopped.
pub fn play(policy: &str, path: &Path) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let (_, policy) = POLICIES.into_iter().find(|it| it.0 == policy).context("a policy")?;
    let mut client = Client::builder().when_slow(policy).connect_receiver(path)?;
    println!("joined");
    let (mut received, mut missed, mut is_told) = (0u64, 0u64, false);
    loop {
        match client.recv() {
            Ok(_) => received += 1,
            Err(RecvError::Gap { missed: count }) => {
                missed += count;
                if !std::mem::replace(&mut is_told, true) {
                    println!("missed {missed}");
                }
            }
            Err(error) => {
                if !is_told {
                    let is_evicted = error == RecvError::Disconnected(Disconnected::Evicted);
                    println!(
                        "{}",
                        if is_evicted { "evicted".to_owned() } else { error.to_string() }
                    );
                }
                break;
            }
        }
    }
    println!("received {received}");
    Ok(())
}

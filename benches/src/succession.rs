//! The death of a broker: how soon another process serves, and how soon clients go on.
//!
//! Each process is real, and each broker is killed by `SIGKILL`. All report times of the clock that
//! they share.

use crate::clock::monotonic_ns;
use crate::stats::quantile;
use anyhow::{Context, Result, bail};
use llmp::{BindError, Broker, Client, Vacancy};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How long a process may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Processes that stand by in the measurement of takeovers.
const CANDIDATES: usize = 20;

/// Between the first message of all clients and the next kill.
const PAUSE: Duration = Duration::from_millis(20);

/// Something that a process has reported, and when it happened.
struct Event {
    process: u32,
    what: String,
    at: u64,
}

/// Processes and what they report.
struct Company<'a> {
    path: &'a Path,
    processes: HashMap<u32, Child>,
    events: Receiver<Event>,
    sender: Sender<Event>,
}

impl Drop for Company<'_> {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl<'a> Company<'a> {
    fn new(path: &'a Path) -> Self {
        let (sender, events) = channel();
        Company { path, processes: HashMap::new(), events, sender }
    }

    fn start(&mut self, role: &str) -> Result<u32> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["survivor", role]).arg(self.path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (process, sender) = (child.id(), self.sender.clone());
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Some((what, at)) = line.split_once(' ') else { return };
                let (what, at) = (what.to_owned(), at.parse().unwrap_or(0));
                if sender.send(Event { process, what, at }).is_err() {
                    return;
                }
            }
        });
        self.processes.insert(process, child);
        Ok(process)
    }

    fn next(&self, what: &str) -> Result<Event> {
        loop {
            let event = self.events.recv_timeout(TIMEOUT);
            let event = event.with_context(|| format!("no process says '{what}'"))?;
            if event.what == what {
                return Ok(event);
            }
        }
    }

    fn tell(&mut self, process: u32) -> Result<()> {
        let child = self.processes.get_mut(&process).context("a process")?;
        writeln!(child.stdin.as_mut().context("its input")?, "go")?;
        Ok(())
    }

    /// Kills a process. Returns when.
    fn kill(&mut self, process: u32) -> Result<u64> {
        let at = monotonic_ns();
        kill_process(Pid::from_raw(process as i32).context("a process")?, Signal::KILL)?;
        if let Some(mut child) = self.processes.remove(&process) {
            child.wait()?;
        }
        Ok(at)
    }
}

/// Measures, and prints a table in Markdown.
pub fn run(quick: bool) -> Result<()> {
    let (takeovers, deaths) = if quick { (20, 3) } else { (1000, 30) };
    println!("| | n | median | p99 | most |\n|---|---|---|---|---|");
    report(&format!("another of {CANDIDATES} processes serves"), takeover(takeovers)?);
    for clients in [3, 100] {
        report(&format!("{clients} clients have joined, all at once"), joins(clients, deaths)?);
        report(
            &format!("first message of the next broker, {clients} clients"),
            gaps(clients, deaths)?,
        );
    }
    Ok(())
}

/// Prints a row of times in nanoseconds.
fn report(what: &str, mut times: Vec<u64>) {
    times.sort_unstable();
    let [median, p99, most] = [0.5, 0.99, 1.0].map(|part| quantile(&times, part) as f64 / 1e6);
    println!("| {what} | {} | {median:.2} ms | {p99:.2} ms | {most:.2} ms |", times.len());
}

/// Times from the death of a broker until another process serves.
fn takeover(kills: usize) -> Result<Vec<u64>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bus");
    let mut company = Company::new(&path);
    for _ in 0..CANDIDATES {
        company.start("candidate")?;
    }
    let mut serving = company.next("serving")?.process;
    (0..kills)
        .map(|_| {
            company.start("candidate")?;
            std::thread::sleep(PAUSE);
            let killed = company.kill(serving)?;
            let next = company.next("serving")?;
            serving = next.process;
            Ok(next.at.saturating_sub(killed))
        })
        .collect()
}

/// Times until that many clients have joined a bus, all at once.
fn joins(clients: usize, times: usize) -> Result<Vec<u64>> {
    (0..times)
        .map(|_| {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("bus");
            let mut company = Company::new(&path);
            company.start("candidate")?;
            company.next("serving")?;
            let began = join(&mut company, clients)?;
            Ok(began.1 - began.0)
        })
        .collect()
}

/// Lets clients join. Returns when they were told to, and when the last one had joined.
fn join(company: &mut Company, clients: usize) -> Result<(u64, u64)> {
    let role = |at| if at == 0 { "speaker" } else { "client" };
    let processes: Vec<_> =
        (0..clients).map(|at| company.start(role(at))).collect::<Result<_>>()?;
    for _ in 0..clients {
        company.next("started")?;
    }
    let began = monotonic_ns();
    processes.into_iter().try_for_each(|process| company.tell(process))?;
    let joined: Result<Vec<_>> = (0..clients).map(|_| Ok(company.next("joined")?.at)).collect();
    Ok((began, joined?.into_iter().max().unwrap_or(began)))
}

/// Times from the death of a broker until a client receives the first message of the next one.
fn gaps(clients: usize, kills: usize) -> Result<Vec<u64>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bus");
    let mut company = Company::new(&path);
    company.start("candidate")?;
    let mut serving = company.next("serving")?.process;
    company.start("candidate")?;
    join(&mut company, clients)?;
    let mut times = Vec::new();
    for _ in 0..kills {
        std::thread::sleep(2 * PAUSE);
        let killed = company.kill(serving)?;
        serving = company.next("serving")?.process;
        for _ in 0..clients {
            times.push(company.next("first")?.at.saturating_sub(killed));
        }
        company.start("candidate")?;
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}

/// Plays the role of a process.
pub fn play(role: &str, path: &Path) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match role {
        "candidate" => candidate(path),
        "client" => client(path, false),
        "speaker" => client(path, true),
        _ => bail!("there is no role {role}"),
    }
}

fn say(what: &str) -> Result<()> {
    let at = monotonic_ns();
    writeln!(std::io::stdout(), "{what} {at}")?;
    Ok(())
}

/// Serves the bus when no other process does.
fn candidate(path: &Path) -> Result<()> {
    loop {
        match Broker::bind(path) {
            Ok(broker) => {
                say("serving")?;
                broker.run()?;
                return Ok(());
            }
            Err(BindError::InUse { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if Broker::wait_until_free(path, None)? == Vacancy::Closed {
            return Ok(());
        }
    }
}

/// Reports the first message of each broker. One client sends a message every other millisecond, and
/// the others wait for messages.
fn client(path: &Path, speaks: bool) -> Result<()> {
    say("started")?;
    std::io::stdin().read_line(&mut String::new())?;
    let client = Client::builder().outlive_broker(TIMEOUT).own_messages().connect(path)?;
    let (mut sender, mut receiver) = client.into_split();
    say("joined")?;
    let mut broker = receiver.broker_id();
    loop {
        let patience = if speaks {
            sender.send(1, b"a message")?;
            Duration::from_millis(2)
        } else {
            TIMEOUT
        };
        let mut is_there = receiver.recv_timeout(patience)?.is_some();
        while is_there {
            let found = receiver.broker_id();
            if std::mem::replace(&mut broker, found) != found {
                say("first")?;
            }
            is_there = receiver.try_recv()?.is_some();
        }
        // It goes on with the next broker.
        sender.prepare_wait();
        if speaks {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

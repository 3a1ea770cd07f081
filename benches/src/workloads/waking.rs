//! The time to wake many sleeping threads.
//!
//! All are threads of this process. The ringing thread has the first processor. The sender and all
//! sleepers share the second. On the bus, the sender's batch wakes the broker, which forwards it
//! and rings all receivers. The comparison is bare sockets of the same kind: a byte wakes a thread,
//! which writes one to each thread that sleeps in `read`.

use super::growth::{NAME, allow_many_descriptors};
use super::hardware::BARE;
use crate::clock::monotonic_ns;
use crate::measure::{Cell, Figures, Run};
use crate::placement::{cpus, pin};
use crate::stats::Spread;
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::{Pid, gettid};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Messages that are sent at once.
const BATCH: usize = 16;
const PAYLOAD: [u8; 64] = [0x5a; 64];
/// After this time each thread that was about to sleep sleeps.
const SETTLE: Duration = Duration::from_millis(2);
const TIMEOUT: Duration = Duration::from_secs(20);

pub fn cells(sleepers: usize, rounds: usize) -> [Cell; 2] {
    let case = format!("waking {sleepers} sleeper{}", if sleepers == 1 { "" } else { "s" });
    let cell = |peer, prepare: fn(PathBuf, usize, usize) -> Result<Bell>| {
        Cell::new(NAME, case.clone(), peer, move |run: &Run| {
            let path = run.place("bus").path("bus");
            // On a thread of its own, because the threads that it starts stay on its processor.
            let measuring = std::thread::spawn(move || {
                allow_many_descriptors()?;
                let [ringing, sleeping] = cpus()?;
                pin(sleeping)?;
                prepare(path, sleepers, ringing)?.measure(rounds)
            });
            measuring.join().unwrap_or_else(|_| bail!("the measuring thread has failed"))
        })
    };
    [cell("llmp", bus), cell(BARE, sockets)]
}

/// Calls a function when it is about to sleep. Returns the time at which it was awake.
type Sleeper = Box<dyn FnMut(&dyn Fn()) -> Result<u64> + Send>;

struct Bell {
    sleepers: Vec<Sleeper>,
    /// Lets the ringing thread ring.
    ring: Box<dyn FnMut() -> Result<()>>,
    ringer: Pid,
    /// Ends the ringing thread.
    end: Box<dyn FnOnce() -> Result<()>>,
}

/// The reports of the sleepers.
#[derive(Default)]
struct Said {
    asleep: AtomicUsize,
    awake: AtomicUsize,
    first: AtomicU64,
    last: AtomicU64,
}

impl Bell {
    fn measure(mut self, rounds: usize) -> Result<Figures> {
        let said = Arc::new(Said::default());
        let count = self.sleepers.len();
        let sender = std::thread::current();
        for mut sleeper in self.sleepers.drain(..) {
            let (said, sender) = (said.clone(), sender.clone());
            std::thread::spawn(move || -> Result<()> {
                for _ in 0..rounds {
                    let at = sleeper(&|| _ = said.asleep.fetch_add(1, Ordering::Relaxed))?;
                    said.first.fetch_min(at, Ordering::Relaxed);
                    said.last.fetch_max(at, Ordering::Relaxed);
                    if (said.awake.fetch_add(1, Ordering::AcqRel) + 1).is_multiple_of(count) {
                        sender.unpark();
                    }
                }
                Ok(())
            });
        }
        let [mut first, mut last, mut used] = [const { Vec::new() }; 3];
        for round in 1..=rounds {
            wait_for(&said.asleep, round * count)?;
            std::thread::sleep(SETTLE);
            said.first.store(u64::MAX, Ordering::Relaxed);
            said.last.store(0, Ordering::Relaxed);
            let used_before = on_processor_ns(self.ringer);
            let begun = monotonic_ns();
            (self.ring)()?;
            wait_for(&said.awake, round * count)?;
            // Now the ringing thread sleeps again.
            std::thread::sleep(SETTLE);
            first.push((said.first.load(Ordering::Relaxed) - begun) as f64);
            last.push((said.last.load(Ordering::Relaxed) - begun) as f64);
            let used_now = on_processor_ns(self.ringer).zip(used_before);
            used.extend(used_now.map(|(now, before)| (now - before) as f64));
        }
        (self.end)()?;
        let figures = [("ns_first", first), ("ns_last", last), ("ns_cpu_of_ringer", used)];
        let middle = |(name, times)| Some((name, Spread::of(times)?.median));
        Ok(figures.into_iter().filter_map(middle).collect())
    }
}

/// Waits until this number has reported. The last one that wakes ends the pause.
fn wait_for(said: &AtomicUsize, count: usize) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while said.load(Ordering::Acquire) < count {
        if Instant::now() > deadline {
            bail!("not all sleepers sleep and wake in turn");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    Ok(())
}

/// Returns the processor time of a thread of this process so far, if the kernel counts that. It is
/// exact while the thread sleeps.
fn on_processor_ns(thread: Pid) -> Option<u64> {
    let path = format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero());
    std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

/// Starts the ringing thread on a processor of its own.
fn ringer(cpu: usize, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<(Pid, Join)> {
    let (says, said) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        pin(cpu)?;
        says.send(gettid())?;
        work()
    });
    Ok((said.recv().context("the ringing thread did not start")?, thread))
}

type Join = std::thread::JoinHandle<Result<()>>;

fn join(thread: Join) -> Result<()> {
    thread.join().unwrap_or_else(|_| bail!("the ringing thread has failed"))
}

fn bus(path: PathBuf, sleepers: usize, cpu: usize) -> Result<Bell> {
    let broker = llmp::Broker::bind(&path)?;
    let stop = broker.stop_handle();
    let (ringer, thread) = ringer(cpu, move || Ok(broker.run().map(drop)?))?;
    let sleepers = (0..sleepers).map(|_| {
        let client = llmp::Client::connect_receiver(&path)?;
        Ok(sleeping_client(client))
    });
    let sleepers = sleepers.collect::<Result<_>>()?;
    let mut sender = llmp::Client::connect_sender(&path)?;
    let ring = move || {
        let mut batch = sender.batch();
        for _ in 0..BATCH {
            batch.try_send(1, &PAYLOAD)?;
        }
        batch.commit();
        Ok(())
    };
    let end = move || {
        stop.stop();
        join(thread)
    };
    Ok(Bell { sleepers, ring: Box::new(ring), ringer, end: Box::new(end) })
}

fn sleeping_client(mut client: llmp::Receiver) -> Sleeper {
    Box::new(move |about_to_sleep| {
        let wait = client.prepare_wait();
        about_to_sleep();
        if let llmp::Wait::Readable { timeout } = wait {
            let timeout = timeout.map(TryInto::try_into).transpose()?;
            poll(&mut [PollFd::new(&client, PollFlags::IN)], timeout.as_ref())?;
        }
        client.recv()?;
        let at = monotonic_ns();
        for _ in 1..BATCH {
            client.recv()?;
        }
        Ok(at)
    })
}

fn sockets(_: PathBuf, sleepers: usize, cpu: usize) -> Result<Bell> {
    let pair =
        || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (bell, heard) = pair()?;
    let (mut bells, mut all) = (Vec::new(), Vec::new());
    for _ in 0..sleepers {
        let (bell, heard) = pair()?;
        bells.push(bell);
        all.push(Box::new(move |about_to_sleep: &dyn Fn()| {
            about_to_sleep();
            read(&heard, &mut [0; 8])?;
            Ok(monotonic_ns())
        }) as Sleeper);
    }
    let (ringer, thread) = ringer(cpu, move || {
        // The read returns nothing when the other end is closed.
        while read(&heard, &mut [0; 8])? > 0 {
            for bell in &bells {
                write(bell, &[0])?;
            }
        }
        Ok(())
    })?;
    let bell = Arc::new(bell);
    let last = bell.clone();
    let ring = move || {
        write(&bell, &[0])?;
        Ok(())
    };
    let end = move || {
        rustix::net::shutdown(&last, rustix::net::Shutdown::Both)?;
        join(thread)
    };
    Ok(Bell { sleepers: all, ring: Box::new(ring), ringer, end: Box::new(end) })
}

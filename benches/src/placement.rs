//! The placement of the two processors, as far as the time for a cache line between them shows it.
//!
//! The processors of a virtual machine move: sometimes they are two threads of one core, mostly two
//! cores, sometimes far apart. Speeds differ up to tenfold between these. So the round trip of two
//! lines is measured before and after each run, and only runs of the same placement are compared.

use anyhow::{Context, Result};
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Two lines there and back took 57, 114 and 417 ns; these are the geometric means between them.
const SMT_BELOW_NS: f64 = 80.0;
const NEAR_BELOW_NS: f64 = 218.0;

const ROUNDS: u64 = 2000;
const TRIES: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Two threads of one core.
    Smt,
    /// Two cores that share a cache.
    Near,
    /// Two cores that don't.
    Far,
    /// It makes no difference.
    Any,
}

impl Placement {
    pub const ALL: [Placement; 4] =
        [Placement::Any, Placement::Smt, Placement::Far, Placement::Near];

    pub fn of(two_lines_ns: f64) -> Self {
        match two_lines_ns {
            ns if ns < SMT_BELOW_NS => Placement::Smt,
            ns if ns < NEAR_BELOW_NS => Placement::Near,
            _ => Placement::Far,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Placement::Smt => "smt",
            Placement::Near => "near",
            Placement::Far => "far",
            Placement::Any => "any",
        })
    }
}

/// Keeps this thread on one processor.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).context("stay on one processor")
}

/// The first two processors that this process may use.
pub fn cpus() -> Result<[usize; 2]> {
    let set = rustix::thread::sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    match (cpus.next(), cpus.next()) {
        (Some(one), Some(other)) => Ok([one, other]),
        _ => anyhow::bail!("two processors are needed, and this process may use only one"),
    }
}

#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// Nanoseconds for a round trip between two pinned threads: over two lines, each written by one
/// side only, or over one line that both write.
pub fn round_trip_ns(lines: usize) -> Result<f64> {
    let cpus = cpus()?;
    let pair: [Line; 2] = Default::default();
    let (there, back) = (&pair[0].0, &pair[lines - 1].0);
    let total = ROUNDS * TRIES as u64;
    std::thread::scope(|scope| {
        let answering = scope.spawn(move || {
            pin(cpus[1])?;
            for i in 0..total {
                await_value(there, 2 * i + 1);
                back.store(2 * i + 2, Ordering::Release);
            }
            anyhow::Ok(())
        });
        // On a thread of its own, so that the caller stays where it was.
        let asking = scope.spawn(move || {
            pin(cpus[0])?;
            let mut best = f64::INFINITY;
            for round in 0..TRIES as u64 {
                let start = Instant::now();
                for i in round * ROUNDS..(round + 1) * ROUNDS {
                    there.store(2 * i + 1, Ordering::Release);
                    await_value(back, 2 * i + 2);
                }
                best = best.min(start.elapsed().as_nanos() as f64 / ROUNDS as f64);
            }
            Ok(best)
        });
        let answered = answering.join().unwrap_or_else(|_| anyhow::bail!("the probe has failed"));
        let asked = asking.join().unwrap_or_else(|_| anyhow::bail!("the probe has failed"));
        answered.and(asked)
    })
}

/// Spins, and yields after a while, because another process may have the other processor.
fn await_value(line: &AtomicU64, value: u64) {
    let mut spins = 0u32;
    while line.load(Ordering::Acquire) != value {
        spins += 1;
        if spins.is_multiple_of(100_000) {
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

//! Whether a bus gets slower or larger with the messages that it has carried. Measures messages,
//! memory and newcomers after several totals.
//!
//! The broker is a thread on one processor. On the other one a single thread sends and receives, as
//! two clients, so that no thread waits for a processor.

use super::growth::NAME;
use crate::measure::{Cell, Figures};
use crate::placement::{cpus, pin};
use crate::stats::Spread;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Instant;

/// Messages sent before the same number is received.
const BATCH: usize = 64;
/// Batches that are timed separately.
const TIMED: u64 = 2000;
const NEWCOMERS: usize = 50;
const PAYLOAD: [u8; 64] = [0x5a; 64];

pub fn cell(messages: u64) -> Cell {
    let case = format!("a bus that has carried {messages} messages");
    Cell::new(NAME, case, "llmp", move |run| {
        let path = run.place("bus").path("bus");
        // On a thread of its own, since that is pinned.
        let measuring = std::thread::spawn(move || measure(path, messages));
        measuring.join().unwrap_or_else(|_| bail!("the measuring thread has failed"))
    })
}

fn measure(path: PathBuf, messages: u64) -> Result<Figures> {
    let [brokers, ours] = cpus()?;
    let broker = llmp::Broker::bind(&path)?;
    let stop = broker.stop_handle();
    let serving = std::thread::spawn(move || {
        pin(brokers)?;
        anyhow::Ok(broker.run()?)
    });
    pin(ours)?;
    let mut sender = llmp::Client::connect_sender(&path)?;
    let mut receiver = llmp::Client::connect_receiver(&path)?;
    let mut carry = || {
        let begun = Instant::now();
        let mut batch = sender.batch();
        for _ in 0..BATCH {
            batch.try_send(1, &PAYLOAD)?;
        }
        batch.commit();
        for _ in 0..BATCH {
            receiver.recv()?;
        }
        anyhow::Ok(begun.elapsed().as_nanos() as f64 / BATCH as f64)
    };
    for _ in 0..messages / BATCH as u64 {
        carry()?;
        crate::watchdog::step();
    }
    let times = (0..TIMED).map(|_| carry()).collect::<Result<Vec<_>>>()?;
    let mut joined = Vec::new();
    for _ in 0..NEWCOMERS {
        let begun = Instant::now();
        let mut newcomer = llmp::Client::connect_receiver(&path)?;
        carry()?;
        newcomer.recv()?;
        joined.push(begun.elapsed().as_nanos() as f64);
    }
    stop.stop();
    let report = serving.join().unwrap_or_else(|_| bail!("the broker has failed"))?;
    let shared = report.shared_bytes_peak + sender.stats().page_bytes_peak;
    let middle = |times| anyhow::Ok(Spread::of(times).context("nothing was timed")?.median);
    Ok(vec![
        ("ns_per_message", middle(times)?),
        ("ns_to_join", middle(joined)?),
        ("shared_mib", shared as f64 / (1 << 20) as f64),
    ])
}

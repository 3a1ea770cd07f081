//! The cost of waiting: processor time while no or few messages are sent, and the delay of a
//! message after that.

use super::{all_figures, quantiles};
use crate::clock::{monotonic_ns, processor_ns};
use crate::measure::{Cell, Plan};
use crate::peer::{Peer, Setup, Waiting, recv, send};
use crate::peers::PEERS;
use crate::role::{Part, Role, Start};
use crate::with_peer;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::time::{Duration, Instant};

const LEN: usize = 64;
const END: u64 = u64::MAX;

pub fn cells(plan: &Plan) -> Vec<Cell> {
    let seconds = if plan.quick { 0.3 } else { 1.0 };
    let mut cells = Vec::new();
    for (text, per_second) in [("idle", 0), ("1,000 messages a second", 1000)] {
        for peer in PEERS.iter().filter(|peer| peer.sleeps && peer.name != "llmp-borrow") {
            cells.push(Cell::new("waiting", text.into(), peer.name, move |run| {
                let setup = Setup { waiting: Waiting::Sleep, ..Setup::new(LEN) };
                let place = run.place("stream");
                let mut sender = run.role(Part::RateSender { per_second }, peer, &place, &setup, 0);
                sender.seconds = seconds;
                let receiver = run.role(Part::RateReceiver, peer, &place, &setup, 1);
                let played = run.play_pair(peer, sender, receiver)?;
                // Threads of one process share their time.
                let used = played.iter().map(|p| p.number("processor_ns"));
                let used: f64 = match peer.one_process {
                    true => used.take(1).sum::<Result<_>>()?,
                    false => used.sum::<Result<_>>()?,
                };
                let mut figures = vec![("cpu_percent", used / seconds / 1e7)];
                if per_second > 0 {
                    let receiver = played.iter().find(|p| p.part == Part::RateReceiver);
                    figures.extend(all_figures(receiver.context("no role has received")?)?);
                }
                Ok(figures)
            }));
        }
    }
    cells
}

pub fn act(role: &Role, start: &Start) -> Result<()> {
    let len = role.setup.len;
    match role.part {
        Part::RateSender { per_second } => {
            with_peer!(role.peer.as_str(), len, sender(role, start, per_second))
        }
        Part::RateReceiver => with_peer!(role.peer.as_str(), len, receiver(role, start)),
        part => bail!("{part:?} does not wait"),
    }
}

/// A message: its number, then when it was sent.
fn message(number: u64) -> [u8; LEN] {
    let mut message = [0; LEN];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message[8..16].copy_from_slice(&monotonic_ns().to_le_bytes());
    message
}

fn word(message: &[u8], at: usize) -> Result<u64> {
    let word = message.get(at..at + 8).and_then(|bytes| bytes.first_chunk());
    Ok(u64::from_le_bytes(*word.context("a message that is too short")?))
}

fn sender<P: Peer>(role: &Role, start: &Start, per_second: u64) -> Result<()> {
    let mut sender = P::sender(&role.place, &role.setup)?;
    start.ready();
    let (begun, used) = (Instant::now(), processor_ns());
    let length = Duration::from_secs_f64(role.seconds);
    for number in 0..(per_second as f64 * role.seconds) as u64 {
        let due = Duration::from_nanos(1_000_000_000 / per_second * (number + 1));
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        send(&mut sender, role.setup.waiting, &message(number))?;
    }
    std::thread::sleep(length.saturating_sub(begun.elapsed()));
    let used = processor_ns() - used;
    send(&mut sender, role.setup.waiting, &message(END))?;
    start.finished(role.part, json!({ "processor_ns": used }));
    Ok(())
}

fn receiver<P: Peer>(role: &Role, start: &Start) -> Result<()> {
    let mut receiver = P::receiver(&role.place, &role.setup)?;
    start.ready();
    let used = processor_ns();
    let mut times = Vec::new();
    loop {
        let take = |message: &[u8]| anyhow::Ok((word(message, 0)?, word(message, 8)?));
        let (number, sent) = recv(&mut receiver, role.setup.waiting, take)??;
        if number == END {
            break;
        }
        times.push(monotonic_ns().saturating_sub(sent));
        if number + 1 != times.len() as u64 {
            bail!("message {number} instead of {}", times.len() - 1);
        }
    }
    let mut result = json!({ "processor_ns": processor_ns() - used });
    for (name, value) in quantiles(times) {
        result[name] = json!(value);
    }
    start.finished(role.part, result);
    Ok(())
}

//! What it takes to send much to a receiver at half speed.

use crate::content::{Check, Content};
use crate::measure::{Cell, Plan};
use crate::peer::{Peer, Setup, Waiting, recv, send};
use crate::peers::PEERS;
use crate::role::{Part, Role, Start};
use crate::with_peer;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::time::Instant;

const LEN: usize = 4096;
/// Messages that the receiver takes before it rests for as long as that took.
const STEP: usize = 64;

pub fn cells(plan: &Plan) -> Vec<Cell> {
    let bytes: u64 = if plan.quick { 1 << 27 } else { 1 << 30 };
    let case = format!(
        "{} of 4 KiB messages, receiver at half speed",
        crate::report::bytes(bytes as usize)
    );
    let peers = PEERS.iter().filter(|peer| !peer.one_process && peer.name != "llmp-borrow");
    peers
        .map(|peer| {
            Cell::new("memory", case.clone(), peer.name, move |run| {
                let setup = Setup { waiting: peer.stream, ..Setup::new(LEN) };
                let place = run.place("stream");
                let sender = run.role(Part::MemorySender { bytes }, peer, &place, &setup, 0);
                let receiver = run.role(Part::MemoryReceiver, peer, &place, &setup, 1);
                let before = shared_kib()?;
                let (played, peak) =
                    run.play_watching(&[vec![sender], vec![receiver]], shared_kib)?;
                let resident: f64 =
                    played.iter().map(|p| p.number("resident_kib")).sum::<Result<f64>>()?;
                Ok(vec![
                    ("shared_peak_mib", peak.saturating_sub(before) as f64 / 1024.0),
                    ("resident_peak_mib", resident / 1024.0),
                ])
            })
            .len(LEN)
        })
        .collect()
}

/// Shared memory of the whole machine: files in memory, memfds and System V segments alike. So
/// others who use it meanwhile are counted, too.
fn shared_kib() -> Result<u64> {
    field("/proc/meminfo", "Shmem:")
}

fn field(path: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.with_context(|| format!("{path} has no {name}"))
}

pub fn act(role: &Role, start: &Start) -> Result<()> {
    let len = role.setup.len;
    match role.part {
        Part::MemorySender { bytes } => {
            with_peer!(role.peer.as_str(), len, sender(role, start, bytes))
        }
        Part::MemoryReceiver => with_peer!(role.peer.as_str(), len, receiver(role, start)),
        part => bail!("{part:?} uses no memory"),
    }
}

fn sender<P: Peer>(role: &Role, start: &Start, bytes: u64) -> Result<()> {
    let mut content = Content::new(LEN, 0, role.sabotage);
    let mut sender = P::sender(&role.place, &role.setup)?;
    start.ready();
    for _ in 0..bytes / LEN as u64 {
        send(&mut sender, role.setup.waiting, content.message())?;
    }
    send(&mut sender, role.setup.waiting, content.end())?;
    finish(role, start)
}

fn receiver<P: Peer>(role: &Role, start: &Start) -> Result<()> {
    let mut check = Check::new(LEN, 1, true);
    let mut receiver = P::receiver(&role.place, &role.setup)?;
    start.ready();
    let mut ended = false;
    while !ended {
        let begun = Instant::now();
        for _ in 0..STEP {
            ended = recv(&mut receiver, role.setup.waiting, |message| check.look(message))??;
            if ended {
                break;
            }
        }
        let rest = begun.elapsed();
        while begun.elapsed() < 2 * rest {
            Waiting::Poll.pause();
        }
    }
    finish(role, start)
}

fn finish(role: &Role, start: &Start) -> Result<()> {
    let resident = field("/proc/self/status", "VmHWM:")?;
    start.finished(role.part, json!({ "resident_kib": resident }));
    Ok(())
}

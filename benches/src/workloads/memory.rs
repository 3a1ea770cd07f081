//! The memory for a long stream to a receiver at half speed: with each peer's default sizes, and
//! with room for the same number of messages.

use crate::clock::work;
use crate::content::{Check, Content};
use crate::measure::{Cell, Plan};
use crate::peer::{Peer, Room, Setup, recv, send};
use crate::peers::{Info, PEERS};
use crate::role::{Part, Role, Start};
use crate::with_peer;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::time::Instant;

const LEN: usize = 4096;
/// Messages that the receiver reads before it rests for the same time.
const STEP: usize = 64;
const STATUS: &str = "/proc/self/status";

/// The room for peers without a default, and in a second case for two peers with one.
const ROOM: usize = 512 * 1024;
const TOLD: [&str; 2] = ["llmp", "iceoryx2"];

pub fn cells(plan: &Plan) -> Vec<Cell> {
    let bytes: u64 = if plan.quick { 1 << 27 } else { 1 << 30 };
    let text = |sizes: &str| {
        let bytes = crate::report::bytes(bytes as usize);
        format!("{bytes} of 4 KiB messages, receiver at half speed, {sizes}")
    };
    let peers = || PEERS.iter().filter(|peer| !peer.one_process && peer.name != "llmp-borrow");
    let default = peers().map(|peer| cell(text("default sizes"), peer, bytes, Room::Default));
    let told = peers().filter(|peer| TOLD.contains(&peer.name));
    let told = told.map(|peer| cell(text("room for 512 KiB"), peer, bytes, Room::Bytes(ROOM)));
    default.chain(told).collect()
}

fn cell(case: String, peer: &'static Info, bytes: u64, room: Room) -> Cell {
    Cell::new("memory", case, peer.name, move |run| {
        let setup = Setup { waiting: peer.stream, room, ..Setup::new(LEN) };
        let place = run.place("stream");
        let sender = run.role(Part::MemorySender { bytes }, peer, &place, &setup, 0);
        let receiver = run.role(Part::MemoryReceiver { bytes }, peer, &place, &setup, 1);
        let before = shared_kib()?;
        let (played, peak) = run.play_watching(&[vec![sender], vec![receiver]], shared_kib)?;
        let receiver = played.iter().find(|p| p.part == Part::MemoryReceiver { bytes });
        let receiver = receiver.context("no role has received")?;
        let shared = |kib: f64| (kib - before as f64).max(0.0) / 1024.0;
        let resident = |name: &str| -> Result<f64> {
            let kib: f64 = played.iter().map(|p| p.number(name)).sum::<Result<f64>>()?;
            Ok(kib / 1024.0)
        };
        Ok(vec![
            ("shared_half_mib", shared(receiver.number("shared_half_kib")?)),
            ("shared_end_mib", shared(receiver.number("shared_end_kib")?)),
            ("shared_peak_mib", shared(peak as f64)),
            ("resident_half_mib", resident("resident_half_kib")?),
            ("resident_end_mib", resident("resident_end_kib")?),
            ("resident_peak_mib", resident("resident_peak_kib")?),
        ])
    })
    .len(LEN)
    .anywhere()
}

/// Shared memory of the whole machine: files in memory, memfds and System V segments alike. So the
/// memory of other programs is counted, too.
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
        Part::MemoryReceiver { bytes } => {
            with_peer!(role.peer.as_str(), len, receiver(role, start, bytes))
        }
        part => bail!("{part:?} uses no memory"),
    }
}

/// The memory that one end sees, in KiB.
struct Seen {
    shared: u64,
    resident: u64,
}

impl Seen {
    fn now() -> Result<Self> {
        Ok(Seen { shared: shared_kib()?, resident: field(STATUS, "VmRSS:")? })
    }
}

fn sender<P: Peer>(role: &Role, start: &Start, bytes: u64) -> Result<()> {
    let mut content = Content::new(LEN, 0, role.sabotage);
    let mut sender = P::sender(&role.place, &role.setup)?;
    start.ready();
    let messages = bytes / LEN as u64;
    let mut half = Seen::now()?;
    for number in 0..messages {
        if number == messages / 2 {
            half = Seen::now()?;
        }
        send(&mut sender, role.setup.waiting, content.message())?;
    }
    send(&mut sender, role.setup.waiting, content.end())?;
    finish(role, start, &half)
}

fn receiver<P: Peer>(role: &Role, start: &Start, bytes: u64) -> Result<()> {
    let mut check = Check::new(LEN, 1, true);
    let mut receiver = P::receiver(&role.place, &role.setup)?;
    start.ready();
    let mut half = None;
    let mut ended = false;
    while !ended {
        let begun = Instant::now();
        for _ in 0..STEP {
            ended = recv(&mut receiver, role.setup.waiting, |message| check.look(message))??;
            if ended {
                break;
            }
        }
        work(begun.elapsed());
        if half.is_none() && 2 * check.messages() >= bytes / LEN as u64 {
            half = Some(Seen::now()?);
        }
    }
    finish(role, start, &half.context("there was no half time")?)
}

fn finish(role: &Role, start: &Start, half: &Seen) -> Result<()> {
    let end = Seen::now()?;
    let result = json!({
        "shared_half_kib": half.shared,
        "shared_end_kib": end.shared,
        "resident_half_kib": half.resident,
        "resident_end_kib": end.resident,
        "resident_peak_kib": field(STATUS, "VmHWM:")?,
    });
    start.finished(role.part, result);
    Ok(())
}

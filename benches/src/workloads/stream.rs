//! The throughput from one sender to one receiver.

use crate::content::{Check, Content};
use crate::measure::{Cell, Plan, TooShort};
use crate::peer::{Peer, Receiver as _, Sender as _, Setup, recv, send};
use crate::peers::{Info, LENGTHS, PEERS};
use crate::role::{Manner, Part, Role, Start};
use crate::with_peer;
use anyhow::{Result, bail};
use serde_json::json;
use std::time::{Duration, Instant};

/// Messages published at once.
const BATCH: usize = 64;
/// This part of the time is not counted.
const WARM_UP: f64 = 0.25;
/// A run with a shorter counted time is discarded: another process had the processor.
const LEAST: f64 = 0.25;
/// The clock is read after about this many bytes.
const CLOCK_BYTES: usize = 64 * 1024;

/// Longer messages gain nothing by batches, and shorter ones nothing by being written in place.
const LONGEST_IN_BATCHES: usize = 4096;
const SHORTEST_IN_PLACE: usize = 4096;

/// A case of this workload.
struct Case {
    text: &'static str,
    manner: Manner,
    every_byte: bool,
}

const CASES: [Case; 5] = [
    Case { text: "head only, one by one", manner: Manner::OneByOne, every_byte: false },
    Case { text: "every byte, one by one", manner: Manner::OneByOne, every_byte: true },
    Case { text: "head only, in batches", manner: Manner::Batches, every_byte: false },
    Case { text: "every byte, in batches", manner: Manner::Batches, every_byte: true },
    Case { text: "head only, in place", manner: Manner::InPlace, every_byte: false },
];

impl Case {
    fn concerns(&self, peer: &Info, len: usize) -> bool {
        len <= peer.max_len
            && match self.manner {
                Manner::OneByOne => true,
                Manner::Batches => peer.batches && len <= LONGEST_IN_BATCHES,
                Manner::InPlace => peer.in_place && len >= SHORTEST_IN_PLACE,
            }
    }
}

pub fn cells(plan: &Plan) -> Vec<Cell> {
    let mut cells = Vec::new();
    for case in &CASES {
        for len in LENGTHS {
            if plan.quick && ![64, 4096, 65536].contains(&len) {
                continue;
            }
            let concerned = PEERS.iter().filter(|peer| case.concerns(peer, len));
            cells.extend(concerned.map(|peer| cell(case, len, peer)));
        }
    }
    cells
}

fn cell(case: &Case, len: usize, peer: &'static Info) -> Cell {
    let (manner, every_byte) = (case.manner, case.every_byte);
    Cell::new(
        "p2p",
        format!("{}, {}", crate::report::bytes(len), case.text),
        peer.name,
        move |run| {
            let setup = Setup {
                waiting: peer.stream,
                borrow: peer.name == "llmp-borrow",
                ..Setup::new(len)
            };
            let place = run.place("stream");
            let sender = run.role(Part::StreamSender(manner), peer, &place, &setup, 0);
            let receiver = Part::StreamReceiver { manner, every_byte };
            let receiver = run.role(receiver, peer, &place, &setup, 1);
            let played = run.play_pair(peer, sender, receiver)?;
            let (mut sent, mut figures) = (0.0, Vec::new());
            for played in &played {
                match played.part {
                    Part::StreamSender(_) => sent = played.number("sent")?,
                    _ if played.is("too_short") => bail!(TooShort),
                    _ => figures
                        .extend(["received", "messages_per_s"].map(|name| played.number(name))),
                }
            }
            let figures = figures.into_iter().collect::<Result<Vec<f64>>>()?;
            let [received, rate] = figures[..] else { bail!("the receiver has reported nothing") };
            if sent != received {
                bail!("{sent} messages were sent, {received} received");
            }
            Ok(vec![
                ("messages_per_s", rate),
                ("gib_per_s", rate * len as f64 / (1u64 << 30) as f64),
                ("ns_per_message", 1e9 / rate),
            ])
        },
    )
    .len(len)
}

pub fn act(role: &Role, start: &Start) -> Result<()> {
    let len = role.setup.len;
    match role.part {
        Part::StreamSender(manner) => {
            with_peer!(role.peer.as_str(), len, sender(role, start, manner))
        }
        Part::StreamReceiver { manner, every_byte } => {
            with_peer!(role.peer.as_str(), len, receiver(role, start, manner, every_byte))
        }
        part => bail!("{part:?} is no part of a stream"),
    }
}

fn sender<P: Peer>(role: &Role, start: &Start, manner: Manner) -> Result<()> {
    let waiting = role.setup.waiting;
    let mut content = Content::new(role.setup.len, 0, role.sabotage);
    let mut sender = P::sender(&role.place, &role.setup)?;
    start.ready();
    let end = Instant::now() + Duration::from_secs_f64(role.seconds);
    while Instant::now() < end {
        match manner {
            Manner::OneByOne => {
                for _ in 0..between_looks(role.setup.len) {
                    send(&mut sender, waiting, content.message())?;
                }
            }
            Manner::Batches => {
                let mut left = BATCH;
                while left > 0 {
                    let sent = sender.try_send_batch(&mut content, left)?;
                    left -= sent;
                    if sent == 0 {
                        waiting.pause();
                    }
                }
            }
            Manner::InPlace => {
                for _ in 0..between_looks(role.setup.len) {
                    while !sender.try_send_in_place(&mut content)? {
                        waiting.pause();
                    }
                }
            }
        }
    }
    send(&mut sender, waiting, content.end())?;
    start.finished(role.part, json!({ "sent": content.count() }));
    Ok(())
}

fn receiver<P: Peer>(role: &Role, start: &Start, manner: Manner, every_byte: bool) -> Result<()> {
    let waiting = role.setup.waiting;
    let mut check = Check::new(role.setup.len, 1, every_byte);
    let mut receiver = P::receiver(&role.place, &role.setup)?;
    start.ready();
    let mut take = |check: &mut Check| -> Result<bool> {
        if manner != Manner::Batches {
            for _ in 0..between_looks(role.setup.len) {
                if recv(&mut receiver, waiting, |message| check.look(message))?? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        loop {
            match receiver.try_recv_batch(|message| check.look(message))? {
                Some(ended) => return Ok(ended),
                None => waiting.pause(),
            }
        }
    };
    let warm = Instant::now() + Duration::from_secs_f64(role.seconds * WARM_UP);
    let mut ended = false;
    while !ended && Instant::now() < warm {
        ended = take(&mut check)?;
    }
    let (from, before) = (Instant::now(), check.messages());
    while !ended {
        ended = take(&mut check)?;
    }
    let seconds = from.elapsed().as_secs_f64();
    let rate = (check.messages() - before) as f64 / seconds;
    let too_short = seconds < role.seconds * LEAST;
    let result =
        json!({ "received": check.messages(), "messages_per_s": rate, "too_short": too_short });
    start.finished(role.part, result);
    Ok(())
}

fn between_looks(len: usize) -> usize {
    (CLOCK_BYTES / len).clamp(1, 256)
}

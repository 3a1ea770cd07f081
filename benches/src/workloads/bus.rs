//! All to all: each client sends to all others.
//!
//! A client sends its message k only when it has the message k - window of every other client. So
//! nobody is ever more than two windows behind another, and peers that would wait for each other
//! for ever when all buffers are full never come to that.

use crate::content::{Check, Content};
use crate::measure::{Cell, Plan, TooShort};
use crate::peer::{Setup, Waiting};
use crate::peers::PEERS;
use crate::peers::bus::{Bus, Client};
use crate::role::{Part, Role, Start};
use crate::with_bus;
use anyhow::{Result, bail};
use serde_json::json;
use std::time::{Duration, Instant};

/// Bytes that a client may be ahead, and the bounds of how many messages that is.
const WINDOW_BYTES: usize = 128 * 1024;
const WINDOW: (usize, usize) = (4, 128);
/// This part of the time is not counted.
const WARM_UP: f64 = 0.25;
/// A run of which less was counted counts for nothing: somebody else had the processor.
const LEAST: f64 = 0.25;

const CASES: [(usize, usize, Waiting); 9] = [
    (3, 64, Waiting::Yield),
    (3, 256, Waiting::Yield),
    (3, 4096, Waiting::Yield),
    (3, 65536, Waiting::Yield),
    (2, 256, Waiting::Yield),
    (8, 256, Waiting::Yield),
    (32, 256, Waiting::Yield),
    (3, 256, Waiting::Sleep),
    (3, 4096, Waiting::Sleep),
];

fn window(len: usize) -> u64 {
    (WINDOW_BYTES / len).clamp(WINDOW.0, WINDOW.1) as u64
}

pub fn cells(plan: &Plan) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (clients, len, waiting) in CASES {
        if plan.quick && (clients > 8 || len == 64 || clients == 2) {
            continue;
        }
        let how = if waiting == Waiting::Sleep { "sleeping" } else { "yielding" };
        let case = format!("{clients} clients, {}, {how}", crate::report::bytes(len));
        for name in ["llmp", "llmp-borrow", "ll_mp", "iceoryx2", "ipmpsc"] {
            let can_sleep = !["ll_mp", "ipmpsc"].contains(&name);
            let peer = PEERS.iter().find(|peer| peer.name == name);
            let Some(peer) = peer.filter(|_| waiting != Waiting::Sleep || can_sleep) else {
                continue;
            };
            let cell = Cell::new("bus", case.clone(), name, move |run| {
                let setup = Setup {
                    waiting,
                    borrow: name == "llmp-borrow",
                    ring_messages: Some(2 * window(len) as usize * clients + 1),
                    ..Setup::new(len)
                };
                let place = run.place("bus");
                let client = |index| Part::BusClient { index, clients };
                let role = |part, cpu| {
                    let role = run.role(part, peer, &place, &setup, cpu);
                    // Many have to be given a processor in turn before anything can be counted.
                    vec![Role { seconds: role.seconds * (clients as f64 / 4.0).max(1.0), ..role }]
                };
                let mut processes: Vec<_> =
                    (0..clients).map(|index| role(client(index), index + 1)).collect();
                if name.starts_with("ll") {
                    processes.push(role(Part::Broker, 0));
                }
                let played = run.play(&processes)?;
                if played.iter().any(|played| played.is("too_short")) {
                    bail!(TooShort);
                }
                let clients = played.iter().filter(|played| played.part != Part::Broker);
                let rates = clients.map(|played| played.number("deliveries_per_s"));
                let rate: f64 = rates.sum::<Result<_>>()?;
                Ok(vec![
                    ("deliveries_per_s", rate),
                    ("gib_per_s", rate * len as f64 / (1u64 << 30) as f64),
                    ("ns_per_delivery", 1e9 / rate),
                ])
            });
            cells.push(cell.len(len));
        }
    }
    cells
}

pub fn act(role: &Role, start: &Start) -> Result<()> {
    match role.part {
        Part::Broker => with_bus!(role.peer.as_str(), broker(role, start)),
        Part::BusClient { index, clients } => {
            with_bus!(role.peer.as_str(), client(role, start, index, clients))
        }
        part => bail!("{part:?} is no part of a bus"),
    }
}

fn broker<B: Bus>(role: &Role, start: &Start) -> Result<()> {
    let stop = B::broker(&role.place, &role.setup)?;
    start.ready();
    start.finished(role.part, json!({}));
    stop.map_or(Ok(()), |stop| stop())
}

fn client<B: Bus>(role: &Role, start: &Start, index: usize, clients: usize) -> Result<()> {
    let (len, waiting) = (role.setup.len, role.setup.waiting);
    let window = window(len);
    // Only one sender does wrong.
    let mut content = Content::new(len, index, role.sabotage.filter(|_| index == 0));
    let mut check = Check::new(len, clients, true);
    let mut client = B::client(&role.place, &role.setup, index, clients)?;
    start.ready();
    let others = || (0..clients).filter(move |other| *other != index);
    let received = |check: &Check| others().map(|other| check.messages_of(other)).sum::<u64>();

    let begun = Instant::now();
    let (warm, end) = (role.seconds * WARM_UP, role.seconds);
    let (mut from, mut to) = (None, None);
    while to.is_none() || others().any(|other| !check.has_ended(other)) {
        let now = begun.elapsed();
        if from.is_none() && now >= Duration::from_secs_f64(warm) {
            from = Some((now, received(&check)));
        }
        let mut idle = true;
        if to.is_none() {
            let all_have = others().filter(|other| !check.has_ended(*other));
            let all_have = all_have.map(|other| check.messages_of(other)).min();
            let until = all_have.map_or(u64::MAX, |number| number + window);
            let until = until.min(content.count() + window);
            while content.count() < until && content.count() < u64::MAX {
                if !client.try_send(content.message())? {
                    content.take_back();
                    break;
                }
                idle = false;
            }
            if now >= Duration::from_secs_f64(end) {
                to = Some((now, received(&check)));
                while !client.try_send(content.end())? {
                    content.take_back();
                    // Whoever waits for room takes in what comes, as others wait for that.
                    while client.try_recv(|message| check.look(message))?.transpose()?.is_some() {}
                    waiting.pause();
                }
            }
        }
        while let Some(looked) = client.try_recv(|message| check.look(message))? {
            looked?;
            idle = false;
        }
        if idle && waiting == Waiting::Sleep {
            client.sleep()?;
        } else if idle {
            waiting.pause();
        }
    }
    let (Some((from, before)), Some((to, after))) = (from, to) else { bail!("too short a run") };
    let seconds = (to - from).as_secs_f64();
    let rate = (after - before) as f64 / seconds;
    let too_short = seconds < LEAST * end;
    start.finished(role.part, json!({ "deliveries_per_s": rate, "too_short": too_short }));
    Ok(())
}

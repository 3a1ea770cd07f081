//! All to all: each client sends to all others.
//!
//! A client sends its message k only when it has the message k - window of every other client. So
//! no client is ever more than two windows behind another. Peers that would deadlock when all
//! buffers are full never reach that state.

use crate::content::{Check, Content};
use crate::measure::{Cell, Figures, Plan, Run, TooShort};
use crate::peer::{Setup, Waiting};
use crate::peers::bus::{Bus, Client};
use crate::peers::{Info, PEERS};
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
/// A run with a shorter counted time is discarded: another process had the processor.
const LEAST: f64 = 0.25;

const PEERS_WITH_A_BUS: [&str; 5] = ["llmp", "llmp-borrow", "ll_mp", "iceoryx2", "ipmpsc"];

struct Case {
    clients: usize,
    len: usize,
    waiting: Waiting,
}

const fn case(clients: usize, len: usize, waiting: Waiting) -> Case {
    Case { clients, len, waiting }
}

/// A polling process keeps its processor until the kernel preempts it, and there are more processes
/// than processors. One case shows the effect.
const CASES: [Case; 11] = [
    case(3, 64, Waiting::Yield),
    case(3, 256, Waiting::Yield),
    case(3, 4096, Waiting::Yield),
    case(3, 65536, Waiting::Yield),
    case(3, 256, Waiting::Sleep),
    case(3, 4096, Waiting::Sleep),
    case(3, 256, Waiting::Poll),
    case(2, 256, Waiting::Yield),
    case(8, 256, Waiting::Yield),
    case(16, 256, Waiting::Yield),
    case(32, 256, Waiting::Yield),
];

impl Case {
    fn name(&self) -> String {
        let how = match self.waiting {
            Waiting::Poll => "polling",
            Waiting::Yield => "yielding",
            Waiting::Sleep => "sleeping",
        };
        format!("{} clients, {}, {how}", self.clients, crate::report::bytes(self.len))
    }

    fn is_quick(&self) -> bool {
        self.clients == 3 && self.len != 64 && self.waiting != Waiting::Poll
    }

    /// Only the case that reads heads shows how the cost grows with the clients, and the effect of
    /// polling.
    fn has_every_byte(&self) -> bool {
        [3, 16].contains(&self.clients) && self.waiting != Waiting::Poll
    }

    fn concerns(&self, peer: &str) -> bool {
        self.waiting != Waiting::Sleep || !["ll_mp", "ipmpsc"].contains(&peer)
    }
}

fn window(len: usize) -> u64 {
    (WINDOW_BYTES / len).clamp(WINDOW.0, WINDOW.1) as u64
}

pub fn cells(plan: &Plan) -> Vec<Cell> {
    let mut cells = Vec::new();
    for case in CASES.iter().filter(|case| !plan.quick || case.is_quick()) {
        for every_byte in [false, true] {
            if every_byte && !case.has_every_byte() {
                continue;
            }
            let variant = if every_byte { "every byte" } else { "head only" };
            let text = format!("{}, {variant}", case.name());
            let &Case { clients, len, waiting } = case;
            for name in PEERS_WITH_A_BUS.into_iter().filter(|name| case.concerns(name)) {
                let Some(peer) = PEERS.iter().find(|peer| peer.name == name) else { continue };
                let cell = Cell::new("bus", text.clone(), name, move |run| {
                    let setup = setup(name, clients, len, waiting);
                    Buses { count: 1, clients, every_byte }.measure(run, peer, &setup)
                });
                cells.push(cell.len(len));
            }
        }
    }
    cells
}

/// The settings of the clients of one bus.
pub fn setup(peer: &str, clients: usize, len: usize, waiting: Waiting) -> Setup {
    Setup {
        waiting,
        borrow: peer == "llmp-borrow",
        ring_messages: Some(2 * window(len) as usize * clients + 1),
        ..Setup::new(len)
    }
}

/// This number of buses, their brokers in one process, each with this number of clients.
pub struct Buses {
    pub count: usize,
    pub clients: usize,
    pub every_byte: bool,
}

impl Buses {
    pub fn measure(&self, run: &Run, peer: &Info, setup: &Setup) -> Result<Figures> {
        let &Buses { count, clients, every_byte } = self;
        // Many processes must be scheduled before anything can be counted.
        let longer = ((count * clients) as f64 / 4.0).max(1.0);
        let role = |part, bus: usize, cpu| {
            let role = run.role(part, peer, &run.place(&format!("bus-{bus}")), setup, cpu);
            Role { seconds: role.seconds * longer, ..role }
        };
        let mut processes = Vec::new();
        for (bus, index) in (0..count).flat_map(|bus| (0..clients).map(move |i| (bus, i))) {
            let part = Part::BusClient { index, clients, every_byte };
            processes.push(vec![role(part, bus, processes.len() + 1)]);
        }
        if peer.name.starts_with("ll") {
            processes.push((0..count).map(|bus| role(Part::Broker, bus, bus)).collect());
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
            ("gib_per_s", rate * setup.len as f64 / (1u64 << 30) as f64),
            ("ns_per_delivery", 1e9 / rate),
        ])
    }
}

pub fn act(role: &Role, start: &Start) -> Result<()> {
    match role.part {
        Part::Broker => with_bus!(role.peer.as_str(), broker(role, start)),
        Part::BusClient { index, clients, every_byte } => {
            with_bus!(role.peer.as_str(), client(role, start, index, clients, every_byte))
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

fn client<B: Bus>(
    role: &Role,
    start: &Start,
    index: usize,
    clients: usize,
    every_byte: bool,
) -> Result<()> {
    let (len, waiting) = (role.setup.len, role.setup.waiting);
    let window = window(len);
    // Only one sender makes an error.
    let mut content = Content::new(len, index, role.sabotage.filter(|_| index == 0));
    let mut check = Check::new(len, clients, every_byte);
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
                    // A client that waits for room receives meanwhile, as others wait for that.
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

//! The time to join a bus: from connecting until a client has its own first message back.

use super::{all_figures, quantiles};
use crate::content::{Check, Content};
use crate::measure::{Cell, Plan};
use crate::peer::{Place, Setup, Waiting};
use crate::peers::PEERS;
use crate::peers::bus::{Bus, Client};
use crate::role::{Part, Role, Start};
use crate::with_bus;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const LEN: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(20);

pub fn cells(_: &Plan) -> Vec<Cell> {
    let mut cells = Vec::new();
    for clients in [1, 100] {
        for name in ["llmp", "ll_mp", "iceoryx2"] {
            // A hundred of iceoryx2 connect to a hundred: 3 to 15 s, and once not within 20.
            if clients > 1 && name == "iceoryx2" {
                continue;
            }
            let Some(peer) = PEERS.iter().find(|peer| peer.name == name) else { continue };
            let case = format!("{clients} at once");
            cells.push(Cell::new("join", case, name, move |run| {
                let ring_messages = Some(2 * clients);
                let setup =
                    Setup { waiting: Waiting::Yield, own: true, ring_messages, ..Setup::new(LEN) };
                let place = run.place("bus");
                let joiner = run.role(Part::Joiner { clients }, peer, &place, &setup, 1);
                let mut processes = vec![vec![joiner]];
                if name.starts_with("ll") {
                    processes.push(vec![run.role(Part::Broker, peer, &place, &setup, 0)]);
                }
                let played = run.play(&processes)?;
                let joiner = played.iter().find(|played| played.part != Part::Broker);
                let joiner = joiner.context("no client has joined")?;
                let mut figures = all_figures(joiner)?;
                figures.retain(|(name, _)| ["ns_p50", "ns_p99"].contains(name));
                figures.push(("ns_all", joiner.number("ns_all")?));
                Ok(figures)
            }));
        }
    }
    cells
}

pub fn act(role: &Role, start: &Start) -> Result<()> {
    match role.part {
        Part::Joiner { clients } => with_bus!(role.peer.as_str(), joiners(role, start, clients)),
        part => bail!("{part:?} does not join"),
    }
}

/// Clients on threads of their own. With processes, the time to start them would be measured.
fn joiners<B: Bus>(role: &Role, start: &Start, clients: usize) -> Result<()> {
    start.ready();
    let all_began = Barrier::new(clients);
    let all_ended = Barrier::new(clients);
    let begun = Instant::now();
    let times = std::thread::scope(|scope| {
        let join = |index| {
            let (role, all_began, all_ended) = (&role, &all_began, &all_ended);
            move || -> Result<u64> {
                all_began.wait();
                let time = join::<B>(&role.place, &role.setup, index, clients);
                // No client leaves before all have joined.
                all_ended.wait();
                time
            }
        };
        let threads: Vec<_> = (0..clients).map(|index| scope.spawn(join(index))).collect();
        let times = threads.into_iter().map(|thread| match thread.join() {
            Ok(time) => time,
            Err(_) => bail!("a joining thread has failed"),
        });
        times.collect::<Result<Vec<_>>>()
    })?;
    let all = begun.elapsed().as_nanos() as u64;
    let mut result = json!({ "ns_all": all });
    for (name, value) in quantiles(times) {
        result[name] = json!(value);
    }
    start.finished(role.part, result);
    Ok(())
}

fn join<B: Bus>(place: &Place, setup: &Setup, index: usize, clients: usize) -> Result<u64> {
    let mut content = Content::new(LEN, index, None);
    let mut check = Check::new(LEN, clients, true);
    let begun = Instant::now();
    let mut client = B::client(place, setup, index, clients)?;
    while !client.try_send(content.end())? {
        content.take_back();
        setup.waiting.pause();
    }
    while !check.has_ended(index) {
        match client.try_recv(|message| check.look(message))? {
            Some(looked) => drop(looked?),
            None => setup.waiting.pause(),
        }
        if begun.elapsed() > TIMEOUT {
            bail!("the first message does not come");
        }
    }
    let time = begun.elapsed().as_nanos() as u64;
    // Connections stay until the process has measured all of them.
    std::mem::forget(client);
    Ok(time)
}

//! How the cost of this library's bus grows: a broker's cycle with its clients, waking with the
//! sleeping clients, a bus with the messages that it has carried, and two buses compared with one.
//! The other workloads show the cost of a delivery by clients and message length.

use super::{bus, history, turn, waking};
use crate::measure::{Cell, Plan};
use crate::peer::Waiting;
use crate::peers::PEERS;
use anyhow::Result;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub const NAME: &str = "growth";

/// Clients of a bus, and how often they are woken.
const SLEEPERS: [(usize, usize); 3] = [(1, 60), (16, 40), (500, 12)];
const CLIENTS: [usize; 5] = [2, 16, 100, 250, 500];
/// Messages that a bus has carried before.
const HISTORIES: [u64; 3] = [10_000, 1_000_000, 20_000_000];
/// Clients on two buses and on one.
const SIDE_BY_SIDE: usize = 8;
const LEN: usize = 256;

pub fn cells(plan: &Plan) -> Vec<Cell> {
    let most = most_clients();
    let is_wanted = |clients: usize| if plan.quick { clients == 16 } else { clients <= most };
    let mut cells: Vec<Cell> =
        CLIENTS.into_iter().filter(|clients| is_wanted(*clients)).map(turn::cell).collect();
    for (sleepers, rounds) in SLEEPERS.into_iter().filter(|(sleepers, _)| is_wanted(*sleepers)) {
        cells.extend(waking::cells(sleepers, rounds));
    }
    cells
        .extend(HISTORIES.into_iter().filter(|n| !plan.quick || *n < 1_000_000).map(history::cell));
    if !plan.quick {
        cells.extend([1, 2].map(side_by_side));
    }
    cells
}

/// The same clients on several buses, whose brokers are threads of one process. A message has fewer
/// receivers where there are more buses, so messages are counted beside deliveries.
fn side_by_side(count: usize) -> Cell {
    let buses = if count == 1 { "bus" } else { "buses" };
    let case = format!("{SIDE_BY_SIDE} clients on {count} {buses}, 256 B");
    Cell::new(NAME, case, "llmp", move |run| {
        let clients = SIDE_BY_SIDE / count;
        let Some(peer) = PEERS.iter().find(|peer| peer.name == "llmp") else { return Ok(vec![]) };
        let setup = bus::setup(peer.name, clients, LEN, Waiting::Yield);
        let buses = bus::Buses { count, clients, every_byte: false };
        let mut figures = buses.measure(run, peer, &setup)?;
        let receivers = (clients - 1) as f64;
        let deliveries = figures.iter().find(|(name, _)| *name == "deliveries_per_s");
        let messages = deliveries.map(|(_, rate)| ("messages_per_s", rate / receivers));
        figures.extend(messages);
        Ok(figures)
    })
    .len(LEN)
}

/// A client takes a socket at either end and a descriptor for its memory, or two for that.
fn most_clients() -> usize {
    let descriptors = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    usize::try_from(descriptors.saturating_sub(100) / 3).unwrap_or(usize::MAX)
}

/// Hundreds of clients in one process take more descriptors than a process has at first.
pub fn allow_many_descriptors() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

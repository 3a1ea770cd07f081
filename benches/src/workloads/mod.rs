//! The workloads: their work, their roles and their reports.

pub mod bus;
pub mod growth;
pub mod hardware;
mod history;
pub mod join;
pub mod memory;
pub mod pingpong;
pub mod stream;
mod turn;
pub mod waiting;
pub mod waking;

use crate::children::Played;
use crate::measure::{Cell, Figures, Plan};
use crate::role::{Part, Role, Start};
use crate::stats::quantile;
use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// All cells of all workloads.
pub fn cells(plan: &Plan) -> Vec<Cell> {
    let of: [fn(&Plan) -> Vec<Cell>; 8] = [
        hardware::cells,
        stream::cells,
        pingpong::cells,
        bus::cells,
        waiting::cells,
        memory::cells,
        join::cells,
        growth::cells,
    ];
    of.into_iter().flat_map(|cells| cells(plan)).collect()
}

/// Plays a role: the entry of every process that a measurement starts.
pub fn act(role: &Role, start: &Start) -> Result<()> {
    match role.part {
        Part::StreamSender(_) | Part::StreamReceiver { .. } => stream::act(role, start),
        Part::Ping { .. } | Part::Pong { .. } => pingpong::act(role, start),
        Part::Broker | Part::BusClient { .. } => bus::act(role, start),
        Part::MemorySender { .. } | Part::MemoryReceiver { .. } => memory::act(role, start),
        Part::RateSender { .. } | Part::RateReceiver => waiting::act(role, start),
        Part::Joiner { .. } => join::act(role, start),
    }
}

/// The parts of a distribution that are reported.
pub const QUANTILES: [(&str, f64); 7] = [
    ("ns_p10", 0.1),
    ("ns_p25", 0.25),
    ("ns_p50", 0.5),
    ("ns_p75", 0.75),
    ("ns_p90", 0.9),
    ("ns_p99", 0.99),
    ("ns_p99_9", 0.999),
];

/// Returns the report of many times in nanoseconds.
fn quantiles(mut times: Vec<u64>) -> BTreeMap<&'static str, u64> {
    times.sort_unstable();
    QUANTILES.into_iter().map(|(name, part)| (name, quantile(&times, part))).collect()
}

/// The quantiles that a role has reported.
fn all_figures(played: &Played) -> Result<Figures> {
    let figures = QUANTILES.into_iter().map(|(name, _)| Ok((name, played.number(name)?)));
    figures.collect::<Result<_>>().context("a distribution")
}

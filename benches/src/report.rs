//! Says what was measured: a table for people, JSON for programs.

use crate::limits::Limits;
use crate::measure::Measured;
use crate::placement::Placement;
use crate::stats::Spread;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// A length in bytes, as people say it.
pub fn bytes(len: usize) -> String {
    match len {
        1048576.. => format!("{} MiB", len >> 20),
        1024.. => format!("{} KiB", len >> 10),
        _ => format!("{len} B"),
    }
}

/// A case and all that was measured in it.
pub struct Group<'a> {
    pub cells: &'a [Measured],
    /// The placement of most runs: only those are counted.
    pub placement: Placement,
}

pub fn groups(measured: &[Measured]) -> Vec<Group<'_>> {
    let same = |a: &Measured, b: &Measured| {
        a.cell.workload == b.cell.workload && a.cell.case == b.cell.case
    };
    let placement = |cells: &[Measured]| {
        let runs = |p: Placement| cells.iter().map(|cell| cell.count(p)).sum::<usize>();
        Placement::ALL.into_iter().max_by_key(|p| runs(*p)).unwrap_or(Placement::Near)
    };
    let groups = measured.chunk_by(same);
    groups.map(|cells| Group { cells, placement: placement(cells) }).collect()
}

impl Measured {
    /// Every figure over the runs of one placement.
    pub fn spreads(&self, placement: Placement) -> BTreeMap<&'static str, Spread> {
        let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for sample in self.samples.iter().filter(|s| s.placement == Some(placement)) {
            for (name, value) in &sample.figures {
                values.entry(name).or_default().push(*value);
            }
        }
        values.into_iter().filter_map(|(name, v)| Some((name, Spread::of(v)?))).collect()
    }

    /// Round trip of two cache lines around the counted runs.
    pub fn two_lines_ns(&self, placement: Placement) -> Option<f64> {
        let counted = self.samples.iter().filter(|s| s.placement == Some(placement));
        Some(Spread::of(counted.flat_map(|sample| sample.two_lines_ns).collect())?.median)
    }

    pub fn median(&self, placement: Placement, figure: &str) -> Option<f64> {
        Some(self.spreads(placement).get(figure)?.median)
    }
}

/// A number with three digits that mean something.
pub fn number(value: f64) -> String {
    let (value, unit) = match value.abs() {
        1e9.. => (value / 1e9, " G"),
        1e6.. => (value / 1e6, " M"),
        1e3.. => (value / 1e3, " k"),
        _ => (value, ""),
    };
    match value.abs() {
        100.0.. => format!("{value:.0}{unit}"),
        10.0.. => format!("{value:.1}{unit}"),
        ..1.0 => format!("{value:.3}{unit}"),
        _ => format!("{value:.2}{unit}"),
    }
}

/// In the JSON and the plots only.
const UNSHOWN: [&str; 4] = ["ns_p10", "ns_p25", "ns_p75", "ns_p90"];

pub fn table(measured: &[Measured]) -> String {
    let mut text = String::new();
    for Group { cells, placement } in groups(measured) {
        let Some(first) = cells.first() else { continue };
        let limits = Limits::of(measured, placement);
        let figures = cells.iter().flat_map(|c| &c.samples).flat_map(|s| s.figures.keys().copied());
        let figures: BTreeSet<&str> = figures.filter(|name| !UNSHOWN.contains(name)).collect();
        let _ = writeln!(text, "\n{}: {} ({placement})", first.cell.workload, first.cell.case);
        let _ = write!(text, "{:<15}{:>5}", "", "runs");
        for name in &figures {
            let _ = write!(text, " {name:>27}");
        }
        let _ = writeln!(text, " {:>9}", "x limit");
        for cell in cells {
            let _ = write!(text, "{:<15}{:>5}", cell.cell.peer, cell.count(placement));
            let spreads = cell.spreads(placement);
            for name in &figures {
                let shown = spreads.get(name).map_or("-".into(), |s| {
                    format!("{} ({} .. {})", number(s.median), number(s.min), number(s.max))
                });
                let _ = write!(text, " {shown:>27}");
            }
            let factor = limits.factor(cell);
            let _ = writeln!(text, " {:>9}", factor.map_or(String::new(), number));
        }
    }
    text
}

/// Everything, each single run included.
pub fn json(measured: &[Measured], machine: Value) -> Value {
    let mut cells = Vec::new();
    for Group { cells: group, placement } in groups(measured) {
        let limits = Limits::of(measured, placement);
        for cell in group {
            cells.push(json!({
                "workload": cell.cell.workload,
                "case": cell.cell.case,
                "peer": cell.cell.peer,
                "len": cell.cell.len,
                "placement": placement,
                "counted": cell.count(placement),
                "figures": cell.spreads(placement),
                "times_limit": limits.factor(cell),
                "runs": cell.samples,
            }));
        }
    }
    json!({ "machine": machine, "cells": cells })
}

/// Returns a description of the machine.
pub fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "processor": field(&read("/proc/cpuinfo"), "model name"),
        "processors": processors,
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

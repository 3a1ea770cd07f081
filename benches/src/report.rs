//! Says what was measured: a table for people, JSON for programs.

use crate::measure::Measured;
use crate::placement::Placement;
use crate::stats::Spread;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
        let all = [Placement::Smt, Placement::Far, Placement::Near];
        all.into_iter().max_by_key(|p| runs(*p)).unwrap_or(Placement::Near)
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
        _ => format!("{value:.2}{unit}"),
    }
}

pub fn table(measured: &[Measured]) -> String {
    let mut text = String::new();
    for Group { cells, placement } in groups(measured) {
        let Some(first) = cells.first() else { continue };
        let names: Vec<&str> =
            first.samples.iter().flat_map(|s| s.figures.keys().copied()).collect();
        let mut unique: Vec<&str> = Vec::new();
        names.into_iter().for_each(|name| {
            if !unique.contains(&name) {
                unique.push(name);
            }
        });
        let _ = writeln!(text, "\n{}: {} ({placement})", first.cell.workload, first.cell.case);
        let _ = write!(text, "{:<16}{:>5}", "", "runs");
        for name in &unique {
            let _ = write!(text, "  {name:>28}");
        }
        let _ = writeln!(text);
        for cell in cells {
            let _ = write!(text, "{:<16}{:>5}", cell.cell.peer, cell.count(placement));
            let spreads = cell.spreads(placement);
            for name in &unique {
                let shown = spreads.get(name).map_or("-".into(), |s| {
                    format!("{} ({} .. {})", number(s.median), number(s.min), number(s.max))
                });
                let _ = write!(text, "  {shown:>28}");
            }
            let _ = writeln!(text);
        }
    }
    text
}

/// Everything, each single run included.
pub fn json(measured: &[Measured], machine: Value) -> Value {
    let mut cells = Vec::new();
    for Group { cells: group, placement } in groups(measured) {
        for measured in group {
            cells.push(json!({
                "workload": measured.cell.workload,
                "case": measured.cell.case,
                "peer": measured.cell.peer,
                "len": measured.cell.len,
                "placement": placement,
                "counted": measured.count(placement),
                "figures": measured.spreads(placement),
                "runs": measured.samples,
            }));
        }
    }
    json!({ "machine": machine, "cells": cells })
}

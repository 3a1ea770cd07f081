//! The targets of this library's speed: every cell of the verdict, and its bound.

use crate::peers::PEERS;
use crate::report::number;
use crate::results::{Cell, Results};
use crate::verdict::{Bound, Row};
use crate::workloads::{growth, hardware};

/// This library, copying payloads and reading them in place.
const OURS: [&str; 2] = ["llmp", "llmp-borrow"];
/// Tolerances of "growing linearly" and "flat".
const LINEAR: f64 = 1.5;
const FLAT: f64 = 1.05;
/// A percentage of one processor's time that counts as zero.
const NO_TIME: f64 = 0.1;
const BUDGET_MIB: f64 = llmp::Limits::DEFAULT_BUDGET as f64 / (1 << 20) as f64;

/// The peers that a figure is compared with.
#[derive(Clone, Copy)]
enum Rivals {
    One(&'static str),
    /// The best of those whose ends are two processes.
    Processes,
    /// The best of all.
    All,
}

impl Rivals {
    fn include(self, peer: &str) -> bool {
        match self {
            Rivals::One(name) => name == peer,
            Rivals::Processes => PEERS.iter().any(|info| info.name == peer && !info.one_process),
            Rivals::All => true,
        }
    }
}

/// A figure, of which more is better (a rate) or less (a cost).
#[derive(Clone, Copy)]
enum Figure {
    Rate(&'static str),
    Cost(&'static str),
}

impl Figure {
    fn of(self, cell: &Cell) -> Option<f64> {
        match self {
            Figure::Rate(name) | Figure::Cost(name) => cell.median(name),
        }
    }

    /// Returns the ratio of ours to theirs, above 1 if ours is better.
    fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Figure::Rate(_) => ours / theirs,
            Figure::Cost(_) => theirs / ours,
        }
    }
}

const DELIVERIES: Figure = Figure::Rate("deliveries_per_s");
const MESSAGES: Figure = Figure::Rate("messages_per_s");
const MEDIAN: Figure = Figure::Cost("ns_p50");

pub fn rows(results: &Results) -> Vec<Row> {
    let table = Table { results };
    let mut rows = table.bus();
    rows.extend(table.p2p());
    rows.extend(table.ping_pong());
    rows.extend(table.waiting_and_memory());
    rows.extend(table.broker());
    rows
}

struct Table<'a> {
    results: &'a Results,
}

impl Table<'_> {
    fn bus(&self) -> Vec<Row> {
        use Rivals::{All, One};
        let targets = [
            ("256 B, yielding", One("ll_mp"), 3.0),
            ("256 B, yielding", One("iceoryx2"), 3.0),
            ("256 B, yielding", One("ipmpsc"), 1.5),
            ("256 B, sleeping", One("iceoryx2"), 3.0),
            ("4 KiB, yielding", All, 3.0),
            ("4 KiB, yielding", One("ll_mp"), 10.0),
            ("4 KiB, sleeping", All, 3.0),
            ("64 KiB, yielding", All, 2.0),
        ];
        let mut rows = Vec::new();
        for (case, rivals, least) in targets {
            for variant in ["head only", "every byte"] {
                let case = format!("3 clients, {case}, {variant}");
                rows.push(self.beside("bus", &case, rivals, DELIVERIES, Bound::AtLeast(least)));
            }
        }
        rows
    }

    fn p2p(&self) -> Vec<Row> {
        use Rivals::{All, One, Processes};
        let ahead = 1.0;
        let targets = [
            ("64 B", "one by one", Processes, 2.0),
            ("64 B", "one by one", One("rtrb"), 0.8),
            ("64 B", "in batches", Processes, 4.0),
            ("1 KiB", "one by one", Processes, ahead),
            ("8 KiB", "one by one", Processes, ahead),
            ("64 KiB", "one by one", All, ahead),
            ("1 MiB", "one by one", All, ahead),
        ];
        let mut rows = Vec::new();
        for (len, manner, rivals, least) in targets {
            for variant in ["head only", "every byte"] {
                let case = format!("{len}, {variant}, {manner}");
                rows.push(self.beside("p2p", &case, rivals, MESSAGES, Bound::AtLeast(least)));
            }
        }
        for len in ["64 KiB", "1 MiB"] {
            for copy in [hardware::L2_COPY, hardware::RING_COPY, hardware::MEMORY_COPY] {
                rows.push(self.of_copies(&format!("{len}, head only, one by one"), copy));
            }
        }
        rows.push(self.of_size("one by one", Bound::None));
        rows.push(self.of_size("in place", Bound::AtMost(LINEAR)));
        rows
    }

    fn ping_pong(&self) -> Vec<Row> {
        let ahead = Bound::AtLeast(1.0);
        vec![
            self.beside("ping-pong", "polling", Rivals::All, MEDIAN, ahead),
            self.of_limit("ping-pong", "polling", "two cache lines", Bound::AtMost(1.5)),
            self.beside("ping-pong", "sleeping", Rivals::All, MEDIAN, ahead),
            self.of_limit("ping-pong", "sleeping", hardware::BARE, Bound::AtMost(0.1)),
            self.beside("ping-pong", "sleeping, late answers", Rivals::All, MEDIAN, ahead),
            self.of_limit(
                "ping-pong",
                "sleeping, late answers",
                hardware::BARE,
                Bound::AtMost(1.2),
            ),
        ]
    }

    fn waiting_and_memory(&self) -> Vec<Row> {
        let (cpu, ahead) = (Figure::Cost("cpu_percent"), Bound::AtLeast(1.0));
        let mut rows = vec![
            self.beside("waiting", "1,000 messages a second", Rivals::All, cpu, ahead),
            self.value("waiting", "idle", "cpu_percent", "% of a processor", NO_TIME),
        ];
        let ours = ["default sizes", "room for 512 KiB"];
        for case in ours.into_iter().filter_map(|end| self.results.case_ending("memory", end)) {
            let shared = Figure::Cost("shared_peak_mib");
            rows.push(self.beside("memory", case, Rivals::One("iceoryx2"), shared, ahead));
        }
        if let Some(case) = self.results.case_ending("memory", "default sizes") {
            let cell = self.results.cell("memory", case, "llmp");
            let figure = |name| cell.and_then(|cell| cell.median(name));
            let budget = figure("shared_peak_mib").map(|peak| peak / BUDGET_MIB);
            let flat = figure("shared_end_mib").zip(figure("shared_half_mib"));
            let flat = flat.map(|(end, half)| end / half);
            let text = format!("memory, {case}, shared peak");
            rows.push(row(text, "the budget", Bound::AtMost(FLAT), [budget, None], cell));
            let text = format!("memory, {case}, shared at the end");
            rows.push(row(text, "at half time", Bound::AtMost(FLAT), [flat, None], cell));
        }
        rows
    }

    fn broker(&self) -> Vec<Row> {
        let case = |clients| format!("a cycle of the broker, {clients} clients");
        let per_client = |clients| {
            let cell = self.results.cell(growth::NAME, &case(clients), OURS[0])?;
            cell.median("ns_idle_per_client")
        };
        let linear = per_client(500).zip(per_client(100)).map(|(many, few)| many / few);
        let cell = self.results.cell(growth::NAME, &case(500), OURS[0]);
        let text = "a cycle of the broker, a client of 500".into();
        vec![
            self.value(growth::NAME, &case(500), "ns_idle", "ns", 5000.0),
            row(text, "a client of 100", Bound::AtMost(LINEAR), [linear, None], cell),
        ]
    }

    /// Ours against the best of some peers.
    fn beside(
        &self,
        workload: &str,
        case: &str,
        rivals: Rivals,
        figure: Figure,
        bound: Bound,
    ) -> Row {
        let cells = self.results.peers(workload, case);
        let is_rival = |cell: &&&Cell| {
            let peer = cell.peer.as_str();
            !OURS.contains(&peer) && peer != hardware::BARE
        };
        let rivals = cells.iter().filter(is_rival).filter(|cell| rivals.include(&cell.peer));
        let rivals = rivals.filter_map(|cell| Some((figure.of(cell)?, cell.peer.as_str())));
        let best = rivals.max_by(|(a, _), (b, _)| figure.ratio(*a, *b).total_cmp(&1.0));
        let ours = |name| figure.of(self.results.cell(workload, case, name)?);
        let ratios = OURS.map(|name| Some(figure.ratio(ours(name)?, best?.0)));
        let against =
            best.map_or("no peer".into(), |(value, peer)| format!("{peer}, {}", number(value)));
        row(format!("{workload}, {case}"), &against, bound, ratios, cells.first().copied())
    }

    /// Ours as a multiple of its limit.
    fn of_limit(&self, workload: &str, case: &str, limit: &str, bound: Bound) -> Row {
        let cell = |name| self.results.cell(workload, case, name);
        let ratios = OURS.map(|name| cell(name)?.times_limit);
        row(format!("{workload}, {case}"), limit, bound, ratios, cell(OURS[0]))
    }

    /// A figure of ours that has a target of its own.
    fn value(&self, workload: &str, case: &str, figure: &str, unit: &str, most: f64) -> Row {
        let cell = self.results.cell(workload, case, OURS[0]);
        let value = cell.and_then(|cell| cell.median(figure));
        row(format!("{workload}, {case}"), unit, Bound::AtMost(most), [value, None], cell)
    }

    /// Compares the throughput with the bandwidth of copies. Reading in place leaves one copy, the
    /// sender's.
    fn of_copies(&self, case: &str, copy: &str) -> Row {
        let rate = |cell: Option<&Cell>| cell?.median("gib_per_s");
        let limit = rate(self.results.cell(hardware::NAME, copy, hardware::NAME));
        let cell = |name| self.results.cell("p2p", case, name);
        let ratios = OURS.map(|name| Some(rate(cell(name))? / limit?));
        let against = format!("{copy}, {} GiB/s", limit.map_or("–".into(), number));
        row(format!("p2p, {case}"), &against, Bound::AtLeast(0.8), ratios, cell(OURS[0]))
    }

    /// Compares the time of 1 MiB with that of 64 KiB if the receiver reads only the head.
    fn of_size(&self, manner: &str, bound: Bound) -> Row {
        let cell =
            |len, name| self.results.cell("p2p", &format!("{len}, head only, {manner}"), name);
        let time = |len, name| cell(len, name)?.median("ns_per_message");
        let ratios = OURS.map(|name| Some(time("1 MiB", name)? / time("64 KiB", name)?));
        let text = format!("p2p, 1 MiB, head only, {manner}: time");
        row(text, "64 KiB", bound, ratios, cell("1 MiB", OURS[1]))
    }
}

fn row(
    cell: String,
    against: &str,
    bound: Bound,
    ratios: [Option<f64>; 2],
    measured: Option<&Cell>,
) -> Row {
    let placement = measured.map_or("–".into(), |cell| cell.placement.clone());
    Row { cell, against: against.into(), bound, ratios, placement }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(workload: &str, case: &str, figure: &str, values: &[(&str, f64)]) -> Results {
        let cell = |(peer, median): &(&str, f64)| {
            serde_json::json!({
                "workload": workload, "case": case, "peer": peer, "placement": "near",
                "figures": { figure: { "median": median } },
            })
        };
        let cells: Vec<_> = values.iter().map(cell).collect();
        Results::parse(&serde_json::json!({ "cells": cells }).to_string()).unwrap()
    }

    fn line<'a>(rows: &'a [Row], cell: &str) -> &'a Row {
        rows.iter().find(|row| row.cell == cell).unwrap()
    }

    #[test]
    fn the_best_rival_is_the_fastest_where_more_is_better() {
        let case = "64 B, head only, one by one";
        let peers =
            [("llmp", 8.0), ("llmp-borrow", 6.0), ("pipe", 1.0), ("ipmpsc", 4.0), ("rtrb", 9.0)];
        let rows = rows(&results("p2p", case, "messages_per_s", &peers));
        let line = line(&rows, &format!("p2p, {case}"));
        assert_eq!((line.against.as_str(), line.ratios), ("ipmpsc, 4.00", [Some(2.0), Some(1.5)]));
    }

    #[test]
    fn the_best_rival_is_the_lowest_where_less_is_better() {
        let case = "sleeping";
        let peers = [("llmp", 10.0), (hardware::BARE, 1.0), ("pipe", 40.0), ("rtrb", 20.0)];
        let rows = rows(&results("ping-pong", case, "ns_p50", &peers));
        let line = line(&rows, &format!("ping-pong, {case}"));
        assert_eq!((line.against.as_str(), line.ratios), ("rtrb, 20.0", [Some(2.0), None]));
    }
}

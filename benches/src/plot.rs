//! The plots and their lines.

mod svg;

use crate::peers::PEERS;
use crate::report::bytes;
use crate::results::{Cell, Results};
use crate::workloads::{QUANTILES, growth};
use std::path::Path;
use svg::{Line, Plot, Style};

/// Distinct on white and on black, also without colour vision. In the order of the peers, so that
/// each has the same colour in all plots.
const COLOURS: [&str; 12] = [
    "#d55e00", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#7f6000", "#41ab5d",
    "#8c6bb1", "#999999", "#222222", "#b0a000",
];

const DASHES: &str = "- - inside one process";

/// Writes all plots that the figures allow.
pub fn write(dir: &Path, results: &Results) -> std::io::Result<()> {
    let rate = ("messages_per_s", "messages/s");
    let bytes = ("gib_per_s", "GiB/s");
    let mut plots = vec![
        ("p2p-head.svg", sizes(results, "head only, one by one", rate)),
        ("p2p-head-gib.svg", sizes(results, "head only, one by one", bytes)),
        ("p2p-bytes.svg", sizes(results, "every byte, one by one", rate)),
        ("p2p-bytes-gib.svg", sizes(results, "every byte, one by one", bytes)),
        ("p2p-batches.svg", sizes(results, "every byte, in batches", rate)),
        ("ping-pong-polling.svg", latencies(results, "polling")),
        ("ping-pong-sleeping.svg", latencies(results, "sleeping")),
        ("ping-pong-late.svg", latencies(results, "sleeping, late answers")),
        ("bus-clients.svg", clients(results)),
        ("broker-turn.svg", cycles(results)),
    ];
    plots.retain(|(_, plot)| plot.is_worth_it());
    plots.into_iter().try_for_each(|(file, plot)| std::fs::write(dir.join(file), plot.svg()))
}

fn style(peer: &str) -> Style {
    let thick = peer.starts_with("llmp");
    match PEERS.iter().position(|info| info.name == peer) {
        Some(at) => Style { colour: COLOURS[at], thick, dashed: PEERS[at].one_process },
        None => Style { colour: "#e377c2", thick, dashed: false },
    }
}

/// One line for each peer through its cells.
fn by_peer<'a>(
    cells: impl Iterator<Item = &'a Cell>,
    point: impl Fn(&Cell) -> Option<(f64, f64)>,
) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for cell in cells {
        let Some(point) = point(cell) else { continue };
        match lines.iter_mut().find(|line| line.name == cell.peer) {
            Some(line) => line.points.push(point),
            None => lines.push(Line {
                name: cell.peer.clone(),
                style: style(&cell.peer),
                points: vec![point],
            }),
        }
    }
    lines
}

/// Message size against a figure.
fn sizes(results: &Results, case: &str, (figure, vertical): (&str, &str)) -> Plot {
    let cells = || results.of("p2p").filter(|cell| cell.case.ends_with(case));
    let place = |len: usize| (len as f64).log2();
    let mut lens: Vec<usize> = cells().filter_map(|cell| cell.len).collect();
    lens.sort_unstable();
    lens.dedup();
    Plot {
        title: format!("One sender, one receiver: {case}"),
        horizontal: "message size".into(),
        vertical: vertical.into(),
        marks: lens.into_iter().map(|len| (place(len), bytes(len))).collect(),
        lines: by_peer(cells(), |cell| Some((place(cell.len?), cell.median(figure)?))),
        dashes: DASHES,
    }
}

/// The distribution of the round trips.
fn latencies(results: &Results, case: &str) -> Plot {
    let place = |part: f64| -(1.0 - part).log10();
    let shown = [(0.1, "10 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];
    let cells = results.peers("ping-pong", case);
    let line = |cell: &&Cell| {
        let points =
            QUANTILES.iter().filter_map(|(name, part)| Some((place(*part), cell.median(name)?)));
        Line { name: cell.peer.clone(), style: style(&cell.peer), points: points.collect() }
    };
    Plot {
        title: format!("64 B there and back, {case}"),
        horizontal: "part of the round trips that were at least as fast".into(),
        vertical: "round trip in ns".into(),
        marks: shown.into_iter().map(|(part, text)| (place(part), text.into())).collect(),
        lines: cells.iter().map(line).filter(|line| !line.points.is_empty()).collect(),
        dashes: DASHES,
    }
}

/// The number of clients against what a bus delivers.
fn clients(results: &Results) -> Plot {
    let case = "256 B, yielding, head only";
    let cells = || results.of("bus").filter(|cell| cell.case.ends_with(case));
    let mut counts: Vec<u32> = cells().filter_map(first_number).collect();
    counts.sort_unstable();
    counts.dedup();
    let place = |clients: u32| f64::from(clients).log2();
    let mut lines = by_peer(cells(), |cell| {
        Some((place(first_number(cell)?), cell.median("deliveries_per_s")?))
    });
    lines.iter_mut().for_each(Line::sort);
    Plot {
        title: format!("All to all: {case}"),
        horizontal: "clients".into(),
        vertical: "deliveries/s".into(),
        marks: counts.into_iter().map(|count| (place(count), count.to_string())).collect(),
        lines,
        dashes: DASHES,
    }
}

/// The cost of a broker's cycle by the number of clients.
fn cycles(results: &Results) -> Plot {
    let cells: Vec<&Cell> =
        results.of(growth::NAME).filter(|cell| cell.case.starts_with("a cycle")).collect();
    let place = |clients: u32| f64::from(clients).log2();
    let line = |(name, figure, colour): (&str, &str, &'static str)| {
        let points =
            cells.iter().filter_map(|c| Some((place(first_number(c)?), c.median(figure)?)));
        let style = Style { colour, thick: true, dashed: false };
        Line { name: name.into(), style, points: points.collect() }
    };
    let lines = [
        ("no client sends", "ns_idle", COLOURS[0]),
        ("one sends 64 B", "ns_one_sends", COLOURS[2]),
    ];
    let counts = cells.iter().filter_map(|cell| first_number(cell));
    Plot {
        title: "A cycle of the broker".into(),
        horizontal: "clients".into(),
        vertical: "ns".into(),
        marks: counts.map(|count| (place(count), count.to_string())).collect(),
        lines: lines.into_iter().map(line).collect(),
        dashes: DASHES,
    }
}

/// Returns the number of clients in the name of a case.
fn first_number(cell: &Cell) -> Option<u32> {
    cell.case.split(' ').find_map(|word| word.parse().ok())
}

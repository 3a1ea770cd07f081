//! Plots, as SVG that a browser shows without anything else.

use crate::measure::Measured;
use crate::report::{Group, bytes, groups, number};
use crate::workloads::QUANTILES;
use std::fmt::Write as _;
use std::path::Path;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Told apart on white and on black, and by people who don't see all colours.
const COLOURS: [&str; 12] = [
    "#d55e00", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#999999", "#7f6000",
    "#8c6bb1", "#41ab5d", "#6b6b6b", "#b0b000",
];

/// A line of a plot: points by their place on the horizontal axis.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

struct Plot {
    title: String,
    vertical: String,
    /// Where the marks of the horizontal axis are, and what they say.
    marks: Vec<(f64, String)>,
    lines: Vec<Line>,
}

/// Writes all plots that the figures allow.
pub fn write(dir: &Path, measured: &[Measured]) -> std::io::Result<()> {
    for (file, case) in [
        ("p2p-head.svg", "head only, one by one"),
        ("p2p-bytes.svg", "every byte, one by one"),
        ("p2p-batches.svg", "every byte, in batches"),
    ] {
        for (file, figure, vertical) in [
            (file.to_owned(), "messages_per_s", "messages/s"),
            (file.replace(".svg", "-gib.svg"), "gib_per_s", "GiB/s"),
        ] {
            if let Some(plot) = sizes(measured, case, figure, vertical) {
                std::fs::write(dir.join(file), plot.svg())?;
            }
        }
    }
    for group in groups(measured) {
        let Some(first) = group.cells.first().filter(|c| c.cell.workload == "ping-pong") else {
            continue;
        };
        let plot = latencies(&group, &first.cell.case);
        std::fs::write(dir.join(format!("ping-pong-{}.svg", first.cell.case)), plot.svg())?;
    }
    Ok(())
}

/// Message size against a figure.
fn sizes(measured: &[Measured], case: &str, figure: &str, vertical: &str) -> Option<Plot> {
    let mut lines: Vec<Line> = Vec::new();
    let mut marks: Vec<(f64, String)> = Vec::new();
    for group in groups(measured) {
        let of_case =
            |cell: &&Measured| cell.cell.workload == "p2p" && cell.cell.case.ends_with(case);
        for cell in group.cells.iter().filter(of_case) {
            let Some(len) = cell.cell.len else { continue };
            let Some(value) = cell.median(group.placement, figure) else { continue };
            let x = (len as f64).log2();
            if !marks.iter().any(|(at, _)| *at == x) {
                marks.push((x, bytes(len)));
            }
            match lines.iter_mut().find(|line| line.name == cell.cell.peer) {
                Some(line) => line.points.push((x, value)),
                None => lines.push(Line { name: cell.cell.peer.into(), points: vec![(x, value)] }),
            }
        }
    }
    let title = format!("One sender, one receiver: {case}");
    (marks.len() > 1).then_some(Plot { title, vertical: vertical.into(), marks, lines })
}

/// Which part of the round trips took how long.
fn latencies(group: &Group<'_>, case: &str) -> Plot {
    let place = |part: f64| -(1.0 - part).log10();
    let lines = group.cells.iter().map(|cell| {
        let spreads = cell.spreads(group.placement);
        let points = QUANTILES
            .iter()
            .filter_map(|(name, part)| Some((place(*part), spreads.get(name)?.median)));
        Line { name: cell.cell.peer.into(), points: points.collect() }
    });
    let shown = [(0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %")];
    Plot {
        title: format!("64 B there and back, {case}: so many were at least as quick"),
        vertical: "ns".into(),
        marks: shown.into_iter().map(|(part, text)| (place(part), text.into())).collect(),
        lines: lines.filter(|line| !line.points.is_empty()).collect(),
    }
}

impl Plot {
    fn svg(&self) -> String {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let marks = self.marks.iter().map(|(x, _)| *x);
        let (x0, x1) = bounds(all().map(|(x, _)| *x).chain(marks));
        let (y0, y1) = bounds(all().map(|(_, y)| y.max(1e-3).log10()));
        let (y0, y1) = (y0.floor(), y1.ceil().max(y0.floor() + 1.0));
        let at_x = |x: f64| LEFT + (x - x0) / (x1 - x0).max(1e-9) * (WIDTH - LEFT - RIGHT);
        let at_y = |y: f64| HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);

        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
<text x="{LEFT}" y="22" font-size="15">{}</text>
<text x="12" y="{TOP}">{}</text>
"##,
            self.title, self.vertical
        );
        for power in y0 as i32..=y1 as i32 {
            let (y, text) = (at_y(f64::from(power)), number(10f64.powi(power)));
            let (end, label) = (WIDTH - RIGHT, LEFT - 8.0);
            let _ = writeln!(
                svg,
                r##"<path d="M{LEFT} {y:.1}H{end}" stroke="#ddd"/><text x="{label}" y="{:.1}" text-anchor="end">{text}</text>"##,
                y + 4.0
            );
        }
        for (x, text) in &self.marks {
            let (x, y) = (at_x(*x), HEIGHT - BOTTOM + 18.0);
            let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{text}</text>"#);
        }
        for (i, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let width = if line.name.starts_with("llmp") { 3 } else { 1 };
            let points = line.points.iter();
            let points =
                points.map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(y.max(1e-3).log10())));
            let points = points.collect::<Vec<_>>().join(" ");
            let (x, y) = (WIDTH - RIGHT + 14.0, TOP + 18.0 * i as f64);
            let _ = writeln!(
                svg,
                r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>
<path d="M{x} {y}h20" stroke="{colour}" stroke-width="{width}"/><text x="{}" y="{}">{}</text>"#,
                x + 26.0,
                y + 4.0,
                line.name
            );
        }
        svg + "</svg>\n"
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

//! A plot as SVG that a browser shows without anything else. The vertical axis is logarithmic.

use crate::report::number;
use std::fmt::Write as _;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 160.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 68.0;
/// Room for a mark of the horizontal axis.
const MARK_WIDTH: f64 = 44.0;
const LEGEND_STEP: f64 = 19.0;
/// With fewer powers of ten on the axis, 2 and 5 are marked between them.
const FEW_POWERS: i32 = 3;

pub struct Plot {
    pub title: String,
    pub horizontal: String,
    pub vertical: String,
    /// Where the marks of the horizontal axis are, and what they say.
    pub marks: Vec<(f64, String)>,
    pub lines: Vec<Line>,
    /// The meaning of dashes, if a line has them.
    pub dashes: &'static str,
}

/// Points by their place on the horizontal axis.
pub struct Line {
    pub name: String,
    pub style: Style,
    pub points: Vec<(f64, f64)>,
}

pub struct Style {
    pub colour: &'static str,
    pub thick: bool,
    pub dashed: bool,
}

impl Line {
    pub fn sort(&mut self) {
        self.points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    }
}

/// Maps values to places on the paper.
struct Scale {
    x: (f64, f64),
    /// Logarithms.
    y: (f64, f64),
}

impl Scale {
    fn of(plot: &Plot) -> Self {
        let all = || plot.lines.iter().flat_map(|line| &line.points);
        let marks = plot.marks.iter().map(|(x, _)| *x);
        let x = bounds(all().map(|(x, _)| *x).chain(marks));
        let (low, high) = bounds(all().map(|(_, y)| log(*y)));
        // A little air, so that no line lies on the frame.
        Scale { x, y: (low - 0.08, high + 0.08) }
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + 12.0
            + (x - self.x.0) / (self.x.1 - self.x.0).max(1e-9) * (WIDTH - LEFT - RIGHT - 24.0)
    }

    fn y(&self, value: f64) -> f64 {
        let part = (log(value) - self.y.0) / (self.y.1 - self.y.0);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }

    /// Values at which there are lines across, and whether they are marked.
    fn steps(&self) -> Vec<(f64, bool)> {
        let powers = self.y.0.floor() as i32..=self.y.1.ceil() as i32;
        let few = powers.end() - powers.start() <= FEW_POWERS;
        let steps = powers.flat_map(|power| (1..10).map(move |digit| (digit, power)));
        let steps = steps.map(|(digit, power)| {
            let marked = digit == 1 || few && [2, 5].contains(&digit);
            (f64::from(digit) * 10f64.powi(power), marked)
        });
        steps.filter(|(value, _)| (self.y.0..=self.y.1).contains(&log(*value))).collect()
    }
}

fn log(value: f64) -> f64 {
    value.max(1e-3).log10()
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

impl Plot {
    /// Returns whether there is a visible line.
    pub fn is_worth_it(&self) -> bool {
        self.lines.iter().any(|line| line.points.len() > 1)
    }

    pub fn svg(&self) -> String {
        let scale = Scale::of(self);
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{LEFT}" y="26" font-size="16">{}</text>
"##,
            self.title
        );
        self.draw_axes(&scale, &mut svg);
        for (i, line) in self.lines.iter().enumerate() {
            line.draw(&scale, &mut svg);
            line.explain(TOP + 8.0 + LEGEND_STEP * i as f64, &mut svg);
        }
        if self.lines.iter().any(|line| line.style.dashed) {
            let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 16.0 + LEGEND_STEP * self.lines.len() as f64);
            let dashes = self.dashes;
            let _ = writeln!(svg, r##"<text x="{x}" y="{y}" fill="#666">{dashes}</text>"##);
        }
        svg + "</svg>\n"
    }

    fn draw_axes(&self, scale: &Scale, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, marked) in scale.steps() {
            let (y, grey) = (scale.y(value), if marked { "#ccc" } else { "#eee" });
            let _ = writeln!(svg, r#"<path d="M{LEFT} {y:.1}H{right}" stroke="{grey}"/>"#);
            if marked {
                let (x, y, text) = (LEFT - 8.0, y + 4.0, step_text(value));
                let _ =
                    writeln!(svg, r#"<text x="{x}" y="{y:.1}" text-anchor="end">{text}</text>"#);
            }
        }
        let mut last = f64::NEG_INFINITY;
        for (x, text) in &self.marks {
            let x = scale.x(*x);
            // There is no room beside the label before. Below it there is.
            let lower = x - last < MARK_WIDTH;
            let y = bottom + if lower { 32.0 } else { 18.0 };
            last = if lower { f64::NEG_INFINITY } else { x };
            let _ = writeln!(
                svg,
                r##"<path d="M{x:.1} {bottom}v5" stroke="#444"/><text x="{x:.1}" y="{y}" text-anchor="middle">{text}</text>"##
            );
        }
        let (middle_x, middle_y) = (f64::midpoint(LEFT, right), f64::midpoint(TOP, bottom));
        let below = HEIGHT - 14.0;
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#444"/>
<text x="{middle_x}" y="{below}" text-anchor="middle">{}</text>
<text transform="translate(18 {middle_y}) rotate(-90)" text-anchor="middle">{}</text>"##,
            self.horizontal, self.vertical
        );
    }
}

/// A value of one digit and zeros.
fn step_text(value: f64) -> String {
    let text = number(value);
    let (digits, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let digits = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    };
    format!("{digits} {unit}").trim_end().to_owned()
}

impl Line {
    fn stroke(&self) -> String {
        let Style { colour, thick, dashed } = self.style;
        let width = if thick { 3.0 } else { 1.5 };
        let dashes = if dashed { r#" stroke-dasharray="5 3""# } else { "" };
        format!(r#"stroke="{colour}" stroke-width="{width}"{dashes}"#)
    }

    fn draw(&self, scale: &Scale, svg: &mut String) {
        let points: Vec<(f64, f64)> =
            self.points.iter().map(|(x, y)| (scale.x(*x), scale.y(*y))).collect();
        let joined: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (joined, stroke) = (joined.join(" "), self.stroke());
        let _ = writeln!(svg, r#"<polyline points="{joined}" fill="none" {stroke}/>"#);
        let radius = if self.style.thick { 3.5 } else { 2.5 };
        for (x, y) in points {
            let colour = self.style.colour;
            let _ =
                writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{colour}"/>"#);
        }
    }

    /// Its line of the legend.
    fn explain(&self, y: f64, svg: &mut String) {
        let (x, stroke) = (WIDTH - RIGHT + 16.0, self.stroke());
        let (text_x, text_y) = (x + 30.0, y + 4.0);
        let _ = writeln!(
            svg,
            r#"<path d="M{x} {y}h24" {stroke}/><text x="{text_x}" y="{text_y}">{}</text>"#,
            self.name
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_short_and_keep_their_zeros() {
        let texts = [0.02, 0.5, 1.0, 20.0, 100.0, 5e3, 2e5, 1e6].map(step_text);
        assert_eq!(texts, ["0.02", "0.5", "1", "20", "100", "5 k", "200 k", "1 M"]);
    }
}

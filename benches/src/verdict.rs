//! The verdict on this library's speed: ratios of medians within one run, beside their targets, as
//! a table in Markdown.
//!
//! The exit status depends on no figure, because times on shared machines are no reason to fail.

use crate::report::number;
use crate::results::Results;
use crate::targets;
use std::fmt::Write as _;

/// The bound of a ratio.
#[derive(Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Reported without a bound.
    None,
}

impl Bound {
    fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Bound::AtLeast(least) => Some(ratio >= least),
            Bound::AtMost(most) => Some(ratio <= most),
            Bound::None => None,
        }
    }

    fn text(self) -> String {
        match self {
            Bound::AtLeast(least) => format!("≥ {least}"),
            Bound::AtMost(most) => format!("≤ {most}"),
            Bound::None => "–".into(),
        }
    }
}

/// A line of the table.
pub struct Row {
    pub cell: String,
    pub against: String,
    pub bound: Bound,
    /// Of copied payloads, and of payloads that are read in place.
    pub ratios: [Option<f64>; 2],
    pub placement: String,
}

impl Row {
    fn met(&self) -> &'static str {
        let [copying, borrowing] =
            self.ratios.map(|ratio| ratio.and_then(|r| self.bound.is_met(r)));
        match (copying, borrowing) {
            (None, None) => "–",
            (Some(true), Some(true) | None) | (None, Some(true)) => "yes",
            (Some(true), Some(false)) => "when copying",
            (Some(false), Some(true)) => "when borrowing",
            (Some(false) | None, Some(false)) | (Some(false), None) => "no",
        }
    }
}

/// The table, and how many targets are met.
pub fn markdown(results: &Results) -> String {
    let rows = targets::rows(results);
    let mut text = String::new();
    let _ = writeln!(text, "| cell | against | asked for | copying | borrowing | at | met |");
    let _ = writeln!(text, "|---|---|---|---|---|---|---|");
    for row in &rows {
        let [copying, borrowing] = row.ratios.map(|ratio| ratio.map_or("–".into(), number));
        let Row { cell, against, bound, placement, .. } = row;
        let (bound, met) = (bound.text(), row.met());
        let _ = writeln!(
            text,
            "| {cell} | {against} | {bound} | {copying} | {borrowing} | {placement} | {met} |"
        );
    }
    let judged = rows.iter().filter(|row| row.met() != "–");
    let (met, judged) = (judged.clone().filter(|row| row.met() != "no").count(), judged.count());
    let _ = writeln!(text, "\n{met} of {judged} are met, by one of the two at least.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_by_both_by_one_or_by_none() {
        let met = |bound, ratios| {
            let (cell, against, placement) = Default::default();
            Row { cell, against, bound, ratios, placement }.met()
        };
        let least = Bound::AtLeast(2.0);
        assert_eq!(met(least, [Some(2.0), Some(3.0)]), "yes");
        assert_eq!(met(least, [Some(1.9), Some(3.0)]), "when borrowing");
        assert_eq!(met(least, [Some(2.0), Some(1.0)]), "when copying");
        assert_eq!(met(least, [Some(1.9), None]), "no");
        assert_eq!(met(least, [None, None]), "–");
        assert_eq!(met(Bound::AtMost(2.0), [Some(2.0), None]), "yes");
        assert_eq!(met(Bound::AtMost(2.0), [None, Some(2.1)]), "no");
        assert_eq!(met(Bound::None, [Some(1.0), Some(1.0)]), "–");
    }
}

//! Turns reports of the models and fuzzers into rows of the table.

/// A row: what was explored, and how far.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub what: String,
    pub extent: String,
}

/// Kinds of lines that a test target reports.
const KINDS: &[&str] = &[
    "model", "litmus", "judge", "mutant", "mutants:", "spec", "crash", "axioms", "machines",
    "SKIPPED", "SKIPPED:",
];

/// Extents that a model can report.
const EXTENTS: &[&str] = &[
    "exhaustive",
    "at most",
    "schedules",
    "cut at",
    "programs",
    "SIGKILL at each",
    "executions",
    "verdicts",
];

/// Returns the row of a line, if it is one. Returns an error for a model without an extent, because
/// that one was cut off silently.
pub fn row(line: &str) -> Option<Result<Row, String>> {
    if let Some(runs) = line.strip_prefix("stat::number_of_executed_units:") {
        let extent = format!("{} inputs", runs.trim());
        return Some(Ok(Row { what: "mutated".to_owned(), extent }));
    }
    // With one thread the harness has begun the line.
    let in_test = line.strip_prefix("test ").and_then(|line| line.split_once(" ... "));
    let line = in_test.map_or(line, |(_, rest)| rest);
    let kind = line.split(' ').next()?;
    if !KINDS.contains(&kind) {
        return None;
    }
    if kind == "mutant" && line.contains("killed by") {
        let (what, extent) = line.split_once("killed by")?;
        let columns: Vec<_> = extent.split_whitespace().collect();
        let extent = format!("killed by {}", columns.get(..3)?.join(" "));
        return Some(Ok(Row { what: what.trim().to_owned(), extent }));
    }
    let (what, extent) = line.split_once(": ").unwrap_or((line, ""));
    let says = EXTENTS.iter().any(|word| extent.contains(word));
    // A canary must fail, so its line has no extent.
    let must_say = ["model", "spec", "crash", "axioms"].contains(&kind) && !what.contains("canar");
    if must_say && !says {
        return Some(Err(format!("'{line}' does not say how far it was explored")));
    }
    Some(Ok(Row { what: what.to_owned(), extent: extent.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rows() {
        let row_of = |line: &str| row(line).unwrap().unwrap();
        let model = row_of("model page_advance: exhaustive, 15 executions in 0.00 s");
        assert_eq!(model.what, "model page_advance");
        assert_eq!(model.extent, "exhaustive, 15 executions in 0.00 s");
        let mutant =
            row_of("mutant A as Relaxed   killed by page_advance   2 executions  0.1 s  why");
        assert_eq!(mutant.what, "mutant A as Relaxed");
        assert_eq!(mutant.extent, "killed by page_advance 2 executions");
        assert_eq!(row_of("stat::number_of_executed_units: 42").extent, "42 inputs");
        assert_eq!(row("test p1_order ... ok"), None);
        let begun = row_of("test p1_order ... model page_advance: exhaustive, 15 executions");
        assert_eq!(begun.what, "model page_advance");
    }

    #[test]
    fn a_model_without_an_extent_is_an_error() {
        assert!(row("model page_advance: passed in 1 s").unwrap().is_err());
    }
}

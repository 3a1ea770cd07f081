//! The record of the figures, `docs/figures.md`: reading, comparing and writing it.

use super::figures::Figure;
use super::totals::totals;
use std::collections::BTreeSet;
use std::path::Path;

/// The record's path below the root of the repository.
pub const PATH: &str = "docs/figures.md";

/// The figures of a run, or of the record.
pub type Figures = BTreeSet<Figure>;

const QUICK: &str = "## `cargo verify`";
const FULL: &str = "## `cargo verify --full`";
const HEAD: &str = "| step | target | what | extent |\n|---|---|---|---|\n";

/// Compares what was found with the record, or writes it there. Returns the differences.
pub fn settle(found: &Figures, ran: &Ran, writes: bool) -> std::io::Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
    let mut record = Record::parse(&std::fs::read_to_string(&path).unwrap_or_default());
    if writes {
        record.take(found, ran);
        std::fs::write(path, record.render())?;
        return Ok(vec![]);
    }
    let mut differences = record.differences(found, ran);
    if !differences.is_empty() {
        let options = if ran.full { "--full --record" } else { "--record" };
        differences.push(format!("run 'cargo verify {options}' to write {PATH}, if it may change"));
    }
    Ok(differences)
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Record {
    quick: Figures,
    /// What only the full run finds.
    full: Figures,
}

/// What was run.
pub struct Ran<'a> {
    pub full: bool,
    /// The labels of the steps that have run to their end and passed.
    pub steps: &'a [String],
}

impl Ran<'_> {
    fn has(&self, figure: &Figure) -> bool {
        self.steps.contains(&figure.step)
    }
}

impl Record {
    /// Reads a record. Lines that are no rows don't count.
    pub fn parse(text: &str) -> Self {
        let (quick, full) = text.split_once(FULL).unwrap_or((text, ""));
        let quick = quick.split_once(QUICK).map_or("", |(_, quick)| quick);
        let figures = |text: &str| text.lines().filter_map(parsed).collect();
        Record { quick: figures(quick), full: figures(full) }
    }

    /// Returns the whole file.
    pub fn render(&self) -> String {
        let rows = |figures: &Figures| {
            let row = |it: &Figure| {
                format!("| {} | {} | {} | {} |\n", it.step, it.target, it.what, it.extent)
            };
            figures.iter().map(row).collect::<String>()
        };
        format!(
            "# Figures\n\n\
             `cargo verify --record` writes this page. `cargo verify` fails if it finds another figure, \
             one more or one less.\n\
             Each run finds the same figures, on every machine. Times, and how far random schedules have \
             come, are in its output.\n\n\
             ## In all\n\n<!-- ANCHOR: totals -->\n{}<!-- ANCHOR_END: totals -->\n\n\
             {QUICK}\n\n{HEAD}{}\n\
             {FULL}\n\nThe full run finds these in addition, or instead.\n\n{HEAD}{}",
            totals(&self.quick),
            rows(&self.quick),
            rows(&self.full),
        )
    }

    /// Returns how the record differs from what the steps have found that were run.
    pub fn differences(&self, found: &Figures, ran: &Ran) -> Vec<String> {
        let expected = if ran.full { &self.full } else { &self.quick };
        let is_known = |it: &&Figure| expected.contains(it) || ran.full && self.quick.contains(it);
        let missing = expected.iter().filter(|it| ran.has(it) && !found.contains(it));
        let new = found.iter().filter(|it| ran.has(it) && !is_known(it));
        let says = |what: &str, it: &Figure| {
            format!("{what}: {}, {}, {}: {}", it.step, it.target, it.what, it.extent)
        };
        let missing = missing.map(|it| says("recorded in docs/figures.md, and not found", it));
        missing
            .chain(new.map(|it| says("found, and not recorded in docs/figures.md", it)))
            .collect()
    }

    /// Replaces the figures of the steps that were run.
    pub fn take(&mut self, found: &Figures, ran: &Ran) {
        let Record { quick, full } = self;
        let mine = if ran.full { &mut *full } else { &mut *quick };
        mine.retain(|figure| !ran.has(figure));
        mine.extend(found.iter().filter(|it| ran.has(it)).cloned());
        full.retain(|figure| !quick.contains(figure));
    }
}

/// Returns the figure of a row of the record.
fn parsed(line: &str) -> Option<Figure> {
    let line = line.strip_prefix("| ")?.strip_suffix(" |")?;
    let cells: Vec<_> = line.split(" | ").map(str::to_owned).collect();
    let [step, target, what, extent] = cells.try_into().ok()?;
    (step != "step").then_some(Figure { step, target, what, extent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(step: &str, extent: &str) -> Figure {
        let [step, target, what, extent] = [step, "loom", "model a", extent].map(str::to_owned);
        Figure { step, target, what, extent }
    }

    fn figures(all: &[(&str, &str)]) -> Figures {
        all.iter().map(|(step, extent)| figure(step, extent)).collect()
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record =
            Record { quick: figures(&[("a", "1"), ("b", "2")]), full: figures(&[("a", "3")]) };
        assert_eq!(Record::parse(&record.render()), record);
        assert_eq!(Record::parse(""), Record::default());
    }

    #[test]
    fn the_record_of_this_repository_is_as_it_was_written() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PATH);
        let text = std::fs::read_to_string(path).unwrap();
        let record = Record::parse(&text);
        assert!(!record.quick.is_empty());
        assert!(record.render() == text, "{PATH} was edited, or its totals are wrong");
    }

    #[test]
    fn another_figure_one_more_and_one_less_are_noticed() {
        let quick = figures(&[("tests", "exhaustive"), ("miri", "4 seeds")]);
        let record = Record { quick, full: Figures::new() };
        let tests = ["tests".to_owned()];
        let ran = Ran { full: false, steps: &tests };
        for (found, differences) in [
            (figures(&[("tests", "exhaustive")]), 0),
            (figures(&[("tests", "at most 3 preemptions")]), 2),
            (figures(&[("tests", "exhaustive"), ("tests", "more")]), 1),
            (figures(&[]), 1),
        ] {
            assert_eq!(record.differences(&found, &ran).len(), differences, "{found:?}");
        }
    }

    #[test]
    fn a_step_that_was_not_run_keeps_its_figures() {
        let mut record =
            Record { quick: figures(&[("tests", "1"), ("miri", "4")]), ..Record::default() };
        let tests = ["tests".to_owned()];
        record.take(&figures(&[("tests", "2")]), &Ran { full: false, steps: &tests });
        assert_eq!(record.quick, figures(&[("tests", "2"), ("miri", "4")]));
    }

    #[test]
    fn a_full_run_adds_what_the_quick_run_does_not_find() {
        let mut record = Record { quick: figures(&[("tests", "1")]), ..Record::default() };
        let tests = ["tests".to_owned()];
        let ran = Ran { full: true, steps: &tests };
        let found = figures(&[("tests", "1"), ("tests", "2")]);
        assert_eq!(record.differences(&found, &ran).len(), 1);
        record.take(&found, &ran);
        assert_eq!(record.full, figures(&[("tests", "2")]));
        assert_eq!(record.differences(&found, &ran), Vec::<String>::new());
    }
}

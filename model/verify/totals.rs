//! The first table of the record: what each target has explored in all.

use super::figures::Figure;
use super::record::Figures;
use crate::grouped::grouped;
use std::collections::{BTreeMap, BTreeSet};

/// What a part of an extent can count.
const UNITS: &[&str] = &["executions", "states", "schedules", "programs", "seeds", "tests"];

/// The sums of one target.
#[derive(Default)]
struct Total {
    exhaustive: usize,
    bounded: usize,
    units: BTreeMap<&'static str, usize>,
}

impl Total {
    fn add(&mut self, extent: &str) {
        let is_bounded = extent.contains("at most ") || extent.contains("cut at ");
        self.bounded += usize::from(is_bounded);
        self.exhaustive += usize::from(extent.contains("exhaustive"));
        for (number, unit) in extent.split(", ").filter_map(counted) {
            *self.units.entry(unit).or_default() += number;
        }
    }
}

/// Returns the table. Its last row has the tests of all targets.
pub fn totals(figures: &Figures) -> String {
    let mut totals: BTreeMap<&str, Total> = BTreeMap::new();
    let (mut tests, mut targets) = (0, BTreeSet::new());
    let mut seen = BTreeSet::new();
    for Figure { step, target, what, extent } in figures {
        // The targets run on several machines, and under Miri with several memory models.
        let name = if step == "tests" { target } else { step };
        if step == "tests" && what == "tests" {
            let passed = extent.strip_suffix(" passed").and_then(number).unwrap_or(0);
            tests += passed;
            targets.insert(target);
        } else if what != "tests" && seen.insert((name, what, extent)) {
            totals.entry(name).or_default().add(extent);
        }
    }
    let mut table = "| target | exhaustive | bounded | in all |\n|---|---|---|---|\n".to_owned();
    for (name, Total { exhaustive, bounded, units }) in totals {
        if units.is_empty() {
            continue;
        }
        let sums = units.iter().map(|(unit, number)| format!("{} {unit}", grouped(*number)));
        let sums = sums.collect::<Vec<_>>().join(", ");
        table += &format!("| {name} | {exhaustive} | {bounded} | {sums} |\n");
    }
    table + &format!("| tests of {} targets | | | {} tests |\n", targets.len(), grouped(tests))
}

/// Returns the number and the unit of `15,000 random schedules`.
fn counted(part: &str) -> Option<(usize, &'static str)> {
    let (first, rest) = part.split_once(' ')?;
    let unit = UNITS.iter().find(|unit| rest.split(' ').any(|word| word == **unit))?;
    // 80 schedules for each of an unknown number of deaths have no sum.
    (!rest.ends_with(" each")).then_some((number(first)?, unit))
}

fn number(text: &str) -> Option<usize> {
    text.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_the_sum_of_its_rows() {
        let rows = [
            ("loom", "model a", "exhaustive, 1,500 executions"),
            ("loom", "model b", "at most 3 preemptions, 500 executions"),
            ("loom", "tests", "2 passed"),
            ("shuttle", "model c", "80 random and 80 priority schedules each"),
            ("tests/crash", "crash e", "SIGKILL at each step"),
            ("shuttle", "model d", "4000 random schedules"),
            ("src/lib", "tests", "1200 passed"),
        ];
        let figures = rows.map(|row| {
            let [target, what, extent] = <[&str; 3]>::from(row).map(str::to_owned);
            Figure { step: "tests".to_owned(), target, what, extent }
        });
        let table = totals(&figures.into());
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| loom | 1 | 1 | 2,000 executions |",
                "| shuttle | 0 | 0 | 4,000 schedules |",
                "| tests of 2 targets | | | 1,202 tests |"
            ]
        );
    }
}

//! Runs one step: shows progress, prints its rows, records shortfalls.

use super::extent::{Row, row};
use super::figures::figure;
use super::record::Figures;
use super::steps::Step;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The result of a step.
#[derive(Default)]
pub struct Outcome {
    pub seconds: f64,
    /// What falls short, if anything.
    pub shortfall: Vec<String>,
    /// Why it failed: the last lines of its output, or those of failed tests.
    pub failure: Vec<String>,
    /// The command has said that it was skipped, and was allowed to be.
    pub is_skipped: bool,
    /// What every run must find.
    pub figures: Figures,
}

/// Number of lines shown of a failed command that does not name the failed tests.
const LAST_LINES: usize = 60;
/// Number of lines shown of the output of failed tests.
const FAILURE_LINES: usize = 100;

pub fn run(step: &Step, all: &MultiProgress) -> Outcome {
    let start = Instant::now();
    let progress = all.add(ProgressBar::new_spinner());
    let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}");
    progress.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message(step.command.join(" "));
    let mut outcome = Outcome::default();
    if let Err(error) = follow(step, all, &progress, &mut outcome) {
        outcome.shortfall.push(format!("'{}' can't be run: {error}", step.command.join(" ")));
    }
    progress.finish_and_clear();
    outcome.seconds = start.elapsed().as_secs_f64();
    outcome
}

/// Runs the command and reads its output.
fn follow(
    step: &Step,
    all: &MultiProgress,
    progress: &ProgressBar,
    outcome: &mut Outcome,
) -> std::io::Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(&step.command[0]);
    command
        .args(&step.command[1..])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .envs(step.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn()?;
    // The command holds our copies of the pipe's writing end, and the pipe ends only without them.
    drop(command);

    let mut heard = Heard { at_least: step.at_least.to_vec(), ..Heard::default() };
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if let Some(row) = heard.line(&line) {
            outcome.figures.extend(figure(&step.label, &heard.target, &row));
            let Row { what, extent } = row;
            let target = if heard.target.is_empty() { &step.label } else { &heard.target };
            let edge =
                super::edge::of(if what.starts_with("test ") { target } else { &step.label });
            all.suspend(|| println!("| {} | {what} | {edge} | {extent} |", step.label));
        }
        progress.set_message(heard.target.clone());
        heard.last.push_back(line);
        if heard.last.len() > LAST_LINES {
            heard.last.pop_front();
        }
    }
    let status = child.wait()?;
    let skipped = step.skipped.is_some_and(|line| heard.last.iter().any(|l| l.starts_with(line)));
    if skipped && status.success() {
        outcome.is_skipped = true;
        return Ok(());
    }
    let shortfall = &mut outcome.shortfall;
    shortfall.extend(heard.shortfall);
    for wanted in &step.targets {
        if !heard.passed.iter().any(|target| target == wanted) {
            shortfall.push(format!("the test target {wanted} has passed no test"));
        }
    }
    for (what, least) in heard.at_least {
        shortfall.push(format!("'{what}' is not followed by {least} or more"));
    }
    if step.seeds > 0 {
        let row = Row { what: heard.miri, extent: format!("{} seeds", heard.seeds) };
        outcome.figures.extend(figure(&step.label, &heard.target, &row));
        let Row { what, extent } = row;
        all.suspend(|| println!("| {} | {what} | | {extent} |", step.label));
        if heard.seeds != step.seeds {
            shortfall
                .push(format!("{} of {} seeds have run to their end", heard.seeds, step.seeds));
        }
    }
    if !status.success() {
        let last = Vec::from(heard.last);
        outcome.failure = if heard.failures.is_empty() { last } else { heard.failures };
        let needs = match step.needs {
            "" => String::new(),
            needs => format!("; it needs {needs}"),
        };
        shortfall.push(format!("'{}' ended with {status}{needs}", step.command.join(" ")));
    }
    Ok(())
}

/// The output of a step until now.
#[derive(Default)]
struct Heard {
    /// The running test target.
    target: String,
    /// The target that ran in Miri, and its number of seeds.
    miri: String,
    seeds: u32,
    /// Targets that have passed a test.
    passed: Vec<String>,
    /// Beginnings of lines that were not heard yet, with a number as large as it must be.
    at_least: Vec<(&'static str, usize)>,
    shortfall: Vec<String>,
    last: VecDeque<String>,
    /// The output of failed tests: what cargo prints between `failures:` and the result.
    failures: Vec<String>,
    in_failures: bool,
    in_backtrace: bool,
    /// cargo is listing the targets that failed.
    in_targets: bool,
}

impl Heard {
    fn line(&mut self, line: &str) -> Option<Row> {
        self.in_failures |= line == "failures:";
        self.in_failures &= !line.starts_with("test result: ");
        self.in_backtrace |= line == "stack backtrace:";
        self.in_backtrace &= line.starts_with("  ") || line == "stack backtrace:";
        if self.in_failures && !self.in_backtrace && self.failures.len() < FAILURE_LINES {
            self.failures.push(line.to_owned());
        }
        // Another thread may have begun the line.
        self.at_least.retain(|(what, least)| number_after(line, what).is_none_or(|n| n < *least));
        if let Some(path) = line.trim().strip_prefix("Running ") {
            self.target = target_of(path).to_owned();
        }
        if let Some(what) = line.strip_prefix("miri: ") {
            self.miri = what.to_owned();
            self.seeds += 1;
        }
        if let Some(result) = line.strip_prefix("test result: ok. ") {
            let (count, time) = (result.split(';').next()?, result.rsplit(' ').next()?);
            if count == "0 passed" {
                return None;
            }
            self.passed.push(self.target.clone());
            let (what, extent) = (format!("test {}", self.target), format!("{count} in {time}"));
            return Some(Row { what, extent });
        }
        // A test's line may be broken by what another process prints, so cargo's list of failed
        // targets counts, too.
        self.in_targets &= line.starts_with("    `");
        if self.in_targets
            || line.ends_with("... FAILED")
            || line.starts_with("SUMMARY: ")
            || line.contains("process didn't exit successfully: ")
        {
            self.shortfall.push(line.trim().to_owned());
        }
        self.in_targets |= line.starts_with("error: ") && line.ends_with(" failed:");
        match row(line)? {
            Ok(row) => Some(row),
            Err(error) => {
                self.shortfall.push(error);
                None
            }
        }
    }
}

/// Returns the number that follows `what` in the line.
fn number_after(line: &str, what: &str) -> Option<usize> {
    line.split_once(what)?.1.split(' ').next()?.parse().ok()
}

/// Returns the file of a test target in cargo's
/// `tests/death.rs (target/debug/deps/death-7ddad5ec1fa2)`.
fn target_of(running: &str) -> &str {
    let file = running.split(" (").next().unwrap_or_default();
    file.strip_prefix("unittests ").unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_says_why_it_is_skipped_falls_not_short() {
        let at_least: &[(&str, usize)] = &[("tests: ", 5)];
        let step = |command| Step {
            at_least,
            skipped: Some("SKIPPED: machines: "),
            ..Step::new(crate::Name::Machines, "machines", command)
        };
        for (command, shortfall, is_skipped) in [
            ("echo tests: 5", 0, false),
            ("echo SKIPPED: machines: no linker", 0, true),
            ("echo SKIPPED: one test", 1, false),
            ("echo tests: 4", 1, false),
            ("false", 2, false),
        ] {
            let outcome = run(&step(command), &MultiProgress::new());
            let found = (outcome.shortfall.len(), outcome.is_skipped);
            assert_eq!(found, (shortfall, is_skipped), "{command}");
        }
    }

    #[test]
    fn a_failed_target_is_named_though_its_test_is_not() {
        let mut heard = Heard::default();
        for line in [
            "test a ... what a child printsFAILED",
            "error: 1 target failed:",
            "    `--test a`",
            "",
        ] {
            heard.line(line);
        }
        heard.line("    `--test b`");
        assert_eq!(heard.shortfall, ["`--test a`"]);
    }

    #[test]
    fn a_number_that_has_fallen_is_not_enough() {
        let mut heard = Heard { at_least: vec![("axioms edges: ", 21)], ..Heard::default() };
        heard.line("axioms edges: 20 edges, 5 models");
        assert_eq!(heard.at_least.len(), 1);
        heard.line("test a ... axioms edges: 21 edges, 5 models");
        assert!(heard.at_least.is_empty());
    }
}

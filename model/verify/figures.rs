//! The figures of a run that every other run must find, too.

use super::extent::Row;

/// A row of the record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Figure {
    pub step: String,
    /// The test target, without its folder if it is a model.
    pub target: String,
    pub what: String,
    pub extent: String,
}

/// What a run finds anew each time, by the end of a part: how much random schedules have done.
const RANDOM: &[&str] = &[" actions", " buses", " inputs"];

/// Returns the part of a row that every run finds, if there is one. Times, and numbers that depend on
/// random schedules or on the speed of processes, are left out.
pub fn figure(step: &str, target: &str, row: &Row) -> Option<Figure> {
    let Row { what, extent } = row;
    let (is_test, is_machine) = (what.starts_with("test "), what.starts_with("machines "));
    // Several machines run the same targets, and say how many tests they have run in all. Two
    // threads look for the harm that a broken program does, so each run may find another one.
    let is_said_elsewhere = step == "machines" && !is_machine || what.contains("canary ");
    if is_said_elsewhere || what.starts_with("SKIPPED") {
        return None;
    }
    let parts: Vec<_> = extent.split(", ").filter_map(|part| fixed(part, extent)).collect();
    let extent = parts.join(", ");
    let what = if is_test { "tests" } else { what };
    let target = if target.is_empty() { step } else { short(target) };
    (!extent.is_empty()).then(|| Figure {
        step: step.to_owned(),
        target: target.to_owned(),
        what: what.to_owned(),
        extent,
    })
}

/// Returns the part of an extent without what differs between runs.
fn fixed(part: &str, extent: &str) -> Option<String> {
    let part = without_time(part)?;
    // Several threads share a cut. They reach other states each time.
    let is_cut = extent.starts_with("cut at") && part.ends_with(" states");
    if is_cut || RANDOM.iter().any(|end| part.ends_with(end)) {
        return None;
    }
    if let Some((killer, _)) = part.strip_prefix("killed by ").and_then(|by| by.split_once(' ')) {
        return Some(format!("killed by {killer}"));
    }
    // Several seeds run at a time, and the first one that fails is named.
    if part.starts_with("seed ") {
        return None;
    }
    if part.starts_with("SIGKILL at each of ") {
        return Some("SIGKILL at each step".to_owned());
    }
    // Random schedules decide how many writes a process makes.
    if part.starts_with("death after each of ") && extent.contains("schedules") {
        return Some("death after each write".to_owned());
    }
    Some(part.to_owned())
}

/// Returns `what` of `what in 1.2 s`. Returns `None` if there is only a time.
fn without_time(part: &str) -> Option<&str> {
    let is_time =
        |text: &str| text.strip_suffix('s').is_some_and(|n| n.trim().parse::<f64>().is_ok());
    match part.rsplit_once(" in ") {
        Some((what, time)) if is_time(time) => Some(what),
        _ => (!is_time(part)).then_some(part),
    }
}

/// Returns `loom` for `model/loom/main.rs`, and `tests/death` for `tests/death.rs`.
fn short(target: &str) -> &str {
    let target = target.strip_prefix("model/").unwrap_or(target);
    target.trim_end_matches(".rs").trim_end_matches("/main")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::row;

    fn of(step: &str, target: &str, line: &str) -> Option<String> {
        let figure = figure(step, target, &row(line)?.ok()?)?;
        Some(format!("{}, {}: {}", figure.target, figure.what, figure.extent))
    }

    #[test]
    fn what_every_run_finds_is_kept() {
        let of = |line| of("tests", "model/loom/main.rs", line).unwrap();
        for (line, kept) in [
            ("model a: exhaustive, 15 executions in 0.00 s", "model a: exhaustive, 15 executions"),
            (
                "model a: at most 3 preemptions, 1,015 executions in 0.1 s, loom keeps 7 of 9 values of a word",
                "model a: at most 3 preemptions, 1,015 executions, loom keeps 7 of 9 values of a word",
            ),
            (
                "model a: death after each of 23 writes, exhaustive, 52 executions in 0.1 s",
                "model a: death after each of 23 writes, exhaustive, 52 executions",
            ),
            (
                "spec a: every run ends, exhaustive, 1,015 states in 0.1 s",
                "spec a: every run ends, exhaustive, 1,015 states",
            ),
            ("mutants: 39 killed, 1 equivalent, 7.6 s", "mutants: 39 killed, 1 equivalent"),
        ] {
            assert_eq!(of(line), format!("loom, {kept}"));
        }
    }

    #[test]
    fn what_runs_find_anew_is_left_out() {
        let of = |line| of("tests", "tests/crash/main.rs", line);
        for (line, kept) in [
            (
                "spec a: cut at 1,000 transitions, 268 states in 1.8 s",
                Some("spec a: cut at 1,000 transitions"),
            ),
            (
                "spec refined by a: 2000 schedules, 187 actions in 0.1 s",
                Some("spec refined by a: 2000 schedules"),
            ),
            (
                "spec refined by programs: 10 programs, 27 buses, 76 actions in 3.1 s",
                Some("spec refined by programs: 10 programs"),
            ),
            (
                "crash a: SIGKILL at each of 315 steps of 41 kinds, 4.8 s",
                Some("crash a: SIGKILL at each step"),
            ),
            (
                "model a: death after each of 182 writes, 80 random and 80 priority schedules each, 1.50 s",
                Some("model a: death after each write, 80 random and 80 priority schedules each"),
            ),
            (
                "mutant a as Relaxed   killed by b   2 executions   0.1 s",
                Some("mutant a as Relaxed: killed by b"),
            ),
            (
                "mutant a as Relaxed    killed by Miri, seed 15 of 16 (chain)  a data race",
                Some("mutant a as Relaxed: killed by Miri"),
            ),
            ("spec canary NoRing: P10: it sleeps, and a message is there (0.0 s)", None),
            ("stat::number_of_executed_units: 42", None),
            ("SKIPPED: this needs two processors, and there is one", None),
        ] {
            assert_eq!(of(line), kept.map(|kept| format!("tests/crash, {kept}")), "{line}");
        }
    }

    #[test]
    fn a_machine_says_how_many_tests_it_has_run() {
        let line = "machines s390x, pages of 4096: 160 tests in qemu-user";
        let kept = "tests/chain, machines s390x, pages of 4096: 160 tests in qemu-user";
        assert_eq!(of("machines", "tests/chain.rs", line).as_deref(), Some(kept));
        let row = Row { what: "test tests/chain.rs".into(), extent: "4 passed in 0.1s".into() };
        assert_eq!(figure("machines", "tests/chain.rs", &row), None);
        let figure = figure("tests", "tests/chain.rs", &row).unwrap();
        assert_eq!((&*figure.what, &*figure.extent), ("tests", "4 passed"));
    }
}

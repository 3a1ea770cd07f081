//! Runs all verification of the library and prints one table of what was explored, and how far.
//! Compares the figures that every run must find with their record, `docs/figures.md`.
//!
//! `cargo verify` is an alias for it. It ends with status 1 if anything falls short: a failed test,
//! a model without an extent, a finding of a fuzzer, a missing tool, a figure unlike its record.

mod edge;
mod extent;
mod figures;
#[path = "../grouped.rs"]
mod grouped;
mod record;
mod run;
mod steps;
mod totals;

use clap::{Parser, ValueEnum};
use indicatif::{HumanDuration, MultiProgress};
use record::{Figures, Ran};
use run::{Outcome, run};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;
use steps::Step;

/// Verifies the library and prints what was explored, how far.
///
/// Examples:
///   cargo verify                  every test, model and fuzz seed; each fuzzer for 20 s
///   cargo verify --full           the same further, for about two hours; and with more tools
///   cargo verify --only fuzz      one step
///   cargo verify --record         writes the figures found to docs/figures.md
#[derive(Parser)]
#[command(name = "cargo verify", verbatim_doc_comment)]
struct Arguments {
    /// About 20 minutes on two processors. This is the default
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Larger specification, more schedules, more preemptions, longer fuzzing, sanitizers
    #[arg(long)]
    full: bool,
    /// Only these steps
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Name>,
    /// How long each fuzz target runs, in seconds
    #[arg(long, value_name = "SECONDS")]
    fuzz_seconds: Option<u32>,
    /// Write the figures of these steps to docs/figures.md, instead of comparing them with it
    #[arg(long)]
    record: bool,
}

/// The steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// All tests: unit tests, real processes, loom, shuttle, the specification, death at every
    /// step, the fuzzers' seeds.
    Tests,
    /// The protocol's edges under the axioms of C11 and Armv8.
    Axioms,
    /// Tests on aarch64 and on s390x, under an emulator, and one bus of all machines.
    Machines,
    /// The fuzz targets, with AddressSanitizer.
    Fuzz,
    /// The protocol over memory of the heap, with Miri.
    Miri,
    /// The tests with threads, with ThreadSanitizer. Only in the full run.
    Threads,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let start = Instant::now();
    let mut steps = steps::steps(arguments.full, arguments.fuzz_seconds);
    steps.retain(|step| arguments.only.is_empty() || arguments.only.contains(&step.name));
    if steps.is_empty() {
        eprintln!("nothing to do: this step is part of --full alone");
        return ExitCode::from(2);
    }
    println!("| step | what | edge | extent |\n|---|---|---|---|");
    let progress = MultiProgress::new();
    let (tests, others): (Vec<_>, Vec<_>) =
        steps.into_iter().partition(|step| step.name == Name::Tests);
    let (fuzz, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|step| step.name == Name::Fuzz);
    // Tests measure times, so nothing runs beside them. A fuzz target uses one processor.
    let mut ended = run_each(tests, &progress);
    thread::scope(|scope| {
        let fuzz = scope.spawn(|| run_each(fuzz, &progress));
        ended.extend(run_each(others, &progress));
        ended.extend(fuzz.join().expect("a step does not panic"));
    });

    let (mut shortfalls, mut failures, mut skipped) = (Vec::new(), Vec::new(), String::new());
    let (mut found, mut passed) = (Figures::new(), Vec::new());
    for (label, Outcome { shortfall, failure, is_skipped, figures, .. }) in ended {
        if is_skipped {
            skipped += &format!(", {label} SKIPPED");
        } else if shortfall.is_empty() {
            found.extend(figures);
            passed.push(label.clone());
        }
        shortfalls.extend(shortfall.into_iter().map(|what| format!("{label}: {what}")));
        if !failure.is_empty() {
            failures.push(format!("{label} failed:\n{}", failure.join("\n")));
        }
    }
    let ran = Ran { full: arguments.full, steps: &passed };
    match record::settle(&found, &ran, arguments.record) {
        Ok(differences) => shortfalls.extend(differences),
        Err(error) => shortfalls.push(format!("{}: {error}", record::PATH)),
    }
    // Once more, where the end of a long output is read.
    println!("\n{}", failures.join("\n"));
    for shortfall in &shortfalls {
        println!("falls short: {shortfall}");
    }
    let verdict = verdict(shortfalls.is_empty());
    println!("{verdict} in {}{skipped}", HumanDuration(start.elapsed()));
    if shortfalls.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the steps one after the other. Returns each one's label and what came of it.
fn run_each(steps: Vec<Step>, progress: &MultiProgress) -> Vec<(String, Outcome)> {
    let run = |step: Step| {
        let outcome = run(&step, progress);
        let is_good = outcome.shortfall.is_empty();
        let verdict = if outcome.is_skipped { "SKIPPED" } else { verdict(is_good) };
        progress.suspend(|| {
            println!("| {} | in all | | {verdict} in {:.0} s |", step.label, outcome.seconds);
            if !outcome.failure.is_empty() {
                eprintln!("{} failed:\n{}", step.label, outcome.failure.join("\n"));
            }
        });
        (step.label, outcome)
    };
    steps.into_iter().map(run).collect()
}

fn verdict(is_good: bool) -> &'static str {
    if is_good { "everything holds" } else { "falls short" }
}

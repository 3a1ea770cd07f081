//! The number of instructions of an operation. A busy machine does not change this figure, and
//! every change of the data path shows in it.
//!
//! `cargo benchmark instructions` runs this program under valgrind's callgrind, twice for each
//! operation with different repetition counts. The difference belongs to the operations alone. A
//! figure that differs from `instructions.json` by more than the tolerance is a failure. `--record`
//! rewrites the file.

mod operations;

use anyhow::{Context, Result, bail};
use operations::{OPERATIONS, Operation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::Command;

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");
/// A larger relative change must be recorded as intended.
const TOLERANCE: f64 = 0.05;
/// The C library's copy for any machine, instead of the best one for this machine.
const TUNABLES: &str =
    "glibc.cpu.hwcaps=-AVX512VL,-AVX512F,-AVX2,-AVX,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM";

/// The committed figures.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The compiler and the machine of the record.
    compiler: String,
    /// Instructions per operation.
    instructions: BTreeMap<String, f64>,
}

/// Counts all operations and compares them with the record, or writes it.
pub fn run(record: bool) -> Result<()> {
    println!("{:<34} {:>12} {:>10} {:>8}", "operation", "instructions", "recorded", "change");
    let recorded = if record { None } else { Some(read()?) };
    let mut counted = BTreeMap::new();
    for operation in OPERATIONS {
        let found = count(operation)?;
        counted.insert(operation.name.to_owned(), (found * 10.0).round() / 10.0);
        let expected = recorded.as_ref().and_then(|r| r.instructions.get(operation.name));
        let expected_text = expected.map_or("-".into(), |n| format!("{n:.1}"));
        let change = expected.map_or("-".into(), |n| format!("{:+.1} %", (found / n - 1.0) * 1e2));
        println!("{:<34} {found:>12.1} {expected_text:>10} {change:>8}", operation.name);
    }
    let Some(recorded) = recorded else {
        let record = Record { compiler: compiler(), instructions: counted };
        let text = serde_json::to_string_pretty(&record)? + "\n";
        return std::fs::write(RECORD, text).context(RECORD);
    };
    let complaints = judge(&counted, &recorded.instructions);
    if complaints.is_empty() {
        return Ok(());
    }
    let here = compiler();
    let other = match here == recorded.compiler {
        true => String::new(),
        false => format!("\nrecorded with {}; this is {here}", recorded.compiler),
    };
    bail!(
        "{}{other}\nif that is meant: cargo benchmark instructions --record",
        complaints.join("\n")
    )
}

/// Returns the differences from the record.
fn judge(counted: &BTreeMap<String, f64>, recorded: &BTreeMap<String, f64>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, found) in counted {
        match recorded.get(name) {
            None => complaints.push(format!("{name}: not recorded")),
            Some(expected) if (found / expected - 1.0).abs() <= TOLERANCE => {}
            Some(expected) => {
                let verb = if found > expected { "has grown" } else { "has shrunk" };
                complaints.push(format!("{name} {verb}: {found:.1} instead of {expected:.1}"));
            }
        }
    }
    let gone = recorded.keys().filter(|name| !counted.contains_key(*name));
    complaints.extend(gone.map(|name| format!("{name}: recorded, and not counted any more")));
    complaints
}

fn read() -> Result<Record> {
    let text = std::fs::read_to_string(RECORD).context(RECORD)?;
    serde_json::from_str(&text).context(RECORD)
}

/// Performs one operation `times` times, for callgrind.
pub fn play(name: &str, times: usize) -> Result<()> {
    let operation = OPERATIONS.iter().find(|operation| operation.name == name);
    (operation.with_context(|| format!("no operation {name:?}"))?.perform)(times)
}

/// Instructions per operation.
fn count(operation: &Operation) -> Result<f64> {
    let [few, many] = operation.times;
    let difference = total(operation, many)?.saturating_sub(total(operation, few)?);
    Ok(difference as f64 / (many - few) as f64)
}

/// Returns the instructions of a whole process that performs the operation `times` times.
fn total(operation: &Operation, times: usize) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["operation", operation.name, &times.to_string()])
        .env("GLIBC_TUNABLES", TUNABLES)
        .output()
        .context("cannot start valgrind; on Debian: apt-get install valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}: {}\n{said}", operation.name, output.status);
    }
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let collected = collected.and_then(|(_, number)| number.trim().parse().ok());
    collected.with_context(|| format!("callgrind has not said what it counted:\n{said}"))
}

fn compiler() -> String {
    let asked = Command::new("rustc").arg("--version").output();
    let version = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{}, {}", version.unwrap_or_else(|_| "rustc".into()), std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(figures: &[(&str, f64)]) -> BTreeMap<String, f64> {
        figures.iter().map(|(name, n)| (name.to_string(), *n)).collect()
    }

    #[test]
    fn every_difference_from_the_record_is_reported() {
        let recorded = figures(&[("a", 100.0), ("b", 100.0), ("c", 100.0), ("gone", 1.0)]);
        let counted = figures(&[("a", 104.9), ("b", 105.1), ("c", 94.9), ("new", 1.0)]);
        let complaints = judge(&counted, &recorded);
        assert_eq!(
            complaints,
            [
                "b has grown: 105.1 instead of 100.0",
                "c has shrunk: 94.9 instead of 100.0",
                "new: not recorded",
                "gone: recorded, and not counted any more",
            ]
        );
        assert!(judge(&recorded, &recorded).is_empty());
    }
}

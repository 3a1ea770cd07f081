//! The soak kills and stops the processes of a bus, and finds nothing wrong.

use crate::{Process, kill, llmp};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

fn soak(home: &Path, arguments: &[&str]) -> Command {
    let mut command = llmp(&["soak"]);
    command.args(arguments).env("TMPDIR", home);
    command
}

/// Returns the number in front of `what` in the report.
fn number(report: &str, what: &str) -> u64 {
    let before = report.split(what).next().unwrap().trim_end();
    before.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{what}: {report}"))
}

#[test]
fn a_short_soak_kills_brokers_and_clients_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["--minutes", "0.1", "--clients", "5", "--seed", "7"];
    let output = Process::start(&mut soak(home.path(), &arguments)).output();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(report.contains("none lost, repeated, reordered or corrupt\n"), "{report}");
    for what in [" clients, ", " serving brokers", " messages by"] {
        assert!(number(&report, what) >= 10, "{what}: {report}");
    }
    assert!(stderr.starts_with("llmp: seed 7: 5 clients and 3 brokers for 6 s"), "{stderr}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_process_that_ends_by_itself_fails_the_soak_which_keeps_its_evidence() {
    let home = tempfile::tempdir().unwrap();
    let mut soak = Process::start(&mut soak(home.path(), &["--seed", "7"]));
    let mut stderr = BufReader::new(soak.child().stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    // A process that the soak does not expect to end: the witness, which it starts first.
    let children = format!("/proc/{0}/task/{0}/children", soak.child().id());
    let witness = loop {
        let children = std::fs::read_to_string(&children).unwrap();
        if let Some(first) = children.split_whitespace().next() {
            break first.parse().unwrap();
        }
    };
    kill(witness, Signal::KILL);
    let mut last = String::new();
    stderr.lines().for_each(|line| last = line.unwrap());
    assert!(last.contains("process 0 (") && last.contains("signal: 9"), "{last}");
    assert!(last.ends_with("and --seed 7 makes the same choices again"), "{last}");
    let output = soak.output();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let evidence = std::fs::read_dir(home.path()).unwrap().next().unwrap().unwrap().path();
    for name in ["events.log", "processes.log"] {
        assert!(evidence.join(name).exists(), "{name}");
    }
    assert!(last.contains(evidence.to_str().unwrap()), "{last}");
}

#[test]
fn an_interrupted_soak_says_how_far_it_was() {
    let home = tempfile::tempdir().unwrap();
    let mut soak = Process::start(&mut soak(home.path(), &["--seed", "7"]));
    let mut stderr = BufReader::new(soak.child().stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    soak.signal(Signal::INT);
    let last = stderr.lines().last().unwrap().unwrap();
    assert!(last.starts_with("llmp: interrupted after "), "{last}");
    assert_eq!(soak.output().status.code(), Some(130));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is left");
}

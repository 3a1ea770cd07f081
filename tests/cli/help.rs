//! Each command in each `--help` runs as it stands there.

use crate::{Process, llmp};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The examples in the help of a command: its indented lines that call `llmp`.
fn examples(of: &[&str]) -> Vec<String> {
    let help = Process::start(&mut llmp(of)).stdout();
    let help = String::from_utf8(help).unwrap();
    let (_, help) = help.split_once("Examples").expect("examples");
    let lines = help.lines().filter(|line| line.starts_with("  ") && line.contains("llmp "));
    lines.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn every_example_of_every_help_runs() {
    let mut all = examples(&["--help"]);
    for command in ["broker", "send", "recv", "stop", "demo"] {
        all.extend(examples(&[command, "--help"]));
    }
    all.sort();
    all.dedup();
    assert!(all.len() > 12, "{all:?}");
    for example in all {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let documents = at("home/Documents");
        std::fs::create_dir_all(&documents).unwrap();
        std::fs::create_dir(at("bin")).unwrap();
        for file in ["app.log", "notes.txt", "film.mkv", "home/Documents/letter"] {
            std::fs::write(at(file), "some text\n").unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_llmp"), at("bin/llmp")).unwrap();
        let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap());
        let in_place = |command: &mut Command| {
            command.current_dir(place.path()).env("XDG_RUNTIME_DIR", place.path());
            command.env("HOME", at("home")).env("PATH", &path);
        };
        std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        let mut helpers = Vec::new();
        if !example.starts_with("llmp broker") && !example.starts_with("llmp demo") {
            for bus in ["logs", "control", "video"] {
                let mut command = llmp(&["broker", bus, "--ready-fd", "1"]);
                in_place(&mut command);
                let mut broker = Process::start(&mut command);
                let mut line = String::new();
                let stdout = broker.child().stdout.take().unwrap();
                std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)
                    .unwrap();
                // As many receivers as the examples wait for.
                for _ in 0..3 {
                    let mut command = llmp(&["recv", bus]);
                    in_place(&mut command);
                    helpers.push(Process::start(&mut command));
                }
                helpers.push(broker);
            }
        }
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &example])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        in_place(&mut shell);
        // A group of its own, so that what serves or follows can be ended with its pipe.
        std::os::unix::process::CommandExt::process_group(&mut shell, 0);
        let mut running = Process::start(&mut shell);
        let began = Instant::now();
        let serves = ["llmp broker", "llmp recv", "tail "].iter().any(|it| example.starts_with(it));
        let patience = Duration::from_secs(if serves { 1 } else { 60 });
        while running.child().try_wait().unwrap().is_none() && began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = running.child().try_wait().unwrap();
        if ended.is_none() {
            let group = rustix::process::Pid::from_raw(running.child().id() as i32).unwrap();
            rustix::process::kill_process_group(group, rustix::process::Signal::TERM).unwrap();
        }
        let output = running.output();
        let said = String::from_utf8_lossy(&output.stderr);
        match ended {
            Some(status) => assert_eq!(status.code(), Some(0), "{example}: {said}"),
            None => assert!(serves, "{example} does not end: {said}"),
        }
        assert!(!said.contains("see: llmp"), "{example}: {said}");
    }
}

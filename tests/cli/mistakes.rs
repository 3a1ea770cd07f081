//! An impossible request fails with one line that names the remedy.

use crate::{Bus, Process, llmp, only_line};

fn mistake(arguments: &[&str], status: i32) -> String {
    only_line(&Process::start(&mut llmp(arguments)).output(), status)
}

#[test]
fn a_missing_bus_names_the_command_that_starts_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none").to_str().unwrap().to_owned();
    for command in ["send", "recv"] {
        let line = mistake(&[command, &path], 2);
        assert!(line.contains(&format!("llmp broker {path}")), "{line}");
    }
}

#[test]
fn a_second_broker_is_refused_and_the_first_one_goes_on() {
    let mut bus = Bus::new();
    let line = mistake(&["broker", &bus.path], 2);
    assert!(line.contains("already a broker at"), "{line}");
    let receiver = bus.recv(&["--count", "1"]);
    bus.send(&bus.file("input", b"still here\n"), &["--lines"]).stdout();
    assert_eq!(receiver.stdout(), b"still here\n");
    bus.end();
}

#[test]
fn wrong_options_are_said_with_where_to_get_help() {
    let line = mistake(&["recv", "bus", "--cuont", "3"], 2);
    assert!(line.contains("'--cuont'") && line.contains("see: llmp recv --help"), "{line}");
    for wrong in [
        &["send", "bus", "--lines", "--chunk", "3"][..],
        &["send", "bus", "--chunk", "0"],
        &["send", "bus", "--timeout", "-1"],
        &["send", ""],
        &["recv"],
        &["recv", "bus", "--format", "xml"],
        &["broker", "bus", "--page-len", "1XiB"],
        &["broker", "bus", "--access", "root"],
        &["broker", "bus", "--max-clients", "0"],
        &["broker", "bus", "--page-len", "5"],
        &["broker", "bus", "--max-message-len", "1MiB", "--chain-budget", "1MiB"],
        &["broker", "/nonexistent/directory/bus"],
        &["demo", "/nonexistent/directory"],
        &["nonsense"],
    ] {
        mistake(wrong, 2);
    }
}

#[test]
fn a_refused_client_prints_the_reason() {
    let bus = Bus::with(&["--max-clients", "1", "--access", "same-user"]);
    let file = bus.file("input", b"x\n");
    let mut first = bus.send(&file, &[]);
    let mut stderr = std::io::BufReader::new(first.child().stderr.take().unwrap());
    // It is connected when it reports that it waits.
    std::io::BufRead::read_line(&mut stderr, &mut String::new()).unwrap();
    // It may be refused before or after its first packet.
    for _ in 0..20 {
        let line = mistake(&["recv", &bus.path], 2);
        assert!(line.contains("refused"), "{line}");
    }
}

#[test]
fn messages_above_the_limit_are_said_with_their_place() {
    let bus = Bus::with(&["--page-len", "4KiB", "--max-message-len", "1000"]);
    let line = [&[b'x'; 1000][..], b"\n"].concat();
    let file = bus.file("input", &[&line[..], b"x", &line].concat());
    // This receiver stays, so that the sender reports nothing about receivers.
    let mut receiver = llmp::Client::connect_receiver(bus.path.as_str()).unwrap();
    let said = only_line(&bus.send(&file, &["--lines"]).output(), 1);
    assert!(said.contains("line 2 of standard input is above the limit of 1000 bytes"), "{said}");
    let received = receiver.recv_timeout(crate::TIMEOUT).unwrap().expect("a message");
    assert_eq!(received.payload, &line[..1000]);
    drop(receiver);
    let said = only_line(&bus.send(&file, &["--chunk", "1001"]).output(), 2);
    assert!(said.contains("--max-message-len"), "{said}");
    let said = only_line(&bus.send(&file, &["--receivers", "0", "/nonexistent"]).output(), 1);
    assert!(said.contains("cannot read /nonexistent"), "{said}");
}

#[test]
fn help_and_version_are_there_for_every_command() {
    for command in ["broker", "send", "recv", "demo"] {
        let help = Process::start(&mut llmp(&[command, "--help"])).stdout();
        assert!(
            String::from_utf8(help).unwrap().contains(&format!("\n  llmp {command}")),
            "{command}"
        );
    }
    let version = Process::start(&mut llmp(&["--version"])).stdout();
    assert_eq!(version, format!("llmp {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    let help = String::from_utf8(Process::start(&mut llmp(&["--help"])).stdout()).unwrap();
    assert!(help.contains("llmp broker logs") && !help.contains("demo-client"), "{help}");
}

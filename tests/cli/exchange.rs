//! Sent bytes arrive unchanged.

use crate::{Bus, Process, llmp, noise};
use std::fs::File;
use std::path::Path;

/// Lines of any bytes, among them empty ones.
fn binary_lines(count: usize) -> Vec<u8> {
    let noise = noise(40 * count);
    let mut lines = Vec::new();
    for (i, bytes) in noise.chunks(40).enumerate() {
        lines.extend(bytes[..i % 40].iter().map(|b| if *b == b'\n' { 0xff } else { *b }));
        lines.push(b'\n');
    }
    lines
}

#[test]
fn two_terminals_exchange_lines_and_lose_none() {
    let mut bus = Bus::new();
    let text: String = (0..10_000).map(|i| format!("line {i} of ten thousand\n")).collect();
    let binary = binary_lines(10_000);
    let text_file = bus.file("text", text.as_bytes());
    let binary_file = bus.file("binary", &binary);
    let both = ["--lines", "--receivers", "2", "--tag"];
    let receivers = ["1", "2"].map(|tag| bus.recv(&["--tag", tag, "--count", "10000"]));
    let senders = [(text_file, "1"), (binary_file, "2")]
        .map(|(file, tag)| bus.send(&file, &[&both[..], &[tag]].concat()));
    for sender in senders {
        sender.stdout();
    }
    let [first, second] = receivers.map(|receiver| receiver.stdout());
    assert!(first == text.as_bytes());
    assert!(second == binary);
    let summary = bus.end();
    assert!(summary.contains("clients 4, messages 20000 ("), "{summary}");
    assert!(summary.contains("faults 0, refused 0"), "{summary}");
}

#[test]
fn a_receiver_and_a_sender_that_start_together_lose_nothing() {
    let bus = Bus::new();
    let file = bus.file("input", b"one\ntwo\n\nlast, without a newline");
    for _ in 0..20 {
        let receiver = bus.recv(&["--count", "4"]);
        bus.send(&file, &["--lines"]).stdout();
        assert_eq!(receiver.stdout(), b"one\ntwo\n\nlast, without a newline\n");
    }
}

/// Returns the output of a raw receiver for this input.
fn restored(bus: &mut Bus, file: &Path, options: &[&str]) -> Vec<u8> {
    let path = bus.dir.path().join("restored");
    let mut command = llmp(&["recv", &bus.path, "--format", "raw"]);
    let receiver = Process::start(command.stdout(File::create(&path).unwrap()));
    bus.send(file, options).stdout();
    bus.end();
    receiver.stdout();
    std::fs::read(path).unwrap()
}

#[test]
fn raw_restores_a_file_however_it_was_cut() {
    // More than the whole bus's memory, so that the sender has to wait for the receiver.
    let content = noise(25_000_001);
    let files = Bus::new();
    let file = files.file("file", &content);
    for options in [&[][..], &["--chunk", "1MiB"], &["--chunk", "777"]] {
        let mut bus = Bus::new();
        assert!(restored(&mut bus, &file, options) == content, "{options:?}");
    }
    let path = file.to_str().unwrap();
    let options = [path, "-", path];
    assert!(restored(&mut Bus::new(), &file, &options) == content.repeat(3));
}

#[test]
fn json_tells_everything_about_a_message() {
    let bus = Bus::new();
    let file = bus.file("input", b"text \"quoted\"\n\xff\x00\n");
    let receiver = bus.recv(&["--count", "2", "--format", "json"]);
    bus.send(&file, &["--lines", "--tag", "77"]).stdout();
    let stdout = String::from_utf8(receiver.stdout()).unwrap();
    let [text, binary] = &stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    let text: serde_json::Value = serde_json::from_str(text).unwrap();
    let binary: serde_json::Value = serde_json::from_str(binary).unwrap();
    assert_eq!(text["payload"], "text \"quoted\"");
    assert_eq!((&text["tag"], &text["len"]), (&77.into(), &13.into()));
    assert_eq!(binary["payload_hex"], "ff00");
    assert_eq!(binary["sender"], text["sender"]);
    assert_eq!(binary["id"].as_u64(), text["id"].as_u64().map(|id| id + 1));
}

#[test]
fn only_messages_with_the_tag_are_written() {
    let bus = Bus::new();
    let wrong = bus.file("wrong", b"wrong\n");
    let right = bus.file("right", b"right\n");
    let receiver = bus.recv(&["--tag", "2", "--count", "1"]);
    bus.send(&wrong, &["--lines", "--tag", "1"]).stdout();
    bus.send(&right, &["--lines", "--tag", "2", "--receivers", "0"]).stdout();
    assert_eq!(receiver.stdout(), b"right\n");
}

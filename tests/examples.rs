//! Runs the examples. `tests/fork` runs the fork server.
#![allow(dead_code, reason = "a test calls a part of each example")]

#[path = "../examples/channel_to_child.rs"]
mod channel_to_child;
#[path = "../examples/chat.rs"]
mod chat;
#[path = "../examples/poll_loop.rs"]
mod poll_loop;
#[path = "../examples/pubsub.rs"]
mod pubsub;

use std::io::{BufReader, Write};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

/// Not a test: the child process of an example begins here.
#[test]
fn child() {
    if std::env::var_os("LLMP_EXAMPLE_IS_CHILD").is_some() {
        channel_to_child::child().unwrap();
    }
}

#[test]
fn a_channel_reaches_a_child_process() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    channel_to_child::send_to(command.args(["--exact", "child", "--nocapture"])).unwrap();
}

/// Hands each line on.
struct Lines(Sender<String>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // The test may be over.
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_chat_shows_each_what_the_other_writes() {
    let dir = tempfile::tempdir().unwrap();
    let bus = dir.path().join("chat.sock");
    let start = |name: &'static str| {
        let (bus, (shown, lines)) = (bus.clone(), channel());
        let (input, end) = std::io::pipe().unwrap();
        let chat = std::thread::spawn(move || {
            chat::chat(&bus, name, BufReader::new(input), Lines(shown)).unwrap();
        });
        (chat, end, lines)
    };
    let says = |lines: &std::sync::mpsc::Receiver<String>, text: &str| {
        let mut seen = String::new();
        while !seen.contains(text) {
            seen += &lines.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        }
    };
    let (ann, mut ann_types, ann_sees) = start("ann");
    let (bob, mut bob_types, bob_sees) = start("bob");
    // Bob may join after Ann's first lines.
    let mut is_heard = false;
    while !is_heard {
        ann_types.write_all(b"hello\n").unwrap();
        let seen = bob_sees.recv_timeout(std::time::Duration::from_millis(50));
        is_heard = seen.is_ok_and(|seen| seen.contains("ann"));
    }
    bob_types.write_all(b"good morning\n").unwrap();
    says(&ann_sees, "bob: good morning");
    drop(bob_types);
    bob.join().unwrap();
    drop(ann_types);
    ann.join().unwrap();
}

#[test]
fn subscribers_get_their_topics() {
    let received: Vec<Vec<String>> =
        pubsub::publish().unwrap().into_iter().map(|(_, received)| received).collect();
    assert_eq!(received, [["rain", "sun"], ["42", "43"]]);
}

#[test]
fn an_event_loop_gets_messages_and_bytes() {
    assert_eq!(poll_loop::receive().unwrap(), (1000, 40));
}

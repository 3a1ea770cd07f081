//! Life before and after the other side: waiting for a bus, going over to the next broker, the end
//! of a transfer; and that a status of 0 means that all was done.

use crate::{Bus, Process, broker, llmp, noise, only_line};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn place() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    (dir, path)
}

fn line_of(process: &mut Process) -> String {
    let mut stderr = BufReader::new(process.child().stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    process.child().stderr = Some(stderr.into_inner());
    line
}

#[test]
fn commands_wait_for_their_broker_on_request() {
    let (dir, path) = place();
    let receiver = Process::start(&mut llmp(&["recv", &path, "--wait", "--count", "1"]));
    let input = dir.path().join("input");
    std::fs::write(&input, "early\n").unwrap();
    let input = std::fs::File::open(input).unwrap();
    let sender = Process::start(llmp(&["send", &path, "--wait=60", "--lines"]).stdin(input));
    let line = only_line(&Process::start(&mut llmp(&["recv", &path, "--wait=0.1"])).output(), 3);
    assert!(line.contains("start it with: llmp broker"), "{line}");
    let (_broker, _stderr) = broker(&path, &[]);
    sender.stdout();
    assert_eq!(receiver.stdout(), b"early\n");
}

// P3
#[test]
fn commands_outlive_their_broker_and_no_message_comes_twice() {
    let mut bus = Bus::new();
    let mut receiver = bus.recv(&["--outlive", "--count=30"]);
    let mut sender =
        Process::start(llmp(&["send", &bus.path, "--lines", "--outlive=30"]).stdin(Stdio::piped()));
    let mut stdout = BufReader::new(receiver.child().stdout.take().unwrap());
    let mut stdin = sender.child().stdin.take().unwrap();
    let mut heard = String::new();
    for round in 0..3 {
        for number in 0..10 {
            writeln!(stdin, "{round} {number}").unwrap();
        }
        if round == 0 {
            // Both are there.
            stdout.read_line(&mut heard).unwrap();
        }
        if round < 2 {
            bus.broker.signal(Signal::KILL);
            bus.broker.child().wait().unwrap();
            (bus.broker, bus.stderr) = broker(&bus.path, &[]);
        }
    }
    drop(stdin);
    std::io::Read::read_to_string(&mut stdout, &mut heard).unwrap();
    let expected = (0..30).map(|i| format!("{} {}\n", i / 10, i % 10)).collect::<String>();
    assert_eq!(heard, expected);
    assert_eq!(receiver.output().status.code(), Some(0));
    assert_eq!(sender.output().status.code(), Some(0));
    bus.end();
}

#[test]
fn reconnecting_commands_lose_nothing_between_two_brokers() {
    let mut bus = Bus::new();
    let mut receiver = bus.recv(&["--reconnect"]);
    let mut sender =
        Process::start(llmp(&["send", &bus.path, "--lines", "--reconnect"]).stdin(Stdio::piped()));
    let mut stdout = BufReader::new(receiver.child().stdout.take().unwrap());
    let mut heard: Vec<String> = Vec::new();
    // A message that the first broker may not have consumed may arrive twice, and none is lost.
    let mut hear_until = |word: &str| {
        while heard.last().is_none_or(|last| last != word) {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "the receiver has ended after {heard:?}");
            heard.push(line.trim().to_owned());
        }
        heard.dedup();
        heard.clone()
    };
    let mut stdin = sender.child().stdin.take().unwrap();
    writeln!(stdin, "one").unwrap();
    hear_until("one");
    bus.broker.signal(Signal::KILL);
    bus.broker.child().wait().unwrap();
    assert!(line_of(&mut sender).contains("waiting until the bus is there again"));
    writeln!(stdin, "two").unwrap();
    (bus.broker, bus.stderr) = broker(&bus.path, &[]);
    hear_until("two");
    bus.end();
    (bus.broker, bus.stderr) = broker(&bus.path, &[]);
    writeln!(stdin, "three").unwrap();
    let all = hear_until("three");
    drop(stdin);
    assert_eq!(sender.output().status.code(), Some(0));
    let firsts: Vec<_> = ["one", "two", "three"]
        .map(|word| all.iter().position(|heard| heard == word).expect("nothing is lost"))
        .into();
    assert!(firsts.is_sorted(), "{all:?}");
}

#[test]
fn a_transfer_ends_by_itself() {
    let (dir, path) = place();
    let film = noise(3 << 20);
    let file = dir.path().join("film.mkv");
    std::fs::write(&file, &film).unwrap();
    let (_broker, _stderr) = broker(&path, &[]);
    let receiver = Process::start(&mut llmp(&["recv", &path, "--until-eof", "--format", "raw"]));
    let watcher = Process::start(&mut llmp(&["recv", &path, "--format", "raw", "--timeout", "1"]));
    let send = ["send", &path, "--receivers", "2", "--eof", file.to_str().unwrap()];
    Process::start(&mut llmp(&send)).stdout();
    assert!(receiver.stdout() == film);
    // Other programs don't receive the end of a transfer as a message.
    let watched = watcher.output();
    assert!(watched.stdout == film);
    assert_eq!(watched.status.code(), Some(3));
}

#[test]
fn a_ready_broker_says_so_to_a_script_and_to_its_supervisor() {
    let (dir, path) = place();
    let notify = dir.path().join("notify");
    let supervisor = UnixDatagram::bind(&notify).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = llmp(&["broker", &path, "--ready-fd", "1"]);
    let mut broker = Process::start(command.env("NOTIFY_SOCKET", &notify));
    let mut line = String::new();
    BufReader::new(broker.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("ready {path}\n"));
    assert!(llmp::Client::connect(path.as_str()).is_ok());
    let heard = || {
        let mut state = [0; 64];
        let len = supervisor.recv(&mut state).unwrap();
        String::from_utf8(state[..len].to_vec()).unwrap()
    };
    assert_eq!(heard(), "READY=1");
    broker.signal(Signal::TERM);
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(broker.output().status.code(), Some(0));
}

#[test]
fn a_receiver_that_has_not_got_all_does_not_say_that_it_has() {
    let mut bus = Bus::new();
    let receiver = bus.recv(&["--count", "5"]);
    bus.send(&bus.file("input", b"1\n2\n"), &["--lines"]).stdout();
    bus.end();
    let line = only_line(&receiver.output(), 4);
    assert!(line.contains("2 of 5 messages came"), "{line}");
}

#[test]
fn a_sender_whose_receivers_have_left_says_so() {
    let bus = Bus::with(&["--chain-budget", "8MiB"]);
    let film = bus.file("film", &vec![7; 64 << 20]);
    for (options, status) in [(&["--receivers", "1"][..], 4), (&[], 0)] {
        let mut receiver = bus.recv(&["--format", "raw"]);
        let mut sender =
            Process::start(llmp(&["send", &bus.path]).args(options).arg(film.to_str().unwrap()));
        // A tenth of it, then it dies.
        let mut part = vec![0; 6 << 20];
        receiver.child().stdout.as_mut().unwrap().read_exact(&mut part).unwrap();
        receiver.signal(Signal::KILL);
        drop(receiver);
        let _ = sender.child();
        let text = only_line(&sender.output(), status);
        assert!(text.contains("may not have got all of it"), "{text}");
    }
}

#[test]
fn an_idle_sender_notices_the_end_of_its_broker_at_once() {
    let mut bus = Bus::new();
    let mut sender = Process::start(
        llmp(&["send", &bus.path, "--lines", "--receivers", "0"]).stdin(Stdio::piped()),
    );
    let mut stdin = sender.child().stdin.take().unwrap();
    let mut receiver = llmp::Client::connect(bus.path.as_str()).unwrap();
    writeln!(stdin, "one").unwrap();
    receiver.recv_timeout(Duration::from_secs(20)).unwrap().expect("a message");
    let begin = Instant::now();
    bus.broker.signal(Signal::KILL);
    let line = only_line(&sender.output(), 4);
    assert!(line.contains("died or was killed"), "{line}");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    drop(stdin);
}

#[test]
fn available_messages_are_received_before_a_deadline_counts() {
    let bus = Bus::new();
    let mut receiver = bus.recv(&["--tag", "7", "--timeout", "1", "--count", "1"]);
    let mut sender = llmp::Client::connect_sender(bus.path.as_str()).unwrap();
    assert!(sender.wait_for_receivers(1, None).unwrap());
    receiver.signal(Signal::STOP);
    for _ in 0..20_000 {
        sender.send(8, b"another tag").unwrap();
    }
    sender.send(7, b"in time").unwrap();
    sender.flush().unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    receiver.signal(Signal::CONT);
    assert_eq!(receiver.stdout(), b"in time\n");
}

#[test]
fn a_line_above_the_limit_does_not_stop_later_lines() {
    let bus = Bus::with(&["--page-len", "4KiB", "--max-message-len", "4"]);
    let file = bus.file("input", b"1\n12345\n3\n");
    for (how, status, lines, lines_text) in [
        ("error", 1, "2", "1\n3\n"),
        ("skip", 0, "2", "1\n3\n"),
        ("split", 0, "3", "1\n1234\n5\n3\n"),
    ] {
        let count = if how == "split" { "4" } else { lines };
        let receiver = bus.recv(&["--count", count]);
        let output = bus.send(&file, &["--lines", "--oversize", how]).output();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.contains("line 2 of standard input is above the limit"), how != "split");
        assert_eq!(receiver.stdout(), lines_text.as_bytes(), "{how}");
    }
}

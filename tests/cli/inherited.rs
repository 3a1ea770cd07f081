//! The state that a command inherits: ignored or blocked signals, limits, and streams that are
//! closed, non-blocking or unread.

use crate::{Bus, Process, only_line};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A shell that runs `script` with the program as `$0` and these arguments.
fn shell(script: &str, arguments: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_llmp")]).args(arguments);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    shell
}

fn kill(process: &mut Process, signal: Signal) {
    let pid = Pid::from_raw(process.child().id() as i32).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Starts a broker by a shell and waits until it listens.
fn broker_by(script: &str, path: &str) -> Process {
    let mut broker = Process::start(&mut shell(script, &[path]));
    let mut stderr = BufReader::new(broker.child().stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("listens at"), "{line}");
    broker.child().stderr = Some(stderr.into_inner());
    broker
}

#[test]
fn only_a_broker_under_nohup_survives_a_hang_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let mut under_nohup = broker_by("trap '' HUP; exec \"$0\" broker \"$1\"", &path);
    kill(&mut under_nohup, Signal::HUP);
    // It still serves: a client can connect and send.
    let mut client = llmp::Client::connect(path.as_str()).unwrap();
    client.send(1, b"hello").unwrap();
    client.flush().unwrap();
    kill(&mut under_nohup, Signal::TERM);
    assert_eq!(under_nohup.output().status.code(), Some(0));

    // A shell can't restore a signal that it inherits as ignored, as under `nohup cargo test`.
    let script = "exec python3 -c 'import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' \"$0\" broker \"$1\"";
    let mut plain = broker_by(script, &path);
    kill(&mut plain, Signal::HUP);
    assert_eq!(plain.output().status.code(), Some(0));
}

#[test]
fn a_broker_whose_supervisor_blocked_its_signals_can_be_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let script = "exec python3 -c 'import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
os.execv(sys.argv[1], sys.argv[1:])' \"$0\" broker \"$1\"";
    let mut broker = broker_by(script, &path);
    kill(&mut broker, Signal::TERM);
    assert_eq!(broker.output().status.code(), Some(0));
}

#[test]
fn a_limit_on_file_sizes_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let script = "ulimit -f 8; exec \"$0\" broker \"$1\"";
    let line = only_line(&Process::start(&mut shell(script, &[&path])).output(), 1);
    assert!(line.contains("ulimit -f"), "{line}");

    let bus = Bus::new();
    let script = "ulimit -f 8; exec \"$0\" send \"$1\" --receivers 0 --lines";
    let line = only_line(&Process::start(&mut shell(script, &[&bus.path])).output(), 1);
    assert!(line.contains("ulimit -f"), "{line}");

    // The same for the output of a receiver: a file above the limit is an error and no silent
    // death.
    let out = bus.dir.path().join("out");
    let script = "ulimit -f 16; exec \"$0\" recv \"$1\" > \"$2\"";
    let receiver = Process::start(&mut shell(script, &[&bus.path, out.to_str().unwrap()]));
    let file = bus.file("input", &[b'x'; 100_000]);
    bus.send(&file, &["--chunk", "1000"]).stdout();
    let line = only_line(&receiver.output(), 1);
    assert!(line.contains("cannot write to standard output"), "{line}");
}

#[test]
fn a_page_may_be_as_long_as_a_file_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let script = "exec python3 -c 'import os, resource, sys
limit = int(sys.argv.pop())
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
os.execv(sys.argv[1], sys.argv[1:])' \"$0\" broker \"$1\" --page-len 128KiB";
    let (fits, short) =
        (format!("{script} {}", 128 << 10), format!("{script} {}", (128 << 10) - 1));
    let line = only_line(&Process::start(&mut shell(&short, &[&path])).output(), 1);
    assert!(line.contains("131072 bytes") && line.contains("ulimit -f"), "{line}");
    let mut broker = broker_by(&fits, &path);
    let mut client = llmp::Client::builder().own_messages().connect(path.as_str()).unwrap();
    client.send(1, b"hello").unwrap();
    assert_eq!(client.recv_timeout(Duration::from_secs(20)).unwrap().unwrap().payload, b"hello");
    kill(&mut broker, Signal::TERM);
    assert_eq!(broker.output().status.code(), Some(0));
}

#[test]
fn a_limit_on_processes_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    // Root is above that limit: so it runs as another user.
    let script = "exec python3 -c 'import os, resource, sys
if os.getuid() == 0:
    os.setgid(12345)
    os.setuid(12345)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
os.execv(sys.argv[1], sys.argv[1:])' \"$0\" broker \"$1\"";
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    let output = Process::start(&mut shell(script, &[&path])).output();
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("Permission denied") {
        println!("SKIPPED: another user can't run this program here");
        return;
    }
    let line = only_line(&output, 1);
    assert!(line.contains("cannot start a thread") && line.contains("ulimit -u"), "{line}");
}

#[test]
fn no_message_is_lost_by_a_non_blocking_output() {
    let bus = Bus::new();
    // The reader sets the pipe non-blocking, as some do, and begins to read late.
    let script = "python3 -c 'import os, subprocess, sys
read, write = os.pipe()
os.set_blocking(write, False)
child = subprocess.Popen(sys.argv[1:], stdout=write)
os.close(write)
sys.stdin.readline()
with os.fdopen(read, \"rb\") as pipe:
    sys.stdout.buffer.write(pipe.read())
sys.exit(child.wait())' \"$0\" recv \"$1\" --count 200";
    let mut reader = Process::start(shell(script, &[&bus.path]).stdin(Stdio::piped()));
    let lines: Vec<u8> =
        (0..200u8).flat_map(|i| [&[b'a' + i % 26; 5000][..], b"\n"].concat()).collect();
    bus.send(&bus.file("input", &lines), &["--lines"]).stdout();
    drop(reader.child().stdin.take());
    assert_eq!(reader.stdout(), lines);
}

#[test]
fn closed_streams_are_reported() {
    let bus = Bus::new();
    let run =
        |script: &str| -> Output { Process::start(&mut shell(script, &[&bus.path])).output() };
    let line = only_line(&run("exec \"$0\" send \"$1\" --receivers 0 <&-"), 0);
    assert!(line.contains("standard input is closed"), "{line}");
    let output = run("exec \"$0\" recv \"$1\" --timeout 0.1 >&-");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("standard output is closed"), "{text}");
    // These are open.
    let output = run("exec \"$0\" send \"$1\" --receivers 0 < /dev/null");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn one_signal_ends_a_command_even_in_a_blocked_write() {
    let mut bus = Bus::new();
    let mut receiver = bus.recv(&["--format", "raw"]);
    let file = bus.file("input", &vec![7; 4 << 20]);
    // Its output is full, as no one reads it; then the bus is, and the sender waits, too.
    let mut sender = bus.send(&file, &["--chunk", "64KiB"]);
    let mut first = [0; 1];
    receiver.child().stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let full = || {
        let state = std::fs::read_to_string(format!("/proc/{}/wchan", receiver_id(&mut receiver)));
        state.is_ok_and(|state| state.contains("pipe_write"))
    };
    wait_until("the receiver's output is full", full);
    for process in [&mut sender, &mut receiver, &mut bus.broker] {
        let begin = Instant::now();
        process.signal(Signal::TERM);
        process.child().wait().unwrap();
        assert!(begin.elapsed() < Duration::from_millis(1200), "{:?}", begin.elapsed());
    }
}

fn receiver_id(receiver: &mut Process) -> u32 {
    receiver.child().id()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

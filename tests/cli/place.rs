//! A bus has one broker, whatever else lies at its place, and a killed one is replaced at once.

use crate::{Bus, Process, broker, llmp, only_line};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The error of a second broker.
fn refused(path: &str) -> String {
    only_line(&Process::start(&mut llmp(&["broker", path])).output(), 2)
}

fn lock_of(path: &str) -> String {
    format!("{path}.lock")
}

fn is_there(path: impl AsRef<Path>) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn process(bus: &mut Bus) -> String {
    format!("(process {})", bus.broker.child().id())
}

/// The next line that the broker logs.
fn line_of(bus: &mut Bus) -> String {
    if bus.stderr.buffer().is_empty() {
        let mut fds = [PollFd::new(bus.stderr.get_ref(), PollFlags::IN)];
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&patience)), Ok(1), "the broker says nothing");
    }
    let mut line = String::new();
    bus.stderr.read_line(&mut line).unwrap();
    line
}

// P7
#[test]
fn a_killed_broker_leaves_nothing_that_blocks_the_next_one() {
    let mut bus = Bus::new();
    for _ in 0..20 {
        bus.broker.signal(Signal::KILL);
        bus.broker.child().wait().unwrap();
        assert!(is_there(&bus.path) && is_there(lock_of(&bus.path)));
        let begin = Instant::now();
        (bus.broker, bus.stderr) = broker(&bus.path, &[]);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        llmp::Client::connect(bus.path.as_str()).unwrap();
    }
    bus.end();
    assert_eq!(fs::read_dir(bus.dir.path()).unwrap().count(), 0);
}

#[test]
fn of_brokers_that_start_at_the_same_time_one_serves_the_bus() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    // The first round finds nothing. The others find the files of a killed broker.
    for _ in 0..4 {
        let mut starts: Vec<_> =
            (0..20).map(|_| Process::start(&mut llmp(&["broker", &path]))).collect();
        // A broker that serves reports that. The others end.
        let mut lines = Vec::new();
        for start in &mut starts {
            let mut stderr = BufReader::new(start.child().stderr.take().unwrap());
            let mut line = String::new();
            stderr.read_line(&mut line).unwrap();
            lines.push(line);
        }
        let serves = lines.iter().position(|line| line.contains("listens at")).expect("a broker");
        let winner = starts.swap_remove(serves);
        let line = lines.swap_remove(serves);
        let id = winner.0.as_ref().unwrap().id();
        assert!(line.contains(&path));
        for (start, line) in starts.into_iter().zip(lines) {
            assert!(line.contains(&format!("already a broker at {path} (process {id})")), "{line}");
            assert_eq!(start.output().status.code(), Some(2));
        }
        llmp::Client::connect(path.as_str()).unwrap();
        // Killed when it is dropped.
        drop(winner);
    }
}

#[test]
fn brokers_that_start_while_another_one_ends_are_one_or_none() {
    let mut bus = Bus::new();
    let mut taken_over = 0;
    for _ in 0..20 {
        bus.broker.signal(Signal::TERM);
        let mut starts: Vec<_> =
            (0..8).map(|_| Process::start(&mut llmp(&["broker", &bus.path]))).collect();
        let serves = |start: &mut Process| {
            let mut line = String::new();
            let stderr = start.child().stderr.as_mut().unwrap();
            BufReader::new(stderr).read_line(&mut line).unwrap();
            line.contains("listens at")
        };
        let mut serving: Vec<_> = starts.extract_if(.., serves).collect();
        assert!(serving.len() <= 1, "{} brokers", serving.len());
        let Some(mut one) = serving.pop() else {
            // All were too early.
            bus.broker.child().wait().unwrap();
            (bus.broker, bus.stderr) = broker(&bus.path, &[]);
            continue;
        };
        taken_over += 1;
        assert!(refused(&bus.path).contains(&format!("(process {})", one.child().id())));
        llmp::Client::connect(bus.path.as_str()).unwrap();
        bus.broker = one;
    }
    println!("{taken_over} of 20 were succeeded while they ended");
}

#[test]
fn a_second_start_beside_a_stopped_broker_fails_at_once() {
    let mut bus = Bus::new();
    bus.broker.signal(Signal::STOP);
    let begin = Instant::now();
    let line = refused(&bus.path);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(line.contains(&process(&mut bus)), "{line}");
    bus.broker.signal(Signal::CONT);
}

#[test]
fn a_removed_lock_file_is_made_anew() {
    let mut bus = Bus::new();
    for _ in 0..3 {
        fs::remove_file(lock_of(&bus.path)).unwrap();
        let line = line_of(&mut bus);
        assert!(line.contains(".lock was removed; it is made anew"), "{line}");
        let line = refused(&bus.path);
        assert!(line.contains(&process(&mut bus)), "{line}");
    }
    // Moved away, it is the lock file of another bus, which is free then.
    let other = bus.dir.path().join("other");
    fs::rename(lock_of(&bus.path), lock_of(other.to_str().unwrap())).unwrap();
    assert!(line_of(&mut bus).contains("made anew"));
    let (other, _stderr) = broker(other.to_str().unwrap(), &[]);
    assert!(refused(&bus.path).contains(&process(&mut bus)));
    other_ends(other);
    bus.end();
    assert_eq!(fs::read_dir(bus.dir.path()).unwrap().count(), 0);
}

fn other_ends(mut broker: Process) {
    broker.signal(Signal::TERM);
    assert_eq!(broker.output().status.code(), Some(0));
}

#[test]
fn a_broker_that_lost_its_place_only_keeps_its_clients() {
    let mut first = Bus::new();
    let mut old = llmp::Client::connect(first.path.as_str()).unwrap();
    let mut peer = llmp::Client::connect(first.path.as_str()).unwrap();
    first.broker.signal(Signal::STOP);
    // It can't make a new lock file.
    fs::remove_file(lock_of(&first.path)).unwrap();
    let (second, mut second_stderr) = broker(&first.path, &[]);
    let mut new = llmp::Client::connect(first.path.as_str()).unwrap();
    first.broker.signal(Signal::CONT);
    let line = line_of(&mut first);
    let id = second.0.as_ref().unwrap().id();
    assert!(line.contains("there are two brokers, stop one"), "{line}");
    assert!(line.contains(&format!("process {id} has taken")), "{line}");
    assert!(line.contains("2 clients stay"), "{line}");
    old.send(1, b"still served").unwrap();
    let message = peer.recv_timeout(crate::TIMEOUT).unwrap().expect("a message");
    assert_eq!(message.payload, b"still served");
    // The first one does not come back, and removes nothing of the second one's.
    std::thread::sleep(Duration::from_millis(1200));
    first.broker.signal(Signal::TERM);
    assert_eq!(first.broker.child().wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    first.stderr.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("made anew") && !rest.contains("two brokers"), "{rest}");
    let mut newer = llmp::Client::connect(first.path.as_str()).unwrap();
    newer.send(1, b"over there").unwrap();
    let message = new.recv_timeout(crate::TIMEOUT).unwrap().expect("a message");
    assert_eq!(message.payload, b"over there");
    assert!(refused(&first.path).contains(&format!("(process {id})")));
    other_ends(second);
    let mut rest = String::new();
    second_stderr.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("anew"), "{rest}");
    assert_eq!(fs::read_dir(first.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_broker_takes_its_place_back_when_the_other_one_has_ended() {
    let mut first = Bus::new();
    first.broker.signal(Signal::STOP);
    fs::remove_file(lock_of(&first.path)).unwrap();
    let (second, _stderr) = broker(&first.path, &[]);
    first.broker.signal(Signal::CONT);
    assert!(line_of(&mut first).contains("there are two brokers"));
    other_ends(second);
    assert!(line_of(&mut first).contains("the lock file"));
    assert!(line_of(&mut first).contains("the socket"));
    llmp::Client::connect(first.path.as_str()).unwrap();
    assert!(refused(&first.path).contains(&process(&mut first)));
}

#[test]
fn an_object_at_the_lock_files_path_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let lock = lock_of(&path);
    let file = dir.path().join("file");
    fs::write(&file, "kept").unwrap();
    let (link, dangling) = (|| symlink(&file, &lock).unwrap(), || symlink("none", &lock).unwrap());
    let directory = || fs::create_dir(&lock).unwrap();
    let socket = || drop(std::os::unix::net::UnixListener::bind(&lock).unwrap());
    let pipe = || {
        assert!(Command::new("mkfifo").arg(&lock).status().unwrap().success());
    };
    let (second, content) = (
        || fs::hard_link(&file, &lock).unwrap(),
        || {
            fs::write(&lock, "also kept").unwrap();
        },
    );
    let obstacles: [(&dyn Fn(), &str); 7] = [
        (&link, "a link lies there"),
        (&dangling, "a dangling link lies there"),
        (&directory, "a directory lies there"),
        (&socket, "a socket lies there"),
        (&pipe, "a named pipe lies there"),
        (&second, "a file with a second name lies there"),
        (&content, "a file that is not the lock of a bus lies there"),
    ];
    for (make, what) in obstacles {
        make();
        let line = refused(&path);
        assert!(
            line.contains(what) && line.contains("remove it") && line.contains(&lock),
            "{line}"
        );
        let found = fs::symlink_metadata(&lock).expect("it is left alone");
        assert!(!is_there(&path) && fs::read(&file).unwrap() == b"kept");
        match found.is_dir() {
            true => fs::remove_dir(&lock).unwrap(),
            false => fs::remove_file(&lock).unwrap(),
        }
    }
    // An empty file is accepted, but not with the access of other users, who could lock it.
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, PermissionsExt::from_mode(0o666)).unwrap();
    let (ends, _stderr) = broker(&path, &[]);
    let found = fs::metadata(&lock).unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.len() % 4096), (0o600, 0));
    assert_ne!(found.len(), 0, "it is allocated");
    other_ends(ends);
    assert!(!is_there(&lock));
}

/// Returns whether this process may act for other users.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("SKIPPED in part: only root can act for another user");
    }
    is_root
}

const ANOTHER_USER: u32 = 65534;

#[test]
fn another_users_lock_file_or_socket_is_a_clear_error() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // As /tmp is.
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let give_away = |path: &str| {
        std::os::unix::fs::chown(path, Some(ANOTHER_USER), Some(ANOTHER_USER)).unwrap();
    };
    fs::write(lock_of(&path), "").unwrap();
    give_away(&lock_of(&path));
    let line = refused(&path);
    assert!(line.contains("belongs to user 65534"), "{line}");
    assert!(line.contains("a directory of your own"), "{line}");
    fs::remove_file(lock_of(&path)).unwrap();

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    give_away(&path);
    let line = refused(&path);
    assert!(line.contains("a socket of another user lies at"), "{line}");
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    assert!(!is_there(lock_of(&path)));
}

#[test]
fn a_directory_without_write_permission_is_a_clear_error() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    // Where this user can reach it.
    let program = dir.path().join("llmp");
    fs::copy(env!("CARGO_BIN_EXE_llmp"), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["broker", &path]).stdin(Stdio::null()).uid(ANOTHER_USER).gid(ANOTHER_USER);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    let line = only_line(&Process::start(&mut command).output(), 2);
    assert!(line.contains("Permission denied") && line.contains("may write to"), "{line}");
}

#[test]
fn a_directory_that_another_process_has_locked_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
    rustix::fs::flock(&directory, FlockOperation::LockExclusive).unwrap();
    let begin = Instant::now();
    let (first, _stderr) = broker(&path, &[]);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    other_ends(first);
}

// The lock of an open file description blocks ours, and has no process.
#[test]
fn a_lock_that_has_no_process_is_reported_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    fs::write(lock_of(&path), "").unwrap();
    let script = "import fcntl, struct, sys, time
lock = struct.pack('hhqqi', fcntl.F_WRLCK, 0, 0, 0, 0)
file = open(sys.argv[1], 'r+')
fcntl.fcntl(file, 37, lock)  # F_OFD_SETLK
print('locked', flush=True); time.sleep(60)";
    let mut command = Command::new("python3");
    command.args(["-c", script, &lock_of(&path)]).stdout(Stdio::piped());
    let mut python = Process::start(&mut command);
    let mut line = String::new();
    BufReader::new(python.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "locked\n");
    let line = refused(&path);
    assert!(line.contains(&format!("already a broker at {path};")), "{line}");
}

#[test]
fn a_full_disk_and_a_limit_of_file_sizes_are_errors_that_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let program = env!("CARGO_BIN_EXE_llmp");
    let run = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::start(command.env_remove("RUST_LOG")).output()
    };
    let script = "ulimit -f 1; exec \"$0\" broker \"$1\"";
    let output = run(Command::new("sh").args(["-c", script, program, &path]));
    let line = only_line(&output, 1);
    assert!(line.contains("ulimit -f") && line.contains("bus.sock.lock"), "{line}");
    assert!(!is_there(&path) && !is_there(lock_of(&path)));

    // A disk of two pages, of which one is free, or a byte less than one.
    let script = "mount -t tmpfs -o size=8k,nr_inodes=9 none \"$1\" || exit 77
head -c 4096 /dev/zero > \"$1/filler\" || exit 77
\"$0\" broker --max-clients 50 \"$1/bus.sock\" 2> \"$2\" & broker=$!
until grep -q . \"$2\"; do :; done
grep -q 'listens at' \"$2\" || cat \"$2\" >&2
kill $broker; wait $broker || exit $?
head -c 4097 /dev/zero > \"$1/filler\" || exit 77
\"$0\" broker --max-clients 50 \"$1/bus.sock\"; status=$?
ls \"$1\"; exit $status";
    let said = tempfile::NamedTempFile::new().unwrap();
    let said = said.path().to_str().unwrap();
    let dir = dir.path().to_str().unwrap();
    let namespace =
        ["--user", "--map-root-user", "--mount", "sh", "-c", script, program, dir, said];
    let output = run(Command::new("unshare").args(namespace));
    if output.status.code() == Some(77) || output.stderr.starts_with(b"unshare:") {
        println!("SKIPPED in part: no disk can be mounted here: {output:?}");
        return;
    }
    let line = only_line(&output, 1);
    assert!(line.contains("No space left on device") && line.contains("make room"), "{line}");
    assert_eq!(output.stdout, b"filler\n", "nothing is left");
}

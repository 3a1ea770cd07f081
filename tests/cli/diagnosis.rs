//! The text for a user when something is wrong: the cause, and a command that mends it.

use crate::{Bus, Process, broker, llmp, only_line};
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// Returns the error of `llmp broker` for a path at which it can't listen.
fn refused(path: &str) -> String {
    only_line(&Process::start(&mut llmp(&["broker", path])).output(), 2)
}

#[test]
fn an_object_at_the_sockets_path_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), "kept").unwrap();
    std::fs::create_dir(at("dir")).unwrap();
    std::os::unix::fs::symlink("/nowhere", at("dangling")).unwrap();
    for (name, what) in
        [("file", "a file"), ("dir", "a directory"), ("dangling", "a dangling link")]
    {
        let line = refused(&at(name));
        assert!(
            line.contains(&format!("{what} lies at ")) && line.contains("choose another path"),
            "{line}"
        );
        assert!(std::fs::symlink_metadata(at(name)).is_ok());
    }
    assert_eq!(std::fs::read(at("file")).unwrap(), b"kept");
    let long = at(&"x".repeat(120));
    for command in ["broker", "recv"] {
        let line = only_line(&Process::start(&mut llmp(&[command, &long])).output(), 2);
        assert!(line.contains("at most 107 are possible"), "{line}");
    }
}

#[test]
fn a_bus_of_another_runtime_directory_is_found_and_named() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = llmp(&["broker", "logs", "--ready-fd", "1"]);
    let mut running =
        Process::start(command.env("XDG_RUNTIME_DIR", "").env("TMPDIR", theirs.path()));
    let mut line = String::new();
    let stdout = running.child().stdout.take().unwrap();
    std::io::BufReader::new(stdout).read_line(&mut line).unwrap();
    let socket = line.trim().strip_prefix("ready ").unwrap().to_owned();
    // Another runtime directory, as from cron or ssh, and the same directory for temporary files.
    let mut command = llmp(&["recv", "logs"]);
    command.env("XDG_RUNTIME_DIR", ours.path()).env("TMPDIR", theirs.path());
    let line = only_line(&Process::start(&mut command).output(), 2);
    assert!(line.contains(&format!("a bus of this name listens at {socket}")), "{line}");
    // One that was killed is not named.
    running.signal(rustix::process::Signal::KILL);
    running.child().wait().unwrap();
    let line = only_line(&Process::start(&mut command).output(), 2);
    assert!(line.contains("start it with"), "{line}");
    let mut command = llmp(&["recv", "another bus"]);
    command.env("XDG_RUNTIME_DIR", ours.path()).env("TMPDIR", theirs.path());
    let line = only_line(&Process::start(&mut command).output(), 2);
    assert!(line.trim_end().ends_with("start it with: llmp broker 'another bus'"), "{line}");
}

#[test]
fn numbers_that_are_none_are_answered_by_an_example() {
    for (arguments, example) in [
        (["recv", "logs", "--count", "abc"], "give a whole number, like 5"),
        (["recv", "logs", "--tag", "-1"], "give a whole number from 0 to 4294967295"),
        (["send", "logs", "--receivers", "x"], "give a whole number, like 2"),
        (["broker", "logs", "--ready-fd", "x"], "give the number of a descriptor, like 3"),
    ] {
        let arguments: Vec<String> = match arguments {
            // With an equals sign, a value may begin with a dash.
            [command, bus, option, value] => {
                vec![command.into(), bus.into(), format!("{option}={value}")]
            }
        };
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let line = only_line(&Process::start(&mut llmp(&words)).output(), 2);
        assert!(line.contains(example), "{line}");
    }
}

// P16
#[test]
fn access_for_others_warns_of_closed_directories() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let mut command = llmp(&["broker", path.to_str().unwrap(), "--access", "everybody"]);
    let mut closed = Process::start(&mut command);
    let mut stderr = std::io::BufReader::new(closed.child().stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("other users can't reach"), "{line}");
    stderr.read_line(&mut line).unwrap();
    assert_eq!(mode(), 0o666);
    closed.signal(rustix::process::Signal::TERM);
    closed.stdout();

    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let (open, _stderr) = broker(path.to_str().unwrap(), &["--access", "everybody"]);
    assert_eq!(mode(), 0o666);
    drop(open);
    let (own, _stderr) = broker(path.to_str().unwrap(), &[]);
    assert_eq!(mode() & 0o002, 0, "not open to others");
    drop(own);
}

#[test]
fn the_client_that_holds_up_the_bus_is_named() {
    holds_up(&["--page-len", "4KiB", "--max-message-len", "1000"], "1000");
}

#[test]
fn the_client_that_keeps_a_senders_pages_is_named() {
    holds_up(&["--zero-copy-threshold", "4KiB"], "60000");
}

fn holds_up(options: &[&str], chunk: &str) {
    let mut bus = Bus::with(options);
    let out = bus.dir.path().join("out");
    let stdout = std::fs::File::create(&out).unwrap();
    let mut slow = Process::start(llmp(&["recv", &bus.path, "--format", "raw"]).stdout(stdout));
    let pid = slow.child().id();
    // Far more than the bus holds.
    let file = bus.file("input", &vec![b'x'; 128 << 20]);
    let mut sending = bus.send(&file, &["--chunk", chunk]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(&out).unwrap().len() == 0 {
        assert!(Instant::now() < deadline, "nothing comes through");
    }
    slow.signal(rustix::process::Signal::STOP);
    let mut line = String::new();
    bus.stderr.read_line(&mut line).unwrap();
    let named = line.contains(&format!("(process {pid})")) && line.contains("holds up the bus");
    assert!(named, "{line}");
    // The sender reports that, too.
    let said = std::io::BufReader::new(sending.child().stderr.take().unwrap()).lines();
    let named = said.map(Result::unwrap).find(|line| line.contains("has held up the bus")).unwrap();
    assert!(named.contains("waits for room: client "), "{named}");
    assert!(named.contains(&format!("(process {pid})")), "{named}");
    slow.signal(rustix::process::Signal::CONT);
    let mut line = String::new();
    bus.stderr.read_line(&mut line).unwrap();
    assert!(line.contains("the bus goes on"), "{line}");
    drop(slow);
    drop(sending);
}

#[test]
fn a_removed_socket_is_made_anew_and_no_second_broker_starts() {
    let mut bus = Bus::new();
    let mut old = llmp::Client::connect(bus.path.as_str()).unwrap();
    std::fs::remove_file(&bus.path).unwrap();
    let mut line = String::new();
    bus.stderr.read_line(&mut line).unwrap();
    assert!(line.contains("was removed; it is made anew"), "{line}");
    let line = refused(&bus.path);
    assert!(line.contains("there is already a broker"), "{line}");
    let mut new = llmp::Client::connect(bus.path.as_str()).unwrap();
    old.send(1, b"from an old client to a new one").unwrap();
    let message = new.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(message.expect("a message").payload, b"from an old client to a new one");
    assert!(bus.end().contains("clients 2"), "and its socket is removed at the end");
    assert!(!std::path::Path::new(&bus.path).exists());
}

#[test]
fn more_clients_than_mappings_are_refused_or_get_longer_pages() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    let options = ["broker", &path, "--page-len", "4KiB", "--max-clients", "1000"];
    let line = only_line(&Process::start(&mut llmp(&options)).output(), 2);
    assert!(line.contains("1000 clients") && line.contains("vm.max_map_count"), "{line}");
    // As many as there may be, and with each the most that it may announce, stay below the limit.
    let (_broker, _stderr) = broker(&path, &["--max-clients", "1000"]);
    let client = llmp::Client::connect(path.as_str()).unwrap();
    let limits = client.limits();
    let longest = limits.max_message_len() + limits.page_len();
    let pages = (limits.budget() + longest) / limits.page_len();
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let most: usize = most.trim().parse().unwrap();
    assert!(1000 * pages <= most / 2, "{pages} pages of {limits:?}");
    assert!(limits.page_len() > llmp::Limits::DEFAULT_PAGE_LEN);
}

#[test]
fn silent_connections_take_no_places_from_clients() {
    let bus = Bus::with(&["--max-clients", "8"]);
    let silent: Vec<_> = (0..32).map(|_| crate::ends::silent(&bus.path)).collect();
    let begin = Instant::now();
    let clients: Vec<_> =
        (0..7).map(|_| llmp::Client::connect(bus.path.as_str()).unwrap()).collect();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    drop((silent, clients));
}

// P16
#[test]
fn a_user_whom_the_namespace_does_not_map_is_not_the_same_user() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let path = dir.path().join("bus.sock").to_str().unwrap().to_owned();
    // A namespace that maps no user: there, every user is 65534, the broker's own included.
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["--user", env!("CARGO_BIN_EXE_llmp"), "broker", &path]).env_remove("RUST_LOG");
    unshare.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut broker = Process::start(&mut unshare);
    let mut stderr = std::io::BufReader::new(broker.child().stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    if !line.contains("listens at") {
        println!("SKIPPED: no user namespace can be made here: {line}");
        return;
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let options = ["recv", &path, "--access", "everybody"];
    let line = only_line(&Process::start(&mut llmp(&options)).output(), 2);
    assert!(line.contains("does not admit this one"), "{line}");
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("was refused: the broker does not admit this user"), "{line}");
}

#[test]
fn a_stopped_broker_with_a_full_queue_is_reported_in_time() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let mut bus = Bus::new();
    bus.broker.signal(rustix::process::Signal::STOP);
    let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET);
    let address = rustix::net::SocketAddrUnix::new(bus.path.as_str()).unwrap();
    let mut queue = Vec::new();
    loop {
        let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, kind, flags, None).unwrap();
        match rustix::net::connect(&socket, &address) {
            Ok(()) => queue.push(socket),
            Err(error) => break assert_eq!(error, rustix::io::Errno::AGAIN),
        }
    }
    let began = Instant::now();
    // It holds its place, although it does not answer.
    assert!(refused(&bus.path).contains("there is already a broker"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let line = only_line(&Process::start(&mut llmp(&["recv", &bus.path])).output(), 3);
    assert!(line.contains("has not answered within 10 s"), "{line}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    bus.broker.signal(rustix::process::Signal::CONT);
    drop(queue);
}

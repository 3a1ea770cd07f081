//! A supervisor that makes the socket and starts the broker, as systemd does with the files of
//! `packaging/systemd`. The tests play its part.

use crate::{Process, TIMEOUT, llmp};
use llmp::{Client, ClientBuilder};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Stdio};

/// A supervisor, with the socket of a bus and the socket for notifications.
struct Supervisor {
    listener: OwnedFd,
    notifications: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Supervisor {
    fn new(kind: SocketType) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
        let address = SocketAddrUnix::new(dir.path().join("bus.sock")).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 128).unwrap();
        let notifications = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notifications.set_read_timeout(Some(TIMEOUT)).unwrap();
        Supervisor { listener, notifications, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("bus.sock")
    }

    /// Starts the broker with the socket as descriptor 3.
    fn start(&self) -> (Process, BufReader<ChildStderr>) {
        let broker = llmp(&["broker", self.path().to_str().unwrap()]);
        let mut shell = Command::new("sh");
        let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
        shell.args(["-c", script, "sh"]).arg(broker.get_program()).args(broker.get_args());
        shell.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        shell.stdin(self.listener.try_clone().unwrap()).stderr(Stdio::piped());
        let mut process = Process::start(&mut shell);
        let stderr = BufReader::new(process.child().stderr.take().unwrap());
        (process, stderr)
    }

    #[track_caller]
    fn hears(&self, state: &str) {
        let mut heard = [0; 64];
        let len = self.notifications.recv(&mut heard).unwrap();
        assert_eq!(std::str::from_utf8(&heard[..len]).unwrap(), state);
    }
}

fn outliving() -> ClientBuilder {
    Client::builder().outlive_broker(TIMEOUT).own_messages()
}

/// A message comes back.
#[track_caller]
fn works(client: &mut Client, tag: u32) {
    client.send(tag, b"there and back").unwrap();
    assert_eq!(client.recv_timeout(TIMEOUT).unwrap().expect("a message").tag.0, tag);
}

// P3, P7
#[test]
fn clients_keep_the_bus_of_a_socket_whose_broker_is_started_on_demand() {
    let supervisor = Supervisor::new(SocketType::SEQPACKET);
    let path = supervisor.path();
    // It connects while there is no broker.
    let connecting = std::thread::spawn({
        let path = path.clone();
        move || outliving().connect(path).unwrap()
    });
    let readable = rustix::event::PollFlags::IN;
    let listener = rustix::event::PollFd::new(&supervisor.listener, readable);
    rustix::event::poll(&mut [listener], None).unwrap();
    let (mut broker, _stderr) = supervisor.start();
    supervisor.hears("READY=1");
    let mut client = connecting.join().unwrap();
    works(&mut client, 1);
    // `systemctl restart`
    broker.signal(Signal::TERM);
    supervisor.hears("STOPPING=1");
    assert_eq!(broker.output().status.code(), Some(0));
    assert!(path.exists(), "the socket belongs to the supervisor");
    client.send(2, b"meanwhile").unwrap();
    let (mut broker, _stderr) = supervisor.start();
    supervisor.hears("READY=1");
    assert_eq!(client.recv_timeout(TIMEOUT).unwrap().expect("a message").tag.0, 2);
    works(&mut client, 3);
    // `Restart=on-failure`
    broker.signal(Signal::KILL);
    broker.child().wait().unwrap();
    client.send(4, b"meanwhile").unwrap();
    let (broker, _stderr) = supervisor.start();
    supervisor.hears("READY=1");
    assert_eq!(client.recv_timeout(TIMEOUT).unwrap().expect("a message").tag.0, 4);
    works(&mut client, 5);
    // `llmp stop` ends the broker in order, so that the supervisor does not start it again.
    Process::start(&mut llmp(&["stop", path.to_str().unwrap()])).stdout();
    assert_eq!(broker.output().status.code(), Some(0));
    let error = client.recv_timeout(TIMEOUT).unwrap_err();
    assert_eq!(error.kind(), llmp::ErrorKind::Closed);
    assert!(path.exists(), "the socket belongs to the supervisor");
    // The next client starts the broker of a new bus.
    let connecting = std::thread::spawn(move || outliving().connect(path).unwrap());
    rustix::event::poll(&mut [rustix::event::PollFd::new(&supervisor.listener, readable)], None)
        .unwrap();
    let (_broker, _stderr) = supervisor.start();
    works(&mut connecting.join().unwrap(), 6);
}

#[test]
fn a_passed_socket_that_does_not_fit_is_reported() {
    let supervisor = Supervisor::new(SocketType::STREAM);
    let (_broker, mut stderr) = supervisor.start();
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("systemd: ListenSequentialPacket="), "{line}");
    supervisor.hears("READY=1");
    works(&mut outliving().connect(supervisor.path()).unwrap(), 1);
}

//! Any packets with descriptors of 14 kinds, at most three different ones in a packet, against a
//! real broker and against connecting clients.
//!
//! A hostile session affects no other client: correct clients of the same broker continue (P12), no
//! descriptor is leaked (P7), and no thread is left except the closer.

use super::descriptors::{self, KeepSlow};
use super::input::Input;
use super::joining;
use super::packets::{decode, drain, pair, send_all, socket};
use super::seen::Seen;
use llmp::{
    Broker, BrokerStats, Client, ConnectError, Disconnected, Receiver, RecvError, SendError,
    Sender, StopHandle,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketAddrUnix;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(20);

/// The side that an input plays.
pub const CLIENT: u8 = 0;
pub const BROKER: u8 = 1;
pub const CHANNEL_RECEIVER: u8 = 2;
pub const CHANNEL_SENDER: u8 = 3;

/// A descriptor that is still open after this time is not under way.
const FOLLOWED: Duration = Duration::from_millis(500);

/// A broker with two correct clients, and an address where a fake broker listens.
pub struct Bus {
    path: PathBuf,
    stop: StopHandle,
    broker: Option<JoinHandle<std::io::Result<BrokerStats>>>,
    sender: Sender,
    receiver: Receiver,
    said: u64,
    threads: usize,
    /// Whether the broker holds one descriptor of this process, as of one that may read pages in
    /// place.
    is_followed: bool,
    false_path: PathBuf,
    false_broker: OwnedFd,
    _directory: tempfile::TempDir,
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, false_path) = (directory.path().join("bus"), directory.path().join("false"));
        let limits = descriptors::limits();
        let broker = Broker::builder()
            .page_len(limits.page_len())
            .max_message_len(limits.max_message_len())
            .chain_budget(limits.budget())
            .bind(&path)
            .expect("a bus");
        let stop = broker.stop_handle();
        let broker = Some(std::thread::spawn(move || broker.run()));
        let sender = Client::connect_sender(&path).expect("a sender");
        let receiver = Client::connect_receiver(&path).expect("a receiver");
        let false_broker = socket();
        let address = SocketAddrUnix::new(&false_path).expect("a short path");
        rustix::net::bind(&false_broker, &address).expect("a free path");
        rustix::net::listen(&false_broker, 8).expect("a listener");
        let mut bus = Bus {
            path,
            stop,
            broker,
            sender,
            receiver,
            said: 0,
            threads: 0,
            is_followed: false,
            false_path,
            false_broker,
            _directory: directory,
        };
        // Until all chains have all their pages.
        (0..2000).for_each(|_| bus.exchange());
        bus.threads = entries("/proc/self/task") + 1;
        bus
    }

    pub fn run(&mut self, bytes: &[u8]) -> Seen {
        let mut seen = Seen::default();
        match decode(bytes) {
            Ok(()) => seen.mark("decoded"),
            Err(error) => seen.fault(&error.into()),
        }
        joining::run(bytes, &mut seen);
        let (before, began) = (entries("/proc/self/fd"), Instant::now());
        let mut input = Input::new(bytes);
        let keep_slow = match input.below(4) as u8 {
            CLIENT => self.hostile_client(&mut input),
            BROKER => self.hostile_broker(&mut input, &mut seen),
            side => hostile_channel(side, &mut input, &mut seen),
        };
        self.exchange();
        // No process has waited for a slow close, which would take longer.
        assert!(began.elapsed() < TIMEOUT, "that took {:?}", began.elapsed());
        drop(keep_slow);
        // Another thread closes what a peer sent.
        let began = Instant::now();
        loop {
            let (open, threads) = (entries("/proc/self/fd"), entries("/proc/self/task"));
            if open == before && threads <= self.threads {
                return seen;
            }
            // Once, and for a long time: a second client of this process is refused it.
            if open == before + 1 && !self.is_followed && began.elapsed() > FOLLOWED {
                self.is_followed = true;
                return seen;
            }
            assert!(began.elapsed() < TIMEOUT, "descriptors or threads stay");
            std::thread::yield_now();
        }
    }

    fn hostile_client(&mut self, input: &mut Input) -> Vec<KeepSlow> {
        // Ids are assigned in turn, so the next one is known.
        let before = Client::connect_sender(&self.path).expect("a client").id();
        let socket = socket();
        let address = SocketAddrUnix::new(&self.path).expect("a short path");
        rustix::net::connect(&socket, &address).expect("the broker listens");
        let keep_slow = send_all(&socket, input, before.0 + 1);
        wait_for_end(&socket);
        keep_slow
    }

    fn hostile_broker(&mut self, input: &mut Input, seen: &mut Seen) -> Vec<KeepSlow> {
        let path = self.false_path.clone();
        let client = std::thread::spawn(move || Client::connect(&path));
        let socket = rustix::net::accept(&self.false_broker).expect("a client connects");
        let keep_slow = send_all(&socket, input, 0);
        use_client(client.join().expect("no panic"), seen);
        keep_slow
    }

    /// Sends one message between the two correct clients. Other sessions may run meanwhile.
    fn exchange(&mut self) {
        self.said += 1;
        let said = self.said.to_le_bytes();
        self.sender.send(1, &said).expect("the bus goes on");
        loop {
            let message = self.receiver.recv_timeout(TIMEOUT).expect("the bus goes on");
            let message = message.expect("the bus is stuck");
            if message.sender == self.sender.id() {
                return assert_eq!(message.payload, said);
            }
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(broker) = self.broker.take().filter(|_| !std::thread::panicking()) {
            let ended = broker.join().expect("the broker has not panicked");
            ended.expect("the broker has ended in order");
        }
    }
}

fn use_client(client: Result<Client, ConnectError>, seen: &mut Seen) {
    match client {
        Ok(mut client) => {
            seen.mark("connected");
            for _ in 0..64 {
                client.prepare_wait();
                if let Err(SendError::Disconnected(ended)) = client.try_send(1, &[0; 100]) {
                    ended_by(&ended, seen);
                }
                if let Err(RecvError::Disconnected(ended)) = client.try_recv().map(drop) {
                    ended_by(&ended, seen);
                }
            }
        }
        Err(ConnectError::Disconnected(ended)) => ended_by(&ended, seen),
        Err(ConnectError::Refused(_)) => seen.mark("refused"),
        Err(ConnectError::Silent { .. }) => panic!("the peer has hung up, and we waited"),
        Err(error) => panic!("nothing that a peer does makes us fail so: {error}"),
    }
}

fn ended_by(ended: &Disconnected, seen: &mut Seen) {
    match ended {
        Disconnected::PeerFault(fault) => seen.fault(fault),
        other => seen.mark(&format!("Disconnected::{other:?}")),
    }
}

/// Runs both ends of a channel against the input.
fn hostile_channel(side: u8, input: &mut Input, seen: &mut Seen) -> Vec<KeepSlow> {
    let (ours, theirs) = pair();
    let keep_slow = send_all(&ours, input, 1);
    let ended = if side == CHANNEL_RECEIVER {
        llmp::Sender::over(theirs).map(|mut sender| {
            seen.mark("channel sender");
            for _ in 0..64 {
                let _ = sender.try_send(1, &[0; 100]);
            }
        })
    } else {
        llmp::Receiver::over(theirs).map(|mut receiver| {
            seen.mark("channel receiver");
            for _ in 0..64 {
                receiver.prepare_wait();
                let _ = receiver.try_recv();
            }
        })
    };
    match ended {
        Err(ConnectError::Disconnected(ended)) => ended_by(&ended, seen),
        Err(ConnectError::Silent { .. }) => panic!("the peer has hung up, and we waited"),
        _ => {}
    }
    keep_slow
}

/// Waits until the broker has closed a connection.
fn wait_for_end(socket: &OwnedFd) {
    while !drain(socket) {
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        let timeout = Timespec { tv_sec: TIMEOUT.as_secs() as i64, tv_nsec: 0 };
        let happened = poll(&mut fds, Some(&timeout)).expect("poll");
        assert!(happened > 0, "the broker does not let go");
    }
}

/// Returns the number of descriptors or threads of this process.
fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).expect("Linux has /proc").count()
}

//! Processes that die while a forked child lives on, with all their descriptors.

use crate::children::{in_child, split};
use crate::common::TIMEOUT;
use crate::common::bus::Place;
use crate::common::child::Child;
use crate::common::raw::{Raw, RawSocket};
use crate::common::roles::{say, told};
use llmp::core::layout::VERSION;
use llmp::core::wire::{Packet, Refusal, Roles};
use llmp::{Broker, Client, Disconnected, Receiver, RecvError, SendError, Sender, Wait};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Other processes are notified within this time.
const SOON: Duration = Duration::from_secs(1);

/// Forks a child that sleeps, with all descriptors, until it is killed.
fn fork_helper() {
    match split("fork") {
        Err(child) => child.ends(|| std::thread::sleep(TIMEOUT)),
        Ok(helper) => say(format_args!("helper {}", helper.id())),
    }
}

fn sleep_until_killed() -> ! {
    loop {
        std::thread::park();
    }
}

pub fn receiver(path: &Path) {
    let _client = Client::connect(path).unwrap();
    fork_helper();
    sleep_until_killed();
}

pub fn broker(path: &Path) {
    let broker = Broker::bind(path).unwrap();
    std::thread::spawn(move || broker.run());
    say("ready");
    told();
    fork_helper();
    sleep_until_killed();
}

pub fn channel_receiver(path: &Path) {
    let listener = Receiver::listen(path).unwrap();
    say("ready");
    let _receiver = listener.accept().unwrap();
    fork_helper();
    sleep_until_killed();
}

pub fn channel_sender(path: &Path) {
    let mut sender = Sender::connect(path).unwrap();
    sender.send(1, b"first").unwrap();
    fork_helper();
    sender.send(2, b"last").unwrap();
    say("sent");
    sleep_until_killed();
}

/// Connects, and leaves the connection to a child, as `daemon(3)` does.
pub fn handed_over(path: &Path) {
    let socket = RawSocket::connect(path);
    let Err(child) = split("fork") else { sleep_until_killed() };
    child.ends(|| {
        let raw = Raw::join_over(socket, Roles::SEND);
        raw.start();
        say(format_args!("id {}", raw.id));
        assert_eq!(told(), "go on");
        let (_sender, page) = raw.chain(&[(7, b"from the child")]);
        raw.page(0, &page);
        say("sent");
        assert_eq!(told(), "end");
    })
}

/// Connects, and leaves the connection to a child of another user.
pub fn other_user(path: &Path) {
    let socket = RawSocket::connect(path);
    in_child("fork", || {
        // SAFETY: a plain system call, in a child with one thread.
        assert_eq!(unsafe { libc::setuid(12345) }, 0);
        assert!(socket.send(&Packet::Hello { version: VERSION, roles: Roles::SEND }, &[]));
        let (answer, _) = socket.next().expect("an answer");
        assert_eq!(answer, Packet::Refused(Refusal::User));
    });
    say("over");
}

/// A helper that outlives its parent, until the test ends.
struct Helper(Pid);

impl Helper {
    #[track_caller]
    fn of(child: &mut Child) -> Self {
        Helper(Pid::from_raw(child.says_number("helper") as i32).unwrap())
    }

    /// Asserts that it still lives, so that the test proves something.
    #[track_caller]
    fn lives(&self) {
        rustix::process::test_kill_process(self.0).expect("the helper has ended");
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// Sends until the chain is full.
fn fill(mut send: impl FnMut() -> Result<(), SendError>) {
    loop {
        match send() {
            Ok(()) => {}
            Err(SendError::Full { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

const LONG: [u8; 4096] = [7; 4096];

/// Runs `wait`, which ends when the peer has died, and reports the time.
fn ends<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<(T, Instant)> {
    std::thread::spawn(|| (body(), Instant::now()))
}

// P4, P9
#[test]
fn the_bus_goes_on_when_a_receiver_dies_whose_child_lives() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut receiver = place.child("forking-receiver", &[]);
    let helper = Helper::of(&mut receiver);
    let mut sender = place.sender();
    fill(|| sender.send_timeout(1, &LONG, Duration::from_millis(300)));
    receiver.kill();
    let killed = Instant::now();
    sender.send_timeout(1, &LONG, TIMEOUT).unwrap();
    assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
    // More than all chains hold.
    for _ in 0..5000 {
        sender.send_timeout(1, &LONG, TIMEOUT).unwrap();
    }
    broker.says("log client 1 has left");
    helper.lives();
}

// P5
#[test]
fn clients_notice_a_dead_broker_whose_child_lives() {
    let place = Place::new();
    let mut broker = place.child("forking-broker", &[]);
    broker.says("ready");
    let mut asleep = place.connect();
    let mut in_own_loop = place.connect();
    let mut full = place.connect();
    let mut looking = place.connect();
    let mut counting = Client::connect_sender(place.path()).unwrap();
    let mut bounded = place.connect();
    // The helper holds all their connections.
    broker.tell("fork");
    let helper = Helper::of(&mut broker);
    full.send(1, b"committed").unwrap();
    full.flush().unwrap();
    broker.stop();
    fill(|| full.try_send(1, &LONG));
    let hear = |client: &mut Client| {
        assert_eq!(client.recv().unwrap().payload, b"committed");
        client.recv().map(|_| ()).unwrap_err()
    };
    let asleep = ends(move || hear(&mut asleep));
    let in_own_loop = ends(move || {
        assert_eq!(in_own_loop.recv().unwrap().payload, b"committed");
        loop {
            if let Wait::Readable { timeout: None } = in_own_loop.prepare_wait() {
                poll(&mut [PollFd::new(&in_own_loop, PollFlags::IN)], None).unwrap();
            }
            if let Err(error) = in_own_loop.try_recv() {
                return error;
            }
        }
    });
    let full = ends(move || full.send(1, &LONG).unwrap_err());
    let looking = ends(move || {
        assert_eq!(looking.recv().unwrap().payload, b"committed");
        loop {
            if let Err(error) = looking.try_recv() {
                return error;
            }
        }
    });
    let counting = ends(move || counting.wait_for_receivers(100, None).unwrap_err());
    let bounded = ends(move || {
        assert_eq!(bounded.recv().unwrap().payload, b"committed");
        bounded.recv_timeout(TIMEOUT).map(|_| ()).unwrap_err()
    });
    // Some sleep longer than they wait for the connection alone.
    std::thread::sleep(Duration::from_millis(500));
    broker.kill();
    let killed = Instant::now();
    let died = RecvError::Disconnected(Disconnected::PeerDied);
    for client in [asleep, in_own_loop, looking, bounded] {
        let (error, at) = client.join().unwrap();
        assert_eq!(error, died);
        assert!(at.duration_since(killed) < SOON, "{:?}", at.duration_since(killed));
    }
    let (error, at) = full.join().unwrap();
    assert!(matches!(error, SendError::Disconnected(Disconnected::PeerDied)), "{error}");
    assert!(at.duration_since(killed) < SOON, "{:?}", at.duration_since(killed));
    let (error, at) = counting.join().unwrap();
    assert!(error.to_string().contains(&Disconnected::PeerDied.to_string()), "{error}");
    assert!(at.duration_since(killed) < SOON, "{:?}", at.duration_since(killed));
    // P7
    let _next = place.broker(&[]);
    let (mut a, mut b) = (place.connect(), place.connect());
    a.send(1, b"anew").unwrap();
    assert_eq!(b.recv_timeout(TIMEOUT).unwrap().expect("a message").payload, b"anew");
    helper.lives();
}

// P5
#[test]
fn a_channels_sender_notices_a_dead_receiver_with_a_child() {
    let place = Place::new();
    let mut receiver = place.child("forking-channel-receiver", &[]);
    receiver.says("ready");
    let mut sender = Sender::connect(place.path()).unwrap();
    let helper = Helper::of(&mut receiver);
    fill(|| sender.try_send(1, &LONG));
    let sending = ends(move || sender.send(1, &LONG).unwrap_err());
    std::thread::sleep(Duration::from_millis(300));
    receiver.kill();
    let killed = Instant::now();
    let (error, at) = sending.join().unwrap();
    assert!(matches!(error, SendError::Disconnected(Disconnected::PeerDied)), "{error}");
    assert!(at.duration_since(killed) < SOON, "{:?}", at.duration_since(killed));
    helper.lives();
}

// P4
#[test]
fn a_channels_receiver_gets_all_of_a_dead_sender_with_a_child() {
    let place = Place::new();
    let listener = Receiver::listen(place.path()).unwrap();
    let mut sender = place.child("forking-channel-sender", &[]);
    let mut receiver = listener.accept().unwrap();
    let helper = Helper::of(&mut sender);
    sender.says("sent");
    sender.kill();
    let killed = Instant::now();
    assert_eq!(receiver.recv().unwrap().payload, b"first");
    assert_eq!(receiver.recv().unwrap().payload, b"last");
    assert_eq!(receiver.recv().unwrap_err(), RecvError::Disconnected(Disconnected::PeerDied));
    assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
    helper.lives();
}

// P4: the peer is the process that has sent the first packet.
#[test]
fn a_connection_survives_in_a_child_after_its_parent_ends() {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut receiver = place.connect();
    let mut parent = place.child("handed-over", &[]);
    let id = parent.says_number("id");
    // Waiting for a process closes its input.
    let mut child = parent.take_stdin();
    parent.kill();
    // Otherwise the broker would have been notified before.
    let mut other = place.sender();
    other.send(1, b"first").unwrap();
    assert_eq!(receiver.recv_timeout(TIMEOUT).unwrap().expect("a message").payload, b"first");
    std::thread::sleep(Duration::from_millis(100));
    writeln!(child, "go on").unwrap();
    parent.says("sent");
    let message = receiver.recv_timeout(TIMEOUT).unwrap().expect("a message");
    assert_eq!((message.sender.0, message.payload), (id, &b"from the child"[..]));
    writeln!(child, "end").unwrap();
    broker.says(&format!("log client {id} has left"));
}

// P16
#[test]
fn a_connection_of_an_admitted_process_lets_no_other_user_in() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: this needs another user, and so root");
    }
    let place = Place::new();
    let mut broker = place.broker(&[]);
    place.child("other-user", &[]).says("over");
    broker.says("log process");
}

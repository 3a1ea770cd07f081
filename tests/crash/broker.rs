//! The broker dies at each of its steps. Each time its clients receive everything that it had
//! committed, and the error `PeerDied`. The next broker starts at the same place.

use crate::common::TIMEOUT;
use crate::common::bus::Place;
use crate::common::content::{Ear, STEADY, payload};
use crate::common::raw::RawSocket;
use crate::every_step::{
    End, Step, Victim, alone, at_every_step, wait_until_nothing_is_left, within_timeout,
};
use llmp::{Broker, Client, ConnectError, Disconnected, Receiver, RecvError, SendError};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::thread::JoinHandle;

/// More than the budget of any chain.
const MESSAGES: u32 = 24;

/// The messages of one broker's clients.
#[derive(Debug, Default)]
struct Life {
    /// Committed messages, and the number of them that the broker had certainly consumed.
    sent: u32,
    consumed: u32,
    /// The number of messages that each receiver received, and how its connection ended.
    heard: Vec<(u32, Disconnected)>,
}

/// A connection, or `None` if the broker died before it was made.
fn connect<T>(connected: Result<T, ConnectError>) -> Option<T> {
    match connected {
        Ok(client) => Some(client),
        Err(ConnectError::Disconnected(Disconnected::PeerDied) | ConnectError::NoBus { .. }) => {
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Receives everything up to the end. Every wait ends (P5).
fn listen(mut client: Receiver, sender: u32) -> JoinHandle<(u32, Disconnected)> {
    std::thread::spawn(move || {
        let mut ear = Ear::default();
        loop {
            match client.recv_timeout(TIMEOUT) {
                Ok(message) => ear.hear(&message.expect("a message or an end")),
                Err(RecvError::Disconnected(ended)) => return (ear.heard_of(sender), ended),
                Err(error) => panic!("{error}"),
            }
        }
    })
}

/// Sends a descriptor that is not allowed, and waits until the broker closes the connection.
fn stranger(path: &Path) {
    let Ok(address) = SocketAddrUnix::new(path) else { return };
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    if rustix::net::connect(&socket, &address).is_ok() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let stranger = RawSocket(socket);
        stranger.send_bytes(b"?", &[reader.as_fd()]);
        let _ = rustix::net::recv(&stranger.0, &mut [0; 1], RecvFlags::empty());
    }
}

/// Runs a stranger, two receivers and a sender. The sender waits every few messages until the
/// broker has consumed everything. After its last message, it stops the broker.
fn live(path: &Path, tell: ChildStdin) -> Life {
    let mut life = Life::default();
    stranger(path);
    let receiver = || connect(Client::connect_receiver(path));
    let receivers: Vec<Receiver> = [receiver(), receiver()].into_iter().flatten().collect();
    let Some(mut sender) = connect(Client::connect_sender(path)) else {
        return life;
    };
    let id = sender.id().0;
    let ears: Vec<_> = receivers.into_iter().map(|client| listen(client, id)).collect();
    let mut speak = || {
        for number in 0..MESSAGES {
            sender.send(STEADY | number, &payload(id, STEADY | number))?;
            life.sent += 1;
            if number % 3 == 2 {
                sender.flush()?;
                life.consumed = life.sent;
            }
        }
        Ok(())
    };
    let spoken: Result<(), SendError> = speak();
    assert!(
        matches!(spoken, Ok(()) | Err(SendError::Disconnected(Disconnected::PeerDied))),
        "{spoken:?}"
    );
    drop(tell);
    life.heard = ears.into_iter().map(|ear| ear.join().unwrap()).collect();
    life
}

/// Lets a broker run up to this step. [P1 P2 P3 P5 P7 P15]
fn die(place: &Place, step: &Step) -> End {
    let path = place.path();
    // It finds the socket of a dead predecessor.
    drop(UnixListener::bind(&path).unwrap());
    let mut broker = Victim::start(place, "dying-broker", step);
    let mut life = Life::default();
    if broker.word().is_some_and(|(word, _)| word == "ready") {
        let (path, tell) = (path.clone(), broker.child.take_stdin());
        life = within_timeout(move || live(&path, tell));
    }
    let end = broker.end();
    for (heard, ended) in &life.heard {
        // It had forwarded everything that it had consumed.
        assert!((life.consumed..=life.sent).contains(heard), "{life:?}");
        // All receive from the same chain.
        assert_eq!(*heard, life.heard[0].0, "{life:?}");
        match ended {
            // It sent `Bye` before it died.
            Disconnected::Closed => assert_eq!(*heard, MESSAGES),
            ended => assert_eq!(*ended, Disconnected::PeerDied),
        }
    }
    if !end.is_death() {
        assert!(life.heard.iter().all(|(_, ended)| *ended == Disconnected::Closed), "{life:?}");
        assert_eq!(life.heard.len(), 2);
    }
    wait_until_nothing_is_left();
    successor(path);
    end
}

/// Starts the next broker at the same place.
fn successor(path: PathBuf) {
    within_timeout(move || {
        let broker = Broker::bind(&path).unwrap();
        let stop = broker.stop_handle();
        let thread = std::thread::spawn(move || broker.run());
        let mut client = Client::builder().own_messages().connect(&path).unwrap();
        client.send(1, b"on it goes").unwrap();
        assert_eq!(client.recv().unwrap().payload, b"on it goes");
        stop.stop();
        thread.join().unwrap().unwrap();
    });
}

// P1, P2, P3, P5, P7, P15
#[test]
fn p5_p7_a_broker_killed_at_any_step_loses_no_committed_message() {
    let _alone = alone();
    let place = Place::new();
    let steps = [
        "open the lock file",
        "lock the lock file",
        "allocate the lock file",
        "write the lock file",
        "bind",
        "remove a stale socket",
        "listen",
        "ask for our socket's inode",
        "create a memfd",
        "seal it",
        "make an epoll",
        "make an eventfd",
        "write to the eventfd",
        "take a spare descriptor",
        "leave a descriptor to the closer",
        "close elsewhere",
        "refuse descriptors",
        "shut a connection down",
        "shut the listener down",
        "is anything left",
        "watch",
        "wait for events",
        "accept",
        "has accepted",
        "watch a connection",
        "receive",
        "has received",
        "send Welcome",
        "send Page",
        "send Start",
        "send Ring",
        "send Bye",
        "map what came",
        "CommitRead",
        "copy bytes",
        "CommitClear",
        "CommitFill",
        "CommitPublish",
        "CursorPublish",
        "CursorRead",
        "ParkStore",
        "ParkFence",
        "ParkClear",
        "RingFence",
        "RingRead",
        "close a connection",
        "remove our socket",
        "remove the lock file",
        "close the lock file",
        "unmap",
    ];
    at_every_step("broker", &steps, [|step: &Step| die(&place, step)]);
}

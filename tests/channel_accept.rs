//! A channel's listener with processes that connect to it and send nothing.

mod common;

use common::TIMEOUT;
use common::bus::Place;
use common::raw::RawSocket;
use llmp::core::layout::VERSION;
use llmp::core::wire::{Packet, Roles};
use llmp::{ConnectError, Listener, Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Not a test: the child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

/// Less than the time that a silent process has.
const SOON: Duration = Duration::from_secs(5);

fn sender(path: PathBuf) -> std::thread::JoinHandle<Result<(), ConnectError>> {
    std::thread::spawn(move || {
        let mut sender = Sender::connect(path)?;
        sender.send(7, b"hello").unwrap();
        // Its receiver may have consumed that and have ended already.
        let _ = sender.flush_timeout(TIMEOUT);
        Ok(())
    })
}

/// Accepts the next sender and receives its message.
#[track_caller]
fn accepts(listener: &Listener, within: Duration) {
    let began = Instant::now();
    let mut receiver = listener.accept().unwrap();
    assert!(began.elapsed() < within, "accepted after {:?}", began.elapsed());
    assert_eq!(receiver.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"hello");
}

// P9, P12
#[test]
fn silent_processes_hold_up_no_sender() {
    let place = Place::new();
    let listener = Receiver::listen(place.path()).unwrap();
    let silent: Vec<_> = (0..8).map(|_| RawSocket::connect(&place.path())).collect();
    let greeted = RawSocket::connect(&place.path());
    assert!(greeted.send(&Packet::Hello { version: VERSION, roles: Roles::SEND }, &[]));
    for _ in 0..3 {
        let sender = sender(place.path());
        accepts(&listener, SOON);
        sender.join().unwrap().unwrap();
    }
    assert!(matches!(greeted.next(), Some((Packet::Welcome { .. }, Some(_)))));
    // A process that does not join in time is a separate error, and the listener goes on.
    let began = Instant::now();
    for _ in 0..silent.len() + 1 {
        let error = listener.accept().unwrap_err();
        assert!(matches!(error, ConnectError::Silent { .. }), "{error}");
    }
    assert!(began.elapsed() < TIMEOUT, "all of them wait at the same time");
    let sender = sender(place.path());
    accepts(&listener, SOON);
    sender.join().unwrap().unwrap();
}

/// Returns whether the other side has hung up or has sent something.
fn has_ended(socket: &RawSocket) -> bool {
    let mut fds = [PollFd::new(&socket.0, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

// P12
#[test]
fn of_too_many_silent_processes_the_oldest_goes() {
    let place = Place::new();
    let listener = Receiver::listen(place.path()).unwrap();
    let connect = |count| (0..count).map(|_| RawSocket::connect(&place.path()));
    let joins = || {
        let sender = sender(place.path());
        accepts(&listener, SOON);
        sender.join().unwrap().unwrap();
    };
    let mut silent: Vec<_> = connect(63).collect();
    joins();
    // The sender was the sixty-fourth.
    assert!(!has_ended(&silent[0]), "there is a place for each");
    silent.extend(connect(1));
    joins();
    assert!(silent[0].next().is_none(), "the oldest is disconnected");
    assert!(!has_ended(&silent[1]), "and no other");
    // A later one may still join.
    assert!(silent[1].send(&Packet::Hello { version: VERSION, roles: Roles::SEND }, &[]));
    std::thread::scope(|scope| {
        scope.spawn(|| listener.accept().unwrap_err());
        assert!(matches!(silent[1].next(), Some((Packet::Welcome { .. }, Some(_)))));
        drop(silent);
    });
}

// P12
#[test]
fn a_stranger_is_an_error_and_costs_no_other_its_place() {
    let place = Place::new();
    let listener = Receiver::listen(place.path()).unwrap();
    let stranger = RawSocket::connect(&place.path());
    assert!(stranger.send(&Packet::Join, &[]));
    let sender = sender(place.path());
    let error = listener.accept().unwrap_err();
    assert!(error.to_string().contains("broke the protocol"), "{error}");
    accepts(&listener, SOON);
    sender.join().unwrap().unwrap();
}

#[test]
fn an_event_loop_accepts_senders_beside_a_silent_one_and_sees_no_messages() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("channel");
    let listener = Receiver::listen(&path).unwrap();
    let is_readable = |timeout: Duration| {
        let timeout = timeout.try_into().unwrap();
        poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&timeout)).unwrap() > 0
    };
    assert!(listener.try_accept().unwrap().is_none() && !is_readable(Duration::ZERO));
    // It connects and sends nothing.
    let _silent = RawSocket::connect(&path);
    let senders: Vec<_> = (0..20u32)
        .map(|number| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut sender = Sender::connect(path).unwrap();
                sender.send(number, b"hello").unwrap();
                sender
            })
        })
        .collect();
    let mut receivers = Vec::new();
    while receivers.len() < senders.len() {
        assert!(is_readable(Duration::from_secs(20)), "{} of 20", receivers.len());
        while let Some(receiver) = listener.try_accept().unwrap() {
            receivers.push(receiver);
        }
    }
    let mut senders: Vec<Sender> =
        senders.into_iter().map(|sender| sender.join().unwrap()).collect();
    let mut tags: Vec<u32> =
        receivers.iter_mut().map(|receiver| receiver.recv().unwrap().tag.0).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..20).collect::<Vec<_>>());
    // Rings of joined senders are no events of the listener.
    for (sender, receiver) in senders.iter_mut().zip(&mut receivers) {
        receiver.prepare_wait();
        let _ = sender.send(1, b"more");
    }
    assert!(!is_readable(Duration::from_millis(50)));
}

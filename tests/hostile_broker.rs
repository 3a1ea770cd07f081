//! A broker that hurries, lies or floods, as its clients meet it.

use llmp::wire::{MAX_PACKET, Packet, Refusal};
use llmp::{Broker, Client, ConnectError, Ended, SendError, Sender};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use std::os::fd::OwnedFd;

fn pair() -> (OwnedFd, OwnedFd) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    socketpair(AddressFamily::UNIX, kind, flags, None).unwrap()
}

fn say(socket: &OwnedFd, packet: Packet) {
    let mut bytes = [0; MAX_PACKET];
    let len = packet.encode(&mut bytes);
    rustix::net::send(socket, &bytes[..len], SendFlags::NOSIGNAL).unwrap();
}

#[test]
fn who_is_one_too_many_hears_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let broker = Broker::builder().max_clients(1).bind(&path).unwrap();
    let stop = broker.stop_handle();
    let thread = std::thread::spawn(move || broker.run());
    let _first = Client::connect(&path).unwrap();
    for _ in 0..100 {
        let error = Client::connect(&path).unwrap_err();
        assert!(matches!(error, ConnectError::Refused(Refusal::Crowded)), "{error}");
    }
    stop.stop();
    thread.join().unwrap().unwrap();
}

#[test]
fn who_is_refused_before_he_has_said_anything_hears_why() {
    let (ours, theirs) = pair();
    say(&ours, Packet::Refused(Refusal::User));
    drop(ours);
    let error = Sender::over(theirs).unwrap_err();
    assert!(matches!(error, ConnectError::Refused(Refusal::User)), "{error}");
}

#[test]
fn a_client_that_only_sends_hears_that_the_broker_ended_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let broker = Broker::builder().page_len(4096).max_message_len(100).bind(&path).unwrap();
    let stop = broker.stop_handle();
    let thread = std::thread::spawn(move || broker.run());
    let mut client = Client::builder().send_only().connect(&path).unwrap();
    stop.stop();
    thread.join().unwrap().unwrap();
    // Nobody takes anything, so that it needs another page and finds the connection closed.
    let ended = (0..1000).find_map(|_| client.send(1, &[0; 100]).err());
    assert!(matches!(ended, Some(SendError::Ended(Ended::Closed))), "{ended:?}");
}

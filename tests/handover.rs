//! A broker that ends in order: it ends the bus, or hands it over to the next broker.

mod common;

use common::TIMEOUT;
use common::bus::Place;
use common::raw::RawSocket;
use llmp::core::layout::VERSION;
use llmp::core::wire::{ByeReason, Packet, Refusal, Request, Roles};
use llmp::{Broker, BrokerStats, Client, ConnectError, Disconnected, RecvError, Vacancy};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

/// A broker in a thread.
fn serve(broker: Broker) -> JoinHandle<BrokerStats> {
    std::thread::spawn(move || broker.run().unwrap())
}

/// Waits in a thread for the end of a bus's broker. Returns when the broker knows that.
fn stand_by(path: PathBuf) -> JoinHandle<Vacancy> {
    let waiting = std::thread::spawn(move || Broker::wait_until_free(&path, None).unwrap());
    std::thread::sleep(Duration::from_millis(100));
    waiting
}

fn is_closed(error: &RecvError) -> bool {
    *error == RecvError::Disconnected(Disconnected::Closed)
}

// P3, P15
#[test]
fn only_clients_that_outlive_their_broker_go_on_with_the_next_one() {
    let place = Place::new();
    let path = place.path();
    let first = Broker::bind(&path).unwrap();
    let handle = first.stop_handle();
    let first = serve(first);
    let mut stays = Client::builder().outlive_broker(TIMEOUT).connect_receiver(&path).unwrap();
    let mut sender = Client::builder().outlive_broker(TIMEOUT).connect_sender(&path).unwrap();
    let mut leaves = Client::connect_receiver(&path).unwrap();
    sender.send(1, b"to both").unwrap();
    sender.flush().unwrap();
    handle.hand_over();
    assert!(first.join().unwrap().handed_over);
    sender.send(2, b"while there is no broker").unwrap();
    // A sender moves with a call of its own.
    let flushing = std::thread::spawn(move || sender.flush().map(|()| sender));
    assert_eq!(leaves.recv().unwrap().payload, b"to both");
    let error = leaves.recv_timeout(TIMEOUT).unwrap_err();
    assert!(is_closed(&error), "{error}");
    let second = Broker::bind(&path).unwrap();
    let handle = second.stop_handle();
    let second = serve(second);
    assert_eq!(stays.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"to both");
    let next = stays.recv_timeout(TIMEOUT).unwrap().unwrap();
    assert_eq!((next.tag.0, next.payload), (2, &b"while there is no broker"[..]));
    let sender = flushing.join().unwrap().unwrap();
    handle.stop();
    assert!(!second.join().unwrap().handed_over);
    drop(sender);
    let error = stays.recv_timeout(TIMEOUT).unwrap_err();
    assert!(is_closed(&error), "{error}");
    assert!(std::fs::read_dir(path.parent().unwrap()).unwrap().next().is_none(), "files are left");
}

// P3
#[test]
fn a_broker_that_resigns_hands_over_only_to_a_process_that_stands_by() {
    let place = Place::new();
    let path = place.path();
    for candidates in [0, 1, 3] {
        let broker = Broker::bind(&path).unwrap();
        let handle = broker.stop_handle();
        let running = serve(broker);
        let waiting: Vec<_> = (0..candidates).map(|_| stand_by(path.clone())).collect();
        // One that has gone does not count.
        let gone = RawSocket::connect(&path);
        let ask = Packet::Ask { version: VERSION, request: Request::StandBy };
        assert!(gone.send(&ask, &[]));
        std::thread::sleep(Duration::from_millis(50));
        drop(gone);
        let began = Instant::now();
        handle.resign();
        assert_eq!(running.join().unwrap().handed_over, candidates > 0);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), Vacancy::Free);
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

// P15
#[test]
fn a_bus_that_is_stopped_has_ended_for_processes_that_stand_by() {
    let place = Place::new();
    let path = place.path();
    let running = serve(Broker::bind(&path).unwrap());
    let waiting = [(); 3].map(|()| stand_by(path.clone()));
    let mut client = Client::builder().outlive_broker(TIMEOUT).connect(&path).unwrap();
    Broker::request_stop(&path, TIMEOUT).unwrap();
    // It has released its place.
    drop(Broker::bind(&path).unwrap());
    for waiting in waiting {
        assert_eq!(waiting.join().unwrap(), Vacancy::Closed);
    }
    assert!(!running.join().unwrap().handed_over);
    let error = client.recv_timeout(TIMEOUT).unwrap_err();
    assert!(is_closed(&error), "{error}");
    let error = Broker::request_stop(&path, TIMEOUT).unwrap_err();
    assert!(matches!(error, ConnectError::NoBus { .. }), "{error}");
}

// P16
#[test]
fn a_full_bus_can_be_stopped() {
    let place = Place::new();
    let path = place.path();
    let broker = Broker::builder().max_clients(2).bind(&path).unwrap();
    let running = serve(broker);
    let clients = [(); 2].map(|()| Client::connect(&path).unwrap());
    let error = Client::connect(&path).unwrap_err();
    assert!(matches!(error, ConnectError::Refused(Refusal::Crowded)), "{error}");
    Broker::request_stop(&path, TIMEOUT).unwrap();
    running.join().unwrap();
    drop(clients);
}

// P3, P15
#[test]
fn a_broker_that_waits_for_clients_leaves_them_to_the_next_one() {
    let place = Place::new();
    let path = place.path();
    let mut first = place.broker(&[]);
    let mut late = Client::builder().outlive_broker(TIMEOUT).connect_receiver(&path).unwrap();
    let mut sender = Client::builder().outlive_broker(TIMEOUT).connect_sender(&path).unwrap();
    first.kill();
    // The receiver does not come while the second broker serves. Nothing runs in it meanwhile.
    let second = serve(Broker::bind(&path).unwrap());
    sender.send(1, b"for all").unwrap();
    let flushing = std::thread::spawn(move || sender.flush());
    std::thread::sleep(Duration::from_millis(200));
    Broker::request_hand_over(&path, TIMEOUT).unwrap();
    assert_eq!(second.join().unwrap().broadcast.messages, 0);
    let third = Broker::bind(&path).unwrap();
    let handle = third.stop_handle();
    let third = serve(third);
    assert_eq!(late.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"for all");
    flushing.join().unwrap().unwrap();
    handle.stop();
    assert_eq!(third.join().unwrap().broadcast.messages, 1);
}

// P12
#[test]
fn requests_that_break_the_protocol_end_nothing() {
    let place = Place::new();
    let path = place.path();
    let running = serve(Broker::bind(&path).unwrap());
    let ask = |request| Packet::Ask { version: VERSION, request };
    // An unknown request.
    let asking = RawSocket::connect(&path);
    assert!(asking.send(&ask(Request::Other(99)), &[]));
    assert!(matches!(asking.next(), Some((Packet::Refused(Refusal::Roles), None))));
    // Another version.
    let asking = RawSocket::connect(&path);
    assert!(asking.send(&Packet::Ask { version: VERSION + 1, request: Request::Stop }, &[]));
    let answer = asking.next();
    assert!(matches!(answer, Some((Packet::Refused(Refusal::Version { .. }), None))), "{answer:?}");
    // A client that asks.
    let client = RawSocket::connect(&path);
    assert!(client.send(&Packet::Hello { version: VERSION, roles: Roles::RECEIVE }, &[]));
    assert!(matches!(client.next(), Some((Packet::Welcome { .. }, _))));
    client.send(&ask(Request::Stop), &[]);
    assert!(matches!(client.next(), Some((Packet::Bye(ByeReason::Fault), _))));
    // A process that stands by and then says more.
    let candidate = RawSocket::connect(&path);
    assert!(candidate.send(&ask(Request::StandBy), &[]));
    candidate.send(&ask(Request::Stop), &[]);
    assert!(candidate.next().is_none());
    // More of them than the broker has places for. It still serves, and the others are refused.
    let crowd: Vec<_> = (0..300).map(|_| RawSocket::connect(&path)).collect();
    for candidate in &crowd {
        assert!(candidate.send(&ask(Request::StandBy), &[]));
    }
    assert!(matches!(crowd[299].next(), Some((Packet::Refused(Refusal::Crowded), None))));
    let mut client = Client::builder().own_messages().connect(&path).unwrap();
    client.send(1, b"it serves").unwrap();
    assert_eq!(client.recv_timeout(TIMEOUT).unwrap().unwrap().payload, b"it serves");
    Broker::request_stop(&path, TIMEOUT).unwrap();
    running.join().unwrap();
    // Those that were admitted learn that the bus has ended.
    assert!(matches!(crowd[0].next(), Some((Packet::Bye(ByeReason::Closed), None))));
}

// P16
#[test]
fn a_channel_refuses_requests() {
    let place = Place::new();
    let listener = llmp::Receiver::listen(place.path()).unwrap();
    let accepting = std::thread::spawn(move || listener.accept().map(drop));
    let error = Broker::request_stop(place.path(), TIMEOUT).unwrap_err();
    assert!(matches!(error, ConnectError::Refused(Refusal::Roles)), "{error}");
    assert!(accepting.join().unwrap().is_err());
}

// P15
#[test]
fn a_broker_that_does_not_answer_is_reported() {
    let place = Place::new();
    let broker = Broker::bind(place.path()).unwrap();
    // It does not run.
    let error = Broker::request_stop(place.path(), Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, ConnectError::Silent { .. }), "{error}");
    drop(broker);
}

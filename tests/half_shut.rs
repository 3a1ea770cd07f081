//! Processes that shut down the receiving half of their connection and keep the sending half. No
//! event reports that to the other side.

mod common;

use common::TIMEOUT;
use common::bus::Bus;
use common::connection::connection_of;
use llmp::core::chain::Start;
use llmp::core::control::Control;
use llmp::core::layout::{CONTROL_PARKED, VERSION};
use llmp::core::memory::Memory;
use llmp::core::order::Site;
use llmp::core::wire::Packet;
use llmp::{Broker, Client, Disconnected, Limits, SendError, Sender};
use rustix::net::{Shutdown, shutdown};
use std::time::{Duration, Instant};

/// Not a test: the child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

const LEN: usize = 1000;

/// Much more than the bus holds. Each message is one of `LEN` bytes.
const MANY: usize = 2000;

fn bus() -> Bus {
    let builder = Broker::builder().page_len(4096).max_message_len(LEN);
    Bus::new(builder.chain_budget(64 * 1024).zero_copy_threshold(usize::MAX))
}

fn pair(bus: &Bus) -> (Sender, Client) {
    (Client::connect_sender(bus.path()).unwrap(), bus.connect())
}

fn send_all(sender: &mut Sender, reader: &mut Client) {
    let deadline = Instant::now() + TIMEOUT;
    for number in 0..MANY as u32 {
        while let Err(error) = sender.try_send(number, &[7; LEN]) {
            assert!(matches!(error, SendError::Full { .. }), "{error}");
            assert!(Instant::now() < deadline, "the bus stands still at message {number}");
            while reader.try_recv().unwrap().is_some() {}
        }
    }
}

// P9, P12
#[test]
fn a_receiver_that_refuses_announcements_is_removed() {
    let bus = bus();
    let (mut sender, mut reader) = pair(&bus);
    let half_shut = Client::connect_receiver(bus.path()).unwrap();
    shutdown(connection_of(&half_shut), Shutdown::Read).unwrap();
    send_all(&mut sender, &mut reader);
    bus.has_left(half_shut.id().0);
}

// P9, P12
#[test]
fn a_receiver_that_refuses_rings_is_removed() {
    let bus = bus();
    let (mut sender, mut reader) = pair(&bus);
    let mut slow = Client::connect_receiver(bus.path()).unwrap();
    // As much as there is room for, so that the broadcast chain makes all its pages.
    while sender.send_timeout(1, &[7; LEN], Duration::from_millis(200)).is_ok() {}
    while slow.recv_timeout(Duration::from_millis(200)).unwrap().is_some() {}
    shutdown(connection_of(&slow), Shutdown::Read).unwrap();
    send_all(&mut sender, &mut reader);
    bus.has_left(slow.id().0);
}

// P4
#[test]
fn messages_of_a_removed_receiver_arrive() {
    let bus = bus();
    let (mut sender, mut reader) = pair(&bus);
    let mut half_shut = bus.connect();
    // Before the broker can notice. After a removal, it discards what the client sends.
    let last =
        (0..40).take_while(|tag| half_shut.try_send(*tag, &[9; LEN]).is_ok()).last().unwrap();
    shutdown(connection_of(&half_shut), Shutdown::Read).unwrap();
    // The bus continues until the broker has noticed.
    let (mut next, deadline) = (0, Instant::now() + TIMEOUT);
    for number in 0.. {
        assert!(Instant::now() < deadline, "the bus stands still, {next} messages have arrived");
        let sent = sender.try_send(1000 + number, &[7; LEN]);
        assert!(matches!(sent, Ok(()) | Err(SendError::Full { .. })), "{sent:?}");
        while let Some(message) = reader.try_recv().unwrap() {
            if message.sender == half_shut.id() {
                assert_eq!(message.tag.0, next);
                next += 1;
            }
        }
        if next > last && number > MANY as u32 {
            break;
        }
    }
    bus.has_left(half_shut.id().0);
}

// P5
#[test]
fn a_broker_that_takes_nothing_any_more_has_died_to_its_clients() {
    let place = common::bus::Place::new();
    let path = place.path();
    let broker = common::raw::RawSocket::listen(&path);
    let connecting = std::thread::spawn(move || Client::connect_sender(path));
    let broker = broker();
    let control = common::raw::region(4096);
    Control::create(control.clone(), 1).give_place(0, 1);
    let limits = Limits::new(4096, LEN, 64 * 1024).unwrap();
    let welcome = Packet::Welcome {
        version: VERSION,
        client: 1,
        cursor: 0,
        broker: 1,
        limits: (&limits).into(),
    };
    assert!(broker.send(&welcome, &[control.descriptor().unwrap()]));
    let start = Start { page: 0, position: 64, message: 0 };
    assert!(broker.send(&Packet::Start(start), &[]));
    let mut sender = connecting.join().unwrap().unwrap();
    shutdown(&broker.0, Shutdown::Read).unwrap();
    // It sleeps, and is rung.
    control.store(CONTROL_PARKED, 1, Site::ParkStore);
    sender.send(1, b"rings").unwrap();
    let error = sender.flush_timeout(Duration::from_secs(2)).unwrap_err();
    assert!(matches!(error, SendError::Disconnected(Disconnected::PeerDied)), "{error:?}");
}

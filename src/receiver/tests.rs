use super::*;
use crate::core::fault::Fault;
use crate::{Broker, Client};

/// Calls `act` with two clients of a bus.
fn with_two(act: impl FnOnce(Client, Client)) {
    let place = tempfile::tempdir().unwrap();
    let bus = place.path().join("bus");
    let broker = Broker::bind(&bus).unwrap();
    let stop = broker.stop_handle();
    let broker = std::thread::spawn(move || broker.run());
    act(Client::connect(&bus).unwrap(), Client::connect(&bus).unwrap());
    stop.stop();
    broker.join().unwrap().unwrap();
}

#[test]
fn the_inbox_is_filled_in_bounded_portions() {
    const LEN: usize = 64 * 1024;
    with_two(|mut busy, mut waiting| {
        for _ in 0..64 {
            busy.send(1, &[1; LEN]).unwrap();
        }
        busy.flush().unwrap();
        waiting.receiver.fill_inbox().unwrap();
        let moved = waiting.receiver.inbox.len() * LEN;
        assert!((1..=BYTES_FILLED_AT_ONCE + LEN).contains(&moved), "{moved}");
    });
}

#[test]
fn stops_reading_after_protocol_error() {
    with_two(|mut sender, mut receiver| {
        sender.send(1, b"first").unwrap();
        sender.send(1, b"second").unwrap();
        assert_eq!(receiver.recv().unwrap().payload, b"first");
        receiver.receiver.locked(|_, locked| locked.fail(Fault::TakenBack)).unwrap();
        let ended = RecvError::Disconnected(Disconnected::PeerFault(Fault::TakenBack));
        assert_eq!(receiver.try_recv().unwrap_err(), ended);
        assert_eq!(receiver.recv().unwrap_err(), ended);
    });
}

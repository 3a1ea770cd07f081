use super::*;
use crate::core::chain::{BROKER, ChainReader, ChainWriter};
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::layout::control_len;
use crate::core::link::Link;
use crate::socket::Socket;
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

/// A receiver that a broker has removed or will remove, and both ends of its bus.
struct Removable {
    receiver: Receiver,
    writer: ChainWriter<Region>,
    limits: Limits,
    brokers: Control<Region>,
    brokers_socket: Socket,
}

fn removable() -> Removable {
    let limits = Limits::default();
    let control = || Control::create(Region::heap(control_len(1)), 1);
    let (ours, brokers) = (control(), control());
    brokers.give_place(0, 7);
    let peer = Control::check(brokers.memory().clone(), 0).unwrap();
    let page = Region::heap(limits.page_len());
    let writer = ChainWriter::new(BROKER, limits, page.clone());
    let reader = ChainReader::from_beginning(limits, BROKER, page, ours.clone(), 0).unwrap();
    let link = Link::new(ours, peer.clone(), None, Some(reader.in_place(peer, 0, 7)));
    let (socket, brokers_socket) = Socket::pair().unwrap();
    let halves = Connection::halves(socket, link, limits, ClientId(7), 1);
    let (connection, inbound) = halves.receiving().unwrap();
    let receiver = Receiver::new(connection, inbound, Settings::default());
    Removable { receiver, writer, limits, brokers, brokers_socket }
}

// P8: the frequent path has found a message that was not whole, and its slot is written again now.
#[test]
fn a_removed_receiver_reads_no_slot_again() {
    let mut bus = removable();
    assert_eq!(bus.receiver.try_recv_elsewhere(None), Ok(None));
    bus.brokers.end_membership(0);
    let removed = RecvError::Disconnected(Disconnected::Removed);
    assert_eq!(bus.receiver.try_recv_elsewhere(None), Err(removed));
}

// P8: messages were lost, so the end is a removal and not the peer's death. The broker announced the
// next page after it had found the receiver's connection shut down.
#[test]
fn a_removed_receiver_whose_next_page_is_missing_learns_of_the_removal() {
    for is_removed in [false, true] {
        let Removable { mut receiver, mut writer, limits, brokers, brokers_socket } = removable();
        writer.add_page(Region::heap(limits.page_len()));
        let mut sent = 0;
        while writer.send(Envelope::tagged(1), &[0; 1000]).is_ok()
            && sent <= limits.page_len() / 1000
        {
            sent += 1;
        }
        drop(brokers_socket);
        if is_removed {
            brokers.end_membership(0);
        }
        let error = loop {
            match receiver.poll() {
                Ok(Some(slot)) => receiver.inbound.chain.advance(&slot),
                Ok(None) => {}
                Err(error) => break error,
            }
        };
        let why = if is_removed { Disconnected::Removed } else { Disconnected::PeerDied };
        assert_eq!(error, RecvError::Disconnected(why));
    }
}

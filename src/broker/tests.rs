//! The broker with its sockets, where a test must be inside.

#[path = "../../tests/common/kernel.rs"]
pub(crate) mod kernel;

mod budgets;

use super::packets::Outcome;
use super::*;
use crate::core::wire::{ByeReason, Packet, Refusal, Roles};
use crate::socket::{Received, Sent, Socket};
use crate::sys::system::os_page;
use crate::{BrokerBuilder, Client, ConnectError, Receiver, Sender, Wait};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
const WHILE: Duration = Duration::from_millis(200);

/// The bound of this resource in the threat model's table.
#[track_caller]
pub(crate) fn bound(resource: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threat-model.md");
    let text = std::fs::read_to_string(path).unwrap();
    let row = text.lines().find_map(|line| line.strip_prefix(&format!("| {resource} | ")));
    row.unwrap_or_else(|| panic!("no row of {resource}")).split(" |").next().unwrap().to_owned()
}

/// A bus whose pages are the shortest ones, and a chain's budget holds this many.
fn short_pages(count: usize) -> BrokerBuilder {
    let builder = Broker::builder().page_len(os_page()).chain_budget(count * os_page());
    builder.max_message_len(message().len())
}

/// A message of which the shortest page holds three.
fn message() -> Vec<u8> {
    vec![7; os_page() / 4 - 24]
}

fn serve(broker: &mut Broker) {
    broker.poll_sockets(Some(Duration::from_millis(1))).unwrap();
    while broker.cycle() {}
}

/// A client that the broker has let in.
fn client(broker: &mut Broker) -> Client {
    let connecting = connecting(broker, Client::connect);
    let_in(broker, connecting)
}

/// A client on its way in.
/// Connects in a thread of its own, because this one serves the bus.
fn connecting<T: Send + 'static>(
    broker: &Broker,
    connect: impl FnOnce(PathBuf) -> Result<T, ConnectError> + Send + 'static,
) -> JoinHandle<T> {
    let path = broker.path().to_owned();
    thread::spawn(move || connect(path).unwrap())
}

fn let_in<T>(broker: &mut Broker, connecting: JoinHandle<T>) -> T {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    while !connecting.is_finished() && Instant::now() < deadline {
        serve(broker);
    }
    connecting.join().unwrap()
}

#[test]
fn rings_and_pages_for_which_there_was_no_memory_are_sent_later() {
    // Nothing but a ring is due for the first; pages are for the others, and end the sleep, too.
    for (len, messages) in [(8, 1), (512 * 1024, 4)] {
        let place = tempfile::tempdir().unwrap();
        // Copied, so that the broker has pages to tell of.
        let builder = Broker::builder().zero_copy_threshold(usize::MAX);
        let mut broker = builder.bind(place.path().join("bus")).unwrap();
        let (mut sender, mut receiver) = (client(&mut broker), client(&mut broker));
        let (report, reports) = std::sync::mpsc::channel();
        let receiving = thread::spawn(move || {
            for _ in 0..messages {
                report.send(receiver.recv().unwrap().payload.len()).unwrap();
            }
        });
        thread::sleep(WHILE);
        for _ in 0..messages {
            sender.send(1, &vec![7; len]).unwrap();
        }
        let mut broker = kernel::refusing(libc::SYS_sendmsg, libc::ENOBUFS, move || {
            serve(&mut broker);
            assert!(!broker.cycle(), "what can't be sent is no work");
            assert!(broker.send_pending);
            broker
        });
        assert!(reports.recv_timeout(WHILE).is_err(), "nobody has rung");
        serve(&mut broker);
        assert!(!broker.send_pending);
        let lens: Vec<usize> =
            (0..messages).map(|_| reports.recv_timeout(HANDSHAKE_TIMEOUT).unwrap()).collect();
        assert_eq!(lens, vec![len; messages]);
        receiving.join().unwrap();
    }
}

#[test]
fn a_welcome_without_memory_is_sent_later() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = Broker::bind(place.path().join("bus")).unwrap();
    let client = connecting(&broker, Client::connect);
    let mut broker = kernel::refusing(libc::SYS_sendmsg, libc::ENOMEM, move || {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        while !broker.send_pending && Instant::now() < deadline {
            serve(&mut broker);
        }
        assert!(broker.send_pending, "it goes on trying");
        broker
    });
    assert_eq!(let_in(&mut broker, client).id(), ClientId(1));
}

#[test]
fn a_broker_that_ends_without_memory_does_not_spin() {
    let place = tempfile::tempdir().unwrap();
    let page_len = os_page().max(16 * 1024);
    let builder =
        Broker::builder().chain_budget(4 * page_len).max_message_len(4096).page_len(page_len);
    let mut broker = builder.bind(place.path().join("bus")).unwrap();
    let (mut sender, mut asleep) = (client(&mut broker), client(&mut broker));
    assert_eq!(asleep.prepare_wait(), Wait::Readable { timeout: None });
    // All that there is room for on the bus and in the sender's chain.
    let mut broker = kernel::refusing(libc::SYS_sendmsg, libc::ENOBUFS, move || {
        serve(&mut broker);
        broker
    });
    while sender.try_send(1, &[7; 4096]).is_ok() {}
    broker.stop_handle().stop();
    kernel::refusing(libc::SYS_sendmsg, libc::ENOBUFS, move || {
        serve(&mut broker);
        assert!(broker.core.is_blocked() && broker.send_pending);
        kernel::idling(|| broker.run()).unwrap();
    });
}

#[test]
fn a_client_gets_the_last_receiver_count() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = Broker::bind(place.path().join("bus")).unwrap();
    let leaving = client(&mut broker);
    let watching = connecting(&broker, |path| Client::builder().track_receivers().connect(path));
    while broker.connections.len() < 2 {
        broker.poll_sockets(None).unwrap();
    }
    // Nothing but its greeting is taken.
    let (&(mut key), _) = broker.connections.last_key_value().unwrap();
    while broker.take_packet(&mut key) != Outcome::Packet {}
    // Its next packet is there, and then that the other one has left: one look takes in both.
    thread::sleep(WHILE);
    drop(leaving);
    broker.poll_sockets(None).unwrap();
    let mut watching = let_in(&mut broker, watching);
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    assert!(watching.wait_for_receivers(1, Some(deadline)).unwrap());
    serve(&mut broker);
    assert_eq!(watching.receivers(), Some(1), "itself");
}

/// Greets the broker, from a socket of its own.
fn greeting(broker: &mut Broker) -> Socket {
    let socket = Socket::connect(broker.path(), Instant::now()).unwrap();
    let hello = Packet::Hello { version: crate::core::layout::VERSION, roles: Roles::SEND };
    assert_eq!(socket.send(&hello, None), Sent::Yes);
    serve(broker);
    serve(broker);
    assert!(matches!(socket.receive(), Received::Packet(Packet::Welcome { client: 1, .. }, _)));
    socket
}

#[test]
fn a_connection_has_its_clients_id_as_key_once_the_client_has_joined() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = Broker::bind(place.path().join("bus")).unwrap();
    let socket = greeting(&mut broker);
    assert_eq!(broker.keys(|_| true), [FIRST_NEWCOMER]);
    let control = crate::handshake::control_region(1).unwrap();
    let control = crate::core::control::Control::create(control, 1);
    assert_eq!(socket.send(&Packet::Join, control.memory().descriptor()), Sent::Yes);
    serve(&mut broker);
    assert_eq!((broker.keys(|_| true), broker.newcomers().count()), (vec![1], 0));
    // Its events are found under the new key.
    drop(socket);
    serve(&mut broker);
    assert_eq!((broker.connections.len(), broker.core.clients()), (0, 0));
}

#[test]
fn a_greeted_client_at_fault_gets_a_goodbye_and_its_id_is_free() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = Broker::bind(place.path().join("bus")).unwrap();
    for faults in 1..=3 {
        let socket = greeting(&mut broker);
        assert_eq!(socket.send(&Packet::Forget { id: 7 }, None), Sent::Yes);
        serve(&mut broker);
        let bye = socket.receive();
        assert!(matches!(bye, Received::Packet(Packet::Bye(ByeReason::Fault), _)), "{bye:?}");
        assert_eq!((broker.report.faults, broker.core.clients()), (faults, 0));
    }
}

/// Descriptors that wait in a socket's queue, as the kernel counts them.
fn in_flight(socket: &Socket) -> usize {
    use std::os::fd::{AsFd, AsRawFd};
    let info = format!("/proc/self/fdinfo/{}", socket.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(info).unwrap();
    let count = info.lines().find_map(|line| line.strip_prefix("scm_fds:"));
    count.unwrap().trim().parse().unwrap()
}

// P12
#[test]
fn a_client_that_does_not_read_holds_few_descriptors_in_flight() {
    let place = tempfile::tempdir().unwrap();
    let builder = short_pages(256);
    let mut broker =
        builder.zero_copy_threshold(usize::MAX).bind(place.path().join("bus")).unwrap();
    // Two clients, and the one that does not read.
    broker.max_in_flight = 3 * 8;
    let (mut sender, mut reader) = (client(&mut broker), client(&mut broker));
    let mut fill = |broker: &mut Broker| {
        for _ in 0..4 {
            // As much as both chains hold, so that the broadcast chain makes all its pages.
            while sender.try_send(1, &message()).is_ok() {}
            serve(broker);
            while reader.try_recv().unwrap().is_some() {}
            while sender.try_recv().unwrap().is_some() {}
            serve(broker);
        }
    };
    fill(&mut broker);
    let socket = Socket::connect(broker.path(), Instant::now()).unwrap();
    let hello = Packet::Hello { version: crate::core::layout::VERSION, roles: Roles::RECEIVE };
    assert_eq!(socket.send(&hello, None), Sent::Yes);
    serve(&mut broker);
    serve(&mut broker);
    assert_eq!(in_flight(&socket), 1, "the broker's control region");
    let control = crate::handshake::control_region(1).unwrap();
    let control = crate::core::control::Control::create(control, 1);
    assert_eq!(socket.send(&Packet::Join, control.memory().descriptor()), Sent::Yes);
    serve(&mut broker);
    serve(&mut broker);
    assert_eq!(in_flight(&socket), 8);
    assert!(broker.unread_again.is_some(), "it is tried again");
    fill(&mut broker);
    assert_eq!(in_flight(&socket), 8, "however long it does not read");
    // It reads, and is told everything up to its start.
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let (mut pages, mut is_in) = (0, false);
    while !is_in && Instant::now() < deadline {
        serve(&mut broker);
        match socket.receive() {
            Received::Packet(Packet::Page { .. }, _) => pages += 1,
            Received::Packet(Packet::Start(_), _) => is_in = true,
            _ => {}
        }
    }
    assert!(is_in && pages > 32, "{pages} pages");
}

fn stuck(broker: &Broker) -> usize {
    broker.keys(|connection| connection.stuck.is_some()).len()
}

/// What came while the kernel mapped nothing.
#[track_caller]
fn is_stuck(broker: &mut Broker) {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    while stuck(broker) == 0 {
        assert!(Instant::now() < deadline, "nothing is stuck");
        serve(broker);
    }
    // However often it is tried again.
    for _ in 0..10 {
        thread::sleep(RETRY_INTERVAL);
        serve(broker);
    }
    assert_eq!(stuck(broker), 1);
}

// P3, P12
#[test]
fn a_page_that_can_not_be_mapped_waits_until_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let builder = short_pages(16);
    let mut broker = builder.bind(place.path().join("bus")).unwrap();
    let (mut sender, mut other) = (client(&mut broker), client(&mut broker));
    let mut receiver = client(&mut broker);
    for tag in 0..20 {
        sender.send(tag, &message()).unwrap();
    }
    let mut broker = kernel::refusing(libc::SYS_mmap, libc::ENOMEM, move || {
        is_stuck(&mut broker);
        assert!(broker.core.park(), "it sleeps until the next try");
        broker.core.unpark();
        broker
    });
    // Others are served meanwhile.
    other.send(1000, b"goes on").unwrap();
    serve(&mut broker);
    thread::sleep(RETRY_INTERVAL);
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let mut heard = Vec::new();
    while heard.len() < 21 {
        assert!(Instant::now() < deadline, "{heard:?} alone have arrived");
        serve(&mut broker);
        while let Some(message) = receiver.try_recv().unwrap() {
            heard.push(message.tag.0);
        }
    }
    heard.retain(|tag| *tag != 1000);
    assert_eq!(heard, (0..20).collect::<Vec<_>>());
    assert_eq!(stuck(&broker), 0);
    assert_eq!(broker.report.faults, 0);
}

// P4, P7
#[test]
fn the_messages_of_a_dead_client_wait_for_room() {
    let place = tempfile::tempdir().unwrap();
    let builder = short_pages(16);
    let mut broker = builder.bind(place.path().join("bus")).unwrap();
    let (mut sender, mut receiver) = (client(&mut broker), client(&mut broker));
    for tag in 0..12 {
        sender.send(tag, &message()).unwrap();
    }
    let mut broker = kernel::refusing(libc::SYS_mmap, libc::ENOMEM, move || {
        is_stuck(&mut broker);
        drop(sender);
        kernel::idling(|| {
            let until = Instant::now() + WHILE;
            while Instant::now() < until {
                broker.poll_sockets(broker.bounded(Some(WHILE))).unwrap();
            }
        });
        assert_eq!(broker.connections.len(), 2);
        broker
    });
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let mut next = 0;
    while next < 12 || broker.connections.len() > 1 {
        assert!(Instant::now() < deadline, "{next} have arrived");
        serve(&mut broker);
        while let Some(message) = receiver.try_recv().unwrap() {
            assert_eq!(message.tag.0, next);
            next += 1;
        }
    }
    assert_eq!(broker.report.faults, 0);
}

// P12
#[test]
fn a_client_joins_once_its_region_can_be_mapped() {
    let place = tempfile::tempdir().unwrap();
    let mut broker = Broker::bind(place.path().join("bus")).unwrap();
    let client = connecting(&broker, Client::connect);
    let mut broker = kernel::refusing(libc::SYS_mmap, libc::ENOMEM, move || {
        is_stuck(&mut broker);
        broker
    });
    assert_eq!(let_in(&mut broker, client).id(), ClientId(1));
    assert_eq!(broker.report.faults, 0);
}

// P12
#[test]
fn a_client_without_room_for_a_page_says_what_it_lacks() {
    let place = tempfile::tempdir().unwrap();
    let builder = short_pages(16);
    let mut broker = builder.bind(place.path().join("bus")).unwrap();
    let (mut sender, mut receiver) = (client(&mut broker), client(&mut broker));
    for tag in 0..12 {
        sender.send(tag, &message()).unwrap();
    }
    serve(&mut broker);
    let error = kernel::refusing(libc::SYS_mmap, libc::ENOMEM, move || {
        (0..12).find_map(|_| receiver.try_recv().err())
    });
    let text = error.unwrap().to_string();
    assert!(text.contains("has too few resources"), "{text}");
    assert!(text.contains("ulimit -v"), "{text}");
}

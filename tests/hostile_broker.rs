//! Clients with a broker that is too fast, breaks the protocol or floods them.

#[path = "common/regions.rs"]
mod regions;

use llmp::core::chain::{ChainWriter, Start};
use llmp::core::control::Control;
use llmp::core::layout::{PAGE_HEADER, VERSION, control_len, cursor_offset};
use llmp::core::memory::{Memory, Region};
use llmp::core::order::Site;
use llmp::core::wire::{ByeReason, MAX_PACKET, Packet, RawLimits, Refusal, Roles};
use llmp::{
    Broker, Client, ConnectError, Disconnected, Envelope, Fault, Limits, SendError, Sender,
};
use regions::shared;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, socketpair,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::JoinHandle;

fn pair() -> (OwnedFd, OwnedFd) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    socketpair(AddressFamily::UNIX, kind, flags, None).unwrap()
}

fn say(socket: &OwnedFd, packet: Packet) {
    hand(socket, packet, None);
}

fn hand(socket: &OwnedFd, packet: Packet, region: Option<&Region>) {
    let mut bytes = [0; MAX_PACKET];
    let len = packet.encode(&mut bytes);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptor = region.map(|region| [region.descriptor().unwrap()]);
    if let Some(descriptor) = &descriptor {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptor)));
    }
    let parts = [IoSlice::new(&bytes[..len])];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// A broker whose packets the test chooses, up to its welcome.
fn welcome(path: &Path, budget: u64) -> (OwnedFd, JoinHandle<Result<Client, ConnectError>>) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let listener = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let path = path.to_owned();
    let client = std::thread::spawn(move || Client::connect(&path));
    let socket = rustix::net::accept(&listener).unwrap();
    rustix::net::recv(&socket, &mut [0; MAX_PACKET], RecvFlags::empty()).unwrap();
    welcomed(&socket, budget);
    (socket, client)
}

/// Sends the `Welcome`. Returns the control region, so that a test can write invalid values.
fn welcomed(socket: &OwnedFd, budget: u64) -> Region {
    let region = shared("llmp-test", control_len(1)).unwrap();
    let control = Control::create(region, 1);
    control.give_place(0, 1);
    let limits = RawLimits { page_len: 4096, max_message_len: 1000, budget };
    let welcome = Packet::Welcome { version: VERSION, client: 1, cursor: 0, broker: 2, limits };
    hand(socket, welcome, Some(control.memory()));
    control.memory().clone()
}

const START: Packet = Packet::Start(Start { page: 0, position: PAGE_HEADER as u64, message: 0 });

// P8: a client that reads in place and says `Bye` reads no further.
#[test]
fn a_client_whose_start_is_invalid_says_bye() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, client) = welcome(&dir.path().join("bus"), 64 * 4096);
    // Instead of a start.
    say(&broker, Packet::Hello { version: VERSION, roles: Roles::SEND });
    assert!(matches!(client.join().unwrap(), Err(ConnectError::Disconnected(_))));
    let mut last = 0;
    loop {
        let mut bytes = [0; MAX_PACKET];
        match rustix::net::recv(&broker, &mut bytes, RecvFlags::empty()) {
            Ok((_, 0)) | Err(_) => break,
            Ok((_, len)) => last = packet_kind(&bytes[..len]),
        }
    }
    assert_eq!(last, packet_kind(&encoded(Packet::Bye(ByeReason::Closed))));
}

fn encoded(packet: Packet) -> Vec<u8> {
    let mut bytes = [0; MAX_PACKET];
    let len = packet.encode(&mut bytes);
    bytes[..len].to_vec()
}

fn packet_kind(bytes: &[u8]) -> u8 {
    bytes[0]
}

#[test]
fn a_client_above_the_limit_gets_the_reason() {
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
fn a_client_refused_before_its_hello_gets_the_reason() {
    let (ours, theirs) = pair();
    say(&ours, Packet::Refused(Refusal::User));
    drop(ours);
    let error = Sender::over(theirs).unwrap_err();
    assert!(matches!(error, ConnectError::Refused(Refusal::User)), "{error}");
}

#[test]
fn a_send_only_client_reports_the_orderly_end_of_its_broker() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let broker = Broker::builder().page_len(4096).max_message_len(100).bind(&path).unwrap();
    let stop = broker.stop_handle();
    let thread = std::thread::spawn(move || broker.run());
    let mut client = Client::connect_sender(&path).unwrap();
    stop.stop();
    thread.join().unwrap().unwrap();
    // No process consumes anything. The client needs another page and finds the connection closed.
    let ended = (0..1000).find_map(|_| client.send(1, &[0; 100]).err());
    assert!(matches!(ended, Some(SendError::Disconnected(Disconnected::Closed))), "{ended:?}");
}

#[test]
fn a_page_may_be_forgotten_while_pages_are_announced() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, client) = welcome(&dir.path().join("bus"), 1 << 20);
    let page = || shared("llmp-test", 4096).unwrap();
    let mut chain = ChainWriter::new(0, Limits::new(4096, 1000, 1 << 20).unwrap(), page());
    hand(&socket, Packet::Page { id: 0 }, chain.page(0));
    hand(&socket, Packet::Page { id: 1 }, Some(&page()));
    say(&socket, Packet::Forget { id: 1 });
    say(&socket, START);
    chain.send(Envelope::tagged(7), b"hello").unwrap();
    let mut client = client.join().unwrap().unwrap();
    assert_eq!(client.recv().unwrap().payload, b"hello");
}

#[test]
fn a_budget_without_end_does_not_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, client) = welcome(&dir.path().join("bus"), u64::MAX);
    let page = || shared("llmp-test", 4096).unwrap();
    let chain = ChainWriter::new(0, Limits::new(4096, 1000, 1 << 20).unwrap(), page());
    hand(&socket, Packet::Page { id: 0 }, chain.page(0));
    say(&socket, START);
    hand(&socket, Packet::Page { id: 1 }, Some(&page()));
    let mut client = client.join().unwrap().unwrap();
    assert!(client.try_recv().unwrap().is_none());
    assert_eq!(client.prepare_wait(), llmp::Wait::Readable { timeout: None });
}

#[test]
fn an_invalid_cursor_ends_a_sending_or_flushing_client() {
    for flush in [false, true] {
        let (ours, theirs) = pair();
        let control = welcomed(&ours, 1 << 14);
        say(&ours, START);
        let mut sender = Sender::over(theirs).unwrap();
        sender.send(1, b"hello").unwrap();
        control.store(cursor_offset(0), u64::MAX, Site::CursorPublish);
        let send = |_| if flush { sender.flush() } else { sender.send(1, &[0; 1000]) };
        let error = (0..100).map(send).find_map(Result::err);
        let is_ahead = |e: &_| {
            matches!(
                e,
                SendError::Disconnected(Disconnected::PeerFault(Fault::CursorAhead {
                    found: u64::MAX,
                    ..
                }))
            )
        };
        assert!(error.as_ref().is_some_and(is_ahead), "{error:?}");
    }
}

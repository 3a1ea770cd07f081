//! Descriptors whose last close blocks for as long as their maker likes: TCP sockets with `SO_LINGER`
//! and unsent data. A peer sends them to a real broker in every way that there is. Other clients'
//! messages go on meanwhile, and the broker's process does not grow (P12).

mod common;

use common::TIMEOUT;
use common::bus::Place;
use common::child::Child;
use common::proc::{descriptor_count, inherited_count, thread_count, wait_until};
use common::raw::{Raw, RawSocket, region};
use llmp::core::layout::VERSION;
use llmp::core::wire::{Packet, Roles};
use llmp::{Client, Receiver, Sender};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Not a test: the child processes begin here.
#[test]
fn child() {
    common::roles::play();
}

/// Duration of a close of a [`Slow`].
const LINGER: Duration = Duration::from_secs(30);
/// Duration of the longest close: `LLMP_CLOSE_SECONDS=600` for ten minutes.
fn never_ends() -> Duration {
    let seconds = std::env::var("LLMP_CLOSE_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// Longest delay of a message on a working bus.
const AT_ONCE: Duration = Duration::from_secs(1);

/// TCP connections whose other sides never read.
struct Net {
    listener: TcpListener,
    others: Vec<TcpStream>,
}

impl Net {
    fn new() -> Self {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Quickly full.
        set_socket_recv_buffer_size(&listener, 4096).unwrap();
        Net { listener, others: Vec::new() }
    }

    /// Makes a connection that blocks the process that closes it.
    fn slow(&mut self) -> OwnedFd {
        let mut stream = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        self.others.push(self.listener.accept().unwrap().0);
        stream.set_nonblocking(true).unwrap();
        while let Ok(()) = stream.write_all(&[0; 1 << 16]) {}
        stream.set_nonblocking(false).unwrap();
        set_socket_linger(&stream, Some(LINGER + never_ends())).unwrap();
        stream.into()
    }

    /// A socket in which such a connection is: nothing of the broker's can keep its close from blocking.
    fn nested(&mut self) -> OwnedFd {
        let (outer, inner) = pair();
        assert!(RawSocket(inner).send_bytes(b"x", &[self.slow().as_fd()]));
        outer
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET);
    let flags = rustix::net::SocketFlags::CLOEXEC;
    rustix::net::socketpair(family, kind, flags, None).unwrap()
}

/// A broker in a process of its own, and two honest clients.
struct Bus {
    place: Place,
    broker: Child,
    sender: Sender,
    receiver: Receiver,
    threads: usize,
    descriptors: usize,
}

impl Bus {
    fn new() -> Self {
        Self::with(&[8192, 10_000, 64 << 10])
    }

    fn with(limits: &[usize]) -> Self {
        let place = Place::new();
        let broker = place.broker(limits);
        let mut bus = Bus {
            sender: place.sender(),
            receiver: Client::connect_receiver(place.path()).unwrap(),
            threads: thread_count(broker.pid()),
            descriptors: 0,
            broker,
            place,
        };
        // Until the chains have all their pages.
        (0..2000).for_each(|_| bus.exchange());
        bus.descriptors = descriptor_count(bus.broker.pid());
        bus
    }

    /// A message arrives at once, and the broker has at most one more thread.
    #[track_caller]
    fn exchange(&mut self) {
        let began = Instant::now();
        self.sender.send(1, b"goes on").unwrap();
        let message = self.receiver.recv_timeout(TIMEOUT).unwrap().expect("the bus stands still");
        assert_eq!(message.payload, b"goes on");
        assert!(began.elapsed() < AT_ONCE, "the bus stood still for {:?}", began.elapsed());
        assert!(thread_count(self.broker.pid()) <= self.threads + 1);
    }

    fn go_on(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            self.exchange();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stranger(&self) -> RawSocket {
        RawSocket::connect(&self.place.path())
    }

    fn hello(&self) -> RawSocket {
        let stranger = self.stranger();
        assert!(stranger.send(&Packet::Hello { version: VERSION, roles: Roles::SEND }, &[]));
        stranger
    }

    /// All descriptors of strangers are closed.
    #[track_caller]
    fn all_is_closed(&mut self) {
        // It may have a few pages more.
        let (pid, most) = (self.broker.pid(), self.descriptors + 16);
        wait_until("the broker has closed everything", || descriptor_count(pid) <= most);
        self.exchange();
    }
}

/// A packet with `count` descriptors, of which number `slow` is slow to close.
fn among(net: &mut Net, count: usize, slow: usize) -> impl FnOnce(&RawSocket, &[u8]) + use<> {
    let (slow_fd, other) = (net.slow(), region(8192));
    move |socket, bytes| {
        let other = other.descriptor().unwrap();
        let of = |i| if i == slow { slow_fd.as_fd() } else { other };
        let descriptors: Vec<BorrowedFd<'_>> = (0..count).map(of).collect();
        assert!(socket.send_bytes(bytes, &descriptors));
    }
}

// P12
#[test]
fn a_descriptor_that_is_slow_to_close_delays_no_client() {
    let (mut net, mut bus) = (Net::new(), Bus::new());
    let page = [6, 0, 0, 0, 0, 0, 0, 0];
    for (count, slow) in [(1, 0), (4, 2), (253, 200)] {
        for bytes in [&page[..], b"", b"?"] {
            println!("number {slow} of {count} descriptors with {bytes:?}");
            // This process closes its descriptors before the broker reads the packet. So the last
            // close is the broker's.
            bus.broker.stop();
            let stranger = bus.stranger();
            among(&mut net, count, slow)(&stranger, bytes);
            drop(stranger);
            bus.broker.go_on();
            bus.go_on(Duration::from_millis(200));

            let joined = Raw::join(&bus.place.path(), Roles::SEND);
            joined.start();
            bus.broker.stop();
            among(&mut net, count, slow)(&joined.socket, bytes);
            bus.broker.go_on();
            bus.go_on(Duration::from_millis(200));
            assert!(joined.socket.bye().is_some() || bytes.is_empty(), "it was not disconnected");
        }
    }
    bus.all_is_closed();
}

// P12
#[test]
fn unread_descriptors_of_an_ended_connection_delay_no_client() {
    let (mut net, mut bus) = (Net::new(), Bus::new());
    // Each of these ends the connection: a fault, or a packet without a byte.
    for end in [&b"?"[..], b""] {
        for greets in [false, true] {
            let stranger = if greets { bus.hello() } else { bus.stranger() };
            bus.broker.stop();
            stranger.send_bytes(end, &[]);
            for bytes in [&b""[..], b"", b"more"] {
                among(&mut net, 3, 1)(&stranger, bytes);
            }
            bus.broker.go_on();
            bus.go_on(Duration::from_millis(200));
            while stranger.next().is_some() {}
        }
    }
    bus.all_is_closed();
}

// P12
#[test]
fn three_hundred_of_them_make_no_thread_and_are_closed() {
    let (mut net, mut bus) = (Net::new(), Bus::new());
    for i in 0..300 {
        let stranger = if i % 2 == 0 { bus.hello() } else { bus.stranger() };
        bus.broker.stop();
        among(&mut net, 2, i % 2)(&stranger, b"?");
        bus.broker.go_on();
        bus.exchange();
    }
    bus.all_is_closed();
}

// P9, P12
#[test]
fn an_endless_close_delays_only_newcomers() {
    let (mut net, mut bus) = (Net::new(), Bus::new());
    let nested = net.nested();
    bus.broker.stop();
    assert!(bus.stranger().send_bytes(b"?", &[nested.as_fd()]));
    drop(nested);
    bus.broker.go_on();
    // As many as have room beside it, and more.
    let (joined, pid) = (Raw::join(&bus.place.path(), Roles::SEND), bus.broker.pid());
    joined.start();
    let before = descriptor_count(pid);
    let (reader, _writer) = std::io::pipe().unwrap();
    for _ in 0..2 {
        bus.stranger().send_bytes(b"?", &[reader.as_fd(); 250]);
    }
    wait_until("the queue is full", || descriptor_count(pid) >= before + 256);
    // The broker reads nothing that arrives now.
    joined.socket.send_bytes(b"?", &[reader.as_fd(); 253]);
    assert!(joined.socket.bye().is_some(), "it was not disconnected");
    bus.go_on(never_ends());
    let newcomer = std::thread::spawn({
        let path = bus.place.path();
        move || Client::connect(path).map(drop)
    });
    bus.go_on(Duration::from_secs(3));
    // Honest clients go on sending pages, too.
    bus.sender.send(2, &[7; 10_000]).unwrap();
    assert_eq!(bus.receiver.recv_timeout(TIMEOUT).unwrap().unwrap().payload, [7; 10_000]);
    // Those of the two strangers, and a few pages.
    let after = descriptor_count(pid);
    assert!(after <= before + 2 * 250 + 64, "{before} descriptors, then {after}");
    assert!(!newcomer.is_finished(), "a newcomer was let in");
    // The bytes are discarded, so the close ends.
    net.others.clear();
    newcomer.join().unwrap().unwrap();
    bus.all_is_closed();
}

/// Returns how many descriptors of a process are pipes.
fn pipes_of(pid: i32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
}

#[test]
fn a_packet_has_at_most_253_descriptors() {
    let (ours, _theirs) = pair();
    let reader = std::io::pipe().unwrap().0;
    for (count, expected) in [(253, Ok(1)), (254, Err(Errno::INVAL))] {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(254))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = vec![reader.as_fd(); count];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let sent = sendmsg(&ours, &[IoSlice::new(b"?")], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, expected);
    }
}

// P12
#[test]
fn newcomers_are_let_in_while_255_descriptors_wait_not_with_256() {
    let (mut net, mut bus) = (Net::new(), Bus::new());
    let (nested, stranger) = (net.nested(), bus.stranger());
    bus.broker.stop();
    assert!(stranger.send_bytes(b"?", &[nested.as_fd()]));
    drop(nested);
    bus.broker.go_on();
    assert!(stranger.next().is_none());
    let (reader, _writer) = std::io::pipe().unwrap();
    let send = |count| {
        let stranger = bus.stranger();
        assert!(stranger.send_bytes(b"?", &vec![reader.as_fd(); count]));
        // By then, its packets wait in the socket.
        assert!(stranger.next().is_none());
    };
    send(253);
    send(1);
    drop(bus.place.sender());
    let joined = Raw::join(&bus.place.path(), Roles::SEND);
    joined.start();
    send(1);
    let pid = bus.broker.pid();
    let before = pipes_of(pid);
    joined.socket.send_bytes(b"?", &[reader.as_fd(); 253]);
    assert!(joined.socket.bye().is_some(), "it was not disconnected");
    let newcomer = std::thread::spawn({
        let path = bus.place.path();
        move || Client::connect(path).map(drop)
    });
    bus.go_on(Duration::from_millis(300));
    assert!(!newcomer.is_finished(), "a newcomer was let in");
    // The ninth is its connection.
    assert!(pipes_of(pid) <= before + 8, "{} descriptors of one client", pipes_of(pid) - before);
    net.others.clear();
    newcomer.join().unwrap().unwrap();
    bus.all_is_closed();
}

// P12
#[test]
fn more_descriptors_than_the_limit_delay_no_client() {
    let mut net = Net::new();
    let mut bus = Bus::with(&[8192, 10_000, 64 << 10, 1000, 80 + inherited_count()]);
    for joins in [false, true] {
        let raw = joins.then(|| Raw::join(&bus.place.path(), Roles::SEND));
        let stranger = raw.map_or_else(|| bus.hello(), |raw| raw.socket);
        bus.broker.stop();
        among(&mut net, 253, 200)(&stranger, b"?");
        bus.broker.go_on();
        bus.go_on(Duration::from_secs(1));
        while stranger.next().is_some() {}
    }
    net.others.clear();
    bus.all_is_closed();
}

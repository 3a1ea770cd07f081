//! A connection: packets with descriptors, and the news of the peer's death.
//!
//! What the packets mean is not known here: their owner says, by [`Protocol`].

use super::closer::{self, Closing};
pub(crate) use super::credentials::Credentials;
use super::credentials::{self, Signed};
use super::fork::Owner;
use super::memfd::ReceivedFd;
#[cfg(miri)]
use super::miri::rustix;
use super::options;
use super::peer::{self, Peer};
use crate::core::failpoint::{effect, observation};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// A connected control socket. No call on it blocks, except [`wait`](Socket::wait) and
/// [`receive_blocking`](Socket::receive_blocking).
#[derive(Debug)]
pub(crate) struct Socket<P: Protocol> {
    protocol: PhantomData<fn() -> P>,
    fd: ManuallyDrop<OwnedFd>,
    /// In a forked child, the connection belongs to the parent.
    owner: Owner,
    /// The process at the other end. Known from the first packet on.
    peer: Peer,
    /// Whether the next packet carries its sender's credentials.
    awaits_credentials: bool,
    /// Whether the kernel ends a blocking receive after [`LOOK_AFTER`].
    is_bounded: bool,
    /// When the connection was made or accepted, since boot.
    since: Duration,
}

/// How long a process sleeps in `recvmsg` alone before it also watches the peer's process. Watching
/// both takes another system call, which is too slow for processes that are woken soon.
const LOOK_AFTER: Duration = Duration::from_millis(200);

/// The most descriptors that the kernel allows in a packet (`SCM_MAX_FD`).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// No packet is longer, in bytes.
pub(crate) const MAX_PACKET: usize = 64;

/// What packets are on a connection.
pub(crate) trait Protocol: Copy {
    /// Why bytes are no packet.
    type Error;

    /// The packet in these bytes, with which `descriptors` descriptors came.
    fn decode(bytes: &[u8], descriptors: usize) -> Result<Self, Self::Error>;

    /// The packet in these bytes, if it can be one whose only descriptor was lost.
    fn decode_lost(bytes: &[u8]) -> Option<Self>;

    /// The descriptors of a packet were cut off, or it has others than it may have.
    fn cut() -> Self::Error;

    /// It has others than one of memory, where there is room for no other.
    fn unwanted_descriptor() -> Self::Error;

    /// Writes the packet. Returns its length in bytes.
    fn encode(&self, bytes: &mut [u8; MAX_PACKET]) -> usize;

    /// How many descriptors belong to it: one or none.
    fn descriptors(&self) -> usize;

    /// Whether it goes with its sender's credentials.
    fn is_signed(&self) -> bool;

    /// What is done when it is sent, for [`effect`].
    fn name(&self) -> &'static str;
}

/// The result of a receive.
#[derive(Debug)]
pub(crate) enum Received<P: Protocol> {
    Packet(P, Option<ReceivedFd>),
    /// A packet whose descriptor was lost, because this process had no free one.
    Lost(P),
    Garbage(P::Error),
    Nothing,
    HungUp,
}

/// The result of sending a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Yes,
    /// The socket's buffer is full. Try again when it is writable.
    NotNow,
    /// The kernel has no memory for it, or this user has too many descriptors in flight. No event
    /// tells when to try again.
    NoMemory,
    HungUp,
}

impl<P: Protocol> Socket<P> {
    pub fn from_fd(fd: OwnedFd) -> Self {
        Socket {
            protocol: PhantomData,
            fd: ManuallyDrop::new(fd),
            owner: Owner::here(),
            peer: Peer::Unknown,
            awaits_credentials: false,
            is_bounded: false,
            since: peer::now(),
        }
    }

    /// Makes two connected sockets.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        effect("make a pair of sockets");
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok((Self::from_fd(a), Self::from_fd(b)))
    }

    /// Connects. If the listener's queue is full, tries again until the deadline. The queue can't
    /// be waited for, and a stopped process never empties it.
    ///
    /// # Errors
    ///
    /// Returns `WouldBlock` if the queue was full until the deadline, or another error of the
    /// kernel.
    pub fn connect(path: &Path, deadline: Instant) -> io::Result<Self> {
        let socket = unix_socket()?;
        let address = SocketAddrUnix::new(path)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        // The peer may send a packet as soon as the connection exists.
        effect("ask for credentials");
        options::pass_credentials(socket.as_fd(), true)?;
        effect("connect");
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(QUEUE_AGAIN),
                Err(error) => return Err(error.into()),
            }
        }
        rustix::io::ioctl_fionbio(&socket, false)?;
        let mut socket = Self::from_fd(socket);
        socket.awaits_credentials = true;
        Ok(socket)
    }

    pub fn credentials(&self) -> io::Result<Credentials> {
        effect("ask who is there");
        super::credentials::of(self.fd.as_fd())
    }

    /// Returns a pidfd of the process that connected. Returns `None` if it has ended, and before
    /// Linux 6.5.
    pub fn peer_pidfd(&self) -> Option<OwnedFd> {
        effect("ask for a pidfd");
        super::credentials::pidfd_of(self.fd.as_fd())
    }

    /// Requests the sender's credentials with each packet, until one was
    /// [received](Socket::receive_first). Call it before sending a packet that is answered.
    pub fn await_credentials(&mut self) -> io::Result<()> {
        if self.awaits_credentials {
            return Ok(());
        }
        effect("ask for credentials");
        options::pass_credentials(self.fd.as_fd(), true)?;
        self.awaits_credentials = true;
        Ok(())
    }

    fn refuse_credentials(&mut self) {
        effect("ask for no more credentials");
        // They make each receive slower.
        let _ = options::pass_credentials(self.fd.as_fd(), false);
        self.awaits_credentials = false;
    }

    /// Takes the first packet without waiting. Its sender is the peer from now on. Also returns the
    /// sender's credentials. `sparingly` is for processes with little room for descriptors, see
    /// [`receive_sparingly`](Socket::receive_sparingly).
    pub fn receive_first(&mut self, sparingly: bool) -> (Received<P>, Option<Credentials>) {
        let mut bytes = [0; MAX_PACKET + 1];
        if sparingly {
            observation("peek", self.place());
            let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
            if let Ok(found) = credentials::receive(self.fd.as_fd(), &mut bytes, 1, flags)
                && (!all_memory(found.descriptors.into_iter().map(ReceivedFd::new).collect())
                    || found.is_cut)
            {
                return (Received::Garbage(P::cut()), None);
            }
        }
        observation("receive", self.place());
        let signed = loop {
            let (fd, flags) = (self.fd.as_fd(), libc::MSG_DONTWAIT);
            match credentials::receive(fd, &mut bytes, MAX_DESCRIPTORS, flags) {
                Err(error) => match Errno::from_io_error(&error) {
                    // See `receive_with`.
                    Some(Errno::INTR | Errno::CONNRESET) => {}
                    Some(Errno::AGAIN) => return (Received::Nothing, None),
                    _ => return (Received::HungUp, None),
                },
                Ok(signed) => break signed,
            }
        };
        effect("has received");
        let Signed { len, is_cut, descriptors, credentials, peer } = signed;
        let mut descriptors: Vec<_> = descriptors.into_iter().map(ReceivedFd::new).collect();
        if len == 0 {
            return (Received::HungUp, None);
        }
        self.refuse_credentials();
        self.peer = match peer {
            Peer::Unknown => Peer::by_id(credentials.process, self.since),
            peer => peer,
        };
        let received = match P::decode(&bytes[..len], descriptors.len()) {
            _ if is_cut => Received::Garbage(P::cut()),
            Ok(packet) => Received::Packet(packet, descriptors.pop()),
            Err(error) => Received::Garbage(error),
        };
        (received, Some(credentials))
    }

    /// Returns the process that sent the first packet.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Stops following the peer's process and returns it.
    pub fn take_peer(&mut self) -> Peer {
        std::mem::take(&mut self.peer)
    }

    /// Bounds a blocking receive, so that the peer's process is checked in time.
    pub fn bound_receive(&mut self) {
        if self.peer.pidfd().is_some() {
            effect("bound the receive");
            let (side, most) = (Timeout::Recv, Some(LOOK_AFTER));
            self.is_bounded = sockopt::set_socket_timeout(&*self.fd, side, most).is_ok();
        }
    }

    /// Returns a descriptor that becomes readable when the connection does or when the peer's
    /// process ends. Returns `None` if the process can't be followed.
    pub fn watch_with_peer(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pidfd) = self.peer.pidfd() else { return Ok(None) };
        effect("make an epoll");
        let both = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&both, self.fd.as_fd())?;
        watch(&both, pidfd)?;
        Ok(Some(both))
    }

    /// Refuses descriptors from the peer, which has no reason to send more. Linux 6.16 and later
    /// refuse them in the peer's call. Otherwise they arrive and are a fault.
    pub fn refuse_descriptors(&self) {
        effect("refuse descriptors");
        let _ = options::refuse_descriptors(self.fd.as_fd());
    }

    /// Returns whether the socket holds no packet.
    pub fn is_empty(&self) -> bool {
        observation("is anything left", self.place());
        match peek(self.fd.as_fd()) {
            Err(Errno::AGAIN) => true,
            // Either the end or a packet of zero bytes, which others may follow.
            Ok((0, false)) => !has_packet(self.fd.as_fd()),
            _ => false,
        }
    }

    /// Sends a packet with its descriptor, if it has one.
    pub fn send(&self, packet: &P, descriptor: Option<BorrowedFd<'_>>) -> Sent {
        debug_assert_eq!(packet.descriptors(), usize::from(descriptor.is_some()));
        let mut bytes = [0; MAX_PACKET];
        let len = packet.encode(&mut bytes);
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        if packet.is_signed()
            && let Some(credentials) = credentials::effective()
        {
            control.push(SendAncillaryMessage::ScmCredentials(credentials));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        effect(packet.name());
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(self, &[IoSlice::new(&bytes[..len])], &mut control, flags)
        });
        match sent {
            Ok(_) => Sent::Yes,
            Err(Errno::AGAIN) => Sent::NotNow,
            Err(Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS) => Sent::NoMemory,
            Err(_) => {
                // The peer receives no more, but may not have closed its end. A half that is shut
                // down causes no event. After this call, earlier packets are still received,
                // followed by the end.
                self.shut_down();
                Sent::HungUp
            }
        }
    }

    /// Returns whether the peer has received every packet. Returns false if the kernel does not
    /// report it.
    pub fn is_read(&self) -> bool {
        observation("ask what is unread", self.place());
        super::unread::is_empty(self.fd.as_fd())
    }

    /// Ends the connection. The descriptor stays open.
    pub fn shut_down(&self) {
        effect("shut a connection down");
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Both);
    }

    /// Takes the next packet without waiting.
    pub fn receive(&self) -> Received<P> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    /// Waits until there is a packet, the peer hangs up or its process ends, and takes the packet.
    /// The first attempt saves the system call of a separate wait. May return without any of these.
    pub fn receive_blocking(&self) -> Received<P> {
        if self.is_bounded || matches!(self.peer, Peer::Unknown) {
            match self.receive_with(RecvFlags::empty()) {
                // Either the wait takes long, or another process with this descriptor has made it
                // non-blocking.
                Received::Nothing => {}
                received => return received,
            }
        }
        let _ = self.wait(false, None, None);
        self.receive()
    }

    /// Takes the next packet without waiting, for a process with little room for descriptors. A
    /// packet with descriptors other than one of memory stays in the socket and counts as garbage.
    ///
    /// Returns `None` if this process has no free descriptor for one that arrived. The packet then
    /// stays in the socket, too.
    pub fn receive_sparingly(&self) -> Option<Received<P>> {
        let (mut bytes, mut space) = ([0; MAX_PACKET], [MaybeUninit::uninit(); SPACE_FOR_ONE]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        observation("peek", self.place());
        let found = rustix::net::recvmsg(self, &mut parts, &mut control, flags);
        // They are duplicates, so no close of them is the last one.
        let descriptors = received_fd(&mut control);
        let is_cut = found.is_ok_and(|found| found.flags.contains(ReturnFlags::CTRUNC));
        if is_cut && descriptors.is_empty() && rustix::io::fcntl_dupfd_cloexec(self, 0).is_err() {
            return None;
        }
        if is_cut || !descriptors.iter().all(ReceivedFd::is_memory) {
            return Some(Received::Garbage(P::unwanted_descriptor()));
        }
        drop(descriptors);
        Some(self.receive())
    }

    fn receive_with(&self, flags: RecvFlags) -> Received<P> {
        // One byte more than the longest packet, to detect packets that are too long.
        let mut bytes = [0; MAX_PACKET + 1];
        // Room for all descriptors that a packet can have. The kernel closes those that do not fit,
        // in this thread.
        let mut space = [MaybeUninit::uninit(); SPACE];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        observation("receive", self.place());
        let (received, control) = loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(self, &mut parts, &mut control, flags) {
                // The peer has hung up with packets of ours unread. The kernel reports that once,
                // before it returns the packets that the peer sent. They still count (P4, P5).
                // Frequent signals would make a bounded receive endless, so it returns.
                Err(Errno::INTR) if !flags.contains(RecvFlags::DONTWAIT) => {
                    return Received::Nothing;
                }
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Received::Nothing,
                Err(_) => return Received::HungUp,
                Ok(received) => break (received, received_fd(&mut control)),
            }
        };
        effect("has received");
        if received.bytes == 0 {
            return Received::HungUp;
        }
        let mut descriptors = control;
        let cut = received.flags.contains(ReturnFlags::CTRUNC);
        if cut {
            let lost = P::decode_lost(&bytes[..received.bytes]);
            let lost = lost.filter(|_| descriptors.is_empty());
            return lost.map_or(Received::Garbage(P::cut()), Received::Lost);
        }
        let found = descriptors.len();
        match P::decode(&bytes[..received.bytes], found) {
            Ok(packet) => Received::Packet(packet, descriptors.pop()),
            Err(error) => Received::Garbage(error),
        }
    }

    /// Blocks until a packet can be received (or sent, if `writable`), the peer hangs up, its
    /// process ends, `other` is readable, or the deadline passes. Returns whether something happened
    /// before the deadline.
    pub fn wait(
        &self,
        writable: bool,
        other: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        if let Peer::Gone = self.peer {
            return Ok(true);
        }
        let interest = if writable { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let socket = PollFd::new(self, interest);
        let read = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        match (self.peer.pidfd(), other) {
            (Some(pidfd), Some(other)) => {
                self.wait_for(&mut [socket, read(pidfd), read(other)], deadline)
            }
            (Some(fd), None) | (None, Some(fd)) => self.wait_for(&mut [socket, read(fd)], deadline),
            (None, None) => self.wait_for(&mut [socket], deadline),
        }
    }

    /// Blocks until a packet can be sent, the peer hangs up, or the deadline passes. Returns
    /// whether something happened before the deadline.
    pub fn wait_writable(&self, deadline: Instant) -> io::Result<bool> {
        self.wait_for(&mut [PollFd::new(self, PollFlags::OUT)], Some(deadline))
    }

    /// Identifies the connection when steps are counted.
    fn place(&self) -> usize {
        self.fd.as_raw_fd() as usize
    }

    fn wait_for(&self, fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
        observation("wait for a connection", self.place());
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            match poll(fds, left.map(timespec).as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<P: Protocol> Drop for Socket<P> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let is_here = self.owner.is_here();
        if is_here {
            // Nothing can arrive between the last check and the close.
            self.shut_down();
            if self.awaits_credentials {
                // Otherwise each remaining packet would carry a pidfd, which takes another
                // descriptor.
                self.refuse_credentials();
            }
        }
        let is_empty = !is_here || self.is_empty();
        effect("close a connection");
        // SAFETY: `fd` is taken once, here, and is not used afterwards, because `self` is dropped.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        // Closing the socket also closes the descriptors left in it, and that may block.
        if !is_empty && !take_content(&fd) {
            closer::push(Closing::Connection(fd));
        }
    }
}

/// Takes the packets left in a connection that was shut down, as long as closing them never blocks.
/// Returns whether nothing is left.
fn take_content(fd: &OwnedFd) -> bool {
    while has_packet(fd.as_fd()) {
        // Peeked descriptors are duplicates. Each close of a file may block, not only the last one
        // (FUSE is notified of each). Descriptors that are not memory go to the closer.
        let Some((copies, is_cut)) = take_packet(fd, RecvFlags::PEEK) else { return false };
        if is_cut || !all_memory(copies) {
            return false;
        }
        take_packet(fd, RecvFlags::empty());
    }
    true
}

/// Takes a packet that should have at most one descriptor. Returns its descriptors and whether it
/// has more. Returns `None` if it can't be taken.
fn take_packet(fd: &OwnedFd, flags: RecvFlags) -> Option<(Vec<ReceivedFd>, bool)> {
    let mut space = [MaybeUninit::uninit(); SPACE_FOR_ONE + SPACE_FOR_TIME];
    let (mut bytes, mut control) = ([0; MAX_PACKET], RecvAncillaryBuffer::new(&mut space));
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = flags | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let found = rustix::net::recvmsg(fd, &mut parts, &mut control, flags).ok()?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptors = rights.flatten().map(ReceivedFd::new).collect();
    Some((descriptors, found.flags.contains(ReturnFlags::CTRUNC)))
}

/// Takes the packets left in a connection, and closes all of them. May block, so only the closer
/// may call it.
pub(super) fn close_with_content(fd: OwnedFd) {
    // No more packets can arrive.
    let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Both);
    let mut space = [MaybeUninit::uninit(); SPACE + SPACE_FOR_TIME];
    // If descriptors are scarce, they are left to the broker. Then the final close may block.
    while has_packet(fd.as_fd()) && free_descriptors() >= 2 * MAX_DESCRIPTORS {
        let (mut bytes, mut control) = ([0; MAX_PACKET], RecvAncillaryBuffer::new(&mut space));
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        if rustix::net::recvmsg(&fd, &mut parts, &mut control, flags).is_err() {
            return;
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                rights.for_each(closer::close_here);
            }
        }
    }
}

/// Returns how many descriptors this process may still open, or 0 if that is unknown.
fn free_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let open = std::fs::read_dir("/proc/self/fd").map_or(usize::MAX, Iterator::count);
    limit.saturating_sub(open)
}

/// Returns whether a peer has sent only descriptors of memory.
fn all_memory(descriptors: Vec<ReceivedFd>) -> bool {
    descriptors.iter().all(ReceivedFd::is_memory)
}

/// Returns whether there is a packet, even one of zero bytes.
fn has_packet(socket: BorrowedFd<'_>) -> bool {
    // Each packet then carries a timestamp, for which `peek` has no room. The end carries none.
    options::stamp(socket).is_ok() && matches!(peek(socket), Ok((_, true)))
}

/// Returns the length of the next packet without taking it, and whether ancillary data comes with
/// it.
fn peek(socket: BorrowedFd<'_>) -> rustix::io::Result<(usize, bool)> {
    loop {
        let (mut bytes, mut control) = ([0; MAX_PACKET], RecvAncillaryBuffer::default());
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recvmsg(socket, &mut parts, &mut control, flags) {
            // `CONNRESET` comes once, see `receive_with`.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            found => return found.map(|f| (f.bytes, f.flags.contains(ReturnFlags::CTRUNC))),
        }
    }
}

/// Space for all descriptors that a packet can have, for one descriptor, and for the timestamp of a
/// packet. The timestamp's space is exact, because the kernel fills the rest with descriptors.
const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));
const SPACE_FOR_ONE: usize = rustix::cmsg_space!(ScmRights(1));
const SPACE_FOR_TIME: usize = 32;

/// Returns the descriptors that came with a packet.
#[inline]
fn received_fd(control: &mut RecvAncillaryBuffer<'_>) -> Vec<ReceivedFd> {
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights.map(ReceivedFd::new));
        }
    }
    descriptors
}

impl<P: Protocol> AsFd for Socket<P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Converts a duration for the kernel.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// The interval between attempts to connect to a full queue.
const QUEUE_AGAIN: Duration = Duration::from_millis(5);

fn unix_socket() -> io::Result<OwnedFd> {
    effect("make a socket");
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(crate) struct Listener<P: Protocol> {
    protocol: PhantomData<fn() -> P>,
    fd: OwnedFd,
    /// In a forked child, the socket belongs to the parent.
    owner: Owner,
    /// A supervisor has made it, and goes on to listen when this process has ended.
    is_passed: bool,
}

impl<P: Protocol> Listener<P> {
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = unix_socket()?;
        effect("bind");
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        Self::of(socket, false)
    }

    /// Listens with a socket that a supervisor has made. Later connections name this process as their
    /// peer.
    pub fn passed(socket: OwnedFd) -> io::Result<Self> {
        Self::of(socket, true)
    }

    fn of(fd: OwnedFd, is_passed: bool) -> io::Result<Self> {
        effect("ask for credentials");
        options::pass_credentials(fd.as_fd(), true)?;
        effect("listen");
        rustix::net::listen(&fd, 1024)?;
        Ok(Listener { protocol: PhantomData, fd, owner: Owner::here(), is_passed })
    }

    /// Accepts a connection. Blocks unless [`set_nonblocking`](Listener::set_nonblocking) was
    /// called.
    pub fn accept(&self) -> io::Result<Socket<P>> {
        observation("accept", self.fd.as_raw_fd() as usize);
        let accept = || rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC);
        let accepted = rustix::io::retry_on_intr(accept)?;
        effect("has accepted");
        // The connection inherits the option from the listener, so packets sent before now carry
        // credentials, too.
        if self.is_passed {
            // It was made before the listener had the option.
            options::pass_credentials(accepted.as_fd(), true)?;
        }
        let mut socket = Socket::from_fd(accepted);
        socket.awaits_credentials = true;
        Ok(socket)
    }

    pub fn set_nonblocking(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, true)?)
    }
}

impl<P: Protocol> Drop for Listener<P> {
    fn drop(&mut self) {
        if !self.owner.is_here() || self.is_passed {
            return;
        }
        // Queued connections may hold descriptors whose close blocks.
        effect("shut the listener down");
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
        while let Ok(socket) = self.accept() {
            drop(socket);
        }
    }
}

impl<P: Protocol> AsFd for Listener<P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Adds a descriptor to an epoll, which becomes readable with it.
pub(crate) fn watch(all: &OwnedFd, fd: BorrowedFd<'_>) -> io::Result<()> {
    effect("watch");
    Ok(epoll::add(all, fd, EventData::new_u64(0), EventFlags::IN)?)
}

//! A connection: packets with descriptors, and the news of the peer's death.
//!
//! What the packets mean is not known here: their owner says, by [`Protocol`].

use super::closer::{self, Closing};
pub(crate) use super::credentials::Credentials;
use super::credentials::{self, Signed};
use super::fork::Owner;
use super::memfd::ReceivedFd;
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
    /// In a forked child, the connection is the parent's.
    owner: Owner,
    /// Who is at the other end, from the first packet on.
    peer: Peer,
    /// Whether the next packet comes with its sender's credentials.
    awaits_credentials: bool,
    /// Whether the kernel ends a blocking receive after [`LOOK_AFTER`].
    is_bounded: bool,
    /// When the connection was made or taken, since the machine was started.
    since: Duration,
}

/// How long a process sleeps in `recvmsg` alone, before it watches its peer's process, too. To watch
/// both takes a system call more, which is too much for those that are woken soon.
const LOOK_AFTER: Duration = Duration::from_millis(200);

/// The most descriptors that the kernel lets a packet have (`SCM_MAX_FD`).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// No packet is longer, in bytes.
pub(crate) const MAX_PACKET: usize = 64;

/// What packets are on a connection.
pub(crate) trait Protocol: Copy {
    /// Why bytes are no packet.
    type Error;

    /// The packet in these bytes, with which so many descriptors came.
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

/// What a look at the socket brings.
#[derive(Debug)]
pub(crate) enum Received<P: Protocol> {
    Packet(P, Option<ReceivedFd>),
    /// A packet whose descriptor was lost: this process has none free for it.
    Lost(P),
    Garbage(P::Error),
    Nothing,
    HungUp,
}

/// What became of a packet that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Yes,
    /// The socket's buffer is full; try again when it is writable.
    NotNow,
    /// The kernel has no memory for it, or this user too many descriptors on their way. Nothing
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

    /// Two connected sockets.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        effect("make a pair of sockets");
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok((Self::from_fd(a), Self::from_fd(b)))
    }

    /// Connects. While the listener's queue is full, it tries again until the deadline: that can't be
    /// waited for, and a stopped process never empties its queue.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the queue was full until the deadline; what else the kernel answers.
    pub fn connect(path: &Path, deadline: Instant) -> io::Result<Self> {
        let socket = unix_socket()?;
        let address = SocketAddrUnix::new(path)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        // The other side may say something as soon as we are connected.
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

    /// A pidfd of the process that connected. `None` if it has ended, or before Linux 6.5.
    pub fn peer_pidfd(&self) -> Option<OwnedFd> {
        effect("ask for a pidfd");
        super::credentials::pidfd_of(self.fd.as_fd())
    }

    /// From now on packets come with their senders' credentials, until one was
    /// [taken](Socket::receive_first). Before anything is sent that is answered.
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
        // They cost with each receive.
        let _ = options::pass_credentials(self.fd.as_fd(), false);
        self.awaits_credentials = false;
    }

    /// Takes the first packet, without waiting for it: its sender is the peer from now on. Returns the
    /// sender's credentials, too. With little room for descriptors, `sparingly`, see
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

    /// The process that has sent the first packet.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Follows the peer's process no longer.
    pub fn take_peer(&mut self) -> Peer {
        std::mem::take(&mut self.peer)
    }

    /// From now on a blocking receive ends in time to look after the peer's process.
    pub fn bound_receive(&mut self) {
        if self.peer.pidfd().is_some() {
            effect("bound the receive");
            let (side, most) = (Timeout::Recv, Some(LOOK_AFTER));
            self.is_bounded = sockopt::set_socket_timeout(&*self.fd, side, most).is_ok();
        }
    }

    /// A descriptor that is readable when the connection is, and when the peer's process has ended.
    /// `None` if that can't be followed.
    pub fn watch_with_peer(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pidfd) = self.peer.pidfd() else { return Ok(None) };
        effect("make an epoll");
        let both = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for fd in [self.fd.as_fd(), pidfd] {
            effect("watch");
            epoll::add(&both, fd, EventData::new_u64(0), EventFlags::IN)?;
        }
        Ok(Some(both))
    }

    /// The peer has no business to send descriptors from now on. Linux 6.16 and later refuse them to it;
    /// otherwise they arrive, and are a fault.
    pub fn refuse_descriptors(&self) {
        effect("refuse descriptors");
        let _ = options::refuse_descriptors(self.fd.as_fd());
    }

    /// Whether nothing is left to be received.
    pub fn is_empty(&self) -> bool {
        observation("is anything left", self.place());
        match peek(self.fd.as_fd()) {
            Err(Errno::AGAIN) => true,
            // The end, or a packet without a byte, which may have others behind it.
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
                // It takes nothing any more, and may not have closed its end: a half that is shut
                // down is no event. What it has sent before is still received, and then the end.
                self.shut_down();
                Sent::HungUp
            }
        }
    }

    /// Whether the peer has taken every packet that was sent. `false` if the kernel does not say.
    pub fn is_read(&self) -> bool {
        observation("ask what is unread", self.place());
        super::unread::is_empty(self.fd.as_fd())
    }

    /// Ends the connection while the descriptor stays.
    pub fn shut_down(&self) {
        effect("shut a connection down");
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Both);
    }

    /// Takes the next packet, without waiting for one.
    pub fn receive(&self) -> Received<P> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    /// Waits until there is a packet, the other side hangs up or its process has ended, and takes the
    /// packet: at first one system call less than to wait before. May return without any of these.
    pub fn receive_blocking(&self) -> Received<P> {
        if self.is_bounded || matches!(self.peer, Peer::Unknown) {
            match self.receive_with(RecvFlags::empty()) {
                // It takes long. Or whoever else has the descriptor has said that nothing on it shall
                // block.
                Received::Nothing => {}
                received => return received,
            }
        }
        let _ = self.wait(false, None);
        self.receive()
    }

    /// Takes the next packet, without waiting for one, where there is little room for descriptors: a
    /// packet with others than one of memory stays in the socket, and is garbage.
    ///
    /// `None` if this process has no descriptor free for one that came. It stays in the socket, too.
    pub fn receive_sparingly(&self) -> Option<Received<P>> {
        let (mut bytes, mut space) = ([0; MAX_PACKET], [MaybeUninit::uninit(); SPACE_FOR_ONE]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        observation("peek", self.place());
        let found = rustix::net::recvmsg(self, &mut parts, &mut control, flags);
        // They are second descriptors: none of these closes is the last one.
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
        // One byte more than the longest packet shows that one is too long.
        let mut bytes = [0; MAX_PACKET + 1];
        // With room for all that a packet can have: what has none is closed by the kernel, here.
        let mut space = [MaybeUninit::uninit(); SPACE];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        observation("receive", self.place());
        let (received, control) = loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(self, &mut parts, &mut control, flags) {
                // The other side has hung up with packets of ours unread. The kernel says so once,
                // before it hands out what was sent to us, and all of that still counts (P4, P5).
                // With signals that come again and again, a bounded receive would never end.
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

    /// Blocks until something can be received (or sent, if `writable`), the other side hangs up or its
    /// process has ended, or the deadline has passed. Returns whether something happened.
    pub fn wait(&self, writable: bool, deadline: Option<Instant>) -> io::Result<bool> {
        let interest = if writable { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        if let Peer::Gone = self.peer {
            return Ok(true);
        }
        let socket = PollFd::new(self, interest);
        match &self.peer {
            Peer::Known(pidfd) => {
                self.wait_for(&mut [socket, PollFd::new(pidfd, PollFlags::IN)], deadline)
            }
            Peer::Unknown | Peer::Gone => self.wait_for(&mut [socket], deadline),
        }
    }

    /// Blocks until something can be sent, the other side hangs up, or the deadline has passed.
    /// Returns whether something happened.
    pub fn wait_writable(&self, deadline: Instant) -> io::Result<bool> {
        self.wait_for(&mut [PollFd::new(self, PollFlags::OUT)], Some(deadline))
    }

    /// What tells one connection from another when steps are counted.
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
            // Nothing can come any more between the last look and the close.
            self.shut_down();
            if self.awaits_credentials {
                // A pidfd with what is left would be one descriptor more.
                self.refuse_credentials();
            }
        }
        let is_empty = !is_here || self.is_empty();
        effect("close a connection");
        // SAFETY: nothing uses it any more: it is taken once, here, and `self` is gone then.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        // What a peer has left in it would be closed with it, and that may block.
        if !is_empty && !take_content(&fd) {
            closer::push(Closing::Connection(fd));
        }
    }
}

/// Takes what is left in a connection that was shut down, as long as that closes at once. Returns
/// whether nothing is left.
fn take_content(fd: &OwnedFd) -> bool {
    while has_packet(fd.as_fd()) {
        // Copies. Each close of one may block, not the last one alone (FUSE hears of all): what is no
        // memory goes to the closer.
        let Some((copies, is_cut)) = take_packet(fd, RecvFlags::PEEK) else { return false };
        if is_cut || !all_memory(copies) {
            return false;
        }
        take_packet(fd, RecvFlags::empty());
    }
    true
}

/// The descriptors of a packet that should have one at most, and whether it has more. `None` if it can't
/// be taken.
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

/// Takes what is left in a connection, and closes all of it. May block, which only the closer may.
pub(super) fn close_with_content(fd: OwnedFd) {
    // So that nothing more comes.
    let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Both);
    let mut space = [MaybeUninit::uninit(); SPACE + SPACE_FOR_TIME];
    // Where descriptors are scarce, the broker has a better use for them. Then this close may block.
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

/// How many descriptors this process may still open, or none if that can't be known.
fn free_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let open = std::fs::read_dir("/proc/self/fd").map_or(usize::MAX, Iterator::count);
    limit.saturating_sub(open)
}

/// Whether a peer has sent no other descriptors than those of memory.
fn all_memory(descriptors: Vec<ReceivedFd>) -> bool {
    descriptors.iter().all(ReceivedFd::is_memory)
}

/// Whether there is a packet, and be it one without a byte.
fn has_packet(socket: BorrowedFd<'_>) -> bool {
    // Each packet has a time then, for which `peek` has no room. The end has none.
    options::stamp(socket).is_ok() && matches!(peek(socket), Ok((_, true)))
}

/// The length of the next packet, which stays, and whether something beside bytes comes with it.
fn peek(socket: BorrowedFd<'_>) -> rustix::io::Result<(usize, bool)> {
    loop {
        let (mut bytes, mut control) = ([0; MAX_PACKET], RecvAncillaryBuffer::default());
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recvmsg(socket, &mut parts, &mut control, flags) {
            // The latter comes once, see `receive_with`.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            found => return found.map(|f| (f.bytes, f.flags.contains(ReturnFlags::CTRUNC))),
        }
    }
}

/// Room for all descriptors that a packet can have, for one, and for the time of a packet: as much as
/// that takes, since the kernel fills what is left with descriptors.
const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));
const SPACE_FOR_ONE: usize = rustix::cmsg_space!(ScmRights(1));
const SPACE_FOR_TIME: usize = 32;

/// The descriptors that came with a packet.
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

/// A duration for the kernel.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// How often a connection to a full queue is tried.
const QUEUE_AGAIN: Duration = Duration::from_millis(5);

fn unix_socket() -> io::Result<OwnedFd> {
    effect("make a socket");
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// A socket that takes connections.
#[derive(Debug)]
pub(crate) struct Listener<P: Protocol> {
    protocol: PhantomData<fn() -> P>,
    fd: OwnedFd,
    /// In a forked child, it is the parent's.
    owner: Owner,
}

impl<P: Protocol> Listener<P> {
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = unix_socket()?;
        effect("bind");
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        effect("ask for credentials");
        options::pass_credentials(socket.as_fd(), true)?;
        effect("listen");
        rustix::net::listen(&socket, 1024)?;
        Ok(Listener { protocol: PhantomData, fd: socket, owner: Owner::here() })
    }

    /// Takes a connection. Blocks unless [`set_nonblocking`](Listener::set_nonblocking).
    pub fn accept(&self) -> io::Result<Socket<P>> {
        observation("accept", self.fd.as_raw_fd() as usize);
        let accept = || rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC);
        let accepted = rustix::io::retry_on_intr(accept)?;
        effect("has accepted");
        // It has inherited that from the listener: what was sent before now has credentials, too.
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
        if !self.owner.is_here() {
            return;
        }
        // Those that wait in the queue may have sent something that blocks when it is closed.
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

/// Blocks until a connection or a packet on one of these sockets can be taken, one of them hangs up,
/// or the deadline has passed.
pub(crate) fn wait_for_any<'a, P: Protocol + 'a>(
    listener: &'a Listener<P>,
    sockets: impl Iterator<Item = &'a Socket<P>>,
    deadline: Option<Instant>,
) -> io::Result<()> {
    observation("wait for connections", listener.fd.as_raw_fd() as usize);
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::IN)));
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        match poll(&mut fds, left.map(timespec).as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

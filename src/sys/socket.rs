//! The control socket: packets with descriptors, the doorbell, and the news of death.

use super::closer::close_elsewhere;
pub(crate) use super::credentials::Credentials;
use super::lifeline::{AtDrop, acts, looks};
use crate::memory::Foreign;
use crate::wire::{MAX_PACKET, Packet, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// A connected control socket. No call on it blocks, except [`wait`](Socket::wait) and
/// [`receive_blocking`](Socket::receive_blocking).
#[derive(Debug)]
pub(crate) struct Socket {
    _closing: AtDrop,
    fd: OwnedFd,
}

/// What a look at the socket brings.
#[derive(Debug)]
pub(crate) enum Received {
    Packet(Packet, Option<Foreign>),
    Garbage(WireError),
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

impl Socket {
    pub fn from_fd(fd: OwnedFd) -> Self {
        Socket { _closing: AtDrop::new("close a connection"), fd }
    }

    /// Two connected sockets.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
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
        acts("connect");
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(QUEUE_AGAIN),
                Err(error) => return Err(error.into()),
            }
        }
        rustix::io::ioctl_fionbio(&socket, false)?;
        Ok(Self::from_fd(socket))
    }

    pub fn credentials(&self) -> io::Result<Credentials> {
        acts("ask who is there");
        super::credentials::of(self.fd.as_fd())
    }

    /// A pidfd of the process that connected. `None` if it has ended, or before Linux 6.5.
    pub fn peer_pidfd(&self) -> Option<OwnedFd> {
        acts("ask for a pidfd");
        super::credentials::pidfd_of(self.fd.as_fd())
    }

    /// Closes the socket of a peer that may have left something in it that blocks.
    pub fn close_elsewhere(self) {
        close_elsewhere(self.fd);
    }

    /// Sends a packet with its descriptor, if it has one.
    pub fn send(&self, packet: &Packet, descriptor: Option<BorrowedFd<'_>>) -> Sent {
        debug_assert_eq!(packet.descriptors(), usize::from(descriptor.is_some()));
        let mut bytes = [0; MAX_PACKET];
        let len = packet.encode(&mut bytes);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        acts(packet.name());
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.fd, &[IoSlice::new(&bytes[..len])], &mut control, flags)
        });
        match sent {
            Ok(_) => Sent::Yes,
            Err(Errno::AGAIN) => Sent::NotNow,
            Err(Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS) => Sent::NoMemory,
            Err(_) => Sent::HungUp,
        }
    }

    /// Rings the doorbell. Returns whether that is done with: if the buffer is full, something is
    /// waiting there anyway, and if the other side has hung up, nobody sleeps; but without memory it
    /// must be tried again.
    #[must_use]
    pub fn ring(&self) -> bool {
        self.send(&Packet::Ring, None) != Sent::NoMemory
    }

    /// Whether the peer has taken every packet that was sent. `false` if the kernel does not say.
    pub fn is_read(&self) -> bool {
        looks("ask what is unread", self.place());
        super::unread::is_empty(self.fd.as_fd())
    }

    /// Ends the connection while the descriptor stays.
    pub fn shut_down(&self) {
        acts("shut a connection down");
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
    }

    /// Takes the next packet, without waiting for one.
    pub fn receive(&self) -> Received {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    /// Waits until there is a packet or the other side hangs up, and takes it: one system call
    /// less than to wait first.
    pub fn receive_blocking(&self) -> Received {
        loop {
            match self.receive_with(RecvFlags::empty()) {
                // Whoever else has the descriptor may have said that nothing on it shall block.
                Received::Nothing => drop(self.wait(false, None)),
                received => return received,
            }
        }
    }

    fn receive_with(&self, flags: RecvFlags) -> Received {
        // One byte more than the longest packet shows that one is too long.
        let mut bytes = [0; MAX_PACKET + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        looks("receive", self.place());
        let (received, control) = loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(&self.fd, &mut parts, &mut control, flags) {
                // The other side has hung up with packets of ours unread. The kernel says so once,
                // before it hands out what was sent to us, and all of that still counts (P4, P5).
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Received::Nothing,
                Err(_) => return Received::HungUp,
                Ok(received) => {
                    let mut descriptors = Vec::new();
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = message {
                            descriptors.extend(rights.map(Foreign::new));
                        }
                    }
                    break (received, descriptors);
                }
            }
        };
        acts("has received");
        if received.bytes == 0 {
            return Received::HungUp;
        }
        let mut descriptors = control;
        let cut = received.flags.contains(ReturnFlags::CTRUNC);
        if cut {
            return Received::Garbage(WireError::Cut);
        }
        let found = descriptors.len();
        match Packet::decode(&bytes[..received.bytes], found) {
            Ok(packet) => Received::Packet(packet, descriptors.pop()),
            Err(error) => Received::Garbage(error),
        }
    }

    /// Blocks until something can be received (or sent, if `writable`), the other side hangs up,
    /// or the deadline has passed. Returns whether something happened.
    pub fn wait(&self, writable: bool, deadline: Option<Instant>) -> io::Result<bool> {
        let interest = if writable { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        self.wait_for(interest, deadline)
    }

    /// Blocks until something can be sent, the other side hangs up, or the deadline has passed.
    /// Returns whether something happened.
    pub fn wait_writable(&self, deadline: Instant) -> io::Result<bool> {
        self.wait_for(PollFlags::OUT, Some(deadline))
    }

    /// What tells one connection from another when steps are counted.
    fn place(&self) -> usize {
        self.fd.as_raw_fd() as usize
    }

    fn wait_for(&self, interest: PollFlags, deadline: Option<Instant>) -> io::Result<bool> {
        looks("wait for a connection", self.place());
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let mut fds = [PollFd::new(&self.fd, interest)];
            match poll(&mut fds, left.map(timespec).as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Socket {
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
    acts("make a socket");
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// A socket that takes connections.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl Listener {
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = unix_socket()?;
        acts("bind");
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        acts("listen");
        rustix::net::listen(&socket, 1024)?;
        Ok(Listener(socket))
    }

    /// Takes a connection. Blocks unless [`set_nonblocking`](Listener::set_nonblocking).
    pub fn accept(&self) -> io::Result<Socket> {
        looks("accept", self.0.as_raw_fd() as usize);
        let accept = || rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC);
        let accepted = rustix::io::retry_on_intr(accept)?;
        acts("has accepted");
        Ok(Socket::from_fd(accepted))
    }

    pub fn set_nonblocking(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, true)?)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // P4, P5, P15
    #[test]
    fn what_was_sent_before_a_hang_up_arrives_even_if_the_sender_left_something_unread() {
        let (ours, theirs) = Socket::pair().unwrap();
        assert!(ours.ring());
        assert_eq!(theirs.send(&Packet::Forget { id: 7 }, None), Sent::Yes);
        assert_eq!(theirs.send(&Packet::Forget { id: 8 }, None), Sent::Yes);
        drop(theirs);
        for expected in [7, 8] {
            let received = ours.receive();
            let Received::Packet(Packet::Forget { id }, None) = received else {
                panic!("{received:?}");
            };
            assert_eq!(id, expected);
        }
        assert!(matches!(ours.receive(), Received::HungUp));
        assert!(matches!(ours.receive(), Received::HungUp));
    }
}

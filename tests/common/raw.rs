//! A client that breaks the protocol. It sends any packet and writes anything into its own memory,
//! but nothing more than any process could.

use super::TIMEOUT;
use super::regions::shared;
use llmp::core::chain::{ChainWriter, Start};
use llmp::core::control::Control;
use llmp::core::layout::{VERSION, control_len, cursor_offset};
use llmp::core::memory::{Memory, Region};
use llmp::core::order::Site;
use llmp::core::wire::{ByeReason, MAX_PACKET, Packet, Roles};
use llmp::{Envelope, Limits};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A socket for packets, with nothing behind it.
pub struct RawSocket(pub OwnedFd);

impl RawSocket {
    pub fn connect(path: &Path) -> Self {
        let socket = unix_socket();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Self::patient(socket)
    }

    /// Binds `path`. Each call of the returned function accepts a connection.
    pub fn listen(path: &Path) -> impl Fn() -> Self + use<> {
        let listener = unix_socket();
        rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        move || Self::patient(rustix::net::accept_with(&listener, SocketFlags::CLOEXEC).unwrap())
    }

    fn patient(socket: OwnedFd) -> Self {
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(TIMEOUT)).unwrap();
        RawSocket(socket)
    }

    /// Sends a packet and whatever descriptors go with it. Returns whether it went.
    pub fn send(&self, packet: &Packet, descriptors: &[BorrowedFd<'_>]) -> bool {
        let mut bytes = [0; MAX_PACKET];
        let len = packet.encode(&mut bytes);
        self.send_bytes(&bytes[..len], descriptors)
    }

    pub fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let parts = [IoSlice::new(bytes)];
        rustix::net::sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL).is_ok()
    }

    /// Returns the next packet that is not a ring, or `None` at the end of the connection.
    pub fn next(&self) -> Option<(Packet, Option<OwnedFd>)> {
        loop {
            let mut bytes = [0; MAX_PACKET];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = rustix::net::recvmsg(&self.0, &mut parts, &mut control, flags);
            let received = match received {
                // The peer did not read this any more. Its earlier packets come next.
                Err(rustix::io::Errno::CONNRESET) => continue,
                received => received.expect("an answer in time").bytes,
            };
            let descriptors = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            });
            let descriptor = descriptors.flatten().next();
            if received == 0 {
                return None;
            }
            let found = usize::from(descriptor.is_some());
            match Packet::decode(&bytes[..received], found).unwrap() {
                Packet::Ring => {}
                packet => return Some((packet, descriptor)),
            }
        }
    }

    /// Waits until the other side has ended the connection. Returns its last word.
    pub fn bye(&self) -> Option<Packet> {
        let mut last = None;
        while let Some((packet, _)) = self.next() {
            last = Some(packet);
        }
        last
    }
}

fn unix_socket() -> OwnedFd {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap()
}

/// A client by hand. It has its place on the bus, and the test sends its next packets.
pub struct Raw {
    pub socket: RawSocket,
    pub id: u32,
    pub limits: Limits,
    pub control: Region,
}

impl Raw {
    /// Greets the broker and is welcome.
    pub fn greet(path: &Path, roles: Roles) -> Self {
        Self::greet_over(RawSocket::connect(path), roles)
    }

    fn greet_over(socket: RawSocket, roles: Roles) -> Self {
        assert!(socket.send(&Packet::Hello { version: VERSION, roles }, &[]));
        let Some((Packet::Welcome { client, limits, .. }, Some(_))) = socket.next() else {
            panic!("no welcome");
        };
        let control = shared("llmp-control", control_len(1)).unwrap();
        Control::create(control.clone(), 1);
        Raw { socket, id: client, limits: limits.check().unwrap(), control }
    }

    /// Joins the bus.
    pub fn join(path: &Path, roles: Roles) -> Self {
        Self::join_over(RawSocket::connect(path), roles)
    }

    /// Joins the bus over a connection that was made before.
    pub fn join_over(socket: RawSocket, roles: Roles) -> Self {
        let raw = Self::greet_over(socket, roles);
        raw.socket.send(&Packet::Join, &[raw.control.descriptor().unwrap()]);
        raw
    }

    /// Waits for the `Start` packet.
    pub fn start(&self) -> Start {
        loop {
            match self.socket.next().expect("a start").0 {
                Packet::Start(start) => return start,
                Packet::Page { .. } => {}
                packet => panic!("{packet:?}"),
            }
        }
    }

    /// Sends a page.
    pub fn page(&self, id: u32, region: &Region) {
        self.socket.send(&Packet::Page { id }, &[region.descriptor().unwrap()]);
    }

    /// Sends any descriptor in a page's place.
    pub fn page_of(&self, descriptor: impl AsFd) {
        self.socket.send(&Packet::Page { id: 0 }, &[descriptor.as_fd()]);
    }

    /// Makes a valid chain of one page that holds `messages`. The page is not sent.
    pub fn chain(&self, messages: &[(u32, &[u8])]) -> (ChainWriter<Region>, Region) {
        let page = region(self.limits.page_len());
        let mut sender = ChainWriter::new(self.id, self.limits, page.clone());
        for (tag, payload) in messages {
            sender.send(Envelope::tagged(*tag), payload).unwrap();
        }
        (sender, page)
    }

    /// Alleges how far it has read.
    pub fn cursor(&self, position: u64) {
        self.control.store(cursor_offset(0), position, Site::CursorPublish);
    }

    /// Waits until the broker has ended the connection for a fault.
    pub fn is_disconnected(&self) {
        assert_eq!(self.socket.bye(), Some(Packet::Bye(ByeReason::Fault)));
    }
}

/// Makes valid memory: sealed, and writable by its owner alone.
pub fn region(len: usize) -> Region {
    shared("llmp-page", len).unwrap()
}

/// A memfd with these seals.
pub fn memfd(len: usize, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create("hostile", flags).unwrap();
    rustix::fs::ftruncate(&memfd, len as u64).unwrap();
    rustix::fs::fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

/// The seals that a region must have.
pub fn seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL
}

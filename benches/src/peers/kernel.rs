//! The kernel's means: Unix sockets of both kinds, and a named pipe. A receiver of a stream reads
//! as many bytes as are available.

use crate::content::Content;
use crate::peer::{Peer, Place, Room, Setup, Waiting};
use anyhow::{Result, bail};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::io::{Errno, read, write};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, connect, listen,
    socket_with,
};
use rustix::pipe::fcntl_setpipe_size;
use std::os::fd::OwnedFd;

/// The largest buffer for a process without privileges.
const PIPE_LEN: usize = 1 << 20;
const READ_LEN: usize = 256 * 1024;

/// Messages of one length on a descriptor of either kind.
pub struct Descriptor {
    fd: OwnedFd,
    len: usize,
    sleeps: bool,
    buffer: Vec<u8>,
    /// Bytes that were read and not shown yet.
    unread: std::ops::Range<usize>,
}

impl Descriptor {
    fn new(fd: OwnedFd, setup: &Setup) -> Result<Self> {
        let sleeps = setup.waiting == Waiting::Sleep;
        if !sleeps {
            rustix::io::ioctl_fionbio(&fd, true)?;
        }
        let buffer = vec![0; READ_LEN.max(2 * setup.len)];
        Ok(Descriptor { fd, len: setup.len, sleeps, buffer, unread: 0..0 })
    }

    /// Writes everything, once the first byte has found room.
    fn try_write(&mut self, mut bytes: &[u8]) -> Result<bool> {
        let all = bytes.len();
        while !bytes.is_empty() {
            match write(&self.fd, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::AGAIN) if bytes.len() == all => return Ok(false),
                Err(Errno::AGAIN | Errno::INTR) => std::hint::spin_loop(),
                Err(error) => bail!(error),
            }
        }
        Ok(true)
    }
}

impl crate::peer::Sender for Descriptor {
    #[inline]
    fn try_send(&mut self, message: &[u8]) -> Result<bool> {
        self.try_write(message)
    }

    fn try_send_batch(&mut self, content: &mut Content, count: usize) -> Result<usize> {
        let mut batch = std::mem::take(&mut self.buffer);
        batch.clear();
        for _ in 0..count {
            batch.extend_from_slice(content.message());
        }
        while !self.try_write(&batch)? {
            std::hint::spin_loop();
        }
        self.buffer = batch;
        Ok(count)
    }
}

impl crate::peer::Receiver for Descriptor {
    #[inline]
    fn try_recv<R>(&mut self, mut look: impl FnMut(&[u8]) -> R) -> Result<Option<R>> {
        while self.unread.len() < self.len {
            if self.unread.end == self.buffer.len() || self.unread.is_empty() {
                self.buffer.copy_within(self.unread.clone(), 0);
                self.unread = 0..self.unread.len();
            }
            match read(&self.fd, &mut self.buffer[self.unread.end..]) {
                Ok(0) => bail!("the sender has hung up"),
                Ok(count) => self.unread.end += count,
                Err(Errno::AGAIN) if !self.sleeps => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => bail!(error),
            }
        }
        let at = self.unread.start;
        self.unread.start += self.len;
        Ok(Some(look(&self.buffer[at..at + self.len])))
    }
}

fn unix_socket(kind: SocketType) -> Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

pub fn unix_accept(place: &Place, kind: SocketType) -> Result<OwnedFd> {
    let listener = unix_socket(kind)?;
    bind(&listener, &SocketAddrUnix::new(place.path("socket"))?)?;
    listen(&listener, 1)?;
    place.announce("")?;
    Ok(accept(&listener)?)
}

pub fn unix_connect(place: &Place, kind: SocketType) -> Result<OwnedFd> {
    place.announced()?;
    let socket = unix_socket(kind)?;
    connect(&socket, &SocketAddrUnix::new(place.path("socket"))?)?;
    Ok(socket)
}

pub struct UnixStreams;

impl Peer for UnixStreams {
    type Sender = Descriptor;
    type Receiver = Descriptor;

    fn receiver(place: &Place, setup: &Setup) -> Result<Descriptor> {
        Descriptor::new(unix_accept(place, SocketType::STREAM)?, setup)
    }

    fn sender(place: &Place, setup: &Setup) -> Result<Descriptor> {
        Descriptor::new(unix_connect(place, SocketType::STREAM)?, setup)
    }
}

/// One packet is one message, so that a read returns one.
pub struct Seqpackets;

impl Peer for Seqpackets {
    type Sender = Descriptor;
    type Receiver = Descriptor;

    fn receiver(place: &Place, setup: &Setup) -> Result<Descriptor> {
        Descriptor::new(unix_accept(place, SocketType::SEQPACKET)?, setup)
    }

    fn sender(place: &Place, setup: &Setup) -> Result<Descriptor> {
        Descriptor::new(unix_connect(place, SocketType::SEQPACKET)?, setup)
    }
}

pub struct Pipes;

impl Peer for Pipes {
    type Sender = Descriptor;
    type Receiver = Descriptor;

    fn receiver(place: &Place, setup: &Setup) -> Result<Descriptor> {
        let path = place.path("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        place.announce("")?;
        let fd = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        if setup.room != Room::Default {
            // More is faster, but a process that has many pipes may not be allowed to.
            let _ = fcntl_setpipe_size(&fd, PIPE_LEN);
        }
        Descriptor::new(fd, setup)
    }

    fn sender(place: &Place, setup: &Setup) -> Result<Descriptor> {
        place.announced()?;
        let fd = open(place.path("pipe"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        Descriptor::new(fd, setup)
    }
}

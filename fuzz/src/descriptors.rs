//! Descriptors of every kind that a hostile peer can send.

use super::input::Input;
use super::regions;
use llmp::core::chain::ChainWriter;
use llmp::core::control::Control;
use llmp::core::layout::{OS_PAGE, WORD, control_len};
use llmp::core::memory::{Memory, Region};
use llmp::{Envelope, Limits};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::pipe::PipeFlags;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

/// Number of kinds.
pub const KINDS: usize = 14;
pub const CONTROL: u8 = 0;
pub const PAGE: u8 = 1;
/// The length that a channel has by default.
pub const ORDINARY_PAGE: u8 = 10;
pub const EVENTFD: u8 = 11;
pub const SLOW: u8 = 12;
pub const SLOW_INSIDE: u8 = 13;

/// How long a slow close blocks.
const LINGER: Duration = Duration::from_secs(60);

/// A value with a descriptor.
pub enum Sendable {
    Fd(OwnedFd),
    Region(Region),
    /// Its last close blocks until the other side of a TCP connection is closed.
    Slow(OwnedFd, TcpStream),
}

impl Sendable {
    /// Closes it here. Returns what keeps its close slow in the receiving process.
    pub fn let_go(self) -> Option<KeepSlow> {
        let Sendable::Slow(fd, other) = self else { return None };
        // If the receiver does not hold it, or no longer, this close is the last one.
        let closing = std::thread::spawn(move || drop(fd));
        Some(KeepSlow { other: Some(other), closing: Some(closing) })
    }

    /// Returns a descriptor. `owner` is the owner that the receiver expects.
    pub fn arbitrary(input: &mut Input, owner: u32) -> Sendable {
        Self::of_kind(input.below(KINDS) as u8, input, owner)
    }

    fn of_kind(kind: u8, input: &mut Input, owner: u32) -> Sendable {
        let open = |path, flags| rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::RUSR);
        if let Some(region) = region(kind, input, owner) {
            return Self::Region(region);
        }
        let fd = match kind {
            5 => {
                let memfd = rustix::fs::memfd_create("llmp-fuzz", MemfdFlags::CLOEXEC);
                memfd.and_then(|fd| rustix::fs::ftruncate(&fd, OS_PAGE as u64).map(|()| fd))
            }
            6 => rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map(|(read, _)| read),
            7 => open("/dev/null", OFlags::RDWR),
            8 => open("/", OFlags::RDONLY | OFlags::DIRECTORY),
            9 => {
                let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
                rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
            }
            SLOW => return slow(),
            SLOW_INSIDE => return slow_inside(),
            _ => eventfd(0, EventfdFlags::CLOEXEC),
        };
        Self::Fd(fd.expect("the kernel has one"))
    }
}

/// Returns the region of a descriptor of this kind, if it is one.
pub fn region(kind: u8, input: &mut Input, owner: u32) -> Option<Region> {
    Some(match kind {
        CONTROL => control(),
        PAGE => page(limits(), input, owner),
        ORDINARY_PAGE => page(Limits::default(), input, owner),
        2 => bytes(control(), input),
        3 => bytes(page(limits(), input, owner), input),
        4 => shared(OS_PAGE * (1 + input.below(4))),
        _ => return None,
    })
}

impl AsFd for Sendable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Sendable::Fd(fd) | Sendable::Slow(fd, _) => fd.as_fd(),
            Sendable::Region(region) => region.descriptor().expect("it is our own"),
        }
    }
}

/// Returns a TCP connection with data that the other side does not read.
fn slow() -> Sendable {
    let make = || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        // The buffer is full quickly.
        sockopt::set_socket_recv_buffer_size(&listener, 4096)?;
        let mut stream = TcpStream::connect(listener.local_addr()?)?;
        sockopt::set_socket_send_buffer_size(&stream, 4096)?;
        let (other, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        while stream.write_all(&[0; 1 << 14]).is_ok() {}
        stream.set_nonblocking(false)?;
        sockopt::set_socket_linger(&stream, Some(LINGER))?;
        std::io::Result::Ok(Sendable::Slow(stream.into(), other))
    };
    make().expect("the kernel has TCP")
}

/// Returns a socket that holds such a connection in flight.
fn slow_inside() -> Sendable {
    let Sendable::Slow(inner, other) = slow() else { unreachable!() };
    let (outer, into) = super::packets::pair();
    super::packets::send(&into, b"x", &[inner.as_fd()]);
    Sendable::Slow(outer, other)
}

/// While this value lives, closing what was sent is slow.
pub struct KeepSlow {
    other: Option<TcpStream>,
    closing: Option<JoinHandle<()>>,
}

impl Drop for KeepSlow {
    fn drop(&mut self) {
        drop(self.other.take());
        if let Some(closing) = self.closing.take() {
            closing.join().expect("to close is no panic");
        }
    }
}

pub fn limits() -> Limits {
    // Two pages: after one rollover a chain has all its pages.
    Limits::new(OS_PAGE, 1000, 2 * OS_PAGE).expect("these fit together")
}

fn shared(len: usize) -> Region {
    regions::shared("llmp-fuzz", len).expect("the kernel has memory")
}

pub fn control() -> Region {
    let control = Control::create(shared(control_len(1)), 1);
    // The client that each welcome names.
    control.give_place(0, 7);
    control.memory().clone()
}

/// Returns a page of a correct sender, with some messages.
fn page(limits: Limits, input: &mut Input, owner: u32) -> Region {
    let page = shared(limits.page_len());
    let mut chain = ChainWriter::new(owner, limits, page.clone());
    for number in 0..input.below(4) {
        let payload = vec![number as u8; input.below(100)];
        chain.send(Envelope::tagged(number as u32), &payload).expect("a page has room for these");
    }
    page
}

/// Changes some of its words.
fn bytes(region: Region, input: &mut Input) -> Region {
    for _ in 0..input.below(8) {
        let word = input.half() as usize % (region.region_len() / WORD);
        region.write_words(WORD * word, [input.word()]);
    }
    region
}

//! Descriptors of every kind that a hostile peer can send.

use super::input::Input;
use llmp::chain::Sender;
use llmp::control::Control;
use llmp::layout::{OS_PAGE, WORD, control_len};
use llmp::memory::{Memory, Region};
use llmp::{Envelope, Limits};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many kinds there are.
pub const KINDS: usize = 12;
pub const CONTROL: u8 = 0;
pub const PAGE: u8 = 1;
/// As long as a channel wants it if nothing is said.
pub const ORDINARY_PAGE: u8 = 10;

/// Something with a descriptor.
pub enum Sendable {
    Fd(OwnedFd),
    Region(Region),
}

impl Sendable {
    /// `owner` is whose page is expected.
    pub fn arbitrary(input: &mut Input, owner: u32) -> Sendable {
        Self::of_kind(input.below(KINDS) as u8, input, owner)
    }

    fn of_kind(kind: u8, input: &mut Input, owner: u32) -> Sendable {
        let open = |path, flags| rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::RUSR);
        let fd = match kind {
            CONTROL => return Self::Region(control()),
            PAGE => return Self::Region(page(limits(), input, owner)),
            ORDINARY_PAGE => return Self::Region(page(Limits::default(), input, owner)),
            2 => return Self::Region(bytes(control(), input)),
            3 => return Self::Region(bytes(page(limits(), input, owner), input)),
            4 => return Self::Region(shared(OS_PAGE * (1 + input.below(4)))),
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
            _ => eventfd(0, EventfdFlags::CLOEXEC),
        };
        Self::Fd(fd.expect("the kernel has one"))
    }
}

impl AsFd for Sendable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Sendable::Fd(fd) => fd.as_fd(),
            Sendable::Region(region) => region.descriptor().expect("it is our own"),
        }
    }
}

pub fn limits() -> Limits {
    // Two pages: a chain that has turned once has all that it will ever have.
    Limits::new(OS_PAGE, 1000, 2 * OS_PAGE).expect("these fit together")
}

fn shared(len: usize) -> Region {
    Region::shared("llmp-fuzz", len).expect("the kernel has memory")
}

pub fn control() -> Region {
    Control::create(shared(control_len(1)), 1).memory().clone()
}

/// A page as an honest sender writes it, with some messages.
fn page(limits: Limits, input: &mut Input, owner: u32) -> Region {
    let page = shared(limits.page_len());
    let mut chain = Sender::new(owner, limits, page.clone());
    for number in 0..input.below(4) {
        let payload = vec![number as u8; input.below(100)];
        chain.send(Envelope::tagged(number as u32), &payload).expect("a page has room for these");
    }
    page
}

/// Some of its words are others.
fn bytes(region: Region, input: &mut Input) -> Region {
    for _ in 0..input.below(8) {
        let word = input.half() as usize % (region.region_len() / WORD);
        region.write_words(WORD * word, [input.word()]);
    }
    region
}

//! The credentials of a socket's peer: of the process that connected or called `listen`, and of the
//! process that sent a packet.

#[cfg(miri)]
use super::miri::libc;
use super::peer::Peer;
use rustix::net::UCred;
use rustix::process::{getegid, geteuid, getpid, getuid};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The peer's credentials, as the kernel reports them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credentials {
    /// The user's id.
    pub user: u32,
    /// The process's id, or 0 if our PID namespace does not contain it.
    pub process: i32,
}

impl Credentials {
    /// No user has this id.
    const UNKNOWN: Credentials = Credentials { user: u32::MAX, process: 0 };
}

/// Asks the kernel for the peer's credentials (`SO_PEERCRED`).
pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let into = (&raw mut found).cast::<libc::c_void>();
    // SAFETY: `into` is writable for `len` bytes, any bytes are a `ucred`, and the kernel writes no
    // more than `len` bytes.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, into, &mut len)
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials { user: found.uid, process: found.pid })
}

/// These exist since Linux 6.5 (unix(7)), and `libc` does not name them yet.
const SO_PEERPIDFD: libc::c_int = 77;
const SCM_PIDFD: libc::c_int = 4;

/// Returns a pidfd of the process that connected. Returns `None` if it has ended, or if the kernel
/// lacks this option.
pub(super) fn pidfd_of(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut found: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let into = (&raw mut found).cast::<libc::c_void>();
    // SAFETY: `into` is writable for `len` bytes, and the kernel writes no more than that: an
    // `int`.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, into, &mut len)
    };
    // SAFETY: the kernel has made this descriptor for us, and nothing else has it.
    (answer == 0 && found >= 0).then(|| unsafe { OwnedFd::from_raw_fd(found) })
}

/// Returns the credentials to send with the first packet: the effective user, as in `SO_PEERCRED`.
/// Returns `None` if the effective user is the real one, which the kernel sends anyway.
pub(super) fn effective() -> Option<UCred> {
    let uid = geteuid();
    (uid != getuid()).then(|| UCred { pid: getpid(), uid, gid: getegid() })
}

/// A packet that came with its sender's credentials.
#[derive(Debug)]
pub(super) struct Signed {
    pub len: usize,
    /// Whether the kernel dropped something that came with it.
    pub is_cut: bool,
    pub descriptors: Vec<OwnedFd>,
    pub credentials: Credentials,
    /// Also [`Peer::Unknown`] if the kernel sends no pidfd.
    pub peer: Peer,
}

/// Returns the space for the credentials and for the descriptors of one packet.
const fn space(descriptors: usize) -> usize {
    let lens = [size_of::<libc::ucred>(), size_of::<libc::c_int>(), descriptors * size_of::<i32>()];
    let (mut sum, mut i) = (0, 0);
    while i < lens.len() {
        // SAFETY: this macro only computes.
        sum += unsafe { libc::CMSG_SPACE(lens[i] as libc::c_uint) } as usize;
        i += 1;
    }
    sum
}

const MOST_SPACE: usize = space(super::socket::MAX_DESCRIPTORS);

/// Takes a packet or peeks at it (`MSG_PEEK`), with room for at least `descriptors` descriptors.
/// The socket has `SO_PASSCRED`, so the packet comes with its sender's credentials.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: usize,
    flags: libc::c_int,
) -> io::Result<Signed> {
    // Aligned as a header must be.
    let mut control = [MaybeUninit::<u64>::zeroed(); MOST_SPACE / 8 + 1];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all of it may be zero: numbers, and pointers that may be null.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = space(descriptors).min(size_of_val(&control)) as _;
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` names `bytes` and `control`, which are writable for the lengths that it says,
    // and live until the end of this function.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let mut found = Signed {
        len,
        is_cut: message.msg_flags & libc::MSG_CTRUNC != 0,
        descriptors: Vec::new(),
        credentials: Credentials::UNKNOWN,
        peer: Peer::Unknown,
    };
    // SAFETY: `message` is as the kernel has filled it.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: it is not null, so that a whole header lies there, aligned, in `control`.
        let header = unsafe { next.read() };
        // SAFETY: the same.
        let data = unsafe { libc::CMSG_DATA(next) };
        // SAFETY: this macro only computes.
        let head = unsafe { libc::CMSG_LEN(0) } as usize;
        let data_len = (header.cmsg_len as usize).saturating_sub(head);
        let int = |i: usize| {
            // SAFETY: called only for those `int`s that end within `data_len`, which the kernel
            // wrote.
            unsafe { data.cast::<libc::c_int>().wrapping_add(i).read_unaligned() }
        };
        let ints = data_len / size_of::<libc::c_int>();
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                // SAFETY: the kernel has made these descriptors for us, and nothing else has them.
                let own = |i| unsafe { OwnedFd::from_raw_fd(int(i)) };
                found.descriptors.extend((0..ints).map(own));
            }
            // Process, user and group.
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if ints >= 3 => {
                found.credentials = Credentials { process: int(0), user: int(1) as u32 };
            }
            (libc::SOL_SOCKET, SCM_PIDFD) if ints >= 1 => {
                found.peer = match int(0) {
                    // SAFETY: the kernel has made this descriptor for us, and nothing else has it.
                    fd if fd >= 0 => Peer::Known(unsafe { OwnedFd::from_raw_fd(fd) }),
                    // Before Linux 6.16 the kernel sends no pidfd of a process that has ended.
                    error if [-libc::ESRCH, -libc::EINVAL].contains(&error) => Peer::Gone,
                    _ => Peer::Unknown,
                };
            }
            _ => {}
        }
        // SAFETY: `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// Returns two connected sockets. A packet with descriptors waits in the first.
    #[cfg(not(miri))]
    fn with_packet(descriptors: usize) -> (OwnedFd, OwnedFd) {
        use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
        use std::io::IoSlice;
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
        super::super::options::pass_credentials(ours.as_fd(), true).unwrap();
        let rights = vec![theirs.as_fd(); descriptors];
        let mut space = vec![MaybeUninit::uninit(); 4096];
        let mut control = net::SendAncillaryBuffer::new(&mut space);
        if descriptors > 0 {
            assert!(control.push(net::SendAncillaryMessage::ScmRights(&rights)));
        }
        let bytes = [IoSlice::new(b"packet")];
        net::sendmsg(&theirs, &bytes, &mut control, net::SendFlags::empty()).unwrap();
        (ours, theirs)
    }

    #[cfg(miri)]
    fn with_packet(descriptors: usize) -> (OwnedFd, OwnedFd) {
        libc::send(descriptors);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        (ours.into(), theirs.into())
    }

    fn is_us(found: Credentials) -> bool {
        (found.process as u32, found.user) == (std::process::id(), geteuid().as_raw())
    }

    // P16
    #[test]
    fn a_packet_comes_with_its_sender_and_its_descriptors() {
        for descriptors in [0, 1, 3] {
            let ((socket, _other), mut bytes) = (with_packet(descriptors), [0; 65]);
            let found = receive(socket.as_fd(), &mut bytes, descriptors, 0).unwrap();
            assert_eq!(&bytes[..found.len], b"packet");
            assert_eq!((found.descriptors.len(), found.is_cut), (descriptors, false));
            assert!(is_us(found.credentials), "{:?}", found.credentials);
            assert!(!matches!(found.peer, Peer::Gone));
        }
    }

    #[test]
    fn descriptors_for_which_there_is_no_room_are_cut_off() {
        let ((socket, _other), mut bytes) = (with_packet(20), [0; 65]);
        let found = receive(socket.as_fd(), &mut bytes, 1, 0).unwrap();
        assert!(found.is_cut && (1..20).contains(&found.descriptors.len()), "{found:?}");
    }

    // P16
    #[test]
    fn the_kernel_names_the_peer_of_a_connection() {
        let (socket, _other) = with_packet(0);
        assert!(is_us(of(socket.as_fd()).unwrap()));
        // `None` before Linux 6.5.
        drop(pidfd_of(socket.as_fd()));
        super::super::options::stamp(socket.as_fd()).unwrap();
    }
}

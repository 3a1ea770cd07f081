//! Who is at the other end of a socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credentials {
    /// The user's id.
    pub user: u32,
    /// The process's id; 0 if we can't see it from our PID namespace.
    pub process: i32,
}

/// Asks the kernel (`SO_PEERCRED`).
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

/// Since Linux 6.5 (unix(7)); `libc` does not name it yet.
const SO_PEERPIDFD: libc::c_int = 77;

/// A pidfd of the process that connected. `None` if it has ended, or if the kernel has no such option.
pub(super) fn pidfd_of(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let mut found: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let into = (&raw mut found).cast::<libc::c_void>();
    // SAFETY: `into` is writable for `len` bytes, and the kernel writes no more than that: an `int`.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, into, &mut len)
    };
    // SAFETY: the kernel has made this descriptor for us, and nothing else has it.
    (answer == 0 && found >= 0).then(|| unsafe { OwnedFd::from_raw_fd(found) })
}

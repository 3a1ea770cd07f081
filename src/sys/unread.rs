//! Tells whether the peer has received all packets.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Returns whether the peer has received every packet (`SIOCOUTQ`, unix(7)). Returns false if the
/// kernel does not report it.
pub(super) fn is_empty(socket: BorrowedFd<'_>) -> bool {
    let mut unread: libc::c_int = 0;
    // SAFETY: this request writes one `int`, and `unread` is one.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
    answer == 0 && unread == 0
}

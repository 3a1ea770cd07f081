//! Whether the other end of a socket has taken what was sent.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether every packet that was sent has been taken (`SIOCOUTQ`, unix(7)). `false` if the kernel does
/// not say.
pub(super) fn is_empty(socket: BorrowedFd<'_>) -> bool {
    let mut unread: libc::c_int = 0;
    // SAFETY: this request writes one `int`, and `unread` is one.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
    answer == 0 && unread == 0
}

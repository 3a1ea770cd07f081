//! Options of sockets that are older or newer than what the libraries know.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `SO_PASSRIGHTS` of Linux 6.16: whether descriptors can be sent to this socket.
const PASS_RIGHTS: libc::c_int = if cfg!(target_arch = "sparc64") { 0x5c } else { 83 };

/// Lets the kernel refuse descriptors to this peer's next packets: its `sendmsg` fails with `EPERM`.
///
/// # Errors
///
/// `ENOPROTOOPT` before Linux 6.16.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, PASS_RIGHTS, 0)
}

/// Since Linux 6.5 (unix(7)).
const PASS_PIDFD: libc::c_int = if cfg!(target_arch = "sparc64") { 0x55 } else { 76 };

/// Whether each packet that is received has its sender's credentials with it, and its pidfd if the
/// kernel has such an option. A listener's connections inherit it.
pub(super) fn pass_credentials(socket: BorrowedFd<'_>, is_on: bool) -> io::Result<()> {
    set(socket, libc::SO_PASSCRED, is_on.into())?;
    let _ = set(socket, PASS_PIDFD, is_on.into());
    Ok(())
}

/// From now on each packet that is received has a time with it.
pub(super) fn stamp(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SO_TIMESTAMP, 1)
}

fn set(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let (value, len) = (&raw const value, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: `value` is readable for `len` bytes, and the kernel keeps no pointer to it.
    let answer = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value.cast(), len)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

//! Socket options that are older or newer than the libraries' lists.

#[cfg(miri)]
use super::miri::libc;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `SO_PASSRIGHTS` of Linux 6.16: whether descriptors can be sent to this socket.
const PASS_RIGHTS: libc::c_int = if cfg!(target_arch = "sparc64") { 0x5c } else { 83 };

/// Makes the kernel refuse descriptors in the peer's later packets. The peer's `sendmsg` fails with
/// `EPERM`.
///
/// # Errors
///
/// Returns `ENOPROTOOPT` before Linux 6.16.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, PASS_RIGHTS, 0)
}

/// This option exists since Linux 6.5 (unix(7)).
const PASS_PIDFD: libc::c_int = if cfg!(target_arch = "sparc64") { 0x55 } else { 76 };

/// Sets whether each received packet carries its sender's credentials. A pidfd is included if the
/// kernel supports it. A listener's connections inherit the setting.
pub(super) fn pass_credentials(socket: BorrowedFd<'_>, is_on: bool) -> io::Result<()> {
    set(socket, libc::SO_PASSCRED, is_on.into())?;
    let _ = set(socket, PASS_PIDFD, is_on.into());
    Ok(())
}

/// Adds a timestamp to each later packet.
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

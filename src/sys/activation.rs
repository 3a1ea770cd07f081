//! Listening sockets that a supervisor such as systemd passes to this process (sd_listen_fds(3)).

use crate::core::failpoint::observation;
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, getsockname, socket_with,
    sockopt,
};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// The first descriptor that is passed. The others follow.
const FIRST: RawFd = 3;

/// The most descriptors that are looked at.
const MOST: RawFd = 1024;

/// Returns a duplicate of the socket that the supervisor has passed for this path, if there is one.
/// The passed descriptor stays open, for a later broker of this process.
pub(crate) fn listener_at(path: &Path) -> Option<OwnedFd> {
    let number = |name| std::env::var(name).ok()?.parse::<i64>().ok();
    // A child process inherits the variables, and not the sockets.
    number("LISTEN_PID").filter(|process| *process == i64::from(std::process::id()))?;
    let count = number("LISTEN_FDS")?.clamp(0, MOST.into()) as RawFd;
    observation("look at passed sockets", count as usize);
    let found = (FIRST..FIRST + count).find_map(|fd| duplicate_at(fd, path));
    if found.is_none() {
        log::warn!(
            "none of the {count} descriptors of LISTEN_FDS is a listening SOCK_SEQPACKET socket at {}; this process makes its own (systemd: ListenSequentialPacket=)",
            path.display()
        );
    }
    found
}

/// Returns a duplicate of this descriptor if it is a listening socket at this path. Nothing happens to
/// another one, which may belong to other code.
fn duplicate_at(fd: RawFd, path: &Path) -> Option<OwnedFd> {
    // SAFETY: the supervisor has passed this descriptor to this process. If it was closed since, the
    // system calls below fail or concern another one, and change nothing unless it is such a socket.
    let passed = unsafe { BorrowedFd::borrow_raw(fd) };
    if !is_at(passed, path) {
        return None;
    }
    // Child processes are not passed the supervisor's sockets.
    fcntl_setfd(passed, FdFlags::CLOEXEC).ok()?;
    fcntl_dupfd_cloexec(passed, 0).ok()
}

/// Returns whether this is a listening socket at this path.
fn is_at(socket: BorrowedFd<'_>, path: &Path) -> bool {
    let fits = || {
        let is_unix = sockopt::socket_domain(socket)? == AddressFamily::UNIX;
        let is_packets = sockopt::socket_type(socket)? == SocketType::SEQPACKET;
        let is_listening = sockopt::socket_acceptconn(socket)?;
        let name = SocketAddrUnix::try_from(getsockname(socket)?)?;
        let name = name.path().map(|name| PathBuf::from(&*name.to_string_lossy()));
        Ok::<_, rustix::io::Errno>(
            is_unix && is_packets && is_listening && name.is_some_and(|it| is_same(&it, path)),
        )
    };
    fits().unwrap_or(false)
}

/// Returns whether a socket that is bound lies at the path, as far as the kernel says. The path may
/// name another socket than the one that was passed, whose process is dead.
pub(crate) fn leads_to_listener(path: &Path) -> bool {
    // The kernel refuses a socket of another type before it queues anything.
    let flags = SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (Ok(probe), Ok(address)) = (probe, SocketAddrUnix::new(path)) else { return true };
    !matches!(connect(&probe, &address), Err(Errno::CONNREFUSED | Errno::NOENT))
}

/// Returns whether two paths name the same file of the same directory.
fn is_same(a: &Path, b: &Path) -> bool {
    let directory =
        |path: &Path| std::fs::canonicalize(std::path::absolute(path).ok()?.parent()?).ok();
    a.file_name() == b.file_name() && directory(a).is_some_and(|it| Some(it) == directory(b))
}

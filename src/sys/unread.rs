//! Tells whether the peer has received all packets.

#[cfg(miri)]
use super::miri::libc;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Returns whether the peer has received every packet (`SIOCOUTQ`, unix(7)). Returns false if the
/// kernel does not report it.
pub(super) fn is_empty(socket: BorrowedFd<'_>) -> bool {
    let mut unread: libc::c_int = 0;
    // SAFETY: this request writes one `int`, and `unread` is one.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) };
    answer == 0 && unread == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_is_unread_until_the_peer_has_received_everything() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(is_empty(ours.as_fd()));
        std::io::Write::write_all(&mut &ours, b"x").unwrap();
        // Miri's kernel has always sent everything.
        assert_eq!(is_empty(ours.as_fd()), cfg!(miri));
        std::io::Read::read_exact(&mut theirs, &mut [0]).unwrap();
        assert!(is_empty(ours.as_fd()));
    }
}

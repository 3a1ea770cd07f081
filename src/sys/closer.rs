//! Closing what strangers have sent.
//!
//! The last close of a descriptor may block for as long as its maker likes: a TCP socket with
//! `SO_LINGER` and unsent data, a file of a user's own file system. That must not hold up a broker
//! (P12). The same is true of a socket that still holds such a descriptor.

use std::os::fd::OwnedFd;

/// Closes `fd` in a thread of its own; here, if there can be no thread.
pub(crate) fn close_elsewhere(fd: OwnedFd) {
    // Rare: a peer whose descriptor this is loses its connection for it. If no thread can be made,
    // the closure, and the descriptor in it, is dropped here.
    let _ = std::thread::Builder::new().name("llmp-close".into()).spawn(move || drop(fd));
}

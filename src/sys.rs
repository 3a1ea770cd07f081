//! Access to the kernel, except for shared memory: sockets, descriptors, waiting.

#[allow(unsafe_code)]
pub(crate) mod activation;
pub(crate) mod closer;
#[allow(unsafe_code)]
mod credentials;
#[allow(unsafe_code)]
pub(crate) mod fork;
#[allow(unsafe_code)]
pub(crate) mod lock;
pub(crate) mod memfd;
#[cfg(miri)]
#[allow(unsafe_code)]
mod miri;
#[allow(unsafe_code)]
pub(crate) mod options;
pub(crate) mod peer;
pub(crate) mod socket;
#[allow(unsafe_code)]
pub(crate) mod system;
#[allow(unsafe_code)]
mod unread;

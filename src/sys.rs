//! Everything that talks to the kernel beside memory: sockets, descriptors, waiting.

pub(crate) mod closer;
#[allow(unsafe_code)]
mod credentials;
pub mod failpoint;
#[allow(unsafe_code)]
pub(crate) mod fork;
#[allow(unsafe_code)]
pub(crate) mod lock;
#[allow(unsafe_code)]
mod options;
pub(crate) mod peer;
pub(crate) mod place;
pub(crate) mod socket;
#[allow(unsafe_code)]
pub(crate) mod system;
#[allow(unsafe_code)]
mod unread;

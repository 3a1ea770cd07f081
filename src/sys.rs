//! Everything that talks to the kernel beside memory: sockets, descriptors, waiting.

pub(crate) mod place;
pub(crate) mod socket;

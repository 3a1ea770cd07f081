//! Which users may connect (P16).

use crate::sys::socket::Credentials;

/// Which users may connect. The kernel tells who they are (`SO_PEERCRED`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Only the user whom this process runs as.
    #[default]
    SameUser,
    /// These users, by their ids.
    Users(Vec<u32>),
    /// Whoever can reach the socket.
    Everybody,
}

impl Access {
    pub(crate) fn admits(&self, peer: Credentials) -> bool {
        match self {
            Access::SameUser => peer.user == rustix::process::geteuid().as_raw(),
            Access::Users(users) => users.contains(&peer.user),
            Access::Everybody => true,
        }
    }
}

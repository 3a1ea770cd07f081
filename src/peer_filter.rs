//! The users that may connect (P16).

use crate::socket::Credentials;

/// The users that may connect. The kernel reports a peer's user (`SO_PEERCRED`).
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let bus = dir.path().join("bus");
/// use llmp::{Broker, PeerFilter};
///
/// let broker = Broker::builder().access(PeerFilter::Users(vec![0, 1000])).bind(&bus)?;
/// # drop(broker);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFilter {
    /// Only the user of this process.
    #[default]
    SameUser,
    /// The users with these ids.
    Users(Vec<u32>),
    /// All users that can reach the socket.
    Everybody,
}

impl PeerFilter {
    pub(crate) fn admits(&self, peer: Credentials) -> bool {
        match self {
            PeerFilter::Everybody => true,
            // The kernel shows all users that this namespace does not map under one id.
            _ if !is_mapped(peer.user) => false,
            PeerFilter::SameUser => peer.user == rustix::process::geteuid().as_raw(),
            PeerFilter::Users(users) => users.contains(&peer.user),
        }
    }

    /// Returns whether users other than this process's own may connect.
    pub(crate) fn is_shared(&self) -> bool {
        *self != PeerFilter::SameUser
    }
}

/// Returns whether this process's user namespace maps a user of this id. The kernel shows all
/// unmapped users under the overflow id, which is usually 65534.
fn is_mapped(user: u32) -> bool {
    match std::fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => is_in(&map, user),
        // Without /proc only the overflow id is rejected.
        Err(_) => user != 65534,
    }
}

/// Returns whether a range of `map` contains the id. Each line holds the first id inside the
/// namespace, the first id outside, and the length of the range.
fn is_in(map: &str, user: u32) -> bool {
    map.lines().any(|line| {
        let fields: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        matches!(fields[..], [inside, _, len] if (inside..inside + len).contains(&user.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // P16
    #[test]
    fn an_unmapped_id_is_not_a_user() {
        let all = "         0          0 4294967295\n";
        assert!(is_in(all, 0) && is_in(all, 65534));
        let some = "         0       1000          1\n    100000     200000      65536\n";
        assert!(is_in(some, 0) && is_in(some, 100_000) && is_in(some, 165_535));
        assert!(!is_in(some, 1) && !is_in(some, 65534) && !is_in(some, 165_536));
        assert!(!is_in("", 0) && !is_in("garbage", 0));
    }
}

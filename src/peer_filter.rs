//! Which users may connect (P16).

use crate::socket::Credentials;

/// Which users may connect. The kernel tells who they are (`SO_PEERCRED`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFilter {
    /// Only the user whom this process runs as.
    #[default]
    SameUser,
    /// These users, by their ids.
    Users(Vec<u32>),
    /// Whoever can reach the socket.
    Everybody,
}

impl PeerFilter {
    pub(crate) fn admits(&self, peer: Credentials) -> bool {
        match self {
            PeerFilter::Everybody => true,
            // Every user that this namespace does not map is shown under one and the same id.
            _ if !is_mapped(peer.user) => false,
            PeerFilter::SameUser => peer.user == rustix::process::geteuid().as_raw(),
            PeerFilter::Users(users) => users.contains(&peer.user),
        }
    }

    /// Whether users other than this process's own may connect.
    pub(crate) fn is_shared(&self) -> bool {
        *self != PeerFilter::SameUser
    }
}

/// Whether this process's user namespace maps a user of this id. The kernel shows all users that it
/// does not map under the overflow id, 65534 as a rule.
fn is_mapped(user: u32) -> bool {
    match std::fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => is_in(&map, user),
        // Without /proc the overflow id alone is suspicious.
        Err(_) => user != 65534,
    }
}

/// Whether a range of `map` contains the id. Each line has the first id inside, the first id outside,
/// and the length of a range.
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
    fn an_id_that_the_namespace_does_not_map_is_no_user() {
        let all = "         0          0 4294967295\n";
        assert!(is_in(all, 0) && is_in(all, 65534));
        let some = "         0       1000          1\n    100000     200000      65536\n";
        assert!(is_in(some, 0) && is_in(some, 100_000) && is_in(some, 165_535));
        assert!(!is_in(some, 1) && !is_in(some, 65534) && !is_in(some, 165_536));
        assert!(!is_in("", 0) && !is_in("garbage", 0));
    }
}

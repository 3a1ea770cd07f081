//! The process at the other end of a connection. It is the process that sent the first packet.
//!
//! A connection ends when its last descriptor is closed, and a forked child holds all of them. So
//! the end of a connection is delayed while a child runs. A pidfd reports the end of the process
//! itself.

use crate::core::failpoint::{effect, observation};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What is known about the peer's process.
#[derive(Debug, Default)]
pub(crate) enum Peer {
    /// No packet has arrived, or the process can't be followed. Only the end of the connection
    /// reveals its death.
    #[default]
    Unknown,
    /// Its pidfd, which becomes readable when the process ends (pidfd_open(2)).
    Known(OwnedFd),
    /// The process had ended before its pidfd was requested.
    Gone,
}

impl Peer {
    /// Finds the process of this id, for kernels that send no pidfd (before Linux 6.5). Returns
    /// `Unknown` if another process may have got the id, that is, if its process began after
    /// `since`.
    pub fn by_id(process: i32, since: Duration) -> Self {
        // The id is 0 if the process is in another PID namespace.
        let Some(pid) = Pid::from_raw(process).filter(|_| process > 0) else {
            return Peer::Unknown;
        };
        effect("open a pidfd");
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => Peer::Gone,
            // Checked after the pidfd was opened. If the process with this id began before `since`,
            // it is the process of the pidfd.
            Ok(pidfd) if began(process).is_some_and(|began| began <= since) => Peer::Known(pidfd),
            _ => Peer::Unknown,
        }
    }

    /// Finds a process by its id and the time when it began. Returns `Gone` if no process of this id
    /// began then.
    pub fn born_at(process: i32, birth: Birth) -> Self {
        // rustix does not take negative ids.
        let Some(pid) = Pid::from_raw(process.max(0)).filter(|_| birth.0 != 0) else {
            return Peer::Unknown;
        };
        effect("open a pidfd");
        match (pidfd_open(pid, PidfdFlags::empty()), Birth::of(process)) {
            (Err(Errno::SRCH), _) => Peer::Gone,
            // Checked after the pidfd was opened.
            (Ok(pidfd), Some(found)) if found == birth => Peer::Known(pidfd),
            (_, Some(found)) if found != birth => Peer::Gone,
            _ => Peer::Unknown,
        }
    }

    /// Follows a running process no longer, and frees its descriptor.
    pub fn forget(&mut self) {
        if let Peer::Known(_) = self {
            *self = Peer::Unknown;
        }
    }

    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Peer::Known(pidfd) => Some(pidfd.as_fd()),
            Peer::Unknown | Peer::Gone => None,
        }
    }

    /// Returns whether the process has ended. All its packets and stores are visible then.
    pub fn has_died(&self) -> bool {
        match self {
            Peer::Unknown => false,
            Peer::Gone => true,
            Peer::Known(pidfd) => {
                observation("ask whether the peer has died", pidfd.as_raw_fd() as usize);
                let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
                poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&at_once)) == Ok(1)
            }
        }
    }
}

pub(super) use super::system::since_boot as now;

/// When a process began, in clock ticks since boot (`/proc/PID/stat`, field 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Birth(pub u64);

impl Birth {
    pub fn of(process: i32) -> Option<Self> {
        observation("ask when a process began", process as usize);
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        Some(Birth(fields.split(' ').nth(19)?.parse().ok()?))
    }
}

/// Returns when a process began, rounded down to a clock tick.
fn began(process: i32) -> Option<Duration> {
    let Birth(ticks) = Birth::of(process)?;
    let millis = 1000 / super::system::clock_ticks();
    Some(Duration::from_millis(ticks.saturating_mul(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// Starts a process that runs until it is killed.
    fn cat() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    // P5
    #[test]
    fn a_process_older_than_the_connection_is_followed_by_its_id() {
        let mut child = cat();
        let peer = Peer::by_id(child.id() as i32, now());
        assert!(!peer.has_died() && peer.pidfd().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(peer.has_died());
        assert!(matches!(Peer::by_id(child.id() as i32, now()), Peer::Gone));
    }

    #[test]
    fn a_process_that_may_have_reused_the_id_is_not_followed() {
        let since = now() - Duration::from_millis(20);
        let mut child = cat();
        assert!(matches!(Peer::by_id(child.id() as i32, since), Peer::Unknown));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(Peer::by_id(0, now()), Peer::Unknown));
    }
}

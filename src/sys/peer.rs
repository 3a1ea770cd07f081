//! The process at the other end of a connection: the one that has sent the first packet.
//!
//! A connection ends when its last descriptor is closed, and a forked child has them all. So the end of
//! a connection comes late where a child lives on. A pidfd tells of the process itself.

use crate::core::failpoint::{effect, observation};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What is known of the process at the other end.
#[derive(Debug, Default)]
pub(crate) enum Peer {
    /// It has not said anything, or can't be followed: the end of the connection alone counts.
    #[default]
    Unknown,
    /// Its pidfd, which is readable when it has ended (pidfd_open(2)).
    Known(OwnedFd),
    /// It had ended before it was asked for.
    Gone,
}

impl Peer {
    /// The process of this id, where the kernel sends no pidfd (before Linux 6.5). Unknown if another
    /// process may have got its id: if this one has begun after `since`.
    pub fn by_id(process: i32, since: Duration) -> Self {
        // From another PID namespace, it is 0.
        let Some(pid) = Pid::from_raw(process).filter(|_| process > 0) else {
            return Peer::Unknown;
        };
        effect("open a pidfd");
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => Peer::Gone,
            // After the pidfd: what has the id now and began before is the process of the pidfd.
            Ok(pidfd) if began(process).is_some_and(|began| began <= since) => Peer::Known(pidfd),
            _ => Peer::Unknown,
        }
    }

    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Peer::Known(pidfd) => Some(pidfd.as_fd()),
            Peer::Unknown | Peer::Gone => None,
        }
    }

    /// Whether it has ended. All that it has sent and stored is there then.
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

/// When a process began, rounded down to a clock tick (`/proc/PID/stat`, field 22).
fn began(process: i32) -> Option<Duration> {
    observation("ask when a process began", process as usize);
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(19)?.parse().ok()?;
    let millis = 1000 / super::system::clock_ticks();
    Some(Duration::from_millis(ticks.saturating_mul(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A process that runs until it is killed.
    fn cat() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    // P5
    #[test]
    fn a_process_that_began_before_the_connection_is_followed_by_its_id() {
        let mut child = cat();
        let peer = Peer::by_id(child.id() as i32, now());
        assert!(!peer.has_died() && peer.pidfd().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(peer.has_died());
        assert!(matches!(Peer::by_id(child.id() as i32, now()), Peer::Gone));
    }

    #[test]
    fn a_process_that_may_have_got_the_id_later_is_not_followed() {
        let since = now() - Duration::from_millis(20);
        let mut child = cat();
        assert!(matches!(Peer::by_id(child.id() as i32, since), Peer::Unknown));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(Peer::by_id(0, now()), Peer::Unknown));
    }
}

//! Processes that may still read pages in place for which nothing waits any more (P6).
//!
//! A client that borrows payloads may live on after its connection has ended. The pages that it may
//! be reading are not written again: they are dropped, and its own mappings keep them in memory. The
//! broker counts such processes until they have ended, and lets in no more clients that borrow when
//! there are too many.

use crate::sys::lifeline::looks;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsRawFd, OwnedFd};

/// How many processes may keep pages like that at a time, each up to a chain's budget and as much
/// again that was passed by reference.
pub(super) const MOST: usize = 4;

#[derive(Default)]
pub(super) struct Retired(Vec<(i32, OwnedFd)>);

impl Retired {
    /// This process may keep pages. `None` for its pidfd: it has ended, or can't be followed.
    pub fn add(&mut self, process: i32, pidfd: Option<OwnedFd>) {
        self.0.extend(pidfd.map(|pidfd| (process, pidfd)));
    }

    /// Whether another client of this process may read in place.
    pub fn admits(&mut self, process: i32) -> bool {
        self.0.retain(|(_, pidfd)| lives(pidfd));
        self.0.len() < MOST && self.0.iter().all(|(other, _)| *other != process)
    }
}

/// Whether the process of a pidfd has not ended: a pidfd is readable when it has (pidfd_open(2)).
fn lives(pidfd: &OwnedFd) -> bool {
    looks("ask whether a process has ended", pidfd.as_raw_fd() as usize);
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&at_once)) == Ok(0)
}

//! Processes of disconnected clients that may still read pages in place (P6).
//!
//! A client that borrows payloads may run on after its connection has ended. The pages that it may
//! be reading are not written again. They are dropped, and the client's own mappings keep them in
//! memory. The broker counts such processes until they end. If there are too many, it admits no
//! more clients that borrow payloads.

use crate::core::failpoint::observation;
use crate::core::message::ClientId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsRawFd, OwnedFd};

/// The most clients that may keep such pages, including the one that is admitted. Each keeps up to
/// a chain's budget, and as much again that was passed by reference.
pub(super) const MOST: usize = 4;

#[derive(Default)]
pub(super) struct Retired(Vec<Keeper>);

/// A process that may keep pages.
struct Keeper {
    process: i32,
    pidfd: OwnedFd,
    /// Its client that is skipped, or `None` if it was disconnected.
    skipped: Option<ClientId>,
}

impl Retired {
    /// Records a process that may keep pages. `None` as its pidfd means that it has ended or can't
    /// be followed.
    pub fn add(&mut self, process: i32, pidfd: Option<OwnedFd>) {
        self.prune();
        let pidfd = pidfd.filter(lives);
        self.0.extend(pidfd.map(|pidfd| Keeper { process, pidfd, skipped: None }));
    }

    /// Records that a client's process may keep pages while the client is skipped.
    pub fn add_skipped(&mut self, client: ClientId, process: i32, pidfd: OwnedFd) {
        self.0.push(Keeper { process, pidfd, skipped: Some(client) });
    }

    /// Records that a skipped client reads no further in its pages.
    pub fn remove(&mut self, client: ClientId) {
        self.0.retain(|keeper| keeper.skipped != Some(client));
    }

    /// Forgets processes that have ended.
    pub fn prune(&mut self) {
        self.0.retain(|keeper| lives(&keeper.pidfd));
    }

    /// Returns whether one more client may keep pages.
    pub fn has_room(&mut self) -> bool {
        self.prune();
        self.0.len() < MOST
    }

    /// Returns whether another client of this process may read in place.
    pub fn admits(&mut self, process: i32) -> bool {
        // A process of another PID namespace has the id 0.
        self.has_room() && self.0.iter().all(|other| other.process != process || process == 0)
    }
}

/// Returns whether the process of a pidfd is running. A pidfd is readable once the process has
/// ended (pidfd_open(2)).
fn lives(pidfd: &OwnedFd) -> bool {
    observation("ask whether a process has ended", pidfd.as_raw_fd() as usize);
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&at_once)) == Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::bound;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::process::{Child, Command, Stdio};

    /// Starts a process that runs until it is killed. Returns it and its pidfd.
    fn process() -> (Child, i32, OwnedFd) {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let id = Pid::from_child(&child);
        let pidfd = pidfd_open(id, PidfdFlags::empty()).unwrap();
        (child, id.as_raw_nonzero().get(), pidfd)
    }

    // P6
    #[test]
    fn a_fourth_borrower_is_let_in_beside_three_that_keep_pages() {
        let bound = bound("memory that disconnected clients keep by borrowing");
        assert!(bound.starts_with("when one that borrows is let in: 4 clients, itself included, "));
        let (mut retired, mut children) = (Retired::default(), Vec::new());
        let own = std::process::id() as i32;
        for kept in 0..4 {
            assert!(retired.admits(own), "beside {kept}");
            let (child, id, pidfd) = process();
            retired.add(id, Some(pidfd));
            assert!(!retired.admits(id), "it keeps some itself");
            children.push(child);
        }
        assert!(!retired.admits(own), "beside four");
        // Once one of the processes has ended.
        children[1].kill().unwrap();
        children[1].wait().unwrap();
        assert!(retired.admits(own));
        for mut child in children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

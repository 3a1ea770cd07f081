//! Waiting for the place of a bus that another process serves.

use super::Broker;
use super::requests::{Answer, Asked, await_release};
use crate::bus_addr::BusAddr;
use crate::core::failpoint::observation;
use crate::core::wire::Request;
use crate::error::BusError;
use crate::sys::lock::{Holder, holder_of, inode_beside as lock_file};
use crate::sys::peer::Peer;
use crate::sys::socket::timespec;
use crate::sys::system::since_boot;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Interval between two looks at the place. The end of the process that holds it is noticed at
/// once. But it may also end its broker and go on.
const LOOK: Duration = Duration::from_millis(250);

/// Looks until the lock file is opened again, if it stays the same file. Opening it wakes a broker
/// that watches it.
const LOOKS: u32 = 40;

/// The pause after a failed wait.
const PAUSE: Duration = Duration::from_millis(10);

/// How a wait for the bus of another broker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Vacancy {
    /// No process serves the bus. This one can [bind](Broker::bind) it.
    Free,
    /// The broker has ended the bus for good, for example by `llmp stop`.
    Closed,
    /// A process still serves the bus.
    Held,
}

impl Broker {
    /// Stands by: waits until no process serves a bus, or until the deadline. The end of the broker is
    /// noticed at once. The broker knows that this process stands by, and [hands the bus
    /// over](super::StopHandle::resign) to it.
    ///
    /// Another process may bind the bus first. Then [`bind`](Broker::bind) returns
    /// [`InUse`](crate::BindError::InUse), and this process can wait again.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// use llmp::{BindError, Broker, Vacancy};
    ///
    /// let broker = loop {
    ///     if Broker::wait_until_free(&bus, None)? == Vacancy::Closed {
    ///         return Ok(());
    ///     }
    ///     match Broker::bind(&bus) {
    ///         Err(BindError::InUse { .. }) => continue,
    ///         result => break result?,
    ///     }
    /// };
    /// # let now = std::time::Instant::now();
    /// # assert_eq!(Broker::wait_until_free(&bus, Some(now))?, Vacancy::Held);
    /// # drop(broker);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`BusError`] if the name is not one of a bus.
    pub fn wait_until_free(
        bus: impl Into<BusAddr>,
        deadline: Option<Instant>,
    ) -> Result<Vacancy, BusError> {
        let path = bus.into().socket_path()?;
        Ok(stand_by(&path, deadline, None))
    }
}

/// Waits until no process serves the bus at this path, until the deadline, or until `wake` is readable.
pub(super) fn stand_by(
    path: &Path,
    deadline: Option<Instant>,
    wake: Option<BorrowedFd<'_>>,
) -> Vacancy {
    let (mut asked, mut was_held) = (None, false);
    loop {
        // First: if the file is another one later, the holder found here has let go of it.
        let file = lock_file(path);
        let holder = holder_of(path);
        let Some(Holder { process }) = holder else {
            // A broker that dies, or hands over, leaves the file.
            let is_closed = was_held && lock_file(path).is_none();
            return if is_closed { Vacancy::Closed } else { Vacancy::Free };
        };
        was_held = true;
        // This process itself does not end while it waits.
        let process = process.filter(|process| *process != std::process::id());
        let peer = process.map_or(Peer::Unknown, |id| Peer::by_id(id as i32, since_boot()));
        if asked.is_none() {
            asked = Asked::at(path, Request::StandBy);
        }
        for _ in 0..LOOKS {
            let left = deadline.map(|it| it.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Vacancy::Held;
            }
            let left = left.unwrap_or(LOOK).min(LOOK);
            let socket = asked.as_ref().map(|asked| asked.0.as_fd());
            let ready = wait(&[socket, peer.pidfd(), wake], left);
            if ready[2] {
                return Vacancy::Held;
            }
            match asked.as_mut().map(Asked::answer) {
                None | Some(Ok(Answer::Nothing)) => {}
                Some(Ok(Answer::Closed)) => return Vacancy::Closed,
                Some(_) => {
                    asked = None;
                    await_release(path, holder);
                    break;
                }
            }
            if peer.has_died() || lock_file(path) != file {
                break;
            }
        }
        if peer.has_died() {
            asked = None;
            await_release(path, holder);
        }
    }
}

/// Waits until one of these descriptors is readable, for at most `time`. Returns which of them are.
fn wait(all: &[Option<BorrowedFd<'_>>; 3], time: Duration) -> [bool; 3] {
    let there = all.iter().flatten();
    let mut fds: Vec<_> = there.map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    observation("wait for the broker's end", fds.len());
    if poll(&mut fds, Some(&timespec(time))).is_err() {
        // No memory. The caller looks again.
        std::thread::sleep(PAUSE);
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    all.map(|fd| fd.is_some() && ready.next() == Some(true))
}

//! Waiting for the place of a bus that another process serves.

use super::Broker;
use super::requests::{Answer, Asked, await_release};
use crate::bus_addr::BusAddr;
use crate::core::failpoint::observation;
use crate::core::wire::Request;
use crate::error::BusError;
use crate::sys::lock::{Holder, Inode, holder_of, inode_beside as lock_file, inode_of};
use crate::sys::peer::Peer;
use crate::sys::socket::timespec;
use crate::sys::system::since_boot;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The first and the longest interval between two looks at the place. The interval doubles. The end of
/// the process that holds it is noticed at once, and that of a broker that knows this process.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_secs(1);

/// How long a broker may take to make a removed lock file anew.
const MADE_ANEW: Duration = Duration::from_secs(2);

/// How long a process that was refused does not ask again.
const REFUSED: Duration = Duration::from_secs(10);

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
        Ok(StandBy::at(&path).wait(deadline, None))
    }
}

/// A process that stands by for a bus.
#[derive(Debug)]
pub(super) struct StandBy<'a> {
    path: &'a Path,
    /// The connection to the broker, which knows that this process stands by.
    asked: Option<Asked>,
    /// The socket's file when it was asked.
    place: Option<Inode>,
    /// When to ask again after the broker has refused.
    ask_at: Instant,
    /// Whether a broker has known this process.
    was_known: bool,
}

impl<'a> StandBy<'a> {
    pub fn at(path: &'a Path) -> Self {
        StandBy { path, asked: None, place: None, ask_at: Instant::now(), was_known: false }
    }

    /// Tells the broker that this process stands by, unless it knows that. Returns whether it knows.
    pub fn ask(&mut self) -> bool {
        let place = inode_of(self.path);
        if self.place != place {
            // Another broker's socket.
            self.asked = None;
        }
        if self.asked.is_none() && self.ask_at <= Instant::now() {
            let asked = Asked::at(self.path, Request::StandBy);
            self.asked = asked.filter(|_| inode_of(self.path) == place);
            self.place = place;
        }
        self.was_known |= self.asked.is_some();
        self.asked.is_some()
    }

    /// Waits until no process serves the bus, until the deadline, or until `wake` is readable.
    pub fn wait(&mut self, deadline: Option<Instant>, wake: Option<BorrowedFd<'_>>) -> Vacancy {
        let mut look = FIRST_LOOK;
        // The holder of the lock, and its process.
        let mut followed: Option<(Holder, Peer)> = None;
        let mut file = None;
        // When no process held the lock, although the broker's connection stood.
        let mut missing_since: Option<Instant> = None;
        loop {
            let left = deadline.map(|it| it.saturating_duration_since(Instant::now()));
            // Asking for the holder opens the file, which wakes the broker.
            let found = lock_file(self.path);
            let is_same = self.asked.is_some() && found.is_some() && found == file;
            let known = followed.as_ref().filter(|(_, it)| is_same && it.pidfd().is_some());
            let holder = known.map(|(holder, _)| *holder).or_else(|| holder_of(self.path));
            file = found;
            let now = Instant::now();
            match holder {
                Some(holder) => {
                    missing_since = None;
                    if followed.as_ref().is_none_or(|(known, _)| *known != holder) {
                        followed = Some((holder, process_of(holder)));
                    }
                    self.ask();
                }
                // A broker whose connection stands makes its lock file anew.
                None if self.asked.is_some()
                    && now < *missing_since.get_or_insert(now) + MADE_ANEW => {}
                None => {
                    // A broker that dies, or hands over, leaves the file.
                    let is_closed = self.was_known && lock_file(self.path).is_none();
                    return if is_closed { Vacancy::Closed } else { Vacancy::Free };
                }
            }
            if left == Some(Duration::ZERO) {
                return Vacancy::Held;
            }
            let left = left.unwrap_or(look).min(look);
            look = (2 * look).min(LOOK);
            let socket = self.asked.as_ref().map(|asked| asked.0.as_fd());
            let process = followed.as_ref().and_then(|(_, process)| process.pidfd());
            let [_, _, is_woken] = wait(&[socket, process, wake], left);
            // First: what the broker sent before its death is there then.
            let has_died = followed.as_ref().is_some_and(|(_, process)| process.has_died());
            let has_ended = match self.asked.as_mut().map(Asked::answer) {
                None | Some(Ok(Answer::Nothing)) => false,
                Some(Ok(Answer::Closed)) => return Vacancy::Closed,
                Some(Ok(Answer::HungUp)) => {
                    // One that was known gets `Bye` at the end of a bus.
                    self.was_known = false;
                    true
                }
                Some(Ok(Answer::Refused(_)) | Err(_)) => {
                    (self.asked, self.ask_at) = (None, Instant::now() + REFUSED);
                    false
                }
            };
            if has_ended || has_died {
                self.asked = None;
                let holder = followed.take().map(|(holder, _)| holder);
                await_release(self.path, holder, deadline);
                look = FIRST_LOOK;
            } else if is_woken {
                return Vacancy::Held;
            }
        }
    }
}

/// Returns how to follow the process that holds a lock.
pub(super) fn process_of(holder: Holder) -> Peer {
    // This process itself does not end while it waits.
    let process = holder.process.filter(|process| *process != std::process::id());
    process.map_or(Peer::Unknown, |id| Peer::by_id(id as i32, since_boot()))
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

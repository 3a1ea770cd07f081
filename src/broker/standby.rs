//! Waiting for the place of a bus that another process serves.

use super::Broker;
use crate::bus_addr::BusAddr;
use crate::error::BusError;
use crate::sys::lock::{Holder, holder_of, inode_beside as lock_file};
use crate::sys::peer::Peer;
use crate::sys::system::since_boot;
use std::time::{Duration, Instant};

/// Interval between two looks at the place. The end of the process that holds it is noticed at
/// once. But it may also end its broker and go on.
const LOOK: Duration = Duration::from_millis(250);

/// Looks until the lock file is opened again, if it stays the same file. Opening it wakes a broker
/// that watches it.
const LOOKS: u32 = 40;

/// The pause after the process that holds the place has ended and still seems to hold it.
const PAUSE: Duration = Duration::from_millis(10);

impl Broker {
    /// Waits until no process serves a bus, or until the deadline. Returns whether the bus is free.
    /// The end of the process that serves it is noticed at once.
    ///
    /// Another process may bind the bus first. Then [`bind`](Broker::bind) returns
    /// [`InUse`](crate::BindError::InUse), and this process can wait again.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// use llmp::{BindError, Broker};
    ///
    /// let broker = loop {
    ///     Broker::wait_until_free(&bus, None)?;
    ///     match Broker::bind(&bus) {
    ///         Err(BindError::InUse { .. }) => continue,
    ///         result => break result?,
    ///     }
    /// };
    /// # let now = std::time::Instant::now();
    /// # assert!(!Broker::wait_until_free(&bus, Some(now))?);
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
    ) -> Result<bool, BusError> {
        let path = bus.into().socket_path()?;
        loop {
            // First: if the file is another one later, the holder found here has let go of it.
            let file = lock_file(&path);
            let Some(Holder { process }) = holder_of(&path) else { return Ok(true) };
            // This process itself does not end while it waits.
            let process = process.filter(|process| *process != std::process::id());
            let peer = process.map_or(Peer::Unknown, |id| Peer::by_id(id as i32, since_boot()));
            for _ in 0..LOOKS {
                let left = deadline.map(|it| it.saturating_duration_since(Instant::now()));
                if left == Some(Duration::ZERO) {
                    return Ok(false);
                }
                peer.wait(left.unwrap_or(LOOK).min(LOOK));
                if peer.has_died() || lock_file(&path) != file {
                    break;
                }
            }
            if peer.has_died() && holder_of(&path).is_some() {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

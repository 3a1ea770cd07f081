//! The only place that sleeps: spin, park, check again, block. Clients, channels and the broker use
//! it.

mod bound;
mod spin;

pub(crate) use self::bound::SleepBound;
pub(crate) use self::spin::SpinPolicy;

use std::io;
use std::time::{Duration, Instant};

/// The longest sleep while a notification could not be sent (`ENOBUFS`/`ENOMEM`), or while a page is
/// missing.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Tells an event loop how to wait, see [`Receiver::prepare_wait`](crate::Receiver::prepare_wait) and
/// [`Broker::prepare_wait`](crate::Broker::prepare_wait).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Do not wait. There is a message, or the connection has ended. A broker has work, or is
    /// stopping.
    Ready,
    /// Wait until [`as_fd`](std::os::fd::AsFd::as_fd) is readable.
    Readable {
        /// The longest wait. `None` means no limit. After the wait call
        /// [`try_recv`](crate::Receiver::try_recv), whether or not the descriptor is readable.
        ///
        /// A limit is set in two cases. A wake-up may be missed after a stream that was received
        /// without a sleep, for as long as a store takes to reach another processor. Or the kernel
        /// had no memory for a wake-up of the peer, and the client retries it.
        timeout: Option<Duration>,
    },
}

/// What sleeps: a client, one half of it, or a broker.
pub(crate) trait Sleeper {
    /// Checks for work without a system call.
    fn is_ready(&mut self) -> bool;

    /// Announces a sleep and checks again. Returns how long to sleep.
    fn park(&mut self) -> Wait;

    /// Sleeps for at most `at_most`, and announces that this process is awake.
    fn block(&mut self, at_most: Option<Duration>) -> io::Result<()>;
}

/// Waits until there may be work or the deadline passes. Returns whether there was work before a
/// sleep.
///
/// # Errors
///
/// Returns the error of [`Sleeper::block`].
pub(crate) fn wait(
    sleeper: &mut impl Sleeper,
    spin: &mut SpinPolicy,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    loop {
        if sleeper.is_ready() {
            spin.found();
            return Ok(true);
        }
        if !spin.again() {
            break;
        }
    }
    let Wait::Readable { timeout } = sleeper.park() else { return Ok(false) };
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    sleeper.block(timeout.into_iter().chain(left).min())?;
    Ok(false)
}

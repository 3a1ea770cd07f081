//! The broker with its sockets. [`core`] makes all protocol decisions.

mod actions;
mod allowance;
mod builder;
mod candidate;
mod client;
mod hold_up;
mod listener;
mod packets;
mod requests;
mod retired;
mod roster;
mod slow;
mod standby;
mod stop;
mod succession;
#[cfg(test)]
pub(crate) mod tests;

pub use self::builder::BrokerBuilder;
pub(crate) use self::candidate::{Candidate, Settings};
use self::client::ClientConnection;
use self::hold_up::HeldUp;
use self::listener::HANDSHAKE_TIMEOUT;
pub use self::standby::Vacancy;
pub use self::stop::StopHandle;
use crate::bus_addr::BusAddr;
use crate::core::broker::Core;
use crate::core::failpoint::effect;
use crate::core::memory::{Memory, Region};
use crate::core::message::ClientId;
use crate::error::BindError;
use crate::peer_filter::PeerFilter;
use crate::place::{Bound, Watch};
use crate::sys::fork::Owner;
use crate::wait::{self, RETRY_INTERVAL, SleepBound, Sleeper, SpinPolicy, Wait};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection's key, in the table of connections and in its events. It is the client's id once
/// the client has joined, and a number above all ids before. The older newcomer has the lower one.
type Key = u64;

const FIRST_NEWCOMER: Key = 1 << 32;
/// Marks an event of a client's process. The other bits are the key of its connection.
const PROCESS: u64 = 1 << 63;
const LISTENER: u64 = u64::MAX;
const STOP: u64 = u64::MAX - 1;
const WATCH: u64 = u64::MAX - 2;

/// Spins (cycles without work) before the broker sleeps, and yields to other threads after the
/// spins.
const SPINS: u32 = 5;
const YIELDS: u32 = 20;
/// Cycles with work between two polls of the sockets.
const CYCLES_BETWEEN_POLLS: u32 = 64;
/// One descriptor for a client's connection and one for its process.
const DESCRIPTORS_PER_CLIENT: usize = 2;

/// The broker of a bus.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let bus = dir.path().join("bus");
/// let broker = llmp::Broker::bind(&bus)?;
/// let stop = broker.stop_handle();
/// let thread = std::thread::spawn(move || broker.run());
/// // ... clients come and go ...
/// stop.stop();
/// thread.join().unwrap()?;
/// # Ok(()) }
/// ```
///
/// # Forks
///
/// A broker belongs to the process that binds it. A daemon must fork first and bind afterwards. In
/// a forked child, [`run`](Broker::run) returns an error. Dropping or [stopping](StopHandle::stop)
/// the broker there leaves the parent's bus unchanged.
pub struct Broker {
    owner: Owner,
    id: u64,
    core: Core<Region>,
    access: PeerFilter,
    max_clients: usize,
    /// The most descriptors of clients' pages that are kept, to forward messages by reference.
    max_shared_pages: usize,
    /// The most descriptors in flight in all sockets together. Each client has its share.
    max_in_flight: usize,
    /// Below this number of open descriptors, including those that are being closed, any packet's
    /// descriptors fit.
    roomy: usize,
    bound: Bound,
    /// What a successor needs, in the lock file.
    roster: roster::Roster,
    /// The clients of the last broker for which this one waits.
    succession: succession::Succession,
    epoll: OwnedFd,
    stop: StopHandle,
    /// Reports when the socket or its lock file is removed.
    watch: Option<Watch>,
    /// When to watch the listener again, after no connection could be accepted.
    accept_again: Option<Instant>,
    accept_failed: bool,
    /// When to try again to restore a removed socket or lock file.
    rebind_again: Option<Instant>,
    /// Whether the loss of the socket or the lock file was logged.
    place_lost: bool,
    held_up: Option<HeldUp>,
    policy: slow::Policy,
    /// The slowest receiver, while the bus waits before it skips or disconnects that one.
    stalled: Option<slow::Stalled>,
    connections: BTreeMap<Key, ClientConnection>,
    /// Connections of processes that stand by.
    candidates: BTreeMap<Key, ClientConnection>,
    next_newcomer: Key,
    /// The newest own page when clients that only send were last sent own pages.
    newest_own_page: u32,
    send_pending: bool,
    /// When to try again to handle packets for which this process has no room, if there are any.
    stuck_again: Option<Instant>,
    /// When to send announcements again to clients whose sockets hold their share of descriptors,
    /// and the interval since the last attempt.
    unread_again: Option<(Instant, Duration)>,
    /// Processes that may still read pages in place.
    retired: retired::Retired,
    allowance: allowance::Allowance,
    /// Whether the parked word is set, so that clients ring.
    parked: bool,
    sleep_bound: SleepBound,
    report: BrokerStats,
}

/// The counters of a broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerStats {
    /// The counters of the broadcast chain.
    pub broadcast: crate::core::chain::Stats,
    /// Clients that have joined.
    pub clients: u64,
    /// Clients that were disconnected for a fault.
    pub faults: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// Number of times that a receiver was skipped, see [`SlowReceiver`].
    ///
    /// [`SlowReceiver`]: crate::SlowReceiver
    pub skipped: u64,
    /// Receivers that were disconnected because they were too slow.
    pub evicted: u64,
    /// Whether the broker has left the bus to the next one, see [`StopHandle::hand_over`].
    pub handed_over: bool,
    /// The broker's own shared memory in bytes: the peak of its chain plus its control region.
    pub shared_bytes_peak: u64,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("id", &self.id)
            .field("path", &self.path())
            .field("access", &self.access)
            .field("max_clients", &self.max_clients)
            .field("connections", &self.connections.len())
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl Broker {
    /// Makes a bus with this name or path, with the default settings.
    ///
    /// # Errors
    ///
    /// Returns [`BindError`] if the bus cannot be made. Its text says what to do.
    pub fn bind(bus: impl Into<BusAddr>) -> Result<Broker, BindError> {
        Self::builder().bind(bus)
    }

    /// Returns a builder for other settings.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Returns the path of the bus's socket.
    pub fn path(&self) -> &Path {
        self.bound.path()
    }

    /// Returns a handle that stops this broker.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Serves the bus until it is [stopped](StopHandle::stop). Returns the broker's counters.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses to wait for events. Also returns an error in a forked
    /// child of the process that bound the broker. No action of a client ends a broker.
    pub fn run(mut self) -> io::Result<BrokerStats> {
        let served = self.serve();
        if served.is_err() {
            // The bus goes on with the next broker.
            self.bound.stay(true);
        }
        served
    }

    fn serve(&mut self) -> io::Result<BrokerStats> {
        self.check_owner()?;
        self.wake();
        let mut spin = SpinPolicy::new(SPINS, YIELDS);
        let mut busy = 0;
        while !self.stop.is_asked() {
            let has_worked = wait::wait(self, &mut spin, None)?;
            self.check_owner()?;
            busy = (busy + u32::from(has_worked)) % CYCLES_BETWEEN_POLLS;
            if has_worked && busy == 0 {
                self.poll_sockets(Some(Duration::ZERO))?;
            }
        }
        self.shut_down();
        self.check_owner()?;
        self.report.broadcast = self.core.stats();
        let control_len = self.core.control().region_len() as u64;
        self.report.shared_bytes_peak = self.report.broadcast.page_bytes_peak + control_len;
        Ok(self.report)
    }

    /// Serves the bus once, for a loop of the caller. Forwards what is there. If there is nothing,
    /// waits for work for at most `timeout`, and forwards what has come. `None` means no limit.
    /// Returns whether there was work; more may be left then.
    ///
    /// The loop ends when the broker [is stopping](Broker::is_stopping). [`run`](Broker::run) then
    /// ends the bus in order, and returns at once.
    ///
    /// A thread that serves several brokers, or waits for other descriptors too, calls
    /// [`prepare_wait`](Broker::prepare_wait) on each broker. It waits for their descriptors
    /// ([`AsFd`]) and calls `poll_once` with a timeout of zero.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// let mut broker = llmp::Broker::bind(&bus)?;
    /// let stop = broker.stop_handle();
    /// let clients = std::thread::spawn(move || {
    ///     let mut receiver = llmp::Client::connect_receiver(&bus).unwrap();
    ///     llmp::Client::connect_sender(&bus).unwrap().send(1, b"hello").unwrap();
    ///     assert_eq!(receiver.recv().unwrap().payload, b"hello");
    ///     stop.stop();
    /// });
    /// while !broker.is_stopping() {
    ///     broker.poll_once(None)?;
    /// }
    /// assert_eq!(broker.run()?.broadcast.messages, 1);
    /// # clients.join().unwrap();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`run`](Broker::run).
    pub fn poll_once(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        self.check_owner()?;
        self.wake();
        self.poll_sockets(Some(Duration::ZERO))?;
        let mut has_worked = self.cycle();
        if !has_worked && timeout != Some(Duration::ZERO) {
            self.check_owner()?;
            // A timeout that overflows the clock means no deadline.
            let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
            has_worked = wait::wait(self, &mut SpinPolicy::none(), deadline)? || self.cycle();
        }
        self.check_owner()?;
        Ok(has_worked)
    }

    /// Prepares a wait in a loop of the caller. From now on the descriptor ([`AsFd`]) becomes
    /// readable when there is work. The next [`poll_once`](Broker::poll_once) ends that, and the
    /// loop calls it after each wait, also after one that has timed out.
    ///
    /// Returns [`Wait::Ready`] if there is work now, if the broker is stopping, and in a forked
    /// child.
    pub fn prepare_wait(&mut self) -> Wait {
        if !self.owner.is_here() || self.stop.is_asked() {
            return Wait::Ready;
        }
        // Parking anew looks for work that has come since.
        self.wake();
        if self.awaits_clients() {
            return Wait::Readable { timeout: self.bounded(Some(succession::LOOK)) };
        }
        self.parked = self.core.park();
        let retry = self.send_pending.then_some(RETRY_INTERVAL);
        let timeout = match self.parked {
            // The timeout is absent or growing, so an idle bus uses no processor time (P11).
            true => {
                let bound = self.sleep_bound.at_most(self.core.first_bounded_sleep());
                retry.into_iter().chain(bound).min()
            }
            // Work is pending but blocked; the sockets are polled without waiting.
            false if retry.is_none() => return Wait::Ready,
            false => retry,
        };
        self.report_hold_up(Instant::now());
        Wait::Readable { timeout: self.bounded(timeout) }
    }

    /// Returns whether the broker was told to [stop](StopHandle::stop).
    pub fn is_stopping(&self) -> bool {
        self.stop.is_asked()
    }

    /// Ends what [`prepare_wait`](Broker::prepare_wait) has begun.
    fn wake(&mut self) {
        if std::mem::take(&mut self.parked) {
            self.core.unpark();
        }
    }

    /// Returns an error in a forked child.
    fn check_owner(&self) -> io::Result<()> {
        match self.owner.is_here() {
            true => Ok(()),
            false => Err(io::Error::other(
                "this broker was bound before a fork; bind in the process that runs it",
            )),
        }
    }

    /// Shortens the timeout of a poll to the next deadline of the broker.
    fn bounded(&self, timeout: Option<Duration>) -> Option<Duration> {
        let held_up = self.held_up.map(|held_up| held_up.since + held_up.next);
        let joining = self.newcomers().next().map(|(_, oldest)| oldest.began + HANDSHAKE_TIMEOUT);
        // Computed only while the bus is held up, when cycles are rare.
        let unread = self.held_up.and_then(|_| {
            self.connections.values().filter_map(|connection| self.unread_at(connection)).min()
        });
        let unread_again = self.unread_again.map(|(at, _)| at);
        let again = [self.accept_again, self.rebind_again, unread_again, self.stuck_again];
        let due =
            again.into_iter().chain([held_up, joining, unread, self.slow_at()]).flatten().min();
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        timeout.into_iter().chain(due).min()
    }

    /// Returns the connection of a client that has joined.
    fn connection(&self, client: ClientId) -> Option<&ClientConnection> {
        self.connections.get(&client.0.into())
    }

    /// Returns the keys of all connections of which `is` holds.
    fn keys(&self, is: impl Fn(&ClientConnection) -> bool) -> Vec<Key> {
        self.connections.iter().filter(|(_, c)| is(c)).map(|(key, _)| *key).collect()
    }
}

impl Sleeper for Broker {
    fn is_ready(&mut self) -> bool {
        self.cycle()
    }

    fn park(&mut self) -> Wait {
        match self.prepare_wait() {
            // Work is pending but blocked. The sockets are polled without waiting.
            Wait::Ready => Wait::Readable { timeout: Some(Duration::ZERO) },
            wait => wait,
        }
    }

    fn block(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        self.poll_sockets(at_most)?;
        self.wake();
        Ok(())
    }
}

impl AsFd for Broker {
    /// Returns the descriptor for an event loop, which stays the same. After
    /// [`prepare_wait`](Broker::prepare_wait) it becomes readable when there is work.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl AsRawFd for Broker {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Reserves a spare descriptor while acquiring another, so that one is always left to receive a
/// client's page. Without a free descriptor the client would lose its connection for the broker's
/// shortage.
fn reserve_fd(any: &OwnedFd) -> io::Result<OwnedFd> {
    effect("take a spare descriptor");
    Ok(rustix::io::fcntl_dupfd_cloexec(any, 0)?)
}

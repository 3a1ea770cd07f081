//! The broker with its sockets. [`core`] makes all protocol decisions.

mod allowance;
mod builder;
mod client;
mod retired;
#[cfg(test)]
pub(crate) mod tests;

pub use self::builder::BrokerBuilder;
use self::client::{ClientConnection, Progress, Stuck};
use crate::bus_addr::BusAddr;
use crate::core::broker::{Action, Core};
use crate::core::chain::Blocked;
use crate::core::failpoint::{effect, observation};
use crate::core::fault::Fault;
use crate::core::handshake::{Phase, Rejected};
use crate::core::layout::VERSION;
use crate::core::memory::{Memory, Region};
use crate::core::message::ClientId;
use crate::core::wire::{ByeReason, Packet, Refusal, Roles, WireError};
use crate::error::BindError;
use crate::handshake::attach;
use crate::peer_filter::PeerFilter;
use crate::place::{Bound, Watch};
use crate::socket::{Credentials, Received, Sent, Socket};
use crate::sys::closer;
use crate::sys::fork::Owner;
use crate::sys::memfd::{ReceivedFd, RegionError};
use crate::sys::peer::Peer;
use crate::sys::socket::timespec;
use crate::wait::{RETRY_INTERVAL, SleepBound, SpinPolicy, Wait};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// The most packets taken from one connection at once, so that no client monopolises the broker.
const PACKETS_AT_ONCE: usize = 1024;
/// The length of a listener's queue, in connections.
const QUEUED_CONNECTIONS: usize = 1024;
/// The most connections accepted at once, so that a flood of connections does not monopolise the
/// broker.
const CONNECTIONS_AT_ONCE: usize = 64;
/// After this time the log names the receiver that holds up the bus.
const HELD_UP: Duration = Duration::from_secs(1);
/// A client is disconnected if it leaves its socket unread for this time while others wait for it.
const UNREAD_LIMIT: Duration = Duration::from_secs(10);
/// The first and the longest interval between two attempts to send announcements to a client whose
/// socket holds its share of descriptors. The interval doubles.
const UNREAD_AGAIN: Duration = Duration::from_millis(1);
const UNREAD_AGAIN_AT_MOST: Duration = Duration::from_secs(1);
/// One descriptor for a client's connection and one for its process.
const DESCRIPTORS_PER_CLIENT: usize = 2;
/// The interval between two attempts to restore a removed socket or lock file.
const REBIND_AGAIN: Duration = Duration::from_secs(1);
/// A client must join within this time after it has connected.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stopped broker goes on forwarding messages that are already committed.
const LAST_CALL: Duration = Duration::from_millis(500);

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
    connections: BTreeMap<Key, ClientConnection>,
    next_newcomer: Key,
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

/// A receiver holds up the bus.
#[derive(Clone, Copy)]
struct HeldUp {
    since: Instant,
    /// The duration at which it is reported next. The log reports it once. The waiting clients get
    /// a report each time the duration has doubled.
    next: Duration,
}

/// The result of taking a packet from a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The socket is empty.
    Nothing,
    Ring,
    Packet,
    /// The socket holds something for which this process has no room.
    Stuck,
}

/// Stops a broker from another thread, for example from a signal handler's thread.
#[derive(Clone, Debug)]
pub struct StopHandle {
    owner: Owner,
    event: Arc<OwnedFd>,
    asked: Arc<AtomicBool>,
}

impl StopHandle {
    /// Stops the broker. It forwards the committed messages, sends its clients a goodbye, and
    /// returns from [`Broker::run`]. Does nothing in a forked child of the broker's process.
    pub fn stop(&self) {
        // The event is shared with the parent's broker, which was not asked to stop. It would stay
        // readable there.
        if !self.owner.is_here() {
            return;
        }
        self.asked.store(true, Ordering::Release);
        effect("write to the eventfd");
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
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
        self.check_owner()?;
        self.wake();
        let mut spin = SpinPolicy::new(SPINS, YIELDS);
        let mut busy = 0;
        while !self.stop.is_asked() {
            let worked = self.cycle();
            self.check_owner()?;
            if worked {
                spin.found();
                busy = (busy + 1) % CYCLES_BETWEEN_POLLS;
                if busy == 0 {
                    self.poll_sockets(Some(Duration::ZERO))?;
                }
                continue;
            }
            if spin.again() {
                continue;
            }
            let timeout = match self.prepare_wait() {
                Wait::Ready => Some(Duration::ZERO),
                Wait::Readable { timeout } => timeout,
            };
            self.poll_sockets(timeout)?;
            self.wake();
        }
        self.shut_down();
        self.check_owner()?;
        self.connections.clear();
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
        let worked = self.cycle();
        self.check_owner()?;
        if worked || timeout == Some(Duration::ZERO) {
            return Ok(worked);
        }
        match self.prepare_wait() {
            Wait::Readable { timeout: bound } => {
                self.poll_sockets(timeout.into_iter().chain(bound).min())?;
                self.wake();
            }
            Wait::Ready if self.stop.is_asked() => return Ok(false),
            // A message came meanwhile.
            Wait::Ready => {}
        }
        let worked = self.cycle();
        self.check_owner()?;
        Ok(worked)
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

    /// Runs one cycle of the core and applies its results. Returns whether there was work.
    fn cycle(&mut self) -> bool {
        let was_short = std::mem::take(&mut self.send_pending);
        let cycle = self.core.cycle();
        // A hook may have forked.
        if !self.owner.is_here() {
            return false;
        }
        let mut worked = cycle.consumed > 0;
        if let Some(Blocked::NeedPage(len)) = cycle.blocked {
            match self.make_page(len) {
                Ok(page) => {
                    self.core.add_page(page);
                    worked = true;
                }
                Err(_) if self.core.stop_growing() => worked = true,
                Err(error) => {
                    self.send_pending = true;
                    if !was_short {
                        log::error!("{error}; the bus waits until there is memory again");
                    }
                }
            }
        }
        worked |= self.apply_actions();
        if was_short {
            self.announce_to_all();
        } else {
            self.announce_pages();
        }
        worked
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
        let again = self.accept_again.into_iter().chain(self.rebind_again).chain(unread_again);
        let again = again.chain(self.stuck_again);
        let due = held_up.into_iter().chain(joining).chain(unread).chain(again).min();
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        timeout.into_iter().chain(due).min()
    }

    /// Reports the client that has held up the bus for [`HELD_UP`], to the log and to the waiting
    /// clients.
    fn report_hold_up(&mut self, now: Instant) {
        let Some((client, bytes)) = self.core.holds_up() else {
            if let Some(held_up) = self.held_up.take().filter(|held_up| held_up.next > HELD_UP) {
                let seconds = held_up.since.elapsed().as_secs_f64();
                log::warn!("the bus goes on after {seconds:.1} s");
            }
            return;
        };
        let began = HeldUp { since: now, next: HELD_UP };
        let held_up = *self.held_up.get_or_insert(began);
        let lasted = now.saturating_duration_since(held_up.since);
        if lasted < held_up.next {
            return;
        }
        self.held_up = Some(HeldUp { next: 2 * lasted, ..held_up });
        let process = self.connection(client).map_or(0, |connection| {
            // A silent client that consumes nothing may be dead. Sending it a packet reveals that.
            let _ = connection.socket.ring();
            connection.process
        });
        if held_up.next == HELD_UP {
            log::warn!(
                "client {client} (process {process}) has not received for {:.1} s and holds up the bus: {bytes} bytes wait for it",
                lasted.as_secs_f64()
            );
        }
        let millis = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        let process = u32::try_from(process).unwrap_or(0);
        let news = Packet::HeldUp { client: client.0, process, millis };
        for waiting in self.core.waiting_clients() {
            if let Some(connection) = self.connection(waiting) {
                // A report that does not fit the socket is skipped. The next one has the new
                // duration.
                connection.socket.send(&news, None);
            }
        }
    }

    /// Returns when the client will have delayed others for [`UNREAD_LIMIT`]. It delays them if it
    /// does not read its full socket, so that pages can't be announced to it.
    fn unread_at(&self, connection: &ClientConnection) -> Option<Instant> {
        let held_up = self.held_up?.since;
        let full = connection.full_since?;
        self.core.announcement(connection.client()?)?;
        Some(held_up.max(full) + UNREAD_LIMIT)
    }

    /// Disconnects clients whose full sockets delay others while the bus is held up.
    fn disconnect_unread(&mut self, now: Instant) {
        if self.held_up.is_none() {
            return;
        }
        for key in self.keys(|c| self.unread_at(c).is_some_and(|at| at <= now)) {
            self.fail(key, Fault::UnreadConnection { seconds: UNREAD_LIMIT.as_secs() });
        }
    }

    /// Accepts connections again after a failure, and watches the listener if that succeeds.
    fn retry_accept(&mut self) {
        if self.accept_again.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.accept_again = None;
        self.accept();
        let data = EventData::new_u64(LISTENER);
        effect("watch the listener again");
        if self.accept_again.is_none()
            && epoll::add(&self.epoll, &self.bound.listener, data, EventFlags::IN).is_err()
        {
            self.accept_again = Some(Instant::now() + RETRY_INTERVAL);
        }
    }

    /// Disconnects clients that have connected but do not join in time.
    fn expire(&mut self, now: Instant) {
        loop {
            let Some((&oldest, connection)) = self.newcomers().next() else { return };
            if now < connection.began + HANDSHAKE_TIMEOUT {
                return;
            }
            let why = match connection.stuck {
                Some(_) => "could not join because the broker lacks memory or descriptors",
                None => "has not joined in time",
            };
            self.drop_newcomer(oldest, why);
        }
    }

    /// Returns the connections that have not joined the bus, the oldest one first.
    fn newcomers(&self) -> impl DoubleEndedIterator<Item = (&Key, &ClientConnection)> {
        self.connections.range(FIRST_NEWCOMER..)
    }

    fn drop_newcomer(&mut self, key: Key, why: &str) {
        self.report.refused += 1;
        let process = self.connections.get(&key).map_or(0, |connection| connection.process);
        log::warn!("process {process} {why} and is disconnected");
        self.hung_up(key);
    }

    /// Makes room for a new connection when the broker is full. Finds the process with the most
    /// connections that have not joined, and disconnects the oldest of them. Returns whether there
    /// was one.
    fn make_room_for_newcomer(&mut self) -> bool {
        let mut counts: HashMap<i32, (usize, Key)> = HashMap::new();
        for (key, connection) in self.newcomers().rev() {
            let (count, oldest) = counts.entry(connection.process).or_default();
            (*count, *oldest) = (*count + 1, *key);
        }
        let most = counts.values().max_by_key(|(count, oldest)| (*count, Reverse(*oldest)));
        let Some(&(_, oldest)) = most else { return false };
        if let Some(connection) = self.connections.get(&oldest)
            && connection.accepting.phase == Phase::Fresh
        {
            connection.socket.send(&Packet::Refused(Refusal::Crowded), None);
        }
        self.drop_newcomer(oldest, "holds a place without joining");
        true
    }

    /// Restores the socket and its lock file if they were removed.
    fn check_place(&mut self) {
        if let Some(watch) = &self.watch {
            watch.drain();
        }
        let again = Instant::now() + REBIND_AGAIN;
        self.rebind_again = None;
        let error = match self.keep_place() {
            Ok(true) => return self.place_lost = false,
            // The restored file may have been removed before it was watched.
            Ok(false) => return self.rebind_again = Some(again),
            Err(error) => error,
        };
        self.rebind_again = Some(again);
        if !std::mem::replace(&mut self.place_lost, true) {
            log::error!("{error}; trying again");
        }
    }

    /// Restores the lock file and the socket if they are gone. Returns whether they are watched.
    /// The error text says what to do.
    fn keep_place(&mut self) -> Result<bool, String> {
        // Without the lock the broker must not listen again, because there may be another broker.
        let is_new = self.bound.keep().map_err(|error| self.lock_lost(&error))?;
        if is_new {
            let lock = self.bound.lock_path().display();
            log::warn!("the lock file {lock} was removed; it is made anew");
        }
        if self.bound.is_there() {
            return Ok(self.watch_place());
        }
        // Accepts the clients that have connected already, up to the length of the queue.
        for _ in 0..QUEUED_CONNECTIONS / CONNECTIONS_AT_ONCE {
            self.accept();
        }
        let path = self.bound.path().display().to_string();
        self.rebind().map_err(|error| {
            format!("the socket {path} was removed and can't be made anew, so no client can connect: {error}")
        })?;
        log::warn!("the socket {path} was removed; it is made anew");
        Ok(self.watch_place())
    }

    /// Watches the lock file and the socket. Watching a file twice changes nothing, so the call can
    /// be repeated until it succeeds. Returns whether it does.
    fn watch_place(&self) -> bool {
        let paths = [self.bound.lock_path(), self.bound.path()];
        self.watch.as_ref().is_none_or(|watch| paths.iter().all(|path| watch.add(path)))
    }

    fn lock_lost(&self, error: &BindError) -> String {
        let (path, clients) = (self.bound.lock_path().display(), self.core.clients());
        let BindError::InUse { process, .. } = error else {
            return format!(
                "{error}: this broker has lost its lock and can't take it again, so a second broker may start"
            );
        };
        let other = process.map_or("another process".into(), |id| format!("process {id}"));
        format!(
            "there are two brokers, stop one: {other} has taken the place of this one, because the lock file {path} was removed, or closed by other code in this process; {clients} clients stay with this broker, and new ones reach the other"
        )
    }

    fn rebind(&mut self) -> Result<(), BindError> {
        // A forked child may hold the old listener, too. If the old listener stays, it is watched
        // again.
        let _ = epoll::delete(&self.epoll, &self.bound.listener);
        self.accept_again = Some(Instant::now() + RETRY_INTERVAL);
        self.bound.rebind(&self.access)?;
        self.bound.listener.set_nonblocking().map_err(|source| {
            let step = "make the listener non-blocking";
            BindError::System { step, source }
        })?;
        // The end of this poll accepts connections and watches the new listener.
        self.accept_again = Some(Instant::now());
        Ok(())
    }

    fn make_page(&self, len: usize) -> Result<Region, RegionError> {
        let _spare = reserve_fd(&self.epoll).map_err(|source| RegionError {
            step: "create",
            len,
            source,
        })?;
        Region::shared("llmp-page", len)
    }

    /// Applies the actions that the core has requested. Returns whether one was applied.
    fn apply_actions(&mut self) -> bool {
        let mut worked = false;
        for action in self.core.take_actions() {
            let mut done = true;
            match action {
                Action::Ring(client) => {
                    done = self.connection(client).is_none_or(|c| c.socket.ring());
                    if !done {
                        self.core.not_rung(client);
                        self.send_pending = true;
                    }
                }
                Action::Drain(client) => {
                    // Only if the socket is empty. Otherwise the action is requested again.
                    if self.take_packets(client.0.into()) {
                        self.core.drained(client);
                    } else if self.connection(client).is_some_and(|c| c.stuck.is_some()) {
                        // The action is requested again when there is room.
                        done = false;
                    } else {
                        self.core.not_drained(client);
                    }
                }
                Action::Remove(client, fault) => {
                    self.remove(client, fault);
                    self.announce_receiver_count();
                }
            }
            worked |= done;
        }
        worked
    }

    fn remove(&mut self, client: ClientId, fault: Option<Fault>) {
        let connection = self.take_connection(client.0.into());
        match fault {
            Some(fault) => {
                self.report.faults += 1;
                log::warn!("client {client} is disconnected: {fault}");
                if let Some(connection) = connection {
                    connection.socket.send(&Packet::Bye(ByeReason::Fault), None);
                }
            }
            None => log::info!("client {client} has left"),
        }
    }

    /// Removes a connection that has ended.
    fn take_connection(&mut self, key: Key) -> Option<ClientConnection> {
        let mut connection = self.connections.remove(&key)?;
        // Closing is not enough while a forked child of this process holds the descriptors, too.
        let process = connection.socket.peer().pidfd();
        for fd in process.into_iter().chain([connection.socket.as_fd()]) {
            effect("watch a connection no longer");
            let _ = epoll::delete(&self.epoll, fd);
        }
        if connection.reads_in_place() {
            let pidfd = match connection.socket.take_peer() {
                Peer::Known(pidfd) => Some(pidfd),
                Peer::Unknown => connection.socket.peer_pidfd(),
                Peer::Gone => None,
            };
            self.retired.add(connection.process, pidfd);
        }
        Some(connection)
    }

    /// Returns the connection of a client that has joined.
    fn connection(&self, client: ClientId) -> Option<&ClientConnection> {
        self.connections.get(&client.0.into())
    }

    /// Returns the keys of all connections of which `is` holds.
    fn keys(&self, is: impl Fn(&ClientConnection) -> bool) -> Vec<Key> {
        self.connections.iter().filter(|(_, c)| is(c)).map(|(key, _)| *key).collect()
    }

    /// Sends the announcements of new pages.
    fn announce_pages(&mut self) {
        let has_unsent: Vec<ClientId> = self.core.has_unsent().collect();
        for client in has_unsent {
            self.announce(client.0.into());
        }
    }

    /// Sends a client its pending announcements. Whatever does not fit its socket, or finds no
    /// memory, is sent later.
    fn announce(&mut self, key: Key) {
        let share = (self.max_in_flight / self.connections.len().max(1)).max(1);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let progress = connection.announce(&mut self.core, share);
        connection.note(progress, &self.epoll, key);
        self.send_pending |= progress == Progress::Sent(Sent::NoMemory);
        if progress == Progress::Unread && self.unread_again.is_none() {
            self.unread_again = Some((Instant::now() + UNREAD_AGAIN, UNREAD_AGAIN));
        }
    }

    /// Sends pending announcements to clients whose sockets held their share of descriptors. The
    /// interval to the next attempt doubles unless one of them has read, so a stopped client costs
    /// next to nothing (P11).
    fn retry_unread(&mut self) {
        let Some((_, waited)) = self.unread_again.take_if(|(at, _)| *at <= Instant::now()) else {
            return;
        };
        let began = Instant::now();
        self.announce_to_all();
        let mut waiting = self.connections.values().filter_map(|c| c.full_since);
        if !waiting.any(|since| since >= began)
            && let Some((at, wait)) = &mut self.unread_again
        {
            *wait = (2 * waited).min(UNREAD_AGAIN_AT_MOST);
            *at = began + *wait;
        }
    }

    /// Sends every client its pending announcements.
    fn announce_to_all(&mut self) {
        for key in self.keys(|_| true) {
            self.announce(key);
        }
    }

    /// Sends the receiver count to the clients that track it, if it has changed.
    fn announce_receiver_count(&mut self) {
        let receivers = self.core.receivers();
        for key in self.keys(|connection| connection.misses(receivers)) {
            self.announce(key);
        }
    }

    /// Waits for at most `timeout` and handles what has happened on the sockets.
    fn poll_sockets(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 64];
        let timeout = timeout.map(timespec);
        observation("wait for events", 0);
        let (events, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(()),
            events => events?,
        };
        for event in &*events {
            match event.data.u64() {
                LISTENER => self.accept(),
                STOP => {}
                WATCH => self.check_place(),
                key if key & PROCESS != 0 => self.has_died(key & !PROCESS),
                key => {
                    let flags = event.flags;
                    if flags.contains(EventFlags::OUT) {
                        self.announce(key);
                    }
                    if flags.contains(EventFlags::HUP) {
                        self.client_of_stuck_is_gone(key);
                    }
                    self.take_event(key);
                }
            }
        }
        self.announce_pages();
        self.announce_receiver_count();
        self.expire(Instant::now());
        self.retired.prune();
        if self.rebind_again.is_some_and(|at| at <= Instant::now()) {
            self.check_place();
        }
        self.retry_accept();
        self.retry_unread();
        let now = Instant::now();
        self.retry_stuck(now);
        self.report_hold_up(now);
        self.disconnect_unread(now);
        Ok(())
    }

    /// Accepts no connection for [`RETRY_INTERVAL`]. Waiting connections stay in the queue and keep
    /// the listener readable, so it is not watched meanwhile.
    fn accept_later(&mut self, why: impl Display) {
        if !std::mem::replace(&mut self.accept_failed, true) {
            log::warn!("a connection could not be accepted: {why}; trying again");
        }
        effect("watch the listener no longer");
        let _ = epoll::delete(&self.epoll, &self.bound.listener);
        self.accept_again = Some(Instant::now() + RETRY_INTERVAL);
    }

    fn accept(&mut self) {
        for _ in 0..CONNECTIONS_AT_ONCE {
            if !closer::has_room() {
                let held = closer::held();
                return self.accept_later(format_args!(
                    "{held} descriptors that clients have sent against the protocol can't be closed yet"
                ));
            }
            let accepted = reserve_fd(&self.epoll).and_then(|_spare| self.bound.listener.accept());
            let socket = match accepted {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_failed = false;
                    return;
                }
                // Most likely no descriptor is free.
                Err(error) => return self.accept_later(error),
            };
            let Ok(peer) = socket.credentials() else { continue };
            let refusal = match () {
                () if !self.access.admits(peer) => Some(Refusal::User),
                () if self.connections.len() < self.max_clients => None,
                () if self.make_room_for_newcomer() => None,
                () => Some(Refusal::Crowded),
            };
            if let Some(refusal) = refusal {
                self.refuse(socket, peer, refusal);
                continue;
            }
            let key = self.next_newcomer;
            self.next_newcomer += 1;
            let data = EventData::new_u64(key);
            effect("watch a connection");
            if let Err(error) = epoll::add(&self.epoll, &socket, data, EventFlags::IN) {
                log::warn!("a connection could not be watched: {error}");
                continue;
            }
            self.connections.insert(key, ClientConnection::new(socket, peer));
        }
    }

    fn turn_away(&mut self, key: Key, peer: Credentials, refusal: Refusal) {
        if let Some(connection) = self.take_connection(key) {
            self.refuse(connection.socket, peer, refusal);
        }
    }

    fn refuse(&mut self, socket: Socket, peer: Credentials, refusal: Refusal) {
        self.report.refused += 1;
        let Credentials { user, process } = peer;
        let why = match refusal {
            Refusal::User => "the broker does not admit this user (--access)".to_owned(),
            Refusal::Crowded => format!(
                "{} clients are connected, and no more are admitted (--max-clients)",
                self.max_clients
            ),
            refusal => refusal.to_string(),
        };
        log::warn!("process {process} of user {user} was refused: {why}");
        socket.send(&Packet::Refused(refusal), None);
    }

    /// Takes the packets that a connection holds. Returns whether it is empty.
    fn take_packets(&mut self, mut key: Key) -> bool {
        let mut outcomes = (0..PACKETS_AT_ONCE).map(|_| self.take_packet(&mut key));
        outcomes.find(|outcome| matches!(outcome, Outcome::Nothing | Outcome::Stuck))
            == Some(Outcome::Nothing)
    }

    /// Takes the packets that made a connection readable. Stops after a ring, because more rarely
    /// follows. If more follows, the connection stays readable.
    fn take_event(&mut self, mut key: Key) {
        (0..PACKETS_AT_ONCE).any(|_| self.take_packet(&mut key) != Outcome::Packet);
    }

    /// Takes a packet of a connection, whose key changes when its client joins.
    fn take_packet(&mut self, key: &mut Key) -> Outcome {
        let held = closer::held();
        let open = self.connections.len() * DESCRIPTORS_PER_CLIENT + held;
        let is_roomy = held < closer::QUEUE && open < self.roomy;
        let Some(connection) = self.connections.get_mut(key) else { return Outcome::Nothing };
        if connection.stuck.is_some() {
            return Outcome::Stuck;
        }
        let mut outcome = Outcome::Packet;
        let received = match connection.accepting.phase {
            Phase::Fresh => {
                let (received, sender) = connection.socket.receive_first(!is_roomy);
                if sender.is_some_and(|sender| !self.meet(*key, sender)) {
                    return Outcome::Nothing;
                }
                Some(received)
            }
            _ if is_roomy => Some(connection.socket.receive()),
            _ => connection.socket.receive_sparingly(),
        };
        let Some(received) = received else {
            self.put_aside(*key, Stuck::InSocket, "it has no free descriptor (`ulimit -n`)");
            return Outcome::Stuck;
        };
        let result = match received {
            Received::Nothing => return Outcome::Nothing,
            Received::HungUp => {
                self.hung_up(*key);
                return Outcome::Nothing;
            }
            Received::Lost(_) => Err(WireError::Cut.into()),
            Received::Garbage(error) => Err(error.into()),
            Received::Packet(packet, mut descriptor) => {
                if let Packet::Ring = packet {
                    outcome = Outcome::Ring;
                }
                match self.on_packet(key, packet, &mut descriptor) {
                    Err(fault) if fault.is_lack() => {
                        self.put_aside(*key, Stuck::Packet(packet, descriptor), fault);
                        return Outcome::Stuck;
                    }
                    result => result,
                }
            }
        };
        match result {
            Ok(()) => outcome,
            Err(fault) => {
                self.fail(*key, fault);
                Outcome::Nothing
            }
        }
    }

    /// Sets aside a packet for which this process has no room. The client is not at fault.
    fn put_aside(&mut self, key: Key, stuck: Stuck, why: impl Display) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if self.stuck_again.is_none() {
            let process = connection.process;
            log::error!(
                "the broker has no room for a packet of process {process}: {why}; its packets wait until there is room"
            );
        }
        connection.put_aside(stuck, &self.epoll, key);
        self.stuck_again.get_or_insert_with(|| Instant::now() + RETRY_INTERVAL);
    }

    /// Tries again to handle packets for which there was no room.
    fn retry_stuck(&mut self, now: Instant) {
        if self.stuck_again.take_if(|at| *at <= now).is_none() {
            return;
        }
        for mut key in self.keys(|connection| connection.stuck.is_some()) {
            let connection = self.connections.get_mut(&key);
            let result = match connection.and_then(|connection| connection.stuck.take()) {
                Some(Stuck::Packet(packet, mut descriptor)) => {
                    match self.on_packet(&mut key, packet, &mut descriptor) {
                        Err(fault) if fault.is_lack() => Err(Stuck::Packet(packet, descriptor)),
                        result => Ok(result),
                    }
                }
                Some(Stuck::InSocket) if reserve_fd(&self.epoll).is_err() => Err(Stuck::InSocket),
                Some(Stuck::InSocket) | None => Ok(Ok(())),
            };
            match (result, self.connections.get_mut(&key)) {
                (Err(stuck), Some(connection)) => {
                    connection.stuck = Some(stuck);
                    self.stuck_again = Some(Instant::now() + RETRY_INTERVAL);
                }
                (Ok(result), Some(_)) => self.go_on(key, result),
                (_, None) => {}
            }
        }
    }

    /// Resumes taking packets from a connection that was stuck.
    fn go_on(&mut self, key: Key, result: Result<(), Fault>) {
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.watch(false, &self.epoll, key);
            if let Some(client) = connection.client() {
                self.core.not_drained(client);
            }
        }
        match result {
            Ok(()) => self.announce(key),
            Err(fault) => self.fail(key, fault),
        }
        if self.connections.get(&key).is_some_and(|connection| connection.has_died) {
            self.has_died(key);
        }
    }

    /// Handles the end of a connection with a stuck packet. The connection stays until the packet
    /// is taken, but nothing waits for its client any more.
    fn client_of_stuck_is_gone(&mut self, key: Key) {
        let connection = self.connections.get(&key).filter(|c| c.stuck.is_some());
        if let Some(client) = connection.and_then(ClientConnection::client) {
            self.core.end_membership(client);
        }
    }

    /// Handles the credentials of a connection's first packet. The process that sent it is the
    /// client. Returns whether the client may stay.
    fn meet(&mut self, key: Key, sender: Credentials) -> bool {
        let Some(connection) = self.connections.get_mut(&key) else { return false };
        connection.process = sender.process;
        // The process that connected was admitted before.
        if !self.access.admits(sender) {
            self.turn_away(key, sender, Refusal::User);
            return false;
        }
        let pidfd = match connection.socket.peer() {
            Peer::Gone => {
                self.hung_up(key);
                return false;
            }
            Peer::Known(pidfd) => pidfd,
            // Only the end of the connection reveals the peer's death.
            Peer::Unknown => return true,
        };
        effect("watch a process");
        let data = EventData::new_u64(key | PROCESS);
        let is_watched = reserve_fd(&self.epoll)
            .and_then(|_| Ok(epoll::add(&self.epoll, pidfd, data, EventFlags::IN)?));
        if is_watched.is_err() {
            connection.socket.take_peer();
        }
        true
    }

    /// Handles the death of a client's process while its child may hold the connection open. All
    /// packets that it sent are in the socket.
    fn has_died(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(&key).filter(|c| c.stuck.is_some()) {
            // The pidfd would stay readable until there is room for the stuck packet.
            connection.has_died = true;
            if let Peer::Known(pidfd) = connection.socket.take_peer() {
                let _ = epoll::delete(&self.epoll, pidfd);
            }
            self.client_of_stuck_is_gone(key);
            return;
        }
        // If packets are left, the event is reported again.
        if self.take_packets(key) {
            self.hung_up(key);
        }
    }

    fn on_packet(
        &mut self,
        key: &mut Key,
        packet: Packet,
        descriptor: &mut Option<ReceivedFd>,
    ) -> Result<(), Fault> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let roles = Roles::SEND.and(Roles::RECEIVE).and(Roles::TRACK).and(Roles::IN_PLACE);
        match connection.accepting.phase {
            Phase::Fresh => {
                // Another version is refused as such, whatever else would refuse the client.
                let hello = match packet {
                    Packet::Hello { version: VERSION, roles, .. } => Some(roles),
                    _ => None,
                };
                let in_place = hello.is_some_and(|roles| roles.has(Roles::IN_PLACE));
                let is_greeting = hello.is_some();
                let (user, now) = (connection.user, Instant::now());
                let greeted = match () {
                    () if in_place && !self.retired.admits(connection.process) => {
                        Err(Refusal::InPlace.into())
                    }
                    () if is_greeting && !self.core.has_ids() => Err(Refusal::NoIds.into()),
                    () if is_greeting && !self.allowance.admits(user, now) => {
                        Err(Refusal::TooOften.into())
                    }
                    () => connection.accepting.greet(packet, roles, self.id, &mut self.core),
                };
                match greeted {
                    Ok(welcome) => {
                        connection.step = Some(welcome);
                        self.announce(*key);
                    }
                    Err(Rejected::Fault(fault)) => return Err(fault),
                    Err(Rejected::Refused(refusal)) => {
                        let peer = Credentials { user, process: connection.process };
                        self.turn_away(*key, peer, refusal);
                    }
                }
            }
            Phase::Greeted(client) => {
                let attach = attach(packet, descriptor);
                let start = connection.accepting.join(client, packet, attach, &mut self.core)?;
                connection.step = Some(start);
                if !connection.accepting.roles.has(Roles::SEND) {
                    // A client that does not send has no pages.
                    connection.socket.refuse_descriptors();
                }
                self.allowance.joined(connection.user, Instant::now());
                self.file_under_id(key, client);
                self.report.clients += 1;
                log::info!("client {client} has joined");
                self.announce(*key);
            }
            Phase::Joined(client) => {
                let may_share = matches!(packet, Packet::Page { .. })
                    && self.core.shareable_pages() < self.max_shared_pages
                    && reserve_fd(&self.epoll).is_ok();
                connection.on_packet(client, packet, descriptor, &mut self.core, may_share)?;
                if let Packet::Again { .. } = packet {
                    self.announce(*key);
                }
            }
        }
        Ok(())
    }

    /// Changes the key of a connection whose client joins to the client's id.
    fn file_under_id(&mut self, key: &mut Key, client: ClientId) {
        let Some(mut connection) = self.connections.remove(key) else { return };
        *key = client.0.into();
        connection.watch(false, &self.epoll, *key);
        if let Some(pidfd) = connection.socket.peer().pidfd() {
            effect("watch a process of another key");
            let data = EventData::new_u64(*key | PROCESS);
            let _ = epoll::modify(&self.epoll, pidfd, data, EventFlags::IN);
        }
        self.connections.insert(*key, connection);
    }

    /// Handles the end of a connection. The client's committed messages are still forwarded. Its
    /// descriptor is closed, and its mappings are released afterwards (P7).
    fn hung_up(&mut self, key: Key) {
        let connection = self.take_connection(key);
        if let Some(client) = connection.and_then(|connection| connection.client()) {
            self.core.hung_up(client);
        }
    }

    fn fail(&mut self, key: Key, fault: Fault) {
        let Some(connection) = self.connections.get(&key) else { return };
        if let Phase::Joined(client) = connection.accepting.phase {
            // The core returns an action that removes the connection.
            return self.core.disconnect(client, Some(fault));
        }
        self.report.faults += 1;
        let process = connection.process;
        log::warn!("process {process} is disconnected before it has joined: {fault}");
        if connection.client().is_some() {
            connection.socket.send(&Packet::Bye(ByeReason::Fault), None);
        }
        self.hung_up(key);
    }

    /// Forwards the committed messages, then sends `Bye` to every client (P15).
    fn shut_down(&mut self) {
        let deadline = Instant::now() + LAST_CALL;
        // The event stays readable from now on, so waiting for other events would not block.
        effect("watch the eventfd no longer");
        let _ = epoll::delete(&self.epoll, &self.stop.event);
        while Instant::now() < deadline && self.owner.is_here() {
            if self.cycle() {
                continue;
            }
            if !self.core.is_blocked() {
                break;
            }
            // Blocked messages may still find room.
            if self.core.park() {
                let left = deadline.saturating_duration_since(Instant::now());
                let looked = self.poll_sockets(Some(left.min(RETRY_INTERVAL)));
                self.core.unpark();
                if looked.is_err() {
                    break;
                }
            } else if self.send_pending {
                std::thread::sleep(RETRY_INTERVAL);
            }
        }
        if self.owner.is_here() {
            self.send_bye(deadline);
        }
    }

    /// Sends `Bye` to every client, retrying full sockets until the deadline.
    fn send_bye(&self, deadline: Instant) {
        let mut left: Vec<&ClientConnection> = self.connections.values().collect();
        loop {
            let bye = Packet::Bye(ByeReason::Closed);
            let mut send_pending = false;
            left.retain(|connection| {
                let sent = connection.socket.send(&bye, None);
                send_pending |= sent == Sent::NoMemory;
                matches!(sent, Sent::NotNow | Sent::NoMemory)
            });
            let Some(next) = left.first() else { return };
            if Instant::now() >= deadline {
                return;
            } else if send_pending {
                std::thread::sleep(RETRY_INTERVAL);
            } else if next.socket.wait_writable(deadline).is_err() {
                return;
            }
        }
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

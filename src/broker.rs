//! The broker with its sockets. What it decides is decided in [`core`].

mod allowance;
mod builder;
mod client;
mod retired;
#[cfg(test)]
pub(crate) mod tests;

pub use self::builder::BrokerBuilder;
use self::client::{ClientConnection, Phase, Progress, Stuck};
use crate::bus_addr::BusAddr;
use crate::connection::RETRY_INTERVAL;
use crate::core::broker::{Action, Core};
use crate::core::chain::Blocked;
use crate::core::failpoint::{effect, observation};
use crate::core::fault::Fault;
use crate::core::memory::{Memory, Region};
use crate::core::message::ClientId;
use crate::core::wire::{ByeReason, Packet, Refusal, Roles, WireError};
use crate::error::BindError;
use crate::peer_filter::PeerFilter;
use crate::place::{Bound, Watch};
use crate::sleep_bound::SleepBound;
use crate::socket::{Credentials, Received, Sent, Socket};
use crate::spin::SpinPolicy;
use crate::sys::closer;
use crate::sys::fork::Owner;
use crate::sys::memfd::{ReceivedFd, RegionError};
use crate::sys::peer::Peer;
use crate::sys::socket::timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const WATCH: u64 = 2;
const FIRST_CONNECTION: u64 = 3;
/// A connection's token with this bit is that of its client's process.
const PROCESS: u64 = 1 << 63;

/// Turns without work before the broker sleeps, and those behind them that let others run.
const SPINS: u32 = 5;
const YIELDS: u32 = 20;
/// Turns with work between two looks at the connections.
const CYCLES_BETWEEN_POLLS: u32 = 64;
/// Packets taken from one connection at one go, so that none keeps the broker to itself.
const PACKETS_AT_ONCE: usize = 1024;
/// Connections that a listener's queue holds.
const QUEUED_CONNECTIONS: usize = 1024;
/// Connections taken at one go, so that whoever floods the listener doesn't keep it either.
const CONNECTIONS_AT_ONCE: usize = 64;
/// A receiver that holds up the bus for so long is named in the log.
const HELD_UP: Duration = Duration::from_secs(1);
/// A client that does not read its connection for so long, while others wait for it, is disconnected.
const UNREAD_LIMIT: Duration = Duration::from_secs(10);
/// After this time a client is told more, if its socket held too many descriptors; then twice as
/// long, and so on up to the second.
const UNREAD_AGAIN: Duration = Duration::from_millis(1);
const UNREAD_AGAIN_AT_MOST: Duration = Duration::from_secs(1);
/// A client's connection and its process.
const DESCRIPTORS_PER_CLIENT: usize = 2;
/// How often a broker tries to make a removed socket or lock file anew.
const REBIND_AGAIN: Duration = Duration::from_secs(1);
/// A client has to join within this time after it has connected.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the broker, when it is told to end, goes on taking what is there already.
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
/// A broker belongs to the process that binds it. A daemon forks first and binds then: in a forked
/// child, [`run`](Broker::run) answers an error, and to drop the broker or to
/// [stop](StopHandle::stop) it leaves the parent's bus as it is.
pub struct Broker {
    owner: Owner,
    id: u64,
    core: Core<Region>,
    access: PeerFilter,
    max_clients: usize,
    /// So many descriptors of clients' pages are kept, so that the pages can be lent.
    max_shared_pages: usize,
    /// Descriptors that may wait in all sockets together; each client has its share.
    max_in_flight: usize,
    /// With fewer connections, and descriptors that are being closed, there is room for all descriptors
    /// that a packet can have.
    roomy: usize,
    bound: Bound,
    epoll: OwnedFd,
    stop: StopHandle,
    /// Tells when the socket or its lock file is removed.
    watch: Option<Watch>,
    /// When the listener is watched again, after no connection could be accepted.
    accept_again: Option<Instant>,
    accept_failed: bool,
    /// When a removed socket or lock file is made anew, after that has failed.
    rebind_again: Option<Instant>,
    /// It was logged that the socket or the lock file is lost.
    place_lost: bool,
    held_up: Option<HeldUp>,
    connections: BTreeMap<u64, ClientConnection>,
    /// Connections that have not joined the bus yet; the oldest one is the first.
    joining: BTreeSet<u64>,
    tokens: HashMap<ClientId, u64>,
    next_token: u64,
    send_pending: bool,
    /// Connections in which something is stuck for want of room in this process, and when that is
    /// tried again.
    stuck: BTreeSet<u64>,
    stuck_again: Option<Instant>,
    /// When clients whose sockets hold as many descriptors as they may are told more, and how long
    /// after the last try that is.
    unread_again: Option<(Instant, Duration)>,
    /// Processes that may still read pages in place.
    retired: retired::Retired,
    allowance: allowance::Allowance,
    report: BrokerStats,
}

/// A receiver holds up the bus.
#[derive(Clone, Copy)]
struct HeldUp {
    since: Instant,
    /// After how long it is told next: the log once, the clients that wait each time that it has
    /// doubled.
    next: Duration,
}

impl HeldUp {
    fn is_told(&self) -> bool {
        self.next > HELD_UP
    }
}

/// What was taken from a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing is left.
    Nothing,
    Ring,
    Packet,
    /// Something is left that this process has no room for.
    Stuck,
}

/// Ends a broker from another thread or from a signal handler's thread.
#[derive(Clone, Debug)]
pub struct StopHandle {
    owner: Owner,
    event: Arc<OwnedFd>,
    asked: Arc<AtomicBool>,
}

impl StopHandle {
    /// Tells the broker to end: it takes what is there, tells its clients, and returns from
    /// [`Broker::run`]. Does nothing in a forked child of the broker's process.
    pub fn stop(&self) {
        // The parent's broker, which is not asked, would find its event for ever.
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

/// What a broker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerStats {
    /// The broadcast chain.
    pub broadcast: crate::core::chain::Stats,
    /// Clients that were admitted.
    pub clients: u64,
    /// Clients whose connection was ended for a fault.
    pub faults: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// Shared memory of the broker's own: its chain at its peak and its control region, in bytes.
    pub shared_bytes_peak: u64,
}

impl Broker {
    /// Makes a bus with this name or path.
    ///
    /// # Errors
    ///
    /// [`BindError`] says what to do about it.
    pub fn bind(bus: impl Into<BusAddr>) -> Result<Broker, BindError> {
        Self::builder().bind(bus)
    }

    /// How to set up a broker otherwise.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Where the bus's socket lies.
    pub fn path(&self) -> &Path {
        self.bound.path()
    }

    /// What ends this broker.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Serves the bus until it is [stopped](StopHandle::stop).
    ///
    /// # Errors
    ///
    /// If the kernel refuses to wait for events, or in a forked child of the process that bound the
    /// broker. Nothing that a client does ends a broker.
    pub fn run(mut self) -> io::Result<BrokerStats> {
        self.check_owner()?;
        let mut spin = SpinPolicy::new(SPINS, YIELDS);
        let mut sleep_bound = SleepBound::new();
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
            let parked = self.core.park();
            let retry = self.send_pending.then_some(RETRY_INTERVAL);
            let timeout = match parked {
                // No timeout, or one that grows: an idle bus uses no processor time (P11).
                true => {
                    let bound = sleep_bound.at_most(self.core.first_bounded_sleep());
                    retry.into_iter().chain(bound).min()
                }
                // Work is pending but blocked: take what the sockets hold without waiting.
                false => retry.or(Some(Duration::ZERO)),
            };
            self.report_hold_up(Instant::now());
            self.poll_sockets(self.bounded(timeout))?;
            if parked {
                self.core.unpark();
            }
        }
        self.shut_down();
        self.check_owner()?;
        self.connections.clear();
        self.report.broadcast = self.core.stats();
        let control_len = self.core.control().region_len() as u64;
        self.report.shared_bytes_peak = self.report.broadcast.page_bytes_peak + control_len;
        Ok(self.report)
    }

    /// An error in a forked child.
    fn check_owner(&self) -> io::Result<()> {
        match self.owner.is_here() {
            true => Ok(()),
            false => Err(io::Error::other(
                "this broker was bound before a fork; bind in the process that runs it",
            )),
        }
    }

    /// One turn, and everything that follows from it. Returns whether there was anything to do.
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

    /// The timeout of a look, no longer than until something of the broker's own is due.
    fn bounded(&self, timeout: Option<Duration>) -> Option<Duration> {
        let held_up = self.held_up.map(|held_up| held_up.since + held_up.next);
        let oldest = self.joining.iter().find_map(|token| self.connections.get(token));
        let joining = oldest.map(|connection| connection.began + HANDSHAKE_TIMEOUT);
        // Only while one holds up the bus: then there are few turns.
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

    /// Names the client that holds up the bus, when it has for [`HELD_UP`]: in the log, and to the
    /// clients that wait.
    fn report_hold_up(&mut self, now: Instant) {
        let Some((client, bytes)) = self.core.holds_up() else {
            if let Some(held_up) = self.held_up.take().filter(HeldUp::is_told) {
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
            // It may take nothing any more and say nothing: only a packet to it shows that.
            let _ = connection.socket.ring();
            connection.process
        });
        if !held_up.is_told() {
            log::warn!(
                "client {client} (process {process}) has not received for {:.1} s and holds up the bus: {bytes} bytes wait for it",
                lasted.as_secs_f64()
            );
        }
        let millis = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        let process = u32::try_from(process).unwrap_or(0);
        let news = Packet::HeldUp { client: client.0, process, millis };
        for waiting in self.core.waiting_clients() {
            let token = self.tokens.get(&waiting);
            if let Some(connection) = token.and_then(|token| self.connections.get(token)) {
                // What has no room in the socket is told later, with the time as it is then.
                connection.socket.send(&news, None);
            }
        }
    }

    /// When the client has kept others waiting for [`UNREAD_LIMIT`], because it does not read its full
    /// socket and pages can't be announced to it.
    fn unread_at(&self, connection: &ClientConnection) -> Option<Instant> {
        let held_up = self.held_up?.since;
        let full = connection.full_since?;
        self.core.announcement(connection.client()?)?;
        Some(held_up.max(full) + UNREAD_LIMIT)
    }

    /// While the bus is held up: disconnects clients whose full sockets keep others waiting.
    fn disconnect_unread(&mut self, now: Instant) {
        if self.held_up.is_none() {
            return;
        }
        let is_unread = |c: &ClientConnection| self.unread_at(c).is_some_and(|at| at <= now);
        let unread = self.connections.iter().filter(|(_, c)| is_unread(c)).map(|(t, _)| *t);
        for token in unread.collect::<Vec<_>>() {
            self.fail(token, Fault::UnreadConnection { seconds: UNREAD_LIMIT.as_secs() });
        }
    }

    /// After no connection could be accepted: tries again, and watches the listener if that works.
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

    /// Disconnects clients that have connected and don't join.
    fn expire(&mut self, now: Instant) {
        while let Some(&oldest) = self.joining.first() {
            let connection = self.connections.get(&oldest);
            if connection.is_some_and(|c| now < c.began + HANDSHAKE_TIMEOUT) {
                return;
            }
            let why = match connection.is_some_and(|c| c.stuck.is_some()) {
                true => "could not be taken in for want of memory or descriptors",
                false => "has not joined in time",
            };
            self.drop_joining(oldest, why);
        }
    }

    fn drop_joining(&mut self, token: u64, why: &str) {
        self.joining.remove(&token);
        let Some(connection) = self.take_connection(token) else { return };
        self.report.refused += 1;
        log::warn!("process {} {why} and is disconnected", connection.process);
        if let Some(client) = connection.client() {
            self.tokens.remove(&client);
            self.core.hung_up(client);
        }
    }

    /// A full broker makes room for a newcomer: of the process that has the most connections that
    /// have not joined, the oldest one goes. Returns whether there was one.
    fn make_room_for_newcomer(&mut self) -> bool {
        let mut counts: HashMap<i32, (usize, u64)> = HashMap::new();
        for token in self.joining.iter().rev() {
            if let Some(connection) = self.connections.get(token) {
                let (count, oldest) = counts.entry(connection.process).or_default();
                (*count, *oldest) = (*count + 1, *token);
            }
        }
        let most = counts.values().max_by_key(|(count, oldest)| (*count, Reverse(*oldest)));
        let Some(&(_, oldest)) = most else { return false };
        if let Some(ClientConnection { phase: Phase::Fresh, socket, .. }) =
            self.connections.get(&oldest)
        {
            socket.send(&Packet::Refused(Refusal::Crowded), None);
        }
        self.drop_joining(oldest, "holds a place without joining");
        true
    }

    /// The socket or its lock file may have been removed under the broker: then it is made anew.
    fn check_place(&mut self) {
        if let Some(watch) = &self.watch {
            watch.drain();
        }
        let again = Instant::now() + REBIND_AGAIN;
        self.rebind_again = None;
        let error = match self.keep_place() {
            Ok(true) => return self.place_lost = false,
            // What was made anew may have been removed before it was watched.
            Ok(false) => return self.rebind_again = Some(again),
            Err(error) => error,
        };
        self.rebind_again = Some(again);
        if !std::mem::replace(&mut self.place_lost, true) {
            log::error!("{error}; trying again");
        }
    }

    /// Makes the lock file and the socket anew if they are gone. Returns whether they are watched. An
    /// error says what to do.
    fn keep_place(&mut self) -> Result<bool, String> {
        // Without the lock it must not listen anew: there may be another broker.
        let is_new = self.bound.keep().map_err(|error| self.lock_lost(&error))?;
        if is_new {
            let lock = self.bound.lock_path().display();
            log::warn!("the lock file {lock} was removed; it is made anew");
        }
        if self.bound.is_there() {
            return Ok(self.watch_place());
        }
        // Clients that had connected already are not lost: as many as the queue can hold.
        for _ in 0..QUEUED_CONNECTIONS / CONNECTIONS_AT_ONCE {
            self.accept();
        }
        let path = self.bound.path().display().to_string();
        self.rebind().map_err(|error| {
            format!("the socket {path} was removed and can't be made anew, so that no client can connect: {error}")
        })?;
        log::warn!("the socket {path} was removed; it is made anew");
        Ok(self.watch_place())
    }

    /// Watches the lock file and the socket. To watch what is watched already changes nothing, so that
    /// this can be repeated until it works. Returns whether it does.
    fn watch_place(&self) -> bool {
        let paths = [self.bound.lock_path(), self.bound.path()];
        self.watch.as_ref().is_none_or(|watch| paths.iter().all(|path| watch.add(path)))
    }

    fn lock_lost(&self, error: &BindError) -> String {
        let (path, clients) = (self.bound.lock_path().display(), self.tokens.len());
        let BindError::InUse { process, .. } = error else {
            return format!(
                "{error}: this broker has lost its lock and can't take it again, so that a second broker may start"
            );
        };
        let other = process.map_or("another process".into(), |id| format!("process {id}"));
        format!(
            "there are two brokers, stop one: {other} has taken the place of this one, since the lock file {path} was removed, or closed by other code in this process; {clients} clients stay with this broker, and new ones reach the other"
        )
    }

    fn rebind(&mut self) -> Result<(), BindError> {
        // A forked child may have the old listener, too. If that stays, it is watched again.
        let _ = epoll::delete(&self.epoll, &self.bound.listener);
        self.accept_again = Some(Instant::now() + RETRY_INTERVAL);
        self.bound.rebind(&self.access)?;
        self.bound.listener.set_nonblocking().map_err(|source| {
            let step = "make the listener non-blocking";
            BindError::System { step, source }
        })?;
        // Connections are taken, and the new listener is watched, at the end of this look.
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

    /// Does what the core has asked for.
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
                    let token = self.tokens.get(&client).copied();
                    // Only if nothing is left; else it comes up again.
                    if token.is_none_or(|token| self.take_packets(token)) {
                        self.core.drained(client);
                    } else if token.is_some_and(|token| self.stuck.contains(&token)) {
                        // It comes up again when there is room.
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
        let connection = self.tokens.remove(&client).and_then(|t| self.take_connection(t));
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

    /// Takes a connection out that has ended.
    fn take_connection(&mut self, token: u64) -> Option<ClientConnection> {
        let mut connection = self.connections.remove(&token)?;
        self.joining.remove(&token);
        // A close is not enough while a forked child of this process has the descriptors, too.
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

    fn connection(&mut self, client: ClientId) -> Option<&mut ClientConnection> {
        self.connections.get_mut(self.tokens.get(&client)?)
    }

    /// Sends out the descriptors of new pages.
    fn announce_pages(&mut self) {
        let has_unsent: Vec<ClientId> = self.core.has_unsent().collect();
        for client in has_unsent {
            if let Some(&token) = self.tokens.get(&client) {
                self.announce(token);
            }
        }
    }

    /// Tells a client what it has not been told yet; what has no room in its socket, or finds no
    /// memory, later.
    fn announce(&mut self, token: u64) {
        let share = (self.max_in_flight / self.connections.len().max(1)).max(1);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let told = connection.announce(&mut self.core, share);
        connection.note(told, &self.epoll, token);
        self.send_pending |= told == Progress::NoMemory;
        if told == Progress::Unread && self.unread_again.is_none() {
            self.unread_again = Some((Instant::now() + UNREAD_AGAIN, UNREAD_AGAIN));
        }
    }

    /// Tells clients more that had as many descriptors in their sockets as they may. The time until
    /// the next try doubles unless one of them has read, so that a stopped client costs next to nothing (P11).
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

    /// Tells every client what it has not been told yet.
    fn announce_to_all(&mut self) {
        let tokens: Vec<u64> = self.connections.keys().copied().collect();
        for token in tokens {
            self.announce(token);
        }
    }

    /// Tells who asked how many clients receive, if that has changed.
    fn announce_receiver_count(&mut self) {
        let receivers = self.core.receivers();
        let missing = |(token, c): (&u64, &ClientConnection)| c.misses(receivers).then_some(*token);
        let missing: Vec<u64> = self.connections.iter().filter_map(missing).collect();
        for token in missing {
            self.announce(token);
        }
    }

    /// Takes in what has happened on the connections, after waiting for it so long.
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
                token if token & PROCESS != 0 => self.has_died(token & !PROCESS),
                token => {
                    let flags = event.flags;
                    if flags.contains(EventFlags::OUT) {
                        self.announce(token);
                    }
                    if flags.contains(EventFlags::HUP) {
                        self.client_of_stuck_is_gone(token);
                    }
                    self.take_event(token);
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

    /// Takes no connection for a while. Those that wait stay in the queue, so that the listener stays
    /// readable: it is not watched meanwhile.
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
                    "{held} descriptors that clients have sent, against the protocol, can't be closed yet"
                ));
            }
            let accepted = reserve_fd(&self.epoll).and_then(|_spare| self.bound.listener.accept());
            let socket = match accepted {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accept_failed = false;
                    return;
                }
                // Out of descriptors, most likely.
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
            let token = self.next_token;
            self.next_token += 1;
            let data = EventData::new_u64(token);
            effect("watch a connection");
            if let Err(error) = epoll::add(&self.epoll, &socket, data, EventFlags::IN) {
                log::warn!("a connection could not be watched: {error}");
                continue;
            }
            self.connections.insert(token, ClientConnection::new(socket, peer));
            self.joining.insert(token);
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

    /// Takes what a connection holds. Returns whether nothing is left.
    fn take_packets(&mut self, token: u64) -> bool {
        let mut taken = (0..PACKETS_AT_ONCE).map(|_| self.take_packet(token));
        taken.find(|taken| matches!(taken, Outcome::Nothing | Outcome::Stuck))
            == Some(Outcome::Nothing)
    }

    /// Takes what a connection has become readable for. Behind a ring there is hardly ever anything
    /// else; if there is, it comes up again.
    fn take_event(&mut self, token: u64) {
        (0..PACKETS_AT_ONCE).any(|_| self.take_packet(token) != Outcome::Packet);
    }

    fn take_packet(&mut self, token: u64) -> Outcome {
        let held = closer::held();
        let open = self.connections.len() * DESCRIPTORS_PER_CLIENT + held;
        let is_roomy = held < closer::QUEUE && open < self.roomy;
        let Some(connection) = self.connections.get_mut(&token) else { return Outcome::Nothing };
        if connection.stuck.is_some() {
            return Outcome::Stuck;
        }
        let mut taken = Outcome::Packet;
        let received = match connection.phase {
            Phase::Fresh => {
                let (received, sender) = connection.socket.receive_first(!is_roomy);
                if sender.is_some_and(|sender| !self.meet(token, sender)) {
                    return Outcome::Nothing;
                }
                Some(received)
            }
            _ if is_roomy => Some(connection.socket.receive()),
            _ => connection.socket.receive_sparingly(),
        };
        let Some(received) = received else {
            self.put_aside(token, Stuck::InSocket, "it has no free descriptor (`ulimit -n`)");
            return Outcome::Stuck;
        };
        let result = match received {
            Received::Nothing => return Outcome::Nothing,
            Received::HungUp => {
                self.hung_up(token);
                return Outcome::Nothing;
            }
            Received::Lost(_) => Err(WireError::Cut.into()),
            Received::Garbage(error) => Err(error.into()),
            Received::Packet(packet, mut descriptor) => {
                if let Packet::Ring = packet {
                    taken = Outcome::Ring;
                }
                match self.on_packet(token, packet, &mut descriptor) {
                    Err(fault) if fault.is_lack() => {
                        self.put_aside(token, Stuck::Packet(packet, descriptor), fault);
                        return Outcome::Stuck;
                    }
                    result => result,
                }
            }
        };
        match result {
            Ok(()) => taken,
            Err(fault) => {
                self.fail(token, fault);
                Outcome::Nothing
            }
        }
    }

    /// Puts aside what this process has no room for, which is not the client's fault.
    fn put_aside(&mut self, token: u64, stuck: Stuck, why: impl Display) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if self.stuck.is_empty() {
            let process = connection.process;
            log::error!(
                "the broker has no room for what process {process} has sent: {why}; what that process sends waits until there is room"
            );
        }
        connection.put_aside(stuck, &self.epoll, token);
        self.stuck.insert(token);
        self.stuck_again.get_or_insert_with(|| Instant::now() + RETRY_INTERVAL);
    }

    /// Tries again to take what there was no room for.
    fn retry_stuck(&mut self, now: Instant) {
        if self.stuck_again.take_if(|at| *at <= now).is_none() {
            return;
        }
        for token in self.stuck.clone() {
            let connection = self.connections.get_mut(&token);
            let (result, stuck) = match connection.and_then(|connection| connection.stuck.take()) {
                None => (None, None),
                Some(Stuck::InSocket) if reserve_fd(&self.epoll).is_ok() => (Some(Ok(())), None),
                Some(Stuck::InSocket) => (None, Some(Stuck::InSocket)),
                Some(Stuck::Packet(packet, mut descriptor)) => {
                    match self.on_packet(token, packet, &mut descriptor) {
                        Err(fault) if fault.is_lack() => {
                            (None, Some(Stuck::Packet(packet, descriptor)))
                        }
                        result => (Some(result), None),
                    }
                }
            };
            match self.connections.get_mut(&token) {
                Some(connection) if stuck.is_some() => connection.stuck = stuck,
                _ => _ = self.stuck.remove(&token),
            }
            if let Some(result) = result {
                self.go_on(token, result);
            }
        }
        if !self.stuck.is_empty() {
            self.stuck_again = Some(Instant::now() + RETRY_INTERVAL);
        }
    }

    /// Takes packets of a connection again in which something was stuck.
    fn go_on(&mut self, token: u64, result: Result<(), Fault>) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.go_on(&self.epoll, token);
            if let Some(client) = connection.client() {
                self.core.not_drained(client);
            }
        }
        match result {
            Ok(()) => self.announce(token),
            Err(fault) => self.fail(token, fault),
        }
        if self.connections.get(&token).is_some_and(|connection| connection.has_died) {
            self.has_died(token);
        }
    }

    /// A connection in which something is stuck has ended. It stays until that is taken, but nothing
    /// waits for its client any more.
    fn client_of_stuck_is_gone(&mut self, token: u64) {
        let connection = self.connections.get(&token).filter(|c| c.stuck.is_some());
        if let Some(client) = connection.and_then(ClientConnection::client) {
            self.core.is_gone(client);
        }
    }

    /// The first packet of a connection is here: its client is the process that has sent it. Returns
    /// whether the client may stay.
    fn meet(&mut self, token: u64, sender: Credentials) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else { return false };
        connection.process = sender.process;
        // The process that connected was admitted before.
        if !self.access.admits(sender) {
            self.joining.remove(&token);
            if let Some(connection) = self.take_connection(token) {
                self.refuse(connection.socket, sender, Refusal::User);
            }
            return false;
        }
        let pidfd = match connection.socket.peer() {
            Peer::Gone => {
                self.hung_up(token);
                return false;
            }
            Peer::Known(pidfd) => pidfd,
            // The end of the connection alone counts.
            Peer::Unknown => return true,
        };
        effect("watch a process");
        let data = EventData::new_u64(token | PROCESS);
        let is_watched = reserve_fd(&self.epoll)
            .and_then(|_| Ok(epoll::add(&self.epoll, pidfd, data, EventFlags::IN)?));
        if is_watched.is_err() {
            connection.socket.take_peer();
        }
        true
    }

    /// A client's process has ended, while a child of it may hold the connection open. What it had sent
    /// is all in the socket.
    fn has_died(&mut self, token: u64) {
        if let Some(connection) = self.connections.get_mut(&token).filter(|c| c.stuck.is_some()) {
            // Until there is room for what is stuck, its pidfd would be readable all the time.
            connection.has_died = true;
            if let Peer::Known(pidfd) = connection.socket.take_peer() {
                let _ = epoll::delete(&self.epoll, pidfd);
            }
            self.client_of_stuck_is_gone(token);
            return;
        }
        // If something is left, this comes up again.
        if self.take_packets(token) {
            self.hung_up(token);
        }
    }

    fn on_packet(
        &mut self,
        token: u64,
        packet: Packet,
        descriptor: &mut Option<ReceivedFd>,
    ) -> Result<(), Fault> {
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        let roles = Roles::SEND.and(Roles::RECEIVE).and(Roles::TRACK).and(Roles::IN_PLACE);
        match connection.phase {
            Phase::Fresh => {
                let in_place =
                    matches!(packet, Packet::Hello { roles, .. } if roles.has(Roles::IN_PLACE));
                let is_greeting = matches!(packet, Packet::Hello { .. });
                let (user, now) = (connection.user, Instant::now());
                let greeted = match () {
                    () if in_place && !self.retired.admits(connection.process) => {
                        Err(Refusal::InPlace)
                    }
                    () if is_greeting && !self.core.has_ids() => Err(Refusal::NoIds),
                    () if is_greeting && !self.allowance.admits(user, now) => {
                        Err(Refusal::TooOften)
                    }
                    () => connection.greet(packet, roles, self.id, &mut self.core)?,
                };
                match greeted {
                    Ok(client) => {
                        self.tokens.insert(client, token);
                        self.announce(token);
                    }
                    Err(refusal) => {
                        self.joining.remove(&token);
                        if let Some(connection) = self.take_connection(token) {
                            let ClientConnection { user, process, .. } = connection;
                            let peer = Credentials { user, process };
                            self.refuse(connection.socket, peer, refusal);
                        }
                    }
                }
            }
            Phase::Greeted(client) => {
                connection.join(client, packet, descriptor, &mut self.core)?;
                self.allowance.joined(connection.user, Instant::now());
                self.joining.remove(&token);
                self.report.clients += 1;
                log::info!("client {client} has joined");
                self.announce(token);
            }
            Phase::Joined(client) => {
                let may_share = matches!(packet, Packet::Page { .. })
                    && self.core.shareable_pages() < self.max_shared_pages
                    && reserve_fd(&self.epoll).is_ok();
                connection.on_packet(client, packet, descriptor, &mut self.core, may_share)?;
                if let Packet::Again { .. } = packet {
                    self.announce(token);
                }
            }
        }
        Ok(())
    }

    /// A connection has ended; what its client had committed is still taken. Its descriptor and,
    /// after that, its mappings are let go (P7).
    fn hung_up(&mut self, token: u64) {
        let Some(connection) = self.take_connection(token) else { return };
        self.joining.remove(&token);
        if let Some(client) = connection.client() {
            self.tokens.remove(&client);
            self.core.hung_up(client);
        }
    }

    fn fail(&mut self, token: u64, fault: Fault) {
        let Some(client) = self.connections.get(&token).map(ClientConnection::client) else {
            return;
        };
        match client {
            // Comes back as an action, and the connection is removed then.
            Some(client) => self.core.disconnect(client, Some(fault)),
            None => {
                self.report.faults += 1;
                let process = self.connections.get(&token).map_or(0, |c| c.process);
                log::warn!("process {process} is disconnected before it has joined: {fault}");
                self.take_connection(token);
            }
        }
    }

    /// Takes what is there, then tells everybody that this is the end (P15).
    fn shut_down(&mut self) {
        let deadline = Instant::now() + LAST_CALL;
        // It stays readable from now on; nobody could wait for anything else beside it.
        effect("watch the eventfd no longer");
        let _ = epoll::delete(&self.epoll, &self.stop.event);
        while Instant::now() < deadline && self.owner.is_here() {
            if self.cycle() {
                continue;
            }
            if !self.core.is_blocked() {
                break;
            }
            // What has no room may find some yet.
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

    /// Tells everybody that this is the end, those who are behind as soon as they can hear it.
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

/// A descriptor to hold while another one is taken. Whoever takes one so leaves one: without it no
/// page of a client's could be received, and the client would lose its connection for what the
/// broker lacks.
fn reserve_fd(any: &OwnedFd) -> io::Result<OwnedFd> {
    effect("take a spare descriptor");
    Ok(rustix::io::fcntl_dupfd_cloexec(any, 0)?)
}

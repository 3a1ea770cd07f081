//! The listener: its socket and lock file, the connections that it accepts, and how long these may
//! take to join.

use super::builder::system;
use super::{Broker, ClientConnection, FIRST_NEWCOMER, Key, LISTENER, requests, reserve_fd};
use crate::core::failpoint::effect;
use crate::core::handshake::Phase;
use crate::core::wire::{Packet, Refusal};
use crate::error::BindError;
use crate::socket::{Credentials, Socket};
use crate::sys::closer;
use crate::wait::RETRY_INTERVAL;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::time::{Duration, Instant};

/// The length of a listener's queue, in connections.
const QUEUED_CONNECTIONS: usize = 1024;
/// The most connections accepted at once, so that a flood of connections does not monopolise the
/// broker.
const CONNECTIONS_AT_ONCE: usize = 64;
/// Connections beyond those of clients, for [requests](super::requests).
const PLACES_FOR_REQUESTS: usize = 2;
/// The interval between two attempts to restore a removed socket or lock file.
const REBIND_AGAIN: Duration = Duration::from_secs(1);
/// A client must join within this time after it has connected.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl Broker {
    pub(super) fn accept(&mut self) {
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
                () if !self.may_ask(peer) => Some(Refusal::User),
                () if self.connections.len() < self.max_clients => None,
                () if self.make_room_for_newcomer() => None,
                () if self.has_place_for_request(peer) => None,
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

    /// Returns whether a process may connect, as a client or with a request.
    pub(super) fn may_ask(&self, peer: Credentials) -> bool {
        self.access.admits(peer) || requests::are_admitted(peer)
    }

    /// Returns whether a full bus accepts a connection, which may be a request to end it.
    fn has_place_for_request(&self, peer: Credentials) -> bool {
        let most = self.max_clients + PLACES_FOR_REQUESTS;
        requests::are_admitted(peer) && self.connections.len() < most
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

    /// Accepts connections again after a failure, and watches the listener if that succeeds.
    pub(super) fn retry_accept(&mut self) {
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

    pub(super) fn turn_away(&mut self, key: Key, peer: Credentials, refusal: Refusal) {
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

    /// Returns the connections that have not joined the bus, the oldest one first.
    pub(super) fn newcomers(&self) -> impl DoubleEndedIterator<Item = (&Key, &ClientConnection)> {
        self.connections.range(FIRST_NEWCOMER..)
    }

    /// Disconnects clients that have connected but do not join in time.
    pub(super) fn expire(&mut self, now: Instant) {
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
    pub(super) fn check_place(&mut self) {
        if let Some(watch) = &self.watch {
            watch.drain();
        }
        let again = Instant::now() + REBIND_AGAIN;
        self.rebind_again = None;
        let error = match self.keep_place() {
            Ok(true) => {
                if std::mem::take(&mut self.place_lost) {
                    self.roster.write_all(self.bound.lock());
                }
                return;
            }
            // The restored file may have been removed before it was watched.
            Ok(false) => return self.rebind_again = Some(again),
            Err(error) => error,
        };
        self.rebind_again = Some(again);
        // Another broker may have the lock file now.
        self.roster.suspend();
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
            self.roster.write_all(self.bound.lock());
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
        self.bound.listener.set_nonblocking().map_err(system("make the listener non-blocking"))?;
        // The end of this poll accepts connections and watches the new listener.
        self.accept_again = Some(Instant::now());
        Ok(())
    }
}

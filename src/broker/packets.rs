//! The events and packets of the connections, from the handshake to the end. A packet for which
//! this process has no room is stuck: it waits until there is room.

use super::{Broker, ClientConnection, Key, reserve_fd};
use super::{DESCRIPTORS_PER_CLIENT, LISTENER, PROCESS, STOP, WATCH};
use crate::broker::client::Stuck;
use crate::core::failpoint::{effect, observation};
use crate::core::fault::Fault;
use crate::core::handshake::{Phase, Rejected};
use crate::core::layout::VERSION;
use crate::core::message::ClientId;
use crate::core::wire::{ByeReason, Packet, Refusal, Roles, WireError};
use crate::handshake::attach;
use crate::socket::{Credentials, Received};
use crate::sys::closer;
use crate::sys::memfd::ReceivedFd;
use crate::sys::peer::Peer;
use crate::sys::socket::timespec;
use crate::wait::RETRY_INTERVAL;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use std::fmt::Display;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The most packets taken from one connection at once, so that no client monopolises the broker.
const PACKETS_AT_ONCE: usize = 1024;

/// The result of taking a packet from a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The socket is empty.
    Nothing,
    Ring,
    Packet,
    /// The socket holds something for which this process has no room.
    Stuck,
}

impl Broker {
    /// Waits for at most `timeout` and handles what has happened on the sockets.
    pub(super) fn poll_sockets(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 64];
        let timeout = timeout.map(timespec);
        observation("wait for events", 0);
        let (events, _) = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(()),
            events => events?,
        };
        if events.is_empty() && self.succession.is_waiting() {
            self.succession.has_polled_nothing();
        }
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

    /// Takes the packets that a connection holds. Returns whether it is empty.
    pub(super) fn take_packets(&mut self, mut key: Key) -> bool {
        let mut outcomes = (0..PACKETS_AT_ONCE).map(|_| self.take_packet(&mut key));
        outcomes.find(|outcome| matches!(outcome, Outcome::Nothing | Outcome::Stuck))
            == Some(Outcome::Nothing)
    }

    /// Takes the packets that made a connection readable. Stops after a ring, because more rarely
    /// follows. If more follows, the connection stays readable.
    pub(super) fn take_event(&mut self, mut key: Key) {
        (0..PACKETS_AT_ONCE).any(|_| self.take_packet(&mut key) != Outcome::Packet);
    }

    /// Takes a packet of a connection, whose key changes when its client joins.
    pub(super) fn take_packet(&mut self, key: &mut Key) -> Outcome {
        let held = closer::held();
        let connections = self.connections.len() + self.candidates.len();
        let open = connections * DESCRIPTORS_PER_CLIENT + held;
        let is_roomy = held < closer::QUEUE && open < self.roomy;
        if let Some(candidate) = self.candidates.get(key) {
            if !matches!(candidate.socket.receive(), Received::Nothing) {
                // It has ended, or sends what it must not.
                self.hung_up(*key);
            }
            return Outcome::Nothing;
        }
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

    /// Handles the credentials of a connection's first packet. The process that sent it is the
    /// client. Returns whether the client may stay.
    fn meet(&mut self, key: Key, sender: Credentials) -> bool {
        // The process that connected was admitted before.
        if !self.may_ask(sender) {
            self.turn_away(key, sender, Refusal::User);
            return false;
        }
        let Some(connection) = self.connections.get_mut(&key) else { return false };
        connection.process = sender.process;
        connection.sender = sender.user;
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

    fn on_packet(
        &mut self,
        key: &mut Key,
        packet: Packet,
        descriptor: &mut Option<ReceivedFd>,
    ) -> Result<(), Fault> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let roles = Roles::ALL;
        if let (Phase::Fresh, Packet::Ask { request, .. }) = (connection.accepting.phase, packet) {
            self.on_request(*key, request);
            return Ok(());
        }
        match connection.accepting.phase {
            Phase::Fresh => {
                // Another version is refused as such, whatever else would refuse the client.
                let (is_greeting, in_place) = match packet {
                    Packet::Hello { version: VERSION, roles, .. }
                    | Packet::Return { version: VERSION, roles, .. } => {
                        (true, roles.has(Roles::IN_PLACE))
                    }
                    _ => (false, false),
                };
                let (user, now) = (connection.user, Instant::now());
                let (is_known, last) = match packet {
                    Packet::Return { client, epoch, token, .. } => {
                        let is_known = self.roster.knows(ClientId(client), user, epoch, token);
                        (is_known, Some((ClientId(client), epoch)))
                    }
                    _ => (true, None),
                };
                // Each client that is waited for finds a place.
                let kept = self.succession.awaited();
                let is_awaited = last.is_some_and(|(client, _)| self.succession.awaits(client));
                let is_admitted = connection.peers().iter().all(|it| self.access.admits(*it));
                let greeted = match () {
                    () if is_greeting && !is_admitted => Err(Refusal::User.into()),
                    () if is_greeting && !is_known => Err(Refusal::Unknown.into()),
                    () if is_greeting && !is_awaited && self.core.free_places() <= kept => {
                        Err(Refusal::Crowded.into())
                    }
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
                        if let Some(client) = connection.client() {
                            self.roster.give_id(self.bound.lock(), client);
                            let outlives = connection.accepting.roles.has(Roles::OUTLIVE);
                            let last = last.map(|(_, epoch)| epoch);
                            let session = || self.roster.session(client, user, last);
                            connection.session = outlives.then(session);
                            connection.since = connection.session.map_or(0, |it| it.since);
                            if outlives {
                                // Its id is used up now.
                                self.allowance.joined(user, now);
                            }
                        }
                        connection.step = Some(welcome);
                        self.announce(*key);
                    }
                    Err(Rejected::Fault(fault)) => return Err(fault),
                    Err(Rejected::Refused(Refusal::Crowded)) if self.core.free_places() > 0 => {
                        // It has connected twice, and the first connection has its place.
                        let process = connection.process;
                        log::info!("process {process} connects again before it has left");
                        connection.socket.send(&Packet::Refused(Refusal::Crowded), None);
                        self.hung_up(*key);
                    }
                    Err(Rejected::Refused(refusal)) => {
                        let [_, peer] = connection.peers();
                        self.turn_away(*key, peer, refusal);
                    }
                }
            }
            Phase::Greeted(client) if matches!(packet, Packet::Bye(_)) => {
                // It does not join, so this broker does not wait for it.
                self.roster.strike(self.bound.lock(), client);
                self.succession.has_come(client);
                self.hung_up(*key);
            }
            Phase::Greeted(client) => {
                let attach = attach(packet, descriptor);
                let start = connection.accepting.join(client, packet, attach, &mut self.core)?;
                connection.step = Some(start);
                if connection.accepting.roles.has(Roles::OUTLIVE) {
                    // Before the client is told to begin.
                    let (user, process) = (connection.user, connection.process);
                    let roles = connection.accepting.roles.0;
                    let lock = self.bound.lock();
                    self.roster.enter(lock, client, connection.since, user, process, roles);
                } else {
                    self.allowance.joined(connection.user, Instant::now());
                }
                if !connection.accepting.roles.has(Roles::SEND) {
                    // A client that does not send has no pages.
                    connection.socket.refuse_descriptors();
                }
                self.file_under_id(key, client);
                self.report.clients += 1;
                log::info!("client {client} has joined");
                self.announce(*key);
            }
            Phase::Joined(client) if packet == Packet::Rejoin => {
                return match self.rejoin(*key, client) {
                    true => Ok(()),
                    false => Err(packet.unexpected("from a client that was not skipped").into()),
                };
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

    /// Changes the key of a connection to the id of its client, which joins.
    fn file_under_id(&mut self, key: &mut Key, client: ClientId) {
        let Some(mut connection) = self.connections.remove(key) else { return };
        *key = client.0.into();
        connection.watch(false, &self.epoll, *key);
        if let Some(pidfd) = connection.socket.peer().pidfd() {
            effect("watch a process of another key");
            let data = EventData::new_u64(*key | PROCESS);
            // The kernel needs no memory for this call.
            let _ = epoll::modify(&self.epoll, pidfd, data, EventFlags::IN);
        }
        self.connections.insert(*key, connection);
    }

    /// Handles the death of a client's process while its child may hold the connection open. All
    /// packets that it sent are in the socket.
    pub(super) fn has_died(&mut self, key: Key) {
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

    /// Handles the end of a connection. The client's committed messages are still forwarded. Its
    /// descriptor is closed, and its mappings are released afterwards (P7).
    pub(super) fn hung_up(&mut self, key: Key) {
        let connection = self.take_connection(key);
        if let Some(client) = connection.and_then(|connection| connection.client()) {
            if !self.succession.awaits(client) {
                self.roster.strike(self.bound.lock(), client);
            }
            self.core.hung_up(client);
        }
    }

    pub(super) fn fail(&mut self, key: Key, fault: Fault) {
        let Some(connection) = self.connections.get(&key) else { return };
        if let Phase::Joined(client) = connection.accepting.phase {
            // The core returns an action that removes the connection.
            return self.core.disconnect(client, Some(fault));
        }
        self.report.faults += 1;
        match connection.client() {
            Some(client) => {
                log::warn!("client {client} is disconnected: {fault}");
                connection.socket.send(&Packet::Bye(ByeReason::Fault), None);
            }
            None => {
                let process = connection.process;
                log::warn!("process {process} is disconnected before it has joined: {fault}");
            }
        }
        self.hung_up(key);
    }

    /// Removes a connection that has ended.
    pub(super) fn take_connection(&mut self, key: Key) -> Option<ClientConnection> {
        let connection = self.connections.remove(&key).or_else(|| self.candidates.remove(&key));
        let mut connection = connection?;
        // Closing is not enough while a forked child of this process holds the descriptors, too.
        let process = connection.socket.peer().pidfd();
        for fd in process.into_iter().chain([connection.socket.as_fd()]) {
            effect("watch a connection no longer");
            let _ = epoll::delete(&self.epoll, fd);
        }
        if connection.keeps_pages {
            // It was skipped, and is recorded. After a `Bye` it reads no further.
            if !connection.reads_in_place()
                && let Some(client) = connection.client()
            {
                self.retired.remove(client);
            }
        } else if connection.reads_in_place() {
            let pidfd = match connection.socket.take_peer() {
                Peer::Known(pidfd) => Some(pidfd),
                Peer::Unknown => connection.socket.peer_pidfd(),
                Peer::Gone => None,
            };
            self.retired.add(connection.process, pidfd);
        }
        Some(connection)
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
    pub(super) fn retry_stuck(&mut self, now: Instant) {
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
            match result {
                Ok(result) => self.go_on(key, result),
                Err(stuck) => {
                    self.connections.entry(key).and_modify(|c| c.stuck = Some(stuck));
                    self.stuck_again = Some(Instant::now() + RETRY_INTERVAL);
                }
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
    pub(super) fn client_of_stuck_is_gone(&mut self, key: Key) {
        let connection = self.connections.get(&key).filter(|c| c.stuck.is_some());
        if let Some(client) = connection.and_then(ClientConnection::client) {
            self.core.end_membership(client);
        }
    }
}

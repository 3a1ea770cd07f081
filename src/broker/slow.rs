//! Receivers that are too slow: the bus waits for them, skips them or disconnects them.
//!
//! The choice is made in one place, when the broadcast chain is full ([`Broker::act_on_slow`]).

use super::{Broker, ClientConnection, Key};
use crate::core::broker::policy::SlowReceiver;
use crate::core::broker::{Cycle, Laggards, Rejoined, Slow};
use crate::core::message::ClientId;
use crate::core::wire::{ByeReason, Packet};
use crate::sys::peer::Peer;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How a bus treats receivers that are too slow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Policy {
    /// What happens to a receiver that does not ask for something else.
    pub when_slow: SlowReceiver,
    /// How long the bus waits for it first.
    pub after: Duration,
}

/// The shortest time after which a receiver is too slow that does not read its socket, or that holds
/// up one client by messages by reference. Both may be so for a moment without any delay of its own.
const LASTING: Duration = Duration::from_millis(100);

/// The slowest receiver's position while the bus waits for it.
#[derive(Clone, Copy)]
pub(super) struct Stalled {
    position: Option<u64>,
    since: Instant,
    /// How long the bus waits.
    time: Duration,
}

impl Broker {
    /// Skips or disconnects the receivers that keep messages from being forwarded, unless the bus
    /// must wait for one of them anyway. Returns whether it did.
    pub(super) fn act_on_slow(&mut self, cycle: &Cycle) -> bool {
        let laggards = self.core.laggards(cycle, self.stalled.is_some());
        let Some(Laggards { reason, mut clients }) = laggards.filter(|_| !self.stop.is_asked())
        else {
            self.stalled = None;
            return false;
        };
        if reason == Slow::Unread {
            // Others lack a page because the kernel had no memory for a packet.
            clients.retain(|client| {
                self.connection(*client).is_some_and(|it| it.full_since.is_some())
            });
        }
        let policies: Vec<_> = clients.iter().map(|client| self.policy_for(*client)).collect();
        if clients.is_empty() || policies.contains(&SlowReceiver::Block) {
            self.stalled = None;
            return false;
        }
        let least = if reason == Slow::Full { Duration::ZERO } else { LASTING };
        if !self.has_lasted(self.policy.after.max(least)) {
            return false;
        }
        for (client, policy) in clients.into_iter().zip(policies) {
            if policy == SlowReceiver::Evict || !self.skip(client) {
                self.evict(client);
            }
        }
        true
    }

    /// Returns what happens to a client that is too slow. One that is not sent its first `Start` yet
    /// has a time limit of its own.
    fn policy_for(&self, client: ClientId) -> SlowReceiver {
        let connection = self.connection(client).filter(|connection| connection.has_started);
        connection
            .map_or(SlowReceiver::Block, |it| self.policy.when_slow.for_roles(it.accepting.roles))
    }

    /// Returns whether the slowest receiver has not moved for `time`.
    fn has_lasted(&mut self, time: Duration) -> bool {
        if time.is_zero() {
            return true;
        }
        let (now, position) = (Instant::now(), self.core.slowest_position());
        let stalled = self.stalled.filter(|stalled| stalled.position == position);
        let stalled = stalled.unwrap_or(Stalled { position, since: now, time });
        let is_over = now.saturating_duration_since(stalled.since) >= time;
        self.stalled = (!is_over).then_some(Stalled { time, ..stalled });
        is_over
    }

    /// Returns when the bus stops waiting for the slowest receiver.
    pub(super) fn slow_at(&self) -> Option<Instant> {
        self.stalled.and_then(|stalled| stalled.since.checked_add(stalled.time))
    }

    /// Skips a receiver. Returns whether that is possible.
    fn skip(&mut self, client: ClientId) -> bool {
        let key = Key::from(client.0);
        let Some(connection) = self.connections.get_mut(&key) else { return false };
        let process = connection.process;
        let pidfd = match connection.reads_in_place() {
            false => None,
            // It may go on reading the pages of this time until it asks to receive again.
            true if !self.retired.has_room() => return false,
            true => match pidfd_of(connection) {
                None => return false,
                pidfd => pidfd,
            },
        };
        if !self.core.skip(client) {
            return false;
        }
        if let Some(pidfd) = pidfd {
            self.retired.add_skipped(client, process, pidfd);
        }
        if connection.skip() {
            log::warn!(
                "client {client} (process {process}) is too slow and is skipped; it misses messages"
            );
        } else {
            log::debug!("client {client} (process {process}) is skipped again");
        }
        self.report.skipped += 1;
        self.announce(key);
        true
    }

    /// Disconnects a receiver that is too slow. Its own messages are still forwarded.
    fn evict(&mut self, client: ClientId) {
        let Some(process) = self.connection(client).map(|it| it.process) else { return };
        log::warn!("client {client} (process {process}) is too slow and is disconnected");
        // It does not come back to the next broker, which must not wait for it.
        self.roster.strike(self.bound.lock(), client);
        // Before the membership ends, so that the client finds the reason.
        if let Some(connection) = self.connection(client) {
            connection.socket.send(&Packet::Bye(ByeReason::Slow), None);
            // The hang-up that follows is handled like any other.
            connection.socket.shut_down();
        }
        self.core.end_membership(client);
        self.report.evicted += 1;
    }

    /// Admits a skipped receiver again, which has dropped the pages that it read. Returns whether
    /// it may ask for that.
    pub(super) fn rejoin(&mut self, key: Key, client: ClientId) -> bool {
        let start = match self.core.rejoin(client) {
            Rejoined::At(start) => start,
            Rejoined::Gone => return true,
            Rejoined::NotSkipped => return false,
        };
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.step = Some(Packet::Start(start));
            if std::mem::take(&mut connection.keeps_pages) {
                self.retired.remove(client);
            }
        }
        self.announce(key);
        true
    }
}

/// Returns another pidfd of a client's process, if there can be one.
fn pidfd_of(connection: &mut ClientConnection) -> Option<OwnedFd> {
    match connection.socket.peer() {
        Peer::Known(pidfd) => pidfd.try_clone().ok(),
        Peer::Unknown | Peer::Gone => None,
    }
}

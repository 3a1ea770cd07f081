//! Receivers that are too slow: the bus waits for them, skips them or disconnects them.
//!
//! The choice is made in one place, when the broadcast chain is full ([`Broker::act_on_slow`]).

use super::{Broker, ClientConnection, Key};
use crate::core::broker::Cycle;
use crate::core::broker::policy::SlowReceiver;
use crate::core::message::ClientId;
use crate::core::wire::{ByeReason, Packet};
use crate::sys::peer::Peer;
use std::io;
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

/// The slowest receiver's position while the bus waits for it.
#[derive(Clone, Copy)]
pub(super) struct Stalled {
    unread: u64,
    pub since: Instant,
}

impl Broker {
    /// Skips or disconnects the receivers that keep messages from being forwarded, unless the bus
    /// must wait for one of them anyway. Returns whether it did.
    pub(super) fn act_on_slow(&mut self, cycle: &Cycle) -> bool {
        let laggards: Vec<_> =
            self.core.laggards(cycle).into_iter().map(|it| (it, self.policy_for(it))).collect();
        let must_wait = laggards.iter().any(|(_, policy)| *policy == SlowReceiver::Block);
        if laggards.is_empty() || must_wait {
            self.stalled = None;
            return false;
        }
        if !self.policy.after.is_zero() && !self.is_stalled(Instant::now()) {
            return false;
        }
        for (client, policy) in laggards {
            if policy == SlowReceiver::Evict || !self.skip(client) {
                self.evict(client);
            }
        }
        true
    }

    fn policy_for(&self, client: ClientId) -> SlowReceiver {
        let connection = self.connection(client);
        connection
            .map_or(SlowReceiver::Block, |it| self.policy.when_slow.for_roles(it.accepting.roles))
    }

    /// Returns whether the slowest receiver has not moved for the time that the bus waits.
    fn is_stalled(&mut self, now: Instant) -> bool {
        let unread = self.core.holds_up().map_or(0, |(_, bytes)| bytes);
        let stalled = self.stalled.filter(|stalled| stalled.unread == unread);
        let stalled = stalled.unwrap_or(Stalled { unread, since: now });
        self.stalled = Some(stalled);
        let is_over = now.saturating_duration_since(stalled.since) >= self.policy.after;
        if is_over {
            self.stalled = None;
        }
        is_over
    }

    /// Returns when the bus stops waiting for the slowest receiver.
    pub(super) fn slow_at(&self) -> Option<Instant> {
        self.stalled.map(|stalled| stalled.since + self.policy.after)
    }

    /// Skips a receiver. Returns whether that is possible.
    fn skip(&mut self, client: ClientId) -> bool {
        let key = Key::from(client.0);
        let Some(connection) = self.connections.get_mut(&key) else { return false };
        if !connection.has_started {
            // It would have to join anew.
            return false;
        }
        let process = connection.process;
        let pidfd = match connection.reads_in_place() {
            false => None,
            // It may go on reading the pages of this time until it asks to receive again.
            true if !self.retired.has_room() => return false,
            true => match pidfd_of(connection) {
                Some(Ok(pidfd)) => Some(pidfd),
                Some(Err(_)) | None => return false,
            },
        };
        if !self.core.skip(client) {
            return false;
        }
        if pidfd.is_some() {
            self.retired.add(process, pidfd);
        }
        if connection.skipped(Packet::Skipped) {
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
        let Some(connection) = self.connection(client) else { return };
        let process = connection.process;
        log::warn!("client {client} (process {process}) is too slow and is disconnected");
        // Before the membership ends, so that the client finds the reason.
        connection.socket.send(&Packet::Bye(ByeReason::Slow), None);
        // The hang-up that follows is handled like any other.
        connection.socket.shut_down();
        self.core.end_membership(client);
        self.report.evicted += 1;
    }

    /// Admits a skipped receiver again, which has dropped the pages that it read. Returns whether
    /// it was skipped.
    pub(super) fn rejoin(&mut self, key: Key, client: ClientId) -> bool {
        let Some(start) = self.core.rejoin(client) else { return false };
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.step = Some(Packet::Start(start));
            if std::mem::take(&mut connection.keeps_pages) {
                self.retired.remove(connection.process);
            }
        }
        self.announce(key);
        true
    }
}

/// Returns another pidfd of a client's process, or `None` if its death can't be seen.
fn pidfd_of(connection: &mut ClientConnection) -> Option<io::Result<OwnedFd>> {
    match connection.socket.peer() {
        Peer::Known(pidfd) => Some(pidfd.try_clone()),
        Peer::Unknown | Peer::Gone => None,
    }
}

//! A broker that follows a dead one: it waits for that one's clients before it forwards anything.

use super::Broker;
use super::roster::{Expected, Known};
use crate::core::message::ClientId;
use std::time::{Duration, Instant};

/// How long the broker waits for clients of the last one, unless it was set.
pub(super) const GRACE_PERIOD: Duration = Duration::from_secs(5);

/// The interval between two looks whether clients that are waited for have died.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// The clients of the last broker that have not come yet.
#[derive(Debug)]
pub(super) struct Succession {
    expected: Vec<Expected>,
    grace_period: Duration,
    /// When the broker first waited. A program may bind long before it serves.
    began: Option<Instant>,
    look_at: Instant,
    /// Whether the sockets were empty since the grace period has ended.
    is_quiet: bool,
}

impl Succession {
    pub fn new(expected: Vec<Expected>, grace_period: Duration) -> Self {
        let look_at = Instant::now();
        Succession { expected, grace_period, began: None, look_at, is_quiet: false }
    }

    /// Returns whether clients have not come yet.
    pub fn is_waiting(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Returns whether receivers have not come yet. A client that only sends misses nothing.
    fn lacks_receivers(&self) -> bool {
        self.expected.iter().flat_map(|it| &it.clients).any(|client| client.receives)
    }

    /// Returns the number of clients for which the broker waits.
    pub fn awaited(&self) -> usize {
        self.expected.iter().map(|expected| expected.clients.len()).sum()
    }

    /// Returns whether the broker waits for this client.
    pub fn awaits(&self, client: ClientId) -> bool {
        self.expected.iter().flat_map(|it| &it.clients).any(|it| it.id == client)
    }

    /// Records that a client was sent its `Start`. It reads it, even if this broker dies.
    pub fn has_come(&mut self, client: ClientId) {
        for expected in &mut self.expected {
            expected.clients.retain(|awaited| awaited.id != client);
        }
        self.expected.retain(|expected| !expected.clients.is_empty());
    }

    /// Records that all sockets were empty.
    pub fn has_polled_nothing(&mut self) {
        self.is_quiet |= self.is_over(Instant::now());
    }

    /// Returns whether the grace period is over.
    fn is_over(&self, now: Instant) -> bool {
        self.began.is_some_and(|began| now.duration_since(began) >= self.grace_period)
    }

    /// Returns whether clients that have not come are late now. A broker that was stopped reads its
    /// sockets first.
    fn is_due(&self, now: Instant) -> bool {
        let lasted = self.began.map_or(Duration::ZERO, |began| now.duration_since(began));
        self.is_over(now) && (self.is_quiet || lasted / 2 >= self.grace_period)
    }
}

impl Broker {
    /// Returns whether nothing may be forwarded yet, because clients of the last broker could miss
    /// it.
    pub(super) fn awaits_clients(&mut self) -> bool {
        if !self.succession.is_waiting() {
            return false;
        }
        let now = Instant::now();
        self.succession.began.get_or_insert(now);
        if now >= self.succession.look_at {
            self.succession.look_at = now + LOOK;
            let has_died = |expected: &mut Expected| expected.process.has_died();
            for gone in self.succession.expected.extract_if(.., has_died) {
                gone.clients.iter().for_each(|it| self.roster.strike(self.bound.lock(), it.id));
            }
            if self.succession.is_due(now) {
                self.give_up_late_clients();
            }
        }
        self.succession.lacks_receivers()
    }

    /// Stops waiting. The roster says so before anything is published.
    pub(super) fn give_up_late_clients(&mut self) {
        let late = std::mem::take(&mut self.succession.expected);
        for Known { id: client, receives } in late.into_iter().flat_map(|it| it.clients) {
            let level = if receives { log::Level::Warn } else { log::Level::Info };
            log::log!(level, "client {client} of the last broker has not come back in time");
            self.roster.strike(self.bound.lock(), client);
            // A client that was told that brokers wait for it connects again.
            let is_it = |(_, c): &(&super::Key, &super::ClientConnection)| {
                c.client() == Some(client) && !c.has_started
            };
            if let Some(key) = self.connections.iter().find(is_it).map(|(key, _)| *key) {
                self.hung_up(key);
            }
        }
    }
}

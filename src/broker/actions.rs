//! One cycle of the core and what it requests: pages, rings, drains, removals and announcements.

use super::{Broker, ClientConnection, Key, reserve_fd};
use crate::broker::client::Progress;
use crate::core::broker::Action;
use crate::core::chain::Blocked;
use crate::core::fault::Fault;
use crate::core::memory::Region;
use crate::core::message::ClientId;
use crate::core::wire::{ByeReason, Packet, Roles};
use crate::socket::Sent;
use crate::sys::memfd::RegionError;
use std::time::{Duration, Instant};

/// The first and the longest interval between two attempts to send announcements to a client whose
/// socket holds its share of descriptors. The interval doubles.
const UNREAD_AGAIN: Duration = Duration::from_millis(1);
const UNREAD_AGAIN_AT_MOST: Duration = Duration::from_secs(1);

impl Broker {
    /// Runs one cycle of the core and applies its results. Returns whether there was work.
    pub(super) fn cycle(&mut self) -> bool {
        let was_short = std::mem::take(&mut self.send_pending);
        if self.awaits_clients() {
            let worked = self.apply_actions();
            if was_short {
                self.announce_where(|_| true);
            }
            return worked;
        }
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
        worked |= self.act_on_slow(&cycle);
        worked |= self.apply_actions();
        if was_short {
            self.announce_where(|_| true);
        } else {
            self.announce_pages();
        }
        worked
    }

    fn make_page(&self, len: usize) -> Result<Region, RegionError> {
        let failed = |source| RegionError { step: "create", len, source };
        let _spare = reserve_fd(&self.epoll).map_err(failed)?;
        Region::shared("llmp-page", len)
    }

    /// Applies the actions that the core has requested. Returns whether one was applied.
    pub(super) fn apply_actions(&mut self) -> bool {
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

    pub(super) fn remove(&mut self, client: ClientId, fault: Option<Fault>) {
        if !self.succession.awaits(client) {
            self.roster.strike(self.bound.lock(), client);
        }
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

    /// Sends the announcements of new pages.
    pub(super) fn announce_pages(&mut self) {
        for client in self.core.has_unsent().collect::<Vec<_>>() {
            self.announce(client.0.into());
        }
        let newest = self.core.newest_own_page();
        if std::mem::replace(&mut self.newest_own_page, newest) != newest {
            let lacking =
                |(key, c): (&Key, &ClientConnection)| c.lacks_own_pages(&self.core).then_some(*key);
            let lacking: Vec<_> = self.connections.iter().filter_map(lacking).collect();
            lacking.into_iter().for_each(|key| self.announce(key));
        }
    }

    /// Sends the receiver count to the clients that track it, if it has changed.
    pub(super) fn announce_receiver_count(&mut self) {
        let receivers = self.core.receivers();
        self.announce_where(|connection| connection.misses(receivers));
    }

    /// Sends their pending announcements to all clients of which `is` holds.
    fn announce_where(&mut self, is: impl Fn(&ClientConnection) -> bool) {
        for key in self.keys(is) {
            self.announce(key);
        }
    }

    /// Sends a client its pending announcements. Whatever does not fit its socket, or finds no
    /// memory, is sent later.
    pub(super) fn announce(&mut self, key: Key) {
        let share = (self.max_in_flight / self.connections.len().max(1)).max(1);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let had_started = connection.has_started;
        let progress = connection.announce(&mut self.core, share);
        connection.note(progress, &self.epoll, key);
        if connection.has_started
            && !had_started
            && connection.accepting.roles.has(Roles::OUTLIVE)
            && let Some(client) = connection.client()
        {
            self.roster.has_joined(self.bound.lock(), client);
        }
        if self.succession.is_waiting()
            && connection.has_started
            && let Some(client) = connection.client()
        {
            self.succession.has_come(client);
        }
        self.send_pending |= progress == Progress::Sent(Sent::NoMemory);
        if progress == Progress::Unread && self.unread_again.is_none() {
            self.unread_again = Some((Instant::now() + UNREAD_AGAIN, UNREAD_AGAIN));
        }
    }

    /// Sends pending announcements to clients whose sockets held their share of descriptors. The
    /// interval to the next attempt doubles unless one of them has read, so a stopped client costs
    /// next to nothing (P11).
    pub(super) fn retry_unread(&mut self) {
        let Some((_, waited)) = self.unread_again.take_if(|(at, _)| *at <= Instant::now()) else {
            return;
        };
        let began = Instant::now();
        self.announce_where(|_| true);
        let mut waiting = self.connections.values().filter_map(|c| c.full_since);
        if !waiting.any(|since| since >= began)
            && let Some((at, wait)) = &mut self.unread_again
        {
            *wait = (2 * waited).min(UNREAD_AGAIN_AT_MOST);
            *at = began + *wait;
        }
    }
}

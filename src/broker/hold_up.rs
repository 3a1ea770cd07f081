//! Clients that hold up the bus: they do not receive, or do not read their sockets.

use super::{Broker, ClientConnection};
use crate::core::fault::Fault;
use crate::core::wire::Packet;
use std::time::{Duration, Instant};

/// After this time the log names the receiver that holds up the bus.
pub(super) const HELD_UP: Duration = Duration::from_secs(1);
/// A client is disconnected if it leaves its socket unread for this time while others wait for it.
const UNREAD_LIMIT: Duration = Duration::from_secs(10);

/// A receiver holds up the bus.
#[derive(Clone, Copy)]
pub(super) struct HeldUp {
    pub since: Instant,
    /// The duration at which it is reported next. The log reports it once. The waiting clients get
    /// a report each time the duration has doubled.
    pub next: Duration,
}

impl Broker {
    /// Reports the client that has held up the bus for [`HELD_UP`], to the log and to the waiting
    /// clients.
    pub(super) fn report_hold_up(&mut self, now: Instant) {
        let Some((client, bytes)) = self.core.holds_up() else {
            if let Some(held_up) = self.held_up.take().filter(|held_up| held_up.next > HELD_UP) {
                let seconds = held_up.since.elapsed().as_secs_f64();
                log::warn!("the bus goes on after {seconds:.1} s");
            }
            return;
        };
        let held_up = *self.held_up.get_or_insert(HeldUp { since: now, next: HELD_UP });
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
    pub(super) fn unread_at(&self, connection: &ClientConnection) -> Option<Instant> {
        let held_up = self.held_up?.since;
        let full = connection.full_since?;
        self.core.announcement(connection.client()?)?;
        Some(held_up.max(full) + UNREAD_LIMIT)
    }

    /// Disconnects clients whose full sockets delay others while the bus is held up.
    pub(super) fn disconnect_unread(&mut self, now: Instant) {
        if self.held_up.is_none() {
            return;
        }
        for key in self.keys(|c| self.unread_at(c).is_some_and(|at| at <= now)) {
            self.fail(key, Fault::UnreadConnection { seconds: UNREAD_LIMIT.as_secs() });
        }
    }
}

//! The orderly end of a broker: it ends the bus (P15), or hands it over to the next broker.

use super::{Broker, ClientConnection, succession};
use crate::core::failpoint::effect;
use crate::core::wire::{ByeReason, Packet, Roles};
use crate::socket::Sent;
use crate::sys::fork::Owner;
use crate::wait::RETRY_INTERVAL;
use rustix::event::epoll;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// How long a stopped broker goes on forwarding messages that are already committed.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Polls of the sockets before the broker decides whether another process goes on with the bus.
const LAST_POLLS: usize = 8;

/// How long such a broker waits for clients of the last one, which may stand by.
const MEMBERS: Duration = Duration::from_millis(200);

/// What a broker was asked to do. Of several requests, the one that stands last here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum End {
    /// Hand the bus over if a process stands by, or if a client outlives this broker. End it
    /// otherwise.
    Leave = 1,
    /// Hand the bus over if a process stands by, and end it otherwise.
    Resign,
    /// Leave the bus to the next broker.
    HandOver,
    /// End the bus.
    Stop,
}

/// Ends a broker from another thread, for example from a signal handler's thread.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let bus = dir.path().join("bus");
/// let broker = llmp::Broker::bind(&bus)?;
/// let handle = broker.stop_handle();
/// let thread = std::thread::spawn(move || broker.run());
/// handle.resign();
/// // No process stands by.
/// assert!(!thread.join().unwrap()?.handed_over);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct StopHandle {
    pub(super) owner: Owner,
    pub(super) event: Arc<OwnedFd>,
    /// The greatest [`End`] that was asked for, or zero.
    pub(super) asked: Arc<AtomicU8>,
}

impl StopHandle {
    /// Ends the bus. The broker forwards the committed messages, sends its clients a goodbye, and
    /// returns from [`Broker::run`]. Processes that [stand by](Broker::wait_until_free) do not go on
    /// with the bus. Does nothing in a forked child of the broker's process.
    pub fn stop(&self) {
        self.ask(End::Stop);
    }

    /// Leaves the bus to the next broker, which another process binds. The broker forwards the
    /// committed messages and returns from [`Broker::run`]. Clients that
    /// [outlive](crate::ClientBuilder::outlive_broker) their broker wait for the next one, and miss
    /// nothing. The others get a goodbye.
    pub fn hand_over(&self) {
        self.ask(End::HandOver);
    }

    /// [Hands the bus over](StopHandle::hand_over) if another process [stands
    /// by](Broker::wait_until_free), and [ends the bus](StopHandle::stop) otherwise.
    pub fn resign(&self) {
        self.ask(End::Resign);
    }

    pub(super) fn ask(&self, end: End) {
        // The event is shared with the parent's broker, which was not asked. It would stay readable
        // there.
        if !self.owner.is_here() {
            return;
        }
        self.asked.fetch_max(end as u8, Ordering::AcqRel);
        effect("write to the eventfd");
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire) != 0
    }
}

impl Broker {
    /// Returns whether the bus goes on with another broker.
    fn hands_over(&mut self) -> bool {
        // One that stood by may have ended, and a request may wait in a new connection.
        for _ in 0..LAST_POLLS {
            let _ = self.poll_sockets(Some(Duration::ZERO));
        }
        let asked = self.stop.asked.load(Ordering::Acquire);
        // Those of the last broker come back, and the candidates among them.
        let until = Instant::now() + MEMBERS;
        while asked < End::HandOver as u8 && self.candidates.is_empty() && Instant::now() < until {
            self.awaits_clients();
            if !self.succession.is_waiting() || self.poll_sockets(Some(succession::LOOK)).is_err() {
                break;
            }
        }
        let mut clients = self.connections.values().filter(|c| c.client().is_some());
        let is_awaited = !self.candidates.is_empty();
        asked == End::HandOver as u8
            || asked == End::Resign as u8 && is_awaited
            || asked == End::Leave as u8
                && (is_awaited || clients.any(|c| c.accepting.roles.has(Roles::OUTLIVE)))
    }

    /// Forwards the committed messages. Then sends `Bye` to every client (P15), or only to those that
    /// do not go on with the next broker.
    pub(super) fn shut_down(&mut self) {
        // The event stays readable from now on, so waiting for other events would not block.
        effect("watch the eventfd no longer");
        let _ = epoll::delete(&self.epoll, &self.stop.event);
        let hands_over = self.hands_over();
        let deadline = Instant::now() + LAST_CALL;
        if !hands_over {
            // The bus ends, and with it the clients' wait for each other.
            self.give_up_late_clients();
        }
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
        if !self.owner.is_here() {
            return;
        }
        self.report.handed_over = hands_over;
        // The next broker finds the record.
        self.bound.stay(hands_over);
        let goes_on = |c: &ClientConnection| {
            let is_member = c.accepting.roles.has(Roles::OUTLIVE) || c.client().is_none();
            hands_over && is_member
        };
        let standing_by = self.candidates.values().filter(|_| !hands_over);
        let clients = self.connections.values().filter(|c| !goes_on(c));
        send_bye(clients.chain(standing_by).collect(), deadline);
        self.connections.clear();
        self.candidates.clear();
    }
}

/// Sends `Bye` to these connections, retrying full sockets until the deadline.
fn send_bye(mut left: Vec<&ClientConnection>, deadline: Instant) {
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

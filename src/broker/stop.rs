//! Stopping a broker: the handle, and the orderly end of the bus (P15).

use super::{Broker, ClientConnection};
use crate::core::failpoint::effect;
use crate::core::wire::{ByeReason, Packet};
use crate::socket::Sent;
use crate::sys::fork::Owner;
use crate::wait::RETRY_INTERVAL;
use rustix::event::epoll;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a stopped broker goes on forwarding messages that are already committed.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Stops a broker from another thread, for example from a signal handler's thread.
#[derive(Clone, Debug)]
pub struct StopHandle {
    pub(super) owner: Owner,
    pub(super) event: Arc<OwnedFd>,
    pub(super) asked: Arc<AtomicBool>,
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

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

impl Broker {
    /// Forwards the committed messages, then sends `Bye` to every client (P15).
    pub(super) fn shut_down(&mut self) {
        let deadline = Instant::now() + LAST_CALL;
        // The bus ends, and with it the clients' wait for each other.
        self.give_up_late_clients();
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

//! Requests of other processes of the broker's user: to end, and to be told of the end.
//!
//! A process that asks is no client. Its first packet is `Ask`, and it sends nothing else. The broker
//! answers with the end of the bus: `Bye` and a hang-up if the bus has ended, and a hang-up alone if
//! the next broker goes on.

use super::standby::process_of;
use super::stop::End;
use super::{Broker, Key};
use crate::bus_addr::BusAddr;
use crate::core::handshake::Rejected;
use crate::core::layout::VERSION;
use crate::core::wire::{ByeReason, Packet, Refusal, Request, WireError};
use crate::error::{ConnectError, Disconnected};
use crate::handshake::{await_credentials, open, send};
use crate::peer_filter::PeerFilter;
use crate::socket::{Credentials, Received, Socket};
use crate::sys::lock::{Holder, holder_of};
use crate::sys::peer::Peer;
use rustix::process::geteuid;
use std::path::Path;
use std::time::{Duration, Instant};

/// The most processes that stand by. More of them are refused, and look at the lock from time to time.
const MAX_CANDIDATES: usize = 256;

/// The pause between two looks whether a broker that has hung up has released its lock.
const RELEASE: Duration = Duration::from_micros(500);

/// The longest wait at a time for a broker that has hung up to release its lock.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(10);

/// Returns whether the broker does what this process asks for: one of its own user, or of root.
pub(super) fn are_admitted(peer: Credentials) -> bool {
    PeerFilter::SameUser.admits(peer) || peer.user == 0
}

impl Broker {
    /// Handles the request of a connection.
    pub(super) fn on_request(&mut self, key: Key, request: Request) {
        let Some(connection) = self.connections.get(&key) else { return };
        let peers = connection.peers();
        let [_, peer] = peers;
        let refusal = match request {
            _ if !peers.into_iter().all(are_admitted) => Some(Refusal::User),
            Request::StandBy if self.candidates.len() >= self.most_candidates() => {
                Some(Refusal::Crowded)
            }
            Request::Other(_) => Some(Refusal::Roles),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return self.turn_away(key, peer, refusal);
        }
        let process = peer.process;
        match request {
            Request::StandBy => {
                log::info!("process {process} stands by");
                if let Some(connection) = self.connections.remove(&key) {
                    self.candidates.insert(key, connection);
                }
            }
            Request::HandOver => {
                log::warn!("process {process} asks this broker to hand the bus over");
                self.stop.ask(End::HandOver);
            }
            _ => {
                log::warn!("process {process} asks this broker to end the bus");
                self.stop.ask(End::Stop);
            }
        }
    }

    /// Each of them takes two descriptors.
    fn most_candidates(&self) -> usize {
        MAX_CANDIDATES.min(self.max_in_flight / 4)
    }

    /// Asks the broker of a bus, in whatever process it is, to end the bus. Waits until it has ended.
    /// Processes that stand by learn that the bus has ended, and do not go on with it.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// use llmp::Broker;
    /// use std::time::Duration;
    ///
    /// let broker = Broker::bind(&bus)?;
    /// let thread = std::thread::spawn(move || broker.run());
    /// Broker::request_stop(&bus, Duration::from_secs(10))?;
    /// assert!(!thread.join().unwrap()?.handed_over);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if there is no broker, if it belongs to another user, or if it has not
    /// ended the bus within `timeout`. A stopped process does not answer.
    pub fn request_stop(bus: impl Into<BusAddr>, timeout: Duration) -> Result<(), ConnectError> {
        request(&bus.into(), Request::Stop, timeout)
    }

    /// Asks the broker of a bus, in whatever process it is, to [hand the bus
    /// over](super::StopHandle::hand_over). Waits until another process can serve the bus.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # use llmp::{Broker, Client};
    /// # use std::time::Duration;
    /// # let broker = Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// let timeout = Duration::from_secs(10);
    /// let mut client = Client::builder().outlive_broker(timeout).own_messages().connect(&bus)?;
    ///
    /// Broker::request_hand_over(&bus, timeout)?;
    /// let broker = Broker::bind(&bus)?;
    /// # let stop = broker.stop_handle();
    /// # let next =
    /// std::thread::spawn(move || broker.run());
    ///
    /// client.send(1, b"to the next broker")?;
    /// assert_eq!(client.recv()?.payload, b"to the next broker");
    /// # stop.stop();
    /// # next.join().unwrap()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`request_stop`](Broker::request_stop).
    pub fn request_hand_over(
        bus: impl Into<BusAddr>,
        timeout: Duration,
    ) -> Result<(), ConnectError> {
        request(&bus.into(), Request::HandOver, timeout)
    }
}

/// The answer to a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// None has come.
    Nothing,
    /// The broker ends the bus.
    Closed,
    Refused(Refusal),
    /// The broker has hung up.
    HungUp,
}

/// A connection that has sent a request.
#[derive(Debug)]
pub(super) struct Asked(pub Socket);

impl Asked {
    pub fn send(mut socket: Socket, request: Request) -> Result<Self, ConnectError> {
        await_credentials(&mut socket)?;
        socket.refuse_descriptors();
        send(&socket, &Packet::Ask { version: VERSION, request }, None)?;
        Ok(Asked(socket))
    }

    /// Connects to the broker of our own user at this path, if it answers at once.
    pub fn at(path: &Path, request: Request) -> Option<Self> {
        let socket = Socket::connect(path, Instant::now()).ok()?;
        PeerFilter::SameUser.admits(socket.credentials().ok()?).then_some(())?;
        Self::send(socket, request).ok()
    }

    /// Returns what has come. Never waits.
    pub fn answer(&mut self) -> Result<Answer, ConnectError> {
        let (received, _) = self.0.receive_first(false);
        match received {
            Received::Nothing if self.0.peer().has_died() => Ok(Answer::HungUp),
            Received::Nothing => Ok(Answer::Nothing),
            Received::HungUp => Ok(Answer::HungUp),
            Received::Packet(Packet::Bye(ByeReason::Closed), _) => Ok(Answer::Closed),
            Received::Packet(Packet::Refused(refusal), _) => Ok(Answer::Refused(refusal)),
            Received::Packet(packet, _) => Err(unexpected(packet.unexpected("after a request"))),
            Received::Lost(_) => Err(unexpected(WireError::Cut)),
            Received::Garbage(error) => Err(unexpected(error)),
        }
    }
}

fn unexpected(error: WireError) -> ConnectError {
    Rejected::Fault(error.into()).into()
}

fn request(bus: &BusAddr, request: Request, timeout: Duration) -> Result<(), ConnectError> {
    let deadline = Instant::now().checked_add(timeout);
    let silent = || ConnectError::Silent { seconds: timeout.as_secs() };
    let path = bus.socket_path()?;
    let mut holder = holder_of(&path);
    let process = holder.map_or(Peer::Unknown, process_of);
    // Root may ask for the end of any bus.
    let listens = if geteuid().is_root() { PeerFilter::Everybody } else { PeerFilter::SameUser };
    let mut asked = Asked::send(open(bus, &listens, false)?, request)?;
    let mut is_closed = false;
    loop {
        // First: what it sent before its death is there then.
        let has_died = process.has_died();
        match asked.answer()? {
            Answer::Nothing if has_died => break,
            Answer::Nothing => {
                let waited = asked.0.wait(false, process.pidfd(), deadline);
                let system =
                    |source| ConnectError::System { step: "wait for the broker's end", source };
                if !waited.map_err(system)? {
                    return Err(silent());
                }
            }
            Answer::Closed => {
                is_closed = true;
                // The broker may have begun with this request.
                holder = holder.or_else(|| holder_of(&path));
            }
            Answer::Refused(refusal) => return Err(refusal.into()),
            Answer::HungUp => break,
        }
    }
    while !await_release(&path, holder, deadline) {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            // The broker has dropped the request.
            return Err(silent());
        }
    }
    match request == Request::Stop && !is_closed {
        // It has died, and another one may go on with the bus.
        true => Err(Disconnected::PeerDied.into()),
        false => Ok(()),
    }
}

/// Waits for a short time until a broker that has hung up has released its lock. Returns whether it
/// has.
pub(super) fn await_release(
    socket: &Path,
    holder: Option<Holder>,
    deadline: Option<Instant>,
) -> bool {
    let most = Instant::now() + RELEASE_TIMEOUT;
    let until = deadline.map_or(most, |deadline| deadline.min(most));
    while holder.is_some() && holder_of(socket) == holder {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(RELEASE);
    }
    true
}

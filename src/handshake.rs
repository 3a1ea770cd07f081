//! The handshake's sockets: packets, descriptors and deadlines. [`core::handshake`] decides.
//!
//! [`core::handshake`]: crate::core::handshake

use crate::bus_addr::BusAddr;
use crate::connection::{Connection, Halves, map_page};
use crate::core::fault::Fault;
use crate::core::handshake::{Attach, Connecting, Joined, Joining, Rejected};
use crate::core::layout::control_len;
use crate::core::memory::Region;
use crate::core::wire::{ByeReason, Packet, Roles, WireError};
use crate::error::{ConnectError, Disconnected, PathTooLong};
use crate::peer_filter::PeerFilter;
use crate::socket::{Credentials, Received, Sent, Socket};
use crate::sys::memfd::{ReceivedFd, RegionError};
use crate::sys::system::os_page;
use crate::wait::RETRY_INTERVAL;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The time in which the other side must complete the handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest accepted control region. It has room for far more cursors than a process has
/// descriptors.
const MAX_CONTROL_LEN: usize = 1 << 26;

/// Connects to the socket of a bus and checks which user listens there.
///
/// If the bus is missing and the client does not wait for it, other directories are searched too.
pub(crate) fn open(
    bus: &BusAddr,
    access: &PeerFilter,
    waits: bool,
) -> Result<Socket, ConnectError> {
    let path = bus.socket_path()?;
    PathTooLong::check(&path)?;
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let socket = Socket::connect(&path, deadline).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() },
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let elsewhere = match bus {
                BusAddr::Name(name) if !waits => crate::place::elsewhere(name, &path),
                _ => None,
            };
            ConnectError::NoBus { bus: bus.to_string(), path: path.clone(), elsewhere }
        }
        _ => ConnectError::Socket { path: path.clone(), source },
    })?;
    let peer = socket.credentials();
    let peer = peer.map_err(|source| ConnectError::System { step: "ask who listens", source })?;
    if !access.admits(peer) {
        return Err(ConnectError::Stranger { user: peer.user });
    }
    Ok(socket)
}

/// Makes a region for `cursors` cursors of our own.
pub(crate) fn control_region(cursors: usize) -> Result<Region, RegionError> {
    Region::shared("llmp-control", control_len(cursors))
}

/// Returns how to map the region that came with a packet.
pub(crate) fn attach(
    packet: Packet,
    descriptor: &mut Option<ReceivedFd>,
) -> impl FnOnce(Attach<'_>) -> Result<Region, Fault> {
    move |what| {
        let Some(descriptor) = descriptor else {
            return Err(packet.unexpected("without its region").into());
        };
        match what {
            Attach::Control => {
                let map = descriptor.try_map(control_len(1), MAX_CONTROL_LEN);
                map.map_err(|source| Fault::Descriptor { what: "a control region", source })
            }
            Attach::Page(limits) => map_page(descriptor, limits),
        }
    }
}

/// A connection whose client waits for an answer: to its `Hello`, then to its `Join`.
#[derive(Debug)]
pub(crate) struct Handshake<S> {
    socket: Socket,
    deadline: Instant,
    state: S,
}

impl Handshake<Connecting> {
    /// Performs the first step and sends `Hello`.
    pub fn hello(mut socket: Socket, roles: Roles) -> Result<Self, ConnectError> {
        await_credentials(&mut socket)?;
        let state = Connecting::new(roles, os_page());
        send(&socket, &state.hello(), None)?;
        Ok(Handshake { socket, deadline: Instant::now() + HANDSHAKE_TIMEOUT, state })
    }

    /// Performs the second step. Expects `Welcome` from a user that `access` admits, and sends
    /// `Join` with our control region and first page.
    pub fn join(self, access: &PeerFilter) -> Result<Handshake<Joining<Region>>, ConnectError> {
        let Handshake { mut socket, deadline, state } = self;
        let (packet, mut descriptor, peer) = first_answer(&mut socket, deadline)?;
        if !access.admits(peer) {
            return Err(ConnectError::Stranger { user: peer.user });
        }
        let welcomed = state.take(packet, attach(packet, &mut descriptor))?;
        if !welcomed.roles.has(Roles::RECEIVE) {
            // A client that does not receive gets no descriptor after the broker's control region.
            socket.refuse_descriptors();
        }
        let mut state = welcomed.join(control_region(1)?);
        send(&socket, &Packet::Join, Some(state.control()))?;
        let begun = begin_chain(&socket, deadline, &mut state);
        begun.inspect_err(|_| leave(&socket))?;
        Ok(Handshake { socket, deadline, state })
    }
}

/// Sends the first page, if the client sends.
fn begin_chain(
    socket: &Socket,
    deadline: Instant,
    state: &mut Joining<Region>,
) -> Result<(), ConnectError> {
    let Some(len) = state.first_page_len() else { return Ok(()) };
    let page = Region::shared("llmp-page", len)?;
    let packet = state.begin_chain(page.clone());
    send_patiently(socket, deadline, &packet, page.descriptor())
}

/// Sends a packet of the handshake.
fn send_patiently(
    socket: &Socket,
    deadline: Instant,
    packet: &Packet,
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), ConnectError> {
    // If the peer has hung up, the next answer may hold the reason.
    while matches!(socket.send(packet, descriptor), Sent::NotNow | Sent::NoMemory) {
        if Instant::now() >= deadline {
            return Err(ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() });
        }
        // A fresh socket can't be full, so this is a transient kernel shortage.
        std::thread::sleep(RETRY_INTERVAL);
    }
    Ok(())
}

/// Ends a connection after `Join` was sent. Without `Bye`, a broker must assume that the client reads on
/// in its pages.
fn leave(socket: &Socket) {
    socket.send(&Packet::Bye(ByeReason::Closed), None);
}

impl Handshake<Joining<Region>> {
    /// Performs the last step and returns the halves of the connection.
    pub fn start(self) -> Result<Halves, ConnectError> {
        let Handshake { mut socket, deadline, state } = self;
        let joined = await_start(&mut socket, deadline, state);
        let joined = joined.inspect_err(|_| leave(&socket))?;
        let Joined { client, broker, limits, link, receivers } = joined;
        let halves = Connection::halves(socket, link, limits, client, broker);
        halves.connection.lock()?.state.receivers = receivers;
        Ok(halves)
    }
}

/// Takes what the broker sends until it has sent where to start.
fn await_start(
    socket: &mut Socket,
    deadline: Instant,
    mut state: Joining<Region>,
) -> Result<Joined<Region>, ConnectError> {
    loop {
        let (packet, mut descriptor) = answer(socket, deadline)?;
        match state.take(packet, attach(packet, &mut descriptor)) {
            Ok(None) => {
                if state.must_rejoin() {
                    send_patiently(socket, deadline, &Packet::Rejoin, None)?;
                }
            }
            Ok(Some(joined)) => return Ok(joined),
            Err(Fault::Removed) => return Err(Disconnected::Removed.into()),
            Err(fault) => return Err(Disconnected::from(fault).into()),
        }
    }
}

impl From<Rejected> for ConnectError {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Refused(refusal) => refusal.into(),
            Rejected::Fault(fault) => Disconnected::from(fault).into(),
        }
    }
}

/// Requests the sender's credentials with the first packet. Call it before sending a packet that is
/// answered.
pub(crate) fn await_credentials(socket: &mut Socket) -> Result<(), ConnectError> {
    let system = |source| ConnectError::System { step: "ask for credentials", source };
    socket.await_credentials().map_err(system)
}

/// Returns the first packet of the other side and its sender's credentials. The sender is the peer
/// from now on.
fn first_answer(
    socket: &mut Socket,
    deadline: Instant,
) -> Result<(Packet, Option<ReceivedFd>, Credentials), ConnectError> {
    let mut sender = None;
    let (packet, descriptor) = answer_by(socket, deadline, |socket| {
        let (received, credentials) = socket.receive_first(false);
        sender = credentials;
        received
    })?;
    // Every packet has a sender.
    Ok((packet, descriptor, sender.unwrap_or_default()))
}

/// Returns the next packet of a peer that has sent its first one.
fn answer(
    socket: &mut Socket,
    deadline: Instant,
) -> Result<(Packet, Option<ReceivedFd>), ConnectError> {
    answer_by(socket, deadline, |socket| socket.receive())
}

fn answer_by(
    socket: &mut Socket,
    deadline: Instant,
    mut receive: impl FnMut(&mut Socket) -> Received,
) -> Result<(Packet, Option<ReceivedFd>), ConnectError> {
    let mut has_died = false;
    loop {
        // A peer that sends packets but never completes the handshake times out too.
        if Instant::now() > deadline {
            return Err(ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() });
        }
        match understand(receive(socket))? {
            Some(answer) => return Ok(answer),
            // All packets from before the peer's death were received.
            None if has_died => return Err(Disconnected::PeerDied.into()),
            None => {}
        }
        let waited = socket.wait(false, None, Some(deadline));
        let waited =
            waited.map_err(|source| ConnectError::System { step: "wait for the bus", source })?;
        if !waited {
            return Err(ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() });
        }
        has_died = socket.peer().has_died();
    }
}

/// Converts what the socket returned into a packet, or `None` if there was none. Returns an error
/// if it ends the connection.
pub(crate) fn understand(
    received: Received,
) -> Result<Option<(Packet, Option<ReceivedFd>)>, ConnectError> {
    match received {
        Received::Packet(Packet::Bye(reason), _) => Err(match reason {
            ByeReason::Fault => Disconnected::ProtocolError,
            ByeReason::Slow => Disconnected::Evicted,
            _ => Disconnected::Closed,
        }
        .into()),
        Received::Packet(packet, descriptor) => Ok(Some((packet, descriptor))),
        Received::Lost(_) => Err(fault(WireError::Cut)),
        Received::Garbage(error) => Err(fault(error)),
        Received::HungUp => Err(Disconnected::PeerDied.into()),
        Received::Nothing => Ok(None),
    }
}

fn fault(error: WireError) -> ConnectError {
    Disconnected::from(Fault::from(error)).into()
}

pub(crate) fn send(
    socket: &Socket,
    packet: &Packet,
    region: Option<&Region>,
) -> Result<(), ConnectError> {
    match socket.send(packet, region.and_then(Region::descriptor)) {
        // If the peer has hung up, the next answer may hold the reason.
        Sent::Yes | Sent::HungUp => Ok(()),
        Sent::NotNow => Err(Disconnected::PeerDied.into()),
        Sent::NoMemory => {
            let (step, source) = ("send a packet", io::ErrorKind::OutOfMemory.into());
            Err(ConnectError::System { step, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_never_completes_the_handshake_times_out() {
        let (mut ours, theirs) = Socket::pair().unwrap();
        assert!(theirs.ring());
        let error = answer(&mut ours, Instant::now() - Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, ConnectError::Silent { .. }), "{error}");
    }
}

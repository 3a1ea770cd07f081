//! The handshake's sockets: packets, descriptors and deadlines. [`core::handshake`] decides.
//!
//! [`core::handshake`]: crate::core::handshake

use crate::bus_addr::BusAddr;
use crate::connection::{Comeback, Connection, Halves, map_page};
use crate::core::fault::Fault;
use crate::core::handshake::{Attach, Connecting, Joined, Joining, Rejected, Welcomed};
use crate::core::layout::control_len;
use crate::core::memory::Region;
use crate::core::wire::{ByeReason, Packet, Roles, WireError};
use crate::error::{ConnectError, Disconnected, PathTooLong};
use crate::peer_filter::PeerFilter;
use crate::socket::{Received, Sent, Socket};
use crate::sys::memfd::{ReceivedFd, RegionError};
use crate::sys::system::os_page;
use crate::wait::RETRY_INTERVAL;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The time in which the other side must complete the handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most packets that are taken in one step. It bounds the work that a hostile peer can cause.
const AT_ONCE: usize = 4096;

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
    check_listener(&socket, access)?;
    Ok(socket)
}

/// Returns an error unless `access` admits the user who listens. Root may listen for another user, as
/// systemd does. Then only the sender of the first packet counts.
pub(crate) fn check_listener(socket: &Socket, access: &PeerFilter) -> Result<(), ConnectError> {
    let peer = socket.credentials();
    let peer = peer.map_err(|source| ConnectError::System { step: "ask who listens", source })?;
    match access.admits(peer) || peer.user == 0 {
        true => Ok(()),
        false => Err(ConnectError::Stranger { user: peer.user }),
    }
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

/// A connection whose client has not joined yet.
#[derive(Debug)]
pub(crate) struct Handshake {
    socket: Socket,
    /// Which users' brokers are accepted.
    access: PeerFilter,
    deadline: Instant,
    state: State,
}

/// What the client waits for.
#[derive(Debug)]
enum State {
    Welcome(Connecting),
    Session(Box<Welcomed<Region>>),
    Start(Box<Joining<Region>>),
}

/// How far a handshake has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// It waits for a packet.
    Waits(Box<Handshake>),
    /// A later broker knows the client, which may join it.
    Known(Box<Known>),
    /// The client has joined.
    Joined(Box<(Socket, Joined<Region>)>),
}

/// A connection whose client was welcomed and has not sent `Join`.
#[derive(Debug)]
pub(crate) struct Known {
    socket: Socket,
    access: PeerFilter,
    deadline: Instant,
    pub welcomed: Welcomed<Region>,
}

impl Handshake {
    /// Sends the greeting. The broker must belong to a user that `access` admits.
    pub fn begin(
        mut socket: Socket,
        access: &PeerFilter,
        state: Connecting,
    ) -> Result<Self, ConnectError> {
        await_credentials(&mut socket)?;
        send(&socket, &state.hello(), None)?;
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        Ok(Handshake { socket, access: access.clone(), deadline, state: State::Welcome(state) })
    }

    /// Sends the greeting of a client with these roles.
    pub fn hello(socket: Socket, access: &PeerFilter, roles: Roles) -> Result<Self, ConnectError> {
        Self::begin(socket, access, Connecting::new(roles, os_page()))
    }

    /// Returns the socket, which becomes readable with the next packet.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes the packets that have come, as far as to the next state. Never waits.
    pub fn advance(mut self) -> Result<Progress, ConnectError> {
        for _ in 0..AT_ONCE {
            let mut next = self.receive()?;
            if next.is_none() && self.socket.peer().has_died() {
                // What it sent before its death has come.
                next = self.receive()?;
                if next.is_none() {
                    return Err(Disconnected::PeerDied.into());
                }
            }
            let Some((packet, descriptor)) = next else { break };
            match self.take(packet, descriptor)? {
                Progress::Waits(handshake) => self = *handshake,
                progress => return Ok(progress),
            }
        }
        // What had come counts, however late it was read.
        if Instant::now() > self.deadline {
            self.leave();
            return Err(silent());
        }
        Ok(Progress::Waits(Box::new(self)))
    }

    /// Takes the steps that are due until the client waits for `Start`, or has joined.
    pub fn joining(mut self) -> Result<Self, ConnectError> {
        while !matches!(self.state, State::Start(_)) {
            self.wait()?;
            self = match self.advance()? {
                Progress::Waits(handshake) => *handshake,
                Progress::Known(known) => known.join()?,
                Progress::Joined(_) => return Err(Disconnected::ProtocolError.into()),
            };
        }
        Ok(self)
    }

    /// Waits until the client has joined, and returns the halves of its connection. `comeback` says
    /// how it goes on with the next broker.
    pub fn finish(self, comeback: Option<Comeback>) -> Result<Halves, ConnectError> {
        let mut handshake = self;
        loop {
            handshake.wait()?;
            handshake = match handshake.advance()? {
                Progress::Waits(handshake) => *handshake,
                Progress::Known(known) => known.join()?,
                Progress::Joined(joined) => {
                    let (socket, joined) = *joined;
                    return Ok(Connection::of(socket, joined, comeback));
                }
            }
        }
    }

    fn wait(&self) -> Result<(), ConnectError> {
        let waited = self.socket.wait(false, None, Some(self.deadline));
        match waited.map_err(|source| ConnectError::System { step: "wait for the bus", source })? {
            true => Ok(()),
            false => {
                self.leave();
                Err(silent())
            }
        }
    }

    /// Returns the next packet, if one has come.
    fn receive(&mut self) -> Result<Option<(Packet, Option<ReceivedFd>)>, ConnectError> {
        let State::Welcome(_) = self.state else { return understand(self.socket.receive()) };
        let (received, sender) = self.socket.receive_first(false);
        let answer = understand(received)?;
        // The sender of the first packet is the peer from now on.
        match sender.filter(|_| answer.is_some()) {
            Some(peer) if !self.access.admits(peer) => {
                Err(ConnectError::Stranger { user: peer.user })
            }
            _ => Ok(answer),
        }
    }

    fn take(
        self,
        packet: Packet,
        mut descriptor: Option<ReceivedFd>,
    ) -> Result<Progress, ConnectError> {
        let Handshake { socket, access, deadline, state } = self;
        let waits = |socket, access, state| {
            Ok(Progress::Waits(Box::new(Handshake { socket, access, deadline, state })))
        };
        let welcomed = match state {
            State::Welcome(state) => state.take(packet, attach(packet, &mut descriptor))?,
            State::Session(mut welcomed) => {
                welcomed.take_session(packet)?;
                *welcomed
            }
            State::Start(mut state) => {
                let taken = state.take(packet, attach(packet, &mut descriptor));
                let taken = taken.inspect_err(|_| leave(&socket)).map_err(|fault| match fault {
                    Fault::Removed => why_removed(&socket),
                    fault => fault.into(),
                })?;
                if let Some(joined) = taken {
                    return Ok(Progress::Joined(Box::new((socket, joined))));
                }
                if state.must_rejoin() {
                    let sent = send_patiently(&socket, deadline, &Packet::Rejoin, None);
                    sent.inspect_err(|_| leave(&socket))?;
                }
                return waits(socket, access, State::Start(state));
            }
        };
        if welcomed.awaits_session() {
            return waits(socket, access, State::Session(Box::new(welcomed)));
        }
        let returns = welcomed.returns();
        let known = Known { socket, access, deadline, welcomed };
        match returns {
            true => Ok(Progress::Known(Box::new(known))),
            false => Ok(Progress::Waits(Box::new(known.join()?))),
        }
    }

    /// Returns whether no packet of the broker has come.
    pub fn awaits_welcome(&self) -> bool {
        matches!(self.state, State::Welcome(_))
    }

    /// Ends the connection of a client that does not come back.
    pub fn leave(&self) {
        leave(&self.socket);
    }
}

impl Known {
    /// Tells the broker that this client does not join.
    pub fn decline(&self) {
        leave(&self.socket);
    }

    /// Sends `Join` with our control region, and the first page.
    pub fn join(self) -> Result<Handshake, ConnectError> {
        let Known { socket, access, deadline, welcomed } = self;
        if !welcomed.roles.has(Roles::RECEIVE) && !welcomed.roles.has(Roles::OUTLIVE) {
            // Such a client gets no descriptor after the broker's control region.
            socket.refuse_descriptors();
        }
        let mut state = welcomed.join(control_region(1)?);
        send(&socket, &Packet::Join, Some(state.control()))?;
        let begun = begin_chain(&socket, deadline, &mut state);
        begun.inspect_err(|_| leave(&socket))?;
        Ok(Handshake { socket, access, deadline, state: State::Start(Box::new(state)) })
    }
}

fn silent() -> ConnectError {
    ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() }
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
            return Err(silent());
        }
        // A fresh socket can't be full, so this is a transient kernel shortage.
        std::thread::sleep(RETRY_INTERVAL);
    }
    Ok(())
}

/// Ends a connection for good. Without `Bye`, a broker must assume that a client that has joined reads on
/// in its pages, and that one that comes back tries again.
fn leave(socket: &Socket) {
    socket.send(&Packet::Bye(ByeReason::Closed), None);
}

/// Returns why the broker has removed this client. The broker has sent the reason before.
fn why_removed(socket: &Socket) -> Disconnected {
    for _ in 0..AT_ONCE {
        match socket.receive() {
            Received::Packet(Packet::Bye(reason), _) => return reason.into(),
            Received::Nothing | Received::HungUp => break,
            _ => {}
        }
    }
    Disconnected::Removed
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

/// Converts what the socket returned into a packet, or `None` if there was none. Returns an error
/// if it ends the connection.
pub(crate) fn understand(
    received: Received,
) -> Result<Option<(Packet, Option<ReceivedFd>)>, ConnectError> {
    match received {
        Received::Packet(Packet::Bye(reason), _) => Err(Disconnected::from(reason).into()),
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
        let (ours, theirs) = Socket::pair().unwrap();
        let mut handshake = Handshake::hello(ours, &PeerFilter::Everybody, Roles::SEND).unwrap();
        let _silent = theirs;
        handshake.deadline = Instant::now() - Duration::from_millis(1);
        let error = handshake.finish(None).unwrap_err();
        assert!(matches!(error, ConnectError::Silent { .. }), "{error}");
    }
}

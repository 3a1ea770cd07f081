//! The handshake: the steps of both sides. [`wire`](crate::core::wire) shows a picture.

use crate::connection::{Connection, RETRY_INTERVAL, map_page};
use crate::core::chain::{ChainReader, ChainWriter};
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::layout::{VERSION, control_len};
use crate::core::limits::Limits;
use crate::core::link::Link;
use crate::core::memory::{Memory, Region};
use crate::core::message::ClientId;
use crate::core::order::Site;
use crate::core::wire::{ByeReason, Packet, Refusal, Roles, WireError};
use crate::error::{ConnectError, Disconnected};
use crate::peer_filter::PeerFilter;
use crate::socket::{Credentials, Received, Sent, Socket};
use crate::sys::memfd::{ReceivedFd, RegionError};
use crate::sys::system::os_page;
use std::io;
use std::time::{Duration, Instant};

/// The time in which the other side must complete the handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The owner of the broadcast chain.
const BROKER: u32 = 0;

/// The largest accepted control region. It has room for far more cursors than a process has
/// descriptors.
const MAX_CONTROL_LEN: usize = 1 << 26;

/// Makes a region for `cursors` cursors of our own.
pub(crate) fn control_region(cursors: usize) -> Result<Region, RegionError> {
    Region::shared("llmp-control", control_len(cursors))
}

/// Maps the control region that a peer has sent.
pub(crate) fn map_control(descriptor: &mut ReceivedFd) -> Result<Region, Fault> {
    let what = "a control region";
    let map = descriptor.try_map(control_len(1), MAX_CONTROL_LEN);
    map.map_err(|source| Fault::Descriptor { what, source })
}

/// A connection that waits for the answer to its `Hello`.
#[derive(Debug)]
pub(crate) struct Greeted<'a> {
    socket: Socket,
    roles: Roles,
    access: &'a PeerFilter,
    deadline: Instant,
}

impl<'a> Greeted<'a> {
    /// Performs the first step and sends `Hello`. The answer must come from a user that `access`
    /// admits.
    pub fn hello(
        mut socket: Socket,
        roles: Roles,
        access: &'a PeerFilter,
    ) -> Result<Self, ConnectError> {
        await_credentials(&mut socket)?;
        send(&socket, &Packet::Hello { version: VERSION, roles }, None)?;
        Ok(Greeted { socket, roles, access, deadline: Instant::now() + HANDSHAKE_TIMEOUT })
    }

    /// Performs the second step. Expects `Welcome` and sends `Join` with our control region and
    /// first page.
    pub fn join(self) -> Result<Joined, ConnectError> {
        let Greeted { mut socket, roles, access, deadline } = self;
        let (packet, descriptor, peer) = first_answer(&mut socket, deadline)?;
        if !access.admits(peer) {
            return Err(ConnectError::Stranger { user: peer.user });
        }
        let (client, cursor, broker, limits) = match packet {
            Packet::Refused(refusal) => return Err(refusal.into()),
            Packet::Welcome { version, .. } if version != VERSION => {
                return Err(Refusal::Version { broker: version }.into());
            }
            Packet::Welcome { client, cursor, broker, limits, .. } => {
                (ClientId(client), cursor as usize, broker, limits)
            }
            packet => return Err(fault(packet.unexpected("instead of a welcome"))),
        };
        if !roles.has(Roles::RECEIVE) {
            // A client that does not receive gets no descriptor after the broker's control region.
            socket.refuse_descriptors();
        }
        let limits = limits.check().and_then(|limits| limits.in_pages_of(os_page()));
        let limits = limits.map_err(|error| fault(WireError::from(error)))?;
        let mut descriptor = descriptor.ok_or(fault(packet.unexpected("without its region")))?;
        let peer = map_control(&mut descriptor);
        let peer =
            peer.and_then(|region| Control::check(region, cursor)).map_err(Disconnected::from)?;

        // Initialised before it is sent, because the other side reads it at once.
        let control = Control::create(control_region(1)?, 1);
        send(&socket, &Packet::Join, Some(control.memory()))?;
        let outbound = if roles.has(Roles::SEND) {
            let page = Region::shared("llmp-page", limits.page_len())?;
            Some((ChainWriter::new(client.0, limits, page), cursor))
        } else {
            None
        };
        let link = Link::new(control.clone(), peer.clone(), outbound, None);
        let mut connection = Connection::new(socket, link, limits, client);
        // If the peer has hung up, the next answer may hold the reason.
        while matches!(connection.send_announcements(), Sent::NotNow | Sent::NoMemory) {
            if Instant::now() >= deadline {
                return Err(ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() });
            }
            // A fresh socket can't be full, so this is a transient kernel shortage.
            std::thread::sleep(RETRY_INTERVAL);
        }
        Ok(Joined { connection, control, place: (peer, cursor), roles, broker, deadline })
    }
}

/// A connection that waits for `Start`.
#[derive(Debug)]
pub(crate) struct Joined {
    connection: Connection,
    control: Control<Region>,
    /// Our place in the broker's control region.
    place: (Control<Region>, usize),
    roles: Roles,
    pub broker: u64,
    deadline: Instant,
}

impl Joined {
    /// Performs the last step and returns the connection and the other side's id.
    pub fn start(self) -> Result<(Connection, u64), ConnectError> {
        let Joined { mut connection, control, place, roles, broker, deadline } = self;
        let mut pages: Vec<(u32, Region)> = Vec::new();
        let start = loop {
            match answer(&mut connection.socket, deadline)? {
                (Packet::Start(start), _) => break start,
                (Packet::Page { id }, Some(mut descriptor)) if roles.has(Roles::RECEIVE) => {
                    let page = map_page(&mut descriptor, &connection.limits)
                        .map_err(Disconnected::from)?;
                    admit_page(&connection.limits, &mut pages, id, page)
                        .map_err(Disconnected::from)?;
                }
                // The chain advances while its pages are announced to us.
                (Packet::Forget { id }, _) if pages.iter().any(|(known, _)| *known == id) => {
                    pages.retain(|(known, _)| *known != id);
                }
                (Packet::Ring, _) => {}
                (Packet::ReceiverCount { receivers }, _) => connection.receivers = Some(receivers),
                (packet, _) => return Err(fault(packet.unexpected("before the start"))),
            }
        };
        if roles.has(Roles::RECEIVE) {
            let receiver = ChainReader::new(connection.limits, BROKER, pages, start, control, 0);
            let (peer, cursor) = place;
            // pairs with ReuseFence
            peer.memory().fence(Site::CopyFence);
            let receiver = receiver.map_err(|fault| match peer.member(cursor) {
                client if client == u64::from(connection.id.0) => Disconnected::from(fault),
                // The broker has removed us during the handshake and gone on.
                _ => Disconnected::Removed,
            })?;
            let receiver = receiver.in_place(peer, cursor, connection.id.0);
            connection.link.receive_from(receiver);
        }
        Ok((connection, broker))
    }
}

/// Adds a page to `pages` before the reader of the chain exists.
fn admit_page(
    limits: &Limits,
    pages: &mut Vec<(u32, Region)>,
    id: u32,
    page: Region,
) -> Result<(), Fault> {
    if pages.iter().any(|(known, _)| *known == id) {
        return Err(Fault::PageTwice { page: id });
    }
    let len = |page: &Region| page.region_len();
    let found = pages.iter().map(|(_, page)| len(page)).sum::<usize>() + len(&page);
    let budget = limits.broadcast_receiver_budget();
    if found > budget {
        return Err(Fault::OverBudget { found, budget });
    }
    pages.push((id, page));
    Ok(())
}

/// Requests the sender's credentials with the first packet. Call it before sending a packet that is
/// answered.
pub(crate) fn await_credentials(socket: &mut Socket) -> Result<(), ConnectError> {
    let system = |source| ConnectError::System { step: "ask for credentials", source };
    socket.await_credentials().map_err(system)
}

/// Returns the first packet of the other side and its sender's credentials. The sender is the peer
/// from now on.
pub(crate) fn first_answer(
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
pub(crate) fn answer(
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
        let waited = socket.wait(false, Some(deadline));
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

pub(crate) fn fault(error: WireError) -> ConnectError {
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

/// Validates a `Hello` on the accepting side.
pub(crate) fn check_hello(packet: Packet, offered: Roles) -> Result<Roles, HelloError> {
    match packet {
        Packet::Hello { version, .. } if version != VERSION => {
            Err(HelloError::Refused(Refusal::Version { broker: VERSION }))
        }
        Packet::Hello { roles, .. } if !offered.has(roles) => {
            Err(HelloError::Refused(Refusal::Roles))
        }
        Packet::Hello { roles, .. } => Ok(roles),
        packet => Err(HelloError::Wire(packet.unexpected("before the greeting"))),
    }
}

/// Why a `Hello` is rejected.
#[derive(Debug)]
pub(crate) enum HelloError {
    Refused(Refusal),
    Wire(WireError),
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

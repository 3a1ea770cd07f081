//! Channels between two processes, without a broker. A channel has one sender and one receiver, and
//! uses the same chain and the same connection as a bus.

use crate::bus_addr::BusAddr;
use crate::connection::Halves;
use crate::core::limits::Limits;
use crate::core::wire::Roles;
use crate::error::ConnectError;
use crate::handshake::{Handshake, open};
use crate::listener::Welcoming;
use crate::peer_filter::PeerFilter;
use crate::receiver::{Receiver, Settings};
use crate::sender::Sender;
use crate::socket::Socket;
use std::os::fd::OwnedFd;

/// Makes a channel between two threads of this process. Use [`Sender::over`] and [`Receiver::over`]
/// for a socket pair that a child inherits.
///
/// ```
/// let (mut sender, mut receiver) = llmp::channel()?;
/// sender.send(1, b"over shared memory")?;
/// assert_eq!(receiver.recv()?.payload, b"over shared memory");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Returns [`ConnectError`] if the kernel has no memory or no descriptors.
pub fn channel() -> Result<(Sender, Receiver), ConnectError> {
    let step = "make a pair of sockets";
    let pair = Socket::pair().map_err(|source| ConnectError::System { step, source })?;
    // Both sides are in one thread, so their steps alternate.
    let greeted = Handshake::hello(pair.0, &PeerFilter::Everybody, Roles::SEND)?;
    let welcoming = Welcoming::new(pair.1, Limits::default(), PeerFilter::Everybody)?.greet()?;
    let joining = greeted.joining()?;
    let receiver = receiver(welcoming.finish()?)?;
    let halves = joining.finish(None)?;
    Ok((sender(halves)?, receiver))
}

/// Connects to the receiver of a channel.
pub(crate) fn connect(bus: &BusAddr) -> Result<Sender, ConnectError> {
    let access = PeerFilter::SameUser;
    let socket = open(bus, &access, false)?;
    sender(Handshake::hello(socket, &access, Roles::SEND)?.finish(None)?)
}

/// Makes the sending end over a socket.
pub(crate) fn send_over(socket: OwnedFd) -> Result<Sender, ConnectError> {
    let hello = Handshake::hello(Socket::from_fd(socket), &PeerFilter::Everybody, Roles::SEND)?;
    sender(hello.finish(None)?)
}

/// Makes the receiving end over a socket.
pub(crate) fn receive_over(socket: OwnedFd) -> Result<Receiver, ConnectError> {
    let (socket, limits) = (Socket::from_fd(socket), Limits::default());
    receiver(Welcoming::new(socket, limits, PeerFilter::Everybody)?.finish()?)
}

fn sender(halves: Halves) -> Result<Sender, ConnectError> {
    let (connection, mut outbound) = halves.sending()?;
    outbound.chain.set_reuse_distance(connection.limits.reuse_distance());
    Ok(Sender::new(connection, outbound))
}

/// Returns the receiving end.
pub(crate) fn receiver(halves: Halves) -> Result<Receiver, ConnectError> {
    let (connection, inbound) = halves.receiving()?;
    // A sender chooses the id in its messages. The channel has only one sender, so no message is
    // left out.
    Ok(Receiver::new(connection, inbound, Settings::default()))
}

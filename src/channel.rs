//! A channel between two processes, without a broker. It has one sender and one receiver, and uses
//! the same chain and the same connection as a bus.

use crate::bus_addr::BusAddr;
use crate::client::{Client, open};
use crate::connection::Connection;
use crate::core::chain::Stats;
use crate::core::handshake::{Receiving, Rejected};
use crate::core::limits::Limits;
use crate::core::memory::Region;
use crate::core::message::{ClientId, Envelope, Message, Tag};
use crate::core::wire::{Packet, Refusal, Roles};
use crate::error::{
    BindError, ConnectError, Disconnected, HeldUp, RecvError, SendError, WaitError,
};
use crate::handshake::{
    HANDSHAKE_TIMEOUT, Handshake, attach, await_credentials, control_region, send, understand,
};
use crate::peer_filter::PeerFilter;
use crate::place::Bound;
use crate::socket::{Socket, wait_for_any};
use crate::sys::fork::Owner;
use crate::sys::memfd::ReceivedFd;
use crate::sys::system::os_page;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    let greeted = Handshake::hello(pair.0, Roles::SEND)?;
    let welcoming = Welcoming::new(pair.1, Limits::default(), PeerFilter::Everybody)?.greet()?;
    let joined = greeted.join(&PeerFilter::Everybody)?;
    let receiver = welcoming.finish()?;
    let (connection, broker) = joined.start()?;
    Ok((Sender::at(connection, broker), Receiver::at(receiver)))
}

/// The sending end of a channel, or a client of a bus that only sends ([`Client::connect_sender`]).
#[derive(Debug)]
pub struct Sender(pub(crate) Client);

/// The receiving end of a channel, or a client of a bus that only receives
/// ([`Client::connect_receiver`]).
#[derive(Debug)]
pub struct Receiver(pub(crate) Client);

/// Waits for the sending ends of channels. See [`Receiver::listen`] for an example.
#[derive(Debug)]
pub struct Listener {
    owner: Owner,
    bound: Bound,
    limits: Limits,
    access: PeerFilter,
    /// Senders that have not finished the handshake. The oldest one is the first.
    joining: Mutex<VecDeque<Welcoming>>,
}

impl Sender {
    /// Connects to a channel's receiver by the name or path where it [listens](Receiver::listen).
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect(bus: impl Into<BusAddr>) -> Result<Self, ConnectError> {
        Self::handshake(open(&bus.into(), &PeerFilter::SameUser, false)?, &PeerFilter::SameUser)
    }

    /// Makes the channel over a connected `SOCK_SEQPACKET` socket. The other end must call
    /// [`Receiver::over`] at the same time.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the other end does not complete the handshake of a receiver.
    pub fn over(socket: OwnedFd) -> Result<Self, ConnectError> {
        Self::handshake(Socket::from_fd(socket), &PeerFilter::Everybody)
    }

    fn handshake(socket: Socket, access: &PeerFilter) -> Result<Self, ConnectError> {
        let (connection, broker) = Handshake::hello(socket, Roles::SEND)?.join(access)?.start()?;
        Ok(Self::at(connection, broker))
    }

    fn at(mut connection: Connection, broker: u64) -> Self {
        let reuse_distance = connection.limits.reuse_distance();
        if let Some(outbound) = connection.link.outbound_mut() {
            outbound.set_reuse_distance(reuse_distance);
        }
        Sender(Client::at(connection, broker))
    }

    /// Sends a message and waits for room if the chain is full.
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. No part of the message was written then.
    pub fn send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        self.0.send(tag, payload)
    }

    /// Sends a message with flags or an origin and waits for room if the chain is full.
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. No part of the message was written then.
    pub fn send_envelope(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        self.0.send_envelope(envelope, payload)
    }

    /// Sends a message that `fill` writes in place, see [`Client::send_with`].
    ///
    /// # Errors
    ///
    /// Returns [`SendError`] in the outer result and the error of `fill` in the inner one.
    pub fn send_with<E>(
        &mut self,
        envelope: Envelope,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, SendError> {
        self.0.send_with(envelope, len, fill)
    }

    /// Claims room for a message that is written in place, see [`Client::claim`].
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. Nothing is claimed then.
    pub fn claim(
        &mut self,
        envelope: Envelope,
        len: usize,
    ) -> Result<crate::client::Claim<'_>, SendError> {
        self.0.claim(envelope, len)
    }

    /// Claims room for a message if there is room. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if there is no room, or another [`SendError`]. Nothing is claimed
    /// then.
    pub fn try_claim(
        &mut self,
        envelope: Envelope,
        len: usize,
    ) -> Result<crate::client::Claim<'_>, SendError> {
        self.0.try_claim(envelope, len)
    }

    /// Sends a message and waits for room until the deadline.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if no room appeared before the deadline, or another
    /// [`SendError`]. No part of the message was written then.
    pub fn send_deadline(
        &mut self,
        tag: impl Into<Tag>,
        payload: &[u8],
        deadline: Instant,
    ) -> Result<(), SendError> {
        self.0.send_deadline(tag, payload, deadline)
    }

    /// Sends a message and waits for room for at most `timeout`, see [`Client::send_timeout`].
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if no room appeared in time, or another [`SendError`]. No part
    /// of the message was written then.
    pub fn send_timeout(
        &mut self,
        tag: impl Into<Tag>,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<(), SendError> {
        self.0.send_timeout(tag, payload, timeout)
    }

    /// Returns this client's id on the bus, or 1 in a channel.
    pub fn id(&self) -> ClientId {
        self.0.id()
    }

    /// Returns why the connection ended, or `None` while it is open.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut sender, receiver) = llmp::channel()?;
    /// assert_eq!(sender.ended(), None);
    /// drop(receiver);
    /// assert_eq!(sender.ended(), Some(llmp::Disconnected::Closed));
    /// # Ok(()) }
    /// ```
    pub fn ended(&mut self) -> Option<Disconnected> {
        self.0.ended()
    }

    /// Returns the number of clients that receive now, or `None` in a channel.
    pub fn receivers(&mut self) -> Option<usize> {
        self.0.receivers()
    }

    /// Waits until at least `count` clients receive, see [`Client::wait_for_receivers`].
    ///
    /// # Errors
    ///
    /// Returns [`WaitError::NotTracking`] in a channel, which has one receiver. Returns
    /// [`WaitError::Disconnected`] if the connection ends first.
    pub fn wait_for_receivers(
        &mut self,
        count: usize,
        deadline: Option<Instant>,
    ) -> Result<bool, WaitError> {
        self.0.wait_for_receivers(count, deadline)
    }

    /// Returns the receiver that holds up the bus, see [`Client::held_up`]. Returns `None` in a
    /// channel.
    pub fn held_up(&mut self) -> Option<HeldUp> {
        self.0.held_up()
    }

    /// Sends a message if there is room. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if there is no room, or another [`SendError`]. No part of the
    /// message was written then.
    #[inline]
    pub fn try_send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        self.0.try_send(tag, payload)
    }

    /// Begins a batch. All its messages become visible at once.
    pub fn batch(&mut self) -> crate::client::Batch<'_> {
        self.0.batch()
    }

    /// Waits until the receiver has consumed all sent messages.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Disconnected`] if the connection ends first.
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.0.flush()
    }

    /// Waits until the receiver has consumed all sent messages, for at most `timeout`. Returns
    /// whether it has consumed them.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Disconnected`] if the connection ends first.
    pub fn flush_timeout(&mut self, timeout: Duration) -> Result<bool, SendError> {
        self.0.flush_timeout(timeout)
    }

    /// Returns the limits of the channel, which the receiver sets.
    pub fn limits(&self) -> &Limits {
        self.0.limits()
    }

    /// Returns the counters of the chain.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

impl Receiver {
    /// Listens for senders at a name or path.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("channel");
    /// let listener = llmp::Receiver::listen(&path)?;
    /// let sending = std::thread::spawn(move || {
    ///     let mut sender = llmp::Sender::connect(path).unwrap();
    ///     sender.send(1, b"hello").unwrap();
    /// });
    /// let mut receiver = listener.accept()?;
    /// assert_eq!(receiver.recv()?.payload, b"hello");
    /// # sending.join().unwrap();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`BindError`] if the place cannot be used. Its text says what to do.
    pub fn listen(bus: impl Into<BusAddr>) -> Result<Listener, BindError> {
        Self::listen_with(bus, Limits::default())
    }

    /// Listens for senders at a name or path, with other limits.
    ///
    /// # Errors
    ///
    /// Returns [`BindError`] if the place cannot be used. Its text says what to do.
    pub fn listen_with(bus: impl Into<BusAddr>, limits: Limits) -> Result<Listener, BindError> {
        let limits = limits.in_pages_of(os_page())?;
        let bound = Bound::at(&bus.into(), &PeerFilter::SameUser)?;
        bound.listener.set_nonblocking().map_err(|source| {
            let step = "make the listener non-blocking";
            BindError::System { step, source }
        })?;
        let (owner, access, joining) = (Owner::here(), PeerFilter::SameUser, Mutex::default());
        Ok(Listener { owner, bound, limits, access, joining })
    }

    /// Makes the channel over a connected `SOCK_SEQPACKET` socket. The other end must call
    /// [`Sender::over`] at the same time.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the other end does not complete the handshake of a sender.
    pub fn over(socket: OwnedFd) -> Result<Self, ConnectError> {
        Self::handshake(Socket::from_fd(socket), Limits::default(), PeerFilter::Everybody)
    }

    fn handshake(socket: Socket, limits: Limits, access: PeerFilter) -> Result<Self, ConnectError> {
        Ok(Self::at(Welcoming::new(socket, limits, access)?.finish()?))
    }

    fn at(connection: Connection) -> Self {
        // A sender chooses the id in its messages. The channel has only one sender, so no message
        // counts as an own one.
        Receiver(Client::at(connection, 0).with_own_messages())
    }

    /// Returns the next message and waits for it if there is none.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive. Messages that arrived before are
    /// received first.
    pub fn recv(&mut self) -> Result<Message<'_>, RecvError> {
        self.0.recv()
    }

    /// Returns the next message, or `None` if there is none now. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Message<'_>>, RecvError> {
        self.0.try_recv()
    }

    /// Returns the next message and waits for it until the deadline. Returns `None` if the deadline
    /// passes.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Option<Message<'_>>, RecvError> {
        self.0.recv_deadline(deadline)
    }

    /// Returns the next message and waits for it for at most `timeout`. Returns `None` if the time
    /// passes.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message<'_>>, RecvError> {
        self.0.recv_timeout(timeout)
    }

    /// Returns an iterator over the messages, with copied payloads, see [`Client::iter`].
    pub fn iter(&mut self) -> crate::client::Messages<'_> {
        self.0.iter()
    }

    /// Waits until there is a message to receive or the deadline passes. Returns whether there is a
    /// message.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    pub fn wait_for_message(&mut self, deadline: Option<Instant>) -> Result<bool, RecvError> {
        self.0.wait_for_message(deadline)
    }

    /// Prepares a sleep in the caller's own event loop, see [`Client::prepare_wait`].
    pub fn prepare_wait(&mut self) -> crate::Wait {
        self.0.prepare_wait()
    }

    /// Returns later payloads without a copy, in the sender's pages. `promise` states that the
    /// sender is trusted. Has no effect on a receiver of a bus, because its broker must know the
    /// promise beforehand. Use
    /// [`ClientBuilder::borrow_payloads`](crate::ClientBuilder::borrow_payloads) there.
    pub fn borrow_payloads(&mut self, promise: crate::core::memory::TrustPeers) {
        self.0.set_trusted(promise);
    }
}

impl AsFd for Sender {
    /// Returns a descriptor that becomes readable when the connection or the peer's process ends.
    /// Packets of the peer make it readable, too. [`ended`](Sender::ended) reads them.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Sender {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Listener {
    /// Sets which users are admitted. The default is the user of this process.
    #[must_use]
    pub fn access(mut self, access: PeerFilter) -> Self {
        if self.owner.is_here()
            && let Err(error) = self.bound.open_to(&access)
        {
            log::warn!("the socket can't be opened to other users: {error}");
        }
        self.access = access;
        self
    }

    /// Waits for the next sender and returns the receiver of its channel. Each sender has its own
    /// channel.
    ///
    /// Several senders may be in the handshake at once, so a silent one does not delay the others.
    /// `accept` returns the first one that finishes. The others wait for the next call. Each sender
    /// has 10 seconds. With more than 64 senders, the oldest is disconnected.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if a process that connects is not a sender, is not admitted, or
    /// does not join in time. The listener goes on. Returns [`ConnectError::Forked`] in a forked
    /// child of the listening process.
    pub fn accept(&self) -> Result<Receiver, ConnectError> {
        if !self.owner.is_here() {
            return Err(ConnectError::Forked);
        }
        let mut joining = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(connection) = self.next_joined(&mut joining)? {
                return Ok(Receiver::at(connection));
            }
            if self.take_newcomer(&mut joining)? {
                continue;
            }
            let deadline = joining.front().map(|oldest| oldest.deadline);
            let sockets = joining.iter().map(|welcoming| &welcoming.socket);
            wait_for_any(&self.bound.listener, sockets, deadline)
                .map_err(system("wait for a connection"))?;
        }
    }

    /// Advances all handshakes as far as possible without waiting. Returns the first one that has
    /// finished.
    fn next_joined(
        &self,
        joining: &mut VecDeque<Welcoming>,
    ) -> Result<Option<Connection>, ConnectError> {
        for i in 0..joining.len() {
            while let Some(welcoming) = joining.get_mut(i) {
                let received = welcoming.next();
                if matches!(received, Ok(None)) {
                    if Instant::now() < welcoming.deadline {
                        break;
                    }
                    joining.remove(i);
                    return Err(ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() });
                }
                let Some(welcoming) = joining.remove(i) else { break };
                let Some((packet, descriptor)) = received? else { break };
                match welcoming.take(packet, descriptor)? {
                    Progress::Joined(connection) => return Ok(Some(*connection)),
                    Progress::Waits(welcoming) => joining.insert(i, *welcoming),
                }
            }
        }
        Ok(None)
    }

    /// Accepts a connection. Returns whether there was one.
    fn take_newcomer(&self, joining: &mut VecDeque<Welcoming>) -> Result<bool, ConnectError> {
        let socket = match self.bound.listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            accepted => accepted.map_err(system("accept a connection"))?,
        };
        let peer = socket.credentials().map_err(system("ask who connects"))?;
        if !self.access.admits(peer) {
            send(&socket, &Packet::Refused(Refusal::User), None)?;
            return Err(ConnectError::Stranger { user: peer.user });
        }
        if joining.len() == JOINING_AT_ONCE {
            log::warn!("{JOINING_AT_ONCE} connections have not joined; the oldest is disconnected");
            joining.pop_front();
        }
        joining.push_back(Welcoming::new(socket, self.limits, self.access.clone())?);
        Ok(true)
    }
}

/// The most senders in the handshake with one listener.
const JOINING_AT_ONCE: usize = 64;

fn system(step: &'static str) -> impl FnOnce(io::Error) -> ConnectError {
    move |source| ConnectError::System { step, source }
}

/// The connection of a sender that has not joined.
#[derive(Debug)]
struct Welcoming {
    socket: Socket,
    limits: Limits,
    access: PeerFilter,
    deadline: Instant,
    /// Our end, once the sender was welcomed.
    receiving: Option<Receiving<Region>>,
}

/// The state of the handshake after a packet.
enum Progress {
    Waits(Box<Welcoming>),
    Joined(Box<Connection>),
}

impl Welcoming {
    fn new(mut socket: Socket, limits: Limits, access: PeerFilter) -> Result<Self, ConnectError> {
        await_credentials(&mut socket)?;
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        Ok(Welcoming { socket, limits, access, deadline, receiving: None })
    }

    /// Returns the next packet, if it has arrived. Accepts the first one only from a user that is
    /// admitted.
    fn next(&mut self) -> Result<Option<(Packet, Option<ReceivedFd>)>, ConnectError> {
        // Checked before the receive, so that packets from before the peer's death still count.
        let has_died = self.socket.peer().has_died();
        let received = match self.receiving {
            None => {
                let (received, sender) = self.socket.receive_first(false);
                if let Some(sender) = sender.filter(|sender| !self.access.admits(*sender)) {
                    send(&self.socket, &Packet::Refused(Refusal::User), None)?;
                    return Err(ConnectError::Stranger { user: sender.user });
                }
                received
            }
            Some(_) => self.socket.receive(),
        };
        match understand(received)? {
            None if has_died => Err(Disconnected::PeerDied.into()),
            next => Ok(next),
        }
    }

    /// Waits for the next packet.
    fn wait(&mut self) -> Result<(Packet, Option<ReceivedFd>), ConnectError> {
        loop {
            if let Some(next) = self.next()? {
                return Ok(next);
            }
            let waited = self.socket.wait(false, Some(self.deadline));
            if !waited.map_err(system("wait for a sender"))? {
                return Err(ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() });
            }
        }
    }

    /// Waits for the `Hello` and answers it.
    fn greet(mut self) -> Result<Self, ConnectError> {
        let (packet, descriptor) = self.wait()?;
        match self.take(packet, descriptor)? {
            Progress::Waits(welcoming) => Ok(*welcoming),
            Progress::Joined(_) => Err(Disconnected::PeerDied.into()),
        }
    }

    /// Waits until the sender has joined.
    fn finish(mut self) -> Result<Connection, ConnectError> {
        loop {
            let (packet, descriptor) = self.wait()?;
            match self.take(packet, descriptor)? {
                Progress::Joined(connection) => return Ok(*connection),
                Progress::Waits(welcoming) => self = *welcoming,
            }
        }
    }

    /// Handles the next packet and answers it.
    fn take(
        mut self,
        packet: Packet,
        mut descriptor: Option<ReceivedFd>,
    ) -> Result<Progress, ConnectError> {
        let Some(receiving) = &mut self.receiving else {
            self.receiving = Some(welcome(&self.socket, &packet, self.limits)?);
            return Ok(Progress::Waits(Box::new(self)));
        };
        let taken = receiving.take(packet, attach(packet, &mut descriptor));
        let Some((link, start)) = taken.map_err(Disconnected::from)? else {
            return Ok(Progress::Waits(Box::new(self)));
        };
        send(&self.socket, &start, None)?;
        let connection = Connection::new(self.socket, link, self.limits, ClientId(0));
        Ok(Progress::Joined(Box::new(connection)))
    }
}

/// Answers a `Hello`.
fn welcome(
    socket: &Socket,
    hello: &Packet,
    limits: Limits,
) -> Result<Receiving<Region>, ConnectError> {
    let checked = Receiving::<Region>::hello(hello);
    if let Err(Rejected::Refused(refusal)) = checked {
        send(socket, &Packet::Refused(refusal), None)?;
    }
    checked?;
    let (receiving, welcome) = Receiving::welcome(control_region(1)?, limits);
    send(socket, &welcome, Some(receiving.control()))?;
    Ok(receiving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::bound;

    // P12
    #[test]
    fn each_connection_has_ten_seconds_of_its_own_to_join() {
        let row = bound("connections to a channel's listener that have not joined");
        assert_eq!(row, format!("{JOINING_AT_ONCE}, each for 10 seconds, side by side"));
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("channel");
        let (listener, began) = (Receiver::listen(&path).unwrap(), Instant::now());
        let (ten_seconds, mut joining) = (Duration::from_secs(10), VecDeque::new());
        let connect = |joining: &mut VecDeque<Welcoming>| {
            let socket = Socket::connect(&path, Instant::now()).unwrap();
            assert!(listener.take_newcomer(joining).unwrap());
            socket
        };
        let _silent = [connect(&mut joining), connect(&mut joining)];
        assert!(joining[0].deadline >= began + ten_seconds);
        assert!(joining[0].deadline < joining[1].deadline);
        assert!(joining[1].deadline <= Instant::now() + ten_seconds);
        assert!(matches!(listener.next_joined(&mut joining), Ok(None)));
        // The second one's time is up.
        joining[0].deadline += HANDSHAKE_TIMEOUT;
        joining[1].deadline = Instant::now();
        let error = listener.next_joined(&mut joining).unwrap_err();
        assert!(matches!(error, ConnectError::Silent { seconds: 10 }), "{error}");
        assert_eq!(joining.len(), 1);
        assert!(matches!(listener.next_joined(&mut joining), Ok(None)));
    }
}

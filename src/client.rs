//! A client of a bus.

mod batch;
mod builder;
mod claim;
mod iter;

pub use batch::Batch;
pub use builder::ClientBuilder;
pub use claim::Claim;
pub use iter::Messages;

use crate::bus_addr::BusAddr;
use crate::channel::{Receiver, Sender};
use crate::connection::Connection;
use crate::core::chain::{ChainWriter, Peek, Stats};
use crate::core::fault::Fault;
use crate::core::limits::Limits;
use crate::core::link::Interest;
use crate::core::memory::{Region, TrustPeers};
use crate::core::message::{ClientId, Envelope, Message, Slot, Tag};
use crate::error::{
    ConnectError, Disconnected, HeldUp, PathTooLong, RecvError, SendError, WaitError,
};
use crate::handshake::HANDSHAKE_TIMEOUT;
use crate::peer_filter::PeerFilter;
use crate::socket::Socket;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

/// Messages and payload bytes moved to the inbox before the next check for room. Other clients may
/// send as fast as the inbox fills, while room exists already.
const FILLED_AT_ONCE: usize = 256;
const BYTES_FILLED_AT_ONCE: usize = 256 * 1024;

/// Own messages skipped in one call of [`Client::try_recv`].
const OWN_AT_ONCE: usize = 4096;

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

/// Messages that arrived while the client waited for room to send.
#[derive(Debug, Default)]
struct Inbox {
    messages: VecDeque<(Envelope, u64, Vec<u8>)>,
    bytes: usize,
    limit: usize,
}

impl Inbox {
    /// Returns the memory that a queued message takes, in bytes.
    fn cost(payload: &[u8]) -> usize {
        payload.len() + size_of::<(Envelope, u64, Vec<u8>)>() + 32
    }
}

/// A client of a bus. It sends to all other clients and receives their messages.
///
/// ```no_run
/// let mut client = llmp::Client::connect("logs")?;
/// client.send(7, b"hello")?;
/// let message = client.recv()?;
/// println!("{} says {:?}", message.sender, message.payload);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A client that waits in its own event loop calls [`prepare_wait`](Client::prepare_wait) first. It
/// then polls the descriptor ([`AsFd`]) for reading.
///
/// # Forks
///
/// A client belongs to the process that connects. In a forked child each operation returns
/// [`Disconnected::Forked`]. Dropping the client there leaves the parent's connection unchanged. A
/// child connects anew, as `examples/fork_server.rs` shows.
///
/// A payload that was [borrowed](ClientBuilder::borrow_payloads) before the fork may change in the
/// child when the parent goes on. Copy it before the fork. A long-running child should drop its
/// parent's clients. Before Linux 6.5, other processes may not detect the parent's death while the
/// child holds them.
///
/// The same rules hold for a [`Sender`] and a [`Receiver`].
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    broker: u64,
    own_messages: bool,
    trusted: Option<TrustPeers>,
    inbox: Inbox,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects to a bus by its name or path, to send and to receive.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect(bus: impl Into<BusAddr>) -> Result<Client, ConnectError> {
        Self::builder().connect(bus)
    }

    /// Connects to send only. A process that never receives should use this function. A [`Client`]
    /// that never receives holds up the bus when the broadcast chain is full.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let broker = llmp::Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// let mut receiver = llmp::Client::connect_receiver(&bus)?;
    /// let mut sender = llmp::Client::connect_sender(&bus)?;
    /// sender.send(7, b"hello")?;
    /// assert_eq!(receiver.recv()?.payload, b"hello");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect_sender(bus: impl Into<BusAddr>) -> Result<Sender, ConnectError> {
        Self::builder().connect_sender(bus)
    }

    /// Connects to receive only. See [`connect_sender`](Client::connect_sender) for an example.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect_receiver(bus: impl Into<BusAddr>) -> Result<Receiver, ConnectError> {
        Self::builder().connect_receiver(bus)
    }

    /// Returns a builder for other settings.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let broker = llmp::Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// let mut client = llmp::Client::builder().own_messages().connect(&bus)?;
    /// client.send(7, b"hello")?;
    /// assert_eq!(client.recv()?.payload, b"hello");
    /// # Ok(()) }
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn at(connection: Connection, broker: u64) -> Client {
        let inbox = Inbox::default();
        Client { connection, broker, own_messages: false, trusted: None, inbox, buffer: Vec::new() }
    }

    pub(crate) fn with_own_messages(mut self) -> Self {
        self.own_messages = true;
        self
    }

    pub(crate) fn set_tracks_receivers(&mut self) {
        self.connection.tracks_receivers = true;
    }

    /// Sets the promise for a channel. On a bus the broker has to know the promise before it admits
    /// a client, so the builder sets it.
    pub(crate) fn set_trusted(&mut self, promise: TrustPeers) {
        let has_place = self.connection.link.inbound().is_some_and(|inbound| inbound.has_place());
        self.trusted = self.trusted.or(Some(promise).filter(|_| !has_place));
    }

    /// Returns the client's id on the bus.
    pub fn id(&self) -> ClientId {
        self.connection.id
    }

    /// Returns the broker's id. A restarted broker has another id.
    pub fn broker_id(&self) -> u64 {
        self.broker
    }

    /// Returns the limits of the bus.
    pub fn limits(&self) -> &Limits {
        &self.connection.limits
    }

    /// Returns the counters of this client's own chain.
    pub fn stats(&self) -> Stats {
        self.connection.stats()
    }

    /// Sends a message and waits for room if the chain is full. Meanwhile the client moves received
    /// messages to its inbox. So clients that all send at once cannot deadlock (P9).
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. No part of the message was written then.
    pub fn send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        self.send_envelope(Envelope::tagged(tag), payload)
    }

    /// Sends a message with flags or an origin. Waits for room like [`send`](Client::send).
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. No part of the message was written then.
    pub fn send_envelope(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        self.send_envelope_by(envelope, payload, None)
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
        self.send_envelope_by(Envelope::tagged(tag), payload, Some(deadline))
    }

    /// Sends a message and waits for room for at most `timeout`.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use llmp::SendError;
    /// use std::time::Duration;
    ///
    /// let (mut sender, receiver) = llmp::channel()?;
    /// let full = loop {
    ///     if let Err(error) = sender.send_timeout(1, &[7; 4096], Duration::from_millis(10)) {
    ///         break error;
    ///     }
    /// };
    /// assert!(matches!(full, SendError::Full { .. }));
    /// # drop(receiver);
    /// # Ok(()) }
    /// ```
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
        // A timeout that overflows the clock means no deadline.
        self.send_envelope_by(Envelope::tagged(tag), payload, Instant::now().checked_add(timeout))
    }

    /// Sends a message with flags or an origin and waits for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if no room appeared in time, or another [`SendError`]. No part
    /// of the message was written then.
    pub fn send_envelope_timeout(
        &mut self,
        envelope: Envelope,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<(), SendError> {
        // A timeout that overflows the clock means no deadline.
        self.send_envelope_by(envelope, payload, Instant::now().checked_add(timeout))
    }

    fn send_envelope_by(
        &mut self,
        envelope: Envelope,
        payload: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        loop {
            match self.try_send_envelope(envelope, payload) {
                Err(full @ SendError::Full { .. })
                    if deadline.is_some_and(|d| d <= Instant::now()) =>
                {
                    return Err(full);
                }
                Err(SendError::Full { .. }) => {
                    self.wait_for_room(&envelope, payload.len(), deadline)?
                }
                other => return other,
            }
        }
    }

    /// Sends a message if there is room. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if there is no room, or another [`SendError`]. No part of the
    /// message was written then.
    #[inline]
    pub fn try_send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        self.try_send_envelope(Envelope::tagged(tag), payload)
    }

    /// Sends a message with flags or an origin if there is room. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if there is no room, or another [`SendError`]. No part of the
    /// message was written then.
    #[inline(always)]
    pub fn try_send_envelope(
        &mut self,
        envelope: Envelope,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let envelope = Envelope { sender: self.connection.id, ..envelope };
        self.connection.try_send(envelope, payload)
    }

    /// Sends a message of `len` bytes that `fill` writes in place, without a copy. Waits for room
    /// like [`send`](Client::send). The initial content of the slice is unspecified. If `fill`
    /// fails, no message is sent.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut sender, mut receiver) = llmp::channel()?;
    /// sender.send_with(llmp::Envelope::tagged(1), 4, |payload| {
    ///     payload.copy_from_slice(b"data");
    ///     Ok::<(), std::convert::Infallible>(())
    /// })??;
    /// assert_eq!(receiver.recv()?.payload, b"data");
    /// # Ok(()) }
    /// ```
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
        let mut claim = self.claim(envelope, len)?;
        if let Err(error) = fill(claim.payload_mut()) {
            return Ok(Err(error));
        }
        claim.commit().map(Ok)
    }

    /// Claims room for a message of `len` bytes, to write it in place and without a copy. Waits for
    /// room like [`send`](Client::send). See [`Claim`] for an example.
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. Nothing is claimed then.
    pub fn claim(&mut self, envelope: Envelope, len: usize) -> Result<Claim<'_>, SendError> {
        loop {
            match Claim::reserve(self, envelope, len) {
                Err(SendError::Full { .. }) => self.wait_for_room(&envelope, len, None)?,
                Err(error) => return Err(error),
                Ok(()) => return Ok(Claim::reserved(self, envelope, len)),
            }
        }
    }

    /// Claims room for a message if there is room. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if there is no room, or another [`SendError`]. Nothing is claimed
    /// then.
    pub fn try_claim(&mut self, envelope: Envelope, len: usize) -> Result<Claim<'_>, SendError> {
        Claim::reserve(self, envelope, len)?;
        Ok(Claim::reserved(self, envelope, len))
    }

    /// Begins a batch. All its messages become visible at once, by one store, with one wake-up.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Waits until there may be room for a message or the deadline passes.
    #[cold]
    fn wait_for_room(
        &mut self,
        envelope: &Envelope,
        len: usize,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        if self.inbox.bytes > self.inbox.limit {
            return Err(SendError::InboxFull { bytes: self.inbox.bytes });
        }
        self.fill_inbox();
        let message = self.connection.link.inbound().is_some();
        let room = Some(ChainWriter::<Region>::room_for(envelope, len));
        self.connection.wait(Interest { message, room, consumed: false }, deadline);
        Ok(())
    }

    /// Moves received messages to the inbox, up to a bound. The bound keeps a steady stream from
    /// filling the inbox in one call.
    fn fill_inbox(&mut self) {
        let enough = self.inbox.limit.min(self.inbox.bytes + BYTES_FILLED_AT_ONCE);
        for _ in 0..FILLED_AT_ONCE {
            if self.inbox.bytes > enough {
                return;
            }
            // The caller's next call reports a broken connection.
            let Ok(Some(slot)) = self.next() else { return };
            let Some(inbound) = self.connection.link.inbound_mut() else { return };
            let (envelope, seq) = (inbound.envelope(&slot), inbound.next_message());
            let mut payload = vec![0; slot.payload_len()];
            inbound.read(&slot, &mut payload);
            if !inbound.is_whole() {
                self.connection.removed();
                return;
            }
            inbound.advance(&slot);
            self.inbox.bytes += Inbox::cost(&payload);
            self.inbox.messages.push_back((envelope, seq, payload));
        }
    }

    /// Returns the next message for this client without consuming it.
    fn next(&mut self) -> Result<Option<Slot>, RecvError> {
        // Bounds the own messages skipped in one call, so that deadlines hold against any broker.
        for _ in 0..OWN_AT_ONCE {
            let Some(slot) = self.connection.next()? else { return Ok(None) };
            if self.is_for_us(&slot) {
                return Ok(Some(slot));
            }
            let Some(inbound) = self.connection.link.inbound_mut() else { return Ok(None) };
            inbound.advance(&slot);
        }
        Ok(None)
    }

    /// Returns the next message, or `None` if there is none now. Never waits.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut sender, mut receiver) = llmp::channel()?;
    /// assert!(receiver.try_recv()?.is_none());
    /// sender.send(1, b"hello")?;
    /// assert_eq!(receiver.try_recv()?.unwrap().payload, b"hello");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    #[inline(always)]
    pub fn try_recv(&mut self) -> Result<Option<Message<'_>>, RecvError> {
        match self.peek() {
            Some(Peek::Message(slot)) if self.is_for_us(&slot) => self.take(&slot).map(Some),
            Some(Peek::Nothing) => {
                self.connection.on_empty_poll();
                Ok(None)
            }
            _ => self.try_recv_elsewhere(),
        }
    }

    /// Returns the result of nearly every call: the next message or nothing. Returns `None` if
    /// other work comes first.
    #[inline(always)]
    fn peek(&self) -> Option<Peek> {
        if self.inbox.messages.is_empty() { self.connection.peek() } else { None }
    }

    #[inline(never)]
    fn try_recv_elsewhere(&mut self) -> Result<Option<Message<'_>>, RecvError> {
        // Peeks again. Passing the first result on would slow every other message down.
        if let Some(Peek::Other(raw)) = self.peek()
            && let Some(slot) = self.connection.link.peek_ref(raw)
            && self.is_for_us(&slot)
        {
            return self.take(&slot).map(Some);
        }
        self.connection.check_owner()?;
        if !self.inbox.messages.is_empty() {
            return Ok(self.pop_inbox());
        }
        let Some(slot) = self.next()? else { return Ok(None) };
        self.take(&slot).map(Some)
    }

    #[inline(always)]
    fn is_for_us(&self, slot: &Slot) -> bool {
        slot.sender() != self.connection.id || self.own_messages
    }

    /// Consumes the message in `slot` and returns it.
    #[inline(always)]
    fn take(&mut self, slot: &Slot) -> Result<Message<'_>, RecvError> {
        let inbound = self.connection.link.inbound().ok_or(RecvError::SendOnly)?;
        let (envelope, len) = (inbound.envelope(slot), slot.payload_len());
        let is_kept = match self.trusted {
            Some(_) => inbound.is_member(),
            None => {
                // The buffer grows to the longest message, which the limits bound. It is not
                // cleared between messages.
                if self.buffer.len() < len {
                    grow(&mut self.buffer, len);
                }
                inbound.read(slot, self.buffer.get_mut(..len).unwrap_or_default());
                inbound.is_whole()
            }
        };
        if !is_kept {
            return Err(self.connection.removed().into());
        }
        let inbound = self.connection.link.inbound_mut().ok_or(RecvError::SendOnly)?;
        let seq = inbound.next_message();
        inbound.advance(slot);
        let payload = match self.trusted {
            // The page stays valid until the next call moves the cursor, which needs `&mut self`.
            Some(promise) => {
                let (page, at) = inbound.payload(slot);
                page.bytes(at, len, promise)
            }
            None => &self.buffer[..len],
        };
        let Envelope { tag, flags, sender, origin } = envelope;
        Ok(Message { tag, flags, sender, seq, origin, payload })
    }

    #[cold]
    fn pop_inbox(&mut self) -> Option<Message<'_>> {
        let (envelope, seq, payload) = self.inbox.messages.pop_front()?;
        self.inbox.bytes -= Inbox::cost(&payload);
        self.buffer = payload;
        let Envelope { tag, flags, sender, origin } = envelope;
        Some(Message { tag, flags, sender, seq, origin, payload: &self.buffer })
    }

    /// Returns the next message and waits for it if there is none.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive. Messages that arrived before are
    /// received first.
    pub fn recv(&mut self) -> Result<Message<'_>, RecvError> {
        if let Some(Peek::Message(slot)) = self.peek()
            && self.is_for_us(&slot)
        {
            return self.take(&slot);
        }
        while !self.wait_for_message(None)? {}
        // The message is missing in two cases. The broker removed a committed message, or it
        // removed this client and reuses the page.
        match self.connection.link.is_whole() {
            false => Err(self.connection.removed().into()),
            true => self
                .try_recv()?
                .ok_or(RecvError::Disconnected(Disconnected::PeerFault(Fault::TakenBack))),
        }
    }

    /// Returns the next message and waits for it until the deadline. Returns `None` if the deadline
    /// passes.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Option<Message<'_>>, RecvError> {
        if self.wait_for_message(Some(deadline))? { self.try_recv() } else { Ok(None) }
    }

    /// Returns the next message and waits for it for at most `timeout`. Returns `None` if the time
    /// passes.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// let (sender, mut receiver) = llmp::channel()?;
    /// assert!(receiver.recv_timeout(Duration::from_millis(10))?.is_none());
    /// # drop(sender);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message<'_>>, RecvError> {
        // A timeout that overflows the clock means no deadline.
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.recv_deadline(deadline),
            None => self.recv().map(Some),
        }
    }

    /// Returns an iterator over the messages, with copied payloads. It waits for each message and
    /// ends with the connection.
    ///
    /// After an orderly end ([`Disconnected::Closed`]) it returns `None`. Any other end is returned
    /// as an error first.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut sender, mut receiver) = llmp::channel()?;
    /// sender.send(1, b"one")?;
    /// sender.send(2, b"two")?;
    /// drop(sender);
    /// let messages = receiver.iter().collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(messages[1].payload, b"two");
    /// # Ok(()) }
    /// ```
    pub fn iter(&mut self) -> Messages<'_> {
        Messages::new(self)
    }

    /// Waits until there is a message to receive or the deadline passes. Returns whether there is a
    /// message.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    #[inline]
    pub fn wait_for_message(&mut self, deadline: Option<Instant>) -> Result<bool, RecvError> {
        self.connection.check_owner()?;
        loop {
            if !self.inbox.messages.is_empty() || self.next()?.is_some() {
                return Ok(true);
            }
            let interest = Interest { message: true, ..Interest::default() };
            if !self.connection.wait(interest, deadline)
                || deadline.is_some_and(|d| d <= Instant::now())
            {
                return Ok(self.next()?.is_some());
            }
        }
    }

    /// Returns why the connection ended, or `None` while it is open. Messages that arrived before
    /// the end can still be received.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// let broker = llmp::Broker::bind(&bus)?;
    /// let stop = broker.stop_handle();
    /// let thread = std::thread::spawn(move || broker.run());
    /// let mut client = llmp::Client::connect(&bus)?;
    /// assert_eq!(client.ended(), None);
    /// stop.stop();
    /// thread.join().unwrap()?;
    /// assert_eq!(client.ended(), Some(llmp::Disconnected::Closed));
    /// # Ok(()) }
    /// ```
    pub fn ended(&mut self) -> Option<Disconnected> {
        self.connection.pump();
        self.connection.ended().cloned()
    }

    /// Returns the receiver that holds up the bus. The broker names it once this client's messages
    /// have waited for one second.
    pub fn held_up(&mut self) -> Option<HeldUp> {
        self.connection.pump();
        self.connection.held_up()
    }

    /// Waits until the broker has consumed all sent messages.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Disconnected`] if the connection ends first.
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.flush_by(None).map(drop)
    }

    /// Waits until the broker has consumed all sent messages, for at most `timeout`. Returns
    /// whether it has consumed them.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Disconnected`] if the connection ends first.
    pub fn flush_timeout(&mut self, timeout: Duration) -> Result<bool, SendError> {
        // A timeout that overflows the clock means no deadline.
        self.flush_by(Instant::now().checked_add(timeout))
    }

    fn flush_by(&mut self, deadline: Option<Instant>) -> Result<bool, SendError> {
        self.connection.check_owner()?;
        self.connection.discard_unfinished();
        let message = self.connection.link.inbound().is_some();
        let interest = Interest { message, room: None, consumed: true };
        loop {
            let consumed = Interest { consumed: true, ..Interest::default() };
            let is_consumed = self.connection.link.outbound().is_none()
                || self.connection.link.is_ready(consumed);
            if let Some(fault) = self.connection.link.take_fault() {
                return Err(self.connection.fail(fault).into());
            }
            if is_consumed {
                return Ok(true);
            }
            if let Some(ended) = self.connection.ended() {
                return Err(ended.clone().into());
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(false);
            }
            if self.inbox.bytes > self.inbox.limit {
                return Err(SendError::InboxFull { bytes: self.inbox.bytes });
            }
            self.fill_inbox();
            self.connection.wait(interest, deadline);
        }
    }

    /// Returns the number of clients that receive now, as last announced by the broker. Requires
    /// [`track_receivers`](ClientBuilder::track_receivers) or a [`Sender`]. Returns `None`
    /// otherwise, and in a forked child.
    pub fn receivers(&mut self) -> Option<usize> {
        self.connection.pump();
        let watches = self.connection.tracks_receivers && self.connection.owner().is_here();
        watches.then(|| self.connection.receivers.unwrap_or(0) as usize)
    }

    /// Waits until at least `count` clients receive or the deadline passes. Returns whether at
    /// least `count` clients receive.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let broker = llmp::Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// let receiver = llmp::Client::connect_receiver(&bus)?;
    /// let mut sender = llmp::Client::connect_sender(&bus)?;
    /// assert!(sender.wait_for_receivers(1, None)?);
    /// # drop(receiver);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`WaitError::NotTracking`] without
    /// [`track_receivers`](ClientBuilder::track_receivers). Returns [`WaitError::Disconnected`] if
    /// the connection ends first.
    pub fn wait_for_receivers(
        &mut self,
        count: usize,
        deadline: Option<Instant>,
    ) -> Result<bool, WaitError> {
        self.connection.check_owner()?;
        while self.receivers().ok_or(WaitError::NotTracking)? < count {
            if let Some(ended) = self.connection.ended() {
                return Err(ended.clone().into());
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(false);
            }
            self.connection.wait_for_packet(deadline);
        }
        Ok(true)
    }

    /// Prepares a sleep in the caller's own event loop. Make it the last call before each sleep,
    /// because every other call may consume the packet that ends the sleep.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use rustix::event::{PollFd, PollFlags, poll};
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let broker = llmp::Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// # let mut sender = llmp::Client::connect(&bus)?;
    /// # let mut client = llmp::Client::connect(&bus)?;
    /// # sender.send(1, b"hello")?;
    /// loop {
    ///     if let llmp::Wait::Readable { timeout } = client.prepare_wait() {
    ///         let timeout = timeout.map(TryInto::try_into).transpose()?;
    ///         poll(&mut [PollFd::new(&client, PollFlags::IN)], timeout.as_ref())?;
    ///     }
    ///     if let Some(message) = client.try_recv()? {
    ///         assert_eq!(message.payload, b"hello");
    ///         break;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn prepare_wait(&mut self) -> Wait {
        // No check for the peer's death is needed, because a dead peer makes the descriptor
        // readable.
        self.connection.drain();
        let interest = Interest { message: true, ..Interest::default() };
        if !self.inbox.messages.is_empty() || !self.connection.arm(interest) {
            return Wait::Ready;
        }
        Wait::Readable { timeout: self.connection.watch_at_most() }
    }
}

/// Tells an event loop how to wait, see [`Client::prepare_wait`] and
/// [`Broker::prepare_wait`](crate::Broker::prepare_wait).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Do not wait. There is a message, or the connection has ended. A broker has work, or is
    /// stopping.
    Ready,
    /// Wait until [`as_fd`](AsFd::as_fd) is readable.
    Readable {
        /// The longest wait. `None` means no limit. After the wait call
        /// [`try_recv`](Client::try_recv), whether or not the descriptor is readable.
        ///
        /// A limit is set in two cases. A wake-up may be missed after a stream that was received
        /// without a sleep, for as long as a store takes to reach another processor. Or the kernel
        /// had no memory for a wake-up of the peer, and the client retries it.
        timeout: Option<Duration>,
    },
}

#[cold]
fn grow(buffer: &mut Vec<u8>, len: usize) {
    buffer.resize(len, 0);
}

impl AsFd for Client {
    /// Returns a descriptor for the connection and the peer's process. After
    /// [`prepare_wait`](Client::prepare_wait) it becomes readable when there is something to
    /// receive. It also becomes readable when the connection or the peer's process ends. The first
    /// call creates the descriptor, and it stays the same.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.watched()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Broker;

    /// Calls `act` with two clients of a bus.
    fn with_two(act: impl FnOnce(Client, Client)) {
        let place = tempfile::tempdir().unwrap();
        let bus = place.path().join("bus");
        let broker = Broker::bind(&bus).unwrap();
        let stop = broker.stop_handle();
        let broker = std::thread::spawn(move || broker.run());
        act(Client::connect(&bus).unwrap(), Client::connect(&bus).unwrap());
        stop.stop();
        broker.join().unwrap().unwrap();
    }

    #[test]
    fn the_inbox_is_filled_in_bounded_portions() {
        const LEN: usize = 64 * 1024;
        with_two(|mut busy, mut waiting| {
            for _ in 0..64 {
                busy.send(1, &[1; LEN]).unwrap();
            }
            busy.flush().unwrap();
            waiting.fill_inbox();
            let moved = waiting.inbox.messages.len() * LEN;
            assert!((1..=BYTES_FILLED_AT_ONCE + LEN).contains(&moved), "{moved}");
        });
    }

    #[test]
    fn stops_reading_after_protocol_error() {
        with_two(|mut sender, mut receiver| {
            sender.send(1, b"first").unwrap();
            sender.send(1, b"second").unwrap();
            assert_eq!(receiver.recv().unwrap().payload, b"first");
            receiver.connection.fail(Fault::TakenBack);
            let ended = RecvError::Disconnected(Disconnected::PeerFault(Fault::TakenBack));
            assert_eq!(receiver.try_recv().unwrap_err(), ended);
            assert_eq!(receiver.recv().unwrap_err(), ended);
        });
    }
}

//! A client of a bus.

mod batch;
mod builder;

pub use batch::Batch;
pub use builder::ClientBuilder;

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
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Messages and payload bytes moved to the inbox before another look for room: others may send as
/// fast as we take in, and there may be room long since.
const FILLED_AT_ONCE: usize = 256;
const BYTES_FILLED_AT_ONCE: usize = 256 * 1024;

/// Own messages passed over in one call of [`Client::try_recv`].
const OWN_AT_ONCE: usize = 4096;

/// Connects to the socket of a bus, and checks which user listens there.
///
/// A bus that is not there is looked for elsewhere only if it is not waited for.
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

/// Messages that came in while the client waited for room to send.
#[derive(Debug, Default)]
struct Inbox {
    messages: VecDeque<(Envelope, u64, Vec<u8>)>,
    bytes: usize,
    limit: usize,
}

impl Inbox {
    /// What a waiting message takes in memory, in bytes.
    fn cost(payload: &[u8]) -> usize {
        payload.len() + size_of::<(Envelope, u64, Vec<u8>)>() + 32
    }
}

/// A client of a bus: it sends to all others and receives what they send.
///
/// ```no_run
/// let mut client = llmp::Client::connect("logs")?;
/// client.send(7, b"hello")?;
/// let message = client.recv()?;
/// println!("{} says {:?}", message.sender, message.payload);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A client that waits in an event loop of its own polls its descriptor ([`AsFd`]) for reading,
/// after [`prepare_wait`](Client::prepare_wait) has said that it may.
///
/// # Forks
///
/// A client belongs to the process that connects. In a forked child each operation answers
/// [`Disconnected::Forked`], and to drop the client leaves the parent's connection as it is. A child connects
/// anew; `examples/fork_server.rs` shows how.
///
/// A payload that was [borrowed](ClientBuilder::borrow_payloads) before the fork may change in the
/// child when the parent goes on: copy it before. A child that lives long drops its parent's
/// clients: before Linux 6.5, while it holds them, other processes may not hear of the parent's death.
///
/// All this holds for a [`Sender`] and a [`Receiver`], too.
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
    /// Connects to a bus by its name or path.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what to do about it.
    pub fn connect(bus: impl Into<BusAddr>) -> Result<Client, ConnectError> {
        Self::builder().connect(bus)
    }

    /// Connects to send only. A process that sends and does not receive should connect like this:
    /// a [`Client`] that never receives holds up the bus when the broadcast chain is full.
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
    /// [`ConnectError`] says what to do about it.
    pub fn connect_sender(bus: impl Into<BusAddr>) -> Result<Sender, ConnectError> {
        Self::builder().connect_sender(bus)
    }

    /// Connects to receive only.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] says what to do about it.
    pub fn connect_receiver(bus: impl Into<BusAddr>) -> Result<Receiver, ConnectError> {
        Self::builder().connect_receiver(bus)
    }

    /// How to connect otherwise.
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

    /// Only at the end of a channel. A broker must know before it lets a client in.
    pub(crate) fn set_trusted(&mut self, promise: TrustPeers) {
        let has_place = self.connection.link.inbound().is_some_and(|inbound| inbound.has_place());
        self.trusted = self.trusted.or(Some(promise).filter(|_| !has_place));
    }

    /// This client's id on the bus.
    pub fn id(&self) -> ClientId {
        self.connection.id
    }

    /// The broker's id: another one after a restart.
    pub fn broker_id(&self) -> u64 {
        self.broker
    }

    /// The limits of the bus.
    pub fn limits(&self) -> &Limits {
        &self.connection.limits
    }

    /// What this client's chain has done.
    pub fn stats(&self) -> Stats {
        self.connection.stats()
    }

    /// Sends a message and, if there is no room, waits for it. Meanwhile it takes in what is sent
    /// to it, so that clients that all send and nobody receives don't wait for each other for
    /// ever (P9).
    ///
    /// # Errors
    ///
    /// [`SendError`]; then nothing of the message was written.
    pub fn send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        self.send_envelope(Envelope::tagged(tag), payload)
    }

    /// Sends a message with flags or an origin, see [`send`](Client::send).
    ///
    /// # Errors
    ///
    /// [`SendError`]; then nothing of the message was written.
    pub fn send_envelope(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        self.send_envelope_by(envelope, payload, None)
    }

    /// Sends a message; waits for room until the deadline.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there was no room in time, or another one; then nothing was written.
    pub fn send_deadline(
        &mut self,
        tag: impl Into<Tag>,
        payload: &[u8],
        deadline: Instant,
    ) -> Result<(), SendError> {
        self.send_envelope_by(Envelope::tagged(tag), payload, Some(deadline))
    }

    /// Sends a message; waits for room for at most this time.
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
    /// [`SendError::Full`] if there was no room in time, or another one; then nothing was written.
    pub fn send_timeout(
        &mut self,
        tag: impl Into<Tag>,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<(), SendError> {
        // A timeout beyond the end of time is none.
        self.send_envelope_by(Envelope::tagged(tag), payload, Instant::now().checked_add(timeout))
    }

    /// Sends a message with flags or an origin; waits for room for at most this time.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there was no room in time, or another one; then nothing was written.
    pub fn send_envelope_timeout(
        &mut self,
        envelope: Envelope,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<(), SendError> {
        // A timeout beyond the end of time is none.
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

    /// Sends a message if there is room.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there is none, or another one; then nothing was written.
    #[inline]
    pub fn try_send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        self.try_send_envelope(Envelope::tagged(tag), payload)
    }

    /// Sends a message with flags or an origin if there is room.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if there is none, or another one; then nothing was written.
    #[inline(always)]
    pub fn try_send_envelope(
        &mut self,
        envelope: Envelope,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let envelope = Envelope { sender: self.connection.id, ..envelope };
        self.connection.try_send(envelope, payload)
    }

    /// Sends a message of `len` bytes that `fill` writes in place, without a copy. What the slice
    /// holds before is not defined. If `fill` fails, the message was never there.
    ///
    /// # Errors
    ///
    /// The first is [`SendError`]; the second is what `fill` returned.
    pub fn send_with<E>(
        &mut self,
        envelope: Envelope,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, SendError> {
        let envelope = Envelope { sender: self.connection.id, ..envelope };
        let mut fill = Some(fill);
        loop {
            // Until it ends: if `fill` panics, what was appended is discarded by the next operation.
            self.connection.begin();
            let mut filled = Ok(());
            let owner = self.connection.owner();
            let room = self.connection.with_room(|link| {
                let Some(outbound) = link.outbound_mut() else { return Ok(()) };
                let mut claim = outbound.claim(envelope, len)?;
                if let Some(fill) = fill.take() {
                    filled = fill(claim.payload());
                }
                // `fill` may have forked.
                if filled.is_ok() && owner.is_here() {
                    claim.commit();
                }
                Ok(())
            });
            match room {
                Ok(()) => {
                    self.connection.finish();
                    self.connection.check_owner()?;
                    return Ok(filled);
                }
                Err(error) => {
                    self.connection.discard_unfinished();
                    match error {
                        SendError::Full { .. } => self.wait_for_room(&envelope, len, None)?,
                        error => return Err(error),
                    }
                }
            }
        }
    }

    /// Begins a batch: its messages become visible all at once, by one store, and ring once.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Waits until there may be room for a message, or the deadline has passed.
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

    /// Moves what has come in to the inbox: so much that others get on, and not all that a steady
    /// stream may bring.
    fn fill_inbox(&mut self) {
        let enough = self.inbox.limit.min(self.inbox.bytes + BYTES_FILLED_AT_ONCE);
        for _ in 0..FILLED_AT_ONCE {
            if self.inbox.bytes > enough {
                return;
            }
            // What is wrong with the connection comes up again in the next call of the caller.
            let Ok(Some(slot)) = self.next() else { return };
            let Some(inbound) = self.connection.link.inbound_mut() else { return };
            let (envelope, id) = (inbound.envelope(&slot), inbound.next_message());
            let mut payload = vec![0; slot.payload_len()];
            inbound.read(&slot, &mut payload);
            if !inbound.is_whole() {
                self.connection.removed();
                return;
            }
            inbound.advance(&slot);
            self.inbox.bytes += Inbox::cost(&payload);
            self.inbox.messages.push_back((envelope, id, payload));
        }
    }

    /// The next message that is for us. It has not been passed yet.
    fn next(&mut self) -> Result<Option<Slot>, RecvError> {
        // So many of our own at a time, so that a deadline is kept whatever the broker does.
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

    /// The next message, if there is one.
    ///
    /// # Errors
    ///
    /// [`RecvError`] when there will be none any more.
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

    /// What nearly every look finds: the next message or nothing, when there is nothing else to do.
    #[inline(always)]
    fn peek(&self) -> Option<Peek> {
        if self.inbox.messages.is_empty() { self.connection.peek() } else { None }
    }

    #[inline(never)]
    fn try_recv_elsewhere(&mut self) -> Result<Option<Message<'_>>, RecvError> {
        // Looked at anew, as handing on what was seen would cost every other message, too.
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

    /// Takes the message that was found.
    #[inline(always)]
    fn take(&mut self, slot: &Slot) -> Result<Message<'_>, RecvError> {
        let inbound = self.connection.link.inbound().ok_or(RecvError::SendOnly)?;
        let (envelope, len) = (inbound.envelope(slot), slot.payload_len());
        let is_kept = match self.trusted {
            Some(_) => inbound.is_member(),
            None => {
                // Grows to the longest message, which the limits bound, and is not cleared anew.
                if self.buffer.len() < len {
                    grow(&mut self.buffer, len);
                }
                inbound.read(slot, &mut self.buffer[..len]);
                inbound.is_whole()
            }
        };
        if !is_kept {
            return Err(self.connection.removed().into());
        }
        let inbound = self.connection.link.inbound_mut().ok_or(RecvError::SendOnly)?;
        let id = inbound.next_message();
        inbound.advance(slot);
        let payload = match self.trusted {
            // The page stays ours until the next call moves the cursor, which needs `&mut self`.
            Some(promise) => {
                let (page, at) = inbound.payload(slot);
                page.bytes(at, len, promise)
            }
            None => &self.buffer[..len],
        };
        let Envelope { tag, flags, sender, origin } = envelope;
        Ok(Message { tag, flags, sender, id, origin, payload })
    }

    #[cold]
    fn pop_inbox(&mut self) -> Option<Message<'_>> {
        let (envelope, id, payload) = self.inbox.messages.pop_front()?;
        self.inbox.bytes -= Inbox::cost(&payload);
        self.buffer = payload;
        let Envelope { tag, flags, sender, origin } = envelope;
        Some(Message { tag, flags, sender, id, origin, payload: &self.buffer })
    }

    /// The next message; waits for it.
    ///
    /// # Errors
    ///
    /// [`RecvError`] when there will be none any more. What had arrived is received before.
    pub fn recv(&mut self) -> Result<Message<'_>, RecvError> {
        if let Some(Peek::Message(slot)) = self.peek()
            && self.is_for_us(&slot)
        {
            return self.take(&slot);
        }
        while !self.wait_for_message(None)? {}
        // It is there, unless the broker has taken back what it had committed; or it waits for us no
        // more, and has begun to write the page again.
        match self.connection.link.is_whole() {
            false => Err(self.connection.removed().into()),
            true => self
                .try_recv()?
                .ok_or(RecvError::Disconnected(Disconnected::PeerFault(Fault::TakenBack))),
        }
    }

    /// The next message; waits for it until the deadline. `None` if none came.
    ///
    /// # Errors
    ///
    /// [`RecvError`] when there will be none any more.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Option<Message<'_>>, RecvError> {
        if self.wait_for_message(Some(deadline))? { self.try_recv() } else { Ok(None) }
    }

    /// The next message; waits for it so long. `None` if none came.
    ///
    /// # Errors
    ///
    /// [`RecvError`] when there will be none any more.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message<'_>>, RecvError> {
        // A timeout beyond the end of time is none.
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.recv_deadline(deadline),
            None => self.recv().map(Some),
        }
    }

    /// Waits until there is a message to receive, or the deadline has passed. Returns whether there is
    /// one.
    ///
    /// # Errors
    ///
    /// [`RecvError`] when there will be none any more.
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

    /// Why the connection has ended, if it has. Messages that arrived before can still be received.
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

    /// The receiver for which the bus waits, if this client's messages have not been taken for a
    /// second because of it.
    pub fn held_up(&mut self) -> Option<HeldUp> {
        self.connection.pump();
        self.connection.held_up()
    }

    /// Waits until the broker has taken everything that was sent.
    ///
    /// # Errors
    ///
    /// [`SendError::Disconnected`] if it ends before.
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.flush_by(None).map(drop)
    }

    /// Waits until the broker has taken everything that was sent, for at most this time. Returns
    /// whether it has.
    ///
    /// # Errors
    ///
    /// [`SendError::Disconnected`] if it ends before.
    pub fn flush_timeout(&mut self, timeout: Duration) -> Result<bool, SendError> {
        // A timeout beyond the end of time is none.
        self.flush_by(Instant::now().checked_add(timeout))
    }

    fn flush_by(&mut self, deadline: Option<Instant>) -> Result<bool, SendError> {
        self.connection.check_owner()?;
        self.connection.discard_unfinished();
        let message = self.connection.link.inbound().is_some();
        let interest = Interest { message, room: None, consumed: true };
        loop {
            let taken = Interest { consumed: true, ..Interest::default() };
            let is_consumed =
                self.connection.link.outbound().is_none() || self.connection.link.is_ready(taken);
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

    /// How many clients receive now, as far as this client has heard. It hears of it after
    /// [`track_receivers`](ClientBuilder::track_receivers), or as a [`Sender`]; `None` otherwise, and in
    /// a forked child.
    pub fn receivers(&mut self) -> Option<usize> {
        self.connection.pump();
        let watches = self.connection.tracks_receivers && self.connection.owner().is_here();
        watches.then(|| self.connection.receivers.unwrap_or(0) as usize)
    }

    /// Waits until so many clients receive, or the deadline has passed. Returns whether so many
    /// receive.
    ///
    /// # Errors
    ///
    /// [`WaitError::NotTracking`] without [`track_receivers`](ClientBuilder::track_receivers);
    /// [`WaitError::Disconnected`] if the connection ends before.
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

    /// Prepares to sleep in an event loop of the caller's own. It is the last call before each sleep:
    /// every other call may take the packet that would have ended the sleep.
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
        // A peer that has died makes the descriptor readable: it needs no look here.
        self.connection.drain();
        let interest = Interest { message: true, ..Interest::default() };
        if !self.inbox.messages.is_empty() || !self.connection.arm(interest) {
            return Wait::Ready;
        }
        Wait::Readable { timeout: self.connection.watch_at_most() }
    }
}

/// How an event loop may wait, see [`Client::prepare_wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Don't wait: a message is there, or the connection has ended.
    Ready,
    /// Wait until [`as_fd`](AsFd::as_fd) is readable.
    Readable {
        /// Wait no longer than this; `None`: without limit. Then call
        /// [`try_recv`](Client::try_recv), whether or not the descriptor is readable.
        ///
        /// A client that has received a stream without a sleep may miss a wake-up, for as long as a
        /// store takes to reach another processor. A client that could not wake its peer, as the
        /// kernel had no memory for it, tries again.
        timeout: Option<Duration>,
    },
}

#[cold]
fn grow(buffer: &mut Vec<u8>, len: usize) {
    buffer.resize(len, 0);
}

impl AsFd for Client {
    /// The connection and the process at its other end: readable when the client has
    /// [prepared](Client::prepare_wait) to wait and there is something to receive, when the connection has
    /// ended, or when that process has. It stays the same descriptor. The first call makes it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.watched()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Broker;

    /// Does something with two clients of a bus.
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
    fn who_waits_for_room_looks_for_it_again_soon_however_much_comes_in() {
        const LEN: usize = 64 * 1024;
        with_two(|mut busy, mut waiting| {
            for _ in 0..64 {
                busy.send(1, &[1; LEN]).unwrap();
            }
            busy.flush().unwrap();
            waiting.fill_inbox();
            let taken = waiting.inbox.messages.len() * LEN;
            assert!((1..=BYTES_FILLED_AT_ONCE + LEN).contains(&taken), "{taken}");
        });
    }

    #[test]
    fn who_has_ended_the_connection_for_a_fault_reads_no_further() {
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

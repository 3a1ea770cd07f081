//! The receiving half of a bus connection, or the receiving end of a channel.

mod inbox;
mod iter;

pub use self::iter::Messages;

use self::inbox::{Entry, Inbox};
use crate::backoff::CatchUpBackoff;
use crate::bus_addr::BusAddr;
use crate::client::ClientBuilder;
use crate::connection::{Connection, Locked, Missed, Sleep};
use crate::core::chain::{Event, Peek, Standing};
use crate::core::fault::Fault;
use crate::core::limits::Limits;
use crate::core::link::{Ends, Inbound, Interest};
use crate::core::memory::{Region, TrustPeers};
use crate::core::message::{ClientId, Envelope, Message, Slot};
use crate::core::parking::Half;
use crate::error::{BindError, ConnectError, Disconnected, RecvError, SendError, WaitError};
use crate::listener::Listener;
use crate::sender::Sender;
use crate::sys::fork::{Gate, Opening};
use crate::wait::{SpinPolicy, Wait};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The cursor is published once per `EMPTY_POLLS` empty polls.
const EMPTY_POLLS: u32 = 64;

/// A busy-polling receiver reads its socket (a system call) at most this often.
const SOCKET_READ_INTERVAL: Duration = Duration::from_millis(1);

/// A receiver that outlives its broker reads its socket after this many messages, if that is due. While
/// it finds messages, nothing else tells it that its broker has died, and the next one waits for it.
const MESSAGES_BETWEEN_READS: u32 = 64;

/// The most rollovers and own messages handled in one call. It bounds the work that a hostile peer
/// can cause.
const AT_ONCE: usize = 4096;

/// Messages and payload bytes moved to the inbox before the next check for room. Other clients may
/// send as fast as the inbox fills, while room exists already.
const FILLED_AT_ONCE: usize = 256;
const BYTES_FILLED_AT_ONCE: usize = 256 * 1024;

/// Receives messages from a bus or through a channel.
///
/// A receiver is made by [`Client::connect_receiver`](crate::Client::connect_receiver),
/// [`Client::into_split`](crate::Client::into_split), [`channel`](crate::channel()) or
/// [`Receiver::listen`]. See [`Sender`](crate::Sender) for an example. It belongs to the process
/// that made it, see [`Client`](crate::Client#forks).
///
/// A receiver that waits in its own event loop calls [`prepare_wait`](Receiver::prepare_wait) first.
/// It then polls the descriptor ([`AsFd`]) for reading.
#[derive(Debug)]
pub struct Receiver {
    pub(crate) connection: Arc<Connection>,
    pub(crate) inbound: Inbound<Region>,
    /// Open while a peek at the chain is enough: the connection is open, and this half is not
    /// parked.
    peeks: Gate,
    /// The id of the client whose messages are left out, if any.
    ignored: Option<ClientId>,
    trusted: Option<TrustPeers>,
    /// Whether the broker announces the receiver count to this client.
    tracks_receivers: bool,
    /// Number of times that it has received again after it was skipped, or from another broker.
    restarts: u32,
    /// Whether everything of a dead broker was read, and there is a connection to the next one.
    is_drained: bool,
    inbox: Inbox,
    buffer: Vec<u8>,
    /// The envelope of the last message from the inbox.
    envelope: Envelope,
    empty_polls: u32,
    backoff: CatchUpBackoff,
    /// Last time the socket was read while busy-polling or receiving.
    last_read: Instant,
    /// Number of messages until the next look whether the socket must be read.
    until_read: u32,
    /// Whether the next poll reads the socket.
    must_read: bool,
    spin: SpinPolicy,
}

/// The settings of a receiver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    pub ignored: Option<ClientId>,
    pub trusted: Option<TrustPeers>,
    pub tracks_receivers: bool,
    pub inbox_limit: usize,
}

impl Receiver {
    pub(crate) fn new(
        connection: Arc<Connection>,
        inbound: Inbound<Region>,
        settings: Settings,
    ) -> Self {
        let Settings { ignored, trusted, tracks_receivers, inbox_limit } = settings;
        Receiver {
            peeks: Gate::open(),
            backoff: CatchUpBackoff::new(connection.limits.budget() as u64 / 4),
            connection,
            inbound,
            ignored,
            trusted,
            tracks_receivers,
            restarts: 0,
            is_drained: false,
            inbox: Inbox::new(inbox_limit),
            buffer: Vec::new(),
            envelope: Envelope::default(),
            empty_polls: 0,
            last_read: Instant::now(),
            until_read: MESSAGES_BETWEEN_READS,
            must_read: false,
            spin: SpinPolicy::of_client(),
        }
    }

    /// Returns a builder for a receiver of a bus with other settings, see
    /// [`Sender::builder`](crate::Sender::builder).
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Listens for the senders of channels at a name or path.
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
        Listener::bind(&bus.into(), Limits::default())
    }

    /// Listens for the senders of channels at a name or path, with other limits.
    ///
    /// # Errors
    ///
    /// Returns [`BindError`] if the place cannot be used. Its text says what to do.
    pub fn listen_with(bus: impl Into<BusAddr>, limits: Limits) -> Result<Listener, BindError> {
        Listener::bind(&bus.into(), limits)
    }

    /// Makes a channel over a connected `SOCK_SEQPACKET` socket. The other end must call
    /// [`Sender::over`](crate::Sender::over) at the same time.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the other end does not complete the handshake of a sender.
    pub fn over(socket: OwnedFd) -> Result<Self, ConnectError> {
        crate::channel::receive_over(socket)
    }

    /// Returns later payloads without a copy, in the sender's pages. `promise` states that the
    /// sender is trusted. Has no effect on a receiver of a bus, because its broker must know the
    /// promise beforehand. Use
    /// [`ClientBuilder::borrow_payloads`](crate::ClientBuilder::borrow_payloads) there.
    pub fn borrow_payloads(&mut self, promise: TrustPeers) {
        let is_channel = self.inbound.chain.membership().is_none();
        self.trusted = self.trusted.or(is_channel.then_some(promise));
    }

    /// Returns this client's id on the bus, or 0 in a channel.
    pub fn id(&self) -> ClientId {
        self.connection.id
    }

    /// Returns the broker's id. A restarted broker has another id. It is 0 in a channel.
    pub fn broker_id(&self) -> u64 {
        self.connection.broker
    }

    /// Returns the limits of the bus or the channel.
    pub fn limits(&self) -> &Limits {
        &self.connection.limits
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
        self.try_recv_by(None)
    }

    /// Returns the next message, if there is one. `sender` is the other half, if the caller has it:
    /// it goes on with the next broker at the same time.
    #[inline(always)]
    pub(crate) fn try_recv_by(
        &mut self,
        sender: Option<&mut Sender>,
    ) -> Result<Option<Message<'_>>, RecvError> {
        match self.peek() {
            Some(Peek::Message(slot)) if self.is_for_us(&slot) && self.copy(&slot) => {
                Ok(Some(self.pass(&slot)))
            }
            Some(Peek::Nothing) => {
                self.on_empty_poll();
                Ok(None)
            }
            _ => self.try_recv_elsewhere(sender),
        }
    }

    /// Returns the result of nearly every call: the next message or nothing. Returns `None` if
    /// other work comes first.
    #[inline(always)]
    fn peek(&self) -> Option<Peek> {
        match self.inbox.is_empty() && self.peeks.is_open() {
            true => Some(self.inbound.peek()),
            false => None,
        }
    }

    #[inline(never)]
    fn try_recv_elsewhere(
        &mut self,
        sender: Option<&mut Sender>,
    ) -> Result<Option<Message<'_>>, RecvError> {
        // Peeks again. Passing the first result on would slow every other message down.
        if let Some(Peek::Other(raw)) = self.peek()
            && let Some(slot) = self.inbound.peek_ref(raw)
            && self.is_for_us(&slot)
            && self.copy(&slot)
        {
            return Ok(Some(self.pass(&slot)));
        }
        self.connection.check_owner()?;
        if !self.inbox.is_empty() {
            return self.pop_inbox();
        }
        // The frequent path may have found a message that was not whole any more. Its slot may be
        // written meanwhile, so the chain must not be read again.
        if !self.inbound.chain.is_whole() {
            self.left_out()?;
        }
        self.settle(sender);
        if !self.inbox.is_empty() {
            return self.pop_inbox();
        }
        let slot = self.next()?;
        match slot {
            None => Ok(None),
            Some(slot) if self.copy(&slot) => Ok(Some(self.pass(&slot))),
            Some(_) => self.left_out().map(|()| None),
        }
    }

    #[inline(always)]
    fn is_for_us(&self, slot: &Slot) -> bool {
        self.ignored != Some(slot.sender())
    }

    /// Copies the payload, unless payloads are borrowed. Returns whether the message is whole.
    #[inline(always)]
    fn copy(&mut self, slot: &Slot) -> bool {
        let (chain, len) = (&self.inbound.chain, slot.payload_len());
        if self.trusted.is_some() {
            return chain.is_member();
        }
        // The buffer grows to the longest message, which the limits bound. It is not cleared
        // between messages.
        if self.buffer.len() < len {
            grow(&mut self.buffer, len);
        }
        chain.read(slot, self.buffer.get_mut(..len).unwrap_or_default());
        chain.is_whole()
    }

    /// Passes the message in `slot` and returns it.
    #[inline(always)]
    fn pass(&mut self, slot: &Slot) -> Message<'_> {
        self.until_read = self.until_read.wrapping_sub(1);
        if self.until_read == 0 {
            self.read_soon();
        }
        let (chain, len) = (&mut self.inbound.chain, slot.payload_len());
        let seq = chain.next_message();
        chain.advance(slot);
        let Envelope { tag, flags, sender, .. } = slot.envelope();
        let origin = chain.origin(slot);
        let payload = match self.trusted {
            // The page stays valid until the next call moves the cursor, which needs `&mut self`.
            Some(promise) => {
                let (page, at) = chain.payload(slot);
                page.bytes(at, len, promise)
            }
            None => &self.buffer[..len],
        };
        Message { tag, flags, sender, seq, origin, payload }
    }

    /// Lets the next call read the socket, if that is due and the client outlives its broker.
    #[cold]
    fn read_soon(&mut self) {
        if !self.connection.outlives() {
            // The counter wraps: four thousand million messages until the next look.
            return;
        }
        self.until_read = MESSAGES_BETWEEN_READS;
        let now = Instant::now();
        if now - self.last_read >= SOCKET_READ_INTERVAL {
            (self.last_read, self.must_read) = (now, true);
            self.peeks.set(Gate::now(), false);
        }
    }

    #[cold]
    fn pop_inbox(&mut self) -> Result<Option<Message<'_>>, RecvError> {
        match self.inbox.pop() {
            None => Ok(None),
            // Zero means that the number is not known.
            Some(Entry::Gap(missed)) => Err(RecvError::Gap { missed: missed.unwrap_or(0) }),
            Some(Entry::Message((envelope, seq, payload))) => {
                (self.envelope, self.buffer) = (envelope, payload);
                Ok(Some(Message::new(&self.envelope, seq, &self.buffer)))
            }
        }
    }

    /// Returns the next message and waits for it if there is none.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive. Messages that arrived before are
    /// received first.
    pub fn recv(&mut self) -> Result<Message<'_>, RecvError> {
        self.recv_by(None)
    }

    /// Like [`recv`](Receiver::recv), with the other half as in [`try_recv_by`](Receiver::try_recv_by).
    #[inline(always)]
    pub(crate) fn recv_by(
        &mut self,
        sender: Option<&mut Sender>,
    ) -> Result<Message<'_>, RecvError> {
        if let Some(Peek::Message(slot)) = self.peek()
            && self.is_for_us(&slot)
            && self.copy(&slot)
        {
            return Ok(self.pass(&slot));
        }
        // Without a deadline there is a message or an error.
        self.receive(None, sender)?.ok_or(Self::TAKEN_BACK)
    }

    /// Waits for the next message and consumes it. Returns `None` if the deadline passes.
    pub(crate) fn receive(
        &mut self,
        deadline: Option<Instant>,
        mut sender: Option<&mut Sender>,
    ) -> Result<Option<Message<'_>>, RecvError> {
        while self.wait_by(deadline, sender.as_deref_mut())? {
            if !self.inbox.is_empty() {
                return self.pop_inbox();
            }
            match self.next()? {
                Some(slot) if self.copy(&slot) => return Ok(Some(self.pass(&slot))),
                Some(_) => self.left_out()?,
                // It was skipped in between, or removed.
                None if !self.is_open() || !self.inbox.is_empty() => self.left_out()?,
                None => return Err(Self::TAKEN_BACK),
            }
        }
        Ok(None)
    }

    /// Returns whether the next message can be read in the chain.
    fn is_open(&self) -> bool {
        self.peeks.is_open() && self.inbound.chain.is_whole()
    }

    /// The broker removed a committed message.
    const TAKEN_BACK: RecvError =
        RecvError::Disconnected(Disconnected::PeerFault(Fault::TakenBack));

    /// Returns the next message and waits for it until the deadline. Returns `None` if the deadline
    /// passes.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Option<Message<'_>>, RecvError> {
        self.receive(Some(deadline), None)
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
        Messages::new(self, None)
    }

    /// Waits until there is a message to receive or the deadline passes. Returns whether there is a
    /// message.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    #[inline]
    pub fn wait_for_message(&mut self, deadline: Option<Instant>) -> Result<bool, RecvError> {
        self.wait_by(deadline, None)
    }

    /// Waits for a message, with the other half as in [`try_recv_by`](Receiver::try_recv_by).
    pub(crate) fn wait_by(
        &mut self,
        deadline: Option<Instant>,
        mut sender: Option<&mut Sender>,
    ) -> Result<bool, RecvError> {
        self.connection.check_owner()?;
        let mut is_late = false;
        loop {
            if !self.inbox.is_empty() {
                return Ok(true);
            }
            if self.next()?.is_some() {
                if self.inbound.chain.is_whole() {
                    return Ok(true);
                }
                self.left_out()?;
            }
            if is_late {
                return Ok(!self.inbox.is_empty());
            }
            if self.is_drained {
                self.settle(sender.as_deref_mut());
                if !self.is_drained {
                    continue;
                }
            }
            self.sleep(deadline);
            is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
        }
    }

    fn sleep(&mut self, deadline: Option<Instant>) {
        let Ok(seen) = self.locked(|_, locked| locked.state.version) else { return };
        // It may have missed messages.
        if !self.inbox.is_empty() {
            return;
        }
        let sleep = Sleep {
            connection: &self.connection,
            half: Half::Receiver,
            seen,
            ends: Ends { outbound: None, inbound: Some(&mut self.inbound) },
            interest: Interest { message: true, ..Interest::default() },
            is_alone: self.connection.is_alone(),
            unsent: false,
            retry: false,
        };
        sleep.wait(&mut self.spin, deadline);
        let _ = self.locked(|_, _| ());
    }

    /// Returns why the connection ended, or `None` while it is open. Messages that arrived before
    /// the end can still be received.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, mut receiver) = llmp::channel()?;
    /// assert_eq!(receiver.ended(), None);
    /// drop(sender);
    /// assert_eq!(receiver.ended(), Some(llmp::Disconnected::Closed));
    /// # Ok(()) }
    /// ```
    pub fn ended(&mut self) -> Option<Disconnected> {
        let ended = self.locked(|_, locked| {
            locked.pump(Half::Receiver);
            locked.ended().cloned()
        });
        ended.unwrap_or_else(Some)
    }

    /// Returns the number of clients that receive now, see
    /// [`Sender::receivers`](crate::Sender::receivers).
    pub fn receivers(&mut self) -> Option<usize> {
        let tracks = self.tracks_receivers;
        self.locked(|_, locked| {
            locked.pump(Half::Receiver);
            locked.receivers(tracks)
        })
        .ok()?
    }

    /// Waits until at least `count` clients receive or the deadline passes, see
    /// [`Sender::wait_for_receivers`](crate::Sender::wait_for_receivers).
    ///
    /// # Errors
    ///
    /// Returns [`WaitError::NotTracking`] if the client does not
    /// [track](ClientBuilder::track_receivers) the count. Returns [`WaitError::Disconnected`] if
    /// the connection ends first.
    pub fn wait_for_receivers(
        &mut self,
        count: usize,
        deadline: Option<Instant>,
    ) -> Result<bool, WaitError> {
        let tracks = self.tracks_receivers;
        let mut connection = self.connection.clone();
        loop {
            match connection.wait_for_receivers(Half::Receiver, tracks, count, deadline)? {
                Some(waited) => return Ok(waited),
                // This half may still read what the last broker has published.
                None => connection = connection.next().unwrap_or(connection),
            }
        }
    }

    /// Prepares a sleep in the caller's own event loop. Make it the last call before each sleep,
    /// because every other call may consume the packet that ends the sleep.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use rustix::event::{PollFd, PollFlags, poll};
    /// # let (mut sender, mut receiver) = llmp::channel()?;
    /// # sender.send(1, b"hello")?;
    /// loop {
    ///     if let llmp::Wait::Readable { timeout } = receiver.prepare_wait() {
    ///         let timeout = timeout.map(TryInto::try_into).transpose()?;
    ///         poll(&mut [PollFd::new(&receiver, PollFlags::IN)], timeout.as_ref())?;
    ///     }
    ///     if let Some(message) = receiver.try_recv()? {
    ///         assert_eq!(message.payload, b"hello");
    ///         break;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn prepare_wait(&mut self) -> Wait {
        let (has_message, restarts) = (!self.inbox.is_empty(), self.restarts);
        // No check for the peer's death is needed, because a dead peer makes the descriptor
        // readable.
        let wait = self.locked(|inbound, locked| {
            locked.drain(Half::Receiver);
            if has_message {
                return Wait::Ready;
            }
            let message = locked.awaits_messages();
            let interest = Interest { message, ..Interest::default() };
            let mut ends = Ends { outbound: None, inbound: Some(inbound) };
            match locked.park(Half::Receiver, &mut ends, interest, false) {
                Wait::Ready => Wait::Ready,
                Wait::Readable { timeout } => {
                    Wait::Readable { timeout: locked.watch_at_most(timeout) }
                }
            }
        });
        match wait {
            // It receives again, from a place that was not looked at before it parked.
            Ok(wait) if self.restarts == restarts => wait,
            _ => Wait::Ready,
        }
    }

    /// Moves received messages to the inbox, up to a bound. The bound keeps a steady stream from
    /// filling the inbox in one call.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::InboxFull`] if the inbox was full before. The next operation reports a
    /// broken connection.
    pub(crate) fn fill_inbox(&mut self) -> Result<(), SendError> {
        let Inbox { bytes, limit, .. } = self.inbox;
        if bytes > limit {
            return Err(SendError::InboxFull { bytes });
        }
        let enough = limit.min(bytes + BYTES_FILLED_AT_ONCE);
        for _ in 0..FILLED_AT_ONCE {
            if self.inbox.bytes > enough {
                break;
            }
            let Ok(Some(slot)) = self.next() else { break };
            let chain = &mut self.inbound.chain;
            let (envelope, seq) = (chain.envelope(&slot), chain.next_message());
            let mut payload = vec![0; slot.payload_len()];
            chain.read(&slot, &mut payload);
            if !chain.is_whole() {
                // The next operation reports a removal.
                let _ = self.left_out();
                break;
            }
            chain.advance(&slot);
            self.inbox.push(envelope, seq, payload);
        }
        self.settle(None);
        Ok(())
    }

    /// Returns the next message for this client without consuming it.
    fn next(&mut self) -> Result<Option<Slot>, RecvError> {
        // Bounds the own messages passed over in one call, so that deadlines hold against any broker.
        for _ in 0..AT_ONCE {
            let Some(slot) = self.next_of_all()? else { return Ok(None) };
            if self.is_for_us(&slot) {
                return Ok(Some(slot));
            }
            // What is read in a page that is written again must not count.
            if !self.inbound.chain.is_whole() {
                self.left_out()?;
                return Ok(None);
            }
            self.inbound.chain.advance(&slot);
        }
        Ok(None)
    }

    /// Returns the next message, if there is one. It stays until
    /// [`ChainReader::advance`](crate::core::chain::ChainReader::advance).
    fn next_of_all(&mut self) -> Result<Option<Slot>, RecvError> {
        let peeked = if self.peeks.is_open() { Some(self.inbound.peek()) } else { None };
        match peeked {
            Some(Peek::Message(slot)) => Ok(Some(slot)),
            Some(Peek::Nothing) => {
                self.on_empty_poll();
                Ok(None)
            }
            Some(Peek::Other(raw)) => match self.inbound.peek_ref(raw) {
                None => self.poll(),
                slot => Ok(slot),
            },
            None => self.poll(),
        }
    }

    /// Returns the next message or does the other work that is due.
    #[inline(never)]
    fn poll(&mut self) -> Result<Option<Slot>, RecvError> {
        let (restarts, must_read) = (self.restarts, std::mem::take(&mut self.must_read));
        let (polled, is_drained) = self.locked(|inbound, locked| {
            if must_read {
                locked.pump(Half::Receiver);
            }
            let polled = poll(inbound, locked)?;
            let is_drained = polled.is_none() && locked.has_next_inbound();
            Ok::<_, RecvError>((polled, is_drained))
        })??;
        // It may have received again only now, after the poll.
        self.is_drained = is_drained && self.restarts == restarts;
        if polled.is_none() && self.peeks.is_open() {
            self.on_empty_poll();
        }
        Ok(polled)
    }

    /// Handles a poll that found nothing.
    #[inline(always)]
    fn on_empty_poll(&mut self) {
        let chain = &self.inbound.chain;
        if self.backoff.caught_up(chain.next_message(), chain.position()) {
            chain.expect();
        }
        self.empty_polls = self.empty_polls.wrapping_add(1);
        if self.empty_polls.is_multiple_of(EMPTY_POLLS) {
            self.idle_housekeeping();
        }
    }

    /// Housekeeping for busy-polling callers: publishes the cursor and checks for a disconnect.
    #[cold]
    fn idle_housekeeping(&mut self) {
        let now = Instant::now();
        let is_due = now.duration_since(self.last_read) >= SOCKET_READ_INTERVAL;
        if is_due {
            self.last_read = now;
        }
        let _ = self.locked(|inbound, locked| {
            locked.retry_ring(Half::Receiver);
            release(inbound, locked);
            if is_due {
                locked.pump(Half::Receiver);
            }
        });
    }

    /// Handles a message that is not whole, because the broker does not wait for this receiver.
    ///
    /// # Errors
    ///
    /// The end of the connection after a removal. A skipped receiver goes on.
    #[cold]
    fn left_out(&mut self) -> Result<(), RecvError> {
        self.locked(|_, locked| match locked.standing() {
            Standing::Removed => {
                // A packet may say why.
                locked.pump(Half::Receiver);
                Err(locked.removed().into())
            }
            Standing::Skipped => {
                locked.found_skipped();
                Ok(())
            }
            // It was admitted again.
            Standing::Member => Ok(()),
        })?
    }

    /// Runs `act` with the lock held, and follows the connection's state.
    fn locked<T>(
        &mut self,
        act: impl FnOnce(&mut Inbound<Region>, &mut Locked<'_>) -> T,
    ) -> Result<T, Disconnected> {
        let now = Gate::now();
        let (result, peeks) = match self.connection.lock() {
            Err(forked) => (Err(forked), false),
            Ok(mut locked) => {
                let result = act(&mut self.inbound, &mut locked);
                match locked.catch_up(&mut self.inbound) {
                    Ok(None) => {}
                    Ok(Some(missed)) => {
                        self.inbox.push_gap(Some(missed));
                        self.restarts = self.restarts.wrapping_add(1);
                    }
                    Err(fault) => _ = locked.fail(fault),
                }
                let is_parked = locked.state.parking.is_parked(Half::Receiver);
                let is_open =
                    locked.ended().is_none() && !locked.is_skipped() && !locked.is_orphaned();
                (Ok(result), is_open && !is_parked)
            }
        };
        self.follow(now, peeks);
        result
    }

    /// Goes on with the next broker, if everything of the last one was read. `sender` is the other
    /// half, if the caller has it. It goes first: what it has sent must not wait for its next
    /// message.
    fn settle(&mut self, sender: Option<&mut Sender>) {
        if !self.is_drained {
            return;
        }
        if let Some(sender) = sender {
            sender.settle_for_receiver();
            if sender.is_behind() {
                // It tries again, and this half with it.
                return;
            }
        }
        self.is_drained = false;
        let taken = self.connection.lock().ok().and_then(|mut locked| locked.take_next_inbound());
        let Some((connection, inbound, missed)) = taken else { return };
        connection.take_watched(&self.connection, Half::Receiver);
        (self.connection, self.inbound) = (connection, inbound);
        self.backoff = CatchUpBackoff::new(self.connection.limits.budget() as u64 / 4);
        self.restarts = self.restarts.wrapping_add(1);
        match missed {
            Missed::Number(0) => {}
            Missed::Number(missed) => self.inbox.push_gap(Some(missed)),
            Missed::Unknown => self.inbox.push_gap(None),
        }
        let _ = self.locked(|_, _| ());
    }

    /// Sets the gate to the connection's state.
    pub(crate) fn follow(&mut self, now: Opening, peeks: bool) {
        self.peeks.set(now, peeks);
    }
}

/// Returns the next message or does the other work that is due. Returns `None` if the chain is empty
/// or a page is missing.
fn poll(inbound: &mut Inbound<Region>, locked: &mut Locked<'_>) -> Result<Option<Slot>, RecvError> {
    if locked.state.parking.is_parked(Half::Receiver) {
        // Clears the parked word. Otherwise the peer's rings would fill the socket.
        locked.pump(Half::Receiver);
    }
    locked.retry_ring(Half::Receiver);
    if locked.is_orphaned() {
        locked.seek_next();
    }
    if locked.is_skipped() {
        locked.pump(Half::Receiver);
        return match locked.ended() {
            None => Ok(None),
            // First it receives again, and then what is there.
            Some(_) if locked.may_restart() => Ok(None),
            Some(Disconnected::Closed | Disconnected::PeerDied) => Err(locked.removed().into()),
            Some(ended) => Err(ended.clone().into()),
        };
    }
    for _ in 0..AT_ONCE {
        let event = step(inbound, locked)?;
        if locked.is_skipped() {
            // A ring found that, and what was read does not count.
            return Ok(None);
        }
        match event {
            Event::Message(slot) => return Ok(Some(slot)),
            Event::PageAdvanced => {}
            Event::Empty => return no_more(locked).map(|()| None),
            Event::Unknown(next) => {
                // Its descriptor was sent before the message that names it.
                locked.pump(Half::Receiver);
                if locked.is_skipped() {
                    return Ok(None);
                }
                locked.catch_up(inbound).map_err(|fault| locked.fail(fault))?;
                locked.may_read()?;
                if locked.state.lost.contains(next) && locked.ended().is_none() {
                    // The page was requested again.
                    return Ok(None);
                }
                if inbound.chain.page(next).is_none() {
                    let fault = inbound.chain.unknown_page(next);
                    no_more(locked)?;
                    on_fault(locked, fault)?;
                    return Ok(None);
                }
            }
        }
    }
    Ok(None)
}

/// Takes one step in the chain.
fn step(inbound: &mut Inbound<Region>, locked: &mut Locked<'_>) -> Result<Event, Disconnected> {
    locked.may_read()?;
    match inbound.poll(&mut locked.state.parking) {
        Err(fault) => on_fault(locked, fault).map(|()| Event::Empty),
        Ok((event, ring)) => {
            if ring && !locked.ring(Half::Receiver) {
                inbound.not_rung();
            }
            Ok(event)
        }
    }
}

/// Handles a fault in what was read. The pages of a skipped receiver may be written again, so that
/// no fault in them is the broker's.
fn on_fault(locked: &mut Locked<'_>, fault: Fault) -> Result<(), Disconnected> {
    match locked.standing() {
        Standing::Skipped => {
            locked.found_skipped();
            Ok(())
        }
        Standing::Member | Standing::Removed => Err(locked.fail(fault)),
    }
}

/// Releases what was received.
fn release(inbound: &mut Inbound<Region>, locked: &mut Locked<'_>) {
    if inbound.release() && !locked.ring(Half::Receiver) {
        inbound.not_rung();
    }
}

/// Handles the end of the chain's messages or of its pages. Returns why the connection has ended, if
/// it has.
fn no_more(locked: &mut Locked<'_>) -> Result<(), RecvError> {
    // The end was detected before this poll of the chain, so no message can follow.
    match locked.ended() {
        None => Ok(()),
        // Messages were lost. An empty slot may belong to a page that is written again.
        Some(Disconnected::Closed | Disconnected::PeerDied)
            if locked.standing() != Standing::Member =>
        {
            Err(locked.removed().into())
        }
        Some(ended) => Err(ended.clone().into()),
    }
}

#[cold]
fn grow(buffer: &mut Vec<u8>, len: usize) {
    buffer.resize(len, 0);
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // The bus would wait for a receiver that never reads, while the sending half keeps the
        // connection.
        let is_shared = Arc::strong_count(&self.connection) > 1;
        let mut connection = Some(self.connection.clone());
        while let Some(closed) = connection {
            connection = closed.next();
            if let Ok(mut locked) = closed.lock() {
                locked.close();
                locked.stop_receiving();
                if is_shared {
                    locked.connection.socket.shut_down();
                }
            }
        }
    }
}

impl AsFd for Receiver {
    /// Returns a descriptor for the connection and the peer's process. After
    /// [`prepare_wait`](Receiver::prepare_wait) it becomes readable when there is something to
    /// receive. It also becomes readable when the connection or the peer's process ends. The first
    /// call creates the descriptor, and it stays the same.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.watched(Half::Receiver)
    }
}

impl AsRawFd for Receiver {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests;

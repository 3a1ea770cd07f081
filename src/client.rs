//! A client of a bus: a sender and a receiver over one connection.

mod builder;

pub use builder::ClientBuilder;

use crate::broker::Broker;
use crate::bus_addr::BusAddr;
use crate::core::chain::Stats;
use crate::core::limits::Limits;
use crate::core::message::{ClientId, Envelope, Message, Tag};
use crate::error::{ConnectError, Disconnected, HeldUp, RecvError, SendError, WaitError};
use crate::receiver::{Messages, Receiver};
use crate::sender::{Batch, Claim, Sender};
use crate::wait::Wait;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

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
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
}

/// Joins a bus, to send and to receive, and serves it if no other process does. All processes of a
/// bus can call this function; none of them has to start a broker. The bus lives as long as one of
/// them, see [`ClientBuilder::serve`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let bus = dir.path().join("bus");
/// let mut first = llmp::join(&bus)?;
/// let mut second = llmp::join(&bus)?;
/// first.send(1, b"hello")?;
/// assert_eq!(second.recv()?.payload, b"hello");
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// Returns [`ConnectError`] if the connection fails, or if the bus can't be served. Its text says
/// what to do.
pub fn join(bus: impl Into<BusAddr>) -> Result<Client, ConnectError> {
    Client::builder().serve(Broker::builder).connect(bus)
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

    /// Returns both halves, to use them at the same time, for example in two threads.
    ///
    /// While the sending half waits for room, the receiving half's thread must go on receiving.
    /// Otherwise clients that all send at once could wait for each other.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let broker = llmp::Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// let mut client = llmp::Client::builder().own_messages().connect(&bus)?;
    /// let (sender, receiver) = client.split();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| sender.send(1, b"hello").unwrap());
    ///     assert_eq!(receiver.recv().unwrap().payload, b"hello");
    /// });
    /// # Ok(()) }
    /// ```
    pub fn split(&mut self) -> (&mut Sender, &mut Receiver) {
        self.receiver.connection.separate();
        self.sender.connection.separate();
        (&mut self.sender, &mut self.receiver)
    }

    /// Returns both halves as values of their own, for example for two threads. The halves share
    /// the connection and the client's id.
    ///
    /// While the sending half waits for room, the receiving half must go on receiving, see
    /// [`split`](Client::split). The bus would wait for a receiving half that is gone. So dropping
    /// the receiver ends the connection for the sender, too. Dropping the sender does not end it.
    ///
    /// A half notices an end that the other one has found with its next call. Messages that were sent
    /// before may be read by no process. [`Sender::flush`] tells that all were consumed.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let broker = llmp::Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// let client = llmp::Client::builder().own_messages().connect(&bus)?;
    /// let (mut sender, mut receiver) = client.into_split();
    /// let received = std::thread::spawn(move || receiver.recv().unwrap().payload.to_vec());
    /// sender.send(1, b"hello")?;
    /// assert_eq!(received.join().unwrap(), b"hello");
    /// # Ok(()) }
    /// ```
    pub fn into_split(self) -> (Sender, Receiver) {
        self.receiver.connection.separate();
        self.sender.connection.separate();
        (self.sender, self.receiver)
    }

    /// Returns the client's id on the bus.
    pub fn id(&self) -> ClientId {
        self.sender.id()
    }

    /// Returns the broker's id. A restarted broker has another id.
    pub fn broker_id(&self) -> u64 {
        self.sender.broker_id()
    }

    /// Returns the limits of the bus.
    pub fn limits(&self) -> &Limits {
        self.sender.limits()
    }

    /// Returns the counters of this client's own chain.
    pub fn stats(&self) -> Stats {
        self.sender.stats()
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
        self.send_by(envelope, payload, None)
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
        self.send_by(Envelope::tagged(tag), payload, Some(deadline))
    }

    /// Sends a message and waits for room for at most `timeout`, see [`Sender::send_timeout`].
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
        self.send_envelope_timeout(Envelope::tagged(tag), payload, timeout)
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
        self.send_by(envelope, payload, Instant::now().checked_add(timeout))
    }

    fn send_by(
        &mut self,
        envelope: Envelope,
        payload: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        self.sender.send_by(envelope, payload, deadline, Some(&mut self.receiver))
    }

    /// Sends a message if there is room. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if there is no room, or another [`SendError`]. No part of the
    /// message was written then.
    #[inline]
    pub fn try_send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        self.sender.try_send(tag, payload)
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
        self.sender.try_send_envelope(envelope, payload)
    }

    /// Sends a message of `len` bytes that `fill` writes in place, see [`Sender::send_with`]. Waits
    /// for room like [`send`](Client::send).
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
        self.claim(envelope, len)?.fill(fill)
    }

    /// Claims room for a message of `len` bytes, see [`Claim`]. Waits for room like
    /// [`send`](Client::send).
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. Nothing is claimed then.
    pub fn claim(&mut self, envelope: Envelope, len: usize) -> Result<Claim<'_>, SendError> {
        self.sender.claim_by(envelope, len, Some(&mut self.receiver))
    }

    /// Claims room for a message if there is room. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Full`] if there is no room, or another [`SendError`]. Nothing is claimed
    /// then.
    pub fn try_claim(&mut self, envelope: Envelope, len: usize) -> Result<Claim<'_>, SendError> {
        self.sender.try_claim(envelope, len)
    }

    /// Begins a batch. All its messages become visible at once, by one store, with one wake-up.
    pub fn batch(&mut self) -> Batch<'_> {
        self.sender.batch()
    }

    /// Waits until the broker has consumed all sent messages. Meanwhile the client moves received
    /// messages to its inbox.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Disconnected`] if the connection ends first.
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.sender.flush_by(None, Some(&mut self.receiver)).map(drop)
    }

    /// Waits until the broker has consumed all sent messages, for at most `timeout`. Returns
    /// whether it has consumed them.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Disconnected`] if the connection ends first.
    pub fn flush_timeout(&mut self, timeout: Duration) -> Result<bool, SendError> {
        // A timeout that overflows the clock means no deadline.
        let deadline = Instant::now().checked_add(timeout);
        self.sender.flush_by(deadline, Some(&mut self.receiver))
    }

    /// Returns the next message, or `None` if there is none now. Never waits.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    #[inline(always)]
    pub fn try_recv(&mut self) -> Result<Option<Message<'_>>, RecvError> {
        let received = self.receiver.try_recv_by(Some(&mut self.sender));
        self.sender.following(received)
    }

    /// Returns the next message and waits for it if there is none.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive. Messages that arrived before are
    /// received first.
    pub fn recv(&mut self) -> Result<Message<'_>, RecvError> {
        let received = self.receiver.recv_by(Some(&mut self.sender));
        self.sender.following(received)
    }

    /// Returns the next message and waits for it until the deadline. Returns `None` if the deadline
    /// passes.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Option<Message<'_>>, RecvError> {
        let received = self.receiver.receive(Some(deadline), Some(&mut self.sender));
        self.sender.following(received)
    }

    /// Returns the next message and waits for it for at most `timeout`, see
    /// [`Receiver::recv_timeout`].
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<Message<'_>>, RecvError> {
        // A timeout that overflows the clock means no deadline.
        let deadline = Instant::now().checked_add(timeout);
        let received = self.receiver.receive(deadline, Some(&mut self.sender));
        self.sender.following(received)
    }

    /// Returns an iterator over the messages, with copied payloads, see [`Receiver::iter`].
    pub fn iter(&mut self) -> Messages<'_> {
        Messages::new(&mut self.receiver, Some(&mut self.sender))
    }

    /// Waits until there is a message to receive or the deadline passes. Returns whether there is a
    /// message.
    ///
    /// # Errors
    ///
    /// Returns [`RecvError`] if no more messages can arrive.
    #[inline]
    pub fn wait_for_message(&mut self, deadline: Option<Instant>) -> Result<bool, RecvError> {
        let waited = self.receiver.wait_by(deadline, Some(&mut self.sender));
        self.sender.following(waited)
    }

    /// Prepares a sleep in the caller's own event loop, see [`Receiver::prepare_wait`].
    pub fn prepare_wait(&mut self) -> Wait {
        self.receiver.prepare_wait()
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
        let ended = self.receiver.ended();
        let _ = self.sender.ended();
        ended
    }

    /// Returns the receiver that holds up the bus, see [`Sender::held_up`].
    pub fn held_up(&mut self) -> Option<HeldUp> {
        self.sender.held_up()
    }

    /// Returns the number of clients that receive now, see [`Sender::receivers`].
    pub fn receivers(&mut self) -> Option<usize> {
        self.sender.receivers()
    }

    /// Waits until at least `count` clients receive or the deadline passes, see
    /// [`Sender::wait_for_receivers`].
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
        self.sender.wait_for_receivers(count, deadline)
    }
}

impl AsFd for Client {
    /// Returns the descriptor for an event loop, see [`Receiver`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

//! The sending half of a bus connection, or the sending end of a channel.

mod batch;
mod claim;

pub use self::batch::Batch;
pub use self::claim::Claim;

use crate::bus_addr::BusAddr;
use crate::client::ClientBuilder;
use crate::connection::{Connection, Locked, Sleep};
use crate::core::chain::{Blocked, ChainWriter, Refused, Stats};
use crate::core::fault::Fault;
use crate::core::limits::Limits;
use crate::core::link::{Ends, Interest, Outbound};
use crate::core::memory::Region;
use crate::core::message::{ClientId, Envelope, Tag};
use crate::core::parking::Half;
use crate::error::{ConnectError, Disconnected, HeldUp, SendError, WaitError};
use crate::receiver::Receiver;
use crate::socket::Sent;
use crate::sys::fork::{Gate, Opening};
use crate::wait::{RETRY_INTERVAL, SpinPolicy, Wait};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sends messages to a bus or through a channel.
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
/// A sender is made by [`Client::connect_sender`](crate::Client::connect_sender),
/// [`Client::into_split`](crate::Client::into_split), [`channel`](crate::channel()) or
/// [`Sender::connect`]. It belongs to the process that made it, see
/// [`Client`](crate::Client#forks).
#[derive(Debug)]
pub struct Sender {
    pub(crate) connection: Arc<Connection>,
    pub(crate) outbound: Outbound<Region>,
    /// Open while messages can be sent: the connection is open and nothing is unfinished.
    sends: Gate,
    /// Open while messages can be appended, that is, until the connection ends.
    appends: Gate,
    /// Whether a batch or an in-place message has begun and not ended. If another operation finds
    /// it set, the guard was forgotten or a panic unwound it.
    unfinished: bool,
    /// Whether pages are still to be announced, because the kernel had no memory.
    retry: bool,
    /// The connection to the next broker and the chain for it, until all its pages are sent.
    moving: Option<(Arc<Connection>, Outbound<Region>)>,
    /// Whether the broker announces the receiver count to this client.
    tracks_receivers: bool,
    spin: SpinPolicy,
    /// A forked child writes its payloads here.
    scratch: Vec<u8>,
}

impl Sender {
    pub(crate) fn new(connection: Arc<Connection>, outbound: Outbound<Region>) -> Self {
        Sender {
            connection,
            outbound,
            sends: Gate::open(),
            appends: Gate::open(),
            unfinished: false,
            retry: false,
            moving: None,
            tracks_receivers: false,
            spin: SpinPolicy::of_client(),
            scratch: Vec::new(),
        }
    }

    pub(crate) fn tracking(mut self, tracks_receivers: bool) -> Self {
        self.tracks_receivers = tracks_receivers;
        self
    }

    /// Returns a builder for a sender of a bus with other settings.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let bus = dir.path().join("bus");
    /// # let broker = llmp::Broker::bind(&bus)?;
    /// # std::thread::spawn(move || broker.run());
    /// let wait = std::time::Duration::from_secs(1);
    /// let sender = llmp::Sender::builder().wait_for_bus(wait).connect_sender(&bus)?;
    /// # Ok(()) }
    /// ```
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Connects to a channel's receiver by the name or path where it
    /// [listens](crate::Receiver::listen). For a bus, use
    /// [`Client::connect_sender`](crate::Client::connect_sender).
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the connection fails. Its text says what to do.
    pub fn connect(bus: impl Into<BusAddr>) -> Result<Self, ConnectError> {
        crate::channel::connect(&bus.into())
    }

    /// Makes a channel over a connected `SOCK_SEQPACKET` socket. The other end must call
    /// [`Receiver::over`](crate::Receiver::over) at the same time.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if the other end does not complete the handshake of a receiver.
    pub fn over(socket: std::os::fd::OwnedFd) -> Result<Self, ConnectError> {
        crate::channel::send_over(socket)
    }

    /// Returns this client's id on the bus, or 1 in a channel.
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

    /// Returns the counters of this sender's chain.
    pub fn stats(&self) -> Stats {
        self.outbound.chain.stats()
    }

    /// Sends a message and waits for room if the chain is full.
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. No part of the message was written then.
    pub fn send(&mut self, tag: impl Into<Tag>, payload: &[u8]) -> Result<(), SendError> {
        self.send_envelope(Envelope::tagged(tag), payload)
    }

    /// Sends a message with flags or an origin and waits for room if the chain is full.
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. No part of the message was written then.
    pub fn send_envelope(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        self.send_by(envelope, payload, None, None)
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
        self.send_by(Envelope::tagged(tag), payload, Some(deadline), None)
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
        self.send_by(envelope, payload, Instant::now().checked_add(timeout), None)
    }

    /// Sends a message and waits for room until the deadline. `receiver` is the other half, if the
    /// caller has it: it takes messages in meanwhile.
    #[inline]
    pub(crate) fn send_by(
        &mut self,
        envelope: Envelope,
        payload: &[u8],
        deadline: Option<Instant>,
        mut receiver: Option<&mut Receiver>,
    ) -> Result<(), SendError> {
        loop {
            match self.try_send_envelope(envelope, payload) {
                Err(full @ SendError::Full { .. })
                    if deadline.is_some_and(|d| d <= Instant::now()) =>
                {
                    return Err(full);
                }
                Err(SendError::Full { .. }) => {
                    self.wait_for_room(&envelope, payload.len(), deadline, receiver.as_deref_mut())?
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
        // Kept apart from the code below, because the compiler would fold both into a longer
        // computation.
        if !self.sends.is_open() {
            return self.try_send_elsewhere(envelope, payload);
        }
        if self.outbound.chain.fits(&envelope, payload.len())
            && let Ok(must_ring) = self.outbound.send(envelope, payload)
        {
            if must_ring {
                self.ring();
            }
            return Ok(());
        }
        self.try_send_elsewhere(envelope, payload)
    }

    #[cold]
    #[inline(never)]
    fn try_send_elsewhere(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        self.discard_unfinished();
        let mut must_ring = false;
        self.with_room(|outbound| {
            must_ring = outbound.send(envelope, payload)?;
            Ok(())
        })?;
        if must_ring {
            self.ring();
        }
        Ok(())
    }

    /// Sends a message of `len` bytes that `fill` writes in place, without a copy. Waits for room
    /// like [`send`](Sender::send). The initial content of the slice is unspecified. If `fill`
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
        self.claim(envelope, len)?.fill(fill)
    }

    /// Claims room for a message of `len` bytes, to write it in place and without a copy. Waits for
    /// room like [`send`](Sender::send). See [`Claim`] for an example.
    ///
    /// # Errors
    ///
    /// Returns [`SendError`]. Nothing is claimed then.
    pub fn claim(&mut self, envelope: Envelope, len: usize) -> Result<Claim<'_>, SendError> {
        self.claim_by(envelope, len, None)
    }

    pub(crate) fn claim_by(
        &mut self,
        envelope: Envelope,
        len: usize,
        mut receiver: Option<&mut Receiver>,
    ) -> Result<Claim<'_>, SendError> {
        loop {
            match Claim::reserve(self, envelope, len) {
                Err(SendError::Full { .. }) => {
                    self.wait_for_room(&envelope, len, None, receiver.as_deref_mut())?;
                }
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

    /// Waits until all sent messages are consumed, by the broker or by the channel's receiver.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Disconnected`] if the connection ends first.
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.flush_by(None, None).map(drop)
    }

    /// Waits until all sent messages are consumed, for at most `timeout`. Returns whether they are.
    ///
    /// # Errors
    ///
    /// Returns [`SendError::Disconnected`] if the connection ends first.
    pub fn flush_timeout(&mut self, timeout: Duration) -> Result<bool, SendError> {
        // A timeout that overflows the clock means no deadline.
        self.flush_by(Instant::now().checked_add(timeout), None)
    }

    pub(crate) fn flush_by(
        &mut self,
        deadline: Option<Instant>,
        mut receiver: Option<&mut Receiver>,
    ) -> Result<bool, SendError> {
        drop(self.connection.lock()?);
        self.discard_unfinished();
        let consumed = Interest { consumed: true, ..Interest::default() };
        loop {
            self.settle();
            let is_consumed = self.outbound.is_ready(consumed) && !self.is_behind();
            if let Some(fault) = self.outbound.take_fault() {
                return Err(self.fail(fault).into());
            }
            if is_consumed {
                return Ok(true);
            }
            self.locked(|_, locked| locked.check_open())??;
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(false);
            }
            self.wait(consumed, deadline, receiver.as_deref_mut())?;
        }
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
        self.settle();
        let ended = self.locked(|_, locked| {
            locked.pump(Half::Sender);
            if locked.is_orphaned() {
                // The end was noticed. The descriptor need not report it any more.
                locked.connection.watch_no_longer(Half::Sender);
            }
            locked.ended().cloned()
        });
        ended.unwrap_or_else(Some)
    }

    /// Prepares a wait in a loop of the caller, for a sender that [outlives] its broker. Such a sender
    /// goes on with the next broker in its calls, so one that sends seldom calls this function before
    /// each wait, and waits until the descriptor ([`AsFd`]) is readable or the timeout has passed.
    /// Without that, a message of the last broker's time may wait for the next call.
    ///
    /// Returns [`Wait::Ready`] if the connection has ended.
    ///
    /// [outlives]: ClientBuilder::outlive_broker
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (mut sender, receiver) = llmp::channel()?;
    /// assert_eq!(sender.prepare_wait(), llmp::Wait::Readable { timeout: None });
    /// drop(receiver);
    /// assert_eq!(sender.prepare_wait(), llmp::Wait::Ready);
    /// # Ok(()) }
    /// ```
    pub fn prepare_wait(&mut self) -> Wait {
        if self.connection.owner.is_here() {
            self.discard_unfinished();
        }
        if self.ended().is_some() {
            return Wait::Ready;
        }
        // What it has read may have ended the last broker's time.
        self.settle();
        let retry = self.retry.then_some(RETRY_INTERVAL);
        let timeout = self.locked(|_, locked| locked.sender_waits_at_most());
        Wait::Readable { timeout: timeout.unwrap_or_default().into_iter().chain(retry).min() }
    }

    /// Returns the receiver that holds up the bus. The broker names it once this client's messages
    /// have waited for one second. Returns `None` in a channel.
    pub fn held_up(&mut self) -> Option<HeldUp> {
        self.locked(|_, locked| {
            locked.pump(Half::Sender);
            locked.held_up()
        })
        .ok()?
    }

    /// Returns the number of clients that receive now, as last announced by the broker. Returns
    /// `None` in a channel, in a forked child, and if the client does not
    /// [track](ClientBuilder::track_receivers) the count.
    pub fn receivers(&mut self) -> Option<usize> {
        let tracks = self.tracks_receivers;
        self.locked(|_, locked| {
            locked.pump(Half::Sender);
            locked.receivers(tracks)
        })
        .ok()?
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
    /// Returns [`WaitError::NotTracking`] in a channel, and if the client does not
    /// [track](ClientBuilder::track_receivers) the count. Returns [`WaitError::Disconnected`] if
    /// the connection ends first.
    pub fn wait_for_receivers(
        &mut self,
        count: usize,
        deadline: Option<Instant>,
    ) -> Result<bool, WaitError> {
        let tracks = self.tracks_receivers;
        loop {
            let connection = self.connection.clone();
            let waited = connection.wait_for_receivers(Half::Sender, tracks, count, deadline);
            if let Some(waited) = self.following(waited)? {
                return Ok(waited);
            }
            self.settle();
            if self.is_behind() {
                self.locked(|_, locked| locked.check_open())??;
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    return Ok(false);
                }
                std::thread::sleep(RETRY_INTERVAL);
            }
        }
    }

    /// Waits until there may be room for a message or the deadline passes.
    #[cold]
    fn wait_for_room(
        &mut self,
        envelope: &Envelope,
        len: usize,
        deadline: Option<Instant>,
        receiver: Option<&mut Receiver>,
    ) -> Result<(), SendError> {
        let room = Some(ChainWriter::<Region>::room_for(envelope, len));
        self.wait(Interest { room, ..Interest::default() }, deadline, receiver)
    }

    /// Waits until part of the interest may be ready. The receiving half takes messages in
    /// meanwhile, so that clients which all send at once cannot deadlock (P9).
    fn wait(
        &mut self,
        mut interest: Interest,
        deadline: Option<Instant>,
        mut receiver: Option<&mut Receiver>,
    ) -> Result<(), SendError> {
        self.settle();
        if let Some(receiver) = receiver.as_deref_mut() {
            receiver.fill_inbox()?;
            interest.message = true;
        }
        // A caller may have exchanged the halves of two clients. Or this half has gone on with the
        // next broker, and the receiving one still reads what the last one has published.
        let is_other =
            |receiver: &mut &mut Receiver| !Arc::ptr_eq(&receiver.connection, &self.connection);
        let other = receiver.take_if(is_other).is_some();
        interest.message &= !other;
        let deadline = match other {
            true => {
                let soon = Instant::now() + RETRY_INTERVAL;
                Some(deadline.map_or(soon, |deadline| deadline.min(soon)))
            }
            false => deadline,
        };
        let (unsent, seen) = self.locked(|outbound, locked| {
            (locked.announcement(outbound).is_some(), locked.state.version)
        })?;
        self.retry &= unsent;
        let sleep = Sleep {
            connection: &self.connection,
            half: if receiver.is_some() { Half::Receiver } else { Half::Sender },
            seen,
            is_alone: receiver.is_some() || self.connection.is_alone(),
            unsent: unsent && !self.retry,
            retry: self.retry,
            ends: Ends {
                outbound: Some(&mut self.outbound),
                inbound: receiver.map(|receiver| &mut receiver.inbound),
            },
            interest,
        };
        sleep.wait(&mut self.spin, deadline);
        if unsent {
            // The next operation reports an error.
            let _ = self.announce_pages();
        }
        Ok(())
    }

    /// Runs `write` and removes the cause if it is blocked. Does not publish what `write` appended.
    fn with_room(
        &mut self,
        mut write: impl FnMut(&mut Outbound<Region>) -> Result<(), Refused>,
    ) -> Result<(), SendError> {
        let is_orphaned = |locked: &mut Locked<'_>| {
            if locked.outlives() {
                // Without room in a page, it is time to look.
                locked.pump(Half::Sender);
            }
            locked.check_open()?;
            Ok::<_, Disconnected>(locked.is_orphaned())
        };
        if self.locked(|_, locked| is_orphaned(locked))?? {
            self.settle();
            self.locked(|_, locked| locked.check_open())??;
            if self.moving.is_some() {
                // What is written now would not be in the copy.
                return Err(SendError::Full { held_up: None });
            }
        }
        loop {
            match write(&mut self.outbound) {
                // After an invalid cursor the peer no longer reads what is written.
                Ok(()) => match self.outbound.take_fault() {
                    None => return Ok(()),
                    Some(fault) => return Err(self.fail(fault).into()),
                },
                Err(Refused::TooLong { len, max }) => return Err(SendError::TooLong { len, max }),
                Err(Refused::Blocked(blocked)) => self.make_room(blocked)?,
            }
        }
    }

    /// Removes the cause that blocks the sender, if this side can.
    #[cold]
    fn make_room(&mut self, blocked: Blocked) -> Result<(), SendError> {
        if let Some(fault) = self.outbound.take_fault() {
            return Err(self.fail(fault).into());
        }
        if let Blocked::NeedPage(len) = blocked {
            match Region::shared("llmp-page", len) {
                Ok(page) => self.outbound.chain.add_page(page),
                Err(error) if !self.outbound.chain.stop_growing() => return Err(error.into()),
                Err(_) => {}
            }
        }
        let all_sent = self.announce_pages()?;
        if blocked == Blocked::Full {
            // Callers that only use `try_send` detect a disconnect here.
            self.locked(|_, locked| {
                locked.pump(Half::Sender);
                locked.check_open()
            })??;
        }
        match blocked == Blocked::Full || !all_sent {
            true => Err(self.full()),
            false => Ok(()),
        }
    }

    /// Returns [`SendError::Full`] with the receiver that holds up the bus, if the broker has named
    /// one.
    fn full(&mut self) -> SendError {
        let held_up = self.locked(|_, locked| locked.held_up());
        SendError::Full { held_up: held_up.ok().flatten() }
    }

    /// Announces our pages to the peer. Returns whether all announcements were sent.
    fn announce_pages(&mut self) -> Result<bool, Disconnected> {
        let sent =
            self.locked(|outbound, locked| match locked.send_announcements(outbound) {
                Sent::HungUp => {
                    // The peer may have sent the reason.
                    locked.pump(Half::Sender);
                    match locked.hung_up() {
                        Some(ended) => Err(ended),
                        // Nothing is announced until the next broker is there.
                        None => Ok(locked.send_announcements(outbound)),
                    }
                }
                sent => Ok(sent),
            })??;
        self.retry = sent == Sent::NoMemory;
        Ok(sent == Sent::Yes)
    }

    /// Rings the peer. If the kernel has no memory, the next slow operation or sleep retries it.
    #[cold]
    fn ring(&mut self) {
        let _ = self.locked(|outbound, locked| {
            if !locked.ring(Half::Sender) {
                outbound.not_rung();
            }
        });
    }

    /// Ends the connection for a fault of the peer.
    fn fail(&mut self, fault: Fault) -> Disconnected {
        let fail = |locked: &mut Locked<'_>| {
            if fault == Fault::Removed {
                // A packet may say why.
                locked.pump(Half::Sender);
            }
            locked.fail(fault)
        };
        self.locked(|_, locked| fail(locked)).unwrap_or_else(|forked| forked)
    }

    /// Runs `act` with the lock held, and follows the connection's state.
    fn locked<T>(
        &mut self,
        act: impl FnOnce(&mut Outbound<Region>, &mut Locked<'_>) -> T,
    ) -> Result<T, Disconnected> {
        let now = Gate::now();
        let (result, is_open) = match self.connection.lock() {
            Err(forked) => (Err(forked), false),
            Ok(mut locked) => {
                let result = act(&mut self.outbound, &mut locked);
                if locked.state.again.announcement().is_some() {
                    // Answers a request for a page, which `act` may have read.
                    self.retry |= locked.send_announcements(&mut self.outbound) == Sent::NoMemory;
                }
                (Ok(result), locked.ended().is_none() && !locked.is_orphaned())
            }
        };
        self.follow(now, is_open);
        result
    }

    /// Follows the connection's state if the receiving half has reported its end.
    #[inline(always)]
    pub(crate) fn following<T, E>(&mut self, received: Result<T, E>) -> Result<T, E> {
        if received.is_err() {
            let _ = self.locked(|_, _| ());
        }
        received
    }

    /// Returns whether there is another broker with which this half has not gone on.
    pub(crate) fn is_behind(&self) -> bool {
        self.connection.next().is_some()
    }

    /// Discards what a forgotten guard has left, and goes on with the next broker. The caller receives,
    /// so no guard is alive.
    pub(crate) fn settle_for_receiver(&mut self) {
        if self.connection.check_owner().is_ok() {
            self.discard_unfinished();
        }
        self.settle();
    }

    /// Goes on with the next broker, if there is one and it can be done now.
    fn settle(&mut self) {
        let _ = self.move_on();
    }

    /// Goes on with the next broker, if there is one, in a new chain: a copy of what the last broker
    /// had not consumed. Until all its pages are sent, nothing of it is visible, and this half stays
    /// where it is. A message that is being written stays in its place, too.
    ///
    /// # Errors
    ///
    /// Returns [`SendError`] if it can't be done now. The next call tries again.
    fn move_on(&mut self) -> Result<(), SendError> {
        if self.unfinished {
            return Ok(());
        }
        let next = self.locked(|_, locked| {
            locked.seek_next();
            locked.next_outbound().map(|next| (next, locked.state.parking.control().clone()))
        })?;
        let Some(((mut connection, mut next), control)) = next else { return Ok(()) };
        // Brokers in between have not seen this chain.
        let consumed = next.consumed;
        while let Some(later) = {
            let mut locked = connection.lock()?;
            locked.seek_next();
            locked.next_outbound()
        } {
            (connection, next) = later;
        }
        if self.moving.as_ref().is_none_or(|(to, _)| !Arc::ptr_eq(to, &connection)) {
            let make = |len| Region::shared("llmp-page", len);
            let chain = self.outbound.chain.copy_rest(consumed, control, make)?;
            let chain = chain.map_err(|fault| self.fail(fault))?;
            let outbound = Outbound::from_first(chain, next.peer, next.cursor);
            self.moving = Some((connection.clone(), outbound));
        }
        let Some((_, outbound)) = &mut self.moving else { return Ok(()) };
        let mut locked = connection.lock()?;
        match locked.send_announcements(outbound) {
            Sent::Yes => {}
            Sent::HungUp => {
                locked.pump(Half::Sender);
                // If that connection has ended for good, this half goes there and says so.
                if locked.hung_up().is_none() {
                    return Err(SendError::Full { held_up: None });
                }
            }
            Sent::NotNow | Sent::NoMemory => return Err(SendError::Full { held_up: None }),
        }
        locked.state.progress = Some(outbound.progress().clone());
        drop(locked);
        let Some((connection, mut outbound)) = self.moving.take() else { return Ok(()) };
        let must_ring = outbound.publish();
        connection.take_watched(&self.connection, Half::Sender);
        (self.connection, self.outbound) = (connection, outbound);
        if must_ring {
            self.ring();
        }
        self.locked(|_, _| ())?;
        Ok(())
    }

    /// Sets the gates to the connection's state.
    pub(crate) fn follow(&mut self, now: Opening, is_open: bool) {
        self.appends.set(now, is_open);
        self.sends.set(now, is_open && !self.unfinished);
    }

    /// Begins a batch or an in-place message.
    fn begin(&mut self) {
        self.discard_unfinished();
        if !self.appends.is_open() {
            // What is written in place stays in its chain.
            self.settle();
        }
        self.set_unfinished(true);
    }

    fn set_unfinished(&mut self, unfinished: bool) {
        self.unfinished = unfinished;
        self.sends = self.appends;
        if unfinished {
            self.sends.set(Gate::now(), false);
        }
    }

    /// Ends it and makes the appended messages visible.
    fn finish(&mut self) {
        self.set_unfinished(false);
        if self.connection.owner.is_here() && self.outbound.publish() {
            self.ring();
        }
    }

    /// Ends it and discards the appended messages. Also called after its guard was forgotten or
    /// unwound.
    fn discard_unfinished(&mut self) {
        if self.unfinished {
            self.set_unfinished(false);
            self.outbound.chain.abort();
        }
    }

    /// Appends one message to the pending batch if there is room.
    #[inline(always)]
    fn append(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        let envelope = Envelope { sender: self.connection.id, ..envelope };
        if self.appends.is_open()
            && self.outbound.chain.fits(&envelope, payload.len())
            && self.outbound.chain.append(envelope, payload).is_ok()
        {
            return Ok(());
        }
        self.append_elsewhere(envelope, payload)
    }

    #[cold]
    #[inline(never)]
    fn append_elsewhere(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        self.with_room(|outbound| outbound.chain.append(envelope, payload))
    }
}

impl AsFd for Sender {
    /// Returns a descriptor that becomes readable when the connection or the peer's process ends.
    /// Packets of the peer make it readable, too. [`ended`](Sender::ended) reads them.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.watched(Half::Sender)
    }
}

impl AsRawFd for Sender {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::wire::Packet;
    use crate::socket::Received;

    // P3
    #[test]
    fn a_sender_that_only_looks_at_its_connection_sends_a_lost_page_again() {
        let (mut sender, receiver) = crate::channel().unwrap();
        let receivers_socket = &receiver.connection.socket;
        for look in [
            |sender: &mut Sender| assert_eq!(sender.ended(), None),
            |sender: &mut Sender| assert_eq!(sender.held_up(), None),
        ] {
            assert_eq!(receivers_socket.send(&Packet::Again { id: 0 }, None), Sent::Yes);
            look(&mut sender);
            let received = receivers_socket.receive();
            assert!(
                matches!(received, Received::Packet(Packet::Page { id: 0 }, Some(_))),
                "{received:?}"
            );
        }
    }
}

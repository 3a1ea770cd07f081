//! The connection of a [`Link`]: its socket, memory for its pages, and waiting.

use crate::backoff::CatchUpBackoff;
use crate::core::chain::{Announcement, Blocked, ChainWriter, Event, Peek, Refused};
use crate::core::fault::Fault;
use crate::core::fault::InvalidMemfd;
use crate::core::limits::Limits;
use crate::core::link::{Interest, Link};
use crate::core::memory::Region;
use crate::core::message::{ClientId, Envelope, Slot};
use crate::core::wire::{ByeReason, Packet, WireError};
use crate::error::{Disconnected, HeldUp, RecvError, SendError};
use crate::lost::{Again, Lost};
use crate::sleep_bound::SleepBound;
use crate::socket::{Received, Sent, Socket};
use crate::spin::SpinPolicy;
use crate::sys::fork::{Gate, Owner};
use crate::sys::memfd::ReceivedFd;
use crate::sys::system::os_page;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Spins before a sleep, and yields to other threads after the spins.
const SPINS: u32 = 200;
const YIELDS: u32 = 10;

/// The cursor is published once per `EMPTY_POLLS` empty polls.
const EMPTY_POLLS: u32 = 64;

/// A busy-polling receiver reads its socket (a system call) at most this often.
const SOCKET_READ_INTERVAL: Duration = Duration::from_millis(1);

/// The longest sleep while a notification could not be sent (`ENOBUFS`/`ENOMEM`).
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// The longest sleep in an event loop whose descriptor cannot report the peer's death.
const PEER_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The most packets and rollovers handled in one call. It bounds the work that a hostile peer can
/// cause.
const AT_ONCE: usize = 4096;

/// The last report of a receiver that holds up the bus.
#[derive(Debug)]
struct HeldUpNews {
    client: ClientId,
    process: u32,
    lasted: Duration,
    last_read: Instant,
    /// The tail of our chain when the report arrived.
    tail: u64,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub socket: Socket,
    pub link: Link<Region>,
    pub limits: Limits,
    /// The client's id on the bus.
    pub id: ClientId,
    /// Whether this side requested the receiver count, and its last value.
    pub tracks_receivers: bool,
    pub receivers: Option<u32>,
    /// The broker's last report of a receiver that holds up the bus.
    held_up: Option<HeldUpNews>,
    /// The process that owns the connection.
    owner: Owner,
    /// Why the connection ended. Messages committed before the end can still be received.
    ended: Option<Disconnected>,
    /// Open while messages can be appended, that is, until the connection ends.
    appends: Gate,
    /// Open while messages can be sent: the connection is open and nothing is unfinished.
    sends: Gate,
    /// Open while a peek at the chain is enough: the connection is open and not armed.
    looks: Gate,
    /// Whether a batch or an in-place message has begun and not ended. If another operation finds
    /// it set, the guard was forgotten or a panic unwound it.
    unfinished: bool,
    /// Whether the parked word may be set, see [`arm`](Connection::arm).
    armed: bool,
    /// Whether a ring or a page's descriptor is still to be sent, because the kernel had no memory.
    send_pending: bool,
    /// Pages whose descriptors were lost here, and pages that the peer has lost.
    lost: Lost,
    again: Again,
    empty_polls: u32,
    backoff: CatchUpBackoff,
    /// Last time the socket was read while busy-polling.
    last_read: Instant,
    spin: SpinPolicy,
    sleep_bound: SleepBound,
    /// The descriptor for event loops, made on first use. It covers the connection and the peer's
    /// process.
    watched: OnceLock<io::Result<Option<OwnedFd>>>,
}

impl Connection {
    pub fn new(mut socket: Socket, link: Link<Region>, limits: Limits, id: ClientId) -> Self {
        let owner = Owner::here();
        socket.bound_receive();
        Connection {
            owner,
            appends: Gate::of(owner),
            sends: Gate::of(owner),
            looks: Gate::of(owner),
            socket,
            link,
            limits,
            id,
            tracks_receivers: false,
            receivers: None,
            held_up: None,
            ended: None,
            unfinished: false,
            armed: false,
            send_pending: false,
            lost: Lost::new(),
            again: Again::default(),
            empty_polls: 0,
            backoff: CatchUpBackoff::new(limits.budget() as u64 / 4),
            last_read: Instant::now(),
            spin: SpinPolicy::new(SPINS, YIELDS),
            sleep_bound: SleepBound::new(),
            watched: OnceLock::new(),
        }
    }

    /// Returns why the connection ended, if that is known.
    pub fn ended(&self) -> Option<&Disconnected> {
        self.ended.as_ref()
    }

    /// Returns the process that owns the connection.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Returns an error in a forked child. The connection ends for the child, and the state shared
    /// with the parent stays untouched.
    pub fn check_owner(&mut self) -> Result<(), Disconnected> {
        if self.owner.is_here() {
            return Ok(());
        }
        self.ended = Some(Disconnected::Forked);
        self.set_gates();
        Err(Disconnected::Forked)
    }

    /// Ends the connection unless it has ended before. Returns why it ended.
    fn end(&mut self, why: Disconnected) -> Disconnected {
        let ended = self.ended.get_or_insert(why).clone();
        self.set_gates();
        ended
    }

    fn set_gates(&mut self) {
        let is_open = self.ended.is_none();
        self.appends.set(self.owner, is_open);
        self.sends.set(self.owner, is_open && !self.unfinished);
        self.looks.set(self.owner, is_open && !self.armed);
    }

    /// Sends one message if there is room.
    #[inline(always)]
    pub fn try_send(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        // Kept apart from the code below, because the compiler would fold both into a longer
        // computation.
        if !self.sends.is_open() {
            return self.try_send_elsewhere(envelope, payload);
        }
        if self.fits(&envelope, payload.len())
            && let Ok(must_ring) = self.link.send(envelope, payload)
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
        self.with_room(|link| {
            must_ring = link.send(envelope, payload)?;
            Ok(())
        })?;
        if must_ring {
            self.ring();
        }
        Ok(())
    }

    /// Begins a batch or an in-place message.
    pub fn begin(&mut self) {
        self.discard_unfinished();
        self.set_unfinished(true);
    }

    fn set_unfinished(&mut self, unfinished: bool) {
        self.unfinished = unfinished;
        self.set_gates();
    }

    /// Ends it and makes the appended messages visible.
    pub fn finish(&mut self) {
        self.set_unfinished(false);
        if self.check_owner().is_ok() {
            self.publish();
        }
    }

    /// Ends it and discards the appended messages. Also called after its guard was forgotten or
    /// unwound.
    pub fn discard_unfinished(&mut self) {
        if self.unfinished {
            self.set_unfinished(false);
            if let Some(outbound) = self.link.outbound_mut() {
                outbound.abort();
            }
        }
    }

    /// Appends one message to the pending batch if there is room.
    #[inline(always)]
    pub fn append(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        if self.appends.is_open()
            && self.fits(&envelope, payload.len())
            && let Some(outbound) = self.link.outbound_mut()
            && outbound.append(envelope, payload).is_ok()
        {
            return Ok(());
        }
        self.append_elsewhere(envelope, payload)
    }

    #[cold]
    #[inline(never)]
    fn append_elsewhere(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), SendError> {
        self.with_room(|link| {
            link.outbound_mut().map_or(Ok(()), |out| out.append(envelope, payload))
        })
    }

    /// Returns whether a message fits without slow work.
    #[inline(always)]
    fn fits(&self, envelope: &Envelope, len: usize) -> bool {
        self.link.outbound().is_some_and(|out| out.fits(envelope, len))
    }

    /// Runs `write` and removes the cause if it is blocked. Does not publish what `write` appended.
    pub fn with_room(
        &mut self,
        mut write: impl FnMut(&mut Link<Region>) -> Result<(), Refused>,
    ) -> Result<(), SendError> {
        self.check_owner()?;
        if let Some(ended) = &self.ended {
            return Err(ended.clone().into());
        }
        if self.link.outbound().is_none() {
            return Err(SendError::ReceiveOnly);
        }
        loop {
            match write(&mut self.link) {
                // After an invalid cursor the peer no longer reads what is written.
                Ok(()) => match self.link.take_fault() {
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
        if let Some(fault) = self.link.take_fault() {
            return Err(self.fail(fault).into());
        }
        if let Blocked::NeedPage(len) = blocked {
            let outbound = self.link.outbound_mut().ok_or(SendError::ReceiveOnly)?;
            match Region::shared("llmp-page", len) {
                Ok(page) => outbound.add_page(page),
                Err(error) if !outbound.stop_growing() => return Err(error.into()),
                Err(_) => {}
            }
        }
        let all_sent = self.announce_pages()?;
        if blocked == Blocked::Full {
            // Callers that only use `try_send` detect a disconnect here.
            self.pump();
            if let Some(ended) = &self.ended {
                return Err(ended.clone().into());
            }
        }
        if blocked == Blocked::Full || !all_sent { Err(self.full()) } else { Ok(()) }
    }

    /// Returns [`SendError::Full`] with the receiver that holds up the bus, if the broker has named
    /// one.
    pub fn full(&self) -> SendError {
        SendError::Full { held_up: self.held_up() }
    }

    /// Returns the receiver that holds up the bus, if the broker has named one.
    pub fn held_up(&self) -> Option<HeldUp> {
        // A report expires when our chain advances.
        let news = self.held_up.as_ref().filter(|news| news.tail == self.tail())?;
        let HeldUpNews { client, process, lasted, last_read, .. } = *news;
        let process = (process != 0).then_some(process);
        Some(HeldUp { client, process, lasted: lasted.saturating_add(last_read.elapsed()) })
    }

    /// Returns the tail of our chain.
    fn tail(&self) -> u64 {
        self.link.outbound().map_or(0, ChainWriter::tail)
    }

    /// Makes the appended messages visible.
    #[inline]
    fn publish(&mut self) {
        if self.link.publish() {
            self.ring();
        }
    }

    /// Announces our pages to the peer. Returns whether all announcements were sent.
    pub fn announce_pages(&mut self) -> Result<bool, Disconnected> {
        match self.send_announcements() {
            Sent::Yes => Ok(true),
            Sent::NotNow | Sent::NoMemory => Ok(false),
            Sent::HungUp => {
                // The peer may have sent the reason.
                self.pump();
                Err(self.hung_up())
            }
        }
    }

    /// Sends the pending announcements of our pages.
    pub fn send_announcements(&mut self) -> Sent {
        while let Some(announcement) = self.announcement() {
            let outbound = self.link.outbound();
            match send_announcement(&self.socket, announcement, |id| {
                outbound.and_then(|out| out.page(id))
            }) {
                Sent::Yes if self.again.mark_sent() => {}
                Sent::Yes => self.link.mark_sent(),
                other => {
                    self.send_pending |= other == Sent::NoMemory;
                    return other;
                }
            }
        }
        Sent::Yes
    }

    /// Returns the next announcement for the peer.
    fn announcement(&self) -> Option<Announcement> {
        self.again.announcement().or_else(|| self.link.announcement())
    }

    /// Requests a page again whose descriptor was lost. A failed request is retried after
    /// [`RETRY_INTERVAL`].
    fn ask_again(&mut self) {
        if let Some(id) = self.lost.due(Instant::now()) {
            let sent = self.socket.send(&Packet::Again { id }, None);
            self.lost.asked(id, matches!(sent, Sent::Yes));
        }
    }

    /// Rings the peer. If the kernel has no memory, the next message, poll or sleep retries it.
    #[cold]
    fn ring(&mut self) {
        if !self.socket.ring() {
            self.link.not_rung();
            self.send_pending = true;
        }
    }

    /// Retries what the kernel had no memory for.
    #[cold]
    fn retry(&mut self) {
        self.send_pending = false;
        self.ring();
        self.send_announcements();
    }

    /// Reads all packets from the socket. If there are none, checks whether the peer has died.
    pub fn pump(&mut self) {
        if !self.drain() {
            self.check_peer();
        }
    }

    /// Reads all packets from the socket. Returns whether there was one.
    pub fn drain(&mut self) -> bool {
        if self.check_owner().is_err() {
            return false;
        }
        self.disarm();
        if self.send_pending {
            self.retry();
        }
        let mut has_more = true;
        for count in 0..AT_ONCE {
            let received = self.socket.receive();
            if !self.on_received(received) {
                has_more = count > 0;
                break;
            }
        }
        if !self.lost.is_empty() && self.ended.is_none() {
            self.ask_again();
        }
        has_more
    }

    /// Ends a sleep with what the socket returned. A ring is the expected wake-up. After any other
    /// packet more may follow. An empty socket may mean the peer's death.
    fn wake(&mut self, received: Received) {
        self.disarm();
        let is_ring = matches!(received, Received::Packet(Packet::Ring, _));
        let is_nothing = matches!(received, Received::Nothing);
        if self.on_received(received) && !is_ring {
            self.pump();
        } else if is_nothing {
            self.check_peer();
        }
    }

    /// Checks whether the peer's process has died while its child may keep the connection open.
    /// Reads the packets that it sent before (P4, P5).
    fn check_peer(&mut self) {
        if self.ended.is_none() && self.socket.peer().has_died() {
            self.drain();
            self.hung_up();
        }
    }

    /// Returns the descriptor for event loops. It is readable when the connection is readable or
    /// the peer has died.
    pub fn watched(&self) -> BorrowedFd<'_> {
        // A forked child must not use the parent's epoll.
        if !self.owner.is_here() {
            return self.socket.as_fd();
        }
        let watch = || match self.lost.is_empty() {
            true => self.socket.watch_with_peer(),
            // The one free descriptor is reserved for a lost page.
            false => Err(rustix::io::Errno::MFILE.into()),
        };
        match self.watched.get_or_init(watch) {
            Ok(Some(both)) => both.as_fd(),
            Ok(None) | Err(_) => self.socket.as_fd(),
        }
    }

    /// Returns the longest sleep in an event loop. Valid once armed.
    pub fn watch_at_most(&mut self) -> Option<Duration> {
        let look = matches!(self.watched.get(), Some(Err(_))).then_some(PEER_CHECK_INTERVAL);
        look.into_iter().chain(self.sleep_at_most()).min()
    }

    /// Handles what the socket returned. Returns whether there may be more.
    fn on_received(&mut self, received: Received) -> bool {
        let fault = match received {
            Received::Nothing => return false,
            Received::HungUp => {
                self.hung_up();
                return false;
            }
            Received::Garbage(error) => error.into(),
            Received::Lost(Packet::Page { id }) if self.link.inbound().is_some() => {
                match self.lost.lost(id) {
                    true => return true,
                    false => WireError::Cut.into(),
                }
            }
            Received::Lost(_) => WireError::Cut.into(),
            Received::Packet(packet, descriptor) => match self.on_packet(packet, descriptor) {
                Ok(()) => return true,
                Err(fault) => fault,
            },
        };
        self.fail(fault);
        false
    }

    fn on_packet(&mut self, packet: Packet, descriptor: Option<ReceivedFd>) -> Result<(), Fault> {
        if let (Packet::Again { id }, Some(outbound)) = (packet, self.link.outbound()) {
            // A missing page's `Forget` precedes or follows this request.
            if outbound.page(id).is_some() {
                self.again.ask(id);
                self.send_announcements();
            }
            return Ok(());
        }
        match (packet, descriptor, self.link.inbound_mut()) {
            (Packet::Ring, ..) => {}
            (Packet::Page { id }, Some(mut descriptor), Some(inbound)) => {
                let page = map_page(&mut descriptor, &self.limits)?;
                drop(descriptor);
                inbound.add_page(id, page)?;
                self.lost.found(id);
            }
            // No message refers to a lost page that is forgotten.
            (Packet::Forget { id }, _, Some(_)) if self.lost.found(id) => {}
            (Packet::Forget { id }, _, Some(inbound)) => inbound.forget_page(id)?,
            (Packet::ReceiverCount { receivers }, ..) => self.receivers = Some(receivers),
            (Packet::HeldUp { client, process, millis }, ..) => {
                self.held_up = Some(HeldUpNews {
                    client: ClientId(client),
                    process,
                    lasted: Duration::from_millis(millis),
                    last_read: Instant::now(),
                    tail: self.tail(),
                });
            }
            (Packet::Bye(reason), ..) => {
                self.end(match reason {
                    ByeReason::Closed | ByeReason::Other(_) => Disconnected::Closed,
                    ByeReason::Fault => Disconnected::ProtocolError,
                });
            }
            (packet, ..) => return Err(packet.unexpected("from a peer that is joined").into()),
        }
        Ok(())
    }

    /// Ends the connection because the peer's process is gone. Committed messages are received
    /// first (P5).
    fn hung_up(&mut self) -> Disconnected {
        self.end(Disconnected::PeerDied)
    }

    /// Ends the connection for a fault of the peer.
    pub fn fail(&mut self, fault: Fault) -> Disconnected {
        // The peer must not wait for us while the owner keeps this connection.
        let is_removed = fault == Fault::Removed || !self.link.is_whole();
        self.socket.shut_down();
        if is_removed {
            return self.removed();
        }
        self.end(fault.into())
    }

    /// Ends the connection after a removal. The peer no longer waits for us and may reuse the pages
    /// that we read.
    #[cold]
    pub fn removed(&mut self) -> Disconnected {
        self.socket.shut_down();
        // The removal replaces a less exact reason.
        self.ended.take_if(|ended| matches!(ended, Disconnected::Closed | Disconnected::PeerDied));
        self.end(Disconnected::Removed)
    }

    /// Returns what stands at our position in the chain, unless other work comes first.
    #[inline(always)]
    pub fn peek(&self) -> Option<Peek> {
        if self.looks.is_open() { self.link.peek() } else { None }
    }

    /// Returns the next message, if there is one. It stays until
    /// [`ChainReader::advance`](crate::core::chain::ChainReader::advance).
    pub fn next(&mut self) -> Result<Option<Slot>, RecvError> {
        match self.peek() {
            Some(Peek::Message(slot)) => Ok(Some(slot)),
            Some(Peek::Nothing) => self.on_empty().map(|()| None),
            Some(Peek::Other(raw)) => match self.link.peek_ref(raw) {
                None => self.poll(),
                slot => Ok(slot),
            },
            None => self.poll(),
        }
    }

    /// Returns the next message or does the other work that is due.
    #[inline(never)]
    fn poll(&mut self) -> Result<Option<Slot>, RecvError> {
        if self.armed {
            // Clears the parked word. Otherwise the peer's rings would fill the socket.
            self.pump();
        }
        if self.send_pending {
            self.retry();
        }
        for _ in 0..AT_ONCE {
            self.may_read()?;
            let (event, ring) = match self.link.poll() {
                Ok(polled) => polled,
                Err(fault) => return Err(self.fail(fault).into()),
            };
            if ring {
                self.ring();
            }
            match event {
                Event::Message(slot) => return Ok(Some(slot)),
                Event::PageAdvanced => {}
                Event::Empty => return self.on_empty().map(|()| None),
                Event::Unknown(next) => {
                    self.await_page(next)?;
                    if self.lost.contains(next) {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns an error after a removal or a protocol error. The peer may reuse pages then, so
    /// reading stops.
    fn may_read(&self) -> Result<(), Disconnected> {
        match &self.ended {
            Some(Disconnected::Closed | Disconnected::PeerDied) | None => Ok(()),
            Some(ended) => Err(ended.clone()),
        }
    }

    /// Handles an empty chain. All messages that arrived were received.
    fn on_empty(&mut self) -> Result<(), RecvError> {
        if self.link.inbound().is_none() {
            return Err(RecvError::SendOnly);
        }
        // The end was detected before this poll of the chain, so no message can follow.
        match &self.ended {
            // The zero may belong to a page that is written again, while messages were not
            // received.
            Some(Disconnected::PeerDied) if !self.link.is_whole() => {
                return Err(self.removed().into());
            }
            Some(ended) => return Err(ended.clone().into()),
            None => {}
        }
        self.on_empty_poll();
        Ok(())
    }

    /// Handles a poll that found nothing.
    #[inline(always)]
    pub fn on_empty_poll(&mut self) {
        if let Some(inbound) = self.link.inbound()
            && self.backoff.caught_up(inbound.next_message(), inbound.position())
        {
            inbound.expect();
        }
        self.empty_polls = self.empty_polls.wrapping_add(1);
        if self.empty_polls.is_multiple_of(EMPTY_POLLS) {
            self.idle_housekeeping();
        }
    }

    /// Housekeeping for busy-polling callers: publishes the cursor and checks for a disconnect.
    #[cold]
    fn idle_housekeeping(&mut self) {
        if self.send_pending {
            self.retry();
        }
        if self.link.release() {
            self.ring();
        }
        let now = Instant::now();
        if now.duration_since(self.last_read) >= SOCKET_READ_INTERVAL {
            self.last_read = now;
            self.pump();
        }
    }

    /// Reads the descriptor of a page that a message has named. It was sent before the message.
    #[cold]
    fn await_page(&mut self, next: u32) -> Result<(), RecvError> {
        self.pump();
        self.may_read()?;
        match self.link.poll() {
            // The page was requested again.
            Ok((Event::Unknown(id), _)) if self.lost.contains(id) && self.ended.is_none() => Ok(()),
            Ok((Event::Unknown(_), _)) => {
                let fault = self.link.inbound().map(|inbound| inbound.unknown_page(next));
                match (self.ended.clone(), fault) {
                    (Some(ended), _) => Err(ended.into()),
                    (None, Some(fault)) => Err(self.fail(fault).into()),
                    (None, None) => Ok(()),
                }
            }
            Ok((_, true)) => {
                self.ring();
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(fault) => Err(self.fail(fault).into()),
        }
    }

    /// Waits until part of `interest` may be ready, the connection ends or the deadline passes.
    /// Returns false only if the deadline passed.
    pub fn wait(&mut self, interest: Interest, deadline: Option<Instant>) -> bool {
        if !self.lost.is_empty() && self.ended.is_none() {
            return self.wait_for_lost(deadline);
        }
        loop {
            if self.link.is_ready(interest) || self.ended.is_some() {
                self.spin.found();
                return true;
            }
            if !self.spin.again() {
                break;
            }
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.pump();
            return self.link.is_ready(interest) || self.ended.is_some();
        }
        if self.send_pending {
            self.retry();
        }
        if !self.arm(interest) {
            return true;
        }
        // Pending announcements also need a writable socket.
        let has_unsent = self.announcement().is_some() && !self.send_pending;
        let at_most = self.sleep_at_most();
        if !has_unsent && at_most.is_none() && deadline.is_none() {
            let received = self.socket.receive_blocking();
            self.wake(received);
            return true;
        }
        let bound = at_most.map(|at_most| Instant::now() + at_most);
        let until = deadline.into_iter().chain(bound).min();
        let happened = self.socket.wait(has_unsent, until);
        let received = self.socket.receive();
        self.wake(received);
        if has_unsent && self.announce_pages().is_err() {
            return true;
        }
        // If `poll` itself fails (no memory), do not wait for it but poll again.
        at_most.is_some() || happened.unwrap_or(true)
    }

    /// Waits while a lost page is missing. The chain is not empty then, but its messages cannot all
    /// be consumed.
    #[cold]
    fn wait_for_lost(&mut self, deadline: Option<Instant>) -> bool {
        let soon = Instant::now() + RETRY_INTERVAL;
        let until = deadline.map_or(soon, |deadline| deadline.min(soon));
        let happened = self.socket.wait(self.again.announcement().is_some(), Some(until));
        self.pump();
        happened.unwrap_or(true) || deadline.is_none_or(|deadline| Instant::now() < deadline)
    }

    /// Returns the longest sleep that may begin now. Valid once armed. `None` means until the peer
    /// rings.
    pub fn sleep_at_most(&mut self) -> Option<Duration> {
        let retry = (self.send_pending || !self.lost.is_empty()).then_some(RETRY_INTERVAL);
        let bound = self.sleep_bound.at_most(self.link.first_bounded_sleep());
        retry.into_iter().chain(bound).min()
    }

    /// Waits for any packet. Returns whether there may be one.
    pub fn wait_for_packet(&self, deadline: Option<Instant>) -> bool {
        let nap = self.send_pending.then(|| Instant::now() + RETRY_INTERVAL);
        // If `poll` itself fails (no memory), do not wait for it but poll again.
        self.socket.wait(false, deadline.into_iter().chain(nap).min()).unwrap_or(true)
    }

    /// Parks, unless part of `interest` is ready. Returns whether the caller may block on the
    /// socket.
    pub fn arm(&mut self, interest: Interest) -> bool {
        if self.check_owner().is_err() {
            return false;
        }
        // Messages after a lost page are no reason to stay awake.
        let message = interest.message && self.lost.is_empty();
        let (may_sleep, ring) = self.link.park(Interest { message, ..interest });
        self.armed = may_sleep;
        self.set_gates();
        if ring {
            self.ring();
        }
        may_sleep && self.ended.is_none()
    }

    fn disarm(&mut self) {
        if self.armed {
            self.link.unpark();
            self.armed = false;
            self.set_gates();
        }
    }

    /// Returns the counters of our chain.
    pub fn stats(&self) -> crate::core::chain::Stats {
        self.link.outbound().map(ChainWriter::stats).unwrap_or_default()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Sends an orderly end, which differs from a death. In a forked child the connection goes
        // on.
        if self.ended.is_none() && self.owner.is_here() {
            self.socket.send(&Packet::Bye(ByeReason::Closed), None);
        }
    }
}

/// Sends one announcement of the page pool to a receiver.
pub(crate) fn send_announcement<'a>(
    socket: &Socket,
    announcement: Announcement,
    page: impl FnOnce(u32) -> Option<&'a Region>,
) -> Sent {
    match announcement {
        Announcement::Forget(id) => socket.send(&Packet::Forget { id }, None),
        Announcement::Page(id) => match page(id).and_then(Region::descriptor) {
            Some(descriptor) => socket.send(&Packet::Page { id }, Some(descriptor)),
            // The page was released before its announcement was sent.
            None => Sent::Yes,
        },
    }
}

/// Maps a page that a peer has sent.
pub(crate) fn map_page(descriptor: &mut ReceivedFd, limits: &Limits) -> Result<Region, Fault> {
    let (min, max) = limits.page_bounds(os_page());
    descriptor.try_map(min, max).map_err(invalid_memfd)
}

/// Maps a page that a peer has sent and that is forwarded to other clients.
pub(crate) fn map_page_to_share(
    descriptor: &mut ReceivedFd,
    limits: &Limits,
) -> Result<Region, Fault> {
    let (min, max) = limits.page_bounds(os_page());
    descriptor.try_map_to_share(min, max).map_err(invalid_memfd)
}

fn invalid_memfd(source: InvalidMemfd) -> Fault {
    Fault::Descriptor { what: "a page", source }
}

//! An [`Link`] at its socket: packets in and out, memory for pages, and waiting.

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

/// Looks before it sleeps, and those behind them that let others run.
const SPINS: u32 = 200;
const YIELDS: u32 = 10;

/// Every so many looks at an empty chain, what was taken is given up.
const EMPTY_POLLS: u32 = 64;

/// How long who never sleeps doesn't look at the connection, which takes a system call.
const SOCKET_READ_INTERVAL: Duration = Duration::from_millis(1);

/// The longest sleep of a process that has something to send for which the kernel has no memory.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// The longest sleep in an event loop that can't be told of the peer's death.
const PEER_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Packets and page turns taken at one go, so that a hostile peer can't keep us here.
const AT_ONCE: usize = 4096;

/// News of a receiver that holds up the bus.
#[derive(Debug)]
struct HeldUpNews {
    client: ClientId,
    process: u32,
    lasted: Duration,
    last_read: Instant,
    /// The end of our chain when it came.
    tail: u64,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub socket: Socket,
    pub link: Link<Region>,
    pub limits: Limits,
    /// Our id on the bus.
    pub id: ClientId,
    /// Whether this side has asked how many clients receive, and what it has heard.
    pub tracks_receivers: bool,
    pub receivers: Option<u32>,
    /// What the broker said last about a receiver that holds up the bus.
    held_up: Option<HeldUpNews>,
    /// The process whose connection this is.
    owner: Owner,
    /// Why the connection has ended. What was committed before can still be received.
    ended: Option<Disconnected>,
    /// Whether messages can be appended: the connection has not ended.
    appends: Gate,
    /// Whether they can be sent, too: nothing is unfinished.
    sends: Gate,
    /// Whether a look at the chain is enough: the connection has not ended, and it is not armed.
    looks: Gate,
    /// Whether a batch, or a message that is filled in place, has begun and not ended. If another
    /// operation finds it set, the guard was forgotten or a panic has unwound it.
    unfinished: bool,
    /// Whether the parked word may be set, from [`arm`](Connection::arm).
    armed: bool,
    /// Whether the kernel had no memory for a ring or a page's descriptor, which are still due.
    send_pending: bool,
    /// Pages whose descriptors were lost here, and those that the peer has lost.
    lost: Lost,
    again: Again,
    empty_polls: u32,
    backoff: CatchUpBackoff,
    /// When who never sleeps has looked at the connection last.
    last_read: Instant,
    spin: SpinPolicy,
    sleep_bound: SleepBound,
    /// What an event loop watches, from its first use on: the connection and the peer's process.
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

    /// Why the connection has ended, as far as is known.
    pub fn ended(&self) -> Option<&Disconnected> {
        self.ended.as_ref()
    }

    /// The process whose connection this is.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// An error in a forked child. For the child the connection ends, and nothing that it shares with
    /// its parent is touched.
    pub fn check_owner(&mut self) -> Result<(), Disconnected> {
        if self.owner.is_here() {
            return Ok(());
        }
        self.ended = Some(Disconnected::Forked);
        self.set_gates();
        Err(Disconnected::Forked)
    }

    /// The connection has ended, if it had not before. Returns why.
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
        // Apart from what follows: the compiler would fold both into a longer computation.
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

    /// A batch, or a message that is filled in place, begins.
    pub fn begin(&mut self) {
        self.discard_unfinished();
        self.set_unfinished(true);
    }

    fn set_unfinished(&mut self, unfinished: bool) {
        self.unfinished = unfinished;
        self.set_gates();
    }

    /// It ends: what was appended becomes visible.
    pub fn finish(&mut self) {
        self.set_unfinished(false);
        if self.check_owner().is_ok() {
            self.publish();
        }
    }

    /// It ends, or its guard was forgotten or unwound: what was appended was never there.
    pub fn discard_unfinished(&mut self) {
        if self.unfinished {
            self.set_unfinished(false);
            if let Some(outbound) = self.link.outbound_mut() {
                outbound.abort();
            }
        }
    }

    /// Appends one message to what is published next, if there is room.
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

    /// Whether a message has room, without anything that takes longer.
    #[inline(always)]
    fn fits(&self, envelope: &Envelope, len: usize) -> bool {
        self.link.outbound().is_some_and(|out| out.fits(envelope, len))
    }

    /// Runs what writes to the chain, and provides what it is blocked for. What it wrote is not
    /// published yet.
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
                // Nobody reads any more what is written after the peer's cursor has lied.
                Ok(()) => match self.link.take_fault() {
                    None => return Ok(()),
                    Some(fault) => return Err(self.fail(fault).into()),
                },
                Err(Refused::TooLong { len, max }) => return Err(SendError::TooLong { len, max }),
                Err(Refused::Blocked(blocked)) => self.make_room(blocked)?,
            }
        }
    }

    /// Does away with what a sender is blocked for, if that is in our power.
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
        let told = self.announce_pages()?;
        if blocked == Blocked::Full {
            // Who never waits hears of the end here.
            self.pump();
            if let Some(ended) = &self.ended {
                return Err(ended.clone().into());
            }
        }
        if blocked == Blocked::Full || !told { Err(self.full()) } else { Ok(()) }
    }

    /// There is no room: names the receiver for which the bus waits, if the broker has.
    pub fn full(&self) -> SendError {
        SendError::Full { held_up: self.held_up() }
    }

    /// The receiver that holds up the bus, as far as the broker has said.
    pub fn held_up(&self) -> Option<HeldUp> {
        // What was said before our chain went on is over.
        let news = self.held_up.as_ref().filter(|news| news.tail == self.tail())?;
        let HeldUpNews { client, process, lasted, last_read, .. } = *news;
        let process = (process != 0).then_some(process);
        Some(HeldUp { client, process, lasted: lasted.saturating_add(last_read.elapsed()) })
    }

    /// The end of our chain.
    fn tail(&self) -> u64 {
        self.link.outbound().map_or(0, ChainWriter::tail)
    }

    /// Makes visible what was appended.
    #[inline]
    fn publish(&mut self) {
        if self.link.publish() {
            self.ring();
        }
    }

    /// Tells the peer about our pages. Returns whether it has been told everything.
    pub fn announce_pages(&mut self) -> Result<bool, Disconnected> {
        match self.send_announcements() {
            Sent::Yes => Ok(true),
            Sent::NotNow | Sent::NoMemory => Ok(false),
            Sent::HungUp => {
                // It may have said why.
                self.pump();
                Err(self.hung_up())
            }
        }
    }

    /// Tells the peer about our pages.
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

    /// What the peer must be told next.
    fn announcement(&self) -> Option<Announcement> {
        self.again.announcement().or_else(|| self.link.announcement())
    }

    /// Asks for a page again whose descriptor was lost. If that can't be sent now, it is tried again
    /// after a nap.
    fn ask_again(&mut self) {
        if let Some(id) = self.lost.due(Instant::now()) {
            let sent = self.socket.send(&Packet::Again { id }, None);
            self.lost.asked(id, matches!(sent, Sent::Yes));
        }
    }

    /// Rings the peer. Without memory for that it is tried again by whatever comes next: the next
    /// message, the next look for one, the next sleep.
    #[cold]
    fn ring(&mut self) {
        if !self.socket.ring() {
            self.link.not_rung();
            self.send_pending = true;
        }
    }

    /// Tries again to send what the kernel had no memory for.
    #[cold]
    fn retry(&mut self) {
        self.send_pending = false;
        self.ring();
        self.send_announcements();
    }

    /// Takes everything that the socket holds. If that is nothing, looks whether the peer has died.
    pub fn pump(&mut self) {
        if !self.drain() {
            self.check_peer();
        }
    }

    /// Takes everything that the socket holds. Returns whether that was anything.
    pub fn drain(&mut self) -> bool {
        if self.check_owner().is_err() {
            return false;
        }
        self.disarm();
        if self.send_pending {
            self.retry();
        }
        let mut has_more = true;
        for taken in 0..AT_ONCE {
            let received = self.socket.receive();
            if !self.on_received(received) {
                has_more = taken > 0;
                break;
            }
        }
        if !self.lost.is_empty() && self.ended.is_none() {
            self.ask_again();
        }
        has_more
    }

    /// Awake again, by what the socket brought. A ring is what was slept for; behind anything else
    /// there is more. Nothing may be the peer's death.
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

    /// Whether the peer's process has died, while a child of it may hold the connection open. What it
    /// had sent is taken first (P4, P5).
    fn check_peer(&mut self) {
        if self.ended.is_none() && self.socket.peer().has_died() {
            self.drain();
            self.hung_up();
        }
    }

    /// What an event loop watches: readable when the connection is, and when the peer has died.
    pub fn watched(&self) -> BorrowedFd<'_> {
        // What the parent watches is none of a forked child's business.
        if !self.owner.is_here() {
            return self.socket.as_fd();
        }
        let watch = || match self.lost.is_empty() {
            true => self.socket.watch_with_peer(),
            // The descriptor that is free now is for a page that was lost.
            false => Err(rustix::io::Errno::MFILE.into()),
        };
        match self.watched.get_or_init(watch) {
            Ok(Some(both)) => both.as_fd(),
            Ok(None) | Err(_) => self.socket.as_fd(),
        }
    }

    /// Once armed: how long a sleep in an event loop may last.
    pub fn watch_at_most(&mut self) -> Option<Duration> {
        let look = matches!(self.watched.get(), Some(Err(_))).then_some(PEER_CHECK_INTERVAL);
        look.into_iter().chain(self.sleep_at_most()).min()
    }

    /// Acts upon what the socket brought. Returns whether there may be more.
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
            // One that is gone will be, or was, followed by its `Forget`.
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
            // Nothing names a page any more that was lost and is forgotten.
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

    /// The other process is gone; what it had committed is received first (P5).
    fn hung_up(&mut self) -> Disconnected {
        self.end(Disconnected::PeerDied)
    }

    /// Ends the connection for a fault of the peer.
    pub fn fail(&mut self, fault: Fault) -> Disconnected {
        // The peer shall not wait for us, however long the owner keeps this.
        let is_removed = fault == Fault::Removed || !self.link.is_whole();
        self.socket.shut_down();
        if is_removed {
            return self.removed();
        }
        self.end(fault.into())
    }

    /// The peer waits for us no more: what we read may be written meanwhile.
    #[cold]
    pub fn removed(&mut self) -> Disconnected {
        self.socket.shut_down();
        // Unless it has said why: that is known better now.
        self.ended.take_if(|ended| matches!(ended, Disconnected::Closed | Disconnected::PeerDied));
        self.end(Disconnected::Removed)
    }

    /// What stands at its place in the chain, unless there is something else to do first.
    #[inline(always)]
    pub fn peek(&self) -> Option<Peek> {
        if self.looks.is_open() { self.link.peek() } else { None }
    }

    /// The next message, if there is one. It stays until [`ChainReader::advance`](crate::core::chain::ChainReader::advance).
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

    /// The next message, or whatever else there is to do.
    #[inline(never)]
    fn poll(&mut self) -> Result<Option<Slot>, RecvError> {
        if self.armed {
            // Awake now: the peer need not ring any more, which would fill the socket.
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

    /// Who was expelled, or has ended the connection for a fault, is not waited for: what it reads may
    /// be written again.
    fn may_read(&self) -> Result<(), Disconnected> {
        match &self.ended {
            Some(Disconnected::Closed | Disconnected::PeerDied) | None => Ok(()),
            Some(ended) => Err(ended.clone()),
        }
    }

    /// Everything that had arrived was received.
    fn on_empty(&mut self) -> Result<(), RecvError> {
        if self.link.inbound().is_none() {
            return Err(RecvError::SendOnly);
        }
        // The end was seen before this look at the chain, so that nothing can come after it.
        match &self.ended {
            // The zero may be that of a page that is written again, while messages were not received.
            Some(Disconnected::PeerDied) if !self.link.is_whole() => {
                return Err(self.removed().into());
            }
            Some(ended) => return Err(ended.clone().into()),
            None => {}
        }
        self.on_empty_poll();
        Ok(())
    }

    /// A look has found nothing.
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

    /// What sleeping does on the way, for who never sleeps: lets the peer know what was taken, and
    /// hears of the end.
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

    /// Gets the descriptor of a page that has been named: it was sent before.
    #[cold]
    fn await_page(&mut self, next: u32) -> Result<(), RecvError> {
        self.pump();
        self.may_read()?;
        match self.link.poll() {
            // It was asked for again.
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

    /// Waits until something of what is interest may be there, the connection ends, or the deadline
    /// has passed. Returns false in the last case alone.
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
        // While the peer has not been told of our pages, there is something to write, too.
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
        // An error of `poll` itself (no memory) is nothing to wait for; look again.
        at_most.is_some() || happened.unwrap_or(true)
    }

    /// While a page is missing that was lost, the chain has something, and not all of it can be taken.
    #[cold]
    fn wait_for_lost(&mut self, deadline: Option<Instant>) -> bool {
        let soon = Instant::now() + RETRY_INTERVAL;
        let until = deadline.map_or(soon, |deadline| deadline.min(soon));
        let happened = self.socket.wait(self.again.announcement().is_some(), Some(until));
        self.pump();
        happened.unwrap_or(true) || deadline.is_none_or(|deadline| Instant::now() < deadline)
    }

    /// Once armed: how long the sleep may last that begins now; `None`: until the peer rings.
    pub fn sleep_at_most(&mut self) -> Option<Duration> {
        let retry = (self.send_pending || !self.lost.is_empty()).then_some(RETRY_INTERVAL);
        let bound = self.sleep_bound.at_most(self.link.first_bounded_sleep());
        retry.into_iter().chain(bound).min()
    }

    /// Waits for the next packet, whatever it is. Returns whether there may be one.
    pub fn wait_for_packet(&self, deadline: Option<Instant>) -> bool {
        let nap = self.send_pending.then(|| Instant::now() + RETRY_INTERVAL);
        // An error of `poll` itself (no memory) is nothing to wait for; look again.
        self.socket.wait(false, deadline.into_iter().chain(nap).min()).unwrap_or(true)
    }

    /// Says that we sleep, unless something of what is interest is there. Returns whether the
    /// caller may block on the socket.
    pub fn arm(&mut self, interest: Interest) -> bool {
        if self.check_owner().is_err() {
            return false;
        }
        // What stands behind a page that was lost is no reason to be awake.
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

    /// What our chain has done.
    pub fn stats(&self) -> crate::core::chain::Stats {
        self.link.outbound().map(ChainWriter::stats).unwrap_or_default()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // An orderly end, to be told from a death. In a forked child the connection goes on.
        if self.ended.is_none() && self.owner.is_here() {
            self.socket.send(&Packet::Bye(ByeReason::Closed), None);
        }
    }
}

/// Tells a receiver one thing about the page pool.
pub(crate) fn send_announcement<'a>(
    socket: &Socket,
    announcement: Announcement,
    page: impl FnOnce(u32) -> Option<&'a Region>,
) -> Sent {
    match announcement {
        Announcement::Forget(id) => socket.send(&Packet::Forget { id }, None),
        Announcement::Page(id) => match page(id).and_then(Region::descriptor) {
            Some(descriptor) => socket.send(&Packet::Page { id }, Some(descriptor)),
            // A page that was taken back before anybody heard of it.
            None => Sent::Yes,
        },
    }
}

/// Maps a page that a peer has sent.
pub(crate) fn map_page(descriptor: &mut ReceivedFd, limits: &Limits) -> Result<Region, Fault> {
    let (min, max) = limits.page_bounds(os_page());
    descriptor.try_map(min, max).map_err(invalid_memfd)
}

/// Maps a page that a peer has sent and that others will be sent in turn.
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

//! One connection and what both of its halves share: the socket, its end, and the sleep.
//!
//! A [`Sender`](crate::Sender) and a [`Receiver`](crate::Receiver) each own a chain and share a
//! [`Connection`]. They may be used in two threads. Sending and receiving in a page need no lock. A
//! half takes the lock when it reads packets, when it reads from another page, and when it sleeps.
//!
//! A half may read packets that concern the other half. It keeps them in [`State`] and
//! [wakes](Locked::wake_other) the other half if that half sleeps.

mod packets;
mod skipped;
mod sleep;
mod successor;

pub(crate) use self::packets::{map_page, map_page_to_share, send_announcement};
pub(crate) use self::sleep::Sleep;
pub(crate) use self::successor::{Comeback, Missed};

use self::packets::Arrivals;
use self::skipped::Skipped;
use self::successor::{Next, Orphan};
use crate::core::chain::{Membership, Standing};
use crate::core::fault::Fault;
use crate::core::handshake::{Joined, Outlives};
use crate::core::limits::Limits;
use crate::core::link::{Ends, Inbound, Interest, Link, Outbound, Progress};
use crate::core::memory::Region;
use crate::core::message::ClientId;
use crate::core::parking::{Half, Parking};
use crate::core::wire::{ByeReason, Packet};
use crate::error::{Disconnected, HeldUp, WaitError};
use crate::lost::{Again, Lost};
use crate::socket::Socket;
use crate::sys::fork::{Gate, Owner};
use crate::wait::{SleepBound, SpinPolicy};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The last report of a receiver that holds up the bus.
#[derive(Debug)]
pub(crate) struct HeldUpNews {
    pub client: ClientId,
    pub process: Option<u32>,
    pub lasted: Duration,
    pub arrived: Instant,
    /// How far the broker had come in our chain when the report arrived.
    pub progress: (u64, u64),
}

/// A connection, shared by its halves.
#[derive(Debug)]
pub(crate) struct Connection {
    pub socket: Socket,
    pub limits: Limits,
    /// The client's id on the bus.
    pub id: ClientId,
    /// The broker's id.
    pub broker: u64,
    /// The process that owns the connection.
    pub owner: Owner,
    /// How the client goes on when its broker dies, if it outlives that one.
    comeback: Option<Comeback>,
    state: Mutex<State>,
    /// Wakes each half from a sleep after the other half has read the packet that was to end it. Made
    /// when the halves are separated.
    wakers: OnceLock<[Option<OwnedFd>; 2]>,
    /// The descriptors for event loops of the sending and the receiving half, made on first use. They
    /// cover the connection and the peer's process, and the second one the receiving half's waker.
    watched: [OnceLock<io::Result<Option<Arc<OwnedFd>>>>; 2],
}

/// What a half reads and writes under the lock.
#[derive(Debug)]
pub(crate) struct State {
    pub parking: Parking<Region>,
    /// Why the connection ended. Messages committed before the end can still be received.
    ended: Option<Disconnected>,
    /// What the client keeps of its broker, if it outlives that one.
    outlives: Option<Outlives<Region>>,
    /// The search for the next broker, once this one has hung up.
    orphan: Option<Orphan>,
    /// The connection to the next broker.
    next: Option<Next>,
    /// The last receiver count of the broker.
    pub receivers: Option<u32>,
    /// The broker's last report of a receiver that holds up the bus.
    pub held_up: Option<HeldUpNews>,
    /// Whether a ring is still to be sent, because the kernel had no memory.
    ring_pending: bool,
    /// Our entry in the broker's control region, if we receive from a bus.
    membership: Option<Membership<Region>>,
    /// How far the receiving half has come since the broker skipped it. `None` while it receives.
    skipped: Option<Skipped>,
    /// The pages of the receiving half that have arrived. `None` if there is no such half.
    arrivals: Option<Arrivals>,
    /// Whether this client has found that the broker has removed it.
    is_removed: bool,
    /// Pages whose descriptors were lost here, and pages that the peer has lost.
    pub lost: Lost,
    pub again: Again,
    /// How far the peer has come in our chain, if there is a sending half.
    pub progress: Option<Progress<Region>>,
    /// Number of packets that have changed this state. A half that has looked at the state parks only
    /// if no packet has changed it since.
    pub version: u64,
    sleep_bound: SleepBound,
    /// Whether the receiving half's descriptor was made before its waker and could not be extended.
    misses_waker: bool,
}

/// The halves of a new connection.
#[derive(Debug)]
pub(crate) struct Halves {
    pub connection: Arc<Connection>,
    pub outbound: Option<Outbound<Region>>,
    pub inbound: Option<Inbound<Region>>,
}

impl Halves {
    /// Returns the sending half alone.
    ///
    /// # Errors
    ///
    /// Returns an error if the handshake has made none, which no peer can cause.
    pub fn sending(self) -> Result<(Arc<Connection>, Outbound<Region>), Disconnected> {
        let outbound = self.outbound.ok_or(Disconnected::ProtocolError)?;
        Ok((self.connection, outbound))
    }

    /// Returns the receiving half alone, with the errors of [`sending`](Halves::sending).
    pub fn receiving(self) -> Result<(Arc<Connection>, Inbound<Region>), Disconnected> {
        let inbound = self.inbound.ok_or(Disconnected::ProtocolError)?;
        Ok((self.connection, inbound))
    }
}

/// A connection with its lock held.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    pub connection: &'a Connection,
    pub state: MutexGuard<'a, State>,
}

impl Connection {
    /// Makes the connection of a client that has joined a bus. `comeback` says how it goes on when its
    /// broker dies.
    pub fn of(socket: Socket, joined: Joined<Region>, comeback: Option<Comeback>) -> Halves {
        let Joined { client, broker, limits, link, receivers, outlives } = joined;
        let mut halves = Self::halves(socket, link, limits, client, broker);
        // No other thread has it yet.
        if let Some(connection) = Arc::get_mut(&mut halves.connection) {
            connection.comeback = comeback.filter(|_| outlives.is_some());
            let state = connection.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            (state.receivers, state.outlives) = (receivers, outlives);
        }
        halves
    }

    /// Makes a connection of a link that has joined.
    pub fn halves(
        mut socket: Socket,
        link: Link<Region>,
        limits: Limits,
        id: ClientId,
        broker: u64,
    ) -> Halves {
        socket.bound_receive();
        let Link { parking, outbound, inbound } = link;
        let state = State {
            parking,
            ended: None,
            outlives: None,
            orphan: None,
            next: None,
            receivers: None,
            held_up: None,
            ring_pending: false,
            membership: inbound.as_ref().and_then(|half| half.chain.membership().cloned()),
            skipped: None,
            is_removed: false,
            arrivals: inbound
                .as_ref()
                .map(|half| Arrivals::new(half.chain.budget(), limits.page_len())),
            lost: Lost::new(),
            again: Again::default(),
            progress: outbound.as_ref().map(|half| half.progress().clone()),
            version: 0,
            sleep_bound: SleepBound::new(),
            misses_waker: false,
        };
        let connection = Connection {
            socket,
            limits,
            id,
            broker,
            owner: Owner::here(),
            comeback: None,
            state: Mutex::new(state),
            wakers: OnceLock::new(),
            watched: [OnceLock::new(), OnceLock::new()],
        };
        Halves { connection: Arc::new(connection), outbound, inbound }
    }

    /// Returns an error in a forked child.
    pub fn check_owner(&self) -> Result<(), Disconnected> {
        if self.owner.is_here() { Ok(()) } else { Err(Disconnected::Forked) }
    }

    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// Returns [`Disconnected::Forked`] in a forked child, where another thread of the parent may
    /// have held the lock.
    pub fn lock(&self) -> Result<Locked<'_>, Disconnected> {
        self.check_owner()?;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Locked { connection: self, state })
    }

    /// Prepares the use of the halves in two threads.
    pub fn separate(&self) {
        if let Some(next) = self.next() {
            next.separate();
        }
        let Ok(mut locked) = self.lock() else { return };
        let has_reserve = locked.state.lost.is_empty();
        let make = || if has_reserve { sleep::wakers() } else { [None, None] };
        if self.wakers.get().is_none()
            && let [_, Some(waker)] = self.wakers.get_or_init(make)
            && let Some(Ok(Some(watched))) = self.watched[1].get()
            && crate::sys::socket::watch(watched, waker.as_fd()).is_err()
        {
            locked.state.misses_waker = true;
        }
    }

    /// Returns whether the client goes on with another broker when this one dies.
    pub fn outlives(&self) -> bool {
        self.comeback.is_some()
    }

    /// Returns whether no second thread can use the connection.
    pub fn is_alone(self: &Arc<Self>) -> bool {
        self.wakers.get().is_none() || Arc::strong_count(self) == 1
    }

    /// Waits until at least `count` clients receive or the deadline passes. Returns whether they do,
    /// or `None` if the client has another connection now.
    pub fn wait_for_receivers(
        self: &Arc<Self>,
        half: Half,
        tracks: bool,
        count: usize,
        deadline: Option<Instant>,
    ) -> Result<Option<bool>, WaitError> {
        loop {
            let mut locked = self.lock()?;
            locked.pump(half);
            locked.check_open()?;
            if locked.state.next.is_some() {
                return Ok(None);
            }
            let receivers = locked.receivers(tracks).ok_or(WaitError::NotTracking)?;
            if receivers >= count && !locked.is_orphaned() {
                return Ok(Some(true));
            }
            locked.check_open()?;
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(Some(false));
            }
            let seen = locked.state.version;
            drop(locked);
            let sleep = Sleep {
                connection: self,
                half,
                seen,
                ends: Ends { outbound: None, inbound: None },
                interest: Interest::default(),
                is_alone: self.is_alone(),
                unsent: false,
                retry: false,
            };
            sleep.wait(&mut SpinPolicy::none(), deadline);
        }
    }

    /// Returns the connection to the next broker, if there is one.
    pub fn next(&self) -> Option<Arc<Connection>> {
        self.lock().ok()?.next_outbound().map(|(connection, _)| connection)
    }

    /// Returns the descriptor of a half for event loops. It is readable when the connection is
    /// readable or the peer has died.
    pub fn watched(&self, half: Half) -> BorrowedFd<'_> {
        match self.lock() {
            // A forked child must not use the parent's epoll.
            Err(_) => self.socket.as_fd(),
            Ok(locked) => locked.watched(half),
        }
    }
}

impl<'a> Locked<'a> {
    fn watched(&self, half: Half) -> BorrowedFd<'a> {
        let connection = self.connection;
        let waker = connection.wakers.get().and_then(|wakers| wakers[1].as_ref());
        let outlives = connection.comeback.is_some();
        let watch = || match self.state.lost.is_empty() {
            true => {
                let waker = waker.filter(|_| half == Half::Receiver);
                let all = sleep::watch_all(&connection.socket, waker, outlives)?;
                Ok(all.map(Arc::new))
            }
            // The one free descriptor is reserved for a lost page.
            false => Err(rustix::io::Errno::MFILE.into()),
        };
        let watched = connection.watched[half as usize - 1].get_or_init(watch);
        if half == Half::Receiver && self.is_orphaned() {
            connection.watch_no_longer(half);
        }
        match watched {
            Ok(Some(all)) => all.as_fd(),
            Ok(None) | Err(_) => connection.socket.as_fd(),
        }
    }

    /// Returns the number of receiving clients, as last announced. Returns `None` without the role
    /// that `tracks` the count.
    pub fn receivers(&self, tracks: bool) -> Option<usize> {
        tracks.then(|| self.state.receivers.unwrap_or(0) as usize)
    }

    /// Returns the broker's report of a receiver that holds up the bus, while it is true.
    pub fn held_up(&self) -> Option<HeldUp> {
        let news = self.state.held_up.as_ref()?;
        // A report expires when the broker goes on in our chain.
        self.state.progress.as_ref().filter(|progress| progress.get() == news.progress)?;
        let lasted = news.lasted.saturating_add(news.arrived.elapsed());
        Some(HeldUp { client: news.client, process: news.process, lasted })
    }

    /// Drops what is kept for the receiving half, which is gone.
    pub fn stop_receiving(&mut self) {
        self.state.arrivals = None;
    }

    /// Returns why the connection ended, if that is known.
    pub fn ended(&self) -> Option<&Disconnected> {
        self.state.ended.as_ref()
    }

    /// Returns an error if the connection has ended.
    pub fn check_open(&self) -> Result<(), Disconnected> {
        self.ended().map_or(Ok(()), |ended| Err(ended.clone()))
    }

    /// Ends the connection unless it has ended before. Returns why it ended.
    fn end(&mut self, why: Disconnected) -> Disconnected {
        if self.state.ended.is_none() {
            // A half that sends or receives without looking here looks now.
            Gate::close_all();
        }
        self.state.ended.get_or_insert(why).clone()
    }

    /// Records that the peer's process is gone. Committed messages are received first (P5). Returns
    /// why the connection has ended, unless the client goes on with the next broker.
    pub fn hung_up(&mut self) -> Option<Disconnected> {
        self.orphan()
    }

    /// Ends the connection for a fault of the peer.
    pub fn fail(&mut self, fault: Fault) -> Disconnected {
        // The peer must not wait for us while the owner keeps this connection.
        if fault == Fault::Removed || self.standing() == Standing::Removed {
            return self.removed();
        }
        self.connection.socket.shut_down();
        self.end(fault.into())
    }

    /// Ends the connection after a removal. The peer no longer waits for us and may reuse the pages
    /// that we read.
    #[cold]
    pub fn removed(&mut self) -> Disconnected {
        // Packets that come meanwhile may end here, too.
        if !std::mem::replace(&mut self.state.is_removed, true) {
            self.read_reason();
        }
        self.connection.socket.shut_down();
        // The removal replaces a less exact reason.
        let ended = &mut self.state.ended;
        ended.take_if(|ended| matches!(ended, Disconnected::Closed | Disconnected::PeerDied));
        self.end(Disconnected::Removed)
    }

    /// Reads the packets up to the one that says why the broker has removed this client. The broker
    /// has sent it before.
    fn read_reason(&mut self) {
        for _ in 0..packets::AT_ONCE {
            if self.state.ended.is_some() || self.is_orphaned() {
                return;
            }
            let received = self.connection.socket.receive();
            if !self.on_received(received) {
                return;
            }
        }
    }

    /// Ends the connection in order, for both halves.
    pub fn close(&mut self) {
        if let Some(orphan) = self.state.orphan.take() {
            orphan.leave();
        }
        if self.state.ended.is_none() {
            self.connection.socket.send(&Packet::Bye(ByeReason::Closed), None);
            self.end(Disconnected::Closed);
        }
    }

    /// Returns an error after a removal or a protocol error. The peer may reuse pages then, so
    /// reading stops.
    pub fn may_read(&self) -> Result<(), Disconnected> {
        match self.ended() {
            Some(Disconnected::Closed | Disconnected::PeerDied) | None => Ok(()),
            Some(ended) => Err(ended.clone()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Sends an orderly end, which differs from a death. In a forked child the connection goes
        // on.
        if let Ok(mut locked) = self.lock() {
            locked.close();
        }
    }
}

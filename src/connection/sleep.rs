//! How a half of a connection sleeps, or both halves together.
//!
//! A half whose connection is its own blocks in one system call. Two halves in two threads wait for
//! the same socket. Each one also waits for its *waker*, an eventfd that the other half writes when
//! it reads a packet. [`Parking`](crate::core::parking::Parking) has the rules.

use super::successor::ANSWER;
use super::{Connection, Locked};
use crate::core::failpoint::effect;
use crate::core::link::{Ends, Interest};
use crate::core::memory::Region;
use crate::core::parking::Half;
use crate::socket::Socket;
use crate::sys::socket::{timespec, watch};
use crate::wait::{self, RETRY_INTERVAL, Sleeper, SpinPolicy, Wait};
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest sleep in an event loop whose descriptor cannot report the peer's death.
const PEER_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A sleep of one half, or of both.
#[derive(Debug)]
pub(crate) struct Sleep<'a> {
    pub connection: &'a Connection,
    /// The half that sleeps. Both halves together sleep as the receiving one.
    pub half: Half,
    /// The version of the state at which the caller has looked.
    pub seen: u64,
    pub ends: Ends<'a, Region>,
    pub interest: Interest,
    /// Whether no other half can use the connection meanwhile.
    pub is_alone: bool,
    /// Whether announcements wait for room in the socket.
    pub unsent: bool,
    /// Whether announcements wait for the kernel's memory.
    pub retry: bool,
}

impl Sleep<'_> {
    /// Waits until part of the interest may be ready, the connection ends or the deadline passes.
    pub fn wait(mut self, spin: &mut SpinPolicy, deadline: Option<Instant>) {
        let Ok(locked) = self.connection.lock() else { return };
        if locked.ended().is_some() || locked.state.version != self.seen {
            return;
        }
        if let Some(pause) = locked.orphans_pause() {
            let answer = locked.awaited_answer();
            drop(locked);
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let pause = left.into_iter().chain([pause]).min().unwrap_or(pause);
            match answer {
                Some(answer) => wait_for_answer(&answer, left),
                None => std::thread::sleep(pause),
            }
            if let Ok(mut locked) = self.connection.lock() {
                locked.seek_at_once();
            }
            return;
        }
        self.interest.message &= locked.awaits_messages();
        drop(locked);
        // `block` returns no error.
        let _ = wait::wait(&mut self, spin, deadline);
    }
}

/// Waits until a broker has answered, for at most [`ANSWER`](super::successor::ANSWER).
fn wait_for_answer(socket: &OwnedFd, left: Option<Duration>) {
    let most = left.map_or(ANSWER, |left| left.min(ANSWER));
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut fds, Some(&timespec(most))) {
        Ok(_) | Err(Errno::INTR) => {}
        // No memory.
        Err(_) => std::thread::sleep(most),
    }
}

impl Sleeper for Sleep<'_> {
    fn is_ready(&mut self) -> bool {
        self.ends.is_ready(self.interest)
    }

    fn park(&mut self) -> Wait {
        match self.connection.lock() {
            Err(_) => Wait::Ready,
            // The other half has read a packet that this one may wait for.
            Ok(locked) if locked.state.version != self.seen => Wait::Ready,
            Ok(mut locked) => {
                locked.retry_ring(self.half);
                locked.park(self.half, &mut self.ends, self.interest, self.retry)
            }
        }
    }

    fn block(&mut self, at_most: Option<Duration>) -> io::Result<()> {
        let Sleep { connection, half, is_alone, unsent, .. } = *self;
        let socket = &connection.socket;
        // Received without the lock, which no other half needs.
        let received =
            (is_alone && !unsent && at_most.is_none()).then(|| socket.receive_blocking());
        if received.is_none() {
            let until = at_most.map(|at_most| Instant::now() + at_most);
            let waker = connection.waker(half).filter(|_| !is_alone);
            // If `poll` itself fails (no memory), the caller polls again.
            let _ = socket.wait(unsent, waker, until);
        }
        if let Ok(mut locked) = connection.lock() {
            let received = received.unwrap_or_else(|| socket.receive());
            locked.wake(half, received);
        }
        Ok(())
    }
}

impl Locked<'_> {
    /// Parks `half`, unless part of the interest is ready or the connection has ended. Returns how
    /// long it may sleep.
    pub fn park(
        &mut self,
        half: Half,
        ends: &mut Ends<'_, Region>,
        interest: Interest,
        retry: bool,
    ) -> Wait {
        if self.ended().is_some() {
            return Wait::Ready;
        }
        if let Some(pause) = self.orphans_pause() {
            return match ends.is_ready(interest) || pause.is_zero() {
                true => Wait::Ready,
                false => Wait::Readable { timeout: Some(pause) },
            };
        }
        let (may_sleep, ring) = self.state.parking.park(half, ends, interest);
        if ring && !self.ring(half) {
            ends.not_rung();
        }
        match may_sleep {
            false => Wait::Ready,
            true => Wait::Readable { timeout: self.sleep_at_most(half, retry) },
        }
    }

    /// Returns whether a message in the chain is a reason to stay awake. Messages after a lost page
    /// are none, and nothing in the pages of a skipped receiver.
    pub fn awaits_messages(&self) -> bool {
        self.state.lost.is_empty() && !self.is_skipped()
    }

    /// Returns the longest sleep that may begin now. `None` means until the peer rings.
    fn sleep_at_most(&mut self, half: Half, retry: bool) -> Option<Duration> {
        let must_ask = half == Half::Receiver && self.must_ask();
        let state = &mut *self.state;
        let is_woken =
            self.connection.wakers.get().is_none_or(|all| all[half as usize - 1].is_some());
        let retry = retry || state.ring_pending || !state.lost.is_empty() || !is_woken || must_ask;
        let bound = state.sleep_bound.at_most(state.parking.first_bounded_sleep());
        retry.then_some(RETRY_INTERVAL).into_iter().chain(bound).min()
    }

    /// Returns the longest sleep in an event loop, once the receiving half is parked.
    pub fn watch_at_most(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        let connection = self.connection;
        let is_separate = connection.wakers.get().is_some();
        if is_separate {
            // Made now, so that it is known whether it covers the waker.
            self.watched(Half::Receiver);
        }
        let check = match connection.watched[1].get() {
            Some(Ok(Some(_))) if self.state.misses_waker => Some(RETRY_INTERVAL),
            // The descriptor is the socket alone, which another half may empty.
            Some(Ok(None) | Err(_)) if is_separate => Some(RETRY_INTERVAL),
            Some(Err(_)) => Some(PEER_CHECK_INTERVAL),
            _ => None,
        };
        timeout.into_iter().chain(check).min()
    }

    /// Returns the longest wait of the sending half in an event loop.
    pub fn sender_waits_at_most(&self) -> Option<Duration> {
        let connection = self.connection;
        let is_blind = matches!(connection.watched[0].get(), Some(Err(_)));
        let bounds = [
            self.orphans_pause(),
            self.state.ring_pending.then_some(RETRY_INTERVAL),
            is_blind.then_some(PEER_CHECK_INTERVAL),
        ];
        bounds.into_iter().flatten().min()
    }

    /// Announces that `half` is awake.
    pub fn unpark(&mut self, half: Half) {
        if self.state.parking.is_parked(half) {
            self.state.parking.unpark(half);
            if let Some(waker) = self.connection.waker(half) {
                // It is empty if the other half has read no packet.
                let _ = rustix::io::read(waker, &mut [0; 8]);
            }
        }
    }

    /// Wakes the other half after a packet was read, if it is parked. The packet may be the only
    /// ring for both.
    pub fn wake_other(&mut self, half: Half) {
        if self.state.parking.is_parked(half.other())
            && let Some(waker) = self.connection.waker(half.other())
        {
            effect("wake the other half");
            let _ = rustix::io::write(waker, &1u64.to_ne_bytes());
        }
    }
}

impl Connection {
    /// Takes the connection out of a half's descriptor, because it has ended and would keep the
    /// descriptor readable. The half has noticed the end.
    pub(crate) fn watch_no_longer(&self, half: Half) {
        let Some(Ok(Some(watched))) = self.watched[half as usize - 1].get() else { return };
        let process = self.socket.peer().pidfd();
        for fd in process.into_iter().chain([self.socket.as_fd()]) {
            effect("watch a connection no longer");
            let _ = epoll::delete(watched, fd);
        }
    }

    /// Lets this connection end the waits for a half's descriptor of the last connection.
    pub(crate) fn take_watched(&self, last: &Connection, half: Half) {
        let at = half as usize - 1;
        last.watch_no_longer(half);
        let Some(Ok(Some(watched))) = last.watched[at].get() else { return };
        let waker = self.wakers.get().and_then(|wakers| wakers[at].as_ref());
        let waker = waker.filter(|_| half == Half::Receiver).map(AsFd::as_fd);
        // A connection that has ended meanwhile would keep the descriptor readable.
        let Ok(locked) = self.lock() else { return };
        let lives = !locked.is_orphaned();
        let fds = [Some(self.socket.as_fd()), self.socket.peer().pidfd()];
        let fds = fds.map(|fd| fd.filter(|_| lives)).into_iter().chain([waker]);
        let is_watched = fds.flatten().all(|fd| watch(watched, fd).is_ok());
        let watched = if is_watched { Ok(Some(watched.clone())) } else { Err(Errno::NOMEM.into()) };
        let _ = self.watched[at].set(watched);
    }

    fn waker(&self, half: Half) -> Option<BorrowedFd<'_>> {
        self.wakers.get()?[half as usize - 1].as_ref().map(AsFd::as_fd)
    }
}

/// Makes the wakers of both halves. Without one, the half's sleeps are bounded.
pub(super) fn wakers() -> [Option<OwnedFd>; 2] {
    [(); 2].map(|()| {
        effect("make a waker");
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()
    })
}

/// Returns a descriptor that becomes readable when the connection, the peer's process or the waker
/// does. Returns `None` if the connection's own descriptor is enough. It is not if the descriptor
/// has to `outlive` the connection.
pub(super) fn watch_all(
    socket: &Socket,
    waker: Option<&OwnedFd>,
    outlive: bool,
) -> io::Result<Option<OwnedFd>> {
    let both = socket.watch_with_peer()?;
    if waker.is_none() && (both.is_some() || !outlive) {
        return Ok(both);
    }
    let all = match both {
        Some(both) => both,
        None => {
            effect("make an epoll");
            let all = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            watch(&all, socket.as_fd())?;
            all
        }
    };
    if let Some(waker) = waker {
        watch(&all, waker.as_fd())?;
    }
    Ok(Some(all))
}

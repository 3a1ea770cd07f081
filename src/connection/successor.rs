//! How a client goes on with the next broker when its broker has died.
//!
//! ```text
//!                hang-up                `Session` of a later broker           `Start`
//!   connected  ---------->  orphaned  ----------------------------->  known  --------->  next
//!                             ^  |                                      |                 |
//!                             +--+ no broker yet                        | `Join`          | each half
//!                                                                       v                 v moves on
//! ```
//!
//! A hang-up alone does not say that the broker is dead: it may have disconnected this client and go
//! on. Only a broker with a later epoch says so, because it holds the lock. So the client decides
//! what its last broker had consumed when it knows of a later one, and before it joins.
//!
//! The next connection is a value of its own. Each half moves there by itself: the receiving half
//! when it has read the last broker's chain to its end, the sending half with its next message.

use super::{Connection, Halves, Locked};
use crate::broker::Candidate;
use crate::core::chain::Standing;
use crate::core::control::Control;
use crate::core::handshake::{Connecting, Joined};
use crate::core::layout::PAGE_HEADER;
use crate::core::link::Inbound;
use crate::core::memory::Region;
use crate::core::parking::Half;
use crate::core::wire::{Refusal, Roles};
use crate::error::{ConnectError, Disconnected};
use crate::handshake::{Handshake, Progress, check_listener};
use crate::peer_filter::PeerFilter;
use crate::socket::Socket;
use crate::sys::fork::Gate;
use crate::sys::lock::{Inode, inode_of};
use crate::sys::system::os_page;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least and the longest pause between two looks for the next broker. A look costs a few system
/// calls, so the pause grows: it is a quarter of the time since the last broker has died.
const PAUSES: [Duration; 2] = [Duration::from_micros(500), Duration::from_millis(20)];

/// The pause when there has been no broker for [`LONG`].
const LONG_PAUSE: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(10);

/// The longest wait for a broker's answer, which wakes a half that sleeps, and the pause of an event
/// loop meanwhile.
pub(super) const ANSWER: Duration = Duration::from_millis(10);
const ANSWER_IN_LOOP: Duration = Duration::from_millis(1);

/// The pause between two looks at the packets of the next broker, while those of the last one are read.
const LOOK_AHEAD: Duration = Duration::from_millis(1);

/// The pause between two looks for an answer of a program that polls.
const ANSWER_POLLED: Duration = Duration::from_micros(200);

/// How a client comes back to its bus.
#[derive(Clone, Debug)]
pub(crate) struct Comeback {
    /// The socket of the bus.
    pub path: PathBuf,
    /// Which users' brokers are accepted.
    pub access: PeerFilter,
    pub roles: Roles,
    /// How long the client waits for the next broker.
    pub patience: Duration,
    /// Serves the bus if no other process does. It ends with the last half of the client.
    #[expect(dead_code, reason = "it is held until the client is dropped")]
    pub candidate: Option<Arc<Candidate>>,
}

/// A client whose broker has hung up.
#[derive(Debug)]
pub(super) struct Orphan {
    since: Instant,
    look_at: Instant,
    handshake: Option<Box<Handshake>>,
    /// The socket of the handshake. Both halves wait for it without the lock.
    answer: Option<Arc<OwnedFd>>,
    /// The file at the path of the bus when the broker was greeted.
    place: Option<Inode>,
    /// When the broker was greeted.
    greeted: Instant,
    /// How far the last broker had consumed our chain, once it is known.
    consumed: Option<u64>,
}

/// The connection to the next broker, and what each half needs to move there.
#[derive(Debug)]
pub(crate) struct Next {
    pub connection: Arc<Connection>,
    /// The receiving half, until it was taken.
    inbound: Option<Inbound<Region>>,
    missed: Missed,
    /// When to read its packets, while the receiving half is not there.
    look_at: Instant,
    pub outbound: NextOutbound,
}

/// What the sending half needs.
#[derive(Clone, Debug)]
pub(crate) struct NextOutbound {
    /// The next broker's control region, and the index there of the cursor for our chain.
    pub peer: Control<Region>,
    pub cursor: usize,
    /// How far the last broker had consumed our chain.
    pub consumed: u64,
}

/// The messages that a receiver has missed between two brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// This many.
    Number(u64),
    /// Maybe some.
    Unknown,
}

impl Orphan {
    fn new(now: Instant) -> Self {
        Orphan {
            since: now,
            look_at: now,
            handshake: None,
            answer: None,
            place: None,
            greeted: now,
            consumed: None,
        }
    }

    /// Ends the handshake with the next broker, which then does not wait for this client.
    pub fn leave(self) {
        self.handshake.iter().for_each(|handshake| handshake.leave());
    }

    /// Returns the time until the next look.
    fn pause(&self, now: Instant) -> Duration {
        self.look_at.saturating_duration_since(now)
    }

    fn look_later(&mut self, now: Instant) {
        let lasted = now.duration_since(self.since);
        let [least, most] = PAUSES;
        let pause = if lasted < LONG { (lasted / 4).clamp(least, most) } else { LONG_PAUSE };
        let pause = if self.handshake.is_some() { ANSWER_POLLED } else { pause };
        self.look_at = now + pause;
    }

    /// Follows the socket of the handshake.
    fn await_answer(&mut self) {
        let socket = self.handshake.as_ref().map(|handshake| handshake.socket());
        match (socket, &self.answer) {
            (None, _) => self.answer = None,
            // Without a descriptor the half looks from time to time.
            (Some(socket), None) => {
                self.answer = rustix::io::fcntl_dupfd_cloexec(socket, 0).ok().map(Arc::new);
            }
            (Some(_), Some(_)) => {}
        }
    }
}

impl Locked<'_> {
    /// Returns whether the client goes on with another broker when this one dies.
    pub fn outlives(&self) -> bool {
        self.connection.outlives()
    }

    /// Returns whether the broker has hung up and the client waits for the next one, or has it and
    /// has not moved there.
    pub fn is_orphaned(&self) -> bool {
        self.state.orphan.is_some() || self.state.next.is_some()
    }

    /// Records the end of the connection, unless the client outlives its broker. Returns why the
    /// connection has ended, if it has.
    pub(super) fn orphan(&mut self) -> Option<Disconnected> {
        if let Some(ended) = self.ended() {
            return Some(ended.clone());
        }
        if self.connection.comeback.is_none() {
            return Some(self.end(Disconnected::PeerDied));
        }
        if !self.is_orphaned() {
            self.state.version += 1;
            self.state.orphan = Some(Orphan::new(Instant::now()));
            // A half that sends or receives without looking here looks now.
            Gate::close_all();
            // What its halves wait for comes from the next broker.
            self.connection.watch_no_longer(Half::Receiver);
            for half in [Half::Sender, Half::Receiver] {
                self.wake_other(half);
            }
        }
        None
    }

    /// Looks for the next broker after a wait for its answer.
    pub fn seek_at_once(&mut self) {
        if let Some(orphan) = &mut self.state.orphan
            && orphan.handshake.is_some()
        {
            orphan.look_at = Instant::now();
        }
        self.seek_next();
    }

    /// Looks for the next broker, if it is time to, and takes the next step towards it. Never waits.
    #[cold]
    pub fn seek_next(&mut self) {
        let now = Instant::now();
        if self.ended().is_some() {
            return;
        }
        let Some(mut orphan) = self.state.orphan.take() else { return self.look_ahead(now) };
        if orphan.look_at > now {
            self.state.orphan = Some(orphan);
            return;
        }
        let Some(comeback) = &self.connection.comeback else { return };
        match self.look(&mut orphan, comeback, now) {
            Ok(Some(next)) => {
                self.state.version += 1;
                self.state.next = Some(next);
            }
            Ok(None) if now.duration_since(orphan.greeted) < comeback.patience => {
                orphan.await_answer();
                orphan.look_later(now);
                self.state.orphan = Some(orphan);
            }
            Ok(None) => {
                orphan.leave();
                self.state.version += 1;
                self.end(Disconnected::PeerDied);
            }
            Err(error)
                if is_passing(&error) && now.duration_since(orphan.since) < comeback.patience =>
            {
                (orphan.handshake, orphan.answer) = (None, None);
                orphan.look_later(now);
                self.state.orphan = Some(orphan);
            }
            Err(error) => {
                self.state.version += 1;
                self.end(match &error {
                    ConnectError::Disconnected(why @ Disconnected::Evicted) => why.clone(),
                    _ => Disconnected::PeerDied,
                });
                log::warn!("the next broker of {} can't be used: {error}", comeback.path.display());
            }
        }
    }

    /// Reads the packets of the next connection while the receiving half still reads what the last
    /// broker has published. So the next broker's pages find room in the socket, and its death is
    /// noticed.
    fn look_ahead(&mut self, now: Instant) {
        let Some(next) = self.state.next.as_mut().filter(|next| next.inbound.is_some()) else {
            return;
        };
        if next.look_at <= now {
            next.look_at = now + LOOK_AHEAD;
            // Locks are taken in the order of the brokers.
            let _ = next.connection.lock().map(|mut locked| locked.pump(Half::Receiver));
        }
    }

    fn look(
        &self,
        orphan: &mut Orphan,
        comeback: &Comeback,
        now: Instant,
    ) -> Result<Option<Next>, ConnectError> {
        // Its descriptor may be the one that a packet needs.
        orphan.answer = None;
        let place = inode_of(&comeback.path);
        let handshake = match orphan.handshake.take() {
            // The queue of a dead broker whose child holds its listener.
            Some(handshake) if handshake.awaits_welcome() && orphan.place != place => {
                return Err(Disconnected::PeerDied.into());
            }
            Some(handshake) => *handshake,
            None => {
                let greeted = self.greet(comeback, now)?;
                orphan.place = inode_of(&comeback.path);
                if orphan.place != place {
                    // Which of the two was greeted is not known.
                    return Err(Disconnected::PeerDied.into());
                }
                orphan.greeted = now;
                greeted
            }
        };
        match handshake.advance()? {
            Progress::Waits(handshake) => orphan.handshake = Some(handshake),
            Progress::Known(known) => {
                let are_same = known.welcomed.limits == self.connection.limits;
                let consumed =
                    if are_same { self.consumed() } else { Err(Refusal::Unknown.into()) };
                // Also finds that the last broker had removed us. Then we do not join, and the
                // next broker does not wait for us.
                orphan.consumed = Some(consumed.inspect_err(|_| known.decline())?);
                orphan.handshake = Some(Box::new(known.join()?));
            }
            Progress::Joined(joined) => {
                let (socket, joined) = *joined;
                return Ok(Some(self.next(orphan, socket, joined, comeback)?));
            }
        }
        Ok(None)
    }

    fn greet(&self, comeback: &Comeback, now: Instant) -> Result<Handshake, ConnectError> {
        let outlives = self.state.outlives.as_ref().ok_or(Refusal::Unknown)?;
        let path = &comeback.path;
        let failed = |source| ConnectError::Socket { path: path.clone(), source };
        // A full queue is tried again.
        let socket = Socket::connect(path, now).map_err(failed)?;
        check_listener(&socket, &comeback.access)?;
        let state = Connecting::new(comeback.roles, os_page());
        let state = state.returning(self.connection.id, outlives.session);
        Handshake::begin(socket, &comeback.access, state)
    }

    /// Returns how far the last broker, which is dead, had consumed our chain.
    fn consumed(&self) -> Result<u64, ConnectError> {
        let outlives = self.state.outlives.as_ref().ok_or(Refusal::Unknown)?;
        let chain = [PAGE_HEADER as u64, u64::MAX];
        let consumed = outlives.peer.consumed_until(
            outlives.cursor,
            self.connection.id,
            chain,
            &outlives.pages,
        );
        let consumed = consumed.map_err(|fault| ConnectError::from(Disconnected::from(fault)))?;
        consumed.ok_or_else(|| Refusal::Unknown.into())
    }

    fn next(
        &self,
        orphan: &Orphan,
        socket: Socket,
        joined: Joined<Region>,
        comeback: &Comeback,
    ) -> Result<Next, ConnectError> {
        let unknown = || ConnectError::from(Refusal::Unknown);
        let last = self.state.outlives.as_ref().ok_or_else(unknown)?.session;
        let new = joined.outlives.as_ref().ok_or_else(unknown)?;
        let outbound = NextOutbound {
            peer: new.peer.clone(),
            cursor: new.cursor,
            consumed: orphan.consumed.ok_or_else(unknown)?,
        };
        let missed = match new.session.since {
            since if since <= last.epoch => Missed::Number(new.skipped),
            // The broker after the last one, which had not waited any longer.
            since if since == last.epoch + 1 && since == new.session.epoch => {
                Missed::Number(new.first_message)
            }
            _ => Missed::Unknown,
        };
        let Halves { connection, inbound, .. } =
            Connection::of(socket, joined, Some(comeback.clone()));
        if self.connection.wakers.get().is_some() {
            connection.separate();
        }
        Ok(Next { connection, inbound, missed, look_at: Instant::now(), outbound })
    }

    /// Returns how long a half may sleep until it looks for the next broker again, if it waits for
    /// that one.
    pub fn orphans_pause(&self) -> Option<Duration> {
        match (&self.state.next, &self.state.orphan) {
            // The half could not move there at once.
            (Some(_), _) => Some(ANSWER_IN_LOOP),
            (None, Some(orphan)) if orphan.handshake.is_some() => Some(ANSWER_IN_LOOP),
            (None, Some(orphan)) => Some(orphan.pause(Instant::now())),
            (None, None) => None,
        }
    }

    /// Returns the socket on which the next broker answers, if this client has greeted one.
    pub fn awaited_answer(&self) -> Option<Arc<OwnedFd>> {
        self.state.orphan.as_ref()?.answer.clone()
    }

    /// Returns whether the receiving half can move to the next connection.
    pub fn has_next_inbound(&self) -> bool {
        self.state.next.as_ref().is_some_and(|next| next.inbound.is_some())
    }

    /// Takes the receiving half of the next connection.
    pub fn take_next_inbound(&mut self) -> Option<(Arc<Connection>, Inbound<Region>, Missed)> {
        // What the last broker has published after a skip, or in a page that did not arrive, was not
        // read.
        let is_whole =
            self.standing() == Standing::Member && !self.is_skipped() && self.state.lost.is_empty();
        let next = self.state.next.as_mut()?;
        let inbound = next.inbound.take()?;
        let missed = if is_whole { next.missed } else { Missed::Unknown };
        Some((next.connection.clone(), inbound, missed))
    }

    /// Returns the next connection, and what the sending half needs to move there.
    pub fn next_outbound(&self) -> Option<(Arc<Connection>, NextOutbound)> {
        let next = self.state.next.as_ref().filter(|_| self.ended().is_none())?;
        Some((next.connection.clone(), next.outbound.clone()))
    }
}

/// Returns whether the client tries again after this error.
fn is_passing(error: &ConnectError) -> bool {
    match error {
        ConnectError::Refused(refusal) => !matches!(
            refusal,
            Refusal::Unknown | Refusal::User | Refusal::Roles | Refusal::Version { .. }
        ),
        ConnectError::Stranger { .. } => false,
        ConnectError::Disconnected(why) => {
            matches!(
                why,
                Disconnected::PeerDied | Disconnected::Closed | Disconnected::NoResources { .. }
            )
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_looks_less_often_the_longer_there_is_no_broker() {
        let began = Instant::now();
        let mut orphan = Orphan::new(began);
        for (after, pause) in
            [(0, 500), (2, 500), (20, 5000), (80, 20_000), (9999, 20_000), (10_000, 100_000)]
        {
            let now = began + Duration::from_millis(after);
            orphan.look_later(now);
            assert_eq!(orphan.pause(now), Duration::from_micros(pause), "after {after} ms");
        }
    }
}

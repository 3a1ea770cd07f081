//! Accepts the senders of channels.

use crate::bus_addr::BusAddr;
use crate::channel::receiver;
use crate::connection::{Connection, Halves};
use crate::core::failpoint::{effect, observation};
use crate::core::handshake::{Receiving, Rejected};
use crate::core::limits::Limits;
use crate::core::memory::Region;
use crate::core::message::ClientId;
use crate::core::wire::{Packet, Refusal};
use crate::error::{BindError, ConnectError, Disconnected};
use crate::handshake::{
    HANDSHAKE_TIMEOUT, attach, await_credentials, control_region, send, understand,
};
use crate::peer_filter::PeerFilter;
use crate::place::Bound;
use crate::receiver::Receiver;
use crate::socket::Socket;
use crate::sys::fork::Owner;
use crate::sys::memfd::ReceivedFd;
use crate::sys::socket::{timespec, watch};
use crate::sys::system::os_page;
use rustix::event::epoll;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Waits for the sending ends of channels. See [`Receiver::listen`] for an example.
#[derive(Debug)]
pub struct Listener {
    owner: Owner,
    bound: Bound,
    limits: Limits,
    access: PeerFilter,
    /// Watches the listening socket and the sockets of `joining`.
    epoll: OwnedFd,
    /// Senders that have not finished the handshake. The oldest one is the first.
    joining: Mutex<VecDeque<Welcoming>>,
}

impl Listener {
    pub(crate) fn bind(bus: &BusAddr, limits: Limits) -> Result<Listener, BindError> {
        let limits = limits.in_pages_of(os_page())?;
        let bound = Bound::at(bus, &PeerFilter::SameUser, 0)?;
        bound.listener.set_nonblocking().map_err(|source| {
            let step = "make the listener non-blocking";
            BindError::System { step, source }
        })?;
        let system = |source| BindError::System { step: "watch the listener", source };
        effect("make an epoll");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| system(e.into()))?;
        watch(&epoll, bound.listener.as_fd()).map_err(system)?;
        let (owner, access, joining) = (Owner::here(), PeerFilter::SameUser, Mutex::default());
        Ok(Listener { owner, bound, limits, access, epoll, joining })
    }

    /// Sets which users are admitted. The default is the user of this process.
    #[must_use]
    pub fn access(mut self, access: PeerFilter) -> Self {
        if self.owner.is_here()
            && let Err(error) = self.bound.open_to(&access)
        {
            log::warn!("the socket can't be opened to other users: {error}");
        }
        self.access = access;
        self
    }

    /// Waits for the next sender and returns the receiver of its channel. Each sender has its own
    /// channel.
    ///
    /// Several senders may be in the handshake at once, so a silent one does not delay the others.
    /// `accept` returns the first one that finishes. The others wait for the next call. Each sender
    /// has 10 seconds. With more than 64 senders, the oldest is disconnected.
    ///
    /// # Errors
    ///
    /// Returns [`ConnectError`] if a process that connects is not a sender, is not admitted, or
    /// does not join in time. The listener goes on. Returns [`ConnectError::Forked`] in a forked
    /// child of the listening process.
    pub fn accept(&self) -> Result<Receiver, ConnectError> {
        loop {
            if let Some(receiver) = self.try_accept()? {
                return Ok(receiver);
            }
            let deadline = self.joining().front().map(|oldest| oldest.deadline);
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            observation("wait for connections", self.epoll.as_raw_fd() as usize);
            let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
            match epoll::wait(&self.epoll, &mut events, left.map(timespec).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(system("wait for a connection")(error.into())),
            }
        }
    }

    /// Returns the receiver of the next sender's channel, if a sender has finished the handshake.
    /// Never waits.
    ///
    /// An event loop waits until the listener's descriptor ([`AsFd`]) is readable, and then calls
    /// this function until it returns `None`.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use rustix::event::{PollFd, PollFlags, poll};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("channel");
    /// let listener = llmp::Receiver::listen(&path)?;
    /// assert!(listener.try_accept()?.is_none());
    /// # let sending = std::thread::spawn(move || llmp::Sender::connect(path).unwrap());
    /// let receiver = loop {
    ///     poll(&mut [PollFd::new(&listener, PollFlags::IN)], None)?;
    ///     if let Some(receiver) = listener.try_accept()? {
    ///         break receiver;
    ///     }
    /// };
    /// # drop((receiver, sending.join().unwrap()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`accept`](Listener::accept).
    pub fn try_accept(&self) -> Result<Option<Receiver>, ConnectError> {
        if !self.owner.is_here() {
            return Err(ConnectError::Forked);
        }
        let mut joining = self.joining();
        loop {
            if let Some(joined) = self.next_joined(&mut joining)? {
                // The receiver's packets are no event of the listener.
                effect("watch no longer");
                let _ = epoll::delete(&self.epoll, &joined.connection.socket);
                return receiver(joined).map(Some);
            }
            if !self.take_newcomer(&mut joining)? {
                return Ok(None);
            }
        }
    }

    /// Returns an iterator over the receivers of all senders, without an end. It waits for each, see
    /// [`accept`](Listener::accept).
    pub fn incoming(&self) -> impl Iterator<Item = Result<Receiver, ConnectError>> {
        std::iter::from_fn(|| Some(self.accept()))
    }

    fn joining(&self) -> MutexGuard<'_, VecDeque<Welcoming>> {
        self.joining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Advances all handshakes as far as possible without waiting. Returns the first one that has
    /// finished.
    fn next_joined(
        &self,
        joining: &mut VecDeque<Welcoming>,
    ) -> Result<Option<Halves>, ConnectError> {
        for i in 0..joining.len() {
            while let Some(welcoming) = joining.get_mut(i) {
                let received = welcoming.next();
                if matches!(received, Ok(None)) {
                    if Instant::now() < welcoming.deadline {
                        break;
                    }
                    joining.remove(i);
                    return Err(ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() });
                }
                let Some(welcoming) = joining.remove(i) else { break };
                let Some((packet, descriptor)) = received? else { break };
                match welcoming.take(packet, descriptor)? {
                    Progress::Joined(joined) => return Ok(Some(*joined)),
                    Progress::Waits(welcoming) => joining.insert(i, *welcoming),
                }
            }
        }
        Ok(None)
    }

    /// Accepts a connection. Returns whether there was one.
    fn take_newcomer(&self, joining: &mut VecDeque<Welcoming>) -> Result<bool, ConnectError> {
        let socket = match self.bound.listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            accepted => accepted.map_err(system("accept a connection"))?,
        };
        let peer = socket.credentials().map_err(system("ask who connects"))?;
        if !self.access.admits(peer) {
            send(&socket, &Packet::Refused(Refusal::User), None)?;
            return Err(ConnectError::Stranger { user: peer.user });
        }
        if joining.len() == JOINING_AT_ONCE {
            log::warn!("{JOINING_AT_ONCE} connections have not joined; the oldest is disconnected");
            joining.pop_front();
        }
        watch(&self.epoll, socket.as_fd()).map_err(system("watch a connection"))?;
        joining.push_back(Welcoming::new(socket, self.limits, self.access.clone())?);
        Ok(true)
    }
}

impl AsFd for Listener {
    /// Returns a descriptor that becomes readable when a sender connects or goes on with its
    /// handshake. It stays the same.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The most senders in the handshake with one listener.
const JOINING_AT_ONCE: usize = 64;

fn system(step: &'static str) -> impl FnOnce(io::Error) -> ConnectError {
    move |source| ConnectError::System { step, source }
}

/// The connection of a sender that has not joined.
#[derive(Debug)]
pub(crate) struct Welcoming {
    socket: Socket,
    limits: Limits,
    access: PeerFilter,
    deadline: Instant,
    /// Our end, once the sender was welcomed.
    receiving: Option<Receiving<Region>>,
}

/// The state of the handshake after a packet.
enum Progress {
    Waits(Box<Welcoming>),
    Joined(Box<Halves>),
}

impl Welcoming {
    pub fn new(
        mut socket: Socket,
        limits: Limits,
        access: PeerFilter,
    ) -> Result<Self, ConnectError> {
        await_credentials(&mut socket)?;
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        Ok(Welcoming { socket, limits, access, deadline, receiving: None })
    }

    /// Returns the next packet, if it has arrived. Accepts the first one only from a user that is
    /// admitted.
    fn next(&mut self) -> Result<Option<(Packet, Option<ReceivedFd>)>, ConnectError> {
        // Checked before the receive, so that packets from before the peer's death still count.
        let has_died = self.socket.peer().has_died();
        let received = match self.receiving {
            None => {
                let (received, sender) = self.socket.receive_first(false);
                if let Some(sender) = sender.filter(|sender| !self.access.admits(*sender)) {
                    send(&self.socket, &Packet::Refused(Refusal::User), None)?;
                    return Err(ConnectError::Stranger { user: sender.user });
                }
                received
            }
            Some(_) => self.socket.receive(),
        };
        match understand(received)? {
            None if has_died => Err(Disconnected::PeerDied.into()),
            next => Ok(next),
        }
    }

    /// Waits for the next packet.
    fn wait(&mut self) -> Result<(Packet, Option<ReceivedFd>), ConnectError> {
        loop {
            if let Some(next) = self.next()? {
                return Ok(next);
            }
            let waited = self.socket.wait(false, None, Some(self.deadline));
            if !waited.map_err(system("wait for a sender"))? {
                return Err(ConnectError::Silent { seconds: HANDSHAKE_TIMEOUT.as_secs() });
            }
        }
    }

    /// Waits for the `Hello` and answers it.
    pub fn greet(mut self) -> Result<Self, ConnectError> {
        let (packet, descriptor) = self.wait()?;
        match self.take(packet, descriptor)? {
            Progress::Waits(welcoming) => Ok(*welcoming),
            Progress::Joined(_) => Err(Disconnected::PeerDied.into()),
        }
    }

    /// Waits until the sender has joined.
    pub fn finish(mut self) -> Result<Halves, ConnectError> {
        loop {
            let (packet, descriptor) = self.wait()?;
            match self.take(packet, descriptor)? {
                Progress::Joined(joined) => return Ok(*joined),
                Progress::Waits(welcoming) => self = *welcoming,
            }
        }
    }

    /// Handles the next packet and answers it.
    fn take(
        mut self,
        packet: Packet,
        mut descriptor: Option<ReceivedFd>,
    ) -> Result<Progress, ConnectError> {
        let Some(receiving) = &mut self.receiving else {
            self.receiving = Some(welcome(&self.socket, &packet, self.limits)?);
            return Ok(Progress::Waits(Box::new(self)));
        };
        let taken = receiving.take(packet, attach(packet, &mut descriptor));
        let Some((link, start)) = taken.map_err(Disconnected::from)? else {
            return Ok(Progress::Waits(Box::new(self)));
        };
        send(&self.socket, &start, None)?;
        let joined = Connection::halves(self.socket, link, self.limits, ClientId(0), 0);
        Ok(Progress::Joined(Box::new(joined)))
    }
}

/// Answers a `Hello`.
fn welcome(
    socket: &Socket,
    hello: &Packet,
    limits: Limits,
) -> Result<Receiving<Region>, ConnectError> {
    let checked = Receiving::<Region>::hello(hello);
    if let Err(Rejected::Refused(refusal)) = checked {
        send(socket, &Packet::Refused(refusal), None)?;
    }
    checked?;
    let (receiving, welcome) = Receiving::welcome(control_region(1)?, limits);
    send(socket, &welcome, Some(receiving.control()))?;
    Ok(receiving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::bound;
    use std::time::Duration;

    // P12
    #[test]
    fn each_connection_has_ten_seconds_of_its_own_to_join() {
        let row = bound("connections to a channel's listener that have not joined");
        assert_eq!(row, format!("{JOINING_AT_ONCE}, each for 10 seconds, side by side"));
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("channel");
        let (listener, began) = (Receiver::listen(&path).unwrap(), Instant::now());
        let (ten_seconds, mut joining) = (Duration::from_secs(10), VecDeque::new());
        let connect = |joining: &mut VecDeque<Welcoming>| {
            let socket = Socket::connect(&path, Instant::now()).unwrap();
            assert!(listener.take_newcomer(joining).unwrap());
            socket
        };
        let _silent = [connect(&mut joining), connect(&mut joining)];
        assert!(joining[0].deadline >= began + ten_seconds);
        assert!(joining[0].deadline < joining[1].deadline);
        assert!(joining[1].deadline <= Instant::now() + ten_seconds);
        assert!(matches!(listener.next_joined(&mut joining), Ok(None)));
        // The second one's time is up.
        joining[0].deadline += HANDSHAKE_TIMEOUT;
        joining[1].deadline = Instant::now();
        let error = listener.next_joined(&mut joining).unwrap_err();
        assert!(matches!(error, ConnectError::Silent { seconds: 10 }), "{error}");
        assert_eq!(joining.len(), 1);
        assert!(matches!(listener.next_joined(&mut joining), Ok(None)));
    }
}

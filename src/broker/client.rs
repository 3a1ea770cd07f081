//! One client's connection as the broker sees it: from the greeting to its pages.

use crate::connection::{map_page, map_page_to_share, send_announcement};
use crate::core::broker::Core;
use crate::core::chain::Announcement;
use crate::core::failpoint::effect;
use crate::core::fault::Fault;
use crate::core::memory::Region;
use crate::core::message::ClientId;
use crate::core::wire::{Packet, Refusal, Roles};
use crate::handshake::{HelloError, check_hello, map_control};
use crate::lost::Again;
use crate::socket::{Credentials, Sent, Socket};
use crate::sys::memfd::ReceivedFd;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not said anything yet.
    Fresh,
    /// It was welcomed.
    Greeted(ClientId),
    /// It has its place on the bus.
    Joined(ClientId),
}

/// How far telling a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has been told everything.
    All,
    /// Its socket is full; try again when it is writable.
    NotNow,
    /// Its socket holds as many descriptors as it may. The kernel does not say when it has taken them.
    Unread,
    /// The kernel has no memory. It does not say when to try again.
    NoMemory,
    /// A hang-up comes up as an event.
    HungUp,
}

impl From<Sent> for Progress {
    fn from(sent: Sent) -> Self {
        match sent {
            Sent::Yes => Progress::All,
            Sent::NotNow => Progress::NotNow,
            Sent::NoMemory => Progress::NoMemory,
            Sent::HungUp => Progress::HungUp,
        }
    }
}

/// Something that this process has no room for. That is not the client's fault.
#[derive(Debug)]
pub(super) enum Stuck {
    /// Its memory can't be mapped.
    Packet(Packet, Option<ReceivedFd>),
    /// There is no descriptor for it: it is still in the socket.
    InSocket,
}

#[derive(Debug)]
pub(super) struct ClientConnection {
    pub socket: Socket,
    pub phase: Phase,
    roles: Roles,
    /// Its next step on the way in, until it has been told: that it is welcome, then where it starts.
    step: Option<Packet>,
    /// How many clients receive, as it was told last.
    receiver_count: Option<usize>,
    /// Since when something for it has had to wait: its socket is full, or holds as many descriptors
    /// as it may.
    pub full_since: Option<Instant>,
    /// Whether it is watched for room in its socket.
    is_watched: bool,
    /// What came and waits until this process has room for it. Behind it wait all later packets.
    pub stuck: Option<Stuck>,
    /// Pages of which it has asked for another descriptor.
    again: Again,
    /// Descriptors that were sent since its socket was seen empty.
    in_flight: usize,
    /// The process that connected, and from its first packet on the one that has sent that.
    pub process: i32,
    /// Its user.
    pub user: u32,
    /// Whether its process has ended while something of it was stuck.
    pub has_died: bool,
    /// When it connected.
    pub began: Instant,
}

impl ClientConnection {
    pub fn new(socket: Socket, peer: Credentials) -> Self {
        ClientConnection {
            process: peer.process,
            user: peer.user,
            began: Instant::now(),
            socket,
            phase: Phase::Fresh,
            roles: Roles(0),
            step: None,
            receiver_count: None,
            full_since: None,
            has_died: false,
            is_watched: false,
            stuck: None,
            again: Again::default(),
            in_flight: 0,
        }
    }

    pub fn client(&self) -> Option<ClientId> {
        match self.phase {
            Phase::Fresh => None,
            Phase::Greeted(client) | Phase::Joined(client) => Some(client),
        }
    }

    /// The first packet: who it is and what it wants.
    pub fn greet(
        &mut self,
        packet: Packet,
        offered: Roles,
        broker: u64,
        core: &mut Core<Region>,
    ) -> Result<Result<ClientId, Refusal>, Fault> {
        self.roles = match check_hello(packet, offered) {
            Ok(roles) => roles,
            Err(HelloError::Refused(refusal)) => return Ok(Err(refusal)),
            Err(HelloError::Wire(error)) => return Err(error.into()),
        };
        let Some(reserved) = core.reserve(self.roles) else { return Ok(Err(Refusal::Crowded)) };
        let welcome = Packet::Welcome {
            version: crate::core::layout::VERSION,
            client: reserved.client.0,
            cursor: reserved.cursor as u32,
            broker,
            limits: core.limits().into(),
        };
        self.step = Some(welcome);
        self.phase = Phase::Greeted(reserved.client);
        Ok(Ok(reserved.client))
    }

    /// The second packet: its control region.
    pub fn join(
        &mut self,
        client: ClientId,
        packet: Packet,
        descriptor: &mut Option<ReceivedFd>,
        core: &mut Core<Region>,
    ) -> Result<(), Fault> {
        let (Packet::Join, Some(descriptor)) = (packet, descriptor) else {
            return Err(packet.unexpected("instead of a join").into());
        };
        self.step = Some(Packet::Start(core.join(client, map_control(descriptor)?)?));
        self.phase = Phase::Joined(client);
        if !self.roles.has(Roles::SEND) {
            // It has no pages to send.
            self.socket.refuse_descriptors();
        }
        Ok(())
    }

    /// Every later packet. A page whose descriptor may be kept (`may_share`) is lent to others.
    pub fn on_packet(
        &mut self,
        client: ClientId,
        packet: Packet,
        descriptor: &mut Option<ReceivedFd>,
        core: &mut Core<Region>,
        may_share: bool,
    ) -> Result<(), Fault> {
        match (packet, descriptor) {
            // After a Bye comes the hang-up.
            (Packet::Ring, _) => Ok(()),
            (Packet::Bye(_), _) => {
                self.roles = self.roles.without(Roles::IN_PLACE);
                core.reads_no_further(client);
                Ok(())
            }
            (Packet::Page { id }, Some(descriptor)) if self.roles.has(Roles::SEND) => {
                let map = if may_share { map_page_to_share } else { map_page };
                core.page_arrived(client, id, map(descriptor, core.limits())?)?;
                if may_share {
                    core.may_share(client, id);
                }
                Ok(())
            }
            (Packet::Forget { id }, _) => core.page_forgotten(client, id),
            (Packet::Again { id }, _) if self.roles.has(Roles::RECEIVE) => {
                // One that is gone will be, or was, followed by its `Forget`.
                if core.page(id).is_some() {
                    self.again.ask(id);
                }
                Ok(())
            }
            (packet, _) => Err(packet.unexpected("from a client that has joined").into()),
        }
    }

    /// Tells the client about the broadcast chain's pages, then where it starts, then how many
    /// clients receive: as much as it does not know yet and can be sent. Before it has joined, that it
    /// is welcome.
    ///
    /// No more than `max_in_flight` descriptors wait in its socket: the kernel counts those of all
    /// sockets together, and beyond a limit it takes no more for any.
    pub fn announce(&mut self, core: &mut Core<Region>, max_in_flight: usize) -> Progress {
        let Some(client) = self.client() else { return Progress::All };
        while let Some(announcement) =
            self.again.announcement().or_else(|| core.announcement(client))
        {
            if self.in_flight >= max_in_flight {
                if !self.socket.is_read() {
                    return Progress::Unread;
                }
                self.in_flight = 0;
            }
            match send_announcement(&self.socket, announcement, |id| core.page(id)) {
                Sent::Yes => {
                    if !self.again.mark_sent() {
                        core.mark_sent(client);
                    }
                    self.in_flight += usize::from(matches!(announcement, Announcement::Page(_)));
                    // It reads, if slowly.
                    self.full_since = self.full_since.map(|_| Instant::now());
                }
                // A hang-up comes up as an event.
                other => return Progress::from(other),
            }
        }
        if let Some(step) = &self.step {
            let control = core.control().descriptor();
            let control = control.filter(|_| step.descriptors() > 0);
            match self.socket.send(step, control) {
                Sent::Yes => {
                    self.in_flight += step.descriptors();
                    self.step = None;
                }
                other => return Progress::from(other),
            }
        }
        if self.misses(core.receivers()) {
            let receivers = core.receivers();
            match self.socket.send(&Packet::ReceiverCount { receivers: receivers as u32 }, None) {
                Sent::Yes => self.receiver_count = Some(receivers),
                other => return Progress::from(other),
            }
        }
        Progress::All
    }

    /// Whether its process may still be reading pages in place.
    pub fn reads_in_place(&self) -> bool {
        let reads = Roles::IN_PLACE.and(Roles::RECEIVE);
        self.roles.has(reads) && matches!(self.phase, Phase::Joined(_))
    }

    /// Whether it asked to be told how many clients receive, and was last told another number.
    pub fn misses(&self, receivers: usize) -> bool {
        let is_watching = self.roles.has(Roles::TRACK) && matches!(self.phase, Phase::Joined(_));
        is_watching && self.receiver_count != Some(receivers)
    }

    /// Notes what became of telling it something; asks to be woken when there is room in a full
    /// socket again, or no longer.
    pub fn note(&mut self, told: Progress, epoll: &OwnedFd, token: u64) {
        match told {
            Progress::NotNow | Progress::Unread => {
                self.full_since.get_or_insert_with(Instant::now);
            }
            Progress::All | Progress::NoMemory | Progress::HungUp => self.full_since = None,
        }
        let writable = told == Progress::NotNow;
        if self.is_watched != writable && self.stuck.is_none() {
            self.watch(writable, epoll, token);
        }
    }

    fn watch(&mut self, writable: bool, epoll: &OwnedFd, token: u64) {
        let flags = if writable { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        effect("watch for room");
        if epoll::modify(epoll, &self.socket, EventData::new_u64(token), flags).is_ok() {
            self.is_watched = writable;
        }
    }

    /// Puts aside what this process has no room for. What else comes waits in the socket, which is
    /// not watched meanwhile, but for a hang-up: that comes up once.
    pub fn put_aside(&mut self, stuck: Stuck, epoll: &OwnedFd, token: u64) {
        self.stuck = Some(stuck);
        effect("watch for a hang-up alone");
        // The kernel needs no memory for that.
        let _ = epoll::modify(epoll, &self.socket, EventData::new_u64(token), EventFlags::ONESHOT);
    }

    /// There was room for what had been put aside.
    pub fn go_on(&mut self, epoll: &OwnedFd, token: u64) {
        self.watch(false, epoll, token);
    }
}

//! One client's connection on the broker's side, from the handshake to its pages.

use super::Key;
use crate::connection::{map_page, map_page_to_share, send_announcement};
use crate::core::broker::Core;
use crate::core::chain::Announcement;
use crate::core::failpoint::effect;
use crate::core::fault::Fault;
use crate::core::handshake::{Accepting, Phase};
use crate::core::memory::Region;
use crate::core::message::ClientId;
use crate::core::wire::{Packet, Roles, Session};
use crate::lost::Again;
use crate::socket::{Credentials, Sent, Socket};
use crate::sys::memfd::ReceivedFd;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// The result of sending a client its announcements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The result of the last packet. With [`Sent::Yes`], all announcements were sent.
    Sent(Sent),
    /// The socket holds its share of descriptors. The kernel does not report when the client has
    /// received them.
    Unread,
}

/// A packet for which this process has no room. The client is not at fault.
#[derive(Debug)]
pub(super) enum Stuck {
    /// Its memory can't be mapped.
    Packet(Packet, Option<ReceivedFd>),
    /// Its descriptor has no free slot. The packet is still in the socket.
    InSocket,
}

#[derive(Debug)]
pub(super) struct ClientConnection {
    pub socket: Socket,
    pub accepting: Accepting,
    /// The next packet of a join until it is sent: `Welcome`, `Start`, or `Skipped`.
    pub step: Option<Packet>,
    /// What follows `Welcome`, for a client that outlives its broker.
    pub session: Option<Session>,
    /// The epoch since which brokers wait for such a client.
    pub since: u32,
    /// Own pages of the broadcast chain that a client which does not receive was sent.
    own_pages: Vec<u32>,
    /// Whether it was sent its first `Start`.
    pub has_started: bool,
    /// Whether it was skipped before.
    was_skipped: bool,
    /// Whether it was skipped and may still read pages in place.
    pub keeps_pages: bool,
    /// The receiver count that was last sent.
    receiver_count: Option<usize>,
    /// When an announcement first had to wait, because the socket is full or holds its share of
    /// descriptors.
    pub full_since: Option<Instant>,
    /// Whether epoll watches for room in the socket.
    is_watched: bool,
    /// The packet that waits for room in this process. All later packets wait behind it.
    pub stuck: Option<Stuck>,
    /// Pages whose descriptors the client has requested again.
    again: Again,
    /// Descriptors sent since the socket was last found empty.
    in_flight: usize,
    /// The process that connected, then the process that sent the first packet.
    pub process: i32,
    /// The user of the process that connected.
    pub user: u32,
    /// The user of the process that sent the first packet.
    pub sender: u32,
    /// Whether the process has ended while a packet was stuck.
    pub has_died: bool,
    /// When the client connected.
    pub began: Instant,
}

impl ClientConnection {
    pub fn new(socket: Socket, peer: Credentials) -> Self {
        ClientConnection {
            process: peer.process,
            user: peer.user,
            sender: peer.user,
            began: Instant::now(),
            socket,
            accepting: Accepting::default(),
            step: None,
            session: None,
            since: 0,
            own_pages: Vec::new(),
            has_started: false,
            was_skipped: false,
            keeps_pages: false,
            receiver_count: None,
            full_since: None,
            has_died: false,
            is_watched: false,
            stuck: None,
            again: Again::default(),
            in_flight: 0,
        }
    }

    /// Returns the process with the user that connected, and with the one that sent the first packet.
    pub fn peers(&self) -> [Credentials; 2] {
        [self.user, self.sender].map(|user| Credentials { user, process: self.process })
    }

    pub fn client(&self) -> Option<ClientId> {
        self.accepting.client()
    }

    /// Handles a packet after the handshake. If `may_share` holds, a page's descriptor is kept so that its
    /// messages can be forwarded by reference.
    pub fn on_packet(
        &mut self,
        client: ClientId,
        packet: Packet,
        descriptor: &mut Option<ReceivedFd>,
        core: &mut Core<Region>,
        may_share: bool,
    ) -> Result<(), Fault> {
        match (packet, descriptor) {
            // A hang-up follows a `Bye`.
            (Packet::Ring, _) => Ok(()),
            (Packet::Bye(_), _) => {
                self.accepting.roles = self.accepting.roles.without(Roles::IN_PLACE);
                core.reads_no_further(client);
                Ok(())
            }
            (Packet::Page { id }, Some(descriptor)) if self.accepting.roles.has(Roles::SEND) => {
                let map = if may_share { map_page_to_share } else { map_page };
                core.page_arrived(client, id, map(descriptor, core.limits())?)?;
                if may_share {
                    core.may_share(client, id);
                }
                Ok(())
            }
            (Packet::Forget { id }, _) => core.page_forgotten(client, id),
            (Packet::Again { id }, _) if self.accepting.roles.has(Roles::RECEIVE) => {
                // A missing page's `Forget` precedes or follows this request. A skipped client is
                // sent all pages anew.
                if core.page(id).is_some() && core.is_receiver(client) {
                    self.again.ask(id);
                }
                Ok(())
            }
            (packet, _) => Err(packet.unexpected("from a client that has joined").into()),
        }
    }

    /// Sends the client what is pending and fits its socket: page announcements first, then the
    /// next handshake packet, then the receiver count. Before the client joins, only `Welcome` is
    /// pending.
    ///
    /// At most `max_in_flight` descriptors wait in the socket. The kernel counts the descriptors of
    /// all sockets together, and beyond a limit it accepts no more for any socket.
    pub fn announce(&mut self, core: &mut Core<Region>, max_in_flight: usize) -> Progress {
        let Some(client) = self.accepting.client() else { return Progress::Sent(Sent::Yes) };
        while let Some(announcement) =
            self.again.announcement().or_else(|| core.announcement(client))
        {
            if self.in_flight >= max_in_flight {
                if !self.socket.is_read() {
                    return Progress::Unread;
                }
                self.in_flight = 0;
            }
            let is_foreign = self.accepting.roles.has(Roles::OUTLIVE)
                && matches!(announcement, Announcement::Page(id) if core.is_foreign(id));
            match send_announcement(&self.socket, announcement, is_foreign, |id| core.page(id)) {
                Sent::Yes => {
                    if !self.again.mark_sent() {
                        core.mark_sent(client);
                    }
                    self.in_flight += usize::from(matches!(announcement, Announcement::Page(_)));
                    // A slow client still reads.
                    self.full_since = self.full_since.map(|_| Instant::now());
                }
                // An event reports a hang-up.
                other => return Progress::Sent(other),
            }
        }
        if self.is_witness() {
            match self.announce_own_pages(core, max_in_flight) {
                Progress::Sent(Sent::Yes) => {}
                other => return other,
            }
        }
        if let Some(step) = &self.step {
            let control = core.control().descriptor();
            let control = control.filter(|_| step.descriptors() > 0);
            match self.socket.send(step, control) {
                Sent::Yes => {
                    self.in_flight += step.descriptors();
                    self.has_started |= matches!(step, Packet::Start(_));
                    self.step = None;
                }
                other => return Progress::Sent(other),
            }
        }
        if let Some(session) = self.session {
            match self.socket.send(&Packet::Session(session), None) {
                Sent::Yes => self.session = None,
                other => return Progress::Sent(other),
            }
        }
        if self.misses(core.receivers()) {
            let receivers = core.receivers();
            match self.socket.send(&Packet::ReceiverCount { receivers: receivers as u32 }, None) {
                Sent::Yes => self.receiver_count = Some(receivers),
                other => return Progress::Sent(other),
            }
        }
        Progress::Sent(Sent::Yes)
    }

    /// Returns whether the client is sent the broker's own pages without receiving: it needs them when
    /// it outlives the broker.
    pub fn is_witness(&self) -> bool {
        self.accepting.roles.has(Roles::OUTLIVE)
            && !self.accepting.roles.has(Roles::RECEIVE)
            && matches!(self.accepting.phase, Phase::Joined(_))
    }

    /// Returns whether the client lacks own pages of the broker, or has some that are gone.
    pub fn lacks_own_pages(&self, core: &Core<Region>) -> bool {
        self.is_witness() && !core.own_pages().eq(self.own_pages.iter().copied())
    }

    fn announce_own_pages(&mut self, core: &Core<Region>, max_in_flight: usize) -> Progress {
        while let Some(at) = self.own_pages.iter().position(|id| core.page(*id).is_none()) {
            let forget = Announcement::Forget(self.own_pages[at]);
            match send_announcement(&self.socket, forget, false, |_| None) {
                Sent::Yes => _ = self.own_pages.remove(at),
                other => return Progress::Sent(other),
            }
        }
        let own: Vec<u32> = core.own_pages().collect();
        for id in own {
            if let Err(at) = self.own_pages.binary_search(&id) {
                if self.in_flight >= max_in_flight {
                    if !self.socket.is_read() {
                        return Progress::Unread;
                    }
                    self.in_flight = 0;
                }
                let page = Announcement::Page(id);
                match send_announcement(&self.socket, page, false, |id| core.page(id)) {
                    Sent::Yes => {
                        self.own_pages.insert(at, id);
                        self.in_flight += 1;
                    }
                    other => return Progress::Sent(other),
                }
            }
        }
        Progress::Sent(Sent::Yes)
    }

    /// Records that the client was skipped, and prepares the packet that says so. Returns whether it
    /// is the first time.
    pub fn skip(&mut self) -> bool {
        self.again = Again::default();
        self.step = Some(Packet::Skipped);
        self.keeps_pages = self.reads_in_place();
        !std::mem::replace(&mut self.was_skipped, true)
    }

    /// Returns whether the client's process may still be reading pages in place.
    pub fn reads_in_place(&self) -> bool {
        let reads = Roles::IN_PLACE.and(Roles::RECEIVE);
        self.accepting.roles.has(reads) && matches!(self.accepting.phase, Phase::Joined(_))
    }

    /// Returns whether the client tracks the receiver count and was last sent another number.
    pub fn misses(&self, receivers: usize) -> bool {
        let is_watching = self.accepting.roles.has(Roles::TRACK)
            && matches!(self.accepting.phase, Phase::Joined(_));
        is_watching && self.receiver_count != Some(receivers)
    }

    /// Records the result of sending announcements. Watches a full socket for room and stops
    /// watching afterwards.
    pub fn note(&mut self, progress: Progress, epoll: &OwnedFd, key: Key) {
        match progress {
            Progress::Sent(Sent::NotNow) | Progress::Unread => {
                self.full_since.get_or_insert_with(Instant::now);
            }
            Progress::Sent(_) => self.full_since = None,
        }
        let writable = progress == Progress::Sent(Sent::NotNow);
        if self.is_watched != writable && self.stuck.is_none() {
            self.watch(writable, epoll, key);
        }
    }

    /// Watches the socket for packets, and for room if `writable`. Its events get this key.
    pub fn watch(&mut self, writable: bool, epoll: &OwnedFd, key: Key) {
        let flags = if writable { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        effect("watch for room");
        if epoll::modify(epoll, &self.socket, EventData::new_u64(key), flags).is_ok() {
            self.is_watched = writable;
        }
    }

    /// Sets aside a packet for which this process has no room. Later packets wait in the socket. It
    /// is watched only for a hang-up meanwhile, which is reported once.
    pub fn put_aside(&mut self, stuck: Stuck, epoll: &OwnedFd, key: Key) {
        self.stuck = Some(stuck);
        effect("watch for a hang-up alone");
        // The kernel needs no memory for this call.
        let _ = epoll::modify(epoll, &self.socket, EventData::new_u64(key), EventFlags::ONESHOT);
    }
}

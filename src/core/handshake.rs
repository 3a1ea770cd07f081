//! The handshake of both sides without sockets: packets in, answers out.
//! [`wire`](crate::core::wire) shows a picture.
//!
//! ```text
//!   client:   Connecting --Welcome--> Welcomed --join--> Joining --Start--> Joined
//!   broker:   Fresh --Hello--> Greeted --Join--> Joined             (Accepting)
//!   channel:  hello --> welcome --Join--> --Page 0--> Link          (Receiving)
//! ```
//!
//! The owner of a state moves packets and descriptors. It also decides which process it talks to,
//! how long it waits, and what an end of the connection means. A state attaches a region by a
//! function of its owner, after it has checked the packet that brought the region.

use crate::core::broker::Core;
use crate::core::chain::{BROKER, ChainReader, ChainWriter, FIRST_PAGE, Start, admit_page};
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::intent::BrokerPages;
use crate::core::layout::{PAGE_HEADER, VERSION, low};
use crate::core::limits::Limits;
use crate::core::link::Link;
use crate::core::memory::Memory;
use crate::core::message::ClientId;
use crate::core::order::Site;
use crate::core::wire::{Packet, Refusal, Roles, Session, WireError};
use alloc::vec::Vec;

/// The region that came with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach<'a> {
    /// The peer's control region.
    Control,
    /// A page of the peer's chain, which has these limits.
    Page(&'a Limits),
}

/// Why a handshake ends before the client has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// One side refuses the other. An accepting side sends [`Packet::Refused`].
    Refused(Refusal),
    /// The peer is at fault.
    Fault(Fault),
}

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Self {
        Rejected::Refused(refusal)
    }
}

impl From<Fault> for Rejected {
    fn from(fault: Fault) -> Self {
        Rejected::Fault(fault)
    }
}

/// A client that waits for the answer to its `Hello`.
#[derive(Clone, Copy, Debug)]
pub struct Connecting {
    roles: Roles,
    os_page: usize,
    /// The client's id and its session with the last broker, if it returns.
    returns: Option<(ClientId, Session)>,
}

impl Connecting {
    /// Returns a client that asks for `roles`. Its regions are multiples of `os_page` bytes.
    pub fn new(roles: Roles, os_page: usize) -> Self {
        Connecting { roles, os_page, returns: None }
    }

    /// Returns a client that goes on with another broker as the same client.
    #[must_use]
    pub fn returning(self, client: ClientId, session: Session) -> Self {
        Connecting { returns: Some((client, session)), ..self }
    }

    /// Returns the greeting, the client's first packet.
    pub fn hello(&self) -> Packet {
        let (version, roles) = (VERSION, self.roles);
        match self.returns {
            None => Packet::Hello { version, roles },
            Some((client, Session { epoch, token, .. })) => {
                Packet::Return { version, roles, client: client.0, epoch, token }
            }
        }
    }

    /// Takes the answer to the greeting.
    ///
    /// # Errors
    ///
    /// The broker's refusal, or its fault.
    pub fn take<M: Memory>(
        self,
        packet: Packet,
        attach: impl FnOnce(Attach<'_>) -> Result<M, Fault>,
    ) -> Result<Welcomed<M>, Rejected> {
        let (client, cursor, broker, limits) = match packet {
            Packet::Refused(refusal) => return Err(refusal.into()),
            Packet::Welcome { version, .. } if version != VERSION => {
                return Err(Refusal::Version { broker: version }.into());
            }
            Packet::Welcome { client, cursor, broker, limits, .. } => {
                (ClientId(client), cursor as usize, broker, limits)
            }
            packet => return Err(unexpected(&packet, "instead of a welcome").into()),
        };
        let limits = limits.check().and_then(|limits| limits.in_pages_of(self.os_page));
        let limits = limits.map_err(|error| Fault::from(WireError::from(error)))?;
        let peer = Control::check(attach(Attach::Control)?, cursor)?;
        let Connecting { roles, returns, .. } = self;
        if returns.is_some_and(|(expected, _)| expected != client) {
            return Err(Refusal::Unknown.into());
        }
        let last = returns.map(|(_, session)| session);
        Ok(Welcomed { roles, client, broker, limits, peer, cursor, last, session: None })
    }
}

/// A client that was welcomed and now sends `Join` with its control region.
#[derive(Debug)]
pub struct Welcomed<M> {
    /// The client's roles.
    pub roles: Roles,
    /// The client's id on the bus.
    pub client: ClientId,
    /// The broker's id.
    pub broker: u64,
    /// The limits of the bus, in whole pages of the kernel.
    pub limits: Limits,
    peer: Control<M>,
    /// Index of the cursor for our chain in the broker's control region.
    cursor: usize,
    /// The session with the last broker, if the client returns.
    last: Option<Session>,
    /// The session with this broker, once it has come.
    session: Option<Session>,
}

impl<M: Memory> Welcomed<M> {
    /// Returns whether a [`Packet::Session`] follows, which comes before `Join`.
    pub fn awaits_session(&self) -> bool {
        self.roles.has(Roles::OUTLIVE) && self.session.is_none()
    }

    /// Returns whether the client goes on with another broker than its last.
    pub fn returns(&self) -> bool {
        self.last.is_some()
    }

    /// Takes the session. A client that returns goes on only with a later broker of its bus. Until
    /// then its last broker may still live.
    ///
    /// # Errors
    ///
    /// The broker's fault, or [`Refusal::Unknown`] if it is not a later broker of the same bus.
    pub fn take_session(&mut self, packet: Packet) -> Result<(), Rejected> {
        let Packet::Session(session) = packet else {
            return Err(unexpected(&packet, "instead of a session").into());
        };
        if let Some(last) = self.last
            && (session.bus != last.bus || session.epoch <= last.epoch)
        {
            return Err(Refusal::Unknown.into());
        }
        self.session = Some(session);
        Ok(())
    }

    /// Initializes our control region, which has room for one cursor. The owner sends it with
    /// [`Packet::Join`] afterwards, because the broker reads it at once.
    pub fn join(self, control: M) -> Joining<M> {
        let control = Control::create(control, 1);
        let broker_pages = self.roles.has(Roles::OUTLIVE);
        let broker_pages =
            broker_pages.then(|| BrokerPages::new(self.limits.broadcast_receiver_budget()));
        Joining {
            welcomed: self,
            control,
            outbound: None,
            pages: Vec::new(),
            broker_pages,
            receivers: None,
            is_skipped: false,
            begins_at: None,
        }
    }
}

/// A client that waits for `Start`.
#[derive(Debug)]
pub struct Joining<M> {
    welcomed: Welcomed<M>,
    control: Control<M>,
    outbound: Option<ChainWriter<M>>,
    /// The pages of the broadcast chain that have arrived, if the client receives.
    pages: Vec<(u32, M)>,
    /// The broker's own pages, if the client outlives it.
    broker_pages: Option<BrokerPages<M>>,
    receivers: Option<u32>,
    /// Whether the client was skipped before it has read `Start`.
    is_skipped: bool,
    /// The number of the message in the first `Start`.
    begins_at: Option<u64>,
}

/// A client that has joined.
#[derive(Debug)]
pub struct Joined<M> {
    /// The client's id on the bus.
    pub client: ClientId,
    /// The broker's id.
    pub broker: u64,
    /// The limits of the bus.
    pub limits: Limits,
    /// The client's end of the connection.
    pub link: Link<M>,
    /// The receiver count, if the broker has sent it.
    pub receivers: Option<u32>,
    /// What the client needs to outlive the broker, if it has that role.
    pub outlives: Option<Outlives<M>>,
}

/// What a client keeps of its broker, to go on with the next one.
#[derive(Debug)]
pub struct Outlives<M> {
    /// Its session with this broker.
    pub session: Session,
    /// The broker's control region.
    pub peer: Control<M>,
    /// The index there of the cursor for the client's chain.
    pub cursor: usize,
    /// The broker's own pages.
    pub pages: BrokerPages<M>,
    /// The number of the first message that the client receives.
    pub first_message: u64,
    /// How many messages it has missed, because the broker has skipped it before it has read `Start`.
    pub skipped: u64,
}

impl<M: Memory> Joining<M> {
    /// Returns our control region.
    pub fn control(&self) -> &M {
        self.control.memory()
    }

    /// Returns the length of the first page in bytes, if the client begins a chain now. One that
    /// returns does so later, with what its last broker had not consumed.
    pub fn first_page_len(&self) -> Option<usize> {
        let Welcomed { roles, limits, last, .. } = &self.welcomed;
        (roles.has(Roles::SEND) && last.is_none()).then(|| limits.page_len())
    }

    /// Begins our chain in its first page. The owner sends the page afterwards.
    pub fn begin_chain(&mut self, first: M) -> Packet {
        let Welcomed { client, limits, .. } = self.welcomed;
        self.outbound = Some(ChainWriter::new(client.0, limits, first));
        Packet::Page { id: FIRST_PAGE }
    }

    /// Takes a packet. `Start` completes the handshake.
    ///
    /// # Errors
    ///
    /// The broker's [`Fault`]. [`Fault::Removed`] if the broker has removed this client meanwhile.
    pub fn take(
        &mut self,
        packet: Packet,
        attach: impl FnOnce(Attach<'_>) -> Result<M, Fault>,
    ) -> Result<Option<Joined<M>>, Fault> {
        let limits = &self.welcomed.limits;
        match packet {
            Packet::Start(start) => return self.start(start),
            Packet::Page { id } | Packet::ForeignPage { id }
                if self.welcomed.roles.has(Roles::RECEIVE) || self.broker_pages.is_some() =>
            {
                let page = attach(Attach::Page(limits))?;
                if let (Some(known), Packet::Page { .. }) = (&mut self.broker_pages, packet) {
                    known.add(id, page.clone())?;
                }
                if self.welcomed.roles.has(Roles::RECEIVE) {
                    admit_page(&mut self.pages, id, page, limits.broadcast_receiver_budget())?;
                }
            }
            // The chain advances while its pages are announced to us.
            Packet::Forget { id }
                if self.pages.iter().any(|(known, _)| *known == id)
                    || self.broker_pages.as_ref().is_some_and(|pages| pages.has(id)) =>
            {
                self.pages.retain(|(known, _)| *known != id);
                self.broker_pages.iter_mut().for_each(|known| known.forget(id));
            }
            Packet::Ring => {}
            Packet::ReceiverCount { receivers } => self.receivers = Some(receivers),
            Packet::Skipped if self.welcomed.roles.has(Roles::RECEIVE) => {
                self.pages.clear();
                self.broker_pages.iter_mut().for_each(BrokerPages::restart);
                self.is_skipped = true;
            }
            packet => return Err(unexpected(&packet, "before the start")),
        }
        Ok(None)
    }

    /// Returns whether `Rejoin` must be sent now, because the broker has skipped this client before
    /// it has read `Start`.
    pub fn must_rejoin(&mut self) -> bool {
        core::mem::take(&mut self.is_skipped)
    }

    fn start(&mut self, start: Start) -> Result<Option<Joined<M>>, Fault> {
        let Welcomed { roles, client, broker, limits, ref peer, cursor, session, .. } =
            self.welcomed;
        let control = self.control.clone();
        let mut receiver = None;
        let begins_at = *self.begins_at.get_or_insert(start.message);
        if roles.has(Roles::RECEIVE) {
            // They are needed again if the client was skipped.
            let pages = self.pages.clone();
            let made = ChainReader::new(limits, BROKER, pages, start, control.clone(), 0);
            // pairs with ReuseFence
            peer.memory().fence(Site::CopyFence);
            receiver = match (made, peer.member(cursor)) {
                (Ok(made), _) => Some(made.in_place(peer.clone(), cursor, client.0)),
                (Err(fault), member) if member == u64::from(client.0) => return Err(fault),
                // It was skipped during the handshake. The packet comes next.
                (Err(_), member) if low(member) == client.0 => return Ok(None),
                // The broker has removed us during the handshake and gone on.
                (Err(_), _) => return Err(Fault::Removed),
            };
        }
        let outbound = self.outbound.take().map(|outbound| (outbound, cursor));
        let mut link = Link::new(control, peer.clone(), outbound, receiver);
        // The first page was sent.
        link.mark_sent();
        let outlives = session.zip(self.broker_pages.take());
        let outlives = outlives.map(|(session, mut pages)| {
            pages.complete();
            (session, pages)
        });
        let outlives = outlives.map(|(session, pages)| Outlives {
            session,
            peer: peer.clone(),
            cursor,
            pages,
            first_message: start.message,
            skipped: start.message.saturating_sub(begins_at),
        });
        Ok(Some(Joined { client, broker, limits, link, receivers: self.receivers, outlives }))
    }
}

/// A client on the broker's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No packet has arrived.
    Fresh,
    /// `Welcome` was sent or is pending.
    Greeted(ClientId),
    /// The client has joined the bus.
    Joined(ClientId),
}

/// The broker's side of the handshake with one client.
#[derive(Clone, Copy, Debug)]
pub struct Accepting {
    /// The progress of the client.
    pub phase: Phase,
    /// The roles that the client has asked for.
    pub roles: Roles,
}

impl Default for Accepting {
    fn default() -> Self {
        Accepting { phase: Phase::Fresh, roles: Roles(0) }
    }
}

impl Accepting {
    /// Returns the client's id, once it has one.
    pub fn client(&self) -> Option<ClientId> {
        match self.phase {
            Phase::Fresh => None,
            Phase::Greeted(client) | Phase::Joined(client) => Some(client),
        }
    }

    /// Takes the first packet, which holds the protocol version and the roles. Returns `Welcome`,
    /// to send with the control region of `core`. The owner has checked that a client which returns
    /// is the one that it says.
    ///
    /// # Errors
    ///
    /// The client's fault, or why it is refused.
    pub fn greet<M: Memory>(
        &mut self,
        packet: Packet,
        offered: Roles,
        broker: u64,
        core: &mut Core<M>,
    ) -> Result<Packet, Rejected> {
        let roles = check_hello(&packet, offered)?;
        let reserved = match packet {
            Packet::Return { client, .. } => core.reserve_again(ClientId(client), roles),
            _ => core.reserve(roles),
        };
        let reserved = reserved.ok_or(Refusal::Crowded)?;
        *self = Accepting { phase: Phase::Greeted(reserved.client), roles };
        Ok(Packet::Welcome {
            version: VERSION,
            client: reserved.client.0,
            cursor: reserved.cursor as u32,
            broker,
            limits: core.limits().into(),
        })
    }

    /// Takes the second packet of `client`, which holds its control region. Returns `Start`, to
    /// send after the pages of the broadcast chain.
    ///
    /// # Errors
    ///
    /// The client's [`Fault`]. If the region could not be attached, the same packet may be taken
    /// again.
    pub fn join<M: Memory>(
        &mut self,
        client: ClientId,
        packet: Packet,
        attach: impl FnOnce(Attach<'_>) -> Result<M, Fault>,
        core: &mut Core<M>,
    ) -> Result<Packet, Fault> {
        let Packet::Join = packet else { return Err(unexpected(&packet, "instead of a join")) };
        let start = core.join(client, attach(Attach::Control)?)?;
        self.phase = Phase::Joined(client);
        Ok(Packet::Start(start))
    }
}

/// The id of a channel's only client, the sender.
const SENDER: u32 = 1;

/// The receiving end of a channel, which has welcomed a sender.
#[derive(Debug)]
pub struct Receiving<M> {
    limits: Limits,
    control: Control<M>,
    /// The sender's control region, once it has arrived.
    peer: Option<Control<M>>,
}

impl<M: Memory> Receiving<M> {
    /// Checks the first packet of a connection: only a sender is admitted.
    ///
    /// # Errors
    ///
    /// The peer's fault, or why it is refused.
    pub fn hello(packet: &Packet) -> Result<(), Rejected> {
        match check_hello(packet, Roles::SEND)? {
            Roles::SEND => Ok(()),
            _ => Err(Refusal::Roles.into()),
        }
    }

    /// Initializes our control region, which has room for one cursor. Also returns `Welcome`, to
    /// send with the region.
    pub fn welcome(control: M, limits: Limits) -> (Self, Packet) {
        let control = Control::create(control, 1);
        control.give_place(0, SENDER);
        let (version, raw) = (VERSION, (&limits).into());
        let welcome =
            Packet::Welcome { version, client: SENDER, cursor: 0, broker: 0, limits: raw };
        (Receiving { limits, control, peer: None }, welcome)
    }

    /// Returns our control region.
    pub fn control(&self) -> &M {
        self.control.memory()
    }

    /// Takes a packet. The first page completes the handshake: then this returns our end of the
    /// channel and `Start`, to send to the sender.
    ///
    /// # Errors
    ///
    /// The sender's [`Fault`].
    pub fn take(
        &mut self,
        packet: Packet,
        attach: impl FnOnce(Attach<'_>) -> Result<M, Fault>,
    ) -> Result<Option<(Link<M>, Packet)>, Fault> {
        match (&self.peer, packet) {
            (None, Packet::Join) => {
                self.peer = Some(Control::check(attach(Attach::Control)?, 0)?);
                Ok(None)
            }
            (None, packet) => Err(unexpected(&packet, "instead of a join")),
            (Some(peer), Packet::Page { id: FIRST_PAGE }) => {
                let page = attach(Attach::Page(&self.limits))?;
                let control = self.control.clone();
                let inbound =
                    ChainReader::from_beginning(self.limits, SENDER, page, control.clone(), 0)?;
                let start = Start { page: FIRST_PAGE, position: PAGE_HEADER as u64, message: 0 };
                let link = Link::new(control, peer.clone(), None, Some(inbound));
                Ok(Some((link, Packet::Start(start))))
            }
            (Some(_), Packet::Page { id }) => {
                Err(Fault::UnknownPage { page: FIRST_PAGE, at: 0, next: id })
            }
            (Some(_), packet) => Err(unexpected(&packet, "instead of the first page")),
        }
    }
}

/// Validates a `Hello` on the accepting side.
fn check_hello(packet: &Packet, offered: Roles) -> Result<Roles, Rejected> {
    match *packet {
        Packet::Hello { version, .. } if version != VERSION => {
            Err(Refusal::Version { broker: VERSION }.into())
        }
        Packet::Hello { roles, .. } | Packet::Return { roles, .. } if !offered.has(roles) => {
            Err(Refusal::Roles.into())
        }
        Packet::Hello { roles, .. } => Ok(roles),
        Packet::Return { roles, client, .. } if roles.has(Roles::OUTLIVE) && client != BROKER => {
            Ok(roles)
        }
        // The owner handles those that it knows.
        Packet::Ask { .. } => Err(Refusal::Roles.into()),
        packet => Err(unexpected(&packet, "before the greeting").into()),
    }
}

fn unexpected(packet: &Packet, when: &'static str) -> Fault {
    packet.unexpected(when).into()
}

#[cfg(test)]
mod tests;

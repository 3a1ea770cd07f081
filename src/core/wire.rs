//! Packets of the control socket, byte by byte.
//!
//! Each packet is one `SOCK_SEQPACKET` datagram. A ring is the single byte 1. Every other packet
//! begins with its kind and three zero bytes, followed by its fields. It carries exactly as many
//! descriptors as its kind requires.
//!
//! ```text
//!   client                                 broker (or the receiving end of a channel)
//!     | Hello: version, roles                |
//!     |------------------------------------->|  user and version checked
//!     |       Welcome: ids, limits; [control]|
//!     |<-------------------------------------|  or Refused
//!     | Join; [control]                      |
//!     |------------------------------------->|
//!     | Page 0; [page]        (if it sends)  |
//!     |------------------------------------->|
//!     |     Page n; [page] ... (if it        |
//!     |<-------------------------------------|   receives)
//!     |     Start: page, position, number    |
//!     |<-------------------------------------|
//!     :  Ring, Page, Forget: both ways       :
//!     |                       Bye: reason    |
//!     |<-------------------------------------|
//! ```

use crate::core::chain::Start;
use crate::core::layout::VERSION;
use crate::core::limits::{Limits, LimitsError};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the longest packet in bytes.
pub const MAX_PACKET: usize = 64;

/// The first word of a `Hello`.
pub const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"LLMPsock");

/// The roles that a client asks for, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles(pub u32);

impl Roles {
    /// The client has a chain of its own.
    pub const SEND: Roles = Roles(1);
    /// The client reads the broadcast chain.
    pub const RECEIVE: Roles = Roles(2);
    /// The client is sent the receiver count.
    pub const TRACK: Roles = Roles(4);
    /// The client reads payloads in place instead of copying them.
    pub const IN_PLACE: Roles = Roles(8);
    /// Asks to be skipped when it is too slow.
    pub const SKIP: Roles = Roles(16);
    /// Asks to be disconnected when it is too slow.
    pub const EVICT: Roles = Roles(32);
    /// Goes on with the next broker when its broker dies.
    pub const OUTLIVE: Roles = Roles(64);
    /// All of these.
    pub const ALL: Roles = Roles(127);

    /// Returns whether these contain all of `roles`.
    pub fn has(self, roles: Roles) -> bool {
        self.0 & roles.0 == roles.0
    }

    /// Returns these roles without `roles`.
    #[must_use]
    pub fn without(self, roles: Roles) -> Roles {
        Roles(self.0 & !roles.0)
    }

    /// Returns the union of these roles and `roles`.
    #[must_use]
    pub fn and(self, roles: Roles) -> Roles {
        Roles(self.0 | roles.0)
    }
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The other side speaks another version of the protocol.
    #[error("the bus speaks version {broker} of the protocol, this program version {ours}; use the same release of llmp on both sides", ours = VERSION)]
    Version {
        /// The version of the other side.
        broker: u32,
    },
    /// The process belongs to another user.
    #[error(
        "the bus belongs to another user and does not admit this one; start its broker with --access, or run as that user"
    )]
    User,
    /// The bus is full.
    #[error(
        "the bus has as many clients as it admits; start its broker with a higher --max-clients"
    )]
    Crowded,
    /// The requested roles are not available here.
    #[error("these roles are not offered here: a channel accepts senders only")]
    Roles,
    /// Clients that read in place and have disconnected still hold too many pages.
    #[error(
        "the bus keeps as many pages as it may for clients that borrowed payloads and were disconnected; connect without `borrow_payloads`, or end the processes that were disconnected"
    )]
    InPlace,
    /// All client ids are used up.
    #[error("the bus has given all ids that there are for clients; restart its broker")]
    NoIds,
    /// This user's clients join so often that the ids would run out.
    #[error(
        "this user's programs have connected so often that the bus admits 32 of them a second; keep connections open instead of making new ones, or restart the broker"
    )]
    TooOften,
    /// The client can't go on with this broker: it was disconnected, or belongs to another bus.
    #[error("the bus does not know this client any more; connect again")]
    Unknown,
    /// A code that this version does not know.
    #[error("the bus gave the reason {0}, which this version does not know")]
    Other(u32),
}

/// Why the other side ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ByeReason {
    /// The broker or the receiving end shuts down.
    Closed,
    /// The other side found a fault of ours. The broker's log names it.
    Fault,
    /// We were too slow a receiver.
    Slow,
    /// A code that this version does not know.
    Other(u32),
}

/// What another process of the broker's user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// The broker ends the bus.
    Stop,
    /// The broker leaves the bus to the next one.
    HandOver,
    /// The process would follow the broker. The connection stays, so that it notices the end.
    StandBy,
    /// A code that this version does not know.
    Other(u32),
}

/// The limits of a chain as a peer sent them, in bytes. They are not validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawLimits {
    /// Length of a page in bytes.
    pub page_len: u64,
    /// Length of the longest payload in bytes.
    pub max_message_len: u64,
    /// Shared memory of the chain in bytes.
    pub budget: u64,
}

impl RawLimits {
    /// Validates the limits.
    ///
    /// # Errors
    ///
    /// If a value is out of bounds or the values do not fit together.
    pub fn check(&self) -> Result<Limits, LimitsError> {
        let len = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        Limits::new(len(self.page_len), len(self.max_message_len), len(self.budget))
    }
}

impl From<&Limits> for RawLimits {
    fn from(limits: &Limits) -> Self {
        RawLimits {
            page_len: limits.page_len() as u64,
            max_message_len: limits.max_message_len() as u64,
            budget: limits.budget() as u64,
        }
    }
}

/// What a client that outlives its broker has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The identity of the bus, which its brokers share.
    pub bus: u64,
    /// The number of the broker among them. Each has a higher one than the last.
    pub epoch: u32,
    /// The epoch since which brokers wait for this client.
    pub since: u32,
    /// Shows to the next broker that the client is the one that it says.
    pub token: u64,
}

/// A packet on the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant names its fields; docs/protocol.md has their bytes")]
pub enum Packet {
    /// Wake-up: there is something to read, or room to write.
    Ring,
    /// The client's greeting.
    Hello { version: u32, roles: Roles },
    /// The greeting of a client that goes on with another broker than its last.
    Return { version: u32, roles: Roles, client: u32, epoch: u32, token: u64 },
    /// A request of a process that is no client, and sends nothing else.
    Ask { version: u32, request: Request },
    /// Follows `Welcome` if the client outlives its broker.
    Session(Session),
    /// The client is accepted. Carries the descriptor of the control region that has its cursor.
    Welcome { version: u32, client: u32, cursor: u32, broker: u64, limits: RawLimits },
    /// The client is refused.
    Refused(Refusal),
    /// The client is ready. Carries the descriptor of its control region.
    Join,
    /// A page of the sender's chain. Carries its descriptor.
    Page { id: u32 },
    /// A page of another client, to a client that outlives its broker. Carries its descriptor.
    ForeignPage { id: u32 },
    /// The sender will not name this page again.
    Forget { id: u32 },
    /// The client is admitted. Its first message will be this one.
    Start(Start),
    /// The sender of this packet ends the connection.
    Bye(ByeReason),
    /// The number of clients that receive now.
    ReceiverCount { receivers: u32 },
    /// This receiver has blocked the bus for `millis`. `process` is 0 if it is unknown.
    HeldUp { client: u32, process: u32, millis: u64 },
    /// The descriptor of this page was lost in the receiving process, which asks for another one.
    Again { id: u32 },
    /// The broker no longer waits for this client as a receiver, because it was too slow.
    Skipped,
    /// The skipped client has dropped all pages and asks to receive again.
    Rejoin,
}

/// Why a packet is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// An empty packet, or one of an unknown kind.
    #[error("unknown packet kind {0}")]
    Kind(u8),
    /// A packet with a length that its kind does not have.
    #[error("packet kind {kind}: {found} bytes instead of {expected}")]
    Length {
        /// The packet's kind.
        kind: u8,
        /// The packet's length in bytes.
        found: usize,
        /// The length of that kind in bytes.
        expected: usize,
    },
    /// A packet with too many or too few descriptors.
    #[error("packet kind {kind}: {found} descriptors instead of {expected}")]
    Descriptors {
        /// The packet's kind.
        kind: u8,
        /// Number of descriptors that came with it.
        found: usize,
        /// Number of descriptors that its kind requires.
        expected: usize,
    },
    /// Descriptors were lost because this process has no room for them.
    #[error(
        "a packet lost its descriptor, as this process has too many open files; raise its limit (`ulimit -n`)"
    )]
    Cut,
    /// Descriptors that no valid packet carries arrived while this process has no room for them.
    #[error("a packet with several descriptors, or one that is no memory")]
    NotMemory,
    /// Reserved bytes are not zero.
    #[error("packet kind {0}: reserved bytes are not zero")]
    Reserved(u8),
    /// A greeting with another magic number.
    #[error("the greeting begins with {0:#018x}, which is not llmp")]
    Magic(u64),
    /// A valid packet at a time at which its kind is not allowed.
    #[error("unexpected packet of kind {kind} {when}")]
    Unexpected {
        /// The packet's kind.
        kind: u8,
        /// When it arrived.
        when: &'static str,
    },
    /// Invalid limits.
    #[error("invalid limits: {0}")]
    Limits(#[from] LimitsError),
}

macro_rules! bodies {
    ($($name:ident { $($field:ident: $type:ty),* })*) => { $(
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Default)]
        #[repr(C)]
        struct $name { kind: u8, zero: [u8; 3], $($field: $type),* }
    )* };
}

// Every multi-byte field is little-endian and follows the one before it without padding.
bodies! {
    Empty {}
    One { value: U32 }
    Two { first: U32, second: U32 }
    HelloBody { version: U32, magic: U64, roles: U32 }
    ReturnBody { version: U32, magic: U64, roles: U32, client: U32, epoch: U32, token: U64 }
    AskBody { version: U32, magic: U64, request: U32 }
    SessionBody { bus: U64, epoch: U32, since: U32, token: U64 }
    WelcomeBody {
        version: U32, client: U32, cursor: U32, broker: U64,
        page_len: U64, max_message_len: U64, budget: U64
    }
    StartBody { page: U32, position: U64, message: U64 }
    HeldUpBody { client: U32, process: U32, millis: U64 }
}

const RING: u8 = 1;
const HELLO: u8 = 2;
const WELCOME: u8 = 3;
const REFUSED: u8 = 4;
const JOIN: u8 = 5;
const PAGE: u8 = 6;
const FORGET: u8 = 7;
const START: u8 = 8;
const BYE: u8 = 9;
const RECEIVER_COUNT: u8 = 10;
const HELD_UP: u8 = 11;
const AGAIN: u8 = 12;
const SKIPPED: u8 = 13;
const REJOIN: u8 = 14;
const RETURN: u8 = 15;
const SESSION: u8 = 16;
const FOREIGN_PAGE: u8 = 17;
const ASK: u8 = 18;

const REFUSED_VERSION: u32 = 1;
const REFUSED_USER: u32 = 2;
const REFUSED_CROWDED: u32 = 3;
const REFUSED_ROLES: u32 = 4;
const REFUSED_IN_PLACE: u32 = 5;
const REFUSED_NO_IDS: u32 = 6;
const REFUSED_TOO_OFTEN: u32 = 7;
const REFUSED_UNKNOWN: u32 = 8;

const BYE_CLOSED: u32 = 1;
const BYE_FAULT: u32 = 2;
const BYE_SLOW: u32 = 3;

const ASK_STOP: u32 = 1;
const ASK_HAND_OVER: u32 = 2;
const ASK_STAND_BY: u32 = 3;

impl Packet {
    /// Returns the packet's kind.
    pub fn kind(&self) -> u8 {
        match self {
            Packet::Ring => RING,
            Packet::Hello { .. } => HELLO,
            Packet::Welcome { .. } => WELCOME,
            Packet::Refused(_) => REFUSED,
            Packet::Join => JOIN,
            Packet::Page { .. } => PAGE,
            Packet::Forget { .. } => FORGET,
            Packet::Start(_) => START,
            Packet::Bye(_) => BYE,
            Packet::ReceiverCount { .. } => RECEIVER_COUNT,
            Packet::HeldUp { .. } => HELD_UP,
            Packet::Again { .. } => AGAIN,
            Packet::Skipped => SKIPPED,
            Packet::Rejoin => REJOIN,
            Packet::Return { .. } => RETURN,
            Packet::Session(_) => SESSION,
            Packet::ForeignPage { .. } => FOREIGN_PAGE,
            Packet::Ask { .. } => ASK,
        }
    }

    /// Returns the failpoint name of sending this packet.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Packet::Ring => "send Ring",
            Packet::Hello { .. } => "send Hello",
            Packet::Welcome { .. } => "send Welcome",
            Packet::Refused(_) => "send Refused",
            Packet::Join => "send Join",
            Packet::Page { .. } => "send Page",
            Packet::Forget { .. } => "send Forget",
            Packet::Start(_) => "send Start",
            Packet::Bye(_) => "send Bye",
            Packet::ReceiverCount { .. } => "send ReceiverCount",
            Packet::HeldUp { .. } => "send HeldUp",
            Packet::Again { .. } => "send Again",
            Packet::Skipped => "send Skipped",
            Packet::Rejoin => "send Rejoin",
            Packet::Return { .. } => "send Return",
            Packet::Session(_) => "send Session",
            Packet::ForeignPage { .. } => "send ForeignPage",
            Packet::Ask { .. } => "send Ask",
        }
    }

    /// Returns how many descriptors the packet carries.
    pub fn descriptors(&self) -> usize {
        usize::from(matches!(
            self,
            Packet::Welcome { .. }
                | Packet::Join
                | Packet::Page { .. }
                | Packet::ForeignPage { .. }
        ))
    }

    /// Encodes the packet and returns its length in bytes.
    pub fn encode(&self, into: &mut [u8; MAX_PACKET]) -> usize {
        let kind = self.kind();
        let zero = [0; 3];
        let one = |value: u32| One { kind, zero, value: value.into() };
        let mut put = |bytes: &[u8]| {
            into[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        };
        match *self {
            Packet::Ring => put(&[RING]),
            Packet::Hello { version, roles } => put(HelloBody {
                kind,
                zero,
                version: version.into(),
                magic: HELLO_MAGIC.into(),
                roles: roles.0.into(),
            }
            .as_bytes()),
            Packet::Return { version, roles, client, epoch, token } => put(ReturnBody {
                kind,
                zero,
                version: version.into(),
                magic: HELLO_MAGIC.into(),
                roles: roles.0.into(),
                client: client.into(),
                epoch: epoch.into(),
                token: token.into(),
            }
            .as_bytes()),
            Packet::Ask { version, request } => put(AskBody {
                kind,
                zero,
                version: version.into(),
                magic: HELLO_MAGIC.into(),
                request: match request {
                    Request::Stop => ASK_STOP,
                    Request::HandOver => ASK_HAND_OVER,
                    Request::StandBy => ASK_STAND_BY,
                    Request::Other(code) => code,
                }
                .into(),
            }
            .as_bytes()),
            Packet::Session(Session { bus, epoch, since, token }) => put(SessionBody {
                kind,
                zero,
                bus: bus.into(),
                epoch: epoch.into(),
                since: since.into(),
                token: token.into(),
            }
            .as_bytes()),
            Packet::Welcome { version, client, cursor, broker, limits } => put(WelcomeBody {
                kind,
                zero,
                version: version.into(),
                client: client.into(),
                cursor: cursor.into(),
                broker: broker.into(),
                page_len: limits.page_len.into(),
                max_message_len: limits.max_message_len.into(),
                budget: limits.budget.into(),
            }
            .as_bytes()),
            Packet::Refused(refusal) => {
                let (code, detail) = match refusal {
                    Refusal::Version { broker } => (REFUSED_VERSION, broker),
                    Refusal::User => (REFUSED_USER, 0),
                    Refusal::Crowded => (REFUSED_CROWDED, 0),
                    Refusal::Roles => (REFUSED_ROLES, 0),
                    Refusal::InPlace => (REFUSED_IN_PLACE, 0),
                    Refusal::NoIds => (REFUSED_NO_IDS, 0),
                    Refusal::TooOften => (REFUSED_TOO_OFTEN, 0),
                    Refusal::Unknown => (REFUSED_UNKNOWN, 0),
                    Refusal::Other(code) => (code, 0),
                };
                put(Two { kind, zero, first: code.into(), second: detail.into() }.as_bytes())
            }
            Packet::Join | Packet::Skipped | Packet::Rejoin => put(Empty { kind, zero }.as_bytes()),
            Packet::Page { id }
            | Packet::ForeignPage { id }
            | Packet::Forget { id }
            | Packet::Again { id } => put(one(id).as_bytes()),
            Packet::Start(Start { page, position, message }) => put(StartBody {
                kind,
                zero,
                page: page.into(),
                position: position.into(),
                message: message.into(),
            }
            .as_bytes()),
            Packet::Bye(reason) => put(one(match reason {
                ByeReason::Closed => BYE_CLOSED,
                ByeReason::Fault => BYE_FAULT,
                ByeReason::Slow => BYE_SLOW,
                ByeReason::Other(code) => code,
            })
            .as_bytes()),
            Packet::ReceiverCount { receivers } => put(one(receivers).as_bytes()),
            Packet::HeldUp { client, process, millis } => put(HeldUpBody {
                kind,
                zero,
                client: client.into(),
                process: process.into(),
                millis: millis.into(),
            }
            .as_bytes()),
        }
    }

    /// Decodes a packet whose descriptor was lost on its way into this process.
    pub(crate) fn decode_lost(bytes: &[u8]) -> Option<Packet> {
        Self::decode_bytes(bytes).ok().filter(|packet| packet.descriptors() == 1)
    }

    /// Decodes a packet that came with `descriptors` descriptors.
    ///
    /// # Errors
    ///
    /// [`WireError`] if any byte is invalid.
    pub fn decode(bytes: &[u8], descriptors: usize) -> Result<Packet, WireError> {
        let packet = Self::decode_bytes(bytes)?;
        let (kind, expected) = (packet.kind(), packet.descriptors());
        // Another version's greeting may carry descriptors; that client is refused in any case.
        let is_other = matches!(packet, Packet::Hello { version, .. } if version != VERSION);
        if descriptors != expected && !is_other {
            return Err(WireError::Descriptors { kind, found: descriptors, expected });
        }
        Ok(packet)
    }

    fn decode_bytes(bytes: &[u8]) -> Result<Packet, WireError> {
        let kind = bytes.first().copied().unwrap_or(0);
        Ok(match kind {
            RING if bytes.len() == 1 => Packet::Ring,
            RING => return Err(WireError::Length { kind, found: bytes.len(), expected: 1 }),
            HELLO | RETURN | ASK => {
                // The version comes first, because the length of the rest depends on it.
                let version = bytes.get(4..8).and_then(|b| U32::read_from_bytes(b).ok());
                if let Some(version) = version.filter(|v| v.get() != VERSION) {
                    return Ok(Packet::Hello { version: version.get(), roles: Roles(0) });
                }
                greeting(kind, bytes)?
            }
            SESSION => {
                let body: SessionBody = body(bytes)?;
                Packet::Session(Session {
                    bus: body.bus.get(),
                    epoch: body.epoch.get(),
                    since: body.since.get(),
                    token: body.token.get(),
                })
            }
            WELCOME => {
                let body: WelcomeBody = body(bytes)?;
                Packet::Welcome {
                    version: body.version.get(),
                    client: body.client.get(),
                    cursor: body.cursor.get(),
                    broker: body.broker.get(),
                    limits: RawLimits {
                        page_len: body.page_len.get(),
                        max_message_len: body.max_message_len.get(),
                        budget: body.budget.get(),
                    },
                }
            }
            REFUSED => {
                let Two { first, second, .. } = body(bytes)?;
                Packet::Refused(match first.get() {
                    REFUSED_VERSION => Refusal::Version { broker: second.get() },
                    code @ REFUSED_USER..=REFUSED_UNKNOWN => {
                        if second.get() != 0 {
                            return Err(WireError::Reserved(kind));
                        }
                        match code {
                            REFUSED_USER => Refusal::User,
                            REFUSED_CROWDED => Refusal::Crowded,
                            REFUSED_ROLES => Refusal::Roles,
                            REFUSED_IN_PLACE => Refusal::InPlace,
                            REFUSED_NO_IDS => Refusal::NoIds,
                            REFUSED_TOO_OFTEN => Refusal::TooOften,
                            _ => Refusal::Unknown,
                        }
                    }
                    // A later version may send other codes.
                    code => Refusal::Other(code),
                })
            }
            JOIN | SKIPPED | REJOIN => {
                let Empty { .. } = body(bytes)?;
                match kind {
                    JOIN => Packet::Join,
                    SKIPPED => Packet::Skipped,
                    _ => Packet::Rejoin,
                }
            }
            PAGE => Packet::Page { id: body::<One>(bytes)?.value.get() },
            FOREIGN_PAGE => Packet::ForeignPage { id: body::<One>(bytes)?.value.get() },
            FORGET => Packet::Forget { id: body::<One>(bytes)?.value.get() },
            AGAIN => Packet::Again { id: body::<One>(bytes)?.value.get() },
            START => {
                let body: StartBody = body(bytes)?;
                Packet::Start(Start {
                    page: body.page.get(),
                    position: body.position.get(),
                    message: body.message.get(),
                })
            }
            BYE => Packet::Bye(match body::<One>(bytes)?.value.get() {
                BYE_CLOSED => ByeReason::Closed,
                BYE_FAULT => ByeReason::Fault,
                BYE_SLOW => ByeReason::Slow,
                code => ByeReason::Other(code),
            }),
            RECEIVER_COUNT => Packet::ReceiverCount { receivers: body::<One>(bytes)?.value.get() },
            HELD_UP => {
                let body: HeldUpBody = body(bytes)?;
                Packet::HeldUp {
                    client: body.client.get(),
                    process: body.process.get(),
                    millis: body.millis.get(),
                }
            }
            kind => return Err(WireError::Kind(kind)),
        })
    }

    /// Returns the error for this packet at a time at which its kind is not allowed.
    pub(crate) fn unexpected(&self, when: &'static str) -> WireError {
        WireError::Unexpected { kind: self.kind(), when }
    }
}

/// Decodes a greeting of this version.
fn greeting(kind: u8, bytes: &[u8]) -> Result<Packet, WireError> {
    let (magic, packet) = match kind {
        HELLO => {
            let body: HelloBody = body(bytes)?;
            let (version, roles) = (body.version.get(), Roles(body.roles.get()));
            (body.magic, Packet::Hello { version, roles })
        }
        RETURN => {
            let body: ReturnBody = body(bytes)?;
            let packet = Packet::Return {
                version: body.version.get(),
                roles: Roles(body.roles.get()),
                client: body.client.get(),
                epoch: body.epoch.get(),
                token: body.token.get(),
            };
            (body.magic, packet)
        }
        _ => {
            let body: AskBody = body(bytes)?;
            let request = match body.request.get() {
                ASK_STOP => Request::Stop,
                ASK_HAND_OVER => Request::HandOver,
                ASK_STAND_BY => Request::StandBy,
                code => Request::Other(code),
            };
            (body.magic, Packet::Ask { version: body.version.get(), request })
        }
    };
    match magic.get() {
        HELLO_MAGIC => Ok(packet),
        magic => Err(WireError::Magic(magic)),
    }
}

fn body<T: FromBytes + KnownLayout + Immutable + Unaligned>(bytes: &[u8]) -> Result<T, WireError> {
    let (kind, found) = (bytes[0], bytes.len());
    let body = T::read_from_bytes(bytes);
    let body = body.map_err(|_| WireError::Length { kind, found, expected: size_of::<T>() })?;
    if bytes[1..4] != [0; 3] {
        return Err(WireError::Reserved(kind));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one packet of each kind and of each reason.
    pub(crate) fn every_packet() -> Vec<Packet> {
        let limits = RawLimits::from(&Limits::default());
        let start = Start { page: 3, position: 1 << 40, message: 12 };
        let refusals = [
            Refusal::Version { broker: 7 },
            Refusal::User,
            Refusal::Crowded,
            Refusal::Roles,
            Refusal::InPlace,
            Refusal::NoIds,
            Refusal::TooOften,
            Refusal::Unknown,
            Refusal::Other(99),
        ];
        let byes = [ByeReason::Closed, ByeReason::Fault, ByeReason::Other(99)];
        let mut packets = vec![
            Packet::Ring,
            Packet::Hello { version: VERSION, roles: Roles::SEND.and(Roles::RECEIVE) },
            Packet::Welcome { version: 1, client: 2, cursor: 3, broker: 4, limits },
            Packet::Join,
            Packet::Page { id: 5 },
            Packet::Forget { id: 6 },
            Packet::Start(start),
            Packet::ReceiverCount { receivers: 3 },
            Packet::HeldUp { client: 3, process: 4711, millis: 1 << 40 },
            Packet::Again { id: 9 },
            Packet::ForeignPage { id: 10 },
            Packet::Session(Session { bus: 1 << 60, epoch: 2, since: 1, token: 1 << 61 }),
            Packet::Return {
                version: VERSION,
                roles: Roles::OUTLIVE,
                client: 4,
                epoch: 1,
                token: 1 << 61,
            },
        ];
        let requests = [Request::Stop, Request::HandOver, Request::StandBy, Request::Other(99)];
        packets.extend(requests.map(|request| Packet::Ask { version: VERSION, request }));
        packets.extend(refusals.map(Packet::Refused));
        packets.extend(byes.map(Packet::Bye));
        packets
    }

    #[test]
    fn every_packet_round_trips() {
        for packet in every_packet() {
            let mut bytes = [0xff; MAX_PACKET];
            let len = packet.encode(&mut bytes);
            assert_eq!(Packet::decode(&bytes[..len], packet.descriptors()), Ok(packet));
        }
    }

    #[test]
    fn a_packet_with_a_wrong_length_or_descriptor_count_is_refused() {
        for packet in every_packet() {
            let mut bytes = [0; MAX_PACKET];
            let len = packet.encode(&mut bytes);
            for wrong in (0..len).chain(len + 1..MAX_PACKET) {
                assert!(Packet::decode(&bytes[..wrong], packet.descriptors()).is_err());
            }
            assert!(Packet::decode(&bytes[..len], packet.descriptors() + 1).is_err());
            if len > 1 {
                bytes[2] = 1;
                let kind = packet.kind();
                let found = Packet::decode(&bytes[..len], packet.descriptors());
                assert_eq!(found, Err(WireError::Reserved(kind)));
            }
        }
    }

    #[test]
    fn a_refusal_with_an_invalid_detail_is_refused() {
        let bytes = |code: u32| [REFUSED, 0, 0, 0, code as u8, 0, 0, 0, 1, 0, 0, 0];
        for code in REFUSED_USER..=REFUSED_UNKNOWN {
            assert_eq!(Packet::decode(&bytes(code), 0), Err(WireError::Reserved(REFUSED)));
        }
        let unknown = Packet::Refused(Refusal::Other(99));
        assert_eq!(Packet::decode(&bytes(99), 0), Ok(unknown), "a later version may say more");
    }

    #[test]
    fn a_greeting_of_another_version_is_decoded() {
        let bytes = [HELLO, 0, 0, 0, 9, 0, 0, 0, 1, 2, 3];
        let expected = Packet::Hello { version: 9, roles: Roles(0) };
        assert_eq!(Packet::decode(&bytes, 0), Ok(expected));
        assert_eq!(Packet::decode(&bytes, 1), Ok(expected), "and whatever comes with it");
    }
}

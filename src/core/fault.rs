//! Faults: every way in which a peer's memory, packet or descriptor can be invalid, with location
//! and values.

use alloc::string::String;

/// A fault of a peer: something that it wrote or sent and that violates the protocol.
///
/// A fault ends the connection of that peer and of no other. Offsets and lengths are in bytes.
/// Positions are in bytes from the beginning of the chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant's text names its fields")]
pub enum Fault {
    /// A page does not begin with the magic number.
    #[error("page {page}: magic number {found:#018x} instead of {expected:#018x}")]
    PageMagic { page: u32, found: u64, expected: u64 },
    /// A page of another protocol version.
    #[error("page {page}: version and header length {found:#x} instead of {expected:#x}")]
    PageVersion { page: u32, found: u64, expected: u64 },
    /// A page whose header names another length than its memory has.
    #[error("page {page}: its header says {found} bytes, its memory has {expected}")]
    PageLength { page: u32, found: u64, expected: u64 },
    /// A page of another sender's chain.
    #[error("page {page}: it belongs to client {found} instead of {expected}")]
    PageOwner { page: u32, found: u32, expected: u32 },
    /// A page whose header names another id.
    #[error("page {page}: its header names page {found}")]
    PageId { page: u32, found: u32 },
    /// A page whose base is not the end of the page before it.
    #[error("page {page}: it begins at position {found} instead of {expected}")]
    PageBase { page: u32, found: u64, expected: u64 },
    /// A page whose first message number is not the next one.
    #[error("page {page}: it begins with message {found} instead of {expected}")]
    PageFirst { page: u32, found: u64, expected: u64 },
    /// A message of an unknown kind.
    #[error("page {page}, offset {at}: unknown message kind {found}")]
    Kind { page: u32, at: usize, found: u8 },
    /// A message that exceeds its page or the message limit.
    #[error("page {page}, offset {at}: message length {found} exceeds the {room} bytes available")]
    Length { page: u32, at: usize, found: u32, room: usize },
    /// A message by reference whose payload exceeds the page that it names.
    #[error(
        "page {page}: a payload of {len} bytes at offset {offset} exceeds its page of {page_len}"
    )]
    RefMessage { page: u32, offset: u64, len: usize, page_len: usize },
    /// Reserved bits are not zero.
    #[error("page {page}, offset {at}: reserved bits are set in {found:#x}")]
    Reserved { page: u32, at: usize, found: u64 },
    /// An origin without a bus.
    #[error("page {page}, offset {at}: the origin names bus 0, which no bus has")]
    OriginBus { page: u32, at: usize },
    /// An end-of-page message or a message by reference names a page that never arrived.
    #[error("page {page}, offset {at}: the next page is {next}, which never arrived")]
    UnknownPage { page: u32, at: usize, next: u32 },
    /// A page id was used before.
    #[error("page {page} arrived twice")]
    PageTwice { page: u32 },
    /// The pages exceed the chain's budget.
    #[error("{found} bytes of pages, the chain's budget is {budget}")]
    OverBudget { found: usize, budget: usize },
    /// The page that is being read was removed.
    #[error("page {page} was removed while it was being read")]
    PageInUse { page: u32 },
    /// A start position outside its page.
    #[error("page {page}: start position {position} is not a valid slot")]
    Start { page: u32, position: u64 },
    /// A control region with an invalid header.
    #[error("control region: {what} is {found:#x} instead of {expected:#x}")]
    Control { what: &'static str, found: u64, expected: u64 },
    /// A control region without room for a cursor.
    #[error("control region: no cursor {cursor_index} in {len} bytes")]
    NoCursor { cursor_index: usize, len: usize },
    /// A cursor moved backwards.
    #[error("cursor at position {found}, after it had been at {seen}")]
    CursorBackwards { found: u64, seen: u64 },
    /// A cursor beyond the last position that was sent.
    #[error("cursor at position {found}, nothing is sent beyond {tail}")]
    CursorAhead { found: u64, tail: u64 },
    /// A committed message disappeared.
    #[error("a committed message was removed from its page")]
    TakenBack,
    /// The broker no longer waits for this client.
    #[error("the broker no longer counts this client as a member")]
    Removed,
    /// The client was removed before.
    #[error("the client was removed before")]
    Expelled,
    /// The client does not read its socket while other clients wait for its packets.
    #[error(
        "the client has not read its connection for {seconds} s, and pages for it do not fit into the socket"
    )]
    UnreadConnection {
        /// How long the client has not read, in seconds.
        seconds: u64,
    },
    /// A dead peer's chain holds more messages than its memory can.
    #[error("the chain grew after the connection had ended")]
    Endless,
    /// An invalid packet on the control socket.
    #[error("on the control socket: {0}")]
    Wire(#[from] crate::core::wire::WireError),
    /// An invalid descriptor.
    #[error("{what}: {source}")]
    Descriptor { what: &'static str, source: InvalidMemfd },
}

impl Fault {
    /// Returns whether the cause is a lack of resources in this process. (A broker that looks
    /// before it takes a packet detects that in another way.)
    pub(crate) fn is_lack(&self) -> bool {
        use crate::core::wire::WireError;
        matches!(
            self,
            Fault::Descriptor { source: InvalidMemfd::Lack(_), .. } | Fault::Wire(WireError::Cut)
        )
    }
}

/// Why a received descriptor is not accepted as a region.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMemfd {
    /// The descriptor has another type.
    #[error("the descriptor is not a memfd")]
    NoMemfd,
    /// Other processes could still write it, or shrink it under its reader.
    #[error("the memfd lacks the seals {missing}")]
    Seals {
        /// The missing seals, in the kernel's names.
        missing: String,
    },
    /// Its length is out of bounds or not a multiple of the kernel's page size.
    #[error("the memfd has {found} bytes, expected a multiple of 4096 from {min} to {max}")]
    Length {
        /// The length that `fstat` returned, in bytes.
        found: u64,
        /// The least accepted length in bytes.
        min: usize,
        /// The greatest accepted length in bytes.
        max: usize,
    },
    /// The kernel refused to map it.
    #[error("the memfd could not be mapped: {0}")]
    Map(String),
    /// This process lacks room to map it. The sender is not at fault.
    #[error(
        "this process has no room to map it ({0}); give it more address space (`ulimit -v`), memory or memory maps (vm.max_map_count)"
    )]
    Lack(String),
}

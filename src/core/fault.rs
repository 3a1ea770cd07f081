//! What a peer can do wrong: every way in which shared memory can lie, with place and value.

use alloc::string::String;

/// Something that a peer wrote, sent or alleged and that can't be.
///
/// A fault costs the peer its connection, and nobody else anything. Offsets and lengths are in
/// bytes, positions are bytes since the beginning of the chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant's text names its fields")]
pub enum Fault {
    /// A page does not begin like one.
    #[error("page {page}: magic number {found:#018x} instead of {expected:#018x}")]
    PageMagic { page: u32, found: u64, expected: u64 },
    /// A page of another protocol version.
    #[error("page {page}: version and header length {found:#x} instead of {expected:#x}")]
    PageVersion { page: u32, found: u64, expected: u64 },
    /// A page whose header alleges another length than the memory has.
    #[error("page {page}: its header says {found} bytes, its memory has {expected}")]
    PageLength { page: u32, found: u64, expected: u64 },
    /// A page of another sender's chain.
    #[error("page {page}: it belongs to client {found} instead of {expected}")]
    PageOwner { page: u32, found: u32, expected: u32 },
    /// A page that says it is another one.
    #[error("page {page}: its header names page {found}")]
    PageId { page: u32, found: u32 },
    /// A page that does not follow the one before it.
    #[error("page {page}: it begins at position {found} instead of {expected}")]
    PageBase { page: u32, found: u64, expected: u64 },
    /// A page whose first message is not the next one.
    #[error("page {page}: it begins with message {found} instead of {expected}")]
    PageFirst { page: u32, found: u64, expected: u64 },
    /// A message of a kind that does not exist.
    #[error("page {page}, offset {at}: unknown message kind {found}")]
    Kind { page: u32, at: usize, found: u8 },
    /// A message that reaches beyond its page or its limit.
    #[error("page {page}, offset {at}: message length {found} exceeds the {room} bytes available")]
    Length { page: u32, at: usize, found: u32, room: usize },
    /// A lent message whose payload reaches beyond the page that it names.
    #[error(
        "page {page}: a payload of {len} bytes at offset {offset} exceeds its page of {page_len}"
    )]
    RefMessage { page: u32, offset: u64, len: usize, page_len: usize },
    /// Bits that must be zero are not.
    #[error("page {page}, offset {at}: reserved bits are set in {found:#x}")]
    Reserved { page: u32, at: usize, found: u64 },
    /// An end-of-page message that names a page that never arrived.
    #[error("page {page}, offset {at}: the next page is {next}, which never arrived")]
    UnknownPage { page: u32, at: usize, next: u32 },
    /// A page id that was used before.
    #[error("page {page} arrived twice")]
    PageTwice { page: u32 },
    /// More pages, or more bytes in pages, than the chain's budget allows.
    #[error("{found} bytes of pages, the chain's budget is {budget}")]
    OverBudget { found: usize, budget: usize },
    /// The page that is being read was taken back.
    #[error("page {page} was removed while it was being read")]
    PageInUse { page: u32 },
    /// A start position outside the page it names.
    #[error("page {page}: start position {position} is not a valid slot")]
    Start { page: u32, position: u64 },
    /// A control region does not begin like one.
    #[error("control region: {what} is {found:#x} instead of {expected:#x}")]
    Control { what: &'static str, found: u64, expected: u64 },
    /// A control region without room for a cursor.
    #[error("control region: no cursor {cursor_index} in {len} bytes")]
    NoCursor { cursor_index: usize, len: usize },
    /// A cursor that runs backwards.
    #[error("cursor at position {found}, after it had been at {seen}")]
    CursorBackwards { found: u64, seen: u64 },
    /// A cursor beyond what was ever sent.
    #[error("cursor at position {found}, nothing is sent beyond {tail}")]
    CursorAhead { found: u64, tail: u64 },
    /// A committed message that is there no more.
    #[error("a committed message was removed from its page")]
    TakenBack,
    /// The broker no longer waits for this client.
    #[error("the broker no longer counts this client as a member")]
    Removed,
    /// A client that had been removed already.
    #[error("the client was removed before")]
    Expelled,
    /// It does not read its connection, and others wait for what has no room there.
    #[error(
        "the client has not read its connection for {seconds} s, and pages for it do not fit into the socket"
    )]
    UnreadConnection {
        /// For how long, in seconds.
        seconds: u64,
    },
    /// A dead peer's chain holds more than its memory can.
    #[error("the chain grew after the connection had ended")]
    Endless,
    /// Something on the control socket that does not belong there.
    #[error("on the control socket: {0}")]
    Wire(#[from] crate::core::wire::WireError),
    /// A descriptor that is not what it should be.
    #[error("{what}: {source}")]
    Descriptor { what: &'static str, source: InvalidMemfd },
}

impl Fault {
    /// Whether it is none of the peer's: this process lacks room for what came. (A broker that looks
    /// before it takes a packet finds out in another way.)
    pub(crate) fn is_lack(&self) -> bool {
        use crate::core::wire::WireError;
        matches!(
            self,
            Fault::Descriptor { source: InvalidMemfd::Lack(_), .. } | Fault::Wire(WireError::Cut)
        )
    }
}

/// Why a descriptor that arrived is not taken for a region.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMemfd {
    /// It is no memfd at all.
    #[error("the descriptor is not a memfd")]
    NoMemfd,
    /// It could still be changed by others, or shrink under its reader.
    #[error("the memfd lacks the seals {missing}")]
    Seals {
        /// The missing seals, in the kernel's names.
        missing: String,
    },
    /// Its length is out of bounds or no multiple of the kernel's page size.
    #[error("the memfd has {found} bytes, expected a multiple of 4096 from {min} to {max}")]
    Length {
        /// What `fstat` says, in bytes.
        found: u64,
        /// The least that is accepted, in bytes.
        min: usize,
        /// The most that is accepted, in bytes.
        max: usize,
    },
    /// The kernel refused to map it.
    #[error("the memfd could not be mapped: {0}")]
    Map(String),
    /// This process has no room to map it, which is not its sender's fault.
    #[error(
        "this process has no room to map it ({0}); give it more address space (`ulimit -v`), memory or memory maps (vm.max_map_count)"
    )]
    Lack(String),
}

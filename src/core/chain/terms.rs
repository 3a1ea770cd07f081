//! What a sender says to its owner.

/// Something about the page pool that a receiver must be told over the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// Here is a page, with its descriptor.
    Page(u32),
    /// This page will never be named again.
    Forget(u32),
}

/// Where a newly admitted receiver begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The page in which it begins.
    pub page: u32,
    /// The position of the first message that it will get.
    pub position: u64,
    /// The number of that message.
    pub message: u64,
}

/// Why a message can't be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The chain may grow: [`add_page`](super::ChainWriter::add_page) one of this many bytes, then try again.
    NeedPage(usize),
    /// A page is there; its descriptor must be sent first ([`announcement`](super::ChainWriter::announcement)).
    Announce,
    /// The slowest receiver holds the whole budget.
    Full,
}

/// Why a message was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is above the limit and always will be. Nothing was written.
    TooLong {
        /// The payload's length in bytes.
        len: usize,
        /// The longest payload in bytes.
        max: usize,
    },
    /// Not now.
    Blocked(Blocked),
}

/// What a chain has done, counted by its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages written.
    pub messages: u64,
    /// Payload bytes written.
    pub payload_bytes: u64,
    /// Messages lent, of those written.
    pub by_ref: u64,
    /// Page turns.
    pub rollovers: u64,
    /// Page turns into a page that had been written before.
    pub reuses: u64,
    /// Shared memory in pages now, in bytes.
    pub page_bytes: u64,
    /// The most shared memory in pages at one time, in bytes.
    pub page_bytes_peak: u64,
}

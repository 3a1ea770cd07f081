//! Types that a writer returns to its owner.

/// A change of the page pool that a receiver must be sent over the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// A new page. The owner sends its descriptor.
    Page(u32),
    /// No later message names this page.
    Forget(u32),
}

/// Where a newly admitted receiver begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Id of the page in which it begins.
    pub page: u32,
    /// Position of the first message that it gets.
    pub position: u64,
    /// Number of that message.
    pub message: u64,
}

/// Why a message can't be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The chain may grow: [add](super::ChainWriter::add_page) a page of this many bytes and try
    /// again.
    NeedPage(usize),
    /// A free page has receivers that were not sent its descriptor yet. Send the
    /// [announcements](super::ChainWriter::announcement) and try again.
    Announce,
    /// The slowest receiver holds the whole budget.
    Full,
}

/// Why a message was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The payload exceeds the limit. Retrying can't help.
    TooLong {
        /// The payload's length in bytes.
        len: usize,
        /// The longest payload in bytes.
        max: usize,
    },
    /// The message can't be written now.
    Blocked(Blocked),
}

/// Counters of a chain, kept by its writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Messages written.
    pub messages: u64,
    /// Payload bytes written.
    pub payload_bytes: u64,
    /// Messages written by reference, included in `messages`.
    pub by_ref: u64,
    /// Page rollovers.
    pub rollovers: u64,
    /// Page rollovers into a page that had been written before.
    pub reuses: u64,
    /// Shared memory in the chain's pages now, in bytes.
    pub page_bytes: u64,
    /// Peak of the shared memory in the chain's pages, in bytes.
    pub page_bytes_peak: u64,
}

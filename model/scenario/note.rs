//! Events of a scenario that are no memory accesses. A run that is checked against the
//! specification records them, see `model/spec`. All others drop them.

#![allow(dead_code, reason = "not every target has all of the scenarios")]

/// The process that a view of a region belongs to: 0 is the broker or the only sender, others are
/// clients.
pub type Who = u8;
/// An event of a scenario that is no memory access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Born {
        who: Who,
    },
    /// The broker reads this client's chain with this cursor index.
    Cursor {
        slot: usize,
        client: Who,
    },
    Admitted {
        chain: Who,
        by: Who,
        page: u32,
        position: u64,
        number: u64,
    },
    Ended {
        who: Who,
    },
    ReceiverRemoved {
        who: Who,
    },
    Removed {
        client: Who,
    },
    /// The pages of the pool, the foreign pages, and their lengths in bytes.
    Pool {
        chain: Who,
        pages: Vec<(u32, usize)>,
    },
    /// This page of a client has become a foreign page with this id.
    Adopted {
        page: u32,
        client: Who,
        of: u32,
    },
    Sent {
        chain: Who,
        page: u32,
        to: Who,
    },
    Rings {
        by: Who,
        to: Who,
    },
    Sleeps {
        by: Who,
        message: bool,
        room: bool,
    },
    Wakes {
        by: Who,
    },
    /// The run is over, and all processes have done what they wanted.
    Finished,
}

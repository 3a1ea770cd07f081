//! What a scenario does that no access of memory shows. A run that is checked against the
//! specification writes it down, see `model/spec`; all others drop it.

#![allow(dead_code, reason = "not every target has all of the scenarios")]

/// Whose view of a region it is: 0 the broker or only sender, else a client.
pub type Who = u8;
/// What the scenario does, which no access of memory shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Born {
        who: Who,
    },
    /// The broker reads this client's chain as this cursor.
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
    Struck {
        who: Who,
    },
    Removed {
        client: Who,
    },
    /// The pool's pages, and what is lent, and their lengths in bytes.
    Pool {
        chain: Who,
        pages: Vec<(u32, usize)>,
    },
    /// The broker may lend messages of this page of a client's, by this name.
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
    /// The run is over, and everybody has done what it interest to.
    Finished,
}

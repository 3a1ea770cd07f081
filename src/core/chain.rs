//! A chain of pages: the protocol itself, generic over [`Memory`](crate::core::memory::Memory).
//!
//! ```text
//!   left by all        read by some             written
//!   +--------+   EOP   +--------+   EOP   +----------------+
//!   | page 3 | ------> | page 5 | ------> | page 4         |       free: page 1, page 2
//!   +--------+         +--------+         +----------------+
//!                        ^ slowest cursor         ^ tail
//! ```
//!
//! A *position* is a byte's distance from the beginning of the chain. It grows for ever: the page
//! that follows begins where this one ends, whatever memory it is written to. A receiver's
//! *cursor* is one position, so that "has left page 3" and "holds page 5" are one word and can't
//! be told in the wrong order.

mod claim;
mod page;
mod reader;
mod terms;
mod writer;
mod writing;

pub use claim::Claim;
pub(crate) use reader::Peek;
pub use reader::{ChainReader, Event};
pub use terms::{Announcement, Blocked, Refused, Start, Stats};
pub use writer::ChainWriter;

/// Whose a broadcast chain is.
pub const BROKER: u32 = 0;

/// The first page's id and base in every chain that is read from its beginning.
pub const FIRST_PAGE: u32 = 0;

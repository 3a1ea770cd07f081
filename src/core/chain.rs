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
//! A chain has one writer, [`ChainWriter`], and any number of readers, each a [`ChainReader`]. The
//! writer writes the pages. Each reader writes its own cursor and nothing else.
//!
//! A *position* is the distance of a byte from the beginning of the chain. Positions only grow: the
//! next page begins where the current one ends, in whatever memory it lies. A reader's *cursor* is
//! one position. So one store both leaves page 3 and holds page 5, and the two facts can't arrive
//! in the wrong order.

mod claim;
mod page;
mod reader;
mod terms;
mod writer;
mod writing;

pub use claim::Claim;
pub(crate) use page::PageHeader;
pub use reader::{ChainReader, Event};
#[cfg(feature = "std")]
pub(crate) use reader::{Membership, Standing};
pub(crate) use reader::{Peek, admit_page};
pub use terms::{Announcement, Blocked, Refused, Start, Stats};
pub use writer::ChainWriter;

/// The owner of a broadcast chain. Client ids begin at 1.
pub const BROKER: u32 = 0;

/// Id and base of the first page of every chain that is read from its beginning.
pub const FIRST_PAGE: u32 = 0;

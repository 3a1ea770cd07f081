//! Page header. Its sender writes it once for each use of the page, before any message names the
//! page.

use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::memory::Memory;
use crate::core::order::Site;

/// The header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHeader {
    /// The page's id in its chain.
    pub id: u32,
    /// The client that owns the chain; zero for a broker's.
    pub owner: u32,
    /// Position of the page's first byte, in bytes from the beginning of the chain.
    pub base: u64,
    /// Number of the page's first message.
    pub first: u64,
}

const VERSION_WORD: u64 = halves(VERSION, PAGE_HEADER as u32);

impl PageHeader {
    /// Writes the header and makes the page empty. No receiver may be reading the page: it is new,
    /// or all receivers have left it.
    pub fn write<M: Memory>(&self, memory: &M) {
        let len = memory.region_len() as u64;
        let id = halves(self.id, self.owner);
        memory.write_words(0, [PAGE_MAGIC, VERSION_WORD, len, id, self.base, self.first, 0, 0]);
        // Relaxed: comes before the page is named. A receiver that follows the end-of-page message
        // must not take an old byte for a commit word.
        memory.store(PAGE_HEADER + SLOT_COMMIT, 0, Site::PageClear);
    }

    /// Reads and validates the header of the page that the peer `owner` calls `id`.
    pub fn read<M: Memory>(memory: &M, id: u32, owner: u32) -> Result<PageHeader, Fault> {
        let [magic, version, len, ids, base, first] = memory.read_words(0);
        let page = id;
        if magic != PAGE_MAGIC {
            return Err(Fault::PageMagic { page, found: magic, expected: PAGE_MAGIC });
        }
        if version != VERSION_WORD {
            return Err(Fault::PageVersion { page, found: version, expected: VERSION_WORD });
        }
        let expected = memory.region_len() as u64;
        if len != expected {
            return Err(Fault::PageLength { page, found: len, expected });
        }
        if low(ids) != id {
            return Err(Fault::PageId { page, found: low(ids) });
        }
        // Otherwise a client could send us a page of our own, and we would read what we write.
        if high(ids) != owner {
            return Err(Fault::PageOwner { page, found: high(ids), expected: owner });
        }
        Ok(PageHeader { id, owner, base, first })
    }
}

//! How large pages, messages and chains may become.

use crate::core::layout::{PAGE_HEADER, SLOT_ALIGN, SLOT_HEADER, slot_len};

/// The limits of one chain, in bytes. A broker sets them for its bus and tells its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    page_len: usize,
    max_message_len: usize,
    budget: usize,
}

/// Why limits don't fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// The page length is out of bounds.
    #[error("a page of {found} bytes: it must have {min} to {max} bytes and be a multiple of 16")]
    PageLen {
        /// The length asked for, in bytes.
        found: usize,
        /// The least, in bytes.
        min: usize,
        /// The most, in bytes.
        max: usize,
    },
    /// The message length is out of bounds.
    #[error("messages of {found} bytes: the limit must not exceed {max}")]
    MaxMessageLen {
        /// The length asked for, in bytes.
        found: usize,
        /// The most, in bytes.
        max: usize,
    },
    /// The budget can't hold two pages of the largest kind, so a chain could not move on.
    #[error(
        "a budget of {found} bytes is too small: messages of {max_message_len} bytes need {min} (two pages that hold one each)"
    )]
    Budget {
        /// The budget asked for, in bytes.
        found: usize,
        /// The least, in bytes.
        min: usize,
        /// The message limit that asks for it, in bytes.
        max_message_len: usize,
    },
    /// The broker could not map the pages of so many clients.
    #[error(
        "{clients} clients with up to {pages} pages each are more than a process may map ({maps} mappings, half of vm.max_map_count): use longer pages, smaller budgets or fewer clients, or raise vm.max_map_count"
    )]
    Mappings {
        /// The clients asked for.
        clients: usize,
        /// The most pages of a client's chain.
        pages: usize,
        /// The mappings that the broker uses for clients' pages at the most.
        maps: usize,
    },
}

impl Limits {
    /// The most pages of a peer's chain: they are ordinary ones, and the budget and one longest page
    /// bound their lengths together.
    pub(crate) fn most_pages(&self) -> usize {
        self.receiver_budget() / self.page_len() + 1
    }

    /// Page length if nothing else is said.
    pub const PAGE_LEN: usize = 256 * 1024;
    /// Budget of a chain if nothing else is said.
    pub const BUDGET: usize = 8 * 1024 * 1024;
    /// Message limit if nothing else is said: what the default budget has room for.
    pub const MAX_MESSAGE_LEN: usize = 3 * 1024 * 1024;

    const MIN_PAGE_LEN: usize = PAGE_HEADER + 2 * SLOT_HEADER;
    /// Every process makes a page of the length that the other side names: it has to be bearable.
    const MAX_PAGE_LEN: usize = 1 << 26;
    const LARGEST_MESSAGE: usize = 1 << 31;

    /// Limits with this page length, message limit and budget.
    ///
    /// # Errors
    ///
    /// If a value is out of bounds or the budget can't hold two pages of the largest kind.
    pub fn new(
        page_len: usize,
        max_message_len: usize,
        budget: usize,
    ) -> Result<Self, LimitsError> {
        if !(Self::MIN_PAGE_LEN..=Self::MAX_PAGE_LEN).contains(&page_len)
            || !page_len.is_multiple_of(SLOT_ALIGN)
        {
            let (min, max) = (Self::MIN_PAGE_LEN, Self::MAX_PAGE_LEN);
            return Err(LimitsError::PageLen { found: page_len, min, max });
        }
        if max_message_len > Self::LARGEST_MESSAGE {
            let max = Self::LARGEST_MESSAGE;
            return Err(LimitsError::MaxMessageLen { found: max_message_len, max });
        }
        let limits = Limits { page_len, max_message_len, budget };
        let min = 2 * limits.max_page_len();
        if budget < min {
            return Err(LimitsError::Budget { found: budget, min, max_message_len });
        }
        Ok(limits)
    }

    /// These limits for memory of a kernel whose pages have `os_page` bytes: what a page really
    /// takes is what is counted.
    pub(crate) fn in_pages_of(self, os_page: usize) -> Result<Self, LimitsError> {
        Self::new(self.page_len.next_multiple_of(os_page), self.max_message_len, self.budget)
    }

    /// The smallest budget that goes with a page length and a message limit, in bytes. Values out
    /// of bounds are taken for the nearest bound; [`new`](Limits::new) refuses them.
    pub fn least_budget(page_len: usize, max_message_len: usize) -> usize {
        let page_len = page_len.clamp(Self::MIN_PAGE_LEN, Self::MAX_PAGE_LEN);
        let max_message_len = max_message_len.min(Self::LARGEST_MESSAGE);
        2 * Limits { page_len, max_message_len, budget: 0 }.max_page_len()
    }

    /// Length of an ordinary page in bytes.
    pub fn page_len(&self) -> usize {
        self.page_len
    }

    /// The longest payload in bytes.
    pub fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    /// How much shared memory the chain may take in bytes.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// How much a chain takes, where there is one of it and it is to be fast, before it writes a page
    /// again, see [`ChainWriter::set_reuse_distance`](crate::core::chain::ChainWriter::set_reuse_distance).
    pub(crate) fn reuse_distance(&self) -> usize {
        self.budget / 2
    }

    /// Length of a page that has room for one slot of `slot_len` bytes.
    pub(crate) fn page_for(&self, slot_len: usize) -> usize {
        (PAGE_HEADER + slot_len + SLOT_HEADER).next_multiple_of(self.page_len)
    }

    /// Length of the page that holds the longest message.
    pub(crate) fn max_page_len(&self) -> usize {
        // The largest message keeps this far from overflow.
        self.page_for(slot_len(self.max_message_len, true).unwrap_or(usize::MAX / 2))
    }

    /// How much a receiver holds at the most: a sender may take back pages and send a larger one
    /// in the same breath. Nobody but the peer says that its budget is no lie.
    pub(crate) fn receiver_budget(&self) -> usize {
        self.budget.saturating_add(self.max_page_len())
    }

    /// How much a receiver of a broadcast chain holds at the most: as much again may be lent.
    pub(crate) fn broadcast_receiver_budget(&self) -> usize {
        self.receiver_budget().saturating_add(self.budget)
    }

    /// The shortest and the longest page that a peer may send, in bytes, where the kernel's pages have
    /// `os_page` bytes.
    pub(crate) fn page_bounds(&self, os_page: usize) -> (usize, usize) {
        let least = self.page_len.next_multiple_of(os_page);
        (least, self.max_page_len().next_multiple_of(os_page))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            page_len: Self::PAGE_LEN,
            max_message_len: Self::MAX_MESSAGE_LEN,
            budget: Self::BUDGET,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_out_of_bounds_are_refused_and_do_not_overflow() {
        for page_len in [0, 1, (1 << 26) + 4096, usize::MAX] {
            for max_message_len in [0, usize::MAX] {
                let budget = Limits::least_budget(page_len, max_message_len);
                let error = Limits::new(page_len, max_message_len, budget).unwrap_err();
                assert!(matches!(error, LimitsError::PageLen { .. }), "{error}");
            }
        }
        let largest = Limits::new(1 << 26, 1 << 31, usize::MAX).unwrap();
        assert_eq!(largest.receiver_budget(), usize::MAX);
    }

    #[test]
    fn in_memory_of_the_kernel_two_pages_always_fit_into_the_budget() {
        assert!(Limits::new(96, 16, 384).unwrap().in_pages_of(4096).is_err());
        let limits = Limits::new(96, 16, 8192).unwrap().in_pages_of(4096).unwrap();
        assert_eq!(limits.page_len(), 4096);
    }

    // P6
    #[test]
    fn a_budget_counts_what_a_kernel_with_long_pages_really_takes() {
        const LONG: usize = 65_536;
        let limits = Limits::new(4096, 100_000, 1 << 20).unwrap().in_pages_of(LONG).unwrap();
        assert_eq!(limits.page_len(), LONG);
        // Each page takes whole pages of the kernel, so that no budget is exceeded by rounding.
        assert_eq!(limits.page_bounds(LONG), (LONG, 2 * LONG));
        assert_eq!(limits.max_page_len(), 2 * LONG);
        // The other side of a connection rounds the same lengths again, and finds them.
        assert_eq!(limits.in_pages_of(LONG), Ok(limits));
        // What can't hold two pages there is refused, and the error says what is needed.
        let error = Limits::new(4096, 16, 8192).unwrap().in_pages_of(LONG).unwrap_err();
        assert!(matches!(error, LimitsError::Budget { min: 131_072, .. }), "{error}");
    }

    #[test]
    fn the_default_limits_are_those_of_the_documentation_and_fit_together() {
        let d = Limits::default();
        assert_eq!((d.page_len, d.max_message_len, d.budget), (262_144, 3_145_728, 8_388_608));
        assert_eq!(Limits::new(d.page_len, d.max_message_len, d.budget), Ok(d));
    }

    #[test]
    fn limits_that_could_never_move_on_are_refused() {
        assert!(matches!(Limits::new(100, 1, 1 << 20), Err(LimitsError::PageLen { .. })));
        assert!(matches!(Limits::new(80, 1, 1 << 20), Err(LimitsError::PageLen { .. })));
        let error = Limits::new(4096, 10_000, 16_384).unwrap_err();
        assert_eq!(
            error,
            LimitsError::Budget { found: 16_384, min: 24_576, max_message_len: 10_000 }
        );
        assert!(Limits::new(4096, 10_000, 24_576).is_ok());
    }
}

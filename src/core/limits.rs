//! Limits on the sizes of pages, messages and chains.

use crate::core::layout::{PAGE_HEADER, SLOT_ALIGN, SLOT_HEADER, slot_len};

/// The limits of one chain, in bytes. A broker sets them for its bus and sends them to its clients.
///
/// ```
/// use llmp::Limits;
///
/// let limits = Limits::new(Limits::DEFAULT_PAGE_LEN, 1 << 20, Limits::DEFAULT_BUDGET)?;
/// assert_eq!((limits.max_message_len(), limits.budget()), (1 << 20, 8 << 20));
/// # Ok::<(), llmp::LimitsError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    page_len: usize,
    max_message_len: usize,
    budget: usize,
}

/// Why limits are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// The page length is out of bounds.
    #[error("a page of {found} bytes: it must have {min} to {max} bytes and be a multiple of 16")]
    PageLen {
        /// The requested length in bytes.
        found: usize,
        /// The least valid length in bytes.
        min: usize,
        /// The greatest valid length in bytes.
        max: usize,
    },
    /// The message length is out of bounds.
    #[error("messages of {found} bytes: the limit must not exceed {max}")]
    MaxMessageLen {
        /// The requested length in bytes.
        found: usize,
        /// The greatest valid length in bytes.
        max: usize,
    },
    /// The budget can't hold two pages of the largest kind, so the chain could not advance.
    #[error(
        "a budget of {found} bytes is too small: messages of {max_message_len} bytes need {min} (two pages that hold one each)"
    )]
    Budget {
        /// The requested budget in bytes.
        found: usize,
        /// The least valid budget in bytes.
        min: usize,
        /// The message limit that requires it, in bytes.
        max_message_len: usize,
    },
    /// The broker could not map the pages of that many clients.
    #[error(
        "{clients} clients with up to {pages} pages each are more than a process may map ({maps} mappings, half of vm.max_map_count): use longer pages, smaller budgets or fewer clients, or raise vm.max_map_count"
    )]
    Mappings {
        /// The requested number of clients.
        clients: usize,
        /// The greatest number of pages in a client's chain.
        pages: usize,
        /// The greatest number of mappings that the broker uses for clients' pages.
        maps: usize,
    },
}

impl Limits {
    /// Returns the greatest number of pages in a peer's chain. Each has at least the ordinary
    /// length, and together they have at most the budget and one longest page.
    pub(crate) fn most_pages(&self) -> usize {
        self.receiver_budget() / self.page_len() + 1
    }

    /// Default page length in bytes.
    pub const DEFAULT_PAGE_LEN: usize = 256 * 1024;
    /// Default budget of a chain in bytes.
    pub const DEFAULT_BUDGET: usize = 8 * 1024 * 1024;
    /// Default message limit in bytes: the default budget has room for such messages.
    pub const DEFAULT_MAX_MESSAGE_LEN: usize = 3 * 1024 * 1024;

    const MIN_PAGE_LEN: usize = PAGE_HEADER + 2 * SLOT_HEADER;
    /// Upper bound of a page length in bytes. Each client allocates a page of the length that its
    /// broker requests.
    const MAX_PAGE_LEN: usize = 1 << 26;
    const LARGEST_MESSAGE: usize = 1 << 31;

    /// Returns limits with this page length, message limit and budget, all in bytes.
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

    /// Returns these limits rounded to whole pages of a kernel with pages of `os_page` bytes, so that
    /// the budget counts the memory that a page really takes.
    pub(crate) fn in_pages_of(self, os_page: usize) -> Result<Self, LimitsError> {
        Self::new(self.page_len.next_multiple_of(os_page), self.max_message_len, self.budget)
    }

    /// Returns the smallest valid budget for a page length and a message limit, in bytes. Clamps
    /// values out of bounds, which [`new`](Limits::new) refuses.
    pub fn least_budget(page_len: usize, max_message_len: usize) -> usize {
        let page_len = page_len.clamp(Self::MIN_PAGE_LEN, Self::MAX_PAGE_LEN);
        let max_message_len = max_message_len.min(Self::LARGEST_MESSAGE);
        2 * Limits { page_len, max_message_len, budget: 0 }.max_page_len()
    }

    /// Returns the length of an ordinary page in bytes.
    pub fn page_len(&self) -> usize {
        self.page_len
    }

    /// Returns the length of the longest payload in bytes.
    pub fn max_message_len(&self) -> usize {
        self.max_message_len
    }

    /// Returns the upper bound of the chain's shared memory in bytes.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Returns the reuse distance of a single fast chain in bytes, see
    /// [`ChainWriter::set_reuse_distance`](crate::core::chain::ChainWriter::set_reuse_distance).
    pub(crate) fn reuse_distance(&self) -> usize {
        self.budget / 2
    }

    /// Returns the length of a page that has room for one slot of `slot_len` bytes.
    pub(crate) fn page_for(&self, slot_len: usize) -> usize {
        (PAGE_HEADER + slot_len + SLOT_HEADER).next_multiple_of(self.page_len)
    }

    /// Returns the length of the page that holds the longest message.
    pub(crate) fn max_page_len(&self) -> usize {
        // The largest message limit is far below overflow.
        self.page_for(slot_len(self.max_message_len, true).unwrap_or(usize::MAX / 2))
    }

    /// Returns the upper bound of the bytes that a receiver maps: the budget plus one page, because
    /// a larger page may arrive before the `Forget` of smaller ones. A peer that exceeds it is at
    /// fault.
    pub(crate) fn receiver_budget(&self) -> usize {
        self.budget.saturating_add(self.max_page_len())
    }

    /// Returns the upper bound of the bytes that a receiver of a broadcast chain maps. Foreign
    /// pages add one more budget.
    pub(crate) fn broadcast_receiver_budget(&self) -> usize {
        self.receiver_budget().saturating_add(self.budget)
    }

    /// Returns the least and the greatest length of a peer's page, in bytes, for a kernel with pages of
    /// `os_page` bytes.
    pub(crate) fn page_bounds(&self, os_page: usize) -> (usize, usize) {
        let least = self.page_len.next_multiple_of(os_page);
        (least, self.max_page_len().next_multiple_of(os_page))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            page_len: Self::DEFAULT_PAGE_LEN,
            max_message_len: Self::DEFAULT_MAX_MESSAGE_LEN,
            budget: Self::DEFAULT_BUDGET,
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
    fn two_kernel_pages_always_fit_into_the_budget() {
        assert!(Limits::new(96, 16, 384).unwrap().in_pages_of(4096).is_err());
        let limits = Limits::new(96, 16, 8192).unwrap().in_pages_of(4096).unwrap();
        assert_eq!(limits.page_len(), 4096);
    }

    // P6
    #[test]
    fn a_budget_counts_whole_pages_of_a_kernel_with_long_pages() {
        const LONG: usize = 65_536;
        let limits = Limits::new(4096, 100_000, 1 << 20).unwrap().in_pages_of(LONG).unwrap();
        assert_eq!(limits.page_len(), LONG);
        // Each page takes whole pages of the kernel, so that rounding exceeds no budget.
        assert_eq!(limits.page_bounds(LONG), (LONG, 2 * LONG));
        assert_eq!(limits.max_page_len(), 2 * LONG);
        // The other side of a connection rounds the same lengths again, with the same result.
        assert_eq!(limits.in_pages_of(LONG), Ok(limits));
        // A budget that can't hold two pages there is refused, and the error names the least
        // budget.
        let error = Limits::new(4096, 16, 8192).unwrap().in_pages_of(LONG).unwrap_err();
        assert!(matches!(error, LimitsError::Budget { min: 131_072, .. }), "{error}");
    }

    #[test]
    fn the_default_limits_are_documented_and_valid() {
        let d = Limits::default();
        assert_eq!((d.page_len, d.max_message_len, d.budget), (262_144, 3_145_728, 8_388_608));
        assert_eq!(Limits::new(d.page_len, d.max_message_len, d.budget), Ok(d));
    }

    // P14
    #[test]
    fn the_longest_message_with_an_origin_fits_into_the_longest_page() {
        // Header of the page, of the message, extension, end of the page.
        const BESIDE: usize = 64 + 16 + 32 + 16;
        for pages in 1..4 {
            let longest = pages * 4096 - BESIDE;
            let max_page_len = |max_message_len| {
                let budget = Limits::least_budget(4096, max_message_len);
                Limits::new(4096, max_message_len, budget).unwrap().max_page_len()
            };
            assert_eq!(max_page_len(longest), pages * 4096);
            assert_eq!(max_page_len(longest + 1), (pages + 1) * 4096);
        }
    }

    #[test]
    fn limits_with_which_a_chain_could_not_advance_are_refused() {
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

//! A region on the heap: the same code as production's, without a kernel. For tests and fuzzing.

use super::Region;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

impl Region {
    /// A zeroed, writable region of `len` bytes on the heap.
    ///
    /// # Safety
    ///
    /// One owner writes the region, and every handle of it, clones included, keeps to the protocol:
    ///
    /// * One thread at a time writes.
    /// * While [`Claim::payload`](crate::core::chain::Claim::payload) is borrowed, nothing else reads or
    ///   writes its bytes.
    /// * [`write_bytes`](super::Memory::write_bytes), [`copy_bytes`](super::Memory::copy_bytes) and
    ///   that slice write plainly; [`read_bytes`](super::Memory::read_bytes) and `copy_bytes` read
    ///   plainly. A release store and an acquire load order each plain write and every access of the
    ///   same bytes in another thread.
    ///
    /// All of it holds for a region that goes to one [`ChainWriter`](crate::core::chain::ChainWriter) or one
    /// [`Control`](crate::core::control::Control), if only these have the other handles: the receivers
    /// that the sender has admitted and not struck, and a peer that has
    /// [checked](crate::core::control::Control::check) the control region.
    ///
    /// # Panics
    ///
    /// If `len` is not a multiple of 8.
    #[allow(unsafe_code)]
    pub unsafe fn new_heap(len: usize) -> Self {
        Region::heap(len)
    }

    /// The same within the crate, which keeps the contract of [`new_heap`](Region::new_heap).
    ///
    /// # Panics
    ///
    /// If `len` is not a multiple of 8.
    #[allow(unsafe_code)]
    pub(crate) fn heap(len: usize) -> Self {
        assert!(len.is_multiple_of(8), "a region's length is a multiple of 8");
        let words: Arc<Vec<AtomicU64>> =
            Arc::new((0..len / 8).map(|_| AtomicU64::new(0)).collect());
        let start = NonNull::from(words.as_slice()).cast::<u8>();
        // SAFETY: the vector behind the `Arc` is never reached again except through the region,
        // so it neither moves nor changes its length; its elements are aligned to 8 and may be
        // written through a shared reference.
        unsafe { Region::new(start, len, true, words, None) }
    }
}

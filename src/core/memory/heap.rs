//! Regions on the heap, for tests and fuzzing: production's code without a kernel.

use super::Region;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

impl Region {
    /// Returns a zeroed, writable region of `len` bytes on the heap.
    ///
    /// # Safety
    ///
    /// One owner writes the region, and every handle of it, clones included, follows the protocol:
    ///
    /// * One thread at a time writes.
    /// * While [`Claim::payload`](crate::core::chain::Claim::payload) is borrowed, nothing else reads or
    ///   writes its bytes.
    /// * [`write_bytes`](super::Memory::write_bytes), [`copy_bytes`](super::Memory::copy_bytes) and
    ///   that slice write plainly. [`read_bytes`](super::Memory::read_bytes) and `copy_bytes` read
    ///   plainly. A release store and an acquire load order each plain write and every access of
    ///   the same bytes in another thread.
    ///
    /// One [`ChainWriter`](crate::core::chain::ChainWriter) or one [`Control`](crate::core::control::Control) that
    /// gets the region keeps this contract. All other handles must then belong to receivers that the
    /// writer has admitted and not removed, or to a peer that has
    /// [checked](crate::core::control::Control::check) the control region.
    ///
    /// # Panics
    ///
    /// If `len` is not a multiple of 8.
    #[allow(unsafe_code)]
    pub unsafe fn new_heap(len: usize) -> Self {
        Region::heap(len)
    }

    /// Like [`new_heap`](Region::new_heap), for this crate, which keeps that contract.
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
        // SAFETY: only the region reaches the vector behind the `Arc`, so the vector neither moves
        // nor changes its length. Its elements are aligned to 8 and may be written through a shared
        // reference.
        unsafe { Region::new(start, len, true, words, None) }
    }
}

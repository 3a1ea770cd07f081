//! A region on the heap: the same code as production's, without a kernel. For tests and fuzzing.

use super::Region;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use std::sync::Arc;

impl Region {
    /// A zeroed, writable region on the heap.
    ///
    /// # Panics
    ///
    /// If `len` is not a multiple of 8.
    #[allow(unsafe_code)]
    pub fn heap(len: usize) -> Self {
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

//! Writable regions for tests, models, fuzz targets and benchmarks.
#![allow(dead_code, reason = "not every program uses both")]
#![allow(unsafe_code)]

use llmp::RegionError;
use llmp::core::memory::Region;

/// A region on the heap, of which one side writes and the others read, by the protocol.
///
/// A test that writes past the protocol, as a hostile peer does, does so in one thread, or with
/// words of which each is atomic.
pub fn heap(len: usize) -> Region {
    // SAFETY: see above.
    unsafe { Region::new_heap(len) }
}

/// The same in shared memory.
pub fn shared(name: &str, len: usize) -> Result<Region, RegionError> {
    // SAFETY: as for `heap`.
    unsafe { Region::new_shared(name, len) }
}

//! Access to shared memory. The protocol uses no other.
//!
//! The protocol is generic over [`Memory`], one region that one process writes and others read.
//! Production maps it ([`Region`]). The models back it with loom's or shuttle's atomics. Tests and
//! fuzzers wrap it to forge words, to tear copies or to stop a process.
//!
//! A region offers three kinds of access. They differ in which processes may access the location at
//! the same time.
//!
//! * **atomic words** ([`load`](Memory::load), [`store`](Memory::store)): writer and readers access
//!   these concurrently. Each access is a named [`Site`].
//! * **words** ([`read_words`](Memory::read_words), [`write_words`](Memory::write_words)): the
//!   headers. The protocol orders them by an atomic word next to them.
//! * **bytes** ([`read_bytes`](Memory::read_bytes), [`write_bytes`](Memory::write_bytes)): the
//!   payload. The protocol orders it in the same way.
//!
//! For a model the last two are plain accesses, and it fails when they race. In production they
//! must stay harmless even if a hostile peer makes them race. So they are relaxed atomic words and
//! a copy that the compiler can't see through.

mod heap;
mod part;
#[allow(unsafe_code)]
mod region;

pub use part::{Intent, Offset, Part};
pub use region::{Region, RegionPart, TrustPeers};

use crate::core::order::Site;

/// One region of shared memory. A value is a handle: a clone is the same region.
///
/// Offsets and lengths are in bytes. Word offsets are multiples of 8.
///
/// # Panics
///
/// Every method panics on an access outside the region or at a misaligned offset. The protocol
/// validates a peer's values before it uses them, so such a panic is a bug in this crate. The check
/// stays, because all `unsafe` code relies on it.
#[allow(clippy::missing_panics_doc, reason = "said above, once for all methods")]
pub trait Memory: Clone {
    /// Returns the length of the region in bytes, a multiple of 8.
    fn region_len(&self) -> usize;

    /// The type that [`part`](Memory::part) returns. [`Offset`] fits any memory.
    type Part<'a>: Part
    where
        Self: 'a;

    /// Returns the `len` bytes at `at`, both multiples of 8, for several accesses.
    fn part(&self, at: usize, len: usize, intent: Intent) -> Self::Part<'_>;

    /// Loads an atomic word.
    fn load(&self, at: usize, site: Site) -> u64;

    /// Stores an atomic word. Only the region's owner may call this.
    fn store(&self, at: usize, value: u64, site: Site);

    /// Executes a fence in the calling thread. It applies to no particular region.
    fn fence(&self, site: Site);

    /// Prefetches the cache line at `at`, in the region or beyond its end. This is a hint and no
    /// access.
    fn prefetch(&self, _at: usize) {}

    /// Reads `N` words. No other process or thread may write them meanwhile.
    fn read_words<const N: usize>(&self, at: usize) -> [u64; N];

    /// Writes `N` words. No other process or thread may access them meanwhile.
    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]);

    /// Copies bytes out of the region. No other process or thread may write them meanwhile. `at` is
    /// a multiple of 8.
    fn read_bytes(&self, at: usize, into: &mut [u8]);

    /// Copies bytes into the region. No other process or thread may access them meanwhile. `at` is
    /// a multiple of 8. The caller also owns the bytes up to the next multiple of 8 after them,
    /// which may be zeroed.
    fn write_bytes(&self, at: usize, from: &[u8]);

    /// Copies `len` bytes from another region. Both offsets are multiples of 8.
    fn copy_bytes(&self, at: usize, from: &Self, from_at: usize, len: usize) {
        let mut buffer = [0; 256];
        let mut done = 0;
        while done < len {
            let part = &mut buffer[..(len - done).min(256)];
            from.read_bytes(from_at + done, part);
            self.write_bytes(at + done, part);
            done += part.len();
        }
    }
}

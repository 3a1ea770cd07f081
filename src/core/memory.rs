//! The only door to shared memory.
//!
//! The protocol is generic over [`Memory`], one region that one process writes and others read.
//! Production maps it ([`Region`]), the models give it loom's or shuttle's atomics, the tests
//! and fuzzers wrap it to let it lie, tear or stop.
//!
//! Three kinds of access, after who may touch the place at that moment:
//!
//! * **atomic words** ([`load`](Memory::load), [`store`](Memory::store)): writer and readers meet
//!   here, each access being a named [`Site`];
//! * **words** ([`read_words`](Memory::read_words), [`write_words`](Memory::write_words)): the
//!   headers, which the protocol orders by an atomic word next to them;
//! * **bytes** ([`read_bytes`](Memory::read_bytes), [`write_bytes`](Memory::write_bytes)): the
//!   payload, ordered the same way.
//!
//! The last two are plain accesses to a model, which fails when they race. In production they
//! must stay harmless even if a hostile peer makes them race, so they are relaxed atomic words
//! and a copy that the compiler can't see through.

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
/// Every method panics when it is asked to reach outside the region or at a misaligned offset.
/// The protocol checks what a peer alleges before it uses it, so that this would be a mistake of
/// ours; it is checked all the same, as everything `unsafe` rests on it.
#[allow(clippy::missing_panics_doc, reason = "said above, once for all methods")]
pub trait Memory: Clone {
    /// Length of the region in bytes, a multiple of 8.
    fn region_len(&self) -> usize;

    /// What [`part`](Memory::part) returns: an [`Offset`], if there is nothing better.
    type Part<'a>: Part
    where
        Self: 'a;

    /// The `len` bytes at `at`, both multiples of 8, for several accesses.
    fn part(&self, at: usize, len: usize, intent: Intent) -> Self::Part<'_>;

    /// Loads an atomic word.
    fn load(&self, at: usize, site: Site) -> u64;

    /// Stores an atomic word. Only the region's owner may.
    fn store(&self, at: usize, value: u64, site: Site);

    /// A fence of the calling thread; it belongs to no place in the region.
    fn fence(&self, site: Site);

    /// Has the processor fetch the cache line at `at`, in the region or behind it: a hint, and no
    /// access.
    fn prefetch(&self, _at: usize) {}

    /// Reads `N` words that nobody writes now.
    fn read_words<const N: usize>(&self, at: usize) -> [u64; N];

    /// Writes `N` words that nobody else touches now.
    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]);

    /// Copies bytes out that nobody writes now. `at` is a multiple of 8.
    fn read_bytes(&self, at: usize, into: &mut [u8]);

    /// Copies bytes in that nobody else touches now. `at` is a multiple of 8, and the bytes up to
    /// the next multiple of 8 behind them are the caller's too: they may be zeroed.
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

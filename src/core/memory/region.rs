//! Memory in production: a mapping or a heap allocation, accessed through a pointer.
//!
//! All `unsafe` of the data path is in this file.
//!
//! The Rust abstract machine knows no second process, so it says nothing about a hostile peer. The
//! rules here follow from what the compiler may do. Only atomic instructions access a word that a
//! peer may change. Only a copy whose callee the compiler can't know accesses a longer payload. So
//! the compiler can't read either twice, split it or cache it. With a correct peer the protocol
//! orders every access, and nothing races.
//!
//! Two threads of one process that use a region against the protocol would race, which is undefined
//! behaviour. So outside this crate, only `unsafe` functions make a writable region
//! ([`Region::new_heap`], [`Region::new_shared`]) or borrow its bytes ([`Region::slice`]). Within
//! the crate, writer and reader keep that contract. Miri checks them (`model/miri`).

use super::{Intent, Memory, Part};
use crate::core::failpoint::{effect, observation};
use crate::core::order::Site;
use alloc::sync::Arc;
use core::any::Any;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// Copies of at most this many bytes, in whole words, use relaxed words. All other copies use the
/// opaque copy. Measured by `cargo bench --bench memory`.
const SMALL: usize = 64;

/// Length in bytes above which a copy may run in pieces of this length. glibc uses `rep movsb` above
/// it, which is the fastest copy into lines that another processor holds. On some CPUs it is 20×
/// slower when the target lies slightly after the source modulo 4096 (4 KiB aliasing). A header of
/// 16 bytes sometimes puts it there, and then the copy is split.
const PIECE: usize = 2048;
const TOO_NEAR: usize = 64;

/// The promise that every process that writes memory read by us follows the protocol. On a bus
/// these are the broker and all clients, because long messages are read from the page of their
/// sender.
///
/// With it a received payload can be a slice of the sender's page instead of a copy.
#[derive(Clone, Copy, Debug)]
pub struct TrustPeers(());

impl TrustPeers {
    /// Makes the promise.
    ///
    /// # Safety
    ///
    /// No process that we receive from writes to a page after it has committed the bytes there and
    /// before our cursor has passed them. All processes that use this library comply. A hostile or
    /// broken peer may not, and would change bytes behind a `&[u8]`.
    pub const unsafe fn assume() -> Self {
        TrustPeers(())
    }
}

/// A region of memory: the writable mapping of its owner, the read-only mapping of a reader, or
/// a piece of the heap.
///
/// All words are little-endian in memory.
///
/// Safe code can read a region, but not make one that can be written. These programs would race, or
/// have two `&mut` to the same bytes, and do not compile:
///
/// ```compile_fail,E0133
/// use llmp::core::memory::{Memory, Region};
/// let region = Region::new_heap(4096);
/// let other = region.clone();
/// std::thread::spawn(move || other.write_bytes(0, &[1; 100]));
/// region.write_bytes(0, &[2; 100]);
/// ```
///
/// ```compile_fail,E0133
/// use llmp::core::memory::{Memory, Region};
/// let region = Region::new_shared("race", 4096)?;
/// let other = region.clone();
/// std::thread::spawn(move || other.read_bytes(0, &mut [0; 100]));
/// region.write_bytes(0, &[2; 100]);
/// # Ok::<(), llmp::RegionError>(())
/// ```
///
/// ```compile_fail,E0133
/// use llmp::core::{chain::ChainWriter, memory::Region};
/// use llmp::{Envelope, Limits};
/// let region = Region::new_heap(4096);
/// let limits = Limits::new(4096, 100, 8192)?;
/// let [mut one, mut other] = [(); 2].map(|()| ChainWriter::new(1, limits, region.clone()));
/// let mut claims = [&mut one, &mut other].map(|s| s.claim(Envelope::default(), 8).unwrap());
/// let [one, other] = claims.each_mut().map(|claim| claim.payload());
/// # Ok::<(), llmp::LimitsError>(())
/// ```
///
/// ```compile_fail,E0624
/// let region = llmp::core::memory::Region::heap(4096);
/// ```
///
/// ```compile_fail,E0624
/// let region = llmp::core::memory::Region::shared("race", 4096);
/// ```
///
/// The same calls as an `unsafe` program, whose one handle writes:
///
/// ```
/// use llmp::core::{chain::ChainWriter, memory::Region};
/// use llmp::{Envelope, Limits};
/// // SAFETY: the sender alone has the regions.
/// let (heap, shared) = unsafe { (Region::new_heap(4096), Region::new_shared("page", 4096)?) };
/// for region in [heap, shared] {
///     let mut sender = ChainWriter::new(1, Limits::new(4096, 100, 8192)?, region);
///     sender.claim(Envelope::default(), 8).unwrap().payload().fill(7);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    /// `len` if this handle may write, else 0. One comparison checks both.
    writable_len: usize,
    /// Keeps the memory alive and in place. The code behind the `Arc` never accesses the bytes.
    owner: Arc<dyn Any + Send + Sync>,
    /// Travels with the region: the descriptor that shares it with other processes. The region's owner
    /// has it, and a broker that forwards it by reference.
    attached: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: the memory belongs to no thread, `owner` keeps it alive, and every access of shared bytes
// goes through atomic words or through accesses that the protocol orders.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

type CopyFn = unsafe fn(*mut u8, *const u8, usize);

/// `memcpy` behind a pointer that is read with `read_volatile`. The compiler can't know the callee
/// and must assume that it reads each byte once, like any foreign code.
static OPAQUE_COPY: CopyFn = copy_nonoverlapping;

#[inline(never)]
unsafe fn copy_nonoverlapping(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promises are those of `ptr::copy_nonoverlapping`.
    unsafe { core::ptr::copy_nonoverlapping(from, to, len) }
}

/// Copies `len` bytes from a source that may change meanwhile. The copy may be torn, which is the
/// only effect.
///
/// # Safety
///
/// `from` is readable and `to` is writable for `len` bytes, and they do not overlap.
#[inline]
unsafe fn copy_opaque(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: a static is readable.
    let copy = unsafe { core::ptr::read_volatile(&raw const OPAQUE_COPY) };
    if len <= PIECE {
        // SAFETY: the caller's promises.
        unsafe { copy(to, from, len) }
    } else {
        // SAFETY: the caller's promises.
        unsafe { copy_long(copy, to, from, len) }
    }
}

/// # Safety
///
/// As for [`copy_opaque`].
#[cold]
#[inline(never)]
unsafe fn copy_long(copy: CopyFn, to: *mut u8, from: *const u8, len: usize) {
    let behind = to.addr().wrapping_sub(from.addr()) % 4096;
    let piece = if behind < TOO_NEAR { PIECE } else { len };
    let mut done = 0;
    while done < len {
        let piece = piece.min(len - done);
        // SAFETY: both lie within the bounds that the caller promises.
        unsafe { copy(to.wrapping_add(done), from.wrapping_add(done), piece) };
        done += piece;
    }
}

impl Region {
    /// Returns a region that `owner` keeps alive.
    ///
    /// # Safety
    ///
    /// For as long as `owner` lives, `len` bytes from `start` are mapped readable, and writable if
    /// `writable`; `start` and `len` are multiples of 8; within this process they are reached
    /// through `Region`s only.
    pub(crate) unsafe fn new(
        start: NonNull<u8>,
        len: usize,
        writable: bool,
        owner: Arc<dyn Any + Send + Sync>,
        attached: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Self {
        assert!(start.as_ptr().addr().is_multiple_of(8) && len.is_multiple_of(8));
        let writable_len = if writable { len } else { 0 };
        Region { start, len, writable_len, owner, attached }
    }

    /// Returns what travels with the region, if it is a `T`.
    pub(crate) fn attached<T: Any>(&self) -> Option<&T> {
        self.attached.as_deref()?.downcast_ref()
    }

    /// Returns whether two handles are the same region.
    pub fn is_same(&self, other: &Region) -> bool {
        Arc::ptr_eq(&self.owner, &other.owner)
    }

    /// Returns the whole region as a part.
    #[inline(always)]
    fn whole(&self) -> RegionPart<'_> {
        let Region { start, len, writable_len, .. } = *self;
        RegionPart { start, len, writable_len, region: PhantomData }
    }

    /// Returns bytes that the protocol's preceding commit word has published, without a copy.
    ///
    /// The bytes do not change while the caller keeps its cursor before them. The caller ties the
    /// slice to the borrow that keeps the cursor from moving.
    #[inline(always)]
    pub(crate) fn bytes(&self, at: usize, len: usize, _: TrustPeers) -> &[u8] {
        observation("read in place", self.whole().place(at));
        // SAFETY: the caller keeps its cursor before these bytes. Until the cursor has passed them,
        // no process writes them: that is what `TrustPeers` promises.
        unsafe { self.slice(at, len) }
    }

    /// Returns `len` bytes at `at`, a multiple of 8, without a copy.
    ///
    /// # Safety
    ///
    /// Nothing writes these bytes while the slice lives: no process and no handle of this one.
    ///
    /// # Panics
    ///
    /// If they are not all in the region.
    #[inline(always)]
    pub unsafe fn slice(&self, at: usize, len: usize) -> &[u8] {
        let start = self.whole().at(at, len, self.len);
        // SAFETY: `len` readable bytes that live as long as `self`; nothing writes them meanwhile,
        // as the caller promises.
        unsafe { core::slice::from_raw_parts(start, len) }
    }
}

/// A part of a [`Region`]. Its bounds were checked when it was created.
#[derive(Clone, Copy, Debug)]
pub struct RegionPart<'a> {
    /// Start of `len` readable bytes that live as long as the region. Both are multiples of 8.
    start: NonNull<u8>,
    len: usize,
    /// `len` if the bytes may be written, or less. Unused by a reader.
    writable_len: usize,
    region: PhantomData<&'a Region>,
}

impl<'a> RegionPart<'a> {
    /// Identifies the region when a failpoint counts steps.
    #[inline(always)]
    fn place(&self, at: usize) -> usize {
        self.start.as_ptr().addr().wrapping_add(at)
    }

    /// Returns a pointer to `len` bytes at `at`, all before `end`, which is `len` or
    /// `writable_len`.
    #[inline(always)]
    fn at(&self, at: usize, len: usize, end: usize) -> *mut u8 {
        if at > end || len > end - at || !at.is_multiple_of(8) {
            outside(at, len, end);
        }
        // SAFETY: at + len <= end <= self.len, and there are that many bytes.
        unsafe { self.start.as_ptr().add(at) }
    }

    /// Returns the word at `at`, before `end`. Rounding a misaligned offset down keeps it inside,
    /// as the length is a multiple of 8: one comparison is enough.
    #[inline(always)]
    fn word(&self, at: usize, end: usize) -> &'a AtomicU64 {
        debug_assert!(at.is_multiple_of(8), "misaligned: {at}");
        if at >= end {
            outside(at, 8, end);
        }
        // SAFETY: at / 8 * 8 + 8 <= end <= self.len.
        let word = unsafe { self.start.cast::<AtomicU64>().add(at / 8) };
        // SAFETY: as for `words`.
        unsafe { word.as_ref() }
    }

    /// Returns `count` words at `at`, before `end`.
    #[inline(always)]
    fn words(&self, at: usize, count: usize, end: usize) -> &'a [AtomicU64] {
        let words = self.at(at, 8 * count, end).cast::<AtomicU64>();
        // SAFETY: `at` returned that many bytes at a multiple of 8 that live as long as the region;
        // they are only reached through atomics and the copies below. If they are mapped read-only,
        // only relaxed loads are made, which the documentation of `core::sync::atomic` allows for 8
        // bytes on the 64-bit targets that this crate supports.
        unsafe { core::slice::from_raw_parts(words, count) }
    }

    /// Returns bytes of the owner's own region that no receiver reads yet.
    ///
    /// # Safety
    ///
    /// `at` and `len` lie in a part of the region that is not published. While the slice exists, no
    /// other slice into it does.
    #[inline]
    pub(crate) unsafe fn bytes_mut(self, at: usize, len: usize) -> &'a mut [u8] {
        effect("write in place");
        let start = self.at(at, len, self.writable_len);
        // SAFETY: `len` writable bytes that live as long as the region, and the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(start, len) }
    }
}

#[cold]
#[inline(never)]
fn outside(at: usize, len: usize, region_len: usize) -> ! {
    panic!(
        "{len} bytes at {at} are not aligned, or not in the {region_len} bytes that are ours to use"
    )
}

impl Part for RegionPart<'_> {
    #[inline(always)]
    fn load(&self, at: usize, site: Site) -> u64 {
        observation(site.name(), self.place(at));
        // On read-only mappings an acquire load is a relaxed load and a fence, see `words`.
        let word = self.word(at, self.len).load(Ordering::Relaxed);
        if site.ordering() == Ordering::Acquire {
            fence(Ordering::Acquire);
        }
        u64::from_le(word)
    }

    #[inline(always)]
    fn store(&self, at: usize, value: u64, site: Site) {
        effect(site.name());
        self.word(at, self.writable_len).store(value.to_le(), site.ordering());
    }

    #[inline(always)]
    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        observation("read words", self.place(at));
        core::array::from_fn(|i| {
            u64::from_le(self.word(at + 8 * i, self.len).load(Ordering::Relaxed))
        })
    }

    #[inline(always)]
    fn write_words<const N: usize>(&self, at: usize, values: [u64; N]) {
        for (i, value) in values.into_iter().enumerate() {
            effect("write a word");
            let word = self.word(at + 8 * i, self.writable_len);
            word.store(value.to_le(), Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn write_bytes(&self, at: usize, from: &[u8]) {
        effect("write bytes");
        let to = self.at(at, from.len(), self.writable_len);
        let (words, rest) = from.as_chunks::<8>();
        if from.len() == SMALL {
            // The compiler knows this length, so it emits no loop.
            store_words(self.words(at, SMALL / 8, self.writable_len), words);
        } else if from.len() < SMALL && rest.is_empty() {
            store_words(self.words(at, words.len(), self.writable_len), words);
        } else {
            // SAFETY: both are valid for that length. They don't overlap: no caller holds a slice
            // into bytes that it is about to write.
            unsafe { copy_opaque(to, from.as_ptr(), from.len()) };
        }
    }
}

/// Stores words, the last one first. A receiver may be polling the first line, which is therefore
/// written last.
#[inline(always)]
fn store_words(to: &[AtomicU64], from: &[[u8; 8]]) {
    for (to, from) in to.iter().zip(from).rev() {
        to.store(u64::from_ne_bytes(*from), Ordering::Relaxed);
    }
}

/// Copies words that a peer may change meanwhile.
#[inline(always)]
fn copy_words(to: &[AtomicU64], from: &[AtomicU64]) {
    for (to, from) in to.iter().zip(from).rev() {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Loads words that a peer may change meanwhile.
#[inline(always)]
fn load_words(to: &mut [[u8; 8]], from: &[AtomicU64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.load(Ordering::Relaxed).to_ne_bytes();
    }
}

impl Memory for Region {
    type Part<'a> = RegionPart<'a>;

    #[inline(always)]
    fn region_len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn part(&self, at: usize, len: usize, intent: Intent) -> RegionPart<'_> {
        let whole = self.whole();
        let (end, writable_len) = match intent {
            Intent::Read => (self.len, 0),
            Intent::Write => (self.writable_len, len),
        };
        let start = whole.at(at, len, end);
        if !len.is_multiple_of(8) {
            outside(at, len, end);
        }
        // SAFETY: it lies in the region, whose beginning is not null.
        let start = unsafe { NonNull::new_unchecked(start) };
        RegionPart { start, len, writable_len, region: PhantomData }
    }

    #[inline(always)]
    fn load(&self, at: usize, site: Site) -> u64 {
        self.whole().load(at, site)
    }

    #[inline(always)]
    fn store(&self, at: usize, value: u64, site: Site) {
        self.whole().store(at, value, site);
    }

    #[inline(always)]
    fn fence(&self, site: Site) {
        effect(site.name());
        fence(site.ordering());
    }

    #[inline(always)]
    fn prefetch(&self, at: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint that changes nothing that a program can see, and that never faults,
        // whatever the address.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.start.as_ptr().wrapping_add(at).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    #[inline(always)]
    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        self.whole().read_words(at)
    }

    #[inline(always)]
    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        self.whole().write_words(at, words);
    }

    #[inline]
    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        let whole = self.whole();
        observation("read bytes", whole.place(at));
        let len = into.len();
        let from = whole.at(at, len, self.len);
        let (words, rest) = into.as_chunks_mut::<8>();
        if len == SMALL {
            // The compiler knows this length, so it emits no loop.
            load_words(words, whole.words(at, SMALL / 8, self.len));
        } else if len < SMALL && rest.is_empty() {
            load_words(words, whole.words(at, words.len(), self.len));
        } else {
            // SAFETY: both are valid for that length; `into` is exclusive, so they don't overlap.
            unsafe { copy_opaque(into.as_mut_ptr(), from, len) };
        }
    }

    #[inline]
    fn write_bytes(&self, at: usize, from: &[u8]) {
        self.whole().write_bytes(at, from);
    }

    #[inline]
    fn copy_bytes(&self, at: usize, from: &Self, from_at: usize, len: usize) {
        effect("copy bytes");
        let to = self.whole().at(at, len, self.writable_len);
        let source = from.whole().at(from_at, len, from.len);
        if len == SMALL {
            // The compiler knows this length, so it emits no loop.
            let from = from.whole().words(from_at, SMALL / 8, from.len);
            copy_words(self.whole().words(at, SMALL / 8, self.writable_len), from);
        } else if len < SMALL {
            // The bytes behind the length are read and written, too.
            let words = len.div_ceil(8);
            let from = from.whole().words(from_at, words, from.len);
            copy_words(self.whole().words(at, words, self.writable_len), from);
        } else {
            assert!(!self.is_same(from), "a region is not copied into itself");
            // SAFETY: both are valid for that length and lie in different regions.
            unsafe { copy_opaque(to, source, len) };
        }
    }
}

impl core::fmt::Debug for Region {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Region")
            .field("len", &self.len)
            .field("writable", &(self.writable_len > 0))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_any_length_and_alignment_arrive() {
        const ROOM: usize = 3 * 4096;
        let source: Vec<u8> = (0..ROOM + 4096).map(|i| (i % 251) as u8).collect();
        for len in [0, 8, 63, 64, 65, 100, PIECE, PIECE + 1, 2 * PIECE, 5 * PIECE + 3] {
            // The distance from source to target modulo 4096 takes every multiple of 8.
            for from in (0..4096).step_by(if cfg!(miri) { 2056 } else { 8 }) {
                let (region, other) = (Region::heap(ROOM), Region::heap(ROOM));
                let mut back = vec![0; len];
                region.write_bytes(64, &source[from..from + len]);
                other.copy_bytes(128, &region, 64, len);
                other.read_bytes(128, &mut back);
                assert!(back == source[from..from + len], "{len} bytes from {from}");
                let behind = 128 + len.next_multiple_of(8);
                assert_eq!((other.read_words::<1>(120), other.read_words::<1>(behind)), ([0], [0]));
            }
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_slice_is_what_was_written_and_a_hint_may_name_any_place() {
        let region = Region::heap(4096);
        region.write_bytes(8, &[7; 100]);
        region.prefetch(8);
        region.prefetch(1 << 40);
        // SAFETY: this thread alone has the region, and writes no more.
        let trust = unsafe { TrustPeers::assume() };
        assert_eq!(region.bytes(8, 100, trust), [7; 100]);
    }
}

//! Tells which process made a handle, and protects a forked child from the handle's unmapped
//! memory.
//!
//! A forked child has a copy of each handle of its parent. The connection behind the copy is the
//! parent's, and the memory that the parent writes is not mapped in the child (`MADV_DONTFORK`). So
//! a handle knows its [`Owner`], and does nothing in any other process.
//!
//! **The mark.** A word identifies this process. It is in a page that the kernel wipes in each
//! child (`MADV_WIPEONFORK`), whether `fork` or a bare `clone` made the child. A handle keeps the
//! mark under which it was made. One comparison tells whether the process is still the same. The
//! first handle that a child makes sets a new mark.
//!
//! **The holes.** A child has a hole where a writable mapping was, and its allocator could put
//! other memory there. A pointer into the mapping would reach that memory. After `fork`, before
//! other code runs, the child fills each hole with private memory. No handler runs after a bare
//! `clone`.

#[cfg(miri)]
use super::miri::rustix;
use crate::core::failpoint::effect;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// The words of this process, or null until the first handle is made.
static WORDS: AtomicPtr<Words> = AtomicPtr::new(ptr::null_mut());
/// The words if the kernel has no page for them. Only the fork handler wipes them.
static WITHOUT_A_PAGE: Words = Words { mark: AtomicU64::new(0), gates: AtomicU64::new(0) };
/// The number of marks given by this process and its ancestors. No two of them have the same mark.
static GIVEN: AtomicU64 = AtomicU64::new(0);

/// The words that the kernel wipes in a forked child.
#[derive(Debug)]
struct Words {
    /// Identifies this process, or zero.
    mark: AtomicU64,
    /// Gates that were opened under another number are closed.
    gates: AtomicU64,
}

fn give() -> u64 {
    GIVEN.fetch_add(1, Ordering::Relaxed) + 1
}

/// The mark of no process. A wiped word is 0, and marks count from 1.
const NO_PROCESS: u64 = u64::MAX;

/// The process that made a handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    word: &'static AtomicU64,
    mark: u64,
}

impl Owner {
    /// Returns this process.
    pub fn here() -> Self {
        let word = &words().mark;
        // Relaxed, here and below: the word says nothing about other memory.
        let mark = word.load(Ordering::Relaxed);
        if mark != 0 {
            return Owner { word, mark };
        }
        let new = give();
        // Another thread may have set a mark meanwhile.
        let given = word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
        Owner { word, mark: given.err().unwrap_or(new) }
    }

    /// Returns whether this process made the handle. Returns false in its children.
    #[inline(always)]
    pub fn is_here(&self) -> bool {
        self.word.load(Ordering::Relaxed) == self.mark
    }
}

/// A value of which each process has its own. A forked child inherits its parent's value, but
/// without the parent's threads and possibly with locks that stay held. It makes its own value and
/// leaves the parent's untouched.
pub(crate) struct PerProcess<T: 'static>(AtomicPtr<(Owner, T)>);

impl<T: Send + Sync> PerProcess<T> {
    pub const fn new() -> Self {
        PerProcess(AtomicPtr::new(ptr::null_mut()))
    }

    /// Returns this process's value, if it has made one.
    pub fn known(&self) -> Option<&'static T> {
        let known = self.0.load(Ordering::Acquire);
        // SAFETY: it is null or comes from `get`, which never frees what it has stored.
        let (owner, value) = unsafe { known.as_ref() }?;
        owner.is_here().then_some(value)
    }

    /// Returns this process's value and makes it if needed.
    pub fn get(&self, make: impl Fn() -> T) -> &'static T {
        loop {
            let before = self.0.load(Ordering::Acquire);
            if let Some(value) = self.known() {
                return value;
            }
            let new = Box::into_raw(Box::new((Owner::here(), make())));
            // AcqRel: pairs with itself and with the loads above. If another thread was quicker,
            // these few bytes leak, once.
            let _ = self.0.compare_exchange(before, new, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

/// A gate of a handle. It is open only in the process that made the handle, only while it is set
/// open, and only until [`Gate::close_all`]. One comparison checks all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    gates: &'static AtomicU64,
    seen: u64,
}

/// The number under which gates are open now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening(u64);

impl Gate {
    /// Makes an open gate.
    pub fn open() -> Self {
        let Opening(seen) = Self::now();
        Gate { gates: &words().gates, seen }
    }

    /// Returns the number for [`set`](Gate::set). Call it before the check whether a gate may be open.
    pub fn now() -> Opening {
        let gates = &words().gates;
        let seen = gates.load(Ordering::Relaxed);
        if seen != 0 {
            return Opening(seen);
        }
        let new = give();
        let given = gates.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
        Opening(given.err().unwrap_or(new))
    }

    /// Opens or closes the gate. The caller is in the process that made the handle.
    pub fn set(&mut self, Opening(now): Opening, is_open: bool) {
        self.seen = if is_open { now } else { NO_PROCESS };
    }

    #[inline(always)]
    pub fn is_open(&self) -> bool {
        self.gates.load(Ordering::Relaxed) == self.seen
    }

    /// Closes all gates of this process, so that each handle looks at its connection. A half that
    /// finds the end of its broker tells the other half so.
    pub fn close_all() {
        words().gates.store(give(), Ordering::Relaxed);
    }
}

/// Returns the words of this process.
fn words() -> &'static Words {
    // pairs with the exchange in `make_words`
    let words = NonNull::new(WORDS.load(Ordering::Acquire)).unwrap_or_else(make_words);
    // SAFETY: the words are a static, or are in a page that is never unmapped. They are zero or
    // written only by atomic instructions.
    unsafe { words.as_ref() }
}

/// Makes the words, and registers the handler that runs in each forked child.
#[cold]
fn make_words() -> NonNull<Words> {
    let page = wiped_page();
    let words = page.unwrap_or(NonNull::from(&WITHOUT_A_PAGE));
    let (null, new) = (ptr::null_mut(), words.as_ptr());
    // No lock, because a child that was forked meanwhile could wait for it without end.
    match WORDS.compare_exchange(null, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            effect("watch for forks");
            // Without memory for the handler, only the mark protects a child.
            // SAFETY: the handler only loads, stores and maps, which is allowed in a child.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            words
        }
        Err(other) => {
            if let Some(page) = page {
                // SAFETY: it was mapped here, and no other thread has seen it.
                let _ = unsafe { munmap(page.as_ptr().cast(), WORDS_LEN) };
            }
            NonNull::new(other).unwrap_or(words)
        }
    }
}

/// The length of the words in bytes. The kernel rounds it up to a page.
const WORDS_LEN: usize = size_of::<Words>();

/// Maps a zeroed page that the kernel wipes in each child.
fn wiped_page() -> Option<NonNull<Words>> {
    let read_write = ProtFlags::READ | ProtFlags::WRITE;
    effect("map the mark");
    // SAFETY: the kernel chooses an address range that is unused.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), WORDS_LEN, read_write, MapFlags::PRIVATE) };
    let page = page.ok()?;
    effect("have the mark wiped in children");
    // If the kernel refuses, the fork handler wipes the words.
    // SAFETY: the advice changes nothing in this process.
    let _ = unsafe { madvise(page, WORDS_LEN, Advice::LinuxWipeOnFork) };
    NonNull::new(page.cast())
}

/// Runs first in a child of `fork`. It takes no lock and allocates nothing.
extern "C" fn in_child() {
    let Words { mark, gates } = words();
    mark.store(0, Ordering::Relaxed);
    gates.store(0, Ordering::Relaxed);
    let mut table = Some(&HOLES);
    while let Some(Table { ranges, next }) = table {
        ranges.iter().for_each(Range::fill);
        // SAFETY: a table that is linked is never freed.
        table = unsafe { next.load(Ordering::Acquire).as_ref() };
    }
}

/// A range of addresses, in bytes. Its start is 0 while it is free, and [`TAKEN`] until its length
/// is stored. So a child never sees a start without its length.
#[derive(Debug)]
struct Range {
    start: AtomicUsize,
    len: AtomicUsize,
}

/// The start of a range whose length is not stored yet.
const TAKEN: usize = 1;

impl Range {
    /// In a forked child, fills the hole with private memory and frees the range.
    fn fill(&self) {
        // pairs with the store in `Hole::at`
        let start = self.start.load(Ordering::Acquire);
        if start > TAKEN {
            let len = self.len.load(Ordering::Relaxed);
            // Writes to it reach no other process. If there is no memory, the range is mapped
            // without access.
            let read_write = ProtFlags::READ | ProtFlags::WRITE;
            if !matches!(map_at(start, len, read_write), Ok(()) | Err(Errno::EXIST)) {
                let _ = map_at(start, len, ProtFlags::empty());
            }
        }
        self.start.store(0, Ordering::Relaxed);
    }
}

/// Maps private memory if the range is unused.
fn map_at(start: usize, len: usize, access: ProtFlags) -> Result<(), Errno> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    let at = ptr::with_exposed_provenance_mut(start);
    // SAFETY: with this flag, the kernel replaces nothing.
    unsafe { mmap_anonymous(at, len, access, flags) }.map(drop)
}

/// A table of ranges. More tables follow when all ranges are in use. No table is ever freed.
struct Table {
    ranges: [Range; 255],
    next: AtomicPtr<Table>,
}

/// The holes that a forked child of this process must fill.
static HOLES: Table = Table::EMPTY;

impl Table {
    #[allow(clippy::declare_interior_mutable_const, reason = "each use is a table of its own")]
    const EMPTY: Table = Table {
        ranges: [const { Range { start: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; 255],
        next: AtomicPtr::new(ptr::null_mut()),
    };

    /// Claims a free range.
    fn take(&'static self) -> &'static Range {
        let mut table = self;
        loop {
            let relaxed = Ordering::Relaxed;
            let is_ours = |r: &&Range| r.start.compare_exchange(0, TAKEN, relaxed, relaxed).is_ok();
            if let Some(range) = table.ranges.iter().find(is_ours) {
                return range;
            }
            table = table.next();
        }
    }

    /// Returns the table behind this one and makes it if needed.
    fn next(&'static self) -> &'static Table {
        let mut next = self.next.load(Ordering::Acquire);
        if next.is_null() {
            let new = Box::into_raw(Box::new(Table::EMPTY));
            let (null, ordering) = (ptr::null_mut(), Ordering::AcqRel);
            next = match self.next.compare_exchange(null, new, ordering, Ordering::Acquire) {
                Ok(_) => new,
                Err(other) => {
                    // SAFETY: it was made above, and no other thread has seen it.
                    drop(unsafe { Box::from_raw(new) });
                    other
                }
            };
        }
        // SAFETY: it is not null, and a table that is linked is never freed.
        unsafe { &*next }
    }
}

/// The hole that a writable mapping of this process leaves in a forked child.
#[derive(Debug)]
pub(crate) struct Hole {
    owner: Owner,
    range: &'static Range,
}

impl Hole {
    /// Records a mapping of `len` bytes at `start` that forked children do not have.
    pub fn at(start: *mut u8, len: usize) -> Self {
        // The owner comes first, because it registers the fork handler.
        let owner = Owner::here();
        let range = HOLES.take();
        range.len.store(len, Ordering::Relaxed);
        // pairs with the load in `Range::fill`: its length is there before
        range.start.store(start.expose_provenance(), Ordering::Release);
        Hole { owner, range }
    }

    /// Returns whether the mapping exists. Returns false in a forked child.
    pub fn is_here(&self) -> bool {
        self.owner.is_here()
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        // A child has freed the range, and another hole may use it.
        if self.is_here() {
            self.range.start.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_passed_while_it_is_open() {
        let mut gate = Gate::open();
        // Other tests close all gates.
        let opens = |gate: &mut Gate| {
            (0..100).any(|_| {
                gate.set(Gate::now(), true);
                gate.is_open()
            })
        };
        assert!(opens(&mut gate));
        gate.set(Gate::now(), false);
        assert!(!gate.is_open());
        assert!(opens(&mut gate));
        let before = Gate::now();
        Gate::close_all();
        assert!(!gate.is_open());
        gate.set(before, true);
        assert!(!gate.is_open(), "it was opened by what was known before");
    }

    #[test]
    fn a_hole_is_known_as_long_as_its_mapping_is_there() {
        // The range is unmapped, and this process does not fork.
        const START: usize = 64 << 10;
        let hole = Hole::at(ptr::without_provenance_mut(START), 4096);
        let range = hole.range;
        let start = || range.start.load(Ordering::Relaxed);
        assert_eq!((start(), range.len.load(Ordering::Relaxed)), (START, 4096));
        drop(hole);
        // Another thread may have claimed it.
        assert_ne!(start(), START);
    }

    #[test]
    fn there_are_ranges_for_more_mappings_than_one_table_holds() {
        // Miri takes long.
        let ranges = if cfg!(miri) { 256 } else { 1000 };
        let table: &'static Table = Box::leak(Box::new(Table::EMPTY));
        let mut all: Vec<*const Range> = (0..ranges).map(|_| ptr::from_ref(table.take())).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), ranges, "no range is taken twice");
        table.ranges[7].start.store(0, Ordering::Relaxed);
        assert!(ptr::eq(table.take(), &table.ranges[7]), "a free one is taken again");
    }

    #[test]
    fn a_forked_child_makes_a_value_of_its_own() {
        let values = PerProcess::new();
        assert_eq!(values.known(), None);
        assert_eq!(*values.get(|| 1), 1);
        assert_eq!((*values.get(|| 2), values.known()), (1, Some(&1)));
        // A child finds a value under a mark that is not its own.
        let parent = Owner { mark: NO_PROCESS, ..Owner::here() };
        values.0.store(Box::into_raw(Box::new((parent, 3))), Ordering::Release);
        assert_eq!((values.known(), *values.get(|| 4)), (None, 4));
    }
}

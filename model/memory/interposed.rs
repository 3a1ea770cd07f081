//! A decorator over any memory. It calls hooks before and after each access.

use llmp::core::memory::{Intent, Memory, Offset};
use llmp::core::order::Site;

/// An access of a process. A hook can replace what a read finds.
pub enum Access<'a> {
    Load(Site, &'a mut u64),
    Store(Site, u64),
    Fence(Site),
    ReadWords(&'a mut [u64]),
    WriteWords(&'a [u64]),
    ReadBytes(&'a mut [u8]),
    WriteBytes(&'a [u8]),
}

/// The hooks of a decorator. By default every access passes through. A fence has the offset 0.
pub trait Interpose<M>: Clone {
    /// Comes before an access of `memory`. Returns whether the access takes place. If it does not,
    /// a read finds what this puts there, and zero words by default.
    fn before(&self, _memory: &M, _at: usize, _: Access<'_>) -> bool {
        true
    }

    /// Comes directly after an access that took place. Here a read has what it found.
    fn after(&self, _memory: &M, _at: usize, _: Access<'_>) {}
}

/// Memory with hooks.
#[derive(Clone)]
pub struct Interposed<M, I> {
    memory: M,
    hooks: I,
}

impl<M: Memory, I: Interpose<M>> Interposed<M, I> {
    pub fn new(memory: M, hooks: I) -> Self {
        Interposed { memory, hooks }
    }

    /// Returns the memory without the hooks.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    pub fn hooks(&self) -> &I {
        &self.hooks
    }

    /// Makes an access between its hooks. `with` is what it writes, or what it has read then.
    fn around<T>(
        &self,
        at: usize,
        mut with: T,
        access: impl Fn(&mut T) -> Access<'_>,
        make: impl FnOnce(&M, &mut T),
    ) -> T {
        if self.hooks.before(&self.memory, at, access(&mut with)) {
            make(&self.memory, &mut with);
            self.hooks.after(&self.memory, at, access(&mut with));
        }
        with
    }
}

impl<M: Memory, I: Interpose<M>> Memory for Interposed<M, I> {
    type Part<'a>
        = Offset<'a, Self>
    where
        Self: 'a;

    fn region_len(&self) -> usize {
        self.memory.region_len()
    }

    fn part(&self, at: usize, len: usize, _: Intent) -> Offset<'_, Self> {
        Offset::new(self, at, len)
    }

    fn load(&self, at: usize, site: Site) -> u64 {
        let load = |memory: &M, to: &mut u64| *to = memory.load(at, site);
        self.around(at, 0, |to| Access::Load(site, to), load)
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        let store = |memory: &M, value: &mut u64| memory.store(at, *value, site);
        self.around(at, value, |value| Access::Store(site, *value), store);
    }

    fn fence(&self, site: Site) {
        self.around(0, site, |site| Access::Fence(*site), |memory, site| memory.fence(*site));
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        let read = |memory: &M, to: &mut [u64; N]| *to = memory.read_words(at);
        self.around(at, [0; N], |to| Access::ReadWords(to), read)
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        let write = |memory: &M, words: &mut [u64; N]| memory.write_words(at, *words);
        self.around(at, words, |words| Access::WriteWords(words), write);
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        self.around(at, into, |to| Access::ReadBytes(to), |memory, to| memory.read_bytes(at, to));
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        let write = |memory: &M, from: &mut &[u8]| memory.write_bytes(at, from);
        self.around(at, from, |from| Access::WriteBytes(from), write);
    }
}

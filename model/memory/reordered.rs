//! Memory with one deliberate mistake: one step of the protocol comes after another that should
//! follow it.
//!
//! A weaker memory ordering permits the machine to move an access. A [`Swap`] moves it in the
//! program. So the models show for both that the mistake is detected. Production code is unchanged:
//! this memory delays the step, or repeats it later.

use super::interposed::{Access, Interpose, Interposed};
use llmp::core::layout::{CONTROL_CONSUMED, CONTROL_MEMBER, CONTROL_RETIRED, PAGE_BASE, WORD};
use llmp::core::memory::Memory;
use llmp::core::order::Site;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A step of the protocol that can come too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// An atomic store.
    Store(Site),
    /// A write of the payload.
    WritePayload,
    /// A write of the second word of a slot, or of its extension.
    WriteSlot,
    /// A write of the header of a page that begins a new use. Excludes a chain's first page, which
    /// only its descriptor names.
    WritePage,
    /// The last read of the payload.
    ReadPayload,
    /// A broker's check of the cursors of the receivers that read by reference.
    LookAtReaders,
    /// An atomic load. The load that should follow it comes first.
    Look(Site),
}

/// Two steps of one process. The first comes too late, after the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swap {
    /// The step that should come first.
    pub first: Step,
    /// The steps that should come later. The first step comes after any of these.
    pub then: &'static [Site],
    /// The effect of the mistake.
    pub otherwise: &'static str,
}

macro_rules! swaps {
    ($($first:expr, behind $($then:ident)|+: $otherwise:literal;)*) => {
        impl Swap {
            /// All orders of steps that matter.
            pub const ALL: &[Swap] =
                &[$(Swap { first: $first, then: &[$(Site::$then),+], otherwise: $otherwise },)*];
        }
    };
}

use Step::{Look, LookAtReaders, ReadPayload, Store, WritePage, WritePayload, WriteSlot};

swaps! {
    WritePayload, behind CommitPublish: "a reader accepts a payload that is not written yet";
    WriteSlot, behind CommitPublish: "a reader accepts a tag, or a page id, that is not written yet";
    Store(Site::CommitClear), behind CommitPublish: "a reader accepts the old commit word after the message";
    WritePage, behind CommitPublish: "a reader advances to a page with an old header";
    Store(Site::PageClear), behind CommitPublish: "a reader advances to a page and accepts an old message";
    Store(Site::CommitFill), behind CommitPublish: "part of a batch becomes visible";
    ReadPayload, behind CursorPublish: "a reader reads what the writer writes again";
    LookAtReaders, behind CursorPublish: "a client writes what receivers read by reference";
    Store(Site::ParkStore), behind CommitRead | CursorRead: "a publisher does not see a process that checked and then sleeps";
    Store(Site::CommitPublish), behind RingRead: "a process that sleeps for a message is not rung, and misses it";
    Store(Site::CursorPublish), behind RingRead: "a process that sleeps for room is not rung, and misses it";
    Store(Site::ConsumedPublish), behind RingRead: "a process that sleeps until all is consumed is not rung, and misses it";
    Store(Site::PollingStore), behind ParkStore: "a sleeping process states that it polls";
    Store(Site::CommitPublish), behind CursorPublish | ConsumedPublish: "messages that a broker has released or stated as consumed are lost if it dies now";
    Store(Site::MemberStore), behind CommitPublish | CursorPublish: "a removed reader accepts what was written over its message";
    ReadPayload, behind MemberRead: "a reader accepts what was written while it copied";
    Store(Site::RetiredPublish), behind CursorPublish: "a client writes what a removed receiver reads in place";
    Look(Site::CursorRead), behind RetiredRead: "a client writes what a removed receiver reads in place";
    Look(Site::RetiredRead), behind MemberRead: "a client takes a word that was reset for the next client of its entry for its own";
    Store(Site::IntentBegin), behind CommitPublish: "what a dead broker had not published counts as consumed";
    Store(Site::IntentConsumed), behind CursorPublish: "what a dead broker had published is published again";
    Store(Site::CursorPublish), behind IntentConsumed: "what a dead broker had published is published again";
    Store(Site::ParkClear), behind ParkStore: "a process that is awake is rung once";
}

impl std::fmt::Display for Swap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first {
            Store(site) | Look(site) => write!(f, "{site:?}")?,
            step => write!(f, "{step:?}")?,
        }
        let then: Vec<_> = self.then.iter().map(|site| format!("{site:?}")).collect();
        write!(f, " behind {}", then.join("/"))
    }
}

/// The mistake of one run, with its delayed accesses. All regions of all processes share it.
pub struct Reordering<M> {
    swap: Option<Swap>,
    /// Returns the name of the running process: each process is one thread.
    thread: fn() -> String,
    held: Mutex<Vec<Held<M>>>,
    regions: AtomicUsize,
    /// The words that were loaded too early, and the values found.
    early: Mutex<Early<M>>,
}

/// For each thread: a region and an offset, and the value.
type Early<M> = Vec<(String, M, usize, Option<u64>)>;

impl<M: Memory> Reordering<M> {
    /// Returns a run with all steps in order, or with two of them swapped in every process.
    /// `thread` names the calling thread.
    pub fn new(swap: Option<Swap>, thread: fn() -> String) -> Arc<Self> {
        Arc::new(Reordering {
            swap,
            thread,
            held: Mutex::default(),
            regions: AtomicUsize::new(0),
            early: Mutex::default(),
        })
    }

    /// Returns a region as it is in this run.
    pub fn reordered(self: &Arc<Self>, memory: M) -> Reordered<M> {
        let region = self.regions.fetch_add(1, Ordering::Relaxed);
        Interposed::new(memory, Steps { region, run: self.clone() })
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held<M>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Performs the delayed accesses of the calling thread that are due. Releases the lock first,
    /// because a model checker may switch to another thread.
    fn catch_up(&self, is_due: impl Fn(&Held<M>) -> bool) {
        let me = (self.thread)();
        loop {
            let mut held = self.held();
            let Some(i) = held.iter().position(|h| h.thread == me && is_due(h)) else { return };
            let due = held.remove(i);
            drop(held);
            due.access.make(&due.memory, due.at);
        }
    }
}

/// A delayed access.
struct Held<M> {
    thread: String,
    region: usize,
    memory: M,
    at: usize,
    access: Late,
}

enum Late {
    Store(u64, Site),
    Words(Vec<u64>),
    Bytes(Vec<u8>),
    /// A read that was made already and is repeated.
    Read(usize),
}

impl Late {
    fn is_store(&self) -> bool {
        matches!(self, Late::Store(..))
    }

    fn make<M: Memory>(self, memory: &M, at: usize) {
        match self {
            Late::Store(value, site) => memory.store(at, value, site),
            Late::Words(words) => {
                words
                    .into_iter()
                    .enumerate()
                    .for_each(|(i, w)| memory.write_words(at + WORD * i, [w]));
            }
            Late::Bytes(bytes) => memory.write_bytes(at, &bytes),
            Late::Read(len) => memory.read_bytes(at, &mut vec![0; len]),
        }
    }
}

/// Memory in which steps may come in the wrong order.
pub type Reordered<M> = Interposed<M, Steps<M>>;

impl<M: Memory> Reordered<M> {
    /// Returns the same region for a process whose steps come in another order.
    #[must_use]
    pub fn in_run(&self, run: &Arc<Reordering<M>>) -> Self {
        let steps = Steps { run: run.clone(), ..self.hooks().clone() };
        Self::new(self.memory().clone(), steps)
    }

    /// Returns the same region with another underlying memory.
    #[must_use]
    pub fn map(&self, access: impl FnOnce(M) -> M) -> Self {
        Self::new(access(self.memory().clone()), self.hooks().clone())
    }
}

/// The order of the steps in one region.
#[derive(Clone)]
pub struct Steps<M> {
    /// Number of the region in this run.
    region: usize,
    run: Arc<Reordering<M>>,
}

impl<M: Memory> Steps<M> {
    /// Returns whether `step` must come too late.
    fn is_moved(&self, step: Step) -> bool {
        self.run.swap.is_some_and(|swap| swap.first == step)
    }

    /// Returns whether `site` finds the value of an earlier load.
    fn is_looked_at_early(&self, site: Site) -> bool {
        matches!(site, Site::MemberRead | Site::RetiredRead)
            && self.run.swap.is_some_and(|swap| swap.then == [site])
    }

    fn early(&self) -> MutexGuard<'_, Early<M>> {
        self.run.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads now what is to be loaded later.
    fn look_early(&self, memory: &M, at: usize) {
        let value = memory.load(at, Site::RetiredRead);
        let me = (self.run.thread)();
        let mut early = self.early();
        early.retain(|(thread, ..)| *thread != me);
        early.push((me, memory.clone(), at, Some(value)));
    }

    /// Loads early again, at the last location.
    fn look_early_again(&self) {
        let me = (self.run.thread)();
        let last = self.early().iter().find(|(thread, ..)| *thread == me).cloned();
        if let Some((_, memory, at, _)) = last.filter(|_| self.is_looked_at_early(Site::MemberRead))
        {
            self.look_early(&memory, at);
        }
    }

    /// Returns the value that was loaded early, once. Keeps the location for the next load.
    fn looked_early(&self, memory: &M, at: usize) -> Option<u64> {
        let me = (self.run.thread)();
        let found = self.early().iter_mut().find(|(thread, ..)| *thread == me).map(|e| e.3.take());
        if found.is_none() {
            self.early().push((me, memory.clone(), at, None));
        }
        found.flatten()
    }

    fn hold(&self, memory: &M, at: usize, access: Late) {
        let (thread, region, memory) = ((self.run.thread)(), self.region, memory.clone());
        self.run.held().push(Held { thread, region, memory, at, access });
    }

    /// Performs the accesses that wait for an access of `site` at `at`.
    fn passed(&self, memory: &M, at: usize, site: Site) {
        if self.run.swap.is_some_and(|swap| swap.then.contains(&site)) {
            // Another process may run in between. A model checker switches only at an atomic
            // access.
            memory.load(at, Site::RingRead);
            self.run.catch_up(|_| true);
        }
    }

    /// Returns the write as a step that can be late.
    fn step(at: usize, access: &Access<'_>) -> Option<(Step, Late)> {
        Some(match access {
            Access::Store(site, value) => (Store(*site), Late::Store(*value, *site)),
            Access::WriteWords(words) => {
                let step = match (at, words.get(PAGE_BASE / WORD)) {
                    (0, Some(0) | None) => return None,
                    (0, Some(_)) => WritePage,
                    _ => WriteSlot,
                };
                (step, Late::Words(words.to_vec()))
            }
            Access::WriteBytes(bytes) => (WritePayload, Late::Bytes(bytes.to_vec())),
            _ => return None,
        })
    }
}

impl<M: Memory> Interpose<M> for Steps<M> {
    fn before(&self, memory: &M, at: usize, access: Access<'_>) -> bool {
        if self.run.swap.is_none() {
            return true;
        }
        if let Access::Store(..) = access {
            // Two stores to one word stay in their order.
            self.run.catch_up(|h| (h.region, h.at) == (self.region, at) && h.access.is_store());
        }
        if let Some((step, late)) = Self::step(at, &access)
            && self.is_moved(step)
        {
            self.hold(memory, at, late);
            return false;
        }
        match access {
            Access::Load(site, value) => {
                match site {
                    _ if !self.is_moved(Look(site)) => {}
                    Site::CursorRead => self.look_early(memory, at + CONTROL_RETIRED),
                    _ => self.look_early(memory, at - CONTROL_RETIRED + CONTROL_MEMBER),
                }
                if self.is_looked_at_early(site)
                    && let Some(early) = self.looked_early(memory, at)
                {
                    *value = early;
                    self.passed(memory, at, site);
                    return false;
                }
            }
            Access::Store(Site::ConsumedPublish, value) if self.is_moved(LookAtReaders) => {
                // Releases everything consumed, whether receivers still read it or not.
                memory.store(at - CONTROL_CONSUMED, value, Site::CursorPublish);
            }
            Access::ReadBytes(_) if self.is_moved(ReadPayload) => self.look_early_again(),
            _ => {}
        }
        true
    }

    fn after(&self, memory: &M, at: usize, access: Access<'_>) {
        match access {
            Access::Load(site, _) | Access::Store(site, _) => self.passed(memory, at, site),
            Access::ReadBytes(into)
                if self.is_moved(ReadPayload) && !self.is_looked_at_early(Site::MemberRead) =>
            {
                // Only the last read, because what was released before may be written.
                let me = (self.run.thread)();
                self.run.held().retain(|h| h.thread != me);
                self.hold(memory, at, Late::Read(into.len()));
            }
            _ => {}
        }
    }
}

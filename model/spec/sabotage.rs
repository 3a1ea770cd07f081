//! Code that is broken on purpose: memory in which a process takes its steps in another order, or
//! leaves one out. It wraps [`Traced`](crate::trace::Traced) memory, so the trace records what
//! really happens.

use crate::scenario::{Note, Runtime, Who};
use llmp::core::layout::*;
use llmp::core::memory::{Intent, Memory, Offset};
use llmp::core::order::Site;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

macro_rules! sabotages {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The sabotage.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Sabotage { $($(#[$doc])* $name,)* }

        impl Sabotage {
            pub const ALL: &[Sabotage] = &[$(Sabotage::$name,)*];
        }
    };
}

sabotages! {
    /// The slot after a message is cleared after the message was published.
    ClearAfterPublish,
    /// A batch is published before its other messages are committed.
    FillAfterPublish,
    /// The payload is written after the message was published.
    PayloadAfterPublish,
    /// A page's header is written after the page was named.
    HeaderAfterPublish,
    /// A page is named with the previous word in its first slot.
    PageNotEmptied,
    /// The sender assumes that all receivers are at its tail.
    CursorNotRead,
    /// A receiver releases a page when it has seen its end and not yet followed it.
    GivesUpAtEndOfPage,
    /// The broker releases what it consumed before it publishes it.
    PublishAfterGivingUp,
    /// A process parks after its second check.
    ParkAfterLook,
    /// A process sleeps without a second check.
    NoSecondLook,
    /// A process executes no fence before its second check.
    NoParkFence,
    /// No process checks for sleeping peers.
    NoRingRead,
    /// A process executes no fence before it checks for sleeping peers.
    NoRingFence,
    /// The broker releases messages by reference as soon as it has consumed them.
    ReleasesForeignPages,
    /// The broker sleeps without reading the cursors again.
    NoSecondCursorRead,
}

/// A delayed write.
type Held = Box<dyn FnOnce() + Send>;

/// The state that the sabotage of a process needs.
#[derive(Default)]
struct Mind {
    held: Vec<Held>,
    /// Where its last batch begins.
    published: u64,
    /// How it stores its cursor.
    cursor: Option<Box<dyn Fn(u64) + Send>>,
    is_parked: bool,
    /// The cursors that it has stored too early.
    released: BTreeMap<usize, u64>,
}

type Minds = Arc<Mutex<BTreeMap<Who, Mind>>>;

/// A runtime on which every process has the same sabotage.
#[derive(Clone)]
pub struct Sabotaged<R> {
    runtime: R,
    how: Sabotage,
    minds: Minds,
}

impl<R> Sabotaged<R> {
    pub fn new(runtime: R, how: Sabotage) -> Self {
        Sabotaged { runtime, how, minds: Minds::default() }
    }
}

impl<R: Runtime> Runtime for Sabotaged<R> {
    type Memory = Broken<R::Memory>;
    type Mailbox<T: Send + 'static> = R::Mailbox<T>;

    fn memory(&self, len: usize) -> Self::Memory {
        let (memory, minds) = (self.runtime.memory(len), self.minds.clone());
        Broken { memory, how: self.how, who: None, base: Arc::default(), minds }
    }

    fn mailbox<T: Send + 'static>(&self) -> Self::Mailbox<T> {
        self.runtime.mailbox()
    }

    fn seen_by(&self, memory: &Self::Memory, who: Who) -> Self::Memory {
        let seen = self.runtime.seen_by(&memory.memory, who);
        Broken { memory: seen, who: Some(who), ..memory.clone() }
    }

    fn is_control(&self, memory: &Self::Memory, of: Who) {
        self.runtime.is_control(&memory.memory, of);
    }

    fn note(&self, note: Note) {
        self.runtime.note(note);
    }

    fn spawn<T: Send + 'static>(
        &self,
        thread: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        self.runtime.spawn(thread)
    }
}

/// Memory as a broken process uses it.
#[derive(Clone)]
pub struct Broken<M> {
    memory: M,
    how: Sabotage,
    who: Option<Who>,
    /// The base in the page's header, shared by all views of the region.
    base: Arc<Mutex<u64>>,
    minds: Minds,
}

impl<M: Memory + Send + Sync + 'static> Broken<M> {
    fn mind<T>(&self, think: impl FnOnce(&mut Mind) -> T) -> T {
        let mut minds = self.minds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        think(minds.entry(self.who.unwrap_or(Who::MAX)).or_default())
    }

    fn hold(&self, write: impl FnOnce(&M) + Send + 'static) {
        let memory = self.memory.clone();
        self.mind(|mind| mind.held.push(Box::new(move || write(&memory))));
    }

    fn release(&self) {
        for write in self.mind(|mind| std::mem::take(&mut mind.held)) {
            write();
        }
    }

    fn is_broker(&self) -> bool {
        self.who == Some(0)
    }
}

impl<M: Memory + Send + Sync + 'static> Memory for Broken<M> {
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
        use Sabotage::*;
        let is_parked = self.mind(|mind| mind.is_parked);
        match (self.how, site) {
            (NoRingRead, Site::RingRead) => return 0,
            (NoSecondLook, Site::CommitRead) if is_parked => return 0,
            (NoSecondCursorRead, Site::CursorRead) if is_parked && self.is_broker() => return 0,
            (CursorNotRead, Site::CursorRead) => return self.mind(|mind| mind.published),
            _ => {}
        }
        let value = self.memory.load(at, site);
        if site == Site::CommitRead && self.how == ParkAfterLook {
            self.release();
        }
        let is_end = value == commit_word(0, KIND_EOP, 0, 0);
        if site == Site::CommitRead && self.how == GivesUpAtEndOfPage && is_end {
            let next = *self.base.lock().unwrap() + (self.region_len() + PAGE_HEADER) as u64;
            if let Some(store) = self.mind(|mind| mind.cursor.take()) {
                store(next);
                self.mind(|mind| mind.cursor = Some(store));
            }
        }
        value
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        use Sabotage::*;
        match site {
            Site::ParkStore => self.mind(|mind| mind.is_parked = true),
            Site::ParkClear => self.mind(|mind| mind.is_parked = false),
            Site::CursorPublish => {
                let memory = self.memory.clone();
                let store = move |to| memory.store(at, to, Site::CursorPublish);
                self.mind(|mind| mind.cursor = Some(Box::new(store)));
            }
            Site::CommitPublish => {
                let position = *self.base.lock().unwrap() + at as u64;
                self.mind(|mind| mind.published = position);
            }
            _ => {}
        }
        let released = self.mind(|mind| mind.released.get(&at).copied());
        if site == Site::CursorPublish && released.is_some_and(|to| (1..=to).contains(&value)) {
            return;
        }
        if self.how == PageNotEmptied && site == Site::PageClear {
            return;
        }
        let is_late = match self.how {
            ClearAfterPublish => site == Site::CommitClear,
            FillAfterPublish => site == Site::CommitFill,
            ParkAfterLook => site == Site::ParkStore,
            PublishAfterGivingUp => site == Site::CommitPublish && self.is_broker(),
            _ => false,
        };
        if is_late {
            return self.hold(move |memory| memory.store(at, value, site));
        }
        self.memory.store(at, value, site);
        match (self.how, site) {
            (PublishAfterGivingUp, Site::CursorPublish) if value > 0 => self.release(),
            (PublishAfterGivingUp | ParkAfterLook, _) => {}
            (ReleasesForeignPages, Site::ConsumedPublish) if value > 0 => {
                let cursor = at - CONTROL_CONSUMED;
                self.mind(|mind| mind.released.insert(cursor, value));
                self.memory.store(cursor, value, Site::CursorPublish);
            }
            (_, Site::CommitPublish) => self.release(),
            _ => {}
        }
    }

    fn fence(&self, site: Site) {
        let is_left_out = match self.how {
            Sabotage::NoParkFence => site == Site::ParkFence,
            Sabotage::NoRingFence => site == Site::RingFence,
            _ => false,
        };
        if !is_left_out {
            self.memory.fence(site);
        }
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        self.memory.read_words(at)
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        if at == 0 && words[0] == PAGE_MAGIC {
            *self.base.lock().unwrap() = words[PAGE_BASE / WORD];
            // No process can read the first page yet.
            if self.how == Sabotage::HeaderAfterPublish && words[PAGE_BASE / WORD] > 0 {
                return self.hold(move |memory| memory.write_words(at, words));
            }
        }
        self.memory.write_words(at, words);
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        self.memory.read_bytes(at, into);
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        if self.how == Sabotage::PayloadAfterPublish {
            let bytes = from.to_vec();
            return self.hold(move |memory| memory.write_bytes(at, &bytes));
        }
        self.memory.write_bytes(at, from);
    }
}

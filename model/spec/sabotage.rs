//! Code that is broken on purpose: memory in which a process takes its steps in another order, or
//! leaves one out. It wraps [`Traced`](crate::trace::Traced) memory, so the trace records what
//! really happens.

use crate::scenario::doubles::{Access, Interpose, Interposed};
use crate::scenario::{Note, Runtime, Who};
use llmp::core::layout::*;
use llmp::core::memory::Memory;
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
        let minds = self.minds.clone();
        let saboteur = Saboteur { how: self.how, who: None, base: Arc::default(), minds };
        Broken::new(self.runtime.memory(len), saboteur)
    }

    fn mailbox<T: Send + 'static>(&self) -> Self::Mailbox<T> {
        self.runtime.mailbox()
    }

    fn seen_by(&self, memory: &Self::Memory, who: Who) -> Self::Memory {
        let seen = self.runtime.seen_by(memory.memory(), who);
        Broken::new(seen, Saboteur { who: Some(who), ..memory.hooks().clone() })
    }

    fn is_control(&self, memory: &Self::Memory, of: Who) {
        self.runtime.is_control(memory.memory(), of);
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
pub type Broken<M> = Interposed<M, Saboteur>;

/// A broken process in one region.
#[derive(Clone)]
pub struct Saboteur {
    how: Sabotage,
    who: Option<Who>,
    /// The base in the page's header, shared by all views of the region.
    base: Arc<Mutex<u64>>,
    minds: Minds,
}

impl Saboteur {
    fn mind<T>(&self, think: impl FnOnce(&mut Mind) -> T) -> T {
        let mut minds = self.minds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        think(minds.entry(self.who.unwrap_or(Who::MAX)).or_default())
    }

    /// Delays a write, which does not take place now.
    fn hold(&self, write: impl FnOnce() + Send + 'static) -> bool {
        self.mind(|mind| mind.held.push(Box::new(write)));
        false
    }

    fn release(&self) {
        for write in self.mind(|mind| std::mem::take(&mut mind.held)) {
            write();
        }
    }

    fn is_broker(&self) -> bool {
        self.who == Some(0)
    }

    fn is_parked(&self) -> bool {
        self.mind(|mind| mind.is_parked)
    }

    fn base(&self) -> u64 {
        *self.base.lock().unwrap()
    }

    /// Notes what the process does, as a sabotage may need it later.
    fn note<M>(&self, memory: &M, at: usize, access: &Access<'_>)
    where
        M: Memory + Send + Sync + 'static,
    {
        match access {
            Access::Store(Site::ParkStore, _) => self.mind(|mind| mind.is_parked = true),
            Access::Store(Site::ParkClear, _) => self.mind(|mind| mind.is_parked = false),
            Access::Store(site @ Site::CursorPublish, _) => {
                let (memory, site) = (memory.clone(), *site);
                let store = Box::new(move |to| memory.store(at, to, site));
                self.mind(|mind| mind.cursor = Some(store));
            }
            Access::Store(Site::CommitPublish, _) => {
                let position = self.base() + at as u64;
                self.mind(|mind| mind.published = position);
            }
            Access::WriteWords(words) if at == 0 && words[0] == PAGE_MAGIC => {
                *self.base.lock().unwrap() = words[PAGE_BASE / WORD];
            }
            _ => {}
        }
    }

    /// Returns whether this process stored such a cursor too early.
    fn has_released(&self, at: usize, to: u64) -> bool {
        let released = self.mind(|mind| mind.released.get(&at).copied());
        released.is_some_and(|released| (1..=released).contains(&to))
    }
}

impl<M: Memory + Send + Sync + 'static> Interpose<M> for Saboteur {
    fn before(&self, memory: &M, at: usize, access: Access<'_>) -> bool {
        use Access::{Fence, Load, Store, WriteBytes, WriteWords};
        use Sabotage::*;
        self.note(memory, at, &access);
        let memory = memory.clone();
        match (self.how, access) {
            (NoRingRead, Load(Site::RingRead, _))
            | (NoParkFence, Fence(Site::ParkFence))
            | (NoRingFence, Fence(Site::RingFence))
            | (PageNotEmptied, Store(Site::PageClear, _)) => false,
            (NoSecondLook, Load(Site::CommitRead, _)) => !self.is_parked(),
            (NoSecondCursorRead, Load(Site::CursorRead, _)) => {
                !(self.is_parked() && self.is_broker())
            }
            (CursorNotRead, Load(Site::CursorRead, value)) => {
                *value = self.mind(|mind| mind.published);
                false
            }
            (ReleasesForeignPages, Store(Site::CursorPublish, to)) => !self.has_released(at, to),
            (ClearAfterPublish, Store(site @ Site::CommitClear, value))
            | (FillAfterPublish, Store(site @ Site::CommitFill, value))
            | (ParkAfterLook, Store(site @ Site::ParkStore, value)) => {
                self.hold(move || memory.store(at, value, site))
            }
            (PublishAfterGivingUp, Store(site @ Site::CommitPublish, value))
                if self.is_broker() =>
            {
                self.hold(move || memory.store(at, value, site))
            }
            // No process can read the first page yet.
            (HeaderAfterPublish, WriteWords(words))
                if at == 0 && words[0] == PAGE_MAGIC && self.base() > 0 =>
            {
                let header: [u64; PAGE_HEADER / WORD] = words.try_into().expect("a page's header");
                self.hold(move || memory.write_words(at, header))
            }
            (PayloadAfterPublish, WriteBytes(bytes)) => {
                let bytes = bytes.to_vec();
                self.hold(move || memory.write_bytes(at, &bytes))
            }
            _ => true,
        }
    }

    fn after(&self, memory: &M, at: usize, access: Access<'_>) {
        use Access::{Load, Store};
        use Sabotage::*;
        match (self.how, access) {
            (ParkAfterLook, Load(Site::CommitRead, _)) => self.release(),
            (GivesUpAtEndOfPage, Load(Site::CommitRead, value))
                if *value == commit_word(0, KIND_EOP, 0, 0) =>
            {
                let next = self.base() + (memory.region_len() + PAGE_HEADER) as u64;
                if let Some(store) = self.mind(|mind| mind.cursor.take()) {
                    store(next);
                    self.mind(|mind| mind.cursor = Some(store));
                }
            }
            (PublishAfterGivingUp, Store(Site::CursorPublish, 1..)) => self.release(),
            (PublishAfterGivingUp | ParkAfterLook, _) => {}
            (ReleasesForeignPages, Store(Site::ConsumedPublish, value @ 1..)) => {
                let cursor = at - CONTROL_CONSUMED;
                self.mind(|mind| mind.released.insert(cursor, value));
                memory.store(cursor, value, Site::CursorPublish);
            }
            (_, Store(Site::CommitPublish, _)) => self.release(),
            _ => {}
        }
    }
}

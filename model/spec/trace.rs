//! Records a run of the real code: every access of shared memory, and what the scenario did with
//! connections.
//!
//! [`Traced`] is a decorator over any memory. It records an access directly after the access, where
//! no checker switches threads. So the order of the log is the order of the accesses.

use crate::scenario::doubles::{Access, Interpose, Interposed};
use crate::scenario::{Note, Runtime, Who};
use crate::translate::Translator;
use llmp::core::memory::Memory;
use llmp::core::order::Site;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The owner of a region that is not known yet.
const NO_PROCESS: Who = Who::MAX;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Note(Note),
    /// The region holds this process' parked word and cursors.
    Control {
        region: usize,
        of: Who,
    },
    Access {
        who: Who,
        region: usize,
        at: usize,
        access: Recorded,
    },
}

/// An access, and the values that the specification needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    Load(Site, u64),
    Store(Site, u64),
    Fence(Site),
    ReadWords,
    WriteWords(Vec<u64>),
    ReadBytes,
    /// The number of bytes.
    WriteBytes(usize),
}

/// The events in order. The specification follows them as they happen. A clone is the same log.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Entries>>);

struct Entries {
    translator: Translator,
    /// The end of the trace, to diagnose a failure.
    tail: VecDeque<Event>,
    regions: usize,
    /// A trace ends with its first refusal.
    is_refused: bool,
}

/// Beginning of the panic message when the specification does not allow an action of the code.
const REFUSED: &str = "the specification does not allow the last of these: ";

/// Returns why the specification refused, if the panic is such a refusal.
pub fn refused(panic: &(dyn Any + Send)) -> Option<String> {
    let why = panic.downcast_ref::<String>()?.strip_prefix(REFUSED)?;
    why.lines().next().map(str::to_string)
}

const TAIL: usize = 40;

impl Log {
    pub fn new(budget: usize, bells: bool) -> Self {
        let translator = Translator::new(budget, bells);
        let tail = VecDeque::new();
        Log(Arc::new(Mutex::new(Entries { translator, tail, regions: 0, is_refused: false })))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, note: Note) {
        self.push(Event::Note(note));
    }

    /// Returns the number of actions of the specification until now.
    pub fn actions(&self) -> u64 {
        self.entries().translator.actions
    }

    fn push(&self, event: Event) {
        let mut entries = self.entries();
        if entries.is_refused {
            return;
        }
        if entries.tail.len() == TAIL {
            entries.tail.pop_front();
        }
        let verdict = entries.translator.take(&event);
        entries.tail.push_back(event);
        let Err(violation) = verdict else { return };
        entries.is_refused = true;
        let tail: Vec<String> = entries.tail.iter().map(|event| format!("  {event:?}")).collect();
        let state = format!("{:#?}", entries.translator.bus());
        drop(entries);
        if std::env::var_os("LLMP_SPEC_STATE").is_some() {
            eprintln!("{state}");
        }
        panic!("{REFUSED}{violation}\n{}", tail.join("\n"));
    }

    /// Returns a new region without an owner.
    pub fn traced<M: Memory>(&self, memory: M) -> Traced<M> {
        let mut entries = self.entries();
        entries.regions += 1;
        let (region, log) = (entries.regions - 1, self.clone());
        Interposed::new(memory, Recorder { region, who: NO_PROCESS, log })
    }
}

/// Memory that records each access and its process.
pub type Traced<M> = Interposed<M, Recorder>;

/// A region and a process in the log.
#[derive(Clone)]
pub struct Recorder {
    region: usize,
    who: Who,
    log: Log,
}

impl<M> Interpose<M> for Recorder {
    fn after(&self, _: &M, at: usize, access: Access<'_>) {
        if self.who == NO_PROCESS {
            return;
        }
        let access = match access {
            Access::Load(site, value) => Recorded::Load(site, *value),
            Access::Store(site, value) => Recorded::Store(site, value),
            Access::Fence(site) => Recorded::Fence(site),
            Access::ReadWords(_) => Recorded::ReadWords,
            Access::WriteWords(words) => Recorded::WriteWords(words.to_vec()),
            Access::ReadBytes(_) => Recorded::ReadBytes,
            Access::WriteBytes(bytes) => Recorded::WriteBytes(bytes.len()),
        };
        self.log.push(Event::Access { who: self.who, region: self.region, at, access });
    }
}

/// A runtime whose runs are recorded and followed by the specification.
#[derive(Clone)]
pub struct Tracing<R> {
    runtime: R,
    pub log: Log,
}

impl<R> Tracing<R> {
    /// Returns a runtime. `budget` is the budget of every chain. `bells` says whether processes
    /// sleep.
    pub fn new(runtime: R, budget: usize, bells: bool) -> Self {
        Tracing { runtime, log: Log::new(budget, bells) }
    }
}

impl<R: Runtime> Runtime for Tracing<R> {
    type Memory = Traced<R::Memory>;
    type Mailbox<T: Send + 'static> = R::Mailbox<T>;

    fn memory(&self, len: usize) -> Self::Memory {
        self.log.traced(self.runtime.memory(len))
    }

    fn mailbox<T: Send + 'static>(&self) -> Self::Mailbox<T> {
        self.runtime.mailbox()
    }

    fn seen_by(&self, memory: &Self::Memory, who: Who) -> Self::Memory {
        Traced::new(memory.memory().clone(), Recorder { who, ..memory.hooks().clone() })
    }

    fn is_control(&self, memory: &Self::Memory, of: Who) {
        self.log.push(Event::Control { region: memory.hooks().region, of });
    }

    fn note(&self, note: Note) {
        self.log.note(note);
    }

    fn spawn<T: Send + 'static>(
        &self,
        thread: impl FnOnce() -> T + Send + 'static,
    ) -> Box<dyn FnOnce() -> T> {
        self.runtime.spawn(thread)
    }
}

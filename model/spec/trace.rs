//! Records a run of the real code: every access of shared memory, and what the scenario did with
//! connections.
//!
//! [`Traced`] is a decorator over any memory. It records an access directly after the access, where
//! no checker switches threads. So the order of the log is the order of the accesses.

use crate::scenario::{Note, Runtime, Who};
use crate::translate::Translator;
use llmp::core::memory::{Intent, Memory, Offset};
use llmp::core::order::Site;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The owner of a region that is not known yet.
const NOBODY: Who = Who::MAX;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Note(Note),
    /// The region holds this process' parked word and cursors.
    Control {
        region: usize,
        of: Who,
    },
    Load {
        who: Who,
        region: usize,
        at: usize,
        site: Site,
        value: u64,
    },
    Store {
        who: Who,
        region: usize,
        at: usize,
        site: Site,
        value: u64,
    },
    Fence {
        who: Who,
        site: Site,
    },
    ReadWords {
        who: Who,
        region: usize,
        at: usize,
    },
    WriteWords {
        who: Who,
        region: usize,
        at: usize,
        words: Vec<u64>,
    },
    ReadBytes {
        who: Who,
        region: usize,
        at: usize,
    },
    WriteBytes {
        who: Who,
        region: usize,
        at: usize,
        len: usize,
    },
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
        Traced { memory, region: entries.regions - 1, who: NOBODY, log: self.clone() }
    }
}

/// Memory that records each access and its process.
#[derive(Clone)]
pub struct Traced<M> {
    memory: M,
    region: usize,
    who: Who,
    log: Log,
}

impl<M: Memory> Traced<M> {
    /// Returns the same region as another process sees it.
    pub fn seen_by(&self, who: Who) -> Self {
        Traced { who, ..self.clone() }
    }

    /// Records the owner of its parked word and cursors.
    pub fn is_control(&self, of: Who) {
        self.log.push(Event::Control { region: self.region, of });
    }

    fn push(&self, event: impl FnOnce(Who, usize) -> Event) {
        if self.who != NOBODY {
            self.log.push(event(self.who, self.region));
        }
    }
}

impl<M: Memory> Memory for Traced<M> {
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
        let value = self.memory.load(at, site);
        self.push(|who, region| Event::Load { who, region, at, site, value });
        value
    }

    fn store(&self, at: usize, value: u64, site: Site) {
        self.memory.store(at, value, site);
        self.push(|who, region| Event::Store { who, region, at, site, value });
    }

    fn fence(&self, site: Site) {
        self.memory.fence(site);
        self.push(|who, _| Event::Fence { who, site });
    }

    fn read_words<const N: usize>(&self, at: usize) -> [u64; N] {
        let words = self.memory.read_words(at);
        self.push(|who, region| Event::ReadWords { who, region, at });
        words
    }

    fn write_words<const N: usize>(&self, at: usize, words: [u64; N]) {
        self.memory.write_words(at, words);
        let words = words.to_vec();
        self.push(|who, region| Event::WriteWords { who, region, at, words });
    }

    fn read_bytes(&self, at: usize, into: &mut [u8]) {
        self.memory.read_bytes(at, into);
        self.push(|who, region| Event::ReadBytes { who, region, at });
    }

    fn write_bytes(&self, at: usize, from: &[u8]) {
        self.memory.write_bytes(at, from);
        let len = from.len();
        self.push(|who, region| Event::WriteBytes { who, region, at, len });
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
        memory.seen_by(who)
    }

    fn is_control(&self, memory: &Self::Memory, of: Who) {
        memory.is_control(of);
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

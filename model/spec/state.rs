//! The state of the abstract bus.
//!
//! Space is counted in *units*: the length of an end-of-page message. A model's page has four of
//! them. In a trace of the real code 16 bytes are one unit.

pub use crate::removed::Removed;
use smallvec::SmallVec;

/// A process. 0 is the broker, or the only sender where there is no bus. The others are clients.
pub type Id = u8;
pub const BROKER: Id = 0;
/// The chain that process 0 sends. Client c sends chain c, which process 0 reads.
pub const BROADCAST: Id = BROKER;

/// A set of small numbers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Set(u32);

impl Set {
    #[allow(dead_code, reason = "used by the model's programs")]
    pub const NONE: Set = Set(0);

    pub fn insert(&mut self, id: Id) {
        assert!(id < 32, "a trace with fewer processes is long enough");
        self.0 |= 1 << id;
    }

    pub fn remove(&mut self, id: Id) {
        self.0 &= !(1 << id);
    }

    pub fn has(self, id: Id) -> bool {
        self.0 & 1 << id != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[allow(dead_code, reason = "used by the model's programs")]
    pub fn iter(self) -> impl Iterator<Item = Id> {
        (0..32).filter(move |id| self.has(*id))
    }
}

/// The commit word of a unit.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Word {
    Zero,
    /// Bytes of a payload, or of the page's previous use. A receiver that reads them gets garbage.
    #[default]
    Other,
    Message {
        from: Id,
        number: u16,
        units: u16,
    },
    EndOfPage {
        next: u16,
    },
    /// A client's message by reference. Its payload lies in the client's own page, whose id in the
    /// broadcast chain is `foreign_page`, at unit `at`.
    Reference {
        from: Id,
        number: u16,
        units: u16,
        foreign_page: u16,
        at: u16,
    },
}

impl Word {
    /// Returns the sender and the number of a message.
    pub fn message(self) -> Option<(Id, u16)> {
        match self {
            Word::Message { from, number, .. } | Word::Reference { from, number, .. } => {
                Some((from, number))
            }
            Word::Zero | Word::Other | Word::EndOfPage { .. } => None,
        }
    }
}

/// A place in a chain: a position and its page.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    pub page: u16,
    pub position: u32,
}

/// A page of a chain's pool.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Page {
    pub id: u16,
    pub len: u32,
    /// The base and the first message in its header; `None` before its first use.
    pub header: Option<(u32, u16)>,
    /// Whether the end-of-page message that names it was published. Until then it may be put to
    /// another use at any time.
    pub is_linked: bool,
    /// Its commit words, as they stand in memory.
    pub words: SmallVec<[Word; 4]>,
    /// The receivers that were sent its descriptor.
    pub sent: Set,
}

impl Page {
    pub fn end(&self) -> Option<u32> {
        Some(self.header?.0 + self.len)
    }

    /// Returns the unit of a position in the page.
    pub fn unit(&self, position: u32) -> Option<usize> {
        let (base, _) = self.header?;
        (base..base + self.len).contains(&position).then(|| (position - base) as usize)
    }
}

/// A receiver of a chain.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Reader {
    pub by: Id,
    /// The slot that it reads next, and the number of the message there.
    pub place: Place,
    pub next: u16,
    /// What it has found there and not passed yet.
    pub found: Option<Word>,
    /// Whether it has begun to read. The sender counts it earlier.
    pub has_begun: bool,
    /// Its cursor as it stands in memory; 0 before the first store.
    pub cursor: u32,
    /// Its consumed word.
    pub taken: u32,
    /// The sender's private copy of the cursor.
    pub seen: u32,
    /// Whether it reads in place and has handed out what it found.
    pub has_in_hand: bool,
    /// The retired word beside the cursor. Pages that begin before it are not reused.
    pub retired: u32,
}

/// A chain with its pool of pages.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Chain {
    pub pages: SmallVec<[Page; 2]>,
    /// The id of the next new page.
    pub next_page: u16,
    /// The slot after the last published message, and that message's number plus one.
    pub tail: Place,
    pub published: u16,
    /// The number of its messages that are published in the broadcast chain.
    pub forwarded: u16,
    /// The published messages that a receiver has still to take: sender and number there.
    pub log: SmallVec<[(Id, u16); 4]>,
    pub readers: SmallVec<[Reader; 2]>,
    /// Whether the broker knows that the chain's owner is gone.
    pub is_orphan: bool,
    /// Its owner drops pages that begin before this position instead of reusing them.
    pub retired: u32,
}

impl Chain {
    pub fn page(&self, id: u16) -> Option<&Page> {
        self.pages.iter().find(|page| page.id == id)
    }

    pub fn page_mut(&mut self, id: u16) -> Option<&mut Page> {
        self.pages.iter_mut().find(|page| page.id == id)
    }

    pub fn reader(&self, by: Id) -> Option<&Reader> {
        self.readers.iter().find(|reader| reader.by == by)
    }

    pub fn reader_mut(&mut self, by: Id) -> Option<&mut Reader> {
        self.readers.iter_mut().find(|reader| reader.by == by)
    }

    /// Returns the commit word at a place, or `None` if the page is gone or has become another one.
    pub fn word(&self, place: Place) -> Option<Word> {
        let page = self.page(place.page)?;
        Some(page.words[page.unit(place.position)?])
    }

    /// Returns the place after the word at `place`. After an end-of-page message that is the first
    /// place of the next page.
    pub fn behind(&self, place: Place, word: Word, header: u32) -> Option<Place> {
        match word {
            Word::Message { units, .. } | Word::Reference { units, .. } => {
                Some(Place { position: place.position + u32::from(units), ..place })
            }
            Word::EndOfPage { next } => {
                let base = self.page(place.page)?.end()?;
                Some(Place { page: next, position: base + header })
            }
            Word::Zero | Word::Other => None,
        }
    }

    /// Returns the published message with this number. It is kept until all receivers have it.
    pub fn message(&self, number: u16) -> Option<(Id, u16)> {
        let first = usize::from(self.published) - self.log.len();
        self.log.get(usize::from(number).checked_sub(first)?).copied()
    }

    /// Returns the shared memory of its pool.
    pub fn len(&self) -> u32 {
        self.pages.iter().map(|page| page.len).sum()
    }

    /// Returns whether it has pages and so exists.
    pub fn is_open(&self) -> bool {
        !self.pages.is_empty()
    }
}

/// A client's page to which the broadcast chain refers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ForeignPage {
    /// Its id in the broadcast chain.
    pub id: u16,
    /// Its owner, and its id there.
    pub of: Id,
    pub page: u16,
    pub len: u32,
    /// The receivers that were sent its descriptor.
    pub sent: Set,
    /// Position after the last message that refers to it.
    pub until: u32,
    /// The page itself, after its owner is gone or has forgotten it. A process that has mapped it
    /// still reads it.
    pub rest: Option<Page>,
}

/// A message by reference that is not released: receivers read it in its client's page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    pub from: Id,
    pub number: u16,
    pub foreign_page: u16,
    /// Its unit in the client's page, and its position in the client's chain.
    pub at: u16,
    pub position: u32,
    /// Position after it in the broadcast chain.
    pub until: u32,
}

/// The state of a process.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Life {
    #[default]
    Unborn,
    Lives,
    /// It has died or hung up. For all other processes that is the same.
    Ended,
}

/// A process, as far as others can observe it and as the protocol obliges it.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    pub life: Life,
    /// Whether it follows no rule. Reads of its memory may return anything.
    pub is_hostile: bool,
    /// Whether it hands out payloads in place instead of copying them.
    pub reads_in_place: bool,
    /// Whether its member word is zero, although it may live.
    pub is_removed: bool,
    /// Whether its member word says that it was skipped: the broker does not wait for it.
    pub is_skipped: bool,
    /// Whether it has dropped all pages and asked to receive again.
    pub asks: bool,
    /// Whether its parked word names a sleep.
    pub is_parked: bool,
    /// Whether its parked word has the polling flag.
    pub is_polling: bool,
    /// The processes that have rung for this sleep.
    pub rung_by: Set,
    /// Whether anything waits in its sockets.
    pub bell: bool,
    /// Whether it sleeps.
    pub is_asleep: bool,
    /// The peers that it must check after it has published or released something.
    pub owed_rings: Set,
    /// The peers that it has seen asleep and not rung yet.
    pub must_ring: Set,
    /// Whether it has executed its fence since its last store that others may wait for.
    pub is_fenced: bool,
    /// Its second check since it parked: the fence, empty chains, and receivers whose cursor it
    /// read.
    pub second_look: Option<SecondLook>,
}

#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct SecondLook {
    pub is_fenced: bool,
    pub empty: Set,
    pub learnt: Set,
}

impl Process {
    /// Returns whether its member word says that the broker waits for it.
    pub fn is_member(&self) -> bool {
        !self.is_removed && !self.is_skipped
    }
}

/// Constant sizes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sizes {
    /// Length of a page's header.
    pub header: u32,
    /// Budget of a chain's pool.
    pub budget: u32,
    /// Whether processes sleep. Otherwise no process has to check for sleeping peers.
    pub bells: bool,
}

/// The whole bus.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bus {
    pub sizes: Sizes,
    pub processes: SmallVec<[Process; 3]>,
    pub chains: SmallVec<[Chain; 3]>,
    pub foreign_pages: SmallVec<[ForeignPage; 1]>,
    /// In the order in which they were published.
    pub held: SmallVec<[Held; 1]>,
    /// Receivers that were removed and live.
    pub removed: SmallVec<[Removed; 1]>,
}

impl Bus {
    pub fn new(sizes: Sizes) -> Self {
        let (processes, chains) = (SmallVec::new(), SmallVec::new());
        let (foreign_pages, held, removed) = (SmallVec::new(), SmallVec::new(), SmallVec::new());
        Bus { sizes, processes, chains, foreign_pages, held, removed }
    }

    /// Adds a process when it first appears.
    pub fn know(&mut self, id: Id) {
        while self.processes.len() <= usize::from(id) {
            self.processes.push(Process::default());
            self.chains.push(Chain::default());
        }
    }

    pub fn process(&self, id: Id) -> &Process {
        &self.processes[usize::from(id)]
    }

    pub fn process_mut(&mut self, id: Id) -> &mut Process {
        &mut self.processes[usize::from(id)]
    }

    pub fn chain(&self, id: Id) -> &Chain {
        &self.chains[usize::from(id)]
    }

    pub fn chain_mut(&mut self, id: Id) -> &mut Chain {
        &mut self.chains[usize::from(id)]
    }

    pub fn foreign_page(&self, id: u16) -> Option<&ForeignPage> {
        self.foreign_pages.iter().find(|foreign_page| foreign_page.id == id)
    }

    pub fn lives(&self, id: Id) -> bool {
        self.process(id).life == Life::Lives
    }

    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        0..self.processes.len() as Id
    }

    /// Returns the chains that a process reads.
    pub fn inbound(&self, by: Id) -> impl Iterator<Item = Id> + '_ {
        let reads = move |id: &Id| self.chain(*id).reader(by).is_some_and(|r| r.has_begun);
        self.ids().filter(reads)
    }
}

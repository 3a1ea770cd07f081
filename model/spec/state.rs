//! What the abstract bus is made of.
//!
//! Space is counted in *units*: the room of an end-of-page message. A model's page has four of
//! them; a trace of the real code counts 16 bytes as one.

pub use crate::struck::Struck;
use smallvec::SmallVec;

/// A process. 0 is the broker, or the only sender where there is no bus; the others are clients.
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

/// What stands in the commit word of a unit.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Word {
    Zero,
    /// Bytes of a payload, or of the page's former life. Who reads them reads nonsense.
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
    /// A message of a client's that lies in its own page, which the broadcast chain calls `loan`,
    /// at unit `at`.
    Lent {
        from: Id,
        number: u16,
        units: u16,
        foreign_page: u16,
        at: u16,
    },
}

impl Word {
    /// The sender and the number of a message.
    pub fn message(self) -> Option<(Id, u16)> {
        match self {
            Word::Message { from, number, .. } | Word::Lent { from, number, .. } => {
                Some((from, number))
            }
            Word::Zero | Word::Other | Word::EndOfPage { .. } => None,
        }
    }
}

/// A place in a chain: a position, and the page in which it is.
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
    /// The base and the first message in its header; `None` until it is put to use.
    pub header: Option<(u32, u16)>,
    /// The end of the page before it, which names it, was published. Until then it may be put to
    /// another use at any time.
    pub is_linked: bool,
    /// Its commit words, as they stand in memory.
    pub words: SmallVec<[Word; 4]>,
    /// To whom its descriptor was sent.
    pub sent: Set,
}

impl Page {
    pub fn end(&self) -> Option<u32> {
        Some(self.header?.0 + self.len)
    }

    /// The unit of a position in it.
    pub fn unit(&self, position: u32) -> Option<usize> {
        let (base, _) = self.header?;
        (base..base + self.len).contains(&position).then(|| (position - base) as usize)
    }
}

/// A receiver of a chain.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Reader {
    pub by: Id,
    /// The slot at which it looks next, and the number of the message that will be there.
    pub place: Place,
    pub next: u16,
    /// What it has found there, if it has looked and not passed it yet.
    pub found: Option<Word>,
    /// It has begun to read. The sender counts it before.
    pub has_begun: bool,
    /// Its cursor as it stands in memory; 0: it has not said anything.
    pub cursor: u32,
    /// The word beside it: how far it has taken what it holds back.
    pub taken: u32,
    /// The sender's private copy of it.
    pub seen: u32,
    /// It reads in place, and has handed out what it found.
    pub has_in_hand: bool,
    /// The retired word beside the cursor: pages that begin before it are not written again.
    pub retired: u32,
}

/// A chain with its pool of pages.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Chain {
    pub pages: SmallVec<[Page; 2]>,
    /// The id of the next page that is made.
    pub next_page: u16,
    /// The slot behind the last published message, and that message's number plus one.
    pub tail: Place,
    pub published: u16,
    /// How many of its messages stand, published, in the broadcast chain.
    pub forwarded: u16,
    /// The published messages that a receiver has still to take: sender and number there.
    pub log: SmallVec<[(Id, u16); 4]>,
    pub readers: SmallVec<[Reader; 2]>,
    /// Its broker knows that its owner is gone.
    pub is_orphan: bool,
    /// Its owner drops pages that begin before this position, and does not write them again.
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

    /// The commit word at a place; `None` if the page is not there, or is another one by now.
    pub fn word(&self, place: Place) -> Option<Word> {
        let page = self.page(place.page)?;
        Some(page.words[page.unit(place.position)?])
    }

    /// The place behind the word at `place`, after one of a page's end: the first of the next.
    pub fn behind(&self, place: Place, word: Word, header: u32) -> Option<Place> {
        match word {
            Word::Message { units, .. } | Word::Lent { units, .. } => {
                Some(Place { position: place.position + u32::from(units), ..place })
            }
            Word::EndOfPage { next } => {
                let base = self.page(place.page)?.end()?;
                Some(Place { page: next, position: base + header })
            }
            Word::Zero | Word::Other => None,
        }
    }

    /// The published message with this number. It is kept until all receivers have it.
    pub fn message(&self, number: u16) -> Option<(Id, u16)> {
        let first = usize::from(self.published) - self.log.len();
        self.log.get(usize::from(number).checked_sub(first)?).copied()
    }

    /// The shared memory that its pool takes.
    pub fn len(&self) -> u32 {
        self.pages.iter().map(|page| page.len).sum()
    }

    /// Whether it has pages, and so exists.
    pub fn is_open(&self) -> bool {
        !self.pages.is_empty()
    }
}

/// A client's page of which messages are lent, as one of the broadcast chain's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ForeignPage {
    /// What the broadcast chain calls it.
    pub id: u16,
    /// Whose page it is, and what its owner calls it.
    pub of: Id,
    pub page: u16,
    pub len: u32,
    /// To whom its descriptor was sent.
    pub sent: Set,
    /// The position behind the last message that was lent of it.
    pub until: u32,
    /// The page itself, as soon as its owner is gone or has forgotten it: who has mapped it still
    /// reads it.
    pub rest: Option<Page>,
}

/// A message that is lent and not returned: its client's page holds it for receivers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    pub from: Id,
    pub number: u16,
    pub foreign_page: u16,
    /// Its unit in the client's page, and its position in the client's chain.
    pub at: u16,
    pub position: u32,
    /// The position behind it in the broadcast chain.
    pub until: u32,
}

/// Whether a process is there.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Life {
    #[default]
    Unborn,
    Lives,
    /// It has died or hung up: to everybody else that is the same.
    Ended,
}

/// A process, as far as others can tell and as far as the protocol obliges it.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    pub life: Life,
    /// It keeps to no rule, and what is read from its memory may be anything.
    pub is_hostile: bool,
    /// It hands out payloads where they lie, and does not copy them.
    pub reads_in_place: bool,
    /// Its member word is zero, although it may live.
    pub is_removed: bool,
    /// Its parked word names a sleep.
    pub is_parked: bool,
    /// Its parked word says that it polls.
    pub is_polling: bool,
    /// Who has rung for this very sleep.
    pub rung_by: Set,
    /// Something waits in its sockets.
    pub bell: bool,
    /// It sleeps.
    pub is_asleep: bool,
    /// It has published or given up something, and has not looked whether these sleep.
    pub owed_rings: Set,
    /// It has seen that these sleep, and has not rung yet.
    pub must_ring: Set,
    /// It has made its fence since it stored what the others may wait for.
    pub is_fenced: bool,
    /// Since it parked: the fence, chains that it found empty, receivers whose cursor it read.
    pub second_look: Option<SecondLook>,
}

#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct SecondLook {
    pub is_fenced: bool,
    pub empty: Set,
    pub learnt: Set,
}

/// Sizes that don't change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sizes {
    /// A page's header.
    pub header: u32,
    /// What a chain's pool may take.
    pub budget: u32,
    /// Whether anybody sleeps: without, nobody has to look who does.
    pub bells: bool,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bus {
    pub sizes: Sizes,
    pub processes: SmallVec<[Process; 3]>,
    pub chains: SmallVec<[Chain; 3]>,
    pub foreign_pages: SmallVec<[ForeignPage; 1]>,
    /// In the order in which they were published.
    pub held: SmallVec<[Held; 1]>,
    /// Receivers that were struck and live.
    pub struck: SmallVec<[Struck; 1]>,
}

impl Bus {
    pub fn new(sizes: Sizes) -> Self {
        let (processes, chains) = (SmallVec::new(), SmallVec::new());
        let (foreign_pages, held, struck) = (SmallVec::new(), SmallVec::new(), SmallVec::new());
        Bus { sizes, processes, chains, foreign_pages, held, struck }
    }

    /// Makes room for a process that is heard of for the first time.
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

    /// The chains that a process reads.
    pub fn inbound(&self, by: Id) -> impl Iterator<Item = Id> + '_ {
        let reads = move |id: &Id| self.chain(*id).reader(by).is_some_and(|r| r.has_begun);
        self.ids().filter(reads)
    }
}

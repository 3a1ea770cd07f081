//! One run of the model: the bus, the state of each program, and the remaining failures.

pub use crate::breaks::Break;
use crate::broker::Broker;
use crate::client::Client;
use crate::protocol::{Action, Rules, Violation};
use crate::reading::Reads;
use crate::state::*;
use smallvec::SmallVec;

/// Units of a page's header, a message and a page: two messages, and the end of the page.
pub const HEADER: u32 = 1;
pub const PAGE: u32 = 4;

/// The parameters of a model.
#[derive(Clone, Debug)]
pub struct Setup {
    /// For each client, the numbers of messages that it publishes at once.
    pub scripts: &'static [&'static [u8]],
    pub pages: u32,
    /// Number of last clients that join at any time. The others are there from the beginning.
    pub late: usize,
    /// Whether the last client hangs up when it has sent everything.
    pub leaves: bool,
    /// Number of processes that may die, each at any step.
    pub deaths: u8,
    /// Number of faults of the last client.
    pub has_faults: u8,
    /// Whether the broker may remove the last client, which sends nothing, at any time, once.
    pub removal: Option<Reads>,
    /// The number of times that the broker may skip that client instead. Zero: it removes it.
    pub skips: u8,
    /// Messages that the broker consumes from one client in a cycle.
    pub share: u8,
    /// Whether the broker may forward by reference.
    pub by_ref: bool,
    /// Whether it may copy where it could forward by reference.
    pub copies: bool,
    /// Whether every step is taken separately, see [`merge`](crate::merge).
    pub fine: bool,
    /// Whether processes may poll instead of sleeping, see [`polling`](crate::polling).
    pub polls: bool,
    pub broken: Option<Break>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Run {
    pub bus: Bus,
    pub broker: Broker,
    pub clients: SmallVec<[Client; 2]>,
    pub deaths_left: u8,
    pub faults_left: u8,
    /// Whether the last client may be removed, and was not removed yet.
    pub removal: Option<Reads>,
    pub removals_left: u8,
    /// Whether a removed receiver has discarded a copy whose bytes had changed.
    pub discarded: bool,
    /// Whether a process died between the first byte of a message and its commit.
    pub tore: bool,
    /// The first rule that was broken.
    pub violation: Option<Violation>,
}

/// A process that takes one step.
pub struct Hand<'a> {
    pub setup: &'a Setup,
    pub run: &'a mut Run,
}

impl Hand<'_> {
    pub fn act(&mut self, action: Action) {
        let rules = if self.setup.broken.is_some() { Rules::Ignored } else { Rules::Enforced };
        if self.run.violation.is_none() {
            self.run.violation = self.run.bus.act(action, rules).err();
        }
    }

    pub fn is_broken(&self, how: Break) -> bool {
        self.setup.broken == Some(how)
    }

    pub fn bus(&self) -> &Bus {
        &self.run.bus
    }

    /// Returns whether a message and the end of its page have room at `place`.
    pub fn has_room(&self, chain: Id, place: Place) -> bool {
        self.bus().chain(chain).has_room(place)
    }

    /// Returns a page that may be reused, as far as its sender knows. `pen` is its next slot.
    pub fn free_page(&self, chain: Id, pen: Place) -> Option<u16> {
        let chain = self.bus().chain(chain);
        let mut readers: SmallVec<[&Reader; 4]> = chain.readers.iter().collect();
        if self.is_broken(Break::OneCursorUnread) {
            readers.pop();
        }
        let seen = readers.iter().map(|reader| reader.seen).min().unwrap_or(u32::MAX);
        let left = seen.min(chain.tail.position);
        let is_free =
            |page: &&Page| page.id != pen.page && page.end().is_none_or(|end| end <= left);
        let mut free = chain.pages.iter().filter(is_free);
        free.find(|page| readers.iter().all(|reader| page.sent.has(reader.by))).map(|page| page.id)
    }

    /// Drops the retired pages that all receivers have left, as far as their sender knows. Returns
    /// whether there were any.
    pub fn drop_retired(&mut self, id: Id, pen: Place) -> bool {
        let chain = self.bus().chain(id);
        let left = chain.left_by_all();
        let is_removed = !self.bus().removed.is_empty() && self.is_broken(Break::RetiredForEver);
        let retired = if is_removed { u32::MAX } else { chain.retired };
        let is_retired = |page: &&Page| page.header.is_some_and(|(base, _)| base < retired);
        let is_left = |page: &&Page| page.id != pen.page && page.end().is_some_and(|e| e <= left);
        let pages = chain.pages.iter().filter(is_retired).filter(is_left);
        let pages: SmallVec<[u16; 4]> = pages.map(|page| page.id).collect();
        for page in &pages {
            self.act(Action::Forget { chain: id, page: *page });
        }
        !pages.is_empty()
    }

    /// A client reads the retired word beside the cursor of its chain.
    pub fn learn_retired(&mut self, id: Id) {
        let retired = self.bus().chain(id).reader(BROKER).map_or(0, |reader| reader.retired);
        if retired != 0 && !self.is_broken(Break::RetiredUnread) {
            self.act(Action::LearnRetired { chain: id, retired });
        }
    }

    pub fn may_grow(&self, chain: Id) -> bool {
        let chain = self.bus().chain(chain);
        let is_counted = |page: &&Page| {
            let is_retired = page.header.is_some_and(|(base, _)| base < chain.retired);
            !(is_retired && self.is_broken(Break::RetiredNotCounted))
        };
        let len: u32 = chain.pages.iter().filter(is_counted).map(|page| page.len).sum();
        len + PAGE <= self.bus().sizes.budget
    }

    /// Adds a page and sends it to every receiver.
    pub fn grow(&mut self, id: Id) {
        let page = self.bus().chain(id).next_page;
        self.act(Action::Make { chain: id, page, len: PAGE });
        let readers: SmallVec<[Id; 4]> =
            self.bus().chain(id).readers.iter().map(|reader| reader.by).collect();
        if !self.is_broken(Break::NamedBeforeSent) {
            for to in readers {
                self.act(Action::Send { chain: id, page, to });
            }
        }
        if id == BROADCAST && self.is_broken(Break::RetiredForEver) {
            let removed = self.bus().removed.iter().map(|removed| removed.reader.by);
            for to in removed.collect::<SmallVec<[Id; 1]>>() {
                self.act(Action::Send { chain: id, page, to });
            }
        }
    }

    /// Reads the word at the reader's place. Finding something takes it.
    pub fn look(&mut self, chain: Id, by: Id) -> Word {
        let removed = self.bus().removed(by).filter(|_| chain == BROADCAST);
        if let Some(removed) = removed {
            let found = self.bus().word_under(removed).unwrap_or(Word::Other);
            let (page, at) = (removed.reader.place.page, removed.unit);
            self.act(Action::Look { chain, by, page, at, found });
            return found;
        }
        let Some(place) = self.bus().chain(chain).reader(by).map(|reader| reader.place) else {
            return Word::Zero;
        };
        let found = self.bus().chain(chain).word(place).unwrap_or(Word::Other);
        let page = self.bus().chain(chain).page(place.page);
        let at = page.and_then(|page| page.unit(place.position)).unwrap_or(0) as u32;
        self.act(Action::Look { chain, by, page: place.page, at, found });
        found
    }

    pub fn is_there(&self, chain: Id, by: Id) -> bool {
        let chain = self.bus().chain(chain);
        let reader = chain.reader(by);
        reader.is_some_and(|reader| chain.word(reader.place) != Some(Word::Zero))
    }

    /// Returns the position to release, if the reader's cursor is behind its place or behind what
    /// it holds.
    pub fn must_release(&self, chain: Id, by: Id) -> Option<u32> {
        let reader = self.bus().chain(chain).reader(by)?;
        let to = self.held_back(chain, by).unwrap_or(reader.place.position);
        (reader.cursor != to).then_some(to)
    }

    /// Returns the position of the first message that is still referenced, as far as the broker
    /// knows, outside its batch.
    fn held_back(&self, chain: Id, by: Id) -> Option<u32> {
        if by != BROKER || self.is_broken(Break::LentNotHeld) {
            return None;
        }
        let passed = self.run.broker.passed;
        let mut held = self.bus().held.iter().filter(|held| self.bus().is_held_back(held));
        held.find(|held| held.from == chain && held.until > passed).map(|held| held.position)
    }

    /// Returns the id of a client's page in the broadcast chain. Makes it a foreign page if there
    /// is room. Unreferenced pages make room if the broker's batch is empty.
    pub fn borrow_page(&mut self, of: Id, page: u16, has_run: bool) -> Option<u16> {
        let mut known = self.bus().foreign_pages.iter();
        if let Some(foreign_page) =
            known.find(|foreign_page| (foreign_page.of, foreign_page.page) == (of, page))
        {
            return Some(foreign_page.id);
        }
        if (self.bus().foreign_pages.len() as u32 + 1) * PAGE > self.bus().sizes.budget {
            let passed = self.run.broker.passed;
            let mut idle =
                self.bus().foreign_pages.iter().filter(|foreign_page| foreign_page.until <= passed);
            let page = idle.next().filter(|_| !has_run)?.id;
            self.act(Action::Forget { chain: BROADCAST, page });
        }
        let foreign_page = self.bus().chain(BROADCAST).next_page;
        self.act(Action::Adopt { foreign_page, of, page });
        let receivers: SmallVec<[Id; 4]> =
            self.bus().chain(BROADCAST).readers.iter().map(|reader| reader.by).collect();
        if !self.is_broken(Break::LentBeforeSent) {
            for to in receivers {
                self.act(Action::Send { chain: BROADCAST, page: foreign_page, to });
            }
        }
        Some(foreign_page)
    }
}

impl Chain {
    /// Returns whether a message and the end of its page have room at `place`.
    pub fn has_room(&self, place: Place) -> bool {
        let unit = self.page(place.page).and_then(|page| page.unit(place.position));
        unit.is_some_and(|unit| unit as u32 + 2 <= PAGE)
    }
}

/// Where a sender writes next, the number of that message, and the deferred commit word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pen {
    pub place: Place,
    pub next: u16,
    pub first: Option<Word>,
}

impl Pen {
    pub fn at_tail(bus: &Bus, chain: Id) -> Pen {
        let chain = bus.chain(chain);
        Pen { place: chain.tail, next: chain.published, first: None }
    }

    fn unit(&self, hand: &Hand, chain: Id) -> u32 {
        let page = hand.bus().chain(chain).page(self.place.page);
        page.and_then(|page| page.unit(self.place.position)).unwrap_or(0) as u32
    }

    fn commit(&mut self, hand: &mut Hand, chain: Id, word: Word) {
        match self.first {
            None => self.first = Some(word),
            Some(_) => {
                let at = self.unit(hand, chain);
                hand.act(Action::Fill { chain, page: self.place.page, at, word });
            }
        }
    }

    /// Appends a message to the batch. No process sees it.
    pub fn append(&mut self, hand: &mut Hand, chain: Id, from: Id, number: u16) {
        self.append_word(hand, chain, Word::Message { from, number, units: 1 });
    }

    pub fn append_word(&mut self, hand: &mut Hand, chain: Id, word: Word) {
        let (page, at) = (self.place.page, self.unit(hand, chain));
        hand.act(Action::Write { chain, page, at, units: 0 });
        if !hand.is_broken(Break::NoClear) {
            hand.act(Action::Clear { chain, page, at: at + 1 });
        }
        self.commit(hand, chain, word);
        self.place.position += 1;
        self.next += 1;
    }

    /// Ends the page in the batch and advances to `next`.
    pub fn turn(&mut self, hand: &mut Hand, chain: Id, next: u16) {
        let first = self.next;
        let (page, at) = (self.place.page, self.unit(hand, chain));
        let base = self.place.position - at + PAGE;
        hand.act(Action::Reset { chain, page: next, base, first });
        if !hand.is_broken(Break::PageNotEmptied) {
            hand.act(Action::Clear { chain, page: next, at: HEADER });
        }
        hand.act(Action::Write { chain, page, at, units: 0 });
        self.commit(hand, chain, Word::EndOfPage { next });
        self.place = Place { page: next, position: base + HEADER };
    }

    /// The store that makes the whole batch visible.
    pub fn publish(hand: &mut Hand, chain: Id, word: Word) {
        let tail = Pen::at_tail(hand.bus(), chain);
        let (page, at) = (tail.place.page, tail.unit(hand, chain));
        hand.act(Action::Publish { chain, page, at, word });
        if hand.is_broken(Break::NoRing) {
            hand.run.bus.process_mut(chain).owed_rings = Set::default();
        }
    }
}

//! The rules of a receiver that is removed and lives on (section 6 of `docs/protocol.md`).
//!
//! The sender no longer counts it, and it reads on in pages that may be reused. Here the memory at
//! its position decides what it gets. No rule forbids its reads.

use crate::protocol::{Action, Rules, Verdict, there};
use crate::state::*;
use smallvec::SmallVec;

/// A page of a client to which a receiver's messages referred when it was removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mapped {
    pub of: Id,
    pub page: u16,
    pub len: u32,
    /// Whether the receiver may be reading in it: messages after its cursor refer to this page.
    pub is_in_use: bool,
}

/// A receiver of the broadcast chain that was removed, until its process has ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Removed {
    pub reader: Reader,
    /// Its unit within its page, which may be another page by now.
    pub unit: u32,
    /// Location of the message by reference that it has found: page and unit.
    pub reference: Option<(Id, u16, u16)>,
    pub reads_in_place: bool,
    /// State at its removal: its cursor, the position after the last message, and the messages by
    /// reference.
    pub left: u32,
    pub until: u32,
    pub mapped: SmallVec<[Mapped; 1]>,
    /// Whether the bytes that it has copied differ from those that were sent.
    pub is_changed: bool,
    /// Whether it has taken bytes that were not sent, or not as the next message.
    pub is_deceived: bool,
    /// Memory that only its own mapping keeps alive: of the broadcast chain, and of foreign pages.
    pub kept: u32,
    pub kept_foreign: u32,
}

impl Bus {
    pub fn removed(&self, by: Id) -> Option<&Removed> {
        self.removed.iter().find(|removed| removed.reader.by == by)
    }

    fn removed_mut(&mut self, by: Id) -> Option<&mut Removed> {
        self.removed.iter_mut().find(|removed| removed.reader.by == by)
    }

    /// Returns the place of a receiver of the broadcast chain, counted by its sender or not.
    #[allow(dead_code, reason = "used by the model's programs")]
    pub fn receiver(&self, by: Id) -> Option<&Reader> {
        let counted = self.chain(BROADCAST).reader(by);
        counted.or_else(|| self.removed(by).map(|removed| &removed.reader))
    }

    pub fn remove(&mut self, action: Action, rules: Rules) -> Verdict {
        match action {
            Action::EndMembership { by } => self.process_mut(by).is_removed = true,
            Action::Skip { by } => self.process_mut(by).is_skipped = true,
            Action::Rejoin { by } => {
                let Process { is_skipped, asks, .. } = *self.process(by);
                rules.demand(is_skipped && !asks, 12, "it asks to receive, and was not skipped")?;
                self.drop_pages(by);
                self.process_mut(by).asks = true;
                self.process_mut(BROKER).bell = true;
            }
            Action::RemoveReceiver { by } => {
                let process = self.process(by);
                let is_due = !self.lives(by) || process.is_hostile || !process.is_member();
                rules.demand(is_due, 3, "removed although it lives, is correct and a member")?;
                if self.lives(by) && !self.process(by).is_hostile {
                    self.let_read_on(by)?;
                }
                self.chain_mut(BROADCAST).readers.retain(|reader| reader.by != by);
                // The broker still reads the chain of a client that it has skipped.
                self.chain_mut(by).is_orphan |= !(self.lives(by) && self.process(by).is_skipped);
                let broker = self.process_mut(BROKER);
                broker.owed_rings.remove(by);
                broker.must_ring.remove(by);
                self.forget_what_all_have(BROADCAST);
                self.forget_released_pages();
            }
            Action::Retire { chain: BROADCAST, to } => self.chain_mut(BROADCAST).retired = to,
            Action::Retire { chain, to } => {
                there(self.chain_mut(chain).reader_mut(BROKER), "receiver")?.retired = to;
            }
            Action::LearnRetired { chain: id, retired } => {
                let chain = self.chain_mut(id);
                let stands = there(chain.reader(BROKER), "receiver")?.retired;
                rules.demand(retired == stands, 13, "not what stands there")?;
                chain.retired = chain.retired.max(retired);
            }
            Action::HandOut { by } => {
                let is_member = self.process(by).is_member();
                rules.demand(is_member, 8, "it hands out what it found when it was no member")?;
                let removed = self.removed.iter_mut().map(|removed| &mut removed.reader);
                let readers = self.chains[usize::from(BROADCAST)].readers.iter_mut();
                let mut readers = readers.chain(removed);
                there(readers.find(|reader| reader.by == by), "receiver")?.has_in_hand = true;
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    /// A skipped receiver drops all pages of the broadcast chain and reads no further in them.
    fn drop_pages(&mut self, by: Id) {
        self.removed.retain(|removed| removed.reader.by != by);
        self.chain_mut(BROADCAST).pages.iter_mut().for_each(|page| page.sent.remove(by));
        self.foreign_pages.iter_mut().for_each(|page| page.sent.remove(by));
        self.forget_what_all_have(BROADCAST);
    }

    /// It lives. Its later actions affect no other process, but actions on it still matter.
    fn let_read_on(&mut self, by: Id) -> Verdict {
        let chain = self.chain(BROADCAST);
        let Some(reader) = chain.reader(by).cloned() else { return Ok(()) };
        let page = chain.page(reader.place.page);
        let unit = there(page.and_then(|page| page.unit(reader.place.position)), "place")? as u32;
        let (left, until) = (reader.cursor.max(reader.seen), chain.tail.position);
        let is_behind = |foreign_page: &ForeignPage| {
            self.held.iter().any(|held| held.foreign_page == foreign_page.id && held.until > left)
        };
        let its = self.foreign_pages.iter().filter(|foreign_page| foreign_page.sent.has(by));
        let mapped = its.map(|foreign_page| Mapped {
            of: foreign_page.of,
            page: foreign_page.page,
            len: foreign_page.len,
            is_in_use: is_behind(foreign_page),
        });
        let removed = Removed {
            reference: reader.found.and_then(|word| self.reference_at(word)),
            unit,
            reads_in_place: self.process(by).reads_in_place,
            left,
            until,
            mapped: mapped.collect(),
            is_changed: false,
            is_deceived: false,
            kept: 0,
            kept_foreign: 0,
            reader,
        };
        self.removed.push(removed);
        let process = self.process_mut(by);
        (process.owed_rings, process.must_ring) = (Set::default(), Set::default());
        // Its connection has ended, or a packet says that it was skipped.
        process.bell = true;
        Ok(())
    }

    fn reference_at(&self, word: Word) -> Option<(Id, u16, u16)> {
        let Word::Reference { foreign_page, at, .. } = word else { return None };
        self.foreign_page(foreign_page).map(|foreign_page| (foreign_page.of, foreign_page.page, at))
    }

    /// Applies an action of a removed receiver in the broadcast chain.
    pub fn read_on(&mut self, action: Action, rules: Rules) -> Verdict {
        match action {
            Action::Look { by, found, .. } => {
                let reference = self.reference_at(found);
                let removed = there(self.removed_mut(by), "receiver")?;
                removed.reference = reference;
                removed.reader.found = Some(found).filter(|found| *found != Word::Zero);
                if let (Word::Zero, Some(again)) = (found, &mut self.process_mut(by).second_look) {
                    again.empty.insert(BROADCAST);
                }
            }
            Action::Read { by, .. } | Action::Borrow { by, .. } => {
                let removed = there(self.removed(by), "receiver")?;
                let is_changed = !self.is_as_found(removed);
                there(self.removed_mut(by), "receiver")?.is_changed = is_changed;
            }
            Action::Pass { by, .. } => self.pass_on(by, rules)?,
            // No process reads its cursor.
            Action::Release { .. } => {}
            _ => unreachable!(),
        }
        Ok(())
    }

    fn pass_on(&mut self, by: Id, rules: Rules) -> Verdict {
        let header = self.sizes.header;
        let chain = self.chain(BROADCAST);
        let removed = there(self.removed(by), "receiver")?;
        let Reader { place, next, found, has_in_hand, .. } = removed.reader;
        let word = there(found, "message to pass")?;
        if let Word::EndOfPage { next: named } = word {
            let follows = there(self.next_page(removed, named), "page that follows")?;
            let removed = there(self.removed_mut(by), "receiver")?;
            (removed.reader.place, removed.unit) = (follows, header);
        } else {
            rules.demand(has_in_hand, 8, "a copy is taken by a receiver that is no member")?;
            let is_right = word.message().is_some() && word.message() == chain.message(next);
            let units = match word {
                Word::Message { units, .. } | Word::Reference { units, .. } => u32::from(units),
                _ => 0,
            };
            let removed = there(self.removed_mut(by), "receiver")?;
            removed.is_deceived |= removed.is_changed || !is_right;
            removed.reader.place = Place { position: place.position + units, ..place };
            removed.unit += units;
            removed.reader.next += 1;
        }
        let removed = there(self.removed_mut(by), "receiver")?;
        (removed.reader.found, removed.reader.has_in_hand, removed.reference) = (None, false, None);
        self.forget_what_all_have(BROADCAST);
        Ok(())
    }

    /// Returns the place after an end of a page, if the header there continues the page that it has
    /// read.
    pub fn next_page(&self, removed: &Removed, named: u16) -> Option<Place> {
        let chain = self.chain(BROADCAST);
        let Reader { place, by, next, .. } = removed.reader;
        let page = chain.page(named).filter(|page| page.sent.has(by))?;
        let (base, first) = page.header?;
        let len = chain.page(place.page)?.len;
        let follows = base == place.position - removed.unit + len && first == next;
        follows.then_some(Place { page: named, position: base + self.sizes.header })
    }

    /// Returns the word at the place of a removed receiver. A page that its owner has dropped stays
    /// unchanged.
    #[allow(dead_code, reason = "used by the model's programs")]
    pub fn word_under(&self, removed: &Removed) -> Option<Word> {
        let page = self.chain(BROADCAST).page(removed.reader.place.page)?;
        page.words.get(removed.unit as usize).copied()
    }

    /// Returns whether the message that a removed receiver has found is unchanged.
    pub fn is_as_found(&self, removed: &Removed) -> bool {
        let Some(found) = removed.reader.found else { return true };
        let page = self.chain(BROADCAST).page(removed.reader.place.page);
        let word = page.and_then(|page| page.words.get(removed.unit as usize));
        let is_there = word.is_none_or(|word| *word == found);
        let reference = removed.reference.and_then(|(of, page, at)| {
            self.chain(of).page(page)?.words.get(usize::from(at)).copied()
        });
        is_there && reference.is_none_or(|word| word.message() == found.message())
    }

    /// Returns whether a removed receiver may read a page in place that is reused.
    pub fn is_retired(&self, owner: Id, page: &Page) -> bool {
        // A receiver that had left everything hands out nothing any more.
        let may_read = |removed: &&Removed| removed.reads_in_place && removed.left < removed.until;
        self.removed.iter().filter(may_read).any(|removed| {
            let is_used = |(base, end)| base < removed.until && end > removed.left;
            let range = page.header.map(|(base, _)| (base, base + page.len));
            let is_it = |it: &Mapped| (it.of, it.page) == (owner, page.id) && it.is_in_use;
            owner == BROADCAST && range.is_some_and(is_used) || removed.mapped.iter().any(is_it)
        })
    }

    /// Returns whether the broker releases what a removed receiver may read in place without a
    /// retired word for its owner.
    pub fn is_released_unannounced(&self, owner: Id, to: u32) -> bool {
        let chain = self.chain(owner);
        let retired = chain.reader(BROKER).map_or(0, |reader| reader.retired);
        chain.pages.iter().any(|page| {
            let base = page.header.map_or(u32::MAX, |(base, _)| base);
            owner != BROADCAST && base < to && base >= retired && self.is_retired(owner, page)
        })
    }

    /// An owner has dropped a page. A process that has mapped it keeps it.
    pub fn keep_dropped(&mut self, owner: Id, page: &Page) {
        for removed in &mut self.removed {
            if owner == BROADCAST && page.sent.has(removed.reader.by) {
                removed.kept += page.len;
            }
            let is_it = |it: &&Mapped| (it.of, it.page) == (owner, page.id);
            removed.kept_foreign +=
                removed.mapped.iter().filter(is_it).map(|it| it.len).sum::<u32>();
            removed.mapped.retain(|it| (it.of, it.page) != (owner, page.id));
        }
    }
}

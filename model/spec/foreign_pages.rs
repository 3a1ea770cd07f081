//! The rules of messages by reference (section 9 of `docs/protocol.md`).

use crate::protocol::{Action, Rules, Verdict, there};
use crate::state::*;

impl Bus {
    pub fn refer(&mut self, action: Action, rules: Rules) -> Verdict {
        match action {
            Action::Adopt { foreign_page: id, of, page } => {
                let len = there(self.chain(of).page(page), "page")?.len;
                let foreign: u32 =
                    self.foreign_pages.iter().map(|foreign_page| foreign_page.len).sum();
                let has_room = foreign + len <= self.sizes.budget;
                rules.demand(has_room, 6, "foreign pages exceed the budget")?;
                let chain = self.chain_mut(BROADCAST);
                rules.demand(id >= chain.next_page, 8, "a page id was used before")?;
                chain.next_page = id + 1;
                let sent = Set::default();
                self.foreign_pages.push(ForeignPage {
                    id,
                    of,
                    page,
                    len,
                    sent,
                    until: 0,
                    rest: None,
                });
            }
            Action::Forget { page: id, .. } => {
                let passed = self.chain(BROADCAST).passed_by_all();
                let until = there(self.foreign_page(id), "foreign page")?.until;
                rules.demand(until <= passed, 8, "a page is forgotten to which messages refer")?;
                self.foreign_pages.retain(|foreign_page| foreign_page.id != id);
            }
            Action::Borrow { by, of, page, at } => {
                rules.demand(self.lives(by), 4, "a dead process reads")?;
                if self.removed(by).is_some() {
                    return self.read_on(action, rules);
                }
                let found = self.chain(BROADCAST).reader(by).and_then(|reader| reader.found);
                let Some(word @ Word::Reference { foreign_page, at: unit, .. }) = found else {
                    return rules.demand(
                        false,
                        3,
                        "it reads a page to which its message does not refer",
                    );
                };
                let foreign = there(self.foreign_page(foreign_page), "foreign page")?;
                let is_there = (foreign.of, foreign.page) == (of, page) && at >= u32::from(unit);
                rules.demand(is_there, 8, "it reads another place than the reference names")?;
                let has = foreign.sent.has(by);
                rules.demand(has, 3, "it reads a page that it was not sent")?;
                let stands = self.stands(word) || self.process(of).is_hostile;
                rules.demand(stands, 8, "it reads a page that is another by now")?;
            }
            Action::Take { chain: id, by, to } => {
                let is_hostile = self.process(id).is_hostile;
                let chain = self.chain(id);
                let (has_peer, forwarded) = (!chain.is_orphan, chain.forwarded);
                let reader = there(self.chain(id).reader(by), "receiver")?;
                let is_place = to == reader.place.position;
                rules.demand(is_place, 8, "it has taken another place than its own")?;
                rules.demand(to > reader.taken, 12, "what it has taken does not move forwards")?;
                let sent_on = id == BROADCAST || is_hostile || forwarded >= reader.next;
                rules.demand(sent_on, 3, "it says that it has taken what it has not sent on")?;
                there(self.chain_mut(id).reader_mut(by), "receiver")?.taken = to;
                if has_peer {
                    self.owe(by, &[id]);
                }
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    /// A message by reference was published: its client's page holds it from now on.
    pub fn hold(&mut self, owner: Id, word: Word, until: u32, rules: Rules) -> Verdict {
        let Word::Reference { from, number, foreign_page: id, at, .. } = word else {
            return Ok(());
        };
        rules.demand(owner == BROADCAST, 12, "a reference outside the broadcast chain")?;
        let foreign_page = there(self.foreign_page(id), "foreign page")?;
        rules.demand(foreign_page.of == from, 12, "a reference to another client's message")?;
        let readers = &self.chain(BROADCAST).readers;
        let is_sent = readers.iter().all(|reader| foreign_page.sent.has(reader.by));
        rules.demand(is_sent, 3, "a reference to a page that not all receivers have")?;
        let is_hostile = self.process(from).is_hostile;
        let stands = is_hostile || self.stands(word);
        rules.demand(stands, 8, "the referenced message is not there")?;
        let base =
            self.page_referred_to(id).and_then(|page| page.header).map_or(0, |(base, _)| base);
        let position = base + u32::from(at);
        self.held.push(Held { from, number, foreign_page: id, at, position, until });
        let mut foreign_pages = self.foreign_pages.iter_mut();
        foreign_pages
            .find(|foreign_page| foreign_page.id == id)
            .into_iter()
            .for_each(|foreign_page| foreign_page.until = until);
        Ok(())
    }

    /// Returns a foreign page.
    fn page_referred_to(&self, foreign_page: u16) -> Option<&Page> {
        let foreign_page = self.foreign_page(foreign_page)?;
        foreign_page.rest.as_ref().or_else(|| self.chain(foreign_page.of).page(foreign_page.page))
    }

    /// Returns whether the message is at the location that the reference names.
    pub fn stands(&self, word: Word) -> bool {
        let Word::Reference { from, number, foreign_page, at, .. } = word else { return true };
        let stands =
            self.page_referred_to(foreign_page).and_then(|page| page.words.get(usize::from(at)));
        matches!(stands, Some(Word::Message { from: f, number: n, .. }) if (*f, *n) == (from, number))
    }

    /// Its owner drops a page. The receivers keep what messages refer to.
    pub fn leave_to_receivers(&mut self, owner: Id, page: Page) {
        let is_it = |foreign_page: &&mut ForeignPage| {
            foreign_page.of == owner && foreign_page.page == page.id && foreign_page.rest.is_none()
        };
        if let Some(foreign_page) = self.foreign_pages.iter_mut().find(is_it) {
            foreign_page.rest = Some(page);
        }
    }

    /// Returns whether a receiver has still to read a message by reference.
    pub fn is_unread(&self, held: &Held) -> bool {
        let reads = |reader: &Reader| {
            let by = self.process(reader.by);
            by.life == Life::Lives && !by.is_hostile && reader.place.position < held.until
        };
        self.chain(BROADCAST).readers.iter().any(reads)
    }

    /// Returns whether the broker keeps its cursor before it.
    pub fn is_held_back(&self, held: &Held) -> bool {
        let reader = self.chain(held.from).reader(BROKER);
        // A hostile client's chain is not kept, and no other process waits for it.
        let is_kept = self.lives(BROKER) && !self.process(held.from).is_hostile;
        is_kept && reader.is_some_and(|reader| reader.cursor <= held.position)
    }

    /// Returns whether the broker has messages by reference to release.
    pub fn has_refs(&self) -> bool {
        let is_left = |foreign_page: &ForeignPage| !self.chain(foreign_page.of).is_open();
        self.held.iter().any(|held| self.is_held_back(held))
            || self.foreign_pages.iter().any(is_left)
    }

    /// Returns whether messages refer to a page that its owner has dropped.
    #[allow(dead_code, reason = "used by the model's programs")]
    pub fn refers_to_dropped(&self) -> bool {
        self.foreign_pages.iter().any(|foreign_page| foreign_page.rest.is_some())
    }

    /// Returns whether any of a client's chain is held, and whether all receivers have passed the
    /// messages by reference before `to`.
    pub fn holds_before(&self, client: Id, to: u32) -> (bool, bool) {
        let passed = self.chain(BROADCAST).passed_by_all();
        let held = self.held.iter().filter(|held| held.from == client && client != BROADCAST);
        let mut before = held.clone().filter(|held| held.position < to);
        (held.clone().any(|held| self.is_held_back(held)), before.all(|held| held.until <= passed))
    }

    /// Forgets released pages: no later rule asks for them.
    pub fn forget_released_pages(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        held.retain(|held| self.is_unread(held) || self.is_held_back(held));
        self.held = held;
    }
}

impl Chain {
    /// Returns the position that every receiver has passed, by its cursor.
    pub fn passed_by_all(&self) -> u32 {
        let passed = self.readers.iter().map(|reader| reader.cursor.max(reader.seen));
        passed.min().unwrap_or(u32::MAX).min(self.tail.position)
    }
}

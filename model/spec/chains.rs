//! The rules of a chain: writing, publishing, reading, releasing and reusing (sections 3 to 6 of
//! `docs/protocol.md`).

use crate::protocol::{Action, Rules, Verdict, Violation, there};
use crate::state::*;

impl Bus {
    pub fn write(&mut self, action: Action, rules: Rules) -> Verdict {
        let (Action::Learn { chain: owner, .. }
        | Action::Reset { chain: owner, .. }
        | Action::Write { chain: owner, .. }
        | Action::Clear { chain: owner, .. }
        | Action::Fill { chain: owner, .. }
        | Action::Publish { chain: owner, .. }) = action
        else {
            unreachable!()
        };
        rules.demand(self.lives(owner), 4, "a dead process writes")?;
        match action {
            Action::Learn { by, cursor, .. } => {
                let is_hostile = self.process(by).is_hostile;
                let chain = self.chain_mut(owner);
                let tail = chain.tail.position;
                let reader = there(chain.reader_mut(by), "receiver")?;
                rules.demand(is_hostile || cursor == reader.cursor, 13, "not what stands there")?;
                if cursor != 0 {
                    let can_be = (reader.seen..=tail).contains(&cursor);
                    rules.demand(can_be, 12, "an invalid cursor was believed")?;
                    reader.seen = cursor;
                }
                if let Some(again) = &mut self.process_mut(owner).second_look {
                    again.learnt.insert(by);
                }
            }
            Action::Reset { page: id, base, first, .. } => {
                let left = self.chain(owner).left_by_all();
                let page = there(self.chain(owner).page(id), "page")?;
                let (is_free, is_retired) = (page.is_free(left), self.is_retired(owner, page));
                rules.demand(is_free, 8, "a page is written again that a receiver has not left")?;
                let why = "a page is written again that a removed receiver may read in place";
                rules.demand(!is_retired, 8, why)?;
                let page = there(self.chain_mut(owner).page_mut(id), "page")?;
                (page.header, page.is_linked) = (Some((base, first)), false);
                // Overwrites all words: the protocol must not rely on an old zero.
                page.words.fill(Word::Other);
            }
            Action::Write { page: id, at, units, .. } => {
                let chain = self.chain_mut(owner);
                let tail = chain.tail.position;
                let page = there(chain.page_mut(id), "page")?;
                let (base, _) = there(page.header, "page in use")?;
                let is_beyond = base + at > tail || base + at == tail && units == 0;
                rules.demand(is_beyond, 8, "what is published is overwritten")?;
                for unit in at..(at + units).min(page.len) {
                    page.words[unit as usize] = Word::Other;
                }
            }
            Action::Clear { page, at, .. } => {
                let tail = self.chain(owner).tail.position;
                let (position, word) = self.slot(owner, page, at)?;
                rules.demand(position >= tail, 8, "what is published is taken back")?;
                *word = Word::Zero;
            }
            Action::Fill { page, at, word: commit, .. } => {
                let tail = self.chain(owner).tail.position;
                let (position, word) = self.slot(owner, page, at)?;
                rules.demand(position > tail, 3, "the run's first message is not held back")?;
                *word = commit;
            }
            Action::Publish { page, at, word: commit, .. } => {
                let tail = self.chain(owner).tail;
                let (position, word) = self.slot(owner, page, at)?;
                let is_next = (Place { page, position }) == tail;
                rules.demand(is_next, 1, "a message is published out of turn")?;
                *word = commit;
                self.publish(owner, rules)?;
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    /// Moves the tail past everything that a receiver would find now, and checks each message.
    fn publish(&mut self, owner: Id, rules: Rules) -> Verdict {
        let header = self.sizes.header;
        loop {
            let chain = self.chain(owner);
            let (tail, number) = (chain.tail, chain.published);
            let word = there(chain.word(tail), "slot behind the last one")?;
            match word {
                Word::Zero => break,
                Word::Other => {
                    rules.demand(false, 3, "the slot behind the run was not cleared")?;
                    break;
                }
                Word::Message { from, number: theirs, .. }
                | Word::Reference { from, number: theirs, .. } => {
                    self.check_content(owner, from, theirs, rules)?;
                    if let Word::Reference { units, .. } = word {
                        let until = tail.position + u32::from(units);
                        self.hold(owner, word, until, rules)?;
                    }
                    if owner == BROADCAST && from != owner {
                        self.chain_mut(from).forwarded += 1;
                    }
                    let chain = self.chain_mut(owner);
                    chain.published = number + 1;
                    chain.log.push((from, theirs));
                }
                Word::EndOfPage { next } => {
                    let page = there(chain.page(next), "page")?;
                    let end = chain.page(tail.page).and_then(Page::end);
                    let follows = end.map(|end| (end, number)) == page.header;
                    rules.demand(follows, 3, "the next page does not continue this one")?;
                    let is_sent = chain.readers.iter().all(|reader| page.sent.has(reader.by));
                    rules.demand(is_sent, 3, "a page is named before it was sent to everybody")?;
                }
            }
            let chain = self.chain_mut(owner);
            if let Word::EndOfPage { next } = word {
                chain.page_mut(next).into_iter().for_each(|page| page.is_linked = true);
            }
            chain.tail = there(chain.behind(tail, word, header), "place behind it")?;
        }
        // Every receiver may wait for the message and must be checked.
        let readers: Vec<Id> = self.chain(owner).readers.iter().map(|reader| reader.by).collect();
        self.owe(owner, &readers);
        self.forget_what_all_have(owner);
        Ok(())
    }

    /// Checks that each sender's messages come in its order and once. [P1 P3]
    fn check_content(&self, owner: Id, from: Id, number: u16, rules: Rules) -> Verdict {
        if from == owner {
            let is_next = number == self.chain(owner).published;
            return rules.demand(is_next, 1, "its messages are out of order");
        }
        rules.demand(owner == BROADCAST, 12, "a client speaks for another")?;
        let theirs = there(self.chains.get(usize::from(from)), "client")?;
        rules.demand(number == theirs.forwarded, 3, "sent on twice, or out of order")?;
        let was_read = theirs.reader(BROKER).is_some_and(|reader| {
            reader.next > number || reader.next == number && reader.found.is_some()
        });
        let is_hostile = self.process(from).is_hostile;
        rules.demand(was_read || is_hostile, 3, "sent on, but never received")
    }

    pub fn read(&mut self, action: Action, rules: Rules) -> Verdict {
        let (Action::Look { chain: id, by, .. }
        | Action::Read { chain: id, by, .. }
        | Action::Pass { chain: id, by }
        | Action::Release { chain: id, by, .. }) = action
        else {
            unreachable!()
        };
        let (header, bells) = (self.sizes.header, self.sizes.bells);
        let is_hostile = self.process(id).is_hostile;
        rules.demand(self.lives(by), 4, "a dead process reads")?;
        if id == BROADCAST && self.removed(by).is_some() {
            return self.read_on(action, rules);
        }
        let chain = self.chain(id);
        let reader = there(chain.reader(by), "receiver")?;
        let (place, next, found, cursor) = (reader.place, reader.next, reader.found, reader.cursor);
        match action {
            Action::Look { page, at, found, .. } => {
                let owed_rings = !self.process(by).owed_rings.is_empty();
                rules.demand(!bells || !owed_rings, 10, "it goes on without looking who sleeps")?;
                if !is_hostile {
                    let stands = chain.word(place);
                    rules.demand(stands.is_some(), 8, "it reads a page that is another by now")?;
                    let unit = chain.page(place.page).and_then(|page| page.unit(place.position));
                    let is_there = page == place.page && unit == Some(at as usize);
                    rules.demand(is_there, 1, "it looks at another place than its own")?;
                    rules.demand(found != Word::Other, 3, "no commit word ever stood there")?;
                    rules.demand(Some(found) == stands, 8, "not what stands there")?;
                    if let Some(message) = found.message() {
                        let right = chain.message(next) == Some(message);
                        rules.demand(right, 2, "another message than everybody else's")?;
                    }
                }
                if found == Word::Zero {
                    if let Some(again) = &mut self.process_mut(by).second_look {
                        again.empty.insert(id);
                    }
                } else {
                    let reader = there(self.chain_mut(id).reader_mut(by), "receiver")?;
                    reader.found = Some(found);
                }
            }
            Action::Read { page, at, .. } => {
                let unit = chain.page(place.page).and_then(|page| page.unit(place.position));
                let is_there = page == place.page && unit.is_some_and(|unit| unit <= at as usize);
                rules.demand(is_there, 8, "it reads bytes of a page that is another by now")?;
                rules.demand(found.is_some(), 3, "it reads what was not committed")?;
            }
            Action::Pass { .. } => {
                let word = there(found, "message to pass")?;
                let behind = there(chain.behind(place, word, header), "place behind it")?;
                if let Word::EndOfPage { next: named } = word {
                    let page = chain.page(named);
                    let has = page.is_some_and(|page| page.sent.has(by));
                    rules.demand(has, 3, "it goes on in a page that it does not have")?;
                    let base = chain.page(place.page).and_then(Page::end);
                    let follows = page.and_then(|page| page.header) == base.map(|b| (b, next));
                    rules.demand(follows, 8, "it goes on in a page that does not follow")?;
                }
                let is_message = word.message().is_some();
                let reader = there(self.chain_mut(id).reader_mut(by), "receiver")?;
                (reader.place, reader.found, reader.has_in_hand) = (behind, None, false);
                reader.next += u16::from(is_message);
                self.forget_what_all_have(id);
                self.forget_released_pages();
            }
            Action::Release { to, .. } => {
                let (holds, returned) = self.holds_before(id, to);
                let holds = holds && by == BROKER && to < place.position;
                let is_place = to == place.position || holds;
                rules.demand(is_place, 8, "it releases another place than its own")?;
                rules.demand(
                    returned,
                    8,
                    "it releases a referenced message that not all have passed",
                )?;
                let is_unsaid = by == BROKER && self.is_released_unannounced(id, to);
                let why = "it releases, without a retired word, what a removed receiver may read in place";
                rules.demand(!is_unsaid, 8, why)?;
                rules.demand(to > cursor, 12, "its cursor does not move forwards")?;
                let sent_on = id == BROADCAST || is_hostile || chain.forwarded >= next;
                rules.demand(sent_on, 3, "it releases what it has not sent on")?;
                let has_peer = !chain.is_orphan;
                let reader = there(self.chain_mut(id).reader_mut(by), "receiver")?;
                reader.cursor = to;
                if has_peer {
                    self.owe(by, &[id]);
                }
                self.forget_released_pages();
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    /// Returns the commit word at unit `at` of a page in use, with its position.
    fn slot(&mut self, chain: Id, page: u16, at: u32) -> Result<(u32, &mut Word), Violation> {
        let page = there(self.chain_mut(chain).page_mut(page), "page")?;
        let (base, _) = there(page.header, "page in use")?;
        let word = there(page.words.get_mut(at as usize), "slot")?;
        Ok((base + at, word))
    }

    /// Forgets messages that all receivers have: no later rule asks for them.
    pub fn forget_what_all_have(&mut self, chain: Id) {
        let removed = self.removed.iter().filter(|_| chain == BROADCAST);
        let removed = removed.map(|removed| removed.reader.next).min();
        let chain = self.chain_mut(chain);
        let least = chain.readers.iter().map(|reader| reader.next).chain(removed).min();
        let kept = usize::from(chain.published - least.unwrap_or(chain.published));
        let surplus = chain.log.len().saturating_sub(kept);
        chain.log.drain(..surplus);
    }
}

//! The bus as an abstract state machine: what `docs/protocol.md` says, as rules over
//! [`Action`]s.
//!
//! An action is one access of shared memory, one thing done with a socket, or a private decision
//! that nobody sees. [`Bus::act`] asks of each whether the protocol allows it here, and does it.
//! Two kinds of runs go through these very rules: those of the model ([`program`](crate::program)),
//! all of them, and those of the real code, as it wrote them down.
//!
//! What is published is not the sender's private knowledge but what a receiver would find: the
//! slots from the tail on, up to the first zero ([`Bus::publish`]). So runs, batches, dropped
//! claims and runs that were given up need no actions of their own.

use crate::state::*;
use std::fmt::{self, Display, Formatter};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    // Connections (sections 6, 8, 9).
    Born { process: Id },
    /// The first page of a process' own chain is there; a client's is read by process 0.
    Open { chain: Id, len: u32 },
    /// The sender lets a receiver in, between two operations of its own; or a broker begins to
    /// read a client's chain, which counts it from its beginning.
    Admit { chain: Id, by: Id, page: u16, position: u32, number: u16 },
    /// A process dies or hangs up. Its connections end with it.
    End { process: Id },
    /// The sender has learnt that a receiver is gone, or has caught it lying.
    Strike { by: Id },
    /// The broker lets go of a client's chain and of all of its memory.
    Remove { client: Id },

    // The pool (sections 4, 8).
    Make { chain: Id, page: u16, len: u32 },
    Send { chain: Id, page: u16, to: Id },
    Forget { chain: Id, page: u16 },

    // The writing end (sections 4, 6).
    Learn { chain: Id, by: Id, cursor: u32 },
    Reset { chain: Id, page: u16, base: u32, first: u16 },
    /// Writes bytes of a slot. The commit words of `units` units from `at` on are overwritten.
    Write { chain: Id, page: u16, at: u32, units: u32 },
    Clear { chain: Id, page: u16, at: u32 },
    Fill { chain: Id, page: u16, at: u32, word: Word },
    Publish { chain: Id, page: u16, at: u32, word: Word },

    // The reading end (sections 5, 6).
    Look { chain: Id, by: Id, page: u16, at: u32, found: Word },
    /// Reads bytes of the message that it has found.
    Read { chain: Id, by: Id, page: u16, at: u32 },
    /// Goes on behind what it has found.
    Pass { chain: Id, by: Id },
    GiveUp { chain: Id, by: Id, to: u32 },

    // The doorbells (section 7).
    Park { by: Id },
    ParkFence { by: Id },
    Unpark { by: Id },
    RingFence { by: Id },
    RingRead { by: Id, of: Id, parked: bool },
    Ring { by: Id, to: Id },
    /// Blocks until something comes, having looked again for a message, or for room.
    Sleep { by: Id, message: bool, room: bool },
    Wake { by: Id },
}

/// An action that the protocol does not allow: the promise that is at stake, and why.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Violation {
    pub promise: u8,
    pub why: String,
}

impl Display for Violation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "P{}: {}", self.promise, self.why)
    }
}

/// Whether the rules are enforced. A program that is broken on purpose runs without: then only
/// the harm that it does, see [`promises`](crate::promises), can give it away.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rules {
    Enforced,
    Ignored,
}

type Verdict = Result<(), Violation>;

fn refuse(promise: u8, why: impl Into<String>) -> Verdict {
    Err(Violation { promise, why: why.into() })
}

impl Rules {
    /// What the protocol demands here.
    fn demand(self, holds: bool, promise: u8, why: &str) -> Verdict {
        if holds || self == Rules::Ignored { Ok(()) } else { refuse(promise, why) }
    }
}

/// What must be there for an action to have any meaning, under whatever rules.
fn there<T>(thing: Option<T>, what: &str) -> Result<T, Violation> {
    thing.ok_or_else(|| Violation { promise: 12, why: format!("there is no such {what}") })
}

impl Bus {
    /// Does what the protocol allows.
    pub fn act(&mut self, action: Action, rules: Rules) -> Verdict {
        use Action::*;
        match action {
            Born { .. } | Open { .. } | Admit { .. } | End { .. } | Strike { .. }
            | Remove { .. } => self.connect(action, rules),
            Make { .. } | Send { .. } | Forget { .. } => self.pool(action, rules),
            Learn { .. } | Reset { .. } | Write { .. } | Clear { .. } | Fill { .. }
            | Publish { .. } => self.write(action, rules),
            Look { .. } | Read { .. } | Pass { .. } | GiveUp { .. } => self.read(action, rules),
            Park { .. } | ParkFence { .. } | Unpark { .. } | RingFence { .. }
            | RingRead { .. } | Ring { .. } | Sleep { .. } | Wake { .. } => {
                self.sleep(action, rules)
            }
        }
    }

    fn connect(&mut self, action: Action, rules: Rules) -> Verdict {
        match action {
            Action::Born { process } => {
                self.know(process);
                rules.demand(self.process(process).life == Life::Unborn, 16, "born twice")?;
                self.process_mut(process).life = Life::Lives;
            }
            Action::Open { chain: id, len } => {
                let header = self.sizes.header;
                rules.demand(self.lives(id) && !self.chain(id).is_open(), 16, "opened twice")?;
                let chain = self.chain_mut(id);
                let mut page = Page { len, ..Page::default() };
                page.words.resize(len as usize, Word::Other);
                page.words[header as usize] = Word::Zero;
                (page.header, page.is_linked) = (Some((0, 0)), true);
                chain.next_page = 1;
                chain.tail = Place { page: 0, position: header };
                if id != BROADCAST {
                    page.sent.insert(BROKER);
                    let (place, seen) = (chain.tail, header);
                    chain.readers.push(Reader { by: BROKER, place, seen, ..Reader::default() });
                }
                chain.pages.push(page);
                self.process_mut(BROKER).bell = true;
            }
            Action::Admit { chain: id, by, page, position, number } => {
                let place = Place { page, position };
                let chain = self.chain_mut(id);
                match chain.reader_mut(by) {
                    Some(reader) => {
                        rules.demand(!reader.has_begun, 3, "admitted twice")?;
                        let is_start = reader.place == place && reader.next == number;
                        rules.demand(is_start, 3, "it does not begin at the beginning")?;
                        reader.has_begun = true;
                    }
                    None => {
                        let is_present = place == chain.tail && number == chain.published;
                        rules.demand(is_present, 3, "it does not begin at the present")?;
                        let (next, seen, has_begun) = (number, position, true);
                        let reader = Reader { by, place, next, seen, has_begun, ..Reader::default() };
                        chain.readers.push(reader);
                    }
                }
                self.process_mut(by).bell = true;
            }
            Action::End { process } => {
                let it = self.process_mut(process);
                // Its memory stays as it is; what it owed is gone with it.
                let (is_liar, is_parked) = (it.is_liar, it.is_parked);
                *it = Process { life: Life::Ended, is_liar, is_parked, ..Process::default() };
                for id in self.ids().filter(|id| (*id == BROKER) != (process == BROKER)) {
                    self.process_mut(id).bell = true;
                }
            }
            Action::Strike { by } => {
                let is_due = !self.lives(by) || self.process(by).is_liar;
                rules.demand(is_due, 3, "struck although it lives and is honest")?;
                self.chain_mut(BROADCAST).readers.retain(|reader| reader.by != by);
                self.chain_mut(by).is_orphan = true;
                let broker = self.process_mut(BROKER);
                broker.owes.remove(by);
                broker.must_ring.remove(by);
                self.forget_what_all_have(BROADCAST);
            }
            Action::Remove { client } => {
                let chain = self.chain(client);
                let taken = chain.reader(BROKER).is_none_or(|reader| reader.place == chain.tail);
                let all = taken && chain.forwarded == chain.published;
                let is_due = chain.is_orphan && (all || self.process(client).is_liar);
                rules.demand(is_due, 4, "removed before all that it committed was sent on")?;
                let Chain { published, forwarded, .. } = *self.chain(client);
                let rest = Chain { is_orphan: true, published, forwarded, ..Chain::default() };
                *self.chain_mut(client) = rest;
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    fn pool(&mut self, action: Action, rules: Rules) -> Verdict {
        let budget = self.sizes.budget;
        match action {
            Action::Make { chain, page: id, len } => {
                let chain = self.chain_mut(chain);
                rules.demand(id == chain.next_page, 8, "a page id was used before")?;
                rules.demand(chain.len() + len <= budget, 6, "more memory than the budget")?;
                chain.next_page += 1;
                let mut page = Page { id, len, ..Page::default() };
                page.words.resize(len as usize, Word::Other);
                chain.pages.push(page);
            }
            Action::Send { chain, page, to } => {
                there(self.chain_mut(chain).page_mut(page), "page")?.sent.insert(to);
                self.process_mut(to).bell = true;
            }
            Action::Forget { chain, page: id } => {
                let chain = self.chain_mut(chain);
                let left = chain.left_by_all();
                let is_free = there(chain.page(id), "page")?.is_free(left);
                rules.demand(is_free, 8, "a page was taken back that is in use")?;
                chain.pages.retain(|page| page.id != id);
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    fn write(&mut self, action: Action, rules: Rules) -> Verdict {
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
                let is_liar = self.process(by).is_liar;
                let chain = self.chain_mut(owner);
                let tail = chain.tail.position;
                let reader = there(chain.reader_mut(by), "receiver")?;
                rules.demand(is_liar || cursor == reader.cursor, 13, "not what stands there")?;
                if cursor != 0 {
                    let can_be = (reader.seen..=tail).contains(&cursor);
                    rules.demand(can_be, 12, "a cursor that lies was believed")?;
                    reader.seen = cursor;
                }
                if let Some(again) = &mut self.process_mut(owner).second_look {
                    again.learnt.insert(by);
                }
            }
            Action::Reset { page: id, base, first, .. } => {
                let chain = self.chain_mut(owner);
                let left = chain.left_by_all();
                let page = there(chain.page_mut(id), "page")?;
                let is_free = page.is_free(left);
                rules.demand(is_free, 8, "a page is written again that a receiver has not left")?;
                (page.header, page.is_linked) = (Some((base, first)), false);
                // Whatever stood there: luck with an old zero is not allowed.
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

    /// Moves the tail behind all that a receiver would find now, and checks each message of it.
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
                Word::Message { from, number: theirs, .. } => {
                    self.check_content(owner, from, theirs, rules)?;
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
        // Whoever may wait for it must be looked at.
        let readers: Vec<Id> = self.chain(owner).readers.iter().map(|reader| reader.by).collect();
        self.owe(owner, &readers);
        self.forget_what_all_have(owner);
        Ok(())
    }

    /// Each sender's messages, in its order, once. [P1 P3]
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
        let is_liar = self.process(from).is_liar;
        rules.demand(was_read || is_liar, 3, "sent on, but never received")
    }

    fn read(&mut self, action: Action, rules: Rules) -> Verdict {
        let (Action::Look { chain: id, by, .. }
        | Action::Read { chain: id, by, .. }
        | Action::Pass { chain: id, by }
        | Action::GiveUp { chain: id, by, .. }) = action
        else {
            unreachable!()
        };
        let (header, bells) = (self.sizes.header, self.sizes.bells);
        let is_liar = self.process(id).is_liar;
        rules.demand(self.lives(by), 4, "a dead process reads")?;
        let chain = self.chain(id);
        let reader = there(chain.reader(by), "receiver")?;
        let (place, next, found, cursor) =
            (reader.place, reader.next, reader.found, reader.cursor);
        match action {
            Action::Look { page, at, found, .. } => {
                let owes = !self.process(by).owes.is_empty();
                rules.demand(!bells || !owes, 10, "it goes on without looking who sleeps")?;
                if !is_liar {
                    let stands = chain.word(place);
                    rules.demand(stands.is_some(), 8, "it reads a page that is another by now")?;
                    let unit = chain.page(place.page).and_then(|page| page.unit(place.position));
                    let is_there = page == place.page && unit == Some(at as usize);
                    rules.demand(is_there, 1, "it looks at another place than its own")?;
                    rules.demand(found != Word::Other, 3, "no commit word ever stood there")?;
                    rules.demand(Some(found) == stands, 8, "not what stands there")?;
                    if let Word::Message { from, number, .. } = found {
                        let right = chain.message(next) == Some((from, number));
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
                let is_message = matches!(word, Word::Message { .. });
                let reader = there(self.chain_mut(id).reader_mut(by), "receiver")?;
                (reader.place, reader.found) = (behind, None);
                reader.next += u16::from(is_message);
                self.forget_what_all_have(id);
            }
            Action::GiveUp { to, .. } => {
                rules.demand(to == place.position, 8, "it gives up another place than its own")?;
                rules.demand(to > cursor, 12, "its cursor does not move forwards")?;
                let sent_on = id == BROADCAST || is_liar || chain.forwarded >= next;
                rules.demand(sent_on, 3, "it gives up what it has not sent on")?;
                let has_peer = !chain.is_orphan;
                let reader = there(self.chain_mut(id).reader_mut(by), "receiver")?;
                reader.cursor = to;
                if has_peer {
                    self.owe(by, &[id]);
                }
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    fn sleep(&mut self, action: Action, rules: Rules) -> Verdict {
        match action {
            Action::Park { by } => {
                let process = self.process_mut(by);
                process.is_parked = true;
                process.rung_by = Set::default();
                process.second_look = Some(SecondLook::default());
            }
            Action::ParkFence { by } => {
                if let Some(again) = &mut self.process_mut(by).second_look {
                    *again = SecondLook { is_fenced: true, ..SecondLook::default() };
                }
            }
            Action::Unpark { by } => {
                let process = self.process_mut(by);
                process.is_parked = false;
                process.rung_by = Set::default();
                process.second_look = None;
            }
            Action::RingFence { by } => {
                // It has no effect on anybody else, but may be forgotten.
                let process = self.process_mut(by);
                process.is_fenced = !process.owes.is_empty();
            }
            Action::RingRead { by, of, parked } => {
                let fenced = self.process(by).is_fenced;
                rules.demand(fenced || !self.process(by).owes.has(of), 10, "no fence before")?;
                let peer = self.process_mut(of);
                let is_right = peer.is_liar || parked == peer.is_parked;
                rules.demand(is_right, 13, "not what stands there")?;
                let rings = parked && !peer.rung_by.has(by);
                if rings && !peer.is_liar {
                    peer.rung_by.insert(by);
                }
                let process = self.process_mut(by);
                process.owes.remove(of);
                process.is_fenced &= !process.owes.is_empty();
                if rings {
                    process.must_ring.insert(of);
                }
            }
            Action::Ring { by, to } => {
                self.process_mut(by).must_ring.remove(to);
                self.process_mut(to).bell = true;
            }
            Action::Sleep { by, message, room } => {
                let process = self.process(by);
                let settled = process.owes.is_empty() && process.must_ring.is_empty();
                rules.demand(settled, 10, "it sleeps and has not rung whom it must")?;
                let again = process.second_look.clone().unwrap_or_default();
                let parked = process.is_parked && again.is_fenced;
                rules.demand(parked, 10, "it sleeps and has not said so")?;
                let looked = self.inbound(by).all(|id| again.empty.has(id));
                rules.demand(looked || !message, 10, "it sleeps and has not looked again")?;
                let readers = &self.chain(by).readers;
                let learnt = readers.iter().all(|reader| again.learnt.has(reader.by));
                rules.demand(learnt || !room, 10, "it sleeps and has not asked for room again")?;
                let process = self.process_mut(by);
                (process.is_asleep, process.second_look) = (true, None);
            }
            Action::Wake { by } => {
                let process = self.process_mut(by);
                (process.is_asleep, process.bell) = (false, false);
            }
            _ => unreachable!(),
        }
        Ok(())
    }

    /// The commit word at unit `at` of a page in use, with its position.
    fn slot(&mut self, chain: Id, page: u16, at: u32) -> Result<(u32, &mut Word), Violation> {
        let page = there(self.chain_mut(chain).page_mut(page), "page")?;
        let (base, _) = there(page.header, "page in use")?;
        let word = there(page.words.get_mut(at as usize), "slot")?;
        Ok((base + at, word))
    }

    /// `by` has stored something for which `peers` may wait.
    fn owe(&mut self, by: Id, peers: &[Id]) {
        if !self.sizes.bells {
            return;
        }
        let process = self.process_mut(by);
        process.is_fenced = false;
        for peer in peers {
            process.owes.insert(*peer);
        }
    }

    /// Nobody asks any more what these messages were.
    fn forget_what_all_have(&mut self, chain: Id) {
        let chain = self.chain_mut(chain);
        let least = chain.readers.iter().map(|reader| reader.next).min();
        let kept = usize::from(chain.published - least.unwrap_or(chain.published));
        let surplus = chain.log.len().saturating_sub(kept);
        chain.log.drain(..surplus);
    }
}

impl Chain {
    /// The position before which nobody reads any more, as the sender knows it.
    fn left_by_all(&self) -> u32 {
        let seen = self.readers.iter().map(|reader| reader.seen);
        seen.min().unwrap_or(u32::MAX).min(self.tail.position)
    }
}

impl Page {
    /// Whether it may be put to use, when everybody is at `left` or beyond.
    fn is_free(&self, left: u32) -> bool {
        !self.is_linked || self.end().is_none_or(|end| end <= left)
    }
}

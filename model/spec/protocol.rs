//! The bus as an abstract state machine: `docs/protocol.md` as rules over [`Action`]s.
//!
//! An action is one access of shared memory, one action on a socket, or a private decision that no
//! process sees. [`Bus::act`] checks of each whether the protocol allows it here, and applies it.
//! Two kinds of runs pass these rules: all runs of the model ([`run`](crate::run)), and those of
//! the real code, as recorded.
//!
//! What is published is not the sender's private knowledge but what a receiver would find: the
//! slots from the tail on, up to the first zero ([`Bus::publish`]). So batches, dropped claims and
//! discarded batches need no actions of their own.

use crate::state::*;
use std::fmt::{self, Display, Formatter};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(dead_code, reason = "the model's programs read no payload and take no page back")]
pub enum Action {
    // Connections (sections 6, 8, 9).
    Born {
        process: Id,
    },
    /// The first page of a process' own chain exists. Process 0 reads a client's.
    Open {
        chain: Id,
        len: u32,
    },
    /// The sender admits a receiver between two operations of its own. Or a broker begins to read a
    /// client's chain, which counts it from its beginning.
    Admit {
        chain: Id,
        by: Id,
        page: u16,
        position: u32,
        number: u16,
    },
    /// A process dies or hangs up. Its connections end with it.
    End {
        process: Id,
    },
    /// The broker stores zero in the member word of a client, which may live.
    EndMembership {
        by: Id,
    },
    /// The broker stores in the member word of a client that the client was skipped.
    Skip {
        by: Id,
    },
    /// A client that was skipped drops all pages, stores zero in its cursor and asks to receive
    /// again.
    Rejoin {
        by: Id,
    },
    /// The sender removes a receiver: it is gone, at fault, was disconnected or skipped.
    RemoveReceiver {
        by: Id,
    },
    /// Retires pages that begin before this position: in the broker's own chain, or, by the retired
    /// word, in a client's.
    Retire {
        chain: Id,
        to: u32,
    },
    /// A client reads the retired word beside the cursor of its chain.
    LearnRetired {
        chain: Id,
        retired: u32,
    },
    /// The broker drops a client's chain and all of its memory.
    Remove {
        client: Id,
    },

    // The pool (sections 4, 8).
    Make {
        chain: Id,
        page: u16,
        len: u32,
    },
    Send {
        chain: Id,
        page: u16,
        to: Id,
    },
    Forget {
        chain: Id,
        page: u16,
    },
    /// The broker makes a client's page a foreign page of the broadcast chain.
    Adopt {
        foreign_page: u16,
        of: Id,
        page: u16,
    },

    // The writing end (sections 4, 6).
    Learn {
        chain: Id,
        by: Id,
        cursor: u32,
    },
    Reset {
        chain: Id,
        page: u16,
        base: u32,
        first: u16,
    },
    /// Writes bytes of a slot. Overwrites the commit words of `units` units from `at` on.
    Write {
        chain: Id,
        page: u16,
        at: u32,
        units: u32,
    },
    Clear {
        chain: Id,
        page: u16,
        at: u32,
    },
    Fill {
        chain: Id,
        page: u16,
        at: u32,
        word: Word,
    },
    Publish {
        chain: Id,
        page: u16,
        at: u32,
        word: Word,
    },

    // The reading end (sections 5, 6).
    Look {
        chain: Id,
        by: Id,
        page: u16,
        at: u32,
        found: Word,
    },
    /// Reads bytes of the message that it has found.
    Read {
        chain: Id,
        by: Id,
        page: u16,
        at: u32,
    },
    /// Reads bytes of the message by reference that it has found in the broadcast chain, at a unit
    /// of the page that `of` calls `page`.
    Borrow {
        by: Id,
        of: Id,
        page: u16,
        at: u32,
    },
    /// A receiver that reads in place has found a message, and is a member: it hands it out.
    HandOut {
        by: Id,
    },
    /// Moves past what it has found.
    Pass {
        chain: Id,
        by: Id,
    },
    Release {
        chain: Id,
        by: Id,
        to: u32,
    },
    /// The broker publishes its consumed position in a chain of which messages are still
    /// referenced.
    Take {
        chain: Id,
        by: Id,
        to: u32,
    },

    // The doorbells (section 7).
    Park {
        by: Id,
    },
    ParkFence {
        by: Id,
    },
    Unpark {
        by: Id,
    },
    /// Announces that it polls: stores for it need neither a fence nor a ring.
    Poll {
        by: Id,
    },
    PollingRead {
        by: Id,
        of: Id,
        polls: bool,
    },
    RingFence {
        by: Id,
    },
    RingRead {
        by: Id,
        of: Id,
        parked: bool,
    },
    Ring {
        by: Id,
        to: Id,
    },
    /// Blocks until something comes, after a second check for a message or for room.
    Sleep {
        by: Id,
        message: bool,
        room: bool,
    },
    Wake {
        by: Id,
    },
}

/// An action that the protocol does not allow: the promise at stake, and why.
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

/// Whether the rules are enforced. A program that is broken on purpose runs without them. Then only
/// the harm that it does can reveal it, see [`promises`](crate::promises).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rules {
    Enforced,
    Ignored,
}

pub type Verdict = Result<(), Violation>;

fn refuse(promise: u8, why: impl Into<String>) -> Verdict {
    Err(Violation { promise, why: why.into() })
}

impl Rules {
    /// Checks a condition that the protocol demands here.
    pub fn demand(self, holds: bool, promise: u8, why: &str) -> Verdict {
        if holds || self == Rules::Ignored { Ok(()) } else { refuse(promise, why) }
    }
}

/// Checks that an action's operand exists, under any rules.
pub fn there<T>(thing: Option<T>, what: &str) -> Result<T, Violation> {
    thing.ok_or_else(|| Violation { promise: 12, why: format!("there is no such {what}") })
}

impl Bus {
    /// Applies an action that the protocol allows.
    pub fn act(&mut self, action: Action, rules: Rules) -> Verdict {
        use Action::*;
        match action {
            Born { .. } | Open { .. } | Admit { .. } | End { .. } | Remove { .. } => {
                self.connect(action, rules)
            }
            EndMembership { .. }
            | Skip { .. }
            | Rejoin { .. }
            | RemoveReceiver { .. }
            | Retire { .. }
            | LearnRetired { .. }
            | HandOut { .. } => self.remove(action, rules),
            Make { .. } | Send { .. } => self.pool(action, rules),
            Forget { chain: BROADCAST, page } if self.foreign_page(page).is_some() => {
                self.refer(action, rules)
            }
            Forget { .. } => self.pool(action, rules),
            Adopt { .. } | Borrow { .. } | Take { .. } => self.refer(action, rules),
            Learn { .. }
            | Reset { .. }
            | Write { .. }
            | Clear { .. }
            | Fill { .. }
            | Publish { .. } => self.write(action, rules),
            Look { .. } | Read { .. } | Pass { .. } | Release { .. } => self.read(action, rules),
            Park { .. }
            | ParkFence { .. }
            | Unpark { .. }
            | Poll { .. }
            | PollingRead { .. }
            | RingFence { .. }
            | RingRead { .. }
            | Ring { .. }
            | Sleep { .. }
            | Wake { .. } => self.sleep(action, rules),
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
                        let process = self.process_mut(by);
                        let is_due = !process.is_skipped || process.asks;
                        rules.demand(is_due, 8, "admitted while it may read its old pages")?;
                        (process.is_skipped, process.asks) = (false, false);
                        let chain = self.chain_mut(id);
                        let (next, seen, has_begun) = (number, position, true);
                        let reader =
                            Reader { by, place, next, seen, has_begun, ..Reader::default() };
                        chain.readers.push(reader);
                    }
                }
                self.process_mut(by).bell = true;
            }
            Action::End { process } => {
                let it = self.process_mut(process);
                // Its memory stays unchanged. Its pending duties are gone with it.
                let Process { is_hostile, is_parked, is_polling, rung_by, is_removed, .. } = *it;
                let life = Life::Ended;
                *it = Process {
                    life,
                    is_hostile,
                    is_parked,
                    is_polling,
                    rung_by,
                    ..Process::default()
                };
                self.removed.retain(|removed| removed.reader.by != process);
                // The connection of a removed client had ended before.
                let is_news = |id: &Id| (*id == BROKER) != (process == BROKER) && !is_removed;
                for id in self.ids().filter(is_news) {
                    self.process_mut(id).bell = true;
                }
            }
            Action::Remove { client } => {
                let chain = self.chain(client);
                let taken = chain.reader(BROKER).is_none_or(|reader| reader.place == chain.tail);
                let all = taken && chain.forwarded == chain.published;
                let is_due = chain.is_orphan && (all || self.process(client).is_hostile);
                rules.demand(is_due, 4, "removed before all that it committed was sent on")?;
                let Chain { published, forwarded, .. } = *self.chain(client);
                let rest = Chain { is_orphan: true, published, forwarded, ..Chain::default() };
                let gone = std::mem::replace(self.chain_mut(client), rest);
                gone.pages.into_iter().for_each(|page| self.leave_to_receivers(client, page));
                self.forget_released_pages();
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
                rules.demand(id >= chain.next_page, 8, "a page id was used before")?;
                rules.demand(chain.len() + len <= budget, 6, "more memory than the budget")?;
                chain.next_page = id + 1;
                let mut page = Page { id, len, ..Page::default() };
                page.words.resize(len as usize, Word::Other);
                chain.pages.push(page);
            }
            Action::Send { chain, page, to } => {
                let foreign_page =
                    self.foreign_pages.iter_mut().find(|foreign_page| foreign_page.id == page);
                match foreign_page.filter(|_| chain == BROADCAST) {
                    Some(foreign_page) => foreign_page.sent.insert(to),
                    None => there(self.chain_mut(chain).page_mut(page), "page")?.sent.insert(to),
                }
                self.process_mut(to).bell = true;
            }
            Action::Forget { chain: owner, page: id } => {
                let chain = self.chain_mut(owner);
                let left = chain.left_by_all();
                let i = there(chain.pages.iter().position(|page| page.id == id), "page")?;
                let is_free = chain.pages[i].is_free(left);
                rules.demand(is_free, 8, "a page was taken back that is in use")?;
                let page = chain.pages.remove(i);
                self.keep_dropped(owner, &page);
                self.leave_to_receivers(owner, page);
                if owner != BROADCAST {
                    self.process_mut(BROKER).bell = true;
                }
            }
            _ => unreachable!(),
        }
        Ok(())
    }
}

impl Chain {
    /// Returns the position that all receivers have passed, as far as the sender knows.
    pub fn left_by_all(&self) -> u32 {
        let seen = self.readers.iter().map(|reader| reader.seen);
        seen.min().unwrap_or(u32::MAX).min(self.tail.position)
    }
}

impl Page {
    /// Returns whether the page may be reused when all receivers are at `left` or beyond.
    pub fn is_free(&self, left: u32) -> bool {
        !self.is_linked || self.end().is_none_or(|end| end <= left)
    }
}

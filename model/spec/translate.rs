//! Translates accesses of real memory to actions of the specification.
//!
//! A page's header says which page of which chain a region is. A process' label says whose accesses
//! they are. 16 bytes are one unit. Two private decisions leave no trace of their own and are
//! inferred from what follows. A receiver has passed a message when it reads after it or releases
//! it. It has passed the end of a page when it has read the next page's header.

use crate::promises::{harm, unmet};
use crate::protocol::{Action, Rules, Violation};
use crate::scenario::{Note, Who};
use crate::state::*;
use crate::trace::{Event, Recorded};
use llmp::core::layout::*;
use llmp::core::order::Site;
use std::collections::BTreeMap;

const UNIT: usize = SLOT_ALIGN;

fn units(bytes: usize) -> u32 {
    bytes.div_ceil(UNIT) as u32
}

fn position(bytes: u64) -> u32 {
    // A value that is not a multiple is not a valid position.
    if bytes.is_multiple_of(UNIT as u64) { (bytes / UNIT as u64) as u32 } else { u32::MAX }
}

#[derive(Clone, Copy)]
enum Use {
    Control(Who),
    /// A page, with the client that its header names.
    Page {
        chain: Who,
        id: u32,
        owner: u32,
    },
}

/// Follows a trace in the specification.
pub struct Translator {
    bus: Bus,
    uses: BTreeMap<usize, Use>,
    /// The second words of slots, by region and unit.
    tags: BTreeMap<(usize, u32), u64>,
    /// Pairs of words that were written at or before the beginning of a payload.
    pairs: BTreeMap<(usize, u32), [u64; 2]>,
    /// The client whose chain the broker reads with each cursor.
    cursors: BTreeMap<usize, Who>,
    /// The number of cursors of each control region.
    cursor_counts: BTreeMap<usize, usize>,
    /// What the broker says that it consumes of each client with its pending batch: the position in
    /// its chain, and the one in the client's.
    intents: BTreeMap<Who, (u32, u32)>,
    pub actions: u64,
}

type Verdict = Result<(), Violation>;

impl Translator {
    pub fn new(budget: usize, bells: bool) -> Self {
        let sizes = Sizes { header: units(PAGE_HEADER), budget: units(budget), bells };
        Translator {
            bus: Bus::new(sizes),
            uses: BTreeMap::new(),
            tags: BTreeMap::new(),
            pairs: BTreeMap::new(),
            cursors: BTreeMap::new(),
            cursor_counts: BTreeMap::new(),
            intents: BTreeMap::new(),
            actions: 0,
        }
    }

    fn act(&mut self, action: Action) -> Verdict {
        self.actions += 1;
        let verdict = self.bus.act(action, Rules::Enforced);
        // The rules must prevent harm. If they don't, they are wrong.
        verdict.and_then(|()| harm(&self.bus).map_or(Ok(()), Err)).map_err(|violation| {
            let why = format!("{}, at {action:?}", violation.why);
            Violation { why, ..violation }
        })
    }

    /// Takes the next event. An error means that the specification does not allow it.
    pub fn take(&mut self, event: &Event) -> Verdict {
        match event {
            Event::Note(note) => self.note(note),
            Event::Control { region, of } => {
                self.uses.insert(*region, Use::Control(*of));
                Ok(())
            }
            Event::Access { who, region, at, access } => self.access(*who, *region, *at, access),
        }
    }

    fn access(&mut self, who: Who, region: usize, at: usize, access: &Recorded) -> Verdict {
        match access {
            Recorded::Fence(Site::ParkFence) => return self.act(Action::ParkFence { by: who }),
            Recorded::Fence(Site::RingFence) => return self.act(Action::RingFence { by: who }),
            // These order a read of the member word against pages that are reused.
            Recorded::Fence(_) => return Ok(()),
            Recorded::WriteWords(words) if words[0] == CONTROL_MAGIC && at == 0 => {
                self.cursor_counts.insert(region, high(words[1]) as usize);
            }
            Recorded::WriteWords(words) if words[0] == PAGE_MAGIC && at == 0 => {
                return self.header(who, region, words);
            }
            _ => {}
        }
        match self.uses.get(&region) {
            Some(Use::Control(of)) => match access {
                Recorded::Store(site @ (Site::IntentBegin | Site::IntentConsumed), value) => {
                    self.intend(region, at, *site == Site::IntentBegin, *value);
                    Ok(())
                }
                _ => self.control(who, *of, at, access),
            },
            Some(Use::Page { chain, id, .. }) => {
                let (chain, page) = (*chain, *id as u16);
                if who == chain {
                    self.own_page(chain, page, region, at, access)
                } else {
                    self.their_page(chain, who, page, region, at, access)
                }
            }
            None => Ok(()),
        }
    }

    fn header(&mut self, who: Who, region: usize, words: &[u64]) -> Verdict {
        let (id, owner) = (low(words[3]), high(words[3]));
        self.uses.insert(region, Use::Page { chain: who, id, owner });
        let (chain, page) = (who, id as u16);
        if page == 0 && !self.bus.chain(chain).is_open() {
            return self.act(Action::Open { chain, len: units(words[2] as usize) });
        }
        let (base, first) = (position(words[4]), words[5] as u16);
        self.act(Action::Reset { chain, page, base, first })
    }

    /// Records half of an intent.
    fn intend(&mut self, region: usize, at: usize, is_begin: bool, value: u64) {
        let begin = intent_offset(self.cursor_counts[&region], 0);
        let Some(client) = self.cursors.get(&((at - begin) / INTENT)) else { return };
        let intent = self.intents.entry(*client).or_default();
        let half = if is_begin { &mut intent.0 } else { &mut intent.1 };
        *half = position(value);
    }

    /// Publishes in the broadcast chain. Each client of which it has messages has an intent, which
    /// counts from now on and says where the broker is in the client's chain.
    fn publish_batch(&mut self, action: Action) -> Verdict {
        let ids = || self.bus.ids().skip(1);
        let before: Vec<u16> = ids().map(|id| self.bus.chain(id).forwarded).collect();
        let tail = self.bus.chain(BROADCAST).tail.position;
        self.act(action)?;
        for (id, before) in self.bus.ids().skip(1).zip(before) {
            let chain = self.bus.chain(id);
            let Some(reader) = chain.reader(BROKER).filter(|_| chain.forwarded > before) else {
                continue;
            };
            let behind = |found| chain.behind(reader.place, found, self.bus.sizes.header);
            let places = [Some(reader.place), reader.found.and_then(behind)];
            let (begin, intended) = self.intents.get(&id).copied().unwrap_or_default();
            let is_here = places.into_iter().flatten().any(|place| place.position == intended);
            if !is_here || begin != tail {
                let why = format!("client {id} has no intent for what is published of it");
                return Err(Violation { promise: 3, why });
            }
        }
        Ok(())
    }

    fn control(&mut self, who: Who, of: Who, at: usize, access: &Recorded) -> Verdict {
        let slot = at.saturating_sub(CONTROL_CURSORS) / LINE;
        match *access {
            Recorded::Store(Site::CursorPublish, 0) => {
                let former = self.cursors.remove(&slot).map(|client| self.bus.chain(client));
                if former.is_some_and(Chain::is_open) {
                    let why = "a cursor in use is taken back".into();
                    return Err(Violation { promise: 12, why });
                }
                Ok(())
            }
            Recorded::Store(Site::CursorPublish, value) => {
                let chain = match who {
                    BROKER => self.cursors.get(&slot).copied().unwrap_or(BROADCAST),
                    _ => BROADCAST,
                };
                let to = position(value);
                self.pass_up_to(chain, who, |place| place.position == to)?;
                self.act(Action::Release { chain, by: who, to })
            }
            Recorded::Store(Site::ConsumedPublish, 0) => Ok(()),
            Recorded::Store(Site::ConsumedPublish, value) => {
                // A receiver of a broadcast chain holds nothing.
                let chain = self.cursors.get(&slot).copied().unwrap_or(BROADCAST);
                let to = position(value);
                self.pass_up_to(chain, who, |place| place.position == to)?;
                self.act(Action::Take { chain, by: who, to })
            }
            Recorded::Store(Site::ParkStore, _) => self.act(Action::Park { by: who }),
            Recorded::Store(Site::ParkClear, _) => self.act(Action::Unpark { by: who }),
            Recorded::Load(Site::CursorRead, value) => {
                self.act(Action::Learn { chain: who, by: of, cursor: position(value) })
            }
            Recorded::Store(Site::PollingStore, _) => self.act(Action::Poll { by: who }),
            Recorded::Load(Site::PollingRead, value) => {
                let polls = value & CONTROL_POLLING != 0;
                self.act(Action::PollingRead { by: who, of, polls })
            }
            Recorded::Load(Site::RingRead, value) => {
                let parked = value & !CONTROL_POLLING != 0;
                self.act(Action::RingRead { by: who, of, parked })
            }
            _ => Ok(()),
        }
    }

    fn own_page(
        &mut self,
        chain: Who,
        page: u16,
        region: usize,
        at: usize,
        access: &Recorded,
    ) -> Verdict {
        let unit = (at / UNIT) as u32;
        match access {
            Recorded::WriteWords(words) => {
                if at % UNIT == SLOT_TAG {
                    self.tags.insert((region, unit), words[0]);
                    return self.act(Action::Write { chain, page, at: unit, units: 0 });
                }
                if let [first, second] = words[..] {
                    self.pairs.insert((region, unit), [first, second]);
                }
                let units = units(8 * words.len());
                self.act(Action::Write { chain, page, at: unit, units })
            }
            Recorded::WriteBytes(0) => Ok(()),
            Recorded::WriteBytes(len) => {
                self.act(Action::Write { chain, page, at: unit, units: units(*len) })
            }
            // It receives its own message, which is by reference.
            Recorded::ReadBytes if chain != BROADCAST => {
                self.act(Action::Borrow { by: chain, of: chain, page, at: unit })
            }
            Recorded::Store(Site::CommitClear | Site::PageClear, _) => {
                self.act(Action::Clear { chain, page, at: unit })
            }
            Recorded::Store(site, value) => {
                let word = self.word(region, unit, *value);
                match site {
                    Site::CommitFill => self.act(Action::Fill { chain, page, at: unit, word }),
                    _ => self.publish_batch(Action::Publish { chain, page, at: unit, word }),
                }
            }
            _ => Ok(()),
        }
    }

    fn their_page(
        &mut self,
        chain: Who,
        by: Who,
        page: u16,
        region: usize,
        at: usize,
        access: &Recorded,
    ) -> Verdict {
        let unit = (at / UNIT) as u32;
        match *access {
            Recorded::Load(_, value) => {
                let header = self.bus.chain(chain).page(page).and_then(|page| page.header);
                let place = header.map(|(base, _)| Place { page, position: base + unit });
                self.pass_up_to(chain, by, |behind| Some(behind) == place)?;
                let found = self.word(region, unit, value);
                self.act(Action::Look { chain, by, page, at: unit, found })
            }
            Recorded::ReadWords if at == 0 => {
                self.pass_up_to(chain, by, |behind| behind.page == page)
            }
            Recorded::ReadWords if unit < units(PAGE_HEADER) => Ok(()),
            Recorded::ReadWords | Recorded::ReadBytes if ![by, chain].contains(&BROADCAST) => {
                self.act(Action::Borrow { by, of: chain, page, at: unit })
            }
            Recorded::ReadWords | Recorded::ReadBytes => {
                self.act(Action::Read { chain, by, page, at: unit })
            }
            _ => Err(Violation { promise: 13, why: format!("{by} writes to a page of {chain}'s") }),
        }
    }

    /// A reader has passed what it found if it is now at the place after it. The end of a page
    /// leads on only if the next page's header was read.
    fn pass_up_to(&mut self, chain: Who, by: Who, is_here: impl Fn(Place) -> bool) -> Verdict {
        let it = self.bus.chain(chain);
        let Some(Reader { place, found: Some(found), .. }) = it.reader(by) else { return Ok(()) };
        let behind = it.behind(*place, *found, self.bus.sizes.header);
        let turns = behind.is_some_and(|behind| behind.page != place.page);
        let follows =
            behind.is_some_and(|b| b.page != place.page && is_here(Place { position: 0, ..b }));
        if behind.is_some_and(is_here) && turns == follows {
            return self.act(Action::Pass { chain, by });
        }
        Ok(())
    }

    /// Returns the meaning of a commit word and the word after it.
    fn word(&self, region: usize, unit: u32, commit: u64) -> Word {
        let tag = self.tags.get(&(region, unit)).copied().unwrap_or(0);
        let [kind, flags, ..] = high(commit).to_le_bytes();
        let Some(Use::Page { chain, owner, .. }) = self.uses.get(&region) else {
            return Word::Other;
        };
        match kind {
            _ if commit == 0 => Word::Zero,
            KIND_EOP => Word::EndOfPage { next: low(tag) as u16 },
            KIND_MESSAGE => {
                let len = slot_len(low(commit) as usize, flags & FLAG_EXTENDED != 0);
                let is_own = [0, *owner].contains(&high(tag));
                let from = if is_own { *chain } else { high(tag) as Id };
                let units = units(len.unwrap_or(0)) as u16;
                Word::Message { from, number: low(tag) as u16, units }
            }
            KIND_REF => {
                let is_extended = flags & FLAG_EXTENDED != 0;
                let head = SLOT_HEADER + if is_extended { SLOT_EXTENSION } else { 0 };
                let head = units(head);
                let pair = self.pairs.get(&(region, unit + head)).copied();
                let [page, offset] = pair.unwrap_or_default();
                // The specification records where the message is, and not its payload.
                let at = position(offset).saturating_sub(head);
                Word::Reference {
                    from: high(tag) as Id,
                    number: low(tag) as u16,
                    units: units(slot_len(SLOT_REF, is_extended).unwrap_or(0)) as u16,
                    foreign_page: low(page) as u16,
                    at: at as u16,
                }
            }
            _ => Word::Other,
        }
    }

    fn note(&mut self, note: &Note) -> Verdict {
        match *note {
            Note::Born { who } => self.act(Action::Born { process: who }),
            Note::Cursor { slot, client } => {
                self.cursors.insert(slot, client);
                Ok(())
            }
            Note::Admitted { chain, by, page, position: at, number } => self.act(Action::Admit {
                chain,
                by,
                page: page as u16,
                position: position(at),
                number: number as u16,
            }),
            Note::Ended { who } => self.act(Action::End { process: who }),
            Note::ReceiverRemoved { who } => self.act(Action::RemoveReceiver { by: who }),
            Note::Removed { client } => self.act(Action::Remove { client }),
            Note::Pool { chain, ref pages } => self.pool(chain, pages),
            Note::Adopted { page, client, of } => {
                self.act(Action::Adopt { foreign_page: page as u16, of: client, page: of as u16 })
            }
            Note::Sent { chain, page, to } => {
                self.act(Action::Send { chain, page: page as u16, to })
            }
            Note::Rings { by, to } => self.act(Action::Ring { by, to }),
            Note::Sleeps { by, message, room } => self.act(Action::Sleep { by, message, room }),
            Note::Wakes { by } => self.act(Action::Wake { by }),
            Note::Finished => {
                for chain in self.bus.ids() {
                    let tail = self.bus.chain(chain).tail;
                    for by in self.bus.ids().filter(|by| self.bus.lives(*by)).collect::<Vec<_>>() {
                        self.pass_up_to(chain, by, |behind| behind == tail)?;
                    }
                }
                unmet(&self.bus).map_or(Ok(()), Err)
            }
        }
    }

    fn pool(&mut self, chain: Who, pages: &[(u32, usize)]) -> Verdict {
        let is_there = |page: u16| pages.iter().any(|(id, _)| *id == u32::from(page));
        let foreign_pages = self
            .bus
            .foreign_pages
            .iter()
            .filter(|_| chain == BROADCAST)
            .map(|foreign_page| foreign_page.id);
        let own = self.bus.chain(chain).pages.iter().map(|page| page.id);
        let known: Vec<u16> = own.chain(foreign_pages).collect();
        for page in known.iter().copied().filter(|page| !is_there(*page)) {
            self.act(Action::Forget { chain, page })?;
        }
        for (id, len) in pages.iter().filter(|(id, _)| !known.contains(&(*id as u16))) {
            self.act(Action::Make { chain, page: *id as u16, len: units(*len) })?;
        }
        Ok(())
    }

    pub fn bus(&self) -> &Bus {
        &self.bus
    }
}

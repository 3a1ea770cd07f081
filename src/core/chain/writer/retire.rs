//! A chain is retired: its writer goes on in a new chain, for another reader.
//!
//! A client's chain is read by its broker. When the broker has died, the client begins a chain for
//! the next one. Receivers of the dead broker's chain may still read the client's old pages, in
//! which messages by reference lie. So these pages are never written again, and what the dead
//! broker had not consumed is copied.
//!
//! The new chain has a page for each old one that is copied, of the same length and with the same
//! messages. So the copies fit into the budget.

use super::ChainWriter;
use super::pool::Page;
use crate::core::chain::{ChainReader, Event, PageHeader, Refused, Start};
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::layout::PAGE_HEADER;
use crate::core::memory::Memory;

impl<M: Memory> ChainWriter<M> {
    /// Returns a new chain with a copy of what was not consumed of this one, everything before
    /// `consumed`. The copies have the same numbers, and are the new chain's pending batch. This
    /// chain has no pending batch, and is not written any more. `control` is a control region of
    /// ours, in which nothing is stored. `make` makes a page of a length in bytes.
    ///
    /// # Errors
    ///
    /// The error of `make`, or a [`Fault`] in the inner result if no slot of this chain begins at
    /// `consumed`.
    pub fn copy_rest<E>(
        &self,
        consumed: u64,
        control: Control<M>,
        mut make: impl FnMut(usize) -> Result<M, E>,
    ) -> Result<Result<ChainWriter<M>, Fault>, E> {
        let mut old = match self.reader_at(consumed, control) {
            Ok(old) => old,
            Err(fault) => return Ok(Err(fault)),
        };
        let len = |old: &ChainReader<M>| {
            old.page(old.page_id()).map_or(self.limits.page_len(), |page| page.region_len())
        };
        let first = make(len(&old))?;
        let mut new = ChainWriter::continuing(self.owner, self.limits, first, old.next_message());
        loop {
            // Our own pages hold what we have written.
            match old.poll() {
                Ok(Event::Message(slot)) => {
                    let claim = match new.claim(old.envelope(&slot), slot.payload_len()) {
                        Ok(claim) => claim,
                        // Unreachable: the page is as long as the old one.
                        Err(Refused::TooLong { .. } | Refused::Blocked(_)) => {
                            return Ok(Err(Fault::Start { page: 0, position: old.position() }));
                        }
                    };
                    let (page, at) = old.payload(&slot);
                    claim.copy_from(page, at);
                    claim.commit();
                    old.advance(&slot);
                }
                Ok(Event::PageAdvanced) => {
                    let memory = make(len(&old))?;
                    new.continue_in(memory);
                }
                Ok(Event::Empty | Event::Unknown(_)) => break,
                Err(fault) => return Ok(Err(fault)),
            }
        }
        // A copy is no other message.
        new.writing.payload_bytes = self.writing.payload_bytes;
        Ok(Ok(new))
    }

    /// Returns a reader of this chain that begins at a slot of it.
    fn reader_at(&self, position: u64, control: Control<M>) -> Result<ChainReader<M>, Fault> {
        let fault = Fault::Start { page: 0, position };
        let is_in = |page: &&Page<M>| (page.base..page.end()).contains(&position);
        let page = self.chain.iter().find(is_in).ok_or(fault.clone())?;
        let message = PageHeader::read(&page.memory, page.id, self.owner)?.first;
        let start = Start { page: page.id, position: page.base + PAGE_HEADER as u64, message };
        let pages = self.chain.iter().map(|page| (page.id, page.memory.clone())).collect();
        let mut reader = ChainReader::new(self.limits, self.owner, pages, start, control, 0)?;
        while reader.position() < position {
            match reader.poll()? {
                Event::Message(slot) => reader.advance(&slot),
                Event::PageAdvanced => {}
                Event::Empty | Event::Unknown(_) => return Err(fault),
            }
        }
        if reader.position() == position { Ok(reader) } else { Err(fault) }
    }

    /// Goes on in this page, which no reader knows yet.
    fn continue_in(&mut self, memory: M) {
        self.pages_len += memory.region_len();
        self.stats.page_bytes = self.pages_len as u64;
        self.stats.page_bytes_peak = self.stats.page_bytes_peak.max(self.stats.page_bytes);
        let page = self.announce(memory);
        self.enter(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::chain::Blocked;
    use crate::core::layout::control_len;
    use crate::core::limits::Limits;
    use crate::core::memory::Region;
    use crate::core::message::{ClientId, Envelope};
    use crate::core::origin::Origin;

    const OWNER: u32 = 7;

    fn control() -> Control<Region> {
        Control::create(Region::heap(control_len(1)), 1)
    }

    fn envelope(number: u64) -> Envelope {
        let origin = number.is_multiple_of(3).then(Origin::example);
        Envelope { sender: ClientId(OWNER), ..Envelope::tagged(number as u32) }.with_origin(origin)
    }

    /// Some need a page of double length.
    fn payload(number: u64) -> Vec<u8> {
        vec![number as u8; (number as usize * 37) % 300]
    }

    fn append(chain: &mut ChainWriter<Region>, number: u64) -> Result<(), Blocked> {
        loop {
            match chain.append(envelope(number), &payload(number)) {
                Ok(()) => return Ok(()),
                Err(Refused::Blocked(Blocked::NeedPage(len))) => chain.add_page(Region::heap(len)),
                Err(Refused::Blocked(Blocked::Announce)) => chain.mark_sent(0),
                Err(Refused::Blocked(blocked)) => return Err(blocked),
                Err(refused) => panic!("{refused:?}"),
            }
        }
    }

    /// Reads everything from a chain's first page on.
    fn read(chain: &ChainWriter<Region>) -> Vec<(u64, Envelope, Vec<u8>)> {
        let first = chain.page(0).unwrap().clone();
        let mut reader = ChainReader::continuing(chain.limits, OWNER, first, control(), 0).unwrap();
        for page in chain.chain.iter().skip(1) {
            reader.add_page(page.id, page.memory.clone()).unwrap();
        }
        let mut found = Vec::new();
        loop {
            match reader.poll().unwrap() {
                Event::Message(slot) => {
                    let mut payload = vec![0; slot.payload_len()];
                    reader.read(&slot, &mut payload);
                    found.push((reader.next_message(), reader.envelope(&slot), payload));
                    reader.advance(&slot);
                }
                Event::PageAdvanced => {}
                Event::Empty => return found,
                Event::Unknown(page) => panic!("page {page}"),
            }
        }
    }

    // P1, P3, P6
    #[test]
    fn what_was_not_consumed_goes_on_in_the_new_chain_within_the_budget() {
        let limits = Limits::new(256, 300, 4096).unwrap();
        let mut old = ChainWriter::new(OWNER, limits, Region::heap(256));
        // The dead broker, which has read nothing.
        old.admit(0, control(), 0);
        let mut positions = vec![old.position()];
        while append(&mut old, positions.len() as u64 - 1).is_ok() {
            old.publish();
            positions.push(old.position());
        }
        let sent = positions.len() as u64 - 1;
        assert!(sent > 12, "the chain is full with {sent}");
        for (consumed, from) in positions.into_iter().enumerate() {
            let make = |len| Ok::<_, ()>(Region::heap(len));
            let mut new = old.copy_rest(from, control(), make).unwrap().unwrap();
            assert!(new.stats().page_bytes <= limits.budget() as u64);
            assert_eq!(read(&new), [], "nothing is visible yet");
            new.publish();
            let message = |number| (number, envelope(number), payload(number));
            assert_eq!(read(&new), (consumed as u64..sent).map(message).collect::<Vec<_>>());
            assert_eq!(new.next_message(), sent);
            assert_eq!(new.stats().payload_bytes, old.stats().payload_bytes);
        }
    }

    #[test]
    fn a_copy_that_lacks_a_page_can_be_made_again() {
        let limits = Limits::new(256, 300, 4096).unwrap();
        let mut old = ChainWriter::new(OWNER, limits, Region::heap(256));
        old.admit(0, control(), 0);
        (0..9).for_each(|number| append(&mut old, number).unwrap());
        old.publish();
        let begin = PAGE_HEADER as u64;
        for pages in 0..2 {
            let mut left = pages;
            let make = |len| match left {
                0 => Err("no memory"),
                _ => {
                    left -= 1;
                    Ok(Region::heap(len))
                }
            };
            assert_eq!(old.copy_rest(begin, control(), make).err(), Some("no memory"));
        }
        let make = |len| Ok::<_, ()>(Region::heap(len));
        let mut new = old.copy_rest(begin, control(), make).unwrap().unwrap();
        new.publish();
        assert_eq!(read(&new).len(), 9);
    }

    // P12
    #[test]
    fn a_position_at_which_no_slot_begins_is_a_fault() {
        let limits = Limits::new(256, 200, 2048).unwrap();
        let mut old = ChainWriter::new(OWNER, limits, Region::heap(256));
        (0..3).for_each(|number| append(&mut old, number).unwrap());
        old.publish();
        for consumed in [0, 65, 80, 1 << 40] {
            let copied = old.copy_rest(consumed, control(), |len| Ok::<_, ()>(Region::heap(len)));
            assert!(matches!(copied, Ok(Err(Fault::Start { .. }))), "{consumed}");
        }
    }
}

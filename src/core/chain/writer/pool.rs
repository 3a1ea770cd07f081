//! A sender's pages and receivers.
//!
//! A page lives in one of two places: in the `chain` (oldest first, the last one being written)
//! or among the `free`. It moves from chain to free when every receiver's cursor has passed its
//! end, and back when it is written anew (P8). Why no reader sees a page change under it, by
//! where the reader may be:
//!
//! * *before or in the page*: its cursor is below the page's end, so the page stays in the chain;
//! * *in the end-of-page message, on its way to the next page*: the same, since the cursor moves
//!   only when the next page's header has been checked, and then beyond this page's end;
//! * *joining*: it is admitted by the sender itself between two operations, at the tail, and the
//!   cursor that counts from then on is the tail until it has stored one of its own;
//! * *leaving or dead*: it is struck, and only its owner's word, or the kernel's, strikes it;
//! * *struck, and reads on*: a receiver that copies looks at its member word after each copy, and
//!   the [`ReuseFence`](crate::core::order::Site::ReuseFence) comes before a page is written again. For one
//!   that reads in place the pages that are in use are *retired*: dropped when all have left them.
//!
//! Which page is next is a question of speed alone. A page that everybody has just left lies in the
//! caches of those who have read it, from where it is fetched back more slowly than from the memory
//! or cache that all share. So a chain can be told to take more pages than it needs and to go round
//! in longer *laps*; and the page that was left first is always taken first.
//!
//! A sender makes no memory and sends no descriptors: it says that it is [`Blocked`] for want of
//! a page, and its owner gives it one ([`add_page`](ChainWriter::add_page)). A page may be named by an
//! end-of-page message only after every receiver has been sent its descriptor, which the owner
//! does by working off [`notice`](ChainWriter::notice).

use super::ChainWriter;
use super::by_ref::ForeignPage;
use crate::core::chain::{Announcement, Blocked, Start};
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::memory::Memory;
use alloc::collections::VecDeque;

/// A page of the pool.
#[derive(Debug)]
pub(super) struct Page<M> {
    pub(super) id: u32,
    pub(super) memory: M,
    /// Valid while the page is in the chain.
    pub(super) base: u64,
    /// Receivers that have not been sent its descriptor yet.
    pub(super) unannounced: usize,
    /// Whether it has been written before.
    pub(super) used: bool,
}

impl<M: Memory> Page<M> {
    fn end(&self) -> u64 {
        self.base + self.memory.region_len() as u64
    }
}

/// A receiver as its sender sees it.
#[derive(Debug)]
pub(super) struct Peer<M> {
    id: u32,
    control: Control<M>,
    slot: usize,
    /// The client that has the place of its cursor, as long as it waits for us. `None` in a region
    /// whose owner has one sender, and tells it by the connection alone.
    member: Option<u32>,
    /// The highest cursor it has shown, or the position at which it was admitted.
    seen: u64,
    /// What it has not been told yet, in order.
    notices: VecDeque<Announcement>,
}

impl<M: Memory> ChainWriter<M> {
    /// The index of a free page that has room for `slot_len` bytes and that everybody knows.
    pub(super) fn room(&mut self, slot_len: usize) -> Result<usize, Blocked> {
        self.reclaim();
        if self.has_fault() {
            // Nobody waits for it; but what it has lent others may still read.
            return Err(Blocked::Full);
        }
        let least = PAGE_HEADER + slot_len + SLOT_HEADER;
        let interest = self.limits.page_for(slot_len);
        let first_lap = self.pages_len + interest <= self.reuse_distance;
        let fits = |page: &Page<M>| page.memory.region_len() >= least && !(first_lap && page.used);
        if let Some(i) = self.free.iter().position(|page| fits(page) && page.unannounced == 0) {
            return Ok(i);
        }
        if self.free.iter().any(fits) {
            return Err(Blocked::Announce);
        }
        let free_len: usize = self.free.iter().map(|page| page.memory.region_len()).sum();
        // Never beyond the budget (P6). Free pages that are too small for this message may make
        // room for a larger one.
        let fits = self.pages_len - free_len + interest <= self.limits.budget();
        // Ids are never used again, so that they can come to an end.
        let has_id = self.next_page < u32::MAX;
        Err(if fits && has_id { Blocked::NeedPage(interest) } else { Blocked::Full })
    }

    /// A page to go on in.
    pub(super) fn take_free(&mut self, slot_len: usize) -> Result<Page<M>, Blocked> {
        let found = self.room(slot_len);
        if let Err(Blocked::NeedPage(interest)) = found {
            while self.pages_len + interest > self.limits.budget() {
                let Some(page) = self.free.pop_front() else { break };
                self.forget(&page);
            }
        }
        self.free.remove(found?).ok_or(Blocked::Full)
    }

    fn forget(&mut self, page: &Page<M>) {
        self.pages_len -= page.memory.region_len();
        self.stats.page_bytes = self.pages_len as u64;
        self.cancel_announcement(page.id);
    }

    /// Tells every receiver to forget a page, if it was told of it.
    pub(super) fn cancel_announcement(&mut self, id: u32) {
        for peer in &mut self.receivers {
            let has_unsent = peer.notices.iter().position(|n| *n == Announcement::Page(id));
            match has_unsent {
                Some(i) => drop(peer.notices.remove(i)),
                None => peer.notices.push_back(Announcement::Forget(id)),
            }
        }
    }

    /// Moves the pages that every receiver has left from the chain to the free ones.
    fn reclaim(&mut self) {
        let left = self.left_by_all();
        let is_left = |chain: &VecDeque<Page<M>>| chain.len() > 1 && chain[0].end() <= left;
        if !is_left(&self.chain) || !self.check_places() {
            return;
        }
        while is_left(&self.chain) {
            let Some(page) = self.chain.pop_front() else { return };
            match page.base < self.retired {
                // The mapping of the receiver that still reads it keeps it alive.
                true => self.forget(&page),
                false => self.free.push_back(page),
            }
        }
    }

    /// The position before which nobody reads any more.
    pub(super) fn left_by_all(&mut self) -> u64 {
        let mut left = self.tail();
        let tail = left;
        let faults = &mut self.faults;
        let (chain, free, foreign) = (&mut self.chain, &mut self.free, &mut self.foreign);
        self.receivers.retain_mut(|peer| match peer.position(tail) {
            Ok(position) => {
                left = left.min(position);
                true
            }
            Err(fault) => {
                let fault = if peer.is_ours() { fault } else { Fault::Removed };
                cancel(all(chain, free, foreign), &peer.notices);
                faults.push((peer.id, fault));
                false
            }
        });
        left
    }

    /// After the cursors were read that let pages go: looks which of these must not be written again.
    /// Returns whether the places of the cursors are still those of this chain's owner.
    fn check_places(&mut self) -> bool {
        for peer in &self.receivers {
            self.retired = peer.retired().max(self.retired);
        }
        let removed = self.receivers.iter().find(|peer| !peer.is_ours()).map(|peer| peer.id);
        if let Some(id) = removed.filter(|_| !self.has_fault()) {
            self.faults.push((id, Fault::Removed));
        }
        removed.is_none()
    }

    /// From now on no page is written again while the chain has less than `bytes` in pages, which is
    /// at most its budget.
    pub fn set_reuse_distance(&mut self, bytes: usize) {
        self.reuse_distance = bytes.min(self.limits.budget());
    }

    /// There is no memory for more pages: the chain makes do with those that it has. Returns whether
    /// that may help.
    pub fn stop_growing(&mut self) -> bool {
        core::mem::take(&mut self.reuse_distance) > self.pages_len
    }

    /// Gives the chain a page. Every receiver must be sent its descriptor.
    pub fn add_page(&mut self, memory: M) {
        self.pages_len += memory.region_len();
        self.stats.page_bytes = self.pages_len as u64;
        self.stats.page_bytes_peak = self.stats.page_bytes_peak.max(self.stats.page_bytes);
        let page = self.announce(memory);
        self.free.push_front(page);
    }

    /// Gives a page its id. Every receiver must be sent its descriptor.
    pub(super) fn announce(&mut self, memory: M) -> Page<M> {
        let id = self.next_page;
        self.next_page += 1;
        for peer in &mut self.receivers {
            peer.notices.push_back(Announcement::Page(id));
        }
        Page { id, memory, base: 0, unannounced: self.receivers.len(), used: false }
    }

    /// Admits a receiver, whose cursor is number `slot` of its control region. It begins at the
    /// tail and must be sent every page, in the order of its [`notice`](ChainWriter::notice)s.
    pub fn admit(&mut self, id: u32, control: Control<M>, slot: usize) -> Start {
        let turned = self.writing.pending.map_or(0, |pending| pending.turned);
        let current = self.chain.len() - 1 - turned;
        let position = self.tail();
        let message =
            self.writing.pending.map_or(self.next_message(), |pending| pending.first_message);
        let mut notices = VecDeque::new();
        for page in all(&mut self.chain, &mut self.free, &mut self.foreign) {
            page.unannounced += 1;
            notices.push_back(Announcement::Page(page.id));
        }
        self.receivers.push(Peer { id, control, slot, member: None, seen: position, notices });
        Start { page: self.chain[current].id, position, message }
    }

    /// Admits a receiver in whose control region the owner of this chain has the place `slot`, and
    /// reads there whether the receiver still waits for it.
    pub fn admit_in_place(&mut self, id: u32, control: Control<M>, slot: usize) -> Start {
        let start = self.admit(id, control, slot);
        if let Some(peer) = self.receivers.last_mut() {
            peer.member = Some(self.owner);
        }
        start
    }

    /// Strikes a receiver that has left or died: nothing waits for it any more. Returns the position
    /// that it had left, if that is not the end of what was published.
    pub fn remove_receiver(&mut self, id: u32) -> Option<u64> {
        let i = self.receivers.iter().position(|peer| peer.id == id)?;
        let peer = self.receivers.swap_remove(i);
        cancel(all(&mut self.chain, &mut self.free, &mut self.foreign), &peer.notices);
        (peer.seen < self.tail()).then_some(peer.seen)
    }

    /// No page that is in use now is written again: a receiver that was struck may read it in place.
    /// Its own mapping keeps it alive (P6, P8).
    pub fn retire(&mut self) {
        self.retired = self.position();
    }

    /// The receiver that has left the fewest pages, and the bytes that it has not left yet.
    pub fn slowest(&self) -> Option<(u32, u64)> {
        let slowest = self.receivers.iter().min_by_key(|peer| peer.seen)?;
        Some((slowest.id, self.tail() - slowest.seen))
    }

    /// The next thing that receiver `id` must be told; [`told`](ChainWriter::told) when that is done.
    pub fn announcement(&self, id: u32) -> Option<Announcement> {
        self.receivers.iter().find(|peer| peer.id == id)?.notices.front().copied()
    }

    /// Receiver `id` has been sent its next [`notice`](ChainWriter::notice).
    pub fn mark_sent(&mut self, id: u32) {
        let Some(peer) = self.receivers.iter_mut().find(|peer| peer.id == id) else { return };
        if let Some(announcement) = peer.notices.pop_front() {
            cancel(all(&mut self.chain, &mut self.free, &mut self.foreign), [&announcement]);
        }
    }

    /// Receivers that have not been told everything yet.
    pub fn has_unsent(&self) -> impl Iterator<Item = u32> + '_ {
        self.receivers.iter().filter(|peer| !peer.notices.is_empty()).map(|peer| peer.id)
    }

    /// The memory of a page in the pool, or of one of which messages are lent.
    pub fn page(&self, id: u32) -> Option<&M> {
        let foreign = self.foreign.iter().map(|foreign| &foreign.page);
        let mut pages = self.chain.iter().chain(&self.free).chain(foreign);
        pages.find(|page| page.id == id).map(|page| &page.memory)
    }

    /// Whether a receiver was struck because its cursor lied, and its owner has not taken it yet.
    pub fn has_fault(&self) -> bool {
        !self.faults.is_empty()
    }

    /// A receiver whose cursor lied. It is struck already.
    #[inline]
    pub fn take_fault(&mut self) -> Option<(u32, Fault)> {
        self.faults.pop()
    }
}

/// Everything that receivers are told of.
fn all<'a, M>(
    chain: &'a mut VecDeque<Page<M>>,
    free: &'a mut VecDeque<Page<M>>,
    foreign: &'a mut [ForeignPage<M>],
) -> impl Iterator<Item = &'a mut Page<M>> {
    let foreign = foreign.iter_mut().map(|foreign| &mut foreign.page);
    chain.iter_mut().chain(free).chain(foreign)
}

fn cancel<'a, M: 'a>(
    pages: impl IntoIterator<Item = &'a mut Page<M>>,
    notices: impl IntoIterator<Item = &'a Announcement> + Clone,
) {
    for page in pages {
        let told = notices.clone().into_iter().any(|n| *n == Announcement::Page(page.id));
        page.unannounced -= usize::from(told);
    }
}

impl<M: Memory> Peer<M> {
    /// Whether the receiver has taken everything before `end`, as far as it said last.
    pub(super) fn has_consumed(&self, end: u64) -> bool {
        (self.seen == end || self.control.consumed(self.slot) == end) && self.is_ours()
    }

    /// Whether the place whose words were just read is still that of this chain's owner.
    pub(super) fn is_ours(&self) -> bool {
        self.member.is_none_or(|member| self.control.member(self.slot) == u64::from(member))
    }

    /// The position before which it says that pages are not to be written again.
    fn retired(&self) -> u64 {
        self.member.map_or(0, |_| self.control.retired(self.slot))
    }

    /// How far the receiver is, at least. A cursor of zero says nothing; any other must lie
    /// between the last one and the tail (P12).
    fn position(&mut self, tail: u64) -> Result<u64, Fault> {
        let found = self.control.cursor(self.slot);
        if found != 0 {
            if found < self.seen {
                return Err(Fault::CursorBackwards { found, seen: self.seen });
            }
            if found > tail {
                return Err(Fault::CursorAhead { found, tail });
            }
            self.seen = found;
        }
        Ok(self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::chain::Refused;
    use crate::core::limits::Limits;
    use crate::core::memory::Region;
    use crate::core::message::Envelope;

    /// Sends pages full of messages that nobody holds back, and gives the chain what it asks for.
    fn fill(sender: &mut ChainWriter<Region>, pages: usize) {
        let end = sender.position() + 256 * pages as u64;
        while sender.position() < end {
            match sender.send(Envelope::default(), &[7; 64]) {
                Ok(()) => {}
                Err(Refused::Blocked(Blocked::NeedPage(len))) => sender.add_page(Region::heap(len)),
                Err(refused) => panic!("{refused:?}"),
            }
        }
    }

    #[test]
    fn a_chain_takes_its_lap_in_pages_before_it_writes_one_again_and_no_more() {
        let limits = Limits::new(256, 64, 2048).unwrap();
        for (reuse_distance, pages) in [(0, 2), (1024, 4), (1000, 3), (usize::MAX, 8)] {
            let mut sender = ChainWriter::new(1, limits, Region::heap(256));
            sender.set_reuse_distance(reuse_distance);
            fill(&mut sender, 20);
            let stats = sender.stats();
            assert_eq!(stats.page_bytes_peak, 256 * pages, "reuse distance {reuse_distance}");
            assert_eq!(
                stats.rollovers - stats.reuses,
                pages - 1,
                "reuse distance {reuse_distance}"
            );
        }
    }

    #[test]
    fn without_memory_for_its_lap_a_chain_makes_do_with_what_it_has() {
        let limits = Limits::new(256, 64, 2048).unwrap();
        let mut sender = ChainWriter::new(1, limits, Region::heap(256));
        sender.set_reuse_distance(1024);
        fill(&mut sender, 2);
        assert!(sender.stop_growing(), "it may help");
        assert!(!sender.stop_growing(), "it has not helped");
        let before = sender.stats().page_bytes;
        fill(&mut sender, 20);
        assert!(sender.stats().page_bytes <= before.max(512));
    }
}

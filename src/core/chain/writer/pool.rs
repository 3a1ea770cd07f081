//! A writer's pages and receivers.
//!
//! A page is in one of two states: in the `chain` (oldest first, the last one being written) or
//! `free`. It moves from chain to free when every receiver's cursor has passed its end, and back
//! when it is written again (P8). No receiver sees a page change while it reads it. The cases, by
//! the position of the receiver:
//!
//! * *before or in the page*: its cursor is below the page's end, so the page stays in the chain.
//! * *in the end-of-page message, on its way to the next page*: the same. The cursor moves only
//!   after the next page's header was validated, and then beyond this page's end.
//! * *joining*: the writer itself admits it between two operations, at the tail. Its cursor counts
//!   as the tail until it stores its first one.
//! * *leaving or dead*: the owner removes it, on the receiver's own word or the kernel's.
//! * *removed and still reading*: a receiver that copies loads its member word after each copy, and
//!   the [`ReuseFence`](crate::core::order::Site::ReuseFence) comes before a page is written again. For a
//!   receiver that reads in place, the pages in use are *retired*: dropped when all receivers have
//!   left them.
//!
//! The choice of the next page affects only speed. A page that was just left lies in the caches of
//! its readers. Fetching it from there is slower than from memory or the shared cache. So a chain
//! can keep more pages than it needs and reuse them at a longer *reuse distance*. It always takes
//! the page that was left first.
//!
//! A writer allocates no memory and sends no descriptors. If it lacks a page, it returns
//! [`Blocked`], and its owner adds one ([`add_page`](ChainWriter::add_page)). An end-of-page
//! message may name a page only after every receiver was sent its descriptor. For that the owner
//! sends every [`announcement`](ChainWriter::announcement).
//!
//! All of this bookkeeping is private to the writer's process. Nothing of it is in shared memory.

use super::ChainWriter;
use super::by_ref::ForeignPage;
use crate::core::chain::{Announcement, Blocked, Start};
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::layout::*;
use crate::core::memory::Memory;
use crate::core::order::Site;
use alloc::collections::VecDeque;

/// A page of the pool.
#[derive(Debug)]
pub(super) struct Page<M> {
    pub(super) id: u32,
    pub(super) memory: M,
    /// Position of the page's first byte. Valid while the page is in the chain.
    pub(super) base: u64,
    /// Number of receivers that were not sent its descriptor yet.
    pub(super) unannounced: usize,
    /// Whether it has been written before.
    pub(super) used: bool,
}

impl<M: Memory> Page<M> {
    pub(super) fn end(&self) -> u64 {
        self.base + self.memory.region_len() as u64
    }
}

/// A receiver as its writer sees it.
#[derive(Debug)]
pub(super) struct Peer<M> {
    id: u32,
    /// The receiver's control region, and the index of its cursor there. The receiver writes it.
    control: Control<M>,
    slot: usize,
    /// The client that must own the cursor's entry, as long as the receiver waits for us. `None` in
    /// a region whose owner has one sender and signals the end by the connection alone.
    member: Option<u32>,
    /// Highest cursor read so far, or the position of the admission. May be stale, never too high.
    seen: u64,
    /// Announcements that it was not sent yet, in order.
    notices: VecDeque<Announcement>,
}

impl<M: Memory> ChainWriter<M> {
    /// Returns the index of a free page that has room for `slot_len` bytes and that all receivers
    /// were sent.
    pub(super) fn room(&mut self, slot_len: usize) -> Result<usize, Blocked> {
        self.reclaim();
        if self.has_fault() {
            // The removed receiver no longer blocks the chain, but receivers may still read what it
            // has forwarded by reference.
            return Err(Blocked::Full);
        }
        let least = PAGE_HEADER + slot_len + SLOT_HEADER;
        let page_len = self.limits.page_for(slot_len);
        let is_growing = self.pages_len + page_len <= self.reuse_distance;
        let fits = |page: &Page<M>| page.memory.region_len() >= least && !(is_growing && page.used);
        if let Some(i) = self.free.iter().position(|page| fits(page) && page.unannounced == 0) {
            return Ok(i);
        }
        if self.free.iter().any(fits) {
            return Err(Blocked::Announce);
        }
        let free_len: usize = self.free.iter().map(|page| page.memory.region_len()).sum();
        // Never beyond the budget (P6). Free pages that are too small for this message may be
        // dropped to make room for a larger one.
        let fits = self.pages_len - free_len + page_len <= self.limits.budget();
        // Ids are never reused, so they can run out.
        let has_id = self.next_page < u32::MAX;
        Err(if fits && has_id { Blocked::NeedPage(page_len) } else { Blocked::Full })
    }

    /// Takes a free page to advance into.
    pub(super) fn take_free(&mut self, slot_len: usize) -> Result<Page<M>, Blocked> {
        let found = self.room(slot_len);
        if let Err(Blocked::NeedPage(page_len)) = found {
            while self.pages_len + page_len > self.limits.budget() {
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

    /// Announces to every receiver that a page is gone, or cancels its unsent announcement.
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

    /// Returns the position that every receiver has passed. Removes receivers with an invalid
    /// cursor.
    pub(super) fn left_by_all(&mut self) -> u64 {
        let mut left = self.tail();
        let tail = left;
        let (faults, has_had_fault) = (&mut self.faults, &mut self.has_had_fault);
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
                *has_had_fault = true;
                false
            }
        });
        left
    }

    /// Updates the retired position after the cursors that release pages were read. Returns whether
    /// the entries of all cursors still belong to this chain's owner.
    fn check_places(&mut self) -> bool {
        if self.receivers.iter().all(|peer| peer.member.is_none()) {
            return true;
        }
        for peer in &self.receivers {
            self.retired = peer.retired().max(self.retired);
        }
        // pairs with ReuseFence: a retired word may have been reset for another client
        self.page.fence(Site::CopyFence);
        let removed = self.receivers.iter().find(|peer| !peer.is_ours()).map(|peer| peer.id);
        if let Some(id) = removed.filter(|_| !self.has_fault()) {
            self.faults.push((id, Fault::Removed));
        }
        removed.is_none()
    }

    /// Sets the reuse distance: no page is written again while the chain has less than `bytes` in
    /// pages. The budget is the upper bound.
    pub fn set_reuse_distance(&mut self, bytes: usize) {
        self.reuse_distance = bytes.min(self.limits.budget());
    }

    /// Stops growing towards the reuse distance because there is no memory for more pages. Returns
    /// whether that may free a page for reuse.
    pub fn stop_growing(&mut self) -> bool {
        core::mem::take(&mut self.reuse_distance) > self.pages_len
    }

    /// Adds a page to the chain. Every receiver must be sent its descriptor.
    pub fn add_page(&mut self, memory: M) {
        self.pages_len += memory.region_len();
        self.stats.page_bytes = self.pages_len as u64;
        self.stats.page_bytes_peak = self.stats.page_bytes_peak.max(self.stats.page_bytes);
        let page = self.announce(memory);
        self.free.push_front(page);
    }

    /// Returns the id of the page that is added next.
    pub fn next_page_id(&self) -> u32 {
        self.next_page
    }

    /// Assigns a page its id. Every receiver must be sent its descriptor.
    pub(super) fn announce(&mut self, memory: M) -> Page<M> {
        let id = self.next_page;
        self.next_page += 1;
        for peer in &mut self.receivers {
            peer.notices.push_back(Announcement::Page(id));
        }
        Page { id, memory, base: 0, unannounced: self.receivers.len(), used: false }
    }

    /// Admits a receiver, whose cursor has the index `slot` in its control region. It begins at the
    /// tail and must be sent every page, in the order of its
    /// [`announcement`](ChainWriter::announcement)s.
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
        let peer = Peer { id, control, slot, member: None, seen: position, notices };
        let (Ok(i) | Err(i)) = self.receiver(id);
        self.receivers.insert(i, peer);
        Start { page: self.chain[current].id, position, message }
    }

    fn receiver(&self, id: u32) -> Result<usize, usize> {
        self.receivers.binary_search_by_key(&id, |peer| peer.id)
    }

    /// Admits a receiver in whose control region the owner of this chain has the entry `slot`. The
    /// writer reads there whether the receiver still waits for it.
    pub fn admit_in_place(&mut self, id: u32, control: Control<M>, slot: usize) -> Start {
        let start = self.admit(id, control, slot);
        if let Ok(i) = self.receiver(id) {
            self.receivers[i].member = Some(self.owner);
        }
        start
    }

    /// Like [`admit_in_place`](ChainWriter::admit_in_place), for a receiver that begins with the first
    /// message of this chain.
    pub fn admit_from_first(&mut self, id: u32, control: Control<M>, slot: usize) {
        self.admit_in_place(id, control, slot);
        if let Ok(i) = self.receiver(id) {
            self.receivers[i].seen = PAGE_HEADER as u64;
        }
    }

    /// Removes a receiver that has left or died. The writer no longer waits for it. Returns the
    /// position that it had left, unless that is the end of what was published.
    pub fn remove_receiver(&mut self, id: u32) -> Option<u64> {
        let i = self.receiver(id).ok()?;
        let peer = self.receivers.remove(i);
        cancel(all(&mut self.chain, &mut self.free, &mut self.foreign), &peer.notices);
        (peer.seen < self.tail()).then_some(peer.seen)
    }

    /// Marks all pages in use as retired: a removed receiver may read them in place, so they are
    /// never written again. That receiver's own mapping keeps them alive (P6, P8).
    pub fn retire(&mut self) {
        self.retired = self.position();
    }

    /// Returns the receiver that has left the fewest pages, and the bytes that it has not left yet.
    pub fn slowest(&self) -> Option<(u32, u64)> {
        let slowest = self.receivers.iter().min_by_key(|peer| peer.seen)?;
        Some((slowest.id, self.tail() - slowest.seen))
    }

    /// Returns the receivers that have not passed `until`, as far as the writer knows.
    pub fn behind(&self, until: u64) -> impl Iterator<Item = u32> + '_ {
        let is_behind = move |peer: &&Peer<M>| peer.seen < until;
        self.receivers.iter().filter(is_behind).map(|peer| peer.id)
    }

    /// Returns the end of the oldest page that receivers may still read, if the chain has gone on.
    pub fn oldest_end(&self) -> Option<u64> {
        self.chain.front().filter(|_| self.chain.len() > 1).map(Page::end)
    }

    /// Returns the position that the slowest receiver has left.
    pub fn slowest_position(&self) -> Option<u64> {
        self.receivers.iter().map(|peer| peer.seen).min()
    }

    /// Returns the next announcement for receiver `id`. Call [`mark_sent`](ChainWriter::mark_sent)
    /// after sending it.
    pub fn announcement(&self, id: u32) -> Option<Announcement> {
        self.receivers[self.receiver(id).ok()?].notices.front().copied()
    }

    /// Records that receiver `id` was sent its next [`announcement`](ChainWriter::announcement).
    pub fn mark_sent(&mut self, id: u32) {
        let Ok(i) = self.receiver(id) else { return };
        if let Some(announcement) = self.receivers[i].notices.pop_front() {
            cancel(all(&mut self.chain, &mut self.free, &mut self.foreign), [&announcement]);
        }
    }

    /// Returns the receivers with unsent announcements.
    pub fn has_unsent(&self) -> impl Iterator<Item = u32> + '_ {
        self.receivers.iter().filter(|peer| !peer.notices.is_empty()).map(|peer| peer.id)
    }

    /// Returns the memory of a page of the pool or of a foreign page.
    pub fn page(&self, id: u32) -> Option<&M> {
        let foreign = self.foreign.iter().map(|foreign| &foreign.page);
        let mut pages = self.chain.iter().chain(&self.free).chain(foreign);
        pages.find(|page| page.id == id).map(|page| &page.memory)
    }

    /// Returns whether a receiver was removed for an invalid cursor and not yet taken by the owner.
    pub fn has_fault(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Takes a receiver with an invalid cursor. It is removed already.
    #[inline]
    pub fn take_fault(&mut self) -> Option<(u32, Fault)> {
        self.faults.pop()
    }
}

/// Returns all pages that are announced to receivers.
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
    /// Returns whether the receiver has consumed everything before `end`, by the words that it
    /// stored last.
    pub(super) fn has_consumed(&self, end: u64) -> bool {
        (self.seen == end || self.control.consumed(self.slot) == end) && self.is_ours()
    }

    /// Returns whether the entry whose words were just read still belongs to this chain's owner. It
    /// does while the owner is skipped as a receiver.
    pub(super) fn is_ours(&self) -> bool {
        self.member.is_none_or(|member| low(self.control.member(self.slot)) == member)
    }

    /// Returns the position before which the receiver says that pages must not be written again.
    fn retired(&self) -> u64 {
        self.member.map_or(0, |_| self.control.retired(self.slot))
    }

    /// Returns a lower bound of the receiver's position. A cursor of zero was never stored. Any
    /// other must be between the last one and the tail (P12).
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
    use crate::core::layout::control_len;
    use crate::core::limits::Limits;
    use crate::core::memory::Region;
    use crate::core::message::Envelope;

    /// Sends pages full of messages that no receiver holds, and adds the pages that the chain
    /// needs.
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
    fn a_chain_reaches_its_reuse_distance_before_it_reuses_a_page() {
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
    fn without_memory_for_its_reuse_distance_a_chain_stops_growing() {
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

    /// Admits a receiver that was sent every page. Returns its control region.
    fn admit(sender: &mut ChainWriter<Region>, id: u32) -> Control<Region> {
        let control = Control::create(Region::heap(control_len(1)), 1);
        sender.admit(id, control.clone(), 0);
        while sender.announcement(id).is_some() {
            sender.mark_sent(id);
        }
        control
    }

    // P9, P12
    #[test]
    fn no_page_waits_for_a_removed_receiver_to_be_sent_it() {
        let limits = Limits::new(256, 64, 1024).unwrap();
        for has_fault in [true, false] {
            let mut sender = ChainWriter::new(1, limits, Region::heap(256));
            let _stays = admit(&mut sender, 0);
            let goes = admit(&mut sender, 1);
            let send =
                |sender: &mut ChainWriter<Region>| sender.send(Envelope::default(), &[7; 64]);
            while send(&mut sender).is_ok() {}
            sender.add_page(Region::heap(256));
            sender.mark_sent(0);
            assert_eq!(send(&mut sender), Err(Refused::Blocked(Blocked::Announce)));
            if has_fault {
                goes.publish_cursor(0, sender.tail() + 1);
                assert_eq!(send(&mut sender), Err(Refused::Blocked(Blocked::Full)));
                assert!(matches!(sender.take_fault(), Some((1, Fault::CursorAhead { .. }))));
            } else {
                sender.remove_receiver(1);
            }
            assert_eq!(send(&mut sender), Ok(()), "fault: {has_fault}");
        }
    }

    // P8
    #[test]
    fn a_page_is_not_reused_while_a_receiver_is_at_its_end_of_page_message() {
        // Two messages of 32 bytes fill a page up to that message.
        let limits = Limits::new(PAGE_HEADER + 2 * 32 + SLOT_HEADER, 16, 288).unwrap();
        let mut sender = ChainWriter::new(1, limits, Region::heap(limits.page_len()));
        let control = admit(&mut sender, 0);
        let mut fill = || loop {
            match sender.send(Envelope::default(), &[7; 16]) {
                Ok(()) => {}
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    sender.add_page(Region::heap(len));
                    sender.mark_sent(0);
                }
                Err(refused) => return (refused, sender.stats().reuses),
            }
        };
        let full = Refused::Blocked(Blocked::Full);
        assert_eq!(fill(), (full, 0));
        let end = limits.page_len() as u64;
        control.publish_cursor(0, end - SLOT_HEADER as u64);
        assert_eq!(fill(), (full, 0), "its next page is still unknown to the receiver");
        control.publish_cursor(0, end + PAGE_HEADER as u64);
        assert_eq!(fill(), (full, 1));
    }
}

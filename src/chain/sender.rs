//! A chain's writing end.
//!
//! What a sender does with a slot, in this order:
//!
//! 1. write the payload and the tag word: beyond the tail, so nobody reads there;
//! 2. zero the commit word of the slot behind: a receiver that takes this message looks there next;
//! 3. store the commit word: directly and with `Release` if it is the first of a *run*, else
//!    relaxed. A run is what is visible only when its first commit word is stored, by
//!    [`publish`](Sender::publish).
//!
//! Slots follow each other in the order in which they are sent, and become visible in no other
//! (P1). A sender that dies before 3 leaves nothing that anybody could see (P4).
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
//! * *leaving or dead*: it is struck, and only its owner's word, or the kernel's, strikes it.
//!
//! A sender makes no memory and sends no descriptors: it says that it is [`Blocked`] for want of
//! a page, and its owner gives it one ([`add_page`](Sender::add_page)). A page may be named by an
//! end-of-page message only after every receiver has been sent its descriptor, which the owner
//! does by working off [`notice`](Sender::notice).

use super::claim::Claim;
use super::page::PageHeader;
use super::terms::{Blocked, Notice, Refused, Start, Stats};
use crate::control::Control;
use crate::fault::Fault;
use crate::layout::*;
use crate::limits::Limits;
use crate::memory::Memory;
use crate::message::Envelope;
use crate::order::Site;
use std::collections::VecDeque;

/// The writing end of a chain.
#[derive(Debug)]
pub struct Sender<M> {
    owner: u32,
    limits: Limits,
    /// Pages in use, oldest first. The last is being written; `page` is a second handle to it.
    chain: VecDeque<Page<M>>,
    /// Pages that everybody has left, those left first in front, and new ones.
    free: VecDeque<Page<M>>,
    pub(super) page: M,
    /// Position of the first byte of `page`.
    base: u64,
    /// Offset in `page` of the next slot. Its commit word is zero, and behind it there is room
    /// for an end-of-page message.
    pub(super) at: usize,
    pub(super) next_message: u64,
    run: Option<Run>,
    receivers: Vec<Peer<M>>,
    next_page: u32,
    pages_len: usize,
    /// Receivers struck because their cursor lied; taken by the owner.
    liars: Vec<(u32, Fault)>,
    pub(super) stats: Stats,
}

/// A page of the pool.
#[derive(Debug)]
struct Page<M> {
    id: u32,
    memory: M,
    /// Valid while the page is in the chain.
    base: u64,
    /// Receivers that have not been sent its descriptor yet.
    unannounced: usize,
    /// Whether it has been written before.
    used: bool,
}

impl<M: Memory> Page<M> {
    fn end(&self) -> u64 {
        self.base + self.memory.region_len() as u64
    }
}

/// What has been written since the last `publish`.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Page turns since the run's first slot.
    turned: usize,
    /// Where the run begins, and so what to go back to if it is given up.
    at: usize,
    base: u64,
    first_message: u64,
    /// The commit word held back.
    commit: u64,
}

/// A receiver as its sender sees it.
#[derive(Debug)]
struct Peer<M> {
    id: u32,
    control: Control<M>,
    slot: usize,
    /// The highest cursor it has shown, or the position at which it was admitted.
    seen: u64,
    /// What it has not been told yet, in order.
    notices: VecDeque<Notice>,
}

impl<M: Memory> Sender<M> {
    /// A new chain of the client `owner`, beginning in `first`, which becomes page 0.
    pub fn new(owner: u32, limits: Limits, first: M) -> Self {
        PageHeader { id: super::FIRST_PAGE, owner, base: 0, first: 0 }.write(&first);
        let len = first.region_len();
        let page = Page {
            id: super::FIRST_PAGE,
            memory: first.clone(),
            base: 0,
            unannounced: 0,
            used: true,
        };
        let page_bytes = len as u64;
        Sender {
            owner,
            limits,
            chain: VecDeque::from([page]),
            free: VecDeque::new(),
            page: first,
            base: 0,
            at: PAGE_HEADER,
            next_message: 0,
            run: None,
            receivers: Vec::new(),
            next_page: super::FIRST_PAGE + 1,
            pages_len: len,
            liars: Vec::new(),
            stats: Stats { page_bytes, page_bytes_peak: page_bytes, ..Stats::default() },
        }
    }

    /// Room for a payload of `len` bytes, to be filled and committed.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written, and the run is as it was but for a page turn.
    #[inline]
    pub fn claim(&mut self, envelope: Envelope, len: usize) -> Result<Claim<'_, M>, Refused> {
        let max = self.limits.max_message_len();
        let slot_len = slot_len(len, envelope.origin.is_some());
        let Some(slot_len) = slot_len.filter(|_| len <= max) else {
            // Before anything is written (P14).
            return Err(Refused::TooLong { len, max });
        };
        if self.at + slot_len + SLOT_HEADER > self.page.region_len() {
            self.turn(slot_len).map_err(Refused::Blocked)?;
        }
        Ok(Claim::new(self, envelope, len, slot_len))
    }

    /// Appends one message to the run. It is visible after [`publish`](Sender::publish).
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written.
    #[inline]
    pub fn append(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), Refused> {
        let claim = self.claim(envelope, payload.len())?;
        claim.write_all(payload);
        claim.commit();
        Ok(())
    }

    /// Appends one message and makes it visible at once, with all of the run before it.
    ///
    /// # Errors
    ///
    /// [`Refused`]; then nothing was written.
    #[inline]
    pub fn send(&mut self, envelope: Envelope, payload: &[u8]) -> Result<(), Refused> {
        let claim = self.claim(envelope, payload.len())?;
        claim.write_all(payload);
        claim.publish();
        Ok(())
    }

    /// Whether something was appended that is not visible yet.
    #[inline]
    pub(super) fn has_run(&self) -> bool {
        self.run.is_some()
    }

    /// Makes the run visible, all of it at once. Returns whether there was any.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let Some(run) = self.run.take() else { return false };
        // pairs with CommitRead: the whole run was written before
        self.page_back(run.turned).store(run.at + SLOT_COMMIT, run.commit, Site::CommitPublish);
        true
    }

    /// Gives the run up, as if it had never been written.
    pub fn abort(&mut self) {
        let Some(run) = self.run.take() else { return };
        for _ in 0..run.turned {
            // Never named to anybody, so it is as free as before.
            if let Some(page) = self.chain.pop_back() {
                self.free.push_front(page);
            }
        }
        if let Some(page) = self.chain.back() {
            self.page = page.memory.clone();
        }
        self.base = run.base;
        self.at = run.at;
        self.next_message = run.first_message;
    }

    /// The handle of the page `turned` turns ago.
    #[inline]
    fn page_back(&self, turned: usize) -> &M {
        if turned == 0 { &self.page } else { &self.chain[self.chain.len() - 1 - turned].memory }
    }

    /// Commits the slot at `at` as part of the run: the run's first commit word is held back.
    #[inline]
    pub(super) fn commit_slot(&mut self, commit: u64) {
        match self.run {
            None => {
                let (at, base, first_message) = (self.at, self.base, self.next_message);
                self.run = Some(Run { turned: 0, at, base, first_message, commit });
            }
            // Relaxed: nobody gets here before the run's first commit word, which is a release
            Some(_) => self.page.store(self.at + SLOT_COMMIT, commit, Site::CommitFill),
        }
    }

    /// Goes on in another page with room for `slot_len` bytes.
    #[cold]
    fn turn(&mut self, slot_len: usize) -> Result<(), Blocked> {
        let mut page = self.take_free(slot_len)?;
        page.base = self.base + self.page.region_len() as u64;
        let header = PageHeader {
            id: page.id,
            owner: self.owner,
            base: page.base,
            first: self.next_message,
        };
        header.write(&page.memory);
        self.page.write_words(self.at + SLOT_TAG, [halves(page.id, 0)]);
        self.commit_slot(commit_word(0, KIND_EOP, 0, 0));
        if let Some(run) = &mut self.run {
            run.turned += 1;
        }
        self.stats.turns += 1;
        self.stats.reuses += u64::from(page.used);
        page.used = true;
        self.page = page.memory.clone();
        self.base = page.base;
        self.at = PAGE_HEADER;
        self.chain.push_back(page);
        Ok(())
    }

    /// The index of a free page that has room for `slot_len` bytes and that everybody knows.
    fn room(&mut self, slot_len: usize) -> Result<usize, Blocked> {
        self.reclaim();
        let least = PAGE_HEADER + slot_len + SLOT_HEADER;
        let fits = |page: &Page<M>| page.memory.region_len() >= least;
        if let Some(i) = self.free.iter().position(|page| fits(page) && page.unannounced == 0) {
            return Ok(i);
        }
        if self.free.iter().any(fits) {
            return Err(Blocked::Announce);
        }
        let wanted = self.limits.page_for(slot_len);
        let free_len: usize = self.free.iter().map(|page| page.memory.region_len()).sum();
        // Never beyond the budget (P6). Free pages that are too small for this message may make
        // room for a larger one.
        let fits = self.pages_len - free_len + wanted <= self.limits.budget();
        Err(if fits { Blocked::NeedPage(wanted) } else { Blocked::Full })
    }

    /// A page to go on in.
    fn take_free(&mut self, slot_len: usize) -> Result<Page<M>, Blocked> {
        let found = self.room(slot_len);
        if let Err(Blocked::NeedPage(wanted)) = found {
            while self.pages_len + wanted > self.limits.budget() {
                let Some(page) = self.free.pop_front() else { break };
                self.forget(&page);
            }
        }
        self.free.remove(found?).ok_or(Blocked::Full)
    }

    fn forget(&mut self, page: &Page<M>) {
        self.pages_len -= page.memory.region_len();
        self.stats.page_bytes = self.pages_len as u64;
        for peer in &mut self.receivers {
            let untold = peer.notices.iter().position(|n| *n == Notice::Page(page.id));
            match untold {
                Some(i) => drop(peer.notices.remove(i)),
                None => peer.notices.push_back(Notice::Forget(page.id)),
            }
        }
    }

    /// Moves the pages that every receiver has left from the chain to the free ones.
    fn reclaim(&mut self) {
        let left = self.left_by_all();
        while self.chain.len() > 1 && self.chain[0].end() <= left {
            self.free.extend(self.chain.pop_front());
        }
    }

    /// The position before which nobody reads any more.
    fn left_by_all(&mut self) -> u64 {
        let mut left = self.tail();
        let tail = left;
        let liars = &mut self.liars;
        let pages = (&mut self.chain, &mut self.free);
        self.receivers.retain_mut(|peer| match peer.position(tail) {
            Ok(position) => {
                left = left.min(position);
                true
            }
            Err(fault) => {
                unannounce(pages.0.iter_mut().chain(pages.1.iter_mut()), &peer.notices);
                liars.push((peer.id, fault));
                false
            }
        });
        left
    }

    /// The position behind the last published message.
    pub fn tail(&self) -> u64 {
        self.run.map_or(self.base + self.at as u64, |run| run.base + run.at as u64)
    }

    /// The bytes that a message takes in a page: what [`has_room`](Sender::has_room) asks for.
    pub fn room_for(envelope: &Envelope, payload_len: usize) -> usize {
        // What overflows is refused by `claim` before anybody waits for it.
        slot_len(payload_len, envelope.origin.is_some()).unwrap_or(0)
    }

    /// Whether a message that takes `slot_len` bytes could be written now, perhaps into a new page.
    pub fn has_room(&mut self, slot_len: usize) -> bool {
        self.at + slot_len + SLOT_HEADER <= self.page.region_len()
            || matches!(self.room(slot_len), Ok(_) | Err(Blocked::NeedPage(_)))
    }

    /// Gives the chain a page. Every receiver must be sent its descriptor.
    pub fn add_page(&mut self, memory: M) {
        let len = memory.region_len();
        let id = self.next_page;
        self.next_page += 1;
        self.pages_len += len;
        self.stats.page_bytes = self.pages_len as u64;
        self.stats.page_bytes_peak = self.stats.page_bytes_peak.max(self.stats.page_bytes);
        for peer in &mut self.receivers {
            peer.notices.push_back(Notice::Page(id));
        }
        let unannounced = self.receivers.len();
        self.free.push_front(Page { id, memory, base: 0, unannounced, used: false });
    }

    /// Admits a receiver, whose cursor is number `slot` of its control region. It begins at the
    /// tail and must be sent every page, in the order of its [`notice`](Sender::notice)s.
    pub fn admit(&mut self, id: u32, control: Control<M>, slot: usize) -> Start {
        let turned = self.run.map_or(0, |run| run.turned);
        let current = self.chain.len() - 1 - turned;
        let position = self.tail();
        let message = self.run.map_or(self.next_message, |run| run.first_message);
        let mut notices = VecDeque::new();
        for page in self.chain.iter_mut().chain(&mut self.free) {
            page.unannounced += 1;
            notices.push_back(Notice::Page(page.id));
        }
        self.receivers.push(Peer { id, control, slot, seen: position, notices });
        Start { page: self.chain[current].id, position, message }
    }

    /// Strikes a receiver that has left or died: nothing waits for it any more.
    pub fn strike(&mut self, id: u32) {
        let Some(i) = self.receivers.iter().position(|peer| peer.id == id) else { return };
        let peer = self.receivers.swap_remove(i);
        unannounce(self.chain.iter_mut().chain(&mut self.free), &peer.notices);
    }

    /// The next thing that receiver `id` must be told; [`told`](Sender::told) when that is done.
    pub fn notice(&self, id: u32) -> Option<Notice> {
        self.receivers.iter().find(|peer| peer.id == id)?.notices.front().copied()
    }

    /// Receiver `id` has been sent its next [`notice`](Sender::notice).
    pub fn told(&mut self, id: u32) {
        let Some(peer) = self.receivers.iter_mut().find(|peer| peer.id == id) else { return };
        if let Some(notice) = peer.notices.pop_front() {
            unannounce(self.chain.iter_mut().chain(&mut self.free), [&notice]);
        }
    }

    /// Receivers that have not been told everything yet.
    pub fn untold(&self) -> impl Iterator<Item = u32> + '_ {
        self.receivers.iter().filter(|peer| !peer.notices.is_empty()).map(|peer| peer.id)
    }

    /// The memory of a page in the pool.
    pub fn page(&self, id: u32) -> Option<&M> {
        let mut pages = self.chain.iter().chain(&self.free);
        pages.find(|page| page.id == id).map(|page| &page.memory)
    }

    /// Whether every receiver has given up everything that was published.
    pub fn is_taken(&mut self) -> bool {
        self.left_by_all() == self.base + self.at as u64
    }

    /// A receiver whose cursor lied. It is struck already.
    #[inline]
    pub fn take_liar(&mut self) -> Option<(u32, Fault)> {
        self.liars.pop()
    }

    /// Number of the next message.
    pub fn next_message(&self) -> u64 {
        self.next_message
    }

    /// The limits of the chain.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the chain has done until now.
    pub fn stats(&self) -> Stats {
        Stats { messages: self.next_message, ..self.stats }
    }
}

fn unannounce<'a, M: 'a>(
    pages: impl IntoIterator<Item = &'a mut Page<M>>,
    notices: impl IntoIterator<Item = &'a Notice> + Clone,
) {
    for page in pages {
        let told = notices.clone().into_iter().any(|n| *n == Notice::Page(page.id));
        page.unannounced -= usize::from(told);
    }
}

impl<M: Memory> Peer<M> {
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

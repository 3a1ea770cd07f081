//! Long messages are lent: named in the broadcast chain and not copied.
//!
//! ```text
//!   a client's page        one more page of the broadcast chain       named by lent messages
//!   --------------> adopt ------------------------------> announced -------------------------+
//!        may_share                                                                             |
//!                  <------------------------------------- forgotten <------- passed by all --+
//! ```
//!
//! What was lent is given up in the client's chain when every receiver has passed it in the
//! broadcast chain (P8). Receivers read the client's page before they store their cursors, the
//! broker loads these before it stores its own, and the client loads that before it writes the page
//! again: three edges of one kind, one behind the other.
//!
//! Whatever is in the way (a receiver that has not been sent the page yet, pages enough lent
//! already, no descriptor), the message is copied.

use super::{Core, Member};
use crate::core::chain::{ChainReader, ChainWriter, Refused};
use crate::core::memory::Memory;
use crate::core::message::{ClientId, Slot};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// What a member lends.
#[derive(Default)]
pub(super) struct ByRef {
    /// Pages of the client's that receivers can be sent.
    shareable_pages: Vec<u32>,
    /// Those of them that are the broadcast chain's, too.
    foreign_pages: Vec<ForeignPage>,
    /// What was taken and not given up, oldest first.
    held: VecDeque<Held>,
    /// A page that the client has sent a long message in, and that is not lent yet.
    interest: Option<u32>,
}

/// A client's page, and what it is called in the broadcast chain.
#[derive(Clone, Copy)]
struct ForeignPage {
    page: u32,
    id: u32,
}

/// A lent message.
#[derive(Clone, Copy)]
struct Held {
    /// Its position in the client's chain.
    at: u64,
    /// The position behind it in the broadcast chain.
    until: u64,
}

impl ByRef {
    /// Gives up what was taken of the client's chain and is not lent any more. Returns whether
    /// anything was said about it.
    #[inline]
    pub fn release<M: Memory>(&self, inbound: &mut ChainReader<M>) -> bool {
        match self.held.front() {
            None => inbound.release(),
            Some(held) => inbound.release_to(held.at),
        }
    }

    /// The position in the client's chain of the first message that is still lent.
    pub fn held_from(&self) -> Option<u64> {
        self.held.front().map(|held| held.at)
    }

    /// Whether anything is lent behind this position of the broadcast chain.
    pub fn holds_behind(&self, position: u64) -> bool {
        self.held.back().is_some_and(|held| held.until > position)
    }

    /// Lends a message, if that can be. `None`: it has to be copied.
    pub fn forward_by_ref<M: Memory>(
        &mut self,
        broadcast: &mut ChainWriter<M>,
        client: ClientId,
        inbound: &ChainReader<M>,
        slot: &Slot,
    ) -> Option<Result<(), Refused>> {
        let page = inbound.page_id();
        let Some(foreign_pages) =
            self.foreign_pages.iter().find(|foreign_pages| foreign_pages.page == page)
        else {
            self.interest = Some(page).filter(|page| self.shareable_pages.contains(page));
            return None;
        };
        if !broadcast.can_refer_to(foreign_pages.id) {
            return None;
        }
        let mut envelope = inbound.envelope(slot);
        // Whatever the client says: the broker knows whose chain it is (P12).
        envelope.sender = client;
        let (_, offset) = inbound.payload(slot);
        let lent = broadcast.send_ref(envelope, slot.payload_len(), foreign_pages.id, offset);
        Some(lent.map(|until| self.held.push_back(Held { at: inbound.position(), until })))
    }

    fn take_back(&mut self, passed: u64) {
        while self.held.front().is_some_and(|held| held.until <= passed) {
            self.held.pop_front();
        }
    }

    fn forget(&mut self, page: u32) -> Option<u32> {
        self.shareable_pages.retain(|id| *id != page);
        let i = self.foreign_pages.iter().position(|foreign_pages| foreign_pages.page == page)?;
        Some(self.foreign_pages.swap_remove(i).id)
    }
}

impl<M: Memory> Core<M> {
    /// Receivers can be sent this page of a client's: its messages may be lent.
    pub fn may_share(&mut self, client: ClientId, page: u32) {
        if let Some(member) = self.member_mut(client) {
            member.by_ref.shareable_pages.push(page);
        }
    }

    /// How many pages are kept to be lent, or still are.
    pub fn shareable_pages(&self) -> usize {
        let shareable_pages: usize =
            self.members.iter().map(|member| member.by_ref.shareable_pages.len()).sum();
        shareable_pages + self.withdrawn.len()
    }

    /// Messages of at least so many bytes are lent.
    pub fn set_zero_copy_threshold(&mut self, bytes: usize) {
        // What a hook has seen must be what is sent on, and so a copy.
        self.zero_copy_threshold = if self.hook.is_none() { bytes } else { usize::MAX };
    }

    /// The client will not send this page's descriptor again, nor name the page.
    pub(super) fn withdraw_page(&mut self, client: ClientId, page: u32) {
        let withdrawn = self.member_mut(client).and_then(|member| member.by_ref.forget(page));
        self.withdrawn.extend(withdrawn);
    }

    /// A client is gone, and all its pages with it.
    pub(super) fn withdraw(&mut self, member: &Member<M>) {
        self.withdrawn
            .extend(member.by_ref.foreign_pages.iter().map(|foreign_pages| foreign_pages.id));
    }

    fn has_refs(&self) -> bool {
        !self.withdrawn.is_empty() || self.lent_until > self.passed
    }

    /// Whether receivers have passed something that was lent.
    pub(super) fn has_returns(&mut self) -> bool {
        if !self.has_refs() {
            return false;
        }
        let passed = self.broadcast.passed();
        let is_due =
            |member: &Member<M>| member.by_ref.held.front().is_some_and(|h| h.until <= passed);
        let is_released = |id: &u32| self.broadcast.is_released(*id, passed);
        self.members.iter().any(is_due) || self.withdrawn.iter().any(is_released)
    }

    /// Takes back what receivers have passed. Returns whether there may be any.
    pub(super) fn take_back(&mut self) -> bool {
        if !self.has_refs() {
            return false;
        }
        let passed = self.broadcast.passed();
        self.passed = passed;
        for member in &mut self.members {
            member.by_ref.take_back(passed);
        }
        let broadcast = &mut self.broadcast;
        self.withdrawn.retain(|id| {
            let is_released = broadcast.is_released(*id, passed);
            if is_released {
                broadcast.forget_foreign_page(*id);
            }
            !is_released
        });
        true
    }

    /// Makes the pages shareable_pages that messages were copied from for want of that.
    pub(super) fn add_wanted_page(&mut self) {
        if !core::mem::take(&mut self.wants_page) {
            return;
        }
        for i in 0..self.members.len() {
            let Some(page) = self.members[i].by_ref.interest.take() else { continue };
            let inbound = self.members[i].inbound.as_ref();
            let Some(memory) = inbound.and_then(|inbound| inbound.page(page)).cloned() else {
                continue;
            };
            if let Some(id) = self.add_foreign_page(memory) {
                self.members[i].by_ref.foreign_pages.push(ForeignPage { page, id });
            }
        }
    }

    /// Adopts a page; in the place of another one, if need be, of which nothing was lent for as long
    /// as a whole budget was sent. Clients whose pages together are more than may be lent would else
    /// take that from each other at each of their page turns.
    fn add_foreign_page(&mut self, memory: M) -> Option<u32> {
        let foreign_pages = self.broadcast.add_foreign_page(memory.clone());
        if foreign_pages.is_some() {
            return foreign_pages;
        }
        let passed = self.broadcast.passed();
        let long_ago = passed.saturating_sub(self.limits.budget() as u64);
        let is_idle = |page: &mut ForeignPage| self.broadcast.is_released(page.id, long_ago);
        let mut members = self.members.iter_mut().map(|member| &mut member.by_ref.foreign_pages);
        let idle =
            members.find_map(|foreign_pages| foreign_pages.extract_if(.., is_idle).next())?;
        self.broadcast.forget_foreign_page(idle.id);
        self.broadcast.add_foreign_page(memory)
    }
}

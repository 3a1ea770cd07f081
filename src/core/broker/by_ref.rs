//! Forwarding by reference: the broadcast chain names a long message instead of copying it.
//!
//! The states of a client's page:
//!
//! 1. *private*: receivers can't be sent it.
//! 2. *shareable*, after `may_share`: receivers can be sent its descriptor.
//! 3. *foreign*, after `add_foreign_page`: it also has an id of the broadcast chain and is
//!    announced.
//! 4. *referenced*: every receiver was sent it, and messages by reference name it.
//! 5. *withdrawn*: its client will not name it again. It is forgotten when all receivers have
//!    passed it.
//!
//! The broker releases such a message in the client's chain when every receiver has passed it in
//! the broadcast chain (P8). Three edges of one kind follow each other. Receivers read the client's
//! page before they store their cursors. The broker loads these before it stores its own. The
//! client loads that before it writes the page again.
//!
//! The broker copies the message instead if a receiver was not sent the page yet. It also copies if
//! the foreign pages have used up their budget, or if there is no descriptor.

use super::Core;
use super::members::Member;
use crate::core::chain::{ChainReader, ChainWriter, Refused};
use crate::core::memory::Memory;
use crate::core::message::{ClientId, Slot};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The state of a member's messages by reference.
#[derive(Default)]
pub(super) struct ByRef {
    /// The client's pages whose descriptors can be sent to receivers, by the client's ids.
    shareable_pages: Vec<u32>,
    /// Those of them that are also pages of the broadcast chain.
    foreign_pages: Vec<ForeignPage>,
    /// Messages by reference that are consumed and not released, oldest first.
    held: VecDeque<Held>,
    /// A page that had a long message and that is not a foreign page yet.
    wanted_page: Option<u32>,
}

/// A client's page with both of its ids.
#[derive(Clone, Copy)]
struct ForeignPage {
    page: u32,
    id: u32,
}

/// A message by reference that some receiver has not passed yet.
#[derive(Clone, Copy)]
struct Held {
    /// Its position in the client's chain.
    at: u64,
    /// Position after it in the broadcast chain.
    until: u64,
}

impl ByRef {
    /// Releases everything consumed of the client's chain that no receiver still references.
    /// Returns whether a cursor or a consumed position was stored.
    #[inline]
    pub fn release<M: Memory>(&self, inbound: &mut ChainReader<M>) -> bool {
        match self.held.front() {
            None => inbound.release(),
            Some(held) => inbound.release_to(held.at),
        }
    }

    /// Returns the position in the client's chain of the first message that is still referenced.
    pub fn held_from(&self) -> Option<u64> {
        self.held.front().map(|held| held.at)
    }

    /// Returns the position in the broadcast chain after that message.
    pub fn held_until(&self) -> Option<u64> {
        self.held.front().map(|held| held.until)
    }

    /// Returns whether a referenced message ends after this position of the broadcast chain.
    pub fn holds_behind(&self, position: u64) -> bool {
        self.held.back().is_some_and(|held| held.until > position)
    }

    /// Forwards a message by reference. Returns `None` if it must be copied.
    pub fn forward_by_ref<M: Memory>(
        &mut self,
        broadcast: &mut ChainWriter<M>,
        client: ClientId,
        inbound: &ChainReader<M>,
        slot: &Slot,
    ) -> Option<Result<(), Refused>> {
        let page = inbound.page_id();
        let Some(foreign) = self.foreign_pages.iter().find(|foreign| foreign.page == page) else {
            self.wanted_page = Some(page).filter(|page| self.shareable_pages.contains(page));
            return None;
        };
        if !broadcast.can_refer_to(foreign.id) {
            return None;
        }
        let mut envelope = inbound.envelope(slot);
        // The client's own claim is ignored: the broker knows the owner of the chain (P12).
        envelope.sender = client;
        let (_, offset) = inbound.payload(slot);
        let sent = broadcast.send_ref(envelope, slot.payload_len(), foreign.id, offset);
        Some(sent.map(|until| self.held.push_back(Held { at: inbound.position(), until })))
    }

    fn take_back(&mut self, passed: u64) {
        while self.held.front().is_some_and(|held| held.until <= passed) {
            self.held.pop_front();
        }
    }

    fn forget(&mut self, page: u32) -> Option<u32> {
        self.shareable_pages.retain(|id| *id != page);
        let i = self.foreign_pages.iter().position(|foreign| foreign.page == page)?;
        Some(self.foreign_pages.swap_remove(i).id)
    }
}

impl<M: Memory> Core<M> {
    /// Records that receivers can be sent this page of a client, so that messages in it can be
    /// forwarded by reference.
    pub fn may_share(&mut self, client: ClientId, page: u32) {
        if let Some(member) = self.members.get_mut(client) {
            member.by_ref.shareable_pages.push(page);
        }
    }

    /// Returns the number of pages that are kept for forwarding by reference, those to be dropped
    /// included.
    pub fn shareable_pages(&self) -> usize {
        let shareable_pages: usize =
            self.members.all.iter().map(|member| member.by_ref.shareable_pages.len()).sum();
        shareable_pages + self.withdrawn.len()
    }

    /// Sets the length in bytes from which messages are forwarded by reference.
    pub fn set_zero_copy_threshold(&mut self, bytes: usize) {
        // A hook must see the bytes that are forwarded, so the broker copies them.
        self.zero_copy_threshold = if self.hook.is_none() { bytes } else { usize::MAX };
    }

    /// Drops a page that the client will neither send nor name again.
    pub(super) fn withdraw_page(&mut self, client: ClientId, page: u32) {
        let withdrawn = self.members.get_mut(client).and_then(|member| member.by_ref.forget(page));
        self.withdrawn.extend(withdrawn);
    }

    /// Drops all pages of a removed client.
    pub(super) fn withdraw(&mut self, member: &Member<M>) {
        self.withdrawn.extend(member.by_ref.foreign_pages.iter().map(|foreign| foreign.id));
    }

    pub(super) fn has_refs(&self) -> bool {
        !self.withdrawn.is_empty() || self.referenced_until > self.passed
    }

    /// Returns whether receivers have passed a message or a page that can be released.
    pub(super) fn has_returns(&mut self) -> bool {
        if !self.has_refs() {
            return false;
        }
        let passed = self.broadcast.passed();
        let is_due =
            |member: &Member<M>| member.by_ref.held.front().is_some_and(|h| h.until <= passed);
        let is_released = |id: &u32| self.broadcast.is_released(*id, passed);
        self.members.all.iter().any(is_due) || self.withdrawn.iter().any(is_released)
    }

    /// Releases what receivers have passed. Returns whether there may be any.
    pub(super) fn take_back(&mut self) -> bool {
        if !self.has_refs() {
            return false;
        }
        let passed = self.broadcast.passed();
        self.passed = passed;
        for member in &mut self.members.all {
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

    /// Adds the foreign pages that messages were copied for lack of.
    pub(super) fn add_wanted_page(&mut self) {
        if !core::mem::take(&mut self.wants_page) {
            return;
        }
        for i in 0..self.members.all.len() {
            let Some(page) = self.members.all[i].by_ref.wanted_page.take() else { continue };
            let inbound = self.members.all[i].inbound.as_ref();
            let Some(memory) = inbound.and_then(|inbound| inbound.page(page)).cloned() else {
                continue;
            };
            if let Some(id) = self.add_foreign_page(memory) {
                self.members.all[i].by_ref.foreign_pages.push(ForeignPage { page, id });
            }
        }
    }

    /// Adds a foreign page. If the budget is used up, it replaces an idle one, to which no message
    /// has referred for a whole budget of sent bytes. Without that condition, clients whose pages
    /// together exceed the budget would replace each other's pages at every page rollover.
    fn add_foreign_page(&mut self, memory: M) -> Option<u32> {
        let added = self.broadcast.add_foreign_page(memory.clone());
        if added.is_some() {
            return added;
        }
        let passed = self.broadcast.passed();
        let long_ago = passed.saturating_sub(self.limits.budget() as u64);
        let is_idle = |page: &mut ForeignPage| self.broadcast.is_released(page.id, long_ago);
        let mut members =
            self.members.all.iter_mut().map(|member| &mut member.by_ref.foreign_pages);
        let idle = members.find_map(|pages| pages.extract_if(.., is_idle).next())?;
        self.broadcast.forget_foreign_page(idle.id);
        self.broadcast.add_foreign_page(memory)
    }
}

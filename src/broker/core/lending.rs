//! Long messages are lent: named in the broadcast chain and not copied.
//!
//! ```text
//!   a client's page        one more page of the broadcast chain       named by lent messages
//!   --------------> adopt ------------------------------> announced -------------------------+
//!        may_lend                                                                             |
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

use super::{Core, Link};
use crate::chain::{Receiver, Refused, Sender};
use crate::memory::Memory;
use crate::message::{ClientId, Slot};
use std::collections::VecDeque;

/// What a link lends.
#[derive(Default)]
pub(super) struct Lending {
    /// Pages of the client's that receivers can be sent.
    lendable: Vec<u32>,
    /// Those of them that are the broadcast chain's, too.
    adopted: Vec<Adopted>,
    /// What was taken and not given up, oldest first.
    held: VecDeque<Held>,
    /// A page that the client has sent a long message in, and that is not lent yet.
    wanted: Option<u32>,
}

/// A client's page, and what it is called in the broadcast chain.
#[derive(Clone, Copy)]
struct Adopted {
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

impl Lending {
    /// Gives up what was taken of the client's chain and is not lent any more. Returns whether
    /// anything was said about it.
    #[inline]
    pub fn give_up<M: Memory>(&self, inbound: &mut Receiver<M>) -> bool {
        match self.held.front() {
            None => inbound.give_up(),
            Some(held) => inbound.give_up_to(held.at),
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
    pub fn lend<M: Memory>(
        &mut self,
        broadcast: &mut Sender<M>,
        client: ClientId,
        inbound: &Receiver<M>,
        slot: &Slot,
    ) -> Option<Result<(), Refused>> {
        let page = inbound.page_id();
        let Some(adopted) = self.adopted.iter().find(|adopted| adopted.page == page) else {
            self.wanted = Some(page).filter(|page| self.lendable.contains(page));
            return None;
        };
        if !broadcast.can_lend(adopted.id) {
            return None;
        }
        let mut envelope = inbound.envelope(slot);
        // Whatever the client says: the broker knows whose chain it is (P12).
        envelope.sender = client;
        let (_, offset) = inbound.payload(slot);
        let lent = broadcast.lend(envelope, slot.payload_len(), adopted.id, offset);
        Some(lent.map(|until| self.held.push_back(Held { at: inbound.position(), until })))
    }

    fn take_back(&mut self, passed: u64) {
        while self.held.front().is_some_and(|held| held.until <= passed) {
            self.held.pop_front();
        }
    }

    fn forget(&mut self, page: u32) -> Option<u32> {
        self.lendable.retain(|id| *id != page);
        let i = self.adopted.iter().position(|adopted| adopted.page == page)?;
        Some(self.adopted.swap_remove(i).id)
    }
}

impl<M: Memory> Core<M> {
    /// Receivers can be sent this page of a client's: its messages may be lent.
    pub fn may_lend(&mut self, client: ClientId, page: u32) {
        if let Some(link) = self.link_mut(client) {
            link.lending.lendable.push(page);
        }
    }

    /// How many pages are kept to be lent, or still are.
    pub fn lendable(&self) -> usize {
        let lendable: usize = self.links.iter().map(|link| link.lending.lendable.len()).sum();
        lendable + self.recalled.len()
    }

    /// Messages of at least so many bytes are lent.
    pub fn set_lend_from(&mut self, bytes: usize) {
        // What a hook has seen must be what is sent on, and so a copy.
        self.lend_from = if self.hook.is_none() { bytes } else { usize::MAX };
    }

    /// The client will not send this page's descriptor again, nor name the page.
    pub(super) fn recall_page(&mut self, client: ClientId, page: u32) {
        let recalled = self.link_mut(client).and_then(|link| link.lending.forget(page));
        self.recalled.extend(recalled);
    }

    /// A client is gone, and all its pages with it.
    pub(super) fn recall(&mut self, link: &Link<M>) {
        self.recalled.extend(link.lending.adopted.iter().map(|adopted| adopted.id));
    }

    fn is_lending(&self) -> bool {
        !self.recalled.is_empty() || self.lent_until > self.passed
    }

    /// Whether receivers have passed something that was lent.
    pub(super) fn has_returns(&mut self) -> bool {
        if !self.is_lending() {
            return false;
        }
        let passed = self.broadcast.passed();
        let is_due = |link: &Link<M>| link.lending.held.front().is_some_and(|h| h.until <= passed);
        let is_returned = |id: &u32| self.broadcast.is_returned(*id, passed);
        self.links.iter().any(is_due) || self.recalled.iter().any(is_returned)
    }

    /// Takes back what receivers have passed. Returns whether there may be any.
    pub(super) fn take_back(&mut self) -> bool {
        if !self.is_lending() {
            return false;
        }
        let passed = self.broadcast.passed();
        self.passed = passed;
        for link in &mut self.links {
            link.lending.take_back(passed);
        }
        let broadcast = &mut self.broadcast;
        self.recalled.retain(|id| {
            let is_returned = broadcast.is_returned(*id, passed);
            if is_returned {
                broadcast.forget_lent(*id);
            }
            !is_returned
        });
        true
    }

    /// Makes the pages lendable that messages were copied from for want of that.
    pub(super) fn adopt_wanted(&mut self) {
        if !std::mem::take(&mut self.wants_to_lend) {
            return;
        }
        for i in 0..self.links.len() {
            let Some(page) = self.links[i].lending.wanted.take() else { continue };
            let inbound = self.links[i].inbound.as_ref();
            let Some(memory) = inbound.and_then(|inbound| inbound.page(page)).cloned() else {
                continue;
            };
            if let Some(id) = self.adopt(memory) {
                self.links[i].lending.adopted.push(Adopted { page, id });
            }
        }
    }

    /// Adopts a page; in the place of another one, if need be, of which nothing was lent for as long
    /// as a whole budget was sent. Clients whose pages together are more than may be lent would else
    /// take that from each other at each of their page turns.
    fn adopt(&mut self, memory: M) -> Option<u32> {
        let adopted = self.broadcast.adopt(memory.clone());
        if adopted.is_some() {
            return adopted;
        }
        let passed = self.broadcast.passed();
        let long_ago = passed.saturating_sub(self.limits.budget() as u64);
        let is_idle = |page: &mut Adopted| self.broadcast.is_returned(page.id, long_ago);
        let mut links = self.links.iter_mut().map(|link| &mut link.lending.adopted);
        let idle = links.find_map(|adopted| adopted.extract_if(.., is_idle).next())?;
        self.broadcast.forget_lent(idle.id);
        self.broadcast.adopt(memory)
    }
}

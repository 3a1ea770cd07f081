//! How a client reads that may be removed, one step at a time.
//!
//! What other receivers read does not change until they release it, so they take it in one step
//! ([`client`](crate::client)). This client's pages may be reused at any time after its removal. So
//! each of its actions is a step: finding a message, copying it or handing it out in place, and
//! reading its member word. It reads that word before it takes the copy or hands out.
//!
//! The model leaves out what else it does after its removal: it stores words that no process reads
//! any more, and ends when it next reads its socket.

use crate::client::{Client, Pc};
use crate::protocol::Action;
use crate::run::{Break, Hand, Run};
use crate::state::*;
use Action::*;

/// How the last client reads, if it may be removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reads {
    Copies,
    InPlace,
}

impl Run {
    /// Returns whether the broker may remove this client at any time, or has removed it.
    pub fn may_be_removed(&self, id: Id) -> bool {
        self.removal.is_some() && usize::from(id) == self.clients.len()
    }
}

/// Returns whether it has found a message that it has not taken yet.
pub fn is_reading(me: &Client) -> bool {
    matches!(me.pc, Pc::Found | Pc::Copied | Pc::HasInHand)
}

impl Client {
    /// Returns whether it was removed or skipped and is where it detects that: by the end of its
    /// connection, or by a packet.
    pub fn is_told(hand: &Hand, id: Id) -> bool {
        let is_broken =
            [Break::RemovedUnannounced, Break::SkippedUnannounced].map(|how| hand.is_broken(how));
        hand.bus().removed(id).is_some() && is_broken == [false; 2]
    }

    /// The step after its removal, where it does not read: it stops reading, or first reads on.
    pub fn after_removal(&mut self, hand: &mut Hand, id: Id) {
        match self.pc {
            Pc::Asleep | Pc::Waking if hand.bus().process(id).is_skipped => self.next(hand, id),
            Pc::Drowsy | Pc::Asleep | Pc::Waking | Pc::Rejoining => self.stops(hand, id),
            _ => {
                hand.act(Unpark { by: id });
                self.pc = Pc::Going;
            }
        }
    }

    fn ends(&mut self, hand: &mut Hand, id: Id) {
        hand.act(End { process: id });
        self.pc = Pc::Over;
    }

    /// Stops reading: it asks to receive again if it was skipped, and ends otherwise.
    fn stops(&mut self, hand: &mut Hand, id: Id) {
        if !hand.bus().process(id).is_skipped || !hand.bus().lives(BROKER) {
            return self.ends(hand, id);
        }
        hand.act(Rejoin { by: id });
        self.pc = Pc::Rejoining;
    }

    fn is_member(hand: &Hand, id: Id) -> bool {
        hand.bus().process(id).is_member() || hand.is_broken(Break::SkippedNotMarked)
    }

    /// Checks for a message.
    pub fn find(&mut self, hand: &mut Hand, id: Id) {
        let is_early = hand.is_broken(Break::MemberReadBeforeCopy);
        if is_early && !Self::is_member(hand, id) {
            return self.stops(hand, id);
        }
        match hand.look(BROADCAST, id) {
            Word::Zero if self.is_closed => self.stops(hand, id),
            Word::Zero => self.pc = Pc::Drowsy,
            Word::Message { .. } | Word::Reference { .. } => self.pc = Pc::Found,
            Word::EndOfPage { next } => {
                let removed = hand.bus().removed(id);
                match removed.is_none_or(|removed| hand.bus().next_page(removed, next).is_some()) {
                    true => self.follow(hand, id),
                    false => self.stops(hand, id),
                }
            }
            // A fault. It counts as the broker's only while the client is a member.
            Word::Other => self.stops(hand, id),
        }
    }

    /// The next step with a message that it has found.
    pub fn read(&mut self, hand: &mut Hand, id: Id) {
        let in_place = hand.setup.removal == Some(Reads::InPlace);
        match self.pc {
            Pc::Found if !in_place => {
                self.reads_bytes(hand, id);
                self.pc = Pc::Copied;
            }
            Pc::Found => {
                if !Self::is_member(hand, id) && !hand.is_broken(Break::MemberUnreadInPlace) {
                    return self.stops(hand, id);
                }
                hand.act(HandOut { by: id });
                self.pc = Pc::HasInHand;
            }
            _ => {
                let is_taken = in_place
                    || Self::is_member(hand, id)
                    || hand.is_broken(Break::ChangedCopyConsumed)
                    || hand.is_broken(Break::MemberReadBeforeCopy);
                if !is_taken {
                    let is_changed = hand.bus().removed(id).is_some_and(|it| it.is_changed);
                    hand.run.discarded |= is_changed;
                    return self.stops(hand, id);
                }
                if in_place {
                    self.reads_bytes(hand, id);
                }
                hand.act(Pass { chain: BROADCAST, by: id });
                self.pc = Pc::Going;
            }
        }
    }

    fn reads_bytes(&self, hand: &mut Hand, id: Id) {
        let bus = hand.bus();
        let Some(Reader { place, found: Some(found), .. }) = bus.receiver(id) else { return };
        if let Word::Reference { foreign_page, at, .. } = *found {
            let reference = bus
                .foreign_page(foreign_page)
                .map(|foreign_page| (foreign_page.of, foreign_page.page));
            let (of, page) = reference.unwrap_or_default();
            return hand.act(Borrow { by: id, of, page, at: at.into() });
        }
        let (chain, page) = (BROADCAST, place.page);
        let at = bus.chain(chain).page(page).and_then(|page| page.unit(place.position));
        hand.act(Read { chain, by: id, page, at: at.unwrap_or(0) as u32 });
    }
}

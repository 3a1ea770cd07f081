//! One turn of the broker.
//!
//! The broker is the receiver of every client's chain and the sender of the broadcast chain. In a
//! turn it takes from each client up to its budget, appends to one run, publishes the run by one
//! store, then gives up what it took, and then rings who sleeps. In that order: what was given up
//! has been sent on (P3). All clients read the one broadcast chain, so all see one order (P2).

use super::{Action, Core, Drain, Member};
use crate::core::broker::forward::{Hooked, forward};
use crate::core::chain::{Blocked, ChainWriter, Event, Refused};
use crate::core::control::Doorbell;
use crate::core::fault::Fault;
use crate::core::layout::SLOT_HEADER;
use crate::core::memory::Memory;
use crate::core::message::ClientId;
use crate::core::wire::Roles;
use alloc::vec::Vec;

/// How much is taken from one client before it is the next one's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Messages and page turns.
    pub messages: usize,
    /// Payload bytes; the message that exceeds them is still taken.
    pub bytes: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Quota { messages: 256, bytes: 256 * 1024 }
    }
}

/// What a client has used of its share when it was refused for want of room. It would else begin
/// anew whenever a slow receiver leaves a page, fill that, and nobody else's turn would come.
#[derive(Clone, Copy)]
pub(super) struct Share {
    client: ClientId,
    messages: usize,
    bytes: usize,
}

impl Share {
    fn none(client: ClientId) -> Self {
        Share { client, messages: 0, bytes: 0 }
    }
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cycle {
    /// Messages and page turns taken.
    pub consumed: usize,
    /// Why not all of it was taken.
    pub blocked: Option<Blocked>,
}

/// Why a member's turn ended.
enum Outcome {
    /// Nothing left, or its share is used up.
    Next,
    Blocked(Blocked),
    Gone(Option<Fault>),
}

impl<M: Memory> Core<M> {
    /// Takes from every client in turn, sends on, gives up, and says who must be rung.
    pub fn cycle(&mut self) -> Cycle {
        let mut cycle = Cycle::default();
        let mut gone = Vec::new();
        self.waiting = None;
        let share = self.share.take();
        let returned = self.take_back();
        let members = self.members.len();
        if self.first >= members {
            self.first = 0;
        }
        let begin = self.first;
        for part in [begin..members, 0..begin] {
            let (mut next, end) = (part.start, part.end);
            // Of many clients, hardly anyone.
            while let Some(passed) = self.members[next..end].iter().position(Member::is_due) {
                let i = next + passed;
                next = i + 1;
                if cycle.blocked.is_some() {
                    // There is no room for anybody; but who has left and holds nothing can go.
                    if self.members[i].is_finished() {
                        gone.push((self.members[i].id, None));
                    }
                    continue;
                }
                let used = share.filter(|share| share.client == self.members[i].id);
                match self.take_from(i, used, &mut cycle.consumed) {
                    Outcome::Next => {}
                    Outcome::Gone(fault) => gone.push((self.members[i].id, fault)),
                    Outcome::Blocked(blocked) => {
                        cycle.blocked = Some(blocked);
                        // Who was refused comes first when there is room again, with what is left
                        // of its share.
                        self.first = i;
                    }
                }
            }
        }
        if cycle.blocked.is_none() {
            // Back at the beginning when the next turn begins, if that was the last one.
            self.first = begin + 1;
        }
        if cycle.consumed > 0 || returned {
            self.publish_and_ring(returned);
        }
        while let Some((id, fault)) = self.broadcast.take_fault() {
            gone.push((ClientId(id), Some(fault)));
        }
        for (client, fault) in gone {
            self.disconnect(client, fault);
        }
        self.add_wanted_page();
        cycle
    }

    /// Takes one client's share, of which a part may be `used`.
    fn take_from(&mut self, i: usize, used: Option<Share>, consumed: &mut usize) -> Outcome {
        let member = &mut self.members[i];
        let leaving = member.leaving.is_some();
        let Some(inbound) = &mut member.inbound else {
            return if leaving { Outcome::Gone(None) } else { Outcome::Next };
        };
        let Share { mut messages, mut bytes, .. } = used.unwrap_or(Share::none(member.id));
        while messages < self.quota.messages && bytes < self.quota.bytes {
            let len = match inbound.poll() {
                Err(fault) => return Outcome::Gone(Some(fault)),
                Ok(Event::Empty) if leaving => return Outcome::Gone(None),
                Ok(Event::Empty) => break,
                Ok(Event::PageAdvanced) => {
                    self.control.page_advanced();
                    member.drain = Drain::NotNeeded;
                    SLOT_HEADER
                }
                Ok(Event::Unknown(next)) if leaving || member.drain == Drain::Done => {
                    return Outcome::Gone(Some(inbound.unknown_page(next)));
                }
                Ok(Event::Unknown(_)) => {
                    if member.drain == Drain::NotNeeded {
                        member.drain = Drain::Asked;
                        self.actions.push(Action::Drain(member.id));
                    }
                    break;
                }
                Ok(Event::Message(slot)) => {
                    let is_long = slot.payload_len() >= self.zero_copy_threshold;
                    let lent = match is_long {
                        true => member.by_ref.forward_by_ref(
                            &mut self.broadcast,
                            member.id,
                            inbound,
                            &slot,
                        ),
                        false => None,
                    };
                    let is_ref = lent.is_some();
                    self.wants_page |= is_long && !is_ref;
                    let forwarded = lent.unwrap_or_else(|| {
                        forward(&mut self.broadcast, self.hook.as_mut(), member.id, inbound, &slot)
                    });
                    match forwarded {
                        Ok(()) if is_ref => self.lent_until = self.broadcast.position(),
                        Ok(()) => {}
                        Err(Refused::Blocked(blocked)) => {
                            let len = self.hook.as_ref().and_then(Hooked::pending_len);
                            let len = len.unwrap_or(slot.payload_len());
                            let envelope = inbound.envelope(&slot);
                            self.waiting = Some(match is_ref {
                                true => ChainWriter::<M>::room_for_ref(&envelope),
                                false => ChainWriter::<M>::room_for(&envelope, len),
                            });
                            self.share = Some(Share { client: member.id, messages, bytes });
                            return Outcome::Blocked(blocked);
                        }
                        // Checked against the same limit when it was received.
                        Err(Refused::TooLong { .. }) => {}
                    }
                    inbound.advance(&slot);
                    bytes += slot.payload_len();
                    slot.end - slot.at
                }
            };
            messages += 1;
            *consumed += 1;
            member.moved = true;
            if !spend(&mut member.leaving, len) {
                return Outcome::Gone(Some(Fault::Endless));
            }
        }
        Outcome::Next
    }

    /// Publishes what was appended, gives up what was taken and, if there may be any, what has
    /// `returned`.
    fn publish_and_ring(&mut self, returned: bool) {
        let published = self.broadcast.publish();
        let mut moved = published;
        for member in self.members.iter_mut().filter(|member| returned || member.moved) {
            let Member { inbound, by_ref, .. } = member;
            member.moved = inbound.as_mut().is_some_and(|inbound| by_ref.release(inbound));
            moved |= member.moved;
        }
        if !moved {
            return;
        }
        // One fence for everything that was stored above, and for all clients that may wait for it.
        let may_sleep = |member: &mut Member<M>| {
            member.doorbell.as_mut().is_some_and(|bell| !bell.is_polling())
        };
        if self.members.iter_mut().any(may_sleep) {
            self.control.ring_fence();
        }
        for member in &mut self.members {
            let has_released = core::mem::take(&mut member.moved);
            let concerned = has_released || published && member.roles.has(Roles::RECEIVE);
            if concerned && member.doorbell.as_mut().is_some_and(Doorbell::must_ring) {
                self.actions.push(Action::Ring(member.id));
            }
        }
    }
}

/// Takes `len` bytes from what a client that has left may still hold. Returns whether it had them.
fn spend(leaving: &mut Option<usize>, len: usize) -> bool {
    let Some(left) = leaving else { return true };
    let less = left.checked_sub(len);
    *left = less.unwrap_or(0);
    less.is_some()
}

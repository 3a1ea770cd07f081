//! One cycle of the broker.
//!
//! The broker reads every client's chain and is the single writer of the broadcast chain. A cycle
//! has four steps. It consumes from each client up to its quota, appends to one pending batch, and
//! stores its [intent](crate::core::intent). It publishes the batch by one store. It releases what it
//! consumed. It rings the sleeping clients. The order matters: everything released was forwarded
//! before (P3). All clients read the one broadcast chain, so all see one order (P2).

use super::members::{Drain, Member, Reception};
use super::{Action, Core};
use crate::core::broker::forward::{Hooked, forward};
use crate::core::chain::{Blocked, ChainWriter, Event, Refused};
use crate::core::control::Doorbell;
use crate::core::fault::Fault;
use crate::core::layout::SLOT_HEADER;
use crate::core::memory::Memory;
use crate::core::message::ClientId;
use alloc::vec::Vec;

/// How much the broker consumes from one client in a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// Messages and page rollovers. At least 1.
    pub messages: usize,
    /// Payload bytes, at least 1. The message that exceeds them is still consumed.
    pub bytes: usize,
}

impl Quota {
    /// Returns a quota of this many messages and payload bytes.
    ///
    /// ```
    /// let builder = llmp::Broker::builder().quota(llmp::Quota::new(64, 64 * 1024));
    /// # let _ = builder;
    /// ```
    pub fn new(messages: usize, bytes: usize) -> Self {
        Quota { messages, bytes }
    }
}

impl Default for Quota {
    fn default() -> Self {
        Quota { messages: 256, bytes: 256 * 1024 }
    }
}

/// Quota already used by the client that hit a full chain. Carried over so that it can't take every
/// freed page and starve the others.
#[derive(Clone, Copy)]
pub(super) struct Share {
    client: ClientId,
    messages: usize,
    bytes: usize,
}

/// The result of a cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cycle {
    /// Messages and page rollovers consumed.
    pub consumed: usize,
    /// Why messages are left, if any are left for lack of room.
    pub blocked: Option<Blocked>,
}

/// Why a member's share ended.
enum Outcome {
    /// Its chain is empty, or its quota is used up.
    Next,
    Blocked(Blocked),
    Gone(Option<Fault>),
}

impl<M: Memory> Core<M> {
    /// Consumes from every client in turn, forwards, releases, and adds an action for every client
    /// that must be rung.
    pub fn cycle(&mut self) -> Cycle {
        let mut cycle = Cycle::default();
        let mut gone = Vec::new();
        self.waiting = None;
        let share = self.share.take();
        let returned = self.take_back();
        let members = self.members.all.len();
        if self.members.begin >= members {
            self.members.begin = 0;
        }
        let begin = self.members.begin;
        for part in [begin..members, 0..begin] {
            let (mut next, end) = (part.start, part.end);
            // Usually only a few clients are ready.
            while let Some(passed) = self.members.all[next..end].iter().position(Member::is_due) {
                let i = next + passed;
                next = i + 1;
                if cycle.blocked.is_some() {
                    // There is no room for any message, but a client that has left and holds
                    // nothing can be removed.
                    if self.members.all[i].is_leaving() && !self.members.all[i].has_message() {
                        gone.push((self.members.all[i].id, None));
                    }
                    continue;
                }
                let used = share.filter(|share| share.client == self.members.all[i].id);
                let outcome = self.take_from(i, used, &mut cycle.consumed);
                self.intend(i);
                match outcome {
                    Outcome::Next => {}
                    Outcome::Gone(fault) => gone.push((self.members.all[i].id, fault)),
                    Outcome::Blocked(blocked) => {
                        cycle.blocked = Some(blocked);
                        // The refused client comes first when there is room again, with the rest of
                        // its quota.
                        self.members.begin = i;
                    }
                }
            }
        }
        if cycle.blocked.is_none() {
            // If that was the last index, the next cycle resets it to zero.
            self.members.begin = begin + 1;
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

    /// Consumes one client's share, of which a part may be `used`.
    fn take_from(&mut self, i: usize, used: Option<Share>, consumed: &mut usize) -> Outcome {
        let member = &mut self.members.all[i];
        let leaving = member.is_leaving();
        let Some(inbound) = &mut member.inbound else {
            return if leaving { Outcome::Gone(None) } else { Outcome::Next };
        };
        let (mut messages, mut bytes) = used.map_or((0, 0), |used| (used.messages, used.bytes));
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
                    let by_ref = match is_long {
                        true => member.by_ref.forward_by_ref(
                            &mut self.broadcast,
                            member.id,
                            inbound,
                            &slot,
                        ),
                        false => None,
                    };
                    let is_ref = by_ref.is_some();
                    self.wants_page |= is_long && !is_ref;
                    let forwarded = by_ref.unwrap_or_else(|| {
                        forward(&mut self.broadcast, self.hook.as_mut(), member.id, inbound, &slot)
                    });
                    match forwarded {
                        Ok(()) if is_ref => self.referenced_until = self.broadcast.position(),
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
                        // Unreachable: the same limit was checked when the message was received.
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
            if !member.life.spend(len) {
                return Outcome::Gone(Some(Fault::Endless));
            }
        }
        Outcome::Next
    }

    /// Stores what was consumed of a client with the pending batch, for a client that outlives the
    /// broker.
    #[inline]
    fn intend(&self, i: usize) {
        let member = &self.members.all[i];
        if let Some(inbound) = member.inbound.as_ref().filter(|_| member.moved) {
            self.control.intend(member.cursor, self.broadcast.tail(), inbound.position());
        }
    }

    /// Publishes what was appended and releases what was consumed. If `returned`, also releases
    /// what receivers have passed.
    fn publish_and_ring(&mut self, returned: bool) {
        let published = self.broadcast.publish();
        let mut moved = published;
        for member in self.members.all.iter_mut().filter(|member| returned || member.moved) {
            let Member { inbound, by_ref, .. } = member;
            member.moved = inbound.as_mut().is_some_and(|inbound| by_ref.release(inbound));
            moved |= member.moved;
        }
        if !moved {
            return;
        }
        // One fence serves all stores above and all clients that may wait for them.
        let may_sleep =
            |member: &mut Member<M>| member.doorbell().is_some_and(|bell| !bell.is_polling());
        if self.members.all.iter_mut().any(may_sleep) {
            self.control.ring_fence();
        }
        for member in &mut self.members.all {
            let has_released = core::mem::take(&mut member.moved);
            let concerned = has_released || published && member.reception == Reception::Receives;
            if concerned && member.doorbell().is_some_and(Doorbell::must_ring) {
                self.actions.push(Action::Ring(member.id));
            }
        }
    }
}

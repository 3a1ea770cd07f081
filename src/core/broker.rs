//! The broker without sockets: events in, actions out.
//!
//! The states of a member:
//!
//! ```text
//!   reserve          join             page 0               hung_up           all consumed
//!   --------> id ----------> receives -------> is read ------------> drained ---------> removed
//!                            (if it asked)                   removed from the broadcast chain
//! ```
//!
//! `Core` is the single writer of the broadcast chain and of the broker's control region. It is the
//! only reader of each client's chain. `cycle` describes the work of one cycle, and `by_ref` how
//! long messages are forwarded without a copy.

mod by_ref;
mod cycle;
mod forward;
pub mod hook;
mod ids;
#[cfg(test)]
mod tests;

use self::by_ref::ByRef;
use self::cycle::Share;
pub use self::cycle::{Cycle, Quota};
use self::forward::Hooked;
use self::ids::Ids;
use crate::core::broker::hook::Hook;
use crate::core::chain::{Announcement, ChainReader, ChainWriter, Start, Stats};
use crate::core::control::{Control, Doorbell};
use crate::core::fault::Fault;
use crate::core::limits::Limits;
use crate::core::memory::Memory;
use crate::core::message::ClientId;
use crate::core::wire::Roles;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Work for the owner of a [`Core`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ring this client: it sleeps.
    Ring(ClientId),
    /// Read everything from this client's socket, then call [`Core::drained`].
    Drain(ClientId),
    /// The client is removed. Everything that it had committed was forwarded, unless a fault is
    /// given.
    Remove(ClientId, Option<Fault>),
}

/// The place of a new client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The client's id.
    pub client: ClientId,
    /// Index of the cursor for its chain in the broker's control region.
    pub cursor: usize,
}

/// The broker's state.
pub struct Core<M> {
    limits: Limits,
    quota: Quota,
    control: Control<M>,
    broadcast: ChainWriter<M>,
    members: Vec<Member<M>>,
    /// Index of the member that is read first in the next cycle.
    first: usize,
    ids: Ids,
    /// Free cursor indices, first in first out. A cursor is reused as late as possible, because a
    /// disconnected client may still read its old entry.
    free_cursors: VecDeque<usize>,
    /// Slot size of the message waiting for room, in bytes.
    waiting: Option<usize>,
    /// Quota already used by the client whose message waits for room.
    share: Option<Share>,
    actions: Vec<Action>,
    hook: Option<Hooked>,
    /// Length in bytes from which messages are forwarded by reference. `usize::MAX` with a hook.
    zero_copy_threshold: usize,
    /// Position in the broadcast chain after the last message by reference.
    referenced_until: u64,
    /// Position in the broadcast chain that all receivers had passed at the last check. May be stale,
    /// never too high.
    passed: u64,
    /// Whether a message was copied because no message can refer to its page yet.
    wants_page: bool,
    /// Foreign pages that are to be dropped once released, by their ids in the broadcast chain.
    withdrawn: Vec<u32>,
}

/// Default length in bytes from which messages are forwarded by reference, as measured.
pub const ZERO_COPY_THRESHOLD: usize = 4 * 1024;

/// A client. The fields that a cycle touches for an idle one come first.
#[repr(C)]
struct Member<M> {
    /// Bytes that its chain may still hold. `Some` after its connection has ended.
    leaving: Option<usize>,
    inbound: Option<ChainReader<M>>,
    id: ClientId,
    cursor: usize,
    roles: Roles,
    /// Whether it has joined, so that others may know its id.
    is_known: bool,
    doorbell: Option<Doorbell<M>>,
    /// Whether its socket was drained since its chain named an unknown page.
    drain: Drain,
    /// Whether this cycle has consumed anything from it. After the release: whether its cursor was
    /// stored.
    moved: bool,
    by_ref: ByRef,
}

impl<M: Memory> Member<M> {
    /// Returns whether a cycle has anything to do for it.
    #[inline(always)]
    fn is_due(&self) -> bool {
        self.leaving.is_some() || self.inbound.as_ref().is_some_and(ChainReader::has_message)
    }

    /// Returns whether its connection has ended and its chain is empty.
    fn is_finished(&self) -> bool {
        let holds = self.inbound.as_ref().is_some_and(ChainReader::has_message);
        self.leaving.is_some() && !holds
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    NotNeeded,
    Asked,
    Done,
}

impl<M> core::fmt::Debug for Core<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Core")
            .field("limits", &self.limits)
            .field("quota", &self.quota)
            .field("members", &self.members.len())
            .field("hook", &self.hook.is_some())
            .field("zero_copy_threshold", &self.zero_copy_threshold)
            .finish_non_exhaustive()
    }
}

impl<M: Memory> Core<M> {
    /// Returns a broker with `cursors` cursors in its control region, one for every client that it
    /// admits. The broadcast chain begins in `first`.
    pub fn new(limits: Limits, control: M, cursors: usize, first: M) -> Self {
        Core {
            limits,
            quota: Quota::default(),
            control: Control::create(control, cursors),
            broadcast: ChainWriter::new(0, limits, first),
            members: Vec::new(),
            first: 0,
            ids: Ids::new(),
            free_cursors: (0..cursors).collect(),
            waiting: None,
            share: None,
            actions: Vec::new(),
            hook: None,
            zero_copy_threshold: ZERO_COPY_THRESHOLD,
            referenced_until: 0,
            passed: 0,
            wants_page: false,
            withdrawn: Vec::new(),
        }
    }

    /// Sets the hook that sees every message. Disables forwarding by reference.
    pub fn set_hook(&mut self, hook: Box<dyn Hook>) {
        self.hook = Some(Hooked::new(hook));
        self.set_zero_copy_threshold(self.zero_copy_threshold);
    }

    /// Sets the quota of one client in a cycle.
    pub fn set_quota(&mut self, budget: Quota) {
        // A quota of zero would block the bus.
        self.quota = Quota { messages: budget.messages.max(1), bytes: budget.bytes.max(1) };
    }

    /// Sets the reuse distance of the broadcast chain in bytes, see
    /// [`ChainWriter::set_reuse_distance`].
    pub fn set_reuse_distance(&mut self, bytes: usize) {
        self.broadcast.set_reuse_distance(bytes);
    }

    /// Stops the growth of the broadcast chain, see [`ChainWriter::stop_growing`].
    pub fn stop_growing(&mut self) -> bool {
        self.broadcast.stop_growing()
    }

    /// Returns whether there is an id for a new client. The id of a client that has joined is never
    /// reused, so ids can run out.
    pub fn has_ids(&self) -> bool {
        self.ids.has_some()
    }

    /// Uses up all ids but one.
    #[cfg(test)]
    pub(crate) fn exhaust_ids(&mut self) {
        self.ids.exhaust();
    }

    /// Reserves an id and a cursor for a new client, if both are available.
    pub fn reserve(&mut self, roles: Roles) -> Option<Reserved> {
        if !self.has_ids() {
            return None;
        }
        let cursor = self.free_cursors.pop_front()?;
        let client = ClientId(self.ids.give()?);
        self.control.give_place(cursor, client.0);
        self.members.push(Member {
            id: client,
            cursor,
            roles,
            is_known: false,
            doorbell: None,
            inbound: None,
            drain: Drain::NotNeeded,
            moved: false,
            leaving: None,
            by_ref: ByRef::default(),
        });
        Some(Reserved { client, cursor })
    }

    /// Completes the join of a client, with its control region. Returns where it begins to receive.
    ///
    /// # Errors
    ///
    /// Its [`Fault`]. The caller then removes it by [`hung_up`](Core::hung_up).
    pub fn join(&mut self, client: ClientId, control: M) -> Result<Start, Fault> {
        let peer = Control::check(control, 0)?;
        let Some(member) = self.members.iter_mut().find(|member| member.id == client) else {
            return Err(Fault::Expelled);
        };
        member.is_known = true;
        member.doorbell = Some(Doorbell::new(peer.clone()));
        if member.roles.has(Roles::RECEIVE) {
            return Ok(self.broadcast.admit(client.0, peer, 0));
        }
        let (position, message) = (self.broadcast.tail(), self.broadcast.next_message());
        Ok(Start { page: 0, position, message })
    }

    /// Adds a page of the client's chain.
    ///
    /// # Errors
    ///
    /// Its [`Fault`].
    pub fn page_arrived(&mut self, client: ClientId, id: u32, page: M) -> Result<(), Fault> {
        let (limits, control) = (self.limits, self.control.clone());
        let Some(member) = self.member_mut(client) else { return Ok(()) };
        member.is_known = true;
        if let Some(inbound) = &mut member.inbound {
            return inbound.add_page(id, page);
        }
        if id != crate::core::chain::FIRST_PAGE {
            return Err(Fault::UnknownPage {
                page: crate::core::chain::FIRST_PAGE,
                at: 0,
                next: id,
            });
        }
        member.inbound =
            Some(ChainReader::from_beginning(limits, client.0, page, control, member.cursor)?);
        Ok(())
    }

    /// Drops a page of the client's chain that it will not name again.
    ///
    /// # Errors
    ///
    /// Its [`Fault`].
    pub fn page_forgotten(&mut self, client: ClientId, id: u32) -> Result<(), Fault> {
        self.withdraw_page(client, id);
        match self.member_mut(client).and_then(|member| member.inbound.as_mut()) {
            Some(inbound) => inbound.forget_page(id),
            None => Err(Fault::UnknownPage { page: 0, at: 0, next: id }),
        }
    }

    /// Records that the client could not be rung. The next actions ring it again.
    pub fn not_rung(&mut self, client: ClientId) {
        let ring = Action::Ring(client);
        if !self.actions.contains(&ring) {
            self.actions.push(ring);
        }
    }

    /// Records that the client's socket was drained.
    pub fn drained(&mut self, client: ClientId) {
        if let Some(member) = self.member_mut(client) {
            member.drain = Drain::Done;
        }
    }

    /// Records that the client's socket could not be drained at once.
    pub fn not_drained(&mut self, client: ClientId) {
        if let Some(member) = self.member_mut(client) {
            member.drain = Drain::NotNeeded;
        }
    }

    /// Records that the client's connection has ended and its socket is drained. The broker still
    /// forwards what the client has committed (P4), then removes it.
    pub fn hung_up(&mut self, client: ClientId) {
        self.end_membership(client);
        if let Some(member) = self.member_mut(client) {
            member.doorbell = None;
            // A dead chain holds at most the bytes of its pages.
            let held = member.inbound.as_ref().map_or(0, ChainReader::pages_len);
            member.leaving = Some(held);
        }
    }

    /// Records that the client's connection has ended while its socket is not drained yet.
    /// [`hung_up`](Core::hung_up) must follow.
    pub fn is_gone(&mut self, client: ClientId) {
        self.end_membership(client);
    }

    /// Records that the client has stopped reading in place, so that no page is kept for it.
    pub fn reads_no_further(&mut self, client: ClientId) {
        if let Some(member) = self.member_mut(client) {
            member.roles = member.roles.without(Roles::IN_PLACE);
        }
    }

    /// Ends a client's membership: the broker stops waiting for it. The client may be alive and
    /// read on (P8). A client that copies detects that its membership has ended. For a client that
    /// reads in place, all pages that it may read are retired.
    fn end_membership(&mut self, client: ClientId) {
        let Some(member) = self.members.iter().find(|member| member.id == client) else { return };
        self.control.end_membership(member.cursor);
        let reads_in_place = member.roles.has(Roles::IN_PLACE);
        let Some(left) = self.broadcast.remove_receiver(client.0).filter(|_| reads_in_place) else {
            return;
        };
        self.broadcast.retire();
        for member in &self.members {
            if let Some(inbound) =
                member.inbound.as_ref().filter(|_| member.by_ref.holds_behind(left))
            {
                self.control.retire(member.cursor, inbound.position());
            }
        }
    }

    /// Removes a client at once, with the fault that it has caused.
    pub fn disconnect(&mut self, client: ClientId, fault: Option<Fault>) {
        let Some(i) = self.members.iter().position(|member| member.id == client) else { return };
        self.end_membership(client);
        let member = self.members.remove(i);
        if i < self.first {
            self.first -= 1;
        }
        self.withdraw(&member);
        self.free_cursors.push_back(member.cursor);
        if !member.is_known {
            self.ids.take_back(client.0);
        }
        self.actions.push(Action::Remove(client, fault));
    }

    /// Announces a sleep and checks again. Returns whether the broker may block until it is rung or
    /// a socket is ready. [`first_bounded_sleep`](Core::first_bounded_sleep) says how long it may
    /// block.
    pub fn park(&mut self) -> bool {
        self.control.park();
        let may_sleep = self.actions.is_empty() && !self.has_work();
        if !may_sleep {
            self.control.unpark();
        }
        may_sleep
    }

    /// See [`Control::first_bounded_sleep`].
    pub fn first_bounded_sleep(&self) -> Option<u64> {
        self.control.first_bounded_sleep()
    }

    /// Announces that the broker is awake.
    pub fn unpark(&self) {
        self.control.unpark();
    }

    fn has_work(&mut self) -> bool {
        if self.has_returns() {
            return true;
        }
        if let Some(slot_len) = self.waiting {
            // Checking for room may reveal an invalid cursor.
            return self.broadcast.has_room(slot_len) || self.broadcast.has_fault();
        }
        if self.broadcast.has_fault() {
            return true;
        }
        self.members.iter().any(|member| {
            let drained = member.drain != Drain::Asked;
            let something = member.inbound.as_ref().is_some_and(ChainReader::has_message);
            member.leaving.is_some() || something && drained
        })
    }

    /// Returns the receiver that blocks the bus, if any, and the bytes of the broadcast chain that
    /// it has not left yet.
    pub fn holds_up(&self) -> Option<(ClientId, u64)> {
        if self.waiting.is_none()
            && !self.members.iter().any(|member| self.holds_many_refs_of(member))
        {
            return None;
        }
        let (client, bytes) = self.broadcast.slowest()?;
        Some((ClientId(client), bytes))
    }

    /// Returns the clients that wait while the bus is blocked, as far as the broker can tell.
    pub fn waiting_clients(&self) -> impl Iterator<Item = ClientId> + '_ {
        let waits = |member: &&Member<M>| {
            self.waiting.is_some() && member.is_due() || self.holds_many_refs_of(member)
        };
        self.members.iter().filter(waits).map(|member| member.id)
    }

    /// Returns whether receivers hold half of a client's budget or more by messages by reference.
    fn holds_many_refs_of(&self, member: &Member<M>) -> bool {
        let held = member.by_ref.held_from().zip(member.inbound.as_ref());
        held.is_some_and(|(from, inbound)| {
            inbound.position() - from >= self.limits.budget() as u64 / 2
        })
    }

    /// Returns whether the last [`cycle`](Core::cycle) left a message for lack of room.
    pub fn is_blocked(&self) -> bool {
        self.waiting.is_some()
    }

    /// Adds the page that a [`Cycle`] was blocked for to the broadcast chain.
    pub fn add_page(&mut self, page: M) {
        self.broadcast.add_page(page);
    }

    /// Returns the next announcement of the broadcast chain's pages for a client, see
    /// [`ChainWriter::announcement`].
    pub fn announcement(&self, client: ClientId) -> Option<Announcement> {
        self.broadcast.announcement(client.0)
    }

    /// Records that the client was sent its announcement.
    pub fn mark_sent(&mut self, client: ClientId) {
        self.broadcast.mark_sent(client.0);
    }

    /// Returns the clients with unsent announcements.
    pub fn has_unsent(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.broadcast.has_unsent().map(ClientId)
    }

    /// Takes the pending actions.
    pub fn take_actions(&mut self) -> Vec<Action> {
        self.ids.all_removed();
        core::mem::take(&mut self.actions)
    }

    /// Returns the number of clients that receive.
    pub fn receivers(&self) -> usize {
        let receives =
            |member: &&Member<M>| member.roles.has(Roles::RECEIVE) && member.doorbell.is_some();
        self.members.iter().filter(receives).count()
    }

    /// Returns the number of clients.
    pub fn clients(&self) -> usize {
        self.members.len()
    }

    /// Returns a page of the broadcast chain or a foreign page.
    pub fn page(&self, id: u32) -> Option<&M> {
        self.broadcast.page(id)
    }

    /// Returns the broker's control region.
    pub fn control(&self) -> &M {
        self.control.memory()
    }

    /// Returns the limits of the bus.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the counters of the broadcast chain.
    pub fn stats(&self) -> Stats {
        self.broadcast.stats()
    }

    fn member_mut(&mut self, client: ClientId) -> Option<&mut Member<M>> {
        self.members.iter_mut().find(|member| member.id == client)
    }
}

//! The broker without sockets: events in, actions out.
//!
//! A member's life:
//!
//! ```text
//!   reserve          join             page 0               hung_up           all taken
//!   --------> id ----------> receives -------> is read ------------> drained ---------> removed
//!                            (if it asked)                   struck from the broadcast chain
//! ```
//!
//! What is done in a turn stands in `turn`, and how long messages go without a copy in `lending`.

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

/// What the owner of a [`Core`] has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ring this client, it sleeps.
    Ring(ClientId),
    /// Take in what this client's connection holds, then say [`Core::drained`].
    Drain(ClientId),
    /// The client is gone: everything it had committed is taken, or its fault said why not.
    Remove(ClientId, Option<Fault>),
}

/// A client that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Its id.
    pub client: ClientId,
    /// The cursor of its chain in the broker's control region.
    pub cursor: usize,
}

/// The broker's state.
pub struct Core<M> {
    limits: Limits,
    quota: Quota,
    control: Control<M>,
    broadcast: ChainWriter<M>,
    members: Vec<Member<M>>,
    /// The member whose turn comes first.
    first: usize,
    ids: Ids,
    /// The one that was left first comes first: who was expelled may still look at its former one.
    free_cursors: VecDeque<usize>,
    /// The bytes in a page that the message takes which had no room.
    waiting: Option<usize>,
    /// What its sender had used of its share.
    share: Option<Share>,
    actions: Vec<Action>,
    hook: Option<Hooked>,
    zero_copy_threshold: usize,
    /// The position in the broadcast chain behind what was lent last, and the one that all receivers
    /// had passed when it was asked for last.
    lent_until: u64,
    passed: u64,
    /// Whether a message was copied because its page is not lent yet.
    wants_page: bool,
    /// Lent pages, by their names in the broadcast chain, that nothing is lent of any more.
    withdrawn: Vec<u32>,
}

/// Messages of at least so many bytes are lent if nothing else is said, as measured.
pub const ZERO_COPY_THRESHOLD: usize = 4 * 1024;

/// A client. What a turn touches of one who is idle comes first.
#[repr(C)]
struct Member<M> {
    /// Bytes that it may still hold after its connection has ended.
    leaving: Option<usize>,
    inbound: Option<ChainReader<M>>,
    id: ClientId,
    cursor: usize,
    roles: Roles,
    /// Whether it has joined, so that others may know its id.
    is_known: bool,
    doorbell: Option<Doorbell<M>>,
    /// Whether its connection has been looked through since an unknown page was named.
    drain: Drain,
    /// Whether anything was taken from it in this turn; behind that, whether its cursor has moved.
    moved: bool,
    by_ref: ByRef,
}

impl<M: Memory> Member<M> {
    /// Whether there is something to do for it in a turn.
    #[inline(always)]
    fn is_due(&self) -> bool {
        self.leaving.is_some() || self.inbound.as_ref().is_some_and(ChainReader::has_message)
    }

    /// Whether its connection has ended and everything is taken.
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

impl<M: Memory> Core<M> {
    /// A broker whose control region has `cursors` cursors, one for every client it admits, and
    /// whose broadcast chain begins in `first`.
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
            lent_until: 0,
            passed: 0,
            wants_page: false,
            withdrawn: Vec::new(),
        }
    }

    /// Shows every message to `hook`.
    pub fn set_hook(&mut self, hook: Box<dyn Hook>) {
        self.hook = Some(Hooked::new(hook));
        self.set_zero_copy_threshold(self.zero_copy_threshold);
    }

    /// Sets how much is taken from one client at a time.
    pub fn set_quota(&mut self, budget: Quota) {
        // With a budget of nothing, nothing would ever be taken.
        self.quota = Quota { messages: budget.messages.max(1), bytes: budget.bytes.max(1) };
    }

    /// Sets how long the broadcast chain is before a page is written again, see
    /// [`ChainWriter::set_reuse_distance`].
    pub fn set_reuse_distance(&mut self, bytes: usize) {
        self.broadcast.set_reuse_distance(bytes);
    }

    /// There is no memory for more pages, see [`ChainWriter::settle`].
    pub fn stop_growing(&mut self) -> bool {
        self.broadcast.stop_growing()
    }

    /// Whether there is an id for a new client. Those of clients that have joined are never given
    /// again, so that they can come to an end.
    pub fn has_ids(&self) -> bool {
        self.ids.has_some()
    }

    /// All ids but one were given.
    #[cfg(test)]
    pub(crate) fn exhaust_ids(&mut self) {
        self.ids.exhaust();
    }

    /// A place for a new client, if there is one.
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

    /// The client has come in, with its control region. Returns where it begins to receive.
    ///
    /// # Errors
    ///
    /// Its [`Fault`]; the caller removes it by [`hung_up`](Core::hung_up).
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

    /// A page of the client's chain has arrived.
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

    /// The client will not name a page of its chain again.
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

    /// The client could not be rung: it comes up again.
    pub fn not_rung(&mut self, client: ClientId) {
        let ring = Action::Ring(client);
        if !self.actions.contains(&ring) {
            self.actions.push(ring);
        }
    }

    /// Everything that the client's connection held has been taken in.
    pub fn drained(&mut self, client: ClientId) {
        if let Some(member) = self.member_mut(client) {
            member.drain = Drain::Done;
        }
    }

    /// Not everything that the client's connection holds could be taken in at one go.
    pub fn not_drained(&mut self, client: ClientId) {
        if let Some(member) = self.member_mut(client) {
            member.drain = Drain::NotNeeded;
        }
    }

    /// The client's connection has ended, and everything that it held has been taken in. What the
    /// client had committed is still taken (P4); then it is removed.
    pub fn hung_up(&mut self, client: ClientId) {
        self.end_membership(client);
        if let Some(member) = self.member_mut(client) {
            member.doorbell = None;
            // A dead chain holds no more than its pages.
            let held = member.inbound.as_ref().map_or(0, ChainReader::pages_len);
            member.leaving = Some(held);
        }
    }

    /// The client's connection has ended. What it holds is not all taken in yet, so that
    /// [`hung_up`](Core::hung_up) is still to come.
    pub fn is_gone(&mut self, client: ClientId) {
        self.end_membership(client);
    }

    /// The client has said that it reads no further, so that no page need be kept for it.
    pub fn reads_no_further(&mut self, client: ClientId) {
        if let Some(member) = self.member_mut(client) {
            member.roles = member.roles.without(Roles::IN_PLACE);
        }
    }

    /// Nothing waits for the client any more. It may live and read on (P8): a client that copies sees
    /// that its membership has ended, and for one that reads in place all pages that it may be in are
    /// kept as they are.
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

    /// Removes a client at once, for the fault that it has made.
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

    /// Says that the broker is about to sleep and looks again. Returns whether it may block until
    /// it is rung or something happens on a connection.
    /// [`first_bounded_sleep`](Core::first_bounded_sleep) says how long it may block.
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

    /// The broker is awake again.
    pub fn unpark(&self) {
        self.control.unpark();
    }

    fn has_work(&mut self) -> bool {
        if self.has_returns() {
            return true;
        }
        if let Some(slot_len) = self.waiting {
            // To look for room may show a liar.
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

    /// The receiver that holds up the bus, if one does: the client, and the bytes of the broadcast
    /// chain that it has not left yet.
    pub fn holds_up(&self) -> Option<(ClientId, u64)> {
        if self.waiting.is_none()
            && !self.members.iter().any(|member| self.holds_many_refs_of(member))
        {
            return None;
        }
        let (client, bytes) = self.broadcast.slowest()?;
        Some((ClientId(client), bytes))
    }

    /// The clients that wait, as far as the broker can tell, while the bus is held up.
    pub fn waiting_clients(&self) -> impl Iterator<Item = ClientId> + '_ {
        let waits = |member: &&Member<M>| {
            self.waiting.is_some() && member.is_due() || self.holds_many_refs_of(member)
        };
        self.members.iter().filter(waits).map(|member| member.id)
    }

    /// Whether receivers hold half of a client's budget or more by messages that were lent.
    fn holds_many_refs_of(&self, member: &Member<M>) -> bool {
        let held = member.by_ref.held_from().zip(member.inbound.as_ref());
        held.is_some_and(|(from, inbound)| {
            inbound.position() - from >= self.limits.budget() as u64 / 2
        })
    }

    /// Whether the last [`turn`](Core::turn) left something for want of room.
    pub fn is_blocked(&self) -> bool {
        self.waiting.is_some()
    }

    /// Gives the broadcast chain the page that a [`Turn`] was blocked for.
    pub fn add_page(&mut self, page: M) {
        self.broadcast.add_page(page);
    }

    /// What a client must be told about the broadcast chain's pages next, see [`ChainWriter::notice`].
    pub fn announcement(&self, client: ClientId) -> Option<Announcement> {
        self.broadcast.announcement(client.0)
    }

    /// The client has been told.
    pub fn mark_sent(&mut self, client: ClientId) {
        self.broadcast.mark_sent(client.0);
    }

    /// Clients that have not been told everything.
    pub fn has_unsent(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.broadcast.has_unsent().map(ClientId)
    }

    /// What is to be done. Empty afterwards.
    pub fn take_actions(&mut self) -> Vec<Action> {
        self.ids.all_removed();
        core::mem::take(&mut self.actions)
    }

    /// How many clients receive.
    pub fn receivers(&self) -> usize {
        let receives =
            |member: &&Member<M>| member.roles.has(Roles::RECEIVE) && member.doorbell.is_some();
        self.members.iter().filter(receives).count()
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.members.len()
    }

    /// A page of the broadcast chain, or one that is lent there.
    pub fn page(&self, id: u32) -> Option<&M> {
        self.broadcast.page(id)
    }

    /// The broker's control region.
    pub fn control(&self) -> &M {
        self.control.memory()
    }

    /// The limits of the bus.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the broadcast chain has done.
    pub fn stats(&self) -> Stats {
        self.broadcast.stats()
    }

    fn member_mut(&mut self, client: ClientId) -> Option<&mut Member<M>> {
        self.members.iter_mut().find(|member| member.id == client)
    }
}

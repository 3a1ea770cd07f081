//! The members: the one table of all clients that have an id.
//!
//! The table is sorted by id. Ids grow, so a new member usually becomes the last one, and a binary
//! search finds any. A member's life:
//!
//! ```text
//!   reserve           join             page 0                hung_up           all consumed
//!   --------> Reserved ----> Joined ----------> is read ------------> Leaving ---------> removed
//!                            (receives if it asked)      removed from the broadcast chain
//! ```
//!
//! A receiver that is [skipped](Core::skip) stays joined.

use super::by_ref::ByRef;
use super::{Action, Core, Reserved};
use crate::core::chain::{ChainReader, FIRST_PAGE, Start};
use crate::core::control::{Control, Doorbell};
use crate::core::fault::Fault;
use crate::core::memory::Memory;
use crate::core::message::ClientId;
use crate::core::wire::Roles;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// All members, their ids and their cursors.
pub(super) struct Members<M> {
    /// Sorted by id. Only [`add`](Members::add) and [`remove`](Members::remove) change their number.
    pub all: Vec<Member<M>>,
    /// Index of the member that is read first in the next cycle. At most the number of members.
    pub begin: usize,
    /// The next id that was never assigned.
    next_id: u32,
    /// Ids of removed members that had not joined. They are reused, because only these clients knew
    /// them, but not before the owner of the core has taken the actions that remove the clients.
    returned_ids: Vec<u32>,
    /// Returned ids that are free. At most one for each cursor.
    free_ids: Vec<u32>,
    /// Free cursor indices, first in first out. A cursor is reused as late as possible, because a
    /// disconnected client may still read its old entry.
    free_cursors: VecDeque<usize>,
}

/// A client. The fields that a cycle touches for an idle one come first.
#[repr(C)]
pub(super) struct Member<M> {
    pub life: Life<M>,
    /// Its chain, once the first page has arrived.
    pub inbound: Option<ChainReader<M>>,
    pub id: ClientId,
    pub cursor: usize,
    pub roles: Roles,
    pub reception: Reception,
    pub drain: Drain,
    /// Whether this cycle has consumed anything from it. After the release: whether its cursor was
    /// stored.
    pub moved: bool,
    pub by_ref: ByRef,
    /// Whether it was a client of the last broker, too.
    pub returns: bool,
}

/// How far a member has come.
pub(super) enum Life<M> {
    /// Only the client itself knows its id.
    Reserved,
    /// It is rung when there is something for it.
    Joined(Doorbell<M>),
    /// Its connection has ended. Its chain may still hold this many bytes.
    Leaving(usize),
}

/// Whether the broadcast chain waits for a member.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reception {
    /// It does not receive: it has not joined, has another role, or is removed.
    None,
    Receives,
    /// It was too slow, and has not asked to receive again.
    Skipped,
}

/// The answer to a client that asks to receive again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejoined {
    /// It receives again, from here on.
    At(Start),
    /// Its connection has ended meanwhile.
    Gone,
    /// It was not skipped, or has asked before.
    NotSkipped,
}

/// Whether a member's socket was drained since its chain named an unknown page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    NotNeeded,
    Asked,
    Done,
}

impl<M> Life<M> {
    /// Subtracts `len` bytes from what a client that has left may still hold. Returns whether it
    /// had them.
    #[inline(always)]
    pub fn spend(&mut self, len: usize) -> bool {
        let Life::Leaving(held) = self else { return true };
        let less = held.checked_sub(len);
        *held = less.unwrap_or(0);
        less.is_some()
    }
}

impl<M: Memory> Member<M> {
    pub fn has_message(&self) -> bool {
        self.inbound.as_ref().is_some_and(ChainReader::has_message)
    }

    #[inline(always)]
    pub fn is_leaving(&self) -> bool {
        matches!(self.life, Life::Leaving(_))
    }

    /// Returns whether a cycle has anything to do for it.
    #[inline(always)]
    pub fn is_due(&self) -> bool {
        self.is_leaving() || self.has_message()
    }

    pub fn receives(&self) -> bool {
        self.roles.has(Roles::RECEIVE) && matches!(self.life, Life::Joined(_))
    }

    pub fn doorbell(&mut self) -> Option<&mut Doorbell<M>> {
        let Life::Joined(doorbell) = &mut self.life else { return None };
        Some(doorbell)
    }
}

impl<M> Members<M> {
    /// Returns a table without members, whose control region has this many cursors.
    pub fn new(cursors: usize) -> Self {
        Members {
            all: Vec::new(),
            begin: 0,
            next_id: 1,
            returned_ids: Vec::new(),
            free_ids: Vec::new(),
            free_cursors: (0..cursors).collect(),
        }
    }

    fn has_ids(&self) -> bool {
        !self.free_ids.is_empty() || self.next_id < u32::MAX
    }

    /// Frees the returned ids: the owner of the core now removes all clients that are gone.
    pub fn free_returned_ids(&mut self) {
        self.free_ids.append(&mut self.returned_ids);
    }

    fn index(&self, client: ClientId) -> Result<usize, usize> {
        self.all.binary_search_by_key(&client, |member| member.id)
    }

    pub fn get_mut(&mut self, client: ClientId) -> Option<&mut Member<M>> {
        let i = self.index(client).ok()?;
        self.all.get_mut(i)
    }

    /// Adds a member, if an id and a cursor are free.
    fn add(&mut self, roles: Roles) -> Option<Reserved> {
        if !self.has_ids() || self.free_cursors.is_empty() {
            return None;
        }
        let client = ClientId(self.free_ids.pop().unwrap_or(self.next_id));
        self.add_as(client, roles, false)
    }

    /// Adds a member with this id, if no other has it and a cursor is free.
    fn add_as(&mut self, client: ClientId, roles: Roles, returns: bool) -> Option<Reserved> {
        let i = self.index(client).err().filter(|_| client.0 < u32::MAX)?;
        let cursor = self.free_cursors.pop_front()?;
        self.next_id = self.next_id.max(client.0 + 1);
        let member = Member {
            life: Life::Reserved,
            inbound: None,
            id: client,
            cursor,
            roles,
            reception: Reception::None,
            drain: Drain::NotNeeded,
            moved: false,
            by_ref: ByRef::default(),
            returns,
        };
        self.all.insert(i, member);
        self.begin += usize::from(i < self.begin);
        Some(Reserved { client, cursor })
    }

    /// Removes a member. Its cursor is free again, and its id if it had not joined.
    fn remove(&mut self, client: ClientId) -> Option<Member<M>> {
        let i = self.index(client).ok()?;
        let member = self.all.remove(i);
        self.begin -= usize::from(i < self.begin);
        self.free_cursors.push_back(member.cursor);
        if let Life::Reserved = member.life
            // A client that outlives its broker may return by this id.
            && !member.roles.has(Roles::OUTLIVE)
        {
            self.returned_ids.push(client.0);
        }
        Some(member)
    }
}

impl<M: Memory> Core<M> {
    /// Returns how many more clients there is room for.
    pub fn free_places(&self) -> usize {
        self.members.free_cursors.len()
    }

    /// Returns whether there is an id for a new client. The id of a client that has joined is never
    /// reused, so ids can run out.
    pub fn has_ids(&self) -> bool {
        self.members.has_ids()
    }

    /// Uses up all ids but one.
    #[cfg(test)]
    pub(crate) fn exhaust_ids(&mut self) {
        self.members.next_id = u32::MAX - 1;
    }

    /// Reserves an id and a cursor for a new client, if both are available.
    pub fn reserve(&mut self, roles: Roles) -> Option<Reserved> {
        let reserved = self.members.add(roles)?;
        self.control.give_place(reserved.cursor, reserved.client.0);
        Some(reserved)
    }

    /// Reserves a cursor for a client of the last broker, which keeps its id. Returns `None` if a
    /// client has that id or no cursor is free.
    pub fn reserve_again(&mut self, client: ClientId, roles: Roles) -> Option<Reserved> {
        // The owner still has the connection that it used before.
        let is_leaving = |action: &Action| matches!(action, Action::Remove(of, _) if *of == client);
        if self.actions.iter().any(is_leaving) {
            return None;
        }
        let reserved = self.members.add_as(client, roles, true)?;
        self.control.give_place(reserved.cursor, reserved.client.0);
        Some(reserved)
    }

    /// Sets the first id for new clients. Lower ones may belong to clients of the last broker.
    pub fn set_first_id(&mut self, id: u32) {
        self.members.next_id = self.members.next_id.max(id);
    }

    /// Completes the join of a client, with its control region. Returns where it begins to receive.
    ///
    /// # Errors
    ///
    /// Its [`Fault`]. The caller then removes it by [`hung_up`](Core::hung_up).
    pub fn join(&mut self, client: ClientId, control: M) -> Result<Start, Fault> {
        let peer = Control::check(control, 0)?;
        let member = self.members.get_mut(client).ok_or(Fault::Expelled)?;
        member.life = Life::Joined(Doorbell::new(peer.clone()));
        if member.roles.has(Roles::RECEIVE) {
            member.reception = Reception::Receives;
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
        let Some(member) = self.members.get_mut(client) else { return Ok(()) };
        if let Some(inbound) = &mut member.inbound {
            return inbound.add_page(id, page);
        }
        if id != FIRST_PAGE {
            return Err(Fault::UnknownPage { page: FIRST_PAGE, at: 0, next: id });
        }
        let reader = match member.returns {
            // It goes on with the numbers of its last chain.
            true => ChainReader::continuing(limits, client.0, page, control, member.cursor)?,
            false => ChainReader::from_beginning(limits, client.0, page, control, member.cursor)?,
        };
        member.inbound = Some(reader);
        Ok(())
    }

    /// Drops a page of the client's chain that it will not name again.
    ///
    /// # Errors
    ///
    /// Its [`Fault`].
    pub fn page_forgotten(&mut self, client: ClientId, id: u32) -> Result<(), Fault> {
        self.withdraw_page(client, id);
        match self.members.get_mut(client).and_then(|member| member.inbound.as_mut()) {
            Some(inbound) => inbound.forget_page(id),
            None => Err(Fault::UnknownPage { page: 0, at: 0, next: id }),
        }
    }

    /// Records that the client's socket was drained.
    pub fn drained(&mut self, client: ClientId) {
        if let Some(member) = self.members.get_mut(client) {
            member.drain = Drain::Done;
        }
    }

    /// Records that the client's socket could not be drained at once.
    pub fn not_drained(&mut self, client: ClientId) {
        if let Some(member) = self.members.get_mut(client) {
            member.drain = Drain::NotNeeded;
        }
    }

    /// Records that the client's connection has ended and its socket is drained. The broker still
    /// forwards what the client has committed (P4), then removes it. A client that has not joined
    /// has committed nothing.
    pub fn hung_up(&mut self, client: ClientId) {
        self.end_membership(client);
        let Some(member) = self.members.get_mut(client) else { return };
        // One that comes back and has sent no page has nothing to forward. It may come again.
        let has_sent_nothing = member.returns && member.inbound.is_none();
        if has_sent_nothing || matches!(member.life, Life::Reserved) {
            return self.disconnect(client, None);
        }
        // A dead chain holds at most the bytes of its pages.
        let held = member.inbound.as_ref().map_or(0, ChainReader::pages_len);
        member.life = Life::Leaving(held);
    }

    /// Records that the client has stopped reading in place, so that no page is kept for it.
    pub fn reads_no_further(&mut self, client: ClientId) {
        if let Some(member) = self.members.get_mut(client) {
            member.roles = member.roles.without(Roles::IN_PLACE);
        }
    }

    /// Ends a client's membership: the broker stops waiting for it. The client may be alive and
    /// read on (P8). A client that copies detects that its membership has ended. For a client that
    /// reads in place, all pages that it may read are retired.
    ///
    /// For a client whose connection has ended while its socket is not drained yet,
    /// [`hung_up`](Core::hung_up) must follow.
    pub fn end_membership(&mut self, client: ClientId) {
        let Some(member) = self.members.get_mut(client) else { return };
        self.control.end_membership(member.cursor);
        member.reception = Reception::None;
        let reads_in_place = member.roles.has(Roles::IN_PLACE);
        self.stop_waiting(client, reads_in_place);
    }

    /// Skips a receiver that is too slow: the broker stops waiting for it. The client stays a
    /// member, and the broker reads its chain. The owner sends it [`Packet::Skipped`]. When the
    /// client has asked to receive again, call [`rejoin`](Core::rejoin). Returns whether the client
    /// was a receiver.
    ///
    /// [`Packet::Skipped`]: crate::core::wire::Packet::Skipped
    pub fn skip(&mut self, client: ClientId) -> bool {
        let member = self.members.get_mut(client);
        let Some(member) = member.filter(|m| m.reception == Reception::Receives) else {
            return false;
        };
        self.control.skip(member.cursor, client.0);
        member.reception = Reception::Skipped;
        let reads_in_place = member.roles.has(Roles::IN_PLACE);
        self.stop_waiting(client, reads_in_place);
        true
    }

    /// Returns whether the broadcast chain waits for this client.
    pub fn is_receiver(&self, client: ClientId) -> bool {
        let member = self.members.index(client).ok().and_then(|i| self.members.all.get(i));
        member.is_some_and(|member| member.reception == Reception::Receives)
    }

    /// Admits a skipped receiver again, which reads no further in its old pages.
    pub fn rejoin(&mut self, client: ClientId) -> Rejoined {
        let Some(member) = self.members.get_mut(client) else { return Rejoined::Gone };
        let receives = member.roles.has(Roles::RECEIVE);
        let peer = match (member.reception, member.doorbell()) {
            (Reception::Skipped, Some(doorbell)) => doorbell.control().clone(),
            (Reception::None | Reception::Skipped, _) if receives => return Rejoined::Gone,
            _ => return Rejoined::NotSkipped,
        };
        member.reception = Reception::Receives;
        self.control.count_again(member.cursor, client.0);
        Rejoined::At(self.broadcast.admit(client.0, peer, 0))
    }

    /// Removes a receiver from the broadcast chain. If it reads in place, all pages that it may read
    /// are retired.
    fn stop_waiting(&mut self, client: ClientId, reads_in_place: bool) {
        let Some(left) = self.broadcast.remove_receiver(client.0).filter(|_| reads_in_place) else {
            return;
        };
        self.broadcast.retire();
        for member in &self.members.all {
            if let Some(inbound) =
                member.inbound.as_ref().filter(|_| member.by_ref.holds_behind(left))
            {
                self.control.retire(member.cursor, inbound.position());
            }
        }
    }

    /// Removes a client at once, with the fault that it has caused.
    pub fn disconnect(&mut self, client: ClientId, fault: Option<Fault>) {
        self.end_membership(client);
        if let Some(member) = self.members.remove(client) {
            self.withdraw(&member);
            self.actions.push(Action::Remove(client, fault));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::layout::control_len;
    use crate::core::limits::Limits;
    use crate::core::memory::Region;

    #[test]
    fn a_reused_id_is_found_among_later_ones() {
        let limits = Limits::new(256, 64, 4096).unwrap();
        let mut core = Core::new(limits, Region::heap(control_len(3)), 3, Region::heap(256));
        let reserve = |core: &mut Core<Region>| core.reserve(Roles::SEND).unwrap().client;
        let clients = [(); 3].map(|()| reserve(&mut core));
        core.members.begin = 2;
        core.hung_up(clients[0]);
        assert!(core.members.get_mut(clients[0]).is_none(), "it had not joined");
        assert_eq!(core.take_actions(), [Action::Remove(clients[0], None)]);
        assert_eq!(reserve(&mut core), clients[0]);
        assert_eq!(core.members.begin, 2, "the same member is next");
        for client in clients {
            assert_eq!(core.members.get_mut(client).unwrap().id, client);
        }
    }
}

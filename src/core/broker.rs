//! The broker without sockets: events in, actions out.
//!
//! `Core` is the single writer of the broadcast chain and of the broker's control region. It is the
//! only reader of each client's chain. `members` describes a client's life, `cycle` the work of one
//! cycle, and `by_ref` how long messages are forwarded without a copy.

mod by_ref;
mod cycle;
mod forward;
pub mod hook;
mod members;
pub mod policy;
#[cfg(test)]
mod tests;

use self::cycle::Share;
pub use self::cycle::{Cycle, Quota};
use self::forward::Hooked;
pub use self::members::Rejoined;
use self::members::{Drain, Member, Members};
use crate::core::broker::hook::Hook;
use crate::core::chain::{Announcement, Blocked, ChainWriter, FIRST_PAGE, Stats};
use crate::core::control::Control;
use crate::core::fault::Fault;
use crate::core::limits::Limits;
use crate::core::memory::Memory;
use crate::core::message::ClientId;
use alloc::boxed::Box;
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

/// Why the bus waits for receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slow {
    /// The broadcast chain is full, and they have not left its oldest page.
    Full,
    /// They were not sent a page that is to be named.
    Unread,
    /// They have not passed messages by reference that fill a client's chain.
    References,
}

/// The receivers for which the bus waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Laggards {
    /// The common reason.
    pub reason: Slow,
    /// All of them.
    pub clients: Vec<ClientId>,
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
    members: Members<M>,
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
    /// The newest page of the broadcast chain that is no foreign one.
    newest_own_page: u32,
    /// Whether a message was copied because no message can refer to its page yet.
    wants_page: bool,
    /// Foreign pages that are to be dropped once released, by their ids in the broadcast chain.
    withdrawn: Vec<u32>,
}

/// Default length in bytes from which messages are forwarded by reference, as measured.
pub const ZERO_COPY_THRESHOLD: usize = 4 * 1024;

impl<M> core::fmt::Debug for Core<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Core")
            .field("limits", &self.limits)
            .field("quota", &self.quota)
            .field("members", &self.members.all.len())
            .field("hook", &self.hook.is_some())
            .field("zero_copy_threshold", &self.zero_copy_threshold)
            .finish_non_exhaustive()
    }
}

impl<M: Memory> Core<M> {
    /// Returns a broker with `cursors` cursors in its control region, one for every client that it
    /// admits. The broadcast chain begins in `first`.
    pub fn new(limits: Limits, control: M, cursors: usize, first: M) -> Self {
        let control = Control::create(control, cursors);
        control.set_newest_page(FIRST_PAGE);
        Core {
            limits,
            quota: Quota::default(),
            control,
            broadcast: ChainWriter::new(0, limits, first),
            members: Members::new(cursors),
            waiting: None,
            share: None,
            actions: Vec::new(),
            hook: None,
            zero_copy_threshold: ZERO_COPY_THRESHOLD,
            referenced_until: 0,
            passed: 0,
            newest_own_page: FIRST_PAGE,
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

    /// Records that the client could not be rung. The next actions ring it again.
    pub fn not_rung(&mut self, client: ClientId) {
        let ring = Action::Ring(client);
        if !self.actions.contains(&ring) {
            self.actions.push(ring);
        }
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
        // Checking for room may reveal an invalid cursor.
        if self.has_returns()
            || self.waiting.is_some_and(|slot_len| self.broadcast.has_room(slot_len))
            || self.broadcast.has_fault()
        {
            return true;
        }
        let is_drained = |member: &Member<M>| member.drain != Drain::Asked;
        let is_due = |m: &Member<M>| m.is_leaving() || m.has_message() && is_drained(m);
        !self.is_blocked() && self.members.all.iter().any(is_due)
    }

    /// Returns the receiver that blocks the bus, if any, and the bytes of the broadcast chain that
    /// it has not left yet.
    pub fn holds_up(&self) -> Option<(ClientId, u64)> {
        if self.waiting.is_none()
            && !self.members.all.iter().any(|member| self.holds_many_refs_of(member))
        {
            return None;
        }
        let (client, bytes) = self.broadcast.slowest()?;
        Some((ClientId(client), bytes))
    }

    /// Returns the receivers that keep messages from being forwarded, and why. `cycle` is the result
    /// of the last cycle. If `always` holds, also looks for messages by reference that fill a
    /// client's chain while other messages pass.
    pub fn laggards(&self, cycle: &Cycle, always: bool) -> Option<Laggards> {
        // A receiver with an invalid cursor was removed, and may have been the only one.
        if self.actions.iter().any(|action| matches!(action, Action::Remove(..))) {
            return None;
        }
        let behind = |until| self.broadcast.behind(until).map(ClientId).collect();
        match cycle.blocked {
            Some(Blocked::Announce) => {
                return Some(Laggards {
                    reason: Slow::Unread,
                    clients: self.has_unsent().collect(),
                });
            }
            Some(Blocked::Full) => {
                let clients = behind(self.broadcast.oldest_end()?);
                return Some(Laggards { reason: Slow::Full, clients });
            }
            Some(Blocked::NeedPage(_)) | None => {}
        }
        if !(always || cycle.consumed == 0) || !self.has_refs() {
            return None;
        }
        let waits = self.members.all.iter().filter(|member| self.holds_many_refs_of(member));
        let until = waits.filter_map(|member| member.by_ref.held_until()).max()?;
        Some(Laggards { reason: Slow::References, clients: behind(until) })
    }

    /// Returns the position after the last message in the broadcast chain.
    pub fn position(&self) -> u64 {
        self.broadcast.position()
    }

    /// Returns the position that the slowest receiver has left.
    pub fn slowest_position(&self) -> Option<u64> {
        self.broadcast.slowest_position()
    }

    /// Returns the clients that wait while the bus is blocked, as far as the broker can tell.
    pub fn waiting_clients(&self) -> impl Iterator<Item = ClientId> + '_ {
        let waits = |member: &&Member<M>| {
            self.waiting.is_some() && member.is_due() || self.holds_many_refs_of(member)
        };
        self.members.all.iter().filter(waits).map(|member| member.id)
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
        let id = self.broadcast.next_page_id();
        self.broadcast.add_page(page);
        self.newest_own_page = id;
        self.control.set_newest_page(id);
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
        self.members.free_returned_ids();
        core::mem::take(&mut self.actions)
    }

    /// Returns the number of clients that receive.
    pub fn receivers(&self) -> usize {
        self.members.all.iter().filter(|member| member.receives()).count()
    }

    /// Returns the number of clients.
    pub fn clients(&self) -> usize {
        self.members.all.len()
    }

    /// Returns a page of the broadcast chain or a foreign page.
    pub fn page(&self, id: u32) -> Option<&M> {
        self.broadcast.page(id)
    }

    /// Returns whether a page belongs to a client.
    pub fn is_foreign(&self, id: u32) -> bool {
        self.broadcast.is_foreign(id)
    }

    /// Returns the ids of the broadcast chain's own pages, in ascending order.
    pub fn own_pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.broadcast.own_pages().into_iter()
    }

    /// Returns the id of the newest of them.
    pub fn newest_own_page(&self) -> u32 {
        self.newest_own_page
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
}

//! The broker without sockets: events in, actions out.
//!
//! A link's life:
//!
//! ```text
//!   reserve          join             page 0               hung_up           all taken
//!   --------> id ----------> receives -------> is read ------------> drained ---------> removed
//!                            (if it asked)                   struck from the broadcast chain
//! ```
//!
//! The broker is the receiver of every client's chain and the sender of the broadcast chain. In a
//! turn it takes from each client up to its budget, appends to one run, publishes the run by one
//! store, then gives up what it took, and then rings who sleeps. In that order: what was given up
//! has been sent on (P3). All clients read the one broadcast chain, so all see one order (P2).

use super::forward::{Hooked, forward};
use crate::chain::{Blocked, Event, Notice, Receiver, Refused, Sender, Start, Stats};
use crate::control::{Control, Doorbell};
use crate::fault::Fault;
use crate::hook::Hook;
use crate::layout::SLOT_HEADER;
use crate::limits::Limits;
use crate::memory::Memory;
use crate::message::ClientId;
use crate::wire::Roles;

/// How much is taken from one client before it is the next one's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnBudget {
    /// Messages and page turns.
    pub messages: usize,
    /// Payload bytes; the message that exceeds them is still taken.
    pub bytes: usize,
}

impl Default for TurnBudget {
    fn default() -> Self {
        TurnBudget { messages: 256, bytes: 256 * 1024 }
    }
}

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

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Messages and page turns taken.
    pub taken: usize,
    /// Why not all of it was taken.
    pub blocked: Option<Blocked>,
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
    turn_budget: TurnBudget,
    control: Control<M>,
    broadcast: Sender<M>,
    links: Vec<Link<M>>,
    /// The link whose turn comes first.
    first: usize,
    next_client: u32,
    free_cursors: Vec<usize>,
    /// The bytes in a page that the message takes which had no room.
    waiting: Option<usize>,
    actions: Vec<Action>,
    hook: Option<Hooked>,
}

struct Link<M> {
    id: ClientId,
    cursor: usize,
    roles: Roles,
    doorbell: Option<Doorbell<M>>,
    inbound: Option<Receiver<M>>,
    /// Whether its connection has been looked through since an unknown page was named.
    drain: Drain,
    /// Whether its cursor moved in this turn.
    gave_up: bool,
    /// Bytes that it may still hold after its connection has ended.
    leaving: Option<usize>,
}

impl<M: Memory> Link<M> {
    /// Whether its connection has ended and everything is taken.
    fn is_finished(&self) -> bool {
        let holds = self.inbound.as_ref().is_some_and(Receiver::has_something);
        self.leaving.is_some() && !holds
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    NotNeeded,
    Asked,
    Done,
}

/// Why a link's turn ended.
enum Outcome {
    /// Nothing left, or its share is used up.
    Next,
    Blocked(Blocked),
    Gone(Option<Fault>),
}

impl<M: Memory> Core<M> {
    /// A broker whose control region has `cursors` cursors, one for every client it admits, and
    /// whose broadcast chain begins in `first`.
    pub fn new(limits: Limits, control: M, cursors: usize, first: M) -> Self {
        Core {
            limits,
            turn_budget: TurnBudget::default(),
            control: Control::create(control, cursors),
            broadcast: Sender::new(0, limits, first),
            links: Vec::new(),
            first: 0,
            next_client: 1,
            free_cursors: (0..cursors).rev().collect(),
            waiting: None,
            actions: Vec::new(),
            hook: None,
        }
    }

    /// Shows every message to `hook`.
    pub fn set_hook(&mut self, hook: Box<dyn Hook>) {
        self.hook = Some(Hooked::new(hook));
    }

    /// Sets how much is taken from one client at a time.
    pub fn set_turn_budget(&mut self, budget: TurnBudget) {
        self.turn_budget = budget;
    }

    /// A place for a new client, if there is one.
    pub fn reserve(&mut self, roles: Roles) -> Option<Reserved> {
        // Ids are never used again, so that they can come to an end.
        let next_client = self.next_client.checked_add(1)?;
        let cursor = self.free_cursors.pop()?;
        // A former client in this place may have left something.
        self.control.reset_cursor(cursor);
        let client = ClientId(self.next_client);
        self.next_client = next_client;
        self.links.push(Link {
            id: client,
            cursor,
            roles,
            doorbell: None,
            inbound: None,
            drain: Drain::NotNeeded,
            gave_up: false,
            leaving: None,
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
        let Some(link) = self.links.iter_mut().find(|link| link.id == client) else {
            return Err(Fault::Expelled);
        };
        link.doorbell = Some(Doorbell::new(peer.clone()));
        if link.roles.has(Roles::RECEIVE) {
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
        let Some(link) = self.link_mut(client) else { return Ok(()) };
        if let Some(inbound) = &mut link.inbound {
            return inbound.add_page(id, page);
        }
        if id != crate::chain::FIRST_PAGE {
            return Err(Fault::UnknownPage { page: crate::chain::FIRST_PAGE, at: 0, next: id });
        }
        link.inbound =
            Some(Receiver::from_beginning(limits, client.0, page, control, link.cursor)?);
        Ok(())
    }

    /// The client will not name a page of its chain again.
    ///
    /// # Errors
    ///
    /// Its [`Fault`].
    pub fn page_forgotten(&mut self, client: ClientId, id: u32) -> Result<(), Fault> {
        match self.link_mut(client).and_then(|link| link.inbound.as_mut()) {
            Some(inbound) => inbound.forget_page(id),
            None => Err(Fault::UnknownPage { page: 0, at: 0, next: id }),
        }
    }

    /// Everything that the client's connection held has been taken in.
    pub fn drained(&mut self, client: ClientId) {
        if let Some(link) = self.link_mut(client) {
            link.drain = Drain::Done;
        }
    }

    /// Not everything that the client's connection holds could be taken in at one go.
    pub fn not_drained(&mut self, client: ClientId) {
        if let Some(link) = self.link_mut(client) {
            link.drain = Drain::NotNeeded;
        }
    }

    /// The client's connection has ended, and everything that it held has been taken in. What the
    /// client had committed is still taken (P4); then it is removed.
    pub fn hung_up(&mut self, client: ClientId) {
        self.broadcast.strike(client.0);
        if let Some(link) = self.link_mut(client) {
            link.doorbell = None;
            // A dead chain holds no more than its pages.
            let held = link.inbound.as_ref().map_or(0, Receiver::pages_len);
            link.leaving = Some(held);
        }
    }

    /// Removes a client at once, for the fault that it has made.
    pub fn expel(&mut self, client: ClientId, fault: Option<Fault>) {
        let Some(i) = self.links.iter().position(|link| link.id == client) else { return };
        let link = self.links.remove(i);
        if i < self.first {
            self.first -= 1;
        }
        self.broadcast.strike(client.0);
        self.free_cursors.push(link.cursor);
        self.actions.push(Action::Remove(client, fault));
    }

    /// Takes from every client in turn, sends on, gives up, and says who must be rung.
    pub fn turn(&mut self) -> Turn {
        let mut turn = Turn::default();
        let mut gone = Vec::new();
        self.waiting = None;
        let links = self.links.len();
        if self.first >= links {
            self.first = 0;
        }
        let begin = self.first;
        for k in 0..links {
            let i = (begin + k) % links;
            if turn.blocked.is_some() {
                // There is no room for anybody; but who has left and holds nothing can go.
                if self.links[i].is_finished() {
                    gone.push((self.links[i].id, None));
                }
                continue;
            }
            match self.take_from(i, &mut turn.taken) {
                Outcome::Next => {}
                Outcome::Gone(fault) => gone.push((self.links[i].id, fault)),
                Outcome::Blocked(blocked) => {
                    turn.blocked = Some(blocked);
                    // Who was refused comes first when there is room again.
                    self.first = i;
                }
            }
        }
        if turn.blocked.is_none() && links > 0 {
            self.first = (begin + 1) % links;
        }
        self.publish_and_ring();
        while let Some((id, fault)) = self.broadcast.take_liar() {
            gone.push((ClientId(id), Some(fault)));
        }
        for (client, fault) in gone {
            self.expel(client, fault);
        }
        turn
    }

    /// Takes one client's share.
    fn take_from(&mut self, i: usize, taken: &mut usize) -> Outcome {
        let link = &mut self.links[i];
        let leaving = link.leaving.is_some();
        let Some(inbound) = &mut link.inbound else {
            return if leaving { Outcome::Gone(None) } else { Outcome::Next };
        };
        let mut bytes = 0;
        let mut messages = 0;
        while messages < self.turn_budget.messages && bytes < self.turn_budget.bytes {
            match inbound.poll() {
                Err(fault) => return Outcome::Gone(Some(fault)),
                Ok(Event::Empty) if leaving => return Outcome::Gone(None),
                Ok(Event::Empty) => break,
                Ok(Event::Turned) => {
                    link.drain = Drain::NotNeeded;
                    if !spend(&mut link.leaving, SLOT_HEADER) {
                        return Outcome::Gone(Some(Fault::Endless));
                    }
                }
                Ok(Event::Unknown(next)) if leaving || link.drain == Drain::Done => {
                    return Outcome::Gone(Some(inbound.unknown_page(next)));
                }
                Ok(Event::Unknown(_)) => {
                    if link.drain == Drain::NotNeeded {
                        link.drain = Drain::Asked;
                        self.actions.push(Action::Drain(link.id));
                    }
                    break;
                }
                Ok(Event::Message(slot)) => {
                    let forwarded =
                        forward(&mut self.broadcast, self.hook.as_mut(), link.id, inbound, &slot);
                    match forwarded {
                        Ok(()) => {}
                        Err(Refused::Blocked(blocked)) => {
                            let len = self.hook.as_ref().and_then(Hooked::pending_len);
                            let len = len.unwrap_or(slot.payload_len());
                            let envelope = inbound.envelope(&slot);
                            self.waiting = Some(Sender::<M>::room_for(&envelope, len));
                            return Outcome::Blocked(blocked);
                        }
                        // Checked against the same limit when it was received.
                        Err(Refused::TooLong { .. }) => {}
                    }
                    inbound.advance(&slot);
                    bytes += slot.payload_len();
                    if !spend(&mut link.leaving, slot.end - slot.at) {
                        return Outcome::Gone(Some(Fault::Endless));
                    }
                }
            }
            messages += 1;
            *taken += 1;
        }
        Outcome::Next
    }

    fn publish_and_ring(&mut self) {
        let published = self.broadcast.publish();
        let mut moved = published;
        for link in &mut self.links {
            link.gave_up = link.inbound.as_mut().is_some_and(Receiver::give_up);
            moved |= link.gave_up;
        }
        if !moved {
            return;
        }
        // One fence for everything that was stored above and everybody who may wait for it.
        self.control.ring_fence();
        for link in &mut self.links {
            let concerned = link.gave_up || published && link.roles.has(Roles::RECEIVE);
            if concerned && link.doorbell.as_mut().is_some_and(Doorbell::must_ring) {
                self.actions.push(Action::Ring(link.id));
            }
        }
    }

    /// Says that the broker is about to sleep and looks again. Returns whether it may block until
    /// it is rung or something happens on a connection.
    pub fn park(&mut self) -> bool {
        self.control.park();
        let may_sleep = self.actions.is_empty() && !self.has_work();
        if !may_sleep {
            self.control.unpark();
        }
        may_sleep
    }

    /// The broker is awake again.
    pub fn unpark(&self) {
        self.control.unpark();
    }

    fn has_work(&mut self) -> bool {
        if let Some(slot_len) = self.waiting {
            return self.broadcast.has_room(slot_len);
        }
        self.links.iter().any(|link| {
            let drained = link.drain != Drain::Asked;
            let something = link.inbound.as_ref().is_some_and(Receiver::has_something);
            link.leaving.is_some() || something && drained
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

    /// What a client must be told about the broadcast chain's pages next, see [`Sender::notice`].
    pub fn notice(&self, client: ClientId) -> Option<Notice> {
        self.broadcast.notice(client.0)
    }

    /// The client has been told.
    pub fn told(&mut self, client: ClientId) {
        self.broadcast.told(client.0);
    }

    /// Clients that have not been told everything.
    pub fn untold(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.broadcast.untold().map(ClientId)
    }

    /// What is to be done. Empty afterwards.
    pub fn take_actions(&mut self) -> Vec<Action> {
        core::mem::take(&mut self.actions)
    }

    /// How many clients receive.
    pub fn receivers(&self) -> usize {
        let receives = |link: &&Link<M>| link.roles.has(Roles::RECEIVE) && link.doorbell.is_some();
        self.links.iter().filter(receives).count()
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.links.len()
    }

    /// A page of the broadcast chain.
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

    fn link_mut(&mut self, client: ClientId) -> Option<&mut Link<M>> {
        self.links.iter_mut().find(|link| link.id == client)
    }
}

/// Takes `len` bytes from what a client that has left may still hold. Returns whether it had them.
fn spend(leaving: &mut Option<usize>, len: usize) -> bool {
    let Some(left) = leaving else { return true };
    let less = left.checked_sub(len);
    *left = less.unwrap_or(0);
    less.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::FIRST_PAGE;
    use crate::layout::*;
    use crate::memory::Region;

    fn core() -> Core<Region> {
        let limits = Limits::new(256, 64, 4096).unwrap();
        Core::new(limits, Region::heap(control_len(1)), 1, Region::heap(256))
    }

    fn join(core: &mut Core<Region>, roles: Roles) -> ClientId {
        let Reserved { client, .. } = core.reserve(roles).unwrap();
        let control = Control::create(Region::heap(control_len(1)), 1);
        core.join(client, control.memory().clone()).unwrap();
        client
    }

    /// A page that is nothing but its end.
    fn only_an_end(page: &Region, id: u32, base: u64) {
        let version = halves(VERSION, PAGE_HEADER as u32);
        page.write_words(0, [PAGE_MAGIC, version, 256, halves(id, 1), base, 0]);
        let end = commit_word(0, KIND_EOP, 0, 0);
        page.write_words(PAGE_HEADER, [end, halves(1 - id, 0)]);
    }

    #[test]
    fn a_client_that_is_gone_and_turns_pages_without_end_is_removed() {
        let mut core = core();
        core.set_turn_budget(TurnBudget { messages: 1, bytes: 1 });
        let client = join(&mut core, Roles::SEND);
        let pages = [Region::heap(256), Region::heap(256)];
        only_an_end(&pages[0], FIRST_PAGE, 0);
        only_an_end(&pages[1], 1, 256);
        for (id, page) in pages.iter().enumerate() {
            core.page_arrived(client, id as u32, page.clone()).unwrap();
        }
        core.hung_up(client);
        let mut turns = 0;
        while core.clients() > 0 {
            core.turn();
            turns += 1;
            let next = (turns + 1) % 2;
            only_an_end(&pages[next], next as u32, 256 * (turns as u64 + 1));
        }
        assert_eq!(turns, 512 / SLOT_HEADER + 1);
        assert_eq!(core.take_actions(), [Action::Remove(client, Some(Fault::Endless))]);
    }

    #[test]
    fn who_has_left_is_removed_although_a_slow_receiver_blocks_the_bus() {
        let limits = Limits::new(256, 64, 4096).unwrap();
        let control = Region::heap(control_len(3));
        let mut core = Core::new(limits, control.clone(), 3, Region::heap(256));
        let slow = join(&mut core, Roles::RECEIVE);
        let busy = join(&mut core, Roles::SEND);
        let leaver = join(&mut core, Roles::SEND);
        let first = Region::heap(256);
        let mut sender = Sender::new(busy.0, limits, first.clone());
        core.page_arrived(busy, FIRST_PAGE, first).unwrap();
        sender.admit(0, Control::check(control, 1).unwrap(), 1);
        sender.told(0);
        let mut pages = 1;
        // The slow one takes nothing, until it holds the whole budget.
        while core.turn().blocked != Some(Blocked::Full) {
            while let Err(Refused::Blocked(Blocked::NeedPage(len))) =
                sender.send(Default::default(), &[7; 64])
            {
                let page = Region::heap(len);
                sender.add_page(page.clone());
                sender.told(0);
                core.page_arrived(busy, pages, page).unwrap();
                pages += 1;
            }
            if let Some(Blocked::NeedPage(len)) = core.turn().blocked {
                core.add_page(Region::heap(len));
            }
            while core.notice(slow).is_some() {
                core.told(slow);
            }
        }
        assert_eq!(core.turn().blocked, Some(Blocked::Full));
        core.hung_up(leaver);
        assert_eq!(core.turn().blocked, Some(Blocked::Full));
        assert_eq!(core.take_actions(), [Action::Remove(leaver, None)]);
        assert_eq!(core.clients(), 2);
    }

    #[test]
    fn no_client_gets_an_id_that_was_used_before() {
        let mut core = core();
        core.next_client = u32::MAX;
        assert_eq!(core.reserve(Roles::SEND), None);
    }
}

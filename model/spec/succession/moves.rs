//! Which steps are possible.

use super::state::*;
use super::{Break, Setup};
use crate::state::Id;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Move {
    /// A client commits its next message.
    Send(Id),
    /// A broker admits a client that has no connection any more.
    Admit(Id),
    /// A client has received `Start` from a new broker.
    Restart(Id),
    /// A client's first page arrives.
    Page(Id),
    /// A client asks the broker that has disconnected it.
    AskAgain(Id),
    /// A client that a later broker welcomes finds that the earlier one had disconnected it.
    FindOut(Id),
    /// The next step of the broker. Its hook may drop the message.
    Step {
        drops: bool,
    },
    /// The broker forgets a client that is gone and whose messages are published.
    Free(u8),
    SeeDeath(Id),
    /// The grace period is over: the broker waits no longer.
    Expire,
    Cut(Id),
    Succeed,
    KillClient(Id),
    KillBroker,
}

/// A move without which the run may stay where it is.
pub fn is_free(step: Move) -> bool {
    use Move::*;
    matches!(step, Expire | Cut(_) | KillClient(_) | KillBroker | Step { drops: true })
}

impl Setup {
    pub fn moves(&self, bus: &Bus) -> Vec<Move> {
        let mut moves = Vec::new();
        if !bus.last().lives {
            moves.push(Move::Succeed);
        }
        for id in bus.ids() {
            self.client_moves(bus, id, &mut moves);
        }
        if bus.last().lives {
            self.broker_moves(bus, &mut moves);
        }
        moves
    }

    fn client_moves(&self, bus: &Bus, id: Id, moves: &mut Vec<Move>) {
        let (client, broker) = (bus.client(id), bus.last());
        if let Link::Answered(epoch) = client.link
            && bus.broker(epoch).lives
            && broker.step == Step::Taking(0)
        {
            moves.push(Move::Page(id));
        }
        if !client.lives || client.link == Link::Over {
            return;
        }
        if client.judge > 0 && client.sent < self.messages {
            moves.push(Move::Send(id));
        }
        match client.link {
            Link::Started { .. } => moves.push(Move::Restart(id)),
            Link::Cut(epoch) if bus.broker(epoch).lives => moves.push(Move::AskAgain(id)),
            _ => {}
        }
        // It reads all packets of its last connection first.
        let has_read = !matches!(client.link, Link::Started { .. });
        let is_alone = has_read && client.link.epoch() < bus.epoch();
        if is_alone && broker.lives && broker.step == Step::Taking(0) && has_place(bus, id) {
            let is_out = client.judge > 0
                && bus.broker(client.judge).places[usize::from(client.place)].owner != Some(id);
            moves.push(match is_out && !self.has(Break::OwnerUnread) {
                true => Move::FindOut(id),
                false => Move::Admit(id),
            });
        }
        if bus.client_deaths_left > 0 {
            moves.push(Move::KillClient(id));
        }
        let is_member = client.link == Link::Member(bus.epoch());
        if bus.cuts_left > 0 && broker.lives && is_member && broker.step == Step::Taking(0) {
            moves.push(Move::Cut(id));
        }
    }

    fn broker_moves(&self, bus: &Bus, moves: &mut Vec<Move>) {
        let broker = bus.last();
        if bus.broker_deaths_left > 0 {
            moves.push(Move::KillBroker);
        }
        // A client that only sends misses nothing.
        let has_receivers = broker.waits_for.iter().any(|id| bus.client(id).receives);
        let is_waiting = has_receivers && !self.has(Break::PublishesAtOnce);
        if broker.step == Step::Taking(0) {
            for id in broker.waits_for.iter().filter(|id| !bus.client(*id).lives) {
                moves.push(Move::SeeDeath(id));
            }
            if !broker.waits_for.is_empty() && bus.graces_left > 0 {
                moves.push(Move::Expire);
            }
            let places = 0..broker.places.len() as u8;
            moves.extend(places.clone().filter(|at| is_over(bus, *at)).map(Move::Free));
            if is_waiting || !places.clone().any(|at| bus.waiting(at) > 0) {
                return;
            }
        }
        moves.push(Move::Step { drops: false });
        if let Step::Taking(at) = broker.step
            && bus.drops_left > 0
            && bus.waiting(at) > 0
        {
            moves.push(Move::Step { drops: true });
        }
    }
}

pub fn free_places(bus: &Bus) -> impl Iterator<Item = u8> + '_ {
    (0..bus.last().places.len() as u8).filter(|at| !bus.last().places[usize::from(*at)].is_used)
}

/// Returns whether the last broker has a place for a client. It keeps one for each client of the
/// roster that may still come.
pub fn has_place(bus: &Bus, id: Id) -> bool {
    let waits_for = bus.last().waits_for;
    let kept = if waits_for.has(id) { 0 } else { waits_for.iter().count() };
    free_places(bus).count() > kept
}

/// Returns whether the client at a place is gone, and everything of it is published.
fn is_over(bus: &Bus, at: u8) -> bool {
    let Some(id) = bus.last().places[usize::from(at)].owner else { return false };
    let client = bus.client(id);
    let is_coming = client.link == Link::Answered(bus.epoch());
    let is_gone = !client.lives || matches!(client.link, Link::Cut(_) | Link::Over);
    is_gone && !is_coming && bus.waiting(at) == 0
}

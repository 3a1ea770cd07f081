//! How the broker removes or skips a live receiver: the receiver is slow, or has a fault that this
//! model leaves out.

use crate::broker::{Broker, Pc};
use crate::protocol::Action;
use crate::run::{Break, Hand, Run, Setup};
use crate::state::*;
use Action::*;

/// Returns whether it may do so now: while it reads its sockets, at a client's turn, or asleep.
pub fn may_remove(setup: &Setup, run: &Run) -> bool {
    let last = setup.scripts.len() as Id;
    let is_there = run.bus.lives(last) && run.bus.chain(BROADCAST).reader(last).is_some();
    let pc = run.broker.pc;
    run.removals_left > 0 && is_there && matches!(pc, Pc::Draining | Pc::Taking(_) | Pc::Asleep)
}

/// Removes or skips the last client, which lives.
pub fn remove(hand: &mut Hand) {
    let mut me = hand.run.broker;
    hand.run.removals_left -= 1;
    me.remove(hand, hand.setup.scripts.len() as Id);
    hand.run.broker = me;
}

impl Broker {
    fn remove(&mut self, hand: &mut Hand, id: Id) {
        if self.pc == Pc::Asleep {
            hand.act(Wake { by: BROKER });
            self.pc = Pc::Waking;
        }
        self.worked = true;
        match hand.setup.skips {
            0 if hand.is_broken(Break::MemberNotCleared) => {}
            0 => hand.act(EndMembership { by: id }),
            _ => hand.act(Skip { by: id }),
        }
        let left = hand.bus().chain(BROADCAST).reader(id).map_or(0, |reader| reader.cursor);
        hand.act(RemoveReceiver { by: id });
        if hand.is_broken(Break::RemovedUnannounced) || hand.is_broken(Break::SkippedUnannounced) {
            hand.run.bus.process_mut(id).bell = false;
        }
        let chain = hand.bus().chain(BROADCAST);
        let has_left = left == chain.tail.position;
        let in_place = hand.bus().process(id).reads_in_place;
        let is_reused =
            hand.is_broken(Break::NotRetired) || hand.is_broken(Break::SkippedNotRetired);
        if !in_place || has_left || is_reused {
            return;
        }
        let to = self.pen(hand).place.position;
        hand.act(Retire { chain: BROADCAST, to });
        let is_late = hand.is_broken(Break::RetiredAfterCursor);
        if !is_late && !hand.is_broken(Break::LentNotRetired) {
            Self::retire_foreign(hand, left);
        }
    }

    /// Tells clients which of their pages a removed receiver may be reading. The receiver has left
    /// everything before `left`.
    fn retire_foreign(hand: &mut Hand, left: u32) {
        for chain in hand.bus().ids().skip(1) {
            let held = &hand.bus().held;
            let is_by_ref = held.iter().any(|held| held.from == chain && held.until > left);
            let place = hand.bus().chain(chain).reader(BROKER).map(|reader| reader.place.position);
            if let Some(to) = place.filter(|_| is_by_ref) {
                hand.act(Retire { chain, to });
            }
        }
    }

    /// The announcement of a broken broker: it covers only what it has released by now.
    pub fn retire_late(hand: &mut Hand) {
        let has_removed = hand.bus().chain(BROADCAST).retired > 0;
        for chain in hand.bus().ids().skip(1).filter(|_| has_removed) {
            let reader = hand.bus().chain(chain).reader(BROKER);
            if let Some(to) = reader.map(|reader| reader.place.position) {
                hand.act(Retire { chain, to });
            }
        }
    }
}

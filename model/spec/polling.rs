//! How processes poll (section 7 of `docs/protocol.md`).
//!
//! A process that finds nothing may check again instead of sleeping, any number of times. It says
//! so in its parked word, and publishers then leave out their fence and their ring. A process that
//! has polled bounds its sleeps: a sleep may end by itself ([`Move::Wakes`]), but no property relies
//! on it, because here each store is visible at once.
//!
//! A publisher loads the polling flag and the parked word in one step. If the flag is not set at the
//! first load, moving that load to the second one changes nothing: both words are one, and a flag
//! that is set in between says that the process is awake.
//!
//! [`Move::Wakes`]: crate::explore::Move::Wakes

use crate::broker::{self, Blocked, Broker, Choice};
use crate::client::{self, Client};
use crate::protocol::Action::*;
use crate::run::{Break, Hand, Run, Setup};
use crate::state::*;

/// The broker's choice to poll instead of going to sleep.
pub const POLLS: Choice = 1;

/// Returns whether a process sleeps, and nothing waits in its sockets.
pub fn may_wake(setup: &Setup, run: &Run, id: Id) -> bool {
    let process = run.bus.process(id);
    setup.polls && process.is_asleep && !process.bell
}

/// A publisher checks whether a peer sleeps. Where the peer polls, the publisher leaves out the
/// fence, and rings nothing.
pub fn check_for_sleeper(hand: &mut Hand, by: Id, of: Id) {
    let Process { is_polling, is_parked, .. } = *hand.bus().process(of);
    if hand.setup.polls {
        hand.act(PollingRead { by, of, polls: is_polling });
        if is_polling {
            return;
        }
    }
    hand.act(RingFence { by });
    hand.act(RingRead { by, of, parked: is_parked });
}

impl Client {
    /// A turn of a client that has found nothing and polls: it reads its socket, and stores one
    /// word, either its cursor or the flag.
    pub fn poll(&mut self, hand: &mut Hand, id: Id) {
        if !hand.is_broken(Break::PollsChainAlone) {
            hand.act(Wake { by: id });
            self.is_closed = !hand.bus().lives(BROKER);
        }
        let passed = hand.must_release(BROADCAST, id);
        if let Some(to) = passed.filter(|_| !hand.is_broken(Break::PollsUnreleased)) {
            hand.act(Release { chain: BROADCAST, by: id, to });
            self.pc = client::Pc::Looking { to_sleep: false };
            return;
        }
        hand.act(Poll { by: id });
        if hand.is_broken(Break::PollsSocketAlone) {
            return;
        }
        // It asks for room again, too.
        self.is_full = false;
        self.pc = client::Pc::Going;
    }
}

impl Broker {
    /// Returns whether it has nothing to do and could sleep.
    pub fn is_idle(&self) -> bool {
        !self.worked && self.blocked != Blocked::NeedsPage && self.empty.is_empty()
    }

    /// It begins another cycle.
    pub fn poll(&mut self, hand: &mut Hand) {
        hand.act(Poll { by: BROKER });
        (self.blocked, self.passed) = (Blocked::No, 0);
        self.pc = broker::Pc::Draining;
    }
}

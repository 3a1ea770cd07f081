//! A receiver that the broker has skipped, and how it receives again.
//!
//! ```text
//!                  copies a changed page            reads `Skipped`
//!   receives  ------------------------->  Found  ------------------> Told
//!      ^                                                              |
//!      |  `Page`s and `Start`                                         | drops its pages,
//!      +-------------------------------  Asked  <---------------------+ sends `Rejoin`
//! ```

use super::Locked;
use crate::core::chain::{Standing, Start};
use crate::core::fault::Fault;
use crate::core::link::Inbound;
use crate::core::memory::Region;
use crate::core::wire::Packet;
use crate::socket::Sent;

/// How far a skipped receiver has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skipped {
    /// Its member word says so. The packet is still to come.
    Found,
    /// The broker has said so. The pages that come from now on are those of the next start.
    Told,
    /// It has asked to receive again. `Start` may have come.
    Asked(Option<Start>),
}

impl Locked<'_> {
    /// Returns what the broker does about this receiver.
    pub fn standing(&self) -> Standing {
        self.state.membership.as_ref().map_or(Standing::Member, |place| place.standing())
    }

    /// Returns whether the receiving half must not read its chain until it receives again.
    pub fn is_skipped(&self) -> bool {
        self.state.skipped.is_some()
    }

    /// Returns whether the request to receive again is still to be sent.
    pub(super) fn must_ask(&self) -> bool {
        self.state.skipped == Some(Skipped::Told)
    }

    /// Records that the member word says that this receiver is skipped.
    #[cold]
    pub fn found_skipped(&mut self) {
        self.state.skipped.get_or_insert(Skipped::Found);
    }

    /// Handles the packet `Skipped`. Returns whether it may come now.
    pub(super) fn on_skipped(&mut self) -> bool {
        let state = &mut *self.state;
        let Some(arrivals) = state.arrivals.as_mut().filter(|_| state.membership.is_some()) else {
            return false;
        };
        arrivals.clear();
        state.lost.clear();
        let may_come = state.skipped != Some(Skipped::Told);
        state.skipped = Some(Skipped::Told);
        may_come
    }

    /// Handles the packet `Start`. Returns whether it may come now.
    pub(super) fn on_start(&mut self, start: Start) -> bool {
        let may_come = self.state.skipped == Some(Skipped::Asked(None));
        if may_come {
            self.state.outlives.iter_mut().for_each(|outlives| outlives.pages.complete());
            self.state.skipped = Some(Skipped::Asked(Some(start)));
        }
        may_come
    }

    /// Gives the receiving half the pages that have arrived. If it was skipped, takes the next step
    /// towards receiving again. Returns the number of messages that it has missed, if it receives
    /// again from now on.
    ///
    /// # Errors
    ///
    /// The peer's [`Fault`].
    pub fn catch_up(&mut self, inbound: &mut Inbound<Region>) -> Result<Option<u64>, Fault> {
        match self.state.skipped {
            None => self.take_arrivals(inbound).map(|()| None),
            Some(Skipped::Told) => {
                self.ask(inbound);
                Ok(None)
            }
            Some(Skipped::Asked(Some(start))) if self.may_restart() => self.restart(inbound, start),
            Some(Skipped::Found | Skipped::Asked(_)) => Ok(None),
        }
    }

    /// Returns whether everything is there to receive again.
    pub fn may_restart(&self) -> bool {
        // The page at the start may have lost its descriptor, and comes again then.
        matches!(self.state.skipped, Some(Skipped::Asked(Some(start))) if !self.state.lost.contains(start.page))
    }

    fn ask(&mut self, inbound: &mut Inbound<Region>) {
        // The broker must not read the old cursor after it has read the packet.
        inbound.chain.leave();
        if self.connection.socket.send(&Packet::Rejoin, None) == Sent::Yes {
            // The broker sends all its pages again. Until now, the former ones say what it has consumed.
            self.state.outlives.iter_mut().for_each(|outlives| outlives.pages.restart());
            self.state.skipped = Some(Skipped::Asked(None));
        }
    }

    fn restart(
        &mut self,
        inbound: &mut Inbound<Region>,
        start: Start,
    ) -> Result<Option<u64>, Fault> {
        let pages = self.state.arrivals.as_mut().map(|arrivals| arrivals.take_pages());
        match inbound.chain.restart(pages.unwrap_or_default(), start) {
            Ok(missed) => {
                self.state.skipped = None;
                // What was forgotten since then.
                self.take_arrivals(inbound)?;
                Ok(Some(missed))
            }
            // It was skipped again, and pages are written again. The packet is still to come.
            Err(_) if self.standing() == Standing::Skipped => {
                self.state.skipped = Some(Skipped::Found);
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }
}

//! The packets of a joined connection: reading them, and sending pages.

use super::{HeldUpNews, Locked};
use crate::core::chain::{Announcement, admit_page};
use crate::core::fault::{Fault, InvalidMemfd};
use crate::core::limits::Limits;
use crate::core::link::{Inbound, Outbound, Progress};
use crate::core::memory::Region;
use crate::core::message::ClientId;
use crate::core::parking::Half;
use crate::core::wire::{Packet, WireError};
use crate::socket::{Received, Sent, Socket};
use crate::sys::memfd::ReceivedFd;
use crate::sys::system::os_page;
use std::time::{Duration, Instant};

/// The most packets handled in one call. It bounds the work that a hostile peer can cause.
pub(super) const AT_ONCE: usize = 4096;

/// Pages of the inbound chain that were read from the socket and that the receiving half has not
/// taken.
#[derive(Debug)]
pub(super) struct Arrivals {
    pages: Vec<(u32, Region)>,
    forgotten: Vec<u32>,
    /// The most bytes of these pages together.
    budget: usize,
    /// The most pages that a peer can forget before the receiving half reads on: those that the
    /// budget holds, and one that it exceeds.
    most_forgotten: usize,
}

impl Arrivals {
    pub fn new(budget: usize, page_len: usize) -> Self {
        let most_forgotten = budget / page_len + 1;
        Arrivals { pages: Vec::new(), forgotten: Vec::new(), budget, most_forgotten }
    }

    /// Drops everything: the receiving half was skipped.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.forgotten.clear();
    }

    /// Takes the pages that have arrived.
    pub fn take_pages(&mut self) -> Vec<(u32, Region)> {
        std::mem::take(&mut self.pages)
    }

    fn forget(&mut self, id: u32) -> Result<(), Fault> {
        match self.pages.iter().position(|(arrived, _)| *arrived == id) {
            Some(i) => _ = self.pages.swap_remove(i),
            None if self.forgotten.len() == self.most_forgotten => {
                return Err(Fault::UnknownPage { page: 0, at: 0, next: id });
            }
            None => self.forgotten.push(id),
        }
        Ok(())
    }
}

impl Locked<'_> {
    /// Reads all packets from the socket. If there are none, checks whether the peer has died.
    pub fn pump(&mut self, half: Half) {
        if !self.drain(half) {
            self.check_peer(half);
        }
    }

    /// Reads all packets from the socket for `half`, which is awake from now on. Returns whether
    /// there was one.
    pub fn drain(&mut self, half: Half) -> bool {
        self.unpark(half);
        if self.is_orphaned() {
            self.seek_next();
            return false;
        }
        self.retry_ring(half);
        let mut has_more = true;
        for count in 0..AT_ONCE {
            let received = self.connection.socket.receive();
            if !self.on_received(received) {
                has_more = count > 0;
                break;
            }
        }
        if !self.state.lost.is_empty() && self.state.ended.is_none() {
            self.ask_again();
        }
        if has_more || self.state.ended.is_some() {
            self.wake_other(half);
        }
        has_more
    }

    /// Ends a sleep of `half` with what the socket returned. A ring is the expected wake-up. After
    /// any other packet more may follow. An empty socket may mean the peer's death.
    pub fn wake(&mut self, half: Half, received: Received) {
        self.unpark(half);
        let is_ring = matches!(received, Received::Packet(Packet::Ring, _));
        let is_nothing = matches!(received, Received::Nothing);
        let has_more = self.on_received(received);
        if !is_nothing {
            self.wake_other(half);
        }
        if has_more && !is_ring {
            self.pump(half);
        } else if is_nothing {
            self.check_peer(half);
        }
    }

    /// Checks whether the peer's process has died while its child may keep the connection open.
    /// Reads the packets that it sent before (P4, P5).
    fn check_peer(&mut self, half: Half) {
        if self.state.ended.is_none()
            && !self.is_orphaned()
            && self.connection.socket.peer().has_died()
        {
            self.drain(half);
            self.hung_up();
        }
    }

    /// Handles what the socket returned. Returns whether there may be more.
    pub(super) fn on_received(&mut self, received: Received) -> bool {
        let is_news = !matches!(received, Received::Nothing | Received::Packet(Packet::Ring, _));
        self.state.version += u64::from(is_news);
        let fault = match received {
            Received::Nothing => return false,
            Received::HungUp => {
                self.hung_up();
                return false;
            }
            Received::Garbage(error) => error.into(),
            Received::Lost(packet @ (Packet::Page { id } | Packet::ForeignPage { id }))
                if self.state.arrivals.is_some() =>
            {
                if let (Some(outlives), Packet::Page { .. }) = (&mut self.state.outlives, packet) {
                    outlives.pages.miss(id);
                }
                match self.state.lost.lost(id) {
                    true => return true,
                    false => WireError::Cut.into(),
                }
            }
            // Without it, the client may not know what its broker had consumed when that one dies.
            Received::Lost(Packet::Page { id }) if self.state.outlives.is_some() => {
                self.state.outlives.iter_mut().for_each(|outlives| outlives.pages.miss(id));
                return true;
            }
            Received::Lost(_) => WireError::Cut.into(),
            Received::Packet(packet, descriptor) => match self.on_packet(packet, descriptor) {
                Ok(()) => return true,
                Err(fault) => fault,
            },
        };
        self.fail(fault);
        false
    }

    fn on_packet(&mut self, packet: Packet, descriptor: Option<ReceivedFd>) -> Result<(), Fault> {
        match packet {
            Packet::Skipped if self.on_skipped() => return Ok(()),
            Packet::Start(start) if self.on_start(start) => return Ok(()),
            _ => {}
        }
        let state = &mut *self.state;
        match (packet, descriptor, &mut state.arrivals) {
            (Packet::Ring, ..) => {}
            (Packet::Again { id }, ..) if state.progress.is_some() => state.again.ask(id),
            (Packet::Page { id } | Packet::ForeignPage { id }, Some(mut descriptor), arrivals)
                if arrivals.is_some() || state.outlives.is_some() =>
            {
                let page = map_page(&mut descriptor, &self.connection.limits)?;
                drop(descriptor);
                if let (Some(outlives), Packet::Page { .. }) = (&mut state.outlives, packet) {
                    outlives.pages.add(id, page.clone())?;
                }
                if let Some(arrivals) = arrivals {
                    admit_page(&mut arrivals.pages, id, page, arrivals.budget)?;
                    state.lost.found(id);
                }
            }
            (Packet::Forget { id }, _, arrivals)
                if arrivals.is_some() || state.outlives.is_some() =>
            {
                state.outlives.iter_mut().for_each(|outlives| outlives.pages.forget(id));
                // No message refers to a lost page that is forgotten.
                if !state.lost.found(id)
                    && let Some(arrivals) = arrivals
                {
                    arrivals.forget(id)?;
                }
            }
            (Packet::ReceiverCount { receivers }, ..) => state.receivers = Some(receivers),
            (Packet::HeldUp { client, process, millis }, ..) => {
                state.held_up = Some(HeldUpNews {
                    client: ClientId(client),
                    process: (process != 0).then_some(process),
                    lasted: Duration::from_millis(millis),
                    arrived: Instant::now(),
                    progress: state.progress.as_ref().map(Progress::get).unwrap_or_default(),
                });
            }
            (Packet::Bye(reason), ..) => {
                self.end(reason.into());
            }
            (packet, ..) => return Err(packet.unexpected("from a peer that is joined").into()),
        }
        Ok(())
    }

    /// Gives the receiving half the pages that have arrived.
    ///
    /// # Errors
    ///
    /// The peer's [`Fault`].
    pub(super) fn take_arrivals(&mut self, inbound: &mut Inbound<Region>) -> Result<(), Fault> {
        let Some(Arrivals { pages, forgotten, .. }) = &mut self.state.arrivals else {
            return Ok(());
        };
        for id in forgotten.drain(..) {
            inbound.chain.forget_page(id)?;
        }
        for (id, page) in pages.drain(..) {
            inbound.chain.add_page(id, page)?;
        }
        Ok(())
    }

    /// Requests a page again whose descriptor was lost. A failed request is retried.
    fn ask_again(&mut self) {
        if let Some(id) = self.state.lost.due(Instant::now()) {
            let sent = self.connection.socket.send(&Packet::Again { id }, None);
            self.state.lost.asked(id, matches!(sent, Sent::Yes));
        }
    }

    /// Returns the next announcement for the peer.
    pub fn announcement(&self, outbound: &Outbound<Region>) -> Option<Announcement> {
        self.state.again.announcement().or_else(|| outbound.announcement())
    }

    /// Sends the pending announcements of our pages.
    pub fn send_announcements(&mut self, outbound: &mut Outbound<Region>) -> Sent {
        if self.is_orphaned() {
            // No process reads this chain any more. It is copied for the next broker.
            while outbound.announcement().is_some() {
                outbound.mark_sent();
            }
            return Sent::Yes;
        }
        while let Some(announcement) = self.announcement(outbound) {
            let page = |id| outbound.chain.page(id);
            match send_announcement(&self.connection.socket, announcement, false, page) {
                Sent::Yes if self.state.again.mark_sent() => {}
                Sent::Yes => outbound.mark_sent(),
                other => return other,
            }
        }
        Sent::Yes
    }

    /// Rings the peer for `half`. If the kernel has no memory, the next packet, poll or sleep of any
    /// half retries it. Returns whether the ring was sent.
    #[cold]
    pub fn ring(&mut self, half: Half) -> bool {
        let sent = self.connection.socket.send(&Packet::Ring, None);
        if sent == Sent::HungUp && self.connection.comeback.is_some() {
            // What the socket still holds comes first.
            self.state.ring_pending = false;
            self.pump(half);
            self.hung_up();
        }
        self.state.ring_pending = sent == Sent::NoMemory;
        if self.state.ring_pending {
            // So that its sleep is bounded from now on.
            self.wake_other(half);
        }
        !self.state.ring_pending
    }

    /// Retries a ring for which the kernel had no memory.
    pub fn retry_ring(&mut self, half: Half) {
        if self.state.ring_pending {
            self.ring(half);
        }
    }
}

/// Sends one announcement of the page pool to a receiver.
pub(crate) fn send_announcement<'a>(
    socket: &Socket,
    announcement: Announcement,
    is_foreign: bool,
    page: impl FnOnce(u32) -> Option<&'a Region>,
) -> Sent {
    match announcement {
        Announcement::Forget(id) => socket.send(&Packet::Forget { id }, None),
        Announcement::Page(id) => match page(id).and_then(Region::descriptor) {
            Some(descriptor) if is_foreign => {
                socket.send(&Packet::ForeignPage { id }, Some(descriptor))
            }
            Some(descriptor) => socket.send(&Packet::Page { id }, Some(descriptor)),
            // The page was released before its announcement was sent.
            None => Sent::Yes,
        },
    }
}

/// Maps a page that a peer has sent.
pub(crate) fn map_page(descriptor: &mut ReceivedFd, limits: &Limits) -> Result<Region, Fault> {
    let (min, max) = limits.page_bounds(os_page());
    descriptor.try_map(min, max).map_err(invalid_memfd)
}

/// Maps a page that a peer has sent and that is forwarded to other clients.
pub(crate) fn map_page_to_share(
    descriptor: &mut ReceivedFd,
    limits: &Limits,
) -> Result<Region, Fault> {
    let (min, max) = limits.page_bounds(os_page());
    descriptor.try_map_to_share(min, max).map_err(invalid_memfd)
}

fn invalid_memfd(source: InvalidMemfd) -> Fault {
    Fault::Descriptor { what: "a page", source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::bound;

    // P12
    #[test]
    fn arrived_pages_have_one_budget_and_no_more_are_forgotten() {
        let row = bound("pages that a client has received and its receiving half has not taken");
        assert!(row.contains("the budget") && row.contains("and one"), "{row}");
        let page = || Region::heap(4096);
        let mut arrivals = Arrivals::new(2 * 4096, 4096);
        let admit = |arrivals: &mut Arrivals, id| {
            admit_page(&mut arrivals.pages, id, page(), arrivals.budget)
        };
        assert_eq!((admit(&mut arrivals, 1), admit(&mut arrivals, 2)), (Ok(()), Ok(())));
        assert!(matches!(admit(&mut arrivals, 3), Err(Fault::OverBudget { .. })));
        // A page that was not taken is forgotten at once.
        assert_eq!(arrivals.forget(1), Ok(()));
        assert_eq!(admit(&mut arrivals, 3), Ok(()));
        assert!((10..13).all(|id| arrivals.forget(id).is_ok()));
        assert!(matches!(arrivals.forget(9), Err(Fault::UnknownPage { .. })));
    }
}

//! Recovers lost page descriptors. A process that cannot open another descriptor receives the
//! packet, but the kernel drops the descriptor.
//!
//! ```text
//!   sender of the chain                       receiver
//!     | Page 5; [page]                          |
//!     |---------------------------------------->|  no descriptor is free: lost
//!     |                                 Again 5 |  the reserve is closed
//!     |<----------------------------------------|
//!     | Page 5; [page]                          |
//!     |---------------------------------------->|  mapped, a new reserve is taken
//! ```

use crate::core::chain::Announcement;
use crate::core::failpoint::effect;
use crate::wait::RETRY_INTERVAL;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// The sender's side: the pages that the receiver has requested again.
#[derive(Debug, Default)]
pub(crate) struct Again(VecDeque<u32>);

impl Again {
    /// A receiver requests one page at a time, so a well-behaved one never has this many requests.
    const MOST: usize = 64;

    /// Records that the receiver has requested this page.
    pub fn ask(&mut self, id: u32) {
        if self.0.len() < Self::MOST && !self.0.contains(&id) {
            self.0.push_back(id);
        }
    }

    /// Returns the next announcement for the receiver.
    pub fn announcement(&self) -> Option<Announcement> {
        self.0.front().copied().map(Announcement::Page)
    }

    /// Records that an announcement was sent. Returns whether it was one of these.
    pub fn mark_sent(&mut self) -> bool {
        self.0.pop_front().is_some()
    }
}

/// The receiver's side: the lost pages, and a reserved descriptor to recover them.
#[derive(Debug)]
pub(crate) struct Lost {
    reserve: Option<OwnedFd>,
    pages: Vec<u32>,
    /// The requested page. The sender answers each `Again` once, and a page that arrives twice is a
    /// fault. So no page is requested twice before its answer was received or lost.
    asked: Option<u32>,
    /// The earliest time of the next request.
    ask_at: Instant,
    is_told: bool,
}

impl Lost {
    /// The most pages that can be lost before the first is requested again. A sender that causes
    /// more is misbehaving.
    const MOST: usize = 4096;

    pub fn new() -> Self {
        let mut lost = Lost {
            reserve: None,
            pages: Vec::new(),
            asked: None,
            ask_at: Instant::now(),
            is_told: false,
        };
        lost.take_reserve();
        lost
    }

    fn take_reserve(&mut self) {
        if self.reserve.is_none() {
            effect("take a reserve");
            // An eventfd, not a copy of the socket, which would keep the connection open.
            let flags = rustix::event::EventfdFlags::CLOEXEC;
            self.reserve = rustix::event::eventfd(0, flags).ok();
        }
    }

    /// Forgets all pages: the receiver was skipped, and is sent the pages anew.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.asked = None;
        self.take_reserve();
    }

    /// Records that the descriptor of this page was lost. Returns whether that is plausible.
    pub fn lost(&mut self, id: u32) -> bool {
        if !std::mem::replace(&mut self.is_told, true) {
            log::warn!(
                "this process has no free descriptor for a page of the bus; raise its limit (`ulimit -n`) or close files"
            );
        }
        if self.reserve.take().is_some() {
            effect("close the reserve");
            self.ask_at = Instant::now();
        }
        if self.asked.take_if(|asked| *asked == id).is_some() {
            // The answer was lost, too, because other code of this process has taken the
            // descriptor.
            self.ask_at = Instant::now() + RETRY_INTERVAL;
        }
        if !self.pages.contains(&id) {
            self.pages.push(id);
        }
        self.pages.len() <= Self::MOST
    }

    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    pub fn contains(&self, id: u32) -> bool {
        self.pages.contains(&id)
    }

    /// Records that the page has arrived or is forgotten. Returns whether it was a lost one. The
    /// caller must close the page's descriptor first, because the reserve may need its slot.
    pub fn found(&mut self, id: u32) -> bool {
        let Some(i) = self.pages.iter().position(|page| *page == id) else { return false };
        self.pages.swap_remove(i);
        self.asked.take_if(|asked| *asked == id);
        self.ask_at = Instant::now();
        if self.pages.is_empty() {
            self.take_reserve();
        }
        true
    }

    /// Returns the page to request now. There is one reserved descriptor, so there is one request
    /// at a time.
    pub fn due(&self, now: Instant) -> Option<u32> {
        if self.asked.is_some() || now < self.ask_at {
            return None;
        }
        self.pages.first().copied()
    }

    /// Records that the page was requested, or that the request could not be sent.
    pub fn asked(&mut self, id: u32, is_sent: bool) {
        match is_sent {
            true => self.asked = Some(id),
            false => self.ask_at = Instant::now() + RETRY_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::tests::bound;

    // P12
    #[test]
    fn sixty_four_pages_are_sent_again_each_once_and_no_more() {
        assert!(bound("requests for lost pages (`Again`)").starts_with("64 that are not answered"));
        let mut again = Again::default();
        let told = |again: &mut Again| {
            let told = std::iter::from_fn(|| again.announcement().filter(|_| again.mark_sent()));
            told.collect::<Vec<_>>()
        };
        let pages = |ids: std::ops::Range<u32>| ids.map(Announcement::Page).collect::<Vec<_>>();
        for _ in 0..2 {
            (0..64).for_each(|id| again.ask(id));
        }
        let mut one_more = Again(again.0.clone());
        assert_eq!(told(&mut again), pages(0..64));
        one_more.ask(64);
        // Each answer makes room for another request.
        assert!(one_more.mark_sent());
        (65..67).for_each(|id| one_more.ask(id));
        let expected = [pages(1..64), pages(65..66)].concat();
        assert_eq!(told(&mut one_more), expected);
        assert!(!one_more.mark_sent());
    }

    // P12
    #[test]
    fn four_thousand_pages_may_be_lost_and_one_more_is_a_fault() {
        assert!(bound("pages whose descriptors a receiver has lost").starts_with("4096;"));
        let mut lost = Lost::new();
        for _ in 0..2 {
            assert!((0..4096).all(|id| lost.lost(id)));
        }
        assert!(!lost.lost(4096));
    }

    // P3: the answer to a second `Again` would be a page that comes twice.
    #[test]
    fn a_page_is_asked_for_once_until_its_answer_is_here() {
        let mut lost = Lost::new();
        assert!(lost.lost(3) && lost.lost(4));
        let later = |seconds| Instant::now() + std::time::Duration::from_secs(seconds);
        assert_eq!(lost.due(later(0)), Some(3));
        lost.asked(3, false);
        assert_eq!(lost.due(later(9)), Some(3), "it could not be sent");
        lost.asked(3, true);
        assert_eq!(lost.due(later(9)), None, "however long the answer takes");
        assert!(lost.lost(3));
        assert_eq!(lost.due(later(9)), Some(3), "the answer was lost, too");
        lost.asked(3, true);
        assert!(lost.found(3));
        assert_eq!(lost.due(later(0)), Some(4));
        assert!(lost.reserve.is_none(), "page 4 needs the place");
        assert!(lost.found(4) && !lost.found(4));
        assert!(lost.reserve.is_some());
    }
}

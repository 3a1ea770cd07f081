//! Descriptors of pages that were lost: a process that can open no more takes the packet, and the
//! kernel drops what came with it.
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

use crate::connection::RETRY_INTERVAL;
use crate::core::chain::Announcement;
use crate::core::failpoint::effect;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// The side of the sender: pages that it was asked for again.
#[derive(Debug, Default)]
pub(crate) struct Again(VecDeque<u32>);

impl Again {
    /// A receiver asks for one page at a time, so that an honest one never has as many.
    const MOST: usize = 64;

    /// The receiver has asked for this page.
    pub fn ask(&mut self, id: u32) {
        if self.0.len() < Self::MOST && !self.0.contains(&id) {
            self.0.push_back(id);
        }
    }

    /// What it must be told.
    pub fn announcement(&self) -> Option<Announcement> {
        self.0.front().copied().map(Announcement::Page)
    }

    /// It was told something. Returns whether that was one of these.
    pub fn mark_sent(&mut self) -> bool {
        self.0.pop_front().is_some()
    }
}

/// The side of the receiver: what it has lost, and the descriptor that it keeps for that.
#[derive(Debug)]
pub(crate) struct Lost {
    reserve: Option<OwnedFd>,
    pages: Vec<u32>,
    /// The page that was asked for. The sender answers each `Again` once, and a page that comes twice
    /// is a fault, so that nothing is asked for twice before its answer was received or lost.
    asked: Option<u32>,
    /// The next page is not asked for before that.
    ask_at: Instant,
    is_told: bool,
}

impl Lost {
    /// More than this can't be lost before the first is asked for: its sender is a liar.
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
            // Not of the connection: this must not be what keeps that open.
            let flags = rustix::event::EventfdFlags::CLOEXEC;
            self.reserve = rustix::event::eventfd(0, flags).ok();
        }
    }

    /// The descriptor of this page was lost. Returns whether that can be.
    pub fn lost(&mut self, id: u32) -> bool {
        if !std::mem::replace(&mut self.is_told, true) {
            log::warn!(
                "this process has no descriptor free for a page of the bus; raise its limit (`ulimit -n`) or close files"
            );
        }
        if self.reserve.take().is_some() {
            effect("close the reserve");
            self.ask_at = Instant::now();
        }
        if self.asked.take_if(|asked| *asked == id).is_some() {
            // The answer was lost, too: other code of this process has taken the descriptor.
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

    /// The page has come, or will not come any more. Returns whether it was one of these. Its
    /// descriptor must be closed: the reserve may need that place.
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

    /// The page to ask for now: one at a time, as there is one reserve.
    pub fn due(&self, now: Instant) -> Option<u32> {
        if self.asked.is_some() || now < self.ask_at {
            return None;
        }
        self.pages.first().copied()
    }

    /// It was asked for, or can't be asked for now.
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
        // With each answer there is room for another request.
        assert!(one_more.mark_sent());
        (65..67).for_each(|id| one_more.ask(id));
        let expected = [pages(1..64), pages(65..66)].concat();
        assert_eq!(told(&mut one_more), expected);
        assert!(!one_more.mark_sent());
    }

    // P12
    #[test]
    fn four_thousand_lost_pages_can_be_and_one_more_is_a_lie() {
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

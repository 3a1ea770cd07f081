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

use crate::chain::Notice;
use crate::port::NAP;
use crate::sys::lifeline::acts;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// The side of the sender: pages that it was asked for again.
#[derive(Debug, Default)]
pub(crate) struct Again(VecDeque<u32>);

impl Again {
    /// More than the pages that a process loses before it asks. What is asked for beyond that is
    /// not sent, and asked for once more.
    const MOST: usize = 64;

    /// The receiver has asked for this page.
    pub fn ask(&mut self, id: u32) {
        if self.0.len() < Self::MOST && !self.0.contains(&id) {
            self.0.push_back(id);
        }
    }

    /// What it must be told.
    pub fn notice(&self) -> Option<Notice> {
        self.0.front().copied().map(Notice::Page)
    }

    /// It was told something. Returns whether that was one of these.
    pub fn told(&mut self) -> bool {
        self.0.pop_front().is_some()
    }
}

/// The side of the receiver: what it has lost, and the descriptor that it keeps for that.
#[derive(Debug)]
pub(crate) struct Lost {
    reserve: Option<OwnedFd>,
    pages: Vec<u32>,
    /// When they are asked for, or asked for again.
    ask_at: Instant,
    is_told: bool,
}

impl Lost {
    /// More than this can't be lost before the first is asked for: its sender is a liar.
    const MOST: usize = 4096;

    pub fn new() -> Self {
        let mut lost =
            Lost { reserve: None, pages: Vec::new(), ask_at: Instant::now(), is_told: false };
        lost.take_reserve();
        lost
    }

    fn take_reserve(&mut self) {
        if self.reserve.is_none() {
            acts("take a reserve");
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
            acts("close the reserve");
            self.ask_at = Instant::now();
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

    /// The page has come, or will not come any more. Returns whether it was one of these.
    pub fn found(&mut self, id: u32) -> bool {
        let Some(i) = self.pages.iter().position(|page| *page == id) else { return false };
        self.pages.swap_remove(i);
        self.ask_at = Instant::now();
        if self.pages.is_empty() {
            self.take_reserve();
        }
        true
    }

    /// The page to ask for now: one at a time, as there is one reserve.
    pub fn due(&mut self, now: Instant) -> Option<u32> {
        let page = *self.pages.first()?;
        if now < self.ask_at {
            return None;
        }
        self.ask_at = now + NAP;
        Some(page)
    }
}

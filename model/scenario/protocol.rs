//! The protocol of a run: production's, or one with a mistake. All checkers give the mistakes the
//! same names.

use super::doubles::Swap;
use super::{Bounds, Who};
use llmp::core::order::{Kind, Site};
use std::fmt::{Display, Formatter};
use std::sync::atomic::Ordering;

/// The protocol of one run: production's, or one with a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Production,
    /// One access has a weaker ordering.
    Weakened(Site, Ordering),
    /// One access has a weaker ordering in one kind of process only.
    WeakenedIn(Process, Site, Ordering),
    /// One step comes too late.
    Swapped(Swap),
    /// A process that has polled does not bound all of its sleeps.
    Unbounded(Bounds),
    /// A process that sees that one peer polls leaves out its fence before it looks at the others.
    PollingHidesFence,
}

/// A process, in a scenario that says which process accesses what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Broker,
    Client,
}

impl Process {
    /// Returns whether a process of this scenario is one.
    pub fn is(self, who: Who) -> bool {
        (self == Process::Broker) == (who == 0)
    }
}

impl Protocol {
    /// Returns all mistakes.
    pub fn mutants() -> impl Iterator<Item = Protocol> {
        let weakened = |site: &'static Site| {
            site.weaker().iter().map(|ordering| Protocol::Weakened(*site, *ordering))
        };
        // A message by reference needs the cursor's edge twice.
        let in_one = [Process::Broker, Process::Client]
            .map(|process| Protocol::WeakenedIn(process, Site::CursorPublish, Ordering::Relaxed));
        let swapped = Swap::ALL.iter().map(|swap| Protocol::Swapped(*swap));
        let unbounded = [Bounds::First, Bounds::None].map(Protocol::Unbounded);
        Site::ALL
            .iter()
            .flat_map(weakened)
            .chain(in_one)
            .chain(swapped)
            .chain(unbounded)
            .chain([Protocol::PollingHidesFence])
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Protocol::Production => write!(f, "production"),
            Protocol::Weakened(site, Ordering::Relaxed) if is_fence(*site) => {
                write!(f, "{site:?} as no fence")
            }
            Protocol::Weakened(site, ordering) => write!(f, "{site:?} as {ordering:?}"),
            Protocol::WeakenedIn(process, site, ordering) => {
                write!(f, "{site:?} as {ordering:?} in a {}", format!("{process:?}").to_lowercase())
            }
            Protocol::Swapped(swap) => write!(f, "{swap}"),
            Protocol::Unbounded(Bounds::First) => write!(f, "polled, one sleep bounded"),
            Protocol::PollingHidesFence => write!(f, "RingFence only if no peer polls"),
            Protocol::Unbounded(_) => write!(f, "polled, no sleep bounded"),
        }
    }
}

fn is_fence(site: Site) -> bool {
    site.access() == Kind::Fence
}

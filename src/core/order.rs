//! Every atomic access of the protocol by name, with its ordering, its partner, and the weaker
//! orderings that a model must catch.
//!
//! A [`Site`] is a place in the algorithm, not a line of code. Production code folds a site into
//! its constant; the loom memory looks it up in a table that belongs to one run (see
//! [`Orders`]), so that one test binary can weaken each site in turn and watch the models fail.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

/// What kind of access a site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An atomic load of one word.
    Load,
    /// An atomic store of one word.
    Store,
    /// A fence.
    Fence,
}

macro_rules! sites {
    ($($(#[$doc:meta])* $name:ident: $access:ident $ordering:ident, pairs $partner:literal, weaker [$($weaker:ident),*];)*) => {
        /// A named atomic access of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Site { $($(#[$doc])* $name,)* }

        impl Site {
            /// Every site there is.
            pub const ALL: &[Site] = &[$(Site::$name,)*];

            /// What the site is called.
            pub const fn name(self) -> &'static str {
                match self { $(Site::$name => stringify!($name),)* }
            }

            /// The ordering of this site in production.
            #[inline(always)]
            pub const fn ordering(self) -> Ordering {
                match self { $(Site::$name => $ordering,)* }
            }

            /// Load, store or fence.
            pub const fn access(self) -> Kind {
                match self { $(Site::$name => Kind::$access,)* }
            }

            /// The site or sites that this one pairs with; for a `Relaxed` one, why that is enough.
            pub const fn partner(self) -> &'static str {
                match self { $(Site::$name => $partner,)* }
            }

            /// The weaker orderings that exist. A fence weakened to `Relaxed` is no fence at all.
            pub const fn weaker(self) -> &'static [Ordering] {
                match self { $(Site::$name => &[$($weaker),*],)* }
            }
        }
    };
}

sites! {
    /// The sender makes a message, or a run of messages, visible: everything it wrote before is
    /// visible to whoever reads this word.
    CommitPublish: Store Release, pairs "CommitRead", weaker [Relaxed];
    /// The receiver looks at the commit word at its position.
    CommitRead: Load Acquire, pairs "CommitPublish", weaker [Relaxed];
    /// The sender zeroes the commit word of the slot behind the one it is about to publish.
    CommitClear: Store Relaxed, pairs "ordered by the CommitPublish that follows it", weaker [];
    /// The sender zeroes the first commit word of a page that it puts to use.
    PageClear: Store Relaxed, pairs "ordered by the CommitPublish of the run that names the page", weaker [];
    /// The sender commits a message inside a run whose first commit word it still holds back.
    CommitFill: Store Relaxed, pairs "ordered by the CommitPublish of the run's first message", weaker [];
    /// The receiver gives up everything before a position ("leave").
    CursorPublish: Store Release, pairs "CursorRead", weaker [Relaxed];
    /// The sender looks how far a receiver is before it writes a page again ("reuse").
    CursorRead: Load Acquire, pairs "CursorPublish", weaker [Relaxed];
    /// The receiver says up to where it has taken what it can't give up yet, as it has lent it.
    ConsumedPublish: Store Release, pairs "ConsumedRead", weaker [Relaxed];
    /// The sender looks how far a receiver that lends has taken.
    ConsumedRead: Load Acquire, pairs "ConsumedPublish", weaker [Relaxed];
    /// A broker says which client has a place, and that nothing waits for that client any more.
    MemberStore: Store Relaxed, pairs "ordered by the ReuseFence, or the CursorPublish, that follows it", weaker [];
    /// A receiver that has copied a payload, or a sender that has read a cursor, looks whether the
    /// place is still its own.
    MemberRead: Load Relaxed, pairs "ordered by the CopyFence, or the CursorRead, before it", weaker [];
    /// Between taking a used page, as every receiver that counts has left it, and writing it again.
    ReuseFence: Fence Release, pairs "CopyFence", weaker [Relaxed];
    /// Between copying a payload and looking whether the page could have been written meanwhile.
    CopyFence: Fence Acquire, pairs "ReuseFence", weaker [Relaxed];
    /// A broker says which pages of a client may still be read in place, by a receiver for which
    /// nothing waits any more.
    RetiredPublish: Store Relaxed, pairs "ordered by the CursorPublish that follows it", weaker [];
    /// A sender looks which pages it must not write again.
    RetiredRead: Load Relaxed, pairs "ordered by the CursorRead before it", weaker [];
    /// The sleeper announces that it is about to sleep.
    ParkStore: Store Relaxed, pairs "ordered by the ParkFence that follows it", weaker [];
    /// Between announcing sleep and looking again.
    ParkFence: Fence SeqCst, pairs "RingFence", weaker [AcqRel, Release, Acquire, Relaxed];
    /// The sleeper is awake again.
    ParkClear: Store Relaxed, pairs "a ring too many is harmless, and whoever wakes looks at everything", weaker [];
    /// The owner, awake, says that it polls.
    PollingStore: Store Relaxed, pairs "a publisher that reads the older word makes a fence too many", weaker [];
    /// Between publishing (a commit or a cursor) and looking whether the other side sleeps.
    RingFence: Fence SeqCst, pairs "ParkFence", weaker [AcqRel, Release, Acquire, Relaxed];
    /// Does the other side poll?
    PollingRead: Load Relaxed, pairs "a sleeper that has polled bounds its sleeps", weaker [];
    /// Does the other side sleep?
    RingRead: Load Relaxed, pairs "ordered by the RingFence before it", weaker [];
}

/// The orderings of one run: production's, except for the sites that were weakened.
#[derive(Clone, Debug)]
pub struct Orders(Vec<(Site, Ordering)>);

impl Orders {
    /// Production's orderings.
    pub fn production() -> Self {
        Orders(Vec::new())
    }

    /// Production's orderings with one site replaced.
    pub fn weakened(site: Site, ordering: Ordering) -> Self {
        Orders(vec![(site, ordering)])
    }

    /// The ordering of `site` in this run.
    pub fn of(&self, site: Site) -> Ordering {
        self.0.iter().find(|(s, _)| *s == site).map_or(site.ordering(), |(_, o)| *o)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_that_is_stronger_than_relaxed_has_a_partner_that_exists() {
        for site in Site::ALL.iter().filter(|site| site.ordering() != Relaxed) {
            let partner = Site::ALL.iter().find(|s| format!("{s:?}") == site.partner());
            let partner = partner.unwrap_or_else(|| panic!("{site:?} has no partner"));
            assert_eq!(partner.partner(), format!("{site:?}"));
        }
    }

    #[test]
    fn every_weaker_ordering_is_a_mutant() {
        for site in Site::ALL {
            let weaker: &[Ordering] = match (site.access(), site.ordering()) {
                (_, Relaxed) => &[],
                (Kind::Load | Kind::Fence, Acquire) | (Kind::Store | Kind::Fence, Release) => {
                    &[Relaxed]
                }
                (Kind::Fence, SeqCst) => &[AcqRel, Release, Acquire, Relaxed],
                other => panic!("{site:?} is {other:?}: say what is weaker than that"),
            };
            assert_eq!(site.weaker(), weaker, "{site:?}");
        }
    }
}

//! Every atomic access of the protocol by name, with its ordering, its partner, and the weaker
//! orderings that a model must catch.
//!
//! A [`Site`] is a place in the algorithm. Several lines of code may share one. Production code
//! folds a site into its constant. The loom memory looks it up in a table that belongs to one run
//! (see [`Orders`]). So one test binary weakens each site in turn, and the models must fail.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};

/// Kind of a site's access.
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
            /// All sites.
            pub const ALL: &[Site] = &[$(Site::$name,)*];

            /// Returns the name of the site.
            pub const fn name(self) -> &'static str {
                match self { $(Site::$name => stringify!($name),)* }
            }

            /// Returns the ordering of this site in production.
            #[inline(always)]
            pub const fn ordering(self) -> Ordering {
                match self { $(Site::$name => $ordering,)* }
            }

            /// Returns whether the site is a load, a store or a fence.
            pub const fn access(self) -> Kind {
                match self { $(Site::$name => Kind::$access,)* }
            }

            /// Returns the site that this one pairs with. For a `Relaxed` site, returns why that is
            /// enough.
            pub const fn partner(self) -> &'static str {
                match self { $(Site::$name => $partner,)* }
            }

            /// Returns the weaker orderings that exist. Weakening a fence to `Relaxed` removes it.
            pub const fn weaker(self) -> &'static [Ordering] {
                match self { $(Site::$name => &[$($weaker),*],)* }
            }
        }
    };
}

sites! {
    /// The sender publishes a message or a pending batch. All earlier writes are visible to a
    /// receiver that reads this word.
    CommitPublish: Store Release, pairs "CommitRead", weaker [Relaxed];
    /// The receiver loads the commit word at its position.
    CommitRead: Load Acquire, pairs "CommitPublish", weaker [Relaxed];
    /// The sender zeroes the commit word of the slot after the one that it is about to publish.
    CommitClear: Store Relaxed, pairs "ordered by the CommitPublish that follows it", weaker [];
    /// The sender zeroes the first commit word of a page that it begins to use.
    PageClear: Store Relaxed, pairs "ordered by the CommitPublish of the batch that names the page", weaker [];
    /// The sender commits a message inside a pending batch, whose first commit word it has not
    /// stored yet.
    CommitFill: Store Relaxed, pairs "ordered by the CommitPublish of the batch's first message", weaker [];
    /// The receiver releases everything before a position.
    CursorPublish: Store Release, pairs "CursorRead", weaker [Relaxed];
    /// The sender loads a receiver's cursor before it writes a page again ("reuse").
    CursorRead: Load Acquire, pairs "CursorPublish", weaker [Relaxed];
    /// The receiver publishes its consumed position, which is beyond its cursor while it forwards
    /// by reference.
    ConsumedPublish: Store Release, pairs "ConsumedRead", weaker [Relaxed];
    /// The sender loads the consumed position of a receiver that forwards by reference.
    ConsumedRead: Load Acquire, pairs "ConsumedPublish", weaker [Relaxed];
    /// A broker stores the client that owns an entry, or zero when it stops waiting for that
    /// client.
    MemberStore: Store Relaxed, pairs "ordered by the ReuseFence, or the CursorPublish, that follows it", weaker [];
    /// A receiver that has copied a payload, or a sender that has read a cursor, checks that the
    /// entry is still its own.
    MemberRead: Load Relaxed, pairs "ordered by the CopyFence, or the CursorRead, before it", weaker [];
    /// The sender has taken a used page, which every counted receiver has left, and is about to
    /// write it. Or a broker is about to give an entry to another client.
    ReuseFence: Fence Release, pairs "CopyFence", weaker [Relaxed];
    /// The receiver has copied a payload and is about to check whether the page could have been
    /// written meanwhile. Or a sender has read an entry and is about to check whether it is still its
    /// own.
    CopyFence: Fence Acquire, pairs "ReuseFence", weaker [Relaxed];
    /// A broker stores which pages of a client a removed receiver may still read in place.
    RetiredPublish: Store Relaxed, pairs "ordered by the CursorPublish that follows it, or by the ReuseFence before a reset", weaker [];
    /// A sender loads which pages it must not write again.
    RetiredRead: Load Relaxed, pairs "ordered by the CursorRead before it and the CopyFence after it", weaker [];
    /// A broker stores where its pending batch begins. The cursors of the last batch were stored
    /// before.
    IntentBegin: Store Release, pairs "IntentBeginRead", weaker [Relaxed];
    /// The broker stores what it has consumed of a client with that batch.
    IntentConsumed: Store Release, pairs "IntentConsumedRead", weaker [Relaxed];
    /// A client of a dead broker loads where the last batch begins, before it loads its cursor.
    IntentBeginRead: Load Acquire, pairs "IntentBegin", weaker [Relaxed];
    /// The client loads what was consumed with that batch, before it loads where the batch begins.
    IntentConsumedRead: Load Acquire, pairs "IntentConsumed", weaker [Relaxed];
    /// The owner of a control region announces that it is about to sleep.
    ParkStore: Store Relaxed, pairs "ordered by the ParkFence that follows it", weaker [];
    /// The owner has announced its sleep and is about to check again.
    ParkFence: Fence SeqCst, pairs "RingFence", weaker [AcqRel, Release, Acquire, Relaxed];
    /// The owner is awake again.
    ParkClear: Store Relaxed, pairs "a spurious ring is harmless, and a woken process checks everything", weaker [];
    /// The owner is awake and announces that it polls.
    PollingStore: Store Relaxed, pairs "a publisher that reads the older word makes a superfluous fence", weaker [];
    /// The publisher has stored a commit word or a cursor and is about to check whether the peer
    /// sleeps.
    RingFence: Fence SeqCst, pairs "ParkFence", weaker [AcqRel, Release, Acquire, Relaxed];
    /// The publisher checks whether the peer polls.
    PollingRead: Load Relaxed, pairs "a sleeper that has polled bounds its sleeps", weaker [];
    /// The publisher checks whether the peer sleeps.
    RingRead: Load Relaxed, pairs "ordered by the RingFence before it", weaker [];
}

/// The orderings of one run: production's, with weakened sites replaced.
#[derive(Clone, Debug)]
pub struct Orders(Vec<(Site, Ordering)>);

impl Orders {
    /// Returns production's orderings.
    pub fn production() -> Self {
        Orders(Vec::new())
    }

    /// Returns production's orderings with one site replaced.
    pub fn weakened(site: Site, ordering: Ordering) -> Self {
        Orders(vec![(site, ordering)])
    }

    /// Returns the ordering of `site` in this run.
    pub fn of(&self, site: Site) -> Ordering {
        self.0.iter().find(|(s, _)| *s == site).map_or(site.ordering(), |(_, o)| *o)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_stronger_than_relaxed_has_an_existing_partner() {
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

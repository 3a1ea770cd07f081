//! The programs that are broken on purpose.

macro_rules! breaks {
    (
        harmful { $($(#[$doc:meta])* $harmful:ident,)* }
        endless { $($(#[$endless_doc:meta])* $endless:ident,)* }
    ) => {
        /// A step that a program leaves out or takes too early.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Break {
            $($(#[$doc])* $harmful,)*
            $($(#[$endless_doc])* $endless,)*
        }

        impl Break {
            /// Those that do harm, or leave something undone when no process can continue.
            pub const HARMFUL: &[Break] = &[$(Break::$harmful,)*];
            /// Those that do no harm and never stop, while something is left undone.
            pub const ENDLESS: &[Break] = &[$(Break::$endless,)*];
        }
    };
}

breaks! {
    harmful {
        /// A reader releases the page before it has followed its end.
        GivesUpBeforeNextPage,
        /// A process that parks sleeps without a second check.
        NoSecondLook,
        /// A publisher does not check for sleeping peers.
        NoRing,
        /// The sender does not read the cursor of its last receiver before it reuses a page.
        OneCursorUnread,
        /// The slot after a message is not cleared.
        NoClear,
        /// A page is not emptied before it is named.
        PageNotEmptied,
        /// The broker does not remove a dead receiver.
        NoRemoval,
        /// The broker releases what it consumed before it has forwarded it, and then may die.
        GivesUpBeforeSendingOn,
        /// A dead client is forgotten at once, with what it had committed.
        DeadForgottenAtOnce,
        /// A client whose broker is gone ends at once.
        EndsUndrained,
        /// A receiver is admitted at the beginning of the page instead of at the tail.
        AdmittedInThePast,
        /// A page is named before it is sent.
        NamedBeforeSent,
        /// A cursor beyond the tail is accepted for all receivers.
        ViolationBelieved,
        /// A message by reference is released in the client's chain as if it had been copied.
        LentNotHeld,
        /// A message by reference is held until it is published, and not until all have passed it.
        HeldUntilPublished,
        /// The broker sleeps without checking whether messages by reference can be released.
        SleepsOnReturns,
        /// The pages of a client that is gone are dropped at once, although messages refer to them.
        LentForgottenAtOnce,
        /// A message refers to a page before the page is sent.
        LentBeforeSent,
        /// A late receiver is not sent the existing foreign pages.
        LentUnknownToLate,
        /// A receiver takes its copy without checking that it is a member.
        ChangedCopyConsumed,
        /// A receiver checks that it is a member before it copies, and not after.
        MemberReadBeforeCopy,
        /// A receiver hands out what it has found without checking that it is a member.
        MemberUnreadInPlace,
        /// The broker removal a receiver and leaves its member word unchanged.
        MemberNotCleared,
        /// The broker reuses its pages that a removed receiver reads in place.
        NotRetired,
        /// The broker retires its own pages, and not the foreign ones.
        LentNotRetired,
        /// The broker publishes that a client's pages are retired after it has released them.
        RetiredAfterCursor,
        /// A client does not read the retired word.
        RetiredUnread,
        /// A client reads the retired word before the cursor.
        RetiredReadBeforeCursor,
        /// Retired pages no longer count towards the budget, although other receivers have not left
        /// them.
        RetiredNotCounted,
        /// While a removed receiver lives, it is sent all pages, and each is dropped when the others
        /// leave it.
        RetiredForEver,
        /// A removed receiver is not notified and does not check.
        RemovedUnannounced,
        /// The broker skips a receiver and leaves its member word unchanged.
        SkippedNotMarked,
        /// A skipped receiver is sent no packet.
        SkippedUnannounced,
        /// The broker reuses pages that a skipped receiver reads in place.
        SkippedNotRetired,
        /// The broker admits a skipped receiver again where that one had left off.
        ReadmittedInThePast,
        /// The broker admits a skipped receiver again and sends it only new pages.
        ReadmittedWithoutPages,
        /// The broker does not answer a skipped receiver that asks to receive again.
        NotReadmitted,
        /// A process that has polled sleeps, and its parked word still says that it polls.
        ParksPolling,
    }
    endless {
        /// A receiver that polls checks its chain and not its socket.
        PollsChainAlone,
        /// A receiver that polls does not release what it has passed.
        PollsUnreleased,
        /// A receiver that polls checks its socket and not its chain. Publishers do not ring it.
        PollsSocketAlone,
        /// A receiver finds the end of a page and does not follow it.
        StaysAtEndOfPage,
        /// A broker that polls checks its first client alone.
        PollsFirstClientAlone,
        /// A sender without room does not load the cursor again.
        StaleCursor,
        /// A process that was rung rings back.
        RingsBack,
    }
}

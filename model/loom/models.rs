//! The models of the chain, the doorbell and the broker: scenarios with their sizes.

use crate::broker::{self, broker_dies, broker_dies_alone, intents_read};
use crate::doorbell::{Polling, Waiting, both_sleep, sender_sleeps};
use crate::explore::{Loom, Model};
use crate::scenario::by_ref::{self, Lives, broker_asleep, by_reference, flush, ref_asleep};
use crate::scenario::chain::distance::reuse_distance;
use crate::scenario::chain::{
    Size, batch, deliver, drop_claims, join_during_reuse, leave_during_reuse, limits,
    reuse_behind_end_of_page,
};
use crate::scenario::polls_beside::one_polls_and_one_sleeps;
use crate::scenario::removed;
use crate::scenario::skipped::{self, Mistake};
use crate::sleepers::{First, two_sleepers};
use llmp::core::wire::Roles;

const ONE_PAGE: Size = Size { messages_per_page: 4, pages: 2, messages: 3, receivers: 1, steps: 4 };
const TURN: Size = Size { messages_per_page: 2, pages: 2, messages: 4, receivers: 1, steps: 6 };
/// Pages + 2 messages, so that pages are reused. Fewer messages miss bugs of reuse.
const REUSE: Size = Size { messages_per_page: 1, pages: 2, messages: 4, receivers: 1, steps: 7 };

/// Two messages are by reference, one in each of the sender's pages. The next message overwrites
/// the first.
pub const REF_SIZE: by_ref::Size =
    by_ref::Size { by_ref: 2, messages: 6, tries: 2, cycles: 2, steps: 2 };

/// One client that receives its own messages: 4 messages over 2 pages of its own and 2 of the
/// broker's.
pub const BUS_OF_ONE: broker::Size = broker::Size {
    messages_per_page: 1,
    pages: 2,
    messages: 4,
    roles: &[Roles(Roles::SEND.0 | Roles::RECEIVE.0)],
    cycles: 4,
    steps: 4,
};

/// A sender and a receiver.
#[allow(dead_code, reason = "not every program explores it")]
pub const BUS_OF_TWO: broker::Size =
    broker::Size { messages: 2, roles: &[Roles::SEND, Roles::RECEIVE], cycles: 3, ..BUS_OF_ONE };

/// A sender and a receiver, and no page but the first.
const BUS_OF_INTENTS: broker::Size =
    broker::Size { messages_per_page: 4, messages: 3, ..BUS_OF_TWO };

const fn model(name: &'static str, bound: Option<usize>, scenario: fn(&Loom)) -> Model {
    Model { name, bound, scenario }
}

pub const COMMIT_1: Model = model("commit_1_receiver", None, |loom| deliver(loom, ONE_PAGE));

pub const COMMIT_2: Model = model("commit_2_receivers", None, |loom| {
    deliver(loom, Size { receivers: 2, messages: 2, steps: 3, ..ONE_PAGE });
});

pub const TURNS: Model = model("page_advance", None, |loom| deliver(loom, TURN));

pub const REUSE_1: Model = model("reuse_1_receiver", None, |loom| deliver(loom, REUSE));

pub const REUSE_2: Model = model("reuse_2_receivers", None, |loom| {
    deliver(loom, Size { receivers: 2, steps: 3, ..REUSE });
});

pub const REUSE_2_LONGER: Model = model("reuse_2_receivers_longer", Some(3), |loom| {
    deliver(loom, Size { receivers: 2, steps: 4, ..REUSE });
});

/// With a reuse distance of three pages, the first reuse is of one of three.
pub const REUSE_DISTANCE: Model = model("reuse_distance", None, |loom| at_distance(loom, 0, 3, 3));

/// With one byte less, it is of one of two.
pub const REUSE_BELOW: Model =
    model("reuse_below_distance", Some(4), |loom| at_distance(loom, 1, 3, 2));

/// The same if there is memory for two.
pub const REUSE_NO_MEMORY: Model =
    model("reuse_without_memory", None, |loom| at_distance(loom, 0, 2, 2));

fn at_distance(loom: &Loom, less: usize, pages: usize, expected: usize) {
    let size = Size { pages: 3, messages: 6, steps: 6, ..REUSE };
    let bytes = 3 * size.limits().page_len() - less;
    reuse_distance(loom, size, bytes, pages, expected);
}

/// Two messages fill a page up to its end-of-page message.
pub const REUSE_AT_END: Model = model("reuse_behind_end_of_page", None, |loom| {
    reuse_behind_end_of_page(loom, Size { messages: 6, steps: 3, ..TURN });
});

pub const DROPPED_CLAIMS: Model = model("dropped_claims", None, |loom| {
    drop_claims(loom, Size { steps: 6, ..REUSE });
});

pub const JOIN: Model = model("join_during_reuse", None, |loom| {
    join_during_reuse(loom, Size { steps: 3, ..REUSE }, 2);
});

pub const LEAVE: Model = model("leave_during_reuse", None, |loom| {
    leave_during_reuse(loom, Size { steps: 4, ..REUSE });
});

pub const BATCH: Model = model("batch_over_page_advance", None, |loom| {
    batch(loom, Size { messages_per_page: 2, pages: 2, messages: 4, receivers: 1, steps: 3 });
});

pub const WAKE_RECEIVER: Model = model("wake_receiver", None, |loom| {
    both_sleep(loom, limits(4, 2), 2, Waiting::Sleeps, Polling::Never);
});

pub const WAKE_RECEIVER_TAKES_RINGS: Model = model("wake_receiver_takes_rings", None, |loom| {
    both_sleep(loom, limits(4, 2), 2, Waiting::TakesRings, Polling::Never);
});

pub const WAKE_SENDER: Model =
    model("wake_sender", None, |loom| sender_sleeps(loom, limits(1, 2), 1, Polling::Never));

pub const WAKE_BOTH: Model = model("wake_both", Some(3), |loom| {
    both_sleep(loom, limits(1, 2), 4, Waiting::Sleeps, Polling::Never);
});

pub const WAKE_TWO_ROOM: Model = model("wake_two_room_first", Some(3), |loom| {
    two_sleepers(loom, limits(1, 2), First::Room);
});

pub const WAKE_TWO_MESSAGE: Model = model("wake_two_message_first", Some(3), |loom| {
    two_sleepers(loom, limits(1, 2), First::Message);
});

pub const WAKE_RECEIVER_POLLING: Model = model("wake_receiver_polling", None, |loom| {
    both_sleep(loom, limits(4, 2), 2, Waiting::Sleeps, Polling::Both);
});

pub const WAKE_SENDER_POLLING: Model = model("wake_sender_polling", None, |loom| {
    sender_sleeps(loom, limits(1, 2), 1, Polling::Both);
});

/// A store without a fence may become visible as late as in a later sleep.
pub const WAKE_SENDER_TWICE_POLLING: Model = model("wake_sender_twice_polling", Some(4), |loom| {
    sender_sleeps(loom, limits(1, 3), 2, Polling::Both);
});

pub const WAKE_BOTH_POLLING: Model = model("wake_both_polling", Some(2), |loom| {
    both_sleep(loom, limits(1, 2), 4, Waiting::Sleeps, Polling::Both);
});

/// Pages + 2 messages, so that each page is reused while the reader reads it.
pub const REMOVED: Model = model("removed_copies", Some(3), |loom| removed::copies(loom, 4, 4));

pub const REMOVED_IN_PLACE: Model =
    model("removed_in_place", Some(3), |loom| removed::reads_in_place(loom, 8, 6));

pub const SKIPPED: Model = model("skipped_copies", Some(4), |loom| {
    skipped::receives_again(loom, 4, false, Mistake::None);
});

pub const SKIPPED_IN_PLACE: Model = model("skipped_in_place", None, |loom| {
    skipped::receives_again(loom, 5, true, Mistake::None);
});

/// What a sender and a receiver must not do about a skipped receiver.
pub const SKIPPED_MISTAKES: [Model; 5] = [
    model("skipped, not marked", Some(2), |loom| {
        skipped::receives_again(loom, 3, false, Mistake::Unmarked);
    }),
    model("skipped, counted too early", Some(2), |loom| {
        skipped::receives_again(loom, 3, false, Mistake::CountedEarly);
    }),
    model("skipped, reads after asking", Some(2), |loom| {
        skipped::receives_again(loom, 3, false, Mistake::ReadsAfterAsking);
    }),
    model("skipped in place, reads after asking", Some(2), |loom| {
        skipped::receives_again(loom, 4, true, Mistake::ReadsAfterAsking);
    }),
    model("skipped, asks with its old cursor", Some(2), |loom| {
        skipped::receives_again(loom, 3, false, Mistake::OldCursor);
    }),
];

pub const REF_REMOVED: Model = model("ref_removed", Some(3), by_ref::removed_copies);

pub const REF_REMOVED_IN_PLACE: Model =
    model("ref_removed_in_place", None, by_ref::removed_in_place);

/// The broker has forwarded everything that it has released: a process that sees the release sees
/// the message.
pub const BROKER: Model = model("broker_sends_on", Some(4), |loom| {
    broker_dies(loom, BUS_OF_ONE, usize::MAX);
});

/// What a dead broker had consumed is what its memory says.
pub const INTENTS: Model =
    model("broker_dies_alone", None, |loom| broker_dies_alone(loom, BUS_OF_INTENTS));

/// The words of a broker that is not known to be dead are found in the opposite order.
pub const INTENTS_READ: Model =
    model("intents_read", None, |loom| intents_read(loom, BUS_OF_INTENTS));

/// The broker's fence is for the client that sleeps, whatever the others do.
pub const BROKER_BESIDE_POLLING: Model = model("broker_beside_polling", None, |loom| {
    one_polls_and_one_sleeps(loom, 1);
});

pub const REF: Model = model("by_ref", None, |loom| {
    by_reference(loom, REF_SIZE, &Lives::endless());
});

pub const REF_LONGER: Model = model("ref_longer", Some(4), |loom| {
    by_reference(
        loom,
        by_ref::Size { by_ref: 1, tries: 3, cycles: 3, steps: 3, ..REF_SIZE },
        &Lives::endless(),
    );
});

pub const REF_BROKER_ASLEEP: Model =
    model("ref_broker_asleep", None, |loom| broker_asleep(loom, 5));

pub const REF_ASLEEP: Model = model("ref_asleep", Some(3), |loom| ref_asleep(loom, 5));

/// The sender writes each of its pages again after the hook has seen a message there.
pub const REF_HOOKED: Model = model("ref_hooked", Some(3), |loom| {
    by_ref::hooked::hooked(
        loom,
        by_ref::Size { by_ref: 1, tries: 3, cycles: 3, steps: 3, ..REF_SIZE },
    );
});

/// A release is due after one message, or after two.
pub const REF_DUE_1: Model = model("ref_due_1", None, |loom| by_ref::due::release(loom, 1));
pub const REF_DUE_2: Model = model("ref_due_2", None, |loom| by_ref::due::release(loom, 2));

pub const PLACE_REMOVED: Model = model("place_behind_removed", None, by_ref::place::removed_reader);

pub const PLACE: Model = model("place_behind_reader", Some(3), by_ref::place::reader);

pub const REF_FLUSH: Model = model("ref_flush", None, flush);

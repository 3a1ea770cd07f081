//! The scenarios that Miri runs, in production's memory and in that of a mutant.

use crate::broker::{self, broker_dies_alone, intents_read};
use crate::doorbell::{Polling, Waiting, both_sleep, sender_sleeps};
use crate::scenario::Runtime;
use crate::scenario::by_ref::{self, Lives, broker_asleep, by_reference, flush};
use crate::scenario::chain::{
    Size, batch, deliver, drop_claims, join_during_reuse, leave_during_reuse, limits,
};
use crate::scenario::removed;
use llmp::core::wire::Roles;

const SHORT: Size = Size { messages_per_page: 2, pages: 3, messages: 20, receivers: 2, steps: 40 };
const ONE: Size = Size { receivers: 1, ..SHORT };
const REF_SIZE: by_ref::Size =
    by_ref::Size { by_ref: 2, messages: 6, tries: 4, cycles: 4, steps: 4 };

const BUS: broker::Size = broker::Size {
    messages_per_page: 4,
    pages: 2,
    messages: 3,
    roles: &[Roles::SEND, Roles::RECEIVE],
    cycles: 3,
    steps: 4,
};

/// A scenario by name.
pub type Scenario<R> = (&'static str, fn(&R));

/// Returns all scenarios.
pub fn all<R: Runtime>() -> Vec<Scenario<R>> {
    vec![
        ("deliver", |runtime| deliver(runtime, SHORT)),
        ("drop_claims", |runtime| drop_claims(runtime, ONE)),
        ("join", |runtime| join_during_reuse(runtime, SHORT, 4)),
        ("leave", |runtime| leave_during_reuse(runtime, SHORT)),
        ("batch", |runtime| batch(runtime, Size { messages: 6, steps: 20, ..ONE })),
        ("both_sleep", |runtime| {
            both_sleep(runtime, limits(2, 2), 10, Waiting::Sleeps, Polling::Never);
        }),
        ("sender_sleeps", |runtime| sender_sleeps(runtime, limits(2, 2), 1, Polling::Never)),
        ("by_reference", |runtime| {
            assert!(!by_reference(runtime, REF_SIZE, &Lives::endless()), "all live");
        }),
        ("broker_asleep", |runtime| broker_asleep(runtime, 6)),
        ("flush", flush),
        ("removed_copies", |runtime| removed::copies(runtime, 6, 10)),
        ("removed_in_place", |runtime| removed::reads_in_place(runtime, 6, 10)),
        ("ref_removed", by_ref::removed_copies),
        ("ref_removed_in_place", by_ref::removed_in_place),
        ("broker_dies_alone", |runtime| broker_dies_alone(runtime, BUS)),
        ("intents_read", |runtime| intents_read(runtime, BUS)),
    ]
}

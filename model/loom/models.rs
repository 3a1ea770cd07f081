//! The models of the chain and of the doorbell.

use crate::doorbell::{Waiting, both_sleep};
use crate::explore::{Loom, model};
use crate::scenario::chain::{Size, batch, deliver, join_during_reuse, leave_during_reuse, limits};

const ONE_PAGE: Size = Size { messages_per_page: 4, pages: 2, messages: 3, receivers: 1, steps: 4 };
const TURN: Size = Size { messages_per_page: 2, pages: 2, messages: 4, receivers: 1, steps: 6 };
/// Pages + 2 messages, so that pages are written again: fewer miss bugs of reuse.
const REUSE: Size = Size { messages_per_page: 1, pages: 2, messages: 4, receivers: 1, steps: 7 };

pub fn commit_1(runtime: &Loom) {
    deliver(runtime, ONE_PAGE);
}

pub fn commit_2(runtime: &Loom) {
    deliver(runtime, Size { receivers: 2, messages: 2, steps: 3, ..ONE_PAGE });
}

pub fn turn(runtime: &Loom) {
    deliver(runtime, TURN);
}

pub fn reuse_1(runtime: &Loom) {
    deliver(runtime, REUSE);
}

pub fn reuse_2(runtime: &Loom) {
    deliver(runtime, Size { receivers: 2, steps: 4, ..REUSE });
}

pub fn join(runtime: &Loom) {
    join_during_reuse(runtime, Size { steps: 3, ..REUSE }, 2);
}

pub fn leave(runtime: &Loom) {
    leave_during_reuse(runtime, Size { steps: 4, ..REUSE });
}

pub fn batch_over_turn(runtime: &Loom) {
    batch(runtime, Size { messages_per_page: 2, pages: 2, messages: 4, receivers: 1, steps: 3 });
}

pub fn wake_receiver(runtime: &Loom) {
    both_sleep(runtime, limits(4, 2), 2, Waiting::Sleeps);
}

pub fn wake_both(runtime: &Loom) {
    both_sleep(runtime, limits(1, 2), 4, Waiting::Sleeps);
}

#[test]
fn p1_p3_one_sender_and_one_receiver() {
    model("commit_1_receiver", None, commit_1);
}

#[test]
fn p1_p3_one_sender_and_two_receivers() {
    model("commit_2_receivers", None, commit_2);
}

#[test]
fn p1_p3_page_turn() {
    model("page_turn", None, turn);
}

#[test]
fn p8_reuse_with_one_receiver() {
    model("reuse_1_receiver", None, reuse_1);
}

#[test]
fn p8_reuse_with_two_receivers() {
    model("reuse_2_receivers", Some(3), reuse_2);
}

#[test]
fn p8_a_receiver_joins_during_reuse() {
    model("join_during_reuse", None, join);
}

#[test]
fn p8_a_receiver_leaves_for_good_during_reuse() {
    model("leave_during_reuse", None, leave);
}

#[test]
fn p3_a_batch_is_visible_at_once() {
    model("batch_over_page_turn", None, batch_over_turn);
}

#[test]
fn p10_a_sleeping_receiver_is_woken() {
    model("wake_receiver", None, wake_receiver);
}

#[test]
fn p9_p10_a_sleeping_sender_and_a_sleeping_receiver_are_woken() {
    model("wake_both", Some(3), wake_both);
}

//! The models as tests, named after the promises that they show.

use crate::models;

#[test]
fn p1_p3_one_sender_and_one_receiver() {
    models::COMMIT_1.check();
}

#[test]
fn p1_p3_one_sender_and_two_receivers() {
    models::COMMIT_2.check();
}

#[test]
fn p1_p3_page_rollover() {
    models::TURNS.check();
}

#[test]
fn p8_reuse_with_one_receiver() {
    models::REUSE_1.check();
}

#[test]
fn p8_reuse_with_two_receivers() {
    models::REUSE_2.check();
}

#[test]
fn p8_reuse_with_two_receivers_that_go_further() {
    models::REUSE_2_LONGER.check();
}

#[test]
fn p8_a_page_is_not_reused_behind_its_end_of_page_message() {
    models::REUSE_AT_END.check();
}

#[test]
fn p3_p8_claims_that_are_dropped_after_a_page_rollover() {
    models::DROPPED_CLAIMS.check();
}

#[test]
fn p8_a_receiver_joins_during_reuse() {
    models::JOIN.check();
}

#[test]
fn p8_a_receiver_leaves_for_good_during_reuse() {
    models::LEAVE.check();
}

#[test]
fn p8_a_removed_receiver_that_copies_takes_nothing_torn() {
    models::REMOVED.check();
}

#[test]
fn p8_a_removed_receiver_that_reads_in_place_sees_no_change() {
    models::REMOVED_IN_PLACE.check();
}

#[test]
fn p8_a_removed_receiver_copies_nothing_torn_of_a_clients_page() {
    models::REF_REMOVED.check();
}

#[test]
fn p8_a_removed_receiver_in_a_clients_page_sees_no_change() {
    models::REF_REMOVED_IN_PLACE.check();
}

#[test]
fn p3_p8_a_skipped_receiver_receives_again() {
    models::SKIPPED.check();
    models::SKIPPED_IN_PLACE.check();
}

#[test]
fn p3_p8_each_mistake_about_a_skipped_receiver_is_noticed() {
    models::SKIPPED_MISTAKES.iter().for_each(|model| model.fails());
}

#[test]
fn p3_a_batch_is_visible_at_once() {
    models::BATCH.check();
}

#[test]
fn p10_a_sleeping_receiver_is_woken() {
    models::WAKE_RECEIVER.check();
}

#[test]
fn p10_a_receiver_that_takes_rings_while_awake_is_woken() {
    models::WAKE_RECEIVER_TAKES_RINGS.check();
}

#[test]
fn p9_p10_a_sleeping_sender_is_woken_by_an_awake_receiver() {
    models::WAKE_SENDER.check();
}

#[test]
fn p9_p10_a_sleeping_sender_and_a_sleeping_receiver_are_woken() {
    models::WAKE_BOTH.check();
}

#[test]
fn p10_two_halves_that_sleep_in_two_threads_are_woken() {
    models::WAKE_TWO_ROOM.check();
    models::WAKE_TWO_MESSAGE.check();
}

#[test]
fn p10_a_receiver_that_polls_and_then_sleeps_goes_on() {
    models::WAKE_RECEIVER_POLLING.check();
}

#[test]
fn p9_p10_a_sender_that_polls_and_then_sleeps_goes_on() {
    models::WAKE_SENDER_POLLING.check();
}

#[test]
fn p9_p10_a_sender_that_polls_and_then_sleeps_twice_goes_on() {
    models::WAKE_SENDER_TWICE_POLLING.check();
}

#[test]
fn p9_p10_both_poll_and_sleep_and_go_on() {
    models::WAKE_BOTH_POLLING.check();
}

#[test]
fn p3_a_broker_sends_on_before_it_gives_up() {
    models::BROKER.check();
    models::INTENTS.check();
    models::INTENTS_READ.check();
}

#[test]
fn p10_a_sleeping_client_is_woken_beside_one_that_polls() {
    models::BROKER_BESIDE_POLLING.check();
}

#[test]
fn p8_a_referenced_payload_is_not_written_while_it_is_read() {
    models::REF.check();
}

#[test]
fn p8_a_newly_referenced_payload_is_not_written_while_read() {
    models::REF_LONGER.check();
}

#[test]
fn p9_p10_a_sleeping_broker_is_woken_by_a_release() {
    models::REF_BROKER_ASLEEP.check();
}

#[test]
fn p9_p10_all_three_sleep_by_reference_and_are_woken() {
    models::REF_ASLEEP.check();
}

#[test]
fn p3_p10_a_flush_ends_while_messages_are_still_referenced() {
    models::REF_FLUSH.check();
}

#[test]
fn p8_p9_p10_a_release_that_is_due_wakes_the_broker() {
    models::REF_DUE_1.check();
    models::REF_DUE_2.check();
}

#[test]
fn p8_an_entry_is_given_away_while_pages_behind_it_are_retired() {
    models::PLACE_REMOVED.check();
}

#[test]
fn p3_p8_an_entry_is_given_away_while_a_page_behind_it_is_read() {
    models::PLACE.check();
}

#[test]
fn p3_p8_a_hook_sees_each_message_whole() {
    models::REF_HOOKED.check();
}

#[test]
fn p8_p9_a_chain_grows_to_its_reuse_distance() {
    models::REUSE_DISTANCE.check();
    models::REUSE_BELOW.check();
    models::REUSE_NO_MEMORY.check();
}

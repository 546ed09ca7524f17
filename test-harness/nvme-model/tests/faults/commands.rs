//! Commands that are late, lost, overtaken or refused.

use std::time::Duration;

use sheen_nvme_model::{Fault, Rule, Status, command::nvm};

use super::scene::play;

#[test]
fn commands_that_take_their_time_are_waited_for() {
    let slow = Rule::next_io(Fault::Delay(Duration::from_millis(60))).times(20);
    let outcome = play(&[slow]);
    outcome.assert_unnoticed();
}

#[test]
fn commands_that_are_overtaken_keep_their_own_answers() {
    let outcome = play(&[Rule::next_io(Fault::Reorder(5)).sometimes(200)]);
    outcome.assert_unnoticed();
}

#[test]
fn a_command_that_is_late_is_aborted_and_sent_again() {
    let outcome = play(&[Rule::next_io(Fault::Delay(Duration::from_secs(30))).skipping(20)]);
    outcome.assert_unnoticed();
    assert!(outcome.counts.aborts >= 1, "{outcome:?}");
}

#[test]
fn a_command_that_is_stuck_is_aborted_and_sent_again() {
    let outcome = play(&[Rule::next_io(Fault::Stick).skipping(20)]);
    outcome.assert_unnoticed();
    assert!(outcome.counts.aborts >= 1, "{outcome:?}");
}

#[test]
fn a_lost_completion_is_mended_by_a_reset() {
    let outcome = play(&[Rule::next_io(Fault::Lose).skipping(20)]);
    outcome.assert_mended_by_reset();
    assert!(outcome.counts.aborts >= 1, "an abort comes before the reset: {outcome:?}");
}

#[test]
fn a_queue_that_never_completes_is_mended_by_a_reset() {
    play(&[Rule::next_io(Fault::QueueStops).skipping(20)]).assert_mended_by_reset();
}

#[test]
fn an_unrecovered_read_is_the_callers_to_mend() {
    let lost = Rule::next_of(nvm::READ, Fault::Status(Status::UNRECOVERED_READ));
    let outcome = play(&[lost.skipping(20).times(3)]);
    assert_eq!((outcome.errors(), outcome.struck), (3, 3), "{outcome:?}");
    assert_eq!(outcome.counts.resets, 0, "{outcome:?}");
}

#[test]
fn a_write_fault_is_told_to_the_writer() {
    let fault = Rule::next_of(nvm::WRITE, Fault::Status(Status::WRITE_FAULT));
    let outcome = play(&[fault.skipping(20).times(2)]);
    assert_eq!((outcome.errors(), outcome.struck), (2, 2), "{outcome:?}");
}

#[test]
fn an_error_that_may_be_retried_is() {
    let outcome = play(&[Rule::next_io(Fault::Status(Status::INTERNAL)).skipping(20).times(2)]);
    outcome.assert_unnoticed();
}

#[test]
fn an_error_that_stays_is_not_retried_for_ever() {
    let always = Rule::next_of(nvm::FLUSH, Fault::Status(Status::INTERNAL)).times(u32::MAX);
    let outcome = play(&[always]);
    assert!(outcome.errors() > 0, "{outcome:?}");
    assert!(outcome.struck <= 3 * outcome.errors(), "three attempts each: {outcome:?}");
}

#[test]
fn a_storm_of_events_disturbs_no_command() {
    let outcome = play(&[Rule::next_io(Fault::EventStorm(500)).skipping(10)]);
    outcome.assert_unnoticed();
    assert!(!outcome.notices.is_empty(), "events were told: {outcome:?}");
}

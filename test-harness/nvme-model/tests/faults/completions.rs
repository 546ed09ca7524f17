//! Completions that are wrong: the queue stops with the reason, the other goes on.

use sheen_nvme::driver::QueueFault;
use sheen_nvme_model::{Fault, QueueChoice, Rule};

use super::scene::play;

/// The fault strikes one queue only.
fn in_the_first_queue(fault: Fault) -> Rule {
    Rule { queue: QueueChoice::One(1), ..Rule::next_io(fault).skipping(30) }
}

#[test]
fn a_completion_that_comes_twice_stops_its_queue() {
    let outcome = play(&[in_the_first_queue(Fault::Duplicate)]);
    outcome.assert_one_queue_stopped(|fault| matches!(fault, QueueFault::UnknownCommand { .. }));
}

#[test]
fn a_completion_for_a_free_slot_stops_its_queue() {
    let outcome = play(&[in_the_first_queue(Fault::FreeSlot)]);
    outcome.assert_one_queue_stopped(|fault| matches!(fault, QueueFault::UnknownCommand { .. }));
}

#[test]
fn a_completion_with_an_impossible_identifier_stops_its_queue() {
    let outcome = play(&[in_the_first_queue(Fault::CidOutOfRange)]);
    outcome.assert_one_queue_stopped(|fault| fault == QueueFault::UnknownCommand { cid: 0xffff });
}

#[test]
fn a_completion_for_another_queue_stops_the_one_it_is_in() {
    let outcome = play(&[in_the_first_queue(Fault::WrongQueue)]);
    outcome.assert_one_queue_stopped(|fault| {
        fault == QueueFault::WrongQueue { expected: 1, found: 0x41 }
    });
}

#[test]
fn an_impossible_submission_head_stops_the_queue() {
    let outcome = play(&[in_the_first_queue(Fault::ImpossibleHead)]);
    outcome.assert_one_queue_stopped(|fault| matches!(fault, QueueFault::WrongHead { .. }));
}

#[test]
fn a_completion_whose_phase_hides_it_is_mended_by_a_reset() {
    play(&[in_the_first_queue(Fault::WrongPhase)]).assert_mended_by_reset();
}

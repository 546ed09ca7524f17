//! Controllers that fail as a whole: fatal errors, resets that take long or do not end.

use std::time::Duration;

use sheen_nvme::driver::{ControllerState, Notice};
use sheen_nvme_model::{Config, Fault, Readiness, Rule};

use super::scene::{Outcome, play, play_with};

const LOSE: Rule = Rule::next_io(Fault::Lose).skipping(20);

#[test]
fn a_fatal_error_is_mended_by_a_reset_and_told() {
    let outcome = play(&[Rule::next_io(Fault::Fatal).skipping(20)]);
    outcome.assert_mended_by_reset();
    assert!(outcome.notices.contains(&Notice::Fatal), "{outcome:?}");
}

/// A reset is needed, and from then on takes as long as this.
fn reset_that(enable: Readiness, disable: Readiness) -> Outcome {
    play_with(Config::default(), |model| {
        model.with(|controller, _| {
            controller.plan().add(LOSE);
            controller.config_mut().enable = enable;
            controller.config_mut().disable = disable;
        });
    })
}

#[test]
fn a_reset_as_slow_as_promised_is_waited_for() {
    // CAP.TO is a second.
    let slow = Readiness::After(Duration::from_millis(800));
    reset_that(slow, Readiness::AtOnce).assert_mended_by_reset();
    reset_that(Readiness::AtOnce, slow).assert_mended_by_reset();
}

#[test]
fn a_reset_slower_than_promised_ends_everything() {
    let outcome = reset_that(Readiness::After(Duration::from_secs(600)), Readiness::AtOnce);
    assert_eq!(outcome.state, ControllerState::GivenUp, "{outcome:?}");
    assert!(outcome.errors() > 0, "{outcome:?}");
}

#[test]
fn a_reset_that_never_ends_ends_everything() {
    let outcome = reset_that(Readiness::Never, Readiness::AtOnce);
    assert_eq!(outcome.state, ControllerState::GivenUp, "{outcome:?}");
    assert!(outcome.errors() > 0, "{outcome:?}");
}

#[test]
fn a_controller_that_does_not_stop_is_stopped_by_a_function_reset() {
    reset_that(Readiness::AtOnce, Readiness::Never).assert_mended_by_reset();
}

#[test]
fn a_controller_that_fails_again_and_again_wears_out_its_commands_not_the_driver() {
    let outcome = play(&[Rule::next_io(Fault::Fatal).skipping(5).times(40)]);
    assert!(outcome.counts.resets >= 3, "{outcome:?}");
}

#[test]
fn a_torn_write_is_written_again_in_whole() {
    use sheen_nvme::driver::Durability;
    use sheen_nvme_model::{Model, Pace, command::nvm, rig::Rig};
    use sheen_types::Lba;

    let model = Model::new(Config::default(), Pace::Thread).unwrap();
    let transport = Box::new(model.transport().unwrap());
    let rig = Rig::attach_with(transport, 16 << 20, super::scene::options()).unwrap();
    let mut pair = rig.pair(4).unwrap();
    model.with(|c, _| c.plan().add(Rule::next_of(nvm::WRITE, Fault::TornWrite)));
    let mut buffer = rig.arena.allocate(8 * 4096).unwrap();
    buffer.as_mut_slice().fill(7);
    pair.write(Lba(0), buffer, Durability::Durable, 1).unwrap();
    pair.ring();
    let mut ended = Vec::new();
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while pair.poll(&mut ended) == 0 {
        assert!(std::time::Instant::now() < end, "the write ends");
        std::thread::yield_now();
    }
    let written = ended.pop().unwrap();
    assert_eq!(written.result, Ok(()));
    assert!(rig.controller.counts().resets >= 1);
    let mut buffer = written.buffer.unwrap();
    buffer.as_mut_slice().fill(0);
    pair.read(Lba(0), buffer, 2).unwrap();
    pair.ring();
    while pair.poll(&mut ended) == 0 {
        std::thread::yield_now();
    }
    let read = ended.pop().unwrap().buffer.unwrap();
    assert!(read.as_slice().iter().all(|byte| *byte == 7));
}

/// Found by chaos (seed 1020): a thread that was parked, and slept through the order to run and the next one to park, did not
/// say again that it is parked, and was left out for ever.
#[test]
fn a_thread_that_sleeps_from_one_reset_into_the_next_joins_after_it() {
    use sheen_nvme_model::{Model, Pace, rig::Rig};
    use sheen_types::Lba;

    let model = Model::new(Config::default(), Pace::Thread).unwrap();
    let transport = Box::new(model.transport().unwrap());
    let rig = Rig::attach_with(transport, 16 << 20, super::scene::options()).unwrap();
    let mut pair = rig.pair(4).unwrap();
    let mut ended = Vec::new();
    // The thread parks late, and is let run again while it sleeps.
    rig.controller.reset().unwrap();
    pair.poll(&mut ended);
    std::thread::sleep(Duration::from_millis(100));
    rig.controller.reset().unwrap();
    let buffer = rig.arena.allocate(4096).unwrap();
    pair.read(Lba(0), buffer, 1).unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while ended.is_empty() {
        assert!(std::time::Instant::now() < end, "the read ends");
        pair.ring();
        pair.poll(&mut ended);
        std::thread::yield_now();
    }
    assert_eq!(ended[0].result, Ok(()));
}

//! Devices that go: at once, or with notice. Every command ends as gone, every buffer comes back.

use std::time::{Duration, Instant};

use sheen_nvme::driver::{AttachError, ControllerState, QueueError};
use sheen_nvme_model::{
    Config, Fault, Model, Pace, Rule,
    rig::{Rig, RigError},
};

use super::scene::{options, play, play_with, wait_for};

#[test]
fn a_device_pulled_in_the_middle_of_a_command_ends_everything() {
    play(&[Rule::next_io(Fault::SurpriseRemoval).skipping(20)]).assert_gone();
}

#[test]
fn a_device_pulled_between_commands_ends_everything() {
    let outcome = play_with(Config::default(), |model| {
        std::thread::sleep(Duration::from_millis(30));
        model.with(|controller, _| controller.remove_by_surprise());
    });
    assert_eq!(outcome.state, ControllerState::Gone, "{outcome:?}");
}

#[test]
fn a_device_that_says_it_goes_ends_everything() {
    play(&[Rule::next_io(Fault::HotRemoval).skipping(20)]).assert_gone();
}

#[test]
fn a_device_that_is_not_there_is_not_attached() {
    let model = Model::new(Config::default(), Pace::Thread).unwrap();
    let transport = Box::new(model.transport().unwrap());
    model.with(|controller, _| controller.remove_by_surprise());
    let refused = Rig::attach_with(transport, 1 << 20, options()).unwrap_err();
    assert_eq!(refused, RigError::Attach(AttachError::Gone));
}

#[test]
fn a_queue_pair_of_a_device_that_is_gone_is_refused_in_time() {
    let model = Model::new(Config::default(), Pace::Thread).unwrap();
    let transport = Box::new(model.transport().unwrap());
    let rig = Rig::attach_with(transport, 4 << 20, options()).unwrap();
    model.with(|controller, _| controller.remove_by_surprise());
    let begun = Instant::now();
    let refused = rig.pair(4).unwrap_err();
    assert!(matches!(refused, QueueError::Admin(_)), "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    wait_for(|| rig.controller.state() == ControllerState::Gone, "the loss is noticed");
    let arena = rig.detach();
    assert_eq!(arena.free_bytes(), arena.bytes());
}

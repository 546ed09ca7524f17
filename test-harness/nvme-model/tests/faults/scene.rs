//! Two queue pairs under load, a fault, and what came of it.

use std::time::{Duration, Instant};

use sheen_nvme::driver::{ControllerCounts, ControllerState, Notice, Options, QueueFault};
use sheen_nvme_model::{
    Config, Model, Pace, Rule,
    rig::{Rig, impatient},
    tally::Tally,
    workload::{Errors, Plan, Workload},
};

/// Everything ends within this time, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
const COMMANDS: u64 = 400;
const BLOCKS: u64 = 1024;

/// What a scene came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Of each queue pair.
    pub(crate) tallies: Vec<Tally>,
    pub(crate) counts: ControllerCounts,
    pub(crate) notices: Vec<Notice>,
    pub(crate) state: ControllerState,
    pub(crate) struck: u64,
}

impl Outcome {
    pub(crate) fn errors(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.errors).sum()
    }

    /// Every fault found in a queue.
    pub(crate) fn queue_faults(&self) -> Vec<QueueFault> {
        let fault = |notice: &Notice| match notice {
            Notice::QueueStopped { fault, .. } => Some(*fault),
            _ => None,
        };
        self.notices.iter().filter_map(fault).collect()
    }

    /// Nobody above noticed anything.
    pub(crate) fn assert_unnoticed(&self) {
        assert_eq!(self.errors(), 0, "{self:?}");
        assert_eq!(self.state, ControllerState::Live, "{self:?}");
        assert!(self.struck > 0, "the fault happened: {self:?}");
    }

    /// Unnoticed, at the price of a reset.
    pub(crate) fn assert_mended_by_reset(&self) {
        self.assert_unnoticed();
        assert!(self.counts.resets >= 1, "{self:?}");
    }

    /// One queue stopped, for this reason; the other went on without an error.
    pub(crate) fn assert_one_queue_stopped(&self, is_reason: impl Fn(QueueFault) -> bool) {
        assert!(self.struck > 0, "the fault happened: {self:?}");
        let faults = self.queue_faults();
        assert!(faults.iter().any(|fault| is_reason(*fault)), "{self:?}");
        let failed = self.tallies.iter().filter(|tally| tally.errors > 0).count();
        assert_eq!(failed, 1, "one queue stopped, the other did not: {self:?}");
        assert_eq!(self.state, ControllerState::Live, "{self:?}");
    }

    /// Everything ended because the controller is gone.
    pub(crate) fn assert_gone(&self) {
        assert_eq!(self.state, ControllerState::Gone, "{self:?}");
        assert!(self.tallies.iter().all(|tally| tally.errors > 0), "{self:?}");
    }
}

pub(crate) fn options() -> Options {
    Options { command_wait: Duration::from_millis(500), ..impatient() }
}

/// Plays the rules under load on two queue pairs.
pub(crate) fn play(rules: &[Rule]) -> Outcome {
    play_with(Config::default(), |model| {
        model.with(|controller, _| rules.iter().for_each(|rule| controller.plan().add(*rule)));
    })
}

/// The same on a controller of this kind; `strike` is called when the load runs.
pub(crate) fn play_with(config: Config, strike: impl FnOnce(&Model)) -> Outcome {
    let begun = Instant::now();
    let model = Model::new(config, Pace::Thread).unwrap();
    let transport = Box::new(model.transport().unwrap());
    let rig = Rig::attach_with(transport, 32 << 20, options()).unwrap();
    let free = rig.arena.free_bytes();
    let tallies = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2_u64)
            .map(|number| {
                let mut pair = rig.pair(16).unwrap();
                let arena = rig.arena.clone();
                let plan = Plan {
                    seed: number,
                    first: number * BLOCKS,
                    blocks: BLOCKS,
                    depth: 16,
                    transfer_blocks_max: 32,
                    errors: Errors::AreExpected,
                    patience: PATIENCE,
                };
                scope.spawn(move || {
                    let mut workload = Workload::new(plan, arena);
                    // The fault comes in the middle of this.
                    workload.run(&mut pair, COMMANDS).unwrap();
                    workload.run(&mut pair, COMMANDS).unwrap();
                    workload.read_all(&mut pair).unwrap();
                    assert_eq!(pair.in_flight(), 0);
                    workload.tally()
                })
            })
            .collect();
        strike(&model);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let outcome = Outcome {
        tallies,
        counts: rig.controller.counts(),
        notices: rig.controller.take_notices(),
        state: rig.controller.state(),
        struck: model.with(|controller, _| controller.plan().struck()),
    };
    let kept: u64 = outcome.tallies.iter().map(|tally| tally.kept_buffers).sum();
    assert_eq!(kept, 0, "every buffer came back: {outcome:?}");
    wait_for(|| rig.arena.free_bytes() == free, "every byte of the arena comes back");
    let arena = rig.detach();
    wait_for(|| arena.free_bytes() == arena.bytes(), "nothing is kept after detaching");
    assert!(begun.elapsed() < PATIENCE, "within {PATIENCE:?}: {:?}", begun.elapsed());
    outcome
}

pub(crate) fn wait_for(is_so: impl Fn() -> bool, what: &str) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

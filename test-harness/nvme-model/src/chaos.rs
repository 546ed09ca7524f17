//! The driver against a controller that misbehaves at random: no panic, no hang, no wrong byte, no lost buffer.
//!
//! An episode is a controller drawn from a seed (its shape, how it resets, one to four faults with their odds), three
//! queue pairs under load, and an end. Episodes follow each other for a time; the seed of each is the last one's plus one, so
//! that a failure is repeated by `--seed` with the number told.

use std::{
    fmt,
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use sheen_nvme::driver::Options;

use crate::{
    chance::Chance,
    config::{Config, Readiness, Shadow},
    faults::{Fault, QueueChoice, Rule},
    medium::MediumKind,
    model::{Model, Pace},
    rig::{Rig, RigError},
    status::Status,
    tally::{Failure, Tally},
    workload::{Errors, Plan, Workload},
};

/// What many episodes came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Episodes played.
    pub episodes: u64,
    /// Controllers that could not be attached, which is an answer, too.
    pub refused: u64,
    /// Commands struck by a fault.
    pub struck: u64,
    /// Resets by the driver.
    pub resets: u64,
    /// Aborts by the driver.
    pub aborts: u64,
    /// What the queue pairs did.
    pub tally: Tally,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} episodes ({} controllers refused), {} faults, {} resets, {} aborts; {}",
            self.episodes, self.refused, self.struck, self.resets, self.aborts, self.tally
        )
    }
}

/// What must not happen in an episode.
#[derive(Debug)]
pub enum Broken {
    /// A queue pair's work went wrong.
    Work(Failure),
    /// Not everything of the arena came back.
    Memory {
        /// Bytes that are missing.
        missing: usize,
    },
    /// A thread of it panicked.
    Panicked,
    /// It did not end.
    Hung,
}

/// An episode that broke, by its seed.
#[derive(Debug)]
pub struct Finding {
    /// Repeats it.
    pub seed: u64,
    /// What happened.
    pub broken: Broken,
}

/// An episode that takes longer is hung.
const EPISODE_TIME_MAX: Duration = Duration::from_secs(240);
/// A command that takes longer is hung: several resets, each with an admin command that is never answered.
const PATIENCE: Duration = Duration::from_secs(120);
const PAIRS: u64 = 3;
const BLOCKS: u64 = 512;
const COMMANDS: u64 = 600;
const ARENA_BYTES: usize = 32 << 20;

/// Plays episodes for `time`, and one at least.
///
/// # Errors
/// [`Finding`]: the first one that broke.
pub fn play(first_seed: u64, time: Duration) -> Result<Report, Finding> {
    let begun = Instant::now();
    let mut report = Report::default();
    let mut seed = first_seed;
    loop {
        let (sender, receiver) = channel();
        let builder = std::thread::Builder::new().name("episode".to_owned());
        let spawned = builder.spawn(move || {
            // Nobody waits any more when it came too late.
            let _ = sender.send(episode(seed));
        });
        let outcome = match (spawned, receiver.recv_timeout(EPISODE_TIME_MAX)) {
            (Ok(_), Ok(outcome)) => outcome,
            (_, Err(RecvTimeoutError::Timeout)) => Err(Broken::Hung),
            (Err(_), _) | (_, Err(RecvTimeoutError::Disconnected)) => Err(Broken::Panicked),
        };
        let played = outcome.map_err(|broken| Finding { seed, broken })?;
        report.episodes += 1;
        report.refused += played.refused;
        report.struck += played.struck;
        report.resets += played.resets;
        report.aborts += played.aborts;
        report.tally.add(&played.tally);
        if begun.elapsed() >= time {
            return Ok(report);
        }
        seed = seed.wrapping_add(1);
    }
}

/// What a seed draws.
#[derive(Clone, Debug)]
pub struct Episode {
    config: Config,
    rules: Vec<Rule>,
    enable: Readiness,
    disable: Readiness,
    from_start: bool,
    options: Options,
}

impl Episode {
    /// The episode of `seed`.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let config = draw_config(&mut chance);
        Self {
            rules: draw_rules(&mut chance, &config),
            enable: draw_readiness(&mut chance),
            disable: draw_readiness(&mut chance),
            from_start: chance.happens(100),
            options: options(&mut chance),
            config,
        }
    }
}

/// One episode.
///
/// # Errors
/// [`Broken`].
pub fn episode(seed: u64) -> Result<Report, Broken> {
    let Episode { config, rules, enable, disable, from_start, options } = Episode::of(seed);
    let Ok(model) = Model::new(config, Pace::Thread) else { return Err(Broken::Panicked) };
    let Ok(transport) = model.transport() else { return Err(Broken::Panicked) };
    let arm = || {
        model.with(|controller, _| {
            *controller.plan() = crate::FaultPlan::with_seed(seed);
            rules.iter().for_each(|rule| controller.plan().add(*rule));
            controller.config_mut().enable = enable;
            controller.config_mut().disable = disable;
        });
    };
    if from_start {
        arm();
    }
    let mut report = Report { episodes: 1, ..Report::default() };
    let rig = match Rig::attach_with(Box::new(transport), ARENA_BYTES, options) {
        Ok(rig) => rig,
        Err(RigError::Attach(_)) if from_start => {
            report.refused = 1;
            return Ok(report);
        }
        Err(_) => return Err(Broken::Panicked),
    };
    report.tally = load(&rig, seed, arm)?;
    let counts = rig.controller.counts();
    (report.resets, report.aborts) = (counts.resets, counts.aborts);
    report.struck = model.with(|controller, _| controller.plan().struck());
    let arena = rig.detach();
    let missing = arena.bytes() - arena.free_bytes();
    if missing > 0 || report.tally.kept_buffers > 0 {
        return Err(Broken::Memory { missing });
    }
    Ok(report)
}

/// Drives every queue pair from a thread of its own; `arm` lets the faults begin.
fn load(rig: &Rig, seed: u64, arm: impl FnOnce()) -> Result<Tally, Broken> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..PAIRS {
            // A pair that is refused is an answer.
            let Ok(mut pair) = rig.pair(16) else { continue };
            let arena = rig.arena.clone();
            let plan = Plan {
                seed: seed.wrapping_add(number << 32),
                first: number * BLOCKS,
                blocks: BLOCKS,
                depth: pair.depth(),
                transfer_blocks_max: u64::from(pair.namespace().transfer_blocks_max).min(64),
                errors: Errors::AreExpected,
                patience: PATIENCE,
            };
            threads.push(scope.spawn(move || {
                let mut workload = Workload::new(plan, arena);
                workload.run(&mut pair, COMMANDS)?;
                workload.read_all(&mut pair)?;
                Ok(workload.tally())
            }));
        }
        arm();
        let mut sum = Tally::default();
        for thread in threads {
            let tally: Result<Tally, Failure> = thread.join().map_err(|_| Broken::Panicked)?;
            sum.add(&tally.map_err(Broken::Work)?);
        }
        Ok(sum)
    })
}

fn options(chance: &mut Chance) -> Options {
    Options {
        command_wait: Duration::from_millis(50 + chance.below(100)),
        tick: Duration::from_millis(5),
        use_sgl: chance.happens(500),
        ..Options::default()
    }
}

fn draw_config(chance: &mut Chance) -> Config {
    let shadow = match chance.below(4) {
        0 => Shadow::Polled,
        1 => Shadow::Kicked,
        _ => Shadow::Absent,
    };
    Config {
        bytes: PAIRS * BLOCKS * 4096,
        block_bytes: if chance.happens(300) { 512 } else { 4096 },
        // What a power cut loses is not the driver's to mend; here it loses nothing that was completed.
        has_cache: false,
        medium: MediumKind::Ram,
        spare_bytes: 0,
        queue_entries_max: [2, 3, 16, 1024][chance.index(4)],
        doorbell_stride: [0, 1][chance.index(2)],
        has_sgl: chance.happens(500),
        timeout_units: 1,
        shadow,
        ..Config::default()
    }
}

fn draw_readiness(chance: &mut Chance) -> Readiness {
    match chance.below(40) {
        0 => Readiness::Never,
        1..=5 => Readiness::After(Duration::from_millis(chance.below(700))),
        _ => Readiness::AtOnce,
    }
}

fn draw_rules(chance: &mut Chance, config: &Config) -> Vec<Rule> {
    let count = 1 + chance.below(4);
    (0..count)
        .map(|_| {
            let fault = draw_fault(chance, config);
            let queue = match chance.below(6) {
                0 => QueueChoice::Any,
                1 => QueueChoice::One(0),
                2 => QueueChoice::One(1),
                _ => QueueChoice::Io,
            };
            let skip = u32::try_from(chance.below(200)).unwrap_or(0);
            let rule = Rule { queue, ..Rule::next_io(fault).skipping(skip) };
            let is_of_admin = matches!(queue, QueueChoice::Any | QueueChoice::One(0));
            if is_for_good(fault) || (is_of_admin && is_silent(fault)) || chance.happens(500) {
                return rule;
            }
            rule.sometimes(1 + u32::try_from(chance.below(60)).unwrap_or(0))
        })
        .collect()
}

/// Whether striking twice makes no sense: the device is gone.
fn is_for_good(fault: Fault) -> bool {
    matches!(fault, Fault::SurpriseRemoval | Fault::HotRemoval)
}

/// Whether a command is never answered. The driver gives an admin command ten seconds, so that many would make an
/// episode of minutes, and tell nothing more.
fn is_silent(fault: Fault) -> bool {
    matches!(fault, Fault::Lose | Fault::Stick | Fault::WrongPhase | Fault::QueueStops)
}

fn draw_fault(chance: &mut Chance, config: &Config) -> Fault {
    let milliseconds = |chance: &mut Chance| Duration::from_millis(chance.below(200));
    match chance.below(20) {
        0 => Fault::Delay(milliseconds(chance)),
        1 => Fault::Reorder(1 + u32::try_from(chance.below(12)).unwrap_or(0)),
        2 => Fault::Lose,
        3 => Fault::Stick,
        4 => Fault::Duplicate,
        5 => Fault::CidOutOfRange,
        6 => Fault::FreeSlot,
        7 => Fault::WrongQueue,
        8 => Fault::WrongPhase,
        9 => Fault::ImpossibleHead,
        10 => Fault::Status(Status::UNRECOVERED_READ),
        11 => Fault::Status(Status::WRITE_FAULT),
        12 => Fault::Status(Status::INTERNAL),
        // Half a block is no block; a block of eight may be torn by this.
        13 if config.block_bytes == 4096 => Fault::TornWrite,
        14 => Fault::Fatal,
        15 => Fault::SurpriseRemoval,
        16 => Fault::HotRemoval,
        17 => Fault::QueueStops,
        18 => Fault::EventStorm(1 + u32::try_from(chance.below(300)).unwrap_or(0)),
        _ => Fault::Garbage(chance.next_u64()),
    }
}

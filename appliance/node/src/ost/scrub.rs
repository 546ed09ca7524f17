//! The background walk over everything an OST stores: one read at a time, within a bandwidth, verified here.
//!
//! A pass is all objects, then the journal and both copies of the checkpoint (what the store plans, see
//! `sheen_store::scrub`). Each read pays for itself: the next is not before its bytes at the bandwidth are over. While more than
//! half of the service's operations are taken it waits, but never longer than at an eighth of its bandwidth: under constant load a
//! pass takes eight times as long, and still ends. Without a buffer it waits a moment. Operators start, pause and resume it.
//! Owns the pin of the plan under way, where the pass is (the store keeps that in its anchor), and which faults were logged.
//! Deliberately absent: repair. There is no other copy here; a log's damaged batch is left behind by a checkpoint.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sheen_dma::Buffer;
use sheen_ports::{Block, Clock, Fabric};
use sheen_store::{
    IoFault, LogScrub, LogStep, ReadPin, ScrubLog, ScrubPlan, ScrubPosition, ScrubRun, Store,
};
use sheen_types::{BLOCK_BYTES, Lba, OstIndex, Tick, Timespec, checksum::crc32c};

use super::{
    device::{Finished, Pieces, Purpose},
    service::OstService,
    statistics::OstStats,
    target::State,
};

/// Stored blocks of one read: 256 KiB, verified in about 20 us, so that requests behind it do not notice.
const PLAN_BLOCKS: u32 = 64;
/// Pause when requests need what there is.
const YIELD: Duration = Duration::from_millis(5);
/// Pause behind a read that the device did not carry out.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Under load it goes on at this part of its bandwidth.
const FLOOR: u32 = 8;
/// Pause between the start of a node and the first pass.
const WARM_UP: Duration = Duration::from_secs(60);
/// Faults remembered, so that each is logged once.
const FAULTS_MAX: usize = 4096;

const LOGS: [ScrubLog; 3] =
    [ScrubLog::Journal, ScrubLog::Checkpoint { copy: 0 }, ScrubLog::Checkpoint { copy: 1 }];

/// How a scrub goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubConfig {
    /// Most bytes a second of each OST; 0: no scrub.
    pub bytes_per_second: u64,
    /// From the end of a pass to the next; zero: no scrub.
    pub interval: Duration,
}

impl Default for ScrubConfig {
    /// 32 MiB a second, a pass a week: a terabyte takes nine hours.
    fn default() -> Self {
        Self { bytes_per_second: 32 << 20, interval: Duration::from_secs(7 * 24 * 3600) }
    }
}

impl ScrubConfig {
    /// No scrub.
    pub const OFF: Self = Self { bytes_per_second: 0, interval: Duration::ZERO };

    const fn is_on(&self) -> bool {
        self.bytes_per_second > 0 && !self.interval.is_zero()
    }
}

/// What an operator may ask of a scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubOrder {
    /// Begin a pass now, whatever the interval; one that is under way or paused goes on.
    Start,
    /// Read nothing until it is resumed or started, or the node restarts.
    Pause,
    /// Go on after a pause.
    Resume,
}

/// Where a scrub stands, for those who watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubState {
    /// By its configuration, it begins no pass.
    Off,
    /// Between two passes.
    Resting,
    /// Verifies objects.
    Objects,
    /// Verifies journal and checkpoints.
    Logs,
    /// Paused by an operator.
    Paused,
}

impl ScrubState {
    const ALL: [Self; 5] = [Self::Off, Self::Resting, Self::Objects, Self::Logs, Self::Paused];

    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Resting => "resting",
            Self::Objects => "objects",
            Self::Logs => "logs",
            Self::Paused => "paused",
        }
    }

    /// As [`OstStats::scrub_state`] tells it.
    #[must_use]
    pub fn of(number: u64) -> Self {
        usize::try_from(number).ok().and_then(|at| Self::ALL.get(at)).copied().unwrap_or(Self::Off)
    }
}

/// Resting → Objects → Logs → Resting.
#[derive(Debug)]
enum Phase {
    Resting,
    Objects,
    Logs { which: usize, log: Option<Box<LogScrub>> },
}

/// What is on its way.
#[derive(Debug)]
enum Flight {
    Nothing,
    Plan(ReadPin),
    Log,
}

/// The scrub of one OST.
#[derive(Debug)]
pub(crate) struct Scrub {
    config: ScrubConfig,
    phase: Phase,
    flight: Flight,
    plan: ScrubPlan,
    /// Where the plan under way began.
    from: ScrubPosition,
    /// Blocks of the next plan; one where a read failed, until it is behind.
    blocks_max: u32,
    /// Plans of one block left.
    careful: u32,
    /// Nothing before this.
    next: Option<Tick>,
    /// From here on load is no reason to wait.
    floor: Tick,
    /// A pass was ordered and did not end yet.
    ordered: bool,
    paused: bool,
    began: Tick,
    /// When what is on its way was asked for.
    asked: Tick,
    faults: BTreeSet<u64>,
    stats: Arc<OstStats>,
}

/// What to read.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Runs: where, how many blocks.
    pub(crate) runs: Vec<(Lba, u32)>,
}

impl Scrub {
    pub(crate) fn new(config: ScrubConfig, stats: Arc<OstStats>) -> Self {
        let scrub = Self {
            config,
            phase: Phase::Resting,
            flight: Flight::Nothing,
            plan: ScrubPlan::default(),
            from: ScrubPosition::default(),
            blocks_max: PLAN_BLOCKS,
            careful: 0,
            next: None,
            floor: Tick(0),
            ordered: false,
            paused: false,
            began: Tick(0),
            asked: Tick(0),
            faults: BTreeSet::new(),
            stats,
        };
        scrub.show();
        scrub
    }

    /// When it wants a turn. None: never, or when what is under way ends.
    pub(crate) fn deadline(&self) -> Option<Tick> {
        self.next.filter(|_| self.waits())
    }

    /// Whether it has something to do and nothing on its way.
    fn waits(&self) -> bool {
        let wanted = self.config.is_on() || self.ordered && self.config.bytes_per_second > 0;
        matches!(self.flight, Flight::Nothing) && wanted && !self.paused
    }

    fn is_due(&self, now: Tick) -> bool {
        self.waits() && self.next.is_none_or(|next| next <= now)
    }

    /// Whether it goes on for all the load.
    fn is_starved(&self, now: Tick) -> bool {
        self.next.is_none() || self.floor <= now
    }

    /// Does as the operator says.
    pub(crate) fn order(&mut self, now: Tick, order: ScrubOrder) {
        match order {
            ScrubOrder::Pause => self.paused = true,
            ScrubOrder::Resume => self.paused = false,
            ScrubOrder::Start => {
                self.paused = false;
                self.ordered = true;
                // What was read is paid for all the same while a pass is under way.
                if matches!(self.phase, Phase::Resting) {
                    self.next = self.next.map(|_| now);
                }
            }
        }
        tracing::info!(ost = self.stats.index.0, ?order, "scrub: ordered");
        self.show();
    }

    /// Shows where it stands.
    fn show(&self) {
        let state = match self.phase {
            _ if self.paused => ScrubState::Paused,
            Phase::Objects => ScrubState::Objects,
            Phase::Logs { .. } => ScrubState::Logs,
            Phase::Resting if self.config.is_on() || self.ordered => ScrubState::Resting,
            Phase::Resting => ScrubState::Off,
        };
        self.stats.scrub_in_pass.set(u64::from(!matches!(self.phase, Phase::Resting)));
        let number = ScrubState::ALL.iter().position(|&each| each == state);
        self.stats.scrub_state.set(number.map_or(0, |number| number as u64));
    }

    fn pause(&mut self, now: Tick, pause: Duration) {
        self.next = Some(now.after(pause));
    }

    /// What to read now; the pin of a plan is kept.
    fn poll(&mut self, now: Tick, store: &mut Store, clock: &impl Clock) -> Option<Wanted> {
        if !self.is_due(now) {
            return None;
        }
        if self.next.is_none() {
            // The first turn of a store that is open: a pass that was under way goes on.
            self.from = store.scrub_position();
            self.stats.scrub_passes.set(u64::from(self.from.pass));
            let warm_up = if self.ordered { Duration::ZERO } else { WARM_UP };
            self.pause(now, warm_up.min(self.config.interval));
            return None;
        }
        self.asked = now;
        // Bounded: each turn goes on to the next phase or returns.
        loop {
            match &mut self.phase {
                Phase::Resting => {
                    self.began = now;
                    self.stats.scrub_pass_bytes.set(0);
                    self.phase = Phase::Objects;
                    self.show();
                }
                Phase::Objects => return self.poll_objects(store),
                Phase::Logs { which, log } => {
                    let Some(&kind) = LOGS.get(*which) else {
                        self.end_pass(now, clock.wall());
                        return None;
                    };
                    let scrub = match log {
                        Some(scrub) => scrub,
                        None => match store.scrub_log(kind) {
                            Some(scrub) => log.insert(Box::new(scrub)),
                            None => {
                                *which += 1;
                                continue;
                            }
                        },
                    };
                    match store.step_log_scrub(scrub) {
                        LogStep::Read { lba, blocks } => {
                            self.flight = Flight::Log;
                            return Some(Wanted { runs: vec![(lba, blocks)] });
                        }
                        LogStep::Ended => {}
                        LogStep::Damaged(damage) => {
                            self.stats.scrub_log_faults.add(1);
                            tracing::error!(
                                ost = self.stats.index.0, log = ?kind, %damage,
                                "scrub: a batch is damaged; a new checkpoint leaves it behind"
                            );
                            store.leave_behind(kind);
                        }
                    }
                    *log = None;
                    *which += 1;
                }
            }
        }
    }

    fn poll_objects(&mut self, store: &mut Store) -> Option<Wanted> {
        let pin = store.plan_scrub(self.from, self.blocks_max, &mut self.plan);
        if self.plan.runs.is_empty() {
            store.release(pin);
            self.go_on(store);
            return None;
        }
        self.flight = Flight::Plan(pin);
        Some(Wanted { runs: self.plan.runs.iter().map(|run| (run.lba, run.blocks)).collect() })
    }

    /// The plan is done with.
    fn go_on(&mut self, store: &mut Store) {
        if self.plan.next.pass != self.from.pass {
            self.phase = Phase::Logs { which: 0, log: None };
            self.show();
        }
        self.from = self.plan.next;
        store.set_scrub_position(self.from);
        self.careful = self.careful.saturating_sub(1);
        if self.careful == 0 {
            self.blocks_max = PLAN_BLOCKS;
        }
    }

    fn end_pass(&mut self, now: Tick, wall: Timespec) {
        self.phase = Phase::Resting;
        self.ordered = false;
        self.show();
        self.stats.scrub_ended_seconds.set(u64::try_from(wall.seconds).unwrap_or(0));
        let took = now.since(self.began);
        self.stats.scrub_passes.set(u64::from(self.from.pass));
        self.stats.scrub_pass_nanoseconds.set(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        let bytes = self.stats.scrub_pass_bytes.get();
        tracing::info!(ost = self.stats.index.0, ?took, bytes, "scrub: all was verified");
        self.pause(now, self.config.interval);
    }

    /// There is no buffer, or requests need it: what was planned is planned again later.
    fn give_way(&mut self, now: Tick, store: &mut Store) {
        if self.next.is_some() {
            self.plan_again(now, store, YIELD);
        }
    }

    /// What was planned is planned again after a pause.
    fn plan_again(&mut self, now: Tick, store: &mut Store, pause: Duration) {
        match std::mem::replace(&mut self.flight, Flight::Nothing) {
            Flight::Plan(pin) => store.release(pin),
            // The log is read anew from its start.
            Flight::Log => {
                if let Phase::Logs { log, .. } = &mut self.phase {
                    *log = None;
                }
            }
            Flight::Nothing => {}
        }
        self.pause(now, pause);
    }

    /// What was asked for was read: None if it could not be.
    fn on_read(&mut self, now: Tick, store: &mut Store, bytes: Option<&[&[u8]]>) {
        let read = bytes.map_or(0, |pieces| pieces.iter().map(|piece| piece.len() as u64).sum());
        match std::mem::replace(&mut self.flight, Flight::Nothing) {
            Flight::Nothing => {}
            Flight::Log => {
                if let Phase::Logs { log: Some(log), .. } = &mut self.phase {
                    log.feed(bytes.map(<[&[u8]]>::concat).as_deref());
                }
            }
            Flight::Plan(pin) => {
                store.release(pin);
                self.on_plan_read(store, bytes);
            }
        }
        self.stats.scrub_bytes.add(read);
        self.stats.scrub_pass_bytes.add(read);
        let rate = u128::from(self.config.bytes_per_second);
        let nanoseconds = u128::from(read.max(BLOCK_BYTES as u64)) * 1_000_000_000 / rate;
        let pause = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let from = now.max(self.asked);
        self.floor = from.after(pause.saturating_mul(FLOOR));
        self.pause(from, pause);
    }

    fn on_plan_read(&mut self, store: &mut Store, bytes: Option<&[&[u8]]>) {
        let planned: u32 = self.plan.runs.iter().map(|run| run.blocks).sum();
        match bytes {
            None if self.plan.runs.len() > 1 || planned > 1 && self.blocks_max > 1 => {
                // Which block it is, is found one by one.
                self.blocks_max = 1;
                self.careful = planned;
                return;
            }
            None => {
                let run = self.plan.runs[0];
                self.stats.scrub_unreadable.add(1);
                self.log(&run, 0, "the device cannot read it");
            }
            Some(pieces) => {
                let blocks = pieces.iter().flat_map(|piece| piece.chunks_exact(BLOCK_BYTES));
                self.verify(blocks);
            }
        }
        self.go_on(store);
    }

    fn verify<'a>(&mut self, mut blocks: impl Iterator<Item = &'a [u8]>) {
        let runs = std::mem::take(&mut self.plan.runs);
        for run in &runs {
            for at in 0..run.blocks {
                let expected = self.plan.checksums[(run.first_checksum + at) as usize];
                if blocks.next().map(crc32c) != Some(expected) {
                    self.stats.scrub_rotten.add(1);
                    self.log(run, at, "its checksum is not the stored one");
                }
            }
        }
        self.plan.runs = runs;
    }

    /// Tells of a fault, the first time it is met.
    fn log(&mut self, run: &ScrubRun, at: u32, what: &str) {
        let lba = run.lba.plus(u64::from(at));
        if self.faults.len() >= FAULTS_MAX || !self.faults.insert(lba.0) {
            return;
        }
        tracing::error!(
            ost = self.stats.index.0,
            object = %run.object,
            offset = (run.block + u64::from(at)) * BLOCK_BYTES as u64,
            lba = lba.0,
            "scrub: a stored block is damaged: {what}"
        );
    }
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// Begins the scrub's next read, if it is due.
    pub(crate) fn scrub(&mut self, number: usize) -> usize {
        let now = self.now;
        if self.is_stopping() {
            return 0;
        }
        let busy = self.operations.len() > self.operations_max / 2;
        let target = &mut self.targets[number];
        // What is on its way is left alone, whatever the load: another read beside it would be taken for it.
        if !target.scrub.is_due(now) {
            return 0;
        }
        let State::Ready(store) = &mut target.state else { return 0 };
        if store.is_stopped() || busy && !target.scrub.is_starved(now) {
            target.scrub.give_way(now, store);
            return 0;
        }
        let Some(wanted) = target.scrub.poll(now, store, &self.clock) else { return 0 };
        let blocks: u32 = wanted.runs.iter().map(|run| run.1).sum();
        let Some(mut buffer) = self.buffers.take(blocks as usize * BLOCK_BYTES) else {
            target.scrub.give_way(now, store);
            return 0;
        };
        let group = target.device.begin(Purpose::Scrub);
        for (at, &(lba, blocks)) in wanted.runs.iter().enumerate() {
            let rest = (at + 1 < wanted.runs.len())
                .then(|| buffer.split_off(blocks as usize * BLOCK_BYTES));
            target.device.read_piece(group, lba, buffer);
            let Some(rest) = rest else { break };
            buffer = rest;
        }
        1
    }

    /// Has the scrub of one OST, or of all, do as the operator says.
    pub fn order_scrub(&mut self, ost: Option<OstIndex>, order: ScrubOrder) {
        let now = self.clock.now();
        for target in &mut self.targets {
            if ost.is_none_or(|ost| ost == target.index) {
                target.scrub.order(now, order);
            }
        }
    }

    /// Path: D10. What the scrub asked for was read, or could not be.
    pub(crate) fn on_scrub_read(&mut self, number: usize, finished: Finished) {
        let target = &mut self.targets[number];
        let pieces: Pieces = finished.pieces;
        if let State::Ready(store) = &mut target.state {
            let slices: Vec<&[u8]> = pieces.iter().flatten().map(Buffer::as_slice).collect();
            match finished.result {
                Ok(()) => target.scrub.on_read(self.now, store, Some(&slices)),
                Err(IoFault::Media) => target.scrub.on_read(self.now, store, None),
                // Nothing is known of the blocks.
                Err(IoFault::NotCarriedOut | IoFault::NoSpace | IoFault::Gone) => {
                    target.scrub.plan_again(self.now, store, TRY_AGAIN);
                }
            }
        }
        pieces.into_iter().flatten().for_each(|buffer| self.buffers.give(buffer));
    }
}

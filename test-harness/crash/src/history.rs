//! One history: a store on a recording device, changes asked at random, completions in any order, crashes in between.
//!
//! Everything follows from a seed. Whoever wants to look at the device as a crash would leave it is a [`Witness`]: it is
//! called whenever the device or a promise changed.

use std::collections::{BTreeMap, BTreeSet};

use sheen_store::{Command, IoFault, IoToken, Limits, Opening, Progress, Store, Zone};
use sheen_types::{Errno, Lba};

use crate::{
    adapter::{self, Images, Merging, Task},
    chance::Chance,
    image::SECTORS,
    medium::{Cache, Medium},
    promise::{Model, Status, Verdict},
    reading,
    reference::State,
    restart::{Setup, Violation},
};

/// Objects of a history.
pub const OBJECTS: usize = 3;

/// Most blocks of a repack.
pub const REPACK_BLOCKS_MAX: usize = 40;

/// What a crash ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crash {
    /// The device loses power.
    Power,
    /// The process dies, the device goes on.
    Kill,
}

/// Sees every moment of a history.
pub trait Witness {
    /// The device or what is promised changed.
    ///
    /// # Errors
    /// What a restart would find wrong.
    fn look(&mut self, medium: &mut Medium, model: &Model, setup: &Setup) -> Result<(), Failure>;
}

/// Nobody looks.
#[derive(Clone, Copy, Debug)]
pub struct Blind;

impl Witness for Blind {
    fn look(&mut self, _: &mut Medium, _: &Model, _: &Setup) -> Result<(), Failure> {
        Ok(())
    }
}

/// Why a history ends.
#[derive(Clone, Debug)]
pub enum Failure {
    /// Enough was seen.
    Enough,
    /// Something is wrong.
    Broken {
        /// What.
        violation: Violation,
        /// At which crash.
        state: String,
    },
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Broken { violation, state: "while the store lived".to_owned() }
    }
}

/// What kind of history.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The device's cache.
    pub cache: Cache,
    /// Device blocks.
    pub blocks: usize,
    /// Cells a write begins below.
    pub cells: usize,
    /// Most cells of a write.
    pub write_cells: usize,
    /// Whether writes may be packed.
    pub packs: bool,
    /// Of a turn in so many a checkpoint is wanted.
    pub checkpoints: usize,
    /// What fails.
    pub faults: Faults,
}

/// How often a device operation fails: once in so many, 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Writes of data: their request ends.
    pub data: usize,
    /// Writes of checkpoints and of what else the store forms, and flushes: mostly the store stops.
    pub own: usize,
    /// Reads of old blocks for a merge: their request ends.
    pub merge: usize,
}

/// A device operation under way.
#[derive(Debug)]
enum Pending {
    Write { io: IoToken, write: u64, data_of: Option<u64> },
    Flush { io: IoToken, flush: u64 },
    Read { io: IoToken, lba: Lba, blocks: u32 },
    Merge(Merging),
    Discard { io: IoToken },
}

/// A history under way.
#[derive(Debug)]
pub struct History {
    /// Where its choices come from.
    pub chance: Chance,
    /// The device.
    pub medium: Medium,
    /// What is promised.
    pub model: Model,
    /// How the store is opened.
    pub setup: Setup,
    /// Completed checkpoints.
    pub checkpoints: u64,
    /// Of them those that began anew, in the other area.
    pub bases: u64,
    /// Requests refused for want of space.
    pub refused: u64,
    /// Device operations that failed.
    pub faults: u64,
    pub(crate) plan: Plan,
    store: Option<Box<Store>>,
    images: Images,
    pending: Vec<Pending>,
    commands: Vec<Command>,
    pub(crate) request: u64,
    pub(crate) tag: u32,
    /// Requests that make others durable, with those completed when they were asked.
    pub(crate) covers: BTreeMap<u64, Vec<u64>>,
    pub(crate) completed: Vec<u64>,
    /// Requests whose data met a fault.
    faulted: Vec<u64>,
    /// Requests whose merge met one: they never happen.
    unmerged: Vec<u64>,
    /// Requests that store a range anew.
    pub(crate) repacks: BTreeSet<u64>,
    /// Requests that free more than they take.
    pub(crate) frugal: Vec<u64>,
    /// What happened, for people.
    pub log: Vec<String>,
}

impl History {
    /// A formatted device, not opened.
    ///
    /// # Panics
    /// When the plan's device is too small for a store.
    #[must_use]
    pub fn new(seed: u64, plan: Plan) -> Self {
        let mut chance = Chance::new(seed);
        let first = Lba(1000 * (chance.draw() % 3));
        let zone = Zone { first, blocks: plan.blocks as u64 };
        let limits = Limits {
            requests_max: 24,
            unflushed_blocks_max: 40 + chance.draw() % 400,
            journal_writes_max: 1 + u32::try_from(chance.below(3)).unwrap_or(0),
            discard: chance.one_in(2),
        };
        let mut medium = Medium::new(plan.cache, first, plan.blocks);
        let formatted = sheen_store::format(zone, chance.draw());
        for (lba, bytes) in formatted.unwrap_or_else(|error| panic!("{error}")) {
            let write = medium.submit(lba, &bytes, true);
            medium.complete(write);
        }
        medium.flushed(medium.flush());
        Self {
            chance,
            medium,
            model: Model::new(OBJECTS),
            setup: Setup { zone, limits, objects: OBJECTS },
            checkpoints: 0,
            bases: 0,
            refused: 0,
            faults: 0,
            plan,
            store: None,
            images: Images::default(),
            pending: Vec::new(),
            commands: Vec::new(),
            request: 0,
            tag: 0,
            covers: BTreeMap::new(),
            completed: Vec::new(),
            faulted: Vec::new(),
            unmerged: Vec::new(),
            repacks: BTreeSet::new(),
            frugal: Vec::new(),
            log: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        self.log.push(text());
    }

    /// Opens the store and checks what it holds against the promise; from then on that is certain.
    ///
    /// # Errors
    /// What is wrong, or the witness's.
    ///
    /// # Panics
    /// When the opening wants what it may not, which is a bug of the store.
    pub fn open(&mut self, witness: &mut impl Witness) -> Result<(), Failure> {
        self.note(|| "open".to_owned());
        let mut opening = Opening::new(self.setup.zone, self.setup.limits, &mut self.commands);
        loop {
            self.carry_out(witness)?;
            let at = self.chance.below(self.pending.len());
            let pending = self.pending.swap_remove(at);
            let mut bytes = Vec::new();
            let io = match pending {
                Pending::Read { io, lba, blocks } => {
                    bytes = self.medium.read(lba, blocks);
                    io
                }
                Pending::Write { io, write, .. } => {
                    self.medium.complete(write);
                    self.look(witness)?;
                    io
                }
                Pending::Flush { io, flush } => {
                    self.medium.flushed(flush);
                    self.look(witness)?;
                    io
                }
                Pending::Discard { io } => io,
                Pending::Merge(_) => panic!("an opening has no requests"),
            };
            match opening.on_io(io, Ok(&bytes), &mut self.commands).map_err(Violation::Open)? {
                Progress::Working(next) => opening = next,
                Progress::Inspected(_) => panic!("an opening ends with a store"),
                Progress::Ready(store) => {
                    self.store = Some(store);
                    break;
                }
            }
        }
        self.carry_out(witness)?;
        let found = self.content()?;
        for (number, (object, found)) in self.model.objects.iter().zip(&found).enumerate() {
            if object.judge(found, Status::Completed) == Verdict::Broken {
                let promised = format!("{object:?}");
                return Err(
                    Violation::Broken { object: number, found: found.clone(), promised }.into()
                );
            }
        }
        self.model.rebase(&found);
        self.covers.clear();
        self.completed.clear();
        self.faulted.clear();
        self.unmerged.clear();
        self.frugal.clear();
        self.repacks.clear();
        self.look(witness)
    }

    /// Every object, read through the live device.
    fn content(&mut self) -> Result<Vec<State>, Failure> {
        let Self { store, medium, .. } = self;
        let store = store.as_mut().expect("an open store");
        let state = |object| {
            reading::read_state(store, object, |lba, blocks| Some(medium.read(lba, blocks).into()))
                .map_err(|fault| Violation::Read { object, fault }.into())
        };
        (0..OBJECTS).map(state).collect()
    }

    fn look(&mut self, witness: &mut impl Witness) -> Result<(), Failure> {
        witness.look(&mut self.medium, &self.model, &self.setup)
    }

    pub(crate) fn call<T>(
        &mut self,
        f: impl FnOnce(&mut Store, &mut Images, &mut Vec<Command>) -> T,
    ) -> T {
        let store = self.store.as_mut().expect("an open store");
        f(store, &mut self.images, &mut self.commands)
    }

    /// Submits what the store wants.
    pub(crate) fn carry_out(&mut self, witness: &mut impl Witness) -> Result<(), Failure> {
        for command in std::mem::take(&mut self.commands) {
            match adapter::task(command, &mut self.images) {
                Task::Write { io, lba, bytes, data_of } => {
                    let write = self.medium.submit(lba, &bytes, data_of.is_none());
                    let blocks = bytes.len() / crate::image::BLOCK;
                    self.note(|| match data_of {
                        Some(request) => {
                            format!("write {write} submitted: {blocks} at {lba}, data of {request}")
                        }
                        None => format!("write {write} submitted: {blocks} at {lba}"),
                    });
                    self.pending.push(Pending::Write { io, write, data_of });
                    self.look(witness)?;
                }
                Task::Flush(io) => {
                    let flush = self.medium.flush();
                    self.note(|| "flush submitted".to_owned());
                    self.pending.push(Pending::Flush { io, flush });
                }
                Task::Read(io, lba, blocks) => {
                    self.pending.push(Pending::Read { io, lba, blocks });
                }
                Task::Merge(merging) => self.pending.push(Pending::Merge(merging)),
                Task::Discard(io, lba, blocks) => {
                    let heard = self.chance.one_in(2);
                    self.note(|| format!("discard of {blocks} at {lba}, heard {heard}"));
                    if heard {
                        self.medium.discard(lba, blocks);
                    }
                    self.pending.push(Pending::Discard { io });
                    self.look(witness)?;
                }
                Task::Ended(request, result) => {
                    self.on_ended(request, result)?;
                    self.look(witness)?;
                }
            }
        }
        Ok(())
    }

    fn on_ended(&mut self, request: u64, result: Result<(), Errno>) -> Result<(), Failure> {
        self.note(|| format!("request {request} ends: {result:?}"));
        let covers = self.covers.remove(&request);
        let faulted = self.faulted.contains(&request);
        let status = match result {
            Ok(()) if covers.is_some() => Status::Durable,
            Ok(()) => Status::Completed,
            Err(Errno::EIO) if self.unmerged.contains(&request) => Status::Failed,
            Err(Errno::ENOSPC | Errno::EIO) if faulted => Status::Faulty,
            Err(Errno::EIO) if self.is_stopped() => Status::Faulty,
            // No run of free blocks for a packed group: nothing happened.
            Err(Errno::EAGAIN) if self.plan.packs => Status::Failed,
            Err(Errno::ENOSPC) if self.is_crowded() && !self.frugal.contains(&request) => {
                self.refused += 1;
                Status::Failed
            }
            Err(errno) => return Err(Violation::Refused(errno).into()),
        };
        self.repacks.remove(&request);
        self.completed.push(request);
        self.model.answer(request, status, &covers.unwrap_or_default());
        Ok(())
    }

    /// Whether a lack of space is plausible: less is free than what is asked for, or failed and not given back yet, could take.
    fn is_crowded(&self) -> bool {
        let statistics = self.store.as_ref().map(|store| store.statistics()).unwrap_or_default();
        let steps = self.model.objects.iter().flat_map(|object| &object.steps);
        let held = steps.filter(|step| matches!(step.status, Status::Asked | Status::Faulty));
        let blocks: usize = held.map(|step| step.change.blocks_max()).sum();
        let repacked = REPACK_BLOCKS_MAX * self.repacks.len();
        statistics.free_blocks < (blocks + repacked) as u64
    }

    /// Whether the store gave up.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.is_stopped())
    }

    /// Ends a turn of the service.
    ///
    /// # Errors
    /// The witness's.
    pub fn pump(&mut self, witness: &mut impl Witness) -> Result<(), Failure> {
        self.call(|store, _, commands| store.pump(commands));
        self.carry_out(witness)
    }

    /// Begins a checkpoint.
    pub fn checkpoint(&mut self) {
        self.note(|| "checkpoint wanted".to_owned());
        self.call(|store, _, _| store.checkpoint());
    }

    /// Marks the journal, if there is something to say.
    ///
    /// # Errors
    /// The witness's.
    pub fn mark(&mut self, witness: &mut impl Witness) -> Result<(), Failure> {
        let flushed = self.chance.one_in(2);
        self.call(|store, _, commands| store.mark(flushed, commands));
        self.carry_out(witness)
    }

    /// Lets one operation complete; false if none is under way.
    ///
    /// # Errors
    /// The witness's.
    ///
    /// # Panics
    /// When the store is not open, or reads.
    pub fn step(&mut self, witness: &mut impl Witness) -> Result<bool, Failure> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        let at = self.chance.below(self.pending.len());
        match self.pending.swap_remove(at) {
            Pending::Write { io, write, data_of } => {
                let result = self.complete(write, data_of);
                self.look(witness)?;
                self.call(|store, _, commands| store.on_io(io, result, commands));
            }
            Pending::Flush { io, flush } => {
                let result = self.flush(flush);
                self.look(witness)?;
                self.call(|store, _, commands| store.on_io(io, result, commands));
            }
            Pending::Merge(merging) => {
                let fails = self.fails(self.plan.faults.merge);
                if fails {
                    self.unmerged.push(merging.request);
                }
                let Self { store, medium, images, commands, .. } = self;
                let store = store.as_mut().expect("an open store");
                let read = |lba, blocks| (!fails).then(|| medium.read(lba, blocks));
                merging.carry_out(store, read, images, commands);
            }
            Pending::Discard { io } => {
                let result = if self.chance.one_in(8) { Err(IoFault::Media) } else { Ok(()) };
                self.call(|store, _, commands| store.on_io(io, result, commands));
            }
            Pending::Read { .. } => panic!("an open store reads nothing"),
        }
        self.carry_out(witness)?;
        Ok(true)
    }

    fn complete(&mut self, write: u64, data_of: Option<u64>) -> Result<(), IoFault> {
        let odds = if data_of.is_some() { self.plan.faults.data } else { self.plan.faults.own };
        if self.fails(odds) {
            self.note(|| format!("write {write} failed"));
            self.faulted.extend(data_of);
            self.medium.fail(write, &mut self.chance);
            return Err(if self.chance.one_in(2) { IoFault::NoSpace } else { IoFault::Media });
        }
        self.note(|| format!("write {write} completed"));
        self.medium.complete(write);
        Ok(())
    }

    fn flush(&mut self, flush: u64) -> Result<(), IoFault> {
        if self.fails(self.plan.faults.own) {
            self.note(|| "flush failed".to_owned());
            return Err(if self.chance.one_in(2) { IoFault::Gone } else { IoFault::Media });
        }
        self.medium.flushed(flush);
        self.note(|| "flush completed".to_owned());
        Ok(())
    }

    fn fails(&mut self, one_in: usize) -> bool {
        let fails = one_in > 0 && self.chance.one_in(one_in);
        self.faults += u64::from(fails);
        fails
    }

    /// Runs until nothing is left to do, and looks at everything.
    ///
    /// # Errors
    /// What is wrong, or the witness's.
    pub fn settle(&mut self, witness: &mut impl Witness) -> Result<(), Failure> {
        self.pump(witness)?;
        while self.step(witness)? {
            self.pump(witness)?;
        }
        if self.is_stopped() {
            // What was inside ended with an error, whatever became of it.
            return Ok(());
        }
        let found = self.content()?;
        for (number, (object, found)) in self.model.objects.iter().zip(&found).enumerate() {
            if !object.is_settled() {
                return Err(Violation::Stuck.into());
            }
            if object.settled() != *found {
                let promised = format!("{object:?}");
                let found = found.clone();
                return Err(Violation::Broken { object: number, found, promised }.into());
            }
        }
        self.call(|store, _, _| crate::restart::check_space(store))?;
        Ok(())
    }

    /// Ends the store's life.
    pub fn crash(&mut self, crash: Crash) {
        self.note(|| format!("{crash:?}"));
        let statistics = self.store.as_ref().map(|store| store.statistics()).unwrap_or_default();
        self.checkpoints += statistics.checkpoints;
        self.bases += statistics.checkpoint_bases;
        self.store = None;
        self.pending.clear();
        self.images.clear();
        self.commands.clear();
        let chance = &mut self.chance;
        match crash {
            Crash::Kill => self.medium.lose_process(chance),
            Crash::Power => {
                if self.plan.cache != Cache::None {
                    self.model.doubt_completed();
                }
                let usual = 1 + chance.below(3);
                self.medium.lose_power(|_, versions| {
                    let last = u8::try_from(versions.len()).unwrap_or(u8::MAX);
                    let torn = chance.one_in(6);
                    let mut pick = || {
                        if chance.one_in(1 + usual) { 0 } else { last }
                    };
                    let whole = pick();
                    std::array::from_fn::<u8, SECTORS, _>(|_| if torn { pick() } else { whole })
                });
            }
        }
    }

    /// Lines of the log, the last `count` of them.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> &[String] {
        &self.log[self.log.len().saturating_sub(count)..]
    }
}

//! One run: actors, a node that dies and comes back, and the checks.
//!
//! A run is rounds of work and audit. In work every actor does some random requests, several at a time, while the others do
//! theirs; in the audit the actors read everything there is. At the end of each, with nothing under way, all answers about names
//! are judged by the model; what is read of files is judged at once. Faults come at random times in both.

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
};

use sheen_types::{Fid, Tick};

use crate::{
    actor::{Actor, Surroundings},
    answer::Ended,
    chance::Chance,
    clock::SimClock,
    coverage::{Coverage, Fault},
    drift::Drift,
    faults::{REPLACE_PERCENT, Silence},
    files::Files,
    fill::FILL_PERCENT,
    history::History,
    namespace::Namespace,
    network::Network,
    node::SimNode,
    operation::{Deed, Operation},
    plan::{Counts, Plan, Planted},
    workload::{Job, Known, Worker},
};

pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;
/// Virtual time a run may take.
const RUN_MAX: Tick = Tick(1_800 * SECOND);
/// Steps a run may take.
const STEPS_MAX: u64 = 1_000_000;
/// How often a round of work has no faults.
const CALM_PERCENT: u64 = 25;
/// How much the clock of a client may gain or lose: parts in a million. Less than the margin at the end of a lease.
const DRIFT_MAX: u64 = 40_000;

/// An actor and what it is to do.
#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) actor: Actor,
    pub(crate) worker: Option<Worker>,
    /// Random jobs left in this round.
    pub(crate) jobs: u32,
    /// Jobs it does next, last first.
    pub(crate) queue: Vec<Job>,
    /// Answers somebody waits for.
    pub(crate) answers: Vec<Ended>,
    /// It is about to fall silent, or has.
    pub(crate) silence: Option<Silence>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) clock: SimClock,
    pub(crate) chance: Chance,
    pub(crate) network: Rc<RefCell<Network>>,
    pub(crate) node: SimNode,
    pub(crate) players: Vec<Player>,
    /// Clients there have been so far.
    pub(crate) identities: usize,
    pub(crate) namespace: Namespace,
    pub(crate) history: History,
    pub(crate) files: Files,
    pub(crate) known: Known,
    pub(crate) sequences: BTreeSet<u64>,
    pub(crate) faults: bool,
    /// A round of work is under way.
    pub(crate) working: bool,
    pub(crate) next_fault: Tick,
    pub(crate) restart_at: Option<Tick>,
    pub(crate) counts: Counts,
    pub(crate) steps: u64,
    /// Bounds how many faults still happen.
    pub(crate) faults_left: Option<u32>,
    pub(crate) faults_in_round: u32,
    pub(crate) log: VecDeque<String>,
}

/// Runs one seed.
///
/// # Errors
/// What was not as it should be.
pub fn run(seed: u64, plan: Plan) -> Result<Counts, String> {
    let mut world = World::new(seed, plan);
    let result = world.run();
    let at = world.clock.tick().0;
    result.map_err(|why| {
        let log: String = world.log.iter().map(|line| format!("{line}\n")).collect();
        format!("{log}at {at} ns: {why}")
    })
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let mut chance = Chance::new(seed);
        let clock = SimClock::default();
        let network = Network::new(clock.clone(), chance.fork());
        let mut node = SimNode::new(clock.clone(), chance.fork(), network.clone());
        if plan.planted == Some(Planted::LyingDevice) {
            node.plant_lying_device();
        }
        match plan.planted {
            Some(Planted::BlockedHolder) => network.borrow_mut().plant_blocked_holder(),
            Some(Planted::FullLog) => network.borrow_mut().plant_full_log(),
            _ => {}
        }
        node.start();
        Self {
            plan,
            clock,
            chance,
            network,
            node,
            players: Vec::new(),
            identities: 0,
            namespace: Namespace::new(Fid::ROOT),
            history: History::default(),
            files: Files::default(),
            known: Known::default(),
            sequences: BTreeSet::new(),
            faults: false,
            working: false,
            next_fault: Tick(0),
            restart_at: None,
            counts: Counts::default(),
            steps: 0,
            faults_left: None,
            faults_in_round: 0,
            log: VecDeque::new(),
        }
    }

    fn run(&mut self) -> Result<Counts, String> {
        self.set_up()?;
        self.faults = true;
        self.plan_fault();
        for _ in 0..self.plan.rounds {
            if self.chance.percent(REPLACE_PERCENT) {
                self.replace_client()?;
            }
            for player in &mut self.players {
                player.jobs = self.plan.requests;
            }
            // Where everybody lives nobody waits for long.
            self.faults = !self.chance.percent(CALM_PERCENT);
            self.working = true;
            self.finish_round()?;
            self.working = false;
            self.faults = true;
            self.plan_fault();
            self.audit()?;
            if self.chance.percent(FILL_PERCENT) {
                self.fill_ost()?;
            }
            if self.node.has_small_mdt() && self.chance.percent(FILL_PERCENT) {
                self.fill_mdt()?;
            }
        }
        self.faults = false;
        self.close_all()?;
        self.audit()?;
        self.count_objects()?;
        self.check_tables()?;
        self.sum_up()
    }

    fn sum_up(&mut self) -> Result<Counts, String> {
        let gone: Vec<Counts> =
            self.players.iter().map(|player| counts_of(&player.actor)).collect();
        gone.into_iter().for_each(|counts| self.counts += counts);
        self.counts.coverage += self.node.coverage();
        self.counts.lost_blocks = self.node.lost_blocks();
        self.counts.snapshots = self.node.snapshots();
        self.counts.nanoseconds = self.clock.tick().0;
        let (errors, lost) = (self.counts.io_errors, self.counts.coverage.of(Fault::MediaLost));
        if errors > lost {
            return Err(format!("{errors} requests failed for {lost} reads of lost media"));
        }
        Ok(self.counts)
    }

    /// A client that was never there before.
    pub(crate) fn new_actor(&mut self, filesystem: &str) -> Actor {
        let identity = self.identities;
        self.identities += 1;
        let surroundings = Surroundings {
            network: self.network.clone(),
            clock: self.clock.clone(),
            files: self.files.clone(),
            planted: self.plan.planted,
        };
        let drift = Drift::new(self.chance.percent(50), self.chance.below(DRIFT_MAX));
        Actor::new(identity, filesystem, surroundings, drift, self.chance.fork())
    }

    pub(crate) fn add_player(&mut self, filesystem: &str) {
        let actor = self.new_actor(filesystem);
        let (queue, answers) = (Vec::new(), Vec::new());
        let player = Player { actor, worker: None, jobs: 0, queue, answers, silence: None };
        self.players.push(player);
    }

    /// One request, and its answer: success.
    pub(crate) fn ask(&mut self, player: usize, operation: Operation) -> Result<Ended, String> {
        let ended = self.attempt(player, operation)?;
        if ended.status == 0 { Ok(ended) } else { Err(format!("{ended:?}")) }
    }

    /// One request, and its answer.
    pub(crate) fn attempt(&mut self, player: usize, operation: Operation) -> Result<Ended, String> {
        self.players[player].answers.clear();
        self.players[player].queue.push(Job::Ask(operation.clone()));
        self.finish_round()?;
        let answers = std::mem::take(&mut self.players[player].answers);
        let mut of_it = answers.into_iter().filter(|ended| ended.operation == operation);
        of_it.next_back().ok_or_else(|| format!("no answer to {operation:?}"))
    }

    /// Lets everything run until every actor did what it had to do.
    pub(crate) fn finish_round(&mut self) -> Result<(), String> {
        self.faults_in_round = 0;
        loop {
            self.step()?;
            let busy = |player: &Player| {
                let Player { actor, jobs, queue, silence, .. } = player;
                !actor.is_idle() || *jobs > 0 || !queue.is_empty() || silence.is_some()
            };
            if !self.players.iter().any(busy) {
                return Ok(());
            }
        }
    }

    /// Does what is to be done now and moves time on.
    pub(crate) fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        if self.steps > STEPS_MAX || self.clock.tick() > RUN_MAX {
            let stuck: Vec<_> = self.players.iter().map(|p| p.actor.describe()).collect();
            return Err(format!("does not end: {stuck:#?}"));
        }
        self.node.turn()?;
        for number in 0..self.players.len() {
            self.play(number)?;
        }
        self.check_leases()?;
        self.fault();
        let node = self.node.next_event();
        let network = self.network.borrow().next_arrival();
        let actors = self.players.iter().filter_map(|player| player.actor.next_event());
        let silences = self.players.iter().filter_map(|player| player.silence.as_ref());
        let silences =
            silences.flat_map(|silence| silence.until.into_iter().chain(silence.work_at));
        let fault = self.restart_at.or(self.faults.then_some(self.next_fault));
        // What came and is not taken, because the node or a client is paused, is no event.
        let now = self.clock.tick();
        let next = node.into_iter().chain(network).chain(fault).chain(actors).chain(silences);
        match next.filter(|&at| at > now).min() {
            Some(next) => self.clock.advance_to(next),
            None => return Err("nothing will ever happen again".to_owned()),
        }
        Ok(())
    }

    fn play(&mut self, number: usize) -> Result<(), String> {
        self.silence(number);
        let actor = &mut self.players[number].actor;
        if actor.is_waking() {
            // The first thing programs do is to read what they read before.
            self.known.shared.iter().for_each(|&fid| actor.deed(fid, Deed::Read));
        }
        self.act(number)?;
        let player = &self.players[number];
        if !player.actor.is_running() || player.actor.busy() >= self.plan.flights {
            return Ok(());
        }
        while self.players[number].actor.busy() < self.plan.flights {
            let Some(job) = self.next_job(number) else { break };
            match job {
                Job::Ask(operation) => self.players[number].actor.begin(operation),
                Job::Do(fid, deed) => self.players[number].actor.deed(fid, deed),
            }
        }
        self.act(number)
    }

    /// Lets an actor do what it has to do and judges what it tells.
    fn act(&mut self, number: usize) -> Result<(), String> {
        let actor = &mut self.players[number].actor;
        actor.turn();
        if let Some(why) = actor.take_failure() {
            return Err(why);
        }
        while let Some(told) = self.players[number].actor.told.pop_front() {
            self.take(number, told)?;
        }
        Ok(())
    }

    fn next_job(&mut self, number: usize) -> Option<Job> {
        let Player { actor, worker, jobs, queue, silence, .. } = &mut self.players[number];
        let quietly = silence.is_some();
        let waits = |job: &Job| matches!(job, Job::Ask(operation) if operation.is_change());
        if let Some(job) = queue.last() {
            return if quietly && waits(job) { None } else { queue.pop() };
        }
        let worker = worker.as_mut().filter(|_| *jobs > 0)?;
        *jobs -= 1;
        let job = if quietly || !worker.may_create() {
            worker.choose_quietly(&self.known)
        } else {
            worker.choose(&self.known, |fid| actor.is_quiet(fid))
        };
        for fid in worker.dropped.drain(..) {
            actor.forget_file(fid);
        }
        Some(job)
    }

    /// Content is written by at most one client, and then nobody else has it cached; a client that can know that its
    /// session may have ended does not count.
    fn check_leases(&mut self) -> Result<(), String> {
        let players = self.players.iter_mut();
        let changed: BTreeSet<Fid> =
            players.flat_map(|player| std::mem::take(&mut player.actor.changed)).collect();
        for fid in changed {
            let valid = self.players.iter().filter(|player| player.actor.is_valid());
            let held: Vec<_> = valid.filter_map(|player| player.actor.held.get(&fid)).collect();
            let writers = held.iter().filter(|held| held.changes_content()).count();
            let holders = held.iter().filter(|held| held.caches_content()).count();
            if writers > 1 || writers == 1 && holders > 1 {
                return Err(format!("{fid}: {writers} write and {holders} cache its content"));
            }
        }
        Ok(())
    }
}

/// What a client counted.
pub(crate) fn counts_of(actor: &Actor) -> Counts {
    Counts {
        resends: actor.resends,
        io_errors: actor.io_errors,
        no_space: actor.no_space,
        replays: actor.replays,
        coverage: Coverage::default(),
        ..Counts::default()
    }
}

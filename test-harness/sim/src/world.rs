//! One run: actors, a node that dies and comes back, and the checks.
//!
//! A run is rounds of work and audit. In work every actor does some random requests at the same time as the others; in the
//! audit the actors read everything there is. At the end of each, with nothing under way, all answers are judged by the
//! models. The node dies, and actors hang up, at random times in both.

use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
};

use sheen_types::{Fid, FileKind, Name, Tick};
use sheen_wire::{
    Field,
    lease::bits,
    metadata::{FilesystemCreate, FilesystemInfo, SequenceGrantReply},
};

use crate::{
    actor::Actor,
    answer::Ended,
    chance::Chance,
    clock::SimClock,
    coverage::Fault,
    faults::REPLACE_PERCENT,
    history::History,
    namespace::Namespace,
    network::Network,
    node::SimNode,
    operation::{Operation, create},
    plan::{Counts, Plan, Planted},
    workload::Worker,
};

pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLISECOND;
/// Virtual time a run may take.
const RUN_MAX: Tick = Tick(600 * SECOND);
/// Steps a run may take.
const STEPS_MAX: u64 = 200_000;

/// An actor and what it is to do.
#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) actor: Actor,
    pub(crate) worker: Option<Worker>,
    /// Random requests left in this round.
    pub(crate) requests: u32,
    /// Requests it does next, last first.
    pub(crate) queue: Vec<Operation>,
    /// Answers somebody waits for.
    pub(crate) answers: Vec<Ended>,
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
    pub(crate) directories: Vec<Fid>,
    pub(crate) inodes: Vec<Fid>,
    pub(crate) sequences: BTreeSet<u64>,
    pub(crate) faults: bool,
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
    fn new(seed: u64, plan: Plan) -> Self {
        let mut chance = Chance::new(seed);
        let clock = SimClock::default();
        let network = Network::new(clock.clone(), chance.fork());
        let mut node = SimNode::new(clock.clone(), chance.fork(), network.clone());
        if plan.planted == Some(Planted::LyingDevice) {
            node.plant_lying_device();
        }
        node.start();
        let namespace = Namespace::new(Fid::ROOT);
        Self {
            plan,
            clock,
            chance,
            network,
            node,
            players: Vec::new(),
            identities: 0,
            namespace,
            history: History::default(),
            directories: Vec::new(),
            inodes: Vec::new(),
            sequences: BTreeSet::new(),
            faults: false,
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
                player.requests = self.plan.requests;
            }
            self.finish_round()?;
            self.audit()?;
        }
        self.faults = false;
        self.close_all()?;
        self.audit()?;
        self.count_objects()?;
        self.counts.resends += self.players.iter().map(|p| p.actor.resends).sum::<u64>();
        self.counts.io_errors += self.players.iter().map(|p| p.actor.io_errors).sum::<u64>();
        self.counts.coverage += self.node.coverage();
        let lost = self.counts.coverage.of(Fault::MediaLost);
        if self.counts.io_errors > lost {
            let errors = self.counts.io_errors;
            return Err(format!("{errors} requests failed for {lost} reads of lost media"));
        }
        let workers = self.players.iter().filter_map(|player| player.worker.as_ref());
        self.counts.lost_writes = workers.map(|worker| worker.losses).sum();
        self.counts.lost_blocks = self.node.lost_blocks();
        self.counts.snapshots = self.node.snapshots();
        self.counts.nanoseconds = self.clock.tick().0;
        Ok(self.counts)
    }

    /// A client that was never there before.
    pub(crate) fn new_actor(&mut self, filesystem: &str) -> Actor {
        let identity = self.identities;
        self.identities += 1;
        let (network, clock) = (self.network.clone(), self.clock.clone());
        let mut actor = Actor::new(identity, filesystem, network, clock, self.chance.fork());
        if self.plan.planted == Some(Planted::NewNumbers) {
            actor.plant_new_numbers();
        }
        actor
    }

    fn add_player(&mut self, filesystem: &str) {
        let actor = self.new_actor(filesystem);
        let (queue, answers) = (Vec::new(), Vec::new());
        self.players.push(Player { actor, worker: None, requests: 0, queue, answers });
    }

    /// Makes the file system, the actors' sessions and their directories.
    fn set_up(&mut self) -> Result<(), String> {
        self.add_player("");
        let request = FilesystemCreate { name: b"fs".to_vec(), permissions: 0o755 };
        let made = self.ask(0, Operation::FilesystemCreate(request))?;
        let info = FilesystemInfo::from_bytes(&made.body).map_err(|e| e.to_string())?;
        self.namespace = Namespace::new(info.root);
        let admin = self.players.pop();
        if let Some(mut admin) = admin {
            admin.actor.hang_up();
        }
        let mut shared = Fid::NONE;
        for number in 0..self.plan.actors {
            self.add_player("fs");
            let granted = self.ask(number, Operation::SequenceGrant)?;
            let reply = SequenceGrantReply::from_bytes(&granted.body).map_err(|e| e.to_string())?;
            let make = |world: &mut Self, oid: u32, text: &str| {
                let name = Name::new(text.as_bytes()).map_err(|_| "a bad name")?;
                let fid = Fid::new(reply.sequence, oid);
                let request = create(info.root, name, fid, FileKind::Directory);
                world.ask(number, Operation::Create(request, Vec::new()))?;
                Ok::<Fid, String>(fid)
            };
            if number == 0 {
                shared = make(self, 1, "shared")?;
            }
            let own = make(self, 2, &format!("own{number}"))?;
            let worker = Worker::new(own, shared, reply.sequence, self.chance.fork());
            self.players[number].worker = Some(worker);
        }
        self.settle()
    }

    /// One request, and its answer.
    pub(crate) fn ask(&mut self, player: usize, operation: Operation) -> Result<Ended, String> {
        self.players[player].queue.push(operation);
        self.finish_round()?;
        let answers = std::mem::take(&mut self.players[player].answers);
        let ended = answers.into_iter().next_back().ok_or("no answer")?;
        if ended.status == 0 { Ok(ended) } else { Err(format!("{ended:?}")) }
    }

    /// Lets everything run until every actor did what it had to do.
    pub(crate) fn finish_round(&mut self) -> Result<(), String> {
        self.faults_in_round = 0;
        loop {
            self.step()?;
            let busy = |player: &Player| {
                let Player { actor, worker, requests, queue, .. } = player;
                let unseen = worker.as_ref().is_some_and(|worker| worker.next_probe().is_some());
                !actor.is_idle() || *requests > 0 || !queue.is_empty() || unseen
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
        let fault = self.restart_at.or(self.faults.then_some(self.next_fault));
        // What came and is not taken, because the node is paused, is no event.
        let now = self.clock.tick();
        let next = node.into_iter().chain(network).chain(fault).chain(actors);
        let next = next.filter(|&at| at > now).min();
        match next {
            Some(next) => self.clock.advance_to(next),
            None => return Err("nothing will ever happen again".to_owned()),
        }
        Ok(())
    }

    fn play(&mut self, number: usize) -> Result<(), String> {
        let player = &mut self.players[number];
        player.actor.turn();
        if let Some(why) = player.actor.take_failure() {
            return Err(why);
        }
        if let Some(ended) = player.actor.take_ended() {
            self.take(number, ended)?;
        }
        let player = &mut self.players[number];
        if player.actor.may_probe()
            && let Some(probe) = player.worker.as_ref().and_then(Worker::next_probe)
        {
            player.actor.probe(probe);
        } else if player.actor.is_idle() {
            let operation = match (player.queue.pop(), &mut player.worker) {
                (Some(operation), _) => operation,
                (None, Some(worker)) if player.requests > 0 => {
                    player.requests -= 1;
                    worker.choose(&self.directories, &self.inodes)
                }
                (None, _) => return Ok(()),
            };
            player.actor.begin(operation);
        }
        player.actor.turn();
        Ok(())
    }

    fn take(&mut self, number: usize, ended: Ended) -> Result<(), String> {
        self.counts.operations += 1;
        self.note(|| {
            let Ended { operation, status, transaction, committed, resent, probe, .. } = &ended;
            format!(
                "actor {number} {operation:?} -> {status}, transaction {transaction:#x}, committed \
                 {committed:#x}{}{}",
                if *resent { ", resent" } else { "" },
                if *probe { ", probe" } else { "" },
            )
        });
        for value in [
            number as u64,
            u64::from(ended.status.unsigned_abs()),
            ended.transaction,
            self.clock.tick().0,
            u64::from(sheen_types::checksum::crc32c(&ended.payload)),
        ] {
            self.counts.trace = Chance::new(self.counts.trace ^ value).next();
        }
        let player = &mut self.players[number];
        if let Some(worker) = &mut player.worker {
            worker.take(&ended).map_err(|why| format!("actor {number}: {why}"))?;
        }
        if ended.probe {
            return Ok(());
        }
        if ended.operation == Operation::SequenceGrant {
            let reply = SequenceGrantReply::from_bytes(&ended.body).map_err(|e| e.to_string())?;
            if !self.sequences.insert(reply.sequence) {
                return Err(format!("sequence {:#x} was granted twice", reply.sequence));
            }
        }
        let player = &mut self.players[number];
        player.answers.push(ended.clone());
        let of_mdt = ended.operation.target() == crate::operation::Target::Mdt;
        if of_mdt && !matches!(ended.operation, Operation::FilesystemCreate(_)) {
            self.history.push(number, ended);
        }
        Ok(())
    }

    /// Content is written by at most one client, and then nobody else has it cached.
    fn check_leases(&mut self) -> Result<(), String> {
        let changed: BTreeSet<Fid> = self
            .players
            .iter_mut()
            .flat_map(|player| std::mem::take(&mut player.actor.changed))
            .collect();
        for fid in changed {
            let held: Vec<_> =
                self.players.iter().filter_map(|player| player.actor.held.get(&fid)).collect();
            let writers = held.iter().filter(|held| held.write_bits & bits::DATA != 0).count();
            let holders = held
                .iter()
                .filter(|held| (held.read_bits | held.write_bits) & bits::DATA != 0)
                .count();
            if writers > 1 || writers == 1 && holders > 1 {
                return Err(format!("{fid}: {writers} write and {holders} cache its content"));
            }
        }
        Ok(())
    }
}

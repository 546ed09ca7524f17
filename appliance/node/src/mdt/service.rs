//! The MDT on its ports: one turn takes what came from fabric, device and OSTs, does all work there is, and hands on
//! what follows. Path: M1–M9.
//!
//! Driven by the node's thread or by the simulator; it never blocks. Owns the ports, the replica and the core.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::RawFd,
    sync::Arc,
};

use sheen_consensus::{Command, Group, LogRoom, ProposeError, Recovery};
use sheen_dma::Arena;
use sheen_meta::{Operation, SnapshotReader, State};
use sheen_ports::{
    Block, BlockError, Clock, ConnectionId, Entropy, Fabric, FabricEvent, RequestId,
};
use sheen_types::Tick;
use sheen_wire::Frame;

use crate::{attach_secret::AttachSecret, resting::Resting, stats::ConnectionStats};

use super::{
    commit::Batch,
    config::MdtConfig,
    core::{Mdt, Phase},
    device::{ZoneDevice, ZoneEnd},
    exchange::Waiting,
    gateway::{OstGateway, OstJobEnd},
    identities::{OrderEnd, PublishedIdentities},
    marking::Stopping,
    mutation::ChangeId,
    ports::{MdtFailure, MdtPorts},
    snapshots::{Assembler, Encoded},
    stats::{MdtStats, RecoveryPart},
};

/// Committed proposals applied in one turn while the log is replayed.
const REPLAY_PER_TURN: usize = 64;

#[derive(Debug)]
pub(crate) enum Stage {
    Recovering {
        recovery: Box<Recovery>,
        assembler: Assembler,
        reader: Box<SnapshotReader>,
        any: bool,
    },
    Running(Box<Group>),
    Failed(MdtFailure),
}

/// A request whose payload is being fetched.
#[derive(Debug)]
pub(crate) struct Pull {
    pub request: RequestId,
    pub frame: Frame,
    pub body: Vec<u8>,
}

/// The service.
#[derive(Debug)]
pub struct MdtService<B, F, C, E, G> {
    pub(crate) core: Mdt,
    pub(crate) stage: Stage,
    pub(crate) device: ZoneDevice<B>,
    pub(crate) fabric: F,
    pub(crate) clock: C,
    entropy: E,
    pub(crate) osts: G,
    /// For payloads on their way from and to clients.
    pub(crate) payloads: Arena,
    pub(crate) pulls: BTreeMap<u64, Pull>,
    pub(crate) next_pull: u64,
    proposed: BTreeMap<u64, Vec<ChangeId>>,
    /// Commands of the replica not carried out yet.
    replay: VecDeque<(u64, Vec<u8>)>,
    pub(crate) snapshot: Encoded,
    /// Outputs that wait for peers who do not take callbacks.
    pub(crate) backlog: BTreeMap<ConnectionId, Waiting>,
    pub(crate) events: Vec<FabricEvent>,
    pub(crate) resting: Resting<u64>,
    pub(crate) stopping: Stopping,
    /// How the device failed a command first.
    device_error: Option<BlockError>,
}

impl<B: Block, F: Fabric, C: Clock, E: Entropy, G: OstGateway> MdtService<B, F, C, E, G> {
    /// Begins with recovery; requests that come meanwhile wait.
    #[must_use]
    pub fn new(config: MdtConfig, ports: MdtPorts<B, F, C, E, G>, stats: Arc<MdtStats>) -> Self {
        let MdtPorts { block, fabric, clock, mut entropy, osts, arena, payloads } = ports;
        let state = State::new(config.state_limits);
        // What of the buffers fetched payloads take is bounded by itself.
        let MdtConfig { limits, times, node, osts: served, .. } = config;
        let secret = AttachSecret::new(std::array::from_fn(|_| entropy.next_u64()));
        let (served, state) = ((node, served), (state, secret));
        let core = Mdt::new(limits, times, served, state, stats, payloads.bytes());
        let recovery = Box::new(Recovery::new(config.group, config.zone));
        let reader = Box::new(SnapshotReader::new(config.state_limits));
        Self {
            core,
            stage: Stage::Recovering {
                recovery,
                assembler: Assembler::default(),
                reader,
                any: false,
            },
            device: ZoneDevice::new(block, config.zone_start, arena),
            fabric,
            clock,
            entropy,
            osts,
            payloads,
            pulls: BTreeMap::new(),
            next_pull: 0,
            proposed: BTreeMap::new(),
            replay: VecDeque::new(),
            snapshot: Encoded::default(),
            backlog: BTreeMap::new(),
            events: Vec::new(),
            resting: Resting::default(),
            stopping: Stopping::Serving,
            device_error: None,
        }
    }

    /// Why it does not serve, if so. It stays so until the process starts again.
    #[must_use]
    pub fn failure(&self) -> Option<MdtFailure> {
        match self.stage {
            Stage::Failed(failure) => Some(failure),
            Stage::Recovering { .. } | Stage::Running(_) => None,
        }
    }

    /// Whether it leads, and known clients are back.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.core.phase == Phase::Serving
    }

    /// Whether it ended, after [`MdtService::stop`].
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping == Stopping::Ended
    }

    /// Where identities and authorities are seen.
    #[must_use]
    pub fn identities(&self) -> &Arc<PublishedIdentities> {
        self.core.identities()
    }

    /// See [`Mdt::order_identities`].
    pub(crate) fn order_identities(&mut self, change: Option<Operation>, end: OrderEnd) {
        self.core.order_identities(change, end);
    }

    /// Where the fabric's connections are counted.
    #[must_use]
    pub fn connection_stats(&self) -> &ConnectionStats {
        &self.core.stats.connections
    }

    /// The fabric, for whoever hands it new connections.
    pub fn fabric_mut(&mut self) -> &mut F {
        &mut self.fabric
    }

    /// The way to the OSTs.
    pub fn osts_mut(&mut self) -> &mut G {
        &mut self.osts
    }

    /// The device.
    pub fn block(&self) -> &B {
        self.device.block()
    }

    /// Does what there is to do. Returns how much it did; 0: nothing until an event or [`MdtService::next_deadline`].
    pub fn turn(&mut self) -> usize {
        self.core.on_time(self.clock.now(), self.clock.wall());
        self.release_before_stop();
        if !matches!(self.stopping, Stopping::Serving | Stopping::Releasing { .. }) {
            return self.turn_to_end();
        }
        if self.core.random.is_none() {
            self.core.random = Some([self.entropy.next_u64(), self.entropy.next_u64()]);
        }
        self.core.renew_plans();
        let mut work = self.poll_device();
        work += self.recover();
        work += self.poll_fabric();
        work += self.poll_osts();
        // What came in this turn is given a time of after it came: an OST may have told its sender of one by now, for a change
        // that was before.
        self.core.on_time(self.clock.now(), self.clock.wall());
        self.core.work_in_background();
        self.propose();
        work += self.run_group();
        work += self.write_snapshot();
        // A device in memory has written the log by now.
        work += self.poll_device();
        // Replies may have let changes go on.
        self.propose();
        self.mark_at_rest();
        work += self.run_group();
        work += self.send_outputs();
        self.device.submit_waiting();
        work
    }

    /// When a turn is due although nothing came.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        let tick = self.core.next_tick();
        match &self.stage {
            Stage::Running(group) => {
                [Some(tick), group.deadline(), self.resting.deadline()].into_iter().flatten().min()
            }
            Stage::Recovering { .. } | Stage::Failed(_) => Some(tick),
        }
    }

    /// Announces that the thread is about to sleep; false if something came meanwhile. Peers that take no callbacks keep nobody
    /// awake: they are tried again at the next tick, or when a request comes.
    pub fn prepare_sleep(&mut self) -> bool {
        let pollable = self.device.prepare_sleep();
        let fabric = self.fabric.prepare_sleep();
        let osts = self.osts.prepare_sleep();
        pollable && fabric && osts
    }

    /// Announces that the thread polls again.
    pub fn end_sleep(&mut self) {
        self.fabric.end_sleep();
        self.osts.end_sleep();
        self.device.end_sleep();
    }

    /// Descriptors that poll readable when a turn would find work.
    pub fn wake_descriptors(&self, descriptors: &mut Vec<RawFd>) {
        self.fabric.wake_descriptors(descriptors);
        descriptors.extend(self.device.block().wake_descriptor());
        descriptors.extend(self.osts.wake_descriptor());
    }

    /// Changes whenever [`MdtService::wake_descriptors`] would answer differently.
    pub fn wake_generation(&self) -> u64 {
        self.fabric.wake_generation()
    }

    pub(crate) fn fail(&mut self, failure: MdtFailure) {
        tracing::error!(%failure, "the metadata service stopped");
        self.stage = Stage::Failed(failure);
        self.core.fail();
    }

    pub(crate) fn poll_device(&mut self) -> usize {
        let mut ends: Vec<ZoneEnd> = Vec::new();
        let count = self.device.poll(&mut ends);
        for ZoneEnd { io, result } in ends {
            if let Err(error) = &result {
                tracing::error!(%error, "a command to the metadata zone failed");
                self.device_error.get_or_insert(*error);
            }
            match &mut self.stage {
                Stage::Running(group) => group.on_io_complete(io, result.is_ok()),
                Stage::Recovering { recovery, .. } => {
                    // A read has bytes; what was written has them too, but recovery knows which is in flight.
                    recovery.on_end(io, result.as_deref().ok());
                }
                Stage::Failed(_) => {}
            }
        }
        count
    }

    fn poll_osts(&mut self) -> usize {
        let mut ends: Vec<OstJobEnd> = Vec::new();
        self.osts.poll(&mut ends);
        for end in &ends {
            self.core.on_ost_end(*end);
        }
        if self.osts.take_list_wanted() {
            self.core.list_wanted();
        }
        ends.len()
    }

    /// Proposes what is ready. Path: M4.
    fn propose(&mut self) {
        let Stage::Running(group) = &mut self.stage else { return };
        let mut room = LogRoom::Ordinary;
        while group.is_leading() && self.proposed.len() < self.core.limits.proposals_max {
            if !group.has_room(room) {
                room = LogRoom::Deletes;
            }
            let Some(Batch { ids, bytes }) = self.core.take_batch(room) else { break };
            match group.propose_into(room, bytes) {
                Ok(position) => {
                    self.core.stats.proposals.add(1);
                    self.proposed.insert(position.index, ids);
                }
                Err(ProposeError::Busy) if room == LogRoom::Ordinary => {
                    // What makes room must not wait behind it.
                    self.core.give_back(Batch { ids, bytes: Vec::new() });
                    room = LogRoom::Deletes;
                }
                Err(ProposeError::TooLong) => {
                    tracing::error!(changes = ids.len(), "a proposal is too long");
                    self.core.refuse_batch(Batch { ids, bytes: Vec::new() });
                }
                Err(ProposeError::Busy | ProposeError::NotLeader(_) | ProposeError::Stopped) => {
                    // Kept for the case that the log takes it later.
                    self.core.give_back(Batch { ids, bytes: Vec::new() });
                    break;
                }
            }
        }
        // Refused changes let others begin.
        self.core.settle();
    }

    pub(crate) fn run_group(&mut self) -> usize {
        let mut work = 0;
        let Stage::Running(group) = &mut self.stage else { return 0 };
        group.on_timer(self.core.now);
        group.pump();
        while let Some(command) = group.poll_command() {
            match command {
                Command::Write { io, lba, bytes, durable } => {
                    self.device.write(io, lba, bytes, durable)
                }
                Command::Flush { io } => self.device.flush(io),
                Command::Committed { position, payload } => {
                    self.replay.push_back((position.index, payload));
                }
                Command::Leading { .. } => self.replay.push_back((0, Vec::new())),
                Command::SnapshotDone { .. } => {
                    self.core.stats.snapshots.add(1);
                }
                // With one replica there is nobody to send to, and nobody who could depose it.
                Command::Send { .. } | Command::Deposed => {}
                Command::Stopped => {
                    self.fail(MdtFailure::Log(self.device_error));
                    return 1;
                }
            }
            work += 1;
        }
        self.core.stats.log_bytes.set(group.log_bytes());
        work + self.apply()
    }

    /// Applies what is committed. Path: M7.
    fn apply(&mut self) -> usize {
        let mut applied = 0;
        if self.core.phase == Phase::Recovering && !self.replay.is_empty() {
            let done = self.core.stats.entries.get();
            let total = done + self.replay.len() as u64;
            self.core.stats.tell_recovery(RecoveryPart::Replay, done, total);
        }
        while applied < REPLAY_PER_TURN {
            let Some((index, payload)) = self.replay.pop_front() else { break };
            applied += 1;
            if index == 0 {
                if let Stage::Running(group) = &self.stage {
                    self.core.stats.term.set(group.term());
                }
                self.core.on_leading();
                continue;
            }
            let ids = self.proposed.remove(&index).unwrap_or_default();
            if !self.core.on_committed(&payload, &ids) {
                self.fail(MdtFailure::Record);
                break;
            }
        }
        applied
    }

    fn write_snapshot(&mut self) -> usize {
        let Stage::Running(group) = &mut self.stage else { return 0 };
        if !self.replay.is_empty() {
            return 0;
        }
        self.snapshot.turn(group, &mut self.core)
    }
}

//! The MDT on its ports: one turn takes what came from fabric, device and OSTs, does all work there is, and hands on
//! what follows. Path: M1–M9.
//!
//! Driven by the node's thread or by the simulator; it never blocks. Owns the ports, the replica and the core.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::RawFd,
    sync::Arc,
};

use sheen_consensus::{Command, Group, ProposeError, Recovery, RecoveryError, RecoveryStep};
use sheen_dma::{Arena, Buffer};
use sheen_meta::{SnapshotReader, State};
use sheen_ports::{
    Block, Clock, ConnectionId, Entropy, Fabric, FabricEvent, NotifyError, RequestId,
};
use sheen_types::{Errno, Tick, checksum::crc32c};
use sheen_wire::{Frame, Kind, Opcode};

use super::{
    commit::Batch,
    config::MdtConfig,
    core::{Mdt, Phase},
    device::{ZoneDevice, ZoneEnd},
    gateway::{OstGateway, OstJobEnd},
    mutation::ChangeId,
    request::{Answer, Incoming, Output},
    snapshots::{Assembler, Encoded},
    stats::MdtStats,
};

/// Longest payload of a request: a whole slab of things to assert again.
const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
/// Committed proposals applied in one turn while the log is replayed.
const REPLAY_PER_TURN: usize = 64;

/// What an MDT runs on.
#[derive(Debug)]
pub struct MdtPorts<B, F, C, E, G> {
    /// The device its zone lies on.
    pub block: B,
    /// Where clients come from.
    pub fabric: F,
    /// Time.
    pub clock: C,
    /// Chance.
    pub entropy: E,
    /// The OSTs.
    pub osts: G,
    /// Memory for device commands and payloads; at least 8 MiB.
    pub arena: Arena,
}

/// Why an MDT cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MdtFailure {
    /// Its zone could not be recovered.
    Recovery(RecoveryError),
    /// The snapshot is whole but does not make a state.
    Snapshot(sheen_meta::SnapshotError),
    /// A committed record is whole but holds no changes.
    Record,
    /// The log could not be written.
    Log,
}

impl std::fmt::Display for MdtFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Recovery(error) => write!(f, "the metadata zone cannot be used: {error}"),
            Self::Snapshot(error) => write!(f, "the metadata snapshot cannot be used: {error}"),
            Self::Record => f.write_str("a committed metadata record cannot be read"),
            Self::Log => f.write_str("the metadata log cannot be written"),
        }
    }
}

impl std::error::Error for MdtFailure {}

#[derive(Debug)]
enum Stage {
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
struct Pull {
    request: RequestId,
    frame: Frame,
    body: Vec<u8>,
}

/// The service.
#[derive(Debug)]
pub struct MdtService<B, F, C, E, G> {
    pub(crate) core: Mdt,
    stage: Stage,
    device: ZoneDevice<B>,
    fabric: F,
    clock: C,
    entropy: E,
    osts: G,
    arena: Arena,
    pulls: BTreeMap<u64, Pull>,
    next_pull: u64,
    proposed: BTreeMap<u64, Vec<ChangeId>>,
    /// Commands of the replica not carried out yet.
    replay: VecDeque<(u64, Vec<u8>)>,
    snapshot: Encoded,
    /// Outputs that wait for peers who do not take callbacks.
    backlog: BTreeMap<ConnectionId, VecDeque<Output>>,
    events: Vec<FabricEvent>,
    stopping: bool,
}

impl<B: Block, F: Fabric, C: Clock, E: Entropy, G: OstGateway> MdtService<B, F, C, E, G> {
    /// Begins with recovery; requests that come meanwhile wait.
    #[must_use]
    pub fn new(config: MdtConfig, ports: MdtPorts<B, F, C, E, G>, stats: Arc<MdtStats>) -> Self {
        let MdtPorts { block, fabric, clock, entropy, osts, arena } = ports;
        let state = State::new(config.state_limits);
        let core = Mdt::new(config.limits, config.times, config.osts, state, stats);
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
            device: ZoneDevice::new(block, config.zone_start, arena.clone()),
            fabric,
            clock,
            entropy,
            osts,
            arena,
            pulls: BTreeMap::new(),
            next_pull: 0,
            proposed: BTreeMap::new(),
            replay: VecDeque::new(),
            snapshot: Encoded::default(),
            backlog: BTreeMap::new(),
            events: Vec::new(),
            stopping: false,
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

    /// Lets it end; what is proposed may or may not be carried out.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether [`MdtService::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping
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
        self.core.now = self.clock.now();
        self.core.wall = self.clock.wall();
        if self.core.random.is_none() {
            self.core.random = Some([self.entropy.next_u64(), self.entropy.next_u64()]);
        }
        let mut work = self.poll_device();
        work += self.recover();
        work += self.poll_fabric();
        work += self.poll_osts();
        self.core.work_in_background();
        self.propose();
        work += self.run_group();
        work += self.write_snapshot();
        // Replies may have let changes go on.
        self.propose();
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
            Stage::Running(group) => Some(group.deadline().map_or(tick, |at| at.min(tick))),
            Stage::Recovering { .. } | Stage::Failed(_) => Some(tick),
        }
    }

    /// Announces that the thread is about to sleep; false if something came meanwhile.
    pub fn prepare_sleep(&mut self) -> bool {
        let pollable =
            self.device.block().wake_descriptor().is_some() || self.device.block().in_flight() == 0;
        let fabric = self.fabric.prepare_sleep();
        let osts = self.osts.prepare_sleep();
        pollable && fabric && osts && self.backlog.is_empty()
    }

    /// Announces that the thread polls again.
    pub fn end_sleep(&mut self) {
        self.fabric.end_sleep();
        self.osts.end_sleep();
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

    fn fail(&mut self, failure: MdtFailure) {
        tracing::error!(%failure, "the metadata service stopped");
        self.stage = Stage::Failed(failure);
        self.core.fail();
    }

    fn poll_device(&mut self) -> usize {
        let mut ends: Vec<ZoneEnd> = Vec::new();
        let count = self.device.poll(&mut ends);
        for ZoneEnd { io, result } in ends {
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

    fn recover(&mut self) -> usize {
        let mut steps = 0;
        while let Stage::Recovering { recovery, assembler, reader, any } = &mut self.stage {
            match recovery.poll() {
                Err(error) => self.fail(MdtFailure::Recovery(error)),
                Ok(None) => return steps,
                Ok(Some(RecoveryStep::Read { io, lba, blocks })) => {
                    self.device.read(io, lba, blocks)
                }
                Ok(Some(RecoveryStep::Write { io, lba, bytes, durable })) => {
                    self.device.write(io, lba, bytes, durable);
                }
                Ok(Some(RecoveryStep::Flush { io })) => self.device.flush(io),
                Ok(Some(RecoveryStep::SnapshotBytes(bytes))) => {
                    *any = true;
                    assembler.push(&bytes);
                    while let Some(chunk) = assembler.next_chunk() {
                        if let Err(error) = reader.push(&chunk) {
                            self.fail(MdtFailure::Snapshot(error));
                            break;
                        }
                    }
                }
                Ok(Some(RecoveryStep::Ready)) => self.start_group(),
            }
            steps += 1;
        }
        steps
    }

    fn start_group(&mut self) {
        let failed = Stage::Failed(MdtFailure::Log);
        let Stage::Recovering { recovery, reader, any, .. } =
            std::mem::replace(&mut self.stage, failed)
        else {
            unreachable!("called while recovering")
        };
        if any {
            match reader.finish() {
                Ok(state) => self.core.state = state,
                Err(error) => return self.fail(MdtFailure::Snapshot(error)),
            }
        }
        self.stage = Stage::Running(Box::new(recovery.finish(self.core.now)));
    }

    fn poll_fabric(&mut self) -> usize {
        let mut events = std::mem::take(&mut self.events);
        self.fabric.poll(self.core.limits.events_per_turn, &mut events);
        let count = events.len();
        for event in events.drain(..) {
            match event {
                FabricEvent::Opened { connection, .. } => {
                    if !self.core.on_opened(connection) {
                        self.core.outputs.push_back(Output::Close { connection });
                    }
                }
                FabricEvent::Request { request, message } => self.take_request(request, &message),
                FabricEvent::Pulled { token, buffer, result } => {
                    self.take_payload(token, &buffer, result.is_ok());
                }
                FabricEvent::Sent { buffer } => drop(buffer),
                FabricEvent::Closed { connection, .. } => {
                    self.backlog.remove(&connection);
                    self.core.on_closed(connection);
                }
            }
        }
        self.events = events;
        count
    }

    fn take_request(&mut self, request: RequestId, message: &[u8]) {
        let Ok((frame, body)) = Frame::decode_with(message) else { return };
        if frame.kind != Kind::Request {
            return self.refuse(request, frame, Errno::EPROTO);
        }
        let carries = matches!(frame.opcode, Opcode::Create | Opcode::SetXattr | Opcode::Reassert);
        if !carries || frame.payload_bytes == 0 {
            let body = body.to_vec();
            return self.core.on_request(request, frame, body, Vec::new());
        }
        if frame.payload_bytes > PAYLOAD_BYTES_MAX {
            return self.refuse(request, frame, Errno::E2BIG);
        }
        let Some(buffer) = self.arena.allocate(frame.payload_bytes as usize) else {
            return self.refuse(request, frame, Errno::EAGAIN);
        };
        self.next_pull += 1;
        let token = self.next_pull;
        self.pulls.insert(token, Pull { request, frame, body: body.to_vec() });
        self.fabric.pull(request, token, buffer);
    }

    fn take_payload(&mut self, token: u64, buffer: &Buffer, whole: bool) {
        let Some(Pull { request, frame, body }) = self.pulls.remove(&token) else { return };
        if !whole {
            return self.refuse(request, frame, Errno::ENOTCONN);
        }
        let payload = &buffer.as_slice()[..frame.payload_bytes as usize];
        if crc32c(payload) != frame.payload_checksum {
            return self.refuse(request, frame, Errno::EIO);
        }
        self.core.on_request(request, frame, body, payload.to_vec());
    }

    fn refuse(&mut self, request: RequestId, frame: Frame, errno: Errno) {
        let arrived = self.core.now;
        let (body, payload) = (Vec::new(), Vec::new());
        self.core.held += 1;
        self.core
            .answer(&Incoming { request, frame, body, payload, arrived }, Answer::error(errno));
    }

    fn poll_osts(&mut self) -> usize {
        let mut ends: Vec<OstJobEnd> = Vec::new();
        self.osts.poll(&mut ends);
        for end in &ends {
            self.core.on_ost_end(*end);
        }
        ends.len()
    }

    /// Proposes what is ready. Path: M4.
    fn propose(&mut self) {
        let Stage::Running(group) = &mut self.stage else { return };
        while group.is_leading() && self.proposed.len() < self.core.limits.proposals_max {
            let Some(Batch { ids, bytes }) = self.core.take_batch() else { return };
            // Kept for the case that the log takes it later.
            match group.propose(bytes) {
                Ok(position) => {
                    self.core.stats.proposals.add(1);
                    self.proposed.insert(position.index, ids);
                }
                Err(ProposeError::TooLong) => {
                    unreachable!("batches are shorter than proposals may be")
                }
                Err(ProposeError::Busy | ProposeError::NotLeader(_) | ProposeError::Stopped) => {
                    return self.core.give_back(Batch { ids, bytes: Vec::new() });
                }
            }
        }
    }

    fn run_group(&mut self) -> usize {
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
                Command::Leading { term } => {
                    self.core.stats.term.set(term);
                    self.replay.push_back((0, Vec::new()));
                }
                Command::SnapshotDone { .. } => {
                    self.core.stats.snapshots.add(1);
                    self.core.background.no_space = false;
                }
                // With one replica there is nobody to send to, and nobody who could depose it.
                Command::Send { .. } | Command::Deposed => {}
                Command::Stopped => {
                    self.fail(MdtFailure::Log);
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
        while applied < REPLAY_PER_TURN {
            let Some((index, payload)) = self.replay.pop_front() else { break };
            applied += 1;
            if index == 0 {
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
        let due =
            group.log_bytes() > group.log_capacity_bytes() / self.core.limits.snapshot_ring_part;
        self.snapshot.turn(group, &mut self.core, due)
    }

    fn send_outputs(&mut self) -> usize {
        let mut sent = 0;
        for (_, waiting) in std::mem::take(&mut self.backlog) {
            for output in waiting {
                self.send(output);
            }
        }
        while let Some(output) = self.core.outputs.pop_front() {
            self.send(output);
            sent += 1;
        }
        sent
    }

    /// Sends an output, or puts it behind what its connection does not take yet.
    fn send(&mut self, output: Output) {
        let connection = match &output {
            Output::Reply { request, .. } => request.connection,
            Output::Notify { connection, .. } | Output::Close { connection } => *connection,
            Output::Ost { token, job } => {
                if self.osts.submit(*token, job.clone()).is_err() {
                    self.core.ost_refused(*token);
                }
                return;
            }
        };
        if let Some(waiting) = self.backlog.get_mut(&connection) {
            waiting.push_back(output);
            if waiting.len() > self.core.limits.backlog_per_connection_max {
                self.backlog.remove(&connection);
                self.fabric.close(connection);
            }
            return;
        }
        match output {
            Output::Reply { request, frame, body, payload } => {
                self.reply(request, frame, &body, &payload)
            }
            Output::Close { connection } => self.fabric.close(connection),
            Output::Notify { connection, message } => {
                if self.fabric.notify(connection, &message) == Err(NotifyError::Busy) {
                    let waiting = VecDeque::from([Output::Notify { connection, message }]);
                    self.backlog.insert(connection, waiting);
                }
            }
            Output::Ost { .. } => unreachable!("sent above"),
        }
    }

    fn reply(&mut self, request: RequestId, mut frame: Frame, body: &[u8], payload: &[u8]) {
        let mut message = Vec::with_capacity(sheen_wire::FRAME_BYTES + body.len());
        let buffer = (!payload.is_empty()).then(|| {
            let mut buffer = self
                .arena
                .allocate(payload.len())
                .unwrap_or_else(|| Buffer::standalone(payload.len()));
            buffer.as_mut_slice()[..payload.len()].copy_from_slice(payload);
            frame.payload_bytes = u32::try_from(payload.len()).unwrap_or(0);
            frame.payload_checksum = crc32c(payload);
            buffer
        });
        frame.encode_with(body, &mut message);
        self.fabric.reply(request, &message, buffer);
    }
}

impl<B, F, C, E, G> sheen_reactor::Service for MdtService<B, F, C, E, G>
where
    B: Block,
    F: Fabric,
    C: Clock,
    E: Entropy,
    G: OstGateway,
{
    fn turn(&mut self, _now: Tick) -> usize {
        MdtService::turn(self)
    }

    fn prepare_sleep(&mut self) -> bool {
        MdtService::prepare_sleep(self)
    }

    fn end_sleep(&mut self) {
        MdtService::end_sleep(self);
    }

    fn wake_descriptors(&self, descriptors: &mut Vec<RawFd>) {
        MdtService::wake_descriptors(self, descriptors);
    }

    fn wake_generation(&self) -> u64 {
        MdtService::wake_generation(self)
    }

    fn next_deadline(&self) -> Option<Tick> {
        MdtService::next_deadline(self)
    }

    fn is_finished(&self) -> bool {
        self.is_stopped()
    }
}

//! The turn of an OST service.

use std::{os::fd::RawFd, sync::Arc, time::Duration};

use sheen_dma::{Arena, ArenaError, Pool};
use sheen_ports::{Block, Clock, Fabric, FabricEvent};
use sheen_reactor::Service;
use sheen_store::{Command, Limits, Packed, ReadPlan};
use sheen_types::{BLOCK_BYTES, Errno, Fid, OstIndex, Tick, Timespec, units::BLOCK_BYTES_U64};
use sheen_wire::{Field, Frame, codec::Encoder};

use crate::{buffer_shares::BufferShares, mdt::gateway::OstSpace, stats::ConnectionStats};

use super::{
    device::{Device, Finished, Purpose},
    fencing::PendingFence,
    gateway::{ServiceDesk, ServiceJob},
    image::Image,
    memory::OstMemory,
    operation::{Merging, Operation, Origin, Work},
    packing::Packer,
    repacking::Repacking,
    scrub::ScrubConfig,
    sessions::Sessions,
    slab::Slab,
    statistics::{OstServiceStats, OstStats},
    target::Target,
};

/// Events taken from the fabric, and jobs from the desk, in one turn.
const EVENTS_PER_TURN: usize = 64;
/// Operations kept free for the node's own jobs.
const OWN_OPERATIONS: usize = 64;
/// Turns with work between two updates of the published numbers.
const TURNS_PER_PUBLISH: u32 = 256;
/// How soon an answer the MDT's mailbox had no room for is offered again.
const DESK_RETRY: Duration = Duration::from_millis(5);

/// Bounds of a service.
#[derive(Debug)]
pub struct OstConfig {
    /// Where buffers come from: payloads on their way between fabric and devices. Used up means Busy.
    pub arena: Arena,
    /// Requests of peers carried out at a time; more are Busy.
    pub operations_max: usize,
    /// Bounds of each store; `requests_max` is raised to what `operations_max` needs.
    pub store: Limits,
    /// How everything stored is verified in the background.
    pub scrub: ScrubConfig,
    /// Whether scattered content that is read in order is brought together.
    pub tidy: bool,
    /// Drawn for this run of the service, never 0: clients tell by it that what was not durable may be lost.
    pub incarnation: u64,
}

/// Memory for an image of two blocks for each operation: each image, of one block or two, keeps at most one place of two from the
/// others.
pub(crate) const fn small_images_bytes(operations_max: usize) -> usize {
    ((operations_max + OWN_OPERATIONS) * 2 * BLOCK_BYTES).next_power_of_two()
}

/// One reactor's OSTs.
#[derive(Debug)]
pub struct OstService<B, F, C> {
    pub(crate) fabric: F,
    pub(crate) incarnation: u64,
    pub(crate) clock: C,
    /// The last time a change was given.
    pub(crate) wall: Timespec,
    pub(crate) buffers: Pool,
    pub(crate) shares: BufferShares,
    /// For images of changes without payload, when `buffers` has nothing left.
    pub(crate) small_images: Arena,
    pub(crate) operations_max: usize,
    /// Writes whose payload has not come: peers decide how long.
    pub(crate) pulling: usize,
    pub(crate) targets: Vec<Target<B>>,
    pub(crate) operations: Slab<Operation>,
    pub(crate) merges: Slab<Merging>,
    pub(crate) repacks: Slab<Repacking>,
    /// Commands of a target that are to be carried out.
    pub(crate) commands: Vec<Command>,
    pub(crate) scratch: Scratch,
    pub(crate) packer: Packer,
    pub(crate) sessions: Sessions,
    pub(crate) pending_fences: Vec<PendingFence>,
    pub(crate) stats: Arc<OstServiceStats>,
    pub(crate) desk: Option<ServiceDesk>,
    pub(crate) desk_is_behind: bool,
    pub(crate) stopping: Stopping,
    events: Vec<FabricEvent>,
    finished: Vec<Finished>,
    turns: u32,
    pub(crate) now: Tick,
}

/// Memory used again by each request.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Commands that are being carried out.
    pub(crate) commands: Vec<Command>,
    /// Plans no read has; as many as reads were ever under way.
    pub(crate) plans: Vec<ReadPlan>,
    /// Sums of a write's blocks.
    pub(crate) checksums: Vec<u32>,
    /// Its packed groups.
    pub(crate) packed: Vec<Packed>,
    pub(crate) body: Vec<u8>,
    pub(crate) message: Vec<u8>,
}

/// Serving → Draining → Flushing → Marking → Ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopping {
    Serving,
    /// What is under way is finished, nothing is taken. Payloads that still come are waited for only while there is other work.
    Draining,
    /// The stores make everything durable.
    Flushing,
    /// Their journals say so.
    Marking,
    Ended,
}

impl<B: Block, F: Fabric, C: Clock> OstService<B, F, C> {
    /// A service for these OSTs, each on a device (or zone) of its own. Recovery begins with the first turn.
    ///
    /// # Errors
    /// When there is no memory for the devices' reserves.
    ///
    /// # Panics
    /// When the incarnation is 0.
    pub fn new(
        config: OstConfig,
        targets: Vec<(OstIndex, B)>,
        fabric: F,
        clock: C,
        desk: Option<ServiceDesk>,
    ) -> Result<Self, ArenaError> {
        let memory = OstMemory::new(config.operations_max, targets.len())?;
        Self::with_memory(config, memory, targets, fabric, clock, desk)
    }

    /// As [`OstService::new`], in memory that was taken before, for as many OSTs and operations or more.
    ///
    /// # Errors
    /// When a device cannot reach the memory.
    ///
    /// # Panics
    /// When the incarnation is 0.
    pub fn with_memory(
        config: OstConfig,
        memory: OstMemory,
        targets: Vec<(OstIndex, B)>,
        fabric: F,
        clock: C,
        desk: Option<ServiceDesk>,
    ) -> Result<Self, ArenaError> {
        assert!(config.incarnation != 0, "an incarnation of 0 is none");
        let slots = config.operations_max + OWN_OPERATIONS;
        let requests_max = u32::try_from(slots).unwrap_or(u32::MAX).max(config.store.requests_max);
        let limits = Limits { requests_max, ..config.store };
        let stats =
            targets.iter().map(|&(index, _)| Arc::new(OstStats { index, ..OstStats::default() }));
        let stats = OstServiceStats { targets: stats.collect(), ..OstServiceStats::default() };
        let OstMemory { small_images, reserves } = memory;
        let mut service = Self {
            fabric,
            incarnation: config.incarnation,
            small_images,
            shares: BufferShares::new(config.arena.bytes()),
            buffers: Pool::new(config.arena),
            operations_max: config.operations_max,
            pulling: 0,
            targets: Vec::new(),
            operations: Slab::new(slots),
            merges: Slab::new(slots),
            repacks: Slab::new(slots),
            commands: Vec::new(),
            scratch: Scratch::default(),
            packer: Packer::default(),
            sessions: Sessions::default(),
            pending_fences: Vec::new(),
            stats: Arc::new(stats),
            desk,
            desk_is_behind: false,
            stopping: Stopping::Serving,
            events: Vec::new(),
            finished: Vec::new(),
            turns: 0,
            now: clock.now(),
            wall: Timespec::ZERO,
            clock,
        };
        for (number, ((index, mut block), reserve)) in targets.into_iter().zip(reserves).enumerate()
        {
            block.register(&service.small_images).map_err(|_| ArenaError::Unreachable)?;
            let stats = service.stats.targets[number].clone();
            let device = Device::new(block, reserve, stats.clone())?;
            let background = (config.scrub, config.tidy);
            let target =
                Target::open(index, device, stats, (limits, background), &mut service.commands);
            service.targets.push(target);
            service.carry_out(number);
        }
        Ok(service)
    }

    /// The fabric, to add connections to.
    pub fn fabric_mut(&mut self) -> &mut F {
        &mut self.fabric
    }

    /// Where the fabric's connections are counted.
    #[must_use]
    pub fn connection_stats(&self) -> &ConnectionStats {
        &self.stats.connections
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Arc<OstServiceStats> {
        self.stats.clone()
    }

    /// Whether every OST has recovered (or failed to): until then requests are Busy.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.targets.iter().any(Target::is_opening)
    }

    /// Begins a checkpoint of every OST that serves, with its next turn; nothing where one is under way.
    pub fn checkpoint(&mut self) {
        self.targets.iter_mut().filter_map(Target::store).for_each(|store| store.checkpoint());
    }

    /// Finishes what is under way, makes it durable, and ends.
    pub fn stop(&mut self) {
        if self.stopping == Stopping::Serving {
            self.stopping = Stopping::Draining;
        }
    }

    /// Answers another MDT from now on, one that was started anew. What its predecessor asked is answered to nobody; which sessions
    /// there are, and which are to be fenced, is the new one's to say.
    pub fn set_desk(&mut self, desk: ServiceDesk) {
        self.pending_fences.clear();
        self.desk = Some(desk);
        self.desk_is_behind = false;
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping != Stopping::Serving
    }

    pub(crate) fn take_jobs(&mut self) -> usize {
        let mut count = 0;
        while count < EVENTS_PER_TURN
            && let Some(request) = self.desk.as_mut().and_then(ServiceDesk::take)
        {
            count += 1;
            let origin = Origin::Gateway { id: request.id };
            match request.job {
                ServiceJob::Destroy { ost, objects } => self.destroy_for_mdt(origin, ost, objects),
                ServiceJob::Space { ost, removed } => self.tell_space(request.id, ost, &removed),
                ServiceJob::Sessions(list) => self.take_list(origin, &list),
                ServiceJob::Drain { version } => self.drain(origin, version),
                ServiceJob::Admit { version, session } => self.admit(origin, version, session),
                ServiceJob::Dismiss { version, client } => self.dismiss(origin, version, client),
                ServiceJob::Stop => self.stop(),
            }
        }
        count
    }

    fn take_events(&mut self) -> usize {
        let mut events = std::mem::take(&mut self.events);
        let count = self.fabric.poll(EVENTS_PER_TURN, &mut events);
        for event in events.drain(..) {
            self.on_event(event);
            while let Some(event) = self.fabric.take_pulled() {
                self.on_event(event);
            }
        }
        self.events = events;
        count
    }

    fn on_event(&mut self, event: FabricEvent) {
        match event {
            FabricEvent::Request { request, message } => {
                // The fabric checked it; a frame that fails here is the fabric's bug.
                let decoded =
                    Frame::decode_with(&message).expect("the fabric delivers whole messages");
                self.on_request(request, &decoded.0, decoded.1);
                self.fabric.recycle(message);
            }
            FabricEvent::Pulled { token, buffer, result } => self.on_pulled(token, buffer, result),
            FabricEvent::Sent { connection, buffer } => {
                self.shares.give(connection, buffer.len());
                self.buffers.give(buffer);
            }
            FabricEvent::Opened { connection, peer } => {
                tracing::debug!(connection = connection.0, ?peer, "client connected");
                let (connections, now) = (&mut self.sessions.connections, self.now);
                if let Some(stranger) = connections.opened(connection, peer.principal, now) {
                    self.fabric.close(stranger);
                }
            }
            FabricEvent::Closed { connection, reason } => {
                self.sessions.forget(connection);
                tracing::debug!(connection = connection.0, ?reason, "connection ended");
            }
        }
    }

    fn take_completions(&mut self, number: usize) -> usize {
        let mut finished = std::mem::take(&mut self.finished);
        let count = self.targets[number].device.poll(&mut finished);
        if count > 0 {
            // Replies tell when they were sent to within a turn; a look at the clock for each costs more than its sums do.
            self.now = self.clock.now();
        }
        for group in finished.drain(..) {
            self.on_finished(number, group);
        }
        self.finished = finished;
        count
    }

    fn on_finished(&mut self, number: usize, mut finished: Finished) {
        let target = &mut self.targets[number];
        match finished.purpose {
            Purpose::Store(io) => {
                let written = finished.pieces.drain(..).flatten();
                written.for_each(|buffer| self.buffers.give(buffer));
                if let Some(store) = target.store() {
                    store.on_io(io, finished.result, &mut self.commands);
                } else {
                    target.on_opening(self.now, io, finished, &mut self.commands);
                }
            }
            Purpose::Opening(io) => target.on_opening(self.now, io, finished, &mut self.commands),
            Purpose::Merge { merge, which } => self.on_merge_read(number, merge, which, finished),
            Purpose::Repack { repack } => self.on_repack_read(number, repack, finished),
            Purpose::Read { operation } => self.on_read(operation, finished),
            Purpose::Scrub => self.on_scrub_read(number, finished),
        }
        self.carry_out(number);
    }

    /// Ends the store's turn and lets the device see what it must do.
    pub(crate) fn pump(&mut self, number: usize) {
        self.targets[number].pump(&mut self.commands);
        self.carry_out(number);
        self.targets[number].device.ring();
    }

    /// Ends an operation; its buffer is its peer's no more.
    pub(crate) fn end_operation(&mut self, token: u64) -> Operation {
        let operation = self.operations.remove(token);
        self.give_share(&operation.origin, operation.held_bytes);
        operation
    }

    /// A buffer that was taken for a peer waits for it no more; 0 bytes: there was none.
    pub(crate) fn give_share(&mut self, origin: &Origin, bytes: usize) {
        if let Origin::Fabric { request, .. } = origin
            && bytes > 0
        {
            self.shares.give(request.connection, bytes);
        }
    }

    pub(crate) fn sync_for(&mut self, number: usize, origin: Origin) {
        let Some(store) = self.targets[number].store() else { return };
        let work = Work::Storing { image: Image::default(), packed: None, repack: None };
        let token =
            self.operations.insert(Operation { origin, target: number, work, held_bytes: 0 });
        let request = sheen_store::RequestToken(token);
        if store.sync(request, &mut self.commands).is_err() {
            self.operations.remove(token);
        }
        self.carry_out(number);
    }

    /// Brings the counters that are levels or totals of the stores up to date. Done by itself now and then.
    pub fn publish(&self) {
        for target in &self.targets {
            target.publish();
        }
        self.stats.in_flight.set(self.operations.len() as u64);
        self.stats.sessions.set(self.sessions.len() as u64);
    }

    pub(crate) fn tell_desk(&mut self, id: u64, done: bool) {
        if let Some(desk) = &mut self.desk {
            desk.end(id, done, None, None);
            self.desk_is_behind = !desk.send();
        }
    }

    /// Tells the MDT what space an OST has, and what these objects hold: none if it cannot take changes.
    fn tell_space(&mut self, id: u64, ost: OstIndex, removed: &[Fid]) {
        let number = self.find(ost).ok();
        let space = number.and_then(|number| {
            let target = &mut self.targets[number];
            let store = target.store().filter(|store| !store.is_stopped())?;
            let now = store.statistics();
            let held = removed.iter().filter_map(|&object| store.attributes(object));
            let removed_blocks: u64 = held.map(|attributes| attributes.blocks).sum();
            let takes_objects = now.objects < now.objects_max;
            let free = target.fillable_blocks(self.now, now.free_blocks);
            Some(OstSpace {
                total_bytes: now.total_blocks * BLOCK_BYTES_U64,
                free_bytes: if takes_objects { free * BLOCK_BYTES_U64 } else { 0 },
                removed_bytes: removed_blocks * BLOCK_BYTES_U64,
            })
        });
        if let Some(desk) = &mut self.desk {
            desk.end(id, space.is_some(), space, None);
            self.desk_is_behind = !desk.send();
        }
    }

    /// Answers an origin, whose change has that number, with a body and no payload.
    pub(crate) fn answer_with(&mut self, origin: &Origin, change: u64, body: &impl Field) {
        let bytes = self.encode(body);
        self.answer_change(origin, change, Ok(&bytes));
        self.scratch.body = bytes;
    }

    /// A body as bytes, in the scratch's memory, which is to be given back.
    pub(crate) fn encode(&mut self, body: &impl Field) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.scratch.body);
        bytes.clear();
        body.encode(&mut Encoder(&mut bytes));
        bytes
    }

    /// Answers an origin that changed nothing, without payload.
    pub(crate) fn answer(&mut self, origin: &Origin, result: Result<&[u8], Errno>) {
        self.answer_change(origin, 0, result);
    }

    /// Answers an origin, whose change has that number (0: none), without payload.
    pub(crate) fn answer_change(
        &mut self,
        origin: &Origin,
        change: u64,
        result: Result<&[u8], Errno>,
    ) {
        match *origin {
            Origin::Fabric { request, frame, since, ost } => {
                self.reply(request, (&frame, since, ost), change, result, None);
            }
            Origin::Gateway { id } => self.tell_desk(id, result.is_ok()),
            Origin::Stop | Origin::Fence | Origin::Tidying => {}
        }
    }
}

impl<B: Block, F: Fabric, C: Clock> Service for OstService<B, F, C> {
    fn turn(&mut self, now: Tick) -> usize {
        self.now = now;
        let mut work = self.take_jobs() + self.take_events();
        while let Some(stranger) = self.sessions.connections.pop_overdue(now) {
            self.fabric.close(stranger);
            work += 1;
        }
        for number in 0..self.targets.len() {
            work += self.take_completions(number) + self.scrub(number) + self.tidy(number);
            work += self.mark_at_rest(number);
            self.pump(number);
        }
        if !self.pending_fences.is_empty() {
            work += self.end_fences();
        }
        if self.desk_is_behind {
            self.desk_is_behind = !self.desk.as_mut().is_none_or(ServiceDesk::send);
        }
        if self.is_stopping() {
            self.advance_stop();
        }
        if work > 0 {
            self.turns += 1;
            if self.turns.is_multiple_of(TURNS_PER_PUBLISH) {
                self.turns = 0;
                self.publish();
            }
        }
        work
    }

    fn prepare_sleep(&mut self) -> bool {
        self.publish();
        self.buffers.release();
        // All announce, whatever the first one says: `end_sleep` follows in any case.
        let fabric = self.fabric.prepare_sleep();
        let desk = self.desk.as_mut().is_none_or(ServiceDesk::prepare_sleep);
        let mut devices = true;
        for target in &mut self.targets {
            devices &= target.device.prepare_sleep();
        }
        fabric && desk && devices
    }

    fn end_sleep(&mut self) {
        self.fabric.end_sleep();
        if let Some(desk) = &mut self.desk {
            desk.end_sleep();
        }
        for target in &mut self.targets {
            target.device.end_sleep();
        }
    }

    fn wake_descriptors(&self, descriptors: &mut Vec<RawFd>) {
        self.fabric.wake_descriptors(descriptors);
        descriptors.extend(self.desk.as_ref().map(ServiceDesk::wake_descriptor));
        descriptors
            .extend(self.targets.iter().filter_map(|target| target.device.wake_descriptor()));
    }

    fn wake_generation(&self) -> u64 {
        self.fabric.wake_generation()
    }

    fn next_deadline(&self) -> Option<Tick> {
        let desk = self.desk_is_behind.then(|| self.now.after(DESK_RETRY));
        let scrub = self.targets.iter().filter_map(|target| target.scrub.deadline()).min();
        // Time enough is when it is past.
        let strangers =
            self.sessions.connections.deadline().map(|at| at.after(Duration::from_nanos(1)));
        let rest = self.targets.iter().filter_map(|target| target.resting.deadline()).min();
        [desk, scrub, strangers, rest].into_iter().flatten().min()
    }

    fn is_finished(&self) -> bool {
        self.stopping == Stopping::Ended
    }
}

//! Ports in memory: a device, a fabric, a clock, chance, the OSTs.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::fd::RawFd,
    rc::Rc,
};

use sheen_consensus::ZONE_BLOCKS_MIN;
use sheen_dma::Buffer;
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation, Clock,
    CloseReason, ConnectionId, Entropy, Fabric, FabricEvent, NotifyError, RequestId,
};
use sheen_types::{BLOCK_BYTES, OstIndex, Tick, Timespec, Xid, checksum::crc32c};
use sheen_wire::{Frame, Opcode};

use super::{OstGateway, OstJob, OstJobEnd, OstSpace};

/// Blocks kept when the service goes away; what was not completed is lost.
pub(crate) type Blocks = Rc<RefCell<BTreeMap<u64, Vec<u8>>>>;

#[derive(Debug)]
pub(crate) struct FakeBlock {
    pub blocks: Blocks,
    pub in_flight: VecDeque<BlockCommand>,
    /// While set, nothing completes.
    pub stalled: Rc<Cell<bool>>,
    /// While set, writes fail.
    pub broken: Rc<Cell<bool>>,
}

impl Block for FakeBlock {
    fn geometry(&self) -> BlockGeometry {
        BlockGeometry {
            blocks: ZONE_BLOCKS_MIN + 64,
            volatile_write_cache: true,
            atomic_write_blocks: 1,
            queue_depth: 8,
            transfer_blocks_max: 32,
        }
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        if self.in_flight.len() >= 8 {
            return Err(command);
        }
        self.in_flight.push_back(command);
        Ok(())
    }

    fn ring(&mut self) {}

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        let mut count = 0;
        while !self.stalled.get() {
            let Some(BlockCommand { token, operation }) = self.in_flight.pop_front() else { break };
            count += 1;
            let mut blocks = self.blocks.borrow_mut();
            let buffer = match operation {
                BlockOperation::Read { lba, mut buffer } => {
                    for (at, chunk) in (lba.0..).zip(buffer.as_mut_slice().chunks_mut(BLOCK_BYTES))
                    {
                        match blocks.get(&at) {
                            Some(bytes) => chunk.copy_from_slice(bytes),
                            None => chunk.fill(0),
                        }
                    }
                    Some(buffer)
                }
                BlockOperation::Write { lba, buffer, .. } => {
                    for (at, chunk) in (lba.0..).zip(buffer.as_slice().chunks(BLOCK_BYTES)) {
                        blocks.insert(at, chunk.to_vec());
                    }
                    Some(buffer)
                }
                BlockOperation::Flush | BlockOperation::Discard { .. } => None,
            };
            let result = if self.broken.get() { Err(BlockError::Gone) } else { Ok(()) };
            completions.push(BlockCompletion { token, buffer, result });
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// A message as a client gets it.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub frame: Frame,
    pub body: Vec<u8>,
    pub payload: Vec<u8>,
}

#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub events: VecDeque<FabricEvent>,
    /// Payloads clients offer, by request.
    pub offered: BTreeMap<RequestId, Vec<u8>>,
    /// While set, payloads do not come.
    pub hold_pulls: bool,
    /// Pulls whose payload did not come: token and buffer.
    pub pulling: Vec<(RequestId, u64, Buffer)>,
    /// Replies, by (connection, xid).
    pub replies: BTreeMap<(ConnectionId, Xid), Received>,
    pub callbacks: BTreeMap<ConnectionId, VecDeque<Received>>,
    /// Replies and callbacks in the order they were sent.
    pub streams: BTreeMap<ConnectionId, VecDeque<Received>>,
    /// Everything sent over a connection, in order: opcode and whether it was a callback.
    pub order: Vec<(ConnectionId, Opcode, bool)>,
    pub closed: Vec<ConnectionId>,
    /// Connections that take no callbacks now.
    pub busy: Vec<ConnectionId>,
    /// Callbacks a peer may leave unread; None: any number.
    pub unread_max: Option<usize>,
    /// Connections whose peers take no replies now.
    pub deaf: Vec<ConnectionId>,
    /// Buffers of replies that were not taken.
    pub unsent: Vec<(ConnectionId, Buffer)>,
}

#[derive(Debug)]
pub(crate) struct FakeFabric(pub Rc<RefCell<Wire>>);

impl Fabric for FakeFabric {
    fn poll(&mut self, budget: usize, events: &mut Vec<FabricEvent>) -> usize {
        let mut wire = self.0.borrow_mut();
        let count = wire.events.len().min(budget);
        events.extend(wire.events.drain(..count));
        count
    }

    fn pull(&mut self, request: RequestId, token: u64, mut buffer: Buffer) {
        let mut wire = self.0.borrow_mut();
        if wire.hold_pulls {
            return wire.pulling.push((request, token, buffer));
        }
        let payload = wire.offered.remove(&request).unwrap();
        buffer.as_mut_slice()[..payload.len()].copy_from_slice(&payload);
        wire.events.push_back(FabricEvent::Pulled { token, buffer, result: Ok(()) });
    }

    fn reply(&mut self, request: RequestId, message: &[u8], payload: Option<Buffer>) {
        let (frame, body) = Frame::decode_with(message).unwrap();
        let connection = request.connection;
        let buffer = payload;
        let payload =
            buffer.as_ref().map(|p| p.as_slice()[..frame.payload_bytes as usize].to_vec());
        let payload = payload.unwrap_or_default();
        assert_eq!(
            crc32c(&payload),
            if payload.is_empty() { crc32c(&[]) } else { frame.payload_checksum }
        );
        let mut wire = self.0.borrow_mut();
        if wire.deaf.contains(&connection) {
            wire.unsent.extend(buffer.map(|buffer| (connection, buffer)));
        } else {
            wire.events.extend(buffer.map(|buffer| FabricEvent::Sent { connection, buffer }));
        }
        wire.order.push((request.connection, frame.opcode, false));
        let received = Received { frame, body: body.to_vec(), payload };
        wire.streams.entry(request.connection).or_default().push_back(received.clone());
        wire.replies.insert((request.connection, frame.xid), received);
    }

    fn notify(&mut self, connection: ConnectionId, message: &[u8]) -> Result<(), NotifyError> {
        let mut wire = self.0.borrow_mut();
        let unread = wire.callbacks.get(&connection).map_or(0, VecDeque::len);
        if wire.busy.contains(&connection) || wire.unread_max.is_some_and(|max| unread >= max) {
            return Err(NotifyError::Busy);
        }
        let (frame, body) = Frame::decode_with(message).unwrap();
        wire.order.push((connection, frame.opcode, true));
        let received = Received { frame, body: body.to_vec(), payload: Vec::new() };
        wire.streams.entry(connection).or_default().push_back(received.clone());
        wire.callbacks.entry(connection).or_default().push_back(received);
        Ok(())
    }

    fn close(&mut self, connection: ConnectionId) {
        let mut wire = self.0.borrow_mut();
        wire.closed.push(connection);
        let (gone, stay) =
            std::mem::take(&mut wire.unsent).into_iter().partition(|(of, _)| *of == connection);
        wire.unsent = stay;
        let gone: Vec<(ConnectionId, Buffer)> = gone;
        let sent =
            gone.into_iter().map(|(of, buffer)| FabricEvent::Sent { connection: of, buffer });
        wire.events.extend(sent);
        wire.events.push_back(FabricEvent::Closed { connection, reason: CloseReason::Local });
    }

    fn prepare_sleep(&mut self) -> bool {
        true
    }

    fn end_sleep(&mut self) {}

    fn wake_descriptors(&self, _descriptors: &mut Vec<RawFd>) {}

    fn wake_generation(&self) -> u64 {
        0
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeClock(pub Rc<Cell<u64>>);

impl Clock for FakeClock {
    fn now(&self) -> Tick {
        Tick(self.0.get())
    }

    fn wall(&self) -> Timespec {
        let seconds = i64::try_from(self.0.get() / 1_000_000_000).unwrap();
        let nanoseconds = u32::try_from(self.0.get() % 1_000_000_000).unwrap();
        Timespec { seconds: 1_700_000_000 + seconds, nanoseconds }
    }
}

#[derive(Debug)]
pub(crate) struct FakeEntropy(pub u64);

impl Entropy for FakeEntropy {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0
    }
}

const EMPTY: OstSpace = OstSpace { total_bytes: 1 << 40, free_bytes: 1 << 40, removed_bytes: 0 };

/// What the OSTs were asked, but for their space; they do it at once unless `stalled`.
#[derive(Debug, Default)]
pub(crate) struct OstLog {
    pub jobs: Vec<OstJob>,
    /// Tokens and jobs that are not done.
    pub waiting: Vec<(u64, OstJob)>,
    /// How many OSTs there are.
    pub osts: u32,
    /// OSTs that were told to be done with a fence, by token.
    pub told: BTreeSet<(u64, OstIndex)>,
    /// Space of OSTs; None: it cannot serve. Those not named are empty.
    pub spaces: BTreeMap<OstIndex, Option<OstSpace>>,
    /// What each object holds that an OST is asked about.
    pub object_bytes: u64,
    pub stalled: bool,
    /// OSTs that tell no space and destroy nothing.
    pub dead: BTreeSet<OstIndex>,
    /// OSTs that do nothing, and are stuck with requests of every client.
    pub stuck: BTreeSet<OstIndex>,
    /// Jobs to fail before one is done.
    pub failures: u32,
    /// A service began anew.
    pub list_wanted: bool,
}

impl OstLog {
    /// The process that asked is gone: nobody hears of what is not done.
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
        self.told.clear();
    }
}

#[derive(Debug)]
pub(crate) struct FakeOsts(pub Rc<RefCell<OstLog>>);

impl OstGateway for FakeOsts {
    fn submit(&mut self, token: u64, job: OstJob) -> Result<(), OstJob> {
        let mut log = self.0.borrow_mut();
        if !matches!(job, OstJob::Space { .. }) {
            log.jobs.push(job.clone());
        }
        match job {
            OstJob::Sessions(_) | OstJob::Admit { .. } => {
                if log.failures > 0 {
                    log.failures -= 1;
                    log.list_wanted = true;
                }
            }
            job => log.waiting.push((token, job)),
        }
        Ok(())
    }

    fn take_list_wanted(&mut self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().list_wanted)
    }

    fn poll(&mut self, ends: &mut Vec<OstJobEnd>) {
        let mut log = self.0.borrow_mut();
        if log.stalled {
            return;
        }
        for (token, job) in std::mem::take(&mut log.waiting) {
            let waits = match &job {
                OstJob::Destroy { ost, .. } | OstJob::Space { ost, .. } => {
                    log.dead.contains(ost) || log.stuck.contains(ost)
                }
                OstJob::Dismiss { .. } | OstJob::Drain { .. } => !log.stuck.is_empty(),
                OstJob::Sessions(_) | OstJob::Admit { .. } => unreachable!("never waited for"),
            };
            if !waits && log.failures > 0 && !matches!(job, OstJob::Space { .. }) {
                log.failures -= 1;
                ends.push(OstJobEnd { token, done: false, space: None, part: None });
                continue;
            }
            if matches!(job, OstJob::Dismiss { .. } | OstJob::Drain { .. }) {
                for ost in (0..log.osts).map(OstIndex) {
                    if !log.stuck.contains(&ost) && log.told.insert((token, ost)) {
                        ends.push(OstJobEnd { token, done: true, space: None, part: Some(ost) });
                    }
                }
            }
            if waits {
                log.waiting.push((token, job));
                continue;
            }
            let space = match &job {
                OstJob::Space { ost, removed } => {
                    let space = log.spaces.get(ost).copied().unwrap_or(Some(EMPTY));
                    let removed_bytes = log.object_bytes * removed.len() as u64;
                    space.map(|space| OstSpace { removed_bytes, ..space })
                }
                OstJob::Destroy { .. }
                | OstJob::Sessions(_)
                | OstJob::Drain { .. }
                | OstJob::Admit { .. }
                | OstJob::Dismiss { .. } => None,
            };
            let done = !matches!(job, OstJob::Space { .. }) || space.is_some();
            ends.push(OstJobEnd { token, done, space, part: None });
        }
    }
}

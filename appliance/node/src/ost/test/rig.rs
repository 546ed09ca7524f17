//! An OST service on a device in memory, with a fabric that is a queue.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use sheen_dma::{Arena, Buffer};
use sheen_nvme::RamMedium;
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockOperation, Clock, CloseReason, ConnectionId, Fabric,
    FabricEvent, NotifyError, Peer, Principal, RequestId,
};
use sheen_reactor::{Postman, Service};
use sheen_store::{Limits, Zone};
use sheen_types::{
    BLOCK_BYTES, ClientId, Compression, Epoch, Fid, Lba, OstIndex, Tick, Timespec, Xid,
    checksum::crc32c,
};
use sheen_wire::{Field, Frame, Opcode, fields::AttachKey, metadata::Attach, object::ObjectWrite};

use super::device::{Orders, TestDevice};
use crate::{
    attach_secret::AttachSecret,
    mdt::gateway::{
        AdmittedSession, ListVersion, ObjectAccess, OstGateway, OstJob, OstJobEnd, SessionList,
        SessionPrincipal,
    },
    ost::{
        LocalGateway, OstConfig, OstService, ScrubConfig, ServiceJob, ServiceRequest, local_gateway,
    },
};

/// What a peer got.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) frame: Frame,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Reply {
    pub(crate) fn status(&self) -> i32 {
        self.frame.status
    }

    pub(crate) fn body<T: Field>(&self) -> T {
        assert_eq!(self.status(), 0, "{self:?}");
        T::from_bytes(&self.body).unwrap()
    }
}

#[derive(Debug, Default)]
pub(crate) struct QueueFabric {
    events: VecDeque<FabricEvent>,
    payloads: BTreeMap<RequestId, Vec<u8>>,
    pub(crate) replies: BTreeMap<RequestId, Reply>,
    /// Pulls wait until this is false.
    pub(crate) hold_pulls: bool,
    held: Vec<(RequestId, u64, Buffer)>,
    /// The connection whose peer takes no reply: its payloads stay with the fabric.
    pub(crate) deaf: Option<u64>,
    unsent: Vec<(ConnectionId, Buffer)>,
    /// Pulls fail as if the connection was lost.
    pub(crate) lose_pulls: bool,
    slot: u32,
    /// The connection the next request comes from.
    pub(crate) connection: u64,
    /// Connections the service closed.
    pub(crate) closed: Vec<u64>,
}

impl QueueFabric {
    fn send(&mut self, frame: &Frame, body: &[u8], payload: Vec<u8>) -> RequestId {
        self.slot += 1;
        let request = RequestId { connection: ConnectionId(self.connection), slot: self.slot };
        let mut message = Vec::new();
        frame.encode_with(body, &mut message);
        self.payloads.insert(request, payload);
        self.events.push_back(FabricEvent::Request { request, message });
        request
    }

    /// A peer connects and says nothing.
    pub(crate) fn open(&mut self, connection: u64) {
        let opened = FabricEvent::Opened {
            connection: ConnectionId(connection),
            peer: Peer { label: String::from("test"), principal: Principal::Owner },
        };
        self.events.push_back(opened);
    }

    pub(crate) fn release_pulls(&mut self) {
        self.hold_pulls = false;
        for (request, token, buffer) in std::mem::take(&mut self.held) {
            self.pull(request, token, buffer);
        }
    }
}

impl Fabric for QueueFabric {
    fn poll(&mut self, budget: usize, events: &mut Vec<FabricEvent>) -> usize {
        let count = budget.min(self.events.len());
        events.extend(self.events.drain(..count));
        count
    }

    fn pull(&mut self, request: RequestId, token: u64, mut buffer: Buffer) {
        if self.hold_pulls {
            return self.held.push((request, token, buffer));
        }
        let payload = &self.payloads[&request];
        buffer.as_mut_slice()[..payload.len()].copy_from_slice(payload);
        let result = if self.lose_pulls { Err(NotifyError::Closed) } else { Ok(()) };
        self.events.push_back(FabricEvent::Pulled { token, buffer, result });
    }

    fn reply(&mut self, request: RequestId, message: &[u8], payload: Option<Buffer>) {
        let (frame, body) = Frame::decode_with(message).unwrap();
        let bytes = frame.payload_bytes as usize;
        let content =
            payload.as_ref().map_or(Vec::new(), |buffer| buffer.as_slice()[..bytes].to_vec());
        assert_eq!(frame.payload_checksum, crc32c(&content), "the sum of the payload sent");
        let reply = Reply { frame, body: body.to_vec(), payload: content };
        let twice = self.replies.insert(request, reply);
        assert!(twice.is_none(), "{request:?} is answered twice");
        let connection = request.connection;
        if self.deaf == Some(connection.0) {
            return self.unsent.extend(payload.map(|buffer| (connection, buffer)));
        }
        self.events.extend(payload.map(|buffer| FabricEvent::Sent { connection, buffer }));
    }

    fn notify(&mut self, _connection: ConnectionId, _message: &[u8]) -> Result<(), NotifyError> {
        Err(NotifyError::Closed)
    }

    fn close(&mut self, connection: ConnectionId) {
        self.closed.push(connection.0);
        for (_, token, buffer) in self.held.extract_if(.., |(of, ..)| of.connection == connection) {
            let result = Err(NotifyError::Closed);
            self.events.push_back(FabricEvent::Pulled { token, buffer, result });
        }
        for (_, buffer) in self.unsent.extract_if(.., |(of, _)| *of == connection) {
            self.events.push_back(FabricEvent::Sent { connection, buffer });
        }
        let reason = CloseReason::Local;
        self.events.push_back(FabricEvent::Closed { connection, reason });
    }

    fn prepare_sleep(&mut self) -> bool {
        self.events.is_empty()
    }

    fn end_sleep(&mut self) {}

    fn wake_descriptors(&self, _descriptors: &mut Vec<std::os::fd::RawFd>) {}

    fn wake_generation(&self) -> u64 {
        0
    }
}

/// What its wall clock shows.
pub(crate) const NOW: Timespec = Timespec { seconds: 2_000, nanoseconds: 0 };

#[derive(Debug)]
pub(crate) struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> Tick {
        Tick(0)
    }

    fn wall(&self) -> Timespec {
        NOW
    }
}

pub(crate) const OST: OstIndex = OstIndex(3);
pub(crate) const ARENA_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) service: OstService<TestDevice, QueueFabric, StillClock>,
    pub(crate) medium: RamMedium,
    pub(crate) orders: Rc<RefCell<Orders>>,
    pub(crate) arena: Arena,
    /// The session that frames name.
    pub(crate) client: (ClientId, Epoch),
    /// The MDT's end of the way to the service, and the number of the job asked last.
    pub(crate) gateway: LocalGateway,
    pub(crate) postman: Postman<ServiceRequest>,
    job: u64,
    /// The list of sessions as the service was told it last.
    pub(crate) version: ListVersion,
    pub(crate) secret: AttachSecret,
    xid: u64,
    pub(crate) turns: u64,
}

/// Writes whole blocks behind the service's back.
pub(crate) fn write_device(medium: &RamMedium, lba: Lba, bytes: &[u8]) {
    let mut buffer = Buffer::standalone(bytes.len());
    buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    buffer.truncate(bytes.len());
    run_device(medium, BlockOperation::Write { lba, buffer, durable: true });
}

pub(crate) fn read_device(medium: &RamMedium, lba: Lba) -> Buffer {
    let buffer = Buffer::standalone(BLOCK_BYTES);
    run_device(medium, BlockOperation::Read { lba, buffer }).buffer.unwrap()
}

fn run_device(medium: &RamMedium, operation: BlockOperation) -> BlockCompletion {
    let mut device = medium.open(1);
    device.submit(BlockCommand { token: 1, operation }).unwrap();
    device.ring();
    let mut completions = Vec::new();
    while device.poll(&mut completions) == 0 {}
    let completion = completions.remove(0);
    assert_eq!(completion.result, Ok(()));
    completion
}

impl Rig {
    /// A fresh OST of `blocks` blocks.
    pub(crate) fn new(blocks: u64) -> Self {
        Self::on(RamMedium::new(blocks), blocks)
    }

    /// A fresh OST on a device that loses what was not flushed.
    pub(crate) fn volatile(blocks: u64) -> Self {
        Self::on(RamMedium::volatile(blocks), blocks)
    }

    fn on(medium: RamMedium, blocks: u64) -> Self {
        for (lba, bytes) in sheen_store::format(Zone { first: Lba(0), blocks }, 77).unwrap() {
            write_device(&medium, lba, &bytes);
        }
        Self::open(medium, 256)
    }

    /// The OST that is on the medium, recovered.
    pub(crate) fn open(medium: RamMedium, operations_max: usize) -> Self {
        Self::open_with(medium, operations_max, ScrubConfig::OFF)
    }

    /// As [`Rig::open`], with a scrub.
    pub(crate) fn open_with(medium: RamMedium, operations_max: usize, scrub: ScrubConfig) -> Self {
        let arena = Arena::anonymous(ARENA_BYTES).unwrap();
        let mut rig = Self::start(medium, (operations_max, scrub), arena, Orders::default());
        rig.recover();
        rig
    }

    /// A service that has still to recover, with buffers of this arena. It serves a session, attached to connection 1.
    pub(crate) fn start(
        medium: RamMedium,
        (operations_max, scrub): (usize, ScrubConfig),
        arena: Arena,
        orders: Orders,
    ) -> Self {
        let (gateway, mut desks) = local_gateway(&[vec![OST]]).unwrap();
        let (desk, postman) = desks.remove(0);
        let store = Limits::default();
        let config = OstConfig {
            arena: arena.clone(),
            operations_max,
            store,
            scrub,
            tidy: true,
            incarnation: 1,
        };
        let orders = Rc::new(RefCell::new(orders));
        let mut device = TestDevice::new(medium.open(8), orders.clone());
        device.register(&arena).unwrap();
        let targets = vec![(OST, device)];
        let fabric = QueueFabric { connection: 1, ..QueueFabric::default() };
        let service = OstService::new(config, targets, fabric, StillClock, Some(desk)).unwrap();
        let mut rig = Self {
            service,
            medium,
            orders,
            arena,
            client: (ClientId(5), Epoch(1)),
            gateway,
            postman,
            job: 0,
            version: ListVersion { server: Epoch(1), changes: 0 },
            secret: AttachSecret::new([7; 4]),
            xid: 0,
            turns: 0,
        };
        let list = rig.list(&[]);
        assert_eq!(rig.service.sessions.replace(&list), Ok(Vec::new()));
        rig.over(1);
        rig
    }

    /// A list of these sessions, of the version told last.
    pub(crate) fn list(&self, sessions: &[(ClientId, Epoch)]) -> SessionList {
        SessionList {
            version: self.version,
            highest: ClientId(500),
            sessions: sessions.iter().copied().map(admitted).collect(),
            secret: self.secret.clone(),
        }
    }

    /// The key of a session of the owner's.
    pub(crate) fn key(&self, session: (ClientId, Epoch)) -> AttachKey {
        self.secret.key_of(&admitted(session)).unwrap()
    }

    /// Frames come over this connection from now on, which is attached to a session of its own; made if need be.
    pub(crate) fn over(&mut self, connection: u64) {
        self.service.fabric_mut().connection = connection;
        self.client = (ClientId(connection + 4), Epoch(1));
        let id = ConnectionId(connection);
        let sessions = &mut self.service.sessions;
        if sessions.check(id, self.client.0, self.client.1).is_ok() {
            return;
        }
        if !sessions.serves(self.client.0) {
            self.version = self.version.next();
            sessions.admit(self.version, admitted(self.client)).unwrap();
        }
        let key = self.secret.key_of(&admitted(self.client)).unwrap();
        sessions.connections.opened(id, Principal::Owner, Tick(0));
        assert_eq!(sessions.attach(id, self.client, &key), Ok(None));
    }

    /// A gateway that knows nothing of what was asked before, and the service's other end of it.
    pub(crate) fn with_another_desk(&mut self) -> (LocalGateway, Postman<ServiceRequest>) {
        let (gateway, mut desks) = local_gateway(&[vec![OST]]).unwrap();
        let (desk, postman) = desks.remove(0);
        self.service.desk = Some(desk);
        (gateway, postman)
    }

    /// Asks the service something, and waits for the end of everything; the number of the job.
    pub(crate) fn ask(&mut self, job: OstJob) -> u64 {
        self.job += 1;
        let asked = match job {
            OstJob::Sessions(list) => ServiceJob::Sessions(list),
            OstJob::Drain { version } => ServiceJob::Drain { version },
            OstJob::Admit { version, session } => ServiceJob::Admit { version, session },
            OstJob::Dismiss { version, client } => ServiceJob::Dismiss { version, client },
            OstJob::Destroy { ost, objects } => ServiceJob::Destroy { ost, objects },
            OstJob::Space { ost, removed } => ServiceJob::Space { ost, removed },
        };
        assert!(self.gateway.ask_one(self.job, 0, asked), "room in its mailbox");
        self.job
    }

    /// Has the service serve a session.
    pub(crate) fn admit(&mut self, session: (ClientId, Epoch)) -> u64 {
        self.version = self.version.next();
        self.ask(OstJob::Admit { version: self.version, session: admitted(session) })
    }

    /// Has the service serve a session no longer.
    pub(crate) fn dismiss(&mut self, client: ClientId) -> u64 {
        self.version = self.version.next();
        self.ask(OstJob::Dismiss { version: self.version, client })
    }

    /// Destroys objects as the MDT does.
    pub(crate) fn destroy(&mut self, objects: Vec<Fid>) {
        let job = self.ask(OstJob::Destroy { ost: OST, objects });
        assert!(self.wait_job(job), "destroyed");
    }

    /// What the service told the MDT.
    pub(crate) fn ends(&mut self) -> Vec<OstJobEnd> {
        let mut ends = Vec::new();
        self.gateway.poll(&mut ends);
        ends
    }

    /// Turns until a job has ended; whether it was done.
    pub(crate) fn wait_job(&mut self, job: u64) -> bool {
        for _ in 0..10_000 {
            let ends = self.ends();
            if let Some(end) = ends.iter().find(|end| end.token == job && end.part.is_none()) {
                return end.done;
            }
            self.turn();
        }
        panic!("job {job} never ends");
    }

    /// Attaches the connection that requests come over to the session that frames name; the status.
    pub(crate) fn attach(&mut self) -> i32 {
        let body = Attach { key: self.key(self.client) };
        self.call(Opcode::Attach, &body, &[], 0).status()
    }

    pub(crate) fn recover(&mut self) {
        for _ in 0..100_000 {
            if self.service.is_ready() {
                return;
            }
            self.service.turn(Tick(0));
        }
        panic!("recovery does not end");
    }

    pub(crate) fn frame(&mut self, opcode: Opcode, payload: &[u8], room: usize) -> Frame {
        self.xid += 1;
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        Frame {
            client: self.client.0,
            epoch: self.client.1,
            payload_bytes,
            payload_checksum: crc32c(payload),
            committed: room as u64,
            ..Frame::request(opcode, Xid(self.xid))
        }
    }

    pub(crate) fn send(
        &mut self,
        opcode: Opcode,
        body: &impl Field,
        payload: &[u8],
        room: usize,
    ) -> RequestId {
        let frame = self.frame(opcode, payload, room);
        self.service.fabric_mut().send(&frame, &body.to_vec(), payload.to_vec())
    }

    pub(crate) fn send_frame(&mut self, frame: &Frame, body: &[u8], payload: &[u8]) -> RequestId {
        self.service.fabric_mut().send(frame, body, payload.to_vec())
    }

    pub(crate) fn turn(&mut self) -> usize {
        self.turns += 1;
        self.service.turn(Tick(0))
    }

    /// Turns until `request` is answered.
    pub(crate) fn wait(&mut self, request: RequestId) -> Reply {
        for _ in 0..10_000 {
            if let Some(reply) = self.service.fabric_mut().replies.remove(&request) {
                return reply;
            }
            self.turn();
        }
        panic!("{request:?} is never answered");
    }

    pub(crate) fn call(
        &mut self,
        opcode: Opcode,
        body: &impl Field,
        payload: &[u8],
        room: usize,
    ) -> Reply {
        let request = self.send(opcode, body, payload, room);
        self.wait(request)
    }

    pub(crate) fn write(&mut self, object: Fid, offset: u64, bytes: &[u8]) -> Reply {
        let body = write_body(object, offset, false);
        self.call(Opcode::ObjectWrite, &body, bytes, 0)
    }

    pub(crate) fn read(&mut self, object: Fid, offset: u64, length: usize) -> Reply {
        let length = u32::try_from(length).unwrap();
        let body = sheen_wire::object::ObjectRead { ost: OST, object, offset, length };
        self.call(Opcode::ObjectRead, &body, &[], length as usize)
    }

    /// Turns until nothing happens any more, then sleeps and wakes once.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.turn() == 0 {
                self.service.prepare_sleep();
                return self.service.end_sleep();
            }
        }
        panic!("the service never rests");
    }
}

/// A session of the owner's.
pub(crate) const fn admitted((client, epoch): (ClientId, Epoch)) -> AdmittedSession {
    let objects = ObjectAccess { filesystem: 1, read_only: false, unlabelled: true };
    AdmittedSession { client, epoch, principal: SessionPrincipal::Owner, connected: true, objects }
}

pub(crate) fn write_body(object: Fid, offset: u64, durable: bool) -> ObjectWrite {
    ObjectWrite {
        ost: OST,
        object,
        offset,
        mtime: Timespec { seconds: 1_000, nanoseconds: 5 },
        uid: 1,
        gid: 2,
        projid: 3,
        durable,
        compression: Compression::None,
    }
}

pub(crate) fn object(number: u32) -> Fid {
    Fid { seq: 0x2_0000_0400, oid: number, ver: 0 }
}

/// A source of numbers with a seed that a failing test prints.
#[derive(Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[2]).collect()
    }
}

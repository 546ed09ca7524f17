//! An MDT on ports in memory, and clients that speak to it message by message.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use sheen_consensus::{Format, GroupConfig, ZONE_BLOCKS_MIN, Zone};
use sheen_dma::Arena;
use sheen_ports::{CloseReason, ConnectionId, FabricEvent, Peer, Principal, RequestId};
use sheen_types::{
    ClientId, Epoch, Fid, FileKind, Lba, Name, OstIndex, Tag, Xid, checksum::crc32c,
};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::List,
    lease::{LeaseCancel, LeaseRevoke},
    metadata::{
        Connect, ConnectReply, Create, Credentials, EntryReply, FilesystemCreate, FilesystemInfo,
        OstAddress, Reassert, SequenceGrantReply, SetAttributes,
    },
};

use super::{
    LOG_BUFFER_BYTES, MdtConfig, MdtLimits, MdtPorts, MdtService, MdtStats, MdtTimes,
    test_ports::{
        Blocks, FakeBlock, FakeClock, FakeEntropy, FakeFabric, FakeOsts, OstLog, Received, Wire,
    },
};

type Service = MdtService<FakeBlock, FakeFabric, FakeClock, FakeEntropy, FakeOsts>;

/// An MDT, its world, and what survives its death.
#[derive(Debug)]
pub(crate) struct World {
    pub service: Option<Service>,
    pub blocks: Blocks,
    pub wire: Rc<RefCell<Wire>>,
    pub clock: FakeClock,
    pub osts: Rc<RefCell<OstLog>>,
    pub stalled: Rc<Cell<bool>>,
    pub broken: Rc<Cell<bool>>,
    pub stats: Arc<MdtStats>,
    pub limits: MdtLimits,
    pub times: MdtTimes,
    pub state_limits: sheen_meta::Limits,
    osts_served: u32,
    next_connection: u64,
}

impl World {
    /// A formatted zone with a serving MDT, one OST, and file system "fs".
    pub(crate) fn new() -> Self {
        Self::with_limits(MdtLimits::default())
    }

    /// The same with other bounds.
    pub(crate) fn with_limits(limits: MdtLimits) -> Self {
        Self::with(limits, sheen_meta::Limits::default(), 1)
    }

    /// The same with room for so many sessions.
    pub(crate) fn with_sessions(sessions_max: u32) -> Self {
        let state_limits = sheen_meta::Limits { sessions_max, ..sheen_meta::Limits::default() };
        Self::with(MdtLimits::default(), state_limits, 1)
    }

    /// What lost its name goes at once.
    pub(crate) fn without_linger(mut self) -> Self {
        self.times.linger = Duration::ZERO;
        self.restart();
        self
    }

    /// The same with so many OSTs.
    pub(crate) fn with_osts(osts: u32) -> Self {
        Self::with(MdtLimits::default(), sheen_meta::Limits::default(), osts)
    }

    pub(crate) fn with(
        limits: MdtLimits,
        state_limits: sheen_meta::Limits,
        osts_served: u32,
    ) -> Self {
        let blocks = Blocks::default();
        let zone = Zone::new(ZONE_BLOCKS_MIN).unwrap();
        let format = Format { zone, identity: 99, replica: 1, voters: vec![1] };
        for (lba, bytes) in format.anchors() {
            blocks.borrow_mut().insert(lba.0 + 8, bytes);
        }
        let mut world = Self {
            service: None,
            blocks,
            wire: Rc::default(),
            clock: FakeClock::default(),
            osts: Rc::default(),
            stalled: Rc::default(),
            broken: Rc::default(),
            stats: Arc::default(),
            limits,
            times: MdtTimes::default(),
            state_limits,
            osts_served,
            next_connection: 0,
        };
        world.start();
        world.run();
        let mut admin = world.connect(b"", 0);
        let name = FilesystemCreate { name: b"fs".to_vec(), permissions: 0o777, uid: 0, gid: 0 };
        let reply = admin.call(&mut world, Opcode::FilesystemCreate, &name);
        let info: FilesystemInfo = reply.body();
        assert_eq!((info.name, info.root), (b"fs".to_vec(), Fid::ROOT));
        assert_eq!(admin.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
        world.lose_connection(admin.connection);
        world
    }

    /// Starts the MDT on what the device holds.
    pub(crate) fn start(&mut self) {
        self.stats = Arc::default();
        self.osts.borrow_mut().osts = self.osts_served;
        let config = MdtConfig {
            zone_start: Lba(8),
            zone: Zone::new(ZONE_BLOCKS_MIN).unwrap(),
            group: GroupConfig::default(),
            node: *b"the node of test",
            osts: (0..self.osts_served)
                .map(|ost| OstAddress { ost: OstIndex(ost), service: 1 })
                .collect(),
            times: self.times,
            limits: self.limits,
            state_limits: self.state_limits,
        };
        let block = FakeBlock {
            blocks: self.blocks.clone(),
            in_flight: VecDeque::new(),
            stalled: self.stalled.clone(),
            broken: self.broken.clone(),
        };
        let ports = MdtPorts {
            block,
            fabric: FakeFabric(self.wire.clone()),
            clock: self.clock.clone(),
            entropy: FakeEntropy(1),
            osts: FakeOsts(self.osts.clone()),
            arena: Arena::anonymous(LOG_BUFFER_BYTES).unwrap(),
            payloads: Arena::anonymous(8 << 20).unwrap(),
        };
        self.service = Some(MdtService::new(config, ports, self.stats.clone()));
    }

    /// Kills the MDT and starts it again; connections are lost.
    pub(crate) fn restart(&mut self) {
        self.service = None;
        *self.wire.borrow_mut() = Wire::default();
        self.osts.borrow_mut().forget();
        self.start();
        self.run();
    }

    /// Turns until nothing happens any more.
    pub(crate) fn run(&mut self) {
        let service = self.service.as_mut().unwrap();
        let mut idle = 0;
        for _ in 0..100_000 {
            idle = if service.turn() == 0 { idle + 1 } else { 0 };
            if idle > 3 {
                assert_eq!(service.failure(), None);
                return;
            }
        }
        panic!("the service never comes to rest");
    }

    /// So many turns, whatever is left to do.
    pub(crate) fn run_turns(&mut self, turns: u32) {
        let service = self.service.as_mut().unwrap();
        for _ in 0..turns {
            service.turn();
        }
        assert_eq!(service.failure(), None);
    }

    /// Lets time pass, in steps of the service's tick.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let steps = duration.as_millis() / 50 + 1;
        for _ in 0..steps {
            self.clock.0.set(self.clock.0.get() + 50_000_000);
            self.run();
        }
    }

    pub(crate) fn open_connection(&mut self) -> ConnectionId {
        self.open_connection_of(Principal::Owner)
    }

    pub(crate) fn open_connection_of(&mut self, principal: Principal) -> ConnectionId {
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        let peer = Peer { label: String::from("test"), principal };
        let event = FabricEvent::Opened { connection, peer };
        self.wire.borrow_mut().events.push_back(event);
        connection
    }

    pub(crate) fn lose_connection(&mut self, connection: ConnectionId) {
        let event = FabricEvent::Closed { connection, reason: CloseReason::Peer };
        self.wire.borrow_mut().events.push_back(event);
        self.run();
    }

    /// The network ends a connection.
    pub(crate) fn break_connection(&mut self, connection: ConnectionId) {
        let reason = CloseReason::Transport(110);
        let event = FabricEvent::Closed { connection, reason };
        self.wire.borrow_mut().events.push_back(event);
        self.run();
    }

    /// A new session; number 0 is administrative.
    pub(crate) fn connect(&mut self, filesystem: &[u8], number: u8) -> Client {
        let mut client = self.client(filesystem, number.into());
        client.reconnect(self);
        client
    }

    /// A client that is not connected yet.
    pub(crate) fn client(&self, filesystem: &[u8], number: u32) -> Client {
        Client {
            uuid: [number.to_le_bytes(); 4].concat().try_into().unwrap(),
            filesystem: filesystem.to_vec(),
            connection: ConnectionId(0),
            client: ClientId(0),
            epoch: Epoch(0),
            server_epoch: Epoch(0),
            resumed: false,
            xid: 0,
            sequence: 0,
            oid: 0,
            keeps: false,
            reply_room: 1 << 20,
        }
    }

    /// A client of file system "fs" with a sequence of ids.
    pub(crate) fn mount(&mut self, number: u8) -> Client {
        let mut client = self.connect(b"fs", number);
        let reply = client.call_empty(self, Opcode::SequenceGrant);
        client.sequence = reply.body::<SequenceGrantReply>().sequence;
        client
    }
}

impl Received {
    #[track_caller]
    pub(crate) fn body<T: Field>(&self) -> T {
        assert_eq!(self.frame.status, 0, "{:?}", self.frame.opcode);
        T::from_bytes(&self.body).unwrap()
    }
}

/// A client's side of a session.
#[derive(Debug)]
pub(crate) struct Client {
    pub uuid: [u8; 16],
    filesystem: Vec<u8>,
    pub connection: ConnectionId,
    pub client: ClientId,
    pub epoch: Epoch,
    pub server_epoch: Epoch,
    pub resumed: bool,
    pub xid: u64,
    pub sequence: u64,
    oid: u32,
    /// Requests carry [`Frame::FLAG_KEEPS`].
    keeps: bool,
    /// Room for reply payloads, in bytes.
    pub(crate) reply_room: u64,
}

/// A request that was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    connection: ConnectionId,
    pub xid: Xid,
}

impl Sent {
    /// The reply, if it came.
    pub(crate) fn reply(&self, world: &World) -> Option<Received> {
        world.wire.borrow().replies.get(&(self.connection, self.xid)).cloned()
    }

    #[track_caller]
    pub(crate) fn status(&self, world: &World) -> i32 {
        self.reply(world).expect("answered").frame.status
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub(crate) const CREDENTIALS: Credentials = Credentials { uid: 0, gid: 0 };

/// A request that sets what `valid` says, all of it to 0.
pub(crate) fn setting(fid: Fid, valid: u32) -> SetAttributes {
    SetAttributes::zeroing(fid, valid, CREDENTIALS)
}

impl Client {
    /// Connects over a new connection, to the session it had if any.
    pub(crate) fn reconnect(&mut self, world: &mut World) {
        let sent = self.send_connect(world);
        world.run();
        self.connected(world, sent);
    }

    /// Sends Connect over a new connection.
    pub(crate) fn send_connect(&mut self, world: &mut World) -> Sent {
        self.connection = world.open_connection();
        let connect = self.connect_request().to_vec();
        self.send(world, Opcode::Connect, 0, &connect, &[])
    }

    /// Takes in the answer to Connect.
    pub(crate) fn connected(&mut self, world: &World, sent: Sent) {
        let reply: ConnectReply = sent.reply(world).expect("connected").body();
        self.client = reply.client;
        self.epoch = reply.epoch;
        self.server_epoch = reply.server_epoch;
        self.resumed = reply.resumed;
    }

    pub(crate) fn connect_request(&self) -> Connect {
        Connect {
            uuid: self.uuid,
            client: self.client,
            filesystem: self.filesystem.clone(),
            label: b"test".to_vec(),
            slots: 8,
        }
    }

    /// Asserts what it held, all in one message.
    pub(crate) fn reassert(&mut self, world: &mut World, held: &Reassert) -> i32 {
        let sent = self.send(world, Opcode::Reassert, 0, &[], &held.to_vec());
        world.run();
        sent.status(world)
    }

    /// Sends a removal whose sender may send changes of what it removes again.
    pub(crate) fn send_keeping(&mut self, world: &World, opcode: Opcode, body: &[u8]) -> Sent {
        self.keeps = true;
        let sent = self.send(world, opcode, 0, body, &[]);
        self.keeps = false;
        sent
    }

    /// Sends a request with this tag.
    pub(crate) fn send(
        &mut self,
        world: &World,
        opcode: Opcode,
        tag: u16,
        body: &[u8],
        payload: &[u8],
    ) -> Sent {
        self.xid += 1;
        let xid = Xid(self.xid);
        self.send_as(world, opcode, tag, xid, body, payload)
    }

    pub(crate) fn send_as(
        &mut self,
        world: &World,
        opcode: Opcode,
        tag: u16,
        xid: Xid,
        body: &[u8],
        payload: &[u8],
    ) -> Sent {
        let mut frame = Frame::request(opcode, xid);
        frame.client = self.client;
        frame.epoch = self.epoch;
        frame.tag = Tag(tag);
        frame.flags = if self.keeps { Frame::FLAG_KEEPS } else { 0 };
        frame.committed = self.reply_room;
        frame.payload_bytes = u32::try_from(payload.len()).unwrap();
        frame.payload_checksum = crc32c(payload);
        let mut message = Vec::new();
        frame.encode_with(body, &mut message);
        let slot = u32::try_from(xid.0).unwrap();
        let request = RequestId { connection: self.connection, slot };
        let mut wire = world.wire.borrow_mut();
        if !payload.is_empty() {
            wire.offered.insert(request, payload.to_vec());
        }
        wire.events.push_back(FabricEvent::Request { request, message });
        Sent { connection: self.connection, xid }
    }

    /// Sends a request and turns until its reply came.
    #[track_caller]
    pub(crate) fn call(
        &mut self,
        world: &mut World,
        opcode: Opcode,
        body: &impl Field,
    ) -> Received {
        let sent = self.send(world, opcode, 0, &body.to_vec(), &[]);
        world.run();
        sent.reply(world).unwrap_or_else(|| panic!("{opcode:?} was not answered"))
    }

    #[track_caller]
    pub(crate) fn call_empty(&mut self, world: &mut World, opcode: Opcode) -> Received {
        let sent = self.send(world, opcode, 0, &[], &[]);
        world.run();
        sent.reply(world).unwrap_or_else(|| panic!("{opcode:?} was not answered"))
    }

    /// A Create of a regular file with the next id.
    pub(crate) fn create_request(&mut self, parent: Fid, file: &str) -> Create {
        self.oid += 1;
        Create {
            parent,
            name: name(file),
            fid: Fid::new(self.sequence, self.oid),
            kind: FileKind::Regular,
            permissions: 0o644,
            umask: 0,
            rdev: 0,
            exclusive: true,
            open: 0,
            credentials: CREDENTIALS,
            unnamed: false,
        }
    }

    #[track_caller]
    pub(crate) fn create(&mut self, world: &mut World, file: &str) -> EntryReply {
        let request = self.create_request(Fid::ROOT, file);
        self.call(world, Opcode::Create, &request).body()
    }

    /// The next callback that came.
    pub(crate) fn callback(&self, world: &World) -> Option<Received> {
        world.wire.borrow_mut().callbacks.get_mut(&self.connection)?.pop_front()
    }

    #[track_caller]
    pub(crate) fn revoke(&self, world: &World) -> LeaseRevoke {
        let received = self.callback(world).expect("a callback");
        assert_eq!(received.frame.opcode, Opcode::LeaseRevoke);
        LeaseRevoke::from_bytes(&received.body).unwrap()
    }

    /// Answers a revoke.
    pub(crate) fn give_back(&mut self, world: &mut World, revoke: &LeaseRevoke) {
        let cancel = LeaseCancel {
            fid: revoke.fid,
            bits: revoke.bits,
            to_read: revoke.to_read,
            sequence: revoke.sequence,
            learned: None,
        };
        assert_eq!(self.call(world, Opcode::LeaseCancel, &cancel).frame.status, 0);
    }
}

/// Nothing held.
pub(crate) fn nothing_held() -> Reassert {
    Reassert { opens: List(vec![]), leases: List(vec![]), locks: List(vec![]), complete: true }
}

//! The promise that sessions which ended leave nothing: thousands come and go, some of them with data, and every table of the node
//! is as large afterwards as before; who lives is served on, also over a restart, and who ended is not.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sheen_dma::Arena;
use sheen_node::{Config, Force, Node, format};
use sheen_ports::{Call, Cancel, Link};
use sheen_types::{
    Bytes, ClientId, Compression, Epoch, Errno, Fid, OstIndex, Timespec, Xid, checksum::crc32c,
};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::AttachKey,
    metadata::{Attach, Connect, ConnectReply, FilesystemCreate},
    object::{ObjectRead, ObjectWrite},
};

const SESSIONS: u64 = 5000;
const THREADS: u64 = 16;
const CONTENT: [u8; 512] = [7; 512];
const FILESYSTEM: &[u8] = b"fs";

fn config(directory: &Path) -> Config {
    let mut config = Config::embedded(directory, Bytes(1 << 30));
    config.listen.set_port(0);
    config.threads.reactors = 2;
    config
}

/// A connection to a service, and the session frames name.
struct Lane {
    link: Arc<dyn Link>,
    session: (ClientId, Epoch),
}

impl Lane {
    fn connect(node: &Node, service: u32) -> Self {
        let address = format!("unix:{}", node.socket().display());
        let arena = Arena::shared(1 << 20).unwrap();
        let link = sheen_rdma::connect(&address, service, &arena).unwrap();
        Self { link, session: (ClientId(0), Epoch(0)) }
    }

    /// Asks until there is room for it; the status, the body, the payload.
    fn ask(&self, opcode: Opcode, body: &impl Field, payload: &[u8]) -> (i32, Vec<u8>, Vec<u8>) {
        for number in 1.. {
            let mut frame = Frame::request(opcode, Xid(number));
            (frame.client, frame.epoch) = self.session;
            let payload = (!payload.is_empty()).then(|| {
                let mut buffer = self.link.buffer(payload.len()).unwrap();
                buffer.as_mut_slice().copy_from_slice(payload);
                frame.payload_checksum = crc32c(payload);
                (buffer, payload.len())
            });
            let room = self.link.buffer(CONTENT.len());
            let call = Call { frame, body: body.to_vec(), payload, room };
            let result = self.link.call(call, &Cancel::new());
            let (frame, body) = result.reply.unwrap();
            if frame.status != -Errno::EAGAIN.0 {
                let room = result.room.unwrap();
                let bytes = room.as_slice()[..frame.payload_bytes as usize].to_vec();
                return (frame.status, body, bytes);
            }
            std::thread::yield_now();
        }
        unreachable!("numbers do not end")
    }

    fn call(&self, opcode: Opcode, body: &impl Field, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (status, body, bytes) = self.ask(opcode, body, payload);
        assert_eq!(status, 0, "{opcode:?}");
        (body, bytes)
    }

    /// Begins the session of a number, with the objects of the file system there is.
    fn begin(&mut self, number: u64) -> ConnectReply {
        self.begin_with(number, FILESYSTEM)
    }

    fn begin_with(&mut self, number: u64, filesystem: &[u8]) -> ConnectReply {
        self.session = (ClientId(0), Epoch(0));
        let mut uuid = [0x5e; 16];
        uuid[..8].copy_from_slice(&number.to_le_bytes());
        let (filesystem, label) = (filesystem.to_vec(), b"short".to_vec());
        let connect = Connect { uuid, client: ClientId(0), filesystem, label, slots: 1 };
        let (body, _) = self.call(Opcode::Connect, &connect, &[]);
        let reply = ConnectReply::from_bytes(&body).unwrap();
        self.session = (reply.client, reply.epoch);
        reply
    }
}

/// Makes the file system whose sessions have objects; a session without one makes it.
fn make_filesystem(node: &Node) {
    let mut mdt = Lane::connect(node, 0);
    mdt.begin_with(0, b"");
    let make = FilesystemCreate { name: FILESYSTEM.to_vec(), permissions: 0o755, uid: 0, gid: 0 };
    mdt.call(Opcode::FilesystemCreate, &make, &[]);
    mdt.call(Opcode::Disconnect, &[0_u8; 0], &[]);
    mdt.link.close();
}

/// A session at a service of objects.
fn attach(node: &Node, ost: u32, session: (ClientId, Epoch), key: AttachKey) -> (i32, Lane) {
    let lane = Lane { session, ..Lane::connect(node, ost + 1) };
    let (status, ..) = lane.ask(Opcode::Attach, &Attach { key }, &[]);
    (status, lane)
}

fn object(number: u64) -> Fid {
    Fid::new(Fid::NORMAL_SEQUENCE_FIRST, u32::try_from(number).unwrap())
}

fn write(lane: &Lane, ost: u32, number: u64) {
    let body = ObjectWrite {
        ost: OstIndex(ost),
        object: object(number),
        offset: 0,
        mtime: Timespec::ZERO,
        uid: 0,
        gid: 0,
        projid: 0,
        durable: false,
        compression: Compression::None,
    };
    lane.call(Opcode::ObjectWrite, &body, &CONTENT);
}

fn read(lane: &Lane, ost: u32, number: u64) -> Vec<u8> {
    let length = u32::try_from(CONTENT.len()).unwrap();
    let body = ObjectRead { ost: OstIndex(ost), object: object(number), offset: 0, length };
    lane.call(Opcode::ObjectRead, &body, &[]).1
}

/// How full every table is that sessions have a part in, and how many connections and sessions each service of objects has.
fn tables(node: &Node) -> BTreeMap<String, u64> {
    let mut tables: BTreeMap<String, u64> =
        node.tables().into_iter().map(|table| (table.name.to_owned(), table.entries)).collect();
    for (service, stats) in node.ost_stats().iter().enumerate() {
        tables.insert(format!("sessions of service {service}"), stats.sessions.get());
        tables.insert(format!("connections of service {service}"), stats.connections.open.get());
        tables.insert(format!("requests of service {service}"), stats.in_flight.get());
    }
    tables
}

fn assert_tables(node: &Node, expected: &BTreeMap<String, u64>) {
    let until = Instant::now() + Duration::from_secs(20);
    while tables(node) != *expected && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(&tables(node), expected);
}

/// Sessions come and go, one behind the other over each connection to the MDT; every tenth has content.
fn come_and_go(node: &Node) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut mdt = Lane::connect(node, 0);
                for number in (thread..SESSIONS).step_by(usize::try_from(THREADS).unwrap()) {
                    let reply = mdt.begin(1000 + number);
                    assert!(!reply.resumed);
                    if number % 10 == 0 {
                        let (status, lane) = attach(node, 1, mdt.session, reply.attach_key);
                        assert_eq!(status, 0);
                        write(&lane, 1, 2 + number % 100);
                        assert_eq!(read(&lane, 1, 2 + number % 100), CONTENT);
                        lane.link.close();
                    }
                    mdt.call(Opcode::Disconnect, &[0_u8; 0], &[]);
                }
                mdt.link.close();
            });
        }
    });
}

#[test]
fn thousands_of_sessions_leave_every_table_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    let node = Node::start(config.clone()).unwrap();
    make_filesystem(&node);
    let mut living = Lane::connect(&node, 0);
    let reply = living.begin(1);
    let (status, own) = attach(&node, 0, living.session, reply.attach_key);
    assert_eq!(status, 0);
    write(&own, 0, 1);
    let mut asleep = Lane::connect(&node, 0);
    let its = asleep.begin(2);
    asleep.call(Opcode::Disconnect, &[0_u8; 0], &[]);
    asleep.link.close();
    let ended = -Errno::ENOTCONN.0;
    let expect_ended = |node: &Node| {
        let (status, lane) = attach(node, 0, asleep.session, its.attach_key);
        assert_eq!(status, ended, "its session is over, however long ago");
        lane.link.close();
    };
    expect_ended(&node);
    std::thread::sleep(Duration::from_millis(200));
    let before = tables(&node);
    assert_eq!((before["sessions"], before["sessions of service 0"]), (1, 1), "{before:?}");

    let begun = Instant::now();
    come_and_go(&node);
    println!("{SESSIONS} sessions in {:?}", begun.elapsed());
    assert_tables(&node, &before);
    assert_eq!(read(&own, 0, 1), CONTENT, "who lives is served on");
    expect_ended(&node);

    [&living, &own].into_iter().for_each(|lane| lane.link.close());
    node.stop().unwrap();
    let node = Node::start(config).unwrap();
    expect_ended(&node);
    let mut living = Lane::connect(&node, 0);
    let reply = living.begin(1);
    assert!(reply.resumed);
    let (status, own) = attach(&node, 0, living.session, reply.attach_key);
    assert_eq!((status, read(&own, 0, 1)), (0, CONTENT.to_vec()));
    assert_tables(&node, &before);
    [&living, &own].into_iter().for_each(|lane| lane.link.close());
    node.stop().unwrap();
}

//! A node as clients see it: started, stopped, refused.

use std::{net::Ipv4Addr, path::Path};

use sheen_dma::Arena;
use sheen_ports::{Call, Cancel, Link, LinkError};
use sheen_types::{Bytes, ClientId, Epoch, Tag, Xid};
use sheen_wire::{
    Field, Frame, Opcode,
    fields::List,
    metadata::{Connect, ConnectReply, FilesystemCreate, FilesystemInfo},
};

use super::*;
use crate::{config::EncryptionConfig, ost::ScrubOrder};

fn config(directory: &Path) -> Config {
    let mut config = Config::embedded(directory, Bytes(1 << 30));
    config.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.tcp.clients = TcpClients::Anybody;
    config.threads.reactors = 2;
    config.limits.buffers = Bytes(16 << 20);
    config
}

/// A session as an administrator has it, or of one file system.
pub(super) struct Session {
    link: Arc<dyn Link>,
    pub(super) client: ClientId,
    epoch: Epoch,
    xid: u64,
}

impl Session {
    pub(super) fn open(address: &str) -> Self {
        let arena = Arena::shared(4 << 20).unwrap();
        let (session, reply) =
            Self::over(sheen_rdma::connect(address, 0, &arena).unwrap(), b"").unwrap();
        assert_eq!(reply.osts.0.len(), 2);
        session
    }

    /// Opens a session of a file system. Err: the status of the refusal.
    pub(super) fn over(
        link: Arc<dyn Link>,
        filesystem: &[u8],
    ) -> Result<(Self, ConnectReply), i32> {
        let mut session = Self { link, client: ClientId(0), epoch: Epoch(0), xid: 0 };
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&entropy().unwrap().next_u64().to_le_bytes());
        let (filesystem, label) = (filesystem.to_vec(), b"test".to_vec());
        let connect = Connect { uuid, client: ClientId(0), filesystem, label, slots: 1 };
        let (status, body, _) = session.send(Opcode::Connect, &connect.to_vec()).unwrap();
        if status != 0 {
            return Err(status);
        }
        let reply = ConnectReply::from_bytes(&body).unwrap();
        session.client = reply.client;
        session.epoch = reply.epoch;
        Ok((session, reply))
    }

    pub(super) fn call(&mut self, opcode: Opcode, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (status, body, payload) = self.send(opcode, body).unwrap();
        assert_eq!(status, 0, "{opcode:?}");
        (body, payload)
    }

    /// Status, body and payload of the reply.
    pub(super) fn send(
        &mut self,
        opcode: Opcode,
        body: &[u8],
    ) -> Result<(i32, Vec<u8>, Vec<u8>), LinkError> {
        self.xid += 1;
        let request = Frame::request(opcode, Xid(self.xid));
        let frame = Frame { client: self.client, epoch: self.epoch, tag: Tag(0), ..request };
        let room = self.link.buffer(1 << 20);
        let result = self
            .link
            .call(Call { frame, body: body.to_vec(), payload: None, room }, &Cancel::new());
        let (frame, body) = result.reply?;
        let payload = result.room.unwrap().as_slice()[..frame.payload_bytes as usize].to_vec();
        Ok((frame.status, body, payload))
    }

    fn names(&mut self) -> Vec<String> {
        let (_, payload) = self.call(Opcode::FilesystemList, &[]);
        let list = List::<FilesystemInfo>::from_bytes(&payload).unwrap();
        list.0.iter().map(|info| String::from_utf8(info.name.clone()).unwrap()).collect()
    }
}

#[test]
fn a_start_that_is_given_up_ends_at_once_and_the_next_one_serves() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    let node = Node::launch(config.clone(), Duration::ZERO).unwrap();
    let mut waited_for = Vec::new();
    let ended = node.await_start(|steps| {
        waited_for.extend(steps.to_vec());
        ControlFlow::Break(())
    });
    // It may be faster than the first look.
    if let Err(error) = ended {
        assert!(matches!(error, NodeError::Interrupted), "{error}");
        assert!(!waited_for.is_empty());
        assert_eq!(node.status().state, NodeState::Starting);
        assert!(!node.status().starting.is_empty() || node.mdt_stats().term.get() > 0);
    }
    node.stop().unwrap();
    let node = Node::start(config).unwrap();
    assert_eq!(node.status().starting, []);
    await_status(&node, |status| status.state == NodeState::Serving);
}

#[test]
fn a_start_may_take_days() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    let node = Node::launch(config, Duration::ZERO).unwrap();
    let (hours, mut told) = (std::cell::Cell::new(0), 0);
    let pause = |pause| {
        hours.set(hours.get() + 24);
        std::thread::sleep(pause);
    };
    let now = || Duration::from_secs(hours.get() * 3600);
    let ended = node.await_start_by(now, pause, |_| {
        told += 1;
        ControlFlow::Continue(())
    });
    assert!(ended.is_ok(), "after {} hours: {ended:?}", hours.get());
    assert!(hours.get() >= 24 && told >= 1, "it began to serve before anybody looked");
    node.stop().unwrap();
}

/// Levels are published now and then.
fn await_status(node: &Node, holds: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let status = node.status();
        if holds(&status) || Instant::now() > deadline {
            assert!(holds(&status), "{status:?}");
            return status;
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_node_keeps_what_it_acknowledged_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    keeps_what_it_acknowledged(config(directory.path()));
}

#[test]
fn a_node_on_an_nvme_controller_of_another_process_does_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("controller");
    let kind = sheen_nvme_model::Config {
        bytes: 1 << 30,
        medium: sheen_nvme_model::MediumKind::Ram,
        ..sheen_nvme_model::Config::default()
    };
    let (ready, listening) = mpsc::channel();
    let place = socket.clone();
    // Serves until the process ends.
    std::thread::spawn(move || {
        let server = sheen_nvme_model::ModelServer::new(kind).unwrap();
        server.serve(&place, || ready.send(()).unwrap())
    });
    listening.recv().unwrap();
    let mut config = config(directory.path());
    config.device.path = format!("vfio-user:{}", socket.display()).into();
    config.device.queue_depth = 64;
    keeps_what_it_acknowledged(config);
}

fn new_key(directory: &Path, name: &str) -> KeySource {
    let path = directory.join(name);
    sheen_keys::KeyFile::create(&path).unwrap();
    format!("file:{}", path.display()).parse().unwrap()
}

#[test]
fn a_node_on_an_encrypted_device_does_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.encryption = EncryptionConfig::under(new_key(directory.path(), "key"));
    keeps_what_it_acknowledged(config);
}

#[test]
fn a_node_changes_keys_while_it_serves_and_starts_with_the_new_one_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    let [old, new] = ["old", "new"].map(|name| new_key(directory.path(), name));
    config.encryption = EncryptionConfig::under(old.clone());
    format(&config, Force::No).unwrap();
    let node = Node::start(config.clone()).unwrap();
    let address = format!("unix:{}", config.socket.display());
    let mut session = Session::open(&address);
    for name in ["a", "b", "c"] {
        let create = FilesystemCreate { name: name.into(), permissions: 0o755, uid: 0, gid: 0 };
        session.call(Opcode::FilesystemCreate, &create.to_vec());
        let block = node.rotate_key(&new).unwrap();
        assert_eq!((block.slots.len(), &block.slots[0].source), (1, &new));
    }
    session.call(Opcode::Disconnect, &[]);
    node.stop().unwrap();
    let error = Node::start(config.clone()).unwrap_err().to_string();
    assert!(error.contains(&old.to_string()) && error.contains(&new.to_string()), "{error}");
    config.encryption = EncryptionConfig::under(new);
    let _node = Node::start(config).unwrap();
    assert_eq!(Session::open(&address).names(), ["a", "b", "c"]);
}

fn keeps_what_it_acknowledged(config: Config) {
    format(&config, Force::No).unwrap();
    let node = Node::start(config.clone()).unwrap();
    let unix = format!("unix:{}", config.socket.display());
    let mut session = Session::open(&unix);
    let create = FilesystemCreate { name: b"scratch".to_vec(), permissions: 0o755, uid: 0, gid: 0 };
    session.call(Opcode::FilesystemCreate, &create.to_vec());
    let mut other = Session::open(&format!("tcp:{}", node.listen()));
    assert_eq!(other.names(), ["scratch"]);
    // What the tables hold is told now and then.
    let has_two_slots = |status: &NodeStatus| {
        status.tables.iter().any(|table| table.name == "reply_slots" && table.entries == 2)
    };
    let status = await_status(&node, |status| status.clients == 2 && has_two_slots(status));
    assert_eq!((status.state, status.osts.len()), (NodeState::Serving, 2));
    assert!(status.osts.iter().all(|ost| ost.ready && ost.free_bytes > 300 << 20), "{status:?}");
    let [sessions, slots] = ["sessions", "reply_slots"]
        .map(|name| status.tables.iter().find(|table| table.name == name));
    assert_eq!((sessions.unwrap().entries, slots.unwrap().entries), (2, 2), "{status:?}");
    assert!(status.tables.iter().all(|table| table.entries <= table.entries_max), "{status:?}");
    session.call(Opcode::Disconnect, &[]);
    other.call(Opcode::Disconnect, &[]);
    let begun = Instant::now();
    node.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "stopped in {:?}", begun.elapsed());
    assert!(!config.socket.exists());
    let node = Node::start(config).unwrap();
    assert_eq!(Session::open(&unix).names(), ["scratch"]);
    assert!(node.is_healthy());
}

#[test]
fn a_node_does_not_start_on_what_is_not_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    let error = Node::start(config.clone()).unwrap_err();
    assert!(error.to_string().contains("device: opening"), "{error}");
    format(&config, Force::No).unwrap();
    let error = format(&config, Force::No).unwrap_err();
    assert!(error.to_string().contains("holds a Sheen device"), "{error}");
    let node = Node::start(config.clone()).unwrap();
    let error = Node::start(config.clone()).unwrap_err();
    assert!(matches!(error, NodeError::Device(DeviceError::InUse(_))), "{error}");
    drop(node);
    config.limits.memory = Bytes(1 << 30);
    let error = Node::start(config.clone()).unwrap_err();
    assert!(error.to_string().starts_with("limits.memory: expected at least"), "{error}");
    config.limits.memory = Bytes(8 << 30);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    config.listen = taken.local_addr().unwrap();
    let error = Node::start(config).unwrap_err();
    assert!(error.to_string().starts_with("listen 127.0.0.1:"), "{error}");
}

/// Overwrites a zone's blocks where its anchors may be: the first 16 and the last.
fn damage(device: &Path, kind: ZoneKind) {
    let zone = Device::open(device).unwrap().zone(kind).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(device).unwrap();
    for block in (0..16).chain([zone.blocks - 1]) {
        let at = zone.first.plus(block).byte_offset();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x55; 4096], at).unwrap();
    }
}

#[test]
fn a_node_whose_metadata_is_damaged_says_so_and_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    damage(&config.device.path, ZoneKind::Mdt);
    let error = Node::start(config).unwrap_err();
    assert!(matches!(&error, NodeError::Failed { name, .. } if name == "mdt"), "{error}");
}

#[test]
fn a_node_starts_with_one_ost_of_two_and_not_with_none() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    damage(&config.device.path, ZoneKind::Ost(0));
    let node = Node::start(config.clone()).unwrap();
    let status = node.status();
    let ready: Vec<bool> = status.osts.iter().map(|ost| ost.ready).collect();
    assert_eq!((status.state, ready), (NodeState::Degraded, vec![false, true]));
    node.stop().unwrap();
    damage(&config.device.path, ZoneKind::Ost(1));
    let error = Node::start(config).unwrap_err();
    assert!(matches!(&error, NodeError::Failed { name, .. } if name == "OSTs"), "{error}");
}

#[test]
fn osts_are_dealt_out_evenly() {
    let counts = |osts, reactors| assign(osts, reactors).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(counts(5, 2), [3, 2]);
    assert_eq!(counts(2, 2), [1, 1]);
    assert_eq!(assign(3, 1), [[OstIndex(0), OstIndex(1), OstIndex(2)]]);
}

#[test]
fn the_scrub_of_each_ost_is_started_and_paused_by_order_and_tells_where_it_stands() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    format(&config, Force::No).unwrap();
    let node = Node::start(config).unwrap();
    let all = node.scrub_status(None).unwrap();
    assert_eq!(all.iter().map(|each| each.ost).collect::<Vec<_>>(), [0, 1]);
    assert!(all.iter().all(|each| each.percent == 0 && each.ended.is_none()), "{all:?}");

    node.order_scrub(Some(OstIndex(1)), ScrubOrder::Pause).unwrap();
    let all = node.scrub_status(None).unwrap();
    assert_eq!((all[0].state, all[1].state), ("resting", "paused"));
    node.order_scrub(None, ScrubOrder::Start).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let ended = loop {
        let all = node.scrub_status(None).unwrap();
        if all.iter().all(|each| each.ended.is_some()) {
            break all;
        }
        assert!(Instant::now() < deadline, "{all:?}");
        std::thread::sleep(Duration::from_millis(5));
    };
    for each in ended {
        assert_eq!((each.state, each.percent), ("resting", 100));
        let faults = each.faults;
        assert_eq!((faults.damaged, faults.unreadable, faults.log_batches), (0, 0, 0));
        assert!(each.ended > Some(1_600_000_000) && each.took_milliseconds.is_some());
    }

    let absent = Some(OstIndex(2));
    assert!(matches!(node.order_scrub(absent, ScrubOrder::Start), Err(NodeError::NoOst(2))));
    assert!(matches!(node.scrub_status(absent), Err(NodeError::NoOst(2))));
    node.stop().unwrap();
}

#[test]
fn a_pass_without_bandwidth_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.scrub.bandwidth = Bytes(0);
    format(&config, Force::No).unwrap();
    let node = Node::start(config).unwrap();
    assert!(matches!(node.order_scrub(None, ScrubOrder::Start), Err(NodeError::NoScrub)));
    assert_eq!(node.scrub_status(Some(OstIndex(0))).unwrap()[0].state, "off");
    node.stop().unwrap();
}

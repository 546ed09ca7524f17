//! The service behind real fabrics: threads of clients over shared memory and TCP at once.

use std::{
    net::TcpListener,
    os::unix::net::UnixListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use sheen_dma::Arena;
use sheen_nvme::RamMedium;
use sheen_ports::{Call, CallResult, Cancel, Clock, Link};
use sheen_rdma::{
    Acceptor, AcceptorConfig, ConnectionLimits, NewConnection, PayloadCheck, ServerFabric, connect,
};
use sheen_reactor::{Service, SystemClock};
use sheen_store::Limits;
use sheen_types::{ClientId, Epoch, Errno, Fid, Xid};
use sheen_wire::{Field, Frame, Opcode, metadata::Attach, object::ObjectRead};

use super::rig::{Chance, OST, Rig, admitted, object, write_body};
use crate::ost::{OstConfig, OstService, ScrubConfig};
use crate::{
    attach_secret::AttachSecret,
    mdt::gateway::{ListVersion, SessionList},
};

fn serve(medium: &RamMedium, connections: &mpsc::Receiver<NewConnection>, stop: &AtomicBool) {
    let fabric = ServerFabric::new(PayloadCheck::Service).unwrap();
    let arena = Arena::anonymous(8 << 20).unwrap();
    let config = OstConfig {
        arena,
        operations_max: 64,
        store: Limits::default(),
        scrub: ScrubConfig::OFF,
        tidy: true,
        incarnation: 1,
    };
    let targets = vec![(OST, medium.open(32))];
    let mut service = OstService::new(config, targets, fabric, SystemClock, None).unwrap();
    let list = SessionList {
        version: ListVersion { server: Epoch(1), changes: 0 },
        highest: ClientId(2),
        sessions: SESSIONS.map(admitted).to_vec(),
        secret: secret(),
    };
    service.sessions.replace(&list).unwrap();
    let clock = SystemClock;
    while !service.is_finished() {
        if stop.load(Ordering::SeqCst) {
            service.stop();
        }
        for connection in connections.try_iter() {
            service.fabric_mut().add(connection).unwrap();
        }
        if service.turn(clock.now()) == 0 {
            thread::yield_now();
        }
    }
}

const SESSIONS: [(ClientId, Epoch); 2] = [(ClientId(1), Epoch(1)), (ClientId(2), Epoch(1))];

fn secret() -> AttachSecret {
    AttachSecret::new([3; 4])
}

/// A link and the session it is attached to.
type Attached = (Arc<dyn Link>, (ClientId, Epoch));

/// Calls until the service is not busy.
fn call(
    (link, (client, epoch)): &Attached,
    opcode: Opcode,
    body: &impl Field,
    payload: &[u8],
    room: usize,
) -> (i32, Vec<u8>) {
    loop {
        let mut buffer = link.buffer(payload.len().max(1)).unwrap();
        buffer.as_mut_slice()[..payload.len()].copy_from_slice(payload);
        let call = Call {
            frame: Frame { client: *client, epoch: *epoch, ..Frame::request(opcode, Xid(1)) },
            body: body.to_vec(),
            payload: Some((buffer, payload.len())),
            room: link.buffer(room.max(1)),
        };
        let CallResult { reply, room, .. } = link.call(call, &Cancel::new());
        let (frame, _) = reply.unwrap();
        if frame.status != -Errno::EAGAIN.0 {
            let bytes = frame.payload_bytes as usize;
            return (frame.status, room.unwrap().as_slice()[..bytes].to_vec());
        }
        thread::yield_now();
    }
}

/// Writes and reads back one object of its own, at random.
fn work(link: &Attached, object: Fid, seed: u64) {
    let mut chance = Chance(seed);
    let mut model: Vec<u8> = Vec::new();
    for round in 0..60 {
        let offset = usize::try_from(chance.below(200_000)).unwrap();
        let length = usize::try_from(1 + chance.below(100_000)).unwrap();
        let bytes = chance.bytes(length);
        let body = write_body(object, offset as u64, chance.below(20) == 0);
        assert_eq!(call(link, Opcode::ObjectWrite, &body, &bytes, 0).0, 0);
        model.resize(model.len().max(offset + length), 0);
        model[offset..offset + length].copy_from_slice(&bytes);
        let offset = usize::try_from(chance.below(model.len() as u64)).unwrap();
        let length = (model.len() - offset).min(150_000);
        let body = ObjectRead {
            ost: OST,
            object,
            offset: offset as u64,
            length: u32::try_from(length).unwrap(),
        };
        let (status, found) = call(link, Opcode::ObjectRead, &body, &[], length);
        assert_eq!(status, 0);
        assert!(found == model[offset..offset + length], "seed {seed} round {round}");
    }
}

#[test]
fn clients_over_shared_memory_and_tcp_read_what_they_wrote() {
    let medium = Rig::new(64 << 10).medium;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses =
        [format!("unix:{}", path.display()), format!("tcp:{}", tcp.local_addr().unwrap())];
    let (sender, connections) = mpsc::channel();
    let config = AcceptorConfig {
        unix: Some(unix),
        tcp: Some(tcp),
        services: 1,
        limits: ConnectionLimits::default(),
    };
    let _acceptor =
        Acceptor::start(config, move |connection| drop(sender.send(connection)), None).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (served, service_stop) = (medium.clone(), stop.clone());
    let service = thread::spawn(move || serve(&served, &connections, &service_stop));
    let links: Vec<Attached> = addresses
        .iter()
        .map(|address| connect(address, 0, &Arena::shared(32 << 20).unwrap()).unwrap())
        .zip(SESSIONS)
        .collect();
    let read = ObjectRead { ost: OST, object: object(0), offset: 0, length: 1 };
    for (link, session) in links.iter().map(|link| (link, link.1)) {
        assert_eq!(call(link, Opcode::ObjectRead, &read, &[], 1).0, -Errno::ENOTCONN.0);
        let attach = Attach { key: secret().key_of(&admitted(session)).unwrap() };
        assert_eq!(call(link, Opcode::Attach, &attach, &[], 0).0, 0);
    }
    thread::scope(|scope| {
        for number in 0..8_u32 {
            let link = &links[number as usize % 2];
            scope.spawn(move || work(link, object(number), u64::from(number) + 1));
        }
    });
    stop.store(true, Ordering::SeqCst);
    service.join().unwrap();
    let mut again = Rig::open(medium, 16);
    assert!(!again.read(object(0), 0, 100).payload.is_empty());
}

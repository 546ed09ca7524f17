//! Every table has an end, and what happens there.

use sheen_types::{Errno, Fid};
use sheen_wire::{
    Field, Opcode,
    flock::{FileLock, LockFamily, LockSet, LockType},
    lease::{LeaseRevoke, LockMode},
    metadata::{Connect, FilesystemCreate, GetAttributes, Open, SetXattr},
};

use super::{
    test::{data, lookup, status},
    test_support::{Client, Sent, World, name, nothing_held},
};

/// A world with other bounds; the client that was there is back.
fn bounded(set: impl FnOnce(&mut super::MdtLimits)) -> (World, Client) {
    let mut world = World::new();
    let mut client = world.mount(1);
    set(&mut world.limits);
    world.restart();
    client.reconnect(&mut world);
    client.reassert(&mut world, &nothing_held());
    (world, client)
}

#[test]
fn a_connection_too_many_is_closed() {
    let (mut world, _client) = bounded(|limits| limits.connections_max = 2);
    let second = world.open_connection();
    world.run();
    assert!(world.wire.borrow().closed.is_empty());
    let third = world.open_connection();
    world.run();
    assert_eq!(world.wire.borrow().closed, [third]);
    world.lose_connection(second);
    let fourth = world.open_connection();
    world.run();
    assert!(!world.wire.borrow().closed.contains(&fourth));
}

#[test]
fn an_open_too_many_is_refused_and_a_close_makes_room() {
    let (mut world, mut a) = bounded(|limits| limits.opens_max = 1);
    let first = a.create(&mut world, "first").attributes.fid;
    let second = a.create(&mut world, "second").attributes.fid;
    let open = |fid| Open { fid, write: false, append: false };
    assert_eq!(status(&mut a, &mut world, Opcode::Open, &open(first)), 0);
    assert_eq!(status(&mut a, &mut world, Opcode::Open, &open(second)), -Errno::ENFILE.0);
    assert_eq!(status(&mut a, &mut world, Opcode::Open, &open(first)), 0, "it is open already");
    let close = sheen_wire::metadata::Close { fid: first, write_only: false };
    assert_eq!(status(&mut a, &mut world, Opcode::Close, &close), 0);
    assert_eq!(status(&mut a, &mut world, Opcode::Open, &open(second)), 0);
}

#[test]
fn the_oldest_leases_go_when_there_are_too_many() {
    let (mut world, mut a) = bounded(|limits| limits.leases_max = 32);
    let fids: Vec<Fid> = (0..40)
        .map(|number| a.create(&mut world, &format!("file {number}")).attributes.fid)
        .collect();
    assert_eq!(world.service.as_ref().unwrap().core.leases.len(), 30, "the rest is for others");
    let wants = data(fids[39], LockMode::ProtectedWrite);
    assert_eq!(status(&mut a, &mut world, Opcode::LeaseRequest, &wants), -Errno::EAGAIN.0);
    assert_eq!(status(&mut a, &mut world, Opcode::Lookup, &lookup("file 39")), 0, "not cached");
    world.pass(std::time::Duration::from_millis(100));
    let mut asked = Vec::new();
    while let Some(callback) = a.callback(&world) {
        let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
        asked.push(revoke.fid);
        a.give_back(&mut world, &revoke);
    }
    assert_eq!(asked, fids[..2], "those longest unused");
    assert_eq!(status(&mut a, &mut world, Opcode::LeaseRequest, &wants), 0);
    world.pass(std::time::Duration::from_millis(100));
    assert_eq!(world.stats.leases.get(), 29);
}

#[test]
fn a_create_that_opens_too_many_is_refused_before_it_has_an_effect() {
    let (mut world, mut a) = bounded(|limits| limits.opens_max = 4);
    let mut requests: Vec<_> =
        (0..5).map(|number| a.create_request(Fid::ROOT, &format!("file {number}"))).collect();
    requests.iter_mut().for_each(|request| request.open = 2);
    let sent: Vec<_> = (0..)
        .zip(&requests)
        .map(|(tag, request)| a.send(&world, Opcode::Create, tag, &request.to_vec(), &[]))
        .collect();
    world.run();
    let statuses: Vec<i32> = sent.iter().map(|sent| sent.status(&world)).collect();
    let refused = -Errno::ENFILE.0;
    assert_eq!(statuses, [0, 0, refused, refused, refused]);
    assert_eq!(status(&mut a, &mut world, Opcode::Lookup, &lookup("file 2")), -Errno::ENOENT.0);
    let close = |number: usize| sheen_wire::metadata::Close {
        fid: requests[number].fid,
        write_only: false,
    };
    assert_eq!(status(&mut a, &mut world, Opcode::Close, &close(0)), 0);
    assert_eq!(status(&mut a, &mut world, Opcode::Create, &requests[2]), 0);
    assert_eq!(status(&mut a, &mut world, Opcode::Create, &requests[3]), refused);
    assert_eq!(world.service.as_ref().unwrap().core.opening.total(), 0);
}

#[test]
fn one_client_leaves_opens_leases_and_locks_to_others() {
    let (mut world, mut a) = bounded(|limits| {
        limits.opens_max = 64;
        limits.leases_max = 64;
        limits.locks =
            sheen_meta::flocks::LockLimits { locks_max: 64, waiters_max: 8, ..Default::default() };
    });
    let fids: Vec<Fid> = (0..100)
        .map(|number| a.create(&mut world, &format!("file {number}")).attributes.fid)
        .collect();
    let open = |fid| Open { fid, write: false, append: false };
    let lock = |fid| LockSet {
        lock: FileLock {
            fid,
            family: LockFamily::Flock,
            kind: LockType::Write,
            owner: 1,
            pid: 1,
            start: 0,
            end: u64::MAX >> 1,
        },
        wait: false,
    };
    let count = |world: &mut World, client: &mut Client, opcode, bodies: &[Vec<u8>]| {
        let ask = |body: &Vec<u8>| {
            let sent = client.send(world, opcode, 0, body, &[]);
            world.run();
            sent.status(world)
        };
        bodies.iter().map(ask).filter(|&status| status == 0).count()
    };
    let opens: Vec<Vec<u8>> = fids.iter().map(|&fid| open(fid).to_vec()).collect();
    let locks: Vec<Vec<u8>> = fids.iter().map(|&fid| lock(fid).to_vec()).collect();
    let mut taken = Vec::new();
    for number in 2..5 {
        let mut greedy = world.mount(number);
        let opens = count(&mut world, &mut greedy, Opcode::Open, &opens);
        let locks = count(&mut world, &mut greedy, Opcode::LockSet, &locks[taken.len() * 32..]);
        taken.push((opens, locks));
    }
    assert_eq!(taken, [(32, 32), (16, 16), (8, 8)], "half of what was free");
    // Leases: all but the last sixteenth are taken by whoever is first, and not given back.
    let core = &world.service.as_ref().unwrap().core;
    assert_eq!(core.leases.len(), 64, "each newcomer got some of the last places");
}

#[test]
fn a_peer_that_takes_no_callbacks_for_long_loses_its_connection() {
    let (mut world, mut a) = bounded(|limits| limits.backlog_per_connection_max = 8);
    let fid = a.create(&mut world, "file").attributes.fid;
    let mut b = world.mount(2);
    world.wire.borrow_mut().busy.push(a.connection);
    b.send(&world, Opcode::LeaseRequest, 0, &data(fid, LockMode::ProtectedWrite).to_vec(), &[]);
    world.run();
    for _ in 0..8 {
        a.send(&world, Opcode::Ping, 0, &[], &[]);
    }
    world.run();
    assert!(world.wire.borrow().closed.is_empty());
    a.send(&world, Opcode::Ping, 0, &[], &[]);
    world.run();
    assert_eq!(world.wire.borrow().closed, [a.connection]);
}

#[test]
fn more_requests_than_the_server_holds_are_busy() {
    let (mut world, mut a) = bounded(|limits| limits.requests_max = 5);
    let fid = a.create(&mut world, "file").attributes.fid;
    let mut b = world.mount(2);
    let wants = data(fid, LockMode::ProtectedWrite).to_vec();
    let waiting: Vec<_> =
        (0..3).map(|_| b.send(&world, Opcode::LeaseRequest, 0, &wants, &[])).collect();
    world.run();
    assert!(waiting.iter().all(|sent| sent.reply(&world).is_none()));
    let attributes = GetAttributes { fid };
    assert_eq!(status(&mut b, &mut world, Opcode::GetAttributes, &attributes), -Errno::EAGAIN.0);
    let mut c = world.mount(3);
    assert_eq!(status(&mut c, &mut world, Opcode::GetAttributes, &attributes), 0, "its share");
    // What ends the waiting gets through.
    assert_eq!(a.call_empty(&mut world, Opcode::Ping).frame.status, 0);
    let revoke = a.revoke(&world);
    a.give_back(&mut world, &revoke);
    assert!(waiting.iter().all(|sent| sent.status(&world) == 0));
}

#[test]
fn requests_of_a_lost_connection_take_no_room() {
    let (mut world, mut a) = bounded(|limits| limits.requests_max = 3);
    let fid = a.create(&mut world, "file").attributes.fid;
    let mut b = world.mount(2);
    let wants = data(fid, LockMode::ProtectedWrite).to_vec();
    for _ in 0..3 {
        b.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
        world.run();
        world.lose_connection(b.connection);
        b.reconnect(&mut world);
    }
    let wants = b.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
    world.run();
    let revoke = a.revoke(&world);
    a.give_back(&mut world, &revoke);
    assert_eq!(wants.status(&world), 0);
}

#[test]
fn clients_come_back_though_the_table_is_full_of_early_requests() {
    let mut world = World::new();
    world.limits.requests_max = 3;
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    a.create(&mut world, "file");
    world.restart();
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    let early: Vec<_> =
        (0..2).map(|_| a.send(&world, Opcode::Lookup, 0, &lookup("file").to_vec(), &[])).collect();
    world.run();
    assert!(early.iter().all(|sent| sent.reply(&world).is_none()));
    b.reconnect(&mut world);
    assert_eq!(b.reassert(&mut world, &nothing_held()), 0);
    assert!(early.iter().all(|sent| sent.status(&world) == 0));
}

#[test]
fn changes_with_long_bodies_are_cut_into_proposals_the_log_takes() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let fids: Vec<Fid> = (0..8)
        .map(|number| a.create(&mut world, &format!("file {number}")).attributes.fid)
        .collect();
    let set_xattr = |world: &World, a: &mut Client, tag: u16, bytes: usize| {
        let fid = fids[usize::from(tag)];
        let request = SetXattr { fid, name: name("user.x").into(), flags: 0, kill_sgid: false };
        a.send(world, Opcode::SetXattr, tag, &request.to_vec(), &vec![7; bytes])
    };
    world.stalled.set(true);
    let mut sent: Vec<Sent> = Vec::new();
    // As many proposals as may be on their way, then all that comes waits in one queue.
    for tag in 0..4 {
        sent.push(set_xattr(&world, &mut a, tag, 1));
        world.run();
    }
    let mut peer = world.client(b"fs", 0);
    peer.connection = world.open_connection();
    for number in 0..500_u32 {
        let mut uuid = [9; 16];
        uuid[..4].copy_from_slice(&number.to_le_bytes());
        let label = vec![b'l'; 913];
        let connect = Connect { uuid, label, filesystem: Vec::new(), ..peer.connect_request() };
        sent.push(peer.send(&world, Opcode::Connect, 0, &connect.to_vec(), &[]));
    }
    for tag in 4..8 {
        sent.push(set_xattr(&world, &mut a, tag, 64 << 10));
    }
    world.run();
    world.stalled.set(false);
    world.run();
    assert!(sent.iter().all(|sent| sent.status(&world) == 0));
}

#[test]
fn a_name_no_file_system_can_have_is_refused_before_the_log() {
    let mut world = World::new();
    let mut peer = world.client(&[b'n'; 600], 9);
    world.stalled.set(true);
    let sent = peer.send_connect(&mut world);
    world.run();
    assert_eq!(sent.status(&world), -Errno::ENOENT.0);
    let create = FilesystemCreate { name: vec![b'n'; 600], permissions: 0o755, uid: 0, gid: 0 };
    let mut admin = world.client(b"", 8);
    world.stalled.set(false);
    admin.reconnect(&mut world);
    world.stalled.set(true);
    let sent = admin.send(&world, Opcode::FilesystemCreate, 0, &create.to_vec(), &[]);
    world.run();
    assert_eq!(sent.status(&world), -Errno::EINVAL.0);
}

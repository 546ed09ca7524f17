//! Sessions come and go by the thousand: the table has an end, and what a session had is gone with it.

use std::{collections::BTreeMap, time::Duration};

use sheen_types::{Errno, Fid};
use sheen_wire::{
    Field, Opcode,
    flock::{FileLock, LockFamily, LockRelease, LockSet, LockType},
    lease::LockMode,
    metadata::{Close, FilesystemDelete, GetAttributes, Open},
};

use super::{
    MdtLimits,
    core::Mdt,
    test::data,
    test_support::{Client, Sent, World},
};

/// How much is in each table.
fn tables(core: &Mdt) -> BTreeMap<&'static str, usize> {
    BTreeMap::from([
        ("sessions of the state", core.state.sessions_held()),
        ("sessions", core.sessions.len()),
        ("connections", core.connections.len()),
        ("requests held", core.held),
        ("payload held", core.held_bytes),
        ("payload of replies", core.replying.total()),
        ("early", core.early.len()),
        ("changes", core.changes.len()),
        ("changes by client", core.changes_of.len()),
        ("ready", core.ready.len()),
        ("keys", core.keys.len()),
        ("telling", core.telling.len()),
        ("slots", core.slots.len()),
        ("behind", core.behind.len()),
        ("blocked", core.blocked.len()),
        ("waiting", core.waiting.len()),
        ("opening", core.opening.total()),
        ("leases", core.leases.len()),
        ("parked", core.leases.parked()),
        ("lease queue", core.lease_queue.len()),
        ("opens", core.opens.len()),
        ("locks", core.locks.len()),
        ("lock waits", core.lock_waits.len() + core.locks.waiting()),
        ("revokes", core.revokes.len()),
        ("room", core.background.room.len()),
        ("woken", core.woken.len() + core.unblocked.len() + core.again.len()),
        ("outputs", core.outputs.len()),
        ("jobs of OSTs", core.background.jobs_held()),
        ("destroying", core.destroying.len()),
    ])
}

fn count(world: &World) -> BTreeMap<&'static str, usize> {
    tables(&world.service.as_ref().unwrap().core)
}

/// Sends all at once, so that a thousand cost a few turns.
fn connect_all(world: &mut World, numbers: std::ops::Range<u32>) -> Vec<Client> {
    let mut clients: Vec<Client> = numbers.map(|number| world.client(b"fs", number)).collect();
    let sent: Vec<Sent> = clients.iter_mut().map(|client| client.send_connect(world)).collect();
    world.run();
    clients.iter_mut().zip(sent).for_each(|(client, sent)| client.connected(world, sent));
    clients
}

/// Everything a session can have: leases, opens, locks, and requests that wait for what others hold.
fn take_something(world: &mut World, clients: &mut [Client], fids: &[Fid]) {
    for (number, client) in clients.iter_mut().enumerate() {
        let fid = fids[number % fids.len()];
        client.send(world, Opcode::GetAttributes, 0, &GetAttributes { fid }.to_vec(), &[]);
        let open = Open { fid, write: true, append: false };
        client.send(world, Opcode::Open, 0, &open.to_vec(), &[]);
        let lock = FileLock {
            fid,
            family: LockFamily::Flock,
            kind: LockType::Write,
            owner: 1,
            pid: 1,
            start: 0,
            end: u64::MAX >> 1,
        };
        client.send(world, Opcode::LockSet, 0, &LockSet { lock, wait: true }.to_vec(), &[]);
        let wants = data(fid, LockMode::ProtectedWrite).to_vec();
        client.send(world, Opcode::LeaseRequest, 0, &wants, &[]);
        let chmod = super::waits_test::set_attributes(fid, sheen_wire::metadata::set::MODE);
        client.send(world, Opcode::SetAttributes, 1, &chmod.to_vec(), &[]);
        client.send(world, Opcode::SetAttributes, 1, &chmod.to_vec(), &[]);
    }
    world.run();
}

/// A world whose log and file system stay, with some files, and what its tables hold then.
fn prepared() -> (World, Vec<Fid>, BTreeMap<&'static str, usize>) {
    let mut world = World::with_limits(MdtLimits::default());
    let mut maker = world.mount(1);
    let fids =
        (0..50).map(|n| maker.create(&mut world, &format!("file {n}")).attributes.fid).collect();
    assert_eq!(maker.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
    world.lose_connection(maker.connection);
    let before = count(&world);
    (world, fids, before)
}

#[test]
fn ten_thousand_sessions_that_say_goodbye_leave_nothing() {
    let (mut world, fids, before) = prepared();
    for batch in 0..20 {
        let mut clients = connect_all(&mut world, batch * 500 + 10..batch * 500 + 510);
        take_something(&mut world, &mut clients, &fids);
        assert!(count(&world)["leases"] > 400);
        for client in &mut clients {
            client.send(&world, Opcode::Disconnect, 0, &[], &[]);
        }
        world.run();
        clients.iter().for_each(|client| world.lose_connection(client.connection));
        assert_eq!(count(&world), before, "after batch {batch}");
    }
}

#[test]
fn ten_thousand_evicted_sessions_leave_nothing() {
    let (mut world, fids, before) = prepared();
    for batch in 0..20 {
        let mut clients = connect_all(&mut world, batch * 500 + 10..batch * 500 + 510);
        take_something(&mut world, &mut clients, &fids);
        let core = &mut world.service.as_mut().unwrap().core;
        clients.iter().for_each(|client| core.evict(client.client));
        world.run();
        // Their leases end first; in the longest steps that do not count as sleep.
        for _ in 0..46 {
            world.clock.0.set(world.clock.0.get() + 500_000_000);
            world.run();
        }
        clients.iter().for_each(|client| world.lose_connection(client.connection));
        assert_eq!(count(&world), before, "after batch {batch}");
    }
    assert_eq!(world.stats.evictions.get(), 10_000);
}

#[test]
fn a_full_table_of_sessions_answers_busy_and_an_end_makes_room() {
    let mut world = World::with_sessions(3);
    let mut clients = connect_all(&mut world, 1..4);
    let mut late = world.client(b"fs", 9);
    let sent = late.send_connect(&mut world);
    world.run();
    assert_eq!(sent.status(&world), -Errno::EAGAIN.0);
    // Who is known comes back though the table is full.
    world.lose_connection(clients[0].connection);
    clients[0].reconnect(&mut world);
    assert!(clients[0].resumed);
    // The place is free when every OST knows that the session ended.
    world.osts.borrow_mut().stalled = true;
    assert_eq!(clients[1].call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
    let sent = late.send_connect(&mut world);
    world.run();
    assert_eq!(sent.status(&world), -Errno::EAGAIN.0);
    world.osts.borrow_mut().stalled = false;
    world.run();
    late.reconnect(&mut world);
    assert!(late.client.0 > clients[2].client.0);
}

#[test]
fn what_an_earlier_connection_still_delivers_is_refused() {
    let mut world = World::new();
    let mut client = world.mount(1);
    let fid = client.create(&mut world, "file").attributes.fid;
    let open = Open { fid, write: true, append: false };
    let lock = FileLock {
        fid,
        family: LockFamily::Flock,
        kind: LockType::Write,
        owner: 1,
        pid: 1,
        start: 0,
        end: u64::MAX >> 1,
    };
    let take = LockSet { lock, wait: false };
    let earlier = client.connection;
    client.reconnect(&mut world);
    let later = client.connection;
    assert_ne!(earlier, later);
    assert_eq!(client.call(&mut world, Opcode::Open, &open).frame.status, 0);
    assert_eq!(client.call(&mut world, Opcode::LockSet, &take).frame.status, 0);
    let held = count(&world);
    client.connection = earlier;
    let close = Close { fid, write_only: false };
    let release = LockRelease { fid, family: LockFamily::Flock, owner: 1 };
    for sent in [
        client.send(&world, Opcode::Close, 0, &close.to_vec(), &[]),
        client.send(&world, Opcode::LockRelease, 0, &release.to_vec(), &[]),
    ] {
        world.run();
        assert_eq!(sent.status(&world), -Errno::ENOTCONN.0);
    }
    assert_eq!(count(&world), held, "it took nothing away");
    assert!(world.wire.borrow().closed.contains(&earlier), "it is closed");
    world.lose_connection(earlier);
    client.connection = later;
    assert_eq!(client.call(&mut world, Opcode::Close, &close).frame.status, 0);
}

#[test]
fn what_waits_on_a_connection_is_not_carried_out_once_there_is_a_later_one() {
    let mut world = World::new();
    let (mut holder, mut client) = (world.mount(1), world.mount(2));
    let fid = holder.create(&mut world, "file").attributes.fid;
    let wants = data(fid, LockMode::ProtectedWrite).to_vec();
    let waits = client.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
    world.run();
    let revoke = holder.revoke(&world);
    client.reconnect(&mut world);
    assert_eq!(waits.status(&world), -Errno::ENOTCONN.0);
    holder.give_back(&mut world, &revoke);
    let leases = count(&world)["leases"];
    let wanted = client.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
    world.run();
    assert_eq!(wanted.status(&world), 0);
    assert_eq!(count(&world)["leases"], leases + 1, "the first one got none");
}

#[test]
fn peers_without_a_session_have_their_time_and_their_places_and_keep_nobody_out() {
    let mut world = World::new();
    let mut client = world.mount(1);
    let first = world.open_connection();
    world.run();
    world.pass(Duration::from_secs(9));
    assert!(!world.wire.borrow().closed.contains(&first));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.wire.borrow().closed, [first], "and the client's stays");
    let second = world.open_connection();
    for _ in 0..300 {
        world.open_connection();
        world.run();
    }
    assert!(world.wire.borrow().closed.contains(&second), "longest there");
    assert!(count(&world)["connections"] < 300);
    client.reconnect(&mut world);
    assert!(client.resumed);
}

#[test]
fn who_ended_his_session_is_a_stranger_again() {
    let mut world = World::new();
    let mut stays = world.mount(1);
    let opened: Vec<_> = (10..400)
        .map(|number| {
            let mut client = world.client(b"", number);
            client.reconnect(&mut world);
            assert_eq!(client.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
            client.connection
        })
        .collect();
    assert!(count(&world)["connections"] < 300, "{} are there", count(&world)["connections"]);
    let gone = world.wire.borrow().closed.clone();
    assert_eq!(gone, opened[..gone.len()], "those longest there");
    world.pass(Duration::from_secs(11));
    assert_eq!(count(&world)["connections"], 1);
    assert_eq!(stays.call_empty(&mut world, Opcode::Ping).frame.status, 0);
}

#[test]
fn whose_session_was_ended_with_its_file_system_is_a_stranger_again() {
    let mut world = World::new();
    let mut client = world.mount(1);
    let mut admin = world.connect(b"", 2);
    let delete = FilesystemDelete { name: b"fs".to_vec(), force: true };
    assert_eq!(admin.call(&mut world, Opcode::FilesystemDelete, &delete).frame.status, 0);
    assert_eq!(client.call_empty(&mut world, Opcode::Ping).frame.status, -Errno::ENOTCONN.0);
    world.pass(Duration::from_secs(11));
    assert_eq!(world.wire.borrow().closed, [client.connection]);
}

/// Sessions end one after the other: what one holds goes to none that ends with it.
#[test]
fn a_lock_that_is_waited_for_is_granted_to_nobody_when_its_file_system_is_deleted() {
    for numbers in [[1, 2], [2, 1]] {
        let mut world = World::new();
        let [mut holds, mut waits] = numbers.map(|number| world.mount(number));
        let fid = holds.create(&mut world, "file").attributes.fid;
        let mut waiting = Vec::new();
        for family in [LockFamily::Flock, LockFamily::Posix] {
            let lock = FileLock {
                fid,
                family,
                kind: LockType::Write,
                owner: 1,
                pid: 1,
                start: 0,
                end: u64::MAX >> 1,
            };
            let take = LockSet { lock, wait: true };
            assert_eq!(holds.call(&mut world, Opcode::LockSet, &take).frame.status, 0);
            waiting.push(waits.send(&world, Opcode::LockSet, 0, &take.to_vec(), &[]));
        }
        world.run();
        assert!(waiting.iter().all(|sent| sent.reply(&world).is_none()), "they wait");
        let mut admin = world.connect(b"", 3);
        let delete = FilesystemDelete { name: b"fs".to_vec(), force: true };
        assert_eq!(admin.call(&mut world, Opcode::FilesystemDelete, &delete).frame.status, 0);
        let told: Vec<i32> = waiting.into_iter().map(|sent| sent.status(&world)).collect();
        assert_eq!(told, [-Errno::ENOTCONN.0; 2]);
    }
}

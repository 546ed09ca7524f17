//! What two clients assert after a restart.

use std::time::Duration;

use sheen_types::{Errno, Fid};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    flock::{FileLock, LockFamily, LockSet, LockType},
    lease::{LeaseRevoke, LockMode, bits},
    metadata::{HeldLease, HeldOpen, LostLocks, Reassert},
};

use super::{
    test::{data, status},
    test_support::{Client, World, nothing_held},
};

fn lock(fid: Fid, owner: u64, start: u64, end: u64) -> FileLock {
    let (family, kind, pid) = (LockFamily::Posix, LockType::Write, 1);
    FileLock { fid, family, kind, owner, pid, start, end }
}

fn held(locks: Vec<FileLock>) -> Reassert {
    Reassert { locks: List(locks), ..nothing_held() }
}

/// Asserts; the status, and the files that lost their locks.
fn assert_held(client: &mut Client, world: &mut World, held: &Reassert) -> (i32, Vec<Fid>) {
    let sent = client.send(world, Opcode::Reassert, 0, &[], &held.to_vec());
    world.run();
    let reply = sent.reply(world).unwrap();
    let lost = match reply.payload.is_empty() {
        true => Vec::new(),
        false => LostLocks::from_bytes(&reply.payload).unwrap().files.0,
    };
    (reply.frame.status, lost)
}

fn is_free(client: &mut Client, world: &mut World, lock: FileLock) -> bool {
    let status = client.call(world, Opcode::LockSet, &LockSet { lock, wait: false }).frame.status;
    assert!(status == 0 || status == -Errno::EAGAIN.0, "{status}");
    status == 0
}

fn is_serving(world: &World) -> bool {
    world.service.as_ref().unwrap().is_serving()
}

/// Two clients that come back, and files.
fn restarted() -> (World, Client, Client, [Fid; 2]) {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let files = ["first", "second"].map(|name| a.create(&mut world, name).attributes.fid);
    world.restart();
    a.reconnect(&mut world);
    b.reconnect(&mut world);
    (world, a, b, files)
}

#[test]
fn a_lock_that_another_asserted_first_costs_the_locks_of_its_file_and_no_more() {
    let (mut world, mut a, mut b, [first, second]) = restarted();
    let own = held(vec![lock(first, 1, 0, 9)]);
    assert_eq!(assert_held(&mut a, &mut world, &own), (0, vec![]));
    let flock = FileLock {
        family: LockFamily::Flock,
        owner: 9,
        end: u64::MAX >> 1,
        ..lock(first, 9, 0, 0)
    };
    let others = Reassert {
        opens: List(vec![HeldOpen { fid: second, write: true }]),
        locks: List(vec![
            flock.clone(),
            lock(first, 1, 20, 29),
            lock(first, 1, 5, 5),
            lock(first, 2, 30, 39),
            lock(second, 1, 0, 9),
        ]),
        ..nothing_held()
    };
    assert_eq!(assert_held(&mut b, &mut world, &others), (0, vec![first]), "the session lives");
    assert!(!is_serving(&world), "what was lost is not known to be known yet");
    assert_eq!(assert_held(&mut b, &mut world, &nothing_held()), (0, vec![]));
    assert!(is_serving(&world));
    assert_eq!(world.stats.evictions.get(), 0);
    assert!(!is_free(&mut b, &mut world, lock(first, 1, 0, 9)), "who came first has it");
    for free in [flock, lock(first, 3, 20, 29), lock(first, 3, 30, 39)] {
        assert!(is_free(&mut a, &mut world, free.clone()), "nobody has {free:?}");
    }
    assert!(!is_free(&mut a, &mut world, lock(second, 1, 0, 9)), "other files are as they were");
}

#[test]
fn what_was_lost_is_told_again_if_the_answer_did_not_arrive() {
    let (mut world, mut a, mut b, [first, _]) = restarted();
    let own = held(vec![lock(first, 1, 0, 9)]);
    assert_eq!(assert_held(&mut a, &mut world, &own), (0, vec![]));
    for _ in 0..3 {
        assert_eq!(assert_held(&mut b, &mut world, &own), (0, vec![first]));
        b.reconnect(&mut world);
        assert!(b.resumed);
    }
    let more = held(vec![lock(first, 1, 20, 29)]);
    assert_eq!(assert_held(&mut b, &mut world, &more), (0, vec![]), "it is in nobody's way");
    assert!(is_serving(&world));
}

#[test]
fn who_asserts_what_others_have_takes_nothing_and_keeps_nobody_waiting_for_long() {
    let (mut world, mut a, mut b, [first, second]) = restarted();
    let own = held(vec![lock(first, 1, 0, 9), lock(second, 1, 0, 9)]);
    assert_eq!(assert_held(&mut a, &mut world, &own), (0, vec![]));
    let before = world.service.as_ref().unwrap().core.locks.len();
    let all = vec![lock(first, 1, 0, u64::MAX >> 1), lock(second, 1, 0, u64::MAX >> 1)];
    for _ in 0..10 {
        let (status, lost) = assert_held(&mut b, &mut world, &held(all.clone()));
        assert_eq!((status, lost), (0, vec![first, second]));
        assert_eq!(world.service.as_ref().unwrap().core.locks.len(), before, "nothing is kept");
    }
    for _ in 0..16 {
        world.pass(Duration::from_secs(3));
        a.call_empty(&mut world, Opcode::Ping);
        if !is_serving(&world) {
            assert_held(&mut b, &mut world, &held(all.clone()));
        }
    }
    assert!(is_serving(&world), "it never said that it is all");
    assert!(!is_free(&mut a, &mut world, lock(first, 2, 0, 9)), "a has it");
}

#[test]
fn a_client_that_has_no_room_to_be_told_is_evicted() {
    let (mut world, mut a, mut b, [first, _]) = restarted();
    let own = held(vec![lock(first, 1, 0, 9)]);
    assert_eq!(assert_held(&mut a, &mut world, &own), (0, vec![]));
    b.reply_room = 0;
    assert_eq!(assert_held(&mut b, &mut world, &own), (-Errno::ESTALE.0, vec![]));
    assert_eq!(world.stats.evictions.get(), 1);
    for _ in 0..8 {
        world.pass(Duration::from_secs(3));
        a.call_empty(&mut world, Opcode::Ping);
    }
    assert!(is_serving(&world));
    assert!(!is_free(&mut a, &mut world, lock(first, 2, 0, 9)), "a has it");
}

#[test]
fn one_that_asserts_whole_tables_costs_the_others_nothing_of_theirs() {
    let mut world = World::new();
    let mut clients = [1, 2, 3].map(|number| world.mount(number));
    let files: Vec<Fid> = (0..4)
        .map(|number| clients[0].create(&mut world, &format!("file {number}")).attributes.fid)
        .collect();
    world.limits.opens_max = 4;
    world.limits.leases_max = 4;
    world.limits.locks.locks_max = 4;
    world.restart();
    for client in &mut clients {
        client.reconnect(&mut world);
    }
    let held = |opens: &[Fid], leases: &[Fid], owner: u64| Reassert {
        opens: List(opens.iter().map(|&fid| HeldOpen { fid, write: true }).collect()),
        leases: List(leases.iter().map(|&fid| lease(fid, bits::PERM, 0)).collect()),
        locks: List(opens.iter().map(|&fid| lock(fid, owner, owner, owner)).collect()),
        ..nothing_held()
    };
    let [liar, a, b] = &mut clients;
    assert_eq!(assert_held(liar, &mut world, &held(&files[..2], &files[..3], 10)), (0, vec![]));
    assert_eq!(assert_held(a, &mut world, &held(&files[..2], &files[1..], 20)), (0, vec![]));
    assert_eq!(assert_held(b, &mut world, &held(&files[2..], &files[..1], 30)), (0, vec![]));
    assert!(is_serving(&world));
    assert_eq!(world.stats.evictions.get(), 0);
    let core = &world.service.as_ref().unwrap().core;
    assert_eq!((core.opens.len(), core.locks.len()), (6, 6));
    for fid in &files[2..] {
        assert_eq!(core.opens.held(b.client, *fid), Some(true));
    }
}

#[test]
fn one_that_asserts_more_than_a_client_can_have_is_evicted() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let files: Vec<Fid> = (0..3)
        .map(|number| a.create(&mut world, &format!("file {number}")).attributes.fid)
        .collect();
    world.limits.opens_max = 4;
    world.restart();
    a.reconnect(&mut world);
    b.reconnect(&mut world);
    let opens = List(files.iter().map(|&fid| HeldOpen { fid, write: false }).collect());
    let all = Reassert { opens, ..nothing_held() };
    assert_eq!(assert_held(&mut a, &mut world, &all), (-Errno::ESTALE.0, vec![]));
    assert_eq!(assert_held(&mut b, &mut world, &nothing_held()), (0, vec![]));
    assert_eq!(world.stats.evictions.get(), 1);
    for _ in 0..10 {
        world.pass(Duration::from_secs(3));
        b.call_empty(&mut world, Opcode::Ping);
    }
    assert!(world.service.as_ref().unwrap().core.opens.is_empty());
}

fn lease(fid: Fid, read_bits: u32, write_bits: u32) -> HeldLease {
    HeldLease { fid, read_bits, write_bits }
}

fn leases(held: HeldLease) -> Reassert {
    Reassert { leases: List(vec![held]), ..nothing_held() }
}

/// The revokes a client was sent since it was last asked.
fn revokes(client: &mut Client, world: &World) -> Vec<LeaseRevoke> {
    let callbacks = std::iter::from_fn(|| client.callback(world));
    callbacks.map(|callback| LeaseRevoke::from_bytes(&callback.body).unwrap()).collect()
}

#[test]
fn who_asserts_that_it_reads_what_another_writes_is_asked_back_and_nobody_is_evicted() {
    for reader_first in [true, false] {
        let (mut world, mut writer, mut reader, [file, _]) = restarted();
        let (read, write) =
            (leases(lease(file, bits::DATA, 0)), leases(lease(file, 0, bits::DATA)));
        for reads in [reader_first, !reader_first] {
            let (client, held) = if reads { (&mut reader, &read) } else { (&mut writer, &write) };
            assert_eq!(assert_held(client, &mut world, held), (0, vec![]));
        }
        assert!(is_serving(&world));
        for client in [&mut reader, &mut writer] {
            client.call_empty(&mut world, Opcode::Ping);
        }
        assert_eq!(revokes(&mut writer, &world), []);
        let asked = revokes(&mut reader, &world);
        assert_eq!(asked.len(), 1);
        assert_eq!((asked[0].fid, asked[0].bits, asked[0].to_read), (file, bits::DATA, false));
        let held = |world: &World, client: &Client| {
            let held = world.service.as_ref().unwrap().core.leases.held(client.client, file);
            (held.read_bits, held.write_bits)
        };
        assert_eq!(held(&world, &writer), (0, bits::DATA));
        reader.give_back(&mut world, &asked[0]);
        assert_eq!(held(&world, &reader), (0, 0));
        assert_eq!(held(&world, &writer), (0, bits::DATA));
        assert_eq!(world.stats.evictions.get(), 0);
    }
}

#[test]
fn a_reader_that_does_not_give_back_what_another_writes_is_evicted_and_the_writer_is_not() {
    let (mut world, mut writer, mut reader, [file, _]) = restarted();
    assert_held(&mut reader, &mut world, &leases(lease(file, bits::DATA, 0)));
    assert_held(&mut writer, &mut world, &leases(lease(file, 0, bits::DATA)));
    for _ in 0..40 {
        world.pass(Duration::from_secs(3));
        writer.call_empty(&mut world, Opcode::Ping);
        reader.call_empty(&mut world, Opcode::Ping);
    }
    assert_eq!(world.stats.evictions.get(), 1);
    let wants = data(file, LockMode::ProtectedWrite);
    assert_eq!(status(&mut writer, &mut world, Opcode::LeaseRequest, &wants), 0);
}

#[test]
fn of_two_that_assert_that_they_write_the_same_the_first_has_it() {
    let (mut world, mut a, mut b, [file, _]) = restarted();
    let write = leases(lease(file, bits::DATA, bits::DATA));
    assert_eq!(assert_held(&mut a, &mut world, &write), (0, vec![]));
    assert_eq!(assert_held(&mut b, &mut world, &write), (-Errno::ESTALE.0, vec![]));
    assert_eq!((world.stats.evictions.get(), revokes(&mut a, &world)), (1, vec![]));
}

//! Restarts, silent clients, and what goes on in the background.

use std::time::Duration;

use sheen_ports::BlockError;
use sheen_types::{Errno, Fid};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    lease::{LockMode, bits},
    metadata::{
        ClientInfo, ClientList, EntryReply, FilesystemDelete, FilesystemInfo, FilesystemStatistics,
        FilesystemStatisticsReply, GetAttributes, HeldLease, HeldOpen, Open, OpenReply, Reassert,
        SetXattr, UnlinkReply,
    },
};

use super::{
    MdtTimes, OstJob,
    test::{data, lookup, status, unlink},
    test_support::{World, name, nothing_held},
};

#[test]
fn a_restart_keeps_everything_acknowledged_and_waits_for_known_clients() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let mut fids = Vec::new();
    for number in 0..300 {
        fids.push(a.create(&mut world, &format!("file {number}")).attributes.fid);
    }
    world.restart();
    assert!(!world.service.as_ref().unwrap().is_serving());
    let epoch = a.server_epoch;
    a.reconnect(&mut world);
    assert!(a.resumed && a.server_epoch > epoch);
    let early =
        a.send(&world, Opcode::GetAttributes, 0, &GetAttributes { fid: fids[7] }.to_vec(), &[]);
    let held = Reassert {
        opens: List(vec![HeldOpen { fid: fids[3], write: true }]),
        leases: List(vec![HeldLease {
            fid: fids[5],
            read_bits: bits::LOOKUP,
            write_bits: bits::DATA,
        }]),
        ..nothing_held()
    };
    assert_eq!(a.reassert(&mut world, &held), 0);
    assert!(early.reply(&world).is_none(), "b is not back");
    let mut c = world.connect(b"fs", 3);
    b.reconnect(&mut world);
    assert_eq!(b.reassert(&mut world, &nothing_held()), 0);
    assert!(world.service.as_ref().unwrap().is_serving());
    assert_eq!(early.status(&world), 0);
    for (number, fid) in fids.iter().enumerate() {
        let found: EntryReply =
            c.call(&mut world, Opcode::Lookup, &lookup(&format!("file {number}"))).body();
        assert_eq!(found.attributes.fid, *fid);
    }
    // What was asserted counts.
    let open: OpenReply = b
        .call(&mut world, Opcode::Open, &Open { fid: fids[3], write: false, append: false })
        .body();
    assert!(open.shared);
    let wants = b.send(
        &world,
        Opcode::LeaseRequest,
        0,
        &data(fids[5], LockMode::ProtectedRead).to_vec(),
        &[],
    );
    world.run();
    assert!(wants.reply(&world).is_none());
    assert_eq!(a.revoke(&world).fid, fids[5]);
}

#[test]
fn clients_that_do_not_come_back_after_a_restart_are_fenced_and_forgotten() {
    let mut world = World::new();
    let (mut a, b) = (world.mount(1), world.mount(2));
    a.create(&mut world, "file");
    world.restart();
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    let waits = a.send(&world, Opcode::Lookup, 0, &lookup("file").to_vec(), &[]);
    for _ in 0..5 {
        world.pass(Duration::from_secs(3));
        a.call_empty(&mut world, Opcode::Ping);
    }
    assert!(waits.reply(&world).is_none());
    world.pass(Duration::from_secs(8));
    assert_eq!(waits.status(&world), 0);
    let fence = world
        .osts
        .borrow()
        .jobs
        .iter()
        .any(|job| matches!(job, OstJob::Dismiss { client, .. } if *client == b.client));
    assert!(fence);
}

#[test]
fn a_silent_client_in_the_way_is_fenced_then_evicted_then_the_waiter_goes_on() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    world.osts.borrow_mut().stalled = true;
    let wants =
        b.send(&world, Opcode::LeaseRequest, 0, &data(fid, LockMode::ProtectedWrite).to_vec(), &[]);
    for _ in 0..5 {
        world.pass(Duration::from_secs(5));
        b.call_empty(&mut world, Opcode::Ping);
    }
    let fenced = |world: &World| {
        world
            .osts
            .borrow()
            .jobs
            .iter()
            .any(|job| matches!(job, OstJob::Dismiss { client, .. } if *client == a.client))
    };
    assert!(fenced(&world));
    assert!(wants.reply(&world).is_none(), "the lease stays until the OSTs refuse its holder");
    world.osts.borrow_mut().failures = 2;
    world.osts.borrow_mut().stalled = false;
    world.pass(Duration::from_millis(500));
    assert_eq!(wants.status(&world), 0);
    assert_eq!(world.stats.evictions.get(), 1);
    let evicted = a.revoke(&world);
    assert_eq!(evicted.fid, fid);
    assert_eq!(a.callback(&world).unwrap().frame.opcode, Opcode::Evicted);
    assert!(world.wire.borrow().closed.contains(&a.connection));
    let client = a.client;
    a.reconnect(&mut world);
    assert!(!a.resumed && a.client != client);
}

#[test]
fn a_client_whose_process_died_stands_in_the_way_for_seconds_only() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    world.lose_connection(a.connection);
    let wants =
        b.send(&world, Opcode::LeaseRequest, 0, &data(fid, LockMode::ProtectedWrite).to_vec(), &[]);
    world.pass(Duration::from_secs(6));
    assert_eq!(wants.status(&world), 0);
}

#[test]
fn revokes_are_sent_again_over_a_new_connection() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    let wants =
        b.send(&world, Opcode::LeaseRequest, 0, &data(fid, LockMode::ProtectedWrite).to_vec(), &[]);
    world.run();
    let lost = a.revoke(&world);
    world.lose_connection(a.connection);
    a.reconnect(&mut world);
    assert!(a.callback(&world).is_none(), "it may not be through with its handshake");
    a.call_empty(&mut world, Opcode::Ping);
    let again = a.revoke(&world);
    assert_eq!(lost, again);
    a.give_back(&mut world, &again);
    assert_eq!(wants.status(&world), 0);
}

#[test]
fn snapshots_bound_the_log_and_restart_from_them() {
    let mut world = World::new();
    world.limits.snapshot_ring_part = 8;
    world.restart();
    let mut a = world.mount(1);
    for number in 0..700 {
        a.create(&mut world, &format!("file {number}"));
    }
    let snapshots = world.stats.snapshots.get();
    assert!(snapshots >= 2, "{snapshots}");
    world.restart();
    a.reconnect(&mut world);
    assert!(a.resumed);
    a.reassert(&mut world, &nothing_held());
    for number in 0..700 {
        assert_eq!(
            status(&mut a, &mut world, Opcode::Lookup, &lookup(&format!("file {number}"))),
            0
        );
    }
}

#[test]
fn an_orphan_of_a_dead_client_goes_after_a_restart() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let mut request = a.create_request(Fid::ROOT, "unnamed");
    request.unnamed = true;
    request.open = 2;
    let fid = a.call(&mut world, Opcode::Create, &request).body::<EntryReply>().attributes.fid;
    let attributes = GetAttributes { fid };
    assert_eq!(status(&mut a, &mut world, Opcode::GetAttributes, &attributes), 0);
    world.restart();
    a.reconnect(&mut world);
    let held = Reassert { opens: List(vec![HeldOpen { fid, write: true }]), ..nothing_held() };
    a.reassert(&mut world, &held);
    assert_eq!(status(&mut a, &mut world, Opcode::GetAttributes, &attributes), 0, "still open");
    world.restart();
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    world.pass(Duration::from_secs(6));
    assert_eq!(status(&mut a, &mut world, Opcode::GetAttributes, &attributes), -Errno::ESTALE.0);
}

#[test]
fn a_server_that_slept_evicts_nobody_for_it() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    let wants =
        b.send(&world, Opcode::LeaseRequest, 0, &data(fid, LockMode::ProtectedWrite).to_vec(), &[]);
    world.run();
    world.clock.0.set(world.clock.0.get() + 600_000_000_000);
    world.run();
    assert_eq!(world.stats.evictions.get(), 0);
    let revoke = a.revoke(&world);
    a.give_back(&mut world, &revoke);
    assert_eq!(wants.status(&world), 0);
}

#[test]
fn a_deleted_file_system_goes_step_by_step_with_its_objects() {
    let mut world = World::new();
    let mut a = world.mount(1);
    for number in 0..600 {
        a.create(&mut world, &format!("file {number}"));
    }
    let mut admin = world.connect(b"", 9);
    let delete = FilesystemDelete { name: b"fs".to_vec(), force: false };
    let refused = status(&mut admin, &mut world, Opcode::FilesystemDelete, &delete);
    assert_eq!(refused, -Errno::EBUSY.0, "a has it mounted");
    let who = |admin: &mut super::test_support::Client, world: &mut World, name: &str| {
        let request = ClientList { filesystem: name.as_bytes().to_vec() };
        admin.call(world, Opcode::ClientList, &request)
    };
    let clients =
        List::<ClientInfo>::from_bytes(&who(&mut admin, &mut world, "fs").payload).unwrap().0;
    let labels: Vec<&[u8]> = clients.iter().map(|client| client.label.as_slice()).collect();
    assert_eq!(labels, [b"test"], "the administrator has not mounted it");
    assert_eq!(who(&mut admin, &mut world, "none").frame.status, -Errno::ENOENT.0);
    let statistics = FilesystemStatistics { fid: Fid::ROOT };
    let before: FilesystemStatisticsReply =
        a.call(&mut world, Opcode::FilesystemStatistics, &statistics).body();
    assert_eq!(before.inodes_used, 601);
    assert_eq!(a.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
    let refused = status(&mut admin, &mut world, Opcode::FilesystemDelete, &delete);
    assert_eq!(refused, -Errno::ENOTEMPTY.0);
    let delete = FilesystemDelete { force: true, ..delete };
    assert_eq!(status(&mut admin, &mut world, Opcode::FilesystemDelete, &delete), 0);
    world.run();
    let list = admin.call_empty(&mut world, Opcode::FilesystemList);
    assert_eq!(List::<FilesystemInfo>::from_bytes(&list.payload).unwrap().0, []);
    let destroyed: usize = world
        .osts
        .borrow()
        .jobs
        .iter()
        .map(|job| match job {
            OstJob::Destroy { objects, .. } => objects.len(),
            OstJob::Sessions(_)
            | OstJob::Drain { .. }
            | OstJob::Admit { .. }
            | OstJob::Dismiss { .. }
            | OstJob::Space { .. } => 0,
        })
        .sum();
    assert_eq!(destroyed, 600);
    assert!(world.service.as_ref().unwrap().core.state.destroys_pending() == 0);
}

#[test]
fn destroys_the_osts_did_not_confirm_are_asked_again_after_a_restart() {
    let mut world = World::new().without_linger();
    let mut a = world.mount(1);
    a.create(&mut world, "file");
    world.osts.borrow_mut().stalled = true;
    a.call(&mut world, Opcode::Unlink, &unlink("file")).body::<UnlinkReply>();
    let asked = world.osts.borrow().jobs.clone();
    assert!(matches!(&asked[..], [.., OstJob::Destroy { .. }]));
    world.osts.replace(super::test_ports::OstLog::default());
    world.restart();
    let destroys = |world: &World| {
        let mut jobs = world.osts.borrow().jobs.clone();
        jobs.retain(|job| matches!(job, OstJob::Destroy { .. }));
        jobs
    };
    assert_eq!(destroys(&world), [], "not before clients are back");
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    world.run();
    assert_eq!(destroys(&world)[..], asked[asked.len() - 1..]);
}

#[test]
fn a_restart_tells_who_lives_and_gives_content_when_the_osts_are_done_with_all_others() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    world.lose_connection(a.connection);
    let wants = data(fid, LockMode::ProtectedWrite).to_vec();
    let wants = b.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
    world.pass(Duration::from_secs(6));
    assert_eq!(wants.status(&world), 0);
    world.osts.replace(super::test_ports::OstLog { stalled: true, ..Default::default() });
    world.restart();
    b.reconnect(&mut world);
    b.reassert(&mut world, &nothing_held());
    let wants = data(fid, LockMode::ProtectedRead).to_vec();
    let wants = b.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
    assert_eq!(status(&mut b, &mut world, Opcode::Lookup, &lookup("file")), 0);
    world.run();
    assert!(wants.reply(&world).is_none(), "the OSTs have not confirmed");
    world.osts.borrow_mut().stalled = false;
    world.run();
    assert_eq!(wants.status(&world), 0);
    let osts = world.osts.borrow();
    let OstJob::Sessions(list) = &osts.jobs[0] else { panic!("{:?}", osts.jobs) };
    let listed: Vec<_> = list.sessions.iter().map(|session| session.client).collect();
    assert_eq!(listed, [b.client], "and not {}", a.client);
    assert!(list.highest >= a.client.max(b.client));
}

#[test]
fn a_log_that_cannot_be_written_refuses_everything_and_loses_nothing() {
    let mut world = World::new();
    let mut a = world.mount(1);
    a.create(&mut world, "before");
    world.broken.set(true);
    let request = a.create_request(Fid::ROOT, "after").to_vec();
    let sent = a.send(&world, Opcode::Create, 0, &request, &[]);
    let service = world.service.as_mut().unwrap();
    for _ in 0..10 {
        service.turn();
    }
    let failure = service.failure().unwrap();
    assert_eq!(failure, super::MdtFailure::Log(Some(BlockError::Gone)));
    assert!(failure.to_string().ends_with("cannot be written: device is gone"), "{failure}");
    assert_eq!(sent.status(&world), -Errno::EIO.0);
    world.broken.set(false);
    world.restart();
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    assert_eq!(status(&mut a, &mut world, Opcode::Lookup, &lookup("before")), 0);
}

#[test]
fn a_state_as_large_as_its_snapshot_may_be_only_shrinks_until_there_is_room_again() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let value = vec![7; 60_000];
    let mut files = Vec::new();
    let refused = loop {
        let request = a.create_request(Fid::ROOT, &format!("file {}", files.len()));
        let made = a.call(&mut world, Opcode::Create, &request);
        if made.frame.status != 0 {
            break made.frame.status;
        }
        files.push(format!("file {}", files.len()));
        let fid = made.body::<EntryReply>().attributes.fid;
        let set = SetXattr { fid, name: name("user.large").into(), flags: 0, kill_sgid: false };
        let sent = a.send(&world, Opcode::SetXattr, 0, &set.to_vec(), &value);
        world.run();
        if sent.status(&world) != 0 {
            break sent.status(&world);
        }
    };
    assert_eq!(refused, -Errno::ENOSPC.0);
    assert!((20..40).contains(&files.len()), "{}", files.len());
    for file in &files[..files.len() / 2] {
        assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink(file)), 0);
    }
    let request = a.create_request(Fid::ROOT, "again");
    assert_eq!(status(&mut a, &mut world, Opcode::Create, &request), 0);
    world.restart();
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    assert_eq!(status(&mut a, &mut world, Opcode::Lookup, &lookup("again")), 0);
}

#[test]
fn a_file_made_without_a_name_is_there_for_a_client_that_asks_again_after_a_restart() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let mut request = a.create_request(Fid::ROOT, "unnamed");
    (request.unnamed, request.open) = (true, 2);
    let request = request.to_vec();
    let sent = a.send(&world, Opcode::Create, 3, &request, &[]);
    world.run();
    assert_eq!(sent.status(&world), 0);
    // The answer was lost: it neither asserts the open nor knows of it.
    world.restart();
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    world.run();
    let again = a.send_as(&world, Opcode::Create, 3, sent.xid, &request, &[]);
    world.run();
    let fid = again.reply(&world).unwrap().body::<EntryReply>().attributes.fid;
    world.pass(Duration::from_secs(5));
    assert_eq!(status(&mut a, &mut world, Opcode::GetAttributes, &GetAttributes { fid }), 0);
}

/// A client that is cut off counts on the lease it was told, whatever the configuration says now.
#[test]
fn a_longer_lease_of_an_earlier_start_is_kept() {
    let mut world = World::new();
    let seconds = Duration::from_secs;
    let with = |world: &mut World, lease| {
        world.times = MdtTimes { lease, grace: seconds(2), ..MdtTimes::default() };
        world.restart();
    };
    with(&mut world, seconds(60));
    let mut a = world.mount(1);
    let fid = a.create(&mut world, "file").attributes.fid;
    let wants = data(fid, LockMode::ProtectedWrite).to_vec();
    // Over a second restart too.
    for restart in 0..2 {
        with(&mut world, seconds(2));
        let mut b = world.client(b"fs", 2);
        b.reconnect(&mut world);
        b.reassert(&mut world, &nothing_held());
        let wants = b.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
        let (quiet, all) = if restart == 0 { (30, 30) } else { (60, 66) };
        for second in 0..all {
            world.pass(seconds(1));
            let is_given = wants.reply(&world).is_some();
            assert!(!is_given || second > quiet, "after {second} s of start {restart}");
            b.call_empty(&mut world, Opcode::Ping);
        }
        if restart == 1 {
            assert_eq!(wants.status(&world), 0);
        }
    }
    // It has passed for everybody: now the shorter one is kept, and noted.
    world.run();
    assert_eq!(world.service.as_ref().unwrap().core.state.lease_milliseconds(), 2_000);
    let mut c = world.mount(3);
    let held = c.create(&mut world, "other").attributes.fid;
    with(&mut world, seconds(2));
    let mut b = world.client(b"fs", 2);
    b.reconnect(&mut world);
    b.reassert(&mut world, &nothing_held());
    let wants = data(held, LockMode::ProtectedWrite).to_vec();
    let wants = b.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
    for _ in 0..3 {
        world.pass(seconds(1));
        b.call_empty(&mut world, Opcode::Ping);
    }
    assert_eq!(wants.status(&world), 0);
}

/// Blocks of the log ring that hold something, and the format each begins with.
fn ring(world: &World) -> Vec<(u64, u32)> {
    let ring = sheen_consensus::Zone::new(sheen_consensus::ZONE_BLOCKS_MIN).unwrap().ring();
    let first = ring.start.0 + 8;
    let blocks = world.blocks.borrow();
    let format = |block: &[u8]| u32::from_le_bytes(block[4..8].try_into().unwrap());
    blocks.range(first..first + ring.blocks).map(|(&at, block)| (at, format(block))).collect()
}

const MARK: u32 = 2;

#[test]
fn a_record_that_rots_after_a_stop_is_named_at_the_next_start() {
    let mut world = World::new();
    let mut a = world.mount(1);
    a.create(&mut world, "the last file");
    let last = ring(&world).last().unwrap().0;
    let service = world.service.as_mut().unwrap();
    service.stop();
    for _ in 0..100 {
        service.turn();
    }
    assert!(service.is_stopped());
    world.blocks.borrow_mut().get_mut(&last).unwrap()[70] ^= 1;
    world.start();
    let service = world.service.as_mut().unwrap();
    for _ in 0..1000 {
        service.turn();
    }
    match service.failure() {
        Some(super::MdtFailure::Recovery(sheen_consensus::RecoveryError::Log(damage))) => {
            assert_eq!(damage.lba.0 + 8, last);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_metadata_log_at_rest_is_marked_once() {
    let mut world = World::new();
    let mut a = world.mount(1);
    a.create(&mut world, "file");
    assert_ne!(ring(&world).last().unwrap().1, MARK);
    world.pass(Duration::from_millis(1500));
    let marked = ring(&world);
    assert_eq!(marked.last().unwrap().1, MARK);
    world.pass(Duration::from_secs(3));
    assert_eq!(ring(&world), marked);
    a.create(&mut world, "another");
    world.pass(Duration::from_millis(1500));
    assert_eq!(ring(&world).last().unwrap().1, MARK);
    world.restart();
    a.reconnect(&mut world);
    assert_eq!(a.reassert(&mut world, &nothing_held()), 0);
    let found: EntryReply = a.call(&mut world, Opcode::Lookup, &lookup("another")).body();
    assert!(found.attributes.nlink > 0);
}

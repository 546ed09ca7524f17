//! Inodes that lose their names while others know them or have them open.

use std::time::Duration;

use sheen_types::{Errno, Fid, OstIndex, attributes::frozen};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    lease::{LeaseRevoke, bits},
    metadata::{
        Close, EntryReply, GetAttributes, HeldLease, Open, OpenReply, Reassert, SetAttributes,
        UnlinkReply, set,
    },
};

use super::{
    OstJob,
    test::{lookup, rename, status, unlink},
    test_support::{World, nothing_held, setting},
};

#[test]
fn an_open_file_without_a_name_lives_until_its_last_close() {
    let mut world = World::new().without_linger();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let mut request = a.create_request(Fid::ROOT, "file");
    request.open = 2;
    let fid = a.call(&mut world, Opcode::Create, &request).body::<EntryReply>().attributes.fid;
    let open = Open { fid, write: false, append: false };
    let shared: OpenReply = b.call(&mut world, Opcode::Open, &open).body();
    assert!(shared.shared, "a writes");
    let gone = a.send(&world, Opcode::Unlink, 0, &unlink("file").to_vec(), &[]);
    world.run();
    let revoke = b.revoke(&world);
    b.give_back(&mut world, &revoke);
    assert_eq!(gone.reply(&world).unwrap().body::<UnlinkReply>().nlink, 0);
    let attributes = GetAttributes { fid };
    assert_eq!(status(&mut b, &mut world, Opcode::GetAttributes, &attributes), 0);
    let close = Close { fid, write_only: false };
    assert_eq!(status(&mut a, &mut world, Opcode::Close, &close), 0);
    assert_eq!(status(&mut b, &mut world, Opcode::GetAttributes, &attributes), 0);
    let before = world.osts.borrow().jobs.len();
    assert_eq!(status(&mut b, &mut world, Opcode::Close, &close), 0);
    world.run();
    // The release takes everybody's leases.
    for client in [&mut a, &mut b] {
        while let Some(callback) = client.callback(&world) {
            let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
            client.give_back(&mut world, &revoke);
        }
    }
    world.run();
    assert_eq!(status(&mut b, &mut world, Opcode::GetAttributes, &attributes), -Errno::ESTALE.0);
    let jobs = world.osts.borrow().jobs[before..].to_vec();
    assert!(
        matches!(&jobs[..], [OstJob::Destroy { ost: OstIndex(0), objects }] if !objects.is_empty())
    );
}

/// Its objects are destroyed when nobody can send changes of it again, also over a restart.
#[test]
fn objects_of_a_removed_file_wait_for_its_remover_to_give_data_back() {
    for (replace, restart) in [(false, false), (true, false), (false, true)] {
        let mut world = World::new();
        let mut a = world.mount(1);
        let fid = a.create(&mut world, "file").attributes.fid;
        a.create(&mut world, "new");
        let gone = match replace {
            true => a.send_keeping(&world, Opcode::Rename, &rename("new", "file").to_vec()),
            false => a.send_keeping(&world, Opcode::Unlink, &unlink("file").to_vec()),
        };
        world.run();
        assert_eq!(gone.status(&world), 0, "the name goes at once");
        let destroys = |world: &World| {
            let jobs = world.osts.borrow().jobs.clone();
            jobs.iter().filter(|job| matches!(job, OstJob::Destroy { .. })).count()
        };
        world.pass(Duration::from_secs(1));
        assert_eq!(destroys(&world), 0, "{replace} {restart}");
        if restart {
            world.restart();
            a.reconnect(&mut world);
            let held = HeldLease { fid, read_bits: 0, write_bits: bits::DATA };
            let held = Reassert { leases: List(vec![held]), ..nothing_held() };
            assert_eq!(a.reassert(&mut world, &held), 0);
            a.call_empty(&mut world, Opcode::Ping);
            world.pass(Duration::from_secs(10));
            assert_eq!(destroys(&world), 0, "it may send changes again now");
        }
        world.pass(Duration::from_secs(2));
        let revoke = a.revoke(&world);
        assert_eq!((revoke.fid, revoke.bits & bits::DATA), (fid, bits::DATA));
        a.give_back(&mut world, &revoke);
        world.run();
        assert_eq!(destroys(&world), 1);
        let attributes = GetAttributes { fid };
        let status = status(&mut a, &mut world, Opcode::GetAttributes, &attributes);
        assert_eq!(status, -Errno::ESTALE.0);
    }
}

/// The finder gets no lease on the name, since the rename waits for it, so nothing else tells that an open(2) may follow.
#[test]
fn a_file_found_while_its_replacement_is_under_way_can_still_be_opened() {
    let mut world = World::new();
    let (mut a, mut b, mut c) = (world.mount(1), world.mount(2), world.mount(3));
    let old = a.create(&mut world, "name").attributes.fid;
    a.create(&mut world, "new");
    let close = Close { fid: old, write_only: false };
    status(&mut a, &mut world, Opcode::Close, &close);
    // A file about to be replaced waits for what c caches of the directory; nobody knows the file.
    status(&mut c, &mut world, Opcode::Lookup, &lookup("absent"));
    let moved = a.send(&world, Opcode::Rename, 0, &rename("new", "name").to_vec(), &[]);
    world.run();
    assert!(moved.reply(&world).is_none(), "it waits for the directory");
    assert_eq!(status(&mut b, &mut world, Opcode::Lookup, &lookup("name")), 0);
    while let Some(callback) = c.callback(&world) {
        let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
        c.give_back(&mut world, &revoke);
    }
    while let Some(callback) = b.callback(&world) {
        let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
        b.give_back(&mut world, &revoke);
    }
    assert_eq!(moved.status(&world), 0);
    let open = Open { fid: old, write: false, append: false };
    assert_eq!(status(&mut b, &mut world, Opcode::Open, &open), 0, "its open(2) is under way");
}

#[test]
fn a_name_is_looked_up_after_the_change_under_way_that_takes_it() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let old = a.create(&mut world, "name").attributes.fid;
    let new = a.create(&mut world, "new").attributes.fid;
    let close = Close { fid: old, write_only: false };
    status(&mut a, &mut world, Opcode::Close, &close);
    world.stalled.set(true);
    let moved = a.send(&world, Opcode::Rename, 0, &rename("new", "name").to_vec(), &[]);
    world.run();
    let found = b.send(&world, Opcode::Lookup, 0, &lookup("name").to_vec(), &[]);
    world.run();
    assert!(found.reply(&world).is_none(), "the rename is on its way to the log");
    world.stalled.set(false);
    world.run();
    assert_eq!(moved.status(&world), 0);
    assert_eq!(found.reply(&world).unwrap().body::<EntryReply>().attributes.fid, new);
}

#[test]
fn a_file_replaced_under_the_eyes_of_another_can_still_be_opened_by_it() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let old = a.create(&mut world, "name").attributes.fid;
    a.create(&mut world, "new");
    let close = Close { fid: old, write_only: false };
    status(&mut a, &mut world, Opcode::Close, &close);
    // What the creator holds of content is asked back for the lookup's sake by nobody: only names count here.
    assert_eq!(status(&mut b, &mut world, Opcode::Lookup, &lookup("name")), 0);
    let moved = a.send(&world, Opcode::Rename, 0, &rename("new", "name").to_vec(), &[]);
    world.run();
    while let Some(callback) = b.callback(&world) {
        let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
        b.give_back(&mut world, &revoke);
    }
    assert_eq!(moved.status(&world), 0);
    let open = Open { fid: old, write: false, append: false };
    assert_eq!(status(&mut b, &mut world, Opcode::Open, &open), 0, "its open(2) is under way");
    assert_eq!(status(&mut b, &mut world, Opcode::Close, &close), 0);
    world.pass(Duration::from_secs(3));
    for client in [&mut a, &mut b] {
        while let Some(callback) = client.callback(&world) {
            let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
            client.give_back(&mut world, &revoke);
        }
    }
    world.run();
    let attributes = GetAttributes { fid: old };
    assert_eq!(status(&mut b, &mut world, Opcode::GetAttributes, &attributes), -Errno::ESTALE.0);
}

#[test]
fn an_immutable_file_is_not_opened_for_writing_and_an_append_only_one_for_appending_alone() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let request = a.create_request(Fid::ROOT, "file");
    let fid = a.call(&mut world, Opcode::Create, &request).body::<EntryReply>().attributes.fid;
    let mut open = |world: &mut World, flags: u32, write: bool, append: bool| {
        let change = SetAttributes { flags, ..setting(fid, set::FLAGS) };
        assert_eq!(a.call(world, Opcode::SetAttributes, &change).frame.status, 0);
        status(&mut a, world, Opcode::Open, &Open { fid, write, append })
    };
    let refused = -Errno::EPERM.0;
    assert_eq!(open(&mut world, frozen::IMMUTABLE, true, true), refused);
    assert_eq!(open(&mut world, frozen::IMMUTABLE, false, false), 0);
    assert_eq!(open(&mut world, frozen::APPEND, true, false), refused);
    assert_eq!(open(&mut world, frozen::APPEND, true, true), 0);
    assert_eq!(open(&mut world, 0, true, false), 0);
}

//! What an MDT promises, message by message.

use sheen_types::{Errno, Fid, Timespec};
use sheen_wire::{
    Decoder, Field, Opcode,
    directory::DirectoryEntry,
    flock::{FileLock, LockCancel, LockFamily, LockSet, LockType},
    lease::{LeaseCancel, LeaseGrant, LeaseReply, LeaseRequest, LockMode, SizeUpdate, bits},
    metadata::{
        AttributesReply, Create, Credentials, EntryReply, FilesystemStatistics,
        FilesystemStatisticsReply, GetAttributes, Lookup, ReadDirectory, ReadDirectoryReply,
        ReadLink, Rename, RenameReply, SetXattr, Unlink, UnlinkReply, XattrName,
    },
};

use super::test_support::{CREDENTIALS, Client, World, name};

pub(crate) fn lookup(file: &str) -> Lookup {
    Lookup { parent: Fid::ROOT, name: Some(name(file)) }
}

pub(crate) fn unlink(file: &str) -> Unlink {
    Unlink { parent: Fid::ROOT, name: name(file), directory: false, credentials: CREDENTIALS }
}

pub(crate) fn rename(from: &str, to: &str) -> Rename {
    Rename {
        from_parent: Fid::ROOT,
        from_name: name(from),
        to_parent: Fid::ROOT,
        to_name: name(to),
        flags: 0,
        credentials: CREDENTIALS,
        whiteout: Fid::NONE,
    }
}

pub(crate) fn data(fid: Fid, mode: LockMode) -> LeaseRequest {
    LeaseRequest { fid, bits: bits::DATA, mode }
}

pub(crate) fn status(
    client: &mut Client,
    world: &mut World,
    opcode: Opcode,
    body: &impl Field,
) -> i32 {
    client.call(world, opcode, body).frame.status
}

#[test]
fn a_created_file_is_found_listed_renamed_and_removed() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let made = a.create(&mut world, "one");
    assert!(made.created);
    assert_eq!(made.lease.write_bits, bits::DATA);
    assert_eq!(made.lease.read_bits & bits::LOOKUP, bits::LOOKUP);
    let found: EntryReply = a.call(&mut world, Opcode::Lookup, &lookup("one")).body();
    assert_eq!(found.attributes.fid, made.attributes.fid);
    let list = ReadDirectory { fid: Fid::ROOT, cookie: 0, plus: true };
    let reply = a.call(&mut world, Opcode::ReadDirectory, &list);
    let head: ReadDirectoryReply = reply.body();
    assert_eq!((head.count, head.end), (1, true));
    let entry = DirectoryEntry::decode(&mut Decoder::new(&reply.payload)).unwrap();
    assert_eq!(entry.name, name("one"));
    assert!(entry.plus.is_some());
    let moved: RenameReply = a.call(&mut world, Opcode::Rename, &rename("one", "two")).body();
    assert_eq!((moved.moved, moved.replaced), (made.attributes.fid, Fid::NONE));
    assert_eq!(status(&mut a, &mut world, Opcode::Lookup, &lookup("one")), -Errno::ENOENT.0);
    let gone: UnlinkReply = a.call(&mut world, Opcode::Unlink, &unlink("two")).body();
    assert_eq!((gone.fid, gone.nlink), (made.attributes.fid, 0));
    world.pass(std::time::Duration::from_secs(3));
    let statistics = FilesystemStatistics { fid: Fid::ROOT };
    let reply: FilesystemStatisticsReply =
        a.call(&mut world, Opcode::FilesystemStatistics, &statistics).body();
    assert_eq!(reply.inodes_used, 1, "the root");
}

#[test]
fn a_missing_name_may_be_cached_until_somebody_makes_it() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let missing = a.call(&mut world, Opcode::Lookup, &lookup("late"));
    assert_eq!(missing.frame.status, -Errno::ENOENT.0);
    let lease = LeaseGrant::from_bytes(&missing.body).unwrap();
    assert_eq!(lease.read_bits & bits::UPDATE, bits::UPDATE);
    let request = b.create_request(Fid::ROOT, "late");
    let create = b.send(&world, Opcode::Create, 0, &request.to_vec(), &[]);
    world.run();
    assert!(create.reply(&world).is_none(), "the create waits for the revoke");
    let revoke = a.revoke(&world);
    assert_eq!((revoke.fid, revoke.bits), (Fid::ROOT, bits::UPDATE));
    assert!(revoke.sequence > lease.sequence);
    // Meanwhile others are served, but get no lease on what the create waits for.
    let again = a.call(&mut world, Opcode::Lookup, &lookup("other"));
    let held = LeaseGrant::from_bytes(&again.body).unwrap();
    assert_eq!(held.read_bits & bits::UPDATE, 0, "it is being revoked");
    let mut c = world.mount(3);
    let other = c.call(&mut world, Opcode::Lookup, &lookup("other"));
    assert_eq!(LeaseGrant::from_bytes(&other.body).unwrap().read_bits, 0);
    a.give_back(&mut world, &revoke);
    assert_eq!(create.status(&world), 0);
    assert_eq!(status(&mut a, &mut world, Opcode::Lookup, &lookup("late")), 0);
}

#[test]
fn writers_of_one_file_take_turns_and_what_they_learned_is_stored_first() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    let wants =
        b.send(&world, Opcode::LeaseRequest, 0, &data(fid, LockMode::ProtectedWrite).to_vec(), &[]);
    world.run();
    assert!(wants.reply(&world).is_none());
    let revoke = a.revoke(&world);
    assert_eq!((revoke.bits, revoke.to_read), (bits::DATA, false));
    let learned = SizeUpdate {
        fid,
        size: 12345,
        blocks: 32,
        mtime: Timespec { seconds: 1_800_000_000, nanoseconds: 1 },
        atime: Timespec::ZERO,
    };
    let cancel = LeaseCancel {
        fid,
        bits: bits::DATA,
        to_read: false,
        sequence: revoke.sequence,
        learned: Some(learned),
    };
    assert_eq!(status(&mut a, &mut world, Opcode::LeaseCancel, &cancel), 0);
    let reply: LeaseReply = wants.reply(&world).unwrap().body();
    assert_eq!(reply.lease.write_bits, bits::DATA);
    assert_eq!(reply.attributes.size, 12345);
    // What a client says of a file it does not hold for writing is not believed.
    let late = LeaseCancel { learned: Some(SizeUpdate { size: 1, ..learned_of(fid) }), ..cancel };
    assert_eq!(status(&mut a, &mut world, Opcode::LeaseCancel, &late), 0);
    let now: AttributesReply =
        b.call(&mut world, Opcode::GetAttributes, &GetAttributes { fid }).body();
    assert_eq!(now.attributes.size, 12345);
}

fn learned_of(fid: Fid) -> SizeUpdate {
    SizeUpdate { fid, size: 0, blocks: 0, mtime: Timespec::ZERO, atime: Timespec::ZERO }
}

#[test]
fn a_reader_takes_only_the_writing_from_a_writer() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    let wants =
        b.send(&world, Opcode::LeaseRequest, 0, &data(fid, LockMode::ProtectedRead).to_vec(), &[]);
    world.run();
    let revoke = a.revoke(&world);
    assert!(revoke.to_read);
    a.give_back(&mut world, &revoke);
    let reply: LeaseReply = wants.reply(&world).unwrap().body();
    assert_eq!((reply.lease.read_bits & bits::DATA, reply.lease.write_bits), (bits::DATA, 0));
    let again: LeaseReply =
        a.call(&mut world, Opcode::LeaseRequest, &data(fid, LockMode::ProtectedRead)).body();
    assert_eq!((again.lease.read_bits & bits::DATA, again.lease.write_bits), (bits::DATA, 0));
}

#[test]
fn two_upgrades_at_once_are_served_one_after_the_other() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    let read = data(fid, LockMode::ProtectedRead);
    let wants = b.send(&world, Opcode::LeaseRequest, 0, &read.to_vec(), &[]);
    world.run();
    let revoke = a.revoke(&world);
    a.give_back(&mut world, &revoke);
    assert_eq!(wants.status(&world), 0);
    let write = data(fid, LockMode::ProtectedWrite);
    let first = a.send(&world, Opcode::LeaseRequest, 0, &write.to_vec(), &[]);
    let second = b.send(&world, Opcode::LeaseRequest, 0, &write.to_vec(), &[]);
    world.run();
    assert!(first.reply(&world).is_none() && second.reply(&world).is_none());
    let revoke = b.revoke(&world);
    b.give_back(&mut world, &revoke);
    assert_eq!(first.status(&world), 0);
    assert!(second.reply(&world).is_none());
    let revoke = a.revoke(&world);
    assert_eq!(revoke.bits & bits::DATA, bits::DATA);
    a.give_back(&mut world, &revoke);
    assert_eq!(second.status(&world), 0);
}

#[test]
fn an_unasked_cancel_that_crossed_a_grant_changes_nothing() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let made = a.create(&mut world, "file");
    let fid = made.attributes.fid;
    let got: LeaseReply =
        a.call(&mut world, Opcode::LeaseRequest, &data(fid, LockMode::ProtectedWrite)).body();
    assert!(got.lease.sequence > made.lease.sequence, "each grant raises the number");
    let crossed = LeaseCancel {
        fid,
        bits: bits::DATA,
        to_read: false,
        sequence: made.lease.sequence,
        learned: None,
    };
    assert_eq!(status(&mut a, &mut world, Opcode::LeaseCancel, &crossed), 0);
    let wants =
        b.send(&world, Opcode::LeaseRequest, 0, &data(fid, LockMode::ProtectedRead).to_vec(), &[]);
    world.run();
    assert!(wants.reply(&world).is_none(), "a still holds it");
    assert!(a.revoke(&world).to_read);
}

#[test]
fn a_resent_request_is_answered_once_carried_out_or_not() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let request = a.create_request(Fid::ROOT, "once").to_vec();
    let first = a.send(&world, Opcode::Create, 3, &request, &[]);
    world.run();
    assert_eq!(first.status(&world), 0);
    let entries = world.stats.entries.get();
    // Same connection, same number: answered from the slot.
    a.send_as(&world, Opcode::Create, 3, first.xid, &request, &[]);
    world.run();
    assert_eq!((first.status(&world), world.stats.entries.get()), (0, entries));
    // Sent again over a new connection while the first is still on its way to the log.
    let request = unlink("once").to_vec();
    world.stalled.set(true);
    let lost = a.send(&world, Opcode::Unlink, 3, &request, &[]);
    world.run();
    assert!(lost.reply(&world).is_none());
    world.lose_connection(a.connection);
    a.connection = world.open_connection();
    world.stalled.set(false);
    let joined = {
        a.reconnect(&mut world);
        a.send_as(&world, Opcode::Unlink, 3, lost.xid, &request, &[])
    };
    world.run();
    assert_eq!(joined.status(&world), 0);
    assert_eq!(joined.reply(&world).unwrap().body::<UnlinkReply>().nlink, 0);
}

#[test]
fn a_request_in_flight_is_joined_by_its_resending() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    b.call(&mut world, Opcode::Lookup, &lookup("x"));
    let request = a.create_request(Fid::ROOT, "x").to_vec();
    let first = a.send(&world, Opcode::Create, 1, &request, &[]);
    world.run();
    assert!(first.reply(&world).is_none(), "b holds UPDATE of the directory");
    world.lose_connection(a.connection);
    a.reconnect(&mut world);
    let again = a.send_as(&world, Opcode::Create, 1, first.xid, &request, &[]);
    world.run();
    assert!(again.reply(&world).is_none());
    let revoke = b.revoke(&world);
    b.give_back(&mut world, &revoke);
    let reply: EntryReply = again.reply(&world).unwrap().body();
    assert!(reply.created);
    assert!(b.callback(&world).is_none(), "asked once");
}

#[test]
fn what_follows_a_callback_never_overtakes_it() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    world.wire.borrow_mut().busy.push(a.connection);
    b.send(&world, Opcode::LeaseRequest, 0, &data(fid, LockMode::ProtectedWrite).to_vec(), &[]);
    world.run();
    let ping = a.send(&world, Opcode::Ping, 0, &[], &[]);
    world.run();
    assert!(ping.reply(&world).is_none(), "the revoke was made first");
    world.wire.borrow_mut().order.clear();
    world.wire.borrow_mut().busy.clear();
    world.run();
    let order: Vec<_> = world.wire.borrow().order.clone();
    assert_eq!(
        order,
        [(a.connection, Opcode::LeaseRevoke, true), (a.connection, Opcode::Ping, false)]
    );
}

#[test]
fn a_lock_that_waits_is_answered_when_it_is_granted_or_cancelled() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    let lock = |kind| LockSet {
        lock: FileLock {
            fid,
            family: LockFamily::Flock,
            kind,
            owner: 1,
            pid: 1,
            start: 0,
            end: u64::MAX >> 1,
        },
        wait: true,
    };
    assert_eq!(status(&mut a, &mut world, Opcode::LockSet, &lock(LockType::Write)), 0);
    let waits = b.send(&world, Opcode::LockSet, 0, &lock(LockType::Write).to_vec(), &[]);
    world.run();
    assert!(waits.reply(&world).is_none());
    let tested: FileLock = b.call(&mut world, Opcode::LockTest, &lock(LockType::Read).lock).body();
    assert_eq!(tested.kind, LockType::Write);
    assert_eq!(status(&mut a, &mut world, Opcode::LockSet, &lock(LockType::Unlock)), 0);
    assert_eq!(waits.status(&world), 0);
    let waits = a.send(&world, Opcode::LockSet, 0, &lock(LockType::Write).to_vec(), &[]);
    world.run();
    let cancel = LockCancel { waiting: waits.xid };
    assert_eq!(status(&mut a, &mut world, Opcode::LockCancel, &cancel), 0);
    assert_eq!(waits.status(&world), -Errno::EINTR.0);
    // Locks end with the session.
    let waits = a.send(&world, Opcode::LockSet, 0, &lock(LockType::Write).to_vec(), &[]);
    world.run();
    assert_eq!(b.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
    assert_eq!(waits.status(&world), 0);
}

#[test]
fn payloads_travel_both_ways() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let mut request = a.create_request(Fid::ROOT, "link");
    request.kind = sheen_types::FileKind::Symlink;
    let sent = a.send(&world, Opcode::Create, 0, &request.to_vec(), b"to/somewhere");
    world.run();
    let fid = sent.reply(&world).unwrap().body::<EntryReply>().attributes.fid;
    assert_eq!(a.call(&mut world, Opcode::ReadLink, &ReadLink { fid }).payload, b"to/somewhere");
    let fid = a.create(&mut world, "file").attributes.fid;
    let set = SetXattr { fid, name: name("user.color").into(), flags: 0, kill_sgid: false };
    let sent = a.send(&world, Opcode::SetXattr, 0, &set.to_vec(), b"green");
    world.run();
    assert_eq!(sent.status(&world), 0);
    let get = XattrName { fid, name: name("user.color").into() };
    assert_eq!(a.call(&mut world, Opcode::GetXattr, &get).payload, b"green");
}

#[test]
fn many_requests_at_once_share_few_proposals() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let (proposals, entries) = (world.stats.proposals.get(), world.stats.entries.get());
    let sent: Vec<_> = (0..400_u16)
        .map(|number| {
            let request = a.create_request(Fid::ROOT, &format!("file {number}"));
            a.send(&world, Opcode::Create, number % 8, &request.to_vec(), &[])
        })
        .collect();
    world.run();
    assert!(sent.iter().all(|sent| sent.status(&world) == 0));
    assert_eq!(world.stats.entries.get() - entries, 400);
    // Eight slots: at most eight are under way at a time.
    assert!(
        world.stats.proposals.get() - proposals <= 60,
        "{}",
        world.stats.proposals.get() - proposals
    );
}

#[test]
fn a_stranger_and_a_full_table_are_refused() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let connection = a.connection;
    a.connection = world.open_connection();
    assert_eq!(status(&mut a, &mut world, Opcode::Lookup, &lookup("x")), -Errno::ENOTCONN.0);
    a.connection = connection;
    world.limits.requests_per_client_max = 2;
    world.restart();
    a.reconnect(&mut world);
    let sent: Vec<_> =
        (0..3).map(|_| a.send(&world, Opcode::Lookup, 0, &lookup("x").to_vec(), &[])).collect();
    world.run();
    let refused = sent.iter().filter(|sent| sent.reply(&world).is_some()).count();
    assert_eq!(refused, 1, "two wait for the end of the grace period");
    assert_eq!(sent[2].status(&world), -Errno::EAGAIN.0);
}

/// The client gave up waiting for one connection and made the next; the Connect of the first arrives last.
#[test]
fn a_late_connect_takes_no_session_from_a_later_connection() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    a.create(&mut world, "name");
    let (late, number) = (a.connection, a.xid);
    a.reconnect(&mut world);
    let (current, epoch) = (std::mem::replace(&mut a.connection, late), a.epoch);
    let connect = a.connect_request().to_vec();
    let sent = a.send_as(&world, Opcode::Connect, 0, sheen_types::Xid(number), &connect, &[]);
    world.run();
    assert_eq!(sent.status(&world), -Errno::ENOTCONN.0);
    world.lose_connection(late);
    (a.connection, a.epoch) = (current, epoch);
    a.call_empty(&mut world, Opcode::Ping);
    b.call(&mut world, Opcode::Lookup, &lookup("name"));
    b.send(&world, Opcode::Unlink, 1, &unlink("name").to_vec(), &[]);
    world.run();
    assert!(a.callback(&world).is_some(), "revokes go to the later connection");
}

#[test]
fn a_create_that_meets_a_directory_sends_its_caller_to_look_again() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let mut request = a.create_request(Fid::ROOT, "name");
    request.kind = sheen_types::FileKind::Directory;
    assert_eq!(status(&mut a, &mut world, Opcode::Create, &request), 0);
    let mut request = b.create_request(Fid::ROOT, "name");
    (request.exclusive, request.open) = (false, 2);
    assert_eq!(status(&mut b, &mut world, Opcode::Create, &request), -Errno::ESTALE.0);
    request.exclusive = true;
    assert_eq!(status(&mut b, &mut world, Opcode::Create, &request), -Errno::EEXIST.0);
}

#[test]
fn a_create_that_meets_a_file_opens_it_for_its_owner_only() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let mut request = a.create_request(Fid::ROOT, "secret");
    request.permissions = 0o600;
    assert_eq!(status(&mut a, &mut world, Opcode::Create, &request), 0);
    let mut request = b.create_request(Fid::ROOT, "secret");
    (request.exclusive, request.open) = (false, 2);
    request.credentials = Credentials { uid: 65534, gid: 65534 };
    let refused = status(&mut b, &mut world, Opcode::Create, &request);
    assert_eq!(refused, -Errno::ESTALE.0, "nobody checked whether this user may open it");
    request.credentials = CREDENTIALS;
    let found: EntryReply = b.call(&mut world, Opcode::Create, &request).body();
    assert!(!found.created);
    // What its owner may not do either, the kernel decides.
    let closed = Create { permissions: 0o400, ..a.create_request(Fid::ROOT, "read-only") };
    assert_eq!(status(&mut a, &mut world, Opcode::Create, &closed), 0);
    let mut request = b.create_request(Fid::ROOT, "read-only");
    (request.exclusive, request.open) = (false, 2);
    assert_eq!(status(&mut b, &mut world, Opcode::Create, &request), -Errno::ESTALE.0);
}

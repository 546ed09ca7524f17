//! A change that waits for a lease is not in the way of what its holder needs to give the lease back: every pair.

use sheen_types::{Errno, Fid, Timespec, Xid};
use sheen_wire::{
    Field, Opcode,
    lease::{LeaseCancel, LeaseReply, LeaseRevoke, LockMode, SizeUpdate, bits},
    metadata::{
        Close, EntryReply, GetAttributes, InstantiateLayout, Link, Open, SetAttributes, SetXattr,
        UpdateSize, XattrName, set,
    },
};

use super::{
    MdtLimits,
    test::{data, lookup, rename, unlink},
    test_support::{Client, Sent, World, name, setting},
};

/// What another client asks for and waits with.
#[derive(Clone, Copy, Debug)]
enum Parked {
    Truncate,
    Chmod,
    Unlink,
    RenameOver,
    RenameAway,
    Link,
    SetXattr,
    RemoveXattr,
    Instantiate,
    Lease,
}

const PARKED: [Parked; 10] = [
    Parked::Truncate,
    Parked::Chmod,
    Parked::Unlink,
    Parked::RenameOver,
    Parked::RenameAway,
    Parked::Link,
    Parked::SetXattr,
    Parked::RemoveXattr,
    Parked::Instantiate,
    Parked::Lease,
];

/// What the holder may have to ask before it can give its lease back.
#[derive(Clone, Copy, Debug)]
enum Needed {
    Instantiate,
    UpdateSize,
    GetAttributes,
    Lookup,
    OpenAgain,
    Close,
    /// A truncation under way whose kernel lets no write-back pass before it ended.
    Truncate,
    Chmod,
    CancelUnasked,
}

const NEEDED: [Needed; 9] = [
    Needed::Instantiate,
    Needed::UpdateSize,
    Needed::GetAttributes,
    Needed::Lookup,
    Needed::OpenAgain,
    Needed::Close,
    Needed::Truncate,
    Needed::Chmod,
    Needed::CancelUnasked,
];

pub(super) fn set_attributes(fid: Fid, valid: u32) -> SetAttributes {
    SetAttributes { permissions: 0o600, size: 7, ..setting(fid, valid) }
}

/// Objects for what lies behind the first component, which has them from the start.
const fn instantiate(fid: Fid, start: u64) -> InstantiateLayout {
    InstantiateLayout { fid, start, end: start + 1 }
}

fn xattr() -> SetXattr {
    SetXattr { fid: Fid::NONE, name: name("user.x").into(), flags: 0, kill_sgid: false }
}

fn park(world: &mut World, client: &mut Client, fid: Fid, parked: Parked) -> Sent {
    let send = |client: &mut Client, opcode, body: &[u8]| client.send(world, opcode, 1, body, &[]);
    match parked {
        Parked::Truncate => {
            send(client, Opcode::SetAttributes, &set_attributes(fid, set::SIZE).to_vec())
        }
        Parked::Chmod => {
            send(client, Opcode::SetAttributes, &set_attributes(fid, set::MODE).to_vec())
        }
        Parked::Unlink => send(client, Opcode::Unlink, &unlink("file").to_vec()),
        Parked::RenameOver => send(client, Opcode::Rename, &rename("other", "file").to_vec()),
        Parked::RenameAway => send(client, Opcode::Rename, &rename("file", "away").to_vec()),
        Parked::Link => {
            let link = Link { fid, parent: Fid::ROOT, name: name("link") };
            send(client, Opcode::Link, &link.to_vec())
        }
        Parked::SetXattr => {
            let set = SetXattr { fid, ..xattr() };
            client.send(world, Opcode::SetXattr, 1, &set.to_vec(), b"value")
        }
        Parked::RemoveXattr => {
            let remove = XattrName { fid, name: name("user.y").into() };
            send(client, Opcode::RemoveXattr, &remove.to_vec())
        }
        Parked::Instantiate => {
            send(client, Opcode::InstantiateLayout, &instantiate(fid, 200 << 20).to_vec())
        }
        Parked::Lease => {
            send(client, Opcode::LeaseRequest, &data(fid, LockMode::ProtectedWrite).to_vec())
        }
    }
}

fn ask(world: &mut World, client: &mut Client, fid: Fid, needed: Needed) -> Sent {
    let mut send = |opcode, body: &[u8]| client.send(world, opcode, 1, body, &[]);
    match needed {
        Needed::Instantiate => {
            send(Opcode::InstantiateLayout, &instantiate(fid, 20 << 30).to_vec())
        }
        Needed::UpdateSize => {
            let (mtime, atime) = (Timespec::ZERO, Timespec::ZERO);
            let update = SizeUpdate { fid, size: 5, blocks: 8, mtime, atime };
            send(Opcode::UpdateSize, &UpdateSize { update }.to_vec())
        }
        Needed::GetAttributes => send(Opcode::GetAttributes, &GetAttributes { fid }.to_vec()),
        Needed::Lookup => send(Opcode::Lookup, &lookup("file").to_vec()),
        Needed::OpenAgain => send(Opcode::Open, &Open { fid, write: true, append: false }.to_vec()),
        Needed::Close => send(Opcode::Close, &Close { fid, write_only: true }.to_vec()),
        Needed::Truncate => send(Opcode::SetAttributes, &set_attributes(fid, set::SIZE).to_vec()),
        Needed::Chmod => send(Opcode::SetAttributes, &set_attributes(fid, set::MODE).to_vec()),
        Needed::CancelUnasked => {
            let (bits, sequence) = (bits::XATTR, u64::MAX);
            let cancel = LeaseCancel { fid, bits, to_read: false, sequence, learned: None };
            send(Opcode::LeaseCancel, &cancel.to_vec())
        }
    }
}

/// Gives back everything the client was asked for; whether that was anything.
fn give_back_all(world: &mut World, client: &mut Client) -> bool {
    let mut any = false;
    while let Some(callback) = client.callback(world) {
        let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
        client.give_back(world, &revoke);
        any = true;
    }
    any
}

/// A holder of everything of "file", content for writing included, and another that caches what else it may of it.
fn holder_and_other() -> (World, Client, Client, Fid) {
    holder_and_other_in(World::new())
}

fn holder_and_other_in(mut world: World) -> (World, Client, Client, Fid) {
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let mut request = a.create_request(Fid::ROOT, "file");
    request.open = 2;
    let made: EntryReply = a.call(&mut world, Opcode::Create, &request).body();
    let fid = made.attributes.fid;
    a.create(&mut world, "other");
    let set = SetXattr { fid, name: name("user.y").into(), ..xattr() };
    let sent = a.send(&world, Opcode::SetXattr, 0, &set.to_vec(), b"value");
    world.run();
    assert_eq!(sent.status(&world), 0);
    let attributes = GetAttributes { fid };
    assert_eq!(a.call(&mut world, Opcode::GetAttributes, &attributes).frame.status, 0);
    assert_eq!(b.call(&mut world, Opcode::GetAttributes, &attributes).frame.status, 0);
    (world, a, b, fid)
}

#[test]
fn a_change_that_waits_for_a_lease_never_blocks_what_its_holder_needs() {
    for parked in PARKED {
        for needed in NEEDED {
            let (mut world, mut a, mut b, fid) = holder_and_other();
            let waits = park(&mut world, &mut b, fid, parked);
            world.run();
            assert!(waits.reply(&world).is_none(), "{parked:?} waits for the holder");
            let asked = ask(&mut world, &mut a, fid, needed);
            world.run();
            // The other may have to give up what it caches. It needs nothing for that but to say so.
            give_back_all(&mut world, &mut b);
            let reply = asked.reply(&world);
            let reply = reply.unwrap_or_else(|| panic!("{needed:?} waits behind {parked:?}"));
            assert_eq!(reply.frame.status, 0, "{needed:?} while {parked:?} waits");
            while give_back_all(&mut world, &mut a) || give_back_all(&mut world, &mut b) {}
            let ended = waits.status(&world);
            assert_eq!(ended, 0, "{parked:?} after {needed:?}");
            assert_eq!(world.stats.evictions.get(), 0);
        }
    }
}

#[test]
fn two_changes_of_one_inode_that_wait_for_each_others_leases_both_end() {
    for first in PARKED {
        for second in PARKED {
            let (mut world, mut a, mut b, fid) = holder_and_other();
            let one = park(&mut world, &mut b, fid, first);
            world.run();
            let two = park(&mut world, &mut a, fid, second);
            world.run();
            while give_back_all(&mut world, &mut a) || give_back_all(&mut world, &mut b) {}
            for sent in [one, two] {
                let reply = sent.reply(&world);
                let status = reply.unwrap_or_else(|| panic!("{first:?}, {second:?}")).frame.status;
                // Which came first decides what the other finds.
                let found = [0, -Errno::ENOENT.0, -Errno::ESTALE.0, -Errno::ENODATA.0];
                let found = [&found[..], &[-Errno::EEXIST.0]].concat();
                assert!(found.contains(&status), "{status} with {first:?}, {second:?}");
            }
        }
    }
}

#[test]
fn a_holder_writes_back_though_all_its_reply_slots_wait_for_others() {
    let (mut world, mut a, mut b, fid) = holder_and_other();
    let request = b.create_request(Fid::ROOT, "mine").to_vec();
    let made = b.send(&world, Opcode::Create, 0, &request, &[]);
    world.run();
    while give_back_all(&mut world, &mut a) {}
    let mine = made.reply(&world).unwrap().body::<EntryReply>().attributes.fid;
    // Each waits for what the other holds for writing, with every slot it has.
    let mode = set_attributes(mine, set::SIZE).to_vec();
    let of_a: Vec<Sent> =
        (0..8).map(|tag| a.send(&world, Opcode::SetAttributes, tag, &mode, &[])).collect();
    let waits = park(&mut world, &mut b, fid, Parked::Truncate);
    world.run();
    assert!(of_a.iter().all(|sent| sent.reply(&world).is_none()));
    let body = instantiate(fid, 200 << 20).to_vec();
    let asked = a.send(&world, Opcode::InstantiateLayout, 3, &body, &[]);
    world.run();
    give_back_all(&mut world, &mut b);
    assert_eq!(asked.status(&world), 0);
    while give_back_all(&mut world, &mut a) || give_back_all(&mut world, &mut b) {}
    assert_eq!(waits.status(&world), 0);
    assert!(of_a.iter().all(|sent| sent.status(&world) == 0));
}

#[test]
fn a_holder_is_served_though_the_table_is_full_of_those_that_wait_for_it() {
    let world = World::with_limits(MdtLimits { requests_max: 4, ..MdtLimits::default() });
    let (mut world, mut a, mut b, fid) = holder_and_other_in(world);
    let wants = data(fid, LockMode::ProtectedWrite).to_vec();
    let (mut c, mut d) = (world.mount(3), world.mount(4));
    let mut waits: Vec<Sent> =
        (0..2).map(|_| b.send(&world, Opcode::LeaseRequest, 0, &wants, &[])).collect();
    for other in [&mut c, &mut d] {
        waits.push(other.send(&world, Opcode::LeaseRequest, 0, &wants, &[]));
    }
    world.run();
    assert!(waits.iter().all(|sent| sent.reply(&world).is_none()));
    for needed in NEEDED {
        let asked = ask(&mut world, &mut a, fid, needed);
        world.run();
        give_back_all(&mut world, &mut b);
        assert_eq!(asked.reply(&world).expect("answered").frame.status, 0, "{needed:?}");
    }
    while [&mut a, &mut b, &mut c].into_iter().any(|client| give_back_all(&mut world, client)) {}
    assert!(waits.iter().all(|sent| sent.status(&world) == 0));
}

#[test]
fn a_request_sent_again_while_its_change_waits_is_answered_once_there() {
    let (mut world, mut a, mut b, fid) = holder_and_other();
    let first = park(&mut world, &mut b, fid, Parked::Truncate);
    world.run();
    let body = set_attributes(fid, set::SIZE).to_vec();
    let again = b.send_as(&world, Opcode::SetAttributes, 1, Xid(first.xid.0), &body, &[]);
    world.run();
    while give_back_all(&mut world, &mut a) {}
    assert_eq!(again.status(&world), 0);
    assert_eq!(world.stats.evictions.get(), 0);
}

#[test]
fn what_a_writer_told_is_stored_before_another_answer_of_it_frees_the_lease() {
    let (mut world, mut a, mut b, fid) = holder_and_other();
    let reads = data(fid, LockMode::ProtectedRead).to_vec();
    let reads = b.send(&world, Opcode::LeaseRequest, 0, &reads, &[]);
    world.run();
    let revoke = a.revoke(&world);
    assert!(revoke.to_read);
    // Told with the first answer. The second, to nothing that was asked, tells nothing more.
    let (mtime, atime) = (Timespec::ZERO, Timespec::ZERO);
    let learned = Some(SizeUpdate { fid, size: 77, blocks: 8, mtime, atime });
    let LeaseRevoke { fid, bits, to_read, sequence } = revoke;
    let first = LeaseCancel { fid, bits, to_read, sequence, learned };
    let second = LeaseCancel { to_read: false, learned: None, ..first.clone() };
    world.stalled.set(true);
    for cancel in [first, second] {
        a.send(&world, Opcode::LeaseCancel, 0, &cancel.to_vec(), &[]);
    }
    world.run();
    assert!(reads.reply(&world).is_none(), "the log has not taken it yet");
    world.stalled.set(false);
    world.run();
    let reply: LeaseReply = reads.reply(&world).unwrap().body();
    assert_eq!(reply.attributes.size, 77);
}

#[test]
fn what_a_change_that_was_given_up_kept_goes_to_who_waits_for_it() {
    let (mut world, mut a, mut b, fid) = holder_and_other_in(World::new().without_linger());
    let mut c = world.mount(3);
    let gone = a.send(&world, Opcode::Unlink, 1, &unlink("file").to_vec(), &[]);
    world.run();
    give_back_all(&mut world, &mut b);
    assert_eq!(gone.status(&world), 0);
    let cancel =
        LeaseCancel { fid, bits: bits::ALL, to_read: false, sequence: u64::MAX, learned: None };
    for client in [&mut a, &mut b] {
        assert_eq!(client.call(&mut world, Opcode::LeaseCancel, &cancel).frame.status, 0);
    }
    // The last close releases the inode, behind a change of it; before that ended, it is opened again.
    world.stalled.set(true);
    let chmod = set_attributes(fid, set::MODE).to_vec();
    let chmod = c.send(&world, Opcode::SetAttributes, 1, &chmod, &[]);
    world.run();
    let close = Close { fid, write_only: false };
    assert_eq!(a.call(&mut world, Opcode::Close, &close).frame.status, 0);
    let open = Open { fid, write: false, append: false };
    assert_eq!(b.call(&mut world, Opcode::Open, &open).frame.status, 0);
    let reads = data(fid, LockMode::ProtectedRead).to_vec();
    let reads = b.send(&world, Opcode::LeaseRequest, 0, &reads, &[]);
    world.run();
    assert!(reads.reply(&world).is_none(), "the release keeps it from all");
    world.stalled.set(false);
    world.run();
    assert_eq!(chmod.status(&world), 0);
    assert_eq!(reads.reply(&world).expect("answered").frame.status, 0);
}

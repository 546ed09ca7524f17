//! What replies to changes tell of the directory they changed.

use sheen_types::{Attributes, Fid, FileKind};
use sheen_wire::{
    Field, Opcode,
    lease::bits,
    metadata::{
        AttributesReply, Create, EntryReply, GetAttributes, Link, Rename, RenameReply, Unlink,
        UnlinkReply,
    },
};

use super::{
    test::{lookup, rename, unlink},
    test_support::{Client, World, name},
};

const CACHED: u32 = bits::UPDATE | bits::PERM;

fn asked(world: &mut World, client: &mut Client, fid: Fid) -> AttributesReply {
    client.call(world, Opcode::GetAttributes, &GetAttributes { fid }).body()
}

/// What was told of a directory is what it is, and may be cached until somebody else changes it.
#[track_caller]
fn is_told(world: &mut World, client: &mut Client, told: Option<&AttributesReply>) {
    let told = told.expect("the directory is told of");
    assert_eq!(told.lease.read_bits & CACHED, CACHED);
    let now = asked(world, client, told.attributes.fid);
    assert_eq!(told.attributes, now.attributes);
    assert!(told.lease.sequence < now.lease.sequence, "in the order of replies");
}

fn parent_of(entry: EntryReply) -> Option<AttributesReply> {
    let lease = entry.parent_lease;
    entry.parent.map(|attributes| AttributesReply { attributes, lease })
}

fn directory(client: &mut Client, parent: Fid, file: &str) -> Create {
    Create { kind: FileKind::Directory, ..client.create_request(parent, file) }
}

/// Time passes: each change shows in the directory's mtime.
fn tick(world: &World) {
    world.clock.0.set(world.clock.0.get() + 1_000_000);
}

#[test]
fn replies_to_changes_tell_the_directory_as_it_is_after_them() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let before = asked(&mut world, &mut a, Fid::ROOT).attributes;
    tick(&world);
    let request = directory(&mut a, Fid::ROOT, "sub");
    let made: EntryReply = a.call(&mut world, Opcode::Create, &request).body();
    let sub = made.attributes.fid;
    let told = parent_of(made);
    is_told(&mut world, &mut a, told.as_ref());
    let told = told.unwrap().attributes;
    assert_eq!((told.fid, told.nlink), (Fid::ROOT, before.nlink + 1));
    assert!(told.mtime > before.mtime);
    tick(&world);
    let fid = a.create(&mut world, "one").attributes.fid;
    let link = Link { fid, parent: sub, name: name("two") };
    let linked: EntryReply = a.call(&mut world, Opcode::Link, &link).body();
    let told = parent_of(linked);
    is_told(&mut world, &mut a, told.as_ref());
    assert_eq!(told.unwrap().attributes.fid, sub);
    tick(&world);
    let request = Rename { to_parent: sub, ..rename("one", "three") };
    let moved: RenameReply = a.call(&mut world, Opcode::Rename, &request).body();
    is_told(&mut world, &mut a, moved.from_parent.as_ref());
    is_told(&mut world, &mut a, moved.to_parent.as_ref());
    tick(&world);
    let within = Rename { from_parent: sub, to_parent: sub, ..rename("three", "four") };
    let moved: RenameReply = a.call(&mut world, Opcode::Rename, &within).body();
    is_told(&mut world, &mut a, moved.from_parent.as_ref());
    assert_eq!(moved.to_parent, None, "the same");
    tick(&world);
    let request = Unlink { parent: sub, ..unlink("two") };
    let gone: UnlinkReply = a.call(&mut world, Opcode::Unlink, &request).body();
    is_told(&mut world, &mut a, gone.parent.as_ref());
}

#[test]
fn what_changed_no_directory_tells_of_none() {
    let mut world = World::new();
    let mut a = world.mount(1);
    a.create(&mut world, "one");
    let request = Create { exclusive: false, open: 2, ..a.create_request(Fid::ROOT, "one") };
    let found: EntryReply = a.call(&mut world, Opcode::Create, &request).body();
    assert_eq!((found.created, found.parent), (false, None));
    let request = Create { unnamed: true, ..a.create_request(Fid::ROOT, "none") };
    let made: EntryReply = a.call(&mut world, Opcode::Create, &request).body();
    assert_eq!((made.created, made.parent), (true, None));
    let found: EntryReply = a.call(&mut world, Opcode::Lookup, &lookup("one")).body();
    assert_eq!(found.parent, None);
}

#[test]
fn an_answer_from_the_reply_slot_tells_of_no_directory() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let again = |world: &mut World, a: &mut Client, opcode, body: Vec<u8>| {
        let first = a.send(world, opcode, 3, &body, &[]);
        world.run();
        assert_eq!(first.status(world), 0);
        a.reconnect(world);
        let again = a.send_as(world, opcode, 3, first.xid, &body, &[]);
        world.run();
        again.reply(world).unwrap()
    };
    let request = a.create_request(Fid::ROOT, "one").to_vec();
    let made: EntryReply = again(&mut world, &mut a, Opcode::Create, request).body();
    assert_eq!((made.created, made.parent), (true, None));
    let moved: RenameReply =
        again(&mut world, &mut a, Opcode::Rename, rename("one", "two").to_vec()).body();
    assert_eq!((moved.from_parent, moved.to_parent), (None, None));
    let gone: UnlinkReply =
        again(&mut world, &mut a, Opcode::Unlink, unlink("two").to_vec()).body();
    assert_eq!(gone.parent, None);
    // The lost answers may have granted something: it is asked back as ever.
    let request = b.create_request(Fid::ROOT, "of-b");
    let waits = b.send(&world, Opcode::Create, 0, &request.to_vec(), &[]);
    world.run();
    assert!(waits.reply(&world).is_none());
    let revoke = a.revoke(&world);
    assert_eq!((revoke.fid, revoke.bits), (Fid::ROOT, bits::UPDATE));
    a.give_back(&mut world, &revoke);
    assert_eq!(waits.status(&world), 0);
}

#[test]
fn another_client_changes_the_directory_only_after_what_was_told_is_given_back() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    a.create(&mut world, "one");
    let request = b.create_request(Fid::ROOT, "two");
    let waits = b.send(&world, Opcode::Create, 0, &request.to_vec(), &[]);
    world.run();
    assert!(waits.reply(&world).is_none(), "a may cache the directory");
    let revoke = a.revoke(&world);
    assert_eq!((revoke.fid, revoke.bits), (Fid::ROOT, bits::UPDATE));
    // While another waits for it, a's own changes are not held up, but what they tell may not be cached.
    let gone: UnlinkReply = a.call(&mut world, Opcode::Unlink, &unlink("one")).body();
    let told = gone.parent.expect("told");
    assert_eq!(told.lease.read_bits & bits::UPDATE, 0);
    a.give_back(&mut world, &revoke);
    let made: EntryReply = waits.reply(&world).unwrap().body();
    is_told(&mut world, &mut b, parent_of(made).as_ref());
}

#[test]
fn of_changes_in_one_commit_only_those_of_the_last_client_may_be_cached() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let of_a = a.create_request(Fid::ROOT, "of-a").to_vec();
    let of_b = directory(&mut b, Fid::ROOT, "of-b").to_vec();
    let first = a.send(&world, Opcode::Create, 0, &of_a, &[]);
    let second = b.send(&world, Opcode::Create, 0, &of_b, &[]);
    world.run();
    let first: EntryReply = first.reply(&world).unwrap().body();
    let second: EntryReply = second.reply(&world).unwrap().body();
    assert_eq!(first.parent_lease.read_bits & bits::UPDATE, 0, "b's change follows");
    is_told(&mut world, &mut b, parent_of(second).as_ref());
    let now: Attributes = asked(&mut world, &mut a, Fid::ROOT).attributes;
    assert_ne!(now, first.parent.unwrap());
}

#[test]
fn a_change_is_answered_in_the_turn_in_which_the_device_has_written_it() {
    let mut world = World::new();
    let mut a = world.mount(1);
    a.create(&mut world, "one");
    let moved = a.send(&world, Opcode::Rename, 0, &rename("one", "two").to_vec(), &[]);
    world.run_turns(1);
    assert_eq!(moved.status(&world), 0);
}

//! Times: whose they are, and what telling them costs.

use sheen_types::{Errno, Fid};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    lease::bits,
    metadata::{
        ACCESSES_MAX, Access, AttributesReply, GetAttributes, PingReply, TellAccesses, set,
    },
};

use super::test_support::{Client, World, setting};

fn tell(world: &mut World, client: &mut Client, accesses: Vec<Access>) -> i32 {
    let payload = TellAccesses { accesses: List(accesses) }.to_vec();
    let sent = client.send(world, Opcode::TellAccesses, 0, &[], &payload);
    world.run();
    sent.status(world)
}

#[test]
fn accesses_of_many_inodes_are_one_entry_and_ask_nobody_for_a_lease() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let files: Vec<Fid> =
        (0..20).map(|n| a.create(&mut world, &format!("f{n}")).attributes.fid).collect();
    for &fid in &files {
        let found: AttributesReply =
            b.call(&mut world, Opcode::GetAttributes, &GetAttributes { fid }).body();
        assert!(found.lease.read_bits & bits::UPDATE != 0);
    }
    world.pass(std::time::Duration::from_secs(3));
    let now: PingReply = a.call_empty(&mut world, Opcode::Ping).body();
    let (entries, proposals) = (world.stats.entries.get(), world.stats.proposals.get());
    let access = |&fid| Access { fid, atime: now.now };
    assert_eq!(tell(&mut world, &mut a, files.iter().map(access).collect()), 0);
    assert_eq!(world.stats.entries.get() - entries, 1);
    assert_eq!(world.stats.proposals.get() - proposals, 1);
    assert!(b.callback(&world).is_none());
    for &fid in &files {
        let found: AttributesReply =
            a.call(&mut world, Opcode::GetAttributes, &GetAttributes { fid }).body();
        assert_eq!(found.attributes.atime, now.now);
    }
    let too_many = vec![Access { fid: files[0], atime: now.now }; ACCESSES_MAX + 1];
    assert_eq!(tell(&mut world, &mut a, too_many), -Errno::EPROTO.0);
}

#[test]
fn changes_under_a_clock_that_was_set_back_are_told_apart_and_in_order() {
    let mut world = World::new();
    let mut a = world.mount(1);
    world.pass(std::time::Duration::from_secs(1));
    let before = a.create(&mut world, "before").attributes.btime;
    // Not by much, or sessions would end: their time is this clock's, too.
    world.clock.0.set(world.clock.0.get() - 20_000_000);
    let times = ["first", "second"].map(|name| a.create(&mut world, name).attributes.btime);
    assert!(before < times[0] && times[0] < times[1], "{before:?} {times:?}");
    world.pass(std::time::Duration::from_secs(1));
    let caught_up = a.create(&mut world, "third").attributes.btime;
    assert!(caught_up > times[1].after(std::time::Duration::from_millis(500)), "{caught_up:?}");
}

#[test]
fn no_client_sets_the_time_of_a_change() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let fid = a.create(&mut world, "file").attributes.fid;
    let request = setting(fid, set::CTIME);
    let sent = a.send(&world, Opcode::SetAttributes, 0, &request.to_vec(), &[]);
    world.run();
    assert_eq!(sent.status(&world), -Errno::EPROTO.0);
}

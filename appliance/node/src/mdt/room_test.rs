//! A client that found no room on an OST: what lingers gives it at once, and the answer comes when it did.

use std::time::Duration;

use sheen_types::{Errno, Fid, FileKind, OstIndex};
use sheen_wire::{
    Field, Opcode,
    lease::bits,
    metadata::{Create, EntryReply, GetAttributes, MakeRoom, MakeRoomReply, Open, Unlink},
};

use super::{
    OstJob,
    test::{status, unlink},
    test_support::{Client, Sent, World, nothing_held},
};

fn want(world: &World, client: &mut Client, ost: u32) -> Sent {
    client.send(world, Opcode::MakeRoom, 0, &MakeRoom { ost: OstIndex(ost) }.to_vec(), &[])
}

fn destroyed(world: &World, sent: Sent) -> Option<u64> {
    sent.reply(world).map(|reply| reply.body::<MakeRoomReply>().destroyed)
}

fn destroys(world: &World) -> usize {
    let osts = world.osts.borrow();
    let objects = osts.jobs.iter().map(|job| match job {
        OstJob::Destroy { objects, .. } => objects.len(),
        _ => 0,
    });
    objects.sum()
}

fn make(world: &mut World, client: &mut Client, files: u32) -> Vec<Fid> {
    let made = (0..files).map(|number| client.create(world, &format!("f{number}")).attributes.fid);
    made.collect()
}

fn remove(world: &mut World, client: &mut Client, files: u32) {
    for number in 0..files {
        let gone = status(client, world, Opcode::Unlink, &unlink(&format!("f{number}")));
        assert_eq!(gone, 0);
    }
}

#[test]
fn what_lingers_is_destroyed_at_once_and_then_it_is_said() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let fids = make(&mut world, &mut a, 600);
    remove(&mut world, &mut a, 600);
    assert_eq!(destroys(&world), 0);
    assert_eq!(world.service.as_ref().unwrap().core.background.lingering.len(), 600);
    world.osts.borrow_mut().stalled = true;
    let sent = want(&world, &mut a, 0);
    world.run();
    assert_eq!(destroyed(&world, sent), None, "nothing is destroyed yet");
    let gone = status(&mut a, &mut world, Opcode::GetAttributes, &GetAttributes { fid: fids[0] });
    assert_eq!(gone, -Errno::ESTALE.0);
    world.osts.borrow_mut().stalled = false;
    world.run();
    assert_eq!((destroyed(&world, sent), destroys(&world)), (Some(600), 600));
    // What is removed after that lingers again.
    let later = make(&mut world, &mut a, 1);
    remove(&mut world, &mut a, 1);
    let there = status(&mut a, &mut world, Opcode::GetAttributes, &GetAttributes { fid: later[0] });
    assert_eq!(there, 0);
}

#[test]
fn with_nothing_to_come_it_is_said_at_once_and_the_count_stands() {
    let mut world = World::with_osts(2);
    let mut a = world.mount(1);
    let sent = want(&world, &mut a, 1);
    world.run_turns(2);
    assert_eq!(destroyed(&world, sent), Some(0));
    let unknown = want(&world, &mut a, 2);
    world.run_turns(2);
    assert_eq!(unknown.status(&world), -Errno::EINVAL.0);
}

#[test]
fn what_cannot_be_destroyed_is_waited_for_two_seconds_and_by_one_request_of_a_client() {
    let mut world = World::new();
    let mut a = world.mount(1);
    make(&mut world, &mut a, 1);
    remove(&mut world, &mut a, 1);
    world.osts.borrow_mut().stalled = true;
    let first = want(&world, &mut a, 0);
    world.run();
    let second = want(&world, &mut a, 0);
    world.run();
    assert_eq!((destroyed(&world, first), destroyed(&world, second)), (Some(0), None));
    world.pass(Duration::from_millis(1800));
    assert_eq!(destroyed(&world, second), None);
    world.pass(Duration::from_millis(300));
    assert_eq!(destroyed(&world, second), Some(0));
    let third = want(&world, &mut a, 0);
    world.run();
    world.lose_connection(a.connection);
    assert_eq!(world.service.as_ref().unwrap().core.background.room.len(), 0);
    assert!(third.reply(&world).is_none_or(|reply| reply.frame.status != 0));
}

#[test]
fn who_keeps_changes_of_a_removed_file_gives_it_back_first() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let request = Create { ..a.create_request(Fid::ROOT, "f0") };
    let made: EntryReply = a.call(&mut world, Opcode::Create, &request).body();
    let file = made.attributes.fid;
    let gone = a.send_keeping(&world, Opcode::Unlink, &unlink("f0").to_vec());
    world.run();
    assert_eq!(gone.status(&world), 0);
    let sent = want(&world, &mut b, 0);
    world.run();
    assert_eq!(destroyed(&world, sent), None);
    let revoke = a.revoke(&world);
    assert_eq!((revoke.fid, revoke.bits & bits::DATA), (file, bits::DATA));
    a.give_back(&mut world, &revoke);
    world.run();
    assert_eq!(destroyed(&world, sent), Some(1));
}

#[test]
fn what_was_removed_before_a_start_is_waited_for_and_given_when_its_users_had_time_to_come_back() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let fids = make(&mut world, &mut a, 3);
    remove(&mut world, &mut a, 3);
    world.restart();
    a.reconnect(&mut world);
    assert_eq!(a.reassert(&mut world, &nothing_held()), 0);
    let sent = want(&world, &mut a, 0);
    world.run();
    assert_eq!(destroyed(&world, sent), None, "it is to come");
    let open = Open { fid: fids[0], write: false, append: false };
    assert_eq!(status(&mut a, &mut world, Opcode::Open, &open), 0, "it is sent again");
    world.pass(Duration::from_millis(1100));
    assert_eq!((destroyed(&world, sent), destroys(&world)), (Some(2), 2));
    let there = status(&mut a, &mut world, Opcode::GetAttributes, &GetAttributes { fid: fids[0] });
    assert_eq!(there, 0);
}

#[test]
fn while_clients_come_back_it_is_said_that_what_is_to_come_is_not_known() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    make(&mut world, &mut a, 1);
    remove(&mut world, &mut a, 1);
    world.restart();
    a.reconnect(&mut world);
    assert_eq!(a.reassert(&mut world, &nothing_held()), 0);
    let early = want(&world, &mut a, 0);
    world.run_turns(2);
    assert_eq!(early.status(&world), -Errno::EBUSY.0);
    b.reconnect(&mut world);
    assert_eq!(b.reassert(&mut world, &nothing_held()), 0);
    let sent = want(&world, &mut a, 0);
    world.pass(Duration::from_millis(1100));
    assert_eq!(destroyed(&world, sent), Some(1));
}

#[test]
fn what_holds_nothing_on_that_ost_stays() {
    let mut world = World::with_osts(2);
    let mut a = world.mount(1);
    let files = make(&mut world, &mut a, 2);
    let mut others = Vec::new();
    for (name, kind) in [("d", FileKind::Directory), ("p", FileKind::Fifo)] {
        let request = Create { kind, ..a.create_request(Fid::ROOT, name) };
        let made: EntryReply = a.call(&mut world, Opcode::Create, &request).body();
        others.push(made.attributes.fid);
        let gone = Unlink { directory: kind == FileKind::Directory, ..unlink(name) };
        assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &gone), 0);
    }
    remove(&mut world, &mut a, 2);
    let sent = want(&world, &mut a, 0);
    world.run();
    assert_eq!((destroyed(&world, sent), destroys(&world)), (Some(1), 1));
    let state = &world.service.as_ref().unwrap().core.state;
    let left = files.iter().filter(|fid| state.attributes(**fid).is_ok());
    assert_eq!(left.count(), 1, "the file on the other OST");
    for fid in others {
        let there = status(&mut a, &mut world, Opcode::GetAttributes, &GetAttributes { fid });
        assert_eq!(there, 0, "{fid}");
    }
}

#[test]
fn a_stop_with_nothing_mounted_leaves_nothing_that_lingers() {
    for mounted in [false, true] {
        let mut world = World::new();
        let mut a = world.mount(1);
        make(&mut world, &mut a, 3);
        remove(&mut world, &mut a, 3);
        if !mounted {
            assert_eq!(a.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
        }
        let service = world.service.as_mut().unwrap();
        service.stop();
        for _ in 0..100 {
            service.turn();
        }
        assert!(service.is_stopped());
        let left = if mounted { 4 } else { 1 };
        assert_eq!(service.core.state.inodes(), left);
        world.restart();
        assert_eq!(world.service.as_ref().unwrap().core.state.inodes(), left);
    }
}

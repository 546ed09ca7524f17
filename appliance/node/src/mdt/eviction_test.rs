//! What an evicted client's lease protects until it has ended at the client.

use std::time::Duration;

use sheen_types::{Errno, Fid, OstIndex};
use sheen_wire::{
    Field, Opcode,
    lease::{LeaseRevoke, LockMode},
    metadata::{ConnectReply, FilesystemDelete, Ping, set},
};

use super::{
    MdtTimes, OstJob,
    test::{data, lookup, unlink},
    test_support::{Client, Sent, World, nothing_held},
    waits_test::set_attributes,
};

/// A world where `a` holds the content of a file for writing and `b` has asked for it.
fn contested() -> (World, Client, Client, Sent) {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    let wants = data(fid, LockMode::ProtectedWrite).to_vec();
    let wants = b.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
    world.run();
    assert_eq!(a.revoke(&world).fid, fid);
    (world, a, b, wants)
}

/// Both clients live for this long.
pub(crate) fn live(world: &mut World, clients: &mut [&mut Client], seconds: u64) {
    for _ in 0..seconds.div_ceil(5) {
        world.pass(Duration::from_secs(5));
        for client in clients.iter_mut() {
            client.call_empty(world, Opcode::Ping);
        }
    }
}

fn connect(client: &mut Client, world: &mut World) -> (i32, Option<ConnectReply>) {
    client.connection = world.open_connection();
    let request = client.connect_request();
    let reply = client.call(world, Opcode::Connect, &request);
    (reply.frame.status, ConnectReply::from_bytes(&reply.body).ok())
}

#[test]
fn silence_counts_from_the_last_answer_and_ends_a_margin_after_the_lease() {
    let (mut world, _, mut b, wants) = contested();
    // It sent one more, which is answered only when its turn comes: it never hears of it.
    let times = MdtTimes::default();
    live(&mut world, &mut [&mut b], 20);
    world.pass(Duration::from_secs(1));
    assert!(wants.reply(&world).is_none(), "the client may count to the end of its lease");
    assert_eq!(MdtTimes::silence(times.lease), Duration::from_secs(22));
    world.pass(Duration::from_secs(2));
    assert_eq!(wants.status(&world), 0);
}

/// Clients `a` and `b` of a system of two OSTs, of which the second is stuck, and a file of `a` on each.
fn half_stuck() -> (World, Client, Client, [Fid; 2]) {
    let mut world = World::with_osts(2);
    let (mut a, b) = (world.mount(1), world.mount(2));
    let fids = ["first", "second"].map(|file| a.create(&mut world, file).attributes.fid);
    let state = &world.service.as_ref().unwrap().core.state;
    let places = fids.map(|fid| state.layout(fid).unwrap().components[0].objects[0].ost.0);
    assert_eq!(places, [0, 1]);
    world.osts.borrow_mut().stuck.insert(OstIndex(1));
    (world, a, b, fids)
}

#[test]
fn one_stuck_ost_keeps_only_the_content_that_lies_there_from_others() {
    let (mut world, a, mut b, fids) = half_stuck();
    world.break_connection(a.connection);
    let wants = fids.map(|fid| {
        let wants = data(fid, LockMode::ProtectedWrite).to_vec();
        b.send(&world, Opcode::LeaseRequest, 0, &wants, &[])
    });
    let chmod = set_attributes(fids[1], set::MODE).to_vec();
    let chmod = b.send(&world, Opcode::SetAttributes, 0, &chmod, &[]);
    let lookup = b.send(&world, Opcode::Lookup, 1, &lookup("second").to_vec(), &[]);
    live(&mut world, &mut [&mut b], 20);
    assert!(wants[0].reply(&world).is_none(), "the lease has not ended at the client");
    live(&mut world, &mut [&mut b], 10);
    assert_eq!(wants[0].status(&world), 0, "its OST has fenced");
    assert_eq!((chmod.status(&world), lookup.status(&world)), (0, 0), "the OSTs know no names");
    let gone = b.send(&world, Opcode::Unlink, 2, &unlink("second").to_vec(), &[]);
    live(&mut world, &mut [&mut b], 60);
    assert!(wants[1].reply(&world).is_none(), "the OST may still write for the client");
    assert!(gone.reply(&world).is_none(), "and make an object anew");
    world.osts.borrow_mut().stuck.clear();
    world.run();
    assert_eq!(wants[1].status(&world), 0);
    while let Some(callback) = b.callback(&world) {
        let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
        b.give_back(&mut world, &revoke);
    }
    assert_eq!(gone.status(&world), 0);
    let core = &world.service.as_ref().unwrap().core;
    assert!(core.background.fencing.is_empty() && core.background.fences == 0);
}

/// A write that comes later would make an object anew.
#[test]
fn a_deleted_file_system_is_cleared_away_when_its_clients_are_fenced() {
    let (mut world, _, _, _) = half_stuck();
    let mut admin = world.connect(b"", 0);
    let delete = FilesystemDelete { name: b"fs".to_vec(), force: true };
    assert_eq!(admin.call(&mut world, Opcode::FilesystemDelete, &delete).frame.status, 0);
    let destroys = |world: &World| {
        let jobs = world.osts.borrow().jobs.clone();
        jobs.iter().filter(|job| matches!(job, OstJob::Destroy { .. })).count()
    };
    live(&mut world, &mut [&mut admin], 10);
    assert_eq!(destroys(&world), 0);
    world.osts.borrow_mut().stuck.clear();
    world.run();
    assert_eq!(destroys(&world), 2);
}

#[test]
fn a_client_evicted_for_a_revoke_keeps_its_lease_from_others_until_it_ended_at_the_client() {
    let (mut world, mut a, mut b, wants) = contested();
    live(&mut world, &mut [&mut a, &mut b], 60);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.stats.evictions.get(), 1, "it lives and does not give back");
    assert!(wants.reply(&world).is_none(), "it was answered a second ago and caches");
    let ping = a.send(&world, Opcode::Ping, 0, &[], &[]);
    live(&mut world, &mut [&mut b], 15);
    assert_ne!(ping.reply(&world).map(|reply| reply.frame.status), Some(0), "it must not go on");
    assert!(wants.reply(&world).is_none());
    live(&mut world, &mut [&mut b], 10);
    assert_eq!(wants.status(&world), 0);
}

#[test]
fn an_evicted_client_that_says_its_caches_are_void_stands_in_the_way_no_longer() {
    let (mut world, mut a, mut b, wants) = contested();
    live(&mut world, &mut [&mut a, &mut b], 60);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.stats.evictions.get(), 1);
    let before = a.client;
    assert_eq!(connect(&mut a, &mut world).0, -Errno::ESTALE.0, "not taken up again");
    assert!(wants.reply(&world).is_none());
    a.client = sheen_types::ClientId(0);
    assert_eq!(connect(&mut a, &mut world).0, -Errno::EAGAIN.0, "the old session ends first");
    world.run();
    assert_eq!(wants.status(&world), 0);
    let (status, reply) = connect(&mut a, &mut world);
    let reply = reply.unwrap();
    assert!(status == 0 && !reply.resumed && reply.client != before);
}

#[test]
fn a_connection_the_network_lost_frees_nothing_before_the_lease_ends() {
    let (mut world, mut a, mut b, wants) = contested();
    a.call_empty(&mut world, Opcode::Ping);
    world.break_connection(a.connection);
    live(&mut world, &mut [&mut b], 15);
    assert!(wants.reply(&world).is_none(), "the client need not know");
    live(&mut world, &mut [&mut b], 10);
    assert_eq!(wants.status(&world), 0);
}

#[test]
fn a_client_that_gets_on_with_its_write_back_is_not_evicted_for_being_slow() {
    let (mut world, mut a, mut b, wants) = contested();
    for cleaned in 1..=40 {
        live(&mut world, &mut [&mut b], 5);
        a.call(&mut world, Opcode::Ping, &Ping { cleaned });
    }
    assert_eq!(world.stats.evictions.get(), 0, "200 s of progress");
    live(&mut world, &mut [&mut a, &mut b], 65);
    assert_eq!(world.stats.evictions.get(), 1, "then none for a minute");
    live(&mut world, &mut [&mut b], 25);
    assert_eq!(wants.status(&world), 0);
}

#[test]
fn progress_without_end_is_no_excuse_for_ever() {
    let (mut world, mut a, mut b, _) = contested();
    for cleaned in 1..=121 {
        live(&mut world, &mut [&mut b], 5);
        a.call(&mut world, Opcode::Ping, &Ping { cleaned });
    }
    assert_eq!(world.stats.evictions.get(), 1, "ten minutes");
}

#[test]
fn the_grace_period_is_no_shorter_than_what_clients_may_cache() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let fid = a.create(&mut world, "file").attributes.fid;
    let b = world.mount(2);
    world.restart();
    let mut c = b;
    c.reconnect(&mut world);
    c.reassert(&mut world, &nothing_held());
    let wants = data(fid, LockMode::ProtectedWrite).to_vec();
    let wants = c.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
    live(&mut world, &mut [&mut c], 20);
    world.pass(Duration::from_secs(1));
    assert!(wants.reply(&world).is_none());
    live(&mut world, &mut [&mut c], 5);
    assert_eq!(wants.status(&world), 0);
}

#[test]
fn clients_are_told_which_node_and_file_system_answers() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let (_, reply) = connect(&mut a, &mut world);
    let reply = reply.unwrap();
    assert_eq!((reply.node, reply.root), (*b"the node of test", Fid::ROOT));
    assert!(reply.filesystem.starts_with(b"fs-"));
    assert!(reply.lease_milliseconds > reply.reconnect_milliseconds);
}

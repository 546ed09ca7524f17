//! Callbacks that a client does not take yet. What they keep from it, it must not wait for before it takes them.

use std::time::Duration;

use sheen_types::{ClientId, OstIndex};
use sheen_wire::{
    Field, Opcode,
    lease::{LeaseRevoke, LockMode},
    metadata::{OstList, OstListReply},
};

use super::{
    MdtLimits,
    test::data,
    test_support::{Client, Sent, World, nothing_held},
};

/// Callbacks a peer has room for.
const UNREAD_MAX: usize = 8;
/// What is asked back from a client: more than it has room for.
const ASKED: usize = 40;

/// A world where much is asked back from `a`, for `b` who waits for it.
fn asked_for_much(set: impl FnOnce(&mut MdtLimits)) -> (World, Client, Client, Vec<Sent>) {
    let mut limits = MdtLimits::default();
    set(&mut limits);
    let mut world = World::with_limits(limits);
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let files = (0..ASKED).map(|number| format!("file {number}"));
    let fids: Vec<_> = files.map(|file| a.create(&mut world, &file).attributes.fid).collect();
    world.wire.borrow_mut().unread_max = Some(UNREAD_MAX);
    let wants = fids.iter().map(|&fid| {
        let wants = data(fid, LockMode::ProtectedWrite).to_vec();
        b.send(&world, Opcode::LeaseRequest, 0, &wants, &[])
    });
    let wants = wants.collect();
    world.run();
    assert_eq!(world.stats.messages_waiting.get(), (ASKED - UNREAD_MAX) as u64);
    (world, a, b, wants)
}

/// It takes every callback, and then gives back what is asked.
fn give_all_back(world: &mut World, client: &mut Client) {
    let mut asked = Vec::new();
    while let Some(callback) = client.callback(world) {
        asked.push(LeaseRevoke::from_bytes(&callback.body).unwrap());
        world.run();
    }
    for revoke in &asked {
        client.give_back(world, revoke);
    }
}

#[test]
fn a_client_that_comes_back_has_its_answers_before_it_takes_callbacks() {
    let (mut world, mut a, _, wants) = asked_for_much(|_| ());
    world.lose_connection(a.connection);
    assert_eq!(world.stats.messages_waiting.get(), 0, "it is asked again over the next one");
    a.reconnect(&mut world);
    assert!(a.resumed);
    let rest = OstList { from: OstIndex(0) };
    let osts: OstListReply = a.call(&mut world, Opcode::OstList, &rest).body();
    assert_eq!(osts.osts.0.len(), 1);
    assert_eq!(a.reassert(&mut world, &nothing_held()), 0);
    assert!(a.callback(&world).is_none(), "nothing before it takes it");
    let ping = a.send(&world, Opcode::Ping, 0, &[], &[]);
    world.run();
    give_all_back(&mut world, &mut a);
    assert_eq!(ping.status(&world), 0);
    assert!(wants.iter().all(|wants| wants.status(&world) == 0));
    assert_eq!(world.stats.messages_waiting.get(), 0);
}

#[test]
fn a_client_may_be_slow_to_take_whatever_is_asked_of_it() {
    let (mut world, mut a, _, wants) = asked_for_much(|limits| {
        limits.backlog_per_connection_max = ASKED / 4;
    });
    let service = world.service.as_mut().unwrap();
    assert!(service.prepare_sleep(), "it keeps nobody awake");
    service.end_sleep();
    let pings: Vec<Sent> = (0..3).map(|_| a.send(&world, Opcode::Ping, 0, &[], &[])).collect();
    world.run();
    assert!(pings.iter().all(|ping| ping.reply(&world).is_none()), "in order");
    give_all_back(&mut world, &mut a);
    assert!(world.wire.borrow().closed.is_empty());
    assert!(pings.iter().chain(&wants).all(|sent| sent.status(&world) == 0));
    assert_eq!(world.stats.messages_waiting.get(), 0);
}

#[test]
fn the_connection_of_an_evicted_client_is_closed_though_it_takes_no_callbacks() {
    let (mut world, mut a, mut b, wants) = asked_for_much(|_| ());
    for _ in 0..6 {
        world.pass(Duration::from_secs(4));
        assert_eq!(b.call_empty(&mut world, Opcode::Ping).frame.status, 0);
    }
    assert_eq!(world.stats.evictions.get(), 1);
    assert_eq!(world.wire.borrow().closed, [a.connection], "it may wait for an answer");
    assert_eq!(world.stats.messages_waiting.get(), 0);
    world.pass(Duration::from_secs(2));
    assert!(wants.iter().all(|wants| wants.status(&world) == 0));
    a.client = ClientId(0);
    a.reconnect(&mut world);
    assert!(!a.resumed);
}

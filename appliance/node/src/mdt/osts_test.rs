//! What clients are told of the OSTs, however many, and which of them new objects go to.

use std::sync::Arc;

use sheen_meta::{Limits, State};
use sheen_types::{Fid, OstIndex};
use sheen_wire::{
    Opcode,
    metadata::{
        Connect, ConnectReply, InstantiateLayout, MakeRoom, OSTS_PER_REPLY, OstAddress, OstList,
        OstListReply,
    },
};

use super::{
    MdtLimits, MdtStats, MdtTimes, OstSpace,
    core::Mdt,
    test::unlink,
    test_support::{Client, World},
};
use crate::attach_secret::AttachSecret;

const OSTS_MAX: u32 = 65_536;

fn addresses(count: u32) -> Vec<OstAddress> {
    (0..count).map(|ost| OstAddress { ost: OstIndex(ost), service: 1 }).collect()
}

/// Connects and asks on until there is no more; returns what was told and in how many replies.
fn told(world: &mut World, client: &mut Client) -> (Vec<OstAddress>, usize) {
    client.connection = world.open_connection();
    let connect: Connect = client.connect_request();
    let first: ConnectReply = client.call(world, Opcode::Connect, &connect).body();
    let (mut osts, mut more, mut replies) = (first.osts.0, first.more_osts, 1);
    while more {
        let from = OstIndex(osts.last().unwrap().ost.0 + 1);
        let page: OstListReply = client.call(world, Opcode::OstList, &OstList { from }).body();
        osts.extend(page.osts.0);
        more = page.more;
        replies += 1;
    }
    (osts, replies)
}

#[test]
fn every_ost_is_told_up_to_the_most_there_may_be() {
    assert_eq!(Limits::OSTS_MAX, OSTS_MAX as usize);
    let mut world = World::new();
    let mut client = world.mount(1);
    let page = u32::try_from(OSTS_PER_REPLY).unwrap();
    for count in [0, 1, page, page + 1, 1000, OSTS_MAX] {
        world.service.as_mut().unwrap().core.osts = addresses(count);
        let (osts, replies) = told(&mut world, &mut client);
        assert_eq!(osts, addresses(count), "{count} OSTs");
        assert_eq!(replies, (count.div_ceil(page) as usize).max(1), "{count} OSTs");
    }
    let beyond = OstList { from: OstIndex(u32::MAX) };
    let page: OstListReply = client.call(&mut world, Opcode::OstList, &beyond).body();
    assert_eq!(page, OstListReply { osts: sheen_wire::fields::List(Vec::new()), more: false });
}

#[test]
fn an_ost_beyond_the_most_there_may_be_is_not_served() {
    let made = |osts| {
        let (limits, times) = (MdtLimits::default(), MdtTimes::default());
        let state = State::new(Limits::default());
        let state = (state, AttachSecret::new([0; 4]));
        Mdt::new(limits, times, ([0; 16], osts), state, Arc::new(MdtStats::default()), 0).osts
    };
    assert_eq!(made(addresses(OSTS_MAX)), addresses(OSTS_MAX));
    assert_eq!(made(addresses(OSTS_MAX + 1)), addresses(OSTS_MAX));
}

/// Where the first object of each new file lies.
fn place(world: &mut World, client: &mut Client, names: std::ops::Range<u32>) -> Vec<u32> {
    let made: Vec<Fid> = names
        .map(|number| client.create(world, &format!("file {number}")).attributes.fid)
        .collect();
    let state = &world.service.as_ref().unwrap().core.state;
    let first = |&fid| state.layout(fid).unwrap().components[0].objects[0].ost.0;
    made.iter().map(first).collect()
}

#[test]
fn new_files_keep_away_from_full_and_sick_osts_as_long_as_there_are_others() {
    let mut world = World::with_osts(3);
    let mut a = world.mount(1);
    let tick = std::time::Duration::from_secs(3);
    world.pass(tick);
    let mut places = place(&mut world, &mut a, 0..6);
    places.sort_unstable();
    assert_eq!(places, [0, 0, 1, 1, 2, 2]);
    let space = |free_bytes| Some(OstSpace { total_bytes: 1 << 40, free_bytes, removed_bytes: 0 });
    world.osts.borrow_mut().spaces.insert(OstIndex(1), space(1 << 20));
    world.pass(tick);
    assert!(!place(&mut world, &mut a, 6..16).contains(&1), "it is full");
    world.osts.borrow_mut().spaces.insert(OstIndex(0), None);
    world.pass(tick);
    assert_eq!(place(&mut world, &mut a, 16..20), [2; 4], "the only one that is well");
    world.osts.borrow_mut().spaces.insert(OstIndex(2), None);
    world.pass(tick);
    assert_eq!(place(&mut world, &mut a, 20..22), [1; 2], "an empty file fits everywhere");
    // What was chosen stands in the log: a restart comes to the same state.
    let layouts = |world: &World| {
        let core = &world.service.as_ref().unwrap().core;
        let page = core.state.read_directory(Fid::ROOT, 0, 100).unwrap();
        page.entries.iter().map(|entry| core.state.layout(entry.fid).unwrap()).collect::<Vec<_>>()
    };
    let before = layouts(&world);
    world.restart();
    assert_eq!(layouts(&world), before);
}

#[test]
fn stripes_lie_on_all_osts_that_are_well() {
    let mut world = World::with_osts(4);
    let mut a = world.mount(1);
    world.osts.borrow_mut().spaces.insert(OstIndex(3), None);
    world.pass(std::time::Duration::from_secs(3));
    let fid = a.create(&mut world, "file").attributes.fid;
    let request = InstantiateLayout { fid, start: 0, end: 200 << 20 };
    assert_eq!(a.call(&mut world, Opcode::InstantiateLayout, &request).frame.status, 0);
    let layout = world.service.as_ref().unwrap().core.state.layout(fid).unwrap();
    let mut osts: Vec<u32> = layout.components[1].objects.iter().map(|o| o.ost.0).collect();
    osts.sort_unstable();
    assert_eq!(osts, [0, 1, 2]);
}

/// Both have 12 MiB; what went from the second one, and lingers, held 48.
#[test]
fn a_file_goes_where_what_lingers_leaves_room() {
    let mut world = World::with_osts(2);
    let mut a = world.mount(1);
    let space = OstSpace { total_bytes: 80 << 20, free_bytes: 12 << 20, removed_bytes: 0 };
    for ost in [0, 1] {
        world.osts.borrow_mut().spaces.insert(OstIndex(ost), Some(space));
    }
    world.osts.borrow_mut().object_bytes = 48 << 20;
    world.pass(std::time::Duration::from_secs(2));
    let made = |world: &mut World, a: &mut Client, text: &str| {
        let fid = a.create(world, text).attributes.fid;
        let layout = world.service.as_ref().unwrap().core.state.layout(fid).unwrap();
        layout.components[0].objects[0].ost
    };
    let place = made(&mut world, &mut a, "gone");
    let gone = a.call(&mut world, Opcode::Unlink, &unlink("gone"));
    assert_eq!(gone.frame.status, 0);
    world.pass(std::time::Duration::from_millis(50));
    for number in 0..4 {
        assert_eq!(made(&mut world, &mut a, &format!("f{number}")), place, "{number}");
    }
}

/// Two OSTs of 80 MiB, both empty as they said last.
fn two_small(world: &mut World) {
    let space = OstSpace { total_bytes: 80 << 20, free_bytes: 80 << 20, removed_bytes: 0 };
    for ost in [0, 1] {
        world.osts.borrow_mut().spaces.insert(OstIndex(ost), Some(space));
    }
    world.pass(std::time::Duration::from_secs(2));
}

fn fill(world: &World, ost: u32) {
    let space = OstSpace { total_bytes: 80 << 20, free_bytes: 0, removed_bytes: 0 };
    world.osts.borrow_mut().spaces.insert(OstIndex(ost), Some(space));
}

#[test]
fn an_ost_that_had_no_room_for_a_client_gets_no_new_file_until_it_said_that_it_has() {
    let mut world = World::with_osts(2);
    let mut a = world.mount(1);
    two_small(&mut world);
    let no_room = MakeRoom { ost: OstIndex(0) };
    world.osts.borrow_mut().dead.insert(OstIndex(0));
    assert_eq!(a.call(&mut world, Opcode::MakeRoom, &no_room).frame.status, 0);
    assert_eq!(place(&mut world, &mut a, 0..4), [1; 4], "it has not answered");
    world.osts.borrow_mut().dead.clear();
    world.pass(std::time::Duration::from_millis(10));
    let mut places = place(&mut world, &mut a, 4..8);
    places.sort_unstable();
    assert_eq!(places, [0, 0, 1, 1], "it has room again");
    fill(&world, 0);
    assert_eq!(a.call(&mut world, Opcode::MakeRoom, &no_room).frame.status, 0);
    assert_eq!(place(&mut world, &mut a, 8..10), [1; 2]);
    world.pass(std::time::Duration::from_millis(10));
    assert_eq!(place(&mut world, &mut a, 10..14), [1; 4], "it is full");
}

/// What an answer tells that was on its way when a client found no room may be of before.
#[test]
fn an_answer_to_an_older_question_does_not_bring_an_ost_back() {
    let mut world = World::with_osts(2);
    let mut a = world.mount(1);
    two_small(&mut world);
    world.osts.borrow_mut().dead.insert(OstIndex(0));
    world.pass(std::time::Duration::from_millis(1100));
    assert_eq!(
        a.call(&mut world, Opcode::MakeRoom, &MakeRoom { ost: OstIndex(0) }).frame.status,
        0
    );
    let core = &mut world.service.as_mut().unwrap().core;
    let said = OstSpace { total_bytes: 80 << 20, free_bytes: 80 << 20, removed_bytes: 0 };
    core.learn_space(OstIndex(0), Some(said));
    assert_eq!(place(&mut world, &mut a, 0..4), [1; 4]);
    fill(&world, 0);
    world.osts.borrow_mut().dead.clear();
    world.pass(std::time::Duration::from_millis(10));
    assert_eq!(place(&mut world, &mut a, 4..8), [1; 4]);
}

#[test]
fn an_ost_that_may_be_filled_within_a_second_is_asked_when_files_are_placed_on_it() {
    let mut world = World::with_osts(2);
    let mut a = world.mount(1);
    two_small(&mut world);
    fill(&world, 0);
    place(&mut world, &mut a, 0..2);
    world.pass(std::time::Duration::from_millis(10));
    assert_eq!(place(&mut world, &mut a, 2..6), [1; 4]);
}

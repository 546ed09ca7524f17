//! Inodes that lost their last name stay for who uses them without an open, and never cost room that is wanted.

use std::time::Duration;

use sheen_types::{Errno, Fid, FileKind, OstIndex};
use sheen_wire::{
    Field, Opcode,
    lease::{LeaseRevoke, bits},
    metadata::{
        AttributesReply, Close, Create, EntryReply, GetAttributes, HeldOpen, Open, ReadDirectory,
        Reassert, Unlink,
    },
};

use super::{
    MdtLimits, OstJob, OstSpace,
    removal::RELEASING_MAX,
    test::{rename, status, unlink},
    test_support::{Client, World, nothing_held},
};

fn make(world: &mut World, client: &mut Client, text: &str, kind: FileKind) -> Fid {
    let request = Create { kind, ..client.create_request(Fid::ROOT, text) };
    client.call(world, Opcode::Create, &request).body::<EntryReply>().attributes.fid
}

fn rmdir(text: &str) -> Unlink {
    Unlink { directory: true, ..unlink(text) }
}

fn links(world: &mut World, client: &mut Client, fid: Fid) -> Result<u32, Errno> {
    let reply = client.call(world, Opcode::GetAttributes, &GetAttributes { fid });
    match reply.frame.status {
        0 => Ok(reply.body::<AttributesReply>().attributes.nlink),
        status => Err(Errno(-status)),
    }
}

fn destroys(world: &World) -> usize {
    let osts = world.osts.borrow();
    osts.jobs.iter().filter(|job| matches!(job, OstJob::Destroy { .. })).count()
}

fn give_all_back(world: &mut World, client: &mut Client) -> usize {
    let mut given = 0;
    while let Some(callback) = client.callback(world) {
        let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
        client.give_back(world, &revoke);
        given += 1;
    }
    given
}

#[test]
fn an_inode_that_lost_its_name_stays_a_while_and_its_remover_gives_nothing_back() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let file = make(&mut world, &mut a, "file", FileKind::Regular);
    let over = make(&mut world, &mut a, "over", FileKind::Regular);
    let fifo = make(&mut world, &mut a, "fifo", FileKind::Fifo);
    let directory = make(&mut world, &mut a, "directory", FileKind::Directory);
    make(&mut world, &mut a, "new", FileKind::Regular);
    assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink("file")), 0);
    assert_eq!(status(&mut a, &mut world, Opcode::Rename, &rename("new", "over")), 0);
    assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink("fifo")), 0);
    assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &rmdir("directory")), 0);
    world.pass(Duration::from_millis(1500));
    for fid in [file, over, fifo, directory] {
        assert_eq!(links(&mut world, &mut a, fid), Ok(0), "{fid}");
    }
    assert_eq!(destroys(&world), 0);
    world.pass(Duration::from_secs(1));
    for fid in [file, over, fifo, directory] {
        assert_eq!(links(&mut world, &mut a, fid), Err(Errno::ESTALE), "{fid}");
    }
    assert_eq!(give_all_back(&mut world, &mut a), 0);
    let destroyed = destroys(&world);
    assert!(destroyed > 0 && destroyed <= 2, "{destroyed}");
}

#[test]
fn what_is_opened_meanwhile_stays_until_its_close_and_a_while_longer() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let directory = make(&mut world, &mut a, "directory", FileKind::Directory);
    assert_eq!(links(&mut world, &mut b, directory), Ok(2));
    let gone = a.send(&world, Opcode::Unlink, 0, &rmdir("directory").to_vec(), &[]);
    world.run();
    let revoke = b.revoke(&world);
    assert_eq!((revoke.fid, revoke.bits & bits::LOOKUP), (directory, bits::LOOKUP));
    b.give_back(&mut world, &revoke);
    assert_eq!(gone.status(&world), 0);
    let open = Open { fid: directory, write: false, append: false };
    assert_eq!(status(&mut b, &mut world, Opcode::Open, &open), 0);
    world.pass(Duration::from_secs(10));
    assert_eq!(links(&mut world, &mut b, directory), Ok(0));
    let list = ReadDirectory { fid: directory, cookie: 0, plus: false };
    let listed = status(&mut b, &mut world, Opcode::ReadDirectory, &list);
    assert_eq!(listed, -Errno::ENOENT.0);
    let inside = b.create_request(directory, "inside").to_vec();
    let inside = b.send(&world, Opcode::Create, 0, &inside, &[]);
    world.run();
    give_all_back(&mut world, &mut a);
    assert_eq!(inside.status(&world), -Errno::ENOENT.0);
    let unnamed = Create { unnamed: true, ..b.create_request(directory, "inside") };
    assert_eq!(status(&mut b, &mut world, Opcode::Create, &unnamed), -Errno::EPERM.0);
    let close = Close { fid: directory, write_only: false };
    assert_eq!(status(&mut b, &mut world, Opcode::Close, &close), 0);
    world.pass(Duration::from_secs(1));
    assert_eq!(links(&mut world, &mut b, directory), Ok(0), "another may be about to open it");
    world.pass(Duration::from_secs(2));
    give_all_back(&mut world, &mut b);
    give_all_back(&mut world, &mut a);
    world.run();
    assert_eq!(links(&mut world, &mut b, directory), Err(Errno::ESTALE));
}

#[test]
fn who_opened_it_meanwhile_gives_content_back_first() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let file = make(&mut world, &mut a, "file", FileKind::Regular);
    assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink("file")), 0);
    let open = Open { fid: file, write: true, append: false };
    assert_eq!(status(&mut a, &mut world, Opcode::Open, &open), 0);
    let close = Close { fid: file, write_only: false };
    assert_eq!(status(&mut a, &mut world, Opcode::Close, &close), 0);
    world.pass(Duration::from_secs(3));
    assert_eq!(destroys(&world), 0, "it may have changes to send again");
    let revoke = a.revoke(&world);
    assert_eq!((revoke.fid, revoke.bits & bits::DATA), (file, bits::DATA));
    a.give_back(&mut world, &revoke);
    world.run();
    assert_eq!(destroys(&world), 1);
}

#[test]
fn nothing_lingers_while_inodes_are_short_and_what_does_goes_at_once() {
    let state_limits = sheen_meta::Limits { inodes_max: 32, ..sheen_meta::Limits::default() };
    let mut world = World::with(MdtLimits::default(), state_limits, 1);
    let mut a = world.mount(1);
    let early = make(&mut world, &mut a, "early", FileKind::Regular);
    assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink("early")), 0);
    assert_eq!(links(&mut world, &mut a, early), Ok(0));
    for number in 0..30 {
        make(&mut world, &mut a, &format!("f{number}"), FileKind::Regular);
    }
    assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink("f0")), 0);
    world.pass(Duration::from_millis(50));
    assert_eq!(links(&mut world, &mut a, early), Err(Errno::ESTALE));
    // The root, and 29 files.
    assert_eq!(world.stats.inodes.get(), 30);
}

#[test]
fn what_is_used_stays_also_while_an_ost_is_nearly_full() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let nearly_full = OstSpace { total_bytes: 1 << 40, free_bytes: 1 << 30, removed_bytes: 0 };
    world.osts.borrow_mut().spaces.insert(OstIndex(0), Some(nearly_full));
    world.pass(Duration::from_secs(3));
    let directory = make(&mut world, &mut a, "directory", FileKind::Directory);
    assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &rmdir("directory")), 0);
    world.pass(Duration::from_millis(50));
    assert_eq!(links(&mut world, &mut a, directory), Ok(0));
}

#[test]
fn the_oldest_go_when_too_many_linger() {
    let mut world = World::with_limits(MdtLimits { lingering_max: 3, ..MdtLimits::default() });
    let mut a = world.mount(1);
    let fids: Vec<Fid> = (0..5)
        .map(|number| {
            let text = format!("f{number}");
            let fid = make(&mut world, &mut a, &text, FileKind::Fifo);
            assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink(&text)), 0);
            fid
        })
        .collect();
    for (number, &fid) in fids.iter().enumerate() {
        let expected = if number < 2 { Err(Errno::ESTALE) } else { Ok(0) };
        assert_eq!(links(&mut world, &mut a, fid), expected, "{number}");
    }
    world.pass(Duration::from_millis(50));
    assert_eq!(world.stats.inodes_lingering.get(), 3);
}

#[test]
fn a_restart_keeps_what_is_asserted_as_open_and_leaks_nothing() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let kept = make(&mut world, &mut a, "kept", FileKind::Directory);
    let left = make(&mut world, &mut a, "left", FileKind::Fifo);
    assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &rmdir("kept")), 0);
    assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink("left")), 0);
    let open = Open { fid: kept, write: false, append: false };
    assert_eq!(status(&mut a, &mut world, Opcode::Open, &open), 0);
    world.restart();
    a.reconnect(&mut world);
    let held = Reassert {
        opens: sheen_wire::fields::List(vec![HeldOpen { fid: kept, write: false }]),
        ..nothing_held()
    };
    assert_eq!(a.reassert(&mut world, &held), 0);
    assert_eq!(links(&mut world, &mut a, left), Ok(0));
    world.pass(Duration::from_secs(10));
    give_all_back(&mut world, &mut a);
    world.run();
    assert_eq!(links(&mut world, &mut a, left), Err(Errno::ESTALE));
    assert_eq!(links(&mut world, &mut a, kept), Ok(0));
    // Its client goes.
    assert_eq!(a.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.stats.inodes.get(), 1, "the root");
}

/// Runs until nothing is left to do; the most inodes that went in one turn or were under way at its end.
fn most_releasing(world: &mut World) -> usize {
    let mut most = 0;
    for _ in 0..2000 {
        let inodes = |world: &World| world.service.as_ref().unwrap().core.state.inodes();
        let before = inodes(world);
        world.run_turns(1);
        let gone = usize::try_from(before - inodes(world)).unwrap();
        let under_way = world.service.as_ref().unwrap().core.background.releasing.len();
        most = most.max(gone).max(under_way);
    }
    most
}

/// More than goes at once.
const MANY: usize = 3 * RELEASING_MAX;

#[test]
fn what_a_start_finds_without_a_name_goes_a_bounded_number_at_a_time() {
    let mut world = World::new();
    let mut a = world.mount(1);
    for number in 0..MANY {
        let text = format!("f{number}");
        make(&mut world, &mut a, &text, FileKind::Fifo);
        assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink(&text)), 0);
    }
    world.restart();
    a.reconnect(&mut world);
    assert_eq!(a.reassert(&mut world, &nothing_held()), 0);
    world.pass(Duration::from_millis(100));
    assert_eq!(world.stats.inodes_lingering.get(), MANY as u64);
    world.clock.0.set(world.clock.0.get() + 6_000_000_000);
    let most = most_releasing(&mut world);
    assert!((1..=RELEASING_MAX).contains(&most), "{most} releases at once");
    world.pass(Duration::from_millis(100));
    assert_eq!(world.stats.inodes.get(), 1, "the root");
}

#[test]
fn what_an_ended_session_had_open_without_a_name_goes_a_bounded_number_at_a_time() {
    let mut world = World::new();
    let mut a = world.mount(1);
    for number in 0..MANY {
        let text = format!("f{number}");
        let fid = make(&mut world, &mut a, &text, FileKind::Fifo);
        let open = Open { fid, write: false, append: false };
        assert_eq!(status(&mut a, &mut world, Opcode::Open, &open), 0);
        assert_eq!(status(&mut a, &mut world, Opcode::Unlink, &unlink(&text)), 0);
    }
    world.pass(Duration::from_secs(6));
    assert_eq!(world.stats.inodes.get(), 1 + MANY as u64);
    a.send(&world, Opcode::Disconnect, 0, &[], &[]);
    let most = most_releasing(&mut world);
    assert!((1..=RELEASING_MAX).contains(&most), "{most} releases at once");
    world.pass(Duration::from_millis(100));
    assert_eq!(world.stats.inodes.get(), 1, "the root");
}

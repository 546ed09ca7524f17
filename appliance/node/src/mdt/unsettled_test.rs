//! After a restart: an OST that is stuck with sessions of which nobody knows what they held keeps what lies there, and nothing more.

use std::time::Duration;

use sheen_types::{Errno, Fid, OstIndex};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    lease::{LeaseReply, LeaseRevoke, LockMode, bits},
    metadata::{
        Close, EntryReply, FilesystemDelete, GetAttributes, HeldLease, HeldOpen, MakeRoom, Open,
        OpenReply, Reassert, set,
    },
};

use super::{
    OstJob,
    eviction_test::live,
    test::{data, lookup, status, unlink},
    test_support::{Client, Sent, World, nothing_held},
    waits_test::set_attributes,
};

const STUCK: OstIndex = OstIndex(1);

/// Where a file has its object.
fn place(world: &World, fid: Fid) -> OstIndex {
    let state = &world.service.as_ref().unwrap().core.state;
    state.layout(fid).unwrap().components[0].objects[0].ost
}

/// A system of two OSTs, two clients, and four files that lie on them in turn.
fn world() -> (World, Client, Client, [Fid; 4]) {
    let mut world = World::with_osts(2);
    let (mut a, b) = (world.mount(1), world.mount(2));
    let names = ["file 0", "file 1", "file 2", "file 3"];
    let fids = names.map(|name| a.create(&mut world, name).attributes.fid);
    assert_eq!(fids.map(|fid| place(&world, fid).0), [0, 1, 0, 1]);
    (world, a, b, fids)
}

fn stick(world: &World) {
    world.osts.borrow_mut().stuck.insert(STUCK);
}

fn release(world: &mut World) {
    world.osts.borrow_mut().stuck.clear();
    world.run();
}

fn come_back(client: &mut Client, world: &mut World, held: &Reassert) {
    client.reconnect(world);
    assert_eq!(client.reassert(world, held), 0);
}

fn ask(client: &mut Client, world: &mut World, fid: Fid, mode: LockMode) -> Sent {
    let wants = client.send(world, Opcode::LeaseRequest, 0, &data(fid, mode).to_vec(), &[]);
    world.run();
    wants
}

/// Gives everything back that a client is asked for.
fn give_all_back(client: &mut Client, world: &mut World) {
    while let Some(callback) = client.callback(world) {
        let revoke = LeaseRevoke::from_bytes(&callback.body).unwrap();
        client.give_back(world, &revoke);
    }
}

fn holding(fid: Fid) -> Reassert {
    let lease = HeldLease { fid, read_bits: bits::LOOKUP, write_bits: bits::DATA };
    Reassert { leases: List(vec![lease]), ..nothing_held() }
}

/// A file without a name that a client has open.
fn unnamed(client: &mut Client, world: &mut World) -> Fid {
    let mut request = client.create_request(Fid::ROOT, "unnamed");
    (request.unnamed, request.open) = (true, 2);
    client.call(world, Opcode::Create, &request).body::<EntryReply>().attributes.fid
}

fn exists(world: &World, fid: Fid) -> bool {
    world.service.as_ref().unwrap().core.state.attributes(fid).is_ok()
}

/// Nobody knows what it held: content that an OST may still change for it is kept from others, all else is served when grace ends.
#[test]
fn a_stuck_ost_keeps_only_what_lies_there_when_a_client_does_not_come_back() {
    let (mut world, _, mut b, fids) = world();
    world.restart();
    stick(&world);
    come_back(&mut b, &mut world, &nothing_held());
    let wants = fids.map(|fid| ask(&mut b, &mut world, fid, LockMode::ProtectedWrite));
    let found = b.send(&world, Opcode::Lookup, 1, &lookup("file 1").to_vec(), &[]);
    live(&mut world, &mut [&mut b], 20);
    assert!(found.reply(&world).is_none(), "who is missing may come back, with anything");
    live(&mut world, &mut [&mut b], 10);
    assert_eq!(world.stats.evictions.get(), 1);
    assert_eq!(found.status(&world), 0);
    assert_eq!((wants[0].status(&world), wants[2].status(&world)), (0, 0), "their OST has fenced");
    let made = b.create(&mut world, "new");
    assert!(made.lease.write_bits & bits::DATA != 0);
    let gone = b.send(&world, Opcode::Unlink, 2, &unlink("file 3").to_vec(), &[]);
    live(&mut world, &mut [&mut b], 60);
    assert!(wants[1].reply(&world).is_none(), "the OST may still write for who is gone");
    assert!(gone.reply(&world).is_none(), "and make an object anew");
    release(&mut world);
    assert_eq!([1, 3].map(|at| wants[at].status(&world)), [0, 0]);
    assert_eq!(gone.status(&world), 0);
    let core = &world.service.as_ref().unwrap().core;
    assert!(core.background.fencing.is_empty() && core.unsettled.osts().is_empty());
}

/// Sessions that ended before the restart may have something under way too.
#[test]
fn when_all_are_back_a_stuck_ost_keeps_only_content_that_nobody_holds() {
    let (mut world, mut a, mut b, fids) = world();
    stick(&world);
    world.restart();
    come_back(&mut a, &mut world, &holding(fids[1]));
    assert!(!world.service.as_ref().unwrap().is_serving(), "b is not back");
    come_back(&mut b, &mut world, &nothing_held());
    assert!(world.service.as_ref().unwrap().is_serving());
    let free = ask(&mut b, &mut world, fids[0], LockMode::ProtectedWrite);
    assert_eq!(free.status(&world), 0);
    // Of what lies on the stuck OST names and attributes are served, and content that is held: nobody else held it for writing.
    let chmod = set_attributes(fids[3], set::MODE);
    assert_eq!(status(&mut a, &mut world, Opcode::SetAttributes, &chmod), 0);
    let own = ask(&mut a, &mut world, fids[1], LockMode::ProtectedWrite);
    assert_eq!(own.status(&world), 0);
    let reads = ask(&mut b, &mut world, fids[1], LockMode::ProtectedRead);
    give_all_back(&mut a, &mut world);
    let reply: LeaseReply = reads.reply(&world).unwrap().body();
    assert!(reply.lease.read_bits & bits::DATA != 0, "beside who went on to read");
    let open = Open { fid: fids[3], write: true, append: false };
    let open: OpenReply = b.call(&mut world, Opcode::Open, &open).body();
    assert_eq!((open.lease.read_bits | open.lease.write_bits) & bits::DATA, 0);
    let wants = ask(&mut b, &mut world, fids[3], LockMode::ProtectedRead);
    let cut = set_attributes(fids[3], set::SIZE).to_vec();
    let cut = a.send(&world, Opcode::SetAttributes, 2, &cut, &[]);
    world.run();
    give_all_back(&mut b, &mut world);
    live(&mut world, &mut [&mut a, &mut b], 60);
    assert!(wants.reply(&world).is_none() && cut.reply(&world).is_none());
    release(&mut world);
    assert_eq!(wants.status(&world), 0);
    give_all_back(&mut b, &mut world);
    assert_eq!(cut.status(&world), 0);
}

/// The answer was lost, and another client has had the content since.
#[test]
fn a_create_sent_again_is_answered_without_content_that_is_withheld() {
    let (mut world, mut a, mut b, _) = world();
    a.create(&mut world, "on the other one");
    let request = b.create_request(Fid::ROOT, "again").to_vec();
    let sent = b.send(&world, Opcode::Create, 3, &request, &[]);
    world.run();
    give_all_back(&mut a, &mut world);
    let made: EntryReply = sent.reply(&world).unwrap().body();
    let fid = made.attributes.fid;
    assert_eq!(place(&world, fid), STUCK);
    ask(&mut a, &mut world, fid, LockMode::ProtectedWrite);
    give_all_back(&mut b, &mut world);
    world.restart();
    stick(&world);
    come_back(&mut b, &mut world, &nothing_held());
    live(&mut world, &mut [&mut b], 30);
    let again = b.send_as(&world, Opcode::Create, 3, sent.xid, &request, &[]);
    world.run();
    let again: EntryReply = again.reply(&world).unwrap().body();
    assert_eq!((again.lease.read_bits | again.lease.write_bits) & bits::DATA, 0);
    let wants = ask(&mut b, &mut world, fid, LockMode::ProtectedWrite);
    assert!(wants.reply(&world).is_none());
    release(&mut world);
    assert_eq!(wants.status(&world), 0);
}

/// A write that comes later would make an object anew.
#[test]
fn a_stuck_ost_destroys_nothing_after_a_restart_and_others_do() {
    let (mut world, mut a, _, _) = world();
    let orphans = [0; 2].map(|_| unnamed(&mut a, &mut world));
    assert_eq!(orphans.map(|fid| place(&world, fid).0), [0, 1]);
    stick(&world);
    world.restart();
    let open = |fid| HeldOpen { fid, write: true };
    let held = Reassert { opens: List(orphans.map(open).to_vec()), ..nothing_held() };
    come_back(&mut a, &mut world, &held);
    let mut b = world.client(b"fs", 2);
    come_back(&mut b, &mut world, &nothing_held());
    let used = GetAttributes { fid: orphans[0] };
    assert_eq!(status(&mut a, &mut world, Opcode::GetAttributes, &used), 0);
    world.lose_connection(a.connection);
    live(&mut world, &mut [&mut b], 40);
    assert_eq!(status(&mut b, &mut world, Opcode::GetAttributes, &used), -Errno::ESTALE.0);
    assert!(exists(&world, orphans[1]));
    let room = |world: &mut World, b: &mut Client, ost| {
        let wanted = b.send(world, Opcode::MakeRoom, 4, &MakeRoom { ost }.to_vec(), &[]);
        world.pass(Duration::from_millis(100));
        wanted.status(world)
    };
    assert_eq!(room(&mut world, &mut b, STUCK), -Errno::EBUSY.0, "what is to come is not known");
    assert_eq!(room(&mut world, &mut b, OstIndex(0)), 0);
    let destroys = |world: &World| {
        let osts = world.osts.borrow();
        let of = |job: &OstJob| match job {
            OstJob::Destroy { ost, .. } => Some(ost.0),
            _ => None,
        };
        osts.jobs.iter().filter_map(of).collect::<Vec<_>>()
    };
    assert_eq!(destroys(&world), [0]);
    release(&mut world);
    assert_eq!(room(&mut world, &mut b, STUCK), 0);
    assert!(!exists(&world, orphans[1]));
    assert_eq!(destroys(&world), [0, 1]);
}

#[test]
fn a_file_system_whose_deletion_a_restart_broke_off_goes_when_every_ost_is_done_with_its_clients() {
    let (mut world, _, _, fids) = world();
    stick(&world);
    let mut admin = world.connect(b"", 0);
    let delete = FilesystemDelete { name: b"fs".to_vec(), force: true };
    assert_eq!(status(&mut admin, &mut world, Opcode::FilesystemDelete, &delete), 0);
    assert!(exists(&world, fids[0]));
    world.restart();
    world.pass(Duration::from_secs(30));
    assert!(world.service.as_ref().unwrap().is_serving());
    assert!(fids.iter().all(|&fid| exists(&world, fid)));
    release(&mut world);
    assert!(!fids.iter().any(|&fid| exists(&world, fid)));
}

/// Who has it open too may not be back yet.
#[test]
fn what_a_client_had_open_without_a_name_outlives_the_end_of_its_session_in_grace() {
    let (mut world, mut a, mut b, _) = world();
    let fid = unnamed(&mut a, &mut world);
    let open = Open { fid, write: false, append: false };
    assert_eq!(status(&mut b, &mut world, Opcode::Open, &open), 0);
    world.restart();
    let held = |write| Reassert { opens: List(vec![HeldOpen { fid, write }]), ..nothing_held() };
    come_back(&mut a, &mut world, &held(true));
    assert_eq!(a.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
    world.pass(Duration::from_secs(1));
    come_back(&mut b, &mut world, &held(false));
    assert!(exists(&world, fid));
    let close = Close { fid, write_only: false };
    assert_eq!(status(&mut b, &mut world, Opcode::Close, &close), 0);
    live(&mut world, &mut [&mut b], 10);
    assert!(!exists(&world, fid), "nobody has it open any more");
}

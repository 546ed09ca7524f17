//! Payloads of requests: whose are fetched, how many bytes of them, and that the log does not wait for them.

use sheen_ports::FabricEvent;
use sheen_types::{Errno, Fid};
use sheen_wire::{
    Field, Opcode,
    fields::List,
    flock::{FileLock, LockFamily, LockSet, LockType},
    lease::bits,
    metadata::{HeldLease, ListXattr, ReadDirectory, Reassert, SetXattr},
};

use super::{
    test_ports::Wire,
    test_support::{Client, Sent, World, name, nothing_held},
};

fn set_xattr(world: &World, client: &mut Client, fid: Fid, tag: u16, bytes: usize) -> Sent {
    let request = SetXattr { fid, name: name("user.x").into(), flags: 0, kill_sgid: false };
    client.send(world, Opcode::SetXattr, tag, &request.to_vec(), &vec![7; bytes])
}

fn held_bytes(world: &World) -> usize {
    world.service.as_ref().unwrap().core.held_bytes
}

#[test]
fn no_payload_is_fetched_before_the_session_is_known() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let fid = a.create(&mut world, "file").attributes.fid;
    let mut stranger = world.client(b"fs", 2);
    stranger.connection = world.open_connection();
    // Of nobody, and of somebody else's session.
    for client in [stranger.client, a.client] {
        stranger.client = client;
        let sent = set_xattr(&world, &mut stranger, fid, 0, 1000);
        world.run();
        assert_eq!(sent.status(&world), -Errno::ENOTCONN.0);
    }
    assert_eq!(world.wire.borrow().offered.len(), 2, "nobody waited for it");
    // Nor while the log is read: nobody has a session then.
    world.stalled.set(true);
    world.service = None;
    *world.wire.borrow_mut() = Wire::default();
    world.start();
    a.connection = world.open_connection();
    let held = nothing_held().to_vec();
    let sent = a.send(&world, Opcode::Reassert, 0, &[], &held);
    world.run();
    assert_eq!((sent.status(&world), held_bytes(&world)), (-Errno::ENOTCONN.0, 0));
    world.stalled.set(false);
    a.reconnect(&mut world);
    assert_eq!(a.reassert(&mut world, &nothing_held()), 0);
}

#[test]
fn the_log_waits_for_no_payload() {
    let mut world = World::new();
    let mut others: Vec<Client> = (2..14).map(|number| world.mount(number)).collect();
    let mut a = world.mount(1);
    let fid = a.create(&mut world, "file").attributes.fid;
    world.wire.borrow_mut().hold_pulls = true;
    for other in &mut others {
        for tag in 0..16 {
            set_xattr(&world, other, fid, tag, 64 << 10);
        }
    }
    world.run();
    assert!(world.wire.borrow().pulling.len() >= 128, "all there is for payloads is taken");
    a.create(&mut world, "another");
}

/// What a client held, in some 50 KiB.
fn large_list(fid: Fid) -> Reassert {
    let held = HeldLease { fid, read_bits: 0, write_bits: bits::DATA };
    Reassert { leases: List(vec![held; 2000]), complete: false, ..nothing_held() }
}

#[test]
fn one_client_leaves_room_for_payloads_of_others() {
    let mut world = World::new();
    world.limits.payload_bytes_max = 256 << 10;
    let mut a = world.mount(1);
    let mut b = world.mount(2);
    let fid = a.create(&mut world, "file").attributes.fid;
    world.restart();
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    b.reconnect(&mut world);
    b.reassert(&mut world, &nothing_held());
    world.wire.borrow_mut().hold_pulls = true;
    let sent: Vec<Sent> = (0..7).map(|tag| set_xattr(&world, &mut a, fid, tag, 32 << 10)).collect();
    world.run();
    let refused = sent.iter().filter_map(|sent| sent.reply(&world));
    assert!(refused.map(|reply| reply.frame.status).eq([-Errno::EAGAIN.0; 3]), "half is its own");
    assert_eq!(held_bytes(&world), 128 << 10);
    let other = set_xattr(&world, &mut b, fid, 0, 64 << 10);
    world.run();
    assert!(other.reply(&world).is_none(), "it is fetched");
}

#[test]
fn sessions_opened_in_grace_take_no_room_from_those_that_come_back() {
    let mut world = World::new();
    world.limits.payload_bytes_max = 256 << 10;
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    world.restart();
    b.reconnect(&mut world);
    let mut new: Vec<Client> = (3..20).map(|number| world.connect(b"fs", number)).collect();
    world.wire.borrow_mut().hold_pulls = true;
    for client in &mut new {
        for tag in 0..8 {
            let sent = set_xattr(&world, client, fid, tag, 4 << 10);
            let list = large_list(fid).to_vec();
            let asserted = client.send(&world, Opcode::Reassert, 0, &[], &list);
            world.run();
            assert_eq!(sent.status(&world), -Errno::EAGAIN.0, "before it is fetched");
            assert_eq!(asserted.status(&world), 0, "nothing is fetched");
        }
    }
    // One that was there before takes its time.
    b.send(&world, Opcode::Reassert, 0, &[], &large_list(fid).to_vec());
    world.run();
    assert_eq!(world.wire.borrow().pulling.len(), 1);
    world.wire.borrow_mut().hold_pulls = false;
    a.reconnect(&mut world);
    assert_eq!(a.reassert(&mut world, &large_list(fid)), 0);
}

#[test]
fn nothing_is_asserted_by_who_held_nothing() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    let lock = FileLock {
        fid,
        family: LockFamily::Posix,
        kind: LockType::Write,
        owner: 1,
        pid: 1,
        start: 0,
        end: 9,
    };
    let held = Reassert { locks: List(vec![lock.clone()]), ..nothing_held() };
    assert_eq!(b.reassert(&mut world, &held), 0);
    let wants = LockSet { lock: lock.clone(), wait: false };
    assert_eq!(a.call(&mut world, Opcode::LockSet, &wants).frame.status, 0, "it is free");
    world.restart();
    a.reconnect(&mut world);
    let mut new = world.connect(b"fs", 3);
    assert_eq!(new.reassert(&mut world, &held), 0);
    assert_eq!(a.reassert(&mut world, &held), 0, "what was held");
    // The answer may have been lost: it says so again.
    assert_eq!(a.reassert(&mut world, &held), 0);
    b.reconnect(&mut world);
    b.reassert(&mut world, &nothing_held());
    assert_eq!(b.call(&mut world, Opcode::LockSet, &wants).frame.status, -Errno::EAGAIN.0);
}

#[test]
fn a_payload_that_does_not_come_or_comes_damaged_is_counted_no_more() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let fid = a.create(&mut world, "file").attributes.fid;
    world.wire.borrow_mut().hold_pulls = true;
    let sent = [0, 1].map(|tag| set_xattr(&world, &mut a, fid, tag, 1000));
    world.run();
    assert_eq!(held_bytes(&world), 2000);
    let pulls = std::mem::take(&mut world.wire.borrow_mut().pulling);
    for ((_, token, buffer), result) in
        pulls.into_iter().zip([Ok(()), Err(sheen_ports::NotifyError::Closed)])
    {
        world.wire.borrow_mut().events.push_back(FabricEvent::Pulled { token, buffer, result });
    }
    world.run();
    assert_eq!(sent.map(|sent| sent.status(&world)), [-Errno::EIO.0, -Errno::ENOTCONN.0]);
    assert_eq!(held_bytes(&world), 0);
}

#[test]
fn a_payload_is_no_longer_than_its_request_may_have() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let fid = a.create(&mut world, "file").attributes.fid;
    let sent = set_xattr(&world, &mut a, fid, 0, (64 << 10) + 1);
    world.run();
    assert_eq!(sent.status(&world), -Errno::E2BIG.0);
    let sent = set_xattr(&world, &mut a, fid, 0, 64 << 10);
    world.run();
    assert_eq!(sent.status(&world), 0);
    let create = a.create_request(Fid::ROOT, "link");
    let mut send = |world: &mut World, bytes: usize| {
        let sent = a.send(world, Opcode::Create, 0, &create.to_vec(), &vec![b'x'; bytes]);
        world.run();
        sent.status(world)
    };
    assert_eq!(send(&mut world, 4097), -Errno::E2BIG.0);
}

#[test]
fn replies_that_are_not_taken_are_within_the_buffers() {
    const BUFFERS: usize = 8 << 20;
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    for number in 0..4000 {
        let long = format!("{number:0>240}");
        let request = a.create_request(Fid::ROOT, &long);
        a.send(&world, Opcode::Create, 0, &request.to_vec(), &[]);
        world.run();
    }
    let page = ReadDirectory { fid: Fid::ROOT, cookie: 0, plus: false };
    let mut greedy: Vec<Client> = (3..8).map(|number| world.mount(number)).collect();
    let deaf = greedy.iter().map(|client| client.connection).collect();
    world.wire.borrow_mut().deaf = deaf;
    let kept = |world: &World| -> usize {
        world.wire.borrow().unsent.iter().map(|(_, buffer)| buffer.len()).sum()
    };
    for client in &mut greedy {
        let sent: Vec<Sent> = (0..40)
            .map(|_| client.send(&world, Opcode::ReadDirectory, 0, &page.to_vec(), &[]))
            .collect();
        world.run();
        let refused = sent.iter().filter(|sent| sent.status(&world) == -Errno::EAGAIN.0).count();
        assert!(refused >= 35, "{} were served", 40 - refused);
    }
    assert!((BUFFERS / 2..=BUFFERS).contains(&kept(&world)), "{} bytes are kept", kept(&world));
    let value = a.call(&mut world, Opcode::ListXattr, &ListXattr { fid: Fid::ROOT });
    assert_eq!(value.frame.status, 0, "others find some");
    // Taken or given up, there is room again.
    let taken = std::mem::take(&mut world.wire.borrow_mut().unsent);
    for (connection, buffer) in taken {
        world.wire.borrow_mut().events.push_back(FabricEvent::Sent { connection, buffer });
    }
    world.run();
    let page = b.call(&mut world, Opcode::ReadDirectory, &page);
    assert_eq!(page.frame.status, 0);
    assert_eq!(world.service.as_ref().unwrap().core.replying.total(), 0);
}

//! Identities as others see them, and what an operator's change does to sessions.

use std::sync::mpsc::{Receiver, sync_channel};

use sheen_meta::{
    Operation, Reply, SessionPrincipal,
    identity::{CertificateName, IdentityRights, Mapping, PutIdentity, RevokeIdentity},
};
use sheen_types::{Errno, OstIndex};
use sheen_wire::{Field, Opcode, fields::List, lease::LockMode, metadata::SequenceGrantReply};

use super::{
    NotAdmitted, OstJob,
    test::data,
    test_support::{Client, World},
};

const CERTIFICATE: [u8; 32] = [7; 32];

fn put(number: u32, read_only: bool) -> Operation {
    Operation::IdentityPut(PutIdentity {
        number,
        name: b"web1".to_vec(),
        rights: IdentityRights {
            every_filesystem: true,
            filesystems: List(vec![]),
            mapping: Mapping::Trusted,
            read_only,
            networks: List(vec![]),
            exempt_networks: List(vec![]),
            sessions_max: 4,
        },
        certificates: List(vec![CertificateName { fingerprint: CERTIFICATE, not_after: 1000 }]),
    })
}

fn revoke() -> Operation {
    Operation::IdentityRevoke(RevokeIdentity { name: b"web1".to_vec() })
}

fn order(world: &mut World, change: Option<Operation>) -> Receiver<Result<Reply, Errno>> {
    let (end, told) = sync_channel(1);
    world.service.as_mut().unwrap().order_identities(change, end);
    told
}

/// Orders a change and turns until it is told what became of it.
fn ordered(world: &mut World, change: Operation) -> Result<Reply, Errno> {
    let told = order(world, Some(change));
    world.run();
    told.try_recv().unwrap()
}

fn admit(world: &World) -> Result<SessionPrincipal, NotAdmitted> {
    let table = world.service.as_ref().unwrap().identities().newest();
    table.admit(&CERTIFICATE, [0; 16], 1000).map(|admitted| admitted.principal)
}

/// A client of file system "fs" that came under identity 1.
fn mount_as_identity(world: &mut World, number: u8) -> Client {
    let mut client = world.client(b"fs", number.into());
    client.connection = world.open_connection();
    world.run();
    let connections = &mut world.service.as_mut().unwrap().core.connections;
    let opened = connections.get_mut(&client.connection).expect("open");
    opened.principal = SessionPrincipal::Identity { number: 1 };
    let connect = client.connect_request().to_vec();
    let sent = client.send(world, Opcode::Connect, 0, &connect, &[]);
    world.run();
    client.connected(world, sent);
    client
}

#[test]
fn a_change_is_seen_by_others_before_its_end_is_told_and_after_a_restart() {
    let mut world = World::new();
    assert_eq!(admit(&world), Err(NotAdmitted::Unknown));
    assert_eq!(ordered(&mut world, put(0, false)), Ok(Reply::Done));
    assert_eq!(admit(&world), Ok(SessionPrincipal::Identity { number: 1 }));
    assert_eq!(ordered(&mut world, put(0, false)), Err(Errno::EEXIST));
    world.restart();
    assert_eq!(admit(&world), Ok(SessionPrincipal::Identity { number: 1 }));
    assert_eq!(ordered(&mut world, revoke()), Ok(Reply::Done));
    assert_eq!(admit(&world), Err(NotAdmitted::Unknown));
    // Without a change: names of file systems and counts of sessions as they are now.
    world.mount(1);
    let told = order(&mut world, None);
    assert_eq!(told.try_recv(), Ok(Ok(Reply::Done)));
    let table = world.service.as_ref().unwrap().identities().newest();
    assert_eq!(table.filesystems(), [(1, b"fs".to_vec())]);
    assert_eq!(table.identities().len(), 1);
}

#[test]
fn an_order_that_comes_before_the_service_leads_is_told_so() {
    let mut world = World::new();
    world.service = None;
    world.start();
    let told = order(&mut world, Some(put(0, false)));
    assert_eq!(told.try_recv(), Ok(Err(Errno::EAGAIN)));
}

#[test]
fn who_is_revoked_is_told_and_the_osts_and_what_it_held_is_free_when_they_fenced_it() {
    let mut world = World::with_osts(2);
    assert_eq!(ordered(&mut world, put(0, false)), Ok(Reply::Done));
    let mut a = mount_as_identity(&mut world, 1);
    let granted = a.call_empty(&mut world, Opcode::SequenceGrant);
    a.sequence = granted.body::<SequenceGrantReply>().sequence;
    let mut b = world.mount(2);
    let fids = ["first", "second"].map(|file| a.create(&mut world, file).attributes.fid);
    world.osts.borrow_mut().stuck.insert(OstIndex(1));
    assert_eq!(ordered(&mut world, revoke()), Ok(Reply::Done));
    let dismissed = world
        .osts
        .borrow()
        .jobs
        .iter()
        .any(|job| matches!(job, OstJob::Dismiss { client, .. } if *client == a.client));
    assert!(dismissed);
    let told = a.callback(&world).expect("told");
    assert_eq!(told.frame.opcode, Opcode::Evicted);
    let refused = a.send(&world, Opcode::Ping, 0, &[], &[]);
    let wants = fids.map(|fid| {
        let wants = data(fid, LockMode::ProtectedWrite).to_vec();
        b.send(&world, Opcode::LeaseRequest, 0, &wants, &[])
    });
    world.run();
    assert!(refused.reply(&world).is_none_or(|reply| reply.frame.status != 0));
    assert_eq!(wants[0].status(&world), 0, "its OST has fenced");
    assert!(wants[1].reply(&world).is_none(), "the OST may still write for who was revoked");
    world.osts.borrow_mut().stuck.clear();
    world.run();
    assert_eq!(wants[1].status(&world), 0);
    let core = &world.service.as_ref().unwrap().core;
    assert_eq!((core.sessions.len(), core.background.fences), (1, 0));
}

#[test]
fn a_client_that_may_do_less_loses_its_sessions_and_one_that_may_do_more_keeps_them() {
    let mut world = World::new();
    assert_eq!(ordered(&mut world, put(0, true)), Ok(Reply::Done));
    let mut a = mount_as_identity(&mut world, 1);
    assert_eq!(ordered(&mut world, put(1, false)), Ok(Reply::Done));
    assert_eq!(a.call_empty(&mut world, Opcode::Ping).frame.status, 0);
    assert_eq!(ordered(&mut world, put(1, true)), Ok(Reply::Done));
    assert_eq!(a.callback(&world).map(|it| it.frame.opcode), Some(Opcode::Evicted));
    assert!(world.service.as_ref().unwrap().core.sessions.is_empty());
}

//! What the OSTs are told of sessions.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sheen_ports::Principal;
use sheen_types::{ClientId, Errno};
use sheen_wire::{
    Field, Opcode,
    lease::LockMode,
    metadata::{Connect, ConnectReply},
};

use super::{
    OstJob,
    gateway::{AdmittedSession, ObjectAccess, SessionList, SessionPrincipal},
    test::data,
    test_support::{Client, World, nothing_held},
};

/// The last list the OSTs were told whole.
fn last_list(world: &World) -> Arc<SessionList> {
    let osts = world.osts.borrow();
    let mut lists = osts.jobs.iter().rev().filter_map(|job| match job {
        OstJob::Sessions(list) => Some(list.clone()),
        _ => None,
    });
    lists.next().expect("told at the start")
}

fn clients(list: &SessionList) -> Vec<ClientId> {
    list.sessions.iter().map(|session| session.client).collect()
}

fn connect(client: &mut Client, world: &mut World, principal: Principal) -> (i32, Vec<u8>) {
    client.connection = world.open_connection_of(principal);
    let request: Connect = client.connect_request();
    let reply = client.call(world, Opcode::Connect, &request);
    (reply.frame.status, reply.body)
}

#[test]
fn a_session_is_told_before_its_client_hears_of_it_and_no_answer_is_waited_for() {
    let mut world = World::new();
    world.osts.borrow_mut().stalled = true;
    let mut a = world.client(b"fs", 1);
    for epoch in 1..4 {
        let (status, body) = connect(&mut a, &mut world, Principal::Owner);
        assert_eq!(status, 0);
        let reply = ConnectReply::from_bytes(&body).unwrap();
        a.client = reply.client;
        assert_eq!(reply.epoch.0, epoch);
        let session = AdmittedSession {
            client: reply.client,
            epoch: reply.epoch,
            principal: SessionPrincipal::Owner,
            connected: true,
            objects: ObjectAccess { filesystem: 1, read_only: false, unlabelled: true },
        };
        let told = world.osts.borrow().jobs.last().cloned();
        assert!(
            matches!(told, Some(OstJob::Admit { session: told, .. }) if told == session),
            "{told:?}"
        );
        assert!(last_list(&world).secret.proves(&reply.attach_key, &session));
    }
}

#[test]
fn every_change_has_the_next_number() {
    let mut world = World::new();
    let first = last_list(&world).version;
    let mut a = world.mount(1);
    a.call_empty(&mut world, Opcode::Disconnect);
    let b = world.connect(b"", 2);
    let osts = world.osts.borrow();
    let changes: Vec<_> = osts
        .jobs
        .iter()
        .filter_map(|job| match *job {
            OstJob::Admit { version, session } => Some((version, session.client, true)),
            OstJob::Dismiss { version, client } => Some((version, client, false)),
            _ => None,
        })
        .collect();
    let mut version = first;
    for (next, _, _) in &changes {
        assert_eq!(*next, version.next());
        version = *next;
    }
    let last: Vec<_> = changes.iter().rev().map(|&(_, client, lives)| (client, lives)).collect();
    assert_eq!(last[..3], [(b.client, true), (a.client, false), (a.client, true)]);
}

#[test]
fn what_a_service_missed_is_made_up_for_by_the_whole_list() {
    let mut world = World::new();
    let a = world.mount(1);
    world.osts.borrow_mut().failures = 1;
    let b = world.mount(2);
    assert!(!clients(&last_list(&world)).contains(&b.client));
    let c = world.mount(3);
    world.pass(Duration::from_millis(100));
    assert_eq!(clients(&last_list(&world)), [a.client, b.client, c.client]);
    let version = last_list(&world).version;
    let d = world.mount(4);
    let told = world.osts.borrow().jobs.last().cloned();
    let Some(OstJob::Admit { version: next, session }) = told else { panic!("{told:?}") };
    assert_eq!((next, session.client), (version.next(), d.client));
}

/// A list that comes late must not be taken for the one that is there.
#[test]
fn lists_with_one_number_are_the_same() {
    let mut world = World::new();
    let mut a = world.mount(1);
    world.osts.borrow_mut().failures = 20;
    for number in 2..6 {
        world.connect(b"fs", number);
        world.pass(Duration::from_millis(100));
    }
    world.osts.borrow_mut().failures = 0;
    a.call_empty(&mut world, Opcode::Disconnect);
    world.pass(Duration::from_millis(100));
    let osts = world.osts.borrow();
    let mut version = None;
    let mut sessions = BTreeSet::new();
    let mut lists = 0;
    for job in &osts.jobs {
        match job {
            OstJob::Sessions(list) => {
                let is_first = version.is_none();
                version = version.max(Some(list.version));
                assert_eq!(version, Some(list.version), "the number of the last change");
                if is_first {
                    sessions = clients(list).into_iter().collect();
                }
                assert!(clients(list).into_iter().eq(sessions.iter().copied()), "what was told");
                lists += 1;
            }
            OstJob::Admit { version: next, session } => {
                assert_eq!(Some(*next), version.map(super::gateway::ListVersion::next));
                version = Some(*next);
                sessions.insert(session.client);
            }
            OstJob::Dismiss { version: next, client } => {
                assert_eq!(Some(*next), version.map(super::gateway::ListVersion::next));
                version = Some(*next);
                sessions.remove(client);
            }
            OstJob::Drain { .. } | OstJob::Destroy { .. } | OstJob::Space { .. } => {}
        }
    }
    assert!(lists > 4, "{lists}");
}

#[test]
fn a_dismissal_that_was_missed_is_told_again_and_waited_for() {
    let mut world = World::new();
    let (mut a, mut b) = (world.mount(1), world.mount(2));
    let fid = a.create(&mut world, "file").attributes.fid;
    // Nobody ever does what is asked: the dismissal, the list and the dismissal behind it, time and again.
    world.osts.borrow_mut().failures = u32::MAX;
    world.lose_connection(a.connection);
    let wants = data(fid, LockMode::ProtectedWrite).to_vec();
    let wants = b.send(&world, Opcode::LeaseRequest, 0, &wants, &[]);
    for _ in 0..3 {
        world.pass(Duration::from_secs(5));
        b.call_empty(&mut world, Opcode::Ping);
    }
    assert_eq!(world.stats.evictions.get(), 1);
    assert!(!clients(&last_list(&world)).contains(&a.client));
    world.osts.borrow_mut().failures = 0;
    world.osts.borrow_mut().stuck.insert(sheen_types::OstIndex(0));
    world.pass(Duration::from_secs(1));
    assert!(wants.reply(&world).is_none(), "a request of it is under way at the OST");
    world.osts.borrow_mut().stuck.clear();
    world.run();
    assert_eq!(wants.status(&world), 0);
}

#[test]
fn a_service_that_begins_anew_is_told_who_lives() {
    let mut world = World::new();
    let (a, mut b) = (world.mount(1), world.mount(2));
    b.reconnect(&mut world);
    let gone = world.mount(3);
    world.lose_connection(gone.connection);
    world.osts.borrow_mut().list_wanted = true;
    world.pass(Duration::from_millis(100));
    let list = last_list(&world);
    let session = |client: &Client| AdmittedSession {
        client: client.client,
        epoch: client.epoch,
        principal: SessionPrincipal::Owner,
        connected: true,
        objects: ObjectAccess { filesystem: 1, read_only: false, unlabelled: true },
    };
    assert_eq!(list.sessions, [session(&a), session(&b), session(&gone)]);
    assert_eq!(list.highest, gone.client);
}

#[test]
fn after_a_restart_nobody_attaches_who_has_not_connected() {
    let mut world = World::new();
    let (mut a, b) = (world.mount(1), world.mount(2));
    let before = last_list(&world);
    world.restart();
    let list = last_list(&world);
    assert!(list.version > before.version);
    assert_eq!(clients(&list), [a.client, b.client]);
    assert!(list.sessions.iter().all(|session| !session.connected));
    assert!(list.sessions.iter().all(|it| it.principal == SessionPrincipal::Owner), "it is known");
    a.reconnect(&mut world);
    a.reassert(&mut world, &nothing_held());
    world.osts.borrow_mut().list_wanted = true;
    world.pass(Duration::from_millis(100));
    let known: Vec<_> =
        last_list(&world).sessions.iter().map(|session| session.connected).collect();
    assert_eq!(known, [true, false]);
}

#[test]
fn a_session_is_taken_up_again_by_who_opened_it_alone() {
    let mut world = World::new();
    let mut a = world.mount(1);
    let served = a.connection;
    let thief = connect(&mut a, &mut world, Principal::User { uid: 1000 });
    assert_eq!(thief, (-Errno::EACCES.0, Vec::new()));
    a.connection = served;
    assert_eq!(a.call_empty(&mut world, Opcode::Ping).frame.status, 0, "it is none the worse");
    a.reconnect(&mut world);
    assert!(a.resumed);
}

#[test]
fn sessions_that_come_and_go_leave_nothing() {
    let mut world = World::new();
    let mut a = world.mount(1);
    for number in 0..1000 {
        let mut short = world.connect(b"", 2);
        assert_eq!(short.client, ClientId(a.client.0 + 1 + number));
        assert_eq!(short.call_empty(&mut world, Opcode::Disconnect).frame.status, 0);
        world.lose_connection(short.connection);
    }
    world.pass(Duration::from_millis(100));
    let core = &world.service.as_ref().unwrap().core;
    assert_eq!((core.sessions.len(), core.connections.len()), (1, 1));
    assert!(core.background.fencing.is_empty() && core.background.fences == 0);
    assert_eq!(core.background.jobs_held(), 0);
    assert_eq!(a.call_empty(&mut world, Opcode::Ping).frame.status, 0);
    world.osts.borrow_mut().list_wanted = true;
    world.pass(Duration::from_millis(100));
    assert_eq!(clients(&last_list(&world)), [a.client]);
}

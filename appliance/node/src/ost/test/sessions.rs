//! Which sessions the service serves, and over which connections.

use std::sync::Arc;

use sheen_ports::{ConnectionId, Principal};
use sheen_types::{ClientId, Epoch, Errno, Tick};
use sheen_wire::{
    Opcode,
    fields::AttachKey,
    metadata::Attach,
    object::{ObjectGlimpse, ObjectRead, ObjectStatistics, ObjectSync},
};

use super::rig::{OST, Rig, admitted, object, write_body};
use crate::{
    mdt::gateway::{AdmittedSession, ListVersion, OstJob},
    ost::{
        local_gateway,
        sessions::{Missed, Refusal, Sessions},
    },
};

const ENOTCONN: i32 = -Errno::ENOTCONN.0;
const EAGAIN: i32 = -Errno::EAGAIN.0;

/// The statuses of one request of each kind.
fn ask_everything(rig: &mut Rig) -> Vec<i32> {
    let ost = OST;
    let read = ObjectRead { ost, object: object(1), offset: 0, length: 100 };
    let glimpse = ObjectGlimpse { ost, objects: sheen_wire::fields::List(vec![object(1)]) };
    vec![
        rig.write(object(1), 0, &[9; 100]).status(),
        rig.call(Opcode::ObjectRead, &read, &[], 100).status(),
        rig.call(Opcode::ObjectGlimpse, &glimpse, &[], 0).status(),
        rig.call(Opcode::ObjectStatistics, &ObjectStatistics { ost }, &[], 0).status(),
        rig.call(Opcode::ObjectSync, &ObjectSync { ost, object: object(1) }, &[], 0).status(),
        rig.call(Opcode::Ping, &[0_u8; 0], &[], 0).status(),
    ]
}

fn connect(rig: &mut Rig, connection: u64) {
    rig.service.fabric_mut().open(connection);
    rig.service.fabric_mut().connection = connection;
}

#[test]
fn a_frame_without_a_session_gets_nothing() {
    let mut rig = Rig::new(4096);
    assert_eq!(rig.write(object(1), 0, &[1; 100]).status(), 0);
    connect(&mut rig, 2);
    // It names a session that is served, over a connection that is not attached.
    assert_eq!(ask_everything(&mut rig), [ENOTCONN; 6]);
    rig.client = (ClientId(0), Epoch(0));
    assert_eq!(ask_everything(&mut rig), [ENOTCONN; 6]);
    assert_eq!(rig.attach(), ENOTCONN, "nobody is no session");
    rig.over(1);
    assert_eq!(ask_everything(&mut rig), [0; 6]);
    assert_eq!(rig.service.stats().not_admitted[Refusal::Unattached as usize].get(), 12);
    rig.destroy(vec![object(1)]);
    assert_eq!(rig.read(object(1), 0, 100).payload, [0; 0]);
}

#[test]
fn who_names_another_session_is_refused() {
    let mut rig = Rig::new(4096);
    assert_eq!(rig.write(object(1), 0, &[1; 100]).status(), 0);
    let other = rig.client;
    rig.over(2);
    let own = rig.client;
    rig.client = other;
    assert_eq!(ask_everything(&mut rig), [ENOTCONN; 6]);
    assert_eq!(rig.service.stats().not_admitted[Refusal::Another as usize].get(), 6);
    rig.client = own;
    assert_eq!(rig.read(object(1), 0, 100).payload, [1; 100]);
}

#[test]
fn nobody_attaches_as_another() {
    let mut rig = Rig::new(4096);
    let victim = rig.client;
    rig.over(2);
    let own = rig.client;
    connect(&mut rig, 3);
    rig.client = victim;
    let keys = [AttachKey::NONE, rig.key(own), rig.key((victim.0, Epoch(2)))];
    for key in keys {
        assert_eq!(
            rig.call(Opcode::Attach, &Attach { key }, &[], 0).status(),
            -Errno::EACCES.0,
            "neither without a key nor with one of its own or of another epoch"
        );
    }
    let short = rig.call(Opcode::Attach, &[0_u8; 31], &[], 0).status();
    assert_eq!(short, -Errno::EPROTO.0);
    assert_eq!(rig.service.stats().not_admitted[Refusal::Key as usize].get(), 3);
    assert_eq!(rig.service.fabric_mut().closed, [0; 0], "the session keeps its connection");
    rig.over(1);
    assert_eq!(ask_everything(&mut rig), [0; 6]);
    // With the key of a session, but by another principal than opened it.
    let id = ConnectionId(4);
    let stranger = Principal::User { uid: 1000 };
    rig.service.sessions.connections.opened(id, stranger, Tick(0));
    let key = rig.key(victim);
    assert_eq!(rig.service.sessions.attach(id, victim, &key), Err(Refusal::Key));
    rig.service.sessions.connections.opened(id, Principal::Owner, Tick(0));
    let attached = rig.service.sessions.attach(id, victim, &key);
    assert_eq!(attached, Ok(Some(ConnectionId(1))), "the owner may");
}

#[test]
fn what_services_ask_one_another_is_no_client_served() {
    let mut rig = Rig::new(4096);
    assert_eq!(rig.write(object(1), 0, &[1; 100]).status(), 0);
    for (opcode, connection) in [(Opcode::ObjectDestroy, 2), (Opcode::ObjectFence, 3)] {
        rig.over(connection);
        // As they were asked up to version 6: the OST and the object, a client and an epoch.
        let body = match opcode {
            Opcode::ObjectDestroy => [&OST.0.to_le_bytes()[..], &[1, 0], &[0; 16]].concat(),
            _ => [&5_u64.to_le_bytes()[..], &u32::MAX.to_le_bytes()].concat(),
        };
        let frame = rig.frame(opcode, &[], 0);
        let request = rig.send_frame(&frame, &body, &[]);
        assert_eq!(rig.wait(request).status(), -Errno::EPERM.0);
        assert_eq!(rig.service.fabric_mut().closed.last(), Some(&connection));
    }
    assert_eq!(rig.service.stats().not_admitted[Refusal::Opcode as usize].get(), 2);
    rig.over(1);
    assert_eq!(rig.read(object(1), 0, 100).payload, [1; 100], "it is served, and all is there");
}

#[test]
fn a_session_that_is_not_told_yet_is_asked_to_wait_and_one_that_ended_is_not() {
    let mut rig = Rig::new(4096);
    connect(&mut rig, 2);
    rig.client = (ClientId(501), Epoch(1));
    assert_eq!(rig.attach(), EAGAIN, "the list knows of 500");
    rig.client = (ClientId(499), Epoch(1));
    assert_eq!(rig.attach(), ENOTCONN);
    // What lies in the mailbox is looked at before.
    rig.client = (ClientId(501), Epoch(1));
    let told = rig.admit(rig.client);
    assert_eq!(rig.attach(), 0);
    assert!(rig.wait_job(told));
    assert_eq!(ask_everything(&mut rig), [0; 6]);
    rig.client.1 = Epoch(2);
    assert_eq!(ask_everything(&mut rig), [EAGAIN; 6]);
    let told = rig.admit(rig.client);
    assert!(rig.wait_job(told));
    assert_eq!(ask_everything(&mut rig), [0; 6], "over the same connection");
    rig.client.1 = Epoch(1);
    assert_eq!(ask_everything(&mut rig), [ENOTCONN; 6]);
    assert_eq!(rig.attach(), ENOTCONN);
    assert_eq!(rig.service.stats().not_admitted[Refusal::Newer as usize].get(), 7);
}

#[test]
fn a_session_that_did_not_connect_since_the_mdt_began_attaches_nothing_and_is_served() {
    let mut rig = Rig::new(4096);
    rig.version = ListVersion { server: Epoch(2), changes: 0 };
    rig.secret = crate::attach_secret::AttachSecret::new([8; 4]);
    let mut list = rig.list(&[rig.client]);
    list.sessions[0].connected = false;
    let told = rig.ask(OstJob::Sessions(Arc::new(list)));
    assert!(rig.wait_job(told));
    assert_eq!(ask_everything(&mut rig), [0; 6]);
    connect(&mut rig, 2);
    assert_eq!(rig.attach(), EAGAIN);
    rig.client.1 = Epoch(2);
    rig.admit(rig.client);
    assert_eq!(rig.attach(), 0);
    assert_eq!(rig.service.fabric_mut().closed, [1]);
}

#[test]
fn a_session_that_ended_leaves_nothing() {
    let mut sessions = Sessions::default();
    let rig = Rig::new(4096);
    sessions.replace(&rig.list(&[(ClientId(1), Epoch(1))])).unwrap();
    let mut version = rig.version;
    for number in 2..100_000 {
        let (session, connection) = ((ClientId(number), Epoch(1)), ConnectionId(number));
        assert_eq!(sessions.connections.opened(connection, Principal::Owner, Tick(0)), None);
        version = version.next();
        sessions.admit(version, admitted(session)).unwrap();
        assert_eq!(sessions.attach(connection, session, &rig.key(session)), Ok(None));
        assert!(sessions.check(connection, session.0, session.1).is_ok());
        version = version.next();
        assert_eq!(sessions.dismiss(version, session.0), Ok(Some(connection)));
        let ended = sessions.check(connection, session.0, session.1);
        assert_eq!(ended, Err(Refusal::Unattached));
        sessions.forget(connection);
    }
    assert_eq!((sessions.len(), sessions.connections.len()), (1, 0));
    assert!(sessions.connections.deadline().is_none());
}

#[test]
fn a_dismissed_session_leaves_nothing_at_a_service() {
    let mut rig = Rig::new(4096);
    for connection in 2..500 {
        rig.over(connection);
        assert_eq!(rig.write(object(1), 0, &[1; 10]).status(), 0);
        let dismissed = rig.dismiss(rig.client.0);
        assert!(rig.wait_job(dismissed));
    }
    rig.settle();
    assert_eq!((rig.service.sessions.len(), rig.service.sessions.connections.len()), (1, 1));
    assert!(rig.service.pending_fences.is_empty());
    assert_eq!(rig.service.stats().sessions.get(), 1);
}

#[test]
fn a_stale_list_from_an_older_leader_is_refused() {
    let mut rig = Rig::new(4096);
    let older = rig.list(&[]);
    rig.version = ListVersion { server: Epoch(2), changes: 0 };
    let list = rig.list(&[rig.client]);
    let told = rig.ask(OstJob::Sessions(Arc::new(list)));
    assert!(rig.wait_job(told));
    let told = rig.ask(OstJob::Sessions(Arc::new(older)));
    assert!(!rig.wait_job(told));
    assert_eq!(ask_everything(&mut rig), [0; 6], "whom the later one lists is served");
    for changes in [1, 100] {
        let version = ListVersion { server: Epoch(1), changes };
        let session = admitted((ClientId(600), Epoch(1)));
        let told = rig.ask(OstJob::Admit { version, session });
        assert!(!rig.wait_job(told));
        let told = rig.ask(OstJob::Dismiss { version, client: rig.client.0 });
        assert!(!rig.wait_job(told));
    }
    assert_eq!(ask_everything(&mut rig), [0; 6]);
}

#[test]
fn a_gap_asks_for_the_whole_list() {
    let mut rig = Rig::new(4096);
    let served = rig.client;
    rig.version = rig.version.next();
    let missed = rig.admit((ClientId(7), Epoch(1)));
    assert!(!rig.wait_job(missed), "the change before it never came");
    let behind = rig.dismiss(served.0);
    assert!(!rig.wait_job(behind), "nor does it take what comes later");
    assert_eq!(ask_everything(&mut rig), [0; 6]);
    let list = rig.list(&[(ClientId(7), Epoch(1))]);
    let told = rig.ask(OstJob::Sessions(Arc::new(list)));
    assert!(rig.wait_job(told));
    assert_eq!(rig.service.fabric_mut().closed, [1], "who is not on it has no connection");
    connect(&mut rig, 2);
    assert_eq!(rig.attach(), ENOTCONN);
    rig.client = (ClientId(7), Epoch(1));
    assert_eq!(rig.attach(), 0);
    let next = rig.admit((ClientId(8), Epoch(1)));
    assert!(rig.wait_job(next));
}

#[test]
fn a_list_that_is_absent_serves_nobody_and_one_that_begins_anew_is_absent() {
    let mut rig = Rig::new(4096);
    assert_eq!(rig.write(object(1), 0, &[1; 100]).status(), 0);
    rig.service.sessions = Sessions::default();
    connect(&mut rig, 2);
    assert_eq!(rig.attach(), EAGAIN);
    assert_eq!(ask_everything(&mut rig), [ENOTCONN; 6]);
    let early = rig.admit(rig.client);
    assert!(!rig.wait_job(early), "a change is none of it");
    let list = rig.list(&[rig.client]);
    let told = rig.ask(OstJob::Sessions(Arc::new(list)));
    assert!(rig.wait_job(told));
    assert_eq!(rig.attach(), 0);
    assert_eq!(ask_everything(&mut rig), [0; 6]);
}

/// The MDT gives what it held to others when the list is taken.
#[test]
fn nothing_is_given_on_before_the_list_is_drained() {
    let mut rig = Rig::new(4096);
    rig.orders.borrow_mut().hold = true;
    let under_way = rig.send(Opcode::ObjectWrite, &write_body(object(1), 0, false), &[1; 100], 0);
    rig.turn();
    rig.turn();
    rig.version = ListVersion { server: Epoch(2), changes: 0 };
    let list = Arc::new(rig.list(&[(ClientId(6), Epoch(1))]));
    let early = rig.ask(OstJob::Drain { version: rig.version });
    assert!(!rig.wait_job(early), "the list is not there");
    let told = rig.ask(OstJob::Sessions(list));
    assert!(rig.wait_job(told));
    rig.ask(OstJob::Drain { version: rig.version });
    for _ in 0..10 {
        rig.turn();
    }
    assert_eq!(rig.ends(), [], "a write of another is under way");
    rig.over(2);
    let refused = rig.service.sessions.check(ConnectionId(1), ClientId(5), Epoch(1));
    assert_eq!(refused, Err(Refusal::Unattached));
    rig.orders.borrow_mut().hold = false;
    assert_eq!(rig.wait(under_way).status(), 0, "it was at the device");
    rig.settle();
    let ends = rig.ends();
    assert!(ends.last().is_some_and(|end| end.done && end.part.is_none()), "{ends:?}");
}

#[test]
fn a_list_is_drained_when_what_others_changed_survives_a_loss_of_power() {
    let mut rig = Rig::volatile(4096);
    let written = rig.write(object(1), 0, &[1; 100]);
    assert_eq!((written.frame.transaction.0, written.frame.committed), (1, 0));
    rig.version = ListVersion { server: Epoch(2), changes: 0 };
    let list = Arc::new(rig.list(&[]));
    rig.ask(OstJob::Sessions(list));
    let drained = rig.ask(OstJob::Drain { version: rig.version });
    assert!(rig.wait_job(drained));
    rig.medium.cut_power(|_| false);
    rig = Rig::open(rig.medium, 256);
    assert_eq!(rig.read(object(1), 0, 100).payload, [1; 100]);
}

#[test]
fn a_payload_that_comes_when_its_session_is_over_is_not_stored() {
    let mut rig = Rig::new(4096);
    rig.service.fabric_mut().hold_pulls = true;
    let write = rig.send(Opcode::ObjectWrite, &write_body(object(1), 0, false), &[1; 100], 0);
    rig.turn();
    // The transport has it before it learns that the connection is to be closed.
    rig.service.fabric_mut().release_pulls();
    rig.version = rig.version.next();
    let ended = rig.service.sessions.dismiss(rig.version, rig.client.0);
    assert_eq!(ended, Ok(Some(ConnectionId(1))));
    assert_eq!(rig.wait(write).status(), ENOTCONN);
    rig.over(2);
    assert_eq!(rig.read(object(1), 0, 100).payload, [0; 0]);
}

#[test]
fn a_connection_that_gave_way_is_attached_to_nothing_any_more() {
    let mut rig = Rig::new(4096);
    let session = rig.client;
    let (key, sessions) = (rig.key(session), &mut rig.service.sessions);
    let [earlier, later] = [ConnectionId(1), ConnectionId(2)];
    assert_eq!(sessions.connections.opened(later, Principal::Owner, Tick(0)), None);
    assert_eq!(sessions.attach(later, session, &key), Ok(Some(earlier)));
    // What the earlier one still delivers while it is being closed.
    assert_eq!(sessions.attach(earlier, session, &key), Err(Refusal::Unattached));
    assert!(sessions.check(later, session.0, session.1).is_ok());
    sessions.forget(earlier);
    assert_eq!((sessions.len(), sessions.connections.len()), (1, 1));
}

/// One service misses what another takes: the MDT dismisses again what an OST is stuck with.
#[test]
fn a_fence_asked_again_takes_the_place_of_the_one_before() {
    let mut rig = Rig::new(4096);
    rig.orders.borrow_mut().hold = true;
    rig.send(Opcode::ObjectWrite, &write_body(object(1), 0, false), &[1; 100], 0);
    rig.turn();
    rig.turn();
    let (stuck, mut asked) = (rig.client.0, Vec::new());
    for _ in 0..300 {
        // The gateway gives up a job of which another service says that it is not done.
        (rig.gateway, rig.postman) = rig.with_another_desk();
        rig.version = rig.version.next();
        let list = Arc::new(rig.list(&[]));
        rig.ask(OstJob::Sessions(list));
        rig.ask(OstJob::Drain { version: rig.version });
        asked.push(rig.dismiss(stuck));
        rig.turn();
        assert!(rig.ends().iter().all(|end| end.done), "not for want of a place");
    }
    assert_eq!(rig.service.pending_fences.len(), 2);
    rig.orders.borrow_mut().hold = false;
    assert!(rig.wait_job(asked[299]));
    rig.settle();
    assert!(rig.service.pending_fences.is_empty());
}

#[test]
fn what_an_mdt_asked_that_is_no_more_is_waited_for_by_nobody() {
    let mut rig = Rig::new(4096);
    rig.orders.borrow_mut().hold = true;
    let write = rig.send(Opcode::ObjectWrite, &write_body(object(1), 0, false), &[1; 100], 0);
    rig.turn();
    rig.turn();
    // It began to evict the session, and was gone before that was written down: the next one knows the session as living.
    rig.dismiss(rig.client.0);
    rig.turn();
    let (mut gateway, mut desks) = local_gateway(&[vec![OST]]).unwrap();
    rig.service.set_desk(desks.remove(0).0);
    std::mem::swap(&mut rig.gateway, &mut gateway);
    rig.version = ListVersion { server: Epoch(2), changes: 1 };
    let list = Arc::new(rig.list(&[rig.client]));
    let told = rig.ask(OstJob::Sessions(list));
    assert!(rig.wait_job(told));
    assert!(rig.service.pending_fences.is_empty(), "while its write is at the device");
    rig.orders.borrow_mut().hold = false;
    assert_eq!(rig.wait(write).status(), 0);
    connect(&mut rig, 2);
    assert_eq!(rig.attach(), 0);
    assert_eq!(ask_everything(&mut rig), [0; 6]);
}

#[test]
fn the_same_list_once_more_changes_nothing_and_an_older_one_is_refused() {
    let mut rig = Rig::new(4096);
    let (evicted, other) = (rig.client, (ClientId(6), Epoch(1)));
    rig.version = rig.version.next();
    let (with, version) = (Arc::new(rig.list(&[evicted, other])), rig.version);
    let told = rig.ask(OstJob::Sessions(with.clone()));
    assert!(rig.wait_job(told));
    let told = rig.ask(OstJob::Sessions(with.clone()));
    assert!(rig.wait_job(told), "it is there");
    assert_eq!(ask_everything(&mut rig), [0; 6]);
    rig.version = rig.version.next();
    let without = Arc::new(rig.list(&[other]));
    let told = rig.ask(OstJob::Sessions(without));
    assert!(rig.wait_job(told));
    for late in [with.clone(), with] {
        let told = rig.ask(OstJob::Sessions(late));
        assert!(!rig.wait_job(told), "who was on it is on it no more");
    }
    for late in [version, rig.version] {
        let told = rig.ask(OstJob::Admit { version: late, session: admitted(evicted) });
        assert!(!rig.wait_job(told));
    }
    assert!(!rig.service.sessions.serves(evicted.0) && rig.service.sessions.serves(other.0));
    connect(&mut rig, 2);
    assert_eq!(rig.attach(), ENOTCONN);
}

/// Numbers at the ends of what fits, by whoever reaches the port: an answer, and no entry anywhere.
#[test]
fn no_number_makes_an_entry() {
    let mut rig = Rig::new(4096);
    let known = rig.client;
    connect(&mut rig, 2);
    let ends = [0, 1, known.0.0, 499, 500, 501, u64::MAX - 1, u64::MAX].map(ClientId);
    for (client, epoch) in ends
        .into_iter()
        .flat_map(|client| [0, 1, 2, u32::MAX - 1, u32::MAX].map(|epoch| (client, Epoch(epoch))))
    {
        rig.client = (client, epoch);
        assert_eq!(ask_everything(&mut rig), [ENOTCONN; 6], "{client} {epoch:?}");
        let key = AttachKey([0xff; 32]);
        let refused = rig.call(Opcode::Attach, &Attach { key }, &[], 0).status();
        let expected = match (client.0, epoch.0) {
            (5, 0) => ENOTCONN,
            (5, 1) => -Errno::EACCES.0,
            (5, _) | (501.., _) => EAGAIN,
            _ => ENOTCONN,
        };
        assert_eq!(refused, expected, "{client} {epoch:?}");
    }
    rig.over(1);
    assert_eq!(ask_everything(&mut rig), [0; 6]);
    assert_eq!((rig.service.sessions.len(), rig.service.sessions.connections.len()), (1, 2));
}

/// The whole way of an eviction while its client never stops to write: no change of it is carried out behind the answer that it is fenced.
#[test]
fn nothing_of_a_session_is_carried_out_behind_the_word_that_it_is_fenced() {
    let seed = 0xfe_4ce5;
    let mut chance = super::rig::Chance(seed);
    let mut rig = Rig::new(16_384);
    for round in 2..150 {
        rig.over(round);
        let (object, writer) = (object(u32::try_from(round).unwrap()), rig.client);
        rig.orders.borrow_mut().hold = chance.below(2) == 0;
        rig.service.fabric_mut().hold_pulls = chance.below(3) == 0;
        let mut write = |rig: &mut Rig| {
            rig.service.fabric_mut().connection = round;
            rig.client = writer;
            let bytes = [u8::try_from(chance.below(256)).unwrap(); 100];
            rig.send(Opcode::ObjectWrite, &write_body(object, 0, false), &bytes, 0);
            for _ in 0..chance.below(3) {
                rig.turn();
            }
        };
        (0..3).for_each(|_| write(&mut rig));
        let fenced = rig.dismiss(writer.0);
        (0..3).for_each(|_| write(&mut rig));
        rig.orders.borrow_mut().hold = false;
        assert!(rig.wait_job(fenced), "seed {seed:#x} round {round}");
        rig.over(1);
        let before = rig.read(object, 0, 100);
        (0..3).for_each(|_| write(&mut rig));
        rig.service.fabric_mut().release_pulls();
        rig.settle();
        rig.over(1);
        let after = rig.read(object, 0, 100);
        assert_eq!(before.payload, after.payload, "seed {seed:#x} round {round}");
    }
}

#[test]
fn a_connection_has_one_session_and_a_session_one_connection() {
    let mut rig = Rig::new(4096);
    let first = rig.client;
    connect(&mut rig, 2);
    assert_eq!(rig.attach(), 0);
    assert_eq!(rig.service.fabric_mut().closed, [1]);
    rig.client = (ClientId(600), Epoch(1));
    rig.admit(rig.client);
    assert_eq!(rig.attach(), 0, "the connection of the first becomes that of another");
    rig.client = first;
    assert_eq!(ask_everything(&mut rig), [ENOTCONN; 6]);
    connect(&mut rig, 3);
    assert_eq!(rig.attach(), 0);
    rig.settle();
    assert_eq!(rig.service.fabric_mut().closed, [1], "the other keeps its own");
}

/// Jobs at random, some of them lost, against a set; the list is told whole when the service says that it missed one.
#[test]
fn whatever_is_lost_on_the_way_the_list_is_that_of_the_mdt_in_the_end() {
    let rig = Rig::new(4096);
    let seed = 0x5e55_1045;
    let mut chance = super::rig::Chance(seed);
    let mut sessions = Sessions::default();
    let mut version = rig.version;
    let mut living: std::collections::BTreeMap<ClientId, Epoch> = Default::default();
    let mut is_due = true;
    for step in 0..20_000 {
        let client = ClientId(1 + chance.below(50));
        version = version.next();
        let lost = chance.below(10) == 0;
        let told = if chance.below(2) == 0 {
            let epoch = living.entry(client).or_insert(Epoch(0));
            *epoch = Epoch(epoch.0 + 1);
            let session = admitted((client, *epoch));
            if lost { Err(Missed) } else { sessions.admit(version, session) }
        } else {
            living.remove(&client);
            if lost { Err(Missed) } else { sessions.dismiss(version, client).map(drop) }
        };
        assert!(!is_due || told.is_err(), "seed {seed:#x} step {step}: taken without the list");
        is_due |= told.is_err();
        if is_due && chance.below(5) == 0 {
            let now: Vec<_> = living.iter().map(|(&client, &epoch)| (client, epoch)).collect();
            let list = crate::mdt::gateway::SessionList { version, ..rig.list(&now) };
            sessions.replace(&list).unwrap();
            is_due = false;
        }
        if !is_due {
            let serves: Vec<_> = (1..=50).map(ClientId).filter(|&c| sessions.serves(c)).collect();
            assert_eq!(serves, living.keys().copied().collect::<Vec<_>>(), "step {step}");
        }
    }
    let unknown = AdmittedSession { connected: false, ..admitted((ClientId(9), Epoch(9))) };
    assert_eq!(sessions.admit(version, unknown), Err(Missed), "a change is taken once");
}

/// Others may change things all the time, and their device may be stuck.
#[test]
fn the_fence_of_a_session_that_attached_nothing_waits_for_changes_of_no_other() {
    let mut rig = Rig::volatile(4096);
    let missing = (ClientId(9), Epoch(1));
    let told = rig.admit(missing);
    assert!(rig.wait_job(told));
    assert_eq!(rig.write(object(1), 0, &[1; 100]).status(), 0);
    rig.orders.borrow_mut().hold = true;
    // The MDT may be another by now, and tell the list anew.
    rig.version = rig.version.next();
    let list = Arc::new(rig.list(&[rig.client, missing]));
    let told = rig.ask(OstJob::Sessions(list));
    assert!(rig.wait_job(told));
    let fenced = rig.dismiss(missing.0);
    assert!(rig.wait_job(fenced), "it changed nothing");
    let fenced = rig.dismiss(rig.client.0);
    for _ in 0..10 {
        rig.turn();
    }
    assert_eq!(rig.ends(), [], "what it changed may be lost with the power");
    rig.orders.borrow_mut().hold = false;
    assert!(rig.wait_job(fenced));
}

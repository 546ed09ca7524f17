//! What a restarted MDT is told of locks that are being asked for or given up: only what somebody was told of and keeps.

use std::{sync::Arc, time::Duration};

use sheen_ports::Cancel;
use sheen_types::Errno;
use sheen_wire::{
    Opcode,
    flock::{LockFamily, LockType},
};

use crate::{
    Client, LockWanted,
    fake::{FILE, Fake},
    kills::stuck,
    scenarios,
};

const SOON: Duration = Duration::from_secs(1);
const OWNER: u64 = 7;

fn wanted(kind: LockType) -> LockWanted {
    let (family, pid) = (LockFamily::Posix, 1);
    LockWanted { family, kind, owner: OWNER, pid, start: 0, end: 9, wait: false }
}

/// The same by flock(2), which knows whole files alone.
fn whole(kind: LockType) -> LockWanted {
    LockWanted { family: LockFamily::Flock, end: u64::MAX, ..wanted(kind) }
}

fn ask(client: &Arc<Client>, kind: LockType, cancel: &Cancel) -> Result<(), Errno> {
    client.set_lock(&client.inode(FILE), &wanted(kind), cancel, cancel)
}

/// A program asks, is killed before the MDT answers, and leaves its descriptor to others.
fn left(fake: &Fake, client: &Arc<Client>, kind: LockType) {
    let (outcome, cancel) =
        stuck(fake, client, Opcode::LockSet, move |client, cancel| ask(&client, kind, cancel));
    cancel.cancel();
    assert_eq!(outcome.recv_timeout(SOON), Ok(Err(Errno::EINTR)));
}

fn asserted(client: &Arc<Client>) -> Vec<LockType> {
    let held = client.inode(FILE).lock().locks.held(FILE);
    held.iter().map(|lock| lock.kind).collect()
}

fn asserted_beside(fake: &Fake, client: &Arc<Client>, wanted: LockWanted) -> Vec<LockType> {
    let (outcome, _never) = stuck(fake, client, Opcode::LockSet, move |client, cancel| {
        client.set_lock(&client.inode(FILE), &wanted, cancel, cancel)
    });
    let asserted = asserted(client);
    fake.change(|state| state.hold = None);
    assert_eq!(outcome.recv_timeout(SOON), Ok(Ok(())));
    asserted
}

#[test]
fn what_others_may_have_before_the_answer_comes_is_not_asserted() {
    let (fake, client) = scenarios::start();
    let never = Cancel::new();
    ask(&client, LockType::Write, &never).unwrap();
    assert_eq!(asserted_beside(&fake, &client, wanted(LockType::Read)), [LockType::Read]);
    assert_eq!(asserted_beside(&fake, &client, wanted(LockType::Unlock)), []);
    client.set_lock(&client.inode(FILE), &whole(LockType::Read), &never, &never).unwrap();
    // flock(2) gives the old one up first.
    assert_eq!(asserted_beside(&fake, &client, whole(LockType::Write)), []);
    assert_eq!(asserted(&client), [LockType::Write]);
    client.disconnect();
}

#[test]
fn what_the_mdt_refuses_leaves_locks_as_they_were_but_for_a_flock_that_changes() {
    let (fake, client) = scenarios::start();
    let never = Cancel::new();
    let refuse = |refuse: bool| {
        fake.change(|state| state.refuse = refuse.then_some((Opcode::LockSet, Errno::ENOLCK)));
    };
    ask(&client, LockType::Write, &never).unwrap();
    refuse(true);
    assert_eq!(ask(&client, LockType::Unlock, &never), Err(Errno::ENOLCK));
    assert_eq!(ask(&client, LockType::Read, &never), Err(Errno::ENOLCK));
    assert_eq!(asserted(&client), [LockType::Write]);
    refuse(false);
    close(&client);
    let take = |kind| client.set_lock(&client.inode(FILE), &whole(kind), &never, &never);
    take(LockType::Read).unwrap();
    refuse(true);
    assert_eq!(take(LockType::Write), Err(Errno::ENOLCK));
    assert_eq!(asserted(&client), []);
    client.disconnect();
}

fn close(client: &Arc<Client>) {
    client.release_locks(&client.inode(FILE), LockFamily::Posix, OWNER, &Cancel::new());
}

/// Nothing is asserted, and the end of the owner is told.
fn expect_doubt(fake: &Fake, client: &Arc<Client>) {
    assert_eq!(asserted(client), []);
    fake.change(|state| state.hold = None);
    close(client);
    assert!(!fake.sent(Opcode::LockRelease).is_empty(), "it may be held there");
    client.disconnect();
}

#[test]
fn a_lock_nobody_was_told_of_is_not_asserted_and_is_released() {
    let (fake, client) = scenarios::start();
    left(&fake, &client, LockType::Write);
    expect_doubt(&fake, &client);
}

#[test]
fn a_lock_that_was_to_become_another_one_stays_what_it_was() {
    let (fake, client) = scenarios::start();
    ask(&client, LockType::Read, &Cancel::new()).unwrap();
    left(&fake, &client, LockType::Write);
    assert_eq!(asserted(&client), [LockType::Read]);
    fake.change(|state| state.hold = None);
    client.disconnect();
}

#[test]
fn a_lock_that_was_given_up_is_not_asserted_whether_the_answer_came_or_not() {
    let (fake, client) = scenarios::start();
    ask(&client, LockType::Write, &Cancel::new()).unwrap();
    left(&fake, &client, LockType::Unlock);
    expect_doubt(&fake, &client);
}

#[test]
fn who_asks_at_once_is_let_go_by_an_mdt_that_is_away() {
    let (fake, client) = scenarios::start();
    let at_once = |client: &Arc<Client>, cancel: &Cancel| {
        let wanted = LockWanted { wait: true, ..wanted(LockType::Write) };
        client.set_lock_at_once(&client.inode(FILE), &wanted, cancel)
    };
    let (outcome, _never) =
        stuck(&fake, &client, Opcode::LockSet, move |client, cancel| at_once(&client, cancel));
    assert_eq!(outcome.recv_timeout(3 * SOON), Ok(Err(Errno::EINTR)));
    assert_eq!(asserted(&client), []);
    fake.change(|state| state.hold = None);
    close(&client);
    assert_eq!(at_once(&client, &Cancel::new()), Ok(()));
    assert_eq!(asserted(&client), [LockType::Write]);
    client.disconnect();
}

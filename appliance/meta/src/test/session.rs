//! Sessions, reply slots, sequences.

use super::*;
use crate::{Effect, operation::Disconnect};

fn session(reply: Reply) -> crate::SessionReply {
    let Reply::Session(session) = reply else { panic!("{reply:?}") };
    session
}

#[test]
fn the_same_uuid_gets_its_session_back_with_the_next_epoch() {
    let mut h = Harness::new();
    h.client = ClientId(0);
    let first = session(h.ok(connect([9; 16], "one")));
    assert!(!first.resumed && first.root == Fid::ROOT && first.slots == 4);
    let again = session(h.ok(connect([9; 16], "one")));
    assert_eq!((again.client, again.epoch.0, again.resumed), (first.client, 2, true));
    let other = session(h.ok(connect([8; 16], "")));
    assert!(other.client != first.client && other.root == Fid::NONE);
    assert_eq!(h.err(connect([7; 16], "none")), Errno::ENOENT);
    assert_eq!(h.state.sessions().len(), 3);
}

#[test]
fn a_resent_request_gets_the_stored_answer_and_changes_nothing() {
    let mut h = Harness::new();
    let request = h.creation(h.root, "f", FileKind::Regular);
    let entry = h.entry(create(request));
    let first = h.apply_entry(entry.clone());
    assert!(!first.replayed);
    h.ok(h.unlinking(h.root, "f"));
    // On another slot, so that slot 0 still knows the create.
    let mut resent = entry.clone();
    resent.transaction = TransactionNumber(u64::MAX);
    assert!(h.state.replayed(h.client, Tag(0), entry.xid).is_some());
    let old = h.apply_entry(resent.clone());
    assert_eq!(old.result, Err(Errno::EPROTO), "the slot has a newer request");
    let entry = h.entry(setxattr(h.root, "user.x", b"1", 1));
    let first = h.apply_entry(entry.clone());
    let before = h.bytes();
    let second = h.apply_entry(entry);
    assert_eq!((first.result, first.transaction), (second.result, second.transaction));
    assert!(second.replayed && second.effects.is_empty());
    assert_eq!(h.bytes(), before);
}

#[test]
fn errors_are_remembered_like_replies() {
    let mut h = Harness::new();
    let entry = h.entry(h.unlinking(h.root, "f"));
    let mut late = entry.clone();
    assert_eq!(h.apply_entry(entry).result, Err(Errno::ENOENT));
    late.transaction = TransactionNumber(u64::MAX);
    assert_eq!(h.state.apply(&late).result, Err(Errno::ENOENT));
    h.file(h.root, "f");
    assert_ne!(h.state.last_transaction(), late.transaction);
}

#[test]
fn slots_are_independent_and_bounded() {
    let mut h = Harness::new();
    let mut entry = h.entry(setxattr(h.root, "user.x", b"1", 0));
    entry.tag = Tag(3);
    entry.xid = Xid(1);
    assert!(h.apply_entry(entry.clone()).result.is_ok());
    entry.tag = Tag(4);
    assert_eq!(h.apply_entry(entry).result, Err(Errno::EPROTO));
}

#[test]
fn an_ended_session_changes_nothing_more() {
    let mut h = Harness::new();
    let client = h.client;
    h.client = ClientId(0);
    let outcome = h.apply(Operation::Disconnect(Disconnect { client }));
    let epoch = sheen_types::Epoch(2);
    assert_eq!(outcome.effects, [Effect::SessionEnded { client, epoch }]);
    h.client = client;
    let root = h.root;
    let request = h.creation(root, "f", FileKind::Regular);
    assert_eq!(h.err(create(request)), Errno::ENOTCONN);
    h.client = ClientId(0);
    assert_eq!(h.err(Operation::Disconnect(Disconnect { client })), Errno::ENOTCONN);
    // Ids do not come back.
    let next = session(h.ok(connect([1; 16], "one")));
    assert!(next.client > client && !next.resumed);
}

#[test]
fn a_session_ends_only_itself() {
    let mut h = Harness::new();
    let first = h.client;
    h.mount("one");
    assert_eq!(h.err(Operation::Disconnect(Disconnect { client: first })), Errno::EPERM);
    let me = h.client;
    h.ok(Operation::Disconnect(Disconnect { client: me }));
    assert!(!h.state.has_session(me) && h.state.has_session(first));
}

#[test]
fn sessions_are_bounded() {
    let mut h = Harness::with_limits(Limits { sessions_max: 1, slots_max: 2, ..Limits::default() });
    assert_eq!(h.state.session(h.client).unwrap().slots, 2);
    h.client = ClientId(0);
    assert_eq!(h.err(connect([9; 16], "one")), Errno::EAGAIN);
}

#[test]
fn sequences_are_never_given_twice_and_old_ones_forgotten() {
    let mut h = Harness::new();
    let oldest = h.next_fid();
    let mut seen = std::collections::BTreeSet::from([oldest.seq]);
    for _ in 0..Limits::SEQUENCES_PER_SESSION {
        h.new_sequence();
        assert!(seen.insert(h.next_fid().seq));
    }
    let request = h.creation(h.root, "f", FileKind::Regular);
    let old = sheen_wire::metadata::Create { fid: oldest, ..request };
    assert_eq!(h.err(create(old)), Errno::EINVAL);
    h.file(h.root, "f");
}

#[test]
fn each_start_of_a_server_gets_a_new_epoch() {
    let mut h = Harness::bare(Limits::default());
    for epoch in 1..4 {
        let reply = h.ok(Operation::ServerStart(Nothing {}));
        assert_eq!(reply, Reply::ServerEpoch(sheen_types::Epoch(epoch)));
    }
    assert_eq!(h.state.server_epoch().0, 3);
}

#[test]
fn the_lease_promised_is_what_was_told_last() {
    let mut h = Harness::bare(Limits::default());
    assert_eq!(h.state.lease_milliseconds(), 0);
    for milliseconds in [60_000, 2_000] {
        let promise = crate::operation::LeasePromise { milliseconds };
        assert_eq!(h.ok(Operation::LeasePromise(promise)), Reply::Done);
        assert_eq!(h.state.lease_milliseconds(), milliseconds);
    }
}

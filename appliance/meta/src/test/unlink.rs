//! Unlink, orphans, and the objects that go with inodes.

use super::*;
use crate::{
    Effect,
    operation::{ObjectsDestroyed, OrphanRelease},
    state::inode::flags,
};

fn release(fid: Fid) -> Operation {
    Operation::OrphanRelease(OrphanRelease { fid })
}

#[test]
fn the_last_name_takes_the_inode_and_its_objects() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let object = h.state.layout(file).unwrap().components[0].objects[0].object;
    h.ok(link(file, h.root, "g"));
    let now = h.now();
    let outcome = h.apply(h.unlinking(h.root, "f"));
    assert_eq!(outcome.result, Ok(Reply::Unlinked { fid: file, nlink: 1 }));
    assert_eq!(outcome.effects, []);
    assert_eq!((h.stat(file).nlink, h.stat(file).ctime), (1, now));
    let outcome = h.apply(h.unlinking(h.root, "g"));
    assert_eq!(outcome.result, Ok(Reply::Unlinked { fid: file, nlink: 0 }));
    let ost = OstIndex(0);
    let destroys = Effect::DestroyObject { ost, object };
    assert_eq!(outcome.effects, [destroys, Effect::InodeRemoved { fid: file }]);
    assert_eq!(h.state.attributes(file), Err(Errno::ESTALE));
    assert_eq!(h.state.pending_destroys(ost, Fid::NONE).collect::<Vec<_>>(), [object]);
    assert_eq!(h.state.destroys_pending(), 1);
    let objects = sheen_wire::fields::List(vec![object]);
    h.ok(Operation::ObjectsDestroyed(ObjectsDestroyed { ost, objects }));
    assert_eq!(h.state.destroys_pending(), 0);
    assert_eq!(h.state.filesystem(h.root).unwrap().inodes, 1);
}

#[test]
fn an_open_file_outlives_its_last_name() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let outcome = h.apply(h.removal(h.root, "f", false, true));
    assert_eq!(outcome.effects, [Effect::Orphaned { fid: file }]);
    assert_eq!(h.stat(file).nlink, 0);
    assert_eq!(h.state.orphans(Fid::NONE, 9), [file]);
    assert_eq!(h.err(link(file, h.root, "again")), Errno::ENOENT);
    let outcome = h.apply(release(file));
    assert!(outcome.effects.contains(&Effect::InodeRemoved { fid: file }));
    assert_eq!(h.state.attributes(file), Err(Errno::ESTALE));
    assert_eq!(h.apply(release(file)).effects, []);
}

#[test]
fn releasing_what_has_a_name_does_nothing() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    assert_eq!(h.apply(release(file)).effects, []);
    assert_eq!(h.stat(file).nlink, 1);
}

#[test]
fn directories_and_files_are_removed_by_their_own_calls() {
    let mut h = Harness::new();
    let dir = h.dir(h.root, "d");
    h.file(h.root, "f");
    h.file(dir, "in");
    assert_eq!(h.err(h.unlinking(h.root, "d")), Errno::EISDIR);
    assert_eq!(h.err(h.rmdir(h.root, "f")), Errno::ENOTDIR);
    assert_eq!(h.err(h.rmdir(h.root, "d")), Errno::ENOTEMPTY);
    assert_eq!(h.err(h.unlinking(h.root, "none")), Errno::ENOENT);
    h.ok(h.unlinking(dir, "in"));
    let now = h.now();
    assert_eq!(h.ok(h.rmdir(h.root, "d")), Reply::Unlinked { fid: dir, nlink: 0 });
    let root = h.stat(h.root);
    assert_eq!((root.nlink, root.mtime, root.ctime), (2, now, now));
}

#[test]
fn a_directory_without_a_name_has_no_listing_and_no_parent() {
    let mut h = Harness::new();
    let dir = h.dir(h.root, "d");
    h.ok(h.removal(h.root, "d", true, true));
    assert_eq!(h.state.parent(dir), Err(Errno::ENOENT));
    assert_eq!(h.state.read_directory(dir, 0, 9), Err(Errno::ENOENT));
    assert_eq!(h.stat(dir).nlink, 0);
}

#[test]
fn in_a_sticky_directory_only_owners_and_root_remove() {
    let mut h = Harness::new();
    h.user = USER;
    let dir = h.dir(h.root, "tmp");
    h.chmod(dir, 0o1777);
    h.user = OTHER;
    for text in ["a", "b", "c"] {
        h.file(dir, text);
    }
    h.user = Credentials { uid: 3000, gid: 3000 };
    assert_eq!(h.err(h.unlinking(dir, "a")), Errno::EPERM);
    assert_eq!(h.err(h.renaming((dir, "a"), (dir, "z"), 0)), Errno::EPERM);
    h.file(dir, "mine");
    assert_eq!(h.err(h.renaming((dir, "mine"), (dir, "a"), 0)), Errno::EPERM);
    for (user, text) in [(OTHER, "a"), (USER, "b"), (ROOT_USER, "c")] {
        h.user = user;
        h.ok(h.unlinking(dir, text));
    }
}

#[test]
fn immutable_and_append_only_names_stay() {
    let mut h = Harness::new();
    for flag in [flags::IMMUTABLE, flags::APPEND] {
        let dir = h.dir(h.root, "d");
        let file = h.file(dir, "f");
        h.chattr(file, flag);
        assert_eq!(h.err(h.unlinking(dir, "f")), Errno::EPERM);
        h.chattr(file, 0);
        h.chattr(dir, flag);
        assert_eq!(h.err(h.unlinking(dir, "f")), Errno::EPERM);
        h.chattr(dir, 0);
        h.ok(h.unlinking(dir, "f"));
        h.ok(h.rmdir(h.root, "d"));
    }
}

#[test]
fn every_object_of_a_striped_file_is_destroyed() {
    let mut h = Harness::new();
    for index in 1..12 {
        h.ok(register(index));
    }
    let file = h.file(h.root, "f");
    let request = sheen_wire::metadata::InstantiateLayout { fid: file, start: 0, end: 200 << 20 };
    h.ok(Operation::InstantiateLayout(request));
    assert_eq!(h.state.is_instantiated(file, 0, 200 << 20), Ok(true));
    assert_eq!(h.state.is_instantiated(file, 0, 20 << 30), Ok(false));
    let outcome = h.apply(h.unlinking(h.root, "f"));
    assert_eq!(outcome.effects.len(), 1 + 8 + 1);
    let pending: usize =
        (0..12).map(|index| h.state.pending_destroys(OstIndex(index), Fid::NONE).count()).sum();
    assert_eq!(pending, 9);
}

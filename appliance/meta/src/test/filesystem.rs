//! File systems, and their deletion in steps.

use sheen_wire::metadata::FilesystemDelete;

use super::*;
use crate::{Effect, operation::Reap};

fn delete(name: &str, force: bool) -> Operation {
    Operation::FilesystemDelete(FilesystemDelete { name: name.into(), force })
}

fn reap(root: Fid, steps_max: u32) -> Operation {
    Operation::Reap(Reap { root, steps_max })
}

#[test]
fn a_file_system_has_a_root_and_an_id() {
    let mut h = Harness::new();
    let two = h.make_filesystem("two");
    assert_eq!(two, Fid::new(Fid::ROOT_SEQUENCE, 2));
    let info = h.state.filesystem(two).unwrap();
    assert_eq!((info.id.as_slice(), info.inodes), (&b"fs-07070707070707070"[..], 1));
    assert_eq!(h.state.filesystem_root(b"two"), Some(two));
    let stat = h.stat(two);
    assert_eq!((stat.kind, stat.permissions, stat.nlink), (FileKind::Directory, 0o755, 2));
    let names: Vec<_> = h.state.filesystems().into_iter().map(|f| (f.name, f.clients)).collect();
    assert_eq!(names, [(b"one".to_vec(), 1), (b"two".to_vec(), 0)]);
    let request = FilesystemCreate { name: b"two".to_vec(), permissions: 0o755, uid: 0, gid: 0 };
    let make = |request| Operation::FilesystemCreate(MakeFilesystem { request, random: [0; 9] });
    assert_eq!(h.err(make(request.clone())), Errno::EEXIST);
    let wrong = FilesystemCreate { name: b"-".to_vec(), ..request };
    assert_eq!(h.err(make(wrong)), Errno::EINVAL);
}

#[test]
fn the_root_of_a_file_system_belongs_to_whom_it_is_made_for() {
    let mut h = Harness::new();
    let request = FilesystemCreate { name: b"own".to_vec(), permissions: 0o700, uid: 7, gid: 8 };
    let make = |request| Operation::FilesystemCreate(MakeFilesystem { request, random: [0; 9] });
    let Reply::Filesystem(root) = h.ok(make(request.clone())) else { panic!("no root") };
    let stat = h.stat(root);
    assert_eq!((stat.uid, stat.gid, stat.permissions), (7, 8, 0o700));
    for (uid, gid) in [(u32::MAX, 8), (7, u32::MAX)] {
        let nobodys = FilesystemCreate { name: b"other".to_vec(), uid, gid, ..request.clone() };
        assert_eq!(h.err(make(nobodys)), Errno::EINVAL);
    }
}

#[test]
fn only_an_unused_empty_file_system_goes_without_force() {
    let mut h = Harness::new();
    assert_eq!(h.err(delete("one", false)), Errno::EBUSY);
    let two = h.make_filesystem("two");
    h.ok(delete("two", false));
    assert_eq!(h.err(delete("two", false)), Errno::ENOENT);
    assert!(h.state.filesystem(two).unwrap().deleting);
    // The name is free at once, the root's number is not used again.
    assert_eq!(h.make_filesystem("two"), Fid::new(Fid::ROOT_SEQUENCE, 3));
    assert_eq!(h.ok(reap(two, 10)), Reply::Reaped { inodes: 1, finished: true });
    assert_eq!(h.state.filesystem(two), None);
    assert_eq!(h.err(reap(two, 10)), Errno::EINVAL);
    assert_eq!(h.err(reap(h.root, 10)), Errno::EINVAL);
}

#[test]
fn a_deletion_goes_in_bounded_steps_and_leaves_nothing() {
    let mut h = Harness::new();
    let mut dir = h.root;
    for depth in 0..10 {
        for number in 0..5 {
            h.file(dir, &format!("f{number}"));
        }
        let file = h.file(dir, "linked");
        h.ok(link(file, h.root, &format!("l{depth}")));
        dir = h.dir(dir, "deeper");
    }
    h.file(dir, "open");
    h.ok(h.removal(dir, "open", false, true));
    let (root, client) = (h.root, h.client);
    let two = h.make_filesystem("two");
    let inodes = h.state.filesystem(root).unwrap().inodes;
    assert_eq!(inodes, 1 + 10 * 7 + 1);
    let outcome = h.apply(delete("one", true));
    let epoch = sheen_types::Epoch(2);
    assert_eq!(outcome.effects, [Effect::SessionEnded { client, epoch }]);
    // Another session that knows ids of it cannot keep it alive.
    h.mount("two");
    let request = h.creation(root, "late", FileKind::Regular);
    assert_eq!(h.err(create(request)), Errno::ESTALE);
    assert_eq!(h.err(h.renaming((root, "l1"), (root, "x"), 0)), Errno::ESTALE);
    let known = h.find(root, "l1").unwrap();
    assert_eq!(h.err(link(known, root, "x")), Errno::ESTALE);
    h.client = ClientId(0);
    let (mut removed, mut steps) = (0, 0);
    loop {
        let outcome = h.apply(reap(root, 7));
        steps += 1;
        let Ok(Reply::Reaped { inodes, finished }) = outcome.result else { panic!("{outcome:?}") };
        assert!(inodes <= 7);
        removed += u64::from(inodes);
        if finished {
            break;
        }
        assert!(h.state.filesystem(root).is_some() && steps < 100);
    }
    assert_eq!(removed, inodes);
    assert_eq!((h.state.inodes(), h.state.attributes(two).is_ok()), (1, true));
    assert_eq!(h.state.destroys_pending(), 61);
    assert!(h.state.orphans(Fid::NONE, 9).is_empty());
}

#[test]
fn file_systems_are_bounded() {
    let mut h = Harness::with_limits(Limits { filesystems_max: 1, ..Limits::default() });
    let request = FilesystemCreate { name: b"two".to_vec(), permissions: 0o755, uid: 0, gid: 0 };
    let random = [0; 9];
    let make = Operation::FilesystemCreate(MakeFilesystem { request, random });
    assert_eq!(h.err(make), Errno::ENOSPC);
}

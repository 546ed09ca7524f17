//! Rename.

use super::*;
use crate::state::inode::flags;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

fn renamed(moved: Fid, replaced: Fid) -> Reply {
    Reply::Renamed { moved, replaced }
}

#[test]
fn a_file_moves_and_times_follow() {
    let mut h = Harness::new();
    let (a, b) = (h.dir(h.root, "a"), h.dir(h.root, "b"));
    let file = h.file(a, "f");
    let born = h.stat(file);
    let now = h.now();
    assert_eq!(h.ok(h.renaming((a, "f"), (b, "g"), 0)), renamed(file, Fid::NONE));
    assert_eq!((h.find(a, "f"), h.find(b, "g")), (Err(Errno::ENOENT), Ok(file)));
    for dir in [a, b] {
        assert_eq!((h.stat(dir).mtime, h.stat(dir).ctime), (now, now));
    }
    assert_eq!((h.stat(file).ctime, h.stat(file).mtime), (now, born.mtime));
}

#[test]
fn what_is_replaced_loses_its_name() {
    let mut h = Harness::new();
    let (f, g) = (h.file(h.root, "f"), h.file(h.root, "g"));
    assert_eq!(h.ok(h.renaming((h.root, "f"), (h.root, "g"), 0)), renamed(f, g));
    assert_eq!(h.state.attributes(g), Err(Errno::ESTALE));
    let kept = h.file(h.root, "kept");
    let mut operation = h.renaming((h.root, "g"), (h.root, "kept"), 0);
    let Operation::Rename(body) = &mut operation else { panic!() };
    body.open = true;
    assert_eq!(h.ok(operation), renamed(f, kept));
    assert_eq!(h.state.orphans(Fid::NONE, 9), [kept]);
}

#[test]
fn two_names_of_one_inode_both_stay() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    h.ok(link(file, h.root, "g"));
    let before = h.stat(file);
    assert_eq!(h.ok(h.renaming((h.root, "f"), (h.root, "g"), 0)), renamed(file, Fid::NONE));
    assert_eq!(h.ok(h.renaming((h.root, "f"), (h.root, "f"), 0)), renamed(file, Fid::NONE));
    assert_eq!(h.stat(file), before);
    assert_eq!(h.find(h.root, "f"), Ok(file));
    let refused = h.renaming((h.root, "f"), (h.root, "g"), NOREPLACE);
    assert_eq!(h.err(refused), Errno::EEXIST);
}

#[test]
fn kinds_must_agree() {
    let mut h = Harness::new();
    let (d, e) = (h.dir(h.root, "d"), h.dir(h.root, "e"));
    h.file(h.root, "f");
    h.file(e, "in");
    assert_eq!(h.err(h.renaming((h.root, "f"), (h.root, "d"), 0)), Errno::EISDIR);
    assert_eq!(h.err(h.renaming((h.root, "d"), (h.root, "f"), 0)), Errno::ENOTDIR);
    assert_eq!(h.err(h.renaming((h.root, "d"), (h.root, "e"), 0)), Errno::ENOTEMPTY);
    assert_eq!(h.ok(h.renaming((h.root, "e"), (h.root, "d"), 0)), renamed(e, d));
    assert_eq!(h.stat(h.root).nlink, 3);
    assert_eq!(h.err(h.renaming((h.root, "no"), (h.root, "x"), 0)), Errno::ENOENT);
}

#[test]
fn a_directory_takes_its_parent_along() {
    let mut h = Harness::new();
    let (a, b) = (h.dir(h.root, "a"), h.dir(h.root, "b"));
    let d = h.dir(a, "d");
    h.ok(h.renaming((a, "d"), (b, "d"), 0));
    assert_eq!((h.stat(a).nlink, h.stat(b).nlink, h.state.parent(d)), (2, 3, Ok(b)));
    // Over an empty directory elsewhere.
    h.dir(a, "x");
    h.ok(h.renaming((b, "d"), (a, "x"), 0));
    assert_eq!((h.stat(a).nlink, h.stat(b).nlink, h.state.parent(d)), (3, 2, Ok(a)));
}

#[test]
fn a_directory_cannot_move_into_itself() {
    let mut h = Harness::new();
    let a = h.dir(h.root, "a");
    let b = h.dir(a, "b");
    let c = h.dir(b, "c");
    assert_eq!(h.err(h.renaming((h.root, "a"), (a, "x"), 0)), Errno::EINVAL);
    assert_eq!(h.err(h.renaming((h.root, "a"), (c, "x"), 0)), Errno::EINVAL);
    assert_eq!(h.err(h.renaming((b, "c"), (h.root, "a"), 0)), Errno::ENOTEMPTY);
    assert_eq!(h.err(h.renaming((b, "c"), (h.root, "a"), EXCHANGE)), Errno::EINVAL);
    assert_eq!(h.err(h.renaming((h.root, "a"), (b, "c"), EXCHANGE)), Errno::EINVAL);
}

#[test]
fn an_exchange_swaps_names_of_any_kind() {
    let mut h = Harness::new();
    let (a, b) = (h.dir(h.root, "a"), h.dir(h.root, "b"));
    let (d, f) = (h.dir(a, "d"), h.file(b, "f"));
    h.file(d, "inside");
    let now = h.now();
    assert_eq!(h.ok(h.renaming((a, "d"), (b, "f"), EXCHANGE)), renamed(d, f));
    assert_eq!((h.find(a, "d"), h.find(b, "f")), (Ok(f), Ok(d)));
    assert_eq!((h.stat(a).nlink, h.stat(b).nlink, h.state.parent(d)), (2, 3, Ok(b)));
    assert!([a, b, d, f].iter().all(|&fid| h.stat(fid).ctime == now));
    assert_eq!(h.err(h.renaming((a, "d"), (b, "none"), EXCHANGE)), Errno::ENOENT);
    let both = h.renaming((a, "d"), (b, "f"), EXCHANGE | NOREPLACE);
    assert_eq!(h.err(both), Errno::EINVAL);
    assert_eq!(h.err(h.renaming((a, "d"), (b, "f"), 8)), Errno::EINVAL);
}

#[test]
fn a_whiteout_stays_where_the_name_was() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let whiteout = h.next_fid();
    let mut operation = h.renaming((h.root, "f"), (h.root, "g"), WHITEOUT);
    let Operation::Rename(body) = &mut operation else { panic!() };
    body.request.whiteout = whiteout;
    h.ok(operation.clone());
    assert_eq!((h.find(h.root, "f"), h.find(h.root, "g")), (Ok(whiteout), Ok(file)));
    let stat = h.stat(whiteout);
    assert_eq!((stat.kind, stat.rdev, stat.permissions), (FileKind::CharDevice, 0, 0));
    let Operation::Rename(body) = &mut operation else { panic!() };
    body.request.whiteout = Fid::new(1, 1);
    assert_eq!(h.err(operation), Errno::EINVAL);
}

#[test]
fn names_do_not_leave_their_file_system() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let other = h.make_filesystem("two");
    assert_eq!(h.err(h.renaming((h.root, "f"), (other, "f"), 0)), Errno::EXDEV);
    assert_eq!(h.err(link(file, other, "f")), Errno::EXDEV);
}

#[test]
fn flags_of_directories_and_files_forbid_moves() {
    let mut h = Harness::new();
    let (a, b) = (h.dir(h.root, "a"), h.dir(h.root, "b"));
    let (f, _) = (h.file(a, "f"), h.file(b, "g"));
    h.chattr(f, flags::IMMUTABLE);
    assert_eq!(h.err(h.renaming((a, "f"), (b, "x"), 0)), Errno::EPERM);
    assert_eq!(h.err(h.renaming((b, "g"), (a, "f"), 0)), Errno::EPERM);
    h.chattr(f, 0);
    h.chattr(a, flags::APPEND);
    assert_eq!(h.err(h.renaming((a, "f"), (b, "x"), 0)), Errno::EPERM);
    h.ok(h.renaming((b, "g"), (a, "new"), 0));
}

//! SetAttributes, UpdateSize, InstantiateLayout.

use sheen_wire::{
    fields::List,
    lease::SizeUpdate,
    metadata::{Access, InstantiateLayout, TellAccesses, set},
};

use super::*;
use crate::{acl, state::inode::flags};

fn at(seconds: i64) -> Timespec {
    Timespec { seconds, nanoseconds: 9 }
}

fn set_ok(h: &mut Harness, request: SetAttributes) {
    assert_eq!(h.ok(Operation::SetAttributes(request)), Reply::Done);
}

#[test]
fn a_chmod_changes_mode_and_ctime_only() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let before = h.stat(file);
    let now = h.now();
    h.chmod(file, 0o6711);
    let expected = Attributes { permissions: 0o6711, ctime: now, ..before };
    assert_eq!(h.stat(file), expected);
}

#[test]
fn a_change_of_owner_takes_set_id_bits_and_capabilities() {
    let mut h = Harness::new();
    let (file, dir) = (h.file(h.root, "f"), h.dir(h.root, "d"));
    h.chmod(file, 0o6755);
    h.chmod(dir, 0o6755);
    h.ok(setxattr(file, "security.capability", b"cap", 0));
    for fid in [file, dir] {
        let request = SetAttributes { uid: 7, gid: 8, ..h.setting(fid, set::UID | set::GID) };
        set_ok(&mut h, request);
        assert_eq!((h.stat(fid).uid, h.stat(fid).gid), (7, 8));
    }
    assert_eq!((h.stat(file).permissions, h.stat(dir).permissions), (0o755, 0o6755));
    assert_eq!(h.state.xattr(file, &name("security.capability").into()), Err(Errno::ENODATA));
    // Without group execution set-group-ID means mandatory locking and stays.
    h.chmod(file, 0o6744);
    let request = h.setting(file, set::KILL_SUIDGID);
    set_ok(&mut h, request);
    assert_eq!(h.stat(file).permissions, 0o2744);
    // It does not for a writer outside of the group.
    let request = h.setting(file, set::KILL_SUIDGID | set::KILL_SGID);
    set_ok(&mut h, request);
    assert_eq!(h.stat(file).permissions, 0o744);
}

#[test]
fn times_are_set_as_asked() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let valid = set::ATIME | set::MTIME;
    let request = SetAttributes { atime: at(1), mtime: at(-2), ..h.setting(file, valid) };
    let now = h.now();
    set_ok(&mut h, request);
    let stat = h.stat(file);
    assert_eq!((stat.atime, stat.mtime, stat.ctime), (at(1), at(-2), now));
    let now = h.now();
    let request = h.setting(file, set::MTIME_NOW | set::ATIME_NOW);
    set_ok(&mut h, request);
    assert_eq!((h.stat(file).atime, h.stat(file).mtime, h.stat(file).ctime), (now, now, now));
    let request = SetAttributes { ctime: at(9), ..h.setting(file, set::CTIME) };
    set_ok(&mut h, request);
    assert_eq!(h.stat(file).ctime, at(9));
}

#[test]
fn a_time_that_is_set_after_what_the_objects_have_is_later_than_that() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let ahead = h.now().after(std::time::Duration::from_secs(7200));
    let request =
        SetAttributes { mtime: at(5), ctime: ahead, ..h.setting(file, set::MTIME | set::AFTER) };
    set_ok(&mut h, request);
    let stat = h.stat(file);
    assert_eq!((stat.mtime, stat.mtime_set, stat.ctime), (at(5), ahead, ahead));
    let now = h.now();
    let request = h.setting(file, set::MTIME_NOW | set::ATIME_NOW);
    set_ok(&mut h, request);
    let stat = h.stat(file);
    assert_eq!((stat.mtime, stat.atime), (now, now), "now is now, whatever the change's time");
    assert_eq!((stat.mtime_set, stat.ctime), (ahead.just_after(), ahead.just_after()));
    let request =
        SetAttributes { mtime: at(6), ctime: at(1), ..h.setting(file, set::MTIME | set::AFTER) };
    set_ok(&mut h, request);
    assert!(h.stat(file).ctime > ahead, "it never goes back");
}

#[test]
fn the_time_of_a_change_never_goes_back_and_shows_each() {
    let mut h = Harness::new();
    let (file, dir) = (h.file(h.root, "f"), h.dir(h.root, "d"));
    let before = h.stat(file).ctime;
    let early = |h: &mut Harness, operation| {
        let entry = Entry { time: at(1), ..h.entry(operation) };
        h.apply_entry(entry).result.unwrap();
    };
    let request = SetAttributes { permissions: 0o600, ..h.setting(file, set::MODE) };
    let mut last = before;
    for operation in [
        Operation::SetAttributes(request),
        setxattr(file, "user.a", b"", 0),
        link(file, dir, "again"),
    ] {
        early(&mut h, operation);
        assert_eq!(h.stat(file).ctime, last.just_after());
        last = h.stat(file).ctime;
    }
    let made = h.stat(dir);
    assert_eq!((made.mtime, made.ctime), (made.btime.just_after(), made.btime.just_after()));
    let request = h.setting(file, set::MTIME_NOW);
    early(&mut h, Operation::SetAttributes(request));
    let stat = h.stat(file);
    assert_eq!((stat.mtime, stat.mtime_set), (at(1), last.just_after()), "now is now");
}

#[test]
fn accesses_are_stored_many_at_a_time_and_change_nothing_else() {
    let mut h = Harness::new();
    let files: Vec<Fid> = (0..3).map(|n| h.file(h.root, &format!("f{n}"))).collect();
    h.chattr(files[2], flags::NOATIME);
    let before: Vec<Attributes> = files.iter().map(|file| h.stat(*file)).collect();
    let atime = h.now();
    let gone = Fid { oid: 999, ..files[0] };
    let all = [(files[0], atime), (gone, atime), (files[1], at(1)), (files[2], atime)];
    let all = all.map(|(fid, atime)| Access { fid, atime });
    h.ok(Operation::UpdateAccesses(TellAccesses { accesses: List(all.to_vec()) }));
    let after: Vec<Attributes> = files.iter().map(|file| h.stat(*file)).collect();
    assert_eq!(after, [Attributes { atime, atime_set: atime, ..before[0] }, before[1], before[2]]);
}

#[test]
fn a_read_before_an_access_time_was_set_by_hand_does_not_undo_it() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let read = h.now();
    h.chmod(file, 0o600);
    let tell = |h: &mut Harness, atime| {
        let accesses = List(vec![Access { fid: file, atime }]);
        h.ok(Operation::UpdateAccesses(TellAccesses { accesses }));
        h.stat(file).atime
    };
    let request = SetAttributes { atime: at(5), ..h.setting(file, set::ATIME) };
    set_ok(&mut h, request);
    assert_eq!(tell(&mut h, read), at(5), "before");
    let update = SizeUpdate { fid: file, size: 1, blocks: 1, mtime: read, atime: read };
    h.ok(Operation::UpdateSize(update));
    assert_eq!(h.stat(file).atime, at(5), "before");
    let ctime = h.stat(file).ctime;
    assert_eq!(tell(&mut h, ctime.just_after()), ctime.just_after(), "after");
    let tomorrow = SetAttributes { atime: at(1 << 40), ..h.setting(file, set::ATIME) };
    set_ok(&mut h, tomorrow);
    let again = h.now();
    assert_eq!(tell(&mut h, again), again, "after it was set to the future");
    // A change of another kind does not make a read before it an older one.
    let read = h.now();
    h.chmod(file, 0o640);
    assert_eq!(tell(&mut h, read), read);
}

#[test]
fn a_truncation_changes_size_mtime_and_ctime() {
    let mut h = Harness::new();
    let (file, dir) = (h.file(h.root, "f"), h.dir(h.root, "d"));
    let request = SetAttributes { size: 123, ..h.setting(file, set::SIZE) };
    let now = h.now();
    set_ok(&mut h, request.clone());
    assert_eq!((h.stat(file).size, h.stat(file).mtime, h.stat(file).ctime), (123, now, now));
    let wrong = SetAttributes { fid: dir, ..request.clone() };
    assert_eq!(h.err(Operation::SetAttributes(wrong)), Errno::EISDIR);
    let huge = SetAttributes { size: 1 << 63, ..request.clone() };
    assert_eq!(h.err(Operation::SetAttributes(huge)), Errno::EFBIG);
    let unknown = SetAttributes { valid: 1 << 30, ..request };
    assert_eq!(h.err(Operation::SetAttributes(unknown)), Errno::EINVAL);
    let nothing = h.setting(file, 0);
    let before = h.stat(file);
    set_ok(&mut h, nothing);
    assert_eq!(h.stat(file), before);
}

#[test]
fn immutable_inodes_change_nothing_and_append_only_ones_little() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    h.chattr(file, flags::IMMUTABLE);
    for valid in [set::MODE, set::UID, set::SIZE, set::MTIME, set::MTIME_NOW, set::KILL_SUIDGID] {
        let request = h.setting(file, valid);
        assert_eq!(h.err(Operation::SetAttributes(request)), Errno::EPERM, "{valid}");
    }
    assert_eq!(h.err(setxattr(file, "user.a", b"", 0)), Errno::EPERM);
    assert_eq!(h.err(removexattr(file, "user.a")), Errno::EPERM);
    let objects = InstantiateLayout { fid: file, start: 0, end: 4096 };
    assert_eq!(h.err(Operation::InstantiateLayout(objects)), Errno::EPERM);
    h.chattr(file, flags::APPEND);
    for valid in [set::MODE, set::SIZE, set::ATIME] {
        let request = h.setting(file, valid);
        assert_eq!(h.err(Operation::SetAttributes(request)), Errno::EPERM, "{valid}");
    }
    let request = h.setting(file, set::MTIME_NOW);
    set_ok(&mut h, request);
    // Only root takes the flag away.
    h.user = USER;
    let request = h.setting(file, set::FLAGS);
    assert_eq!(h.err(Operation::SetAttributes(request)), Errno::EPERM);
    h.chattr(file, 0);
    let request = SetAttributes { flags: flags::NODUMP, ..h.setting(file, set::FLAGS) };
    set_ok(&mut h, request);
    let unknown = SetAttributes { flags: 1 << 31, ..h.setting(file, set::FLAGS) };
    assert_eq!(h.err(Operation::SetAttributes(unknown)), Errno::EOPNOTSUPP);
}

#[test]
fn what_a_writer_learned_counts_if_it_is_later() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let late = h.now();
    let update = SizeUpdate { fid: file, size: 10, blocks: 8, mtime: late, atime: at(1) };
    h.ok(Operation::UpdateSize(update.clone()));
    let stat = h.stat(file);
    assert_eq!((stat.size, stat.blocks, stat.mtime, stat.ctime), (10, 8, late, late));
    assert_ne!(stat.atime, at(1));
    let now = h.now();
    let early = SizeUpdate { size: 20, mtime: at(3), atime: at(99_999), ..update };
    h.ok(Operation::UpdateSize(early.clone()));
    let stat = h.stat(file);
    assert_eq!((stat.size, stat.mtime, stat.atime), (20, late, now), "nobody reads tomorrow");
    // A change of attributes since does not make it the older one.
    let written = h.now();
    h.chmod(file, 0o600);
    let ctime = h.stat(file).ctime;
    h.ok(Operation::UpdateSize(SizeUpdate { mtime: written, ..early.clone() }));
    assert_eq!((h.stat(file).mtime, h.stat(file).ctime), (written, ctime));
    let now = h.now();
    h.ok(Operation::UpdateSize(SizeUpdate { mtime: at(99_999), ..early.clone() }));
    assert_eq!((h.stat(file).mtime, h.stat(file).ctime), (now, now), "no clock but the server's");
    // A time set by hand after the write stays, though the write's is later.
    let request = SetAttributes { mtime: at(5), ..h.setting(file, set::MTIME) };
    h.ok(Operation::SetAttributes(request));
    let ctime = h.stat(file).ctime;
    let written = Timespec { seconds: ctime.seconds - 1, nanoseconds: 0 };
    h.ok(Operation::UpdateSize(SizeUpdate { mtime: written, ..early.clone() }));
    assert_eq!((h.stat(file).mtime, h.stat(file).ctime), (at(5), ctime));
    let dir = SizeUpdate { fid: h.root, ..early };
    assert_eq!(h.err(Operation::UpdateSize(dir)), Errno::EINVAL);
}

#[test]
fn components_get_objects_when_they_are_needed() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let first = h.state.layout(file).unwrap();
    let request = InstantiateLayout { fid: file, start: 99 << 20, end: (100 << 20) + 1 };
    h.ok(Operation::InstantiateLayout(request.clone()));
    let layout = h.state.layout(file).unwrap();
    assert_eq!(layout.generation, first.generation + 1);
    assert_eq!(layout.components[0], first.components[0]);
    assert!(layout.components[1].is_instantiated() && !layout.components[2].is_instantiated());
    h.ok(Operation::InstantiateLayout(request));
    assert_eq!(h.state.layout(file).unwrap(), layout);
    let empty = InstantiateLayout { fid: file, start: 5, end: 5 };
    assert_eq!(h.err(Operation::InstantiateLayout(empty)), Errno::EINVAL);
    let dir = InstantiateLayout { fid: h.root, start: 0, end: 5 };
    assert_eq!(h.err(Operation::InstantiateLayout(dir)), Errno::EINVAL);
}

#[test]
fn a_chmod_narrows_the_mask_of_an_access_list() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let list = acl::test::value(acl::test::NAMED);
    h.ok(setxattr(file, "system.posix_acl_access", &list, 0));
    assert_eq!(h.stat(file).permissions, 0o774);
    h.chmod(file, 0o700);
    let kept = h.state.xattr(file, &name("system.posix_acl_access").into()).unwrap();
    let narrowed =
        acl::test::value(&[(1, 7, !0), (2, 6, 1000), (4, 5, !0), (16, 0, !0), (32, 0, !0)]);
    assert_eq!(kept, narrowed);
}

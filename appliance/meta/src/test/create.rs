//! Create and Link.

use sheen_wire::metadata::{Create, InstantiateLayout};

use super::*;
use crate::state::inode::flags;

#[test]
fn a_new_file_has_owner_mode_times_and_a_layout() {
    let mut h = Harness::new();
    h.user = USER;
    let now = h.now();
    let file = h.file(h.root, "f");
    let stat = h.stat(file);
    assert_eq!((stat.uid, stat.gid, stat.permissions, stat.nlink), (1000, 1000, 0o644, 1));
    assert_eq!((stat.atime, stat.mtime, stat.ctime, stat.btime), (now, now, now, now));
    assert_eq!((stat.size, stat.blocks), (0, 0));
    assert!(h.state.layout(file).unwrap().components[0].is_instantiated());
    let root = h.stat(h.root);
    assert_eq!((root.mtime, root.ctime, root.nlink), (now, now, 2));
    assert_ne!(root.atime, now);
    assert_eq!(h.find(h.root, "f"), Ok(file));
    assert_eq!(h.state.filesystem(h.root).unwrap().inodes, 2);
}

#[test]
fn subdirectories_count_as_links_of_their_parent() {
    let mut h = Harness::new();
    let a = h.dir(h.root, "a");
    h.dir(a, "b");
    h.dir(a, "c");
    h.file(a, "d");
    assert_eq!((h.stat(h.root).nlink, h.stat(a).nlink), (3, 4));
    assert_eq!(h.state.parent(a), Ok(h.root));
    assert_eq!(h.state.parent(h.root), Ok(h.root));
}

#[test]
fn an_existing_name_is_refused_or_opened() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let request = h.creation(h.root, "f", FileKind::Regular);
    assert_eq!(h.err(create(request.clone())), Errno::EEXIST);
    let opening = Create { exclusive: false, ..request };
    assert_eq!(h.ok(create(opening)), Reply::Entry { fid: file, created: false });
    let other = h.creation(h.root, "f", FileKind::Directory);
    assert_eq!(h.err(create(Create { exclusive: false, ..other })), Errno::EEXIST);
}

#[test]
fn a_create_with_the_same_id_is_the_same_create() {
    let mut h = Harness::new();
    let request = h.creation(h.root, "f", FileKind::Regular);
    let fid = request.fid;
    h.ok(create(request.clone()));
    let before = h.stat(h.root);
    assert_eq!(h.ok(create(request.clone())), Reply::Entry { fid, created: true });
    assert_eq!(h.stat(h.root), before);
    let elsewhere = Create { name: name("g"), ..request };
    assert_eq!(h.err(create(elsewhere)), Errno::EEXIST);
}

#[test]
fn ids_come_from_sequences_granted_to_the_session() {
    let mut h = Harness::new();
    let mine = h.next_fid();
    for fid in [
        Fid::new(mine.seq + 100, 1),
        Fid::new(mine.seq, 0),
        Fid::new(mine.seq, Fid::SEQUENCE_WIDTH + 1),
        Fid { ver: 1, ..mine },
        Fid::NONE,
    ] {
        let request = h.creation(h.root, "f", FileKind::Regular);
        assert_eq!(h.err(create(Create { fid, ..request })), Errno::EINVAL, "{fid}");
    }
    h.mount("one");
    let request = h.creation(h.root, "f", FileKind::Regular);
    assert_eq!(h.err(create(Create { fid: mine, ..request })), Errno::EINVAL);
}

#[test]
fn special_files_and_symlinks_keep_what_they_are() {
    let mut h = Harness::new();
    let request = h.creation(h.root, "null", FileKind::CharDevice);
    let device = request.fid;
    h.ok(create(Create { rdev: 0x103, ..request }));
    assert_eq!((h.stat(device).rdev, h.stat(device).kind), (0x103, FileKind::CharDevice));
    let request = h.creation(h.root, "link", FileKind::Symlink);
    let link = request.fid;
    let body = CreateInode { request, target: b"../target".to_vec() };
    h.ok(Operation::Create(body.clone()));
    let stat = h.stat(link);
    assert_eq!((stat.size, stat.permissions), (9, 0o777));
    assert_eq!(h.state.read_link(link), Ok(&b"../target"[..]));
    assert_eq!(h.state.read_link(device), Err(Errno::EINVAL));
    for (target, errno) in [
        (Vec::new(), Errno::ENOENT),
        (vec![b'x'; 4096], Errno::ENAMETOOLONG),
        (vec![b'x', 0], Errno::EINVAL),
    ] {
        let request = h.creation(h.root, "other", FileKind::Symlink);
        assert_eq!(h.err(Operation::Create(CreateInode { request, target })), errno);
    }
}

#[test]
fn a_directory_with_set_group_id_gives_its_group() {
    let mut h = Harness::new();
    h.user = USER;
    let top = h.dir(h.root, "top");
    h.chmod(top, 0o2777);
    h.user = OTHER;
    let sub = h.dir(top, "sub");
    assert_eq!((h.stat(sub).gid, h.stat(sub).permissions), (1000, 0o2755));
    let plain = h.file(top, "plain");
    assert_eq!((h.stat(plain).uid, h.stat(plain).gid), (2000, 1000));
    // Whether the maker may give it, the client knows.
    for (text, asked, got) in [("program", 0o2775, 0o2755), ("locked", 0o2664, 0o2644)] {
        let request = h.creation(top, text, FileKind::Regular);
        let fid = request.fid;
        h.ok(create(Create { permissions: asked, ..request }));
        assert_eq!(h.stat(fid).permissions, got);
    }
    for (user, text) in [(USER, "own"), (ROOT_USER, "root's")] {
        h.user = user;
        let request = h.creation(top, text, FileKind::Regular);
        let fid = request.fid;
        h.ok(create(Create { permissions: 0o2775, ..request }));
        assert_eq!((h.stat(fid).permissions, h.stat(fid).gid), (0o2755, 1000));
    }
}

#[test]
fn compression_is_inherited_by_files_and_directories_alone() {
    use sheen_types::{Compression, compression};
    let mut h = Harness::new();
    let top = h.dir(h.root, "top");
    for choice in [Compression::Zstd, Compression::Lz4, Compression::None] {
        h.chattr(top, choice.in_flags(flags::NODUMP));
        let (file, sub) = (h.file(top, choice.name()), h.dir(top, &format!("{choice}.d")));
        let wanted = choice.in_flags(flags::NODUMP);
        assert_eq!((h.stat(file).flags, h.stat(sub).flags), (wanted, wanted));
        let fifo = h.creation(top, &format!("{choice}.p"), FileKind::Fifo);
        let fid = fifo.fid;
        h.ok(create(fifo));
        assert_eq!(h.stat(fid).flags, flags::NODUMP);
    }
    // What was there before keeps its own choice.
    let (on, off) = (compression::flags::COMPRESS, compression::flags::NO_COMPRESS);
    let file = h.file(top, "mine");
    assert_eq!(h.stat(file).flags, off | flags::NODUMP);
    h.chattr(file, on | off);
    assert_eq!(h.stat(file).flags, on, "chattr +c takes +m away");
    h.chattr(file, on | off);
    assert_eq!(h.stat(file).flags, off, "chattr +m takes +c away");
}

#[test]
fn flags_and_project_are_inherited() {
    let mut h = Harness::new();
    let top = h.dir(h.root, "top");
    h.chattr(top, flags::NODUMP | flags::PROJINHERIT | flags::DIRSYNC);
    let request = SetAttributes { projid: 42, ..h.setting(top, sheen_wire::metadata::set::PROJID) };
    h.ok(Operation::SetAttributes(request));
    let (file, sub) = (h.file(top, "f"), h.dir(top, "d"));
    assert_eq!((h.stat(file).projid, h.stat(file).flags), (42, flags::NODUMP));
    let all = flags::NODUMP | flags::PROJINHERIT | flags::DIRSYNC;
    assert_eq!((h.stat(sub).projid, h.stat(sub).flags), (42, all));
    let stranger = h.file(h.root, "stranger");
    assert_eq!(h.err(link(stranger, top, "l")), Errno::EXDEV);
    let moving = h.renaming((h.root, "stranger"), (top, "s"), 0);
    assert_eq!(h.err(moving), Errno::EXDEV);
}

#[test]
fn directories_that_take_no_names_refuse() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let request = h.creation(file, "x", FileKind::Regular);
    assert_eq!(h.err(create(request)), Errno::ENOTDIR);
    let fixed = h.dir(h.root, "fixed");
    h.chattr(fixed, flags::IMMUTABLE);
    let request = h.creation(fixed, "x", FileKind::Regular);
    assert_eq!(h.err(create(request)), Errno::EPERM);
    assert_eq!(h.err(link(file, fixed, "x")), Errno::EPERM);
    let growing = h.dir(h.root, "growing");
    h.chattr(growing, flags::APPEND);
    h.file(growing, "x");
    let gone = h.dir(h.root, "gone");
    let removal = h.removal(h.root, "gone", true, true);
    h.ok(removal);
    let request = h.creation(gone, "x", FileKind::Regular);
    assert_eq!(h.err(create(request)), Errno::ENOENT);
    assert_eq!(h.err(link(file, gone, "x")), Errno::ENOENT);
    let nowhere = h.creation(Fid::new(0x1234, 1), "x", FileKind::Regular);
    assert_eq!(h.err(create(nowhere)), Errno::ESTALE);
}

#[test]
fn a_full_state_refuses_new_inodes() {
    let mut h = Harness::with_limits(Limits { inodes_max: 3, ..Limits::default() });
    h.file(h.root, "a");
    h.file(h.root, "b");
    let request = h.creation(h.root, "c", FileKind::Regular);
    assert_eq!(h.err(create(request.clone())), Errno::ENOSPC);
    let removal = h.unlinking(h.root, "a");
    h.ok(removal);
    h.ok(create(request));
}

#[test]
fn hard_links_count_and_change_ctime() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let born = h.stat(file);
    let now = h.now();
    assert_eq!(h.ok(link(file, h.root, "g")), Reply::Entry { fid: file, created: false });
    let stat = h.stat(file);
    assert_eq!((stat.nlink, stat.ctime, stat.mtime), (2, now, born.mtime));
    assert_eq!(h.stat(h.root).mtime, now);
    assert_eq!(h.err(link(file, h.root, "g")), Errno::EEXIST);
    let dir = h.dir(h.root, "d");
    assert_eq!(h.err(link(dir, h.root, "e")), Errno::EPERM);
    h.chattr(file, flags::APPEND);
    assert_eq!(h.err(link(file, h.root, "h")), Errno::EPERM);
}

#[test]
fn a_file_has_at_most_65000_names() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    h.checks = false;
    for number in 1..65_000 {
        h.ok(link(file, h.root, &format!("l{number}")));
    }
    assert_eq!(h.stat(file).nlink, 65_000);
    assert_eq!(h.err(link(file, h.root, "more")), Errno::EMLINK);
    assert_eq!(h.state.check(), Ok(()));
}

#[test]
fn an_unnamed_file_is_an_orphan_until_it_is_linked() {
    let mut h = Harness::new();
    let request = h.creation(h.root, "ignored", FileKind::Regular);
    let file = request.fid;
    let request = Create { unnamed: true, ..request };
    h.ok(create(request.clone()));
    assert_eq!(h.find(h.root, "ignored"), Err(Errno::ENOENT));
    assert_eq!((h.stat(file).nlink, h.state.orphans(Fid::NONE, 9)), (0, vec![file]));
    assert_eq!(h.ok(create(request)), Reply::Entry { fid: file, created: true });
    h.ok(link(file, h.root, "named"));
    assert_eq!((h.stat(file).nlink, h.state.orphans(Fid::NONE, 9)), (1, vec![]));
    let directory = h.creation(h.root, "x", FileKind::Directory);
    assert_eq!(h.err(create(Create { unnamed: true, ..directory })), Errno::EINVAL);
}

/// What an entry of an older release gave is named as it was then, also when it is applied again: OSTs know it by that.
#[test]
fn new_objects_carry_their_file_system_unless_the_entry_is_older() {
    let mut h = Harness::new();
    let objects = |h: &Harness, file: Fid| -> Vec<Vec<u32>> {
        let components = h.state.layout(file).unwrap().components;
        let labels =
            |it: &sheen_types::Component| it.objects.iter().map(|it| it.object.ver).collect();
        components.iter().map(labels).filter(|labels: &Vec<u32>| !labels.is_empty()).collect()
    };
    let file = h.file(h.root, "f");
    assert_eq!(objects(&h, file), [[h.root.oid]]);
    let request = h.creation(h.root, "old", FileKind::Regular);
    let old = request.fid;
    let entry = h.entry(create(request));
    let outcome = h.apply_entry(Entry { labelled: false, ..entry });
    assert!(outcome.result.is_ok());
    assert_eq!(objects(&h, old), [[0]]);
    let grow = InstantiateLayout { fid: old, start: 0, end: 200 << 20 };
    h.ok(Operation::InstantiateLayout(grow));
    let labels = objects(&h, old);
    assert_eq!((labels.len(), &labels[0][..]), (2, &[0][..]), "what it has stays what it is");
    assert!(labels[1].iter().all(|&label| label == h.root.oid), "{labels:?}");
    h.make_filesystem("another");
    h.mount("another");
    let file = h.file(h.root, "f");
    assert_eq!(objects(&h, file), [[h.root.oid]]);
}

//! Extended attributes and access control lists.

use sheen_wire::metadata::Create;

use super::*;
use crate::acl::test::{NAMED, value};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

fn get(h: &Harness, fid: Fid, text: &str) -> Result<Vec<u8>, Errno> {
    h.state.xattr(fid, &name(text).into()).map(<[u8]>::to_vec)
}

#[test]
fn attributes_are_set_read_listed_and_removed() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let now = h.now();
    h.ok(setxattr(file, "user.b", b"2", 0));
    assert_eq!(h.stat(file).ctime, now);
    h.ok(setxattr(file, "trusted.a", b"", 1));
    h.ok(setxattr(file, "user.b", b"3", 2));
    assert_eq!(get(&h, file, "user.b"), Ok(b"3".to_vec()));
    assert_eq!(h.state.xattr_names(file).unwrap(), b"trusted.a\0user.b\0");
    assert_eq!(h.err(setxattr(file, "user.b", b"", 1)), Errno::EEXIST);
    assert_eq!(h.err(setxattr(file, "user.c", b"", 2)), Errno::ENODATA);
    assert_eq!(h.err(setxattr(file, "user.c", b"", 4)), Errno::EINVAL);
    h.ok(removexattr(file, "user.b"));
    assert!(h.stat(file).has_xattrs && !h.stat(h.root).has_xattrs);
    assert_eq!(h.err(removexattr(file, "user.b")), Errno::ENODATA);
    assert_eq!(get(&h, file, "user.b"), Err(Errno::ENODATA));
}

#[test]
fn names_belong_to_a_space_and_spaces_to_kinds() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    assert_eq!(h.err(setxattr(file, "other.a", b"", 0)), Errno::EOPNOTSUPP);
    assert_eq!(h.err(setxattr(file, "user.", b"", 0)), Errno::EINVAL);
    assert_eq!(get(&h, file, "system.other"), Err(Errno::EOPNOTSUPP));
    let fifo = h.make(h.root, "p", FileKind::Fifo);
    assert_eq!(h.err(setxattr(fifo, "user.a", b"", 0)), Errno::EPERM);
    h.ok(setxattr(fifo, "security.a", b"", 0));
}

#[test]
fn attributes_have_bounds() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let largest = vec![1; Limits::XATTR_BYTES_MAX];
    assert_eq!(h.err(setxattr(file, "user.a", &[0; Limits::XATTR_BYTES_MAX + 1], 0)), Errno::E2BIG);
    for number in 0..15 {
        h.ok(setxattr(file, &format!("user.{number}"), &largest, 0));
    }
    assert_eq!(h.err(setxattr(file, "user.15", &largest, 0)), Errno::ENOSPC);
    h.ok(setxattr(file, "user.14", b"small", 0));
    h.ok(setxattr(file, "user.15", &largest, 0));
    let names = h.file(h.root, "names");
    for number in 0..256 {
        h.ok(setxattr(names, &format!("user.{number:0250}"), b"", 0));
    }
    assert_eq!(h.state.xattr_names(names).unwrap().len(), Limits::XATTR_NAMES_BYTES_MAX);
    assert_eq!(h.err(setxattr(names, "user.x", b"", 0)), Errno::ENOSPC);
}

#[test]
fn an_access_list_sets_the_mode_and_is_kept_if_it_says_more() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    h.chmod(file, 0o2644);
    h.ok(setxattr(file, ACCESS, &value(NAMED), 0));
    assert_eq!(h.stat(file).permissions, 0o2774);
    assert_eq!(get(&h, file, ACCESS), Ok(value(NAMED)));
    h.ok(setxattr(file, ACCESS, &value(&[(1, 6, !0), (4, 4, !0), (32, 0, !0)]), 0));
    assert_eq!((h.stat(file).permissions, get(&h, file, ACCESS)), (0o2640, Err(Errno::ENODATA)));
    h.ok(setxattr(file, ACCESS, &value(NAMED), 0));
    h.ok(removexattr(file, ACCESS));
    h.ok(removexattr(file, ACCESS));
    assert_eq!(get(&h, file, ACCESS), Err(Errno::ENODATA));
    assert_eq!(h.err(setxattr(file, ACCESS, &[9, 0, 0, 0], 0)), Errno::EOPNOTSUPP);
    let request = SetXattr { fid: file, name: name(ACCESS).into(), flags: 0, kill_sgid: true };
    h.ok(Operation::SetXattr(PutXattr { request, value: value(NAMED) }));
    assert_eq!(h.stat(file).permissions, 0o774);
}

#[test]
fn default_lists_are_of_directories_and_inherited_instead_of_the_umask() {
    let mut h = Harness::new();
    let (file, dir) = (h.file(h.root, "f"), h.dir(h.root, "d"));
    assert_eq!(h.err(setxattr(file, DEFAULT, &value(NAMED), 0)), Errno::EACCES);
    h.ok(setxattr(dir, DEFAULT, &value(NAMED), 0));
    assert_eq!(h.stat(dir).permissions, 0o755);
    let request = h.creation(dir, "new", FileKind::Regular);
    let new = request.fid;
    h.ok(create(Create { permissions: 0o660, umask: 0o077, ..request }));
    assert_eq!(h.stat(new).permissions, 0o660);
    let narrowed = value(&[(1, 6, !0), (2, 6, 1000), (4, 5, !0), (16, 6, !0), (32, 0, !0)]);
    assert_eq!(get(&h, new, ACCESS), Ok(narrowed));
    assert_eq!(get(&h, new, DEFAULT), Err(Errno::ENODATA));
    let request = h.creation(dir, "program", FileKind::Regular);
    let program = request.fid;
    h.ok(create(Create { permissions: 0o4777, ..request }));
    assert_eq!(h.stat(program).permissions, 0o4774);
    let sub = h.dir(dir, "sub");
    assert_eq!(get(&h, sub, DEFAULT), Ok(value(NAMED)));
    assert_eq!(h.stat(sub).permissions, 0o774);
    let body =
        CreateInode { request: h.creation(dir, "s", FileKind::Symlink), target: b"x".to_vec() };
    let symlink = body.request.fid;
    h.ok(Operation::Create(body));
    assert_eq!(
        (h.stat(symlink).permissions, get(&h, symlink, ACCESS)),
        (0o777, Err(Errno::ENODATA))
    );
    assert_eq!(h.err(setxattr(symlink, ACCESS, &value(NAMED), 0)), Errno::EOPNOTSUPP);
    h.ok(setxattr(dir, DEFAULT, &[2, 0, 0, 0], 0));
    assert_eq!(get(&h, dir, DEFAULT), Err(Errno::ENODATA));
}

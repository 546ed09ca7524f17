//! Which leases of others each change is in conflict with.

use sheen_wire::{
    lease::{SizeUpdate, bits},
    metadata::{Create, InstantiateLayout, SetAttributes, set},
};

use super::*;
use crate::{operation::OrphanRelease, state::inode::flags, touches};

const GONE: u32 = bits::ALL & !bits::OPEN;
const NAMES: u32 = bits::LOOKUP | bits::UPDATE;

fn of(h: &Harness, operation: &Operation) -> Vec<(Fid, u32)> {
    touches(&h.state, operation)
}

#[test]
fn names_touch_their_directories_and_what_they_lead_to() {
    let mut h = Harness::new();
    let (a, b) = (h.dir(h.root, "a"), h.dir(h.root, "b"));
    let (f, g) = (h.file(a, "f"), h.file(b, "g"));
    let new = h.creation(a, "new", FileKind::Regular);
    assert_eq!(of(&h, &create(new.clone())), [(a, bits::UPDATE)]);
    assert_eq!(of(&h, &create(Create { unnamed: true, ..new.clone() })), []);
    assert_eq!(of(&h, &create(Create { name: name("f"), ..new })), []);
    assert_eq!(of(&h, &link(f, b, "l")), [(b, bits::UPDATE), (f, bits::UPDATE)]);
    assert_eq!(of(&h, &h.unlinking(a, "f")), [(a, bits::UPDATE), (f, GONE)]);
    let open = h.removal(a, "f", false, true);
    assert_eq!(of(&h, &open), [(a, bits::UPDATE), (f, NAMES)]);
    assert_eq!(of(&h, &h.unlinking(a, "none")), []);
    assert_eq!(of(&h, &h.rmdir(h.root, "a")), [(h.root, bits::UPDATE), (a, GONE)]);
    let moving = of(&h, &h.renaming((a, "f"), (b, "g"), 0));
    assert_eq!(moving, [(a, bits::UPDATE), (b, bits::UPDATE), (f, NAMES), (g, GONE)]);
    let swapping = of(&h, &h.renaming((a, "f"), (b, "g"), 2));
    assert_eq!(swapping, [(a, bits::UPDATE), (b, bits::UPDATE), (f, NAMES), (g, NAMES)]);
    let within = of(&h, &h.renaming((a, "f"), (a, "f"), 0));
    assert_eq!(within, []);
    h.ok(link(f, b, "l"));
    assert_eq!(of(&h, &h.unlinking(a, "f")), [(a, bits::UPDATE), (f, NAMES)]);
}

#[test]
fn attributes_touch_what_shows_them() {
    let mut h = Harness::new();
    let (f, d) = (h.file(h.root, "f"), h.dir(h.root, "d"));
    let perm = bits::UPDATE | bits::PERM;
    for (fid, valid, expected) in [
        (f, set::MODE, perm),
        (f, set::UID, perm),
        (f, set::KILL_SUIDGID, perm),
        (f, set::FLAGS | set::PROJID, perm),
        (f, set::ATIME, bits::UPDATE),
        (f, set::SIZE, bits::UPDATE | bits::DATA),
        (f, set::MTIME_NOW, bits::UPDATE | bits::DATA),
        (d, set::MTIME, bits::UPDATE),
    ] {
        let operation = Operation::SetAttributes(h.setting(fid, valid));
        assert_eq!(of(&h, &operation), [(fid, expected)], "{valid}");
    }
    assert_eq!(of(&h, &Operation::SetAttributes(h.setting(f, 0))), []);
    assert_eq!(of(&h, &setxattr(f, "user.a", b"", 0)), [(f, bits::XATTR | bits::UPDATE)]);
    let acl = bits::XATTR | perm;
    assert_eq!(of(&h, &removexattr(f, "system.posix_acl_access")), [(f, acl)]);
    h.ok(setxattr(f, "user.a", b"", 0));
    let operation = Operation::SetAttributes(h.setting(f, set::MODE));
    assert_eq!(of(&h, &operation), [(f, acl)]);
}

#[test]
fn layouts_sizes_and_orphans() {
    let mut h = Harness::new();
    let f = h.file(h.root, "f");
    let request = InstantiateLayout { fid: f, start: 0, end: 1 << 30 };
    assert_eq!(of(&h, &Operation::InstantiateLayout(request)), [(f, bits::LAYOUT)]);
    let ready = InstantiateLayout { fid: f, start: 0, end: 1 };
    assert_eq!(of(&h, &Operation::InstantiateLayout(ready)), []);
    let zero = Timespec::ZERO;
    let update = SizeUpdate { fid: f, size: 1, blocks: 1, mtime: zero, atime: zero };
    assert_eq!(of(&h, &Operation::UpdateSize(update)), []);
    let release = Operation::OrphanRelease(OrphanRelease { fid: f });
    assert_eq!(of(&h, &release), [(f, GONE)]);
}

#[test]
fn freezing_a_file_waits_for_what_others_may_have_to_write() {
    let mut h = Harness::new();
    let file = h.file(h.root, "f");
    let setting = |flags| {
        let request = SetAttributes { flags, ..h.setting(file, set::FLAGS) };
        of(&h, &Operation::SetAttributes(request))
    };
    let attributes = bits::UPDATE | bits::PERM;
    assert_eq!(setting(flags::APPEND), [(file, attributes | bits::DATA)]);
    assert_eq!(setting(flags::IMMUTABLE), [(file, attributes | bits::DATA)]);
    assert_eq!(setting(flags::NODUMP), [(file, attributes)]);
}

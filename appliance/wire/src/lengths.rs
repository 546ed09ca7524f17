//! Every body of a reply, as long as it can be, fits: what a sender puts into one never ends in a panic.

use sheen_types::{Attributes, ClientId, Epoch, Fid, FileKind, Name, OstIndex, Timespec};

use crate::{
    BODY_BYTES_MAX, Field,
    fields::{AttachKey, List},
    flock::{FileLock, LockFamily, LockType},
    lease::{LeaseGrant, LeaseReply, LeaseRevoke},
    metadata::*,
    object::*,
};

const TIME: Timespec = Timespec { seconds: i64::MAX, nanoseconds: 999_999_999 };
const LEASE: LeaseGrant = LeaseGrant { read_bits: 0x3f, write_bits: 0x40, sequence: u64::MAX };

fn attributes() -> Attributes {
    Attributes {
        fid: Fid::ROOT,
        kind: FileKind::Regular,
        permissions: 0o7777,
        nlink: u32::MAX,
        uid: u32::MAX,
        gid: u32::MAX,
        projid: u32::MAX,
        rdev: u64::MAX,
        size: u64::MAX,
        blocks: u64::MAX,
        atime: TIME,
        mtime: TIME,
        ctime: TIME,
        btime: TIME,
        flags: u32::MAX,
        mtime_set: TIME,
        atime_set: TIME,
        has_xattrs: true,
    }
}

fn osts() -> List<OstAddress> {
    List(vec![OstAddress { ost: OstIndex(u32::MAX), service: u16::MAX }; OSTS_PER_REPLY])
}

fn metadata_replies() -> Vec<(&'static str, Vec<u8>)> {
    let attributes = attributes();
    let connect = ConnectReply {
        client: ClientId(u64::MAX),
        epoch: Epoch(u32::MAX),
        server_epoch: Epoch(u32::MAX),
        resumed: true,
        root: Fid::ROOT,
        slots: u16::MAX,
        lease_milliseconds: u32::MAX,
        reconnect_milliseconds: u32::MAX,
        node: [0xff; 16],
        filesystem: vec![b'f'; 20],
        osts: osts(),
        more_osts: true,
        attach_key: AttachKey([0xff; 32]),
    };
    let filesystem = FilesystemInfo {
        id: vec![b'f'; 20],
        name: vec![b'n'; 63],
        root: Fid::ROOT,
        created: TIME,
        inodes: u64::MAX,
        clients: u32::MAX,
        deleting: true,
    };
    let entry = EntryReply {
        attributes,
        lease: LEASE,
        parent_lease: LEASE,
        parent: Some(attributes),
        shared: true,
        created: true,
    };
    let parent = Some(AttributesReply { attributes, lease: LEASE });
    let renamed = RenameReply {
        moved: Fid::ROOT,
        replaced: Fid::ROOT,
        from_parent: parent.clone(),
        to_parent: parent.clone(),
    };
    let lock = FileLock {
        fid: Fid::ROOT,
        family: LockFamily::Posix,
        kind: LockType::Write,
        owner: u64::MAX,
        pid: u32::MAX,
        start: 0,
        end: u64::MAX,
    };
    let page = ReadDirectoryReply { lease: LEASE, parent: Fid::ROOT, count: u32::MAX, end: true };
    let revoke = LeaseRevoke { fid: Fid::ROOT, bits: 0x7f, to_read: true, sequence: u64::MAX };
    vec![
        ("Connect", connect.to_vec()),
        ("OstList", OstListReply { osts: osts(), more: true }.to_vec()),
        ("FilesystemCreate", filesystem.to_vec()),
        ("Create, Lookup, Link", entry.to_vec()),
        ("Unlink", UnlinkReply { fid: Fid::ROOT, nlink: u32::MAX, parent }.to_vec()),
        ("Rename", renamed.to_vec()),
        ("GetAttributes", AttributesReply { attributes, lease: LEASE }.to_vec()),
        ("Open", OpenReply { attributes, lease: LEASE, shared: true }.to_vec()),
        ("LeaseRequest", LeaseReply { lease: LEASE, attributes, shared: true }.to_vec()),
        ("LockTest", lock.to_vec()),
        ("ReadDirectory", page.to_vec()),
        ("LeaseRevoke", revoke.to_vec()),
    ]
}

fn object_messages() -> Vec<(&'static str, Vec<u8>)> {
    let found = ObjectAttributes { exists: true, size: u64::MAX, blocks: u64::MAX, mtime: TIME };
    let ost = OstIndex(u32::MAX);
    let glimpses = List(vec![Fid::ROOT; GLIMPSE_MAX]);
    vec![
        ("ObjectGlimpse", GlimpseReply { objects: List(vec![found; GLIMPSE_MAX]) }.to_vec()),
        ("ObjectGlimpse, request", ObjectGlimpse { ost, objects: glimpses }.to_vec()),
    ]
}

#[test]
fn the_longest_bodies_fit() {
    for (what, body) in metadata_replies().into_iter().chain(object_messages()) {
        assert!(body.len() <= BODY_BYTES_MAX, "{what}: {} bytes", body.len());
    }
    let name = Name::new(&[b'n'; 255]).unwrap();
    let rename = Rename {
        from_parent: Fid::ROOT,
        from_name: name.clone(),
        to_parent: Fid::ROOT,
        to_name: name,
        flags: 0,
        credentials: Credentials { uid: 0, gid: 0 },
        whiteout: Fid::NONE,
    };
    assert!(rename.to_vec().len() <= BODY_BYTES_MAX);
}

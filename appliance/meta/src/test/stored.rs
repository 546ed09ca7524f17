//! Bytes of an earlier release, as it wrote them: what it kept is kept.

use super::*;
use crate::{
    SessionPrincipal, SessionRights, SnapshotReader,
    operation::{ENTRY_VERSION, decode_entries, encode_entries},
    snapshot::SNAPSHOT_VERSION,
};

/// A snapshot of version 4: a file system with a file that has an attribute, a session, an OST, a promise of 9 ms.
const SNAPSHOT_4: &str = "\
    59c3be31534d534e04000000000001000100000000070000000100000001000000000000000100000002040000\
    0200000001000000000000000d090000000201000000070707070707070707030000006f6e65e8030000000000\
    000500000002000000000000000004010000000000000001010101010101010101010101010101010000000100\
    000004000000686f73740400010004000002000000050000070000000000000007000000010000000000000000\
    0600000000010104000002000000010000000f0700000002000000010000000000000004ed0101000000020000\
    000000000000000000000000000000000000100000000000000800000000000000e80300000000000005000000\
    ec0300000000000005000000ec0300000000000005000000e80300000000000005000000ec0300000000000005\
    000000e803000000000000050000000500000001000000070000000200000001000000000000000900ddf94fc8\
    aae019000400000200000001000000000000000801660f0004000002000000010000000000000008a401010000\
    00010000000000000000000000000000000000000000000000000000000000000000000000ec03000000000000\
    05000000ec0300000000000005000000ed0300000000000005000000ec0300000000000005000000ec03000000\
    00000005000000ec03000000000000050000000600000001000000790000000100000004000000000000000000\
    004006000000000000100001000101040000020000000100000000000000010000000000000000004006000000\
    000000008002000000000010000100000000008002000000000000001900000000001000010000000000001900\
    0000ffffffffffffffff000010000100000a06000000757365722e6101000000760c0a00000000000000";

/// The log record of version 5 that led there.
const RECORD_5: &str = "\
    050700000000000000000000000100000000000000e80300000000000005000000010000000100000005030000\
    006f6e65ed01000000000000000000000707070707070707070000000000000000000000000200000000000000\
    e90300000000000005000000020000000100000002010101010101010101010101010101010000000000000000\
    030000006f6e6504000000686f737404000000010000000000000000000300000000000000ea03000000000000\
    050000000300000001000000040000010000000000000000000400000000000000eb0300000000000005000000\
    04000000010000001200000000010000010000000000000000000500000000000000ec03000000000000050000\
    000500000001000000080700000002000000010000000000000001660004000002000000010000000000000008\
    b60100001200000000000000000000000100000000000000000000000000000000010000000000000000000600\
    000000000000ed030000000000000500000006000000010000000d000400000200000001000000000000000675\
    7365722e61000000000001000000760000010000000000000000000700000000000000ee030000000000000500\
    0000070000000100000014090000000000";

/// The same in version 7, but that the file's objects carry their file system.
const RECORD_7: &str = "\
    070700000000000000000000000100000000000000e80300000000000005000000010000000100000005030000\
    006f6e65ed01000000000000000000000707070707070707070000000000000000000000000002000000000000\
    00e903000000000000050000000200000001000000020101010101010101010101010101010100000000000000\
    00030000006f6e6504000000686f73740400000000010000000000000000000300000000000000ea0300000000\
    000005000000030000000100000004000000010000000000000000000400000000000000eb0300000000000005\
    0000000400000001000000120000000001000000010000000000000000000500000000000000ec030000000000\
    000500000005000000010000000807000000020000000100000000000000016600040000020000000100000000\
    00000008b601000012000000000000000000000001000000000000000000000000000000000101000000000000\
    0000000600000000000000ed030000000000000500000006000000010000000d00040000020000000100000000\
    00000006757365722e6100000000000100000076000000010000000000000000000700000000000000ee030000\
    000000000500000007000000010000001409000000000000";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks_exact(2).map(pair).collect()
}

fn read(chunk: &[u8]) -> State {
    let mut reader = SnapshotReader::new(Limits::default());
    assert_eq!(reader.push(chunk), Ok(true));
    reader.finish().unwrap()
}

#[test]
fn a_snapshot_and_a_record_of_the_release_before_give_the_same_state() {
    let (chunk, record) = (bytes(SNAPSHOT_4), bytes(RECORD_5));
    assert_eq!((chunk[8], record[0]), (4, 5));
    let state = read(&chunk);
    let mut applied = State::new(Limits::default());
    let entries = decode_entries(&record).unwrap();
    for entry in &entries {
        assert!(applied.apply(entry).result.is_ok(), "{entry:?}");
    }
    assert_eq!(state, applied);
    assert_eq!(state.snapshot_size(), state.measure());
    let sessions = state.sessions();
    assert_eq!((sessions.len(), sessions[0].principal), (1, SessionPrincipal::Owner));
    assert_eq!(sessions[0].rights, SessionRights { read_only: false, checked: false });
    assert_eq!((state.lease_milliseconds(), state.identities().count()), (9, 0));
    // Written by this release they read back the same.
    let again = state.snapshot().next().unwrap();
    assert_eq!(u16::from(again[8]), SNAPSHOT_VERSION);
    assert_eq!(read(&again), state);
    let again = encode_entries(&entries);
    assert_eq!(again[0], ENTRY_VERSION);
    assert_eq!(decode_entries(&again).unwrap(), entries, "what was not labelled stays so");
    // Each entry is longer by the label flag it does not have.
    assert_eq!(again.len(), record.len() + entries.len());
}

#[test]
fn a_record_of_this_release_gives_objects_that_carry_their_file_system() {
    let (old, new) = (bytes(RECORD_5), bytes(RECORD_7));
    assert_eq!(new[0], ENTRY_VERSION);
    let apply = |record: &[u8]| {
        let mut state = State::new(Limits::default());
        for entry in &decode_entries(record).unwrap() {
            assert!(state.apply(entry).result.is_ok(), "{entry:?}");
        }
        let file = state.inodes.keys().copied().find(|fid| !fid.is_root()).unwrap();
        let layout = state.layout(file).unwrap();
        (state, layout)
    };
    let (_, before) = apply(&old);
    let (state, after) = apply(&new);
    let objects = |layout: &sheen_types::Layout| -> Vec<Fid> {
        layout.components.iter().flat_map(|it| &it.objects).map(|it| it.object).collect()
    };
    let (before, after) = (objects(&before), objects(&after));
    assert_eq!((before.len(), before[0].ver), (1, 0));
    assert_eq!(after, [Fid { ver: 1, ..before[0] }], "nothing else of it");
    assert_eq!(encode_entries(&decode_entries(&new).unwrap()), new);
    let mut reader = SnapshotReader::new(Limits::default());
    assert_eq!(reader.push(&state.snapshot().next().unwrap()), Ok(true));
    assert_eq!(reader.finish().unwrap(), state, "snapshots keep it");
}

#[test]
fn the_next_release_is_refused() {
    let mut chunk = bytes(SNAPSHOT_4);
    chunk[8] = 6;
    let checksum = sheen_types::checksum::crc32c(&chunk[4..]);
    chunk[..4].copy_from_slice(&checksum.to_le_bytes());
    let mut reader = SnapshotReader::new(Limits::default());
    assert_eq!(reader.push(&chunk), Err(crate::SnapshotError::Version(6)));
}

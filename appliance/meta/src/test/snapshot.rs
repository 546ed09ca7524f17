//! Snapshots, and the encoding of entries.

use super::*;
use crate::{
    SnapshotError, SnapshotReader,
    operation::{ENTRIES_MAX, decode_entries, encode_entries},
    snapshot::CHUNK_BYTES_MAX,
};

/// A bit of everything, in several chunks.
fn populated() -> Harness {
    populated_with(3000)
}

fn populated_with(files: u32) -> Harness {
    let mut h = Harness::new();
    let dir = h.dir(h.root, "dir");
    h.checks = false;
    for number in 0..files {
        h.file(dir, &format!("file-{number}"));
    }
    h.checks = true;
    let file = h.file(h.root, "f");
    h.ok(setxattr(file, "user.big", &vec![3; Limits::XATTR_BYTES_MAX], 0));
    h.ok(link(file, dir, "again"));
    h.ok(h.removal(dir, "file-7", false, true));
    h.ok(h.unlinking(dir, "file-8"));
    h.err(h.unlinking(dir, "file-8"));
    let request = h.creation(dir, "s", FileKind::Symlink);
    h.ok(Operation::Create(CreateInode { request, target: b"to".to_vec() }));
    h.make(dir, "p", FileKind::Fifo);
    h.make(dir, "c", FileKind::CharDevice);
    h.make_filesystem("two");
    let going = sheen_wire::metadata::FilesystemDelete { name: b"two".to_vec(), force: false };
    h.ok(Operation::FilesystemDelete(going));
    h
}

fn read(chunks: &[Vec<u8>]) -> Result<State, SnapshotError> {
    let mut reader = SnapshotReader::new(Limits::default());
    for chunk in chunks {
        reader.push(chunk)?;
    }
    reader.finish()
}

#[test]
fn a_state_read_back_is_the_same_and_writes_the_same_bytes() {
    let h = populated();
    let chunks: Vec<Vec<u8>> = h.state.snapshot().collect();
    assert!(chunks.len() > 2 && chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
    let state = read(&chunks).unwrap();
    assert_eq!(state, h.state);
    assert_eq!(state.snapshot().collect::<Vec<_>>(), chunks);
}

#[test]
fn a_snapshot_and_a_record_without_a_promise_are_read() {
    let mut h = Harness::new();
    h.ok(Operation::LeasePromise(crate::operation::LeasePromise { milliseconds: 9 }));
    let chunks: Vec<Vec<u8>> = h.state.snapshot().collect();
    assert_eq!(read(&chunks).unwrap().lease_milliseconds(), 9);
    // As version 1 wrote it: without the item behind the head.
    let mut old = chunks[0].clone();
    let head_end = 16 + 41;
    assert_eq!(old[head_end], 13);
    old.drain(head_end..head_end + 5);
    let count = old.len() - 8;
    old[count] -= 1;
    old[8] = 1;
    let checksum = sheen_types::checksum::crc32c(&old[4..]);
    old[..4].copy_from_slice(&checksum.to_le_bytes());
    let state = read(&[old]).unwrap();
    assert_eq!(state.lease_milliseconds(), 0);
    assert_eq!(state.sessions().len(), h.state.sessions().len());
    let start = Operation::ServerStart(crate::operation::Nothing {});
    let entry = Entry::internal(Timespec::ZERO, TransactionNumber(1), start);
    let mut record = encode_entries(std::slice::from_ref(&entry));
    // Nor did it have the label flag at the end.
    record.pop();
    let entry = Entry { labelled: false, ..entry };
    for version in [2, 3, 4] {
        record[0] = version;
        assert_eq!(decode_entries(&record).unwrap(), std::slice::from_ref(&entry));
    }
}

/// A chunk with one inode as this version wrote it: with the first `times` of the times its mtime and atime were decided at.
fn as_version(version: u8, chunk: &[u8], start: usize, times: usize) -> Vec<u8> {
    let mut old = chunk.to_vec();
    let first = start + 17 + 1 + 2 + 24 + 16 + 48;
    old.drain(first + times * 12..first + 24);
    old[start] = if times == 0 { 8 } else { 14 };
    old[8] = version;
    let checksum = sheen_types::checksum::crc32c(&old[4..]);
    old[..4].copy_from_slice(&checksum.to_le_bytes());
    old
}

#[test]
fn inodes_of_old_snapshots_have_their_mtime_since_their_last_change_and_no_time_of_their_atime() {
    let mut h = Harness::new();
    h.ok(setxattr(h.root, "user.a", b"", 0));
    let root = h.stat(h.root);
    assert_ne!(root.mtime_set, root.ctime);
    let chunks: Vec<Vec<u8>> = h.state.snapshot().collect();
    // The only inode: number, fid, and what comes before the time.
    let fid = sheen_wire::Field::to_vec(&h.root);
    let found = chunks[0].windows(17).position(|at| at[0] == 15 && at[1..] == fid);
    let start = found.unwrap();
    for (version, times) in [(2, 0), (3, 1)] {
        let state = read(&[as_version(version, &chunks[0], start, times)]).unwrap();
        let found = state.attributes(h.root).unwrap();
        let mtime_set = if times == 0 { root.ctime } else { root.mtime_set };
        assert_eq!(found, Attributes { mtime_set, atime_set: Timespec::ZERO, ..root });
    }
}

#[test]
fn the_same_entries_give_the_same_bytes_from_anywhere() {
    let h = populated();
    let mut other = State::new(Limits::default());
    let half = h.history.len() / 2;
    for entry in &h.history[..half] {
        other.apply(entry);
    }
    // Half way through a snapshot, as a member that catches up.
    let mut other = read(&other.snapshot().collect::<Vec<_>>()).unwrap();
    let record = h.history[half..].chunks(ENTRIES_MAX).map(encode_entries);
    for entry in record.flat_map(|record| decode_entries(&record).unwrap()) {
        other.apply(&entry);
    }
    assert_eq!(other, h.state);
    assert_eq!(other.snapshot().flatten().collect::<Vec<u8>>(), h.bytes());
}

#[test]
fn damaged_missing_and_swapped_chunks_are_refused() {
    let h = populated();
    let chunks: Vec<Vec<u8>> = h.state.snapshot().collect();
    for at in (0..chunks[0].len()).step_by(4097) {
        let mut damaged = chunks.clone();
        damaged[0][at] ^= 0x10;
        assert!(matches!(read(&damaged), Err(SnapshotError::Checksum { .. })));
    }
    let swapped = [chunks[1].clone(), chunks[0].clone()];
    assert_eq!(read(&swapped), Err(SnapshotError::Order { expected: 0, found: 1 }));
    assert_eq!(read(&chunks[..1]), Err(SnapshotError::Incomplete));
    assert!(matches!(read(&[Vec::new()]), Err(SnapshotError::Item(_))));
}

#[test]
fn chunks_with_right_checksums_and_wrong_content_never_panic() {
    let h = Harness::new();
    let chunk = h.state.snapshot().next().unwrap();
    for at in 4..chunk.len() {
        for bit in [1, 0x80] {
            let mut wrong = chunk.clone();
            wrong[at] ^= bit;
            let checksum = sheen_types::checksum::crc32c(&wrong[4..]);
            wrong[..4].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(state) = read(&[wrong]) {
                assert_eq!(state.check(), Ok(()));
            }
        }
    }
}

#[test]
fn entries_read_back_as_they_were() {
    let h = populated();
    let last = &h.history[h.history.len() - 20..];
    let record = encode_entries(last);
    assert_eq!(decode_entries(&record).unwrap(), last);
    for cut in 0..record.len() {
        assert!(decode_entries(&record[..cut]).is_err());
    }
    let mut other = record.clone();
    other[0] = 99;
    assert!(decode_entries(&other).is_err());
    other[0] = record[0];
    other[1..3].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(decode_entries(&other).is_err());
}

/// Entries come from clients: whatever can be decoded may be applied.
#[test]
fn damaged_entries_are_refused_or_applied_but_never_break_the_state() {
    let mut h = populated_with(20);
    h.checks = false;
    let seeds: Vec<Entry> = h.history.iter().rev().take(40).cloned().collect();
    let (mut applied, mut changed) = (0_u32, 0_u32);
    for entry in &seeds {
        let record = encode_entries(std::slice::from_ref(entry));
        if record.len() > 1000 {
            continue;
        }
        for at in (3..record.len()).chain(3..record.len()) {
            // The second pass damages another bit.
            let mut damaged = record.clone();
            damaged[at] ^= 1 << (applied % 8);
            let Ok(mut entries) = decode_entries(&damaged) else { continue };
            let mut entry = entries.remove(0);
            // Let it through the reply slot and through the check of names.
            (entry.client, entry.tag, entry.xid) = (h.client, Tag(1), Xid(u64::from(applied) + 1));
            if let Operation::Create(body) = &mut entry.operation {
                body.request.fid = h.next_fid();
            }
            let outcome = h.state.apply(&entry);
            applied += 1;
            changed += u32::from(outcome.result.is_ok());
            if applied.is_multiple_of(64) {
                assert_eq!(h.state.check(), Ok(()), "after {:?}", entry.operation);
            }
            if !h.state.has_session(h.client) {
                h.mount("one");
            }
        }
    }
    assert_eq!(h.state.check(), Ok(()));
    assert!(applied > 1000 && changed > 300, "{applied} applied, {changed} did something");
}

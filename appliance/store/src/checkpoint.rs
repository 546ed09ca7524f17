//! The index as bytes: objects in order of their ids, cut into records of the checkpoint area's log.
//!
//! A checkpoint is taken while service goes on: records are formed one after another from the index as it is at that moment.
//! What they hold is a mixture of moments, but each completed change from before the checkpoint began is in it, and the
//! journal is replayed from there: see [`crate::record`] for why that ends right.

use std::{collections::BTreeMap, ops::Bound};

use sheen_types::Fid;

use crate::{
    bytes::{Reader, put_u16, put_u32, put_u64},
    chunk::{Chunk, Run, Runs},
    object::Object,
    record::{fid, owner, put_fid, timespec},
};

/// Blocks of one batch of a checkpoint area: 64 KiB, so that forming one does not hold up requests for long.
pub(crate) const AREA_BATCH_BLOCKS: u32 = 16;
/// Bytes of an object part before its chunks.
pub(crate) const OBJECT_HEADER_BYTES: usize = 52;
/// Bytes of a chunk before its runs.
pub(crate) const CHUNK_HEADER_BYTES: usize = 8;
/// Bytes of a run.
pub(crate) const RUN_BYTES: usize = 16;

/// Bytes of an object of one block.
pub(crate) const SMALL_OBJECT_BYTES: usize =
    OBJECT_HEADER_BYTES + CHUNK_HEADER_BYTES + RUN_BYTES + 4;

/// Where the next record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    Start,
    /// Within an object: its chunks from this number on.
    Within(Fid, u32),
    After(Fid),
    Done,
}

/// Appends parts of objects from the cursor on, at most `bytes_max` bytes, and moves the cursor.
///
/// | bytes  | field     | meaning                                                       |
/// |--------|-----------|---------------------------------------------------------------|
/// | 0..16  | object    | seq u64, oid u32, ver u32                                     |
/// | 16..24 | size      | bytes                                                         |
/// | 24..36 | mtime     | seconds i64, nanoseconds u32                                  |
/// | 36..48 | owner     | uid, gid, projid                                              |
/// | 48..52 | chunks    | how many follow in this part                                  |
/// | ..     | chunk     | number u32, runs u16, checksums u16, then the runs (16 bytes, see [`Run`]), then the checksums (u32) |
///
/// A part of the same object as the one before it continues it.
/// Source of truth for `appliance/docs/formats/store.md`.
pub(crate) fn encode(
    objects: &BTreeMap<Fid, Object>,
    cursor: Cursor,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Cursor {
    let (from, mut first_chunk) = match cursor {
        Cursor::Start => (Bound::Unbounded, 0),
        Cursor::Within(object, chunk) => (Bound::Included(object), chunk),
        Cursor::After(object) => (Bound::Excluded(object), 0),
        Cursor::Done => return Cursor::Done,
    };
    let begin = out.len();
    let mut reached = cursor;
    for (&id, object) in objects.range((from, Bound::Unbounded)) {
        if matches!(cursor, Cursor::Within(within, _) if within != id) {
            // The object the last record ended in is gone meanwhile.
            first_chunk = 0;
        }
        let room = bytes_max - (out.len() - begin);
        if room < OBJECT_HEADER_BYTES {
            return reached;
        }
        match encode_object(id, object, first_chunk, room, out) {
            Some(chunk) => return Cursor::Within(id, chunk),
            None => reached = Cursor::After(id),
        }
        first_chunk = 0;
    }
    Cursor::Done
}

/// Appends what fits of one object; Some(chunk) is the first that did not.
fn encode_object(
    id: Fid,
    object: &Object,
    first_chunk: u32,
    room: usize,
    out: &mut Vec<u8>,
) -> Option<u32> {
    let begin = out.len();
    put_fid(out, id);
    put_u64(out, object.size);
    out.extend_from_slice(&object.mtime.seconds.to_le_bytes());
    put_u32(out, object.mtime.nanoseconds);
    put_u32(out, object.owner.uid);
    put_u32(out, object.owner.gid);
    put_u32(out, object.owner.projid);
    let count_at = out.len();
    put_u32(out, 0);
    let mut chunks = 0_u32;
    let mut rest = None;
    for (number, chunk) in object.chunks_from(first_chunk) {
        let bytes =
            CHUNK_HEADER_BYTES + chunk.runs().len() * RUN_BYTES + chunk.checksums().len() * 4;
        if out.len() - begin + bytes > room {
            rest = Some(number);
            break;
        }
        put_u32(out, number);
        put_u16(out, u16::try_from(chunk.runs().len()).expect("at most 256"));
        put_u16(out, u16::try_from(chunk.checksums().len()).expect("at most 256"));
        for run in chunk.runs() {
            let (word, generation, packing) = run.words();
            put_u64(out, word);
            put_u32(out, generation);
            put_u32(out, packing);
        }
        for &checksum in chunk.checksums() {
            put_u32(out, checksum);
        }
        chunks += 1;
    }
    out[count_at..count_at + 4].copy_from_slice(&chunks.to_le_bytes());
    rest
}

/// Reads a record's parts behind `objects`, the last of which may be continued; None if they are not in order or not
/// whole.
pub(crate) fn decode(record: &[u8], objects: &mut Vec<(Fid, Object)>) -> Option<()> {
    let mut reader = Reader::new(record);
    while !reader.is_empty() {
        let id = fid(&mut reader)?;
        let continued = match objects.last() {
            Some(&(last, _)) if last > id => return None,
            Some(&(last, _)) => last == id,
            None => false,
        };
        if !continued {
            objects.push((id, Object::default()));
        }
        let (_, object) = objects.last_mut()?;
        object.size = reader.u64()?;
        object.mtime = timespec(&mut reader)?;
        object.owner = owner(&mut reader)?;
        for _ in 0..reader.u32()? {
            let (number, chunk) = decode_chunk(&mut reader)?;
            if !object.insert_chunk(number, chunk) {
                return None;
            }
        }
    }
    Some(())
}

fn decode_chunk(reader: &mut Reader<'_>) -> Option<(u32, Chunk)> {
    let number = reader.u32()?;
    let (runs, checksums) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
    let runs: Option<Runs> = reader
        .take(runs * RUN_BYTES)?
        .chunks_exact(RUN_BYTES)
        .map(|raw| {
            let mut raw = Reader::new(raw);
            Run::from_words(raw.u64()?, raw.u32()?, raw.u32()?)
        })
        .collect();
    let checksums = reader
        .take(checksums * 4)?
        .chunks_exact(4)
        .map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]))
        .collect();
    Some((number, Chunk::from_parts(runs?, checksums)?))
}

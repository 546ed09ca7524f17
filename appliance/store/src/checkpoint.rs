//! The index as bytes: parts of objects, the records of a checkpoint area's log.
//!
//! An area's log is a *base*, parts of all objects in order of their ids, and *deltas*, parts of what changed since. Each
//! part says what some blocks of an object are; read in order, a later one overrules an earlier one. See [`crate::switch`]
//! for why the whole, with the journal behind it, is the index.

use std::{collections::BTreeMap, ops::Bound};

use sheen_types::Fid;

use crate::{
    bytes::{put_u32, put_u64},
    chunk::{CHUNK_BLOCKS, Chunk},
    dirty::{Entry, Mark},
    object::Object,
    record::put_fid,
    request::OBJECT_BYTES_MAX,
};

/// Blocks of one batch of a checkpoint area: 64 KiB, so that forming one does not hold up requests for long.
pub(crate) const AREA_BATCH_BLOCKS: u32 = 16;
/// Bytes of a part before its pieces.
pub(crate) const PART_BYTES: usize = 52;
/// Bytes of a cut.
pub(crate) const CUT_BYTES: usize = 8;
/// Bytes of a piece before its runs.
pub(crate) const PIECE_BYTES: usize = 10;
/// Bytes of a run.
pub(crate) const RUN_BYTES: usize = 16;

/// Bytes of an object of one block.
pub(crate) const SMALL_OBJECT_BYTES: usize = PART_BYTES + PIECE_BYTES + RUN_BYTES + 4;

/// Blocks of the largest object.
const OBJECT_BLOCKS: u64 = OBJECT_BYTES_MAX / 4096;

pub(crate) const GONE: u32 = 1 << 24;
pub(crate) const FRESH: u32 = 1 << 25;
pub(crate) const CUT: u32 = 1 << 26;
pub(crate) const PIECES_MASK: u32 = GONE - 1;

/// Where a base goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    Start,
    /// Within an object: its blocks from this number on.
    Within(Fid, u64),
    After(Fid),
    Done,
}

impl Cursor {
    /// Whether the base said something of the object already, or will not any more.
    pub(crate) fn has_reached(self, object: Fid) -> bool {
        match self {
            Self::Start => false,
            Self::Within(reached, _) | Self::After(reached) => object <= reached,
            Self::Done => true,
        }
    }
}

/// Where a delta goes on: an entry, and a block of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    pub(crate) entry: usize,
    pub(crate) block: u64,
}

/// Forms a record of parts, at most `bytes_max` bytes behind what `out` holds.
///
/// A part:
///
/// | bytes  | field     | meaning                                                       |
/// |--------|-----------|---------------------------------------------------------------|
/// | 0..16  | object    | seq u64, oid u32, ver u32                                     |
/// | 16..24 | size      | bytes                                                         |
/// | 24..36 | mtime     | seconds i64, nanoseconds u32                                  |
/// | 36..48 | owner     | uid, gid, projid                                              |
/// | 48..52 | pieces    | bits 0..24: how many follow; bit 24: gone, there is no such object; bit 25: fresh, forget what was said of it before; bit 26: a cut follows |
/// | 52..60 | cut       | (if so) first u32, last u32: chunks that are unmapped before the pieces |
/// | ..     | piece     | chunk u32, first u8 and last u8 block in it, runs u16, checksums u16, then the runs (see [`crate::run::Run`]), then the checksums (u32): what lies in these blocks, and nothing else |
///
/// Source of truth for `appliance/docs/formats/store.md`.
struct Former<'a> {
    out: &'a mut Vec<u8>,
    bytes_max: usize,
    begin: usize,
    /// The part that gathers pieces: its object, and where its count stands.
    part: Option<(Fid, usize)>,
}

impl<'a> Former<'a> {
    fn new(out: &'a mut Vec<u8>, bytes_max: usize) -> Self {
        let begin = out.len();
        Self { out, bytes_max, begin, part: None }
    }

    fn room(&self) -> usize {
        self.bytes_max - (self.out.len() - self.begin)
    }

    /// Begins a part, if it has room together with one piece.
    fn part(&mut self, id: Fid, object: Option<&Object>, flags: u32) -> bool {
        if self.room() < PART_BYTES + CUT_BYTES + PIECE_BYTES {
            return false;
        }
        let attributes = object.map(Object::attributes).unwrap_or_default();
        put_fid(self.out, id);
        put_u64(self.out, attributes.size);
        self.out.extend_from_slice(&attributes.mtime.seconds.to_le_bytes());
        put_u32(self.out, attributes.mtime.nanoseconds);
        put_u32(self.out, attributes.owner.uid);
        put_u32(self.out, attributes.owner.gid);
        put_u32(self.out, attributes.owner.projid);
        self.part = Some((id, self.out.len()));
        put_u32(self.out, flags);
        true
    }

    /// Goes on with the part of this object, or begins one.
    fn go_on(&mut self, id: Fid, object: &Object) -> bool {
        match self.part {
            Some((same, _)) if same == id => true,
            Some(_) | None => self.part(id, Some(object), 0),
        }
    }

    fn count_piece(&mut self) {
        let (_, at) = self.part.expect("pieces follow a part");
        let count = &mut self.out[at..at + 4];
        let before = u32::from_le_bytes([count[0], count[1], count[2], count[3]]);
        count.copy_from_slice(&(before + 1).to_le_bytes());
    }

    /// Says what blocks `first..end` of a chunk are; Err is the first that had no room.
    fn piece(
        &mut self,
        number: u32,
        chunk: Option<&Chunk>,
        first: u64,
        end: u64,
    ) -> Result<(), u64> {
        if self.room() < PIECE_BYTES {
            return Err(first);
        }
        let header = self.out.len();
        self.out.extend_from_slice(&[0; PIECE_BYTES]);
        let (mut runs, mut checksums, mut reached) = (0_usize, 0_usize, end);
        for piece in chunk.into_iter().flat_map(|chunk| chunk.pieces(first, end)) {
            if self.room() < RUN_BYTES + (checksums + piece.checksums.len()) * 4 {
                reached = piece.run.first();
                break;
            }
            let (word, generation, packing) = piece.run.words();
            put_u64(self.out, word);
            put_u32(self.out, generation);
            put_u32(self.out, packing);
            runs += 1;
            checksums += piece.checksums.len();
        }
        if reached == first {
            self.out.truncate(header);
            return Err(first);
        }
        for piece in chunk.into_iter().flat_map(|chunk| chunk.pieces(first, reached)) {
            for &checksum in piece.checksums {
                put_u32(self.out, checksum);
            }
        }
        let small = "a chunk has 256 blocks";
        let head = &mut self.out[header..header + PIECE_BYTES];
        head[..4].copy_from_slice(&number.to_le_bytes());
        head[4] = u8::try_from(first).expect(small);
        head[5] = u8::try_from(reached - 1).expect(small);
        head[6..8].copy_from_slice(&u16::try_from(runs).expect(small).to_le_bytes());
        head[8..10].copy_from_slice(&u16::try_from(checksums).expect(small).to_le_bytes());
        self.count_piece();
        if reached == end { Ok(()) } else { Err(reached) }
    }

    /// Says what the chunks there are hold of blocks `first..end`; Err is the first block that had no room.
    fn chunks(&mut self, object: &Object, (first, end): (u64, u64)) -> Result<(), u64> {
        if first >= end {
            return Ok(());
        }
        for (number, chunk) in object.chunks_from(chunk_of(first)) {
            let start = u64::from(number) * CHUNK_BLOCKS;
            if start >= end {
                break;
            }
            let (from, to) = (first.saturating_sub(start), (end - start).min(CHUNK_BLOCKS));
            self.piece(number, Some(chunk), from, to).map_err(|block| start + block)?;
        }
        Ok(())
    }

    /// Says what blocks `first..end`, all of one chunk, are; Err is the first that had no room.
    fn part_of_chunk(&mut self, object: &Object, (first, end): (u64, u64)) -> Result<(), u64> {
        if first >= end {
            return Ok(());
        }
        let (number, start) = (chunk_of(first), first - first % CHUNK_BLOCKS);
        let said = self.piece(number, object.chunk(number), first - start, end - start);
        said.map_err(|block| start + block)
    }
}

fn chunk_of(block: u64) -> u32 {
    u32::try_from(block / CHUNK_BLOCKS).unwrap_or(u32::MAX)
}

/// Appends a record of the base from the cursor on; returns the cursor behind it.
pub(crate) fn encode_base(
    objects: &BTreeMap<Fid, Box<Object>>,
    cursor: Cursor,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Cursor {
    let (from, mut first) = match cursor {
        Cursor::Start => (Bound::Unbounded, 0),
        Cursor::Within(object, block) => (Bound::Included(object), block),
        Cursor::After(object) => (Bound::Excluded(object), 0),
        Cursor::Done => return Cursor::Done,
    };
    let mut former = Former::new(out, bytes_max);
    let mut reached = cursor;
    for (&id, object) in objects.range((from, Bound::Unbounded)) {
        if matches!(cursor, Cursor::Within(within, _) if within != id) {
            // The object the last record ended in is gone meanwhile.
            first = 0;
        }
        let flags = if first == 0 { FRESH } else { 0 };
        if !former.part(id, Some(object), flags) {
            return reached;
        }
        if let Err(block) = former.chunks(object, (first, OBJECT_BLOCKS)) {
            // A part of an object that begins again with block 0 would be fresh again, and right.
            return Cursor::Within(id, block);
        }
        reached = Cursor::After(id);
        first = 0;
    }
    Cursor::Done
}

/// Appends a record of what the entries from `from` up to `to` are about, as far as it has room, leaving out objects `skip`
/// holds of; returns where the next record goes on.
pub(crate) fn encode_delta(
    objects: &BTreeMap<Fid, Box<Object>>,
    entries: &[Entry],
    (from, to): (Place, Place),
    skip: impl Fn(Fid) -> bool,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> Place {
    let mut former = Former::new(out, bytes_max);
    let mut at = from;
    while at < to {
        let Some(entry) = entries.get(at.entry) else { break };
        let end = if at.entry == to.entry { to.block } else { u64::MAX };
        if !skip(entry.object)
            && let Err(block) = encode_entry(objects, entry, (at.block, end), &mut former)
        {
            return Place { entry: at.entry, block };
        }
        if at.entry == to.entry {
            return to;
        }
        at = Place { entry: at.entry + 1, block: 0 };
    }
    at
}

/// Says what an entry is about, its blocks `from..to`; Err is the first block that had no room.
fn encode_entry(
    objects: &BTreeMap<Fid, Box<Object>>,
    entry: &Entry,
    (from, to): (u64, u64),
    former: &mut Former<'_>,
) -> Result<(), u64> {
    let id = entry.object;
    let begun = |begun: bool| if begun { Ok(()) } else { Err(from) };
    let (object, first, end) = match (objects.get(&id), entry.mark()) {
        // Gone already; if only by now, it will be said again.
        (None, _) => return begun(former.part(id, None, GONE)),
        (Some(object), Mark::Destroyed) => return begun(former.part(id, Some(object), FRESH)),
        (Some(object), Mark::Blocks { first, end }) => (object, first, end.min(OBJECT_BLOCKS)),
    };
    // Part of a chunk, whole chunks, part of a chunk.
    let whole_first = first.next_multiple_of(CHUNK_BLOCKS).min(end);
    let whole_end = (end - end % CHUNK_BLOCKS).max(whole_first);
    if from == 0 && whole_first < whole_end {
        begun(former.part(id, Some(object), CUT))?;
        put_u32(former.out, chunk_of(whole_first));
        put_u32(former.out, chunk_of(whole_end - 1));
    } else {
        begun(former.go_on(id, object))?;
    }
    let within = |first: u64, end: u64| (first.max(from), end.min(to));
    former.part_of_chunk(object, within(first, whole_first))?;
    former.chunks(object, within(whole_first, whole_end))?;
    former.part_of_chunk(object, within(whole_end, end))
}

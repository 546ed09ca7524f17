//! Records of the journal: one per change of an object.
//!
//! A record is physical: it says which blocks map where afterwards, not what was asked. So replaying all records from some
//! place on, in order, over an index that holds some of them already, ends in the same index.

use sheen_types::{Fid, Timespec};

use crate::{
    Owner,
    bytes::{Reader, put_u16, put_u32, put_u64},
    layout::RecordId,
};

/// Bytes of a change before its extents.
const CHANGE_BYTES: usize = 72;
/// Bytes of an extent without checksums.
const EXTENT_BYTES: usize = 20;
const UNWRITTEN: u64 = 1 << 63;
const KIND_CHANGE: u8 = 1;
const KIND_DESTROY: u8 = 2;
const KIND_VOID: u8 = 3;

/// What becomes of the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeRule {
    Keep,
    AtLeast(u64),
    Exactly(u64),
}

/// Blocks of an object and where they lie after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First block of the object.
    pub(crate) block: u64,
    pub(crate) blocks: u32,
    /// First block, counted from the zone's start.
    pub(crate) place: u64,
    pub(crate) written: bool,
}

impl Extent {
    /// First block behind it.
    pub(crate) const fn end(&self) -> u64 {
        self.block + self.blocks as u64
    }
}

/// A change of one object.
///
/// | bytes  | field        | meaning                                                              |
/// |--------|--------------|----------------------------------------------------------------------|
/// | 0      | kind         | 1                                                                    |
/// | 1      | flags        | bits 0..2 size rule: 0 keep, 1 at least, 2 exactly; bit 2: sets owner; bit 3, 4: the first, the last written block is in part as it was before; bit 5: fills holes only |
/// | 2..4   | extents      | how many                                                             |
/// | 4..8   | reserved     | zero                                                                 |
/// | 8..24  | object       | seq u64, oid u32, ver u32                                            |
/// | 24..32 | size         | bytes                                                                |
/// | 32..44 | mtime        | seconds i64, nanoseconds u32                                         |
/// | 44..56 | owner        | uid, gid, projid                                                     |
/// | 56..72 | unmap        | first block, end block; unmapped before the extents are mapped       |
/// | 72..   | extents      | block u64, place u64 (bit 63: unwritten), blocks u32                 |
/// | ..     | checksums    | CRC32C of each block of the written extents, in order                |
///
/// Source of truth for `appliance/docs/formats/store.md`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) object: Fid,
    pub(crate) size: SizeRule,
    pub(crate) mtime: Timespec,
    pub(crate) owner: Option<Owner>,
    /// Whether the first and the last written block are in part as the change found them.
    pub(crate) partial: [bool; 2],
    /// Whether its extents fill what the change found to be holes.
    pub(crate) fills: bool,
    /// First and end block; equal for none.
    pub(crate) unmap: (u64, u64),
    pub(crate) extents: &'a [Extent],
    pub(crate) checksums: &'a [u32],
}

/// A record read back.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    Change(OwnedChange),
    Destroy(Fid),
    /// The change at this place never happened: its data could not be written.
    Void(RecordId),
}

/// A change read back.
#[derive(Clone, Debug)]
pub(crate) struct OwnedChange {
    pub(crate) object: Fid,
    pub(crate) size: SizeRule,
    pub(crate) mtime: Timespec,
    pub(crate) owner: Option<Owner>,
    pub(crate) partial: [bool; 2],
    pub(crate) fills: bool,
    pub(crate) unmap: (u64, u64),
    pub(crate) extents: Vec<Extent>,
    pub(crate) checksums: Vec<u32>,
}

impl OwnedChange {
    /// The blocks, first and end of each range, whose new state stands on what the change found there.
    pub(crate) fn ranges_standing(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut written = self.extents.iter().filter(|extent| extent.written);
        let first = written.next();
        let last = written.next_back().or(first);
        let [has_first, has_last] = self.partial;
        let first = first.filter(|_| has_first).map(|extent| (extent.block, extent.block + 1));
        let last = last.filter(|_| has_last).map(|extent| (extent.end() - 1, extent.end()));
        let filled = self.extents.iter().filter(|_| self.fills);
        let filled = filled.map(|extent| (extent.block, extent.end()));
        first.into_iter().chain(last).chain(filled)
    }

    pub(crate) fn as_change(&self) -> Change<'_> {
        Change {
            object: self.object,
            size: self.size,
            mtime: self.mtime,
            owner: self.owner,
            partial: self.partial,
            fills: self.fills,
            unmap: self.unmap,
            extents: &self.extents,
            checksums: &self.checksums,
        }
    }
}

/// Most bytes of a change with so many extents and checksums.
pub(crate) const fn change_bytes(extents: usize, checksums: usize) -> usize {
    CHANGE_BYTES + extents * EXTENT_BYTES + checksums * 4
}

impl Change<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (rule, size) = match self.size {
            SizeRule::Keep => (0, 0),
            SizeRule::AtLeast(size) => (1, size),
            SizeRule::Exactly(size) => (2, size),
        };
        out.push(KIND_CHANGE);
        let [first, last] = self.partial.map(u8::from);
        out.push(
            rule | u8::from(self.owner.is_some()) << 2
                | first << 3
                | last << 4
                | u8::from(self.fills) << 5,
        );
        put_u16(out, u16::try_from(self.extents.len()).expect("extents of a record are bounded"));
        put_u32(out, 0);
        put_fid(out, self.object);
        put_u64(out, size);
        out.extend_from_slice(&self.mtime.seconds.to_le_bytes());
        put_u32(out, self.mtime.nanoseconds);
        let owner = self.owner.unwrap_or_default();
        put_u32(out, owner.uid);
        put_u32(out, owner.gid);
        put_u32(out, owner.projid);
        put_u64(out, self.unmap.0);
        put_u64(out, self.unmap.1);
        for extent in self.extents {
            put_u64(out, extent.block);
            put_u64(out, extent.place | if extent.written { 0 } else { UNWRITTEN });
            put_u32(out, extent.blocks);
        }
        for &checksum in self.checksums {
            put_u32(out, checksum);
        }
    }
}

pub(crate) fn encode_destroy(object: Fid, out: &mut Vec<u8>) {
    out.push(KIND_DESTROY);
    put_fid(out, object);
}

pub(crate) fn encode_void(record: RecordId, out: &mut Vec<u8>) {
    out.push(KIND_VOID);
    put_u64(out, record.sequence);
    put_u32(out, record.index);
}

pub(crate) fn put_fid(out: &mut Vec<u8>, fid: Fid) {
    put_u64(out, fid.seq);
    put_u32(out, fid.oid);
    put_u32(out, fid.ver);
}

pub(crate) fn fid(reader: &mut Reader<'_>) -> Option<Fid> {
    Some(Fid { seq: reader.u64()?, oid: reader.u32()?, ver: reader.u32()? })
}

pub(crate) fn timespec(reader: &mut Reader<'_>) -> Option<Timespec> {
    Some(Timespec { seconds: reader.i64()?, nanoseconds: reader.u32()? })
}

pub(crate) fn owner(reader: &mut Reader<'_>) -> Option<Owner> {
    Some(Owner { uid: reader.u32()?, gid: reader.u32()?, projid: reader.u32()? })
}

impl Record {
    /// Reads a record; None if it is not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let record = match reader.u8()? {
            KIND_CHANGE => Self::Change(decode_change(&mut reader)?),
            KIND_DESTROY => Self::Destroy(fid(&mut reader)?),
            KIND_VOID => Self::Void(RecordId { sequence: reader.u64()?, index: reader.u32()? }),
            _ => return None,
        };
        reader.is_empty().then_some(record)
    }
}

fn decode_change(reader: &mut Reader<'_>) -> Option<OwnedChange> {
    let flags = reader.u8()?;
    let extent_count = reader.u16()?;
    if flags >> 6 != 0 || reader.u32()? != 0 {
        return None;
    }
    let object = fid(reader)?;
    let size = reader.u64()?;
    let size = match flags & 3 {
        0 => SizeRule::Keep,
        1 => SizeRule::AtLeast(size),
        2 => SizeRule::Exactly(size),
        _ => return None,
    };
    let mtime = timespec(reader)?;
    let owner = Some(owner(reader)?).filter(|_| flags & 4 != 0);
    let unmap = (reader.u64()?, reader.u64()?);
    let mut extents = Vec::with_capacity(usize::from(extent_count));
    let mut written = 0_u64;
    for _ in 0..extent_count {
        let (block, place, blocks) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let extent =
            Extent { block, blocks, place: place & !UNWRITTEN, written: place & UNWRITTEN == 0 };
        if blocks == 0 || block >> 40 != 0 || extent.place >> 46 != 0 {
            return None;
        }
        written += if extent.written { u64::from(blocks) } else { 0 };
        extents.push(extent);
    }
    let raw = reader.take(usize::try_from(written.checked_mul(4)?).ok()?)?;
    let checksums =
        raw.chunks_exact(4).map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]));
    let partial = [flags & 8 != 0, flags & 16 != 0];
    let fills = flags & 32 != 0;
    let checksums = checksums.collect();
    Some(OwnedChange { object, size, mtime, owner, partial, fills, unmap, extents, checksums })
}

//! Records of the journal: one per change of an object.
//!
//! A record is physical: it says which blocks map where afterwards, not what was asked. So replaying all records from some
//! place on, in order, over an index that holds some of them already, ends in the same index.

use sheen_types::{Fid, Timespec};

use crate::{
    Owner,
    bytes::{Reader, put_u16, put_u32, put_u64},
    layout::RecordId,
    run::{Packing, fits_window},
};

/// Bytes of a change before its extents.
const CHANGE_BYTES: usize = 88;
/// Bytes of an extent without checksums.
const EXTENT_BYTES: usize = 24;
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
    /// A packed extent is a whole group.
    pub(crate) packing: Packing,
}

impl Extent {
    /// Device blocks.
    pub(crate) fn stored(&self) -> u64 {
        if self.packing.is_plain() { u64::from(self.blocks) } else { self.packing.stored() }
    }

    /// How many checksums it has.
    pub(crate) fn checksums(&self) -> usize {
        if self.written { crate::bytes::index(self.stored()) } else { 0 }
    }

    /// Whether it is plain, or a whole group where one can be.
    fn is_sound(&self) -> bool {
        let whole = u64::from(self.blocks);
        self.packing.is_plain()
            || (self.written
                && self.packing.is_sound()
                && self.packing.first() == 0
                && self.packing.whole() == whole
                && fits_window(self.block, whole))
    }

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
/// | 1      | flags        | bits 0..2 size rule: 0 keep, 1 at least, 2 exactly; bit 2: sets owner; bit 3: stands on what was there |
/// | 2..4   | extents      | how many                                                             |
/// | 4..8   | generation   | the store's: that of the blocks mapped, and of their checksums       |
/// | 8..24  | object       | seq u64, oid u32, ver u32                                            |
/// | 24..32 | size         | bytes                                                                |
/// | 32..44 | mtime        | seconds i64, nanoseconds u32                                         |
/// | 44..56 | owner        | uid, gid, projid                                                     |
/// | 56..72 | unmap        | first block, end block; unmapped before the extents are mapped       |
/// | 72..88 | edges        | the first, the last block left in part as it was; all ones for none   |
/// | 88..   | extents      | block u64, place u64 (bit 63: unwritten), blocks u32, packing u32    |
/// | ..     | checksums    | bound CRC32C of each stored block of the written extents, in order   |
///
/// Source of truth for `appliance/docs/formats/store.md`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) object: Fid,
    pub(crate) generation: u32,
    pub(crate) size: SizeRule,
    pub(crate) mtime: Timespec,
    pub(crate) owner: Option<Owner>,
    /// The first and the last block that it left in part as it found them.
    pub(crate) edges: [Option<u64>; 2],
    /// Whether its extents stand on what the change found there: they fill what were holes, or copy what was content.
    pub(crate) stands: bool,
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
    pub(crate) generation: u32,
    pub(crate) size: SizeRule,
    pub(crate) mtime: Timespec,
    pub(crate) owner: Option<Owner>,
    pub(crate) edges: [Option<u64>; 2],
    pub(crate) stands: bool,
    pub(crate) unmap: (u64, u64),
    pub(crate) extents: Vec<Extent>,
    pub(crate) checksums: Vec<u32>,
}

impl OwnedChange {
    /// The blocks, first and end of each range, whose new state stands on what the change found there.
    pub(crate) fn ranges_standing(&self) -> impl Iterator<Item = (u64, u64)> {
        let edges = self.edges.into_iter().flatten().map(|block| (block, block + 1));
        let standing = self.extents.iter().filter(|_| self.stands);
        let standing = standing.map(|extent| (extent.block, extent.end()));
        edges.chain(standing)
    }

    pub(crate) fn as_change(&self) -> Change<'_> {
        Change {
            object: self.object,
            generation: self.generation,
            size: self.size,
            mtime: self.mtime,
            owner: self.owner,
            edges: self.edges,
            stands: self.stands,
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
    /// First and end block of all that it touches.
    pub(crate) fn range(&self) -> (u64, u64) {
        let unmap = Some(self.unmap).filter(|&(first, end)| first < end);
        let extents = self.extents.iter().map(|extent| (extent.block, extent.end()));
        let ranges = unmap.into_iter().chain(extents);
        ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or_default()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (rule, size) = match self.size {
            SizeRule::Keep => (0, 0),
            SizeRule::AtLeast(size) => (1, size),
            SizeRule::Exactly(size) => (2, size),
        };
        out.push(KIND_CHANGE);
        out.push(rule | u8::from(self.owner.is_some()) << 2 | u8::from(self.stands) << 3);
        put_u16(out, u16::try_from(self.extents.len()).expect("extents of a record are bounded"));
        put_u32(out, self.generation);
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
        for edge in self.edges {
            put_u64(out, edge.unwrap_or(u64::MAX));
        }
        for extent in self.extents {
            put_u64(out, extent.block);
            put_u64(out, extent.place | if extent.written { 0 } else { UNWRITTEN });
            put_u32(out, extent.blocks);
            put_u32(out, extent.packing.bits());
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
    if flags >> 4 != 0 {
        return None;
    }
    let generation = reader.u32()?;
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
    let edges =
        [reader.u64()?, reader.u64()?].map(|edge| Some(edge).filter(|&edge| edge != u64::MAX));
    let mut extents = Vec::with_capacity(usize::from(extent_count));
    let mut checksum_count = 0_usize;
    for _ in 0..extent_count {
        let (block, place, blocks) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let packing = Packing::from_bits(reader.u32()?);
        let (written, place) = (place & UNWRITTEN == 0, place & !UNWRITTEN);
        let extent = Extent { block, blocks, place, written, packing };
        if blocks == 0 || block >> 40 != 0 || place >> 46 != 0 || !extent.is_sound() {
            return None;
        }
        checksum_count += extent.checksums();
        extents.push(extent);
    }
    let raw = reader.take(checksum_count.checked_mul(4)?)?;
    let checksums =
        raw.chunks_exact(4).map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]));
    let stands = flags & 8 != 0;
    let checksums = checksums.collect();
    Some(OwnedChange {
        object,
        generation,
        size,
        mtime,
        owner,
        edges,
        stands,
        unmap,
        extents,
        checksums,
    })
}

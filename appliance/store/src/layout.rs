//! How a zone is cut, and the anchor that says so.
//!
//! ```text
//! zone block 0        anchor, first copy
//! 1 ..                journal (ring)
//! ..                  checkpoint area A, checkpoint area B
//! ..                  data
//! last block          anchor, second copy
//! ```
//!
//! The checkpoint areas hold the largest index there can be: every data block a run and a chunk of its own, and
//! `objects_max` objects. So a checkpoint always fits and nothing need be counted while serving.

use sheen_journal::{Fault, Geometry, Position};
use sheen_types::{BLOCK_BYTES, Lba};

use crate::{
    FormatError, Zone,
    bytes::{Reader, put_u32, put_u64},
    checkpoint::{AREA_BATCH_BLOCKS, CHUNK_HEADER_BYTES, OBJECT_HEADER_BYTES, RUN_BYTES},
    request::WRITE_BLOCKS_MAX,
};

/// Least blocks of a zone: 8 MiB.
pub(crate) const ZONE_BLOCKS_MIN: u64 = 2048;
/// Most blocks of a zone: addresses of blocks have 47 bits in a run.
pub(crate) const ZONE_BLOCKS_MAX: u64 = 1 << 46;
/// What an anchor's payload is.
pub(crate) const ANCHOR_KIND: u32 = 0x5354_4f31;
/// Bytes of the anchor's payload before the void list.
const FIXED_BYTES: usize = 152;
const VOID_BYTES: usize = 12;
/// Most void records an anchor can name; more need a checkpoint.
pub(crate) const VOIDS_MAX: usize =
    (sheen_journal::anchor::PAYLOAD_BYTES_MAX - FIXED_BYTES) / VOID_BYTES;

/// The parts of a zone, in blocks counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) zone: Zone,
    pub(crate) journal_first: u64,
    pub(crate) journal_blocks: u64,
    pub(crate) journal_batch_blocks: u32,
    pub(crate) area_first: [u64; 2],
    pub(crate) area_blocks: u64,
    pub(crate) data_first: u64,
    pub(crate) data_blocks: u64,
    /// Data blocks that users cannot fill, so that overwrites find free blocks on a full store.
    pub(crate) reserve_blocks: u64,
    pub(crate) objects_max: u64,
}

impl Layout {
    pub(crate) fn plan(zone: Zone) -> Result<Self, FormatError> {
        if zone.blocks < ZONE_BLOCKS_MIN {
            return Err(FormatError::TooSmall { least: ZONE_BLOCKS_MIN, found: zone.blocks });
        }
        if zone.blocks > ZONE_BLOCKS_MAX {
            return Err(FormatError::TooLarge { most: ZONE_BLOCKS_MAX, found: zone.blocks });
        }
        let journal_blocks = (zone.blocks / 64).clamp(64, 32 << 10);
        let objects_max = zone.blocks / 4;
        let index_bytes = objects_max * OBJECT_HEADER_BYTES as u64
            + zone.blocks * (CHUNK_HEADER_BYTES + RUN_BYTES + 4) as u64;
        // A batch of the area may leave room for almost one chunk unused: 5 % of 16 blocks.
        let area_blocks = (index_bytes + index_bytes / 16).div_ceil(BLOCK_BYTES as u64)
            + 4 * u64::from(AREA_BATCH_BLOCKS);
        let area_first = 1 + journal_blocks;
        let data_first = area_first + 2 * area_blocks;
        let data_blocks = zone.blocks - 1 - data_first;
        let reserve_blocks = (data_blocks / 64).clamp(2 * WRITE_BLOCKS_MAX as u64, 16 << 10);
        Ok(Self {
            zone,
            journal_first: 1,
            journal_blocks,
            journal_batch_blocks: u32::try_from((journal_blocks / 4).min(64)).unwrap_or(64),
            area_first: [area_first, area_first + area_blocks],
            area_blocks,
            data_first,
            data_blocks,
            reserve_blocks,
            objects_max,
        })
    }

    /// Device address of a zone block.
    pub(crate) fn lba(&self, block: u64) -> Lba {
        self.zone.first.plus(block)
    }

    pub(crate) fn anchor_lbas(&self) -> [Lba; 2] {
        anchor_lbas(self.zone)
    }

    pub(crate) fn journal(&self, identity: u64) -> Geometry {
        Geometry {
            first: self.lba(self.journal_first),
            blocks: self.journal_blocks,
            identity,
            batch_blocks_max: self.journal_batch_blocks,
        }
    }

    pub(crate) fn area(&self, identity: u64, generation: u64) -> Geometry {
        Geometry {
            first: self.lba(self.area_first[usize::from(generation % 2 == 1)]),
            blocks: self.area_blocks,
            identity,
            batch_blocks_max: AREA_BATCH_BLOCKS,
        }
    }

    fn is_sound(&self) -> bool {
        let parts = [
            (self.journal_first, self.journal_blocks),
            (self.area_first[0], self.area_blocks),
            (self.area_first[1], self.area_blocks),
            (self.data_first, self.data_blocks),
        ];
        let mut end = 1_u64;
        for (first, blocks) in parts {
            if first < end || blocks == 0 || blocks > ZONE_BLOCKS_MAX || first > ZONE_BLOCKS_MAX {
                return false;
            }
            end = first + blocks;
        }
        end < self.zone.blocks
            && self.zone.blocks <= ZONE_BLOCKS_MAX
            && self.reserve_blocks < self.data_blocks
            && self.journal(0).is_sound()
            && self.area(0, 0).is_sound()
    }
}

/// Places of an anchor's two copies: the ends of the zone, far from each other.
pub(crate) fn anchor_lbas(zone: Zone) -> [Lba; 2] {
    [zone.first, zone.first.plus(zone.blocks - 1)]
}

/// Place of a record: its batch's sequence, and which record of the batch it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordId {
    pub(crate) sequence: u64,
    pub(crate) index: u32,
}

/// Payload of a store's anchor, little-endian.
///
/// | bytes    | field                 | meaning                                                       |
/// |----------|-----------------------|---------------------------------------------------------------|
/// | 0..8     | zone_first            | device block of the zone's start                              |
/// | 8..16    | zone_blocks           | its size                                                      |
/// | 16..24   | journal_first         | this and the following in blocks from the zone's start        |
/// | 24..32   | journal_blocks        |                                                               |
/// | 32..48   | area_first (2 × u64)  | checkpoint areas; an odd generation lies in the second        |
/// | 48..56   | area_blocks           | of each                                                       |
/// | 56..64   | data_first            |                                                               |
/// | 64..72   | data_blocks           |                                                               |
/// | 72..80   | reserve_blocks        | data blocks that users cannot fill                            |
/// | 80..88   | objects_max           |                                                               |
/// | 88..92   | journal_batch_blocks  | most blocks of a journal batch                                |
/// | 92..96   | voids                 | entries of the void list                                      |
/// | 96..104  | incarnation           | of the journal's writer: rises with every opening             |
/// | 104..112 | checkpoint_generation | 0: none, the index began empty                                |
/// | 112..120 | checkpoint_batches    | batches of the checkpoint                                     |
/// | 120..128 | head_sequence         | journal batch where replay begins                             |
/// | 128..136 | head_block            | its block in the ring                                         |
/// | 136..144 | head_incarnation      | who wrote, or would write, that batch: older ones are not it  |
/// | 144..152 | durable_sequence      | journal batches known durable, with their data                |
/// | 152..    | void list             | (sequence u64, index u32): records that never happened        |
///
/// Source of truth for `appliance/docs/formats/store.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnchorState {
    pub(crate) layout: Layout,
    pub(crate) incarnation: u64,
    pub(crate) checkpoint_generation: u64,
    pub(crate) checkpoint_batches: u64,
    pub(crate) head: Position,
    pub(crate) head_incarnation: u64,
    pub(crate) durable_sequence: u64,
    /// Sorted.
    pub(crate) voids: Vec<RecordId>,
}

impl AnchorState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(self.voids.len() <= VOIDS_MAX, "a longer list takes a checkpoint instead");
        let layout = &self.layout;
        let mut out = Vec::with_capacity(FIXED_BYTES + self.voids.len() * VOID_BYTES);
        for value in [
            layout.zone.first.0,
            layout.zone.blocks,
            layout.journal_first,
            layout.journal_blocks,
            layout.area_first[0],
            layout.area_first[1],
            layout.area_blocks,
            layout.data_first,
            layout.data_blocks,
            layout.reserve_blocks,
            layout.objects_max,
        ] {
            put_u64(&mut out, value);
        }
        put_u32(&mut out, layout.journal_batch_blocks);
        put_u32(&mut out, u32::try_from(self.voids.len()).expect("a short list"));
        for value in [
            self.incarnation,
            self.checkpoint_generation,
            self.checkpoint_batches,
            self.head.sequence,
            self.head.block,
            self.head_incarnation,
            self.durable_sequence,
        ] {
            put_u64(&mut out, value);
        }
        assert!(out.len() == FIXED_BYTES, "the table above");
        for void in &self.voids {
            put_u64(&mut out, void.sequence);
            put_u32(&mut out, void.index);
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Fault> {
        let short = Fault::Malformed { field: "payload" };
        let mut reader = Reader::new(payload);
        let mut next = || reader.u64().ok_or(short);
        let zone = Zone { first: Lba(next()?), blocks: next()? };
        let (journal_first, journal_blocks) = (next()?, next()?);
        let area_first = [next()?, next()?];
        let area_blocks = next()?;
        let (data_first, data_blocks) = (next()?, next()?);
        let (reserve_blocks, objects_max) = (next()?, next()?);
        let journal_batch_blocks = reader.u32().ok_or(short)?;
        let void_count = reader.u32().ok_or(short)?;
        let layout = Layout {
            zone,
            journal_first,
            journal_blocks,
            journal_batch_blocks,
            area_first,
            area_blocks,
            data_first,
            data_blocks,
            reserve_blocks,
            objects_max,
        };
        if !layout.is_sound() {
            return Err(Fault::Malformed { field: "layout" });
        }
        let mut next = || reader.u64().ok_or(short);
        let mut state = Self {
            layout,
            incarnation: next()?,
            checkpoint_generation: next()?,
            checkpoint_batches: next()?,
            head: Position { sequence: next()?, block: next()? },
            head_incarnation: next()?,
            durable_sequence: next()?,
            voids: Vec::new(),
        };
        for _ in 0..void_count {
            let sequence = reader.u64().ok_or(short)?;
            state.voids.push(RecordId { sequence, index: reader.u32().ok_or(short)? });
        }
        let sorted = state.voids.is_sorted();
        if !reader.is_empty() || !sorted || state.voids.len() > VOIDS_MAX {
            return Err(Fault::Malformed { field: "void list" });
        }
        if state.head.block >= journal_blocks
            || state.head.sequence == 0
            || state.head_incarnation > state.incarnation
        {
            return Err(Fault::Malformed { field: "head" });
        }
        Ok(state)
    }
}

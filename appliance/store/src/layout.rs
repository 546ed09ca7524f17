//! How a zone is cut.
//!
//! ```text
//! zone block 0        anchor, first copy
//! 1 ..                journal (ring)
//! ..                  checkpoint area A, checkpoint area B
//! ..                  data
//! ..                  twins of the areas
//! last block          anchor, second copy
//! ```
//!
//! A checkpoint area holds an index of 24 bytes for each block of the zone, and deltas behind it. What an index may come to is
//! counted (see [`crate::index::encoded_bytes`]), and a change that could outgrow it is refused. Of the 24 bytes, a block
//! that lies apart from its neighbours takes 20 with its run and checksum; 4 are left for objects (52) and chunks (10):
//! an object for each 16 blocks, at 64 KiB each, and a store can be filled. Of one-block objects an area holds more than
//! `objects_max`.
//!
//! Deltas may take a quarter of that and 256 KiB: at least 2 blocks are written for a delta, and a new base is begun before they
//! are used up. So an area is 30 bytes for each block, and the four copies of areas together 120: 2.9 % of a zone.

use sheen_journal::Geometry;
use sheen_types::{BLOCK_BYTES, Lba};

use crate::{FormatError, Zone, checkpoint::AREA_BATCH_BLOCKS, request::WRITE_BLOCKS_MAX};

/// Bytes of index for each block of the zone.
const INDEX_BYTES_PER_BLOCK: u64 = 24;
/// Blocks of an area for deltas, whatever the zone's size.
const DELTA_BLOCKS_MIN: u64 = 64;

/// Least blocks of a zone: 8 MiB.
pub(crate) const ZONE_BLOCKS_MIN: u64 = 2048;
/// Most blocks of a zone: addresses of blocks have 47 bits in a run.
pub(crate) const ZONE_BLOCKS_MAX: u64 = 1 << 46;

/// The parts of a zone, in blocks counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) zone: Zone,
    pub(crate) journal_first: u64,
    pub(crate) journal_blocks: u64,
    pub(crate) journal_batch_blocks: u32,
    pub(crate) area_first: [u64; 2],
    pub(crate) area_blocks: u64,
    /// From an area to its twin.
    pub(crate) twin_blocks: u64,
    /// Most bytes of the index, as counted.
    pub(crate) index_bytes_max: u64,
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
        let index_bytes_max = zone.blocks * INDEX_BYTES_PER_BLOCK;
        // A batch may leave room for almost a whole run of 256 blocks unused, and has headers: 2 % of 16 blocks.
        let index_blocks = (index_bytes_max + index_bytes_max / 32).div_ceil(BLOCK_BYTES as u64);
        let area_blocks = index_blocks + index_blocks / 4 + DELTA_BLOCKS_MIN;
        let area_first = 1 + journal_blocks;
        let data_first = area_first + 2 * area_blocks;
        let data_blocks = (zone.blocks - 1 - 2 * area_blocks) - data_first;
        let reserve_blocks = (data_blocks / 64).clamp(2 * WRITE_BLOCKS_MAX as u64, 16 << 10);
        Ok(Self {
            zone,
            journal_first: 1,
            journal_blocks,
            journal_batch_blocks: u32::try_from((journal_blocks / 4).min(64)).unwrap_or(64),
            area_first: [area_first, area_first + area_blocks],
            area_blocks,
            twin_blocks: data_first + data_blocks - area_first,
            index_bytes_max,
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

    pub(crate) fn area(&self, identity: u64, area: u32) -> Geometry {
        Geometry {
            first: self.lba(self.area_first[usize::from(area == 1)]),
            blocks: self.area_blocks,
            identity,
            batch_blocks_max: AREA_BATCH_BLOCKS,
        }
    }

    /// The second copy of an area.
    pub(crate) fn twin(&self, identity: u64, area: u32) -> Geometry {
        let first = self.area(identity, area);
        Geometry { first: first.first.plus(self.twin_blocks), ..first }
    }

    /// Most bytes of one delta, so that an area whose base is as large as can be has room for two.
    pub(crate) fn delta_bytes_max(&self) -> u64 {
        (self.area_blocks / 12 + DELTA_BLOCKS_MIN / 4) * BLOCK_BYTES as u64
    }

    pub(crate) fn is_sound(&self) -> bool {
        let parts = [
            (self.journal_first, self.journal_blocks),
            (self.area_first[0], self.area_blocks),
            (self.area_first[1], self.area_blocks),
            (self.data_first, self.data_blocks),
            (self.area_first[0].saturating_add(self.twin_blocks), self.area_blocks),
            (self.area_first[1].saturating_add(self.twin_blocks), self.area_blocks),
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
            && self.zone.first.0.checked_add(self.zone.blocks).is_some()
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

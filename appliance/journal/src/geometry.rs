//! Where a log lies and how a place in it is named.

use sheen_types::{BLOCK_BYTES, Lba};

use crate::header::HEADER_BYTES;

/// The blocks a log owns, and the limits both its writer and its scanner must know alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// First block of the ring, as the device addresses it.
    pub first: Lba,
    /// Blocks of the ring; at least four times `batch_blocks_max`, or a lap could leave no room to pad.
    pub blocks: u64,
    /// A number no other log on any device has, given when the log is formatted. Blocks of another
    /// identity are as good as blank, so a ring need not be cleared first.
    pub identity: u64,
    /// Most blocks of one batch, and so the bound of a record: see [`Self::record_bytes_max`].
    pub batch_blocks_max: u32,
}

/// Most a sequence, generation or incarnation can be. At a million a second it is reached after 2000 years: what says it
/// is beyond was not written by us, and whoever counts on from it may do so without minding overflow.
pub const COUNTER_MAX: u64 = 1 << 56;

/// Bytes that frame one record inside a batch: its length.
pub(crate) const RECORD_FRAME_BYTES: usize = 4;

/// Bytes of a batch of one record that are not the record's.
pub const BATCH_FRAME_BYTES: usize = HEADER_BYTES + RECORD_FRAME_BYTES;

impl Geometry {
    /// Most bytes of one record.
    #[must_use]
    pub const fn record_bytes_max(&self) -> usize {
        self.batch_blocks_max as usize * BLOCK_BYTES - HEADER_BYTES - RECORD_FRAME_BYTES
    }

    /// Device address of block `block` of the ring.
    #[must_use]
    pub const fn lba(&self, block: u64) -> Lba {
        self.first.plus(block)
    }

    /// Whether the numbers fit each other.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.batch_blocks_max > 0
            && self.batch_blocks_max <= 1 << 19
            && self.blocks / 4 >= self.batch_blocks_max as u64
            && self.blocks <= 1 << 48
    }

    /// The place `blocks` further on, at most to the end of the ring, whose end is its start.
    pub(crate) const fn advance(&self, block: u64, blocks: u64) -> u64 {
        let next = block + blocks;
        assert!(next <= self.blocks, "a batch never crosses the end of the ring");
        if next == self.blocks { 0 } else { next }
    }
}

/// A place between batches: the sequence of the batch that stands or will stand there, and its first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Sequence of the batch; 1 is the first of a log, 0 is never used.
    pub sequence: u64,
    /// Its first block, counted from the start of the ring.
    pub block: u64,
}

impl Position {
    /// Where a new log begins.
    pub const START: Self = Self { sequence: 1, block: 0 };
}

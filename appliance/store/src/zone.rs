//! The zone of a device that a store owns, and how it is laid out.

use std::{error::Error, fmt};

use sheen_journal::{Anchor, Position};
use sheen_types::Lba;

use crate::{
    anchor::{ANCHOR_KIND, AnchorState, ScrubPosition},
    layout::Layout,
};

/// The blocks a store owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// First block, as the device addresses it. Every address in a command is a device address.
    pub first: Lba,
    /// Blocks.
    pub blocks: u64,
}

/// Bounds of a running store. Not stored: they may differ from one start to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests inside the store at once (waiting ones included); one more is refused as [`crate::Busy`].
    pub requests_max: u32,
    /// Data written and not flushed before the store flushes by itself. Bounds what recovery must verify.
    pub unflushed_blocks_max: u64,
    /// Journal batches in flight.
    pub journal_writes_max: u32,
    /// Tell the device which blocks are free, lazily.
    pub discard: bool,
}

impl Default for Limits {
    /// 1024 requests, 128 MiB unflushed, 2 journal writes (chosen by eye), discards.
    fn default() -> Self {
        Self {
            requests_max: 1024,
            unflushed_blocks_max: 32 << 10,
            journal_writes_max: 2,
            discard: true,
        }
    }
}

/// Why a zone cannot be formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// Too few blocks for a journal, checkpoints and data.
    TooSmall {
        /// Least blocks of a zone.
        least: u64,
        /// Blocks given.
        found: u64,
    },
    /// More blocks than addresses have bits for.
    TooLarge {
        /// Most blocks of a zone.
        most: u64,
        /// Blocks given.
        found: u64,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooSmall { least, found } => {
                write!(f, "zone of {found} blocks is too small, it needs at least {least}")
            }
            Self::TooLarge { most, found } => {
                write!(f, "zone of {found} blocks is too large, at most {most} are addressed")
            }
        }
    }
}

impl Error for FormatError {}

/// The blocks of a zone that hold no data: what a store writes to open, to serve and to delete. Addresses count from the zone's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedRuns {
    /// The first anchor and the journal: first block, and how many.
    pub journal: (Lba, u64),
    /// The checkpoint areas; their twins and the second anchor.
    pub tables: [(Lba, u64); 2],
}

impl FixedRuns {
    /// Those of a zone of `blocks` blocks that is formatted now.
    ///
    /// # Errors
    /// [`FormatError`] when the zone's size does not do.
    pub fn of(blocks: u64) -> Result<Self, FormatError> {
        let layout = Layout::plan(Zone { first: Lba(0), blocks })?;
        let [areas, _] = layout.area_first;
        let data_end = layout.data_first + layout.data_blocks;
        Ok(Self {
            journal: (Lba(0), areas),
            tables: [(Lba(areas), layout.data_first - areas), (Lba(data_end), blocks - data_end)],
        })
    }
}

/// Makes an empty store of a zone: writes to carry out, in order, followed by one flush. `identity` must be a
/// number never given before (random): it tells this store's blocks from an older one's.
///
/// # Errors
/// [`FormatError`] when the zone's size does not do.
pub fn format(zone: Zone, identity: u64) -> Result<Vec<(Lba, Vec<u8>)>, FormatError> {
    let state = AnchorState {
        layout: Layout::plan(zone)?,
        incarnation: 1,
        checkpoint_generation: 0,
        checkpoint_batches: 0,
        base_batches: 0,
        area: 1,
        generation: 0,
        scrub: ScrubPosition::default(),
        head: Position::START,
        head_incarnation: 1,
        durable_sequence: 0,
        voids: Vec::new(),
    };
    let anchor = Anchor { identity, generation: 1, kind: ANCHOR_KIND, payload: state.encode() };
    Ok(state.layout.anchor_lbas().into_iter().map(|lba| (lba, anchor.encode(lba))).collect())
}

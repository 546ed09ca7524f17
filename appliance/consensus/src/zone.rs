//! How the MDT's zone of the device is cut: two anchors, two snapshot areas, the log ring.
//!
//! Addresses are relative to the zone. The cut follows from the size alone, so nothing about it is stored but
//! the size, which every anchor repeats.

use sheen_types::{BLOCK_BYTES, Lba};

/// Block of the first anchor.
const ANCHOR_FIRST: u64 = 0;
/// Block of the second: far enough from the first that one torn or misdirected write does not hit both.
const ANCHOR_SECOND: u64 = 8;
/// Blocks before the snapshot areas.
const HEAD_BLOCKS: u64 = 16;
/// Smallest zone, 8 MiB: below it the ring would not hold four batches of 1 MiB.
pub const ZONE_BLOCKS_MIN: u64 = 2048;
/// Smallest ring of a zone that has room for it: 32 MiB.
const RING_BLOCKS_MIN: u64 = (32 << 20) / BLOCK_BYTES as u64;
/// Blocks of the ring of the smallest zone.
pub(crate) const RING_BLOCKS_LEAST: u64 = ZONE_BLOCKS_MIN / 2;
/// Largest ring: 256 MiB. More only makes replay after a restart longer.
const RING_BLOCKS_MAX: u64 = (256 << 20) / BLOCK_BYTES as u64;
/// Smallest zone a node gives its MDT: 64 MiB.
const DEFAULT_BLOCKS_MIN: u64 = (64 << 20) / BLOCK_BYTES as u64;

/// A run of blocks of the zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// First block.
    pub start: Lba,
    /// How many.
    pub blocks: u64,
}

/// One of the two snapshot areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotArea {
    /// The first.
    A,
    /// The second.
    B,
}

impl SnapshotArea {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The cut of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    blocks: u64,
    ring_blocks: u64,
    snapshot_blocks: u64,
}

impl Zone {
    /// Cuts a zone of `blocks` blocks; None if it has fewer than [`ZONE_BLOCKS_MIN`].
    #[must_use]
    pub fn new(blocks: u64) -> Option<Self> {
        if blocks < ZONE_BLOCKS_MIN {
            return None;
        }
        let ring_blocks = (blocks / 4).clamp(RING_BLOCKS_MIN, RING_BLOCKS_MAX).min(blocks / 2);
        let snapshot_blocks = (blocks - HEAD_BLOCKS - ring_blocks) / 2;
        Some(Self { blocks, ring_blocks, snapshot_blocks })
    }

    /// The blocks a node gives its MDT of a device with `device_blocks`: a sixteenth, at least 64 MiB. May be more
    /// than a small device has: the caller decides what to do then.
    #[must_use]
    pub fn default_blocks(device_blocks: u64) -> u64 {
        (device_blocks / 16).max(DEFAULT_BLOCKS_MIN)
    }

    /// Size of the whole zone in blocks.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks of the anchors.
    #[must_use]
    pub const fn anchors() -> [Lba; 2] {
        [Lba(ANCHOR_FIRST), Lba(ANCHOR_SECOND)]
    }

    /// The blocks of a snapshot area.
    #[must_use]
    pub const fn snapshot(&self, area: SnapshotArea) -> BlockRange {
        let start = match area {
            SnapshotArea::A => Lba(HEAD_BLOCKS),
            SnapshotArea::B => Lba(HEAD_BLOCKS + self.snapshot_blocks),
        };
        BlockRange { start, blocks: self.snapshot_blocks }
    }

    /// The blocks of the log ring: the end of the zone.
    #[must_use]
    pub const fn ring(&self) -> BlockRange {
        BlockRange { start: Lba(self.blocks - self.ring_blocks), blocks: self.ring_blocks }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_parts_of_a_zone_never_overlap() {
        for blocks in [ZONE_BLOCKS_MIN, 3000, 16384, 163_840, 10_000_000] {
            let zone = Zone::new(blocks).unwrap();
            let [a, b, ring] =
                [zone.snapshot(SnapshotArea::A), zone.snapshot(SnapshotArea::B), zone.ring()];
            assert!(Zone::anchors().iter().all(|anchor| anchor.0 < a.start.0));
            assert!(a.blocks >= 64 && ring.blocks >= 1024, "{zone:?}");
            assert_eq!(a.start.plus(a.blocks), b.start);
            assert!(b.start.plus(b.blocks) <= ring.start);
            assert_eq!(ring.start.plus(ring.blocks), Lba(blocks));
        }
        assert_eq!(Zone::new(ZONE_BLOCKS_MIN - 1), None);
        assert_eq!(Zone::new(ZONE_BLOCKS_MIN).unwrap().ring().blocks, RING_BLOCKS_LEAST);
    }

    #[test]
    fn the_ring_of_a_default_zone_has_32_to_256_mib() {
        for device in [16384, 1 << 20, 1 << 28] {
            let ring = Zone::new(Zone::default_blocks(device)).unwrap().ring();
            assert!((RING_BLOCKS_MIN..=RING_BLOCKS_MAX).contains(&ring.blocks));
        }
    }
}

//! Sizes and bounds of a simulated node.

use sheen_consensus::Zone as MdtZone;

use crate::chance::Chance;

/// Sizes and bounds of a node: small ones meet their ends within a short run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Blocks of each OST's zone. The smallest has a journal of 64 blocks, which comes round many times.
    pub(crate) ost_blocks: u64,
    pub(crate) unflushed_blocks_max: u64,
    pub(crate) ost_operations_max: usize,
    pub(crate) requests_max: usize,
    pub(crate) leases_max: usize,
    /// One device command in so many is to be submitted again; 0: none.
    pub(crate) retry_one_in: u64,
    /// Blocks of the MDT's zone.
    pub(crate) mdt_blocks: u64,
}

impl Shape {
    /// Draws one.
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let mut either = |small: u64, large: u64| if chance.percent(50) { small } else { large };
        let mut count = |small: u64, large: u64| usize::try_from(either(small, large)).unwrap_or(1);
        Self {
            ost_operations_max: count(1, 64),
            requests_max: count(12, 16 << 10),
            leases_max: count(16, 1 << 20),
            ost_blocks: either(2 << 10, 16 << 10),
            unflushed_blocks_max: either(24, 32 << 10),
            retry_one_in: either(0, 40),
            mdt_blocks: if either(0, 1) + either(0, 1) == 0 {
                sheen_consensus::zone::ZONE_BLOCKS_MIN
            } else {
                MdtZone::default_blocks(0)
            },
        }
    }

    /// First block of an OST's zone.
    pub(crate) fn ost_first(&self, ost: u32) -> u64 {
        self.mdt_blocks + u64::from(ost) * self.ost_blocks
    }

    /// The MDT's zone.
    pub(crate) fn mdt_zone(&self) -> MdtZone {
        MdtZone::new(self.mdt_blocks).expect("a size that is large enough")
    }
}

//! Making a zone: what to write so that recovery finds an empty state.

use raftbare::{ClusterConfig, NodeId};
use sheen_journal::Position as LogPlace;
use sheen_types::Lba;

use crate::{
    anchor::AnchorBody,
    entry::Position,
    zone::{BlockRange, Zone},
};

/// What a zone is made with.
#[derive(Clone, Debug)]
pub struct Format {
    /// The zone.
    pub zone: Zone,
    /// A random number: tells this log from every other, so that blocks of an older one are never taken for its own.
    pub identity: u64,
    /// This replica.
    pub replica: u64,
    /// Every replica of the group, this one included.
    pub voters: Vec<u64>,
}

impl Format {
    /// Blocks worth overwriting with zeros beforehand (one MiB writes will do), so that a sparse file has them allocated
    /// and a log write never has to allocate: the log ring. Not needed for correctness.
    #[must_use]
    pub fn zero_range(&self) -> BlockRange {
        self.zone.ring()
    }

    /// The anchors, to be written durable in this order.
    #[must_use]
    pub fn anchors(&self) -> [(Lba, Vec<u8>); 2] {
        let mut config = ClusterConfig::new();
        config.voters.extend(self.voters.iter().copied().map(NodeId::new));
        let anchor = AnchorBody {
            zone_blocks: self.zone.blocks(),
            replica: self.replica,
            identity: self.identity,
            generation: 1,
            incarnation: 1,
            head: LogPlace::START,
            head_incarnation: 1,
            durable_sequence: 0,
            term: 0,
            vote: None,
            position: Position::default(),
            config,
            snapshot: None,
        }
        .to_anchor();
        Zone::anchors().map(|lba| (lba, anchor.encode(lba)))
    }
}

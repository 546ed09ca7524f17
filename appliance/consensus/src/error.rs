//! What can be wrong with the log's bytes, and why a proposal is refused.

use std::fmt;

use sheen_journal::{AnchorDamage, Damage};

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The anchor belongs to a zone of another size.
    ZoneSize,
    /// The anchor belongs to another replica.
    Replica,
    /// An anchor is whole, but its content is not what an anchor holds.
    AnchorContent,
    /// A snapshot chunk does not begin with its magic number.
    SnapshotMagic,
    /// A chunk belongs to another snapshot.
    SnapshotGeneration,
    /// A chunk belongs elsewhere in its snapshot.
    SnapshotOrder,
    /// A chunk is cut off, or the chunks together are not as long as the anchor says.
    SnapshotLength,
    /// A chunk's checksum is wrong.
    SnapshotChecksum,
    /// The device could not read the chunk.
    SnapshotUnreadable,
    /// Log entries are missing between those that are there.
    LogGap,
    /// A record is whole, but its content is not what a record holds.
    RecordContent,
}

/// Damage this crate found itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneDamage {
    /// What is damaged.
    pub kind: DamageKind,
    /// Where: bytes from the start of the zone.
    pub offset: u64,
    /// What should be there (meaning depends on the kind).
    pub expected: u64,
    /// What is.
    pub found: u64,
}

impl fmt::Display for ZoneDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, offset, expected, found } = self;
        write!(
            f,
            "metadata zone damaged ({kind:?}) at its byte {offset}: expected {expected:#x}, found {found:#x}"
        )
    }
}

impl std::error::Error for ZoneDamage {}

/// Why recovery ended without a replica. Nothing of the zone is served then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryError {
    /// No anchor: never formatted, or both copies are lost.
    Anchor(AnchorDamage),
    /// The log lost a batch that was known durable. Addresses are relative to the zone.
    Log(Damage),
    /// Something else of the zone is damaged.
    Zone(ZoneDamage),
    /// The device refused a write or flush.
    Device,
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anchor(damage) => write!(f, "metadata zone: {damage}"),
            Self::Log(damage) => write!(f, "metadata zone: {damage}"),
            Self::Zone(damage) => damage.fmt(f),
            Self::Device => f.write_str("the device refused to write to the metadata zone"),
        }
    }
}

impl std::error::Error for RecoveryError {}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// Another replica leads (None: nobody knows which).
    NotLeader(Option<u64>),
    /// The log has no room until a snapshot let it be trimmed, or too much is on its way: try again.
    Busy,
    /// Longer than [`crate::PROPOSAL_BYTES_MAX`].
    TooLong,
    /// The log failed: this replica stopped.
    Stopped,
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader(Some(leader)) => write!(f, "replica {leader} leads"),
            Self::NotLeader(None) => f.write_str("no leader is known"),
            Self::Busy => f.write_str("the metadata log is full for now"),
            Self::TooLong => f.write_str("proposal too long"),
            Self::Stopped => f.write_str("the metadata log failed"),
        }
    }
}

impl std::error::Error for ProposeError {}

//! Why a block is not the one that should be there. Each fault has another cure, so each has its name.

use std::{error::Error, fmt};

use sheen_types::Lba;

/// Why the bytes at a place are not the batch (or anchor) expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device could not read the block.
    Unreadable,
    /// The bytes decayed, were torn or never were written.
    Checksum {
        /// What the bytes should sum to by their header.
        expected: u32,
        /// What they sum to.
        found: u32,
    },
    /// No header: neither the sum nor the log's identity nor the place is right. Blank, or from inside of a batch of an earlier lap;
    /// of a header all three would have to decay.
    NoHeader,
    /// A good block, but of another place: the device misdirected a write or a read.
    Misdirected {
        /// Where we read.
        expected: Lba,
        /// Where the block says it belongs.
        found: Lba,
    },
    /// A good block of another log: left over from before this one was formatted.
    Identity {
        /// Ours.
        expected: u64,
        /// That of the block.
        found: u64,
    },
    /// Written by a newer release: do not touch it, tell the operator.
    Format {
        /// Newest format this release reads.
        expected: u32,
        /// That of the block.
        found: u32,
    },
    /// A good batch of another place in the order: an older lap, or one after a batch that is lost.
    Sequence {
        /// Next in order.
        expected: u64,
        /// That of the block.
        found: u64,
    },
    /// A good batch by an incarnation of the writer whose work is not expected here.
    Incarnation {
        /// The least (or the most, if `found` is above it) that would do.
        expected: u64,
        /// That of the block.
        found: u64,
    },
    /// Good checksum, impossible content: a bug wrote it.
    Malformed {
        /// The field that is impossible.
        field: &'static str,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unreadable => f.write_str("unreadable"),
            Self::Checksum { expected, found } => {
                write!(f, "checksum expected {expected:#010x}, found {found:#010x}")
            }
            Self::NoHeader => f.write_str("no header"),
            Self::Misdirected { expected, found } => {
                write!(f, "misdirected: expected a block of {expected}, found one of {found}")
            }
            Self::Identity { expected, found } => {
                write!(f, "identity expected {expected:#018x}, found {found:#018x}")
            }
            Self::Format { expected, found } => {
                write!(
                    f,
                    "format expected at most {expected}, found {found}: written by a newer release"
                )
            }
            Self::Sequence { expected, found } => {
                write!(f, "sequence expected {expected}, found {found}")
            }
            Self::Incarnation { expected, found } => {
                write!(f, "incarnation expected {expected}, found {found}")
            }
            Self::Malformed { field } => write!(f, "impossible value in {field}"),
        }
    }
}

/// A batch that was known durable is not there: stored data is damaged, and the log must not be used as if it ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where on the device.
    pub lba: Lba,
    /// Sequence of the batch that should be there.
    pub sequence: u64,
    /// What is wrong with what is there.
    pub fault: Fault,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "log batch {} at {} (device byte {}) is damaged: {}",
            self.sequence,
            self.lba,
            self.lba.byte_offset(),
            self.fault
        )
    }
}

impl Error for Damage {}

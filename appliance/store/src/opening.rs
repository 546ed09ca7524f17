//! Opening: from the blocks of a zone to a running store, or to an error with a name.

use std::{error::Error, fmt};

use sheen_journal::{AnchorDamage, Damage};

use crate::{Command, IoFault, IoToken, Limits, Store, Zone};

/// Why a store cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Neither copy of the anchor can be used.
    Anchor(AnchorDamage),
    /// The zone is not the one that was formatted.
    Zone {
        /// What the anchor says.
        expected: Zone,
        /// What was given.
        found: Zone,
    },
    /// The checkpoint is damaged.
    Checkpoint(Damage),
    /// The journal is damaged.
    Journal(Damage),
    /// The device failed.
    Device(IoFault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anchor(damage) => write!(f, "store: {damage}"),
            Self::Zone { expected, found } => write!(
                f,
                "store: the zone is {} blocks at {}, its anchor says {} blocks at {}",
                found.blocks, found.first, expected.blocks, expected.first
            ),
            Self::Checkpoint(damage) => write!(f, "store checkpoint: {damage}"),
            Self::Journal(damage) => write!(f, "store journal: {damage}"),
            Self::Device(fault) => write!(f, "store: the device failed: {fault:?}"),
        }
    }
}

impl Error for OpenError {}

/// How far an opening is.
#[derive(Debug)]
pub enum Progress {
    /// Carry out the commands (Read, WriteBytes, Flush) and report each.
    Working(Box<Opening>),
    /// Open.
    Ready(Box<Store>),
}

/// A store on its way to be open.
#[derive(Debug)]
pub struct Opening {}

impl Opening {
    /// Begins; pushes the first reads.
    #[must_use]
    pub fn new(zone: Zone, limits: Limits, commands: &mut Vec<Command>) -> Box<Self> {
        let _ = (zone, limits, commands);
        todo!()
    }

    /// A read completed with its bytes, or a write or flush with none.
    ///
    /// # Errors
    /// [`OpenError`]: the opening ends.
    pub fn on_io(
        self: Box<Self>,
        io: IoToken,
        result: Result<&[u8], IoFault>,
        commands: &mut Vec<Command>,
    ) -> Result<Progress, OpenError> {
        let _ = (io, result, commands);
        todo!()
    }
}

//! What a replica is told at its start, and what it tells its owner to do.

use sheen_types::Lba;

use crate::{entry::Position, timing::Timing};

/// How a replica behaves.
#[derive(Clone, Copy, Debug)]
pub struct GroupConfig {
    /// This replica.
    pub id: u64,
    /// Log writes in flight at a time, 1 or 2: two hide a device's latency, one batches more.
    pub writes_in_flight_max: usize,
    /// Times of elections and heartbeats.
    pub timing: Timing,
    /// Where the randomness of election times starts; different per replica.
    pub seed: u64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self { id: 1, writes_in_flight_max: 2, timing: Timing::default(), seed: 1 }
    }
}

/// Number of a device command; its completion comes back with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoId(pub u64);

/// What the owner is to do. Addresses are relative to the zone.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Write whole blocks.
    Write {
        /// Comes back with the completion.
        io: IoId,
        /// First block.
        lba: Lba,
        /// What; a multiple of 4 KiB.
        bytes: Vec<u8>,
        /// Complete only when durable.
        durable: bool,
    },
    /// Make completed writes durable.
    Flush {
        /// Comes back with the completion.
        io: IoId,
    },
    /// Send to another replica; may be lost, doubled or reordered.
    Send {
        /// The replica.
        to: u64,
        /// For its [`Group::on_message`].
        message: Vec<u8>,
    },
    /// A proposal is committed: apply it. In order of index, each once per start of the process.
    Committed {
        /// Its place.
        position: Position,
        /// The proposal's bytes.
        payload: Vec<u8>,
    },
    /// This replica leads now, and everything committed before has been delivered.
    Leading {
        /// Its term.
        term: u64,
    },
    /// This replica leads no more: proposals not committed yet may be lost.
    Deposed,
    /// The snapshot at this position is durable and the log before it is free.
    SnapshotDone {
        /// Last position it covers.
        position: Position,
    },
    /// The log could not be written: this replica takes no part any more. Restart the process.
    Stopped,
}

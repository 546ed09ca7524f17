//! The log ring: records of this crate in batches of the journal, one record a batch.

use sheen_journal::{Geometry, Position, Sealed, Writer};
use sheen_types::BLOCK_BYTES;

use crate::{
    group::PROPOSAL_BYTES_MAX,
    zone::{RING_BLOCKS_LEAST, Zone},
};

/// Blocks of the longest batch: 1 MiB.
const BATCH_BLOCKS_MAX: u32 = 256;
/// Blocks kept so that a replica starts and leads whatever filled the log: one block a start, until a snapshot is whole.
const START_BLOCKS: u64 = 128;
/// Blocks kept beside those for proposals that make room, or let clients in that will.
const DELETE_BLOCKS: u64 = 384;
/// Blocks of the longest proposal, as the record of a batch.
const PROPOSAL_BLOCKS_MAX: u64 = (PROPOSAL_BYTES_MAX / BLOCK_BYTES) as u64 + 1;

// What is kept for deletes holds the longest proposal and the pad it may need before it.
const _: () = assert!(DELETE_BLOCKS >= 2 * PROPOSAL_BLOCKS_MAX);
// A proposal is one batch.
const _: () = assert!(PROPOSAL_BLOCKS_MAX < BATCH_BLOCKS_MAX as u64);
// At least half of the smallest ring is for ordinary proposals.
const _: () = assert!(2 * (START_BLOCKS + DELETE_BLOCKS) <= RING_BLOCKS_LEAST);

/// How far into the log's last blocks a proposal may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRoom {
    /// Not at all: what is kept stays.
    Ordinary,
    /// Into the blocks kept for proposals that make room.
    Deletes,
}

/// Blocks of the ring that a proposal must leave free.
const fn kept_blocks(room: LogRoom) -> u64 {
    match room {
        LogRoom::Ordinary => START_BLOCKS + DELETE_BLOCKS,
        LogRoom::Deletes => START_BLOCKS,
    }
}

/// The ring's geometry in a zone; addresses are relative to the zone.
pub(crate) fn geometry(zone: &Zone, identity: u64) -> Geometry {
    let ring = zone.ring();
    Geometry {
        first: ring.start,
        blocks: ring.blocks,
        identity,
        batch_blocks_max: BATCH_BLOCKS_MAX,
    }
}

/// A batch of the log that holds entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub position: Position,
    /// Last index it holds.
    pub last_index: u64,
    /// Who wrote it.
    pub incarnation: u64,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Log {
    writer: Writer,
    durable_sequence: u64,
}

impl Log {
    /// Everything before the writer's tail is durable.
    pub(crate) fn new(writer: Writer) -> Self {
        let durable_sequence = writer.tail().sequence - 1;
        Self { writer, durable_sequence }
    }

    /// The batches to write for `record`: the batch, perhaps a pad before it. None: no room.
    pub(crate) fn append(&mut self, record: &[u8]) -> Option<Vec<Sealed>> {
        self.writer.append(record).ok()?;
        let mut batches = Vec::with_capacity(1);
        while let Some(batch) = self.writer.seal() {
            batches.push(batch);
        }
        Some(batches)
    }

    /// A mark to write: that the last records are durable. None if the log says so already, or what is left is kept for others.
    pub(crate) fn mark(&mut self) -> Option<Sealed> {
        self.writer.mark(kept_blocks(LogRoom::Ordinary)).ok().flatten()
    }

    /// Last batch of which nothing in the log says that it is durable.
    pub(crate) fn unmarked(&self) -> Option<u64> {
        self.writer.unmarked()
    }

    /// Whether proposals of `bytes` in total still fit, with what is kept left free. Counted twice, for the pad at the ring's
    /// end.
    pub(crate) fn has_room(&self, bytes: usize, room: LogRoom) -> bool {
        let blocks = (bytes / BLOCK_BYTES) as u64 * 2;
        self.writer.free_blocks() > kept_blocks(room) + blocks
    }

    /// Bytes in use beyond which ordinary proposals are refused.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        (self.writer.geometry().blocks - kept_blocks(LogRoom::Ordinary)) * BLOCK_BYTES as u64
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        (self.writer.geometry().blocks - self.writer.free_blocks()) * BLOCK_BYTES as u64
    }

    pub(crate) fn set_durable(&mut self, sequence: u64) {
        self.durable_sequence = sequence;
        self.writer.set_durable(sequence);
    }

    pub(crate) fn durable_sequence(&self) -> u64 {
        self.durable_sequence
    }

    pub(crate) fn trim(&mut self, head: Position) {
        self.writer.trim(head);
    }

    /// Where the next batch goes.
    pub(crate) fn tail(&self) -> Position {
        self.writer.tail()
    }
}

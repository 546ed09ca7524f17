//! The journal as the running store sees it: which batches are in flight, which operations they hold, and up to where
//! everything is complete.

use std::collections::VecDeque;

use sheen_journal::{AppendError, Position, Sealed, Writer};

use crate::layout::RecordId;

/// Journal blocks kept for void records: those of more failed writes than are ever in flight share them.
const VOID_BLOCKS: u64 = 12;

/// A sealed batch whose operations are not all complete.
#[derive(Debug)]
struct BatchState {
    position: Position,
    written: bool,
    incomplete: u32,
    operations: Vec<u32>,
}

/// The journal's batches and their operations.
#[derive(Debug)]
pub(crate) struct Log {
    writer: Writer,
    /// Consecutive, the oldest first.
    batches: VecDeque<BatchState>,
    gathering: Vec<u32>,
    spares: Vec<Vec<u32>>,
    in_flight: u32,
    recorded_through: u64,
    pub(crate) blocks_written: u64,
}

impl Log {
    pub(crate) fn new(writer: Writer) -> Self {
        let recorded_through = writer.tail().sequence - 1;
        Self {
            writer,
            batches: VecDeque::new(),
            gathering: Vec::new(),
            spares: Vec::new(),
            in_flight: 0,
            recorded_through,
            blocks_written: 0,
        }
    }

    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Up to this batch all are written.
    pub(crate) fn recorded_through(&self) -> u64 {
        self.recorded_through
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(crate) fn check_room(&self, record_bytes: usize) -> Result<(), AppendError> {
        self.writer.check_room_beside(record_bytes, VOID_BLOCKS)
    }

    /// Whether a void record has room. It may use what others must leave: while a change waits to be declared void, the
    /// journal cannot be trimmed behind it.
    pub(crate) fn check_room_for_void(&self, record_bytes: usize) -> Result<(), AppendError> {
        self.writer.check_room(record_bytes)
    }

    /// Adds the record of an operation. Room was checked.
    pub(crate) fn append(&mut self, record: &[u8], operation: u32) {
        let taken = self.writer.append(record);
        assert!(taken.is_ok(), "room was checked before");
        self.gathering.push(operation);
    }

    /// The next batch to write, and its operations, told their places by `place`.
    pub(crate) fn seal(&mut self, mut place: impl FnMut(u32, RecordId)) -> Option<Sealed> {
        let sealed = self.writer.seal()?;
        let mut operations = self.spares.pop().unwrap_or_default();
        // A pad comes without.
        if sealed.records > 0 {
            std::mem::swap(&mut operations, &mut self.gathering);
        }
        for (index, &operation) in (0..).zip(&operations) {
            place(operation, RecordId { sequence: sealed.position.sequence, index });
        }
        self.push(&sealed, operations);
        Some(sealed)
    }

    /// A mark to write: that batches are durable which no header says so of. None if there are none, or no room.
    pub(crate) fn mark(&mut self) -> Option<Sealed> {
        let sealed = self.writer.mark(VOID_BLOCKS).ok().flatten()?;
        let operations = self.spares.pop().unwrap_or_default();
        self.push(&sealed, operations);
        Some(sealed)
    }

    fn push(&mut self, sealed: &Sealed, operations: Vec<u32>) {
        self.batches.push_back(BatchState {
            position: sealed.position,
            written: false,
            incomplete: u32::try_from(operations.len()).expect("requests are bounded"),
            operations,
        });
        self.in_flight += 1;
        self.blocks_written += (sealed.bytes.len() / sheen_types::BLOCK_BYTES) as u64;
    }

    /// A batch was written; pushes the operations whose records count now: all before them are written too.
    pub(crate) fn on_written(&mut self, sequence: u64, recorded: &mut Vec<u32>) {
        self.in_flight -= 1;
        self.batch(sequence).written = true;
        let Some(front) = self.batches.front() else { return };
        let first = front.position.sequence;
        while let Some(batch) = usize::try_from((self.recorded_through + 1).saturating_sub(first))
            .ok()
            .and_then(|at| self.batches.get_mut(at))
        {
            if !batch.written {
                break;
            }
            self.recorded_through = batch.position.sequence;
            recorded.append(&mut batch.operations);
        }
        self.drop_complete();
    }

    /// An operation of batch `sequence` is complete.
    pub(crate) fn on_complete(&mut self, sequence: u64) {
        self.batch(sequence).incomplete -= 1;
        self.drop_complete();
    }

    /// Every operation of every batch up to this is complete.
    pub(crate) fn completed_through(&self) -> u64 {
        self.oldest_incomplete().sequence - 1
    }

    /// The first batch with something incomplete, or the place of the next.
    pub(crate) fn oldest_incomplete(&self) -> Position {
        self.batches.front().map_or(self.writer.tail(), |batch| batch.position)
    }

    pub(crate) fn set_durable(&mut self, sequence: u64) {
        self.writer.set_durable(sequence);
    }

    pub(crate) fn trim(&mut self, head: Position) {
        self.writer.trim(head);
    }

    pub(crate) fn recycle(&mut self, bytes: Vec<u8>) {
        self.writer.recycle(bytes);
    }

    fn batch(&mut self, sequence: u64) -> &mut BatchState {
        let first = self.batches.front().map_or(u64::MAX, |batch| batch.position.sequence);
        let at = sequence.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.batches.get_mut(at)).expect("an incomplete batch is remembered")
    }

    fn drop_complete(&mut self) {
        while self.batches.front().is_some_and(|batch| {
            batch.incomplete == 0 && batch.position.sequence <= self.recorded_through
        }) {
            if let Some(batch) = self.batches.pop_front() {
                self.spares.push(batch.operations);
            }
        }
    }
}

//! The log of a checkpoint area while it is written: each batch goes to the area and to its twin.
//!
//! A base may lose one of a batch's two copies (the device failed to write it): the other is read. It may, because its
//! generation is new, so whatever stood in the lost place cannot be taken for it. A delta may not: a batch of the same
//! generation and sequence, written before a crash and never said to count, can stand there.

use sheen_journal::{AppendError, Position, Writer};

use crate::{Command, IoFault, io::Io, layout::Layout};

/// Batches of an area in flight.
const BATCHES_MAX: u32 = 2;

/// Which of the two areas a write belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The area the anchor names.
    Current,
    /// The one a new base goes to.
    Growing,
}

/// A log that is appended to.
#[derive(Debug)]
pub(crate) struct AreaLog {
    writer: Writer,
    twin_blocks: u64,
    /// Which area it is.
    pub(crate) area: u32,
    pub(crate) generation: u64,
    /// Writes, of both copies.
    in_flight: u32,
    /// Batches that lost a copy.
    halved: Vec<u64>,
    /// Whether a batch may lose a copy.
    tolerant: bool,
    broken: bool,
    /// Blocks written, copies counted, since it was last asked.
    blocks_written: u64,
}

impl AreaLog {
    /// An empty log of a new generation.
    pub(crate) fn begin(layout: &Layout, identity: u64, area: u32, generation: u64) -> Self {
        Self::resume(layout, identity, (area, generation), Position::START)
    }

    /// A log whose next batch goes to `tail`.
    pub(crate) fn resume(
        layout: &Layout,
        identity: u64,
        (area, generation): (u32, u64),
        tail: Position,
    ) -> Self {
        let geometry = layout.area(identity, area);
        Self {
            writer: Writer::new(geometry, Position::START, tail, generation),
            twin_blocks: layout.twin_blocks,
            area,
            generation,
            in_flight: 0,
            halved: Vec::new(),
            tolerant: false,
            broken: false,
            blocks_written: 0,
        }
    }

    /// From now on a batch may lose one of its copies.
    pub(crate) fn tolerate(&mut self) {
        self.tolerant = true;
    }

    /// From now on it may not.
    pub(crate) fn insist(&mut self) {
        self.tolerant = false;
    }

    /// Nothing more is to be written.
    pub(crate) fn give_up(&mut self) {
        self.broken = true;
    }

    pub(crate) fn record_bytes_max(&self) -> usize {
        self.writer.geometry().record_bytes_max()
    }

    /// Batches there are.
    pub(crate) fn batches(&self) -> u64 {
        self.writer.tail().sequence - 1
    }

    pub(crate) fn blocks_used(&self) -> u64 {
        self.writer.geometry().blocks - self.writer.free_blocks()
    }

    pub(crate) fn blocks_free(&self) -> u64 {
        self.writer.free_blocks()
    }

    /// Whether another batch may be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.broken && self.in_flight < 2 * BATCHES_MAX
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.in_flight == 0
    }

    /// Whether a batch was lost, or the area is full: nothing more is written.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Blocks written, of both copies, since the last call.
    pub(crate) fn take_blocks_written(&mut self) -> u64 {
        std::mem::take(&mut self.blocks_written)
    }

    /// Writes a record as a batch of its own; none if it is empty.
    pub(crate) fn write(&mut self, record: &[u8], role: Role, commands: &mut Vec<Command>) {
        if record.is_empty() || self.broken {
            return;
        }
        match self.writer.append(record) {
            Ok(()) => {}
            Err(AppendError::RingFull | AppendError::BatchFull | AppendError::TooLong) => {
                self.broken = true;
                return;
            }
        }
        while let Some(sealed) = self.writer.seal() {
            let sequence = sealed.position.sequence;
            let twin = sealed.lba.plus(self.twin_blocks);
            let copies = [(sealed.lba, None), (twin, Some(sealed.twin_at(twin)))];
            let mut bytes = Some(sealed.bytes);
            for (lba, copy) in copies {
                let bytes = copy.or_else(|| bytes.take()).expect("one buffer for each copy");
                self.blocks_written += (bytes.len() / sheen_types::BLOCK_BYTES) as u64;
                self.in_flight += 1;
                let io = Io::Area { role, sequence }.token();
                commands.push(Command::WriteBytes { io, lba, bytes });
            }
        }
    }

    /// A copy of a batch was written, or not.
    pub(crate) fn on_written(&mut self, sequence: u64, result: Result<(), IoFault>) {
        self.in_flight -= 1;
        if result.is_ok() {
            return;
        }
        if !self.tolerant || self.halved.contains(&sequence) {
            self.broken = true;
        } else {
            self.halved.push(sequence);
        }
    }
}

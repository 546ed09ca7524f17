//! Reading a checkpoint area's log, batch by batch, from either of its copies.
//!
//! A batch that cannot be used in one copy is read from the twin, and reading goes on there. Only a batch that is bad in
//! both copies is damage.

use sheen_journal::{Damage, Fault, Geometry, Position, ScanStart, Scanner, Step};
use sheen_types::{BLOCK_BYTES, Lba};

use crate::{
    anchor::AnchorState,
    bytes::index,
    checkpoint::{AREA_BATCH_BLOCKS, SMALL_OBJECT_BYTES},
    index::Index,
    loaded::Loaded,
    switch::Lengths,
};

/// Bad batches that are named; more are only counted.
const HEALED_MAX: usize = 64;

/// What a reading needs or has.
#[derive(Debug)]
pub(crate) enum Loads {
    /// Read these blocks and feed them.
    Read(Lba, u32),
    /// All batches that count are read.
    End,
}

/// A reading under way.
#[derive(Debug)]
pub(crate) struct Loading {
    copies: [Geometry; 2],
    copy: usize,
    generation: u64,
    batches: u64,
    base_batches: u64,
    scanner: Scanner,
    loaded: Loaded,
    base_blocks: u64,
    end: Position,
    /// The last batch that was bad in one copy.
    bad: Option<Damage>,
    healed: Vec<Damage>,
    healed_batches: u64,
}

impl Loading {
    pub(crate) fn new(identity: u64, anchor: &AnchorState) -> Self {
        let generation = anchor.checkpoint_generation;
        let batches = if generation == 0 { 0 } else { anchor.checkpoint_batches };
        let layout = &anchor.layout;
        let copies = [layout.area(identity, anchor.area), layout.twin(identity, anchor.area)];
        let blocks = batches.saturating_mul(u64::from(AREA_BATCH_BLOCKS)).min(copies[0].blocks);
        let bytes = index(blocks).saturating_mul(BLOCK_BYTES);
        Self {
            copies,
            copy: 0,
            generation,
            batches,
            base_batches: anchor.base_batches,
            scanner: scanner(copies[0], generation, batches, Position::START),
            loaded: Loaded::with_capacity(bytes / SMALL_OBJECT_BYTES),
            base_blocks: 0,
            end: Position::START,
            bad: None,
            healed: Vec::new(),
            healed_batches: 0,
        }
    }

    pub(crate) fn scanner(&mut self) -> &mut Scanner {
        &mut self.scanner
    }

    /// Goes on as far as the bytes fed reach.
    ///
    /// # Errors
    /// A batch is bad in both copies, or is not a checkpoint's.
    pub(crate) fn step(&mut self) -> Result<Loads, Damage> {
        loop {
            let geometry = self.copies[self.copy];
            match self.scanner.step() {
                Ok(Step::Read { lba, blocks }) => return Ok(Loads::Read(lba, blocks)),
                Ok(Step::Batch(batch)) => {
                    let (sequence, block) = (batch.position.sequence, batch.position.block);
                    let malformed = Damage {
                        lba: geometry.lba(block),
                        sequence,
                        fault: Fault::Malformed { field: "part" },
                    };
                    for record in batch.records() {
                        let read = if sequence > self.base_batches {
                            self.loaded.gather(record)
                        } else {
                            self.loaded.read(record)
                        };
                        read.ok_or(malformed)?;
                    }
                    if sequence == self.base_batches {
                        self.base_blocks = length(&geometry, batch.next);
                    }
                }
                Ok(Step::End(tail)) => {
                    self.end = tail.next;
                    self.loaded.carry_out().ok_or(Damage {
                        lba: geometry.lba(0),
                        sequence: self.batches,
                        fault: Fault::Malformed { field: "part" },
                    })?;
                    return Ok(Loads::End);
                }
                Err(damage) => self.turn_to_twin(damage)?,
            }
        }
    }

    /// The batch is bad here: the other copy may have it.
    fn turn_to_twin(&mut self, damage: Damage) -> Result<(), Damage> {
        if self.bad.is_some_and(|bad| bad.sequence == damage.sequence) {
            return Err(damage);
        }
        self.bad = Some(damage);
        self.healed_batches += 1;
        if self.healed.len() < HEALED_MAX {
            self.healed.push(damage);
        }
        self.copy = 1 - self.copy;
        let (geometry, at) = (self.copies[self.copy], self.scanner.position());
        self.scanner = scanner(geometry, self.generation, self.batches, at);
        Ok(())
    }

    /// The index of the log, how long the log is, and which batches were bad in one copy (the first of so many).
    pub(crate) fn finish(self) -> (Index, Lengths, Vec<Damage>, u64) {
        let (objects, late) = self.loaded.finish();
        let mut index = Index::from_sorted(objects);
        for (id, object) in late {
            index.insert(id, object);
        }
        let lengths = Lengths { base_blocks: self.base_blocks, end: self.end };
        (index, lengths, self.healed, self.healed_batches)
    }
}

fn scanner(geometry: Geometry, generation: u64, batches: u64, position: Position) -> Scanner {
    let start = ScanStart {
        position,
        durable_sequence: batches,
        incarnations: generation..=generation,
        last_sequence: batches,
    };
    Scanner::new(geometry, &start)
}

/// Blocks up to a position behind a batch: the start is the end of a full area.
fn length(geometry: &Geometry, next: Position) -> u64 {
    if next.block == 0 { geometry.blocks } else { next.block }
}

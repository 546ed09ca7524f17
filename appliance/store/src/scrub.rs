//! The scrub: a slow walk over everything stored, so that rot is found while another copy can still help.
//!
//! Objects in order of their ids, block by block → the batches of the journal that an opening would read → those of the
//! checkpoint. Service goes on meanwhile: a [`ScrubPlan`] names stored blocks and their checksums under a [`ReadPin`], so that
//! what is read is what was planned; what an object maps later is met by the next pass, or was verified when it was read.
//! Logs are read by a scanner of their own, which stops counting as soon as the log moved on.
//!
//! The caller owns time, bandwidth and the device. Invariants: a plan is bounded in blocks and in objects looked at; a
//! position is an object and a block, good for any later state of the index.

use std::ops::Bound;

use sheen_journal::{Damage, Geometry, Position, ScanStart, Scanner, Step};
use sheen_types::{BLOCK_BYTES, Fid, Lba};

use crate::{ReadPin, ScrubPosition, Store};

/// Objects looked at for one plan: many may have no blocks.
const OBJECTS_MAX: u32 = 128;

/// Consecutive stored blocks to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubRun {
    /// Whose they are.
    pub object: Fid,
    /// Block of the object that begins there.
    pub block: u64,
    /// Device address of the first.
    pub lba: Lba,
    /// How many.
    pub blocks: u32,
    /// Where their checksums begin in [`ScrubPlan::checksums`].
    pub first_checksum: u32,
}

/// What to read next. Kept by the caller and filled anew, so that its memory is used again.
#[derive(Debug, Default)]
pub struct ScrubPlan {
    /// What to read, in order.
    pub runs: Vec<ScrubRun>,
    /// CRC32C of each block of the runs, in order.
    pub checksums: Vec<u32>,
    /// Where to go on; at the start of the next pass when all objects were met.
    pub next: ScrubPosition,
}

/// A log of the store's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubLog {
    /// The journal, from the first batch an opening would read to the last that is written.
    Journal,
    /// A copy of the checkpoint.
    Checkpoint {
        /// Which of the two.
        copy: usize,
    },
}

/// A pass over a log.
#[derive(Debug)]
pub struct LogScrub {
    log: ScrubLog,
    scanner: Scanner,
    asked: u32,
}

/// What a pass over a log wants or has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStep {
    /// Read these blocks and give them to [`LogScrub::feed`].
    Read {
        /// First block.
        lba: Lba,
        /// How many.
        blocks: u32,
    },
    /// All of it is good, or was left behind meanwhile.
    Ended,
    /// A batch that an opening needs is damaged. See [`Store::leave_behind`].
    Damaged(Damage),
}

impl Store {
    /// Plans the verification of up to `blocks_max` stored blocks from `from` on (a packed group is never cut). Give the pin
    /// back by [`Store::release`] when they were read.
    pub fn plan_scrub(
        &mut self,
        from: ScrubPosition,
        blocks_max: u32,
        plan: &mut ScrubPlan,
    ) -> ReadPin {
        plan.runs.clear();
        plan.checksums.clear();
        plan.next = ScrubPosition { object: Fid::NONE, block: 0, pass: from.pass.wrapping_add(1) };
        let go_on = |object, block| ScrubPosition { object, block, pass: from.pass };
        let mut left = u64::from(blocks_max.max(1));
        let mut objects = 0;
        let range = (Bound::Included(from.object), Bound::Unbounded);
        'objects: for (&id, object) in self.index.objects.range(range) {
            let first = if id == from.object { from.block } else { 0 };
            objects += 1;
            if objects > OBJECTS_MAX {
                plan.next = go_on(id, first);
                break;
            }
            for piece in object.pieces(first, u64::MAX).filter(|piece| piece.written) {
                if left == 0 {
                    plan.next = go_on(id, piece.block);
                    break 'objects;
                }
                let (stored, cut) = match piece.packing.codec() {
                    Some(_) => (piece.stored(), piece.blocks),
                    None => (piece.stored().min(left), piece.blocks.min(left)),
                };
                let first_checksum = fits(plan.checksums.len() as u64);
                let sums = piece.raw_checksums(id).take(crate::bytes::index(stored));
                plan.checksums.extend(sums);
                plan.runs.push(ScrubRun {
                    object: id,
                    block: piece.block,
                    lba: self.layout.lba(piece.place),
                    blocks: fits(stored),
                    first_checksum,
                });
                left = left.saturating_sub(stored);
                if cut < piece.blocks {
                    plan.next = go_on(id, piece.block + cut);
                    break 'objects;
                }
            }
        }
        self.quarantine.pin()
    }

    /// Begins a pass over one of the store's own logs; None if there is nothing in it.
    #[must_use]
    pub fn scrub_log(&self, log: ScrubLog) -> Option<LogScrub> {
        let (ring, start) = self.log_scan(log)?;
        Some(LogScrub { log, scanner: Scanner::new(ring, &start), asked: 0 })
    }

    /// The next step of a pass over a log.
    pub fn step_log_scrub(&self, scrub: &mut LogScrub) -> LogStep {
        // Bounded: a scan meets each batch once.
        loop {
            match scrub.scanner.step() {
                Ok(Step::Read { lba, blocks }) => {
                    scrub.asked = blocks;
                    return LogStep::Read { lba, blocks };
                }
                Ok(Step::Batch(_)) => {}
                Ok(Step::End(_)) => return LogStep::Ended,
                Err(damage) if self.needs(scrub.log, &damage) => return LogStep::Damaged(damage),
                Err(_) => return LogStep::Ended,
            }
        }
    }

    /// Makes that the batches that are in a log now are needed no more: the journal's by a checkpoint, a checkpoint's by a new
    /// base. With the next [`Store::pump`]; does nothing while one is under way.
    pub fn leave_behind(&mut self, log: ScrubLog) {
        match log {
            ScrubLog::Journal => self.checkpoint(),
            ScrubLog::Checkpoint { .. } => self.switch.want_base(),
        }
    }

    /// Whether an opening would still read the batch there.
    fn needs(&self, log: ScrubLog, damage: &Damage) -> bool {
        self.log_scan(log).is_some_and(|(ring, start)| {
            let sequences = start.position.sequence..=start.last_sequence;
            let place = ring.first..ring.first.plus(ring.blocks);
            sequences.contains(&damage.sequence) && place.contains(&damage.lba)
        })
    }

    /// The batches of a log that an opening would read, all of them written.
    fn log_scan(&self, log: ScrubLog) -> Option<(Geometry, ScanStart)> {
        let (ring, head, last, incarnations) = match log {
            ScrubLog::Journal => {
                let writer = self.log.writer();
                let incarnations = self.switch.journal_incarnations();
                (*writer.geometry(), writer.head(), self.log.recorded_through(), incarnations)
            }
            ScrubLog::Checkpoint { copy } => {
                let (copies, batches, generation) = self.switch.checkpoint_log()?;
                (copies[copy], Position::START, batches, generation..=generation)
            }
        };
        let start =
            ScanStart { position: head, durable_sequence: last, incarnations, last_sequence: last };
        (last >= head.sequence).then_some((ring, start))
    }
}

impl LogScrub {
    /// Takes the bytes of the read asked for; None if they could not be read.
    ///
    /// # Panics
    /// When they are not the blocks asked for.
    pub fn feed(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => {
                assert!(bytes.len() == self.asked as usize * BLOCK_BYTES, "the blocks asked for");
                self.scanner.feed(bytes);
            }
            None => self.scanner.feed_unreadable(self.asked),
        }
    }
}

fn fits(count: u64) -> u32 {
    u32::try_from(count).expect("a plan is bounded")
}

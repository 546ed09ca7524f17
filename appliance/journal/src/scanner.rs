//! The reading end: fed the blocks of a log, it yields the batches from a known place up to the tail.
//!
//! The tail is the first place that holds no acceptable batch. Whether that is an honest end or damage is decided by what
//! was known durable: by the caller (its anchor), by the batches read, and by any batch found further on, for each says
//! up to where the log was durable when it was formed. So after the tail the scanner looks ahead, over [`AHEAD_BLOCKS`] and
//! as far again from each batch it finds there.
//!
//! What one scan takes for the end a later one does too, though the tail has moved on by then: a batch that would speak
//! against the later tail speaks against the earlier, if it was in reach; and one that was out of reach was left by an
//! incarnation that is older than what stands before the later tail, and does not count.

use std::ops::RangeInclusive;

use sheen_types::{Lba, checksum::crc32c};

use crate::{
    Damage, Fault, Geometry, Position,
    bytes::{index, u32_at},
    geometry::RECORD_FRAME_BYTES,
    header::{HEADER_BYTES, Header},
    window::Window,
};

/// Blocks asked for at once: 1 MiB.
const READ_BLOCKS: u64 = 256;

/// Blocks behind the tail that are looked at: 16 MiB. A log that is damaged over less is told from one that ends. Smaller rings are
/// looked at all round. Chosen by eye: it is read once for each opening, and far more than is ever in flight.
pub const AHEAD_BLOCKS: u64 = 4096;

/// Where a scan begins and what is known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanStart {
    /// Place of the first batch wanted.
    pub position: Position,
    /// Batches up to this sequence are known durable: if one is not there, that is [`Damage`].
    pub durable_sequence: u64,
    /// Incarnations of the writer whose batches may be here. The first is the one that was writing when `position` was
    /// fixed: a batch of an older one can stand there all the same, in sequence, if a recovery dropped it and what was written
    /// over it was lost. A batch in sequence by an incarnation above the last is damage (of the anchor that should have known
    /// it).
    pub incarnations: RangeInclusive<u64>,
    /// Stop behind this sequence without looking for more; `u64::MAX` to find the tail.
    pub last_sequence: u64,
}

/// What a scan needs or has.
#[derive(Debug)]
pub enum Step<'a> {
    /// Read these blocks and [`Scanner::feed`] them (or [`Scanner::feed_unreadable`]).
    Read {
        /// First block.
        lba: Lba,
        /// How many.
        blocks: u32,
    },
    /// The next batch.
    Batch(Batch<'a>),
    /// The log ends here.
    End(Tail),
}

/// A batch read back.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Where it stands.
    pub position: Position,
    /// Where the next one stands.
    pub next: Position,
    /// Who wrote it.
    pub incarnation: u64,
    /// Batches up to this were durable when it was formed.
    pub durable_sequence: u64,
    payload: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Its records in the order they were appended.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records { rest: self.payload }
    }
}

/// The records of a batch.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Those of a batch that was checked; `bytes` begin with its header.
    pub(crate) fn of(header: &Header, bytes: &'a [u8]) -> Self {
        let end = HEADER_BYTES + index(u64::from(header.payload_bytes));
        Self { rest: &bytes[HEADER_BYTES..end] }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (record, rest) = split_record(self.rest)?;
        self.rest = rest;
        Some(record)
    }
}

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Where a writer continues.
    pub next: Position,
    /// Batches up to this are known durable, by the scan's start or by batches read.
    pub durable_sequence: u64,
    /// Latest incarnation that wrote an accepted batch; 0 if there was none.
    pub incarnation: u64,
    /// Why what stands at `next` is not the next batch; None if the scan stopped at its last sequence.
    pub fault: Option<Fault>,
    /// Where on the device that is.
    pub lba: Lba,
    /// Last batch read that has records; 0 if none has.
    pub content_sequence: u64,
}

impl Tail {
    /// Whether every batch with records is known durable: then nothing that was acknowledged can stand at the tail unless it was
    /// written since.
    #[must_use]
    pub const fn is_proved(&self) -> bool {
        self.content_sequence <= self.durable_sequence
    }

    /// What stands at the tail, if something was being written there, or rotted: not what earlier laps left, nor blank blocks.
    #[must_use]
    pub fn torn(&self) -> Option<Fault> {
        self.fault.filter(|fault| match fault {
            Fault::Checksum { .. } | Fault::Malformed { .. } | Fault::Misdirected { .. } => true,
            Fault::NoHeader
            | Fault::Sequence { .. }
            | Fault::Incarnation { .. }
            | Fault::Identity { .. }
            | Fault::Format { .. }
            | Fault::Unreadable => false,
        })
    }
}

/// Reads a log. Memory: one batch and one read, at most.
#[derive(Debug)]
pub struct Scanner {
    geometry: Geometry,
    incarnations: RangeInclusive<u64>,
    last_sequence: u64,
    durable_sequence: u64,
    last_incarnation: u64,
    content_sequence: u64,
    at: Position,
    window: Window,
    phase: Phase,
}

/// `Batches` → `Ahead` at the first place without a batch → `Ended`.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Batches,
    Ahead(Ahead),
    Ended(Tail),
}

/// The search behind the tail for a batch that proves the tail damaged.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    tail: Tail,
    fault: Fault,
    block: u64,
    /// Blocks still to look at, if nothing is found.
    left: u64,
    /// Blocks of the ring not looked at.
    total: u64,
}

/// What stands at the place of the next batch.
enum Next {
    Read(u64),
    Batch(Header),
    None(Fault),
}

impl Scanner {
    /// Prepares a scan.
    ///
    /// # Panics
    /// When the geometry is not sound or the start is not in the ring.
    #[must_use]
    pub fn new(geometry: Geometry, start: &ScanStart) -> Self {
        assert!(geometry.is_sound(), "a ring holds at least four batches");
        assert!(start.position.block < geometry.blocks, "a place in the ring");
        Self {
            geometry,
            incarnations: start.incarnations.clone(),
            last_sequence: start.last_sequence,
            durable_sequence: start.durable_sequence,
            last_incarnation: 0,
            content_sequence: 0,
            at: start.position,
            window: Window::new(start.position.block, geometry.blocks),
            phase: Phase::Batches,
        }
    }

    /// Place of the next batch.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }

    /// Takes the bytes of the read asked for by the last step.
    ///
    /// # Panics
    /// When they are not whole blocks or reach behind the ring.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.window.feed(bytes);
    }

    /// Notes that the read asked for by the last step, of `blocks` blocks, failed.
    ///
    /// # Panics
    /// When they reach behind the ring.
    pub fn feed_unreadable(&mut self, blocks: u32) {
        self.window.feed_unreadable(u64::from(blocks));
    }

    /// The next step. After [`Step::Read`] feed first; after [`Step::End`] it stays the end.
    ///
    /// # Errors
    /// [`Damage`] when a batch known durable is not there, when the place of the next batch cannot be read, or when a
    /// newer release wrote it: then nobody can tell what is lost.
    pub fn step(&mut self) -> Result<Step<'_>, Damage> {
        loop {
            match self.phase {
                Phase::Ended(tail) => return Ok(Step::End(tail)),
                Phase::Batches if self.at.sequence > self.last_sequence => {
                    self.phase = Phase::Ended(self.tail(None));
                }
                Phase::Batches => match self.next_batch() {
                    Next::Read(blocks) => return Ok(self.read(blocks)),
                    Next::Batch(header) => return Ok(Step::Batch(self.accept(&header))),
                    Next::None(fault) => self.end_batches(fault)?,
                },
                Phase::Ahead(ahead) => {
                    if let Some(blocks) = self.look_ahead(ahead)? {
                        return Ok(self.read(blocks));
                    }
                }
            }
        }
    }

    fn read(&self, blocks: u64) -> Step<'_> {
        Step::Read {
            lba: self.geometry.lba(self.window.end()),
            blocks: u32::try_from(blocks).expect("a read is at most a batch"),
        }
    }

    fn next_batch(&self) -> Next {
        let block = self.at.block;
        let to_end = self.geometry.blocks - block;
        let held = self.window.held();
        if held == 0 {
            return Next::Read(to_end.min(READ_BLOCKS));
        }
        let header = match Header::decode(self.window.bytes(), &self.geometry, block) {
            Ok(header) => header,
            Err(fault) => return Next::None(self.window.name_fault(1, fault)),
        };
        if let Err(fault) = self.check_order(&header) {
            return Next::None(fault);
        }
        let blocks = if header.is_pad() { 1 } else { u64::from(header.blocks) };
        if held < blocks {
            return Next::Read((blocks - held).max(READ_BLOCKS).min(to_end - held));
        }
        match check_payload(&header, self.window.bytes()) {
            Ok(()) => Next::Batch(header),
            Err(fault) => Next::None(self.window.name_fault(blocks, fault)),
        }
    }

    fn check_order(&self, header: &Header) -> Result<(), Fault> {
        if header.sequence != self.at.sequence {
            return Err(Fault::Sequence { expected: self.at.sequence, found: header.sequence });
        }
        let (least, most) = self.incarnations_next();
        if header.incarnation < least {
            return Err(Fault::Incarnation { expected: least, found: header.incarnation });
        }
        if header.incarnation > most {
            return Err(Fault::Incarnation { expected: most, found: header.incarnation });
        }
        Ok(())
    }

    fn accept(&mut self, header: &Header) -> Batch<'_> {
        let position = self.at;
        self.at = Position {
            sequence: position.sequence + 1,
            block: self.geometry.advance(position.block, u64::from(header.blocks)),
        };
        self.durable_sequence = self.durable_sequence.max(header.durable_sequence);
        self.last_incarnation = header.incarnation;
        if header.records > 0 {
            self.content_sequence = position.sequence;
        }
        let payload_end = HEADER_BYTES + index(u64::from(header.payload_bytes));
        let start = self.window.consume(u64::from(header.blocks));
        Batch {
            position,
            next: self.at,
            incarnation: header.incarnation,
            durable_sequence: header.durable_sequence,
            payload: &self.window.all()[start + HEADER_BYTES..start + payload_end],
        }
    }

    /// Decides whether `fault` at the place of the next batch may be an honest end, and begins the look ahead.
    fn end_batches(&mut self, fault: Fault) -> Result<(), Damage> {
        let never_honest = match fault {
            Fault::Unreadable | Fault::Format { .. } => true,
            Fault::Incarnation { expected, found } => found > expected,
            Fault::Checksum { .. }
            | Fault::NoHeader
            | Fault::Misdirected { .. }
            | Fault::Identity { .. }
            | Fault::Sequence { .. }
            | Fault::Malformed { .. } => false,
        };
        if never_honest || self.at.sequence <= self.durable_sequence {
            return Err(self.damage(fault));
        }
        self.phase = Phase::Ahead(Ahead {
            tail: self.tail(Some(fault)),
            fault,
            block: self.at.block,
            left: self.ahead_blocks(),
            total: self.geometry.blocks,
        });
        Ok(())
    }

    /// Looks at blocks behind the tail; Some(n) asks for a read of n blocks.
    fn look_ahead(&mut self, mut ahead: Ahead) -> Result<Option<u64>, Damage> {
        while ahead.left > 0 && ahead.total > 0 {
            if self.window.held() == 0 {
                self.phase = Phase::Ahead(ahead);
                let to_end = self.geometry.blocks - ahead.block;
                return Ok(Some(to_end.min(READ_BLOCKS).min(ahead.left)));
            }
            match Header::decode(self.window.bytes(), &self.geometry, ahead.block) {
                Ok(header) if header.sequence > self.at.sequence => {
                    self.check_ahead(&header, ahead.fault)?;
                    ahead.left = ahead.left.max(self.ahead_blocks());
                }
                // A newer release wrote here: nobody can tell what.
                Err(fault @ Fault::Format { .. }) => return Err(self.damage(fault)),
                Ok(_) | Err(_) => {}
            }
            self.window.consume(1);
            ahead.block = self.geometry.advance(ahead.block, 1);
            ahead.left -= 1;
            ahead.total -= 1;
        }
        self.phase = Phase::Ended(ahead.tail);
        Ok(None)
    }

    /// What a batch behind the tail says of it.
    fn check_ahead(&self, header: &Header, tail_fault: Fault) -> Result<(), Damage> {
        let (least, most) = self.incarnations_next();
        if header.incarnation > most {
            return Err(
                self.damage(Fault::Incarnation { expected: most, found: header.incarnation })
            );
        }
        // One below the least was dropped by a recovery: what it says was durable was so, or was never of this log.
        if header.incarnation >= least && header.durable_sequence >= self.at.sequence {
            return Err(self.damage(tail_fault));
        }
        Ok(())
    }

    /// Least and most incarnation of the next batch.
    fn incarnations_next(&self) -> (u64, u64) {
        (self.last_incarnation.max(*self.incarnations.start()), *self.incarnations.end())
    }

    /// As far as is looked for the start of a batch behind a lost one.
    fn ahead_blocks(&self) -> u64 {
        AHEAD_BLOCKS.max(u64::from(self.geometry.batch_blocks_max) + 1)
    }

    fn damage(&self, fault: Fault) -> Damage {
        Damage { lba: self.geometry.lba(self.at.block), sequence: self.at.sequence, fault }
    }

    fn tail(&self, fault: Option<Fault>) -> Tail {
        Tail {
            next: self.at,
            durable_sequence: self.durable_sequence,
            incarnation: self.last_incarnation,
            fault,
            lba: self.geometry.lba(self.at.block),
            content_sequence: self.content_sequence,
        }
    }
}

pub(crate) fn check_payload(header: &Header, bytes: &[u8]) -> Result<(), Fault> {
    let end = HEADER_BYTES + index(u64::from(header.payload_bytes));
    let payload = &bytes[HEADER_BYTES..end];
    let (expected, found) = (header.payload_checksum, crc32c(payload));
    if expected != found {
        return Err(Fault::Checksum { expected, found });
    }
    let mut rest = payload;
    for _ in 0..header.records {
        match split_record(rest) {
            Some((_, after)) => rest = after,
            None => return Err(Fault::Malformed { field: "records" }),
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(Fault::Malformed { field: "records" }) }
}

fn split_record(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (frame, rest) = payload.split_at_checked(RECORD_FRAME_BYTES)?;
    rest.split_at_checked(index(u64::from(u32_at(frame, 0))))
}

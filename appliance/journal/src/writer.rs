//! The writing end: records gather into a batch, a batch is sealed into whole blocks.
//!
//! Batches may be in flight side by side; a batch counts only when all before it are written too, because a scan stops
//! at the first that is missing. Keeping that rule is the caller's part: acknowledge in order of `sequence`.
//! A batch never crosses the end of the ring: a pad fills the rest of the lap.
//!
//! Each header says what was durable when it was formed, and so proves its predecessors. What nothing follows is proved by a
//! *mark*: a block without records, written when what stands before it is known durable. Whoever reads the log tells a last batch
//! that rotted from one that was never whole by it.

use std::{error::Error, fmt};

use sheen_types::{BLOCK_BYTES, Lba, checksum::crc32c};

use crate::{
    Geometry, Position,
    bytes::index,
    geometry::RECORD_FRAME_BYTES,
    header::{FORMAT, FORMAT_MARK, HEADER_BYTES, Header},
};

/// Buffers kept for reuse; more are dropped.
const SPARES_MAX: usize = 8;

/// Why a record was not taken. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// The gathering batch has no room: seal it first.
    BatchFull,
    /// The ring has no room: trim it first.
    RingFull,
    /// Longer than [`Geometry::record_bytes_max`]: never fits.
    TooLong,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BatchFull => "the gathering batch is full",
            Self::RingFull => "the log is full",
            Self::TooLong => "the record is longer than a batch",
        })
    }
}

impl Error for AppendError {}

/// A batch ready to be written.
#[derive(Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Where in the log it stands.
    pub position: Position,
    /// Device address of its first block.
    pub lba: Lba,
    /// Its bytes, whole blocks. Give the buffer back with [`Writer::recycle`] when it was written.
    pub bytes: Vec<u8>,
    /// Records in it; 0 in a pad and in a mark, which are written like any batch.
    pub records: u32,
}

impl Sealed {
    /// The same batch for another home: a log that is kept twice. Everything but the header's home is alike.
    #[must_use]
    pub fn twin_at(&self, home: Lba) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        Header::move_home(home, &mut bytes);
        bytes
    }
}

/// The writing end of a log.
#[derive(Debug)]
pub struct Writer {
    geometry: Geometry,
    incarnation: u64,
    durable_sequence: u64,
    /// What the last header said was durable.
    said_sequence: u64,
    /// Last batch with records; 0: none by this writer.
    content_sequence: u64,
    head: Position,
    tail: Position,
    blocks_used: u64,
    /// The batch that gathers: room for its header, then records. Empty when nothing gathers.
    gathering: Vec<u8>,
    gathering_records: u32,
    spares: Vec<Vec<u8>>,
}

impl Writer {
    /// Continues a log from `head` (oldest batch still needed) at `tail` (see [`crate::Tail::next`]); a new log has
    /// both at [`Position::START`]. `incarnation` must be above that of every batch ever written to this ring.
    ///
    /// # Panics
    /// When the geometry is not sound or a position is not in the ring.
    #[must_use]
    pub fn new(geometry: Geometry, head: Position, tail: Position, incarnation: u64) -> Self {
        assert!(geometry.is_sound(), "a ring holds at least four batches");
        assert!(head.block < geometry.blocks && tail.block < geometry.blocks, "places in the ring");
        assert!(head.sequence <= tail.sequence, "the head is not behind the tail");
        let mut writer = Self {
            geometry,
            incarnation,
            durable_sequence: 0,
            said_sequence: 0,
            content_sequence: 0,
            head,
            tail,
            blocks_used: 0,
            gathering: Vec::new(),
            gathering_records: 0,
            spares: Vec::new(),
        };
        writer.blocks_used = writer.distance(head, tail);
        writer
    }

    /// Adds a record to the gathering batch.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing changed.
    pub fn append(&mut self, record: &[u8]) -> Result<(), AppendError> {
        self.check_room(record.len())?;
        self.begin_batch();
        let length = u32::try_from(record.len()).map_err(|_| AppendError::TooLong)?;
        self.gathering.extend_from_slice(&length.to_le_bytes());
        self.gathering.extend_from_slice(record);
        self.gathering_records += 1;
        Ok(())
    }

    /// Whether a record of `record_bytes` would be taken now.
    ///
    /// # Errors
    /// Why not.
    pub fn check_room(&self, record_bytes: usize) -> Result<(), AppendError> {
        self.check_room_beside(record_bytes, 0)
    }

    /// Whether a record of `record_bytes` would be taken now and leave `reserve_blocks` blocks of the ring free, for
    /// records that must not wait for a trim.
    ///
    /// # Errors
    /// Why not.
    pub fn check_room_beside(
        &self,
        record_bytes: usize,
        reserve_blocks: u64,
    ) -> Result<(), AppendError> {
        if record_bytes > self.geometry.record_bytes_max() {
            return Err(AppendError::TooLong);
        }
        let held = self.gathering.len().max(HEADER_BYTES);
        let blocks = blocks_of(held + RECORD_FRAME_BYTES + record_bytes);
        if blocks > u64::from(self.geometry.batch_blocks_max) {
            return Err(AppendError::BatchFull);
        }
        if self.blocks_with_pad(blocks) + reserve_blocks > self.free_blocks() {
            return Err(AppendError::RingFull);
        }
        Ok(())
    }

    /// Records in the gathering batch.
    #[must_use]
    pub fn gathering_records(&self) -> u32 {
        self.gathering_records
    }

    /// Turns the gathering batch into blocks to write; None when nothing gathers. Call until it says None: a pad may
    /// come first.
    pub fn seal(&mut self) -> Option<Sealed> {
        if self.gathering_records == 0 {
            return None;
        }
        let blocks = blocks_of(self.gathering.len());
        let to_end = self.to_end();
        if blocks > to_end {
            let mut bytes = self.take_buffer();
            bytes.resize(BLOCK_BYTES, 0);
            return Some(self.finish(bytes, FORMAT, (0, 0), to_end));
        }
        let mut bytes = std::mem::take(&mut self.gathering);
        let payload_bytes = bytes.len() - HEADER_BYTES;
        let records = std::mem::take(&mut self.gathering_records);
        bytes.resize(index(blocks) * BLOCK_BYTES, 0);
        Some(self.finish(bytes, FORMAT, (payload_bytes, records), blocks))
    }

    /// Last batch with records that no header says is durable yet; None if there is none: another mark would say nothing new.
    #[must_use]
    pub fn unmarked(&self) -> Option<u64> {
        Some(self.content_sequence).filter(|&sequence| sequence > self.said_sequence)
    }

    /// Turns into a block to write that some of what no header says yet is durable; None if that is not so, or something
    /// gathers, whose header will say it.
    ///
    /// # Errors
    /// [`AppendError::RingFull`] when the ring has no room beside `reserve_blocks`.
    pub fn mark(&mut self, reserve_blocks: u64) -> Result<Option<Sealed>, AppendError> {
        let proved = self.durable_sequence.min(self.content_sequence);
        if self.gathering_records > 0 || proved <= self.said_sequence {
            return Ok(None);
        }
        if self.free_blocks() < 1 + reserve_blocks {
            return Err(AppendError::RingFull);
        }
        let mut bytes = self.take_buffer();
        bytes.resize(BLOCK_BYTES, 0);
        Ok(Some(self.finish(bytes, FORMAT_MARK, (0, 0), 1)))
    }

    /// Notes that every batch up to `sequence` is durable; later headers say so.
    ///
    /// # Panics
    /// When no such batch was sealed.
    pub fn set_durable(&mut self, sequence: u64) {
        assert!(sequence < self.tail.sequence, "only a sealed batch can be durable");
        self.durable_sequence = self.durable_sequence.max(sequence);
    }

    /// Up to this [`Writer::set_durable`] said that all is durable.
    #[must_use]
    pub const fn durable_sequence(&self) -> u64 {
        self.durable_sequence
    }

    /// Gives up the batches before `head`. Call when what says where the log begins (an anchor) is durable.
    ///
    /// # Panics
    /// When `head` is not between the old head and the tail.
    pub fn trim(&mut self, head: Position) {
        assert!(head.sequence >= self.head.sequence, "a head only moves on");
        assert!(head.sequence <= self.tail.sequence, "a head stays before the tail");
        let gone = self.distance(self.head, head);
        assert!(gone <= self.blocks_used, "no more is trimmed than was written");
        self.blocks_used -= gone;
        self.head = head;
    }

    /// Takes a batch's buffer back.
    pub fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spares.len() < SPARES_MAX {
            bytes.clear();
            self.spares.push(bytes);
        }
    }

    /// Oldest batch kept.
    #[must_use]
    pub fn head(&self) -> Position {
        self.head
    }

    /// Where the next batch goes.
    #[must_use]
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// Blocks of the ring that no kept batch uses.
    #[must_use]
    pub fn free_blocks(&self) -> u64 {
        self.geometry.blocks - self.blocks_used
    }

    /// The geometry given.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn begin_batch(&mut self) {
        if self.gathering_records == 0 {
            self.gathering = self.take_buffer();
            self.gathering.resize(HEADER_BYTES, 0);
        }
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        self.spares.pop().unwrap_or_default()
    }

    fn finish(
        &mut self,
        mut bytes: Vec<u8>,
        format: u32,
        (payload_bytes, records): (usize, u32),
        blocks: u64,
    ) -> Sealed {
        assert!(self.blocks_used + blocks <= self.geometry.blocks, "room was checked at append");
        let position = self.tail;
        let lba = self.geometry.lba(position.block);
        let fits = "a batch is far below 4 GiB";
        let header = Header {
            format,
            sequence: position.sequence,
            durable_sequence: self.durable_sequence,
            incarnation: self.incarnation,
            payload_bytes: u32::try_from(payload_bytes).expect(fits),
            payload_checksum: crc32c(&bytes[HEADER_BYTES..HEADER_BYTES + payload_bytes]),
            records,
            blocks: u32::try_from(blocks).expect(fits),
        };
        header.encode(self.geometry.identity, lba, &mut bytes);
        self.said_sequence = self.durable_sequence;
        if records > 0 {
            self.content_sequence = position.sequence;
        }
        self.blocks_used += blocks;
        self.tail = Position {
            sequence: position.sequence + 1,
            block: self.geometry.advance(position.block, blocks),
        };
        Sealed { position, lba, bytes, records }
    }

    fn to_end(&self) -> u64 {
        self.geometry.blocks - self.tail.block
    }

    fn blocks_with_pad(&self, blocks: u64) -> u64 {
        let to_end = self.to_end();
        if blocks > to_end { blocks + to_end } else { blocks }
    }

    /// Blocks from `from` to `to`; equal places with different sequences are a whole lap apart.
    fn distance(&self, from: Position, to: Position) -> u64 {
        if from.sequence == to.sequence {
            return 0;
        }
        match (to.block + self.geometry.blocks - from.block) % self.geometry.blocks {
            0 => self.geometry.blocks,
            blocks => blocks,
        }
    }
}

fn blocks_of(bytes: usize) -> u64 {
    bytes.div_ceil(BLOCK_BYTES) as u64
}

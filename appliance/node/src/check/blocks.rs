//! A zone's blocks for one caller who waits.
//!
//! Invariant: a read that failed without a media error is kept in [`ZoneBlocks::not_read`], so that no caller can take it for
//! something about the blocks.

use std::{fmt, time::Duration};

use sheen_dma::{Arena, Buffer};
use sheen_keys::BlockCipher;
use sheen_ports::{Block, BlockCommand, BlockError, BlockOperation};
use sheen_types::{BLOCK_BYTES, Lba, checksum::crc32c};

use crate::device::{Device, DeviceError, ZoneEntry};

/// Bytes of one read.
pub(super) const READ_BYTES: usize = 1 << 20;
/// Buffers of that size.
const BUFFERS: usize = 4;
const QUEUE_DEPTH: u32 = 8;
/// How often a device may ask to try again.
const TRIES_MAX: u32 = 8;
/// Pause between two looks at a command.
const PAUSE: Duration = Duration::from_micros(20);
/// Pause before the second try of a command; twice as long before each further one, 1.3 s in all.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A read that ended without a word about its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotRead {
    /// First block of the read, on the device.
    pub(super) lba: Lba,
    /// Why; never [`BlockError::MediaLost`].
    pub(super) error: BlockError,
}

/// A zone, one command at a time. Addresses count from the zone's start.
pub(super) struct ZoneBlocks {
    pub(super) block: Box<dyn Block>,
    /// That of the blocks, by addresses of the device.
    cipher: Option<BlockCipher>,
    arena: Arena,
    first: Lba,
    blocks: u64,
    transfer_bytes: usize,
    not_read: Option<NotRead>,
}

impl fmt::Debug for ZoneBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, blocks, not_read, .. } = self;
        f.debug_struct("ZoneBlocks")
            .field("first", first)
            .field("blocks", blocks)
            .field("not_read", not_read)
            .finish_non_exhaustive()
    }
}

impl ZoneBlocks {
    pub(super) fn open(device: &Device, zone: ZoneEntry) -> Result<Self, DeviceError> {
        let handle = device.handle();
        let arena = handle.arena(BUFFERS * READ_BYTES)?;
        let mut block = handle.open_zone(zone, QUEUE_DEPTH)?;
        let cipher = handle.zone_cipher(zone)?;
        // Spares work where it can be had.
        let _ = block.register(&arena);
        let transfer = block.geometry().transfer_blocks_max as usize * BLOCK_BYTES;
        let transfer_bytes = transfer.clamp(BLOCK_BYTES, READ_BYTES);
        let ZoneEntry { first, blocks, .. } = zone;
        let block = Box::new(block);
        Ok(Self { block, cipher, arena, first, blocks, transfer_bytes, not_read: None })
    }

    /// Returns the first read that failed without a media error: nothing is known of its blocks.
    pub(super) fn not_read(&self) -> Option<NotRead> {
        self.not_read
    }

    /// Size of the zone.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Whether what is read depends on where.
    pub(super) fn is_encrypted(&self) -> bool {
        self.cipher.is_some()
    }

    /// CRC32C of a block that was read at `from`, as if its bytes on the device had been read at `place`.
    pub(super) fn checksum_as(&mut self, block: &[u8], from: Lba, place: Lba) -> u32 {
        let Some(cipher) = &mut self.cipher else { return crc32c(block) };
        let mut bytes = [0; BLOCK_BYTES];
        bytes.copy_from_slice(block);
        cipher.encrypt(self.first.plus(from.0), &mut bytes);
        cipher.decrypt(self.first.plus(place.0), &mut bytes);
        crc32c(&bytes)
    }

    /// Reads blocks. An error other than [`BlockError::MediaLost`] is kept in [`ZoneBlocks::not_read`].
    pub(super) fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<(), BlockError> {
        let result = self.read_pieces(lba, into);
        if let Err(error) = result
            && error != BlockError::MediaLost
        {
            self.not_read.get_or_insert(NotRead { lba: self.first.plus(lba.0), error });
        }
        result
    }

    fn read_pieces(&mut self, mut lba: Lba, into: &mut [u8]) -> Result<(), BlockError> {
        for piece in into.chunks_mut(self.transfer_bytes) {
            let buffer = self.buffer(piece.len())?;
            let operation = BlockOperation::Read { lba, buffer };
            let buffer = self.run(operation)?.ok_or(BlockError::Rejected)?;
            piece.copy_from_slice(buffer.as_slice());
            lba = lba.plus((piece.len() / BLOCK_BYTES) as u64);
        }
        Ok(())
    }

    /// Writes blocks.
    pub(super) fn write(&mut self, mut lba: Lba, from: &[u8]) -> Result<(), BlockError> {
        for piece in from.chunks(self.transfer_bytes) {
            let mut buffer = self.buffer(piece.len())?;
            buffer.as_mut_slice().copy_from_slice(piece);
            self.run(BlockOperation::Write { lba, buffer, durable: false })?;
            lba = lba.plus((piece.len() / BLOCK_BYTES) as u64);
        }
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn flush(&mut self) -> Result<(), BlockError> {
        self.run(BlockOperation::Flush).map(drop)
    }

    fn buffer(&self, bytes: usize) -> Result<Buffer, BlockError> {
        // One command at a time and a few buffers: there is always one.
        self.arena.allocate(bytes).ok_or(BlockError::NoSpace)
    }

    /// Carries a command out, again while the device asks for that.
    fn run(&mut self, mut operation: BlockOperation) -> Result<Option<Buffer>, BlockError> {
        let mut tries = 1;
        loop {
            let again = Again::of(&operation);
            let (result, buffer) = self.run_once(operation)?;
            match (result, again, buffer) {
                (Err(BlockError::Retry), Some(again), buffer) if tries < TRIES_MAX => {
                    std::thread::sleep(RETRY_PAUSE * (1 << (tries - 1)));
                    tries += 1;
                    operation = again.operation(buffer).ok_or(BlockError::Retry)?;
                }
                (result, _, buffer) => return result.map(|()| buffer),
            }
        }
    }

    fn run_once(
        &mut self,
        operation: BlockOperation,
    ) -> Result<(Result<(), BlockError>, Option<Buffer>), BlockError> {
        let command = BlockCommand { token: 0, operation };
        self.block.submit(command).map_err(|_| BlockError::Retry)?;
        self.block.ring();
        let mut completions = Vec::with_capacity(1);
        // The device ends every command in bounded time.
        while self.block.poll(&mut completions) == 0 {
            std::thread::sleep(PAUSE);
        }
        let completion = completions.pop().ok_or(BlockError::Gone)?;
        Ok((completion.result, completion.buffer))
    }
}

/// What is needed to carry a command out again.
#[derive(Clone, Copy)]
enum Again {
    Read(Lba),
    Write(Lba),
    Flush,
}

impl Again {
    fn of(operation: &BlockOperation) -> Option<Self> {
        match operation {
            BlockOperation::Read { lba, .. } => Some(Self::Read(*lba)),
            BlockOperation::Write { lba, .. } => Some(Self::Write(*lba)),
            BlockOperation::Flush => Some(Self::Flush),
            BlockOperation::Discard { .. } => None,
        }
    }

    fn operation(self, buffer: Option<Buffer>) -> Option<BlockOperation> {
        match (self, buffer) {
            (Self::Read(lba), Some(buffer)) => Some(BlockOperation::Read { lba, buffer }),
            (Self::Write(lba), Some(buffer)) => {
                Some(BlockOperation::Write { lba, buffer, durable: false })
            }
            (Self::Flush, _) => Some(BlockOperation::Flush),
            (Self::Read(_) | Self::Write(_), None) => None,
        }
    }
}

//! A device in memory, for tests and for measurements of everything but the device.
//!
//! The medium outlives its devices, so that a restart can be played; memory is taken when first written. A
//! completed write is as durable as the process, unless the medium is volatile: then a loss of power takes what was not
//! flushed.

use std::{
    collections::BTreeMap,
    os::fd::RawFd,
    sync::{Arc, Mutex, MutexGuard},
};

use sheen_dma::Buffer;
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_types::{
    BLOCK_BYTES, Lba,
    units::{BLOCK_BYTES_U64, TRANSFER_BYTES_MAX},
};

/// Bytes taken at a time, and the grain of locking.
const CHUNK_BYTES: usize = 1 << 20;

type Chunk = Mutex<Option<Box<[u8]>>>;
/// What blocks held before they were written since the last flush, by their numbers.
type Unflushed = Mutex<BTreeMap<u64, Box<[u8]>>>;

/// The bytes. Clones are the same medium.
#[derive(Clone, Debug)]
pub struct RamMedium {
    chunks: Arc<[Chunk]>,
    blocks: u64,
    unflushed: Option<Arc<Unflushed>>,
}

impl RamMedium {
    /// A medium of `blocks` blocks of 4 KiB, all zero.
    ///
    /// # Panics
    /// When the table of 1 MiB chunks does not fit into memory.
    #[must_use]
    pub fn new(blocks: u64) -> Self {
        let chunks = (blocks * BLOCK_BYTES_U64).div_ceil(CHUNK_BYTES as u64);
        Self { chunks: (0..chunks).map(|_| Mutex::new(None)).collect(), blocks, unflushed: None }
    }

    /// As [`Self::new`], with a volatile write cache: see [`Self::cut_power`].
    #[must_use]
    pub fn volatile(blocks: u64) -> Self {
        Self { unflushed: Some(Arc::default()), ..Self::new(blocks) }
    }

    /// Loses the power: of the blocks written and not flushed since, those for which `survives` says so keep what was written,
    /// the others hold again what they held at the last flush. Devices of the time before must not be used any more.
    ///
    /// # Panics
    /// When a thread panicked while it remembered what blocks held.
    pub fn cut_power(&self, mut survives: impl FnMut(Lba) -> bool) {
        let Some(unflushed) = &self.unflushed else { return };
        let lost = std::mem::take(&mut *unflushed.lock().expect("nothing panics while locked"));
        for (lba, before) in lost {
            if !survives(Lba(lba)) {
                self.write(lba * BLOCK_BYTES_U64, &before);
            }
        }
    }

    fn flush(&self) {
        if let Some(unflushed) = &self.unflushed {
            unflushed.lock().expect("nothing panics while locked").clear();
        }
    }

    /// What the blocks of a range hold is durable.
    fn forget(&self, offset: u64, bytes: usize) {
        let Some(unflushed) = &self.unflushed else { return };
        let first = offset / BLOCK_BYTES_U64;
        let end = first + (bytes as u64).div_ceil(BLOCK_BYTES_U64);
        let mut unflushed = unflushed.lock().expect("nothing panics while locked");
        unflushed.retain(|lba, _| !(first..end).contains(lba));
    }

    /// Remembers what the blocks of a range hold, unless it is remembered already.
    fn remember(&self, offset: u64, bytes: usize) {
        let Some(unflushed) = &self.unflushed else { return };
        let mut unflushed = unflushed.lock().expect("nothing panics while locked");
        let first = offset / BLOCK_BYTES_U64;
        for lba in first..first + (bytes as u64).div_ceil(BLOCK_BYTES_U64) {
            unflushed.entry(lba).or_insert_with(|| {
                let mut before = vec![0; BLOCK_BYTES].into_boxed_slice();
                self.read(lba * BLOCK_BYTES_U64, &mut before);
                before
            });
        }
    }

    /// Another device on this medium that takes `queue_depth` commands.
    #[must_use]
    pub fn open(&self, queue_depth: usize) -> RamDevice {
        let queue_depth = queue_depth.max(1);
        let staged = Vec::with_capacity(queue_depth);
        RamDevice { medium: self.clone(), staged, rung: 0, queue_depth }
    }

    fn chunk(&self, index: usize) -> MutexGuard<'_, Option<Box<[u8]>>> {
        self.chunks[index].lock().expect("nothing panics while a chunk is locked")
    }

    /// Calls `action` with each piece of a chunk that the range touches, and with the range's bytes there.
    fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == length {
                return None;
            }
            let at = offset + done as u64;
            let index = usize::try_from(at / CHUNK_BYTES as u64).ok()?;
            let within = usize::try_from(at % CHUNK_BYTES as u64).ok()?;
            let bytes = (CHUNK_BYTES - within).min(length - done);
            let piece = (index, within, done, bytes);
            done += bytes;
            Some(piece)
        })
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        for (index, within, done, bytes) in Self::pieces(offset, into.len()) {
            let target = &mut into[done..done + bytes];
            match self.chunk(index).as_deref() {
                Some(chunk) => target.copy_from_slice(&chunk[within..within + bytes]),
                None => target.fill(0),
            }
        }
    }

    fn write(&self, offset: u64, from: &[u8]) {
        for (index, within, done, bytes) in Self::pieces(offset, from.len()) {
            let mut chunk = self.chunk(index);
            let chunk = chunk.get_or_insert_with(|| vec![0; CHUNK_BYTES].into_boxed_slice());
            chunk[within..within + bytes].copy_from_slice(&from[done..done + bytes]);
        }
    }

    fn discard(&self, offset: u64, bytes: u64) {
        let whole = CHUNK_BYTES as u64;
        let first = offset.div_ceil(whole);
        let end = (offset + bytes) / whole;
        for index in first..end {
            if let Ok(index) = usize::try_from(index) {
                *self.chunk(index) = None;
            }
        }
    }
}

/// A device on a [`RamMedium`], owned by one thread. Commands are carried out in [`Block::poll`].
#[derive(Debug)]
pub struct RamDevice {
    medium: RamMedium,
    staged: Vec<BlockCommand>,
    /// How many of `staged` were rung for.
    rung: usize,
    queue_depth: usize,
}

impl RamDevice {
    /// The bytes `lba` and `length` name, or why they name none.
    fn check_range(&self, lba: Lba, bytes: u64, bytes_max: u64) -> Result<u64, BlockError> {
        let end = lba.0.checked_add(bytes / BLOCK_BYTES_U64);
        let inside = end.is_some_and(|end| end <= self.medium.blocks);
        if !inside || bytes == 0 || !bytes.is_multiple_of(BLOCK_BYTES_U64) || bytes > bytes_max {
            return Err(BlockError::Rejected);
        }
        Ok(lba.byte_offset())
    }

    fn write(&self, offset: u64, from: &[u8], durable: bool) {
        if !durable {
            self.medium.remember(offset, from.len());
        }
        self.medium.write(offset, from);
        if durable {
            self.medium.forget(offset, from.len());
        }
    }

    fn carry_out(&self, operation: BlockOperation) -> (Result<(), BlockError>, Option<Buffer>) {
        let transfer_max = TRANSFER_BYTES_MAX as u64;
        match operation {
            BlockOperation::Read { lba, mut buffer } => {
                let range = self.check_range(lba, buffer.len() as u64, transfer_max);
                let result = range.map(|at| self.medium.read(at, buffer.as_mut_slice()));
                (result, Some(buffer))
            }
            BlockOperation::Write { lba, buffer, durable } => {
                let range = self.check_range(lba, buffer.len() as u64, transfer_max);
                let result = range.map(|at| self.write(at, buffer.as_slice(), durable));
                (result, Some(buffer))
            }
            BlockOperation::Flush => {
                self.medium.flush();
                (Ok(()), None)
            }
            BlockOperation::Discard { lba, blocks } => {
                let bytes = blocks.saturating_mul(BLOCK_BYTES_U64);
                let range = self.check_range(lba, bytes, u64::MAX);
                (range.map(|at| self.medium.discard(at, bytes)), None)
            }
        }
    }
}

impl Block for RamDevice {
    fn geometry(&self) -> BlockGeometry {
        BlockGeometry {
            blocks: self.medium.blocks,
            volatile_write_cache: self.medium.unflushed.is_some(),
            atomic_write_blocks: 1,
            queue_depth: self.queue_depth,
            transfer_blocks_max: 256,
        }
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        if self.staged.len() == self.queue_depth {
            return Err(command);
        }
        self.staged.push(command);
        Ok(())
    }

    fn ring(&mut self) {
        self.rung = self.staged.len();
    }

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        let count = std::mem::take(&mut self.rung);
        let mut staged = std::mem::take(&mut self.staged);
        for BlockCommand { token, operation } in staged.drain(..count) {
            let (result, buffer) = self.carry_out(operation);
            completions.push(BlockCompletion { token, buffer, result });
        }
        self.staged = staged;
        count
    }

    fn in_flight(&self) -> usize {
        self.staged.len()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        None
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_medium_keeps_its_bytes_when_its_device_is_gone() {
        let medium = RamMedium::new(1024);
        let mut device = medium.open(8);
        let mut buffer = Buffer::standalone(1 << 20);
        buffer.as_mut_slice().fill(3);
        let operation = BlockOperation::Write { lba: Lba(100), buffer, durable: true };
        device.submit(BlockCommand { token: 1, operation }).unwrap();
        let mut completions = Vec::new();
        assert_eq!(device.poll(&mut completions), 0, "nothing happens before the ring");
        device.ring();
        assert_eq!(device.poll(&mut completions), 1);
        drop(device);
        let mut device = medium.open(8);
        let buffer = Buffer::standalone(8192);
        let operation = BlockOperation::Read { lba: Lba(355), buffer };
        device.submit(BlockCommand { token: 2, operation }).unwrap();
        device.ring();
        assert_eq!(device.poll(&mut completions), 1);
        let buffer = completions[1].buffer.take().unwrap();
        assert!(buffer.as_slice()[..4096].iter().all(|&byte| byte == 3));
        assert!(buffer.as_slice()[4096..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_loss_of_power_takes_what_was_not_flushed() {
        let medium = RamMedium::volatile(1024);
        let mut device = medium.open(8);
        assert!(device.geometry().volatile_write_cache);
        let mut run = |operation| {
            device.submit(BlockCommand { token: 1, operation }).unwrap();
            device.ring();
            let mut completions = Vec::new();
            device.poll(&mut completions);
            completions.remove(0).buffer
        };
        let write = |lba, byte: u8, durable| {
            let mut buffer = Buffer::standalone(4096);
            buffer.as_mut_slice().fill(byte);
            BlockOperation::Write { lba: Lba(lba), buffer, durable }
        };
        run(write(5, 1, false));
        run(BlockOperation::Flush);
        for (lba, durable) in [(5, false), (6, true), (7, false), (8, false)] {
            run(write(lba, 2, durable));
        }
        medium.cut_power(|lba| lba == Lba(8));
        let found = (5..9).map(|lba| {
            let buffer = Buffer::standalone(4096);
            run(BlockOperation::Read { lba: Lba(lba), buffer }).unwrap().as_slice()[9]
        });
        assert_eq!(found.collect::<Vec<_>>(), [1, 2, 0, 2]);
    }
}

//! The device as formatting and the superblock see it: bytes at offsets, one call at a time, whatever is below.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::fcntl::{FallocateFlags, fallocate};
use sheen_dma::Buffer;
use sheen_nvme::driver::{Controller, NvmeBlock};
use sheen_ports::{Block, BlockCommand, BlockError, BlockOperation};
use sheen_types::{BLOCK_BYTES, Lba, units::BLOCK_BYTES_U64};

use super::way::NvmeError;

/// Pause between two looks at a command: nothing here is in a hurry.
const PAUSE: Duration = Duration::from_micros(50);
/// Commands of this queue pair: one at a time.
const DEPTH: u32 = 2;

/// A device that is open for this process alone.
#[derive(Debug)]
pub(crate) enum Medium {
    /// Locked.
    File(File),
    /// Attached, and nobody else can attach it.
    Nvme(Box<NvmeMedium>),
}

/// A namespace behind a queue pair. Dropping it waits until the controller is detached, so that it can be opened again.
#[derive(Debug)]
pub(crate) struct NvmeMedium {
    pub(super) nsid: u32,
    /// None only while it is dropped.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    controller: Arc<Controller>,
    block: Mutex<NvmeBlock>,
}

impl Drop for NvmeMedium {
    fn drop(&mut self) {
        let Some(Open { controller, block }) = self.open.take() else { return };
        drop(block);
        // Threads that still have a handle detach it when they end.
        if let Some(controller) = Arc::into_inner(controller) {
            controller.close();
        }
    }
}

impl NvmeMedium {
    pub(super) fn new(controller: Arc<Controller>, nsid: u32) -> Result<Self, NvmeError> {
        let block = NvmeBlock::new(controller.queue_pair(nsid, DEPTH)?);
        Ok(Self { nsid, open: Some(Open { controller, block: Mutex::new(block) }) })
    }

    pub(super) fn controller(&self) -> &Arc<Controller> {
        &self.open().controller
    }

    fn open(&self) -> &Open {
        self.open.as_ref().expect("taken by drop only")
    }

    fn block(&self) -> MutexGuard<'_, NvmeBlock> {
        self.open().block.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a command out and waits for it; the driver ends every command in bounded time.
    fn run(&self, operation: BlockOperation) -> io::Result<Option<Buffer>> {
        let mut block = self.block();
        let command = BlockCommand { token: 0, operation };
        block.submit(command).map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))?;
        block.ring();
        let mut completions = Vec::with_capacity(1);
        while block.poll(&mut completions) == 0 {
            std::thread::sleep(PAUSE);
        }
        let completion = completions.pop();
        let completion = completion.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        completion.result.map_err(io_error)?;
        Ok(completion.buffer)
    }

    fn bytes(&self) -> u64 {
        self.block().geometry().blocks * BLOCK_BYTES_U64
    }

    fn transfer_bytes_max(&self) -> usize {
        self.block().geometry().transfer_blocks_max as usize * BLOCK_BYTES
    }

    fn buffer(&self, bytes: usize) -> io::Result<Buffer> {
        let buffer = self.controller().arena().allocate(bytes);
        buffer.ok_or(io::Error::from(io::ErrorKind::OutOfMemory))
    }

    fn read(&self, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
        let most = self.transfer_bytes_max();
        // Each turn takes at least one byte.
        while !into.is_empty() {
            let within = usize::try_from(offset % BLOCK_BYTES_U64).unwrap_or(0);
            let bytes = (within + into.len()).next_multiple_of(BLOCK_BYTES).min(most);
            let buffer = self.buffer(bytes)?;
            let lba = Lba(offset / BLOCK_BYTES_U64);
            let buffer = self.run(BlockOperation::Read { lba, buffer })?;
            let buffer = buffer.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let found = &buffer.as_slice()[within..];
            let taken = found.len().min(into.len());
            let (head, rest) = into.split_at_mut(taken);
            head.copy_from_slice(&found[..taken]);
            into = rest;
            offset += taken as u64;
        }
        Ok(())
    }

    fn write(&self, from: &[u8], offset: u64) -> io::Result<()> {
        let is_whole = offset.is_multiple_of(BLOCK_BYTES_U64);
        if !is_whole || !from.len().is_multiple_of(BLOCK_BYTES) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut lba = Lba(offset / BLOCK_BYTES_U64);
        for piece in from.chunks(self.transfer_bytes_max()) {
            let mut buffer = self.buffer(piece.len())?;
            buffer.as_mut_slice().copy_from_slice(piece);
            self.run(BlockOperation::Write { lba, buffer, durable: false })?;
            lba = lba.plus((piece.len() / BLOCK_BYTES) as u64);
        }
        Ok(())
    }
}

fn io_error(error: BlockError) -> io::Error {
    let kind = match error {
        BlockError::Retry => io::ErrorKind::Interrupted,
        BlockError::MediaLost => io::ErrorKind::InvalidData,
        BlockError::Rejected | BlockError::Unreachable => io::ErrorKind::InvalidInput,
        BlockError::NoSpace => io::ErrorKind::StorageFull,
        BlockError::Gone => io::ErrorKind::NotFound,
    };
    io::Error::new(kind, error)
}

impl Medium {
    /// Size in bytes.
    pub(crate) fn bytes(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => {
                let mut handle = file;
                io::Seek::seek(&mut handle, io::SeekFrom::End(0))
            }
            Self::Nvme(nvme) => Ok(nvme.bytes()),
        }
    }

    /// Reads bytes from `offset`.
    pub(crate) fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(into, offset),
            Self::Nvme(nvme) => nvme.read(into, offset),
        }
    }

    /// Writes whole blocks at `offset`.
    pub(crate) fn write_all_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(from, offset),
            Self::Nvme(nvme) => nvme.write(from, offset),
        }
    }

    /// Gives the blocks that hold these bytes back to the medium. A hint: not every medium can.
    pub(crate) fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match self {
            Self::File(file) => {
                let (offset, bytes) = match (i64::try_from(offset), i64::try_from(bytes)) {
                    (Ok(offset), Ok(bytes)) => (offset, bytes),
                    _ => return Err(io::ErrorKind::InvalidInput.into()),
                };
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                Ok(fallocate(file, flags, offset, bytes)?)
            }
            Self::Nvme(nvme) => {
                let lba = Lba(offset / BLOCK_BYTES_U64);
                let blocks = bytes / BLOCK_BYTES_U64;
                nvme.run(BlockOperation::Discard { lba, blocks }).map(drop)
            }
        }
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_all(),
            Self::Nvme(nvme) => nvme.run(BlockOperation::Flush).map(drop),
        }
    }
}

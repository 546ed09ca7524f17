//! The block device under a zone: one of the two kinds a node uses, encrypted or not.

use std::os::fd::RawFd;

use sheen_dma::Arena;
use sheen_keys::{BlockCipher, EncryptedBlock};
use sheen_nvme::{UringFile, driver::NvmeBlock};
use sheen_ports::{Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry};

/// A file or kernel disk, or a queue pair of an NVMe controller. A branch per call, and no table of functions, so that the calls
/// are inlined.
#[derive(Debug)]
pub enum ZoneBlock {
    /// By io_uring.
    Uring(UringFile),
    /// By our own driver.
    Nvme(NvmeBlock),
    /// By io_uring, encrypted.
    EncryptedUring(EncryptedBlock<UringFile>),
    /// By our own driver, encrypted.
    EncryptedNvme(EncryptedBlock<NvmeBlock>),
}

impl ZoneBlock {
    pub(super) fn uring(file: UringFile, cipher: Option<BlockCipher>) -> Self {
        match cipher {
            None => Self::Uring(file),
            Some(cipher) => Self::EncryptedUring(EncryptedBlock::new(file, cipher)),
        }
    }

    pub(super) fn nvme(block: NvmeBlock, cipher: Option<BlockCipher>) -> Self {
        match cipher {
            None => Self::Nvme(block),
            Some(cipher) => Self::EncryptedNvme(EncryptedBlock::new(block, cipher)),
        }
    }
}

macro_rules! each {
    ($self:expr, $block:ident => $call:expr) => {
        match $self {
            Self::Uring($block) => $call,
            Self::Nvme($block) => $call,
            Self::EncryptedUring($block) => $call,
            Self::EncryptedNvme($block) => $call,
        }
    };
}

impl Block for ZoneBlock {
    fn geometry(&self) -> BlockGeometry {
        each!(self, block => block.geometry())
    }

    fn host_blocks_free(&self) -> Option<u64> {
        each!(self, block => block.host_blocks_free())
    }

    #[inline]
    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        each!(self, block => block.submit(command))
    }

    #[inline]
    fn ring(&mut self) {
        each!(self, block => block.ring());
    }

    #[inline]
    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        each!(self, block => block.poll(completions))
    }

    fn in_flight(&self) -> usize {
        each!(self, block => block.in_flight())
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        each!(self, block => block.wake_descriptor())
    }

    fn prepare_sleep(&mut self) -> bool {
        each!(self, block => block.prepare_sleep())
    }

    fn end_sleep(&mut self) {
        each!(self, block => block.end_sleep());
    }

    fn register(&mut self, arena: &Arena) -> Result<(), BlockError> {
        each!(self, block => block.register(arena))
    }
}

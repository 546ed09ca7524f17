//! A device of 4 KiB blocks, driven by submit and poll.

use std::{fmt, os::fd::RawFd};

use sheen_dma::{Arena, Buffer};
use sheen_types::Lba;

/// What a device is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockGeometry {
    /// Size in 4 KiB blocks.
    pub blocks: u64,
    /// Whether a completed write may be lost at power loss until a flush (or `durable`) completed.
    pub volatile_write_cache: bool,
    /// Blocks the device writes all or nothing at power loss; at least 1 (512 B devices: torn blocks are
    /// found by checksum).
    pub atomic_write_blocks: u32,
    /// Most commands in flight.
    pub queue_depth: usize,
    /// Most blocks in one command.
    pub transfer_blocks_max: u32,
}

/// What a command does.
#[derive(Debug)]
pub enum BlockOperation {
    /// Fills the buffer; its length is a multiple of 4 KiB.
    Read {
        /// First block.
        lba: Lba,
        /// Where to.
        buffer: Buffer,
    },
    /// Writes the buffer; its length is a multiple of 4 KiB. A write that was carried out may give it back with other bytes in it (a device
    /// that encrypts does so in place); one that was not, with the same.
    Write {
        /// First block.
        lba: Lba,
        /// What.
        buffer: Buffer,
        /// Complete only when durable (NVMe: FUA).
        durable: bool,
    },
    /// Makes every write completed before the submission durable.
    Flush,
    /// The content of these blocks does not matter any more.
    Discard {
        /// First block.
        lba: Lba,
        /// How many.
        blocks: u64,
    },
}

/// A command on its way in.
#[derive(Debug)]
pub struct BlockCommand {
    /// Comes back with the completion.
    pub token: u64,
    /// What to do.
    pub operation: BlockOperation,
}

/// A command that ended.
#[derive(Debug)]
pub struct BlockCompletion {
    /// The command's token.
    pub token: u64,
    /// The command's buffer, if it had one.
    pub buffer: Option<Buffer>,
    /// How it went.
    pub result: Result<(), BlockError>,
}

/// Why a command failed, split by what the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// Try again: it was not carried out, and nothing is wrong with the blocks.
    Retry,
    /// These blocks are lost here: use another copy. The only one that says something of the blocks.
    MediaLost,
    /// The command was malformed, a bug of ours: it was not carried out, and trying again does not help.
    Rejected,
    /// The device does not reach the buffer: it was not carried out. Use a buffer of an arena that was registered.
    Unreachable,
    /// The device has no space behind these blocks (sparse file on a full disk).
    NoSpace,
    /// The device is gone.
    Gone,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retry => "device asks to try again",
            Self::MediaLost => "unrecovered media error",
            Self::Rejected => "device rejected the command",
            Self::Unreachable => "the buffer is out of the device's reach",
            Self::NoSpace => "no space behind the device",
            Self::Gone => "device is gone",
        })
    }
}

impl std::error::Error for BlockError {}

/// A device, owned by one thread.
pub trait Block {
    /// What the device is like; never changes while it is attached.
    fn geometry(&self) -> BlockGeometry;

    /// Stages a command. The device need not see it before [`Block::ring`].
    ///
    /// # Errors
    /// Gives the command back when the queue is full.
    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand>;

    /// Lets the device see every staged command (one doorbell, one system call).
    fn ring(&mut self);

    /// Appends the completions there are, never blocks; returns how many.
    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize;

    /// Commands submitted and not completed.
    fn in_flight(&self) -> usize;

    /// A descriptor that polls readable when a completion may be there, for sleeping. None: must be polled.
    fn wake_descriptor(&self) -> Option<RawFd>;

    /// Announces that the thread is about to sleep on the descriptor. False: it must poll on; [`Block::end_sleep`] follows in
    /// both cases.
    fn prepare_sleep(&mut self) -> bool {
        self.wake_descriptor().is_some() || self.in_flight() == 0
    }

    /// Announces that the thread polls again.
    fn end_sleep(&mut self) {}

    /// Blocks that may still be written for the first time before what holds the device is full. None: it has all its blocks. Asks the
    /// system, so not for each command.
    fn host_blocks_free(&self) -> Option<u64> {
        None
    }

    /// Announces an arena whose buffers will come in commands. May take long: at start only.
    ///
    /// # Errors
    /// [`BlockError`] when the device cannot reach the arena.
    fn register(&mut self, arena: &Arena) -> Result<(), BlockError> {
        let _ = arena;
        Ok(())
    }
}

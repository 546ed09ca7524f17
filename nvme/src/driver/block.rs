//! A queue pair as a [`Block`] device.

use std::os::fd::{AsRawFd, RawFd};

use sheen_dma::{Arena, Buffer, Iova};
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};

use sheen_types::Lba;

use super::queue::{Durability, QueuePair};

/// A queue pair behind the port. Malformed commands complete with [`BlockError::Rejected`].
#[derive(Debug)]
pub struct NvmeBlock {
    queue: QueuePair,
    /// Copies in flight. Usually none.
    copies: Vec<CopyInFlight>,
}

/// A buffer that the controller does not reach, and its copy in the controller's arena, which is in the command.
#[derive(Debug)]
struct CopyInFlight {
    copy: Iova,
    original: Buffer,
    is_read: bool,
}

impl NvmeBlock {
    /// Over a queue pair.
    #[must_use]
    pub const fn new(queue: QueuePair) -> Self {
        Self { queue, copies: Vec::new() }
    }

    /// The queue pair.
    #[must_use]
    pub const fn queue(&self) -> &QueuePair {
        &self.queue
    }

    /// The queue pair, for commands the port does not have.
    pub const fn queue_mut(&mut self) -> &mut QueuePair {
        &mut self.queue
    }
}

impl NvmeBlock {
    /// The buffer, or a copy of it where the controller does not reach it: a rare buffer outside of the registered arenas. None:
    /// there is no memory for a copy now.
    #[cold]
    #[inline(never)]
    fn copy(&mut self, original: Buffer, is_read: bool) -> Result<Buffer, Buffer> {
        if self.queue.reaches(&original) {
            return Ok(original);
        }
        let Some(mut copy) = self.queue.arena().allocate(original.len()) else {
            return Err(original);
        };
        if !is_read {
            copy.as_mut_slice().copy_from_slice(original.as_slice());
        }
        self.copies.push(CopyInFlight { copy: copy.iova(), original, is_read });
        Ok(copy)
    }

    fn take_original(copies: &mut Vec<CopyInFlight>, copy: Iova) -> Option<CopyInFlight> {
        let at = copies.iter().position(|in_flight| in_flight.copy == copy)?;
        Some(copies.swap_remove(at))
    }

    /// The original of a buffer that came back, with what was read.
    #[cold]
    #[inline(never)]
    fn original(copies: &mut Vec<CopyInFlight>, buffer: Option<Buffer>) -> Option<Buffer> {
        let buffer = buffer?;
        let Some(mut found) = Self::take_original(copies, buffer.iova()) else {
            return Some(buffer);
        };
        if found.is_read {
            found.original.as_mut_slice().copy_from_slice(buffer.as_slice());
        }
        Some(found.original)
    }

    /// The caller's buffer, when the queue was full after all.
    fn back_out(&mut self, buffer: Buffer) -> Buffer {
        if self.copies.is_empty() {
            return buffer;
        }
        match Self::take_original(&mut self.copies, buffer.iova()) {
            Some(found) => found.original,
            None => buffer,
        }
    }

    fn read(&mut self, lba: Lba, buffer: Buffer, token: u64) -> Result<(), Buffer> {
        let is_plain = self.queue.reaches_again(&buffer);
        let buffer = if is_plain { buffer } else { self.copy(buffer, true)? };
        self.queue.read(lba, buffer, token).map_err(|buffer| self.back_out(buffer))
    }

    fn write(
        &mut self,
        lba: Lba,
        buffer: Buffer,
        durability: Durability,
        token: u64,
    ) -> Result<(), Buffer> {
        let is_plain = self.queue.reaches_again(&buffer);
        let buffer = if is_plain { buffer } else { self.copy(buffer, false)? };
        self.queue.write(lba, buffer, durability, token).map_err(|buffer| self.back_out(buffer))
    }
}

/// The command again, when the queue is full.
fn back(token: u64, operation: BlockOperation) -> BlockCommand {
    BlockCommand { token, operation }
}

impl Block for NvmeBlock {
    fn geometry(&self) -> BlockGeometry {
        let namespace = self.queue.namespace();
        BlockGeometry {
            blocks: namespace.blocks,
            volatile_write_cache: namespace.volatile_write_cache,
            atomic_write_blocks: namespace.atomic_write_blocks.max(1),
            queue_depth: self.queue.depth(),
            transfer_blocks_max: namespace.transfer_blocks_max,
        }
    }

    #[inline]
    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        let BlockCommand { token, operation } = command;
        match operation {
            BlockOperation::Read { lba, buffer } => self
                .read(lba, buffer, token)
                .map_err(|buffer| back(token, BlockOperation::Read { lba, buffer })),
            BlockOperation::Write { lba, buffer, durable } => {
                let durability = if durable { Durability::Durable } else { Durability::Cached };
                self.write(lba, buffer, durability, token)
                    .map_err(|buffer| back(token, BlockOperation::Write { lba, buffer, durable }))
            }
            BlockOperation::Flush => {
                self.queue.flush(token).map_err(|_| back(token, BlockOperation::Flush))
            }
            BlockOperation::Discard { lba, blocks } => self
                .queue
                .discard(lba, blocks, token)
                .map_err(|_| back(token, BlockOperation::Discard { lba, blocks })),
        }
    }

    #[inline]
    fn ring(&mut self) {
        self.queue.ring();
    }

    #[inline]
    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        let copies = &mut self.copies;
        self.queue.poll_each(|completion| {
            let result = completion.result.map_err(BlockError::from);
            let (token, mut buffer) = (completion.token, completion.buffer);
            if !copies.is_empty() {
                buffer = Self::original(copies, buffer);
            }
            completions.push(BlockCompletion { token, buffer, result });
        })
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        Some(self.queue.wake().as_raw_fd())
    }

    fn prepare_sleep(&mut self) -> bool {
        self.queue.prepare_sleep()
    }

    fn end_sleep(&mut self) {
        self.queue.end_sleep();
    }

    fn register(&mut self, arena: &Arena) -> Result<(), BlockError> {
        self.queue.map(arena).map_err(|_| BlockError::Rejected)
    }
}

//! A device that counts what is asked of it.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::rc::Rc;

use sheen_dma::Arena;
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};

/// What was asked since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes written, by whatever command.
    pub bytes_written: Cell<u64>,
    /// Write commands.
    pub writes: Cell<u64>,
    /// Flushes.
    pub flushes: Cell<u64>,
}

/// A device that counts into [`Counts`].
#[derive(Debug)]
pub struct Counted<B> {
    block: B,
    counts: Rc<Counts>,
}

impl<B: Block> Counted<B> {
    /// Counts what goes to `block`.
    pub fn new(block: B, counts: Rc<Counts>) -> Self {
        Self { block, counts }
    }
}

impl<B: Block> Block for Counted<B> {
    fn geometry(&self) -> BlockGeometry {
        self.block.geometry()
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        let (bytes, is_flush) = match &command.operation {
            BlockOperation::Write { buffer, .. } => (buffer.len() as u64, false),
            BlockOperation::Flush => (0, true),
            BlockOperation::Read { .. } | BlockOperation::Discard { .. } => (0, false),
        };
        self.block.submit(command)?;
        let Counts { bytes_written, writes, flushes } = &*self.counts;
        bytes_written.set(bytes_written.get() + bytes);
        writes.set(writes.get() + u64::from(bytes > 0));
        flushes.set(flushes.get() + u64::from(is_flush));
        Ok(())
    }

    fn ring(&mut self) {
        self.block.ring();
    }

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        self.block.poll(completions)
    }

    fn in_flight(&self) -> usize {
        self.block.in_flight()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        self.block.wake_descriptor()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.block.prepare_sleep()
    }

    fn end_sleep(&mut self) {
        self.block.end_sleep();
    }

    fn register(&mut self, arena: &Arena) -> Result<(), BlockError> {
        self.block.register(arena)
    }
}

//! A device in memory as particular as a controller: it reaches only what it was told of, and fails reads as it is told.

use std::{cell::RefCell, collections::BTreeSet, os::fd::RawFd, rc::Rc};

use sheen_dma::{Arena, ArenaId, Buffer};
use sheen_nvme::RamDevice;
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_types::BLOCK_BYTES;

/// What a test tells the device, and learns of it.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// Commands whose buffer it does not reach.
    pub(crate) unreachable: u64,
    /// Nothing ends while it is set.
    pub(crate) hold: bool,
    /// Blocks its host has room for, beside those written so far; None: as many as there are.
    pub(crate) host: Option<Host>,
    /// How reads fail, and how many of them. `lba` to `end` only.
    pub(crate) failing: Option<Failing>,
}

/// The host of a device that is a sparse file.
#[derive(Debug, Default)]
pub(crate) struct Host {
    pub(crate) room: u64,
    /// Blocks it gave.
    pub(crate) given: BTreeSet<u64>,
}

impl Host {
    /// Whether a command finds room; it has it then.
    fn has_room(&mut self, operation: &BlockOperation) -> bool {
        match operation {
            BlockOperation::Write { lba, buffer, .. } => {
                let range = lba.0..lba.0 + (buffer.len() / BLOCK_BYTES) as u64;
                let fresh: Vec<u64> = range.filter(|block| !self.given.contains(block)).collect();
                let Some(room) = self.room.checked_sub(fresh.len() as u64) else { return false };
                self.room = room;
                self.given.extend(fresh);
            }
            BlockOperation::Discard { lba, blocks } => {
                let range = lba.0..lba.0 + blocks;
                self.room += range.filter(|block| self.given.remove(block)).count() as u64;
            }
            BlockOperation::Read { .. } | BlockOperation::Flush => {}
        }
        true
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Failing {
    pub(crate) error: BlockError,
    pub(crate) left: u64,
    pub(crate) lba: u64,
    pub(crate) end: u64,
}

#[derive(Debug)]
pub(crate) struct TestDevice {
    device: RamDevice,
    reaches: Vec<ArenaId>,
    orders: Rc<RefCell<Orders>>,
    ended: Vec<BlockCompletion>,
}

impl TestDevice {
    pub(crate) fn new(device: RamDevice, orders: Rc<RefCell<Orders>>) -> Self {
        Self { device, reaches: Vec::new(), orders, ended: Vec::new() }
    }

    fn refusal(&self, operation: &BlockOperation) -> Option<BlockError> {
        let mut orders = self.orders.borrow_mut();
        if orders.host.as_mut().is_some_and(|host| !host.has_room(operation)) {
            return Some(BlockError::NoSpace);
        }
        let (lba, buffer) = match operation {
            BlockOperation::Read { lba, buffer } => (Some(lba.0), buffer),
            BlockOperation::Write { buffer, .. } => (None, buffer),
            BlockOperation::Flush | BlockOperation::Discard { .. } => return None,
        };
        if !self.reaches.contains(&buffer.arena_id()) {
            orders.unreachable += 1;
            return Some(BlockError::Rejected);
        }
        let failing = orders.failing.as_mut()?;
        let within = lba.is_some_and(|lba| (failing.lba..failing.end).contains(&lba));
        if !within || failing.left == 0 {
            return None;
        }
        failing.left -= 1;
        Some(failing.error)
    }
}

fn buffer_of(operation: BlockOperation) -> Option<Buffer> {
    match operation {
        BlockOperation::Read { buffer, .. } | BlockOperation::Write { buffer, .. } => Some(buffer),
        BlockOperation::Flush | BlockOperation::Discard { .. } => None,
    }
}

impl Block for TestDevice {
    fn geometry(&self) -> BlockGeometry {
        self.device.geometry()
    }

    fn host_blocks_free(&self) -> Option<u64> {
        self.orders.borrow().host.as_ref().map(|host| host.room)
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        let Some(error) = self.refusal(&command.operation) else {
            return self.device.submit(command);
        };
        let BlockCommand { token, operation } = command;
        let buffer = buffer_of(operation);
        self.ended.push(BlockCompletion { token, buffer, result: Err(error) });
        Ok(())
    }

    fn ring(&mut self) {
        self.device.ring();
    }

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        if self.orders.borrow().hold {
            return 0;
        }
        let refused = self.ended.len();
        completions.append(&mut self.ended);
        refused + self.device.poll(completions)
    }

    fn in_flight(&self) -> usize {
        self.ended.len() + self.device.in_flight()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        None
    }

    fn register(&mut self, arena: &Arena) -> Result<(), BlockError> {
        self.reaches.push(arena.id());
        Ok(())
    }
}

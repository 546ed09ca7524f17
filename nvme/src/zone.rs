//! A range of a device as a device of its own.

use std::{fmt, os::fd::RawFd};

use sheen_dma::Arena;
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_types::{Lba, units::BLOCK_BYTES_U64};

/// An address behind the end of every device; what reaches for it is rejected by the device itself.
const NOWHERE: Lba = Lba(u64::MAX / BLOCK_BYTES_U64);

/// Blocks `first .. first + blocks` of a device; addresses start at 0. No command leaves the range.
#[derive(Debug)]
pub struct Zone<B> {
    device: B,
    first: Lba,
    blocks: u64,
}

/// The range does not lie on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneError {
    /// First block of the range.
    pub first: Lba,
    /// Blocks in the range.
    pub blocks: u64,
    /// Blocks of the device.
    pub device_blocks: u64,
}

impl fmt::Display for ZoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, blocks, device_blocks } = self;
        write!(
            f,
            "zone of {blocks} blocks at {first} does not lie on a device of {device_blocks} blocks"
        )
    }
}

impl std::error::Error for ZoneError {}

impl<B: Block> Zone<B> {
    /// Narrows `device` to `blocks` blocks from `first`.
    ///
    /// # Errors
    /// [`ZoneError`] when the range is empty or leaves the device.
    pub fn new(device: B, first: Lba, blocks: u64) -> Result<Self, ZoneError> {
        let device_blocks = device.geometry().blocks;
        let end = first.0.checked_add(blocks);
        if blocks == 0 || end.is_none_or(|end| end > device_blocks) {
            return Err(ZoneError { first, blocks, device_blocks });
        }
        Ok(Self { device, first, blocks })
    }

    /// Where `count` blocks from `lba` lie on the device; [`NOWHERE`] if they are not all inside.
    fn locate(&self, lba: Lba, count: u64) -> Lba {
        let end = lba.0.checked_add(count);
        if end.is_none_or(|end| end > self.blocks) {
            return NOWHERE;
        }
        self.first.plus(lba.0)
    }

    fn translate(&self, operation: BlockOperation) -> BlockOperation {
        match operation {
            BlockOperation::Read { lba, buffer } => {
                let lba = self.locate(lba, buffer.len() as u64 / BLOCK_BYTES_U64);
                BlockOperation::Read { lba, buffer }
            }
            BlockOperation::Write { lba, buffer, durable } => {
                let lba = self.locate(lba, buffer.len() as u64 / BLOCK_BYTES_U64);
                BlockOperation::Write { lba, buffer, durable }
            }
            BlockOperation::Flush => BlockOperation::Flush,
            BlockOperation::Discard { lba, blocks } => {
                BlockOperation::Discard { lba: self.locate(lba, blocks), blocks }
            }
        }
    }

    /// Undoes [`Zone::translate`], so that a command given back is the caller's own.
    fn translate_back(&self, command: BlockCommand) -> BlockCommand {
        let back = |lba: Lba| if lba == NOWHERE { NOWHERE } else { Lba(lba.0 - self.first.0) };
        let operation = match command.operation {
            BlockOperation::Read { lba, buffer } => BlockOperation::Read { lba: back(lba), buffer },
            BlockOperation::Write { lba, buffer, durable } => {
                BlockOperation::Write { lba: back(lba), buffer, durable }
            }
            BlockOperation::Flush => BlockOperation::Flush,
            BlockOperation::Discard { lba, blocks } => {
                BlockOperation::Discard { lba: back(lba), blocks }
            }
        };
        BlockCommand { token: command.token, operation }
    }
}

impl<B: Block> Block for Zone<B> {
    fn geometry(&self) -> BlockGeometry {
        BlockGeometry { blocks: self.blocks, ..self.device.geometry() }
    }

    /// Its part of what all of the device may still take.
    fn host_blocks_free(&self) -> Option<u64> {
        let free = u128::from(self.device.host_blocks_free()?);
        let part =
            free * u128::from(self.blocks) / u128::from(self.device.geometry().blocks.max(1));
        Some(u64::try_from(part).unwrap_or(u64::MAX))
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        let operation = self.translate(command.operation);
        let result = self.device.submit(BlockCommand { token: command.token, operation });
        result.map_err(|command| self.translate_back(command))
    }

    fn ring(&mut self) {
        self.device.ring();
    }

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        self.device.poll(completions)
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        self.device.wake_descriptor()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.device.prepare_sleep()
    }

    fn end_sleep(&mut self) {
        self.device.end_sleep();
    }

    fn register(&mut self, arena: &Arena) -> Result<(), BlockError> {
        self.device.register(arena)
    }
}

#[cfg(test)]
mod test {
    use sheen_dma::Buffer;

    use super::*;
    use crate::ram::RamMedium;

    fn run(device: &mut impl Block, operation: BlockOperation) -> BlockCompletion {
        device.submit(BlockCommand { token: 7, operation }).unwrap();
        device.ring();
        let mut completions = Vec::new();
        while device.poll(&mut completions) == 0 {}
        completions.pop().unwrap()
    }

    fn block_of(byte: u8) -> Buffer {
        let mut buffer = Buffer::standalone(4096);
        buffer.as_mut_slice().fill(byte);
        buffer
    }

    #[test]
    fn no_command_leaves_its_zone() {
        let medium = RamMedium::new(16);
        let mut whole = medium.open(4);
        let mut zone = Zone::new(medium.open(4), Lba(4), 8).unwrap();
        let write =
            |lba| BlockOperation::Write { lba: Lba(lba), buffer: block_of(9), durable: false };
        assert_eq!(run(&mut zone, write(7)).result, Ok(()));
        for outside in [8, 11, 12, u64::MAX, u64::MAX - 3] {
            assert_eq!(
                run(&mut zone, write(outside)).result,
                Err(BlockError::Rejected),
                "{outside}"
            );
        }
        let discard = BlockOperation::Discard { lba: Lba(7), blocks: 2 };
        assert_eq!(run(&mut zone, discard).result, Err(BlockError::Rejected));
        for lba in 0..16 {
            let read = BlockOperation::Read { lba: Lba(lba), buffer: Buffer::standalone(4096) };
            let found = run(&mut whole, read).buffer.unwrap().as_slice()[0];
            assert_eq!(found, if lba == 11 { 9 } else { 0 }, "block {lba}");
        }
    }

    #[test]
    fn a_zone_that_does_not_lie_on_the_device_is_refused() {
        let medium = RamMedium::new(16);
        assert!(Zone::new(medium.open(1), Lba(0), 16).is_ok());
        for (first, blocks) in [(0, 17), (16, 1), (0, 0), (u64::MAX, 2)] {
            assert!(Zone::new(medium.open(1), Lba(first), blocks).is_err());
        }
    }

    #[test]
    fn a_full_queue_gives_back_the_command_as_it_came() {
        let medium = RamMedium::new(16);
        let mut zone = Zone::new(medium.open(1), Lba(4), 8).unwrap();
        zone.submit(BlockCommand { token: 1, operation: BlockOperation::Flush }).unwrap();
        let operation = BlockOperation::Read { lba: Lba(3), buffer: Buffer::standalone(4096) };
        let back = zone.submit(BlockCommand { token: 2, operation }).unwrap_err();
        assert!(matches!(back.operation, BlockOperation::Read { lba: Lba(3), .. }));
    }
}

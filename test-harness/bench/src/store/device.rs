//! The device alone, in a loop: the least that can be.

use anyhow::{Result, anyhow, ensure};
use sheen_conformance::random::Random;
use sheen_dma::{Arena, Buffer};
use sheen_nvme::{RamDevice, RamMedium};
use sheen_ports::{Block, BlockCommand, BlockCompletion, BlockOperation};
use sheen_types::Lba;

use super::peer::Operation;
use super::rig::{BLOCK_BYTES, carry_out, measured_section};

/// Blocks of one write of [`touch`].
const FILL_BLOCKS: usize = 256;

/// The device, with so many commands under way.
#[derive(Debug)]
pub struct DeviceLoop {
    device: RamDevice,
    random: Random,
    arena: Arena,
    depth: usize,
    blocks: u64,
}

impl DeviceLoop {
    /// A device of `blocks` blocks, written once.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(blocks: u64, depth: usize) -> Result<Self> {
        let arena = Arena::anonymous(1 << 20).map_err(|error| anyhow!("arena: {error:?}"))?;
        let mut device = RamMedium::new(blocks).open(depth);
        touch(&mut device)?;
        Ok(Self { device, random: Random::new(9), arena, depth, blocks })
    }

    /// Carries out `count` operations of a block at random places, using the same buffers again and again. This is what
    /// is measured.
    ///
    /// # Errors
    /// When a command fails.
    pub fn drive(&mut self, operation: Operation, count: u64) -> Result<()> {
        let places: Vec<u64> = (0..count).map(|_| self.random.below(self.blocks)).collect();
        let mut free: Vec<Buffer> = Vec::new();
        for _ in 0..self.depth {
            free.push(self.arena.allocate(BLOCK_BYTES).ok_or_else(|| anyhow!("no buffers"))?);
        }
        let device = &mut self.device;
        measured_section(|| repeat(device, operation, &places, &mut free))
    }
}

fn repeat(
    device: &mut RamDevice,
    operation: Operation,
    places: &[u64],
    free: &mut Vec<Buffer>,
) -> Result<()> {
    let mut completions: Vec<BlockCompletion> = Vec::new();
    let mut next = places.iter();
    loop {
        while let Some(buffer) = free.pop() {
            let Some(&place) = next.next() else {
                free.push(buffer);
                break;
            };
            let lba = Lba(place);
            let operation = match operation {
                Operation::Read => BlockOperation::Read { lba, buffer },
                Operation::Write | Operation::Truncate => {
                    BlockOperation::Write { lba, buffer, durable: false }
                }
            };
            let refused = device.submit(BlockCommand { token: place, operation });
            ensure!(refused.is_ok(), "the device refuses a command");
        }
        device.ring();
        device.poll(&mut completions);
        for completion in completions.drain(..) {
            completion.result?;
            free.extend(completion.buffer);
        }
        if next.len() == 0 && device.in_flight() == 0 {
            return Ok(());
        }
    }
}

/// Writes every block, so that the medium has all its memory before anything is measured: what was never written reads from
/// one page of zeros that is always in the cache.
///
/// # Errors
/// When a command fails.
pub fn touch(device: &mut impl Block) -> Result<()> {
    let (blocks, whole) = (device.geometry().blocks, FILL_BLOCKS as u64);
    for first in (0..blocks).step_by(FILL_BLOCKS) {
        let bytes = usize::try_from((blocks - first).min(whole))? * BLOCK_BYTES;
        let mut buffer = Buffer::standalone(bytes);
        buffer.as_mut_slice().fill(0xa5);
        carry_out(device, BlockOperation::Write { lba: Lba(first), buffer, durable: false })?;
    }
    Ok(())
}

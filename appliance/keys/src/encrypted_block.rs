//! A block device whose content is encrypted: plaintext above, ciphertext below.
//!
//! Path: D9, D10. A write is encrypted in its own buffer on the way in, a read decrypted in its buffer on the way out: one pass over the
//! data each, no copy, no allocation. A write that is not carried out (the queue is full, or it failed) gives its buffer back as it came,
//! so that it can be submitted again; one that was carried out gives back what lies on the device. Addresses are the device's,
//! since they are the tweak: a zone lies above.
//!
//! A block of zeros on the device reads as one: nothing was ever written there, or it was discarded. What looks for the end of what was
//! written sees blank blocks then, as on a device that is not encrypted, and not noise. No block that is written
//! becomes one of zeros but with a probability of 2^-32768, and who can write zeros to the device could write anything.

use std::os::fd::RawFd;

use sheen_dma::Arena;
use sheen_ports::{
    Block, BlockCommand, BlockCompletion, BlockError, BlockGeometry, BlockOperation,
};
use sheen_types::{BLOCK_BYTES, Lba};

use crate::BlockCipher;

/// What to do when a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Read(Lba),
    Write(Lba),
    /// Flush and discard carry no data.
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The caller's token.
    token: u64,
    pending: Pending,
}

/// A device seen through a [`BlockCipher`].
#[derive(Debug)]
pub struct EncryptedBlock<B> {
    device: B,
    cipher: BlockCipher,
    /// Commands in flight; the device's token is the index.
    slots: Box<[Slot]>,
    /// Indices not in use.
    free: Vec<u32>,
}

impl<B: Block> EncryptedBlock<B> {
    /// Encrypts `device`. Takes a slot for each command it can have in flight.
    ///
    /// # Panics
    /// When the device has 2^32 commands in flight, or is in use.
    pub fn new(device: B, cipher: BlockCipher) -> Self {
        assert_eq!(device.in_flight(), 0, "tokens of commands in flight are not ours");
        let depth = device.geometry().queue_depth.max(1);
        let free = (0..u32::try_from(depth).expect("queues are short")).rev().collect();
        let slots = vec![Slot { token: 0, pending: Pending::Other }; depth].into_boxed_slice();
        Self { device, cipher, slots, free }
    }

    /// Takes the slot a token of the device names.
    fn take(&mut self, token: u64) -> Slot {
        let index = u32::try_from(token).expect("tokens of the device are our indices");
        self.free.push(index);
        self.slots[index as usize]
    }

    /// Makes a command that the device did not take the caller's own again.
    #[cold]
    fn give_back(&mut self, command: BlockCommand) -> BlockCommand {
        let Slot { token, pending } = self.take(command.token);
        let mut operation = command.operation;
        if let (Pending::Write(lba), BlockOperation::Write { buffer, .. }) =
            (pending, &mut operation)
        {
            self.cipher.decrypt(lba, buffer.as_mut_slice());
        }
        BlockCommand { token, operation }
    }

    /// Decrypts what was read, in stretches without a blank block.
    fn decrypt_written(&mut self, lba: Lba, blocks: &mut [u8]) {
        let mut begun = 0;
        for place in 0..=blocks.len() / BLOCK_BYTES {
            let at = place * BLOCK_BYTES;
            let block = blocks.get(at..at + BLOCK_BYTES);
            if block.is_some_and(|block| !is_blank(block)) {
                continue;
            }
            let first = Lba(lba.0.saturating_add((begun / BLOCK_BYTES) as u64));
            self.cipher.decrypt(first, &mut blocks[begun..at]);
            begun = at + BLOCK_BYTES;
        }
    }

    fn complete(&mut self, completion: &mut BlockCompletion) {
        let Slot { token, pending } = self.take(completion.token);
        completion.token = token;
        let Some(buffer) = &mut completion.buffer else { return };
        match (pending, completion.result) {
            (Pending::Read(lba), Ok(())) => self.decrypt_written(lba, buffer.as_mut_slice()),
            (Pending::Write(lba), Err(_)) => self.cipher.decrypt(lba, buffer.as_mut_slice()),
            (Pending::Read(_), Err(_)) | (Pending::Write(_), Ok(())) | (Pending::Other, _) => {}
        }
    }
}

impl<B: Block> Block for EncryptedBlock<B> {
    fn geometry(&self) -> BlockGeometry {
        self.device.geometry()
    }

    fn host_blocks_free(&self) -> Option<u64> {
        self.device.host_blocks_free()
    }

    #[inline]
    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        // Seen before the work is done: behind a full queue the same command is tried many times.
        let depth = self.slots.len();
        if self.device.in_flight() >= depth {
            return Err(command);
        }
        let Some(index) = self.free.pop() else { return Err(command) };
        let BlockCommand { token, mut operation } = command;
        let pending = match &mut operation {
            BlockOperation::Read { lba, .. } => Pending::Read(*lba),
            BlockOperation::Write { lba, buffer, .. } => {
                self.cipher.encrypt(*lba, buffer.as_mut_slice());
                Pending::Write(*lba)
            }
            BlockOperation::Flush | BlockOperation::Discard { .. } => Pending::Other,
        };
        self.slots[index as usize] = Slot { token, pending };
        let below = BlockCommand { token: u64::from(index), operation };
        self.device.submit(below).map_err(|command| self.give_back(command))
    }

    #[inline]
    fn ring(&mut self) {
        self.device.ring();
    }

    #[inline]
    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        let before = completions.len();
        let count = self.device.poll(completions);
        for completion in &mut completions[before..] {
            self.complete(completion);
        }
        count
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

/// Whether a block is zeros alone: nearly always its first bytes tell that it is not.
fn is_blank(block: &[u8]) -> bool {
    block.first_chunk::<16>() == Some(&[0; 16]) && block.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod test;

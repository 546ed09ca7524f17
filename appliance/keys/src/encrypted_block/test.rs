//! A device that encrypts, on memory that shows what lies below.

use std::collections::VecDeque;

use sheen_dma::Buffer;
use sheen_nvme::ram::{RamDevice, RamMedium};
use sheen_types::BLOCK_BYTES;

use super::*;
use crate::Secret;

fn cipher() -> BlockCipher {
    let mut key = Secret::zeroed(BlockCipher::KEY_BYTES).unwrap();
    for (byte, value) in key.expose_mut().iter_mut().zip(0..) {
        *byte = value;
    }
    BlockCipher::new(&key).unwrap()
}

/// A device that ends commands as it is told, the first first.
#[derive(Debug)]
struct Moody {
    device: RamDevice,
    ends: VecDeque<Result<(), BlockError>>,
    /// Refuses commands though its queue has room.
    full: bool,
}

impl Block for Moody {
    fn geometry(&self) -> BlockGeometry {
        self.device.geometry()
    }

    fn submit(&mut self, command: BlockCommand) -> Result<(), BlockCommand> {
        if self.full {
            return Err(command);
        }
        self.device.submit(command)
    }

    fn ring(&mut self) {
        self.device.ring();
    }

    fn poll(&mut self, completions: &mut Vec<BlockCompletion>) -> usize {
        let before = completions.len();
        let count = self.device.poll(completions);
        for completion in &mut completions[before..] {
            completion.result = self.ends.pop_front().unwrap_or(completion.result);
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight()
    }

    fn wake_descriptor(&self) -> Option<RawFd> {
        None
    }
}

struct Rig {
    medium: RamMedium,
    block: EncryptedBlock<Moody>,
}

impl Rig {
    fn new(depth: usize) -> Self {
        let medium = RamMedium::new(256);
        let device = Moody { device: medium.open(depth), ends: VecDeque::new(), full: false };
        Self { block: EncryptedBlock::new(device, cipher()), medium }
    }

    fn run(&mut self, token: u64, operation: BlockOperation) -> BlockCompletion {
        self.block.submit(BlockCommand { token, operation }).unwrap();
        self.block.ring();
        let mut completions = Vec::new();
        while self.block.poll(&mut completions) == 0 {}
        completions.pop().unwrap()
    }

    /// What lies on the medium.
    fn below(&self, lba: u64) -> Vec<u8> {
        let mut device = self.medium.open(1);
        let operation = BlockOperation::Read { lba: Lba(lba), buffer: Buffer::standalone(4096) };
        device.submit(BlockCommand { token: 0, operation }).unwrap();
        device.ring();
        let mut completions = Vec::new();
        device.poll(&mut completions);
        completions.pop().unwrap().buffer.unwrap().as_slice().to_vec()
    }
}

fn filled(byte: u8, blocks: usize) -> Buffer {
    let mut buffer = Buffer::standalone(blocks * BLOCK_BYTES);
    buffer.as_mut_slice().fill(byte);
    buffer
}

fn write(lba: u64, buffer: Buffer) -> BlockOperation {
    BlockOperation::Write { lba: Lba(lba), buffer, durable: true }
}

#[test]
fn what_is_written_reads_back_and_is_not_seen_below() {
    let mut rig = Rig::new(4);
    let written = rig.run(77, write(10, filled(5, 3)));
    assert_eq!((written.token, written.result), (77, Ok(())));
    let mut expected = vec![5; BLOCK_BYTES];
    cipher().encrypt(Lba(11), &mut expected);
    assert_eq!(rig.below(11), expected, "the tweak is the address on the device");
    let buffer = Buffer::standalone(3 * BLOCK_BYTES);
    let read = rig.run(u64::MAX, BlockOperation::Read { lba: Lba(10), buffer });
    assert_eq!((read.token, read.result), (u64::MAX, Ok(())));
    assert!(read.buffer.unwrap().as_slice().iter().all(|&byte| byte == 5));
}

#[test]
fn what_was_never_written_reads_as_zeros_beside_what_was() {
    let mut rig = Rig::new(4);
    for lba in [11, 14] {
        assert_eq!(rig.run(1, write(lba, filled(6, 1))).result, Ok(()));
    }
    // Zeros that were written are noise below.
    assert_eq!(rig.run(1, write(12, filled(0, 1))).result, Ok(()));
    assert!(rig.below(12).iter().any(|&byte| byte != 0));
    // What becomes zeros and a last byte below.
    let mut almost = filled(0, 1);
    almost.as_mut_slice()[BLOCK_BYTES - 1] = 1;
    cipher().decrypt(Lba(15), almost.as_mut_slice());
    let expected = almost.as_slice().to_vec();
    assert_eq!(rig.run(1, write(15, almost)).result, Ok(()));
    assert_eq!(rig.below(15).iter().filter(|&&byte| byte != 0).count(), 1, "one byte is written");
    let read = rig.run(2, BlockOperation::Read { lba: Lba(9), buffer: filled(1, 8) });
    let buffer = read.buffer.unwrap();
    let blocks: Vec<&[u8]> = buffer.as_slice().chunks_exact(BLOCK_BYTES).collect();
    for (place, expected) in [(0, 0), (1, 0), (2, 6), (3, 0), (4, 0), (5, 6), (7, 0)] {
        assert!(blocks[place].iter().all(|&byte| byte == expected), "block {place}");
    }
    assert_eq!(blocks[6], expected, "not blank");
}

#[test]
fn a_write_that_failed_gives_its_buffer_back_as_it_came_and_can_be_tried_again() {
    let mut rig = Rig::new(4);
    rig.block.device.ends = [Err(BlockError::Retry), Err(BlockError::MediaLost)].into();
    let mut buffer = filled(6, 2);
    for expected in [Err(BlockError::Retry), Err(BlockError::MediaLost), Ok(())] {
        let ended = rig.run(3, write(20, buffer));
        assert_eq!(ended.result, expected);
        buffer = ended.buffer.unwrap();
        let is_plain = buffer.as_slice().iter().all(|&byte| byte == 6);
        assert_eq!(is_plain, expected.is_err());
    }
    let buffer = Buffer::standalone(2 * BLOCK_BYTES);
    let read = rig.run(4, BlockOperation::Read { lba: Lba(20), buffer });
    assert!(read.buffer.unwrap().as_slice().iter().all(|&byte| byte == 6));
}

#[test]
fn a_full_queue_gives_back_the_command_as_it_came() {
    let mut rig = Rig::new(2);
    for token in [1, 2] {
        rig.block.submit(BlockCommand { token, operation: write(token, filled(1, 1)) }).unwrap();
    }
    // The device tells that it is full, or it does not and refuses.
    for unexpected in [false, true] {
        if unexpected {
            rig.block.ring();
            assert_eq!(rig.block.poll(&mut Vec::new()), 2);
            rig.block.device.full = true;
        }
        let command = BlockCommand { token: 9, operation: write(30, filled(8, 1)) };
        let back = rig.block.submit(command).unwrap_err();
        assert_eq!(back.token, 9);
        let BlockOperation::Write { lba, buffer, durable } = back.operation else { panic!() };
        assert_eq!((lba, durable), (Lba(30), true));
        assert!(buffer.as_slice().iter().all(|&byte| byte == 8), "unexpected: {unexpected}");
    }
    rig.block.device.full = false;
    assert_eq!(rig.block.free.len(), 2, "no slot is lost");
    assert_eq!(rig.run(9, write(30, filled(8, 1))).result, Ok(()));
}

#[test]
fn a_read_that_failed_is_not_touched_and_commands_without_data_pass() {
    let mut rig = Rig::new(4);
    rig.run(1, write(1, filled(9, 1)));
    assert_eq!(rig.run(2, BlockOperation::Flush).result, Ok(()));
    let discard = BlockOperation::Discard { lba: Lba(1), blocks: 1 };
    assert_eq!(rig.run(3, discard).token, 3);
    rig.block.device.ends = [Err(BlockError::MediaLost)].into();
    let read = BlockOperation::Read { lba: Lba(1), buffer: Buffer::standalone(4096) };
    assert_eq!(rig.run(4, read).result, Err(BlockError::MediaLost));
    let outside = rig.run(5, write(256, filled(4, 1)));
    assert_eq!(outside.result, Err(BlockError::Rejected));
    assert!(outside.buffer.unwrap().as_slice().iter().all(|&byte| byte == 4));
}

#[test]
fn commands_end_in_any_number_with_their_own_tokens() {
    let mut rig = Rig::new(8);
    for round in 0..50_u64 {
        let tokens: Vec<u64> = (0..=round % 8).map(|index| round * 100 + index).collect();
        for &token in &tokens {
            let operation = write(token % 100, filled(7, 1));
            rig.block.submit(BlockCommand { token, operation }).unwrap();
        }
        rig.block.ring();
        let mut completions = Vec::new();
        rig.block.poll(&mut completions);
        let mut ended: Vec<u64> = completions.iter().map(|end| end.token).collect();
        ended.sort_unstable();
        assert_eq!(ended, tokens);
        assert_eq!(rig.block.in_flight(), 0);
    }
}

//! `UringFile` on real files.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use sheen_dma::{Arena, Buffer};
use sheen_nvme::{UringFile, create_sparse};
use sheen_ports::{Block, BlockCommand, BlockCompletion, BlockError, BlockOperation};
use sheen_types::Lba;

struct Scratch {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn scratch(bytes: u64) -> Scratch {
    scratch_of(tempfile::tempdir().unwrap(), bytes)
}

/// A file of memory; None: this machine has no place for one.
fn scratch_in_memory(bytes: u64) -> Option<Scratch> {
    let directory = tempfile::tempdir_in("/dev/shm").ok()?;
    let facts = nix::sys::statfs::statfs(directory.path()).ok()?;
    let in_memory = facts.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC;
    in_memory.then(|| scratch_of(directory, bytes))
}

fn scratch_of(directory: tempfile::TempDir, bytes: u64) -> Scratch {
    let path = directory.path().join("device");
    create_sparse(&path, bytes).unwrap();
    Scratch { _directory: directory, path }
}

/// xorshift64*, so that a failure is repeated by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn wait(device: &mut UringFile, count: usize) -> Vec<BlockCompletion> {
    let mut completions = Vec::new();
    device.ring();
    while completions.len() < count {
        device.poll(&mut completions);
        std::thread::yield_now();
    }
    completions
}

fn run(device: &mut UringFile, operation: BlockOperation) -> BlockCompletion {
    device.submit(BlockCommand { token: 9, operation }).unwrap();
    let completion = wait(device, 1).pop().unwrap();
    assert_eq!(completion.token, 9);
    completion
}

fn filled(bytes: usize, byte: u8) -> Buffer {
    let mut buffer = Buffer::standalone(bytes);
    buffer.as_mut_slice().fill(byte);
    buffer
}

/// What each block must hold: the number of the write that wrote it last.
fn stamp(buffer: &mut Buffer, lba: u64, write: u64) {
    for (i, block) in buffer.as_mut_slice().chunks_exact_mut(4096).enumerate() {
        for word in block.chunks_exact_mut(16) {
            word[..8].copy_from_slice(&(lba + i as u64).to_le_bytes());
            word[8..].copy_from_slice(&write.to_le_bytes());
        }
    }
}

fn check(buffer: &Buffer, lba: u64, written: &BTreeMap<u64, u64>) {
    for (i, block) in buffer.as_slice().chunks_exact(4096).enumerate() {
        let at = lba + i as u64;
        let (block_lba, write) = written.get(&at).map_or((0, 0), |&write| (at, write));
        for word in block.chunks_exact(16) {
            assert_eq!(word[..8], block_lba.to_le_bytes(), "address in block {at}");
            assert_eq!(word[8..], write.to_le_bytes(), "write in block {at}");
        }
    }
}

#[test]
fn random_writes_are_read_back_through_another_instance() {
    let seed = 0x5eed_0001;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let scratches = [Some(scratch(BLOCKS * 4096)), scratch_in_memory(BLOCKS * 4096)];
    for scratch in scratches.into_iter().flatten() {
        write_and_read_back(&scratch, &mut random);
    }
}

/// Size of the device that is written at random.
const BLOCKS: u64 = 4096;

fn write_and_read_back(scratch: &Scratch, random: &mut Random) {
    let mut writer = UringFile::open(&scratch.path, 32).unwrap();
    let mut reader = UringFile::open(&scratch.path, 32).unwrap();
    assert_eq!(writer.geometry().blocks, BLOCKS);
    let arena = Arena::anonymous(64 << 20).unwrap();
    let mut written = BTreeMap::new();
    // One with, one without: both ways of the kernel to the same bytes.
    writer.register(&arena).unwrap();
    assert!(writer.is_registered(&arena) && !reader.is_registered(&arena));
    for round in 0..40_u64 {
        // Ranges of one round lie in stripes of their own, so that the order of commands does not matter.
        for n in 0..32_u64 {
            let length = 1 + random.below(if n % 8 == 0 { 120 } else { 8 });
            let lba = n * 128 + random.below(128 - length);
            let write = round * 32 + n + 1;
            let mut buffer = arena.allocate(usize::try_from(length * 4096).unwrap()).unwrap();
            stamp(&mut buffer, lba, write);
            let durable = n == 5;
            let operation = BlockOperation::Write { lba: Lba(lba), buffer, durable };
            writer.submit(BlockCommand { token: write, operation }).unwrap();
            written.extend((lba..lba + length).map(|at| (at, write)));
        }
        for completion in wait(&mut writer, 32) {
            assert_eq!(completion.result, Ok(()));
        }
        for n in 0..32_u64 {
            let lba = random.below(BLOCKS - 64);
            let buffer = arena.allocate(64 * 4096).unwrap();
            let operation = BlockOperation::Read { lba: Lba(lba), buffer };
            reader.submit(BlockCommand { token: lba, operation }).unwrap();
            assert_eq!(reader.in_flight() as u64, n + 1);
        }
        for completion in wait(&mut reader, 32) {
            assert_eq!(completion.result, Ok(()));
            check(&completion.buffer.unwrap(), completion.token, &written);
        }
    }
    assert_eq!(run(&mut writer, BlockOperation::Flush).result, Ok(()));
    assert_eq!((writer.in_flight(), reader.in_flight()), (0, 0));
}

#[test]
fn short_commands_on_a_file_in_memory_are_over_when_they_are_submitted() {
    let Some(scratch) = scratch_in_memory(4 << 20) else { return };
    let mut device = UringFile::open(&scratch.path, 3).unwrap();
    let write = |lba, bytes| BlockOperation::Write {
        lba: Lba(lba),
        buffer: filled(bytes, 7),
        durable: true,
    };
    let read = BlockOperation::Read { lba: Lba(1), buffer: filled(4096, 0) };
    for (token, operation) in [(1, write(1, 64 << 10)), (2, read), (3, BlockOperation::Flush)] {
        device.submit(BlockCommand { token, operation }).unwrap();
    }
    assert_eq!(device.in_flight(), 3);
    let back = device.submit(BlockCommand { token: 4, operation: write(9, 4096) }).unwrap_err();
    assert_eq!(back.token, 4, "the queue is as deep as was said");
    assert!(!device.prepare_sleep(), "nothing would wake it");
    let mut ended = Vec::new();
    assert_eq!(device.poll(&mut ended), 3, "nothing was rung");
    assert!(ended.iter().map(|end| (end.token, end.result)).eq((1..=3).map(|n| (n, Ok(())))));
    assert!(ended[1].buffer.as_ref().unwrap().as_slice().iter().all(|&byte| byte == 7));
    assert!(device.prepare_sleep());
    // A long one goes through the ring, and wakes who sleeps.
    let long = write(256, (64 << 10) + 4096);
    device.submit(BlockCommand { token: 5, operation: long }).unwrap();
    assert!(device.prepare_sleep());
    assert_eq!(wait(&mut device, 1)[0].token, 5);
}

#[test]
fn short_commands_on_a_file_in_memory_fail_as_others_do() {
    let Some(scratch) = scratch_in_memory(4 << 20) else { return };
    let mut device = UringFile::open(&scratch.path, 8).unwrap();
    let outside = BlockOperation::Write { lba: Lba(1024), buffer: filled(4096, 1), durable: false };
    assert_eq!(run(&mut device, outside).result, Err(BlockError::Rejected));
    let file = std::fs::OpenOptions::new().write(true).open(&scratch.path).unwrap();
    file.set_len(4096).unwrap();
    let read = BlockOperation::Read { lba: Lba(0), buffer: filled(8192, 1) };
    let completion = run(&mut device, read);
    assert_eq!(completion.result, Err(BlockError::MediaLost), "the file was cut");
    assert_eq!(completion.buffer.unwrap().len(), 8192);
}

#[test]
fn malformed_commands_are_rejected_and_touch_nothing() {
    let scratch = scratch(1 << 20);
    let mut device = UringFile::open(&scratch.path, 8).unwrap();
    let write = |lba, buffer| BlockOperation::Write { lba: Lba(lba), buffer, durable: false };
    let mut odd = filled(8192, 1);
    let unaligned = odd.split_off(100);
    for operation in [
        write(256, filled(4096, 1)),
        write(255, filled(8192, 1)),
        write(u64::MAX, filled(4096, 1)),
        write(0, filled(4095, 1)),
        write(0, filled(0, 1)),
        write(0, unaligned),
        write(0, filled((1 << 20) + 4096, 1)),
        BlockOperation::Discard { lba: Lba(200), blocks: 57 },
        BlockOperation::Discard { lba: Lba(u64::MAX), blocks: 1 },
    ] {
        let with_buffer = !matches!(operation, BlockOperation::Discard { .. });
        let completion = run(&mut device, operation);
        assert_eq!(completion.result, Err(BlockError::Rejected));
        assert_eq!(completion.buffer.is_some(), with_buffer, "the buffer comes back");
    }
    assert!(std::fs::read(&scratch.path).unwrap().iter().all(|&byte| byte == 0));
}

#[test]
fn more_arenas_than_are_registered_are_served_all_the_same() {
    let scratch = scratch(1 << 20);
    let mut device = UringFile::open(&scratch.path, 8).unwrap();
    let arenas: Vec<Arena> = (0..6).map(|_| Arena::anonymous(1 << 16).unwrap()).collect();
    for arena in &arenas {
        device.register(arena).unwrap();
        device.register(arena).unwrap();
    }
    assert_eq!(arenas.iter().filter(|arena| device.is_registered(arena)).count(), 4);
    for (lba, arena) in (0..).zip(&arenas) {
        let mut buffer = arena.allocate(4096).unwrap();
        buffer.as_mut_slice().fill(0x5a);
        let operation = BlockOperation::Write { lba: Lba(lba), buffer, durable: false };
        assert_eq!(run(&mut device, operation).result, Ok(()));
    }
    drop(device);
    let written = std::fs::read(&scratch.path).unwrap();
    assert!(written[..6 * 4096].iter().all(|&byte| byte == 0x5a));
}

#[test]
fn a_full_queue_gives_the_command_back() {
    let scratch = scratch(1 << 20);
    let mut device = UringFile::open(&scratch.path, 4).unwrap();
    for token in 0..4 {
        let operation = BlockOperation::Read { lba: Lba(token), buffer: filled(4096, 0) };
        device.submit(BlockCommand { token, operation }).unwrap();
    }
    let operation = BlockOperation::Read { lba: Lba(77), buffer: filled(4096, 0) };
    let back = device.submit(BlockCommand { token: 4, operation }).unwrap_err();
    assert_eq!(back.token, 4);
    assert!(matches!(&back.operation, BlockOperation::Read { lba: Lba(77), .. }));
    assert_eq!(wait(&mut device, 4).len(), 4);
    device.submit(back).unwrap();
    assert_eq!(wait(&mut device, 1)[0].result, Ok(()));
}

#[test]
fn a_discarded_range_reads_as_zeros_and_gives_its_space_back() {
    use std::os::unix::fs::MetadataExt;
    let scratch = scratch(4 << 20);
    let mut device = UringFile::open(&scratch.path, 8).unwrap();
    for lba in [0, 256, 512, 768] {
        let buffer = filled(1 << 20, 7);
        let operation = BlockOperation::Write { lba: Lba(lba), buffer, durable: true };
        assert_eq!(run(&mut device, operation).result, Ok(()));
    }
    let space = std::fs::metadata(&scratch.path).unwrap().blocks();
    let discard = BlockOperation::Discard { lba: Lba(256), blocks: 512 };
    assert_eq!(run(&mut device, discard).result, Ok(()));
    assert!(std::fs::metadata(&scratch.path).unwrap().blocks() < space);
    let bytes = std::fs::read(&scratch.path).unwrap();
    for (mebibyte, expected) in [7, 0, 0, 7].into_iter().enumerate() {
        assert!(bytes[mebibyte << 20..(mebibyte + 1) << 20].iter().all(|&byte| byte == expected));
    }
}

#[test]
fn a_transfer_the_file_ends_under_fails_after_its_good_part() {
    let scratch = scratch(2 << 20);
    let mut device = UringFile::open(&scratch.path, 8).unwrap();
    let operation =
        BlockOperation::Write { lba: Lba(0), buffer: filled(1 << 20, 5), durable: false };
    assert_eq!(run(&mut device, operation).result, Ok(()));
    let file = std::fs::OpenOptions::new().write(true).open(&scratch.path).unwrap();
    file.set_len((512 << 10) + 4096).unwrap();
    let read = BlockOperation::Read { lba: Lba(0), buffer: filled(1 << 20, 1) };
    let completion = run(&mut device, read);
    assert_eq!(completion.result, Err(BlockError::MediaLost));
    let buffer = completion.buffer.unwrap();
    assert!(buffer.as_slice()[..(512 << 10) + 4096].iter().all(|&byte| byte == 5));
}

#[test]
fn a_sleeper_on_the_wake_descriptor_wakes_for_good_and_bad_completions() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::BorrowedFd;
    let scratch = scratch(1 << 20);
    let mut device = UringFile::open(&scratch.path, 8).unwrap();
    for (lba, expected) in [(0, Ok(())), (9999, Err(BlockError::Rejected))] {
        let operation =
            BlockOperation::Write { lba: Lba(lba), buffer: filled(4096, 1), durable: true };
        device.submit(BlockCommand { token: lba, operation }).unwrap();
        device.ring();
        let mut completions = Vec::new();
        while device.poll(&mut completions) == 0 {
            // SAFETY: the device is open throughout.
            let descriptor = unsafe { BorrowedFd::borrow_raw(device.wake_descriptor().unwrap()) };
            let mut descriptors = [PollFd::new(descriptor, PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(Duration::from_secs(10)).unwrap();
            match poll(&mut descriptors, timeout) {
                Ok(ready) => assert_eq!(ready, 1, "slept through the completion"),
                Err(error) => assert_eq!(error, nix::errno::Errno::EINTR),
            }
        }
        assert_eq!(completions[0].result, expected);
    }
}

#[test]
fn dropping_a_device_waits_for_its_buffers() {
    let scratch = scratch(8 << 20);
    let arena = Arena::anonymous(8 << 20).unwrap();
    let mut device = UringFile::open(&scratch.path, 8).unwrap();
    for n in 0..8 {
        let buffer = arena.allocate(1 << 20).unwrap();
        let operation = BlockOperation::Write { lba: Lba(n * 256), buffer, durable: true };
        device.submit(BlockCommand { token: n, operation }).unwrap();
    }
    device.ring();
    drop(device);
    assert_eq!(arena.free_bytes(), 8 << 20);
}

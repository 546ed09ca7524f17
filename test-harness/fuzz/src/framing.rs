//! Which blocks of a disk are anchors and heads of batches, and their checksums made good again.
//!
//! Knows the framing of `appliance/docs/formats/journal.md`, written down a second time: what a fuzzer changes behind a
//! checksum must get past it.

use std::ops::Range;

use sheen_types::{BLOCK_BYTES, checksum::crc32c};

use crate::disk::Disk;

/// Bytes of the header of a batch and of an anchor.
pub const HEADER_BYTES: usize = 64;

/// A structure found on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One block.
    Anchor,
    /// So many blocks.
    Batch(u32),
}

/// The u32 at `at`.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// The u64 at `at`.
#[must_use]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u64::from_le_bytes(*raw))
}

/// Puts bytes at `at`.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// What stands at a block, if it is framed and whole.
#[must_use]
pub fn frame_of(lba: u64, block: &[u8]) -> Option<Frame> {
    if u64_at(block, 16) != lba {
        return None;
    }
    if u32_at(block, 0) == crc32c(&block[4..HEADER_BYTES]) {
        return Some(Frame::Batch(u32_at(block, 60)));
    }
    (u32_at(block, 0) == crc32c(&block[4..BLOCK_BYTES])).then_some(Frame::Anchor)
}

/// Every framed structure of a settled disk.
#[must_use]
pub fn frames(disk: &Disk) -> Vec<(u64, Frame)> {
    disk.blocks().filter_map(|(lba, block)| Some((lba, frame_of(lba, block)?))).collect()
}

/// Blocks of a frame that hold something.
#[must_use]
pub fn extent(lba: u64, frame: Frame, bytes: &[u8]) -> Range<u64> {
    match frame {
        Frame::Anchor => lba..lba + 1,
        Frame::Batch(_) if u32_at(bytes, 56) == 0 => lba..lba + 1,
        Frame::Batch(blocks) => lba..lba + u64::from(blocks.max(1)),
    }
}

/// Makes the checksums of a frame good.
pub fn seal(frame: Frame, bytes: &mut [u8]) {
    match frame {
        Frame::Anchor => {
            let sum = crc32c(&bytes[4..BLOCK_BYTES]);
            put(bytes, 0, &sum.to_le_bytes());
        }
        Frame::Batch(_) => {
            let payload_bytes = u32_at(bytes, 48) as usize;
            let end = HEADER_BYTES.saturating_add(payload_bytes).min(bytes.len());
            let payload = crc32c(&bytes[HEADER_BYTES..end]);
            put(bytes, 52, &payload.to_le_bytes());
            let sum = crc32c(&bytes[4..HEADER_BYTES]);
            put(bytes, 0, &sum.to_le_bytes());
        }
    }
}

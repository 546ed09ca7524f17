//! What a read of an object finds: device runs with checksums, and holes.

use sheen_types::Lba;

/// Where the blocks of a segment come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: they are zeros.
    Hole,
    /// The device, contiguous from here. Their checksums are the segment's part of [`ReadPlan::checksums`].
    Device(Lba),
}

/// A run of blocks of the plan's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First block, counted from the block that holds the first byte asked for.
    pub image_block: u32,
    /// How many.
    pub blocks: u32,
    /// Where from.
    pub source: Source,
}

/// How to answer a read. Kept by the service and filled anew for each read, so that its memory is used again.
#[derive(Debug, Default)]
pub struct ReadPlan {
    /// The object's size in bytes; 0 if it does not exist.
    pub size: u64,
    /// Bytes to deliver: what was asked for, cut at the object's end.
    pub length: u64,
    /// Bytes of the image before the first byte to deliver: `offset % 4096`.
    pub skip: u32,
    /// The blocks of the image, in order, without gaps.
    pub segments: Vec<Segment>,
    /// CRC32C of each block of the image, in order; 0 for blocks of a hole.
    pub checksums: Vec<u32>,
}

/// Keeps the blocks of a plan from being used again; give it back by [`crate::Store::release`] when they were read.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "blocks are kept from use until the pin is released"]
pub struct ReadPin {
    pub(crate) epoch: u64,
}

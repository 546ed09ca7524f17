//! What a service asks of a store, and what it learns.

use std::{error::Error, fmt};

use sheen_types::{Codec, Fid, Timespec};

/// Most blocks one [`Write`] may touch: 1 MiB at any alignment.
pub const WRITE_BLOCKS_MAX: usize = 257;
/// Largest size of an object in bytes (4 PiB); beyond it is EFBIG.
pub const OBJECT_BYTES_MAX: u64 = 1 << 52;

/// Who an object's space is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Project.
    pub projid: u32,
}

/// A *packed group* of a write: blocks that are stored compressed in fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// First block of the object, counted from the block that holds the request's first byte.
    pub first: u32,
    /// Blocks of the object: 2..=[`crate::PACK_BLOCKS`], within one aligned window of so many.
    pub blocks: u16,
    /// Blocks of the image they are stored in: at least 1, fewer than `blocks`.
    pub stored: u16,
    /// How they are compressed; the store never looks at them.
    pub codec: Codec,
}

/// Writes `length` bytes at `offset`; makes the object if it is new.
///
/// The request's *image* is the run of 4 KiB blocks the range touches, in the service's memory: payload at
/// `offset % 4096`, and zeros before and behind it up to whole blocks. In the place of a packed group's blocks stand those it
/// is stored in.
///
/// A write with packed groups may end with EAGAIN: free space lies too scattered to store a group in one piece. Nothing has
/// happened then; written plain it goes through.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The object.
    pub object: Fid,
    /// First byte.
    pub offset: u64,
    /// Bytes; not 0, and at most [`WRITE_BLOCKS_MAX`] blocks are touched.
    pub length: u64,
    /// CRC32C of each block of the image.
    pub checksums: &'a [u32],
    /// Groups of blocks that the write covers whole and that are packed in the image: in order, none overlaps another.
    pub packed: &'a [Packed],
    /// The object's mtime becomes at least this.
    pub mtime: Timespec,
    /// The object's owner becomes this.
    pub owner: Owner,
    /// Complete only when durable against power loss.
    pub durable: bool,
}

/// Sets the size; what is cut is gone, what is added reads as zeros.
#[derive(Clone, Copy, Debug)]
pub struct Truncate {
    /// The object; made if it is new and `size` is not 0.
    pub object: Fid,
    /// New size in bytes.
    pub size: u64,
    /// The object's mtime becomes at least this.
    pub mtime: Timespec,
    /// Complete only when durable against power loss.
    pub durable: bool,
}

/// What a punch leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PunchKind {
    /// A hole.
    Hole,
    /// Zeros that keep (or get) their space.
    Zero,
}

/// Clears a range.
#[derive(Clone, Copy, Debug)]
pub struct Punch {
    /// The object.
    pub object: Fid,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What is left.
    pub kind: PunchKind,
    /// Let the size grow to the end of the range.
    pub extend: bool,
    /// The object's mtime becomes at least this.
    pub mtime: Timespec,
    /// Complete only when durable against power loss.
    pub durable: bool,
}

/// Reserves space for a range: blocks that read as zeros until written, in place.
#[derive(Clone, Copy, Debug)]
pub struct Allocate {
    /// The object.
    pub object: Fid,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Leave the size as it is.
    pub keep_size: bool,
    /// The object's mtime becomes at least this.
    pub mtime: Timespec,
    /// Complete only when durable against power loss.
    pub durable: bool,
}

/// Stores a range anew, with the same content: see [`crate::Store::repack`].
#[derive(Clone, Copy, Debug)]
pub struct Repack {
    /// The object.
    pub object: Fid,
    /// First byte; of a block.
    pub offset: u64,
    /// Bytes; whole blocks, as many as a [`Write`] may touch.
    pub length: u64,
    /// Complete only when durable against power loss.
    pub durable: bool,
}

/// What an object knows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ObjectAttributes {
    /// Size in bytes.
    pub size: u64,
    /// Space on the device in 4 KiB blocks, reserved ones included; a packed group counts with what it is stored in.
    pub blocks: u64,
    /// Last write.
    pub mtime: Timespec,
    /// Who it is counted for.
    pub owner: Owner,
}

/// What [`crate::Store::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTarget {
    /// The first byte of data at or behind the offset.
    Data,
    /// The first byte of a hole at or behind the offset; the end counts as one.
    Hole,
}

/// Space and load of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Blocks users can fill: neither the reserve nor what the medium lost.
    pub total_blocks: u64,
    /// Of them in use by objects, reserved ones included.
    pub used_blocks: u64,
    /// Blocks of objects that lie there: more than `used_blocks` by what packing saves.
    pub logical_blocks: u64,
    /// Blocks that one new object can be given at once, to the last: those not in use, as far as the index has room for them.
    pub free_blocks: u64,
    /// Objects.
    pub objects: u64,
    /// Most objects.
    pub objects_max: u64,
    /// Requests inside the store.
    pub requests: u32,
    /// Data blocks that users cannot fill, so that overwrites find free blocks on a full store.
    pub reserve_blocks: u64,
    /// Blocks that could be given out at once, the reserve included.
    pub allocatable_blocks: u64,
    /// Free blocks that are held back while the device is told so.
    pub discarding_blocks: u64,
    /// Blocks the device was told to be free since the start.
    pub discarded_blocks: u64,
    /// Times it would not hear since the start; that is no error.
    pub discards_failed: u64,
    /// Blocks the medium failed to write, out of use until the next start.
    pub retired_blocks: u64,
    /// Freed blocks that wait for a flush (or a reader) before they are used again.
    pub quarantined_blocks: u64,
    /// Journal blocks not used.
    pub journal_free_blocks: u64,
    /// Journal blocks written since the start.
    pub journal_blocks_written: u64,
    /// Data blocks written since the start.
    pub data_blocks_written: u64,
    /// Checkpoint blocks written since the start, both copies.
    pub checkpoint_blocks_written: u64,
    /// Checkpoints completed since the start.
    pub checkpoints: u64,
    /// Of them, those that wrote a new base.
    pub checkpoint_bases: u64,
    /// Batches of the checkpoint that were bad in one copy, and read from the other, when the store was opened.
    pub healed_batches: u64,
    /// Most bytes the index takes in a checkpoint, however its blocks will be scattered.
    pub index_bytes: u64,
    /// What it may take: beyond it new objects and blocks are refused.
    pub index_bytes_max: u64,
    /// Flushes submitted since the start.
    pub flushes: u64,
}

/// The store has its most requests: nothing was taken, ask again after a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store has its most requests in flight")
    }
}

impl Error for Busy {}

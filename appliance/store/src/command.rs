//! What a store tells its service to do.

use std::{error::Error, fmt};

use sheen_types::{Codec, Errno, Lba, Timespec};

use crate::ReadPlan;

/// Names a request; the service's choice, comes back in commands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestToken(pub u64);

/// Names a device operation; the store's choice, given back with its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoToken(pub u64);

/// Names a merge or repack asked for; given back by [`crate::Store::merged`], [`crate::Store::repacked`] or
/// [`crate::Store::merge_failed`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MergeToken(pub u64);

impl MergeToken {
    pub(crate) fn new(generation: u32, operation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(operation))
    }
}

/// One block of a request's image that keeps part of the object's old block.
///
/// Read the old block, check it, copy its bytes outside `fresh_start..fresh_end` into the image's block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Which block of the image.
    pub image_block: u32,
    /// The old block; if it is not what it should be call [`crate::Store::merge_failed`].
    pub old: OldBlock,
    /// First byte of the image's block that stays.
    pub fresh_start: u32,
    /// First byte behind those that stay.
    pub fresh_end: u32,
}

/// Where the old block of a merge lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldBlock {
    /// By itself.
    Plain {
        /// Its address.
        lba: Lba,
        /// Its CRC32C.
        checksum: u32,
    },
    /// In a packed group.
    Packed(Box<OldGroup>),
}

/// The packed group that holds the old block of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldGroup {
    /// Address of its first stored block; the others follow.
    pub lba: Lba,
    /// CRC32C of each stored block.
    pub checksums: Vec<u32>,
    /// Which of the group's blocks is the old one.
    pub block: u16,
    /// Blocks of the object in the group.
    pub whole: u16,
    /// How it is compressed.
    pub codec: Codec,
}

/// How a request ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The object's size in bytes (0 for destroy and sync).
    pub size: u64,
    /// Its space on the device in 4 KiB blocks.
    pub blocks: u64,
    /// Its last change (zero for destroy and sync).
    pub mtime: Timespec,
    /// Number of the change ([`crate::Store::changes_applied`]); 0: there was nothing to change. Of a list of destroyed
    /// objects the last one's.
    pub change: u64,
}

/// Something to do.
#[derive(Debug)]
pub enum Command {
    /// Read and merge old blocks into the request's image, then call [`crate::Store::merged`] with the CRC32C of each
    /// merged image block (in this order). Truncate and punch have no image yet: it is `image_blocks` zeroed blocks.
    Merge {
        /// The request.
        request: RequestToken,
        /// To give back.
        merge: MergeToken,
        /// Blocks of the image.
        image_blocks: u32,
        /// One or two blocks.
        merges: [Option<Merge>; 2],
    },
    /// Read the plan's blocks, unpack those packed, pack as is wanted now, keep the outcome as the request's image, then call
    /// [`crate::Store::repacked`]. The blocks stay where they are until the request ends.
    Repack {
        /// The request.
        request: RequestToken,
        /// To give back.
        token: MergeToken,
        /// What there is.
        plan: Box<ReadPlan>,
    },
    /// Write blocks of the request's image to the device.
    WriteData {
        /// To give back with the completion.
        io: IoToken,
        /// The request.
        request: RequestToken,
        /// Device address.
        lba: Lba,
        /// First block of the image.
        image_block: u32,
        /// How many blocks.
        blocks: u32,
    },
    /// Write bytes the store formed (whole blocks): journal, checkpoint, anchor. The buffer may be given back by
    /// [`crate::Store::recycle`].
    WriteBytes {
        /// To give back with the completion.
        io: IoToken,
        /// Device address.
        lba: Lba,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Flush the device: what completed before must be durable when it completes.
    Flush {
        /// To give back with the completion.
        io: IoToken,
    },
    /// Tell the device that these blocks hold nothing: what is read there afterwards is not wanted. A hint that may be
    /// ignored; report its completion all the same. The blocks are written only after that.
    Discard {
        /// To give back with the completion.
        io: IoToken,
        /// Device address.
        lba: Lba,
        /// How many blocks.
        blocks: u64,
    },
    /// Read blocks; only while opening.
    Read {
        /// To give back with the bytes.
        io: IoToken,
        /// Device address.
        lba: Lba,
        /// How many blocks.
        blocks: u32,
    },
    /// The request ended.
    Complete {
        /// The request.
        request: RequestToken,
        /// How.
        result: Result<Outcome, Errno>,
    },
}

/// Why a store stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopCause {
    /// What it could not do.
    pub doing: &'static str,
    /// What the device said.
    pub fault: IoFault,
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doing, fault } = self;
        match fault {
            IoFault::NoSpace => {
                write!(f, "{doing}: the disk that holds the device is full; make room there")
            }
            IoFault::Media | IoFault::NotCarriedOut | IoFault::Gone => {
                write!(f, "{doing}: {fault}")
            }
        }
    }
}

/// A device operation failed (after the service's own retries).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoFault {
    /// The blocks could not be written or read: what they held, or were to hold, is lost there.
    Media,
    /// It was not carried out, so nothing is known of the blocks: to be tried again, as a whole.
    NotCarriedOut,
    /// The device has no space behind the blocks (a sparse file on a full disk).
    NoSpace,
    /// The device is gone.
    Gone,
}

impl fmt::Display for IoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Media => "the device lost blocks",
            Self::NotCarriedOut => "the device did not carry out a command: try again",
            Self::NoSpace => "no space behind the device",
            Self::Gone => "the device is gone",
        })
    }
}

impl Error for IoFault {}

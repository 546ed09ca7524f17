//! Bodies of messages to object storage targets.
//!
//! `mtime` of a change: zero for the server's now, which the reply tells. A change that was acknowledged and is sent again says
//! the time it had; a cut says the time at which the MDT allowed it. An object's mtime never goes back, nor beyond the
//! server's now.

use sheen_types::{Compression, Fid, OstIndex, Timespec};

use crate::{fields::List, message, number_enum};

message! {
    /// Writes the payload at `offset`. Reply: [`WriteReply`]. The object is made if it is new.
    /// The frame's payload_checksum is that of the payload.
    pub struct ObjectWrite {
        /// Which OST of the service.
        pub ost: OstIndex,
        /// The object.
        pub object: Fid,
        /// First byte.
        pub offset: u64,
        /// See the module.
        pub mtime: Timespec,
        /// Owner for quotas.
        pub uid: u32,
        /// Group for quotas.
        pub gid: u32,
        /// Project for quotas.
        pub projid: u32,
        /// Reply only when durable against power loss (`O_DSYNC`); else when it survives the process.
        pub durable: bool,
        /// How to compress what the write covers whole, where that saves space.
        pub compression: Compression,
    }
}

message! {
    /// State of an object after a change.
    pub struct WriteReply {
        /// The object's size.
        pub size: u64,
        /// Its space in 512-byte units.
        pub blocks: u64,
        /// Its last change.
        pub mtime: Timespec,
    }
}

message! {
    /// Reads `length` bytes at `offset`. Reply: [`ReadReply`], payload: the bytes. Bytes in holes are zero; the
    /// payload ends where the object ends.
    pub struct ObjectRead {
        /// Which OST of the service.
        pub ost: OstIndex,
        /// The object.
        pub object: Fid,
        /// First byte.
        pub offset: u64,
        /// Bytes wanted, at most one slab.
        pub length: u32,
    }
}

message! {
    /// Answer to [`ObjectRead`].
    pub struct ReadReply {
        /// The object's size (0 if it does not exist: an object never written reads as empty).
        pub size: u64,
    }
}

number_enum! {
    /// What ObjectPunch leaves behind.
    pub enum PunchMode: u8 {
        /// A hole.
        Hole = 0,
        /// Zeros that keep their space (`FALLOC_FL_ZERO_RANGE`).
        Zero = 1,
    }
}

message! {
    /// Clears a range. Reply: [`WriteReply`]. Does not change the size unless `extend`.
    pub struct ObjectPunch {
        /// Which OST of the service.
        pub ost: OstIndex,
        /// The object.
        pub object: Fid,
        /// First byte.
        pub offset: u64,
        /// Bytes.
        pub length: u64,
        /// What is left.
        pub mode: PunchMode,
        /// Let the size grow to the end of the range.
        pub extend: bool,
        /// See the module.
        pub mtime: Timespec,
    }
}

message! {
    /// Sets the size; what is cut is gone, what is added reads as zeros. Reply: [`WriteReply`].
    pub struct ObjectTruncate {
        /// Which OST of the service.
        pub ost: OstIndex,
        /// The object.
        pub object: Fid,
        /// New size.
        pub size: u64,
        /// See the module.
        pub mtime: Timespec,
    }
}

message! {
    /// Reserves space for a range so that writing it cannot fail for want of space. Reply: [`WriteReply`].
    pub struct ObjectAllocate {
        /// Which OST of the service.
        pub ost: OstIndex,
        /// The object.
        pub object: Fid,
        /// First byte.
        pub offset: u64,
        /// Bytes.
        pub length: u64,
        /// Leave the size as it is (`FALLOC_FL_KEEP_SIZE`).
        pub keep_size: bool,
        /// See the module.
        pub mtime: Timespec,
    }
}

message! {
    /// Stores the content of a range anew, compressed as asked or plain; the content stays what it is, and so do size and
    /// times. Holes stay holes; what lies behind the end is nothing. Reply: [`WriteReply`].
    pub struct ObjectRepack {
        /// Which OST of the service.
        pub ost: OstIndex,
        /// The object.
        pub object: Fid,
        /// First byte, a multiple of [`REPACK_BYTES_UNIT`].
        pub offset: u64,
        /// Bytes, at most one slab.
        pub length: u32,
        /// How.
        pub compression: Compression,
    }
}

/// Compression works on windows of this size, aligned to it in the object.
pub const REPACK_BYTES_UNIT: u64 = 64 << 10;

message! {
    /// Asks for sizes of up to [`GLIMPSE_MAX`] objects. Reply: [`GlimpseReply`], in the same order.
    pub struct ObjectGlimpse {
        /// Which OST of the service.
        pub ost: OstIndex,
        /// The objects.
        pub objects: List<Fid>,
    }
}

/// Most objects in one [`ObjectGlimpse`]; the reply must fit a body.
pub const GLIMPSE_MAX: usize = 16;

message! {
    /// Answer to [`ObjectGlimpse`].
    pub struct GlimpseReply {
        /// One per object.
        pub objects: List<ObjectAttributes>,
    }
}

message! {
    /// What an object knows.
    pub struct ObjectAttributes {
        /// Whether it exists; if not, the rest is zero.
        pub exists: bool,
        /// Size.
        pub size: u64,
        /// Space in 512-byte units.
        pub blocks: u64,
        /// Last write; counts for the file if later than the MDT's ctime.
        pub mtime: Timespec,
    }
}

message! {
    /// Makes everything acknowledged on this OST durable against power loss. Reply: empty.
    pub struct ObjectSync {
        /// Which OST of the service.
        pub ost: OstIndex,
        /// The object the caller cares about ([`Fid::NONE`]: all).
        pub object: Fid,
    }
}

number_enum! {
    /// What ObjectSeek looks for.
    pub enum SeekTarget: u8 {
        /// The first byte of data at or behind the offset.
        Data = 0,
        /// The first byte of a hole at or behind the offset; the end counts as one.
        Hole = 1,
    }
}

message! {
    /// Finds data or a hole. Reply: [`SeekReply`], or -ENXIO behind the end (or no more data).
    pub struct ObjectSeek {
        /// Which OST of the service.
        pub ost: OstIndex,
        /// The object.
        pub object: Fid,
        /// Where to begin.
        pub offset: u64,
        /// What to find.
        pub target: SeekTarget,
    }
}

message! {
    /// Answer to [`ObjectSeek`].
    pub struct SeekReply {
        /// Offset found.
        pub offset: u64,
    }
}

message! {
    /// Space of an OST. Reply: [`ObjectStatisticsReply`].
    pub struct ObjectStatistics {
        /// Which OST of the service.
        pub ost: OstIndex,
    }
}

message! {
    /// Answer to [`ObjectStatistics`].
    pub struct ObjectStatisticsReply {
        /// Space for data in bytes.
        pub total_bytes: u64,
        /// Of it not used.
        pub free_bytes: u64,
        /// Objects.
        pub objects: u64,
        /// Content that is stored, before compression.
        pub logical_bytes: u64,
        /// Space it takes.
        pub physical_bytes: u64,
    }
}

//! What a call of [`crate::kernel::Filesystem`] gives back.

use std::time::Duration;

use sheen_dma::Buffer;
use sheen_types::{Attributes, FileKind, Timespec};

use crate::kernel::{
    abi::dirent,
    operation::{FileHandle, NodeId},
};

/// What `stat` shows of an inode through this mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileAttributes {
    /// Inode number programs see; need not be the [`NodeId`].
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space in 512-byte units.
    pub blocks: u64,
    /// Last read.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of content or attributes.
    pub ctime: Timespec,
    /// Birth (statx only).
    pub btime: Timespec,
    /// Kind and permissions.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// Preferred size of I/O in bytes; a power of two.
    pub blksize: u32,
}

impl FileAttributes {
    /// From an inode's attributes; `ino` and `blksize` are the mount's choice.
    #[must_use]
    pub fn new(ino: u64, blksize: u32, of: &Attributes) -> Self {
        Self {
            ino,
            size: of.size,
            blocks: of.blocks,
            atime: of.atime,
            mtime: of.mtime,
            ctime: of.ctime,
            btime: of.btime,
            mode: of.mode(),
            nlink: of.nlink,
            uid: of.uid,
            gid: of.gid,
            // Device numbers beyond 32 bits do not pass FUSE: major has 12 bits, minor 20.
            rdev: u32::try_from(of.rdev).unwrap_or(0),
            blksize,
        }
    }
}

/// Attributes and how long the kernel may believe them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedAttributes {
    /// The attributes.
    pub attributes: FileAttributes,
    /// How long they hold. `Duration::MAX` is for ever: until a notification.
    pub valid: Duration,
}

/// A name that leads to an inode. Counts as one lookup of the node, to be forgotten later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The inode; [`NodeId`] 0 is "no such name", which the kernel remembers for `name_valid` (a negative dentry, not
    /// counted).
    pub node: NodeId,
    /// Tells apart inodes that had the same `node` at different times.
    pub generation: u64,
    /// How long the name leads there.
    pub name_valid: Duration,
    /// Attributes.
    pub attributes: TimedAttributes,
}

/// How the kernel is to treat an open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenedAs {
    /// Bypass the page cache (FOPEN_DIRECT_IO).
    pub direct_io: bool,
    /// Keep what the page cache holds of the inode (FOPEN_KEEP_CACHE).
    pub keep_cache: bool,
    /// Cache the listing of this directory (FOPEN_CACHE_DIR).
    pub cache_directory: bool,
    /// No FLUSH on close (FOPEN_NOFLUSH).
    pub no_flush: bool,
    /// Let writers with direct I/O run in parallel (FOPEN_PARALLEL_DIRECT_WRITES).
    pub parallel_direct_writes: bool,
    /// No seeking (FOPEN_NONSEEKABLE).
    pub nonseekable: bool,
}

/// An opened file or directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The file system's name for it.
    pub handle: FileHandle,
    /// How to treat it.
    pub opened_as: OpenedAs,
}

/// The bytes of a READ. At most as many as asked for; fewer is the end of the file.
#[derive(Debug)]
pub enum ReadAnswer {
    /// The first `bytes` of `buffer`. If it is the `room` the call was given, the worker uses it again: no allocation.
    Buffer {
        /// Holds the payload at its start.
        buffer: Buffer,
        /// Bytes of payload.
        bytes: usize,
    },
    /// These one after the other, all of each; at most 16. For reads gathered from several places.
    Buffers(Vec<Buffer>),
    /// Plain bytes.
    Bytes(Vec<u8>),
    /// Nothing: the end of the file.
    Empty,
}

/// The end of a WRITE.
#[derive(Debug)]
pub struct Written {
    /// Bytes written; 1..=size, less is a short write.
    pub bytes: u32,
    /// The payload's buffer, if nobody needs it any more: the worker uses it again instead of taking a new one.
    pub buffer: Option<Buffer>,
}

/// `statfs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatFs {
    /// Size in units of `fragment_bytes`.
    pub blocks: u64,
    /// Free.
    pub blocks_free: u64,
    /// Free to users.
    pub blocks_available: u64,
    /// Inodes.
    pub files: u64,
    /// Inodes free.
    pub files_free: u64,
    /// Preferred I/O size.
    pub block_bytes: u32,
    /// The unit of the counts above.
    pub fragment_bytes: u32,
    /// Longest name.
    pub name_bytes_max: u32,
}

/// The end of an IOCTL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IoctlAnswer {
    /// What the call returns, 0..
    pub result: i32,
    /// What is stored where the argument points; at most `output_bytes_max`.
    pub output: Vec<u8>,
}

/// The listing has no room for this entry: stop, the kernel comes back with the last offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Where READDIR and READDIRPLUS put entries; bounded by what the kernel asked for.
#[derive(Debug)]
pub struct DirectorySink {
    bytes: Vec<u8>,
    bytes_max: usize,
    plus: bool,
}

impl DirectorySink {
    /// Appends to `bytes`, at most `bytes_max` more.
    pub(crate) fn new(bytes: Vec<u8>, bytes_max: u32, plus: bool) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(0).saturating_add(bytes.len());
        Self { bytes, bytes_max, plus }
    }

    /// What was given, with the listing behind it.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether entries carry an [`Entry`] each (READDIRPLUS).
    #[must_use]
    pub fn wants_entries(&self) -> bool {
        self.plus
    }

    /// Whether a name of this length still fits. Ask before taking a lookup for it.
    #[must_use]
    pub fn has_room(&self, name_bytes: usize) -> bool {
        self.bytes.len() + dirent::length(name_bytes, self.plus) <= self.bytes_max
    }

    /// Adds one. `next_offset` is where a listing that stops after this entry goes on; not 0.
    ///
    /// With [`DirectorySink::wants_entries`], an `entry` that was added counts as a lookup, unless the name is `.` or
    /// `..`; None leaves it to the kernel to look the name up. Otherwise `entry` is ignored and not counted.
    ///
    /// # Errors
    /// [`Full`]: not added, nothing counted.
    pub fn push(
        &mut self,
        name: &[u8],
        ino: u64,
        kind: FileKind,
        next_offset: u64,
        entry: Option<&Entry>,
    ) -> Result<(), Full> {
        if !self.has_room(name.len()) {
            return Err(Full);
        }
        if self.plus {
            dirent::encode_entry(&mut self.bytes, entry);
        }
        dirent::encode(&mut self.bytes, name, ino, kind, next_offset);
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_listing_never_exceeds_what_was_asked_for() {
        for plus in [false, true] {
            let mut sink = DirectorySink::new(vec![0; 16], 1000, plus);
            let mut added = 0;
            while sink.has_room(5) {
                assert_eq!(sink.push(b"abcde", 1, FileKind::Regular, added + 1, None), Ok(()));
                added += 1;
            }
            assert_eq!(sink.push(b"abcde", 1, FileKind::Regular, 9, None), Err(Full));
            let each = if plus { 160 } else { 32 };
            let bytes = sink.into_bytes();
            assert_eq!(bytes.len(), 16 + 1000 / each * each);
            assert_eq!(added, 1000 / each as u64);
        }
    }
}

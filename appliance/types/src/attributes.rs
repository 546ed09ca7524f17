//! What `stat` shows of an inode.

use crate::{Fid, Timespec};

/// Kind of an inode; the number is the `S_IFMT` part of the mode shifted right by 12 (`DT_*`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FileKind {
    /// Named pipe.
    Fifo = 1,
    /// Character device.
    CharDevice = 2,
    /// Directory.
    Directory = 4,
    /// Block device.
    BlockDevice = 6,
    /// Regular file.
    Regular = 8,
    /// Symbolic link.
    Symlink = 10,
    /// Socket.
    Socket = 12,
}

impl FileKind {
    /// The kind with this `DT_*` number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }

    /// The kind in the `S_IFMT` bits of a mode.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Self::from_number(((mode >> 12) & 0xf) as u8)
    }

    /// The `S_IFMT` bits of a mode of this kind.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        (self as u32) << 12
    }
}

/// Inode flags that freeze an inode, numbered as `chattr` does (`FS_*_FL`).
pub mod frozen {
    /// Nothing may change (`chattr +i`).
    pub const IMMUTABLE: u32 = 0x10;
    /// Only appending; of a directory only adding (`chattr +a`).
    pub const APPEND: u32 = 0x20;
    /// Either.
    pub const ALL: u32 = IMMUTABLE | APPEND;

    /// Whether an inode with `flags` refuses to be opened for writing, `append` telling of `O_APPEND` without `O_TRUNC`.
    #[must_use]
    pub const fn refuses_open(flags: u32, append: bool) -> bool {
        flags & IMMUTABLE != 0 || flags & APPEND != 0 && !append
    }
}

/// Attributes of an inode. For a regular file, size, mtime and blocks here are the MDT's lazy
/// copy; the objects know better (see [`crate::layout`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// The inode.
    pub fid: Fid,
    /// Kind.
    pub kind: FileKind,
    /// Permission bits with set-ID and sticky, 0..=0o7777.
    pub permissions: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Project, for quotas.
    pub projid: u32,
    /// Device number of a special file, Linux `dev_t` as `stat` shows it, else 0.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space in 512-byte units.
    pub blocks: u64,
    /// Last read, by the mount's atime policy.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of content or attributes.
    pub ctime: Timespec,
    /// Birth.
    pub btime: Timespec,
    /// `FS_*_FL` inode flags (`lsattr`).
    pub flags: u32,
    /// When `mtime` was decided at the MDT: it counts unless the objects of the file were written later.
    pub mtime_set: Timespec,
    /// When `atime` was decided at the MDT, by hand or by a read it was told of: only a later read counts.
    pub atime_set: Timespec,
    /// Whether it has any extended attribute, access lists and capabilities included.
    pub has_xattrs: bool,
}

impl Attributes {
    /// Kind and permissions as one `st_mode`.
    #[must_use]
    pub const fn mode(&self) -> u32 {
        self.kind.mode_bits() | self.permissions
    }

    /// Its access time, when it is also known to have been read `at`: what was decided later than that stays.
    #[must_use]
    pub fn read_at(&self, at: Option<Timespec>) -> Timespec {
        at.filter(|at| *at > self.atime_set).unwrap_or(self.atime)
    }
}

//! How much the state may hold. Every member of the group must be given the same numbers, because
//! they decide what an entry does.

/// Bounds of [`crate::State`]; beyond them operations answer `ENOSPC` (sessions: `EAGAIN`, their end makes room).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Inodes, of all file systems together.
    pub inodes_max: u64,
    /// File systems, those being deleted included.
    pub filesystems_max: u32,
    /// Sessions.
    pub sessions_max: u32,
    /// Reply slots of a session.
    pub slots_max: u16,
}

impl Limits {
    /// Most names of a file that is not a directory (ext4's `EXT4_LINK_MAX`).
    pub const LINKS_MAX: u32 = 65_000;
    /// Longest target of a symbolic link in bytes.
    pub const SYMLINK_BYTES_MAX: usize = 4095;
    /// Longest value of an extended attribute in bytes (`XATTR_SIZE_MAX`).
    pub const XATTR_BYTES_MAX: usize = 64 << 10;
    /// Names of all extended attributes of an inode, each with its NUL (`XATTR_LIST_MAX`).
    pub const XATTR_NAMES_BYTES_MAX: usize = 64 << 10;
    /// Names and values of all extended attributes of an inode.
    pub const XATTRS_BYTES_MAX: usize = 1 << 20;
    /// Sequences of FIDs remembered per session; granting another forgets the oldest.
    pub const SEQUENCES_PER_SESSION: usize = 16;
    /// Longest label of a session in bytes.
    pub const LABEL_BYTES_MAX: usize = 255;
    /// OSTs that can be registered.
    pub const OSTS_MAX: usize = 65_536;
}

impl Default for Limits {
    /// 16 million inodes, 64 file systems, 4096 sessions of up to 64 slots.
    fn default() -> Self {
        Self { inodes_max: 16 << 20, filesystems_max: 64, sessions_max: 4096, slots_max: 64 }
    }
}

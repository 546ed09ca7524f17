//! An inode as the state keeps it.

use std::collections::BTreeMap;

use sheen_types::{Attributes, Fid, FileKind, Timespec, TransactionNumber};

use crate::directory::Directory;

/// Set-user-ID.
pub(crate) const S_ISUID: u16 = 0o4000;
/// Set-group-ID.
pub(crate) const S_ISGID: u16 = 0o2000;
/// Sticky.
pub(crate) const S_ISVTX: u16 = 0o1000;
/// Executable by the group.
pub(crate) const S_IXGRP: u16 = 0o0010;

/// Inode flags with a meaning here, numbered as `chattr` does (`FS_*_FL`).
pub(crate) mod flags {
    /// Synchronous updates.
    pub(crate) const SYNC: u32 = 0x08;
    /// Nothing may change.
    pub(crate) const IMMUTABLE: u32 = sheen_types::attributes::frozen::IMMUTABLE;
    /// Only appending; of a directory only adding.
    pub(crate) const APPEND: u32 = sheen_types::attributes::frozen::APPEND;
    /// Not dumped.
    pub(crate) const NODUMP: u32 = 0x40;
    /// No access times.
    pub(crate) const NOATIME: u32 = 0x80;
    /// Synchronous directory.
    pub(crate) const DIRSYNC: u32 = 0x1_0000;
    /// Children inherit the project.
    pub(crate) const PROJINHERIT: u32 = 0x2000_0000;
    /// Whether and how content is compressed.
    pub(crate) const COMPRESSION: u32 = sheen_types::compression::flags::ALL;
    /// All that can be set.
    pub(crate) const SETTABLE: u32 =
        SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME | DIRSYNC | PROJINHERIT | COMPRESSION;
}

/// Size shown for a directory in bytes, whatever it holds.
const DIRECTORY_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;

/// What an inode holds by its kind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Fifo or socket.
    Plain,
    /// Character or block device: its number.
    Device(u64),
    /// Target of a symbolic link.
    Symlink(Box<[u8]>),
    /// Names.
    Directory(Box<Directory>),
    /// Layout, encoded as on the wire: a third of the decoded one's memory, and replies carry it.
    File(Box<[u8]>),
}

/// Extended attributes by name.
pub(crate) type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// An inode.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) kind: FileKind,
    /// 0..=0o7777.
    pub(crate) permissions: u16,
    /// Number of its file system's root.
    pub(crate) filesystem: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) projid: u32,
    pub(crate) flags: u32,
    pub(crate) size: u64,
    /// In 512-byte units.
    pub(crate) blocks: u64,
    pub(crate) atime: Timespec,
    pub(crate) mtime: Timespec,
    pub(crate) ctime: Timespec,
    pub(crate) btime: Timespec,
    /// When `mtime` was decided here: what the objects of a file were written at counts if it is later.
    pub(crate) mtime_set: Timespec,
    /// When `atime` was decided here, by hand or by a read that was told of: only a later read counts.
    pub(crate) atime_set: Timespec,
    /// Last change of this inode.
    pub(crate) transaction: TransactionNumber,
    pub(crate) content: Content,
    pub(crate) xattrs: Option<Box<Xattrs>>,
}

// What an inode costs: 192 bytes beside its content, of a million inodes 192 MB.
const _: () = assert!(size_of::<Inode>() <= 192);

impl Inode {
    /// A new inode of root without links, every time `now`.
    pub(crate) fn new(
        kind: FileKind,
        filesystem: u32,
        content: Content,
        now: Timespec,
        transaction: TransactionNumber,
    ) -> Self {
        let size = match &content {
            Content::Symlink(target) => target.len() as u64,
            Content::Directory(_) => DIRECTORY_BYTES,
            Content::Plain | Content::Device(_) | Content::File(_) => 0,
        };
        let blocks = if kind == FileKind::Directory { size / SECTOR_BYTES } else { 0 };
        Self {
            kind,
            permissions: 0,
            filesystem,
            nlink: 0,
            uid: 0,
            gid: 0,
            projid: 0,
            flags: 0,
            size,
            blocks,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            mtime_set: now,
            atime_set: now,
            transaction,
            content,
            xattrs: None,
        }
    }

    pub(crate) fn attributes(&self, fid: Fid) -> Attributes {
        Attributes {
            fid,
            kind: self.kind,
            permissions: u32::from(self.permissions),
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            projid: self.projid,
            rdev: if let Content::Device(number) = self.content { number } else { 0 },
            size: self.size,
            blocks: self.blocks,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            flags: self.flags,
            mtime_set: self.mtime_set,
            atime_set: self.atime_set,
            has_xattrs: self.xattrs.is_some(),
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    pub(crate) fn directory(&self) -> Option<&Directory> {
        if let Content::Directory(directory) = &self.content { Some(directory) } else { None }
    }

    pub(crate) fn directory_mut(&mut self) -> Option<&mut Directory> {
        if let Content::Directory(directory) = &mut self.content { Some(directory) } else { None }
    }

    pub(crate) fn is_immutable(&self) -> bool {
        self.flags & flags::IMMUTABLE != 0
    }

    pub(crate) fn is_append_only(&self) -> bool {
        self.flags & flags::APPEND != 0
    }

    pub(crate) fn xattr(&self, name: &[u8]) -> Option<&[u8]> {
        self.xattrs.as_ref()?.get(name).map(AsRef::as_ref)
    }

    pub(crate) fn set_xattr(&mut self, name: &[u8], value: &[u8]) {
        self.xattrs.get_or_insert_default().insert(name.into(), value.into());
    }

    /// Returns whether it was there.
    pub(crate) fn remove_xattr(&mut self, name: &[u8]) -> bool {
        let Some(xattrs) = &mut self.xattrs else { return false };
        let removed = xattrs.remove(name).is_some();
        if xattrs.is_empty() {
            self.xattrs = None;
        }
        removed
    }

    /// Entries or content changed.
    pub(crate) fn touch_content(&mut self, now: Timespec, transaction: TransactionNumber) {
        self.touch_attributes(now, transaction);
        self.set_mtime(self.ctime);
    }

    /// Attributes or links changed. The time of a change never goes back, whatever the clock does, and shows that there was one.
    pub(crate) fn touch_attributes(&mut self, now: Timespec, transaction: TransactionNumber) {
        self.ctime = self.ctime.going_on(now);
        self.transaction = transaction;
    }

    /// Decides the time of the last change of content; the change this is part of has touched the attributes.
    pub(crate) fn set_mtime(&mut self, mtime: Timespec) {
        self.mtime = mtime;
        self.mtime_set = self.ctime;
    }

    /// Decides the access time; the change this is part of has touched the attributes.
    pub(crate) fn set_atime(&mut self, atime: Timespec) {
        self.atime = atime;
        self.atime_set = self.ctime;
    }

    /// A client says that it was read `at`: nobody has read tomorrow, and what was decided since stays.
    pub(crate) fn note_access(&mut self, at: Timespec, now: Timespec) {
        let at = at.min(now);
        if self.flags & flags::NOATIME == 0 && at > self.atime_set {
            self.atime = at;
            self.atime_set = at;
        }
    }
}

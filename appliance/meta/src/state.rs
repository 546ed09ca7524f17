//! The replicated state and its queries.

use sheen_types::{
    Attributes, ClientId, Epoch, Errno, Fid, FileKind, Layout, Name, OstIndex, Tag,
    TransactionNumber, Xid,
};
use sheen_wire::{directory::DirectoryEntry, metadata::FilesystemInfo};

use crate::{Entry, Limits, Outcome};

/// The namespace.
#[derive(Debug)]
pub struct State {
    limits: Limits,
}

/// A session, as queries show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// The session.
    pub client: ClientId,
    /// Its uuid.
    pub uuid: [u8; 16],
    /// Its incarnation.
    pub epoch: Epoch,
    /// Root of its file system; [`Fid::NONE`] for an administrative session.
    pub root: Fid,
    /// For people.
    pub label: Vec<u8>,
    /// Reply slots.
    pub slots: u16,
}

/// A page of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryPage {
    /// The parent, for `..`; of an unlinked directory itself.
    pub parent: Fid,
    /// Entries in order of cookie, `plus` None.
    pub entries: Vec<DirectoryEntry>,
    /// Nothing follows.
    pub end: bool,
}

impl State {
    /// An empty state: no file system, no OST, no session.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits }
    }

    /// The bounds.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Applies a committed entry. Deterministic.
    pub fn apply(&mut self, entry: &Entry) -> Outcome {
        let _ = self.limits;
        Outcome {
            result: Err(Errno::ENOSYS),
            transaction: entry.transaction,
            replayed: false,
            effects: Vec::new(),
        }
    }

    /// The stored outcome if this request was applied already: the answer to a resent request.
    /// A request older than the slot's answers `EPROTO`; its sender does not wait for it any more.
    #[must_use]
    pub fn replayed(&self, client: ClientId, tag: Tag, xid: Xid) -> Option<Outcome> {
        let _ = (client, tag, xid, self.limits);
        None
    }

    /// Number of the last change.
    #[must_use]
    pub const fn last_transaction(&self) -> TransactionNumber {
        let _ = self.limits;
        TransactionNumber(0)
    }

    /// Epoch of the last [`crate::Operation::ServerStart`]; 0 if there was none.
    #[must_use]
    pub const fn server_epoch(&self) -> Epoch {
        let _ = self.limits;
        Epoch(0)
    }

    /// Child of a directory, by name.
    ///
    /// # Errors
    /// `ESTALE`: no such directory inode; `ENOTDIR`; `ENOENT`: no such name.
    pub fn lookup(&self, parent: Fid, name: &Name) -> Result<(Fid, FileKind), Errno> {
        let _ = (parent, name, self.limits);
        Err(Errno::ENOENT)
    }

    /// `..` of a directory; the root is its own parent.
    ///
    /// # Errors
    /// `ESTALE`, `ENOTDIR`; `ENOENT` if the directory was removed.
    pub fn parent(&self, directory: Fid) -> Result<Fid, Errno> {
        let _ = (directory, self.limits);
        Err(Errno::ENOENT)
    }

    /// Attributes of an inode, orphans included.
    ///
    /// # Errors
    /// `ESTALE`: there is no such inode.
    pub fn attributes(&self, fid: Fid) -> Result<Attributes, Errno> {
        let _ = (fid, self.limits);
        Err(Errno::ESTALE)
    }

    /// Layout of a regular file, encoded as the wire carries it; empty for other kinds.
    ///
    /// # Errors
    /// `ESTALE`: there is no such inode.
    pub fn layout_bytes(&self, fid: Fid) -> Result<&[u8], Errno> {
        let _ = (fid, self.limits);
        Err(Errno::ESTALE)
    }

    /// Layout of a regular file.
    ///
    /// # Errors
    /// `ESTALE`; `EINVAL`: not a regular file.
    pub fn layout(&self, fid: Fid) -> Result<Layout, Errno> {
        let _ = (fid, self.limits);
        Err(Errno::ESTALE)
    }

    /// Whether every component that meets `start..end` has its objects.
    ///
    /// # Errors
    /// As [`State::layout`].
    pub fn is_instantiated(&self, fid: Fid, start: u64, end: u64) -> Result<bool, Errno> {
        let _ = (start, end);
        self.layout(fid).map(|_| false)
    }

    /// Up to `entries_max` entries behind `cookie` (0: from the start).
    ///
    /// # Errors
    /// `ESTALE`, `ENOTDIR`.
    pub fn read_directory(
        &self,
        fid: Fid,
        cookie: u64,
        entries_max: usize,
    ) -> Result<DirectoryPage, Errno> {
        let _ = (fid, cookie, entries_max, self.limits);
        Err(Errno::ESTALE)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `ESTALE`; `EINVAL`: not a symbolic link.
    pub fn read_link(&self, fid: Fid) -> Result<&[u8], Errno> {
        let _ = (fid, self.limits);
        Err(Errno::ESTALE)
    }

    /// Value of an extended attribute.
    ///
    /// # Errors
    /// `ESTALE`; `ENODATA`: not set; `EOPNOTSUPP`: no such name space.
    pub fn xattr(&self, fid: Fid, name: &Name) -> Result<&[u8], Errno> {
        let _ = (fid, name, self.limits);
        Err(Errno::ESTALE)
    }

    /// Names of all extended attributes, each ended by NUL, in order.
    ///
    /// # Errors
    /// `ESTALE`.
    pub fn xattr_names(&self, fid: Fid) -> Result<Vec<u8>, Errno> {
        let _ = (fid, self.limits);
        Err(Errno::ESTALE)
    }

    /// Every file system, in order of root.
    #[must_use]
    pub fn filesystems(&self) -> Vec<FilesystemInfo> {
        let _ = self.limits;
        Vec::new()
    }

    /// Root of the file system of this name (none that is being deleted).
    #[must_use]
    pub fn filesystem_root(&self, name: &[u8]) -> Option<Fid> {
        let _ = (name, self.limits);
        None
    }

    /// The file system with this root.
    #[must_use]
    pub fn filesystem(&self, root: Fid) -> Option<FilesystemInfo> {
        let _ = (root, self.limits);
        None
    }

    /// Inodes of all file systems together; the bound is in [`State::limits`].
    #[must_use]
    pub const fn inodes(&self) -> u64 {
        let _ = self.limits;
        0
    }

    /// A session.
    #[must_use]
    pub fn session(&self, client: ClientId) -> Option<SessionInfo> {
        let _ = (client, self.limits);
        None
    }

    /// Every session, in order.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let _ = self.limits;
        Vec::new()
    }

    /// Inodes without a name that were kept because they may be open; up to `max`, those after
    /// `after` in order ([`Fid::NONE`]: from the start).
    #[must_use]
    pub fn orphans(&self, after: Fid, max: usize) -> Vec<Fid> {
        let _ = (after, max, self.limits);
        Vec::new()
    }

    /// Registered OSTs and whether they take new objects, in order.
    #[must_use]
    pub fn osts(&self) -> Vec<(OstIndex, bool)> {
        let _ = self.limits;
        Vec::new()
    }

    /// Up to `max` objects of an OST that are to be destroyed, in order.
    #[must_use]
    pub fn pending_destroys(&self, ost: OstIndex, max: usize) -> Vec<Fid> {
        let _ = (ost, max, self.limits);
        Vec::new()
    }
}

//! What can be asked of the state. No query changes anything.

use sheen_types::{
    AttributeName, Attributes, ClientId, Epoch, Errno, Fid, FileKind, Layout, Name, OstIndex,
    TransactionNumber,
};
use sheen_wire::{directory::DirectoryEntry, metadata::FilesystemInfo};

use super::{State, filesystem::Filesystem, inode::Content, objects::is_instantiated};
use crate::{Limits, SessionPrincipal, SessionRights, xattr::namespace};

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
    /// Whose it is.
    pub principal: SessionPrincipal,
    /// What it may do.
    pub rights: SessionRights,
    /// For people.
    pub label: Vec<u8>,
    /// Reply slots.
    pub slots: u16,
}

/// What a session may do, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionAccess {
    /// Root of its file system; [`Fid::NONE`] for an administrative session.
    pub root: Fid,
    /// Whose it is.
    pub principal: SessionPrincipal,
    /// It changes nothing.
    pub read_only: bool,
    /// Permissions are checked for it; else it is trusted with that.
    pub checked: bool,
}

/// A page of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryPage {
    /// The parent, for `..`.
    pub parent: Fid,
    /// Entries in order of cookie, `plus` None.
    pub entries: Vec<DirectoryEntry>,
    /// Nothing follows.
    pub end: bool,
}

impl State {
    /// The bounds.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Number of the last change.
    #[must_use]
    pub const fn last_transaction(&self) -> TransactionNumber {
        self.last_transaction
    }

    /// Epoch of the last [`crate::Operation::ServerStart`]; 0 if there was none.
    #[must_use]
    pub const fn server_epoch(&self) -> Epoch {
        self.server_epoch
    }

    /// The longest lease a client may count on, as the last [`crate::Operation::LeasePromise`] said; 0 if there was none.
    #[must_use]
    pub const fn lease_milliseconds(&self) -> u32 {
        self.lease_milliseconds
    }

    /// Child of a directory, by name.
    ///
    /// # Errors
    /// `ESTALE`: no such directory inode; `ENOTDIR`; `ENOENT`: no such name.
    pub fn lookup(&self, parent: Fid, name: &Name) -> Result<(Fid, FileKind), Errno> {
        let (_, directory) = self.directory(parent)?;
        let child = directory.get(name).ok_or(Errno::ENOENT)?;
        Ok((child.fid, child.kind))
    }

    /// `..` of a directory; the root is its own parent.
    ///
    /// # Errors
    /// `ESTALE`, `ENOTDIR`; `ENOENT` if the directory was removed.
    pub fn parent(&self, directory: Fid) -> Result<Fid, Errno> {
        let parent = self.directory(directory)?.1.parent;
        if parent.is_none() { Err(Errno::ENOENT) } else { Ok(parent) }
    }

    /// Attributes of an inode, orphans included.
    ///
    /// # Errors
    /// `ESTALE`: there is no such inode.
    pub fn attributes(&self, fid: Fid) -> Result<Attributes, Errno> {
        self.inode(fid).map(|inode| inode.attributes(fid))
    }

    /// Root of the file system an inode is in.
    ///
    /// # Errors
    /// `ESTALE`: there is no such inode.
    pub fn root_of(&self, fid: Fid) -> Result<Fid, Errno> {
        self.inode(fid).map(|inode| Filesystem::root(inode.filesystem))
    }

    /// Layout of a regular file, encoded as the wire carries it; empty for other kinds.
    ///
    /// # Errors
    /// `ESTALE`: there is no such inode.
    pub fn layout_bytes(&self, fid: Fid) -> Result<&[u8], Errno> {
        let inode = self.inode(fid)?;
        if let Content::File(bytes) = &inode.content { Ok(bytes) } else { Ok(&[]) }
    }

    /// Layout of a regular file.
    ///
    /// # Errors
    /// `ESTALE`; `EINVAL`: not a regular file.
    pub fn layout(&self, fid: Fid) -> Result<Layout, Errno> {
        Self::layout_of(self.inode(fid)?)
    }

    /// Whether every component that meets `start..end` has its objects.
    ///
    /// # Errors
    /// As [`State::layout`].
    pub fn is_instantiated(&self, fid: Fid, start: u64, end: u64) -> Result<bool, Errno> {
        self.layout(fid).map(|layout| is_instantiated(&layout, start, end))
    }

    /// Up to `entries_max` entries behind `cookie` (0: from the start).
    ///
    /// # Errors
    /// `ESTALE`, `ENOTDIR`; `ENOENT` if the directory was removed.
    pub fn read_directory(
        &self,
        fid: Fid,
        cookie: u64,
        entries_max: usize,
    ) -> Result<DirectoryPage, Errno> {
        let (inode, directory) = self.directory(fid)?;
        if inode.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        let mut behind = directory.behind(cookie);
        let entries: Vec<DirectoryEntry> = behind
            .by_ref()
            .take(entries_max)
            .map(|(cookie, child)| DirectoryEntry {
                cookie,
                fid: child.fid,
                kind: child.kind,
                name: child.name.clone(),
                plus: None,
            })
            .collect();
        Ok(DirectoryPage { parent: directory.parent, entries, end: behind.next().is_none() })
    }

    /// Names in a directory.
    ///
    /// # Errors
    /// `ESTALE`, `ENOTDIR`.
    pub fn directory_entries(&self, fid: Fid) -> Result<usize, Errno> {
        self.directory(fid).map(|(_, directory)| directory.len())
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `ESTALE`; `EINVAL`: not a symbolic link.
    pub fn read_link(&self, fid: Fid) -> Result<&[u8], Errno> {
        let inode = self.inode(fid)?;
        if let Content::Symlink(target) = &inode.content { Ok(target) } else { Err(Errno::EINVAL) }
    }

    /// Value of an extended attribute.
    ///
    /// # Errors
    /// `ESTALE`; `ENODATA`: not set; `EOPNOTSUPP`: no such name space.
    pub fn xattr(&self, fid: Fid, name: &AttributeName) -> Result<&[u8], Errno> {
        let inode = self.inode(fid)?;
        namespace(name.as_bytes())?;
        inode.xattr(name.as_bytes()).ok_or(Errno::ENODATA)
    }

    /// Names of all extended attributes, each ended by NUL, in order.
    ///
    /// # Errors
    /// `ESTALE`.
    pub fn xattr_names(&self, fid: Fid) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(fid)?;
        let mut names = Vec::new();
        for name in inode.xattrs.iter().flat_map(|xattrs| xattrs.keys()) {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names)
    }

    /// Every file system, in order of root.
    #[must_use]
    pub fn filesystems(&self) -> Vec<FilesystemInfo> {
        let every = self.filesystems.iter();
        every.map(|(&number, filesystem)| self.describe(number, filesystem)).collect()
    }

    /// Root of the file system of this name (none that is being deleted).
    #[must_use]
    pub fn filesystem_root(&self, name: &[u8]) -> Option<Fid> {
        self.filesystem_number(name).map(Filesystem::root)
    }

    /// Number and name of every file system that is not being deleted, in order of number.
    pub fn filesystem_names(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let living = self.filesystems.iter().filter(|(_, filesystem)| filesystem.reaping.is_none());
        living.map(|(&number, filesystem)| (number, &*filesystem.name))
    }

    pub(crate) fn filesystem_number(&self, name: &[u8]) -> Option<u32> {
        let mut every = self.filesystems.iter();
        every
            .find(|(_, filesystem)| filesystem.reaping.is_none() && *filesystem.name == *name)
            .map(|(&number, _)| number)
    }

    /// The file system with this root.
    #[must_use]
    pub fn filesystem(&self, root: Fid) -> Option<FilesystemInfo> {
        let filesystem = self.filesystems.get(&root.oid).filter(|_| root.is_root())?;
        Some(self.describe(root.oid, filesystem))
    }

    fn describe(&self, number: u32, filesystem: &Filesystem) -> FilesystemInfo {
        let clients = self.sessions.values().filter(|session| session.filesystem == number);
        filesystem.info(number, u32::try_from(clients.count()).unwrap_or(u32::MAX))
    }

    /// Inodes of all file systems together; the bound is in [`State::limits`].
    #[must_use]
    pub fn inodes(&self) -> u64 {
        self.inodes.len() as u64
    }

    /// A session.
    #[must_use]
    pub fn session(&self, client: ClientId) -> Option<SessionInfo> {
        let session = self.sessions.get(&client)?;
        let mounted = session.filesystem != 0;
        Some(SessionInfo {
            client,
            uuid: session.uuid,
            epoch: session.epoch,
            root: if mounted { Filesystem::root(session.filesystem) } else { Fid::NONE },
            principal: session.principal,
            rights: session.rights.clone(),
            label: session.label.to_vec(),
            slots: u16::try_from(session.slots.len()).unwrap_or(u16::MAX),
        })
    }

    /// What a session may do; cheaper than [`State::session`].
    #[must_use]
    pub fn session_access(&self, client: ClientId) -> Option<SessionAccess> {
        let session = self.sessions.get(&client)?;
        let mounted = session.filesystem != 0;
        Some(SessionAccess {
            root: if mounted { Filesystem::root(session.filesystem) } else { Fid::NONE },
            principal: session.principal,
            read_only: session.rights.read_only,
            checked: session.rights.checked,
        })
    }

    /// Whether a principal may use every file system, those to come included.
    #[must_use]
    pub fn may_use_every_filesystem(&self, principal: SessionPrincipal) -> bool {
        match principal {
            SessionPrincipal::Owner => true,
            SessionPrincipal::User { .. } => false,
            SessionPrincipal::Identity { number } | SessionPrincipal::ExemptIdentity { number } => {
                let identity = self.identities.living(number);
                identity.is_some_and(|identity| identity.rights.every_filesystem)
            }
        }
    }

    /// Every session, in order.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.keys().filter_map(|&client| self.session(client)).collect()
    }

    /// How many reply slots all sessions have together.
    #[must_use]
    pub fn reply_slots(&self) -> usize {
        self.sessions.values().map(|session| session.slots.len()).sum()
    }

    /// The session a client with this uuid has.
    #[must_use]
    pub fn session_of(&self, uuid: &[u8; 16]) -> Option<ClientId> {
        self.uuids.get(uuid).copied()
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions_held(&self) -> usize {
        self.sessions.len()
    }

    /// The greatest number a session was given.
    #[must_use]
    pub const fn last_client(&self) -> ClientId {
        ClientId(self.last_client)
    }

    /// Whether a session is there; cheaper than [`State::session`].
    #[must_use]
    pub fn has_session(&self, client: ClientId) -> bool {
        self.sessions.contains_key(&client)
    }

    /// Inodes without a name that were kept because they may be open; up to `max`, those after
    /// `after` in order ([`Fid::NONE`]: from the start).
    #[must_use]
    pub fn orphans(&self, after: Fid, max: usize) -> Vec<Fid> {
        let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.orphans.range(behind).take(max).map(|(&fid, _)| fid).collect()
    }

    /// Registered OSTs and whether they take new objects, in order.
    #[must_use]
    pub fn osts(&self) -> Vec<(OstIndex, bool)> {
        self.objects.osts.iter().map(|(&index, ost)| (index, ost.accepts_objects)).collect()
    }

    /// Objects of an OST that are to be destroyed and come after `after`, in order
    /// ([`Fid::NONE`]: from the start).
    pub fn pending_destroys(&self, ost: OstIndex, after: Fid) -> impl Iterator<Item = Fid> + '_ {
        let behind = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let ost = self.objects.osts.get(&ost);
        ost.into_iter().flat_map(move |ost| ost.destroyed.range(behind).copied())
    }

    /// How many objects of an OST are to be destroyed.
    #[must_use]
    pub fn destroys_pending_of(&self, ost: OstIndex) -> usize {
        self.objects.osts.get(&ost).map_or(0, |ost| ost.destroyed.len())
    }

    /// Objects that are to be destroyed, of all OSTs.
    #[must_use]
    pub const fn destroys_pending(&self) -> usize {
        self.objects.destroys_pending
    }
}

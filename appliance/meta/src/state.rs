//! The replicated state: what it holds, and the few ways its parts are reached.
//!
//! Changed by [`State::apply`] alone (`apply/`), read by the queries in `state/queries.rs`, written
//! out and read back by `snapshot/`.
//! Invariants: an inode's `nlink` is the number of names that lead to it (a directory: 2 and its
//! subdirectories); every inode without links is an orphan; a file system counts its inodes.

use std::collections::BTreeMap;

use sheen_types::{
    ClientId, Epoch, Errno, Fid, FileKind, Layout, Name, OstIndex, Timespec, TransactionNumber,
};
use sheen_wire::Field;

use crate::{
    Effect, Limits, SnapshotSize,
    directory::{Child, Directory, Full},
    snapshot::size,
};

mod check;
pub(crate) mod filesystem;
pub(crate) mod identity;
pub(crate) mod inode;
pub(crate) mod objects;
mod queries;
pub(crate) mod session;

use filesystem::Filesystem;
use identity::{Identities, Secrets};
use inode::{Content, Inode};
use objects::Objects;
pub use queries::{DirectoryPage, SessionAccess, SessionInfo};
use session::Session;

/// The namespace.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    pub(crate) limits: Limits,
    pub(crate) server_epoch: Epoch,
    pub(crate) last_transaction: TransactionNumber,
    pub(crate) last_client: u64,
    pub(crate) last_filesystem: u32,
    /// 0: nobody was told anything, or by a version that did not note it.
    pub(crate) lease_milliseconds: u32,
    pub(crate) filesystems: BTreeMap<u32, Filesystem>,
    pub(crate) sessions: BTreeMap<ClientId, Session>,
    /// Follows from `sessions`.
    pub(crate) uuids: BTreeMap<[u8; 16], ClientId>,
    pub(crate) objects: Objects,
    /// Boxed: a tree that grows at its end keeps its nodes half empty, 115 bytes per inode more.
    pub(crate) inodes: BTreeMap<Fid, Box<Inode>>,
    /// Inodes without links, and whether Link may name them (`O_TMPFILE`).
    pub(crate) orphans: BTreeMap<Fid, bool>,
    pub(crate) identities: Identities,
    pub(crate) secrets: Secrets,
    /// Follows from everything else.
    pub(crate) size: SnapshotSize,
}

/// One entry being applied: its time and number, and what follows from it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) client: ClientId,
    pub(crate) now: Timespec,
    pub(crate) transaction: TransactionNumber,
    /// OSTs for new objects; empty: one after the other.
    pub(crate) placement: Vec<OstIndex>,
    /// New objects carry their file system.
    pub(crate) labelled: bool,
    pub(crate) effects: Vec<Effect>,
}

impl State {
    /// An empty state: no file system, no OST, no session.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            server_epoch: Epoch(0),
            last_transaction: TransactionNumber(0),
            last_client: 0,
            last_filesystem: 0,
            lease_milliseconds: 0,
            filesystems: BTreeMap::new(),
            sessions: BTreeMap::new(),
            uuids: BTreeMap::new(),
            objects: Objects::new(),
            inodes: BTreeMap::new(),
            orphans: BTreeMap::new(),
            identities: Identities::new(),
            secrets: Secrets::new(),
            size: SnapshotSize::EMPTY,
        }
    }

    pub(crate) fn inode(&self, fid: Fid) -> Result<&Inode, Errno> {
        self.inodes.get(&fid).map(AsRef::as_ref).ok_or(Errno::ESTALE)
    }

    pub(crate) fn inode_mut(&mut self, fid: Fid) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&fid).map(AsMut::as_mut).ok_or(Errno::ESTALE)
    }

    /// An inode that must be a directory, and its names.
    pub(crate) fn directory(&self, fid: Fid) -> Result<(&Inode, &Directory), Errno> {
        let inode = self.inode(fid)?;
        let directory = inode.directory().ok_or(Errno::ENOTDIR)?;
        Ok((inode, directory))
    }

    /// A file system that is being deleted takes in nothing new: `ESTALE`.
    pub(crate) fn check_living(&self, inode: &Inode) -> Result<(), Errno> {
        let filesystem = self.filesystems.get(&inode.filesystem);
        let living = filesystem.is_some_and(|filesystem| filesystem.reaping.is_none());
        if living { Ok(()) } else { Err(Errno::ESTALE) }
    }

    /// The names of a directory that was looked at in the same apply.
    ///
    /// # Panics
    /// If it is none: the check before was wrong.
    pub(crate) fn names_mut(&mut self, fid: Fid) -> &mut Directory {
        match self.inodes.get_mut(&fid).and_then(|inode| inode.directory_mut()) {
            Some(directory) => directory,
            None => panic!("{fid} was checked to be a directory"),
        }
    }

    /// Adds a name to a directory that was looked at in the same apply.
    pub(crate) fn add_child(
        &mut self,
        parent: Fid,
        name: Name,
        fid: Fid,
        kind: FileKind,
    ) -> Result<(), Full> {
        let bytes = size::child_bytes(name.as_bytes().len());
        self.names_mut(parent).insert(name, fid, kind)?;
        self.size.others += bytes;
        Ok(())
    }

    /// Takes a name out of a directory that was looked at in the same apply.
    pub(crate) fn take_child(&mut self, parent: Fid, name: &Name) {
        if let Some(child) = self.names_mut(parent).remove(name) {
            self.count_taken(&child);
        }
    }

    /// A name was taken out of its directory.
    pub(crate) fn count_taken(&mut self, child: &Child) {
        self.size.others -= size::child_bytes(child.name.as_bytes().len());
    }

    /// Keeps an inode that has no links.
    pub(crate) fn keep_orphan(&mut self, fid: Fid, linkable: bool) {
        if self.orphans.insert(fid, linkable).is_none() {
            self.size.others += size::ORPHAN_BYTES;
        }
    }

    /// An inode is no orphan any more.
    pub(crate) fn forget_orphan(&mut self, fid: Fid) {
        if self.orphans.remove(&fid).is_some() {
            self.size.others -= size::ORPHAN_BYTES;
        }
    }

    /// Changes an inode in a way that may change its extended attributes or its content.
    ///
    /// # Errors
    /// `ESTALE`, and what the change says.
    pub(crate) fn change_inode<T>(
        &mut self,
        fid: Fid,
        change: impl FnOnce(&mut Inode, &mut Objects) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let inode = self.inodes.get_mut(&fid).ok_or(Errno::ESTALE)?;
        let bytes = |inode: &Inode| size::inode_bytes(&inode.content) + inode.xattrs_bytes();
        let before = bytes(inode);
        let result = change(inode, &mut self.objects);
        self.size.others = self.size.others - before + bytes(inode);
        result
    }

    pub(crate) fn layout_of(inode: &Inode) -> Result<Layout, Errno> {
        let Content::File(bytes) = &inode.content else { return Err(Errno::EINVAL) };
        Layout::from_bytes(bytes).map_err(|_| Errno::EIO)
    }

    /// Adds an inode and counts it. Checked before: the id is free, the file system is there.
    pub(crate) fn add_inode(&mut self, fid: Fid, inode: Inode) {
        if let Some(filesystem) = self.filesystems.get_mut(&inode.filesystem) {
            filesystem.inodes += 1;
        }
        self.size.others += inode.snapshot_bytes();
        let before = self.inodes.insert(fid, Box::new(inode));
        assert!(before.is_none(), "{fid} given to a second inode");
    }

    /// Takes an inode away for good: its objects are listed for destruction.
    pub(crate) fn remove_inode(&mut self, fid: Fid, change: &mut Change) {
        self.forget_orphan(fid);
        let Some(inode) = self.inodes.remove(&fid) else { return };
        self.size.others -= inode.snapshot_bytes();
        if let Some(filesystem) = self.filesystems.get_mut(&inode.filesystem) {
            filesystem.inodes -= 1;
        }
        let layout = Self::layout_of(&inode).unwrap_or_default();
        for stripe in layout.components.iter().flat_map(|component| &component.objects) {
            self.destroy_object(stripe.ost, stripe.object, change);
        }
        change.effects.push(Effect::InodeRemoved { fid });
    }

    fn destroy_object(&mut self, ost: OstIndex, object: Fid, change: &mut Change) {
        if self.objects.list_destroy(ost, object) {
            self.size.others += size::DESTROYED_BYTES;
            change.effects.push(Effect::DestroyObject { ost, object });
        }
    }

    /// Takes one link of an inode away (of a directory: all). Without links it is removed or, if it
    /// may be open, kept as an orphan. Returns the links left.
    pub(crate) fn drop_link(&mut self, fid: Fid, open: bool, change: &mut Change) -> u32 {
        let Some(inode) = self.inodes.get_mut(&fid) else { return 0 };
        inode.nlink = if inode.is_directory() { 0 } else { inode.nlink.saturating_sub(1) };
        inode.touch_attributes(change.now, change.transaction);
        if let Some(directory) = inode.directory_mut() {
            directory.parent = Fid::NONE;
        }
        let nlink = inode.nlink;
        if nlink == 0 {
            if open {
                self.keep_orphan(fid, false);
                change.effects.push(Effect::Orphaned { fid });
            } else {
                self.remove_inode(fid, change);
            }
        }
        nlink
    }

    /// Changes a directory's link count by that of a subdirectory that came or went, and its times.
    pub(crate) fn touch_directory(&mut self, fid: Fid, subdirectories: i32, change: &Change) {
        if let Some(inode) = self.inodes.get_mut(&fid) {
            inode.nlink = inode.nlink.saturating_add_signed(subdirectories);
            inode.touch_content(change.now, change.transaction);
        }
    }
}

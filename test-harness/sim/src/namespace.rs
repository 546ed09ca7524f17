//! What the namespace should be: names, inodes and what a request does to them, as POSIX has it.
//!
//! Written for clarity, independent of the metadata core it judges. Requests are applied in the order of their
//! transaction numbers, reads between them.

use std::collections::{BTreeMap, BTreeSet};

use sheen_types::{AttributeName, Attributes, Errno, Fid, FileKind, Name};
use sheen_wire::metadata::{Create, Link, Rename, SetAttributes, SetXattr, Unlink, XattrName, set};

use crate::operation::Operation;

/// `FS_IMMUTABLE_FL`.
pub(crate) const IMMUTABLE: u32 = 0x10;

/// An inode.
#[derive(Clone, Debug)]
pub struct Node {
    /// Kind.
    pub kind: FileKind,
    /// Links.
    pub nlink: u32,
    /// Permission bits.
    pub permissions: u32,
    /// Extended attributes.
    pub xattrs: BTreeMap<AttributeName, Vec<u8>>,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Names of a directory.
    pub names: BTreeMap<Name, Fid>,
    /// The directory a directory is in.
    pub parent: Fid,
    /// Actors that have it open.
    pub openers: BTreeSet<usize>,
    /// No name leads here and nobody has it open: the server may keep it a little longer.
    pub is_fading: bool,
    /// Nobody may change it.
    pub is_immutable: bool,
}

/// What a request should be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Success, nothing to compare.
    Done,
    /// An inode, and whether it is new.
    Entry {
        /// Which.
        fid: Fid,
        /// Whether this made it.
        created: bool,
    },
    /// A name went.
    Unlinked {
        /// Where it led to.
        fid: Fid,
        /// Links left.
        nlink: u32,
    },
    /// A name moved.
    Renamed {
        /// The inode that moved.
        moved: Fid,
        /// What was replaced or exchanged.
        replaced: Fid,
    },
    /// These bytes.
    Bytes(Vec<u8>),
    /// These names and inodes.
    Names(BTreeMap<Name, Fid>),
}

/// All inodes of the file system.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    nodes: BTreeMap<Fid, Node>,
}

impl Node {
    fn new(kind: FileKind, nlink: u32, permissions: u32, parent: Fid) -> Self {
        Self {
            kind,
            nlink,
            permissions,
            xattrs: BTreeMap::new(),
            target: Vec::new(),
            names: BTreeMap::new(),
            parent,
            openers: BTreeSet::new(),
            is_fading: false,
            is_immutable: false,
        }
    }

    /// Whether the server's attributes say the same.
    #[must_use]
    pub fn agrees(&self, found: &Attributes) -> bool {
        (self.kind, self.nlink, self.permissions) == (found.kind, found.nlink, found.permissions)
    }
}

impl Namespace {
    /// A root and nothing in it.
    #[must_use]
    pub fn new(root: Fid) -> Self {
        let node = Node::new(FileKind::Directory, 2, 0o755, root);
        Self { nodes: BTreeMap::from([(root, node)]) }
    }

    /// An inode.
    #[must_use]
    pub fn node(&self, fid: Fid) -> Option<&Node> {
        self.nodes.get(&fid)
    }

    /// Every inode that must be there.
    pub fn nodes(&self) -> impl Iterator<Item = (Fid, &Node)> {
        self.nodes.iter().map(|(&fid, node)| (fid, node)).filter(|(_, node)| !node.is_fading)
    }

    /// Whether an inode may be gone, whatever else is known of it.
    #[must_use]
    pub fn may_be_gone(&self, fid: Fid) -> bool {
        self.nodes.get(&fid).is_none_or(|node| node.is_fading)
    }

    /// Whether an inode has no name and is kept only by actors whose session ends.
    #[must_use]
    pub fn goes_with(&self, fid: Fid, ending: &BTreeSet<usize>) -> bool {
        self.nodes.get(&fid).is_some_and(|node| node.nlink == 0 && node.openers.is_subset(ending))
    }

    /// An actor has nothing open any more.
    pub fn forget_opens(&mut self, actor: usize) {
        let fids: Vec<Fid> = self.nodes.keys().copied().collect();
        for fid in fids {
            self.close(actor, fid);
        }
    }

    /// An inode without a name that nobody may have open any more is gone.
    pub fn forget_unnamed(&mut self, fid: Fid) {
        if let Some(node) = self.nodes.get_mut(&fid).filter(|node| node.nlink == 0) {
            node.openers.clear();
            node.is_fading = true;
        }
    }

    fn get(&self, fid: Fid) -> Result<&Node, Errno> {
        self.nodes.get(&fid).ok_or(Errno::ESTALE)
    }

    fn get_mut(&mut self, fid: Fid) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&fid).ok_or(Errno::ESTALE)
    }

    fn directory(&self, fid: Fid) -> Result<&Node, Errno> {
        let node = self.get(fid)?;
        if node.kind == FileKind::Directory { Ok(node) } else { Err(Errno::ENOTDIR) }
    }

    /// A directory that has a name, so that names can be made and listed in it.
    fn living_directory(&self, fid: Fid) -> Result<&Node, Errno> {
        let node = self.directory(fid)?;
        if node.nlink == 0 { Err(Errno::ENOENT) } else { Ok(node) }
    }

    fn lookup(&self, parent: Fid, name: &Name) -> Result<Fid, Errno> {
        self.directory(parent)?.names.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// Carries a request of `actor` out and tells its answer.
    ///
    /// # Errors
    /// What the request fails with.
    pub fn apply(&mut self, actor: usize, operation: &Operation) -> Result<Expected, Errno> {
        match operation {
            Operation::Create(create, target) => self.create(actor, create, target),
            Operation::Link(link) => self.link(link),
            Operation::Unlink(unlink) => self.unlink(unlink),
            Operation::Rename(rename) => self.rename(rename),
            Operation::SetXattr(request, value) => self.set_xattr(request, value),
            Operation::RemoveXattr(request) => self.remove_xattr(request),
            Operation::SetAttributes(request) => self.set_attributes(request),
            Operation::Lookup(lookup) => {
                let name = lookup.name.as_ref().ok_or(Errno::EINVAL)?;
                let fid = self.lookup(lookup.parent, name)?;
                Ok(Expected::Entry { fid, created: false })
            }
            Operation::GetAttributes(fid) => self.get(*fid).map(|_| Expected::Done),
            Operation::GetXattr(request) => {
                let value = self.get(request.fid)?.xattrs.get(&request.name);
                value.cloned().map(Expected::Bytes).ok_or(Errno::ENODATA)
            }
            Operation::ListXattr(fid) => {
                let names = self.get(*fid)?.xattrs.keys();
                Ok(Expected::Bytes(names.flat_map(|n| [n.as_bytes(), b"\0"].concat()).collect()))
            }
            Operation::ReadLink(fid) => {
                let node = self.get(*fid)?;
                let link = node.kind == FileKind::Symlink;
                if link { Ok(Expected::Bytes(node.target.clone())) } else { Err(Errno::EINVAL) }
            }
            Operation::ReadDirectory(fid) => {
                Ok(Expected::Names(self.living_directory(*fid)?.names.clone()))
            }
            Operation::Open(open) => {
                self.get_mut(open.fid)?.openers.insert(actor);
                Ok(Expected::Done)
            }
            Operation::Close(fid) => {
                self.close(actor, *fid);
                Ok(Expected::Done)
            }
            Operation::SessionEnd => {
                self.forget_opens(actor);
                Ok(Expected::Done)
            }
            _ => Ok(Expected::Done),
        }
    }

    fn close(&mut self, actor: usize, fid: Fid) {
        let Some(node) = self.nodes.get_mut(&fid) else { return };
        node.openers.remove(&actor);
        node.is_fading = node.nlink == 0 && node.openers.is_empty();
    }

    fn create(&mut self, actor: usize, create: &Create, target: &[u8]) -> Result<Expected, Errno> {
        let found = self.living_directory(create.parent)?.names.get(&create.name).copied();
        if let Some(fid) = found.filter(|_| !create.unnamed) {
            let opens = !create.exclusive && create.kind == FileKind::Regular;
            return if opens {
                Ok(Expected::Entry { fid, created: false })
            } else {
                Err(Errno::EEXIST)
            };
        }
        let directory = create.kind == FileKind::Directory;
        let nlink = if create.unnamed { 0 } else { 1 + u32::from(directory) };
        let link = create.kind == FileKind::Symlink;
        let permissions = if link { 0o777 } else { create.permissions & !create.umask };
        let mut node = Node::new(create.kind, nlink, permissions, create.parent);
        node.target = target.to_vec();
        if create.open != 0 {
            node.openers.insert(actor);
        }
        self.nodes.insert(create.fid, node);
        if !create.unnamed {
            let parent = self.get_mut(create.parent)?;
            parent.names.insert(create.name.clone(), create.fid);
            parent.nlink += u32::from(directory);
        }
        Ok(Expected::Entry { fid: create.fid, created: true })
    }

    fn link(&mut self, link: &Link) -> Result<Expected, Errno> {
        let taken = self.living_directory(link.parent)?.names.contains_key(&link.name);
        let node = self.get(link.fid)?;
        if taken {
            return Err(Errno::EEXIST);
        }
        if node.kind == FileKind::Directory {
            return Err(Errno::EPERM);
        }
        if node.is_fading {
            return Err(Errno::ENOENT);
        }
        self.get_mut(link.fid)?.nlink += 1;
        self.get_mut(link.parent)?.names.insert(link.name.clone(), link.fid);
        Ok(Expected::Entry { fid: link.fid, created: false })
    }

    fn unlink(&mut self, unlink: &Unlink) -> Result<Expected, Errno> {
        let fid = self.lookup(unlink.parent, &unlink.name)?;
        let node = self.get(fid)?;
        match (unlink.directory, node.kind == FileKind::Directory) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            _ if !node.names.is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let parent = self.get_mut(unlink.parent)?;
        parent.names.remove(&unlink.name);
        parent.nlink -= u32::from(unlink.directory);
        Ok(Expected::Unlinked { fid, nlink: self.drop_link(fid) })
    }

    fn drop_link(&mut self, fid: Fid) -> u32 {
        let Some(node) = self.nodes.get_mut(&fid) else { return 0 };
        node.nlink = if node.kind == FileKind::Directory { 0 } else { node.nlink - 1 };
        let nlink = node.nlink;
        node.is_fading = nlink == 0 && node.openers.is_empty();
        nlink
    }

    /// Whether `above` is `directory` or holds it.
    fn holds(&self, above: Fid, mut directory: Fid) -> bool {
        while above != directory {
            match self.nodes.get(&directory) {
                Some(node) if node.parent != directory => directory = node.parent,
                _ => return false,
            }
        }
        true
    }

    fn rename(&mut self, rename: &Rename) -> Result<Expected, Errno> {
        let exchange = rename.flags & 2 != 0;
        self.living_directory(rename.from_parent)?;
        self.living_directory(rename.to_parent)?;
        let source = self.lookup(rename.from_parent, &rename.from_name)?;
        let target = self.lookup(rename.to_parent, &rename.to_name).ok();
        if target.is_some() && rename.flags & 1 != 0 {
            return Err(Errno::EEXIST);
        }
        if target.is_none() && exchange {
            return Err(Errno::ENOENT);
        }
        let is_directory =
            |fid: Fid| self.nodes.get(&fid).is_some_and(|n| n.kind == FileKind::Directory);
        let (moves, meets) = (is_directory(source), target.is_some_and(is_directory));
        if rename.from_parent != rename.to_parent {
            if moves && self.holds(source, rename.to_parent) {
                return Err(Errno::EINVAL);
            }
            if meets && target.is_some_and(|target| self.holds(target, rename.from_parent)) {
                return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
        }
        if target == Some(source) {
            return Ok(Expected::Renamed { moved: source, replaced: Fid::NONE });
        }
        if let Some(target) = target.filter(|_| !exchange) {
            match (moves, meets) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                _ if !self.get(target)?.names.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => {}
            }
        }
        self.place(rename.from_parent, &rename.from_name, target.filter(|_| exchange));
        self.place(rename.to_parent, &rename.to_name, Some(source));
        if let Some(target) = target.filter(|_| !exchange) {
            self.drop_link(target);
        }
        Ok(Expected::Renamed { moved: source, replaced: target.unwrap_or(Fid::NONE) })
    }

    /// Makes a name lead to `child`, or nowhere.
    fn place(&mut self, parent: Fid, name: &Name, child: Option<Fid>) {
        let is_directory = |nodes: &BTreeMap<Fid, Node>, fid: Option<Fid>| {
            let node = fid.and_then(|fid| nodes.get(&fid));
            u32::from(node.is_some_and(|node| node.kind == FileKind::Directory))
        };
        let before = self.nodes.get(&parent).and_then(|node| node.names.get(name).copied());
        let comes = is_directory(&self.nodes, child);
        let goes = is_directory(&self.nodes, before);
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.nlink = node.nlink + comes - goes;
            match child {
                Some(child) => node.names.insert(name.clone(), child),
                None => node.names.remove(name),
            };
        }
        if let Some(node) = child.and_then(|child| self.nodes.get_mut(&child)) {
            node.parent = parent;
        }
    }

    fn set_xattr(&mut self, request: &SetXattr, value: &[u8]) -> Result<Expected, Errno> {
        let node = self.get_mut(request.fid)?;
        if !matches!(node.kind, FileKind::Regular | FileKind::Directory) {
            return Err(Errno::EPERM);
        }
        let present = node.xattrs.contains_key(&request.name);
        match request.flags {
            1 if present => return Err(Errno::EEXIST),
            2 if !present => return Err(Errno::ENODATA),
            _ => {}
        }
        node.xattrs.insert(request.name.clone(), value.to_vec());
        Ok(Expected::Done)
    }

    fn remove_xattr(&mut self, request: &XattrName) -> Result<Expected, Errno> {
        let node = self.get_mut(request.fid)?;
        if !matches!(node.kind, FileKind::Regular | FileKind::Directory) {
            return Err(Errno::EPERM);
        }
        node.xattrs.remove(&request.name).map(|_| Expected::Done).ok_or(Errno::ENODATA)
    }

    fn set_attributes(&mut self, request: &SetAttributes) -> Result<Expected, Errno> {
        let node = self.get_mut(request.fid)?;
        if request.valid & set::SIZE != 0 && node.is_immutable {
            return Err(Errno::EPERM);
        }
        if request.valid & set::FLAGS != 0 {
            node.is_immutable = request.flags & IMMUTABLE != 0;
        }
        if request.valid & set::MODE != 0 {
            if node.kind == FileKind::Symlink {
                return Err(Errno::EOPNOTSUPP);
            }
            node.permissions = request.permissions;
        }
        Ok(Expected::Done)
    }
}

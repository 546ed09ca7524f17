//! A file system in memory, for tests of the edge to the kernel: simple, coherent, and changeable behind the kernel's
//! back.

mod locks;
mod gate;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sheen_dma::Buffer;
use sheen_fuse::kernel::{
    Context, CreateNode, DirectorySink, Entry, FileAttributes, FileHandle, FileLock, Filesystem,
    Forget, LockOwner, LockRequest, Negotiated, NodeId, OpenNode, Opened, OpenedAs, ReadAnswer,
    ReadRequest, ReleaseNode, Rename, SetAttributes, SetTime, SetXattr, StatFs, TimedAttributes,
    WriteRequest, Written,
};
use sheen_types::{Errno, FileKind, Timespec};

pub(crate) use gate::Gate;
pub(crate) use locks::Locks;

#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) mtime: Timespec,
    pub(crate) content: Vec<u8>,
    pub(crate) names: BTreeMap<Vec<u8>, u64>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) parent: u64,
    pub(crate) lookups: u64,
}

#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<u64, Node>,
    next: u64,
    /// How long attributes are valid.
    pub(crate) valid: Duration,
}

/// Called with a node.
pub(crate) type NodeHook = Arc<dyn Fn(NodeId) + Send + Sync>;

/// The file system. Attributes and names are valid for ever, unless a test says otherwise: only notifications make the kernel
/// ask again.
pub(crate) struct Memory {
    /// Called when what a lookup kept is dropped.
    pub(crate) on_answered: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    pub(crate) tree: Mutex<Tree>,
    pub(crate) locks: Locks,
    /// READs and new directories pass through it.
    pub(crate) gate: Gate,
    /// Lookups pass through it.
    pub(crate) door: Gate,
    pub(crate) negotiated: Mutex<Option<Negotiated>>,
    pub(crate) ended: AtomicUsize,
    pub(crate) lookups: AtomicUsize,
    /// Called before attributes that were asked for are answered.
    pub(crate) on_getattr: Mutex<Option<NodeHook>>,
    pub(crate) getattrs: AtomicUsize,
    pub(crate) reads: AtomicUsize,
    pub(crate) reads_now: AtomicUsize,
    pub(crate) reads_most: AtomicUsize,
    pub(crate) largest_write: AtomicUsize,
    pub(crate) largest_read: AtomicUsize,
    /// How long a READ takes.
    pub(crate) read_delay: Duration,
    pub(crate) opened_as: OpenedAs,
}

const FOR_EVER: Duration = Duration::MAX;

/// Offsets stay within what memory holds.
fn within(offset: u64) -> Result<usize, Errno> {
    usize::try_from(offset).ok().filter(|&offset| offset <= 1 << 30).ok_or(Errno::EFBIG)
}

/// Calls when dropped.
struct Kept(Arc<dyn Fn() + Send + Sync>);

impl Drop for Kept {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Memory {
    pub(crate) fn new() -> Self {
        let root = Node { mode: 0o040_755, nlink: 2, parent: 1, lookups: 1, ..Node::default() };
        Self {
            on_answered: Mutex::default(),
            tree: Mutex::new(Tree { nodes: BTreeMap::from([(1, root)]), next: 2, valid: FOR_EVER }),
            locks: Locks::default(),
            gate: Gate::default(),
            door: Gate::default(),
            negotiated: Mutex::default(),
            ended: AtomicUsize::new(0),
            lookups: AtomicUsize::new(0),
            on_getattr: Mutex::default(),
            getattrs: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            reads_now: AtomicUsize::new(0),
            reads_most: AtomicUsize::new(0),
            largest_write: AtomicUsize::new(0),
            largest_read: AtomicUsize::new(0),
            read_delay: Duration::ZERO,
            opened_as: OpenedAs { keep_cache: true, ..OpenedAs::default() },
        }
    }

    pub(crate) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap()
    }

    fn opened(&self, node: NodeId) -> Opened {
        Opened { handle: FileHandle(node.0), opened_as: self.opened_as }
    }
}

impl Tree {
    pub(crate) fn node(&mut self, node: NodeId) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&node.0).ok_or(Errno::ESTALE)
    }

    pub(crate) fn find(&mut self, parent: NodeId, name: &[u8]) -> Result<u64, Errno> {
        let directory = self.node(parent)?;
        match name {
            b"." => Ok(parent.0),
            b".." => Ok(directory.parent),
            _ => directory.names.get(name).copied().ok_or(Errno::ENOENT),
        }
    }

    fn attributes(&mut self, node: u64) -> Result<TimedAttributes, Errno> {
        let of = self.node(NodeId(node))?;
        let size = of.content.len() as u64;
        let attributes = FileAttributes {
            ino: node,
            size,
            blocks: size.div_ceil(512),
            atime: of.mtime,
            mtime: of.mtime,
            ctime: of.mtime,
            btime: Timespec { seconds: 1234, nanoseconds: 5 },
            mode: of.mode,
            nlink: of.nlink,
            uid: of.uid,
            gid: of.gid,
            rdev: 0,
            blksize: 1 << 20,
        };
        Ok(TimedAttributes { attributes, valid: self.valid })
    }

    fn entry(&mut self, node: u64) -> Result<Entry, Errno> {
        let attributes = self.attributes(node)?;
        self.node(NodeId(node))?.lookups += 1;
        Ok(Entry { node: NodeId(node), generation: 0, name_valid: FOR_EVER, attributes })
    }

    fn make(
        &mut self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        mode: u32,
        content: &[u8],
    ) -> Result<Entry, Errno> {
        if name.len() > 255 {
            return Err(Errno::ENAMETOOLONG);
        }
        if self.node(parent)?.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let number = self.next;
        self.next += 1;
        let directory = mode & libc::S_IFMT == libc::S_IFDIR;
        let node = Node {
            mode,
            uid: context.uid,
            gid: context.gid,
            nlink: if directory { 2 } else { 1 },
            content: content.to_vec(),
            parent: parent.0,
            ..Node::default()
        };
        self.nodes.insert(number, node);
        self.node(parent)?.names.insert(name.to_vec(), number);
        self.entry(number)
    }

    fn remove(&mut self, parent: NodeId, name: &[u8]) -> Result<(), Errno> {
        let number = self.find(parent, name)?;
        if !self.node(NodeId(number))?.names.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.node(parent)?.names.remove(name);
        let node = self.node(NodeId(number))?;
        node.nlink = node.nlink.saturating_sub(1);
        Ok(())
    }
}

impl Filesystem for Memory {
    fn start(&self, negotiated: &Negotiated) -> Result<(), Errno> {
        *self.negotiated.lock().unwrap() = Some(*negotiated);
        Ok(())
    }

    fn end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    fn lookup(&self, context: &Context, parent: NodeId, name: &[u8]) -> Result<Entry, Errno> {
        if let Some(call) = self.on_answered.lock().unwrap().clone() {
            context.keep_until_answered(Kept(call));
        }
        self.lookups.fetch_add(1, Ordering::SeqCst);
        assert_ne!(name, b"panic", "asked for");
        self.door.pass(&context.cancel)?;
        let mut tree = self.tree();
        let number = tree.find(parent, name)?;
        tree.entry(number)
    }

    fn forget(&self, forgets: &[Forget]) {
        let mut tree = self.tree();
        for forget in forgets {
            let node = tree.node(forget.node).unwrap();
            node.lookups = node.lookups.checked_sub(forget.lookups).expect("counted right");
            if node.lookups == 0 && node.nlink == 0 {
                tree.nodes.remove(&forget.node.0);
            }
        }
    }

    fn getattr(
        &self,
        _: &Context,
        node: NodeId,
        _: Option<FileHandle>,
    ) -> Result<TimedAttributes, Errno> {
        self.getattrs.fetch_add(1, Ordering::SeqCst);
        let hook = self.on_getattr.lock().unwrap().clone();
        if let Some(hook) = hook {
            hook(node);
        }
        self.tree().attributes(node.0)
    }

    fn setattr(
        &self,
        _: &Context,
        node: NodeId,
        set: &SetAttributes,
    ) -> Result<TimedAttributes, Errno> {
        let mut tree = self.tree();
        let of = tree.node(node)?;
        if let Some(size) = set.size {
            of.content.resize(within(size)?, 0);
        }
        of.mode = set.mode.unwrap_or(of.mode);
        of.uid = set.uid.unwrap_or(of.uid);
        of.gid = set.gid.unwrap_or(of.gid);
        if let Some(SetTime::At(time)) = set.mtime {
            of.mtime = time;
        }
        tree.attributes(node.0)
    }

    fn readlink(&self, _: &Context, node: NodeId) -> Result<Vec<u8>, Errno> {
        Ok(self.tree().node(node)?.content.clone())
    }

    fn symlink(&self, c: &Context, parent: NodeId, name: &[u8], to: &[u8]) -> Result<Entry, Errno> {
        self.tree().make(c, parent, name, 0o120_777, to)
    }

    fn mknod(
        &self,
        c: &Context,
        dir: NodeId,
        name: &[u8],
        new: &CreateNode,
    ) -> Result<Entry, Errno> {
        self.tree().make(c, dir, name, new.mode & !new.umask, b"")
    }

    fn mkdir(
        &self,
        c: &Context,
        dir: NodeId,
        name: &[u8],
        new: &CreateNode,
    ) -> Result<Entry, Errno> {
        self.gate.pass(&c.cancel)?;
        self.tree().make(c, dir, name, 0o040_000 | new.mode & !new.umask, b"")
    }

    fn unlink(&self, _: &Context, parent: NodeId, name: &[u8]) -> Result<(), Errno> {
        self.tree().remove(parent, name)
    }

    fn rmdir(&self, _: &Context, parent: NodeId, name: &[u8]) -> Result<(), Errno> {
        self.tree().remove(parent, name)
    }

    fn rename(&self, _: &Context, rename: &Rename<'_>) -> Result<(), Errno> {
        let mut tree = self.tree();
        let moved = tree.find(rename.parent, rename.name)?;
        if tree.find(rename.new_parent, rename.new_name).is_ok() {
            if rename.flags & libc::RENAME_NOREPLACE != 0 {
                return Err(Errno::EEXIST);
            }
            tree.remove(rename.new_parent, rename.new_name)?;
        }
        tree.node(rename.parent)?.names.remove(rename.name);
        tree.node(rename.new_parent)?.names.insert(rename.new_name.to_vec(), moved);
        Ok(())
    }

    fn link(&self, _: &Context, node: NodeId, dir: NodeId, name: &[u8]) -> Result<Entry, Errno> {
        let mut tree = self.tree();
        tree.node(node)?.nlink += 1;
        tree.node(dir)?.names.insert(name.to_vec(), node.0);
        tree.entry(node.0)
    }

    fn open(&self, _: &Context, node: NodeId, open: &OpenNode) -> Result<Opened, Errno> {
        if open.flags & libc::O_TRUNC != 0 {
            self.tree().node(node)?.content.clear();
        }
        Ok(self.opened(node))
    }

    fn create(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        new: &CreateNode,
        _: &OpenNode,
    ) -> Result<(Entry, Opened), Errno> {
        let entry = self.tree().make(context, parent, name, new.mode & !new.umask, b"")?;
        Ok((entry, self.opened(entry.node)))
    }

    fn tmpfile(
        &self,
        context: &Context,
        parent: NodeId,
        new: &CreateNode,
        _: &OpenNode,
    ) -> Result<(Entry, Opened), Errno> {
        let mut tree = self.tree();
        let entry = tree.make(context, parent, b"\x01tmp", new.mode & !new.umask, b"")?;
        tree.remove(parent, b"\x01tmp")?;
        Ok((entry, self.opened(entry.node)))
    }

    fn read(
        &self,
        context: &Context,
        read: &ReadRequest,
        mut room: Buffer,
    ) -> Result<ReadAnswer, Errno> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let now = self.reads_now.fetch_add(1, Ordering::SeqCst) + 1;
        self.reads_most.fetch_max(now, Ordering::SeqCst);
        self.largest_read.fetch_max(read.size as usize, Ordering::SeqCst);
        let passed = self.gate.pass(&context.cancel);
        if passed.is_err() {
            self.reads_now.fetch_sub(1, Ordering::SeqCst);
        }
        passed?;
        if !self.read_delay.is_zero() {
            std::thread::sleep(self.read_delay);
        }
        let mut tree = self.tree();
        let content = &tree.node(read.node)?.content;
        let start = within(read.offset)?.min(content.len());
        let end = (start + read.size as usize).min(content.len());
        let bytes = end - start;
        room.as_mut_slice()[..bytes].copy_from_slice(&content[start..end]);
        self.reads_now.fetch_sub(1, Ordering::SeqCst);
        Ok(ReadAnswer::Buffer { buffer: room, bytes })
    }

    fn write(&self, _: &Context, write: &WriteRequest, payload: Buffer) -> Result<Written, Errno> {
        assert_eq!(payload.as_ptr().addr() % 4096, 0, "payload is aligned");
        let size = write.size as usize;
        self.largest_write.fetch_max(size, Ordering::SeqCst);
        let mut tree = self.tree();
        let content = &mut tree.node(write.node)?.content;
        let start = within(write.offset)?;
        if content.len() < start + size {
            content.resize(start + size, 0);
        }
        content[start..start + size].copy_from_slice(&payload.as_slice()[..size]);
        Ok(Written { bytes: write.size, buffer: Some(payload) })
    }

    fn flush(
        &self,
        _: &Context,
        node: NodeId,
        _: FileHandle,
        owner: LockOwner,
    ) -> Result<(), Errno> {
        self.locks.drop_posix(node, owner);
        Ok(())
    }

    fn release(&self, _: &Context, node: NodeId, release: &ReleaseNode) -> Result<(), Errno> {
        if let Some(owner) = release.flock_unlock {
            self.locks.drop_flock(node, owner);
        }
        Ok(())
    }

    fn opendir(&self, _: &Context, node: NodeId, _: &OpenNode) -> Result<Opened, Errno> {
        Ok(self.opened(node))
    }

    fn readdir(
        &self,
        _: &Context,
        node: NodeId,
        _: FileHandle,
        offset: u64,
        sink: &mut DirectorySink,
    ) -> Result<(), Errno> {
        let mut tree = self.tree();
        let names: Vec<(Vec<u8>, u64)> =
            tree.node(node)?.names.iter().map(|(name, &node)| (name.clone(), node)).collect();
        for (index, (name, number)) in (1..).zip(names).skip(within(offset)?) {
            if !sink.has_room(name.len()) {
                break;
            }
            let kind = FileKind::from_mode(tree.node(NodeId(number))?.mode).unwrap();
            let entry = if sink.wants_entries() { Some(tree.entry(number)?) } else { None };
            sink.push(&name, number, kind, index, entry.as_ref()).unwrap();
        }
        Ok(())
    }

    fn statfs(&self, _: &Context, _: NodeId) -> Result<StatFs, Errno> {
        Ok(StatFs {
            blocks: 1 << 30,
            blocks_free: 1 << 29,
            blocks_available: 1 << 28,
            files: 1000,
            files_free: 999,
            block_bytes: 1 << 20,
            fragment_bytes: 4096,
            name_bytes_max: 255,
        })
    }

    fn setxattr(&self, _: &Context, node: NodeId, set: &SetXattr<'_>) -> Result<(), Errno> {
        let mut tree = self.tree();
        tree.node(node)?.xattrs.insert(set.name.to_vec(), set.value.to_vec());
        Ok(())
    }

    fn getxattr(&self, _: &Context, node: NodeId, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.tree().node(node)?.xattrs.get(name).cloned().ok_or(Errno::ENODATA)
    }

    fn listxattr(&self, _: &Context, node: NodeId) -> Result<Vec<u8>, Errno> {
        let mut tree = self.tree();
        Ok(tree.node(node)?.xattrs.keys().flat_map(|name| [name, &b"\0"[..]].concat()).collect())
    }

    fn getlk(&self, _: &Context, request: &LockRequest) -> Result<Option<FileLock>, Errno> {
        Ok(self.locks.conflict(request))
    }

    fn setlk(&self, context: &Context, request: &LockRequest) -> Result<(), Errno> {
        self.locks.set(context, request)
    }

    fn fsync(
        &self,
        _: &Context,
        _: NodeId,
        _: FileHandle,
        _: sheen_fuse::kernel::SyncScope,
    ) -> Result<(), Errno> {
        Ok(())
    }
}

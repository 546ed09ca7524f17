//! The kernel's requests, each handed to where it is answered.

use sheen_client::FileUse;
use sheen_dma::Buffer;
use sheen_types::{Errno, FileKind};

use crate::{
    kernel::{
        Context, CopyRange, CreateNode, DirectorySink, Entry, FileHandle, FileLock, Filesystem,
        Forget, Ioctl, IoctlAnswer, LockOwner, LockRequest, Negotiated, NodeId, OpenNode, Opened,
        ReadAnswer, ReadRequest, ReleaseNode, Rename, SetAttributes, SetXattr, StatFs, SyncScope,
        TimedAttributes, Touches, WriteRequest, Written,
    },
    mount::Mount,
};

/// Extended attribute of anything mounted that tells the client's counters. No server has names that begin so, and no
/// listing tells of it.
const STATISTICS_XATTR: &[u8] = b"sheen.statistics";

/// Minor version of kernels (Linux 6.1) that take set-group-ID from what is made for a group its maker is not in.
const STRIPS_GROUP: u32 = 37;

impl Filesystem for Mount {
    fn start(&self, negotiated: &Negotiated) -> Result<(), Errno> {
        tracing::info!(?negotiated, "agreed with the kernel");
        self.names.agree(negotiated.epochs);
        self.strips_group.get_or_init(|| negotiated.minor >= STRIPS_GROUP);
        Ok(())
    }

    fn waits_for(&self, node: NodeId, touches: Touches) -> u32 {
        let mut other = None;
        let file_use = match touches {
            Touches::Names => return 0,
            Touches::Opening if !self.nodes.doubts_size(node) => return 0,
            Touches::Attributes | Touches::Opening => FileUse::Attributes,
            Touches::Objects => FileUse::Objects,
            Touches::ObjectsOfBoth(node) => {
                other = Some(node);
                FileUse::Objects
            }
            Touches::Content { offset, bytes } => {
                FileUse::Bytes(offset..offset.saturating_add(u64::from(bytes)))
            }
        };
        let nodes = [Some(node), other].into_iter().flatten();
        let fids: Vec<_> = nodes.filter_map(|node| self.fid(node).ok()).collect();
        let ost = self.client.waits_for(&fids, &file_use);
        ost.map_or(0, |ost| ost.0.saturating_add(1))
    }

    fn lookup(&self, context: &Context, parent: NodeId, name: &[u8]) -> Result<Entry, Errno> {
        self.noting_looks(context, self.look_up(context, parent, name))
    }

    fn forget(&self, forgets: &[Forget]) {
        for forget in forgets {
            if let Some(inode) = self.nodes.forget(forget.node, forget.lookups) {
                let fid = inode.fid;
                drop(inode);
                self.client.forget(fid);
            }
        }
    }

    fn getattr(
        &self,
        context: &Context,
        node: NodeId,
        _: Option<FileHandle>,
    ) -> Result<TimedAttributes, Errno> {
        self.noting_looks(context, self.attributes_of(context, node))
    }

    fn setattr(
        &self,
        context: &Context,
        node: NodeId,
        set: &SetAttributes,
    ) -> Result<TimedAttributes, Errno> {
        self.change_attributes(context, node, set)
    }

    fn readlink(&self, context: &Context, node: NodeId) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(node)?;
        let target = self.client.read_link(&inode, &context.cancel)?;
        self.client.note_access(&inode);
        Ok(target)
    }

    fn symlink(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry, Errno> {
        let new = CreateNode { mode: 0o777, umask: 0, rdev: 0 };
        self.make(context, parent, name, FileKind::Symlink, &new, target)
    }

    fn mknod(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        new: &CreateNode,
    ) -> Result<Entry, Errno> {
        let kind = FileKind::from_mode(new.mode).ok_or(Errno::EINVAL)?;
        self.make(context, parent, name, kind, new, &[])
    }

    fn mkdir(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        new: &CreateNode,
    ) -> Result<Entry, Errno> {
        self.make(context, parent, name, FileKind::Directory, new, &[])
    }

    fn unlink(&self, context: &Context, parent: NodeId, name: &[u8]) -> Result<(), Errno> {
        self.remove(context, parent, name, false)
    }

    fn rmdir(&self, context: &Context, parent: NodeId, name: &[u8]) -> Result<(), Errno> {
        self.remove(context, parent, name, true)
    }

    fn rename(&self, context: &Context, rename: &Rename<'_>) -> Result<(), Errno> {
        self.move_name(context, rename)
    }

    fn link(
        &self,
        context: &Context,
        node: NodeId,
        new_parent: NodeId,
        new_name: &[u8],
    ) -> Result<Entry, Errno> {
        self.add_name(context, node, new_parent, new_name)
    }

    fn open(&self, context: &Context, node: NodeId, open: &OpenNode) -> Result<Opened, Errno> {
        self.noting_looks(context, self.open_file(context, node, open))
    }

    fn create(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        new: &CreateNode,
        open: &OpenNode,
    ) -> Result<(Entry, Opened), Errno> {
        self.make_and_open(context, parent, Some(name), new, open)
    }

    fn tmpfile(
        &self,
        context: &Context,
        parent: NodeId,
        new: &CreateNode,
        open: &OpenNode,
    ) -> Result<(Entry, Opened), Errno> {
        self.make_and_open(context, parent, None, new, open)
    }

    fn read(
        &self,
        context: &Context,
        request: &ReadRequest,
        room: Buffer,
    ) -> Result<ReadAnswer, Errno> {
        self.read_file(context, request, room)
    }

    fn write(
        &self,
        context: &Context,
        request: &WriteRequest,
        payload: Buffer,
    ) -> Result<Written, Errno> {
        self.write_file(context, request, payload)
    }

    fn flush(
        &self,
        context: &Context,
        _: NodeId,
        handle: FileHandle,
        owner: LockOwner,
    ) -> Result<(), Errno> {
        self.closed_once(context, handle, owner)
    }

    fn release_read(&self, handle: FileHandle) {
        self.begins_to_close(handle);
    }

    fn release(&self, context: &Context, _: NodeId, release: &ReleaseNode) -> Result<(), Errno> {
        self.close_file(context, release);
        Ok(())
    }

    fn fsync(
        &self,
        context: &Context,
        _: NodeId,
        handle: FileHandle,
        _: SyncScope,
    ) -> Result<(), Errno> {
        self.sync_file(context, handle)
    }

    fn opendir(&self, _: &Context, node: NodeId, open: &OpenNode) -> Result<Opened, Errno> {
        self.open_directory(node, open)
    }

    fn readdir(
        &self,
        context: &Context,
        _: NodeId,
        handle: FileHandle,
        offset: u64,
        sink: &mut DirectorySink,
    ) -> Result<(), Errno> {
        self.list(context, handle, offset, sink)
    }

    fn releasedir(&self, context: &Context, _: NodeId, release: &ReleaseNode) -> Result<(), Errno> {
        self.close_file(context, release);
        Ok(())
    }

    /// Changes of directories are durable before they are answered.
    fn fsyncdir(
        &self,
        _: &Context,
        _: NodeId,
        handle: FileHandle,
        _: SyncScope,
    ) -> Result<(), Errno> {
        self.check_handle(handle)
    }

    fn syncfs(&self, context: &Context, _: NodeId) -> Result<(), Errno> {
        self.client.sync_all(&context.cancel)
    }

    fn statfs(&self, context: &Context, _: NodeId) -> Result<StatFs, Errno> {
        self.volume(context)
    }

    fn setxattr(&self, context: &Context, node: NodeId, set: &SetXattr<'_>) -> Result<(), Errno> {
        let flags = set.flags.cast_unsigned();
        let inode = self.inode(node)?;
        let done = self.client.set_xattr(
            &inode,
            set.name,
            set.value,
            flags,
            set.acl_kill_sgid,
            &context.cancel,
        );
        self.end_change(context, &inode);
        done
    }

    fn getxattr(&self, context: &Context, node: NodeId, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if name == STATISTICS_XATTR {
            return Ok(self.client.statistics().to_metrics().into_bytes());
        }
        self.client.get_xattr(&*self.inode(node)?, name, &context.cancel)
    }

    fn listxattr(&self, context: &Context, node: NodeId) -> Result<Vec<u8>, Errno> {
        self.client.list_xattr(&*self.inode(node)?, &context.cancel)
    }

    fn removexattr(&self, context: &Context, node: NodeId, name: &[u8]) -> Result<(), Errno> {
        let inode = self.inode(node)?;
        let done = self.client.remove_xattr(&inode, name, &context.cancel);
        self.end_change(context, &inode);
        done
    }

    fn getlk(&self, context: &Context, request: &LockRequest) -> Result<Option<FileLock>, Errno> {
        self.test_lock(context, request)
    }

    fn setlk(&self, context: &Context, request: &LockRequest) -> Result<(), Errno> {
        self.set_lock(context, request)
    }

    fn fallocate(
        &self,
        context: &Context,
        node: NodeId,
        _: FileHandle,
        range: std::ops::Range<u64>,
        mode: i32,
    ) -> Result<(), Errno> {
        self.allocate(context, node, range, mode)
    }

    fn lseek(
        &self,
        context: &Context,
        node: NodeId,
        _: FileHandle,
        offset: u64,
        whence: i32,
    ) -> Result<u64, Errno> {
        self.seek(context, node, offset, whence)
    }

    fn copy_file_range(&self, context: &Context, copy: &CopyRange) -> Result<u64, Errno> {
        self.copy_range(context, copy)
    }

    fn ioctl(&self, context: &Context, ioctl: &Ioctl<'_>) -> Result<IoctlAnswer, Errno> {
        self.control(context, ioctl)
    }
}

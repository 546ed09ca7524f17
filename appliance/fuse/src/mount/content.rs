//! Reading, writing and their kin.

use std::ops::Range;

use sheen_client::{Access, WriteOptions};
use sheen_dma::Buffer;
use sheen_types::Errno;
use sheen_wire::object::SeekTarget;

use crate::{
    kernel::{
        Context, CopyRange, FileHandle, NodeId, ReadAnswer, ReadRequest, WriteRequest, Written,
    },
    mount::Mount,
};

impl Mount {
    pub(crate) fn read_file(
        &self,
        context: &Context,
        request: &ReadRequest,
        mut room: Buffer,
    ) -> Result<ReadAnswer, Errno> {
        let inode = self.inode(request.node)?;
        let size = usize::try_from(request.size).map_err(|_| Errno::EINVAL)?.min(room.len());
        let rest = room.split_off(size);
        // The kernel says whose read it is when it is a process's own, past the page cache.
        let access = if request.lock_owner.is_some() { Access::Direct } else { Access::Cached };
        let outcome = self.client.read(&inode, request.offset, room, access, &context.cancel)?;
        if request.flags & libc::O_NOATIME == 0 {
            self.client.note_access(&inode);
        }
        if let Some(end) = outcome.end {
            context.keep_until_answered(end);
            self.nodes.read_short(request.node, request.offset + outcome.bytes as u64);
        }
        let Some(mut buffer) = outcome.buffer else { return Ok(ReadAnswer::Empty) };
        // In one piece again, the worker can use it for its next request.
        drop(buffer.join(rest));
        Ok(ReadAnswer::Buffer { buffer, bytes: outcome.bytes })
    }

    pub(crate) fn write_file(
        &self,
        context: &Context,
        request: &WriteRequest,
        mut payload: Buffer,
    ) -> Result<Written, Errno> {
        let inode = self.inode(request.node)?;
        if request.kill_privileges {
            self.drop_privileges(context, &inode)?;
        }
        let access = match (request.from_cache, request.lock_owner) {
            (true, _) => Access::Writeback,
            (false, Some(_)) => Access::Direct,
            (false, None) => Access::Cached,
        };
        if access == Access::Direct && !request.kill_privileges {
            self.client.drop_capability(&inode, &context.cancel)?;
        }
        let size = usize::try_from(request.size).map_err(|_| Errno::EINVAL)?.min(payload.len());
        let rest = payload.split_off(size);
        let options = WriteOptions {
            append: request.flags & libc::O_APPEND != 0 && !request.from_cache,
            durable: request.flags & libc::O_DSYNC != 0,
            access,
        };
        let (written, buffer) =
            self.client.write(&inode, request.offset, payload, &options, &context.cancel)?;
        let buffer = buffer.and_then(|mut buffer| buffer.join(rest).is_ok().then_some(buffer));
        if request.flags & libc::O_DIRECT != 0 && !request.from_cache {
            // Perhaps asynchronous: the kernel does not say.
            self.client.wrote_past_pages(&inode, request.offset..request.offset + written as u64);
        }
        let bytes = u32::try_from(written).map_err(|_| Errno::EIO)?;
        Ok(Written { bytes, buffer })
    }

    pub(crate) fn sync_file(&self, context: &Context, handle: FileHandle) -> Result<(), Errno> {
        let handle = self.handles.get(handle)?;
        self.client.sync(&handle.inode, &handle.errors, &context.cancel)
    }

    pub(crate) fn allocate(
        &self,
        context: &Context,
        node: NodeId,
        range: Range<u64>,
        mode: i32,
    ) -> Result<(), Errno> {
        let inode = self.inode(node)?;
        self.drop_privileges_unless_kept(context, &inode)?;
        self.client.allocate(&inode, range, mode, &context.cancel)
    }

    pub(crate) fn seek(
        &self,
        context: &Context,
        node: NodeId,
        offset: u64,
        whence: i32,
    ) -> Result<u64, Errno> {
        let target = match whence {
            libc::SEEK_DATA => SeekTarget::Data,
            libc::SEEK_HOLE => SeekTarget::Hole,
            _ => return Err(Errno::EINVAL),
        };
        self.client.seek(&self.inode(node)?, offset, target, &context.cancel)
    }

    pub(crate) fn copy_range(&self, context: &Context, copy: &CopyRange) -> Result<u64, Errno> {
        let source = self.inode(copy.source)?;
        let target = self.inode(copy.target)?;
        self.drop_privileges_unless_kept(context, &target)?;
        self.client.copy(
            (&source, copy.source_offset),
            (&target, copy.target_offset),
            copy.length,
            &context.cancel,
        )
    }

    /// Whether `handle` is one of ours; for requests that need no more of it.
    pub(crate) fn check_handle(&self, handle: FileHandle) -> Result<(), Errno> {
        self.handles.get(handle).map(drop)
    }
}

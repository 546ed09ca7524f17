//! What a mount answers: one method for each request of the kernel.
//!
//! Methods are called from many threads at once and may block; other requests go on meanwhile. A method that waits for
//! other than its own mount's I/O watches [`Context::cancel`] and answers EINTR when it is cancelled.
//!
//! What an answer tells the kernel to cache must stay true until the answer is there: see
//! [`Context::keep_until_answered`].
//!
//! Names are raw bytes without `/` and NUL, not empty, of any length the kernel lets through (mostly ≤ 255, but check);
//! `.` and `..` come only in [`Filesystem::lookup`].
//!
//! Defaults answer ENOSYS, which the kernel remembers for most operations: it does not ask again and does without.

use sheen_dma::Buffer;
use sheen_types::Errno;

use crate::kernel::{
    answer::{
        DirectorySink, Entry, IoctlAnswer, Opened, ReadAnswer, StatFs, TimedAttributes, Written,
    },
    operation::{
        Context, CopyRange, CreateNode, FileHandle, FileLock, Forget, Ioctl, LockOwner,
        LockRequest, Negotiated, NodeId, OpenNode, Poll, ReadRequest, ReleaseNode, Rename,
        SetAttributes, SetXattr, SyncScope, Touches, WriteRequest,
    },
};

/// A file system as the kernel asks for it. Every error is an errno the calling program sees.
#[expect(unused_variables, reason = "names of defaulted methods' arguments are documentation")]
#[expect(
    clippy::missing_errors_doc,
    reason = "each method fails as the system call it serves does"
)]
pub trait Filesystem: Send + Sync {
    /// The kernel and we agreed; comes once, before everything else.
    fn start(&self, negotiated: &Negotiated) -> Result<(), Errno> {
        Ok(())
    }

    /// The mount ended; comes once, after everything else, also when the kernel never said DESTROY.
    fn end(&self) {}

    /// Finds a name. Also `.` and `..` of any inode the kernel knew once (file handles of NFS exports).
    /// ENOENT is not remembered by the kernel; an [`Entry`] with node 0 is.
    fn lookup(&self, context: &Context, parent: NodeId, name: &[u8]) -> Result<Entry, Errno>;

    /// The kernel drops inodes. Must be quick and must not wait for a server.
    fn forget(&self, forgets: &[Forget]) {}

    /// Attributes.
    fn getattr(
        &self,
        context: &Context,
        node: NodeId,
        handle: Option<FileHandle>,
    ) -> Result<TimedAttributes, Errno>;

    /// Attributes with birth time. The default asks [`Filesystem::getattr`].
    fn statx(
        &self,
        context: &Context,
        node: NodeId,
        handle: Option<FileHandle>,
    ) -> Result<TimedAttributes, Errno> {
        self.getattr(context, node, handle)
    }

    /// Changes attributes.
    fn setattr(
        &self,
        context: &Context,
        node: NodeId,
        set: &SetAttributes,
    ) -> Result<TimedAttributes, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Target of a symbolic link.
    fn readlink(&self, context: &Context, node: NodeId) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Makes a symbolic link.
    fn symlink(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<Entry, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Makes a file, pipe, socket or device.
    fn mknod(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        new: &CreateNode,
    ) -> Result<Entry, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Makes a directory; the mode may lack the kind's bits.
    fn mkdir(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        new: &CreateNode,
    ) -> Result<Entry, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Removes a name that is not a directory.
    fn unlink(&self, context: &Context, parent: NodeId, name: &[u8]) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// Removes an empty directory.
    fn rmdir(&self, context: &Context, parent: NodeId, name: &[u8]) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// Renames.
    fn rename(&self, context: &Context, rename: &Rename<'_>) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// Makes another name for an inode; the entry counts as a lookup.
    fn link(
        &self,
        context: &Context,
        node: NodeId,
        new_parent: NodeId,
        new_name: &[u8],
    ) -> Result<Entry, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Opens a file.
    fn open(&self, context: &Context, node: NodeId, open: &OpenNode) -> Result<Opened, Errno>;

    /// Makes (or finds, without `O_EXCL` in `open.flags`) and opens a file.
    fn create(
        &self,
        context: &Context,
        parent: NodeId,
        name: &[u8],
        new: &CreateNode,
        open: &OpenNode,
    ) -> Result<(Entry, Opened), Errno> {
        Err(Errno::ENOSYS)
    }

    /// Makes and opens a file without a name.
    fn tmpfile(
        &self,
        context: &Context,
        parent: NodeId,
        new: &CreateNode,
        open: &OpenNode,
    ) -> Result<(Entry, Opened), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Whom a request for `node` will mostly wait for, as far as can be told without waiting: a number for each server, 0 for
    /// the one of names. Those that wait for one server leave threads to the others.
    fn waits_for(&self, node: NodeId, touches: Touches) -> u32 {
        0
    }

    /// Reads. `room` is the worker's own buffer, at least `request.size` long and aligned: receive into it and give it
    /// back in the answer (best), or drop it and answer with something else. It is longer than `request.size`
    /// mostly: what was split off is best joined again, since the worker uses the buffer again only if it is whole.
    fn read(
        &self,
        context: &Context,
        request: &ReadRequest,
        room: Buffer,
    ) -> Result<ReadAnswer, Errno>;

    /// Writes the first `request.size` bytes of `payload` (aligned memory the kernel copied straight into).
    /// Give the buffer back in the answer, whole, if it is free again.
    fn write(
        &self,
        context: &Context,
        request: &WriteRequest,
        payload: Buffer,
    ) -> Result<Written, Errno>;

    /// A descriptor was closed (each `close`, also of duplicates): write errors are reported here; `fcntl` locks of
    /// `owner` are dropped.
    fn flush(
        &self,
        context: &Context,
        node: NodeId,
        handle: FileHandle,
        owner: LockOwner,
    ) -> Result<(), Errno> {
        Ok(())
    }

    /// A RELEASE of this open file was read: [`Filesystem::release`] follows, perhaps later, when a thread has time. Must not
    /// block, since other requests are read by the same thread.
    fn release_read(&self, handle: FileHandle) {}

    /// The last descriptor of an open file is gone. Nobody sees the result.
    fn release(&self, context: &Context, node: NodeId, release: &ReleaseNode) -> Result<(), Errno> {
        Ok(())
    }

    /// Makes an open file durable.
    fn fsync(
        &self,
        context: &Context,
        node: NodeId,
        handle: FileHandle,
        scope: SyncScope,
    ) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// Opens a directory.
    fn opendir(&self, context: &Context, node: NodeId, open: &OpenNode) -> Result<Opened, Errno>;

    /// Lists a directory from `offset` (0: the start, else a `next_offset` given earlier) until the sink is full or
    /// the directory ends; an untouched sink is the end. [`DirectorySink::wants_entries`] tells READDIRPLUS.
    fn readdir(
        &self,
        context: &Context,
        node: NodeId,
        handle: FileHandle,
        offset: u64,
        sink: &mut DirectorySink,
    ) -> Result<(), Errno>;

    /// The last descriptor of an open directory is gone.
    fn releasedir(
        &self,
        context: &Context,
        node: NodeId,
        release: &ReleaseNode,
    ) -> Result<(), Errno> {
        Ok(())
    }

    /// Makes a directory durable.
    fn fsyncdir(
        &self,
        context: &Context,
        node: NodeId,
        handle: FileHandle,
        scope: SyncScope,
    ) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// Makes everything durable (`syncfs`, `sync`).
    fn syncfs(&self, context: &Context, node: NodeId) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// Sizes.
    fn statfs(&self, context: &Context, node: NodeId) -> Result<StatFs, Errno>;

    /// Sets an extended attribute.
    fn setxattr(&self, context: &Context, node: NodeId, set: &SetXattr<'_>) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// Value of an extended attribute, whole: sizes asked for and ERANGE are dealt with by the session.
    fn getxattr(&self, context: &Context, node: NodeId, name: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Names of extended attributes, each followed by NUL, all of them: as with [`Filesystem::getxattr`].
    fn listxattr(&self, context: &Context, node: NodeId) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Removes an extended attribute.
    fn removexattr(&self, context: &Context, node: NodeId, name: &[u8]) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// May the caller (`R_OK`, `W_OK`, `X_OK` bits)? Not asked with `default_permissions`.
    fn access(&self, context: &Context, node: NodeId, mask: u32) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// The first lock that would be in the way of `request.lock`, with its holder's pid; None: no conflict.
    fn getlk(&self, context: &Context, request: &LockRequest) -> Result<Option<FileLock>, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Takes, changes or drops a lock, waiting for it if `request.wait` says so.
    fn setlk(&self, context: &Context, request: &LockRequest) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// `fallocate`; `mode` is the `FALLOC_FL_*` bits.
    fn fallocate(
        &self,
        context: &Context,
        node: NodeId,
        handle: FileHandle,
        range: std::ops::Range<u64>,
        mode: i32,
    ) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// `SEEK_DATA` and `SEEK_HOLE` (`whence`).
    fn lseek(
        &self,
        context: &Context,
        node: NodeId,
        handle: FileHandle,
        offset: u64,
        whence: i32,
    ) -> Result<u64, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Copies within the file system; answers bytes copied.
    fn copy_file_range(&self, context: &Context, copy: &CopyRange) -> Result<u64, Errno> {
        Err(Errno::ENOSYS)
    }

    /// `ioctl`, `FS_IOC_GETFLAGS` and its kin included.
    fn ioctl(&self, context: &Context, ioctl: &Ioctl<'_>) -> Result<IoctlAnswer, Errno> {
        Err(Errno::ENOTTY)
    }

    /// Block number of a file's block (swap files, boot loaders).
    fn bmap(
        &self,
        context: &Context,
        node: NodeId,
        block: u64,
        block_bytes: u32,
    ) -> Result<u64, Errno> {
        Err(Errno::ENOSYS)
    }

    /// Ready events; ENOSYS: always ready.
    fn poll(&self, context: &Context, poll: &Poll) -> Result<u32, Errno> {
        Err(Errno::ENOSYS)
    }
}

//! What a call of [`crate::kernel::Filesystem`] takes: decoded, checked, in host types.

use std::{fmt, sync::Mutex};

use sheen_ports::Cancel;
use sheen_types::Timespec;

/// An inode as the kernel names it: a number the file system chose in an [`crate::kernel::Entry`]. Valid until
/// forgotten as often as it was given out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the mount; never looked up, never forgotten.
    pub const ROOT: Self = Self(1);
}

/// An open file or directory: a number the file system chose in [`crate::kernel::Opened`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FileHandle(pub u64);

/// Who owns a file lock: for `fcntl` the table of open files of a process, for `flock` the open file. Scrambled by
/// the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LockOwner(pub u64);

/// Who asks. Ids are those of the mount's user namespace.
pub struct Context {
    /// The kernel's number of the request; for logs.
    pub unique: u64,
    /// The caller's file system user id; `u32::MAX` when the kernel itself asks.
    pub uid: u32,
    /// The caller's file system group id.
    pub gid: u32,
    /// The caller's thread id; 0 when it is outside the mount's pid namespace.
    pub pid: u32,
    /// One supplementary group of the caller that matters to a creation: the group of a set-group-ID parent. Only
    /// with create, mkdir, mknod, symlink and tmpfile.
    pub supplementary_group: Option<u32>,
    /// Cancelled when nobody waits for the answer any more, because the caller was killed or the mount ended: stop waiting
    /// and answer EINTR. Until the answer comes a killed program stays.
    pub cancel: Cancel,
    /// Cancelled whenever `cancel` is, and when a caller that waits for a lock gets any signal: it lives on, so wait no more
    /// for the lock, but until it is certain that it is not held.
    pub signal: Cancel,
    guards: Guards,
}

/// What is kept until the answer is with the kernel.
#[derive(Default)]
struct Guards(Mutex<Vec<Box<dyn Send>>>);

impl Context {
    /// A caller without supplementary group.
    #[must_use]
    pub fn new(unique: u64, uid: u32, gid: u32, pid: u32, cancel: Cancel) -> Self {
        let (guards, signal) = (Guards::default(), cancel.clone());
        Self { unique, uid, gid, pid, supplementary_group: None, cancel, signal, guards }
    }

    /// Keeps `guard` until the answer has been written to the kernel, then drops it: for what must not be given up
    /// while an answer that the kernel may cache is on its way.
    ///
    /// The kernel's side of it: the caller takes the answer in a moment *after* the write. A name is safe even so,
    /// since the kernel noted the epoch before it asked; attributes of an inode it knows are safe, since an
    /// invalidation outdates answers asked for before. Only an inode the kernel is about to learn of is missed by an
    /// invalidation: see [`crate::kernel::NotifyError::NotCached`].
    ///
    /// # Panics
    /// When a thread panicked while it kept a guard.
    pub fn keep_until_answered(&self, guard: impl Send + 'static) {
        self.guards.0.lock().expect("no panic while locked").push(Box::new(guard));
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("unique", &self.unique)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// What of a node a request touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touches {
    /// Some bytes.
    Content {
        /// The first.
        offset: u64,
        /// How many.
        bytes: u32,
    },
    /// Size or times, to look at them.
    Attributes,
    /// All of its content: it is cut, reserved, searched or made durable.
    Objects,
    /// All of its content, and that of this one.
    ObjectsOfBoth(NodeId),
    /// It is opened: mostly names, its size where the kernel may have an old one.
    Opening,
    /// Names, or attributes that are no file's content.
    Names,
}

/// What kernel and file system agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The protocol's minor version in use, 31..
    pub minor: u32,
    /// Most bytes of a READ or WRITE.
    pub transfer_bytes_max: u32,
    /// Whether [`crate::kernel::Notifier::raise_epoch`] works (Linux 6.16): else give zero entry time-outs.
    pub epochs: bool,
    /// Whether [`crate::kernel::Notifier::expire_entry`] works (Linux 6.2).
    pub expiry: bool,
    /// Whether shared mappings work on files opened with direct I/O (Linux 6.6).
    pub direct_io_mmap: bool,
    /// Whether the kernel leaves `umask` and default ACLs to the file system.
    pub posix_acl: bool,
    /// Whether the kernel leaves clearing set-ID bits to the file system.
    pub kill_privileges: bool,
}

/// How often an inode is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forget {
    /// Which.
    pub node: NodeId,
    /// How many of the [`crate::kernel::Entry`] answers for it the kernel drops.
    pub lookups: u64,
}

/// One time of `setattr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The file system's current time.
    Now,
    /// This time.
    At(Timespec),
}

/// What `setattr` changes; `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits with set-ID and sticky, and the kind's bits (unchanged).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes: truncate or extend.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of attributes (sent only with a write-back cache).
    pub ctime: Option<Timespec>,
    /// The open file, for `ftruncate` and its kin.
    pub handle: Option<FileHandle>,
    /// The owner of mandatory locks (unused on Linux).
    pub lock_owner: Option<LockOwner>,
    /// Clear set-ID bits because the caller has no CAP_FSETID.
    pub kill_privileges: bool,
}

/// What a new inode is to be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CreateNode {
    /// Kind and permissions. The umask is NOT applied when [`Negotiated::posix_acl`]: a default ACL replaces it.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Device number of a special file, as `stat` shows it (32 bits, kernel's encoding), else 0.
    pub rdev: u32,
}

/// How to open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenNode {
    /// The `O_*` flags (`libc`), without `O_CREAT`, `O_EXCL`, `O_NOCTTY`; `O_TRUNC` is included and must be done.
    pub flags: i32,
    /// Clear set-ID bits (the open truncates and the caller has no CAP_FSETID).
    pub kill_privileges: bool,
}

/// How an open file ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReleaseNode {
    /// Which.
    pub handle: FileHandle,
    /// The `O_*` flags it was opened with.
    pub flags: i32,
    /// Drop the `flock` lock of this owner too.
    pub flock_unlock: Option<LockOwner>,
}

/// A READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    /// The inode.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// First byte.
    pub offset: u64,
    /// Bytes wanted. Fewer is the end of the file.
    pub size: u32,
    /// The open file's current `O_*` flags.
    pub flags: i32,
    /// Set for reads by a process, unset for the page cache's.
    pub lock_owner: Option<LockOwner>,
}

/// A WRITE without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteRequest {
    /// The inode.
    pub node: NodeId,
    /// The open file; if `from_cache` the kernel's guess: any writer's.
    pub handle: FileHandle,
    /// First byte.
    pub offset: u64,
    /// Bytes of payload: the first of the buffer that comes along.
    pub size: u32,
    /// The open file's current `O_*` flags.
    pub flags: i32,
    /// Written back from the page cache (shared mapping): no process waits for it, ids in the context mean nothing.
    pub from_cache: bool,
    /// Clear set-ID bits.
    pub kill_privileges: bool,
    /// Set for writes by a process.
    pub lock_owner: Option<LockOwner>,
}

/// What an fsync covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncScope {
    /// Content, and the attributes needed to read it (`fdatasync`).
    Data,
    /// Everything (`fsync`).
    All,
}

/// RENAME and RENAME2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rename<'a> {
    /// From this directory.
    pub parent: NodeId,
    /// This name.
    pub name: &'a [u8],
    /// To this directory.
    pub new_parent: NodeId,
    /// As this name.
    pub new_name: &'a [u8],
    /// `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT` (`libc`).
    pub flags: u32,
}

/// A SETXATTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetXattr<'a> {
    /// Full name with prefix.
    pub name: &'a [u8],
    /// Value.
    pub value: &'a [u8],
    /// `XATTR_CREATE` or `XATTR_REPLACE` or 0.
    pub flags: i32,
    /// The access ACL is being set by one outside the file's group: clear set-group-ID.
    pub acl_kill_sgid: bool,
}

/// Shared or exclusive, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// `F_RDLCK`, `LOCK_SH`.
    Read,
    /// `F_WRLCK`, `LOCK_EX`.
    Write,
    /// `F_UNLCK`, `LOCK_UN`.
    Unlock,
}

/// A range with its lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileLock {
    /// First byte.
    pub start: u64,
    /// Last byte, included; `i64::MAX` (as u64) is the end of all files.
    pub end: u64,
    /// Kind.
    pub kind: LockKind,
    /// Process that holds it, for `F_GETLK`.
    pub pid: u32,
}

/// The two independent families of locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockFamily {
    /// `fcntl` record locks (`F_SETLK`, `F_OFD_SETLK`).
    Posix,
    /// `flock` locks: whole file.
    Flock,
}

/// What to do about a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockWait {
    /// Answer EAGAIN.
    No,
    /// Wait; EINTR when cancelled.
    Yes,
}

/// GETLK, SETLK and SETLKW.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRequest {
    /// The inode.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// Who.
    pub owner: LockOwner,
    /// What.
    pub lock: FileLock,
    /// Which family; GETLK is always `Posix`.
    pub family: LockFamily,
    /// What to do about a conflict; GETLK is always `No`.
    pub wait: LockWait,
}

/// A COPY_FILE_RANGE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyRange {
    /// From this inode.
    pub source: NodeId,
    /// Open as.
    pub source_handle: FileHandle,
    /// From this byte.
    pub source_offset: u64,
    /// To this inode.
    pub target: NodeId,
    /// Open as.
    pub target_handle: FileHandle,
    /// At this byte.
    pub target_offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// An IOCTL with a size the kernel could read off its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ioctl<'a> {
    /// The inode.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// On a directory.
    pub on_directory: bool,
    /// The number.
    pub command: u32,
    /// The argument as passed: an address of the caller, useless here, or a plain number.
    pub argument: u64,
    /// What the argument pointed to, if the number says it is read.
    pub input: &'a [u8],
    /// Most bytes of answer.
    pub output_bytes_max: u32,
}

/// A POLL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Poll {
    /// The inode.
    pub node: NodeId,
    /// The open file.
    pub handle: FileHandle,
    /// The kernel's name for the waiter.
    pub kernel_handle: u64,
    /// `POLL*` events asked for.
    pub events: u32,
    /// Whether somebody waits and wants a notification.
    pub wants_notification: bool,
}

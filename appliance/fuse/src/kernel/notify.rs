//! Messages to the kernel that nobody asked for: what it has cached is not true any more.
//!
//! Clones are cheap; usable from any thread, before the session starts as well as while requests are served.
//!
//! Blocking: [`Notifier::invalidate_data`] writes back dirty pages (shared mappings) by WRITE requests that other
//! workers must serve, and waits for pages locked by reads in flight; [`Notifier::invalidate_entry`],
//! [`Notifier::raise_size`] waits for such a page, too; [`Notifier::expire_entry`] and [`Notifier::delete_entry`] take the parent directory's inode lock, which the kernel
//! holds during most namespace requests in that directory. So: never call these from within a call of
//! [`crate::kernel::Filesystem`], nor hold a lock over them that such a call needs.
//! [`Notifier::invalidate_attributes`], [`Notifier::raise_epoch`] and [`Notifier::prune`] take no such lock.

use std::{
    fmt,
    io::IoSlice,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{errno::Errno as SystemErrno, sys::uio::writev};
use sheen_types::Errno;

use crate::kernel::{NodeId, abi::notification::Notification};

/// Why a notification was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotifyError {
    /// The kernel has nothing cached of it: as good as done, *unless* the inode was given out and not forgotten yet.
    /// Then an answer with it is just being taken in, or its FORGET is on its way: try again in a moment, until one
    /// or the other.
    NotCached,
    /// This kernel has no such notification.
    Unsupported,
    /// The mount is gone.
    Gone,
    /// Anything else.
    Failed(Errno),
}

impl fmt::Display for NotifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCached => f.write_str("nothing cached"),
            Self::Unsupported => f.write_str("this kernel has no such notification"),
            Self::Gone => f.write_str("the mount is gone"),
            Self::Failed(errno) => write!(f, "the kernel refused: {errno}"),
        }
    }
}

impl std::error::Error for NotifyError {}

/// Sends notifications on one mount.
#[derive(Clone, Debug)]
pub struct Notifier {
    descriptor: Arc<OwnedFd>,
    /// The session saw the end of the mount; the kernel itself would say of everything that it is not cached.
    ended: Arc<AtomicBool>,
}

impl Notifier {
    pub(crate) fn new(descriptor: Arc<OwnedFd>, ended: Arc<AtomicBool>) -> Self {
        Self { descriptor, ended }
    }

    /// Attributes of the inode are not true any more; cached content stays.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn invalidate_attributes(&self, node: NodeId) -> Result<(), NotifyError> {
        self.send(&Notification::InvalidateInode { node: node.0, offset: -1, length: 0 }, &[])
    }

    /// Attributes and cached content of the inode from `offset` on, `length` bytes (0: to the end), are not true any
    /// more. Dirty pages are written back first. Blocks.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn invalidate_data(
        &self,
        node: NodeId,
        offset: u64,
        length: u64,
    ) -> Result<(), NotifyError> {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (offset, length) = (signed(offset), signed(length));
        self.send(&Notification::InvalidateInode { node: node.0, offset, length }, &[])
    }

    /// The name does not lead where the kernel thinks: it drops the name, what is below and unused, and mounts there. Takes the
    /// parent's lock.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn invalidate_entry(&self, parent: NodeId, name: &[u8]) -> Result<(), NotifyError> {
        let parent = parent.0;
        self.send(&Notification::InvalidateEntry { parent, name, expire_only: false }, &[])
    }

    /// As [`Notifier::invalidate_entry`], but the name is only looked up anew on its next use; mounts below it stay.
    ///
    /// # Errors
    /// [`NotifyError`]. Before Linux 6.2 it is the same as `invalidate_entry`.
    pub fn expire_entry(&self, parent: NodeId, name: &[u8]) -> Result<(), NotifyError> {
        let parent = parent.0;
        self.send(&Notification::InvalidateEntry { parent, name, expire_only: true }, &[])
    }

    /// The name is removed; watchers (inotify) hear of it.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn delete_entry(
        &self,
        parent: NodeId,
        child: NodeId,
        name: &[u8],
    ) -> Result<(), NotifyError> {
        self.send(&Notification::Delete { parent: parent.0, child: child.0, name }, &[])
    }

    /// Puts bytes into the page cache of the inode.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn store(&self, node: NodeId, offset: u64, bytes: &[u8]) -> Result<(), NotifyError> {
        let size = u32::try_from(bytes.len()).map_err(|_| NotifyError::Failed(Errno::E2BIG))?;
        self.send(&Notification::Store { node: node.0, offset, size }, bytes)
    }

    /// Makes the file end at `size`, not 0, in the kernel's eyes, if it ends before that; changes no byte of it. Waits for the
    /// page of that place if it is locked, when the size is taken in already.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn raise_size(&self, node: NodeId, size: u64) -> Result<(), NotifyError> {
        if self.ended.load(Ordering::Acquire) {
            return Err(NotifyError::Gone);
        }
        let Some(offset) = size.checked_sub(1) else { return Ok(()) };
        // The kernel takes the size in, then locks the page, then copies: from where nothing is.
        let bytes = Notification::Store { node: node.0, offset, size: 1 }.encode(1);
        let parts = [
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() },
            libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 },
        ];
        // SAFETY: the call only reads: `parts`, two live values, then `bytes`, of the length that is given. Nothing is ever mapped
        // at the address 0 of a process, and the kernel answers EFAULT for it.
        let written = unsafe { libc::writev(self.descriptor.as_raw_fd(), parts.as_ptr(), 2) };
        match SystemErrno::result(written) {
            // The byte, or the page it belongs to, could not be had.
            Err(SystemErrno::EFAULT | SystemErrno::ENOMEM) => Ok(()),
            other => outcome(other.map(drop)),
        }
    }

    /// Is to forget those of these inodes that are only cached: names that lead to them and that nobody uses are dropped. Takes
    /// no directory's lock.
    ///
    /// # Errors
    /// [`NotifyError`]; Unsupported before Linux 6.18.
    pub fn prune(&self, nodes: &[NodeId]) -> Result<(), NotifyError> {
        match self.send(&Notification::Prune { nodes }, &[]) {
            Err(NotifyError::Failed(Errno::EINVAL)) => Err(NotifyError::Unsupported),
            other => other,
        }
    }

    /// Every name the kernel knows is looked up anew on its next use. Takes no directory's lock.
    ///
    /// # Errors
    /// [`NotifyError`]; Unsupported before Linux 6.16 (see [`crate::kernel::Negotiated::epochs`]).
    pub fn raise_epoch(&self) -> Result<(), NotifyError> {
        match self.send(&Notification::RaiseEpoch, &[]) {
            Err(NotifyError::Failed(Errno::EINVAL)) => Err(NotifyError::Unsupported),
            other => other,
        }
    }

    fn send(&self, notification: &Notification<'_>, payload: &[u8]) -> Result<(), NotifyError> {
        if self.ended.load(Ordering::Acquire) {
            return Err(NotifyError::Gone);
        }
        let bytes = notification.encode(payload.len());
        let parts = [IoSlice::new(&bytes), IoSlice::new(payload)];
        outcome(writev(&*self.descriptor, &parts).map(drop))
    }
}

fn outcome(written: Result<(), SystemErrno>) -> Result<(), NotifyError> {
    written.map_err(|error| match error {
        SystemErrno::ENOENT => NotifyError::NotCached,
        SystemErrno::ENOSYS => NotifyError::Unsupported,
        SystemErrno::ENODEV | SystemErrno::EPERM | SystemErrno::ENOTCONN => NotifyError::Gone,
        error => NotifyError::Failed(Errno(error as i32)),
    })
}

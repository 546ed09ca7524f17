//! Messages to the kernel that nobody asked for: what it has cached is not true any more.
//!
//! Clones are cheap; usable from any thread, before the session starts as well as while requests are served.
//!
//! Blocking: [`Notifier::invalidate_data`] writes back dirty pages (shared mappings) by WRITE requests that other workers must
//! serve, and waits for pages locked by reads in flight; [`Notifier::invalidate_entry`], [`Notifier::expire_entry`] and
//! [`Notifier::delete_entry`] take the parent directory's inode lock, which the kernel holds during most namespace requests
//! in that directory. So: never call these from within a call of [`crate::kernel::Filesystem`], nor hold a lock over
//! them that such a call needs. [`Notifier::invalidate_attributes`] and [`Notifier::raise_epoch`] take no such lock.

use std::{fmt, sync::Arc};

use sheen_types::Errno;

use crate::kernel::NodeId;

/// Why a notification was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotifyError {
    /// The kernel has nothing cached of it: as good as done.
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
pub struct Notifier(Arc<std::os::fd::OwnedFd>);

impl Notifier {
    /// Attributes of the inode are not true any more; cached content stays.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn invalidate_attributes(&self, node: NodeId) -> Result<(), NotifyError> {
        let _ = (&self.0, node);
        Err(NotifyError::Unsupported)
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
        let _ = (node, offset, length);
        Err(NotifyError::Unsupported)
    }

    /// The name does not lead where the kernel thinks. Takes the parent's lock.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn invalidate_entry(&self, parent: NodeId, name: &[u8]) -> Result<(), NotifyError> {
        let _ = (parent, name);
        Err(NotifyError::Unsupported)
    }

    /// As [`Notifier::invalidate_entry`], but the name is only looked up anew on its next use; mounts below it stay.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn expire_entry(&self, parent: NodeId, name: &[u8]) -> Result<(), NotifyError> {
        let _ = (parent, name);
        Err(NotifyError::Unsupported)
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
        let _ = (parent, child, name);
        Err(NotifyError::Unsupported)
    }

    /// Puts bytes into the page cache of the inode.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub fn store(&self, node: NodeId, offset: u64, bytes: &[u8]) -> Result<(), NotifyError> {
        let _ = (node, offset, bytes);
        Err(NotifyError::Unsupported)
    }

    /// Every name the kernel knows is looked up anew on its next use. Takes no directory's lock.
    ///
    /// # Errors
    /// [`NotifyError`]; Unsupported before Linux 6.16 (see [`crate::kernel::Negotiated::epochs`]).
    pub fn raise_epoch(&self) -> Result<(), NotifyError> {
        Err(NotifyError::Unsupported)
    }
}

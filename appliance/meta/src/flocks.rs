//! File locks of programs: `flock`, and record locks of `fcntl` (POSIX and open-file-description).
//!
//! Volatile. Locks are kept per inode and family; the families do not see each other. The owner of
//! a lock is (client, owner number). Who waits is served in order of asking, as far as ranges
//! overlap.

use sheen_types::{ClientId, Errno, Fid, Xid};
use sheen_wire::flock::{FileLock, LockFamily};

/// Bounds of [`FileLocks`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockLimits {
    /// Held locks, ranges counted one by one.
    pub locks_max: usize,
    /// Waiting requests.
    pub waiters_max: usize,
}

impl Default for LockLimits {
    /// A million locks, 65,536 waiting requests.
    fn default() -> Self {
        Self { locks_max: 1 << 20, waiters_max: 1 << 16 }
    }
}

/// The immediate answer to [`FileLocks::set`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockAnswer {
    /// Done.
    Granted,
    /// In the way (`EAGAIN`), a deadlock (`EDEADLK`), or the table is full (`ENOLCK`).
    Refused(Errno),
    /// Waits; a [`LockGrant`] with its number comes out of a later call.
    Waiting,
}

/// The end of a wait.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockGrant {
    /// Who waited.
    pub client: ClientId,
    /// The request that waited.
    pub xid: Xid,
    /// Granted, or refused after all (`ENOLCK`).
    pub result: Result<(), Errno>,
}

/// Table of file locks.
#[derive(Debug, Default)]
pub struct FileLocks {
    limits: LockLimits,
}

impl FileLocks {
    /// An empty table.
    #[must_use]
    pub const fn new(limits: LockLimits) -> Self {
        Self { limits }
    }

    /// Takes, changes or drops a lock. With `wait` the request of that number waits instead of
    /// being refused. Waits that end because of this call are appended to `ended`.
    pub fn set(
        &mut self,
        client: ClientId,
        lock: &FileLock,
        wait: Option<Xid>,
        ended: &mut Vec<LockGrant>,
    ) -> LockAnswer {
        let _ = (client, lock, wait, ended, self.limits);
        LockAnswer::Refused(Errno::ENOSYS)
    }

    /// The first lock of another owner in the way of `lock`, as `F_GETLK` shows it; None if it
    /// could be taken.
    #[must_use]
    pub fn test(&self, client: ClientId, lock: &FileLock) -> Option<FileLock> {
        let _ = (client, lock, self.limits);
        None
    }

    /// Gives up a waiting request; returns whether it was waiting (answer it `EINTR`), false if it
    /// was granted before.
    pub fn cancel(&mut self, client: ClientId, xid: Xid, ended: &mut Vec<LockGrant>) -> bool {
        let _ = (client, xid, ended, self.limits);
        false
    }

    /// Drops every lock of an owner on an inode, waiting ones included.
    pub fn release(
        &mut self,
        client: ClientId,
        fid: Fid,
        family: LockFamily,
        owner: u64,
        ended: &mut Vec<LockGrant>,
    ) {
        let _ = (client, fid, family, owner, ended, self.limits);
    }

    /// Drops everything of a client, waiting requests included (those get no answer).
    pub fn drop_client(&mut self, client: ClientId, ended: &mut Vec<LockGrant>) {
        let _ = (client, ended, self.limits);
    }

    /// Forgets an inode that is gone; waiting requests on it end with `ESTALE`.
    pub fn forget(&mut self, fid: Fid, ended: &mut Vec<LockGrant>) {
        let _ = (fid, ended, self.limits);
    }

    /// A lock a client held before the restart.
    ///
    /// # Errors
    /// `EAGAIN` when another asserted a conflicting one first, `ENOLCK` when the table is full.
    pub fn reassert(&mut self, client: ClientId, lock: &FileLock) -> Result<(), Errno> {
        let _ = (client, lock, self.limits);
        Err(Errno::ENOSYS)
    }

    /// Held locks, ranges counted one by one.
    #[must_use]
    pub const fn len(&self) -> usize {
        let _ = self.limits;
        0
    }

    /// Whether no lock is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

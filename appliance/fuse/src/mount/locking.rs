//! File locks of programs.

use std::{sync::atomic::Ordering, time::Instant};

use sheen_client::LockWanted;
use sheen_types::Errno;
use sheen_wire::flock::{LockFamily as Family, LockType};

use crate::{
    kernel::{Context, FileLock, LockFamily, LockKind, LockRequest, LockWait},
    mount::{Mount, closing::Asker},
};

/// Who owns the lock. `flock` locks belong to the open file. The kernel names it by the address of its structure, which may
/// come again while the release of the file before is still on its way; our handle does not.
fn owner(request: &LockRequest) -> u64 {
    match request.family {
        LockFamily::Flock => request.handle.0,
        LockFamily::Posix => request.owner.0,
    }
}

fn wanted(request: &LockRequest) -> LockWanted {
    LockWanted {
        family: match request.family {
            LockFamily::Posix => Family::Posix,
            LockFamily::Flock => Family::Flock,
        },
        kind: match request.lock.kind {
            LockKind::Read => LockType::Read,
            LockKind::Write => LockType::Write,
            LockKind::Unlock => LockType::Unlock,
        },
        owner: owner(request),
        pid: request.lock.pid,
        start: request.lock.start,
        end: request.lock.end,
        wait: request.wait == LockWait::Yes,
    }
}

impl Mount {
    pub(crate) fn test_lock(
        &self,
        context: &Context,
        request: &LockRequest,
    ) -> Result<Option<FileLock>, Errno> {
        let inode = self.inode(request.node)?;
        let mut asker = self.asker(request)?;
        let found = loop {
            asker.asked = Instant::now();
            let found = self.client.test_lock(&inode, &wanted(request), &context.cancel)?;
            if found.is_none() || !self.may_end(context, &asker)? {
                break found;
            }
        };
        Ok(found.map(|lock| FileLock {
            start: lock.start,
            end: lock.end,
            kind: match lock.kind {
                LockType::Read => LockKind::Read,
                LockType::Write => LockKind::Write,
                LockType::Unlock => LockKind::Unlock,
            },
            pid: lock.pid,
        }))
    }

    /// Waits end with any signal, as `fcntl` and `flock` say.
    pub(crate) fn set_lock(&self, context: &Context, request: &LockRequest) -> Result<(), Errno> {
        let inode = self.inode(request.node)?;
        let handle = self.handles.get(request.handle)?;
        if request.lock.kind != LockKind::Unlock {
            match request.family {
                LockFamily::Flock => handle.flocked.store(true, Ordering::Release),
                LockFamily::Posix => {
                    let mut owners = handle.lock_owners.lock().expect("no panic while locked");
                    owners.insert(request.owner.0);
                }
            }
        }
        let mut asker = self.asker(request)?;
        let mut wanted = wanted(request);
        let waits = wanted.wait;
        loop {
            asker.asked = Instant::now();
            let (signal, cancel) = (&context.signal, &context.cancel);
            let outcome = match waits && !wanted.wait {
                false => self.client.set_lock(&inode, &wanted, signal, cancel),
                true => self.client.set_lock_at_once(&inode, &wanted, cancel),
            };
            match outcome {
                Err(Errno::EAGAIN) if self.may_end(context, &asker)? => {}
                // A lock that nobody holds is taken whatever signal comes: no wait is interrupted where there is none.
                Err(Errno::EINTR) if wanted.wait && !context.cancel.is_cancelled() => {
                    wanted.wait = false;
                }
                Err(Errno::EAGAIN) if waits => return Err(Errno::EINTR),
                outcome => return outcome,
            }
        }
    }

    fn asker(&self, request: &LockRequest) -> Result<Asker, Errno> {
        let now = Instant::now();
        Ok(Asker { fid: self.fid(request.node)?, own: request.handle, start: now, asked: now })
    }

    /// A lock is in the way. Waits if it may be one of an open file that is being closed here: returns whether it may be gone.
    fn may_end(&self, context: &Context, asker: &Asker) -> Result<bool, Errno> {
        let waited = self.closing.wait_for_one(asker, &context.cancel);
        if context.cancel.is_cancelled() { Err(Errno::EINTR) } else { Ok(waited) }
    }
}

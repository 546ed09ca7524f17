//! File locks of programs.

use sheen_client::LockWanted;
use sheen_types::Errno;
use sheen_wire::flock::{LockFamily as Family, LockType};

use crate::{
    kernel::{Context, FileLock, LockFamily, LockKind, LockRequest, LockWait},
    mount::Mount,
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
        let found = self.client.test_lock(&inode, &wanted(request), &context.cancel)?;
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
        if request.family == LockFamily::Posix && request.lock.kind != LockKind::Unlock {
            let mut owners = handle.lock_owners.lock().expect("no panic while locked");
            owners.insert(request.owner.0);
        }
        self.client.set_lock(&inode, &wanted(request), &context.signal, &context.cancel)
    }
}

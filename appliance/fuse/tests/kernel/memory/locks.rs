//! File locks: whole-file `flock` and ranges of `fcntl`, ranges kept simple (unlocking drops every range it touches).

use std::sync::{Arc, Condvar, Mutex};

use sheen_fuse::kernel::{
    Context, FileLock, LockFamily, LockKind, LockOwner, LockRequest, LockWait, NodeId,
};
use sheen_types::Errno;

#[derive(Debug, Default)]
struct Inner {
    held: Mutex<Vec<LockRequest>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Locks(Arc<Inner>);

fn conflicts(one: &LockRequest, other: &LockRequest) -> bool {
    one.node == other.node
        && one.family == other.family
        && one.owner != other.owner
        && one.lock.start <= other.lock.end
        && other.lock.start <= one.lock.end
        && (one.lock.kind == LockKind::Write || other.lock.kind == LockKind::Write)
}

impl Locks {
    pub(crate) fn conflict(&self, request: &LockRequest) -> Option<FileLock> {
        let held = self.0.held.lock().unwrap();
        held.iter().find(|other| conflicts(request, other)).map(|other| other.lock)
    }

    pub(crate) fn held(&self) -> Vec<LockRequest> {
        self.0.held.lock().unwrap().clone()
    }

    pub(crate) fn set(&self, context: &Context, request: &LockRequest) -> Result<(), Errno> {
        let mut held = self.0.held.lock().unwrap();
        if request.lock.kind == LockKind::Unlock {
            drop(held);
            self.drop_where(|other| other.family == request.family && same(other, request));
            return Ok(());
        }
        let inner = self.0.clone();
        let _watch = context.signal.on_cancel(Arc::new(move || {
            let _held = inner.held.lock().unwrap();
            inner.changed.notify_all();
        }));
        while held.iter().any(|other| conflicts(request, other)) {
            if request.wait == LockWait::No {
                return Err(Errno::EAGAIN);
            }
            if context.signal.is_cancelled() {
                return Err(Errno::EINTR);
            }
            held = self.0.changed.wait(held).unwrap();
        }
        held.retain(|other| !(other.family == request.family && same(other, request)));
        held.push(*request);
        Ok(())
    }

    pub(crate) fn drop_posix(&self, node: NodeId, owner: LockOwner) {
        self.drop_where(|held| is_of(held, LockFamily::Posix, node, owner));
    }

    pub(crate) fn drop_flock(&self, node: NodeId, owner: LockOwner) {
        self.drop_where(|held| is_of(held, LockFamily::Flock, node, owner));
    }

    fn drop_where(&self, drop: impl Fn(&LockRequest) -> bool) {
        self.0.held.lock().unwrap().retain(|held| !drop(held));
        self.0.changed.notify_all();
    }
}

fn same(one: &LockRequest, other: &LockRequest) -> bool {
    one.node == other.node && one.owner == other.owner
}

fn is_of(held: &LockRequest, family: LockFamily, node: NodeId, owner: LockOwner) -> bool {
    held.family == family && held.node == node && held.owner == owner
}

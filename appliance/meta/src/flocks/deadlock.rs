//! Would this wait never end? A search of who waits for whom among owners of record locks.

use std::collections::BTreeSet;

use sheen_wire::flock::{FileLock, LockFamily};

use super::{FileLocks, ranges::Owner};

/// Owners looked at before the search gives up and lets the request wait. A longer ring can be
/// ended by a signal only.
const OWNERS_MAX: usize = 1024;

impl FileLocks {
    /// Whether an owner in the way of `lock` waits, through any number of others, for `owner`.
    pub(super) fn would_deadlock(&self, owner: Owner, lock: &FileLock) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = self.blockers(owner, lock);
        while let Some(blocker) = open.pop() {
            if blocker == owner {
                return true;
            }
            if seen.len() >= OWNERS_MAX || !seen.insert(blocker) {
                continue;
            }
            for &(xid, key) in self.waiting_owners.get(&blocker).map_or(&[][..], Vec::as_slice) {
                let waiters = self.resources.get(&key).map_or(&[][..], |r| &r.waiters);
                for waiter in waiters.iter().filter(|w| (w.client, w.xid) == (blocker.client, xid))
                {
                    open.extend(self.blockers(blocker, &waiter.lock));
                }
            }
        }
        false
    }

    fn blockers(&self, owner: Owner, lock: &FileLock) -> Vec<Owner> {
        let resource = self.resources.get(&(lock.fid, LockFamily::Posix));
        let held = resource.iter().flat_map(|resource| resource.held.conflicts(owner, lock));
        held.map(|range| range.owner).collect()
    }
}

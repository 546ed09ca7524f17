//! Would this wait never end? A search of who waits for whom among owners of record locks.
//!
//! Only owners that wait themselves lead on, so those are looked at, or those that hold something where there are fewer; never
//! their ranges one by one. A search takes a bounded number of steps, each a look into a tree.

use std::collections::BTreeSet;

use sheen_wire::flock::{FileLock, LockFamily};

use super::{FileLocks, ranges::Owner};

/// Steps before the search gives up and lets the request wait: some milliseconds. A ring that was not found by then, which
/// takes more than a hundred owners that wait at a time, can be ended by a signal only.
const STEPS_MAX: usize = 1 << 14;

/// Owners that are in the way and wait, and what it took to find them.
struct Search {
    seen: BTreeSet<Owner>,
    open: Vec<Owner>,
    steps: usize,
}

impl FileLocks {
    /// Whether an owner in the way of `lock` waits, through any number of others, for `owner`.
    pub(super) fn would_deadlock(&self, owner: Owner, lock: &FileLock) -> bool {
        let mut steps = STEPS_MAX;
        self.finds_ring(owner, lock, &mut steps)
    }

    /// [`FileLocks::would_deadlock`] in at most so many steps, which are counted down.
    pub(super) fn finds_ring(&self, owner: Owner, lock: &FileLock, steps: &mut usize) -> bool {
        let mut search = Search { seen: BTreeSet::new(), open: Vec::new(), steps: *steps };
        let found = self.search(owner, lock, &mut search);
        *steps = search.steps;
        found
    }

    fn search(&self, owner: Owner, lock: &FileLock, search: &mut Search) -> bool {
        self.add_blockers(owner, lock, search);
        while let Some(blocker) = search.open.pop() {
            for (_, wanted) in self.waiting_owners.get(&blocker).into_iter().flatten() {
                let resource = self.resources.get(&(wanted.fid, LockFamily::Posix));
                if resource.is_some_and(|r| r.held.keeps(owner, wanted, &mut search.steps)) {
                    return true;
                }
                self.add_blockers(blocker, wanted, search);
                if search.steps == 0 {
                    return false;
                }
            }
        }
        false
    }

    /// Adds the owners that wait and are in the way of `lock`, each once.
    fn add_blockers(&self, owner: Owner, lock: &FileLock, search: &mut Search) {
        let Some(resource) = self.resources.get(&(lock.fid, LockFamily::Posix)) else { return };
        let held = &resource.held;
        let mut look_at = |other: Owner| {
            let Search { seen, open, steps } = search;
            if other != owner
                && !seen.contains(&other)
                && self.waiting_owners.contains_key(&other)
                && held.keeps(other, lock, steps)
            {
                seen.insert(other);
                open.push(other);
            }
            *steps = steps.saturating_sub(1);
            *steps > 0
        };
        if self.waiting_owners.len() <= held.len() {
            let _all = self.waiting_owners.keys().all(|&other| look_at(other));
        } else {
            let _all = held.owners().all(look_at);
        }
    }
}

//! File locks this client's programs hold on one inode: what is re-asserted when the MDT restarts.

use std::collections::BTreeMap;

use sheen_types::Fid;
use sheen_wire::flock::{FileLock, LockFamily, LockType};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    pid: u32,
    kind: LockType,
    start: u64,
    /// Included.
    end: u64,
}

/// Locks by family, owner and start; ranges of one owner and family do not overlap. A change costs by what it touches.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks(BTreeMap<(LockFamily, u64, u64), Held>);

impl HeldLocks {
    /// Takes in a lock or unlock the MDT granted.
    pub(crate) fn apply(&mut self, lock: &FileLock) {
        let key = |start| (lock.family, lock.owner, start);
        let before = self.0.range(key(0)..key(lock.start)).next_back();
        let before = before.filter(|(_, held)| held.end >= lock.start);
        let within = self.0.range(key(lock.start)..=key(lock.end));
        let touched: Vec<Held> = before.into_iter().chain(within).map(|(_, held)| *held).collect();
        for held in touched {
            self.0.remove(&key(held.start));
            if held.start < lock.start {
                self.0.insert(key(held.start), Held { end: lock.start - 1, ..held });
            }
            if held.end > lock.end {
                let start = lock.end + 1;
                self.0.insert(key(start), Held { start, ..held });
            }
        }
        if lock.kind != LockType::Unlock {
            let FileLock { kind, pid, start, end, .. } = *lock;
            self.0.insert(key(start), Held { pid, kind, start, end });
        }
    }

    /// Drops all of an owner.
    pub(crate) fn release(&mut self, family: LockFamily, owner: u64) {
        let own = (family, owner, 0)..=(family, owner, u64::MAX);
        self.0.extract_if(own, |_, _| true).for_each(drop);
    }

    /// Whether an owner holds any.
    pub(crate) fn has(&self, family: LockFamily, owner: u64) -> bool {
        self.0.range((family, owner, 0)..=(family, owner, u64::MAX)).next().is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, as messages.
    pub(crate) fn held(&self, fid: Fid) -> Vec<FileLock> {
        let message = |(&(family, owner, _), held): (&(LockFamily, u64, u64), &Held)| FileLock {
            fid,
            family,
            kind: held.kind,
            owner,
            pid: held.pid,
            start: held.start,
            end: held.end,
        };
        self.0.iter().map(message).collect()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn lock(kind: LockType, owner: u64, start: u64, end: u64) -> FileLock {
        FileLock { fid: Fid::ROOT, family: LockFamily::Posix, kind, owner, pid: 1, start, end }
    }

    fn ranges(locks: &HeldLocks) -> Vec<(LockType, u64, u64)> {
        let mut ranges: Vec<_> =
            locks.held(Fid::ROOT).iter().map(|l| (l.kind, l.start, l.end)).collect();
        ranges.sort_by_key(|range| range.1);
        ranges
    }

    #[test]
    fn an_unlock_in_the_middle_leaves_both_ends() {
        let mut locks = HeldLocks::default();
        locks.apply(&lock(LockType::Write, 1, 0, 99));
        locks.apply(&lock(LockType::Unlock, 1, 10, 19));
        assert_eq!(ranges(&locks), [(LockType::Write, 0, 9), (LockType::Write, 20, 99)]);
        locks.apply(&lock(LockType::Unlock, 2, 0, 99));
        assert_eq!(ranges(&locks).len(), 2, "of another owner");
        locks.apply(&lock(LockType::Read, 1, 5, 50));
        assert_eq!(
            ranges(&locks),
            [(LockType::Write, 0, 4), (LockType::Read, 5, 50), (LockType::Write, 51, 99)]
        );
        locks.release(LockFamily::Posix, 1);
        assert!(locks.is_empty());
    }
}

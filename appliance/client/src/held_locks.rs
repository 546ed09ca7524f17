//! File locks this client's programs hold on one inode: what is re-asserted when the MDT restarts.

use sheen_types::Fid;
use sheen_wire::flock::{FileLock, LockFamily, LockType};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    family: LockFamily,
    owner: u64,
    pid: u32,
    kind: LockType,
    start: u64,
    /// Included.
    end: u64,
}

/// Locks by family and owner; ranges of one owner and family do not overlap.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks(Vec<Held>);

impl HeldLocks {
    /// Takes in a lock or unlock the MDT granted.
    pub(crate) fn apply(&mut self, lock: &FileLock) {
        let mut kept = Vec::with_capacity(self.0.len() + 2);
        for held in &self.0 {
            let same = held.family == lock.family && held.owner == lock.owner;
            if !same || held.end < lock.start || lock.end < held.start {
                kept.push(*held);
                continue;
            }
            if held.start < lock.start {
                kept.push(Held { end: lock.start - 1, ..*held });
            }
            if held.end > lock.end {
                kept.push(Held { start: lock.end + 1, ..*held });
            }
        }
        if lock.kind != LockType::Unlock {
            kept.push(Held {
                family: lock.family,
                owner: lock.owner,
                pid: lock.pid,
                kind: lock.kind,
                start: lock.start,
                end: lock.end,
            });
        }
        self.0 = kept;
    }

    /// Drops all of an owner.
    pub(crate) fn release(&mut self, family: LockFamily, owner: u64) {
        self.0.retain(|held| held.family != family || held.owner != owner);
    }

    /// Whether an owner holds any.
    pub(crate) fn has(&self, family: LockFamily, owner: u64) -> bool {
        self.0.iter().any(|held| held.family == family && held.owner == owner)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, as messages.
    pub(crate) fn held(&self, fid: Fid) -> Vec<FileLock> {
        let message = |held: &Held| FileLock {
            fid,
            family: held.family,
            kind: held.kind,
            owner: held.owner,
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

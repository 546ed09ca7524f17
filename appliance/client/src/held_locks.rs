//! File locks this client's programs hold on one inode: what is re-asserted when the MDT restarts.

use std::collections::{BTreeMap, BTreeSet};

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
///
/// What is here an owner was told that it holds, and it did not ask to give it up: that alone is asserted. Of an owner that left before
/// it was answered nobody knows; the MDT is told when it ends, and nothing before.
#[derive(Debug, Default)]
pub(crate) struct HeldLocks {
    held: BTreeMap<(LockFamily, u64, u64), Held>,
    doubtful: BTreeSet<(LockFamily, u64)>,
}

impl HeldLocks {
    /// Takes in a lock or unlock the MDT granted.
    pub(crate) fn apply(&mut self, lock: &FileLock) {
        self.take(lock);
        if lock.kind != LockType::Unlock {
            let FileLock { family, owner, kind, pid, start, end, .. } = *lock;
            self.held.insert((family, owner, start), Held { pid, kind, start, end });
        }
    }

    /// Drops what an owner holds within the range of `lock`. Returns it, as locks that [`Self::apply`] takes in again.
    pub(crate) fn take(&mut self, lock: &FileLock) -> Vec<FileLock> {
        let key = |start| (lock.family, lock.owner, start);
        let before = self.held.range(key(0)..key(lock.start)).next_back();
        let before = before.filter(|(_, held)| held.end >= lock.start);
        let within = self.held.range(key(lock.start)..=key(lock.end));
        let touched: Vec<Held> = before.into_iter().chain(within).map(|(_, held)| *held).collect();
        for held in &touched {
            self.held.remove(&key(held.start));
            if held.start < lock.start {
                self.held.insert(key(held.start), Held { end: lock.start - 1, ..*held });
            }
            if held.end > lock.end {
                let start = lock.end + 1;
                self.held.insert(key(start), Held { start, ..*held });
            }
        }
        let taken = |held: &Held| {
            let Held { pid, kind, start, end } = *held;
            let (start, end) = (start.max(lock.start), end.min(lock.end));
            FileLock { kind, pid, start, end, ..lock.clone() }
        };
        touched.iter().map(taken).collect()
    }

    /// Drops what the MDT may drop or weaken when it carries out `lock`; asked before it is sent, so that what others have by then is not
    /// asserted. Returns what [`Self::apply`] takes in again if the MDT refuses and has done nothing.
    pub(crate) fn give_up_for(&mut self, lock: &FileLock) -> Vec<FileLock> {
        match (lock.kind, lock.family) {
            (LockType::Unlock, _) => self.take(lock),
            (_, LockFamily::Flock) => {
                // A lock that becomes one of another type is given up first, also if the other is refused then: flock(2).
                let own = (lock.family, lock.owner, 0)..=(lock.family, lock.owner, u64::MAX);
                if self.held.range(own).any(|(_, held)| held.kind != lock.kind) {
                    self.release(lock.family, lock.owner);
                    self.doubt(lock.family, lock.owner);
                }
                Vec::new()
            }
            (LockType::Read, _) => {
                let taken = self.take(lock);
                let weaker = |held: &FileLock| FileLock { kind: LockType::Read, ..held.clone() };
                taken.iter().map(weaker).for_each(|lock| self.apply(&lock));
                taken
            }
            (LockType::Write, _) => Vec::new(),
        }
    }

    /// Notes that an owner left before it was answered.
    pub(crate) fn doubt(&mut self, family: LockFamily, owner: u64) {
        self.doubtful.insert((family, owner));
    }

    /// Drops all of an owner.
    pub(crate) fn release(&mut self, family: LockFamily, owner: u64) {
        let own = (family, owner, 0)..=(family, owner, u64::MAX);
        self.held.extract_if(own, |_, _| true).for_each(drop);
        self.doubtful.remove(&(family, owner));
    }

    /// Whether an owner holds any, or may.
    pub(crate) fn has(&self, family: LockFamily, owner: u64) -> bool {
        let own = (family, owner, 0)..=(family, owner, u64::MAX);
        self.doubtful.contains(&(family, owner)) || self.held.range(own).next().is_some()
    }

    /// Whether nobody was told that it holds any.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
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
        self.held.iter().map(message).collect()
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

    #[test]
    fn what_was_taken_away_can_be_put_back() {
        let mut locks = HeldLocks::default();
        locks.apply(&lock(LockType::Write, 1, 0, 49));
        locks.apply(&lock(LockType::Read, 1, 50, 99));
        let before = ranges(&locks);
        let taken = locks.take(&lock(LockType::Unlock, 1, 40, 59));
        assert_eq!(ranges(&locks), [(LockType::Write, 0, 39), (LockType::Read, 60, 99)]);
        assert_eq!(taken, [lock(LockType::Write, 1, 40, 49), lock(LockType::Read, 1, 50, 59)]);
        taken.iter().for_each(|lock| locks.apply(lock));
        let covers = |byte| {
            ranges(&locks).iter().find(|range| range.1 <= byte && byte <= range.2).map(|it| it.0)
        };
        for byte in 0..100 {
            let kind = before.iter().find(|range| range.1 <= byte && byte <= range.2);
            assert_eq!(covers(byte), kind.map(|it| it.0), "byte {byte}");
        }
    }

    #[test]
    fn an_owner_in_doubt_holds_nothing_and_is_released() {
        let mut locks = HeldLocks::default();
        locks.doubt(LockFamily::Posix, 1);
        assert!(locks.is_empty() && locks.held(Fid::ROOT).is_empty());
        assert!(locks.has(LockFamily::Posix, 1) && !locks.has(LockFamily::Flock, 1));
        locks.release(LockFamily::Posix, 1);
        assert!(!locks.has(LockFamily::Posix, 1));
    }
}

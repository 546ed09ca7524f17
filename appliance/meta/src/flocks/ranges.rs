//! Locks of one family on one inode: ranges by owner, split and merged as POSIX says.
//!
//! Taking, giving back and looking for what is in the way cost by what they touch and the logarithm of the rest. What is in the
//! way is found by classes of length: a range of up to 2^k bytes that reaches a byte begins less than 2^k before it, and of one
//! owner's ranges, which do not overlap, few begin so near.

use std::{collections::BTreeMap, ops::Bound};

use sheen_types::{ClientId, Errno};
use sheen_wire::flock::{FileLock, LockType};

/// Who owns a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Owner {
    pub(super) client: ClientId,
    pub(super) owner: u64,
}

/// A held lock; `kind` is never Unlock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) start: u64,
    /// Last byte.
    pub(super) end: u64,
    pub(super) kind: LockType,
    pub(super) owner: Owner,
    pub(super) pid: u32,
}

/// Classes of length: 2^k bytes up to the double.
const CLASSES: usize = 64;

/// Held locks. The ranges of one owner do not overlap, and neighbours of one kind are one range.
#[derive(Debug)]
pub(super) struct Ranges {
    /// By owner and start.
    held: BTreeMap<(Owner, u64), Range>,
    /// End, by kind (whether for writing), class, start and owner.
    by_class: BTreeMap<(bool, usize, u64, Owner), u64>,
    /// How many there are of each kind and class.
    counts: [[usize; CLASSES]; 2],
}

impl Default for Ranges {
    fn default() -> Self {
        Self { held: BTreeMap::new(), by_class: BTreeMap::new(), counts: [[0; CLASSES]; 2] }
    }
}

/// What setting a lock did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Freed {
    /// Others may get what they could not before.
    Some,
    /// Nothing became free.
    Nothing,
}

impl Range {
    fn class(&self) -> usize {
        (self.end - self.start).saturating_add(1).ilog2() as usize
    }

    fn writes(&self) -> bool {
        self.kind == LockType::Write
    }

    /// Whether it keeps others from `lock`.
    fn excludes(&self, lock: &FileLock) -> bool {
        let excludes = match lock.kind {
            LockType::Unlock => false,
            LockType::Read => self.writes(),
            LockType::Write => true,
        };
        excludes && self.start <= lock.end && lock.start <= self.end
    }
}

/// The smallest and the greatest owner.
const FIRST: Owner = Owner { client: ClientId(0), owner: 0 };
const LAST: Owner = Owner { client: ClientId(u64::MAX), owner: u64::MAX };

impl Ranges {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The kind of the first lock of an owner.
    pub(super) fn kind_of(&self, owner: Owner) -> Option<LockType> {
        self.of_owner(owner).next().map(|range| range.kind)
    }

    pub(super) fn has_client(&self, client: ClientId) -> bool {
        self.of_client(client).next().is_some()
    }

    /// The client of each lock.
    pub(super) fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.held.values().map(|range| range.owner.client)
    }

    fn of_owner(&self, owner: Owner) -> impl Iterator<Item = &Range> {
        self.held.range((owner, 0)..=(owner, u64::MAX)).map(|(_, range)| range)
    }

    fn of_client(&self, client: ClientId) -> impl Iterator<Item = &Range> {
        let first = (Owner { client, owner: 0 }, 0);
        let last = (Owner { client, owner: u64::MAX }, u64::MAX);
        self.held.range(first..=last).map(|(_, range)| range)
    }

    /// Locks of others in the way.
    pub(super) fn conflicts(&self, owner: Owner, lock: &FileLock) -> impl Iterator<Item = &Range> {
        let (start, end) = (lock.start, lock.end);
        // What is in nobody's way beside it, reading beside reading, is not walked over.
        let kinds: &[bool] = match lock.kind {
            LockType::Unlock => &[],
            LockType::Read => &[true],
            LockType::Write => &[false, true],
        };
        let all = kinds.iter().flat_map(|&kind| (0..CLASSES).map(move |class| (kind, class)));
        let there = all.filter(|&(kind, class)| self.counts[usize::from(kind)][class] > 0);
        let near = there.flat_map(move |(kind, class)| {
            let longest = (1_u64 << class).saturating_mul(2);
            let first = (kind, class, start.saturating_sub(longest), FIRST);
            self.by_class.range(first..=(kind, class, end, LAST))
        });
        let in_the_way =
            near.filter(move |&(&(_, _, _, other), &last)| other != owner && start <= last);
        in_the_way.map(move |(&(_, _, start, other), _)| &self.held[&(other, start)])
    }

    /// Whether the range of `other` that begins at `start` is still there and in the way.
    pub(super) fn is_kept_by(
        &self,
        (other, start): (Owner, u64),
        owner: Owner,
        lock: &FileLock,
    ) -> bool {
        self.held.get(&(other, start)).is_some_and(|range| other != owner && range.excludes(lock))
    }

    /// Whether `other` has something in the way of somebody's `lock`; takes a step for each range looked at, and says no when
    /// none is left.
    pub(super) fn keeps(&self, other: Owner, lock: &FileLock, steps: &mut usize) -> bool {
        for (_, range) in self.held.range((other, 0)..=(other, lock.end)).rev() {
            if range.end < lock.start || *steps == 0 {
                return false;
            }
            if range.excludes(lock) {
                return true;
            }
            *steps -= 1;
        }
        false
    }

    /// Each owner once.
    pub(super) fn owners(&self) -> impl Iterator<Item = Owner> {
        let mut next = Bound::Included((FIRST, 0));
        std::iter::from_fn(move || {
            let (&(owner, _), _) = self.held.range((next, Bound::Unbounded)).next()?;
            next = Bound::Excluded((owner, u64::MAX));
            Some(owner)
        })
    }

    /// The first of [`Ranges::conflicts`] in order of start.
    pub(super) fn first_conflict(&self, owner: Owner, lock: &FileLock) -> Option<&Range> {
        self.conflicts(owner, lock).min_by_key(|range| (range.start, range.owner))
    }

    /// Makes `lock` the owner's lock of its range. `room`: by how many ranges the table may grow.
    ///
    /// # Errors
    /// `ENOLCK`: it would grow by more; nothing is changed then.
    pub(super) fn set(
        &mut self,
        owner: Owner,
        lock: &FileLock,
        room: usize,
    ) -> Result<Freed, Errno> {
        let touched = self.touched(owner, lock);
        let mut pieces: Vec<Range> = Vec::with_capacity(touched.len() + 2);
        let mut freed = Freed::Nothing;
        for range in &touched {
            if range.end < lock.start || lock.end < range.start {
                pieces.push(*range);
                continue;
            }
            let is_weaker = (range.kind, lock.kind) == (LockType::Write, LockType::Read);
            if lock.kind == LockType::Unlock || is_weaker {
                freed = Freed::Some;
            }
            if range.start < lock.start {
                pieces.push(Range { end: lock.start - 1, ..*range });
            }
            if lock.end < range.end {
                pieces.push(Range { start: lock.end + 1, ..*range });
            }
        }
        if lock.kind != LockType::Unlock {
            let FileLock { start, end, kind, pid, .. } = *lock;
            pieces.push(Range { start, end, kind, owner, pid });
        }
        pieces.sort_unstable_by_key(|range| range.start);
        pieces.dedup_by(|next, range| {
            let joins = next.kind == range.kind && range.end.checked_add(1) == Some(next.start);
            if joins {
                range.end = next.end;
                range.pid = next.pid;
            }
            joins
        });
        if pieces.len() > touched.len() + room {
            return Err(Errno::ENOLCK);
        }
        touched.iter().for_each(|range| self.remove(range));
        pieces.into_iter().for_each(|range| self.insert(range));
        Ok(freed)
    }

    /// The owner's ranges that `lock` overlaps, or that lie beside it.
    fn touched(&self, owner: Owner, lock: &FileLock) -> Vec<Range> {
        let before = self.held.range((owner, 0)..(owner, lock.start)).next_back();
        let before = before.map(|(_, range)| *range);
        let before = before.filter(|range| range.end.saturating_add(1) >= lock.start);
        let behind = (owner, lock.start)..=(owner, lock.end.saturating_add(1));
        before.into_iter().chain(self.held.range(behind).map(|(_, range)| *range)).collect()
    }

    fn insert(&mut self, range: Range) {
        let Range { start, end, owner, .. } = range;
        self.counts[usize::from(range.writes())][range.class()] += 1;
        self.by_class.insert((range.writes(), range.class(), start, owner), end);
        self.held.insert((owner, start), range);
    }

    fn remove(&mut self, range: &Range) {
        self.counts[usize::from(range.writes())][range.class()] -= 1;
        self.by_class.remove(&(range.writes(), range.class(), range.start, range.owner));
        self.held.remove(&(range.owner, range.start));
    }

    /// Drops an owner's locks; returns how many.
    pub(super) fn remove_owner(&mut self, owner: Owner) -> usize {
        let gone: Vec<Range> = self.of_owner(owner).copied().collect();
        gone.iter().for_each(|range| self.remove(range));
        gone.len()
    }

    /// Drops a client's locks; returns how many.
    pub(super) fn remove_client(&mut self, client: ClientId) -> usize {
        let gone: Vec<Range> = self.of_client(client).copied().collect();
        gone.iter().for_each(|range| self.remove(range));
        gone.len()
    }

    /// In order of start.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Range> {
        let mut ranges: Vec<&Range> = self.held.values().collect();
        ranges.sort_unstable_by_key(|range| (range.start, range.owner));
        ranges.into_iter()
    }
}

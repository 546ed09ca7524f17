//! Locks of one family on one inode: ranges by owner, split and merged as POSIX says.
//!
//! Taking, giving back and looking for what is in the way cost by what they touch and the logarithm of the rest. What is in the
//! way is found by classes of length: a range of up to 2^k bytes that reaches a byte begins less than 2^k before it, and of one
//! owner's ranges, which do not overlap, few begin so near.

use std::collections::BTreeMap;

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
    /// End and kind, by class, start and owner.
    by_class: BTreeMap<(usize, u64, Owner), (u64, LockType)>,
    /// How many there are of each class.
    counts: [usize; CLASSES],
}

impl Default for Ranges {
    fn default() -> Self {
        Self { held: BTreeMap::new(), by_class: BTreeMap::new(), counts: [0; CLASSES] }
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
        let (start, end, kind) = (lock.start, lock.end, lock.kind);
        let classes = (0..CLASSES).filter(move |&class| self.counts[class] > 0);
        let near = classes.flat_map(move |class| {
            let longest = (1_u64 << class).saturating_mul(2);
            let first = (class, start.saturating_sub(longest), FIRST);
            self.by_class.range(first..=(class, end, LAST))
        });
        let in_the_way = near.filter(move |&(&(_, _, other), &(last, held))| {
            let excludes = match (held, kind) {
                (_, LockType::Unlock) | (LockType::Read, LockType::Read) => false,
                (LockType::Write | LockType::Unlock, LockType::Read) | (_, LockType::Write) => true,
            };
            excludes && other != owner && start <= last
        });
        in_the_way.map(move |(&(_, start, other), _)| &self.held[&(other, start)])
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
        let Range { start, end, kind, owner, .. } = range;
        self.counts[range.class()] += 1;
        self.by_class.insert((range.class(), start, owner), (end, kind));
        self.held.insert((owner, start), range);
    }

    fn remove(&mut self, range: &Range) {
        self.counts[range.class()] -= 1;
        self.by_class.remove(&(range.class(), range.start, range.owner));
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

//! Locks of one family on one inode: ranges by owner, split and merged as POSIX says.

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

/// Held locks in order of start. The ranges of one owner do not overlap, and neighbours of one kind
/// are one range.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<Range>);

impl Ranges {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// The kind of the first lock of an owner.
    pub(super) fn kind_of(&self, owner: Owner) -> Option<LockType> {
        self.0.iter().find(|range| range.owner == owner).map(|range| range.kind)
    }

    pub(super) fn has_client(&self, client: ClientId) -> bool {
        self.0.iter().any(|range| range.owner.client == client)
    }

    pub(super) fn clients(&self) -> impl Iterator<Item = ClientId> {
        self.0.iter().map(|range| range.owner.client)
    }

    /// Locks of others in the way, in order of start.
    pub(super) fn conflicts(&self, owner: Owner, lock: &FileLock) -> impl Iterator<Item = &Range> {
        let (start, end, kind) = (lock.start, lock.end, lock.kind);
        let starting = self.0.iter().take_while(move |range| range.start <= end);
        starting.filter(move |range| {
            let excludes = match (range.kind, kind) {
                (_, LockType::Unlock) | (LockType::Read, LockType::Read) => false,
                (LockType::Write | LockType::Unlock, LockType::Read) | (_, LockType::Write) => true,
            };
            excludes && range.owner != owner && start <= range.end
        })
    }

    /// Makes `lock` the owner's lock of its range. `room`: by how many ranges the table may grow.
    ///
    /// # Errors
    /// `ENOLCK`: it would grow by more; nothing is changed then.
    pub(super) fn set(&mut self, owner: Owner, lock: &FileLock, room: usize) -> Result<(), Errno> {
        let mut mine: Vec<Range> = Vec::new();
        for range in self.0.iter().filter(|range| range.owner == owner) {
            if range.end < lock.start || lock.end < range.start {
                mine.push(*range);
                continue;
            }
            if range.start < lock.start {
                mine.push(Range { end: lock.start - 1, ..*range });
            }
            if lock.end < range.end {
                mine.push(Range { start: lock.end + 1, ..*range });
            }
        }
        if lock.kind != LockType::Unlock {
            let FileLock { start, end, kind, pid, .. } = *lock;
            mine.push(Range { start, end, kind, owner, pid });
        }
        mine.sort_unstable_by_key(|range| range.start);
        mine.dedup_by(|next, range| {
            let joins = next.kind == range.kind && range.end.checked_add(1) == Some(next.start);
            if joins {
                range.end = next.end;
                range.pid = next.pid;
            }
            joins
        });
        let others = self.0.iter().filter(|range| range.owner != owner).count();
        if others + mine.len() > self.0.len() + room {
            return Err(Errno::ENOLCK);
        }
        self.0.retain(|range| range.owner != owner);
        self.0.append(&mut mine);
        self.0.sort_by_key(|range| (range.start, range.owner));
        Ok(())
    }

    /// Drops an owner's locks; returns how many.
    pub(super) fn remove_owner(&mut self, owner: Owner) -> usize {
        let before = self.0.len();
        self.0.retain(|range| range.owner != owner);
        before - self.0.len()
    }

    /// Drops a client's locks; returns how many.
    pub(super) fn remove_client(&mut self, client: ClientId) -> usize {
        let before = self.0.len();
        self.0.retain(|range| range.owner.client != client);
        before - self.0.len()
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Range> {
        self.0.iter()
    }
}

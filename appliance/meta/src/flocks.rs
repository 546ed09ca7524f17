//! File locks of programs: `flock`, and record locks of `fcntl` (POSIX and open-file-description).
//!
//! Volatile. Locks are kept per inode and family; the families do not see each other. The owner of
//! a lock is (client, owner number). A free range is given to whoever asks first; among those that
//! wait, to who waited longest. As on Linux a newcomer that nobody's *held* lock is in the way of
//! does not queue behind waiting ones: with queueing, locks that POSIX allows could deadlock.
//! Changing the type of a `flock` gives the old lock up first, as flock(2) says.

use std::collections::{BTreeMap, BTreeSet};

use sheen_types::{ClientId, Errno, Fid, Xid};
use sheen_wire::flock::{FileLock, LockFamily, LockType};

use crate::shares::Shares;

mod deadlock;
mod ranges;

use ranges::{Freed, Owner, Ranges};

/// Last byte of a range to the end of the file.
pub const RANGE_END: u64 = u64::MAX >> 1;

/// Bounds of [`FileLocks`]. What of each a client may take follows [`Shares`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockLimits {
    /// Held locks, ranges counted one by one.
    pub locks_max: usize,
    /// Held locks of one family on one inode. What is given back may split a range beyond it.
    pub inode_locks_max: usize,
    /// Waiting requests.
    pub waiters_max: usize,
    /// Clients there may be.
    pub clients_max: usize,
}

impl Default for LockLimits {
    /// A million locks, 65,536 of an inode, 65,536 waiting requests.
    fn default() -> Self {
        Self {
            locks_max: 1 << 20,
            inode_locks_max: 1 << 16,
            waiters_max: 1 << 16,
            clients_max: 4096,
        }
    }
}

/// The immediate answer to [`FileLocks::set`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockAnswer {
    /// Done.
    Granted,
    /// In the way (`EAGAIN`), a deadlock (`EDEADLK`), the table is full (`ENOLCK`), or no range
    /// (`EINVAL`).
    Refused(Errno),
    /// Waits; a [`LockGrant`] with its number comes out of a later call.
    Waiting,
}

/// The end of a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockGrant {
    /// Who waited.
    pub client: ClientId,
    /// The request that waited.
    pub xid: Xid,
    /// Granted, or refused after all: `ENOLCK`, the table is full; `ESTALE`, the inode is gone.
    pub result: Result<(), Errno>,
}

type Key = (Fid, LockFamily);

#[derive(Debug, Clone)]
struct Waiter {
    client: ClientId,
    xid: Xid,
    lock: FileLock,
    /// Owner and start of a range that was in the way when it was last looked at.
    behind: Option<(Owner, u64)>,
}

/// Locks of one family on one inode, and who waits for them, longest first.
#[derive(Debug, Default)]
struct Resource {
    held: Ranges,
    waiters: Vec<Waiter>,
}

/// Table of file locks.
#[derive(Debug)]
pub struct FileLocks {
    limits: LockLimits,
    resources: BTreeMap<Key, Resource>,
    /// Where each client has locks or waits.
    by_client: BTreeSet<(ClientId, Key)>,
    /// Where each waiting request waits.
    waiting: BTreeMap<(ClientId, Xid), Key>,
    /// Waiting record-lock requests of each owner, for the search for deadlocks.
    waiting_owners: BTreeMap<Owner, Vec<(Xid, FileLock)>>,
    held: Shares,
    waits: Shares,
}

impl FileLocks {
    /// An empty table.
    #[must_use]
    pub const fn new(limits: LockLimits) -> Self {
        Self {
            limits,
            resources: BTreeMap::new(),
            by_client: BTreeSet::new(),
            waiting: BTreeMap::new(),
            waiting_owners: BTreeMap::new(),
            held: Shares::new(limits.locks_max, limits.clients_max),
            waits: Shares::new(limits.waiters_max, limits.clients_max),
        }
    }

    /// Held locks, ranges counted one by one.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.held.total()
    }

    /// Whether no lock is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.held.total() == 0
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes, changes or drops a lock. With `wait` the request of that number waits instead of
    /// being refused. Waits that end because of this call are appended to `ended`.
    pub fn set(
        &mut self,
        client: ClientId,
        lock: &FileLock,
        wait: Option<Xid>,
        ended: &mut Vec<LockGrant>,
    ) -> LockAnswer {
        let Some(lock) = normalized(lock) else { return LockAnswer::Refused(Errno::EINVAL) };
        let key = (lock.fid, lock.family);
        let owner = Owner { client, owner: lock.owner };
        if lock.family == LockFamily::Flock && lock.kind != LockType::Unlock {
            let held = self.resources.get(&key).and_then(|resource| resource.held.kind_of(owner));
            if held == Some(lock.kind) {
                return LockAnswer::Granted;
            }
            if held.is_some() {
                self.release(client, lock.fid, lock.family, lock.owner, ended);
            }
        }
        if self.is_kept_from(owner, &lock) {
            return match wait {
                Some(xid) => self.wait(owner, xid, lock),
                None => LockAnswer::Refused(Errno::EAGAIN),
            };
        }
        let gives_back = lock.kind == LockType::Unlock;
        let room = if gives_back { self.room_to_split(client) } else { self.room_for(client, key) };
        match self.take(owner, &lock, room) {
            Ok(Freed::Nothing) => LockAnswer::Granted,
            Ok(Freed::Some) => {
                self.wake(key, ended);
                LockAnswer::Granted
            }
            Err(errno) => LockAnswer::Refused(errno),
        }
    }

    /// The first lock of another owner in the way of `lock`, as `F_GETLK` shows it; None if it
    /// could be taken.
    #[must_use]
    pub fn test(&self, client: ClientId, lock: &FileLock) -> Option<FileLock> {
        let lock = normalized(lock)?;
        self.conflict(Owner { client, owner: lock.owner }, &lock)
    }

    /// Gives up a waiting request; returns whether it was waiting (answer it `EINTR`), false if it
    /// was granted before.
    pub fn cancel(&mut self, client: ClientId, xid: Xid) -> bool {
        let Some(key) = self.waiting.get(&(client, xid)).copied() else { return false };
        if let Some(resource) = self.resources.get_mut(&key) {
            let at = resource.waiters.iter().position(|w| (w.client, w.xid) == (client, xid));
            if let Some(waiter) = at.map(|at| resource.waiters.remove(at)) {
                self.forget_waiter(key, &waiter);
            }
        }
        self.tidy(key, client);
        true
    }

    /// Drops every lock of an owner on an inode. Its waiting requests go on waiting: a thread that
    /// closes a descriptor does not end another's fcntl(2).
    pub fn release(
        &mut self,
        client: ClientId,
        fid: Fid,
        family: LockFamily,
        owner: u64,
        ended: &mut Vec<LockGrant>,
    ) {
        let key = (fid, family);
        if let Some(resource) = self.resources.get_mut(&key) {
            self.held.take(client, resource.held.remove_owner(Owner { client, owner }));
            self.wake(key, ended);
            self.tidy(key, client);
        }
    }

    /// Drops every lock of a client on an inode, of all its owners and both families. Its waiting requests go on waiting.
    pub fn release_inode(&mut self, client: ClientId, fid: Fid, ended: &mut Vec<LockGrant>) {
        for &family in LockFamily::ALL {
            let key = (fid, family);
            let Some(resource) = self.resources.get_mut(&key) else { continue };
            self.held.take(client, resource.held.remove_client(client));
            self.wake(key, ended);
            self.tidy(key, client);
        }
    }

    /// Drops everything of a client, waiting requests included (those get no answer).
    pub fn drop_client(&mut self, client: ClientId, ended: &mut Vec<LockGrant>) {
        let first = (client, (Fid::NONE, LockFamily::Flock));
        let mine = self.by_client.range(first..).take_while(|(other, _)| *other == client);
        let keys: Vec<Key> = mine.map(|&(_, key)| key).collect();
        for key in keys {
            let Some(resource) = self.resources.get_mut(&key) else { continue };
            self.held.take(client, resource.held.remove_client(client));
            let (gone, stay) =
                std::mem::take(&mut resource.waiters).into_iter().partition(|w| w.client == client);
            resource.waiters = stay;
            let gone: Vec<Waiter> = gone;
            for waiter in gone {
                self.forget_waiter(key, &waiter);
            }
            self.wake(key, ended);
            self.tidy(key, client);
        }
    }

    /// Forgets an inode that is gone; waiting requests on it end with `ESTALE`.
    pub fn forget(&mut self, fid: Fid, ended: &mut Vec<LockGrant>) {
        for &family in LockFamily::ALL {
            let key = (fid, family);
            let Some(resource) = self.resources.remove(&key) else { continue };
            for client in resource.held.clients() {
                self.held.take(client, 1);
                self.by_client.remove(&(client, key));
            }
            for waiter in resource.waiters {
                self.forget_waiter(key, &waiter);
                self.by_client.remove(&(waiter.client, key));
                let Waiter { client, xid, .. } = waiter;
                ended.push(LockGrant { client, xid, result: Err(Errno::ESTALE) });
            }
        }
    }

    /// A lock a client held before the restart.
    ///
    /// # Errors
    /// `EAGAIN` when another asserted a conflicting one first, `ENOLCK` when the client asserted as many as it can have held
    /// or the table is full twice, `EINVAL` for a lock nobody can hold.
    pub fn reassert(&mut self, client: ClientId, lock: &FileLock) -> Result<(), Errno> {
        let lock = normalized(lock).ok_or(Errno::EINVAL)?;
        let owner = Owner { client, owner: lock.owner };
        if lock.kind == LockType::Unlock {
            return Err(Errno::EINVAL);
        }
        if self.is_kept_from(owner, &lock) {
            return Err(Errno::EAGAIN);
        }
        let room = self.held.left_to_assert(client, self.held.most());
        self.take(owner, &lock, room).map(|_freed| ())
    }

    /// Locks a client may come to by giving back what splits a range: that is not refused for want of a share, while there
    /// is room and the client holds no more than one can.
    fn room_to_split(&self, client: ClientId) -> usize {
        let there = self.limits.locks_max.saturating_sub(self.held.total());
        self.held.most().saturating_sub(self.held.of(client)).min(there)
    }

    /// Locks a client may take on an inode.
    fn room_for(&self, client: ClientId, key: Key) -> usize {
        let here = self.resources.get(&key).map_or(0, |resource| resource.held.len());
        let left = self.limits.inode_locks_max.saturating_sub(here);
        self.held.left(client).min(left)
    }

    /// Whether a lock of another owner is in the way.
    fn is_kept_from(&self, owner: Owner, lock: &FileLock) -> bool {
        let resource = self.resources.get(&(lock.fid, lock.family));
        resource.is_some_and(|resource| resource.held.conflicts(owner, lock).next().is_some())
    }

    fn conflict(&self, owner: Owner, lock: &FileLock) -> Option<FileLock> {
        let resource = self.resources.get(&(lock.fid, lock.family))?;
        resource.held.first_conflict(owner, lock).map(|held| FileLock {
            fid: lock.fid,
            family: lock.family,
            kind: held.kind,
            owner: held.owner.owner,
            pid: held.pid,
            start: held.start,
            end: held.end,
        })
    }

    /// Sets a lock nothing is in the way of, that takes at most `room` places.
    fn take(&mut self, owner: Owner, lock: &FileLock, room: usize) -> Result<Freed, Errno> {
        let key = (lock.fid, lock.family);
        let resource = self.resources.entry(key).or_default();
        let before = resource.held.len();
        let result = resource.held.set(owner, lock, room);
        let now = resource.held.len();
        self.held.add(owner.client, now.saturating_sub(before));
        self.held.take(owner.client, before.saturating_sub(now));
        self.by_client.insert((owner.client, key));
        self.tidy(key, owner.client);
        result
    }

    fn wait(&mut self, owner: Owner, xid: Xid, lock: FileLock) -> LockAnswer {
        let key = (lock.fid, lock.family);
        if self.waits.left(owner.client) == 0 {
            return LockAnswer::Refused(Errno::ENOLCK);
        }
        if lock.family == LockFamily::Posix {
            if self.would_deadlock(owner, &lock) {
                return LockAnswer::Refused(Errno::EDEADLK);
            }
            self.waiting_owners.entry(owner).or_default().push((xid, lock.clone()));
        }
        let new = self.waiting.insert((owner.client, xid), key).is_none();
        self.waits.add(owner.client, usize::from(new));
        self.by_client.insert((owner.client, key));
        let resource = self.resources.entry(key).or_default();
        resource.waiters.push(Waiter { client: owner.client, xid, lock, behind: None });
        LockAnswer::Waiting
    }

    /// Grants what can be granted, longest waiting first. A grant may free ranges in its turn (an
    /// owner that changed its own lock to reading), so it goes on until nothing moves; each turn
    /// takes a waiter away.
    fn wake(&mut self, key: Key, ended: &mut Vec<LockGrant>) {
        loop {
            let Some(Resource { held, waiters }) = self.resources.get_mut(&key) else { return };
            let free = waiters.iter_mut().position(|waiter| {
                let Waiter { client, lock, behind, .. } = waiter;
                let owner = Owner { client: *client, owner: lock.owner };
                if behind.is_some_and(|range| held.is_kept_by(range, owner, lock)) {
                    return false;
                }
                let conflict = held.conflicts(owner, lock).next();
                *behind = conflict.map(|range| (range.owner, range.start));
                behind.is_none()
            });
            let Some(waiter) = free.map(|at| waiters.remove(at)) else { return };
            self.forget_waiter(key, &waiter);
            let Waiter { client, xid, lock, .. } = waiter;
            let room = self.room_for(client, key);
            let result = self.take(Owner { client, owner: lock.owner }, &lock, room).map(|_| ());
            ended.push(LockGrant { client, xid, result });
        }
    }

    fn forget_waiter(&mut self, key: Key, waiter: &Waiter) {
        let waited = self.waiting.remove(&(waiter.client, waiter.xid)).is_some();
        self.waits.take(waiter.client, usize::from(waited));
        let owner = Owner { client: waiter.client, owner: waiter.lock.owner };
        if let Some(waits) = self.waiting_owners.get_mut(&owner) {
            waits.retain(|(xid, lock)| (*xid, (lock.fid, lock.family)) != (waiter.xid, key));
            if waits.is_empty() {
                self.waiting_owners.remove(&owner);
            }
        }
    }

    /// Forgets what a client has nothing in any more.
    fn tidy(&mut self, key: Key, client: ClientId) {
        let Some(resource) = self.resources.get(&key) else {
            self.by_client.remove(&(client, key));
            return;
        };
        let waits = resource.waiters.iter().any(|waiter| waiter.client == client);
        if !waits && !resource.held.has_client(client) {
            self.by_client.remove(&(client, key));
        }
        if resource.held.len() == 0 && resource.waiters.is_empty() {
            self.resources.remove(&key);
        }
    }
}

/// The lock with a range that can be: of a `flock` the whole file. None if there is none.
fn normalized(lock: &FileLock) -> Option<FileLock> {
    let whole = lock.family == LockFamily::Flock;
    let (start, end) = if whole { (0, RANGE_END) } else { (lock.start, lock.end.min(RANGE_END)) };
    if start > end { None } else { Some(FileLock { start, end, ..lock.clone() }) }
}

#[cfg(test)]
mod test;

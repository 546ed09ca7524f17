//! The inodes the client knows, by id.
//!
//! What an inode that is not known (yet, or any more) has lost is kept as one number: no grant up to `floor` counts for an
//! inode made known later. The MDT numbers grants and revokes of all inodes by one counter that never goes back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use sheen_types::Fid;

use crate::inode::Inode;

/// Table of inodes. An entry lives while somebody holds its `Arc`, it is open, or it is kept for its leases.
#[derive(Debug, Default)]
pub(crate) struct InodeTable {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_fid: BTreeMap<Fid, Arc<Inode>>,
    /// Those nobody uses, oldest first; may name an inode that is used again, or twice.
    idle: VecDeque<Fid>,
    /// The last revoke of an inode that was not known, or of anything about one that was dropped.
    floor: u64,
}

impl InodeTable {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while locked")
    }

    /// The inode, made known if it was not; `server` as of now.
    pub(crate) fn get(&self, fid: Fid, server: impl FnOnce() -> u64) -> Arc<Inode> {
        let mut inner = self.lock();
        let floor = inner.floor;
        let made = || Arc::new(Inode::new(fid, server(), floor));
        inner.by_fid.entry(fid).or_insert_with(made).clone()
    }

    /// The inode a revoke of number `sequence` is about. One that is not known may be named by an answer on its way that
    /// was sent before: what that grants is asked back already.
    pub(crate) fn revoked(&self, fid: Fid, sequence: u64) -> Option<Arc<Inode>> {
        let mut inner = self.lock();
        let known = inner.by_fid.get(&fid).cloned();
        if known.is_none() {
            inner.floor = inner.floor.max(sequence);
        }
        known
    }

    /// The inode if it is known.
    pub(crate) fn find(&self, fid: Fid) -> Option<Arc<Inode>> {
        self.lock().by_fid.get(&fid).cloned()
    }

    /// Every inode known.
    pub(crate) fn all(&self) -> Vec<Arc<Inode>> {
        self.lock().by_fid.values().cloned().collect()
    }

    /// Nobody uses the inode any more. Takes out what is not worth keeping; returns those that go though
    /// they may have leases.
    pub(crate) fn idle(&self, fid: Fid, idle_max: usize) -> Vec<Arc<Inode>> {
        let mut inner = self.lock();
        inner.idle.push_back(fid);
        let mut gone = Vec::new();
        while inner.idle.len() > idle_max {
            let Some(oldest) = inner.idle.pop_front() else { break };
            if let Some(inode) = inner.take_unused(oldest) {
                gone.push(inode);
            }
        }
        gone
    }
}

impl InodeTable {
    /// Takes inodes out that nobody uses, until at most `max` are left. Those that were listed but never given to the
    /// kernel are not noticed otherwise.
    pub(crate) fn trim(&self, max: usize) -> Vec<Arc<Inode>> {
        let mut inner = self.lock();
        let surplus = inner.by_fid.len().saturating_sub(max);
        if surplus == 0 {
            return Vec::new();
        }
        let fids: Vec<Fid> = inner.by_fid.keys().copied().collect();
        fids.into_iter().filter_map(|fid| inner.take_unused(fid)).take(surplus).collect()
    }
}

impl Inner {
    fn take_unused(&mut self, fid: Fid) -> Option<Arc<Inode>> {
        let inode = self.by_fid.get(&fid)?;
        // Others come to it only through this table, which is locked.
        if Arc::strong_count(inode) > 1 {
            return None;
        }
        let state = inode.lock();
        let open = state.readers + state.writers > 0 || state.kept;
        if open || state.revoking != 0 || !state.locks.is_empty() {
            return None;
        }
        self.floor = self.floor.max(state.sequence);
        drop(state);
        self.by_fid.remove(&fid)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn idle_inodes_are_kept_up_to_the_bound_and_used_ones_beyond() {
        let table = InodeTable::default();
        let fid = |oid| Fid::new(Fid::NORMAL_SEQUENCE_FIRST, oid);
        let used = table.get(fid(1), || 0);
        for oid in 2..=4 {
            drop(table.get(fid(oid), || 0));
        }
        assert!(table.idle(fid(1), 3).is_empty());
        assert!(table.idle(fid(2), 3).is_empty());
        assert!(table.idle(fid(3), 3).is_empty());
        assert!(table.idle(fid(4), 3).is_empty(), "the oldest is in use");
        let gone = table.idle(fid(1), 3);
        assert_eq!(gone.iter().map(|inode| inode.fid).collect::<Vec<_>>(), [fid(2)]);
        assert!(table.find(fid(2)).is_none());
        let gone: Vec<Fid> = table.trim(2).iter().map(|inode| inode.fid).collect();
        assert_eq!(gone, [fid(3)], "one too many, and the first is in use");
        assert!(Arc::ptr_eq(&table.get(fid(1), || 0), &used));
    }

    #[test]
    fn what_an_unknown_or_dropped_inode_lost_counts_when_it_is_made_known() {
        let table = InodeTable::default();
        let fid = |oid| Fid::new(Fid::NORMAL_SEQUENCE_FIRST, oid);
        assert!(table.revoked(fid(1), 7).is_none());
        assert_eq!(table.get(fid(1), || 0).lock().sequence, 7);
        table.get(fid(2), || 0).lock().sequence = 9;
        assert!(table.revoked(fid(2), 20).is_some(), "it knows itself");
        assert_eq!(table.trim(0).len(), 2);
        assert_eq!(table.get(fid(2), || 0).lock().sequence, 9);
    }
}

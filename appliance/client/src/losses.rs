//! Inodes whose caches show what was lost. One thread hands each to those that drop caches.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

use sheen_types::Fid;

#[derive(Debug, Default)]
struct State {
    waiting: BTreeSet<Fid>,
    dropping: BTreeSet<Fid>,
    closed: bool,
}

impl State {
    /// One that is not being dropped already: what was lost meanwhile is dropped after that.
    fn ready(&self) -> Option<Fid> {
        self.waiting.difference(&self.dropping).next().copied()
    }

    fn has(&self, fid: Fid) -> bool {
        self.waiting.contains(&fid) || self.dropping.contains(&fid)
    }
}

/// Those whose caches are not dropped yet: no more than inodes are known.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    state: Mutex<State>,
    changed: Condvar,
}

impl Losses {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    /// A change of the inode was lost.
    pub(crate) fn note(&self, fid: Fid) {
        self.lock().waiting.insert(fid);
        self.changed.notify_all();
    }

    /// Waits for an inode whose caches are to be dropped and are not being dropped; ends with [`Self::end`]. None: the end.
    pub(crate) fn next(&self) -> Option<Fid> {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| !state.closed && state.ready().is_none())
            .expect("no panic while locked");
        if state.closed {
            return None;
        }
        let next = state.ready()?;
        state.waiting.remove(&next);
        state.dropping.insert(next);
        Some(next)
    }

    /// The caches of the inode are dropped.
    pub(crate) fn end(&self, fid: Fid) {
        self.lock().dropping.remove(&fid);
        self.changed.notify_all();
    }

    /// Whether caches of the inode are still to be dropped after `longest`.
    pub(crate) fn is_dropping(&self, fid: Fid, longest: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), longest, |state| state.has(fid));
        waited.expect("no panic while locked").0.has(fid)
    }

    /// The end of the thread.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

//! Inodes whose caches show what was lost: they are dropped by one thread.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

use sheen_types::Fid;

#[derive(Debug, Default)]
struct State {
    waiting: BTreeSet<Fid>,
    dropping: Option<Fid>,
    closed: bool,
}

impl State {
    fn has(&self, fid: Fid) -> bool {
        self.waiting.contains(&fid) || self.dropping == Some(fid)
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

    /// Waits for an inode whose caches are to be dropped; ends with [`Self::end`]. None: the end.
    pub(crate) fn next(&self) -> Option<Fid> {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| !state.closed && state.waiting.is_empty())
            .expect("no panic while locked");
        if state.closed {
            return None;
        }
        state.dropping = state.waiting.pop_first();
        state.dropping
    }

    /// The caches are dropped.
    pub(crate) fn end(&self) {
        self.lock().dropping = None;
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

//! Order of the requests about file locks of one owner: nothing is asked for before its earlier releases are answered.
//!
//! A release whose caller left is sent again after a lost connection until the MDT answers it. Were the owner's next lock
//! asked for before that, the release would drop it, and the owner would go on to believe that it holds it. A process may
//! have the owner number of one that ended, so this holds between processes, too. So a request that takes or tests a lock is
//! sent, and sent again, only while no release of its owner is under way, nor a request for a lock whose caller left: that
//! one may yet have to be given back. Releases wait for nothing, so all waits end as soon as the MDT answers.
//!
//! Releases that were left are waited for whatever their owner: a lock of a process that ended is in nobody's way.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid};
use sheen_wire::flock::{FileLock, LockFamily};

use crate::{client::Client, slots::CANCEL_POLL};

/// Who holds locks of one family on one inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LockOwner {
    pub(crate) fid: Fid,
    pub(crate) family: LockFamily,
    pub(crate) owner: u64,
}

impl LockOwner {
    /// The owner of `lock`.
    pub(crate) fn of(lock: &FileLock) -> Self {
        Self { fid: lock.fid, family: lock.family, owner: lock.owner }
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// What each owner's requests wait for. As many entries as there are requests under way, which hold memory of their own.
    owners: BTreeMap<LockOwner, usize>,
    /// Releases whose callers left.
    left: usize,
}

#[derive(Debug, Default)]
struct Table {
    counts: Mutex<Counts>,
    ended: Condvar,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LockOrder(Arc<Table>);

/// A request that others of its owner wait for; dropped when it is answered, or is known never to be sent again.
#[derive(Debug)]
pub(crate) struct LockTurn {
    table: Arc<Table>,
    owner: LockOwner,
    /// A release whose caller left.
    left: bool,
}

/// What a request about file locks has to do with others.
#[derive(Debug)]
pub(crate) enum LockPlace {
    /// It is a release: later requests wait for it.
    Releases(LockTurn),
    /// It is sent behind the releases of this owner.
    Behind(LockOwner),
    /// It was sent so, and its caller left: later requests wait for it.
    Left(LockTurn),
}

impl LockOrder {
    /// A request of `owner` begins that later ones wait for.
    pub(crate) fn begin(&self, owner: LockOwner) -> LockTurn {
        *self.0.lock().owners.entry(owner).or_default() += 1;
        LockTurn { table: self.0.clone(), owner, left: false }
    }

    /// The caller of a request left.
    pub(crate) fn leave(&self, place: LockPlace) -> LockPlace {
        match place {
            LockPlace::Releases(mut turn) => {
                if !std::mem::replace(&mut turn.left, true) {
                    self.0.lock().left += 1;
                }
                LockPlace::Releases(turn)
            }
            LockPlace::Behind(owner) => LockPlace::Left(self.begin(owner)),
            LockPlace::Left(turn) => LockPlace::Left(turn),
        }
    }

    /// Whether nothing is under way that a request of `owner` waits for.
    pub(crate) fn is_free(&self, owner: &LockOwner) -> bool {
        self.wait(owner, Duration::ZERO)
    }

    /// The same, after a wait of at most `longest`.
    fn wait(&self, owner: &LockOwner, longest: Duration) -> bool {
        let busy = |counts: &mut Counts| counts.left > 0 || counts.owners.contains_key(owner);
        let (_counts, outcome) = self
            .0
            .ended
            .wait_timeout_while(self.0.lock(), longest, busy)
            .expect("no panic while locked");
        !outcome.timed_out()
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("no panic while locked")
    }
}

impl Drop for LockTurn {
    fn drop(&mut self) {
        let mut counts = self.table.lock();
        counts.left -= usize::from(self.left);
        if let Some(count) = counts.owners.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                counts.owners.remove(&self.owner);
            }
        }
        drop(counts);
        self.table.ended.notify_all();
    }
}

impl Client {
    /// Waits until a request of `owner` may be sent.
    ///
    /// # Errors
    /// EINTR: cancelled. ENOTCONN: the session ended. EIO: another node answers.
    pub(crate) fn await_releases(&self, owner: &LockOwner, cancel: &Cancel) -> Result<(), Errno> {
        while !self.lock_order.wait(owner, CANCEL_POLL) {
            if cancel.is_cancelled() {
                return Err(Errno::EINTR);
            }
            self.session.check_wait()?;
        }
        Ok(())
    }
}

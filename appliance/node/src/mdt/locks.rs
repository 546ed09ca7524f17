//! File locks of programs: a thin layer over [`sheen_meta::FileLocks`] that keeps the requests that wait.

use sheen_meta::{LockAnswer, LockGrant};
use sheen_types::{ClientId, Errno, Xid};
use sheen_wire::flock::{FileLock, LockCancel, LockRelease, LockSet, LockType};

use super::{
    core::Mdt,
    request::{Answer, Incoming},
};

impl Mdt {
    pub(crate) fn lock_set(&mut self, incoming: Incoming) {
        let Some(LockSet { lock, wait }) = self.body_of(&incoming) else { return };
        let (client, xid) = (incoming.frame.client, incoming.frame.xid);
        if self.state.attributes(lock.fid).is_err() {
            return self.answer(&incoming, Answer::error(Errno::ESTALE));
        }
        if let Some(waiting) = self.lock_waits.get_mut(&(client, xid)) {
            // Sent again over a new connection: the wait goes on, its answer goes there.
            let first = std::mem::replace(waiting, incoming);
            return self.answer(&first, Answer::error(Errno::ENOTCONN));
        }
        let mut ended = Vec::new();
        let answer = self.locks.set(client, &lock, wait.then_some(xid), &mut ended);
        match answer {
            LockAnswer::Granted => self.answer(&incoming, Answer::empty()),
            LockAnswer::Refused(errno) => self.answer(&incoming, Answer::error(errno)),
            LockAnswer::Waiting => {
                self.lock_waits.insert((client, xid), incoming);
            }
        }
        self.answer_lock_waits(ended);
    }

    pub(crate) fn lock_test(&mut self, incoming: &Incoming) {
        let Some(lock) = self.body_of::<FileLock>(incoming) else { return };
        let free = FileLock { kind: LockType::Unlock, ..lock.clone() };
        let answer = self.locks.test(incoming.frame.client, &lock).unwrap_or(free);
        self.answer(incoming, Answer::body(&answer));
    }

    pub(crate) fn lock_cancel(&mut self, incoming: &Incoming) {
        let Some(LockCancel { waiting }) = self.body_of(incoming) else { return };
        let client = incoming.frame.client;
        if self.locks.cancel(client, waiting)
            && let Some(waiter) = self.lock_waits.remove(&(client, waiting))
        {
            self.answer(&waiter, Answer::error(Errno::EINTR));
        }
        self.answer(incoming, Answer::empty());
    }

    pub(crate) fn lock_release(&mut self, incoming: &Incoming) {
        let Some(LockRelease { fid, family, owner }) = self.body_of(incoming) else { return };
        let mut ended = Vec::new();
        self.locks.release(incoming.frame.client, fid, family, owner, &mut ended);
        self.answer(incoming, Answer::empty());
        self.answer_lock_waits(ended);
    }

    /// The session of a client ends: what waits for locks is answered ENOTCONN.
    pub(crate) fn end_lock_waits(&mut self, client: ClientId) {
        let own = (client, Xid(0))..=(client, Xid(u64::MAX));
        let waits: Vec<Xid> = self.lock_waits.range(own).map(|(&(_, xid), _)| xid).collect();
        for xid in waits {
            self.locks.cancel(client, xid);
            if let Some(waiter) = self.lock_waits.remove(&(client, xid)) {
                self.answer(&waiter, Answer::error(Errno::ENOTCONN));
            }
        }
    }

    /// Waits that ended are answered.
    pub(crate) fn answer_lock_waits(&mut self, ended: Vec<LockGrant>) {
        for LockGrant { client, xid, result } in ended {
            if let Some(waiter) = self.lock_waits.remove(&(client, xid)) {
                self.answer_result(&waiter, result.map(|()| Answer::empty()));
            }
        }
    }
}

//! File locks: `flock`, `fcntl` and open-file-description locks, all held by the MDT.
//!
//! A wait ends when the lock is granted or when its program got a signal: then the MDT is told, and its answer to the waiting
//! request decides. A program that was killed waits for that answer a moment only; nobody knows then whether its owner has the lock,
//! so it is released when its owner ends, and not asserted when the MDT restarts. Beyond [`LOCK_WAITS_MAX`] waits at a time, the
//! others ask again and again instead, so that unlocks always find a place on the connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{Errno, Xid};
use sheen_wire::{
    Opcode,
    flock::{FileLock, LockCancel, LockFamily, LockRelease, LockSet, LockType},
};

use crate::{
    client::Client,
    inode::Inode,
    lock_order::LockOwner,
    request::{LOCK_WAITS_MAX, Request, Then},
};

/// How long the wait of a program that was killed may go on until the MDT says whether the lock was granted just now.
const ANSWER_MAX: Duration = Duration::from_millis(200);
/// As [`ANSWER_MAX`], of a program that lives on: it must not hold a lock it does not know of. An MDT that is there answers in
/// less; beyond it the lock is in doubt until its owner ends.
const CERTAIN_MAX: Duration = Duration::from_secs(5);
/// How long a program whose wait a signal ended may wait for the MDT once more, to take a lock that nobody holds.
const AT_ONCE_MAX: Duration = Duration::from_secs(1);
/// How often those ask that do not wait at the MDT.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How many wait at the MDT.
#[derive(Debug, Default)]
pub(crate) struct LockWaits(AtomicUsize);

/// A lock a program wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockWanted {
    /// Family.
    pub family: LockFamily,
    /// Type.
    pub kind: LockType,
    /// Owner, unique within the mount.
    pub owner: u64,
    /// Process, for `F_GETLK`.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// Last byte, included.
    pub end: u64,
    /// Wait for it.
    pub wait: bool,
}

impl LockWanted {
    fn message(&self, inode: &Inode) -> FileLock {
        FileLock {
            fid: inode.fid,
            family: self.family,
            kind: self.kind,
            owner: self.owner,
            pid: self.pid,
            start: self.start,
            end: self.end,
        }
    }
}

impl Client {
    /// Takes, changes or drops a lock. `signal` ends the wait for a lock that another holds, `cancel` any wait; whoever
    /// cancels `cancel` cancels `signal` too.
    ///
    /// # Errors
    /// EAGAIN when it is held and not to be waited for, EDEADLK, ENOLCK, EINTR when the wait was ended, EIO when
    /// the file's locks were lost.
    pub fn set_lock(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        wanted: &LockWanted,
        signal: &Cancel,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        if inode.is_failed() && wanted.kind != LockType::Unlock {
            return Err(Errno::EIO);
        }
        let lock = wanted.message(inode);
        if wanted.kind != LockType::Unlock {
            self.await_releases(&LockOwner::of(&lock), signal)?;
        }
        if !wanted.wait || wanted.kind == LockType::Unlock {
            return self.set_lock_once(inode, &lock, cancel);
        }
        loop {
            let waiting = self.lock_waits.0.fetch_add(1, Ordering::AcqRel) < LOCK_WAITS_MAX;
            let result = if waiting {
                self.wait_for_lock(inode, &lock, signal, cancel)
            } else {
                self.set_lock_once(inode, &lock, cancel)
            };
            self.lock_waits.0.fetch_sub(1, Ordering::AcqRel);
            match result {
                Err(Errno::EAGAIN) if signal.sleep(ASK_AGAIN) => return Err(Errno::EINTR),
                Err(Errno::EAGAIN) => {}
                other => return other,
            }
        }
    }

    /// As [`Client::set_lock`], for a program whose wait a signal ended: waits for no other lock, and a moment only for the
    /// MDT. It is in doubt then, as if `cancel` had been cancelled, and EINTR.
    ///
    /// # Errors
    /// As [`Client::set_lock`].
    pub fn set_lock_at_once(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        wanted: &LockWanted,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let late = Cancel::new();
        let _watch = cancel.on_cancel({
            let late = late.clone();
            Arc::new(move || late.cancel())
        });
        if cancel.is_cancelled() {
            return Err(Errno::EINTR);
        }
        self.finisher.cancel_at(self.clock.now().after(AT_ONCE_MAX), late.clone());
        self.set_lock(inode, &LockWanted { wait: false, ..*wanted }, &late, &late)
    }

    fn set_lock_once(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        lock: &FileLock,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let body = LockSet { lock: lock.clone(), wait: false };
        let request = Request::new(Opcode::LockSet, &body).urgent();
        let given_up = inode.lock().locks.give_up_for(lock);
        let (request, then) = match lock.kind {
            LockType::Unlock => (request, Then::Nothing),
            LockType::Read | LockType::Write => {
                let then = Then::Unlock(inode.clone(), lock.clone());
                (request.behind(LockOwner::of(lock)), then)
            }
        };
        let result = self.ask_then(request, then, cancel).map(drop);
        note_outcome(inode, lock, &given_up, result)
    }

    fn wait_for_lock(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        lock: &FileLock,
        signal: &Cancel,
        cancel: &Cancel,
    ) -> Result<(), Errno> {
        let waiting = self.session.next_xid();
        let (ended, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let give_up = Cancel::new();
        // The answer decides, if it comes within `patience`.
        let withdraw = |patience: Duration| {
            let (client, late) = (self.clone(), give_up.clone());
            let (ended, told) = (ended.clone(), told.clone());
            Arc::new(move || {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                if !told.swap(true, Ordering::AcqRel) {
                    client.deliver(withdrawal(waiting));
                }
                client.finisher.cancel_at(client.clock.now().after(patience), late.clone());
            })
        };
        let watches =
            (signal.on_cancel(withdraw(CERTAIN_MAX)), cancel.on_cancel(withdraw(ANSWER_MAX)));
        if signal.is_cancelled() {
            return Err(Errno::EINTR);
        }
        let request = Request::new(Opcode::LockSet, &LockSet { lock: lock.clone(), wait: true });
        let request = request.behind(LockOwner::of(lock));
        let given_up = inode.lock().locks.give_up_for(lock);
        let then = Then::Unlock(inode.clone(), lock.clone());
        let result = self.ask_numbered(request.urgent(), Some(waiting), then, &give_up);
        ended.store(true, Ordering::Release);
        drop(watches);
        if result.as_ref().is_err_and(|errno| *errno == Errno::EINTR) {
            // It may have been sent again after the MDT was told, and others of its owner wait for its end.
            self.deliver(withdrawal(waiting));
        }
        // EINTR of our own: nobody knows whether it is held. The MDT's says that it is not.
        match result {
            Err(errno) => note_outcome(inode, lock, &given_up, Err(errno)),
            Ok(reply) => {
                let outcome = reply.checked().map(drop);
                if outcome.is_err() {
                    take_back(inode, &given_up);
                    return outcome;
                }
                note_outcome(inode, lock, &[], outcome)
            }
        }
    }

    /// The lock that is in the way of `wanted`, if any.
    ///
    /// # Errors
    /// EINTR, ESTALE.
    pub fn test_lock(
        self: &Arc<Self>,
        inode: &Inode,
        wanted: &LockWanted,
        cancel: &Cancel,
    ) -> Result<Option<FileLock>, Errno> {
        let body = wanted.message(inode);
        let request = Request::new(Opcode::LockTest, &body).urgent();
        let reply = self.ask(request.behind(LockOwner::of(&body)), cancel)?;
        let found: FileLock = reply.decode()?;
        Ok(Some(found).filter(|lock| lock.kind != LockType::Unlock))
    }

    /// Drops every lock an owner has on the inode.
    pub fn release_locks(
        self: &Arc<Self>,
        inode: &Inode,
        family: LockFamily,
        owner: u64,
        cancel: &Cancel,
    ) {
        let request = {
            let mut state = inode.lock();
            if !state.locks.has(family, owner) {
                return;
            }
            // Before the server hears of it: what the owner takes from now on must be seen to be held.
            state.locks.release(family, owner);
            self.release_of(LockOwner { fid: inode.fid, family, owner })
        };
        // Delivered also if nobody waits for it: the owner is being killed, which is no reason to leave its locks behind.
        self.release(request, cancel);
    }

    /// The request that drops all locks of `owner`; what `owner` asks for from now on is sent behind it.
    pub(crate) fn release_of(&self, owner: LockOwner) -> Request {
        let LockOwner { fid, family, owner: number } = owner;
        let request =
            Request::new(Opcode::LockRelease, &LockRelease { fid, family, owner: number });
        request.urgent().releasing(self.lock_order.begin(owner))
    }
}

/// The request that ends the wait of request number `waiting`.
fn withdrawal(waiting: Xid) -> Request {
    Request::new(Opcode::LockCancel, &LockCancel { waiting }).urgent()
}

/// Keeps what is held. What a request changed that was abandoned nobody knows: its owner's end drops it.
fn note_outcome(
    inode: &Inode,
    lock: &FileLock,
    given_up: &[FileLock],
    outcome: Result<(), Errno>,
) -> Result<(), Errno> {
    match outcome {
        Ok(()) => inode.lock().locks.apply(lock),
        Err(Errno::EINTR) => inode.lock().locks.doubt(lock.family, lock.owner),
        Err(_) => take_back(inode, given_up),
    }
    outcome
}

/// The MDT did nothing: what was given up for it is held.
fn take_back(inode: &Inode, given_up: &[FileLock]) {
    let mut state = inode.lock();
    given_up.iter().for_each(|held| state.locks.apply(held));
}

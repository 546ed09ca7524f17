//! Keeping what the kernel goes on to use when its name is gone: current directories, FIFOs, devices, `O_PATH` descriptors.
//! The MDT knows nothing of these uses, since nobody opened the inode. It lets an inode that lost its last name, or its
//! last open without one, stay for a moment.
//!
//! So an inode that may have lost its last name (this client took it, or LOOKUP was asked back) is looked at
//! [`LOOK_AFTER`] later. Nearly always the kernel has forgotten it by then. One that another client changed the kernel may
//! only have cached: it is asked to drop what nobody uses, and the inode is looked at once more. If it is still used, and
//! has no name, it is opened here for as long as the kernel knows it. That costs requests only for what is used.
//!
//! A directory under which the kernel caches that a name is absent is in use by that, and not dropped. So of one that was removed
//! it is told to drop the name with all below ([`crate::CacheSink::drop_removed_directory`]), and it is looked at a third time. The
//! thread waits for no lock of the kernel in that: if the kernel is late, the directory is open until it has forgotten it.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::{Errno, Fid, FileKind, Tick};

use crate::{
    client::Client,
    inode::{Inode, Registered},
    open::start,
    slots::CANCEL_POLL,
};

/// How long after the loss of a name an inode is looked at; a quarter of what the MDT gives.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// How long after the kernel was asked to drop what nobody uses, or a name.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Inodes to be looked at. Beyond it the oldest are not: an inode of them that is used without an open is lost.
const DOUBTED_MAX: usize = 64 << 10;
/// Inodes told to the kernel at a time.
const DROPPED_MAX: usize = 512;

/// What the kernel has dropped of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dropped {
    Nothing,
    /// It was asked to drop what nobody uses.
    Unused,
    /// It took the name away itself, or was told to drop it.
    Name,
}

/// An inode that may have lost its last name.
#[derive(Clone, Copy, Debug)]
struct Doubted {
    due: Tick,
    fid: Fid,
    dropped: Dropped,
}

#[derive(Debug, Default)]
struct Doubts {
    /// In order of time.
    lost: VecDeque<Doubted>,
    /// Those of which the kernel was asked to drop what nobody uses.
    again: VecDeque<Doubted>,
    closed: bool,
}

/// Inodes to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Nameless {
    doubts: Mutex<Doubts>,
    came: Condvar,
}

impl Doubts {
    fn take_due(&mut self, now: Tick) -> Vec<Doubted> {
        let mut due = Vec::new();
        for queue in [&mut self.lost, &mut self.again] {
            while due.len() < DROPPED_MAX
                && let Some(doubted) = queue.pop_front_if(|doubted| doubted.due <= now)
            {
                due.push(doubted);
            }
        }
        due
    }

    fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.again.is_empty()
    }
}

impl Nameless {
    fn push(&self, doubted: Doubted, again: bool) {
        let mut doubts = self.doubts.lock().expect("no panic while locked");
        if doubts.closed {
            return;
        }
        let begins = doubts.is_empty();
        let queue = if again { &mut doubts.again } else { &mut doubts.lost };
        queue.push_back(doubted);
        if queue.len() > DOUBTED_MAX {
            queue.pop_front();
        }
        drop(doubts);
        if begins {
            self.came.notify_one();
        }
    }

    /// What is to be looked at now, waiting for it. None: the client ends.
    fn next(&self, now: impl Fn() -> Tick) -> Option<Vec<Doubted>> {
        let mut doubts = self.doubts.lock().expect("no panic while locked");
        loop {
            if doubts.closed {
                return None;
            }
            let due = doubts.take_due(now());
            if !due.is_empty() {
                return Some(due);
            }
            doubts = if doubts.is_empty() {
                self.came.wait(doubts).expect("no panic while locked")
            } else {
                self.came.wait_timeout(doubts, CANCEL_POLL).expect("no panic while locked").0
            };
        }
    }

    /// Nothing is looked at any more.
    pub(crate) fn close(&self) {
        self.doubts.lock().expect("no panic while locked").closed = true;
        self.came.notify_all();
    }
}

impl Client {
    /// An inode may have lost its last name: it is looked at whether it is used all the same. `dropped`: the kernel has dropped that
    /// name.
    pub(crate) fn look_for_use(&self, fid: Fid, dropped: bool) {
        let due = self.clock.now().after(LOOK_AFTER);
        let dropped = if dropped { Dropped::Name } else { Dropped::Nothing };
        self.nameless.push(Doubted { due, fid, dropped }, false);
    }

    fn look_again(&self, fid: Fid, dropped: Dropped) {
        let due = self.clock.now().after(LOOK_AGAIN_AFTER);
        self.nameless.push(Doubted { due, fid, dropped }, true);
    }

    /// The thread that looks at inodes that may have lost their last name.
    pub(crate) fn keep_nameless(self: Arc<Self>) {
        while let Some(due) = self.nameless.next(|| self.clock.now()) {
            let used: Vec<Doubted> =
                due.into_iter().filter(|doubted| self.sink().uses(doubted.fid)).collect();
            let (cached, used): (Vec<Doubted>, Vec<Doubted>) =
                used.into_iter().partition(|doubted| doubted.dropped == Dropped::Nothing);
            let to_drop: Vec<Fid> = cached.iter().map(|doubted| doubted.fid).collect();
            if !to_drop.is_empty() && self.sink().drop_unused(&to_drop) {
                for fid in to_drop {
                    self.look_again(fid, Dropped::Unused);
                }
            }
            for doubted in used {
                if let Some(inode) = self.inodes.find(doubted.fid) {
                    self.keep_if_nameless(&inode, doubted.dropped);
                }
            }
        }
    }

    fn keep_if_nameless(self: &Arc<Self>, inode: &Arc<Inode>, dropped: Dropped) {
        let never = Cancel::new();
        let result = self.metadata_attributes(inode, &never).and_then(|(attributes, _)| {
            if attributes.nlink > 0 {
                return Ok(());
            }
            let has_name = attributes.kind == FileKind::Directory && dropped == Dropped::Unused;
            if has_name && self.sink().drop_removed_directory(inode.fid) {
                self.look_again(inode.fid, Dropped::Name);
                return Ok(());
            }
            self.keep_open(inode, &never)
        });
        if let Err(errno) = result {
            tracing::debug!(%errno, fid = %inode.fid, "keeping an inode without a name");
        }
    }

    /// Opens an inode for as long as the kernel knows it.
    fn keep_open(self: &Arc<Self>, inode: &Arc<Inode>, cancel: &Cancel) -> Result<(), Errno> {
        let state = start(inode, cancel)?;
        let registered = state.registered;
        drop(state);
        let result = match registered {
            Registered::No => self.register(inode, Registered::Read, false, cancel),
            Registered::Read | Registered::Write => Ok(()),
        };
        let mut state = inode.lock();
        state.kept = result.is_ok();
        state.opening = false;
        drop(state);
        inode.notify();
        if !self.sink().uses(inode.fid) {
            self.let_go(inode);
        }
        result
    }

    /// The kernel does not know the inode any more.
    pub(crate) fn let_go(&self, inode: &Arc<Inode>) {
        if !std::mem::take(&mut inode.lock().kept) {
            return;
        }
        let inode = inode.clone();
        self.janitor.owe(move |client| {
            let Ok(state) = start(&inode, &Cancel::new()) else { return };
            drop(state);
            client.unregister(&inode, &Cancel::new());
            inode.lock().opening = false;
            inode.notify();
        });
    }
}

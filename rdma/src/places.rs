//! How many threads may deal with what peers of this host passed, for each user and for all.
//!
//! A peer can hold such a thread for as long as it likes (see [`crate::apart`]), so each user has some, and the user of the process and root,
//! whom it has to trust, have theirs beside those of all others. A user whose threads are all held waits, and is refused then; nobody
//! else is. One who has many users of the host (those of a user namespace) can hold all that others may have: connections there are, those
//! of the owner and those of other hosts go on.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::Uid;

use crate::apart::Apart;

/// Threads of this process that read what peers say. Closing what came may wait for a peer.
static READERS: Mutex<Places> = Mutex::new(Places::new(16, 64, 128));
/// Threads of this process that close sockets with what is unread in them, many at a time. That waits for a peer in fewer cases: what was never
/// received is let go of without a word to its file system.
static CLOSERS: Mutex<Places> = Mutex::new(Places::new(4, 16, 32));

/// Whether user `uid` owns a process that runs as `own`: it is its user, or root.
pub(crate) const fn is_owner(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// The threads of a kind there are, and for whom.
#[derive(Debug)]
pub(crate) struct Places {
    taken: Vec<(u32, Apart)>,
    /// Of one user, of each of the two owners, and of all users but those two.
    user_max: usize,
    owner_max: usize,
    users_max: usize,
}

/// Threads of this process that read.
pub(crate) fn readers() -> MutexGuard<'static, Places> {
    READERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads of this process that close.
pub(crate) fn closers() -> MutexGuard<'static, Places> {
    CLOSERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    const fn new(user_max: usize, owner_max: usize, users_max: usize) -> Self {
        Self { taken: Vec::new(), user_max, owner_max, users_max }
    }

    /// Whether another thread may be started for `uid`.
    pub(crate) fn has_room(&mut self, uid: u32) -> bool {
        self.taken.retain(|(_, thread)| !thread.is_over());
        let process = Uid::effective().as_raw();
        let count =
            |of: &dyn Fn(u32) -> bool| self.taken.iter().filter(|(other, _)| of(*other)).count();
        let own = count(&|other| other == uid);
        if is_owner(uid, process) {
            return own < self.owner_max;
        }
        own < self.user_max && count(&|other| !is_owner(other, process)) < self.users_max
    }

    /// Counts a thread that was started for `uid`, until the kernel has let go of it.
    pub(crate) fn take(&mut self, uid: u32, thread: Apart) {
        self.taken.push((uid, thread));
    }

    /// Threads that have not ended.
    #[cfg(test)]
    pub(crate) fn held(&mut self) -> usize {
        self.taken.retain(|(_, thread)| !thread.is_over());
        self.taken.len()
    }
}

#[cfg(test)]
mod test {
    use std::{
        os::unix::net::UnixStream,
        sync::mpsc::{self, Sender},
        time::{Duration, Instant},
    };

    use super::*;

    /// A thread that is held until the sender goes.
    fn held() -> (Sender<()>, Apart) {
        let (socket, _) = UnixStream::pair().unwrap();
        let (sender, receiver) = mpsc::channel::<()>();
        let apart = Apart::start(&[&socket], move |_| {
            let _ended = receiver.recv();
        })
        .unwrap();
        (sender, apart)
    }

    #[test]
    fn a_user_has_some_all_users_have_some_and_the_owner_has_others() {
        let mut places = Places::new(2, 5, 6);
        let mut senders = Vec::new();
        let mut fill = |places: &mut Places, uid, most: usize| {
            let mut count = 0;
            while places.has_room(uid) {
                let (sender, apart) = held();
                senders.push(sender);
                places.take(uid, apart);
                count += 1;
            }
            assert_eq!(count, most, "user {uid}");
        };
        // No test runs as one of these.
        const USER: u32 = 4_000_000_000;
        for user in USER..USER + 3 {
            fill(&mut places, user, 2);
        }
        fill(&mut places, USER + 3, 0);
        fill(&mut places, 0, 5);
        assert_eq!(places.held(), 11);
        senders.clear();
        let begun = Instant::now();
        while places.held() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20));
        }
        assert!(places.has_room(USER));
    }
}

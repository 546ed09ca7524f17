//! Sleeping on a set of descriptors: an epoll instance, level-triggered.
//!
//! Services name descriptors by number, and only `nix`'s deprecated `epoll_ctl` takes numbers without `unsafe`. A
//! stale number is refused by the kernel and harms nobody: its owner announces the change by its generation.

use std::{
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollOp, EpollTimeout},
};

/// The set a reactor sleeps on.
#[derive(Debug)]
pub(crate) struct Sleeper {
    epoll: Epoll,
    watched: Vec<RawFd>,
}

impl Sleeper {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, watched: Vec::new() })
    }

    /// Makes `descriptors` the set. Everything is registered anew, because a number may name another file now.
    pub(crate) fn watch(&mut self, descriptors: &[RawFd]) {
        for old in std::mem::take(&mut self.watched) {
            // ENOENT or EBADF: it was closed, and the kernel forgot it by itself.
            let _ = self.control(EpollOp::EpollCtlDel, old);
        }
        for &new in descriptors {
            if self.control(EpollOp::EpollCtlAdd, new).is_ok() {
                self.watched.push(new);
            }
        }
    }

    #[expect(deprecated, reason = "the only safe function that takes descriptors by number")]
    fn control(&self, operation: EpollOp, descriptor: RawFd) -> Result<(), Errno> {
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        nix::sys::epoll::epoll_ctl(self.epoll.0.as_raw_fd(), operation, descriptor, &mut event)
    }

    /// Waits until a descriptor is readable, a signal comes, or `limit` is over (in whole milliseconds, rounded up,
    /// so that the deadline has come when it ends).
    pub(crate) fn wait(&self, limit: Option<Duration>) {
        let timeout = limit.map_or(EpollTimeout::NONE, |limit| {
            let milliseconds = limit.as_nanos().div_ceil(1_000_000);
            EpollTimeout::try_from(milliseconds).unwrap_or(EpollTimeout::MAX)
        });
        // One event is as good as all: the services look for themselves.
        let mut events = [EpollEvent::empty()];
        match self.epoll.wait(&mut events, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("epoll_wait on our own descriptor: {error}"),
        }
    }
}

//! How many threads read, serve and wait: bookkeeping without threads of its own.
//!
//! A thread reads a request and serves it itself, if the request's lane has a place free; before that it makes sure
//! that another thread reads on, so that INTERRUPT and what others wait for get through. If the lane is full the
//! request is queued and the thread reads on; whoever finishes takes queued requests first. A full queue stops the
//! reading thread: the kernel keeps the rest, and its own limits hold.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

use crate::kernel::message::{Lane, Message};

/// With more requests being served than this, threads give back the buffers they do not need.
const CROWD: usize = 16;

/// Most threads of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CrewLimits {
    /// Serving, by [`Lane`].
    pub(crate) serving: [usize; Lane::COUNT],
    /// Reading, besides those that serve; more go home.
    pub(crate) readers: usize,
    /// Queued requests of a lane.
    pub(crate) queued: usize,
}

/// What becomes of a request just read.
#[derive(Debug)]
pub(crate) enum Placed {
    /// Serve it. If `successor`, first start a thread that reads: it is counted already. If `crowded`, many are being
    /// served: keep no memory the request does not need.
    Serve { message: Message, successor: bool, crowded: bool },
    /// Read on.
    Queued,
    /// Too many wait already: refuse it and read on.
    Refused(Message),
}

/// What a thread that has served does next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Serve this queued one.
    Serve(Lane, Message),
    /// Read.
    Read,
    /// Go home.
    Leave,
}

#[derive(Debug, Default)]
struct State {
    readers: usize,
    serving: [usize; Lane::COUNT],
    queues: [VecDeque<Message>; Lane::COUNT],
    threads: usize,
    ended: bool,
    finished: bool,
}

/// The counts.
#[derive(Debug)]
pub(crate) struct Crew {
    limits: CrewLimits,
    state: Mutex<State>,
    space: Condvar,
    finished: Condvar,
}

impl Crew {
    pub(crate) fn new(limits: CrewLimits) -> Self {
        Self { limits, state: Mutex::default(), space: Condvar::new(), finished: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    /// The first thread starts, as a reader.
    pub(crate) fn open(&self) {
        let mut state = self.state();
        state.readers += 1;
        state.threads += 1;
    }

    /// A reader got a request.
    pub(crate) fn place(&self, lane: Lane, message: Message) -> Placed {
        let index = lane as usize;
        let mut state = self.state();
        if state.serving[index] >= self.limits.serving[index] {
            if lane == Lane::Wait {
                return Placed::Refused(message);
            }
            while state.queues[index].len() >= self.limits.queued && !state.ended {
                state = self.space.wait(state).expect("no panic while locked");
            }
            // While we waited, a place may have come free and with it the last thread that would look at the queue;
            // but then the queue was emptied first.
            if state.serving[index] >= self.limits.serving[index] {
                state.queues[index].push_back(message);
                return Placed::Queued;
            }
        }
        state.serving[index] += 1;
        state.readers -= 1;
        let successor = state.readers == 0 && !state.ended;
        if successor {
            state.readers += 1;
            state.threads += 1;
        }
        let crowded = state.serving.iter().sum::<usize>() > CROWD;
        Placed::Serve { message, successor, crowded }
    }

    /// The successor could not be started.
    pub(crate) fn withdraw_successor(&self) {
        let mut state = self.state();
        state.readers -= 1;
        state.threads -= 1;
    }

    /// A request of `lane` is served.
    pub(crate) fn served(&self, lane: Lane) -> Next {
        let mut state = self.state();
        state.serving[lane as usize] -= 1;
        if state.ended {
            return Next::Leave;
        }
        for lane in Lane::QUEUED {
            let index = lane as usize;
            if state.serving[index] < self.limits.serving[index]
                && let Some(message) = state.queues[index].pop_front()
            {
                state.serving[index] += 1;
                self.space.notify_all();
                return Next::Serve(lane, message);
            }
        }
        if state.readers >= self.limits.readers {
            return Next::Leave;
        }
        state.readers += 1;
        Next::Read
    }

    /// Requests of all lanes being served.
    pub(crate) fn serving(&self) -> usize {
        self.state().serving.iter().sum()
    }

    /// The mount is gone: nobody reads on, queued requests are dropped.
    pub(crate) fn end(&self) {
        let dropped = {
            let mut state = self.state();
            state.ended = true;
            self.space.notify_all();
            std::mem::take(&mut state.queues)
        };
        drop(dropped);
    }

    /// A thread goes home; returns whether it was the last.
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.state();
        state.threads -= 1;
        state.threads == 0
    }

    /// All is over.
    pub(crate) fn finish(&self) {
        self.state().finished = true;
        self.finished.notify_all();
    }

    /// Waits for [`Crew::finish`].
    pub(crate) fn wait_finished(&self) {
        let state = self.state();
        let _state = self
            .finished
            .wait_while(state, |state| !state.finished)
            .expect("no panic while locked");
    }

    /// As [`Crew::wait_finished`], at most for `patience`; returns whether all is over.
    pub(crate) fn wait_finished_for(&self, patience: Duration) -> bool {
        let state = self.state();
        let (state, _timeout) = self
            .finished
            .wait_timeout_while(state, patience, |state| !state.finished)
            .expect("no panic while locked");
        state.finished
    }

    /// Threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.state().threads
    }
}

#[cfg(test)]
#[path = "crew_test.rs"]
mod test;

//! How many threads read, serve and wait: bookkeeping without threads of its own.
//!
//! A thread reads a request and serves it itself, if the request's lane has a place free; before that it makes sure
//! that another thread reads on, so that INTERRUPT and what others wait for get through. If there is no place the
//! request is parked and the thread reads on: reading never waits for serving. Whoever finishes takes parked requests first.
//!
//! Those that wait for one target, be it the MDT, get a share of a lane only: a stuck target does not use up the threads
//! the others need. While few are being served nobody is counted by target, since finding out whom a request will wait
//! for takes time.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

use crate::kernel::{
    message::{Lane, Message},
    queue::{Parked, Place, Target},
};

/// With more requests being served than this, threads give back the buffers they do not need; with more in a lane, those
/// that follow are counted by target.
const CROWD: usize = 16;

/// How often locks are asked for again that no thread waits for.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Most threads of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CrewLimits {
    /// Serving, by [`Lane`].
    pub(crate) serving: [usize; Lane::COUNT],
    /// Of these, waiting for one target.
    pub(crate) share: [usize; Lane::COUNT],
    /// Reading, besides those that serve; more go home.
    pub(crate) readers: usize,
}

/// What becomes of a request just read.
#[derive(Debug)]
pub(crate) enum Placed {
    /// Serve it. If `successor`, first start a thread that reads: it is counted already. If `crowded`, many are being
    /// served: keep no memory the request does not need.
    Serve { place: Place, message: Message, successor: bool, crowded: bool },
    /// Read on.
    Parked,
    /// Too many wait already: refuse it and read on.
    Refused(Message),
    /// It was cancelled before there was a place for it: end it and read on.
    Cancelled(Message),
}

/// What a thread that has served does next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved on at once, never kept")]
pub(crate) enum Next {
    /// Serve this one.
    Serve(Place, Message),
    /// Read.
    Read,
    /// Go home.
    Leave,
}

#[derive(Debug, Default)]
struct State {
    readers: usize,
    serving: [usize; Lane::COUNT],
    /// Of these, counted by lane and target.
    counted: BTreeMap<(usize, Target), usize>,
    parked: Parked,
    threads: usize,
    ended: bool,
    finished: bool,
}

impl State {
    fn has_room(&self, limits: &CrewLimits, lane: Lane, target: Option<Target>) -> bool {
        let index = lane as usize;
        let waiting = |target| self.counted.get(&(index, target)).copied().unwrap_or(0);
        self.serving[index] < limits.serving[index]
            && target.is_none_or(|target| waiting(target) < limits.share[index])
    }

    fn start(&mut self, place: Place) {
        let index = place.lane as usize;
        self.serving[index] += 1;
        if let Some(target) = place.target {
            *self.counted.entry((index, target)).or_default() += 1;
        }
    }

    fn end(&mut self, place: Place) {
        let index = place.lane as usize;
        self.serving[index] -= 1;
        let Some(target) = place.target else { return };
        if let Some(count) = self.counted.get_mut(&(index, target)) {
            *count -= 1;
            if *count == 0 {
                self.counted.remove(&(index, target));
            }
        }
    }

    fn next(&mut self, limits: &CrewLimits) -> Option<(Place, Message)> {
        if self.parked.len() == 0 {
            return None;
        }
        let mut parked = std::mem::take(&mut self.parked);
        let next = Lane::ALL
            .iter()
            .find_map(|&lane| parked.next(lane, |target| self.has_room(limits, lane, target)));
        self.parked = parked;
        if let Some((place, _)) = &next {
            self.start(*place);
        }
        next
    }
}

/// The counts.
#[derive(Debug)]
pub(crate) struct Crew {
    limits: CrewLimits,
    state: Mutex<State>,
    finished: Condvar,
    lock_waits_came: Condvar,
}

impl Crew {
    pub(crate) fn new(limits: CrewLimits) -> Self {
        let state = Mutex::default();
        Self { limits, state, finished: Condvar::new(), lock_waits_came: Condvar::new() }
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

    /// A reader got a request. `target` tells whom it will wait for; asked without a lock held, and only in a crowd.
    pub(crate) fn place(
        &self,
        lane: Lane,
        message: Message,
        target: impl FnOnce(&Message) -> Option<Target>,
    ) -> Placed {
        let mut state = self.state();
        let mut place = Place { lane, target: None };
        if state.serving[lane as usize] >= CROWD.min(self.limits.share[lane as usize]) {
            drop(state);
            place.target = target(&message);
            state = self.state();
        }
        if !state.has_room(&self.limits, lane, place.target) {
            return Self::park(&mut state, place, message);
        }
        state.start(place);
        state.readers -= 1;
        let successor = state.readers == 0 && !state.ended;
        if successor {
            state.readers += 1;
            state.threads += 1;
        }
        let crowded = state.serving.iter().sum::<usize>() > CROWD;
        Placed::Serve { place, message, successor, crowded }
    }

    fn park(state: &mut State, place: Place, message: Message) -> Placed {
        if place.lane == Lane::Wait {
            return Placed::Refused(message);
        }
        // Looked at under the lock that [`Crew::withdraw`] takes after a request was cancelled: one of us ends it.
        if message.ends.is_ended() {
            return Placed::Cancelled(message);
        }
        match state.parked.add(place, message) {
            None => Placed::Parked,
            Some(message) => Placed::Refused(message),
        }
    }

    /// Parks a request for a lock that another holds: it is tried again, or waits when a thread is free to. Some: too many
    /// wait, or it was cancelled.
    pub(crate) fn park_lock_wait(&self, mut message: Message) -> Option<Message> {
        message.tries = false;
        let mut state = self.state();
        // As in [`Crew::place`], one of two ends it.
        if state.ended || message.ends.is_ended() {
            return Some(message);
        }
        let refused = state.parked.add(Place { lane: Lane::Wait, target: None }, message);
        drop(state);
        self.lock_waits_came.notify_one();
        refused
    }

    /// Waits until parked lock waits are to be tried, given how long that took last; false: the mount ended.
    pub(crate) fn wait_to_try(&self, took: Duration) -> bool {
        let state = self.state();
        let none_waits = |state: &mut State| state.parked.lock_waits() == 0 && !state.ended;
        let waited = self.lock_waits_came.wait_while(state, none_waits);
        let state = waited.expect("no panic while locked");
        // At most half of a thread's time.
        let pause = TRY_AGAIN.max(took);
        let waited = self.lock_waits_came.wait_timeout_while(state, pause, |state| !state.ended);
        !waited.expect("no panic while locked").0.ended
    }

    /// Parked lock waits, oldest first.
    pub(crate) fn lock_waits(&self) -> Vec<u64> {
        self.state().parked.uniques_of_lock_waits()
    }

    /// Takes out a parked request that was cancelled.
    pub(crate) fn withdraw(&self, unique: u64) -> Option<(Place, Message)> {
        self.state().parked.withdraw(unique)
    }

    /// The successor could not be started.
    pub(crate) fn withdraw_successor(&self) {
        let mut state = self.state();
        state.readers -= 1;
        state.threads -= 1;
    }

    /// A request is served.
    pub(crate) fn served(&self, place: Place) -> Next {
        let mut state = self.state();
        state.end(place);
        if state.ended {
            return Next::Leave;
        }
        if let Some((place, message)) = state.next(&self.limits) {
            return Next::Serve(place, message);
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

    /// Requests parked.
    pub(crate) fn parked(&self) -> usize {
        self.state().parked.len()
    }

    /// The mount is gone: nobody reads on, parked requests are dropped.
    pub(crate) fn end(&self) {
        let dropped = {
            let mut state = self.state();
            state.ended = true;
            std::mem::take(&mut state.parked)
        };
        self.lock_waits_came.notify_all();
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

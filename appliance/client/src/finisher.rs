//! Requests whose callers were killed, brought to their end by one thread.
//!
//! A request keeps what admitted it (its reply slot, its place at a gate, a slot of the link, the lease it was made under)
//! until it ends. So there are no more of them than the server takes at a time, and who comes later waits, and can be
//! killed. Changes of metadata are sent again after a lost connection until the MDT answered: exactly once. Requests to
//! objects are not: nobody was told that they took effect, and whoever needs the bytes writes them anew. What is only asked
//! is dropped then.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use sheen_ports::Cancel;
use sheen_types::Tick;

use crate::{client::Client, flight::LeftFlight, left_object::LeftObject};

/// First and longest pause between two looks.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Something to be finished.
pub(crate) enum Leftover {
    /// A request to an OST.
    Object(LeftObject),
    /// A request to the MDT.
    Flight(Box<LeftFlight>),
}

#[derive(Default)]
struct State {
    entered: Vec<Leftover>,
    deadlines: Vec<(Tick, Cancel)>,
    kept: usize,
    closed: bool,
}

/// What is left to the thread.
#[derive(Default)]
pub(crate) struct Finisher {
    state: Mutex<State>,
    came: Condvar,
}

impl fmt::Debug for Finisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Finisher")
    }
}

impl Finisher {
    fn enter(&self, enter: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().expect("no panic while locked");
        if !state.closed {
            enter(&mut state);
        }
        drop(state);
        self.came.notify_one();
    }

    /// Leaves a request to the thread. Never blocks.
    pub(crate) fn finish(&self, leftover: Leftover) {
        self.enter(|state| state.entered.push(leftover));
    }

    /// Cancels `cancel` at `deadline`.
    pub(crate) fn cancel_at(&self, deadline: Tick, cancel: Cancel) {
        self.enter(|state| state.deadlines.push((deadline, cancel)));
    }

    /// Requests not ended yet.
    pub(crate) fn left(&self) -> usize {
        let state = self.state.lock().expect("no panic while locked");
        state.entered.len() + state.kept
    }

    /// Ends the thread; what is left is dropped.
    pub(crate) fn close(&self) {
        let entered = {
            let mut state = self.state.lock().expect("no panic while locked");
            state.closed = true;
            state.deadlines.clear();
            std::mem::take(&mut state.entered)
        };
        drop(entered);
        self.came.notify_all();
    }

    /// The thread.
    pub(crate) fn work(&self, client: &Arc<Client>) {
        let mut kept: Vec<Leftover> = Vec::new();
        let mut pause = LOOK.0;
        loop {
            let before = kept.len();
            let Some(entered) = self.wait(client, kept.len(), pause) else { return };
            kept.extend(entered);
            kept.retain_mut(|leftover| !leftover.poll(client));
            pause = if kept.len() == before { (pause * 2).min(LOOK.1) } else { LOOK.0 };
        }
    }

    /// Waits for something to do; None: the end.
    fn wait(&self, client: &Client, kept: usize, pause: Duration) -> Option<Vec<Leftover>> {
        let mut state = self.state.lock().expect("no panic while locked");
        state.kept = kept;
        if state.entered.is_empty() && !state.closed {
            state = if kept == 0 && state.deadlines.is_empty() {
                self.came.wait(state).expect("no panic while locked")
            } else {
                self.came.wait_timeout(state, pause).expect("no panic while locked").0
            };
        }
        let now = client.clock.now();
        let due: Vec<_> =
            state.deadlines.extract_if(.., |(deadline, _)| *deadline <= now).collect();
        let closed = state.closed;
        let entered = std::mem::take(&mut state.entered);
        state.kept = kept + entered.len();
        drop(state);
        for (_, cancel) in due {
            cancel.cancel();
        }
        if closed { None } else { Some(entered) }
    }
}

impl Leftover {
    /// Looks after it; whether it has ended.
    fn poll(&mut self, client: &Arc<Client>) -> bool {
        match self {
            Self::Object(object) => object.poll(client),
            Self::Flight(flight) => flight.poll(client),
        }
    }
}

//! Work nobody waits for: a few threads, in no order.
//!
//! Two kinds. *Duties* change what the MDT thinks this client holds, so none is ever dropped: there are at most as many as the
//! MDT has granted leases and locks, since each gives one back. *Favours* only spare others work; beyond a bound they
//! are not done. A favour may wait for a reply slot as long as programs fill them all, so favours get half of the threads.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex},
};

use crate::client::Client;

type Chore = Box<dyn FnOnce(&Arc<Client>) + Send>;

/// Most favours waiting; more are not done.
const FAVOURS_MAX: usize = 1 << 16;
/// How many threads there are.
pub(crate) const JANITORS: usize = 4;
/// How many of them may do favours.
const FAVOURERS_MAX: usize = JANITORS / 2;

#[derive(Default)]
struct State {
    duties: VecDeque<Chore>,
    favours: VecDeque<Chore>,
    /// Threads that do a favour.
    favourers: usize,
    closed: bool,
}

impl State {
    /// The next chore, and whether it is a favour: then it ends with one of [`Self::favourers`] less.
    fn next(&mut self) -> Option<(Chore, bool)> {
        if let Some(duty) = self.duties.pop_front() {
            return Some((duty, false));
        }
        if self.favourers >= FAVOURERS_MAX {
            return None;
        }
        let favour = self.favours.pop_front()?;
        self.favourers += 1;
        Some((favour, true))
    }
}

/// The queue of chores.
#[derive(Default)]
pub(crate) struct Janitor {
    state: Mutex<State>,
    came: Condvar,
}

impl fmt::Debug for Janitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Janitor")
    }
}

impl Janitor {
    fn enter(&self, enter: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().expect("no panic while locked");
        if !state.closed {
            enter(&mut state);
        }
        drop(state);
        self.came.notify_one();
    }

    /// Has `chore` done some time, however many there are. Each must give back something that was granted.
    pub(crate) fn owe(&self, chore: impl FnOnce(&Arc<Client>) + Send + 'static) {
        self.enter(|state| state.duties.push_back(Box::new(chore)));
    }

    /// Has `chore` done some time, or not at all if too many are waiting.
    pub(crate) fn favour(&self, chore: impl FnOnce(&Arc<Client>) + Send + 'static) {
        self.enter(|state| {
            if state.favours.len() < FAVOURS_MAX {
                state.favours.push_back(Box::new(chore));
            }
        });
    }

    /// No more chores; those waiting are still done.
    pub(crate) fn close(&self) {
        self.state.lock().expect("no panic while locked").closed = true;
        self.came.notify_all();
    }

    /// One of the threads.
    pub(crate) fn work(&self, client: &Arc<Client>) {
        let mut state = self.state.lock().expect("no panic while locked");
        loop {
            if let Some((chore, is_favour)) = state.next() {
                drop(state);
                chore(client);
                state = self.state.lock().expect("no panic while locked");
                state.favourers -= usize::from(is_favour);
            } else if state.closed {
                return;
            } else {
                state = self.came.wait(state).expect("no panic while locked");
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn duties_are_kept_beyond_the_bound_of_favours() {
        let janitor = Janitor::default();
        for _ in 0..FAVOURS_MAX + 10 {
            janitor.favour(|_| {});
            janitor.owe(|_| {});
        }
        let mut state = janitor.state.lock().unwrap();
        assert_eq!(state.duties.len(), FAVOURS_MAX + 10);
        assert_eq!(state.favours.len(), FAVOURS_MAX);
        drop(state.next());
        assert_eq!(state.duties.len(), FAVOURS_MAX + 9);
    }

    #[test]
    fn favours_that_do_not_end_leave_threads_to_duties() {
        let janitor = Janitor::default();
        (0..JANITORS).for_each(|_| janitor.favour(|_| {}));
        let mut state = janitor.state.lock().unwrap();
        let begun = std::iter::from_fn(|| state.next()).count();
        assert_eq!(begun, JANITORS / 2);
        state.duties.push_back(Box::new(|_| {}));
        assert!(state.next().is_some_and(|(_, is_favour)| !is_favour));
        state.favourers -= 1;
        assert!(state.next().is_some_and(|(_, is_favour)| is_favour));
    }

    #[test]
    fn nothing_is_taken_in_after_the_end() {
        let janitor = Janitor::default();
        janitor.close();
        janitor.owe(|_| {});
        assert!(janitor.state.lock().unwrap().next().is_none());
    }
}

//! Threads that give back leases on content or drop caches of it, and may wait for object storage targets while they do.
//!
//! That writes dirty pages back and makes them durable: on a target that is stuck it does not end. So work is divided
//! into classes by the set of targets it may wait for, and a class may occupy at most as many threads as it leaves free
//! (as [`crate::room`] divides memory). Of [`THREADS_MAX`] threads k classes that are stuck leave 1/(k+1). At the bound, when
//! the stuck classes are as many as the threads, everything waits until one of them goes on or the MDT ends the session.
//!
//! There are as many threads as have work at the same time, and a few more that wait for it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use sheen_types::OstIndex;

use crate::client::Client;

/// Most threads. Those beyond [`THREADS_MIN`] are started when all others have work.
const THREADS_MAX: usize = 256;
/// Threads that stay when there is nothing to do.
pub(crate) const THREADS_MIN: usize = 4;
/// How long any other stays.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Targets some work may wait for.
pub(crate) type Class = BTreeSet<OstIndex>;

type Work = Box<dyn FnOnce(&Arc<Client>) + Send>;

#[derive(Default)]
struct ClassState {
    waiting: VecDeque<Work>,
    /// Threads at work.
    working: usize,
}

#[derive(Default)]
struct State {
    /// Those with any work, waiting or begun.
    classes: BTreeMap<Class, ClassState>,
    /// Threads at work.
    working: usize,
    threads: usize,
    closed: bool,
}

/// See [`State::need`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    Nothing,
    /// A thread waits for work, or is about to look for it.
    Wake,
    /// One more thread, which is counted already.
    Thread,
}

impl State {
    /// Whether a class with `working` threads may occupy one more.
    fn may_begin(&self, working: usize) -> bool {
        let left = THREADS_MAX.saturating_sub(self.working + 1);
        self.working < THREADS_MAX && (working == 0 || working < left)
    }

    /// The class that may begin something, of several the one with the fewest threads.
    fn ready(&self) -> Option<&Class> {
        self.classes
            .iter()
            .filter(|(_, class)| !class.waiting.is_empty() && self.may_begin(class.working))
            .min_by_key(|(_, class)| class.working)
            .map(|(name, _)| name)
    }

    /// What is to be done for what may begin and has no thread yet.
    fn need(&mut self) -> Need {
        if self.ready().is_none() {
            Need::Nothing
        } else if self.working < self.threads {
            Need::Wake
        } else {
            self.threads += 1;
            Need::Thread
        }
    }

    fn begin(&mut self) -> Option<(Class, Work)> {
        let name = self.ready()?.clone();
        let class = self.classes.get_mut(&name)?;
        let work = class.waiting.pop_front()?;
        class.working += 1;
        self.working += 1;
        Some((name, work))
    }

    fn end(&mut self, name: &Class) {
        self.working -= 1;
        if let Some(class) = self.classes.get_mut(name) {
            class.working -= 1;
            if class.working == 0 && class.waiting.is_empty() {
                self.classes.remove(name);
            }
        }
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct LeaseCrew {
    state: Mutex<State>,
    came: Condvar,
}

impl fmt::Debug for LeaseCrew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseCrew")
    }
}

impl LeaseCrew {
    /// No more work; what waits is dropped.
    pub(crate) fn close(&self) {
        let classes = {
            let mut state = self.state.lock().expect("no panic while locked");
            state.closed = true;
            let waiting =
                state.classes.values_mut().map(|class| std::mem::take(&mut class.waiting));
            waiting.collect::<Vec<_>>()
        };
        drop(classes);
        self.came.notify_all();
    }

    fn enter(&self, class: Class, work: Work) -> Need {
        let mut state = self.state.lock().expect("no panic while locked");
        if state.closed {
            return Need::Nothing;
        }
        state.classes.entry(class).or_default().waiting.push_back(work);
        state.need()
    }
}

impl Client {
    /// Has `work` done by a thread that may wait for the targets of `class`. Never blocks. All that waits gives back something
    /// that was granted or drops caches of an inode, so it is bounded by what is held and known.
    pub(crate) fn give_back(
        self: &Arc<Self>,
        class: Class,
        work: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) {
        let need = self.lease_crew.enter(class, Box::new(work));
        self.meet_need(need);
    }

    fn meet_need(self: &Arc<Self>, need: Need) {
        match need {
            Need::Nothing => {}
            Need::Wake => self.lease_crew.came.notify_one(),
            Need::Thread => {
                let client = self.clone();
                let spawned = std::thread::Builder::new()
                    .name("sheen-lease".to_owned())
                    .spawn(move || client.work_for_crew(Some(IDLE_MAX)));
                if let Err(error) = spawned {
                    // The next one that ends its work takes it.
                    tracing::warn!(%error, "no thread to give leases back");
                    self.lease_crew.state.lock().expect("no panic while locked").threads -= 1;
                }
            }
        }
    }

    /// One of the threads that stay.
    pub(crate) fn give_leases_back(self: Arc<Self>) {
        self.lease_crew.state.lock().expect("no panic while locked").threads += 1;
        self.work_for_crew(None);
    }

    /// Works until nothing came for `longest`, or the end.
    fn work_for_crew(self: &Arc<Self>, longest: Option<Duration>) {
        let crew = &self.lease_crew;
        let mut state = crew.state.lock().expect("no panic while locked");
        loop {
            if let Some((class, work)) = state.begin() {
                let need = state.need();
                drop(state);
                self.meet_need(need);
                work(self);
                state = crew.state.lock().expect("no panic while locked");
                state.end(&class);
                continue;
            }
            if state.closed {
                break;
            }
            let Some(longest) = longest else {
                state = crew.came.wait(state).expect("no panic while locked");
                continue;
            };
            let waited = crew.came.wait_timeout(state, longest).expect("no panic while locked");
            state = waited.0;
            if waited.1.timed_out() && state.ready().is_none() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn class(osts: &[u32]) -> Class {
        osts.iter().map(|ost| OstIndex(*ost)).collect()
    }

    fn wait(state: &mut State, class: &Class, count: usize) {
        for _ in 0..count {
            state.classes.entry(class.clone()).or_default().waiting.push_back(Box::new(|_| {}));
        }
    }

    fn begin_all(state: &mut State) -> Vec<Class> {
        std::iter::from_fn(|| state.begin().map(|(class, _)| class)).collect()
    }

    #[test]
    fn classes_that_are_stuck_leave_threads_to_others() {
        for stuck in 1..=3_u32 {
            let mut state = State::default();
            (0..stuck).for_each(|ost| wait(&mut state, &class(&[ost]), 2 * THREADS_MAX));
            let share = THREADS_MAX / (stuck as usize + 1);
            let begun = begin_all(&mut state).len();
            assert_eq!(begun, share * stuck as usize, "{stuck} stuck");
            let healthy = class(&[stuck]);
            wait(&mut state, &healthy, 1000);
            let mut done = 0;
            while let Some((name, _)) = state.begin() {
                assert_eq!(name, healthy);
                state.end(&name);
                done += 1;
            }
            assert_eq!(done, 1000);
        }
    }

    #[test]
    fn at_the_bound_what_is_ready_waits_and_begins_when_something_ends() {
        let mut state = State::default();
        let count = u32::try_from(THREADS_MAX).unwrap();
        (0..count + 1).for_each(|ost| wait(&mut state, &class(&[ost]), 1));
        let begun = begin_all(&mut state);
        assert_eq!(begun.len(), THREADS_MAX, "one each, and one is left");
        assert_eq!(state.need(), Need::Nothing);
        state.end(&begun[0]);
        assert_eq!(begin_all(&mut state), [class(&[count])]);
    }

    #[test]
    fn a_thread_is_started_when_all_others_have_work() {
        let mut state = State { threads: 1, ..State::default() };
        wait(&mut state, &class(&[1]), 2);
        assert_eq!(state.need(), Need::Wake);
        let (first, _) = state.begin().unwrap();
        assert_eq!((state.need(), state.threads), (Need::Thread, 2));
        assert_eq!(state.need(), Need::Wake, "that one is about to look");
        let (second, _) = state.begin().unwrap();
        assert_eq!(state.need(), Need::Nothing);
        state.end(&first);
        state.end(&second);
        assert!(state.classes.is_empty());
    }
}

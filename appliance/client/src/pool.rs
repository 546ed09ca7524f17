//! Threads that carry pieces of a transfer at the same time, a crew of its own for each target.
//!
//! A target that is slow or stuck holds up its own crew and nobody else's. Who asked never waits for a place: what no
//! thread has begun, the asking thread does itself. A piece that panics, or is lost with its thread, is an error.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use sheen_types::{Errno, OstIndex};

/// How long a thread without work stays.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Pieces waiting for a target, for each of its threads; beyond, those who ask do them themselves.
const QUEUED_PER_THREAD: usize = 16;

/// What is to be done.
type Work<T> = Box<dyn FnOnce() -> Result<T, Errno> + Send>;

/// One part of a transfer.
pub(crate) struct Piece<T> {
    target: OstIndex,
    work: Work<T>,
}

impl<T> Piece<T> {
    /// Waits for nothing but `target`.
    pub(crate) fn new(
        target: OstIndex,
        work: impl FnOnce() -> Result<T, Errno> + Send + 'static,
    ) -> Self {
        Self { target, work: Box::new(work) }
    }
}

/// A piece that whoever comes first takes: a thread of the target, or the one that asked.
trait Offer: Send + Sync {
    fn carry_out(&self);
}

struct Offered<T> {
    index: usize,
    /// None: taken.
    open: Mutex<Option<Open<T>>>,
}

struct Open<T> {
    work: Work<T>,
    results: Sender<(usize, Result<T, Errno>)>,
}

impl<T: Send> Offer for Offered<T> {
    fn carry_out(&self) {
        let taken = self.open.lock().expect("no panic while locked").take();
        if let Some(Open { work, results }) = taken {
            // The receiver is gone only if its thread panicked.
            drop(results.send((self.index, guarded(work))));
        }
    }
}

fn guarded<T>(work: Work<T>) -> Result<T, Errno> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        tracing::error!("a piece of a transfer panicked");
        Err(Errno::EIO)
    })
}

#[derive(Default)]
struct CrewState {
    offers: VecDeque<Arc<dyn Offer>>,
    idle: usize,
    threads: usize,
    closed: bool,
}

#[derive(Default)]
struct Crew {
    state: Mutex<CrewState>,
    came: Condvar,
}

/// The crews.
pub(crate) struct Pool {
    threads_max: usize,
    crews: Mutex<Option<BTreeMap<OstIndex, Arc<Crew>>>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pool")
    }
}

impl Pool {
    /// With at most `threads_max` threads for each target, started as they are needed; they end when they are not, and
    /// when the pool is closed.
    pub(crate) fn new(threads_max: usize) -> Self {
        Self { threads_max, crews: Mutex::new(Some(BTreeMap::new())) }
    }

    /// No more pieces for other threads.
    pub(crate) fn close(&self) {
        let crews = self.crews.lock().expect("no panic while locked").take();
        for crew in crews.unwrap_or_default().into_values() {
            crew.state.lock().expect("no panic while locked").closed = true;
            crew.came.notify_all();
        }
    }

    fn crew(&self, target: OstIndex) -> Option<Arc<Crew>> {
        let mut crews = self.crews.lock().expect("no panic while locked");
        Some(crews.as_mut()?.entry(target).or_default().clone())
    }

    /// Carries out all of `pieces` at the same time, the last one on this thread; results in their order.
    pub(crate) fn run_all<T: Send + 'static>(
        &self,
        mut pieces: Vec<Piece<T>>,
    ) -> Vec<Result<T, Errno>> {
        let Some(last) = pieces.pop() else { return Vec::new() };
        if pieces.is_empty() {
            return vec![guarded(last.work)];
        }
        let (sender, results) = channel();
        let mut ordered: Vec<Result<T, Errno>> =
            (0..=pieces.len()).map(|_| Err(Errno::EIO)).collect();
        let mut offers = Vec::with_capacity(pieces.len());
        for (index, piece) in pieces.into_iter().enumerate() {
            let open = Open { work: piece.work, results: sender.clone() };
            let open = Mutex::new(Some(open));
            let offer = Arc::new(Offered { index, open });
            if let Some(crew) = self.crew(piece.target) {
                crew.offer(offer.clone(), self.threads_max);
            }
            offers.push(offer);
        }
        drop(sender);
        let count = offers.len();
        ordered[count] = guarded(last.work);
        for offer in offers.into_iter().rev() {
            offer.carry_out();
        }
        for (index, result) in results {
            ordered[index] = result;
        }
        ordered
    }
}

impl Crew {
    fn offer(self: &Arc<Self>, offer: Arc<dyn Offer>, threads_max: usize) {
        let mut state = self.state.lock().expect("no panic while locked");
        if state.closed || state.offers.len() >= threads_max * QUEUED_PER_THREAD {
            return;
        }
        state.offers.push_back(offer);
        if state.idle >= state.offers.len() || state.threads >= threads_max {
            drop(state);
            return self.came.notify_one();
        }
        state.threads += 1;
        drop(state);
        let crew = self.clone();
        let spawned =
            std::thread::Builder::new().name("sheen-piece".to_owned()).spawn(move || crew.work());
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for transfers");
            self.state.lock().expect("no panic while locked").threads -= 1;
        }
    }

    fn work(&self) {
        let mut state = self.state.lock().expect("no panic while locked");
        loop {
            if let Some(offer) = state.offers.pop_front() {
                drop(state);
                offer.carry_out();
                drop(offer);
                state = self.state.lock().expect("no panic while locked");
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, waited) =
                self.came.wait_timeout(state, IDLE_MAX).expect("no panic while locked");
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.offers.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod test {
    use std::sync::mpsc;

    use super::*;

    const ONE: OstIndex = OstIndex(1);
    const TWO: OstIndex = OstIndex(2);

    fn numbers(target: OstIndex, count: u32) -> Vec<Piece<u32>> {
        (0..count).map(|number| Piece::new(target, move || Ok(number))).collect()
    }

    #[test]
    fn results_come_in_the_order_of_their_pieces() {
        let pool = Pool::new(3);
        let all: Vec<_> = (0..50).map(Ok).collect();
        assert_eq!(pool.run_all(numbers(ONE, 50)), all);
        pool.close();
        assert_eq!(pool.run_all(numbers(ONE, 50)), all, "a closed pool leaves it to who asks");
    }

    #[test]
    fn a_stuck_target_holds_up_its_own_crew_only() {
        let pool = Arc::new(Pool::new(2));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (begun, beginnings) = mpsc::channel();
        // More than any crew has threads and places for: all that ask are held, none of the other target's is.
        let held: Vec<_> = (0..40)
            .map(|_| {
                let (pool, gate, begun) = (pool.clone(), gate.clone(), begun.clone());
                let stuck = move || {
                    begun.send(()).unwrap();
                    let _ = gate.lock().unwrap().recv();
                    Ok(0)
                };
                let piece = |stuck: Arc<dyn Fn() -> Result<u32, Errno> + Send + Sync>| {
                    Piece::new(ONE, move || stuck())
                };
                let stuck: Arc<dyn Fn() -> Result<u32, Errno> + Send + Sync> = Arc::new(stuck);
                std::thread::spawn(move || pool.run_all(vec![piece(stuck.clone()), piece(stuck)]))
            })
            .collect();
        beginnings.recv().unwrap();
        let (other, done) = mpsc::channel();
        let asking = pool.clone();
        let asked = std::thread::spawn(move || {
            // Both pieces must run at the same time: each waits for the other.
            let barrier = Arc::new(std::sync::Barrier::new(2));
            let pieces = (0..2)
                .map(|number| {
                    let barrier = barrier.clone();
                    Piece::new(TWO, move || {
                        barrier.wait();
                        Ok(number)
                    })
                })
                .collect();
            other.send(asking.run_all(pieces)).unwrap();
        });
        let results = done.recv_timeout(Duration::from_secs(10)).expect("the other target works");
        assert_eq!(results, [Ok(0), Ok(1)]);
        drop(release);
        asked.join().unwrap();
        for held in held {
            held.join().unwrap();
        }
    }

    #[test]
    fn a_piece_that_panics_is_an_error() {
        let pool = Pool::new(2);
        for alone in [true, false] {
            let mut pieces = vec![Piece::new(ONE, || panic!("asked for"))];
            if !alone {
                pieces.push(Piece::new(TWO, || Ok(2)));
                pieces.push(Piece::new(ONE, || panic!("asked for")));
            }
            let results = pool.run_all(pieces);
            assert_eq!(results[0], Err(Errno::EIO));
            assert_eq!(results.get(2), if alone { None } else { Some(&Err(Errno::EIO)) });
        }
    }
}

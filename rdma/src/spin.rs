//! How long a caller looks for its reply before it sleeps.
//!
//! A sleep and a wake cost some 10 µs on both sides; a reply from memory takes less. So callers look for about twice the
//! usual latency if that is short, and hardly at all if it is long. Only some threads of a process spin at a time: with
//! every core taken by spinners the server would not run.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Longest time to look. A reply later than this is worth the sleep.
const SPIN_NANOS_MAX: u64 = 50_000;
/// Time to look when replies are usually late; finds out when they no longer are.
const SPIN_NANOS_MIN: u64 = 2_000;

static SPINNERS: AtomicUsize = AtomicUsize::new(0);

/// Threads that may spin at a time: one less than there are cores.
fn spinners_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1)
    })
}

/// Learns the latency of a link.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    usual_nanos: AtomicU64,
}

impl Spin {
    /// Looks until `done` or it is not worth it any more; returns whether done.
    pub(crate) fn until(&self, started: Instant, done: impl Fn() -> bool) -> bool {
        if SPINNERS.fetch_add(1, Ordering::Relaxed) >= spinners_max() {
            SPINNERS.fetch_sub(1, Ordering::Relaxed);
            return done();
        }
        let usual = self.usual_nanos.load(Ordering::Relaxed);
        let nanos =
            if usual > SPIN_NANOS_MAX { SPIN_NANOS_MIN } else { (usual * 2).max(SPIN_NANOS_MIN) };
        let limit = Duration::from_nanos(nanos);
        let found = loop {
            for _ in 0..64 {
                if done() {
                    break;
                }
                std::hint::spin_loop();
            }
            if done() {
                break true;
            }
            if started.elapsed() >= limit {
                break false;
            }
            std::thread::yield_now();
        };
        SPINNERS.fetch_sub(1, Ordering::Relaxed);
        found
    }

    /// Notes how long a call took: an average over about eight.
    pub(crate) fn learn(&self, started: Instant) {
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX).min(1_000_000);
        let usual = self.usual_nanos.load(Ordering::Relaxed);
        self.usual_nanos.store(usual - usual / 8 + nanos / 8, Ordering::Relaxed);
    }
}

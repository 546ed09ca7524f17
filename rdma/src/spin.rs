//! How long a caller looks for its reply before it sleeps.
//!
//! A sleep and a wake cost some 10 µs on bare metal and 50 µs in a virtual machine (measured 2026-11-22); a reply from memory
//! takes less. So callers look for a while if looking paid lately, and hardly at all if not. Looking that failed says
//! nothing about how early the reply was, because the wake is part of what the caller sees; so now and then a caller looks
//! for long, to find out. Only some threads of a process spin at a time: with every core taken by spinners the server would
//! not run. And nobody looks for long while the server has not taken the request: then it may be waiting for this very core.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Longest time to look: about twice the price of a sleep.
const SPIN_NANOS_MAX: u32 = 100_000;
/// Time to look while looking does not pay.
const SPIN_NANOS_MIN: u32 = 2_000;
/// Longest time to look while the request is not taken: a wake on a core that is free takes less.
const UNTAKEN_NANOS_MAX: u32 = 20_000;
/// Looks that fail between two long ones.
const TRIAL_PERIOD: u32 = 32;

static SPINNERS: AtomicUsize = AtomicUsize::new(0);

/// Threads that may spin at a time: one less than there are cores.
fn spinners_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| {
        std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1)
    })
}

/// Learns how long looking pays on a link.
#[derive(Debug)]
pub(crate) struct Spin {
    budget_nanos: AtomicU32,
    misses: AtomicU32,
}

impl Default for Spin {
    fn default() -> Self {
        Self { budget_nanos: AtomicU32::new(SPIN_NANOS_MAX), misses: AtomicU32::new(0) }
    }
}

impl Spin {
    /// Looks until `done` or it is not worth it any more; returns whether done. `taken`: whether the server is at it.
    pub(crate) fn until(
        &self,
        started: Instant,
        taken: impl Fn() -> bool,
        done: impl Fn() -> bool,
    ) -> bool {
        if SPINNERS.fetch_add(1, Ordering::Relaxed) >= spinners_max() {
            SPINNERS.fetch_sub(1, Ordering::Relaxed);
            return done();
        }
        let trial = self.misses.load(Ordering::Relaxed) % TRIAL_PERIOD == TRIAL_PERIOD - 1;
        let budget = if trial { SPIN_NANOS_MAX } else { self.budget_nanos.load(Ordering::Relaxed) };
        let found = look(started, Duration::from_nanos(u64::from(budget)), taken, done);
        SPINNERS.fetch_sub(1, Ordering::Relaxed);
        self.learn(started, found);
        found
    }

    fn learn(&self, started: Instant, found: bool) {
        let budget = self.budget_nanos.load(Ordering::Relaxed);
        let budget = if found {
            let nanos = u32::try_from(started.elapsed().as_nanos()).unwrap_or(u32::MAX);
            // Three times what it took, approached slowly from above.
            (budget - budget / 8).max(nanos.saturating_mul(3))
        } else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            budget / 2
        };
        self.budget_nanos.store(budget.clamp(SPIN_NANOS_MIN, SPIN_NANOS_MAX), Ordering::Relaxed);
    }
}

fn look(
    started: Instant,
    limit: Duration,
    taken: impl Fn() -> bool,
    done: impl Fn() -> bool,
) -> bool {
    loop {
        for _ in 0..64 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        // No sched_yield here: on a busy machine it gives the core away for a whole slice, some milliseconds.
        if !goes_on(started.elapsed(), limit, &taken) {
            return done();
        }
    }
}

/// Whether to look on after so long.
fn goes_on(looked: Duration, limit: Duration, taken: impl Fn() -> bool) -> bool {
    looked < limit && (looked < Duration::from_nanos(u64::from(UNTAKEN_NANOS_MAX)) || taken())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn looking_that_does_not_pay_becomes_short_and_is_tried_again() {
        let spin = Spin::default();
        for _ in 0..TRIAL_PERIOD - 1 {
            spin.learn(Instant::now(), false);
        }
        assert_eq!(spin.budget_nanos.load(Ordering::Relaxed), SPIN_NANOS_MIN);
        assert_eq!(spin.misses.load(Ordering::Relaxed), TRIAL_PERIOD - 1, "the next look is long");
        let started = Instant::now() - Duration::from_micros(20);
        spin.learn(started, true);
        assert!(spin.budget_nanos.load(Ordering::Relaxed) >= 60_000);
    }

    #[test]
    fn a_server_that_has_not_taken_the_request_is_looked_at_for_less_long() {
        let goes_on = |micros: u64, taken: bool| {
            goes_on(Duration::from_micros(micros), Duration::from_micros(50), || taken)
        };
        assert!(goes_on(19, false) && goes_on(19, true));
        assert!(!goes_on(20, false), "it may wait for this core");
        assert!(goes_on(20, true) && goes_on(49, true), "it runs on another");
        assert!(!goes_on(50, true));
    }
}

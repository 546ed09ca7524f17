//! How busy a reactor is: counters its thread writes and anybody reads.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sheen_ports::Clock;
use sheen_types::Tick;

use crate::system::SystemClock;

/// Counters of one reactor. All rise; shares are differences over time.
#[derive(Debug, Default)]
pub struct Load {
    busy_nanoseconds: AtomicU64,
    idle_nanoseconds: AtomicU64,
    sleep_nanoseconds: AtomicU64,
    busy_turns: AtomicU64,
    idle_turns: AtomicU64,
    sleeps: AtomicU64,
    work: AtomicU64,
    /// When the sleep under way began; 0: awake.
    asleep_since: AtomicU64,
}

/// What a [`Load`] was at one time, more or less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadSnapshot {
    /// Time in turns that found work.
    pub busy_nanoseconds: u64,
    /// Time in turns that found none (the price of polling).
    pub idle_nanoseconds: u64,
    /// Time asleep, the sleep under way included.
    pub sleep_nanoseconds: u64,
    /// Turns that found work.
    pub busy_turns: u64,
    /// Turns that found none.
    pub idle_turns: u64,
    /// Times asleep.
    pub sleeps: u64,
    /// Pieces of work done, as services count them.
    pub work: u64,
}

impl Load {
    pub(crate) fn count_busy_turn(&self, time: Duration, work: usize) {
        add(&self.busy_nanoseconds, nanoseconds(time));
        add(&self.busy_turns, 1);
        add(&self.work, work as u64);
    }

    pub(crate) fn count_idle_turn(&self, time: Duration) {
        add(&self.idle_nanoseconds, nanoseconds(time));
        add(&self.idle_turns, 1);
    }

    pub(crate) fn begin_sleep(&self, now: Tick) {
        self.asleep_since.store(now.0, Ordering::Relaxed);
    }

    pub(crate) fn end_sleep(&self, time: Duration) {
        self.asleep_since.store(0, Ordering::Relaxed);
        add(&self.sleep_nanoseconds, nanoseconds(time));
        add(&self.sleeps, 1);
    }

    /// Reads all counters, one after the other; a reactor on another clock than the system's shows its sleep late.
    #[must_use]
    pub fn snapshot(&self) -> LoadSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let asleep = match read(&self.asleep_since) {
            0 => Duration::ZERO,
            since => SystemClock.now().since(Tick(since)),
        };
        LoadSnapshot {
            busy_nanoseconds: read(&self.busy_nanoseconds),
            idle_nanoseconds: read(&self.idle_nanoseconds),
            sleep_nanoseconds: read(&self.sleep_nanoseconds) + nanoseconds(asleep),
            busy_turns: read(&self.busy_turns),
            idle_turns: read(&self.idle_turns),
            sleeps: read(&self.sleeps),
            work: read(&self.work),
        }
    }
}

/// One thread writes, so a load and a store do; a locked addition would cost twenty times as much per turn.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

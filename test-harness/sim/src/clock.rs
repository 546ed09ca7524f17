//! Virtual time: stands still until the simulator moves it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use sheen_ports::Clock;
use sheen_types::{Tick, Timespec};

/// Seconds between 1970 and the start of every run: 2026-01-01.
const START_SECONDS: u64 = 1_767_225_600;
const NANOSECONDS: u64 = 1_000_000_000;

/// The one clock of a run; clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<AtomicU64>);

impl SimClock {
    /// Time since the start.
    #[must_use]
    pub fn tick(&self) -> Tick {
        Tick(self.0.load(Ordering::SeqCst))
    }

    /// Moves time to `at`; never back.
    pub fn advance_to(&self, at: Tick) {
        self.0.fetch_max(at.0, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Tick {
        self.tick()
    }

    fn wall(&self) -> Timespec {
        let now = self.tick().0;
        let seconds = i64::try_from(START_SECONDS + now / NANOSECONDS).unwrap_or(i64::MAX);
        Timespec { seconds, nanoseconds: u32::try_from(now % NANOSECONDS).unwrap_or(0) }
    }
}

//! Time and chance.

use sheen_types::{Tick, Timespec};

/// Where time comes from.
pub trait Clock {
    /// Monotonic time, for deadlines and durations.
    fn now(&self) -> Tick;

    /// Wall clock time, for what inodes show.
    fn wall(&self) -> Timespec;
}

/// Where chance comes from.
pub trait Entropy {
    /// The next 64 random bits.
    fn next_u64(&mut self) -> u64;
}

//! Two times: what the wall shows (kept in inodes) and how long something took (deadlines).

/// Wall clock time of an inode or object: seconds since 1970 and nanoseconds below one second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Timespec {
    /// Seconds since 1970-01-01T00:00:00Z; may be negative.
    pub seconds: i64,
    /// Nanoseconds, 0..1_000_000_000.
    pub nanoseconds: u32,
}

impl Timespec {
    /// The start of 1970.
    pub const ZERO: Self = Self { seconds: 0, nanoseconds: 0 };

    /// The next time that can be told apart from this one.
    #[must_use]
    pub const fn just_after(self) -> Self {
        match self.nanoseconds {
            999_999_999 => Self { seconds: self.seconds.saturating_add(1), nanoseconds: 0 },
            nanoseconds => Self { seconds: self.seconds, nanoseconds: nanoseconds + 1 },
        }
    }

    /// The time of a service that was this, as its clock shows `clock`: it never goes back, and creeps where the clock was set back,
    /// so that what follows something else is later.
    #[must_use]
    pub fn going_on(self, clock: Self) -> Self {
        if clock < self { self.just_after() } else { clock }
    }

    /// The time `duration` later.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        const SECOND: u32 = 1_000_000_000;
        let nanoseconds = self.nanoseconds + duration.subsec_nanos();
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self {
            seconds: self
                .seconds
                .saturating_add(seconds)
                .saturating_add((nanoseconds / SECOND).into()),
            nanoseconds: nanoseconds % SECOND,
        }
    }
}

/// Monotonic nanoseconds since some start. Core crates get it as an argument.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick `duration` later.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod test {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_was_set_back_creeps_until_it_has_caught_up() {
        let at = |seconds, nanoseconds| Timespec { seconds, nanoseconds };
        assert_eq!(at(7, 0).going_on(at(8, 0)), at(8, 0));
        assert_eq!(at(7, 0).going_on(at(7, 0)), at(7, 0));
        assert_eq!(at(7, 0).going_on(at(6, 5)), at(7, 1));
    }

    #[test]
    fn nanoseconds_carry_into_seconds() {
        let last = Timespec { seconds: 7, nanoseconds: 999_999_999 };
        assert_eq!(last.just_after(), Timespec { seconds: 8, nanoseconds: 0 });
        assert_eq!(Timespec::ZERO.just_after(), Timespec { seconds: 0, nanoseconds: 1 });
        let sum = last.after(Duration::new(2, 2));
        assert_eq!(sum, Timespec { seconds: 10, nanoseconds: 1 });
        let before = Timespec { seconds: -1, nanoseconds: 500_000_000 };
        assert_eq!(before.after(Duration::from_millis(600)).seconds, 0);
    }
}

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

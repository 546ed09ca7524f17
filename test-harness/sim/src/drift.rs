//! A client's own clock: it runs a little fast or slow against that of everybody else.

use std::time::Duration;

use sheen_types::Tick;

const MILLION: u64 = 1_000_000;

/// How fast a clock runs.
#[derive(Clone, Copy, Debug)]
pub struct Drift {
    /// Its time for a million of true time.
    parts: u64,
}

impl Drift {
    /// The true time.
    pub const NONE: Self = Self { parts: MILLION };

    /// A clock that gains so many parts in a million, or loses them.
    #[must_use]
    pub const fn new(gains: bool, parts_in_million: u64) -> Self {
        let parts = if gains { MILLION + parts_in_million } else { MILLION - parts_in_million };
        Self { parts }
    }

    /// What it shows at a true time.
    #[must_use]
    pub fn shown(self, at: Tick) -> Tick {
        Tick(scale(at.0, self.parts, MILLION))
    }

    /// The first true time at which it shows `shown` or later.
    #[must_use]
    pub fn true_time(self, shown: Tick) -> Tick {
        let at = Tick(scale(shown.0, MILLION, self.parts));
        if self.shown(at) < shown { at.after(Duration::from_nanos(1)) } else { at }
    }
}

fn scale(value: u64, by: u64, of: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(by) / u128::from(of);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_time_is_shown_at_the_true_time_that_belongs_to_it_and_not_before() {
        for drift in [Drift::NONE, Drift::new(true, 40_000), Drift::new(false, 40_000)] {
            for shown in [Tick(0), Tick(1), Tick(999_999_937), Tick(1 << 50)] {
                let at = drift.true_time(shown);
                assert!(drift.shown(at) >= shown);
                assert!(at.0 == 0 || drift.shown(Tick(at.0 - 1)) < shown);
            }
        }
    }
}

//! Counts of latencies in classes that are two percent wide.

use std::time::Duration;

/// Classes per doubling; the relative error is half of one of these.
const STEPS_LOG2: u32 = 6;
const STEPS: u64 = 1 << STEPS_LOG2;
const CLASSES: usize = (64 - STEPS_LOG2 as usize + 1) << STEPS_LOG2;

/// A histogram over all durations.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; CLASSES], total: 0 }
    }
}

impl Latencies {
    /// Counts one.
    pub(super) fn add(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[class(nanoseconds)] += 1;
        self.total += 1;
    }

    /// Adds what another counted.
    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// The latency that `share` thousandths of all do not exceed, in nanoseconds.
    pub(super) fn quantile(&self, thousandths: u64) -> u64 {
        let rank = (self.total * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        for (class, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(class);
            }
        }
        0
    }
}

/// Small values have a class each; above, each doubling has [`STEPS`].
fn class(value: u64) -> usize {
    let shift = value.checked_ilog2().unwrap_or(0).saturating_sub(STEPS_LOG2);
    let class = (u64::from(shift) << STEPS_LOG2) + (value >> shift);
    usize::try_from(class).unwrap_or(CLASSES - 1).min(CLASSES - 1)
}

fn middle(class: usize) -> u64 {
    let class = class as u64;
    if class < 2 * STEPS {
        return class;
    }
    let shift = (class >> STEPS_LOG2) - 1;
    let value = STEPS + (class & (STEPS - 1));
    (value << shift) + ((1 << shift) >> 1)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_quantile_is_within_two_percent() {
        for value in [1, 63, 64, 65, 127, 128, 1000, 90_000, 12_345_678, 3_000_000_000] {
            let mut latencies = Latencies::default();
            latencies.add(Duration::from_nanos(value));
            let found = latencies.quantile(500);
            assert!(found.abs_diff(value) * 50 <= value, "{value}: {found}");
        }
    }

    #[test]
    fn quantiles_are_ranks() {
        let mut all = Latencies::default();
        for thread in 0..4 {
            let mut one = Latencies::default();
            (0..250).for_each(|n| one.add(Duration::from_micros(thread * 250 + n + 1)));
            all.merge(&one);
        }
        assert!(all.quantile(500).abs_diff(500_000) < 10_000);
        assert!(all.quantile(990).abs_diff(990_000) < 20_000);
        assert_eq!(Latencies::default().quantile(500), 0);
    }
}

//! Latencies of a run, kept whole, since a percentile of rounded values hides the tail.

/// Nanoseconds of each command.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// Room for this many, so that noting one does not allocate.
    #[must_use]
    pub fn with_room(commands: usize) -> Self {
        Self(Vec::with_capacity(commands))
    }

    /// Notes one.
    pub fn push(&mut self, nanoseconds: u64) {
        self.0.push(u32::try_from(nanoseconds).unwrap_or(u32::MAX));
    }

    /// The latency in microseconds that this share of the commands did not exceed, in 1/1000.
    pub fn percentile(&mut self, per_mille: usize) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        let at = (self.0.len() * per_mille / 1000).min(self.0.len() - 1);
        let (_, value, _) = self.0.select_nth_unstable(at);
        f64::from(*value) / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        let mut latencies = Latencies::with_room(100);
        (1..=100).rev().for_each(|value| latencies.push(value * 1000));
        assert!((latencies.percentile(500) - 51.0).abs() < f64::EPSILON);
        assert!((latencies.percentile(990) - 100.0).abs() < f64::EPSILON);
        assert!(Latencies::default().percentile(500).abs() < f64::EPSILON);
    }
}

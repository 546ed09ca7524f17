//! Numbers measured in rounds, and the ratio of two interleaved series.

use serde::Serialize;

/// Measurements of one thing, one a round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Samples(Vec<f64>);

/// The smallest, middle and largest of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The middle one; of an even number the mean of the middle two.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Samples {
    /// No measurements yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the measurement of a round.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many rounds there are.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.0.len()
    }

    /// The spread; `None` without measurements.
    #[must_use]
    pub fn spread(&self) -> Option<Spread> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted[sorted.len() / 2];
        let lower = sorted[(sorted.len() - 1) / 2];
        Some(Spread { min, median: f64::midpoint(lower, upper), max })
    }

    /// Round by round, this divided by `other`; rounds measured close together are compared with each other.
    #[must_use]
    pub fn ratios(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.filter(|(_, below)| **below > 0.0).map(|(above, below)| above / below).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Samples {
        Samples(values.to_vec())
    }

    #[test]
    fn the_spread_of_an_even_number_has_the_mean_of_the_middle_two() {
        let spread = of(&[4.0, 1.0, 3.0, 2.0]).spread().unwrap();
        assert_eq!(spread, Spread { min: 1.0, median: 2.5, max: 4.0 });
        assert_eq!(Samples::new().spread(), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let ratios = of(&[2.0, 9.0]).ratios(&of(&[1.0, 3.0]));
        assert_eq!(ratios.spread().unwrap(), Spread { min: 2.0, median: 2.5, max: 3.0 });
        assert_eq!(of(&[1.0]).ratios(&of(&[0.0])).rounds(), 0);
    }
}

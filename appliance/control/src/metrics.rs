//! Prometheus families from plain figures. Names follow Prometheus' conventions: base units, `_total` on what rises.
//!
//! Input is data, not a node: what the figures are of is [`crate::node_pages`]'s to know. The list of metrics, and what
//! they are called on Amazon FSx, is in `docs/metrics.md`.

use prometheus::{
    Encoder, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

/// Labels of one series.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// Families under construction, in the order they were named.
#[derive(Debug, Default)]
pub struct Families(Vec<MetricFamily>);

/// A histogram read from counters: upper edges in seconds with the count *in* each bucket.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// (upper edge in seconds, observations in this bucket alone).
    pub buckets: Vec<(f64, u64)>,
    /// Observations above the last edge.
    pub above: u64,
    /// Sum of all observations in seconds.
    pub sum: f64,
}

impl Families {
    /// Adds a series of something that only rises.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are 64-bit floats")]
    pub fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, value: u64) {
        self.seconds(name, help, labels, value as f64);
    }

    /// Adds a series of time that only rises, in seconds.
    pub fn seconds(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, metric);
    }

    /// Adds a series of a level.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are 64-bit floats")]
    pub fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: u64) {
        self.level(name, help, labels, value as f64);
    }

    /// Adds a series of a level that is no whole number.
    pub fn level(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, metric);
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, name: &str, help: &str, labels: Labels<'_>, value: &Distribution) {
        let mut cumulative = 0;
        let buckets: Vec<Bucket> = value
            .buckets
            .iter()
            .map(|(edge, count)| {
                cumulative += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*edge);
                bucket.set_cumulative_count(cumulative);
                bucket
            })
            .collect();
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(cumulative + value.above);
        histogram.set_sample_sum(value.sum);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, metric);
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, metric: Metric) {
        if let Some(family) = self.0.iter_mut().find(|family| family.name() == name) {
            family.mut_metric().push(metric);
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.mut_metric().push(metric);
        self.0.push(family);
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::new();
        match TextEncoder::new().encode(&self.0, &mut bytes) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("# metrics could not be written: {error}\n"),
        }
    }
}

fn labelled(labels: Labels<'_>) -> Metric {
    let mut metric = Metric::default();
    let pairs: Vec<LabelPair> = labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect();
    metric.set_label(pairs);
    metric
}

/// `ObjectWrite` as a label: `object_write`.
#[must_use]
pub fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for (index, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn families_are_written_once_with_all_their_series() {
        let mut families = Families::default();
        families.counter("sheen_a_total", "A.", &[("target", "x")], 1);
        families.gauge("sheen_b", "B.", &[], 2);
        families.counter("sheen_a_total", "A.", &[("target", "y")], 3);
        let text = families.to_text();
        assert_eq!(text.matches("# TYPE sheen_a_total counter").count(), 1);
        assert!(text.contains("sheen_a_total{target=\"x\"} 1\n"));
        assert!(text.contains("sheen_a_total{target=\"y\"} 3\n"));
        assert!(text.contains("sheen_b 2\n"));
    }

    #[test]
    fn buckets_become_cumulative() {
        let mut families = Families::default();
        let value = Distribution { buckets: vec![(0.001, 2), (0.002, 3)], above: 1, sum: 0.5 };
        families.histogram("sheen_t_seconds", "T.", &[], &value);
        let text = families.to_text();
        assert!(text.contains("sheen_t_seconds_bucket{le=\"0.002\"} 5\n"), "{text}");
        assert!(text.contains("sheen_t_seconds_bucket{le=\"+Inf\"} 6\n"), "{text}");
        assert!(text.contains("sheen_t_seconds_count 6\n"), "{text}");
    }

    #[test]
    fn opcodes_become_labels() {
        assert_eq!(snake_case("ObjectWrite"), "object_write");
        assert_eq!(snake_case("Ping"), "ping");
    }
}

//! Counters of what the client did, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// Counters; each only rises.
        #[derive(Debug, Default)]
        pub struct Counters { $(#[doc = $doc] pub $name: AtomicU64,)* }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $(#[doc = $doc] pub $name: u64,)* }

        impl Snapshot {
            /// Each counter: its name, what it counts, its value.
            fn list(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $doc, self.$name),)*]
            }
        }

        impl Counters {
            /// What they show now.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Requests to the MDT, resent ones not counted again.
    metadata_requests,
    /// Requests to OSTs, resent ones not counted again.
    object_requests,
    /// Requests sent again after a lost connection.
    resent,
    /// Times the MDT was asked to make room because an OST had none.
    room_requests,
    /// Requests a server was too busy for and that were sent again.
    busy,
    /// Acknowledged changes sent again because an OST came back and may have forgotten them.
    changes_resent,
    /// Acknowledged changes that were lost: what `fsync` and `close` said EIO for.
    changes_lost,
    /// Flushes of an OST asked for because much, or for some time, was kept that was not durable.
    background_flushes,
    /// Connections made after the first.
    reconnects,
    /// Times the MDT had ended the session.
    evictions,
    /// Times the lease of the session ended by our clock.
    lapses,
    /// Leases asked for in a request of its own.
    lease_requests,
    /// Revokes answered.
    revokes,
    /// Reads of files.
    reads,
    /// Bytes read.
    read_bytes,
    /// Writes to files.
    writes,
    /// Bytes written.
    write_bytes,
    /// Questions to OSTs for sizes.
    glimpses,
    /// Answers that could not be had from what is cached.
    attribute_misses,
    /// Answers out of the cache.
    attribute_hits,
}

impl Snapshot {
    /// Returns them as metrics in Prometheus' text format, each named `sheen_client_NAME_total`.
    #[must_use]
    pub fn to_metrics(&self) -> String {
        let mut text = String::new();
        for (name, doc, value) in self.list() {
            let (name, help) = (format!("sheen_client_{name}_total"), doc.trim());
            let metric = format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n");
            text.push_str(&metric);
        }
        text
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_counter_is_a_metric() {
        let counters = Counters::default();
        add(&counters.changes_resent, 7);
        count(&counters.changes_lost);
        let text = counters.snapshot().to_metrics();
        assert!(text.contains("\nsheen_client_changes_resent_total 7\n"), "{text}");
        assert!(text.contains("\nsheen_client_changes_lost_total 1\n"), "{text}");
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(text.lines().count(), 3 * types);
        let help = "# HELP sheen_client_changes_lost_total Acknowledged changes that were lost: ";
        assert!(text.contains(help), "{text}");
    }
}

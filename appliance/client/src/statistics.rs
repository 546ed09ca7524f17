//! Counters of what the client did, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters; each only rises.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64,)* }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64,)* }

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

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

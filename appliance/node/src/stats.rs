//! Counters a service's thread writes and the metrics part reads: per operation, in fixed arrays of atomics.
//!
//! Owned through an `Arc` by the service and by whoever reads. One thread writes each (relaxed adds), any thread
//! reads; a reader may see a request counted and its latency not yet. Nothing here allocates after the start.
//! Deliberately absent: names of metrics, text, labels (see `sheen-control`).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sheen_wire::Opcode;

/// Buckets of a latency histogram. Bucket 0 counts what took less than [`LATENCY_FLOOR_NANOSECONDS`]; bucket `i` what
/// took less than `LATENCY_FLOOR_NANOSECONDS << i` and not less than half of it; the last one everything slower.
pub const LATENCY_BUCKETS: usize = 26;
/// Upper edge of bucket 0: 1.024 µs. The last bucket begins at 2^34 ns, 17 s.
pub const LATENCY_FLOOR_NANOSECONDS: u64 = 1 << 10;

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        // One thread changes it, so that nothing can come between; an atomic addition would cost twenty times as much.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Sets it, for what is a level rather than a count.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Reads it.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections of a service.
#[derive(Debug, Default)]
pub struct ConnectionStats {
    /// Connections open.
    pub open: Counter,
    /// Connections ended because the peer sent what no peer may send.
    pub protocol_errors: Counter,
}

impl ConnectionStats {
    /// Takes over what a fabric counted.
    pub fn set(&self, counters: &sheen_rdma::FabricCounters) {
        self.open.set(counters.opened.saturating_sub(counters.closed));
        self.protocol_errors.set(counters.protocol_errors);
    }
}

/// What happened to requests of one opcode.
#[derive(Debug, Default)]
pub struct OperationStats {
    /// Requests answered, errors included.
    pub count: Counter,
    /// Requests answered with a status other than 0.
    pub errors: Counter,
    /// Payload bytes received.
    pub bytes_in: Counter,
    /// Payload bytes sent.
    pub bytes_out: Counter,
    /// Sum of latencies, arrival to reply, in nanoseconds.
    pub latency_nanoseconds: Counter,
    /// Histogram of latencies; see [`LATENCY_BUCKETS`].
    pub latency_buckets: [Counter; LATENCY_BUCKETS],
}

/// Bucket that `latency` belongs to.
#[must_use]
pub fn latency_bucket(latency: Duration) -> usize {
    let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
    let units = nanoseconds / LATENCY_FLOOR_NANOSECONDS;
    let bits = (u64::BITS - units.leading_zeros()) as usize;
    bits.min(LATENCY_BUCKETS - 1)
}

/// Statistics of every opcode.
#[derive(Debug)]
pub struct Operations {
    by_opcode: Box<[OperationStats]>,
}

impl Default for Operations {
    fn default() -> Self {
        Self { by_opcode: Opcode::ALL.iter().map(|_| OperationStats::default()).collect() }
    }
}

impl Operations {
    /// Statistics of `opcode`.
    #[must_use]
    pub fn of(&self, opcode: Opcode) -> &OperationStats {
        let index = Opcode::ALL.binary_search(&opcode).unwrap_or(0);
        &self.by_opcode[index]
    }

    /// Counts an answered request. Bytes are those of payloads.
    pub fn record(
        &self,
        opcode: Opcode,
        status: i32,
        bytes_in: u64,
        bytes_out: u64,
        latency: Duration,
    ) {
        let stats = self.of(opcode);
        stats.count.add(1);
        if status != 0 {
            stats.errors.add(1);
        }
        stats.bytes_in.add(bytes_in);
        stats.bytes_out.add(bytes_out);
        stats.latency_nanoseconds.add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        stats.latency_buckets[latency_bucket(latency)].add(1);
    }

    /// Every opcode with its statistics, in the order of opcode numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Opcode, &OperationStats)> {
        Opcode::ALL.iter().copied().zip(self.by_opcode.iter())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn opcodes_are_in_order_so_that_each_finds_its_own_numbers() {
        let operations = Operations::default();
        for (count, &opcode) in (1..).zip(Opcode::ALL) {
            operations.record(opcode, 0, count, 0, Duration::ZERO);
        }
        for ((opcode, stats), expected) in operations.iter().zip(1..) {
            assert_eq!(stats.count.get(), 1, "{opcode:?}");
            assert_eq!(stats.bytes_in.get(), expected, "{opcode:?}");
        }
    }

    #[test]
    fn a_latency_lies_between_the_edges_of_its_bucket() {
        for bucket in 1..LATENCY_BUCKETS - 1 {
            let upper = LATENCY_FLOOR_NANOSECONDS << bucket;
            assert_eq!(latency_bucket(Duration::from_nanos(upper - 1)), bucket);
            assert_eq!(latency_bucket(Duration::from_nanos(upper)), bucket + 1);
        }
        assert_eq!(latency_bucket(Duration::ZERO), 0);
        assert_eq!(latency_bucket(Duration::from_secs(1 << 30)), LATENCY_BUCKETS - 1);
    }
}

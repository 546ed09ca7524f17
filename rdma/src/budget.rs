//! What the connections of a node may take of its address space and memory, one by one and together.
//!
//! A window is memory of the client that the node maps; a page of it that the node touches first is charged to the node. A TCP
//! connection is charged with all it can ever hold. A connection that would go beyond is refused, and its share comes back when
//! it ends.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{area::AREA_BYTES, hello::Refusal, tcp_connection::TCP_BYTES_MAX};

/// Bounds of what connections take, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionLimits {
    /// Payload window of one connection over shared memory.
    pub window_bytes_max: u64,
    /// Windows, message areas and queues of all connections of all services.
    pub bytes_max: u64,
}

impl Default for ConnectionLimits {
    /// The window is that of a mount; the sum is enough for 85 mounts of three services.
    fn default() -> Self {
        Self { window_bytes_max: 256 << 20, bytes_max: 64 << 30 }
    }
}

/// What refusals over TCP are counted as: the labels of [`Refusal`], of [`crate::handshake::HandshakeError`] and of
/// [`crate::RefusalReason`].
pub const REFUSAL_LABELS: [&str; 22] = [
    "version",
    "service",
    "malformed",
    "full",
    "window",
    "memory",
    "identity",
    "unknown",
    "revoked",
    "expired",
    "other-node",
    "address",
    "busy",
    "certificate",
    "own-certificate",
    "encryption",
    "protocol",
    "tls",
    "late",
    "left",
    "crowded",
    "no-identity",
];

/// What an acceptor counted since its start.
#[derive(Debug, Default)]
pub struct AcceptorCounters {
    accepted: AtomicU64,
    refused: AtomicU64,
    refused_for: [AtomicU64; REFUSAL_LABELS.len()],
    refused_memory: AtomicU64,
    bytes: AtomicU64,
}

impl AcceptorCounters {
    /// Connections handed over.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections closed because their hello did not come, was none, or asked for what is not there or not free.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Of them refused by [`ConnectionLimits`].
    #[must_use]
    pub fn refused_memory(&self) -> u64 {
        self.refused_memory.load(Ordering::Relaxed)
    }

    /// Bytes that the connections there are may take; at most [`ConnectionLimits::bytes_max`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Connections over TCP that were not let in by a [`crate::Gate`] or on the way to it, by reason; they are among [`Self::refused`].
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.refused_for.iter().map(|count| count.load(Ordering::Relaxed));
        REFUSAL_LABELS.into_iter().zip(counts)
    }

    /// Counts a refusal of one of [`REFUSAL_LABELS`].
    pub(crate) fn refuse_for(&self, label: &str) {
        self.refuse(1);
        let at = REFUSAL_LABELS.iter().position(|known| *known == label);
        if let Some(count) = at.and_then(|at| self.refused_for.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refuse(&self, connections: usize) {
        self.refused.fetch_add(connections as u64, Ordering::Relaxed);
    }
}

/// Hands out shares of the limits.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    limits: ConnectionLimits,
    counters: Arc<AcceptorCounters>,
}

impl Budget {
    pub(crate) fn new(limits: ConnectionLimits, counters: Arc<AcceptorCounters>) -> Self {
        Self { limits, counters }
    }

    /// Reserves what a connection over shared memory with a window of `window_bytes` takes.
    pub(crate) fn reserve_shared(&self, window_bytes: u64) -> Result<Reserved, Refusal> {
        if window_bytes > self.limits.window_bytes_max {
            self.counters.refused_memory.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::Window);
        }
        self.reserve(window_bytes.saturating_add(AREA_BYTES as u64))
    }

    /// Reserves what a TCP connection takes at most.
    pub(crate) fn reserve_tcp(&self) -> Result<Reserved, Refusal> {
        self.reserve(TCP_BYTES_MAX as u64)
    }

    fn reserve(&self, bytes: u64) -> Result<Reserved, Refusal> {
        let taken =
            self.counters.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(bytes).filter(|sum| *sum <= self.limits.bytes_max)
            });
        if taken.is_err() {
            self.counters.refused_memory.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::Memory);
        }
        Ok(Reserved { of: Some((self.counters.clone(), bytes)) })
    }
}

/// A connection's share; given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    /// None: of no budget.
    of: Option<(Arc<AcceptorCounters>, u64)>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some((counters, bytes)) = self.of.take() {
            counters.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn shares_end_at_the_bound_and_come_back() {
        let shared = (1 << 20) + AREA_BYTES as u64;
        let tcp = TCP_BYTES_MAX as u64;
        let limits = ConnectionLimits { window_bytes_max: 1 << 20, bytes_max: shared + tcp };
        let counters = Arc::new(AcceptorCounters::default());
        let budget = Budget::new(limits, counters.clone());
        for window in [(1 << 20) + 1, u64::MAX] {
            assert_eq!(budget.reserve_shared(window).unwrap_err(), Refusal::Window);
        }
        let window = budget.reserve_shared(1 << 20).unwrap();
        let stream = budget.reserve_tcp().unwrap();
        assert_eq!(counters.bytes(), shared + tcp);
        assert_eq!(budget.reserve_tcp().unwrap_err(), Refusal::Memory);
        assert_eq!(budget.reserve_shared(0).unwrap_err(), Refusal::Memory);
        assert_eq!(counters.refused_memory(), 4);
        drop(window);
        assert_eq!(counters.bytes(), tcp);
        drop((stream, budget.reserve_shared(1 << 20).unwrap()));
        assert_eq!(counters.bytes(), 0);
    }
}

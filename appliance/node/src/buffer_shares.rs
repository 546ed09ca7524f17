//! What of a service's payload buffers each connection holds.
//!
//! A peer that does not take its replies, or does not send the payload it announced, keeps buffers for as long as it likes. So a
//! connection gets one only while it then holds at most what is left for others: one alone gets half, n such peers leave the
//! (n+1)th part free, and smaller requests find room when larger ones do not.
//! Deliberately absent: what packing, merges and the scrub take for a moment; it waits for no peer.

use std::collections::BTreeMap;

use sheen_ports::ConnectionId;
use sheen_types::BLOCK_BYTES;

/// Bytes held, by connection.
#[derive(Debug)]
pub(crate) struct BufferShares {
    /// All there is, in bytes.
    capacity: usize,
    total: usize,
    held: BTreeMap<ConnectionId, usize>,
}

/// What a buffer takes of its arena.
fn size_of_buffer(bytes: usize) -> usize {
    bytes.next_power_of_two().max(BLOCK_BYTES)
}

impl BufferShares {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, total: 0, held: BTreeMap::new() }
    }

    /// Whether a connection may have one more buffer of `bytes`.
    pub(crate) fn may_take(&self, connection: ConnectionId, bytes: usize) -> bool {
        let held = self.held.get(&connection).copied().unwrap_or(0);
        let then = size_of_buffer(bytes);
        // Nobody waits for a buffer when nobody has one: even the largest request goes on in the smallest arena.
        self.total == 0 || held + then <= self.capacity.saturating_sub(self.total + then)
    }

    #[cfg(test)]
    pub(crate) const fn total(&self) -> usize {
        self.total
    }

    /// A connection got a buffer of `bytes`.
    pub(crate) fn take(&mut self, connection: ConnectionId, bytes: usize) {
        let bytes = size_of_buffer(bytes);
        self.total += bytes;
        *self.held.entry(connection).or_default() += bytes;
    }

    /// A buffer that was taken with the same `bytes` waits for the connection no more.
    ///
    /// # Panics
    /// When the connection holds none: that is a bug of ours.
    pub(crate) fn give(&mut self, connection: ConnectionId, bytes: usize) {
        let bytes = size_of_buffer(bytes);
        let held = self.held.get_mut(&connection).expect("what is given back was taken");
        *held -= bytes;
        self.total -= bytes;
        if *held == 0 {
            self.held.remove(&connection);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn one_gets_half_and_a_newcomer_always_something() {
        let mut shares = BufferShares::new(64 * BLOCK_BYTES);
        let block = BLOCK_BYTES;
        let fill = |shares: &mut BufferShares, connection| {
            let mut count = 0;
            while shares.may_take(connection, block) {
                shares.take(connection, block);
                count += 1;
            }
            count
        };
        let counts: Vec<_> = (1..6).map(|of| fill(&mut shares, ConnectionId(of))).collect();
        assert_eq!(counts, [32, 16, 8, 4, 2]);
        assert!(shares.may_take(ConnectionId(9), block));
        (0..32).for_each(|_| shares.give(ConnectionId(1), block - 1));
        assert_eq!(fill(&mut shares, ConnectionId(5)), 16, "and more when others gave back");
        assert_eq!(shares.held.len(), 4);
    }

    #[test]
    fn the_first_may_take_more_than_half_and_the_last_are_left_to_small_requests() {
        let mut shares = BufferShares::new(4 * BLOCK_BYTES);
        assert!(shares.may_take(ConnectionId(1), 3 * BLOCK_BYTES));
        shares.take(ConnectionId(1), 2 * BLOCK_BYTES);
        assert!(!shares.may_take(ConnectionId(1), 1));
        assert!(!shares.may_take(ConnectionId(2), 2 * BLOCK_BYTES));
        assert!(shares.may_take(ConnectionId(2), 1));
        shares.give(ConnectionId(1), 2 * BLOCK_BYTES);
        assert!(shares.held.is_empty());
    }
}

//! What an MDT is told at its start: places, times and bounds.

use std::time::Duration;

use sheen_consensus::{GroupConfig, Zone};
use sheen_types::Lba;
use sheen_wire::metadata::OstAddress;

/// Configuration of an MDT service.
#[derive(Clone, Debug)]
pub struct MdtConfig {
    /// First block of the MDT's zone on the device.
    pub zone_start: Lba,
    /// The zone.
    pub zone: Zone,
    /// The replica.
    pub group: GroupConfig,
    /// Every OST of the system; those the state does not know yet are registered.
    pub osts: Vec<OstAddress>,
    /// Times.
    pub times: MdtTimes,
    /// Bounds of the tables.
    pub limits: MdtLimits,
    /// Bounds of the replicated state; alike on every replica.
    pub state_limits: sheen_meta::Limits,
}

/// Times of an MDT.
#[derive(Clone, Copy, Debug)]
pub struct MdtTimes {
    /// A client silent for this long is evicted; told to it at Connect.
    pub lease: Duration,
    /// How long a revoke may go unanswered by a client that gives signs of life. Beyond it the client is evicted.
    pub revoke_max: Duration,
    /// A client without a connection for this long is evicted once it is in somebody's way.
    pub reconnect: Duration,
    /// After a restart: how long known clients have to come back.
    pub grace: Duration,
    /// How often deadlines are looked at, and refused work for the OSTs is tried again.
    pub tick: Duration,
}

impl Default for MdtTimes {
    /// 20 s of silence, 60 s for a revoke, 3 s to reconnect, 20 s of grace, looked at every 50 ms. Chosen by eye: a
    /// client pings every third of the lease.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(20),
            revoke_max: Duration::from_secs(60),
            reconnect: Duration::from_secs(3),
            grace: Duration::from_secs(20),
            tick: Duration::from_millis(50),
        }
    }
}

/// Bounds of an MDT's volatile tables. What does not fit is answered -EAGAIN (Busy).
#[derive(Clone, Copy, Debug)]
pub struct MdtLimits {
    /// Requests held without an answer, of all clients together.
    pub requests_max: usize,
    /// Requests held without an answer, of one client.
    pub requests_per_client_max: usize,
    /// (client, inode) pairs with a lease; the longest unused are revoked before it is reached.
    pub leases_max: usize,
    /// (client, inode) pairs that are open.
    pub opens_max: usize,
    /// File locks and requests waiting for them.
    pub locks: sheen_meta::flocks::LockLimits,
    /// Connections.
    pub connections_max: usize,
    /// Changes in one proposal.
    pub batch_entries_max: usize,
    /// Bytes of changes in one proposal.
    pub batch_bytes_max: usize,
    /// Proposals on their way.
    pub proposals_max: usize,
    /// Events taken from the fabric in one turn.
    pub events_per_turn: usize,
    /// Callbacks and replies kept for a connection whose peer does not take callbacks; beyond it is closed.
    pub backlog_per_connection_max: usize,
    /// Bytes of a snapshot handed to the log in one turn.
    pub snapshot_bytes_per_turn: usize,
    /// A snapshot begins at the latest when this part of the log's room is used (1/n, at least 2).
    pub snapshot_ring_part: u64,
    /// Entries of a directory page.
    pub page_entries_max: usize,
    /// Objects listed for destruction; beyond it creates are answered -EAGAIN. Deletes never are.
    pub destroys_pending_max: usize,
}

impl Default for MdtLimits {
    fn default() -> Self {
        Self {
            requests_max: 16 << 10,
            requests_per_client_max: 2 << 10,
            leases_max: 1 << 20,
            opens_max: 1 << 20,
            locks: sheen_meta::flocks::LockLimits::default(),
            connections_max: 8 << 10,
            batch_entries_max: 512,
            batch_bytes_max: 256 << 10,
            proposals_max: 4,
            events_per_turn: 256,
            backlog_per_connection_max: 4 << 10,
            snapshot_bytes_per_turn: 256 << 10,
            snapshot_ring_part: 2,
            page_entries_max: 8 << 10,
            destroys_pending_max: 1 << 20,
        }
    }
}

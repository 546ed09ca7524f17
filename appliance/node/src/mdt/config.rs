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
    /// Identity of the node, told at Connect: clients refuse another one at the same address.
    pub node: [u8; 16],
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
    /// How long a client may cache after it sent a request that was answered; told to it at Connect. It is evicted for
    /// its silence a margin later.
    pub lease: Duration,
    /// How long a revoke may go unanswered by a client that lives and gets nowhere with it. Beyond it the client is
    /// evicted; its leases are free when it has said that it dropped its caches, or its lease has ended.
    pub revoke_max: Duration,
    /// How long a revoke may go unanswered by a client that lives and gets on with it.
    pub revoke_limit: Duration,
    /// A client that closed its connection this long ago is evicted once it is in somebody's way; told to it at
    /// Connect: it drops its caches before.
    pub reconnect: Duration,
    /// After a restart: how long known clients have to come back; or as long as they may cache, if that is longer.
    pub grace: Duration,
    /// How long an inode stays that lost its last name, or its last open without one, for who uses it without an open.
    /// Clients say so within half of it. Zero: not at all.
    pub linger: Duration,
    /// How often deadlines are looked at, and refused work for the OSTs is tried again.
    pub tick: Duration,
}

impl Default for MdtTimes {
    /// 20 s of silence, 60 s for a revoke without and 10 minutes with progress, 5 s to reconnect, 20 s of grace, 2 s for an
    /// inode without a name, looked at every 50 ms. Chosen by eye: a client pings every third of the lease.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(20),
            revoke_max: Duration::from_secs(60),
            revoke_limit: Duration::from_secs(600),
            reconnect: Duration::from_secs(5),
            grace: Duration::from_secs(20),
            linger: Duration::from_secs(2),
            tick: Duration::from_millis(50),
        }
    }
}

impl MdtTimes {
    /// How long after its last answer a client that was promised this lease has certainly stopped to cache: the lease, and
    /// a margin for clocks that run apart. The client counts from when it asked, and stops before the lease ends.
    pub(crate) fn silence(lease: Duration) -> Duration {
        lease + lease / 10
    }
}

/// Bounds of an MDT's volatile tables. What does not fit is answered -EAGAIN (Busy), an open -ENFILE, a lock -ENOLCK. One
/// client takes at most as much of a table as it leaves free (of leases: only of the last sixteenth).
#[derive(Clone, Copy, Debug)]
pub struct MdtLimits {
    /// Requests held without an answer, of all clients together.
    pub requests_max: usize,
    /// Bytes of payload that are fetched, or that requests held without an answer have, of all clients together.
    pub payload_bytes_max: usize,
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
    /// Replies kept for a connection whose peer does not take callbacks; beyond it is closed. Callbacks are bounded by the leases
    /// its client holds.
    pub backlog_per_connection_max: usize,
    /// Bytes of a snapshot handed to the log in one turn.
    pub snapshot_bytes_per_turn: usize,
    /// A snapshot begins at the latest when this part of the log's room is used (1/n, at least 2).
    pub snapshot_ring_part: u64,
    /// Entries of a directory page.
    pub page_entries_max: usize,
    /// Inodes without a name that stay for [`MdtTimes::linger`]; more make the oldest go.
    pub lingering_max: usize,
    /// Objects listed for destruction, each OST an equal part of them; one beyond its part gets no new objects, and when
    /// all are creates are answered -EAGAIN. Deletes never are.
    pub destroys_pending_max: usize,
}

impl Default for MdtLimits {
    fn default() -> Self {
        Self {
            requests_max: 16 << 10,
            payload_bytes_max: 32 << 20,
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
            lingering_max: 64 << 10,
            destroys_pending_max: 1 << 20,
        }
    }
}

//! What an MDT counts, for the metrics part.

use crate::stats::{ConnectionStats, Counter, Operations};

/// Counters and levels of an MDT. Written by its thread alone.
#[derive(Debug, Default)]
pub struct MdtStats {
    /// Requests, by opcode.
    pub operations: Operations,
    /// Connections.
    pub connections: ConnectionStats,
    /// 1 while it leads and serves, 0 while it recovers, waits for clients after a restart, or has failed.
    pub serving: Counter,
    /// Sessions.
    pub sessions: Counter,
    /// Inodes of all file systems.
    pub inodes: Counter,
    /// Bytes of the state, as a snapshot holds it.
    pub state_bytes: Counter,
    /// Bytes a snapshot has room for.
    pub state_bytes_max: Counter,
    /// (client, inode) pairs with a lease.
    pub leases: Counter,
    /// (client, inode) pairs that are open.
    pub opens: Counter,
    /// File locks held.
    pub locks: Counter,
    /// Requests held without an answer.
    pub requests_held: Counter,
    /// Revokes sent.
    pub revokes: Counter,
    /// Clients evicted.
    pub evictions: Counter,
    /// Changes applied.
    pub entries: Counter,
    /// Proposals made; entries per proposal is the width of the group commit.
    pub proposals: Counter,
    /// Bytes of the log ring in use.
    pub log_bytes: Counter,
    /// Snapshots completed.
    pub snapshots: Counter,
    /// Raft term.
    pub term: Counter,
    /// Objects handed to OSTs for destruction and not confirmed yet.
    pub destroys_in_flight: Counter,
    /// Objects to destroy, those handed over included.
    pub destroys_pending: Counter,
}

//! What an MDT counts, for the metrics part.

use super::authorize::Refusal;
use crate::stats::{ConnectionStats, Counter, Operations};

/// Why requests are refused to a session, as metrics name it: it is the owner's to ask; the inode is of another file system; the
/// session reads only; permissions would have to be checked for it.
pub const REFUSED_REASONS: [&str; Refusal::COUNT] =
    ["owner", "filesystem", "read_only", "permissions"];

/// What part of its recovery an MDT is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryPart {
    /// Reads the snapshot.
    Snapshot,
    /// Reads the log.
    Log,
    /// Applies what the log holds.
    Replay,
}

impl RecoveryPart {
    /// Its number in [`MdtStats::recovery_part`].
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Snapshot => 1,
            Self::Log => 2,
            Self::Replay => 3,
        }
    }

    /// The part of this number; 0: none has begun.
    #[must_use]
    pub const fn of_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Snapshot),
            2 => Some(Self::Log),
            3 => Some(Self::Replay),
            _ => None,
        }
    }
}

/// Counters and levels of an MDT. Written by its thread alone.
#[derive(Debug, Default)]
pub struct MdtStats {
    /// Requests, by opcode.
    pub operations: Operations,
    /// Requests refused because of who asks, by reason: see [`REFUSED_REASONS`].
    pub refused: [Counter; REFUSED_REASONS.len()],
    /// Connections.
    pub connections: ConnectionStats,
    /// 1 while it leads and serves, 0 while it recovers, waits for clients after a restart, or has failed.
    pub serving: Counter,
    /// Which [`RecoveryPart`] it is at, by number.
    pub recovery_part: Counter,
    /// How much of that part is done: bytes, or proposals.
    pub recovery_done: Counter,
    /// Of how much; 0: not known.
    pub recovery_total: Counter,
    /// Sessions.
    pub sessions: Counter,
    /// Reply slots of all sessions.
    pub reply_slots: Counter,
    /// Inodes of all file systems.
    pub inodes: Counter,
    /// Bytes of the state, as a snapshot holds it.
    pub state_bytes: Counter,
    /// Bytes a snapshot has room for.
    pub state_bytes_max: Counter,
    /// Inodes without a name that stay for a moment, for who uses them without an open.
    pub inodes_lingering: Counter,
    /// (client, inode) pairs with a lease.
    pub leases: Counter,
    /// (client, inode) pairs that are open.
    pub opens: Counter,
    /// File locks held.
    pub locks: Counter,
    /// Requests held without an answer.
    pub requests_held: Counter,
    /// Callbacks that peers do not take yet, and what goes to the same peers behind them.
    pub messages_waiting: Counter,
    /// Revokes sent.
    pub revokes: Counter,
    /// Plans of changes: one for each change, and one each time something it waited for has ended.
    pub plans: Counter,
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
    /// Raft term; 0 before it leads and everything committed is applied.
    pub term: Counter,
    /// Objects handed to OSTs for destruction and not confirmed yet.
    pub destroys_in_flight: Counter,
    /// Objects to destroy, those handed over included.
    pub destroys_pending: Counter,
}

impl MdtStats {
    pub(crate) fn tell_recovery(&self, part: RecoveryPart, done: u64, total: u64) {
        self.recovery_part.set(part.number());
        self.recovery_done.set(done);
        self.recovery_total.set(total);
    }
}

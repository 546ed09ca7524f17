//! What an OST service counts, for whoever reads it from another thread.

use std::sync::{Arc, OnceLock};

use sheen_types::OstIndex;

use super::sessions::Refusal;
use crate::stats::{ConnectionStats, Counter, Operations};

/// Why requests are not carried out, as metrics name it: the connection is attached to no session, or to another; the session
/// ended; it is not known yet; the key to attach with is wrong; clients may not ask this; the object is of another file system; the
/// session reads only.
pub const NOT_ADMITTED_REASONS: [&str; Refusal::COUNT] =
    ["unattached", "another", "ended", "newer", "key", "opcode", "filesystem", "read_only"];

/// Counters of one service thread.
#[derive(Debug, Default)]
pub struct OstServiceStats {
    /// Requests that ask nothing of an OST, or of one that is not here, by opcode.
    pub operations: Operations,
    /// Requests refused for want of a slot or a buffer.
    pub busy: Counter,
    /// Requests not carried out because of whose they are, by reason: see [`NOT_ADMITTED_REASONS`].
    pub not_admitted: [Counter; NOT_ADMITTED_REASONS.len()],
    /// Sessions this service serves.
    pub sessions: Counter,
    /// Requests whose body does not decode or asks for what cannot be.
    pub malformed: Counter,
    /// Payloads that arrived damaged.
    pub payload_mismatches: Counter,
    /// Requests being carried out.
    pub in_flight: Counter,
    /// Connections.
    pub connections: ConnectionStats,
    /// One per OST.
    pub targets: Vec<Arc<OstStats>>,
}

/// Counters of one OST.
#[derive(Debug, Default)]
pub struct OstStats {
    /// Which.
    pub index: OstIndex,
    /// Requests by opcode.
    pub operations: Operations,
    /// 1 when it serves, 0 while it recovers or after it failed.
    pub ready: Counter,
    /// 1 when it failed for good.
    pub failed: Counter,
    /// Why it failed.
    pub failure: OnceLock<String>,
    /// Nanoseconds its recovery took.
    pub recovery_nanoseconds: Counter,
    /// Blocks read whose checksum was not the stored one.
    pub checksum_errors: Counter,
    /// Device commands that failed for good.
    pub device_errors: Counter,
    /// Device commands tried again.
    pub device_retries: Counter,
    /// Device commands in flight or waiting for the device's queue.
    pub device_queue: Counter,
    /// Bytes users can fill.
    pub total_bytes: Counter,
    /// Of them free.
    pub free_bytes: Counter,
    /// Bytes of objects that lie there, before compression.
    pub logical_bytes: Counter,
    /// Bytes they take.
    pub physical_bytes: Counter,
    /// Objects.
    pub objects: Counter,
    /// Bytes written to the device for data.
    pub data_bytes_written: Counter,
    /// Bytes written to the device for the journal.
    pub journal_bytes_written: Counter,
    /// Bytes written to the device for checkpoints.
    pub checkpoint_bytes_written: Counter,
    /// Checkpoints completed.
    pub checkpoints: Counter,
    /// Flushes of the device.
    pub flushes: Counter,
    /// Where the scrub stands, see [`crate::ost::ScrubState::of`].
    pub scrub_state: Counter,
    /// 1 while a pass is under way, paused or not.
    pub scrub_in_pass: Counter,
    /// Seconds since 1970 when its last pass since this start ended; 0: none did.
    pub scrub_ended_seconds: Counter,
    /// Bytes the scrub read.
    pub scrub_bytes: Counter,
    /// Of them in the pass under way, or the last.
    pub scrub_pass_bytes: Counter,
    /// Passes over everything stored, since the device was formatted.
    pub scrub_passes: Counter,
    /// Nanoseconds the last pass took since this start.
    pub scrub_pass_nanoseconds: Counter,
    /// Stored blocks the scrub found damaged.
    pub scrub_rotten: Counter,
    /// Stored blocks the scrub could not read.
    pub scrub_unreadable: Counter,
    /// Damaged batches of journal and checkpoint the scrub found.
    pub scrub_log_faults: Counter,
    /// Scattered slabs that were stored anew because they were read in order.
    pub tidied_slabs: Counter,
    /// Bytes stored anew so.
    pub tidied_bytes: Counter,
}

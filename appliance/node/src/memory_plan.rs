//! What a node takes of memory at most, pool by pool, and whether that is allowed.
//!
//! The plan is arithmetic on the configuration and the device's size; nothing is allocated here. Payload buffers are taken
//! at the start, the tables grow up to their bounds. Figures per entry are the sizes of the types with their share of tree
//! nodes, rounded up.

use std::fmt;

use sheen_types::Bytes;

use crate::{
    config::Config,
    device::{QueueBudget, Way},
    mdt::{LOG_BUFFER_BYTES, MdtLimits},
    ost::{RESERVE_BYTES, small_images_bytes},
    server::OPERATIONS_MAX,
};

/// An inode with its directory entry and a short name: 256 bytes of attributes and layout, two tree places.
const INODE_BYTES: u64 = 448;
/// An object with one chunk of one block: 164 bytes, its share of the map and the allocator's slack included (example `memory` of
/// the store, 1,000,000 objects, 2026-11-24).
const OBJECT_BYTES: u64 = 176;
/// A data block that lies apart from its neighbours, as after random overwrites: a run (16) and a checksum (4). In order it is little
/// more than the checksum.
const DATA_BLOCK_BYTES: u64 = 20;
/// Data keys and expanded key schedules, in locked pages: seven pages, measured with two OSTs.
const KEY_BYTES: u64 = 64 << 10;
/// A lease stands in three trees (224 bytes); of eight that there may be one is asked back, by a message that may wait (300).
const LEASE_BYTES: u64 = 264;
/// An open (client, inode) pair stands in two.
const OPEN_BYTES: u64 = 96;
/// A file lock stands in two trees, by owner and by length.
const LOCK_BYTES: u64 = 224;
/// An object listed for destruction: a place in one tree.
const DESTROY_BYTES: u64 = 40;
/// An inode that lingers: a place in one tree, in their order, and in that of each of four OSTs.
const LINGERING_BYTES: u64 = 320;
/// A request held by the MDT: frame, body, its places in the tables.
const REQUEST_BYTES: u64 = 2 << 10;
/// A byte of a held request's payload: in the request, and in the change it becomes.
const PAYLOAD_COPIES: u64 = 2;
/// A session: its table of 64 reply slots, its requests under way.
const SESSION_BYTES: u64 = 32 << 10;
/// A connection to one service: frames under way and socket buffers of ours.
const CONNECTION_BYTES: u64 = 64 << 10;
/// The MDT: proposals, log writes and a snapshot under way.
const MDT_BYTES: u64 = 64 << 20;
/// A store: journal batches and a checkpoint under way.
const STORE_BYTES: u64 = 16 << 20;
/// A thread: stack, ring, tables of requests.
const THREAD_BYTES: u64 = 8 << 20;
/// The program itself, the control runtime, the allocator's slack.
const BASE_BYTES: u64 = 128 << 20;

/// One pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// What is in it.
    pub what: &'static str,
    /// How many entries at most.
    pub count: u64,
    /// Bytes each.
    pub bytes_each: u64,
    /// The key that bounds it.
    pub bound: &'static str,
}

impl Pool {
    /// All of it.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.bytes_each)
    }
}

/// All pools of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    pools: Vec<Pool>,
    limit: Bytes,
}

/// The pools sum to more than is allowed. Shows the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverLimit(pub MemoryPlan);

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(plan) = self;
        writeln!(f, "limits.memory: expected at least {}, found {}:", plan.total(), plan.limit)?;
        write!(f, "{plan}")
    }
}

impl std::error::Error for OverLimit {}

impl MemoryPlan {
    /// The plan of a node with these services on a device of `device_blocks` blocks.
    #[must_use]
    pub fn new(config: &Config, reactors: u32, osts: u32, device_blocks: u64) -> Self {
        let limits = &config.limits;
        let (reactors, osts) = (u64::from(reactors), u64::from(osts));
        let objects = limits.inodes.min(device_blocks);
        let clients = u64::from(limits.clients);
        let mdt = MdtLimits::default();
        // Taken only by a controller that our own driver runs.
        let nvme = match Way::of(&config.device.path) {
            Ok(Way::Path(_)) | Err(_) => 0,
            Ok(Way::Pci { .. } | Way::VfioUser { .. }) => {
                QueueBudget::of(&config.device).arena_bytes() as u64
            }
        };
        let pool = |what, count, bytes_each, bound| Pool { what, count, bytes_each, bound };
        let pools = vec![
            pool("program and control runtime", 1, BASE_BYTES, ""),
            pool("service threads", reactors + 1, THREAD_BYTES, "threads.reactors"),
            pool("payload buffers", reactors + 1, limits.buffers.0, "limits.buffers"),
            pool("buffers of the metadata log", 1, LOG_BUFFER_BYTES as u64, ""),
            pool("queues of an NVMe controller", nvme, 1, "device.queue_depth"),
            pool("object stores", osts, STORE_BYTES, "device.osts"),
            pool("buffers of journals and recovery", osts, RESERVE_BYTES as u64, "device.osts"),
            pool(
                "images of changes without payload",
                reactors,
                small_images_bytes(OPERATIONS_MAX) as u64,
                "threads.reactors",
            ),
            pool("objects", objects, OBJECT_BYTES, "limits.inodes"),
            pool("keys", 1, KEY_BYTES, ""),
            pool(
                "runs and checksums of data blocks",
                device_blocks,
                DATA_BLOCK_BYTES,
                "device.size",
            ),
            pool("free maps, in bytes", device_blocks.div_ceil(8), 2, "device.size"),
            pool("metadata log and snapshot", 1, MDT_BYTES, ""),
            pool("inodes", limits.inodes, INODE_BYTES, "limits.inodes"),
            pool("leases", limits.leases.into(), LEASE_BYTES, "limits.leases"),
            pool("open files", limits.leases.into(), OPEN_BYTES, "limits.leases"),
            pool("file locks", limits.locks.into(), LOCK_BYTES, "limits.locks"),
            pool("inodes that linger", mdt.lingering_max as u64, LINGERING_BYTES, ""),
            pool("objects to destroy", mdt.destroys_pending_max as u64, DESTROY_BYTES, ""),
            pool("metadata requests held", mdt.requests_max as u64, REQUEST_BYTES, ""),
            pool(
                "payload of metadata requests held",
                mdt.payload_bytes_max as u64,
                PAYLOAD_COPIES,
                "",
            ),
            pool("client sessions", clients, SESSION_BYTES, "limits.clients"),
            pool("connections", clients * (reactors + 1), CONNECTION_BYTES, "limits.clients"),
        ];
        Self { pools, limit: limits.memory }
    }

    /// Checks the sum against the limit.
    ///
    /// # Errors
    /// [`OverLimit`] with the plan.
    pub fn check(self) -> Result<Self, OverLimit> {
        if self.total() > self.limit { Err(OverLimit(self)) } else { Ok(self) }
    }

    /// The pools.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Their sum.
    #[must_use]
    pub fn total(&self) -> Bytes {
        Bytes(self.pools.iter().fold(0, |sum, pool| pool.bytes().saturating_add(sum)))
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pool in &self.pools {
            let bytes = Bytes(pool.bytes()).to_string();
            let each = Bytes(pool.bytes_each).to_string();
            let bound = if pool.bound.is_empty() { "fixed" } else { pool.bound };
            writeln!(f, "{bytes:>12}  {}: {} of {each} each ({bound})", pool.what, pool.count)?;
        }
        write!(f, "{:>12}  together", self.total().to_string())
    }
}

#[cfg(test)]
mod test {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_default_configuration_fits_its_own_limit() {
        let config = Config::embedded(Path::new("/x"), Bytes(64 << 30));
        let plan = MemoryPlan::new(&config, 2, 2, (64 << 30) / 4096).check().unwrap();
        assert!(plan.total() > Bytes(1 << 30), "{plan}");
    }

    #[test]
    fn a_plan_above_the_limit_is_refused_line_by_line() {
        let mut config = Config::embedded(Path::new("/x"), Bytes(64 << 30));
        config.limits.memory = Bytes(1 << 30);
        let text = MemoryPlan::new(&config, 2, 2, 1 << 24).check().unwrap_err().to_string();
        assert!(text.contains("inodes: 4194304 of 448 B each (limits.inodes)"), "{text}");
        assert!(text.starts_with("limits.memory: expected at least 4 GiB, found 1 GiB:"), "{text}");
    }
}

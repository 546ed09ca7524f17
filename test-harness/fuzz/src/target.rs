//! The list of targets.

mod superblock;
mod journal;
mod store;
mod image;
mod raft;
mod metadata;
mod keys;
mod transit;

/// A decoder under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "superblock", run: superblock::run, seeds: superblock::seeds },
    Target { name: "journal-anchor", run: journal::run_anchor, seeds: journal::anchor_seeds },
    Target { name: "journal-scan", run: journal::run_scan, seeds: journal::scan_seeds },
    Target { name: "store-anchor", run: store::run_anchor, seeds: store::anchor_seeds },
    Target { name: "store-records", run: store::run_records, seeds: store::record_seeds },
    Target { name: "store-checkpoint", run: store::run_checkpoint, seeds: store::checkpoint_seeds },
    Target { name: "store-image", run: image::run_store, seeds: image::store_seeds },
    Target { name: "raft-anchor", run: raft::run_anchor, seeds: raft::anchor_seeds },
    Target { name: "raft-records", run: raft::run_records, seeds: raft::record_seeds },
    Target { name: "raft-image", run: image::run_raft, seeds: image::raft_seeds },
    Target {
        name: "metadata-snapshot",
        run: metadata::run_snapshot,
        seeds: metadata::snapshot_seeds,
    },
    Target { name: "metadata-entries", run: metadata::run_entries, seeds: metadata::entry_seeds },
    Target { name: "key-block", run: keys::run_block, seeds: keys::block_seeds },
    Target { name: "packed-group", run: keys::run_group, seeds: keys::group_seeds },
    Target { name: "handshake", run: transit::run_handshake, seeds: transit::handshake_seeds },
    Target { name: "record", run: transit::run_record, seeds: transit::record_seeds },
];

impl Target {
    /// The target of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.iter().find(|target| target.name == name).copied()
    }

    /// Runs it on an input.
    ///
    /// # Panics
    /// When the decoder has a bug.
    pub fn run(&self, data: &[u8]) {
        (self.run)(data);
    }

    /// Inputs to begin with.
    #[must_use]
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }
}

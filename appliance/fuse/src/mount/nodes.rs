//! How often each inode was given to the kernel, less how often it was forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use sheen_client::Inode;
use sheen_types::Timespec;

use crate::kernel::NodeId;

/// Parts of the table, each under its own lock.
const SHARDS: u64 = 16;

/// The inodes the kernel knows. Holding the `Arc` keeps what the client knows of them.
#[derive(Debug, Default)]
pub(crate) struct Nodes([Mutex<HashMap<NodeId, Known>>; 16]);

#[derive(Debug)]
struct Known {
    inode: Arc<Inode>,
    lookups: u64,
    /// Time of the last change of content, as the kernel knows it.
    shown: Timespec,
}

impl Nodes {
    fn shard(&self, node: NodeId) -> &Mutex<HashMap<NodeId, Known>> {
        // The low bits count up within a sequence.
        &self.0[usize::try_from(node.0 % SHARDS).unwrap_or(0)]
    }

    /// The kernel was given the inode once more; the first time with `mtime`.
    pub(crate) fn remember(&self, node: NodeId, inode: &Arc<Inode>, mtime: Timespec) {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        let new = || Known { inode: inode.clone(), lookups: 0, shown: mtime };
        shard.entry(node).or_insert_with(new).lookups += 1;
    }

    /// Time of the last change of content the kernel knows of.
    pub(crate) fn shown(&self, node: NodeId) -> Option<Timespec> {
        let shard = self.shard(node).lock().expect("no panic while locked");
        shard.get(&node).map(|known| known.shown)
    }

    /// The kernel is told `mtime`.
    pub(crate) fn show(&self, node: NodeId, mtime: Timespec) {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        if let Some(known) = shard.get_mut(&node) {
            known.shown = mtime;
        }
    }

    /// Whether the kernel knows the inode, or is about to: an answer that tells it may be on its way.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        node == NodeId::ROOT
            || self.shard(node).lock().expect("no panic while locked").contains_key(&node)
    }

    /// The kernel drops `lookups`; the inode if it does not know it any more.
    pub(crate) fn forget(&self, node: NodeId, lookups: u64) -> Option<Arc<Inode>> {
        let mut shard = self.shard(node).lock().expect("no panic while locked");
        let known = shard.get_mut(&node)?;
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 {
            return None;
        }
        shard.remove(&node).map(|known| known.inode)
    }
}

//! The mount: answers the kernel with a client.
//!
//! What the kernel may cache follows the client's leases: attributes, names and absences while the lease on them is held, to
//! the end of the session's lease as it is known then, else not at all; pages while the lease on content is held, and read
//! without a word while attributes are in time. When a lease must be given back, [`sink`] takes the caches back. If this
//! process is stopped, the kernel stops to believe by itself; only what is mapped it goes on to show. An answer that may be cached holds a window of the inode open until it was handed over, so that no
//! invalidation overtakes it; what the kernel does not take in all the same is left to [`sizes`].

mod nodes;
mod places;
mod sizes;
mod handles;
mod closing;
mod sink;
mod removed;
mod name_cache;
mod mounts_watch;
mod entries;
mod filesystem;
mod looks;
mod access;
mod meeting;
mod names;
mod opening;
mod content;
mod listing;
mod locking;
mod attributes;
mod privileges;
mod flags;
mod start;

use std::sync::{Arc, OnceLock};

use sheen_client::{Client, Inode};
use sheen_types::{Errno, Fid};

use crate::kernel::{Context, NodeId, Notifier};

pub use start::{MountConfig, MountError, MountHandle};

/// A mount of one file system.
#[derive(Debug)]
pub struct Mount {
    client: Arc<Client>,
    root: Fid,
    nodes: Arc<nodes::Nodes>,
    handles: handles::Handles,
    closing: closing::ClosingFiles,
    notifier: Notifier,
    names: Arc<name_cache::NameCache>,
    looks: looks::Looks,
    /// Whether the kernel sees to it that nobody makes a program set-group-ID for a group of others.
    strips_group: OnceLock<bool>,
}

impl Mount {
    /// Over a connected client; `notifier` is that of the device to be served.
    #[must_use]
    pub fn new(client: Arc<Client>, notifier: Notifier) -> Arc<Self> {
        let root = client.root();
        let nodes = Arc::new(nodes::Nodes::default());
        let names = Arc::new(name_cache::NameCache::default());
        let caches = sink::KernelCaches::new(notifier.clone(), root, nodes.clone(), names.clone());
        client.set_sink(Arc::new(caches));
        Arc::new(Self {
            client,
            root,
            nodes,
            handles: handles::Handles::default(),
            closing: closing::ClosingFiles::default(),
            notifier,
            names,
            looks: looks::Looks::default(),
            strips_group: OnceLock::new(),
        })
    }

    /// It is mounted, with this device number.
    pub(crate) fn mounted(&self, device: (u32, u32)) {
        self.names.mounted(device);
        if let Err(error) = mounts_watch::start(Arc::downgrade(&self.names), device) {
            tracing::warn!(%error, "mounts are looked for only when names are taken back");
        }
    }

    fn fid(&self, node: NodeId) -> Result<Fid, Errno> {
        if node == NodeId::ROOT {
            return Ok(self.root);
        }
        Fid::from_inode_number(node.0).ok_or(Errno::ESTALE)
    }

    fn inode(&self, node: NodeId) -> Result<Arc<Inode>, Errno> {
        Ok(self.client.inode(self.fid(node)?))
    }

    /// How the kernel names an inode.
    fn node(&self, fid: Fid) -> NodeId {
        node_of(fid, self.root)
    }
}

/// How the kernel names an inode of the file system with this root.
fn node_of(fid: Fid, root: Fid) -> NodeId {
    if fid == root { NodeId::ROOT } else { NodeId(fid.inode_number()) }
}

/// Who asks.
fn caller(context: &Context) -> (u32, u32) {
    (context.uid, context.gid)
}

//! Taking back what the kernel cached.

use std::{ops::Range, sync::Arc, time::Duration};

use sheen_client::CacheSink;
use sheen_types::Fid;

use crate::{
    kernel::{NodeId, Notifier, NotifyError},
    mount::{node_of, nodes::Nodes},
};

/// An answer was written, but the program that waits for it did not run yet: how long to wait before trying again, how often.
const ON_ITS_WAY: (Duration, u32) = (Duration::from_millis(1), 1000);

/// The kernel's caches of one mount.
#[derive(Debug)]
pub(crate) struct KernelCaches {
    notifier: Notifier,
    root: Fid,
    nodes: Arc<Nodes>,
}

impl KernelCaches {
    pub(crate) fn new(notifier: Notifier, root: Fid, nodes: Arc<Nodes>) -> Self {
        Self { notifier, root, nodes }
    }

    /// Notifies of an inode. One the kernel has just been told of it may not know yet: the answer is taken in by the program
    /// that waits for it, whenever that runs. Then the notification is repeated until it meets the inode.
    fn notify(
        &self,
        fid: Fid,
        what: &str,
        send: impl Fn(&Notifier, NodeId) -> Result<(), NotifyError>,
    ) {
        let node = node_of(fid, self.root);
        for _ in 0..ON_ITS_WAY.1 {
            match send(&self.notifier, node) {
                Err(NotifyError::NotCached) if self.nodes.knows(node) => {
                    std::thread::sleep(ON_ITS_WAY.0);
                }
                result => return check(what, result),
            }
        }
        tracing::warn!(%fid, "the kernel does not know an inode it was told of");
    }
}

fn check(what: &str, result: Result<(), NotifyError>) {
    match result {
        Ok(()) | Err(NotifyError::NotCached | NotifyError::Gone) => {}
        // Without epochs no name was given for longer than its use.
        Err(NotifyError::Unsupported) => {}
        Err(error) => tracing::error!(%error, what, "the kernel keeps what is not true any more"),
    }
}

impl CacheSink for KernelCaches {
    fn invalidate_data(&self, fid: Fid, range: Range<u64>) {
        // To the kernel, length 0 is "to the end"; so is what lies beyond its largest offset.
        let largest = i64::MAX.cast_unsigned();
        let length = if range.end > largest { 0 } else { range.end.saturating_sub(range.start) };
        if range.start > largest || range.start >= range.end {
            return;
        }
        self.notify(fid, "content", |notifier, node| {
            notifier.invalidate_data(node, range.start, length)
        });
    }

    fn invalidate_attributes(&self, fid: Fid) {
        self.notify(fid, "attributes", Notifier::invalidate_attributes);
    }

    fn invalidate_entries(&self) {
        check("names", self.notifier.raise_epoch());
    }
}

//! Answers about inodes, and how long the kernel may believe them.

use std::{sync::Arc, time::Duration};

use sheen_client::{Caching, Found, Inode, Observed};

use crate::{
    kernel::{Context, Entry, FileAttributes, NodeId, TimedAttributes},
    mount::Mount,
};

/// Preferred size of I/O shown by `stat`.
const BLKSIZE: u32 = 64 << 10;

impl Mount {
    /// Attributes; for ever if they may be cached.
    pub(crate) fn timed(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
        observed: &Observed,
    ) -> TimedAttributes {
        let window = observed.caching.losses().and_then(|losses| inode.window(losses));
        let valid = if window.is_some() { Duration::MAX } else { Duration::ZERO };
        if let Some(window) = window {
            context.keep_until_answered(window);
        }
        let ino = inode.fid.inode_number();
        TimedAttributes {
            attributes: FileAttributes::new(ino, BLKSIZE, &observed.attributes),
            valid,
        }
    }

    /// A name that leads to an inode. Does not count it.
    pub(crate) fn describe(&self, context: &Context, found: &Found) -> Entry {
        let epochs = self.epochs.get().copied().unwrap_or(false);
        let losses = found.name.losses().filter(|_| epochs);
        let window = losses.and_then(|losses| found.inode.name_window(losses));
        let name_valid = if window.is_some() { Duration::MAX } else { Duration::ZERO };
        if let Some(window) = window {
            context.keep_until_answered(window);
        }
        Entry {
            node: self.node(found.inode.fid),
            generation: 0,
            name_valid,
            attributes: self.timed(context, &found.inode, &found.observed),
        }
    }

    /// As [`Mount::describe`], counted: the kernel will forget it.
    pub(crate) fn entry(&self, context: &Context, found: &Found) -> Entry {
        let entry = self.describe(context, found);
        self.nodes.remember(entry.node, &found.inode);
        entry
    }

    /// "No such name", remembered by the kernel if that may be cached.
    pub(crate) fn absent(
        &self,
        context: &Context,
        parent: &Arc<Inode>,
        caching: Caching,
    ) -> Option<Entry> {
        let epochs = self.epochs.get().copied().unwrap_or(false);
        let losses = caching.losses().filter(|_| epochs)?;
        let window = parent.absence_window(losses)?;
        context.keep_until_answered(window);
        let nothing = FileAttributes {
            ino: 0,
            size: 0,
            blocks: 0,
            atime: sheen_types::Timespec::ZERO,
            mtime: sheen_types::Timespec::ZERO,
            ctime: sheen_types::Timespec::ZERO,
            btime: sheen_types::Timespec::ZERO,
            mode: 0,
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLKSIZE,
        };
        Some(Entry {
            node: NodeId(0),
            generation: 0,
            name_valid: Duration::MAX,
            attributes: TimedAttributes { attributes: nothing, valid: Duration::ZERO },
        })
    }
}

//! Answers about inodes, and how long the kernel may believe them.

use std::{sync::Arc, time::Duration};

use sheen_client::{Caching, Found, Inode, Observed};
use sheen_types::FileKind;

use crate::{
    kernel::{Context, Entry, FileAttributes, NodeId, NotifyError, TimedAttributes},
    mount::{Mount, nodes::Shown, sink},
};

/// Preferred size of I/O shown by `stat`.
const BLKSIZE: u32 = 64 << 10;

impl Mount {
    /// Attributes; to the end of the lease if they may be cached.
    ///
    /// Before it reads from pages it has, the kernel asks for attributes that are out of date (`AUTO_INVAL_DATA`), and drops the
    /// pages if the time of the last change is not the one it knows. Own writes change that time and leave the pages true:
    /// then the kernel is made to pass this answer on without taking it in, which a notification that overtakes the answer
    /// does. Not if another client may have written since the kernel last took an answer in: it would not learn the size; and
    /// not if mode or owner changed: it would go by the old ones.
    pub(crate) fn timed(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
        observed: &Observed,
    ) -> TimedAttributes {
        let mut timed = self.timed_anew(context, inode, observed);
        if !observed.is_complete {
            self.leave_size(inode, observed);
            timed.valid = Duration::ZERO;
            return timed;
        }
        let attributes = &observed.attributes;
        if attributes.kind == FileKind::Regular {
            let node = self.node(inode.fid);
            let shown = Shown::of(observed);
            let outdated = self.nodes.is_outdated_by_own_writes(node, shown);
            let ours = outdated && inode.holds_data() && self.client.is_written_here(inode);
            if ours && self.outdate_attributes(node).is_ok() {
                timed.valid = Duration::ZERO;
            } else {
                self.show(node, shown);
            }
        }
        timed
    }

    /// An answer with a size that may be old is on its way. The kernel would cut its pages to that size, so an inode it knows
    /// is made to pass the answer on without taking it in, as in [`Mount::timed`]; one it does not know has no pages. Either
    /// way it asks before it next needs attributes, but for opening, which looks at the size by itself.
    fn leave_size(&self, inode: &Inode, observed: &Observed) {
        let node = self.node(inode.fid);
        if self.outdate_attributes(node).is_ok() {
            self.nodes.doubt_size(node);
        } else {
            self.show(node, Shown::of(observed));
        }
    }

    /// An answer is to tell the kernel this.
    fn show(&self, node: NodeId, shown: Shown) {
        if self.nodes.show(node, shown) {
            sink::keep_size(&self.nodes, &self.notifier, node, shown.bytes);
        }
    }

    /// What the kernel was told of an inode it must ask for anew, but for the size, if that became larger.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub(crate) fn outdate_attributes(&self, node: NodeId) -> Result<(), NotifyError> {
        if let Some(size) = self.nodes.outdate(node) {
            sink::keep_size(&self.nodes, &self.notifier, node, size);
        }
        self.notifier.invalidate_attributes(node)
    }

    /// As [`Mount::timed`], for an answer the kernel takes in without a look at its pages.
    pub(crate) fn timed_set(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
        observed: &Observed,
    ) -> TimedAttributes {
        self.nodes.show_surely(self.node(inode.fid), Shown::of(observed));
        self.timed_anew(context, inode, observed)
    }

    fn timed_anew(
        &self,
        context: &Context,
        inode: &Arc<Inode>,
        observed: &Observed,
    ) -> TimedAttributes {
        let window = inode.attributes_window(observed.caching, context.pid);
        let valid = if window.is_some() { self.client.kernel_time() } else { Duration::ZERO };
        if let Some(window) = window {
            context.keep_until_answered(window);
        }
        let ino = inode.fid.inode_number();
        TimedAttributes {
            attributes: FileAttributes::new(ino, BLKSIZE, &observed.attributes),
            valid,
        }
    }

    /// A change `context`'s caller asked for ended, well or not, and its answer, which is not written yet, says nothing of the
    /// attributes of `inode` that it changed. What another thread was told of them before it may take in after that answer: a
    /// notification outdates it.
    pub(crate) fn end_change(&self, context: &Context, inode: &Inode) {
        if inode.told_others(context.pid) {
            let told = self.outdate_attributes(self.node(inode.fid));
            sink::check("attributes before a change", told);
        }
    }

    /// A name that leads to an inode. Does not count it.
    pub(crate) fn describe(&self, context: &Context, found: &Found) -> Entry {
        let losses = found.name.losses().filter(|_| self.names.keeps());
        let window = losses.and_then(|losses| found.inode.name_window(losses));
        let name_valid = match &window {
            Some(_) => self.names.give(self.client.kernel_time()),
            None => Duration::ZERO,
        };
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
        self.entry_of(context, found, None)
    }

    /// As [`Mount::entry`]; the kernel takes it in under this name.
    pub(crate) fn entry_at(
        &self,
        context: &Context,
        found: &Found,
        place: (NodeId, &[u8]),
    ) -> Entry {
        let is_directory = found.observed.attributes.kind == FileKind::Directory;
        self.entry_of(context, found, is_directory.then_some(place))
    }

    fn entry_of(&self, context: &Context, found: &Found, place: Option<(NodeId, &[u8])>) -> Entry {
        let entry = self.describe(context, found);
        self.nodes.remember(entry.node, &found.inode, Shown::of(&found.observed), place);
        entry
    }

    /// "No such name", remembered by the kernel if that may be cached.
    pub(crate) fn absent(
        &self,
        context: &Context,
        parent: &Arc<Inode>,
        caching: Caching,
    ) -> Option<Entry> {
        let losses = caching.losses().filter(|_| self.names.keeps())?;
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
            name_valid: self.names.give(self.client.kernel_time()),
            attributes: TimedAttributes { attributes: nothing, valid: Duration::ZERO },
        })
    }
}

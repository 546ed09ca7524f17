//! A change of a file's content on its way to its objects: the lease it is made under is held until the last part ended.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use sheen_types::OstIndex;

use crate::{
    hold::{Hold, Under},
    inode::Inode,
};

/// Shared by the requests of one change; the last one that ends drops it.
#[derive(Debug)]
pub(crate) struct Underway {
    inode: Arc<Inode>,
    targets: Vec<OstIndex>,
    left: AtomicBool,
    /// Given back after the change has been noted: fields are dropped after [`Drop::drop`].
    hold: Option<Hold>,
}

impl Underway {
    /// The change of parts on `targets` begins. None: it needs no lease.
    pub(crate) fn begin(
        inode: &Arc<Inode>,
        targets: Vec<OstIndex>,
        hold: Option<Hold>,
    ) -> Arc<Self> {
        inode.lock().begin_write();
        let left = AtomicBool::new(false);
        Arc::new(Self { inode: inode.clone(), targets, left, hold })
    }

    /// The lease it is made under.
    pub(crate) fn under(&self) -> Option<&Under> {
        self.hold.as_ref().map(Hold::under)
    }

    /// A part goes on without its caller: what it changes nobody takes notice of until it ends.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut state = self.inode.lock();
        state.end_write(self.targets.iter().copied());
        if self.left.load(Ordering::Acquire) {
            state.known = None;
            state.untold = true;
        }
    }
}

//! Which thread was told attributes that the kernel may believe.
//!
//! The kernel takes an answer in when the thread that asked runs. If a change by another thread of the same mount ends before
//! that, the answer brings back what the inode was before the change, and is believed: the kernel orders an answer behind a
//! notification, and behind answers about the inode itself, but not behind the end of a change of a directory's entries. So
//! who was told is noted, and after a change that another thread asked for the answer is outdated by a notification. A thread
//! that asks for something new has taken in what it was told.

use std::sync::Arc;

use crate::{
    attributes::Caching,
    inode::{Inode, ReplyWindow},
};

/// Threads told an inode's attributes since its last own change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Told {
    /// None.
    #[default]
    Nobody,
    /// This one.
    One(u32),
    /// Several, or one that is not known.
    Several,
}

impl Told {
    fn add(self, asker: u32) -> Self {
        match self {
            _ if asker == 0 => Self::Several,
            Self::Nobody => Self::One(asker),
            Self::One(before) if before == asker => self,
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

impl Inode {
    /// As [`Inode::window`], for attributes told to thread `asker` (0: not known). None also if a change by this client ended
    /// since they were read.
    #[must_use]
    pub fn attributes_window(
        self: &Arc<Self>,
        caching: Caching,
        asker: u32,
    ) -> Option<ReplyWindow> {
        let Caching::WhileVersion(losses, changed_at) = caching else { return None };
        let mut state = self.lock();
        if (state.losses, state.changed_at) != (losses, changed_at) {
            return None;
        }
        state.told = state.told.add(asker);
        Some(self.open_window(state))
    }

    /// A change thread `changer` asked for ended, well or not, and its answer tells the kernel nothing of this inode. Returns
    /// whether attributes from before it may still be on their way to the kernel.
    #[must_use]
    pub fn told_others(&self, changer: u32) -> bool {
        match std::mem::take(&mut self.lock().told) {
            Told::Nobody => false,
            Told::One(asker) => asker != changer,
            Told::Several => true,
        }
    }
}

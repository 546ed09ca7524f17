//! Changes in the order in which they took effect, and up to which of them nothing can be lost.
//!
//! A change gets its number when it is applied to the index: then its data, its record and every record before are written.
//! One that is applied in pieces takes a number for each, and the last is its own. So a flush submitted later makes it durable. Changes of the same blocks hold their claim until they are
//! applied, so their numbers follow the order of their effects.
//!
//! After a loss of power a store has every change up to the durable one, and any part of the rest: behind a record whose data
//! was lost, which is void then, others may count. Who wants the rest back does all of it again, in order.

use crate::Store;

/// Numbers of changes since the store was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    /// The last change that took effect.
    pub(crate) applied: u64,
    /// The last one a flush covers.
    pub(crate) durable: u64,
}

impl Changes {
    /// The number of the change that takes effect now.
    pub(crate) fn number_next(&mut self) -> u64 {
        self.applied += 1;
        self.applied
    }
}

impl Store {
    /// Number of the last change that took effect since the store was opened: 1, 2, …; 0: none did. On a device that loses
    /// no completed write all of these are durable.
    #[must_use]
    pub const fn changes_applied(&self) -> u64 {
        self.changes.applied
    }

    /// Every change up to this number survives a loss of power, whatever the device is like.
    #[must_use]
    pub const fn changes_durable(&self) -> u64 {
        self.changes.durable
    }
}

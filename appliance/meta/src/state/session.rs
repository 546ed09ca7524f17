//! Sessions and their reply slots.

use sheen_types::{Epoch, Errno, Fid, TransactionNumber, Xid};

use crate::{Limits, Reply, SessionPrincipal, SessionRights};

/// Outcome of the last request of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) xid: Xid,
    pub(crate) transaction: TransactionNumber,
    pub(crate) result: Result<Reply, Errno>,
}

/// A session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) uuid: [u8; 16],
    pub(crate) epoch: Epoch,
    /// Root number of its file system; 0 for an administrative session.
    pub(crate) filesystem: u32,
    pub(crate) principal: SessionPrincipal,
    pub(crate) rights: SessionRights,
    pub(crate) label: Box<[u8]>,
    /// Sequences it may name inodes from, oldest first.
    pub(crate) sequences: Vec<u64>,
    pub(crate) slots: Box<[Option<Slot>]>,
}

impl Session {
    /// Whether the session may give this id to a new inode.
    pub(crate) fn may_name(&self, fid: Fid) -> bool {
        let in_sequence = (1..=Fid::SEQUENCE_WIDTH).contains(&fid.oid) && fid.ver == 0;
        in_sequence && self.sequences.contains(&fid.seq)
    }

    /// Adds a sequence; the oldest is forgotten if there are too many.
    pub(crate) fn add_sequence(&mut self, sequence: u64) {
        if self.sequences.len() == Limits::SEQUENCES_PER_SESSION {
            self.sequences.remove(0);
        }
        self.sequences.push(sequence);
    }
}

//! What OSTs acknowledged and may lose with their power: kept until it is durable, sent again to a new incarnation.
//!
//! Contract: a reply carries the incarnation of the service, the number of the change in it, and up to which number changes are
//! durable. When the incarnation is another, everything that was not durable is sent again, in order, before anything
//! else goes to that target.

use std::collections::BTreeMap;

use sheen_types::Fid;
use sheen_wire::Frame;

use crate::operation::{Edit, Place};

/// Changes a target may owe before the client asks for a flush.
pub(super) const OWED_MAX: usize = 24;

/// A change an OST acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) fid: Fid,
    pub(super) place: Place,
    pub(super) edit: Edit,
    /// Its number in the incarnation.
    transaction: u64,
}

/// What one OST owes.
#[derive(Debug, Default)]
pub(super) struct Debt {
    /// By the order in which they were first sent.
    owed: BTreeMap<u64, Owed>,
    /// Of an incarnation that ended: to be sent again.
    again: BTreeMap<u64, Owed>,
}

impl Debt {
    /// A change was acknowledged.
    pub(super) fn acknowledge(&mut self, number: u64, of: (Fid, Place), edit: Edit, reply: &Frame) {
        self.again.remove(&number);
        let transaction = reply.transaction.0;
        if transaction > reply.committed {
            let (fid, place) = of;
            self.owed.insert(number, Owed { fid, place, edit, transaction });
        }
    }

    /// Changes up to this number are durable.
    pub(super) fn commit(&mut self, committed: u64) {
        self.owed.retain(|_, owed| owed.transaction > committed);
    }

    /// The incarnation ended.
    pub(super) fn restart(&mut self) {
        self.again.append(&mut self.owed);
    }

    /// The change to send again first.
    pub(super) fn next_again(&self) -> Option<(u64, Owed)> {
        self.again.first_key_value().map(|(&number, &owed)| (number, owed))
    }

    /// Whether a change of the file may still be lost.
    pub(super) fn owes(&self, fid: Fid) -> bool {
        self.owed.values().chain(self.again.values()).any(|owed| owed.fid == fid)
    }

    /// Whether nothing may have to be sent again.
    pub(super) fn is_empty(&self) -> bool {
        self.owed.is_empty() && self.again.is_empty()
    }

    /// Changes that may be lost.
    pub(super) fn len(&self) -> usize {
        self.owed.len()
    }
}

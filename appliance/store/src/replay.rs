//! Replay: the journal's records over the checkpoint's index.
//!
//! Records known durable are believed and applied in order. The others are kept until [`crate::verification`] has looked at
//! their data.

use std::collections::{BTreeSet, VecDeque};

use sheen_journal::Batch;

use crate::{
    anchor::AnchorState,
    dirty::Dirty,
    index::Index,
    layout::{Layout, RecordId},
    record::{Extent, OwnedChange, Record},
    request::OBJECT_BYTES_MAX,
};

/// An index on its way to the journal's tail.
#[derive(Debug)]
pub(crate) struct Replay {
    layout: Layout,
    index: Index,
    /// What no checkpoint says yet.
    dirty: Dirty,
    /// Records read, not applied, in order.
    pending: VecDeque<(RecordId, Record)>,
    /// Records that never happened.
    voids: BTreeSet<RecordId>,
}

impl Replay {
    pub(crate) fn new(anchor: &AnchorState, index: Index) -> Self {
        Self {
            layout: anchor.layout,
            index,
            dirty: Dirty::new(anchor.layout.delta_bytes_max()),
            pending: VecDeque::new(),
            voids: anchor.voids.iter().copied().collect(),
        }
    }

    /// Takes the records of a batch; the field that is impossible, if one is.
    pub(crate) fn on_batch(&mut self, batch: &Batch<'_>) -> Result<(), &'static str> {
        for (index, bytes) in (0..).zip(batch.records()) {
            let record = Record::decode(bytes).ok_or("record")?;
            let id = RecordId { sequence: batch.position.sequence, index };
            match record {
                Record::Void(void) => {
                    self.voids.insert(void);
                }
                Record::Change(change) => {
                    if !self.is_possible(&change) {
                        return Err("extent");
                    }
                    self.pending.push_back((id, Record::Change(change)));
                }
                Record::Destroy(_) => self.pending.push_back((id, record)),
            }
        }
        self.apply_through(batch.durable_sequence);
        Ok(())
    }

    /// Applies the records of batches up to `sequence`: they are durable, and so is their data.
    pub(crate) fn apply_through(&mut self, sequence: u64) {
        while self.pending.front().is_some_and(|(id, _)| id.sequence <= sequence) {
            if let Some((id, record)) = self.pending.pop_front() {
                self.apply(id, &record);
            }
        }
    }

    /// The records left: their data must be looked at.
    pub(crate) fn take_doubtful(&mut self) -> Vec<(RecordId, Record)> {
        self.pending.retain(|(id, _)| !self.voids.contains(id));
        std::mem::take(&mut self.pending).into()
    }

    pub(crate) fn apply(&mut self, id: RecordId, record: &Record) {
        if self.voids.contains(&id) {
            return;
        }
        match record {
            Record::Change(change) => {
                self.index.apply(&change.as_change(), |_| {});
                self.dirty.note(&change.as_change());
            }
            Record::Destroy(object) => {
                self.index.destroy(*object, |_| {});
                self.dirty.note_destroyed(*object);
            }
            Record::Void(_) => {}
        }
    }

    /// The record never happened.
    pub(crate) fn reject(&mut self, id: RecordId) {
        self.voids.insert(id);
    }

    /// The index, the records that never happened, and what the next checkpoint must say.
    pub(crate) fn finish(self) -> (Index, Vec<RecordId>, Dirty) {
        (self.index, self.voids.into_iter().collect(), self.dirty)
    }

    fn is_possible(&self, change: &OwnedChange) -> bool {
        let (data_first, data_end) =
            (self.layout.data_first, self.layout.data_first + self.layout.data_blocks);
        let object_end = OBJECT_BYTES_MAX / 4096;
        let inside = |extent: &Extent| {
            extent.place >= data_first
                && extent.place + extent.stored() <= data_end
                && extent.end() <= object_end
        };
        // What is unmapped may reach to the end of everything, but begins in the object.
        change.unmap.0 <= object_end
            && change.edges.iter().flatten().all(|&edge| edge < object_end)
            && change.extents.iter().all(inside)
    }
}

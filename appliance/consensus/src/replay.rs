//! Records of the log become entries again: later records replace what earlier ones said of an index.

use std::collections::VecDeque;

use sheen_journal::Batch;
use sheen_wire::codec::Field;

use crate::{
    entry::{Content, Record},
    error::DamageKind,
};

/// Where records of the log go.
pub(crate) struct Replay<'a> {
    pub snapshot_index: u64,
    pub contents: &'a mut VecDeque<Content>,
    pub records: &'a mut VecDeque<(sheen_journal::Position, u64)>,
    pub term: &'a mut u64,
    pub vote: &'a mut Option<u64>,
}

impl Replay<'_> {
    /// Takes a batch of the log in. Damage: its kind, what was expected, what was found.
    pub(crate) fn take_batch(&mut self, batch: &Batch<'_>) -> Result<(), (DamageKind, u64, u64)> {
        let mut last = self.snapshot_index;
        for bytes in batch.records() {
            let record = Record::from_bytes(bytes)
                .map_err(|_| (DamageKind::RecordContent, 0, bytes.len() as u64))?;
            *self.term = record.term;
            *self.vote = record.vote;
            last = record.run.previous.index + record.run.contents.len() as u64;
            let mut index = record.run.previous.index;
            for content in record.run.contents {
                index += 1;
                self.take_entry(index, content)?;
            }
        }
        self.records.push_back((batch.position, last));
        Ok(())
    }

    fn take_entry(&mut self, index: u64, content: Content) -> Result<(), (DamageKind, u64, u64)> {
        let Some(at) = index.checked_sub(self.snapshot_index + 1) else { return Ok(()) };
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if at > self.contents.len() {
            let next = self.snapshot_index + 1 + self.contents.len() as u64;
            return Err((DamageKind::LogGap, next, index));
        }
        self.contents.truncate(at);
        self.contents.push_back(content);
        Ok(())
    }
}

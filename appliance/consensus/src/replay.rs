//! Records of the log become entries again: later records replace what earlier ones said of an index.

use std::collections::VecDeque;

use sheen_journal::{Batch, COUNTER_MAX};
use sheen_wire::codec::Field;

use crate::{
    entry::{Content, Record},
    error::DamageKind,
    log::RecordPlace,
};

/// Where records of the log go.
pub(crate) struct Replay<'a> {
    pub snapshot_index: u64,
    pub contents: &'a mut VecDeque<Content>,
    pub records: &'a mut VecDeque<RecordPlace>,
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
            if !is_possible(&record) {
                return Err((DamageKind::RecordContent, 0, bytes.len() as u64));
            }
            *self.term = record.term;
            *self.vote = record.vote;
            last = record.run.previous.index + record.run.contents.len() as u64;
            let mut index = record.run.previous.index;
            for content in record.run.contents {
                index += 1;
                self.take_entry(index, content)?;
            }
        }
        self.records.push_back(RecordPlace {
            position: batch.position,
            last_index: last,
            incarnation: batch.incarnation,
        });
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

/// Whether terms and indices are such that one can count on from them.
fn is_possible(record: &Record) -> bool {
    let terms = record.run.contents.iter().filter_map(|content| match content {
        Content::Term(term) => Some(*term),
        Content::Config(_) | Content::Command(_) => None,
    });
    let previous = record.run.previous;
    [record.term, previous.term, previous.index]
        .into_iter()
        .chain(terms)
        .all(|it| it <= COUNTER_MAX)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::entry::{Position, Run};

    /// Found by fuzzing: an index near 2^64 in a record with a good checksum stopped recovery.
    #[test]
    fn terms_and_indices_that_cannot_be_counted_on_from_are_refused() {
        let record = |term, previous, content| Record {
            term,
            vote: None,
            run: Run { previous, contents: vec![content] },
        };
        let place = Position { term: 3, index: 9 };
        assert!(is_possible(&record(3, place, Content::Term(3))));
        assert!(!is_possible(&record(u64::MAX, place, Content::Term(3))));
        assert!(!is_possible(&record(3, place, Content::Term(u64::MAX))));
        for previous in
            [Position { index: u64::MAX, ..place }, Position { term: u64::MAX, ..place }]
        {
            assert!(!is_possible(&record(3, previous, Content::Term(3))));
        }
    }
}

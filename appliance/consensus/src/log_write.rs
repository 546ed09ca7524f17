//! Log writes: everything that waits becomes one record, one batch of the journal, one durable write.

use raftbare::NodeId;
use sheen_journal::Sealed;
use sheen_wire::codec::Field;

use crate::{
    command::{Command, IoId},
    entry::{Content, Record, Run},
    group::Group,
    log::RecordPlace,
};

/// Entries' bytes put into one log write.
const WRITE_BYTES_MAX: usize = 768 << 10;

/// A log write on its way.
#[derive(Debug)]
pub(crate) struct LogWrite {
    /// Device writes not completed: the batch, and a pad if one came first.
    pub ios: Vec<IoId>,
    /// Of the batch.
    pub sequence: u64,
    /// Last index it makes durable.
    pub last_index: u64,
}

impl Group {
    /// Submits records as long as there is something to write and a write may be in flight.
    pub(crate) fn write_log(&mut self) {
        while self.writes.len() < self.config.writes_in_flight_max
            && (self.state_unwritten || self.unwritten_from.is_some())
        {
            let last = self.last_index();
            let from = self.unwritten_from.unwrap_or(last + 1);
            let run = self.run_from(from);
            let until = from + run.contents.len() as u64;
            let record = Record {
                term: self.node.current_term().get(),
                vote: self.node.voted_for().map(NodeId::get),
                run,
            };
            let Some(batches) = self.log.append(&record.to_vec()) else {
                // Room is kept for everything that was let in, so only a replica that takes a leader's entries
                // gets here; it goes on when a snapshot made room.
                return;
            };
            self.unwritten_from = (until <= last).then_some(until);
            if self.unwritten_from.is_none() {
                self.pending_bytes = 0;
            }
            if std::mem::take(&mut self.state_unwritten) {
                self.term_write = self.writes_submitted + 1;
            }
            self.durable_index = self.durable_index.min(from - 1);
            for write in &mut self.writes {
                write.last_index = write.last_index.min(from - 1);
            }
            let mut write = LogWrite { ios: Vec::new(), sequence: 0, last_index: until - 1 };
            for batch in batches {
                if write.ios.is_empty() {
                    self.records.push_back(RecordPlace {
                        position: batch.position,
                        last_index: until - 1,
                        incarnation: self.anchor.incarnation,
                    });
                }
                let io = self.next_io();
                write.ios.push(io);
                write.sequence = batch.position.sequence;
                let Sealed { lba, bytes, .. } = batch;
                self.commands.push_back(Command::Write { io, lba, bytes, durable: true });
            }
            self.writes.push_back(write);
            self.writes_submitted += 1;
        }
    }

    /// Last batch of the log of which nothing in it says that it is durable; None if there is none. A reader tells a last record that
    /// rotted from one that was never whole by a mark, and without one it cannot.
    #[must_use]
    pub fn unmarked(&self) -> Option<u64> {
        if self.stopped { None } else { self.log.unmarked() }
    }

    /// Writes a mark, unless log writes are in flight: their headers, or a later mark, will say it. For moments of rest: it costs a
    /// durable write.
    pub fn mark(&mut self) {
        if self.stopped || !self.writes.is_empty() {
            return;
        }
        let Some(Sealed { position, lba, bytes, .. }) = self.log.mark() else { return };
        let io = self.next_io();
        let (sequence, last_index) = (position.sequence, self.durable_index);
        self.writes.push_back(LogWrite { ios: vec![io], sequence, last_index });
        self.writes_submitted += 1;
        self.commands.push_back(Command::Write { io, lba, bytes, durable: true });
    }

    /// Whether no log write is in flight.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.writes.is_empty()
    }

    /// Entries from `from` on, as many as fit a write (at least one).
    pub(crate) fn run_from(&self, from: u64) -> Run {
        let skip = usize::try_from(from - self.contents_first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut contents = Vec::new();
        for content in self.contents.iter().skip(skip) {
            let length = match content {
                Content::Command(payload) => payload.len() + 16,
                Content::Term(_) | Content::Config(_) => 512,
            };
            if bytes + length > WRITE_BYTES_MAX && !contents.is_empty() {
                break;
            }
            bytes += length;
            contents.push(content.clone());
        }
        Run { previous: self.position_at(from - 1), contents }
    }
}

//! Marks: the journal says of its last batches that they are durable.
//!
//! Each batch's header says what was durable when it was formed, so of all but the last batches the journal itself knows that they
//! were whole, with their data. Of the last ones a recovery can only look whether they are; if one is not, it may be torn, or have rotted
//! after it was acknowledged. A mark, a block without records behind them, tells. It costs a write, so it is for moments of rest.

use sheen_types::Lba;

use crate::{Command, Store, io::Io};

/// What the journal does not say yet. It changes with every batch and flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmarked {
    /// Last batch with records.
    pub batch: u64,
    /// Batches up to this are durable.
    pub durable: u64,
}

impl Unmarked {
    /// Whether all of it is durable: a mark would say so.
    #[must_use]
    pub const fn is_durable(&self) -> bool {
        self.batch <= self.durable
    }
}

impl Store {
    /// What a mark could say, now or behind a flush; None if the journal says of all its batches that they are durable.
    #[must_use]
    pub fn unmarked(&self) -> Option<Unmarked> {
        if self.is_stopped() {
            return None;
        }
        let writer = self.log.writer();
        writer.unmarked().map(|batch| Unmarked { batch, durable: writer.durable_sequence() })
    }

    /// Where the next batch of the journal goes, if it fits there.
    #[must_use]
    pub fn journal_tail(&self) -> Lba {
        let writer = self.log.writer();
        writer.geometry().lba(writer.tail().block)
    }

    /// Writes a mark, if there is something durable it can say and room for it; `flushed`: behind it comes a flush, submitted by a
    /// later [`Store::pump`].
    pub fn mark(&mut self, flushed: bool, commands: &mut Vec<Command>) {
        if self.is_stopped() || self.log.in_flight() >= self.limits.journal_writes_max {
            return;
        }
        let Some(sealed) = self.log.mark() else { return };
        if flushed {
            self.mark_to_flush = Some(sealed.position.sequence);
        }
        let io = Io::Journal { sequence: sealed.position.sequence }.token();
        commands.push(Command::WriteBytes { io, lba: sealed.lba, bytes: sealed.bytes });
    }

    /// Has the next [`Store::pump`] submit a flush, nobody's in particular.
    pub fn flush(&mut self) {
        self.flusher.want();
    }
}

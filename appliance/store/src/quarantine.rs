//! Freed blocks on their way back to the allocator.
//!
//! A freed block may be used again only when (1) a flush that was submitted after the freeing change completed has itself
//! completed, or a crash could bring the old mapping back to a block with new content; and (2) no reader is left that may
//! have planned a read of it.
//!
//! Time is counted in epochs: each flush submitted begins one.

use std::collections::VecDeque;

use crate::{ReadPin, allocator::Span};

/// Blocks between being freed and being free.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    epoch: u64,
    /// Freed in this epoch.
    open: Vec<Span>,
    open_blocks: u64,
    /// Freed before the flush in flight was submitted.
    flushing: Vec<Span>,
    /// Flushed, by the epoch they were freed in; readers may be left.
    flushed: VecDeque<(u64, Vec<Span>)>,
    /// Readers by the epoch they began in.
    pins: VecDeque<(u64, u32)>,
    blocks: u64,
}

impl Quarantine {
    /// Blocks held.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks no flush submitted so far covers.
    pub(crate) fn open_blocks(&self) -> u64 {
        self.open_blocks
    }

    pub(crate) fn push(&mut self, span: Span) {
        self.blocks += span.blocks;
        self.open_blocks += span.blocks;
        match self.open.last_mut() {
            Some(last) if last.end() == span.first => last.blocks += span.blocks,
            Some(_) | None => self.open.push(span),
        }
    }

    /// A flush is submitted.
    pub(crate) fn begin_flush(&mut self) {
        assert!(self.flushing.is_empty(), "one flush at a time");
        std::mem::swap(&mut self.open, &mut self.flushing);
        self.open_blocks = 0;
        self.epoch += 1;
    }

    /// The flush completed; `free` gets what no reader holds.
    pub(crate) fn end_flush(&mut self, free: &mut impl FnMut(Span)) {
        if !self.flushing.is_empty() {
            let spans = std::mem::take(&mut self.flushing);
            self.flushed.push_back((self.epoch - 1, spans));
        }
        self.release_unpinned(free);
    }

    /// A reader begins.
    pub(crate) fn pin(&mut self) -> ReadPin {
        match self.pins.back_mut() {
            Some((epoch, count)) if *epoch == self.epoch => *count += 1,
            Some(_) | None => self.pins.push_back((self.epoch, 1)),
        }
        ReadPin { epoch: self.epoch }
    }

    /// A reader ends; `free` gets what it alone held.
    pub(crate) fn unpin(&mut self, pin: ReadPin, free: &mut impl FnMut(Span)) {
        let found = self.pins.iter_mut().find(|(epoch, _)| *epoch == pin.epoch);
        let (_, count) = found.expect("a pin is released once, to the store that gave it");
        *count = count.checked_sub(1).expect("a pin is released once");
        while self.pins.front().is_some_and(|&(_, count)| count == 0) {
            self.pins.pop_front();
        }
        self.release_unpinned(free);
    }

    fn release_unpinned(&mut self, free: &mut impl FnMut(Span)) {
        let oldest_reader = self.pins.front().map_or(u64::MAX, |&(epoch, _)| epoch);
        while self.flushed.front().is_some_and(|&(epoch, _)| epoch < oldest_reader) {
            let Some((_, mut spans)) = self.flushed.pop_front() else { return };
            for span in spans.drain(..) {
                self.blocks -= span.blocks;
                free(span);
            }
            if self.flushing.capacity() == 0 {
                self.flushing = spans;
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_freed_block_waits_for_a_flush_begun_later_and_for_readers() {
        let mut quarantine = Quarantine::default();
        let mut free = Vec::new();
        let early = quarantine.pin();
        quarantine.push(Span { first: 1, blocks: 1 });
        quarantine.begin_flush();
        quarantine.push(Span { first: 9, blocks: 1 });
        let late = quarantine.pin();
        quarantine.end_flush(&mut |span| free.push(span.first));
        assert!(free.is_empty(), "a reader of the first epoch is left");
        quarantine.unpin(early, &mut |span| free.push(span.first));
        assert_eq!(free, [1]);
        quarantine.begin_flush();
        quarantine.end_flush(&mut |span| free.push(span.first));
        assert_eq!(free, [1], "a reader of the second epoch is left");
        quarantine.unpin(late, &mut |span| free.push(span.first));
        assert_eq!(free, [1, 9]);
        assert_eq!(quarantine.blocks(), 0);
    }
}

//! Telling the device which blocks hold nothing: free regions of 1 MiB that were written since they were last discarded.
//!
//! ```text
//! written, and wholly free → taken from the allocator → discard in flight → given back, not written
//! ```
//!
//! **What is true at each instant.** A region is discarded only while every block of it is the discard's own, taken from
//! the allocator as for a write. Blocks come to the allocator only behind the flush that makes the change durable that freed
//! them, and when no reader is left ([`crate::quarantine`]); so what a discard destroys is what a write might have destroyed as
//! well, at any crash. A later write of the region is issued only when the discard ended. Whether the discard itself
//! happened, wholly or not at all, nobody relies on: free blocks hold anything.
//!
//! Lazy: two in flight, none begun while a request waits for blocks, a bounded look for the next at each turn. One bit for
//! each region (32 KiB of memory for each 256 GiB); not stored, so at an opening every region counts as written.

use sheen_types::Lba;

use crate::{
    Command, IoFault, Store,
    allocator::{Allocator, Span},
    bytes::index,
    io::Io,
    layout::Layout,
};

/// Blocks of a region.
const REGION_BLOCKS: u64 = 256;
/// Discards in flight.
const IN_FLIGHT_MAX: usize = 2;
/// Regions looked at in a turn.
const LOOKS_MAX: u64 = 32;

/// Which regions are written, and which are being discarded.
#[derive(Debug)]
pub(crate) struct Discards {
    /// Data blocks before the first region: regions are aligned as the device counts.
    skew: u64,
    regions: u64,
    /// A set bit is a region written since its last discard.
    written: Vec<u64>,
    cursor: u64,
    /// Regions left to look at before it is of no use until more blocks come back.
    looks_left: u64,
    releases_seen: u64,
    in_flight: Vec<u64>,
    discarded_blocks: u64,
    failed: u64,
}

impl Discards {
    /// Every region counts as written, if `wanted`; none otherwise.
    pub(crate) fn new(layout: &Layout, wanted: bool) -> Self {
        let first = layout.lba(layout.data_first).0;
        let skew = first.next_multiple_of(REGION_BLOCKS) - first;
        let regions =
            if wanted { layout.data_blocks.saturating_sub(skew) / REGION_BLOCKS } else { 0 };
        Self {
            skew,
            regions,
            written: vec![u64::MAX; index(regions.div_ceil(64))],
            cursor: 0,
            looks_left: regions,
            releases_seen: 0,
            in_flight: Vec::with_capacity(IN_FLIGHT_MAX),
            discarded_blocks: 0,
            failed: 0,
        }
    }

    fn span(&self, region: u64) -> Span {
        Span { first: self.skew + region * REGION_BLOCKS, blocks: REGION_BLOCKS }
    }

    /// Blocks were given out.
    pub(crate) fn note_given(&mut self, span: Span) {
        let Some(last) = (span.end() - 1).checked_sub(self.skew) else { return };
        let first = span.first.saturating_sub(self.skew) / REGION_BLOCKS;
        for region in first..=last / REGION_BLOCKS {
            if let Some(word) = self.written.get_mut(index(region / 64)) {
                *word |= 1 << (region % 64);
            }
        }
    }

    /// Blocks in discards.
    pub(crate) fn blocks_in_flight(&self) -> u64 {
        self.in_flight.len() as u64 * REGION_BLOCKS
    }

    /// Blocks discarded, and discards that failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.discarded_blocks, self.failed)
    }

    /// The next region to discard, taken from the allocator.
    fn take_next(&mut self, allocator: &mut Allocator) -> Option<u64> {
        if allocator.releases() >= self.releases_seen + REGION_BLOCKS {
            self.releases_seen = allocator.releases();
            self.looks_left = self.regions;
        }
        let looks = self.looks_left.min(LOOKS_MAX);
        for _ in 0..looks {
            let region = self.cursor;
            self.looks_left -= 1;
            self.cursor = if region + 1 == self.regions { 0 } else { region + 1 };
            let written = self.written[index(region / 64)] >> (region % 64) & 1 == 1;
            if written && allocator.try_take(self.span(region)) {
                return Some(region);
            }
        }
        None
    }

    fn end(&mut self, region: u64, result: Result<(), IoFault>) {
        let at = self.in_flight.iter().position(|&other| other == region);
        self.in_flight.swap_remove(at.expect("a discard in flight ends once"));
        // One that failed is not tried again before the region was written anew.
        self.written[index(region / 64)] &= !(1 << (region % 64));
        match result {
            Ok(()) => self.discarded_blocks += REGION_BLOCKS,
            Err(_) => self.failed += 1,
        }
    }
}

impl Store {
    /// Begins discards, if there is nothing more pressing.
    pub(crate) fn step_discards(&mut self, commands: &mut Vec<Command>) {
        while self.discards.in_flight.len() < IN_FLIGHT_MAX && self.ready.is_empty() {
            let Some(region) = self.discards.take_next(&mut self.allocator) else { return };
            self.discards.in_flight.push(region);
            let span = self.discards.span(region);
            let lba: Lba = self.layout.lba(self.layout.data_first + span.first);
            let io = Io::Discard { region }.token();
            commands.push(Command::Discard { io, lba, blocks: span.blocks });
        }
    }

    pub(crate) fn on_discarded(&mut self, region: u64, result: Result<(), IoFault>) {
        self.discards.end(region, result);
        self.allocator.release_unwritten(self.discards.span(region));
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::Zone;

    #[test]
    fn only_whole_free_regions_are_taken_and_each_once_until_written_again() {
        let zone = Zone { first: Lba(100), blocks: 4096 };
        let layout = Layout::plan(zone).unwrap();
        let mut discards = Discards::new(&layout, true);
        let mut allocator = Allocator::new(layout.data_blocks);
        let used = Span { first: discards.skew + 300, blocks: 1 };
        assert!(allocator.claim(used));
        let mut taken = Vec::new();
        while let Some(region) = discards.take_next(&mut allocator) {
            discards.in_flight.push(region);
            discards.end(region, Ok(()));
            let span = discards.span(region);
            assert!(layout.lba(layout.data_first + span.first).0.is_multiple_of(REGION_BLOCKS));
            allocator.release_unwritten(span);
            taken.push(region);
        }
        let expected: Vec<u64> = (0..discards.regions).filter(|&region| region != 1).collect();
        assert_eq!(taken, expected);
        assert_eq!(discards.take_next(&mut allocator), None, "none is left");

        let mut spans = Vec::new();
        assert!(allocator.allocate(600, &mut spans));
        spans.iter().for_each(|&span| discards.note_given(span));
        spans.iter().for_each(|&span| allocator.release(span));
        allocator.release(used);
        let again = std::iter::from_fn(|| {
            let region = discards.take_next(&mut allocator)?;
            discards.in_flight.push(region);
            discards.end(region, Err(IoFault::Media));
            allocator.release_unwritten(discards.span(region));
            Some(region)
        });
        let again: Vec<u64> = again.collect();
        assert!(again.contains(&1) && again.len() >= 3 && again.len() <= 5, "{again:?}");
        assert_eq!(discards.counts().1, again.len() as u64);
    }
}

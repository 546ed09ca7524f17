//! A buddy allocator over numbered blocks: powers of two, merged on release.

use std::collections::BTreeSet;

/// Free runs of blocks, by order: `free[k]` holds the starts of free runs of 2^k blocks.
#[derive(Debug)]
pub(crate) struct Buddy {
    free: Vec<BTreeSet<usize>>,
    free_blocks: usize,
}

impl Buddy {
    /// All of `blocks` (a power of two) free.
    pub(crate) fn new(blocks: usize) -> Self {
        let top = blocks.trailing_zeros() as usize;
        let mut free = vec![BTreeSet::new(); top + 1];
        free[top].insert(0);
        Self { free, free_blocks: blocks }
    }

    /// Takes a run of `blocks` (a power of two).
    pub(crate) fn allocate(&mut self, blocks: usize) -> Option<usize> {
        let order = blocks.trailing_zeros() as usize;
        let from = (order..self.free.len()).find(|&k| !self.free[k].is_empty())?;
        let start = self.free[from].pop_first()?;
        for k in order..from {
            self.free[k].insert(start + (1 << k));
        }
        self.free_blocks -= blocks;
        Some(start)
    }

    /// Gives a run back that [`Buddy::allocate`] gave out.
    pub(crate) fn release(&mut self, start: usize, blocks: usize) {
        self.free_blocks += blocks;
        let mut start = start;
        let mut order = blocks.trailing_zeros() as usize;
        while order + 1 < self.free.len() && self.free[order].remove(&(start ^ (1 << order))) {
            start &= !(1 << order);
            order += 1;
        }
        let inserted = self.free[order].insert(start);
        assert!(inserted, "block {start} was released twice");
    }

    /// Blocks not handed out.
    pub(crate) fn free_blocks(&self) -> usize {
        self.free_blocks
    }
}

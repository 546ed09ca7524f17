//! The part of a ring that a scan holds in memory: contiguous blocks, consumed from the front, fed at the end.

use sheen_types::BLOCK_BYTES;

use crate::{Fault, bytes::index};

/// Contiguous blocks of a ring. A window never crosses the ring's end: at the end it begins anew at block 0.
#[derive(Debug)]
pub(crate) struct Window {
    ring_blocks: u64,
    /// Block of the ring at `start`.
    block: u64,
    bytes: Vec<u8>,
    /// Bytes at the front already consumed; dropped at the next feed, so that a batch can be lent out meanwhile.
    start: usize,
    /// Blocks of the ring that could not be read, the latest run of them.
    unreadable: (u64, u64),
}

impl Window {
    pub(crate) fn new(block: u64, ring_blocks: u64) -> Self {
        Self { ring_blocks, block, bytes: Vec::new(), start: 0, unreadable: (0, 0) }
    }

    /// Block of the ring behind the last one held: where the next read goes.
    pub(crate) fn end(&self) -> u64 {
        self.block + self.held()
    }

    /// Blocks held.
    pub(crate) fn held(&self) -> u64 {
        ((self.bytes.len() - self.start) / BLOCK_BYTES) as u64
    }

    /// The bytes held.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The bytes held and those consumed since the last feed.
    pub(crate) fn all(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        assert!(bytes.len().is_multiple_of(BLOCK_BYTES), "whole blocks are fed");
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
        assert!(self.end() <= self.ring_blocks, "a window lies in the ring");
    }

    pub(crate) fn feed_unreadable(&mut self, blocks: u64) {
        let first = self.end();
        let bytes = vec![0; index(blocks) * BLOCK_BYTES];
        self.feed(&bytes);
        self.unreadable = (first, first + blocks);
    }

    /// Passes over `blocks` blocks, held or not; returns where the first of them began in [`Self::all`].
    pub(crate) fn consume(&mut self, blocks: u64) -> usize {
        let start = self.start;
        let held = blocks.min(self.held());
        self.start += index(held) * BLOCK_BYTES;
        self.block += blocks;
        assert!(self.block <= self.ring_blocks, "a batch never crosses the end of the ring");
        if self.block == self.ring_blocks {
            self.block = 0;
        }
        start
    }

    /// `fault` of the first `blocks` blocks held, or that they could not be read, which explains it.
    pub(crate) fn name_fault(&self, blocks: u64, fault: Fault) -> Fault {
        let (first, end) = self.unreadable;
        let overlap = self.block < end && first < self.block + blocks;
        if overlap { Fault::Unreadable } else { fault }
    }
}

//! One object: its attributes and the chunks that map its blocks.
//!
//! Invariants: no chunk is empty; `blocks` counts what the chunks map; bytes of a mapped block behind `size` are zero, so
//! that growing needs no write.

use std::collections::BTreeMap;

use sheen_types::Timespec;

use crate::{
    ObjectAttributes, Owner,
    chunk::{CHUNK_BLOCKS, Chunk, Piece, Run},
};

/// An object. Small ones have one chunk, boxed beside the attributes; the map stays unallocated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) size: u64,
    pub(crate) mtime: Timespec,
    pub(crate) owner: Owner,
    blocks: u64,
    first: Option<Box<Chunk>>,
    rest: BTreeMap<u32, Box<Chunk>>,
}

/// A part of an object's blocks, counted from the object's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObjectPiece<'a> {
    pub(crate) block: u64,
    pub(crate) blocks: u64,
    pub(crate) place: u64,
    pub(crate) written: bool,
    pub(crate) checksums: &'a [u32],
}

impl Object {
    /// What it knows of itself.
    pub(crate) fn attributes(&self) -> ObjectAttributes {
        ObjectAttributes {
            size: self.size,
            blocks: self.blocks,
            mtime: self.mtime,
            owner: self.owner,
        }
    }

    /// Blocks mapped, reserved ones included.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Takes over a chunk read from a checkpoint; false if there is one already or it is empty.
    pub(crate) fn insert_chunk(&mut self, number: u32, chunk: Chunk) -> bool {
        let blocks = chunk.blocks();
        let chunk = Box::new(chunk);
        let old =
            if number == 0 { self.first.replace(chunk) } else { self.rest.insert(number, chunk) };
        self.blocks += blocks;
        old.is_none() && blocks > 0
    }

    /// Chunks from number `from` on, in order.
    pub(crate) fn chunks_from(&self, from: u32) -> impl Iterator<Item = (u32, &Chunk)> {
        let first = self.first.as_deref().filter(|_| from == 0).map(|chunk| (0, chunk));
        first.into_iter().chain(self.rest.range(from..).map(|(&number, chunk)| (number, &**chunk)))
    }

    /// The mapped pieces of blocks `first..end`, in order.
    pub(crate) fn pieces(&self, first: u64, end: u64) -> impl Iterator<Item = ObjectPiece<'_>> {
        let from = chunk_number(first);
        let one = end <= (u64::from(from) + 1) * CHUNK_BLOCKS;
        // Most ranges lie in one chunk: one look-up, no walk through the map.
        let alone = one.then(|| self.chunk(from)).flatten().map(|chunk| (from, chunk));
        let several = (!one).then(|| self.chunks_from(from)).into_iter().flatten();
        alone
            .into_iter()
            .chain(several)
            .take_while(move |&(number, _)| u64::from(number) * CHUNK_BLOCKS < end)
            .flat_map(move |(number, chunk)| {
                let start = u64::from(number) * CHUNK_BLOCKS;
                let cut_end = (end - start).min(CHUNK_BLOCKS);
                chunk
                    .pieces(first.saturating_sub(start), cut_end)
                    .map(move |piece| ObjectPiece::of(start, piece))
            })
    }

    /// The piece that maps `block`, cut to it.
    pub(crate) fn piece_at(&self, block: u64) -> Option<ObjectPiece<'_>> {
        let number = chunk_number(block);
        let start = u64::from(number) * CHUNK_BLOCKS;
        let within = block - start;
        self.chunk(number)?
            .pieces(within, within + 1)
            .next()
            .map(|piece| ObjectPiece::of(start, piece))
    }

    /// Unmaps `first..end` (`u64::MAX`: to the end); `freed` hears what lay there.
    pub(crate) fn clear(&mut self, first: u64, end: u64, freed: &mut impl FnMut(Run)) {
        if first >= end {
            return;
        }
        let mut at = first;
        while let Some(number) = self.chunk_at_or_after(at) {
            let start = u64::from(number) * CHUNK_BLOCKS;
            if start >= end {
                break;
            }
            let chunk = self.chunk_mut(number);
            let mut gone = 0;
            chunk.clear(at.saturating_sub(start), (end - start).min(CHUNK_BLOCKS), &mut |run| {
                gone += run.blocks();
                freed(run);
            });
            if chunk.is_empty() {
                self.remove_chunk(number);
            }
            self.blocks -= gone;
            at = start + CHUNK_BLOCKS;
        }
    }

    /// Maps `blocks` blocks from `block` on to `place`; `freed` hears what lay there before. Checksums are given if the
    /// blocks are written.
    pub(crate) fn set(
        &mut self,
        block: u64,
        blocks: u64,
        place: u64,
        checksums: Option<&[u32]>,
        freed: &mut impl FnMut(Run),
    ) {
        let mut done = 0;
        while done < blocks {
            let number = chunk_number(block + done);
            let within = (block + done) % CHUNK_BLOCKS;
            let count = (blocks - done).min(CHUNK_BLOCKS - within);
            let run = Run::new(within, count, place + done, checksums.is_some());
            let sums = checksums.map_or(&[][..], |sums| {
                let from = crate::bytes::index(done);
                &sums[from..from + crate::bytes::index(count)]
            });
            let mut gone = 0;
            self.chunk_mut(number).set(run, sums, &mut |run| {
                gone += run.blocks();
                freed(run);
            });
            self.blocks = self.blocks + count - gone;
            done += count;
        }
    }

    fn chunk_at_or_after(&self, block: u64) -> Option<u32> {
        self.chunks_from(chunk_number(block)).next().map(|(number, _)| number)
    }

    fn chunk(&self, number: u32) -> Option<&Chunk> {
        if number == 0 {
            self.first.as_deref()
        } else {
            self.rest.get(&number).map(|chunk| &**chunk)
        }
    }

    fn chunk_mut(&mut self, number: u32) -> &mut Chunk {
        if number == 0 {
            self.first.get_or_insert_default()
        } else {
            self.rest.entry(number).or_default()
        }
    }

    fn remove_chunk(&mut self, number: u32) {
        if number == 0 {
            self.first = None;
        } else {
            self.rest.remove(&number);
        }
    }
}

impl<'a> ObjectPiece<'a> {
    fn of(start: u64, piece: Piece<'a>) -> Self {
        Self {
            block: start + piece.run.first(),
            blocks: piece.run.blocks(),
            place: piece.run.place(),
            written: piece.run.is_written(),
            checksums: piece.checksums,
        }
    }
}

/// Number of the chunk that maps `block`; blocks are below [`crate::request::OBJECT_BYTES_MAX`], the end of all behind it.
fn chunk_number(block: u64) -> u32 {
    u32::try_from(block / CHUNK_BLOCKS).unwrap_or(u32::MAX)
}

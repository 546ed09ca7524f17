//! One object: its attributes and the chunks that map its blocks.
//!
//! Invariants: no chunk is empty; `blocks` counts what the chunks own; bytes of a mapped block behind `size` are zero, so
//! that growing needs no write.

use std::collections::BTreeMap;

use sheen_types::{Fid, Timespec};

use crate::{
    ObjectAttributes, Owner,
    binding::Binding,
    chunk::{CHUNK_BLOCKS, Chunk, Gone, Piece, Run},
    run::{Home, Packing},
};

/// An object. A small one is one allocation: its only chunk lies beside the attributes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) size: u64,
    pub(crate) mtime: Timespec,
    pub(crate) owner: Owner,
    blocks: u64,
    map: Map,
}

// With the allocator's word 112 bytes; together with its share of the index a small object stays below 200.
const _: () = assert!(size_of::<Object>() == 104);

#[derive(Clone, Debug)]
enum Map {
    /// Nothing behind the first chunk, which may be empty.
    Small(Chunk),
    /// By number; none is empty.
    Large(BTreeMap<u32, Box<Chunk>>),
}

impl Default for Map {
    fn default() -> Self {
        Self::Small(Chunk::default())
    }
}

/// A part of an object's blocks, counted from the object's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObjectPiece<'a> {
    pub(crate) block: u64,
    pub(crate) blocks: u64,
    pub(crate) place: u64,
    pub(crate) written: bool,
    pub(crate) generation: u32,
    pub(crate) packing: Packing,
    /// Bound, see [`crate::binding`]; of a packed piece those of all its group's stored blocks.
    pub(crate) checksums: &'a [u32],
}

/// Blocks of an object that a change maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping<'a> {
    pub(crate) block: u64,
    pub(crate) blocks: u64,
    pub(crate) home: Home,
    /// None if they are not written.
    pub(crate) checksums: &'a [u32],
}

/// What an edit of the map altered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Blocks of the object.
    pub(crate) logical: u64,
    /// Blocks of the device.
    pub(crate) stored: u64,
}

/// Packed runs, in sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct PackedRuns {
    /// Blocks of objects.
    pub(crate) logical: u64,
    /// Bytes in a checkpoint.
    pub(crate) bytes: u64,
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

    /// Device blocks owned, reserved ones included.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks mapped, reserved ones included. Counts them.
    pub(crate) fn logical(&self) -> u64 {
        self.chunks_from(0).map(|(_, chunk)| chunk.logical()).sum()
    }

    /// Who owns device blocks: the object's block, the place and how many, once for each packed group.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (u64, u64, u64)> + use<'_> {
        self.chunks_from(0).flat_map(|(number, chunk)| {
            let start = u64::from(number) * CHUNK_BLOCKS;
            chunk.owners().map(move |run| (start + run.first(), run.place(), run.stored()))
        })
    }

    /// Device blocks that would be free if `first..end` were not mapped; those of reserved blocks are not counted.
    pub(crate) fn owned_within(&self, first: u64, end: u64) -> u64 {
        let chunks = self.chunks_from(chunk_number(first));
        chunks
            .take_while(|&(number, _)| u64::from(number) * CHUNK_BLOCKS < end)
            .map(|(number, chunk)| {
                let start = u64::from(number) * CHUNK_BLOCKS;
                chunk.owned_within(first.saturating_sub(start), (end - start).min(CHUNK_BLOCKS))
            })
            .sum()
    }

    /// Chunks it has.
    pub(crate) fn chunks(&self) -> u64 {
        match &self.map {
            Map::Small(chunk) => u64::from(!chunk.is_empty()),
            Map::Large(chunks) => chunks.len() as u64,
        }
    }

    /// The packed runs of chunks that have one of blocks `first..end`: blocks of the object, and bytes in a checkpoint.
    pub(crate) fn packed_near(&self, first: u64, end: u64) -> PackedRuns {
        let mut packed = PackedRuns::default();
        let mut add = |chunk: &Chunk| {
            let (logical, bytes) = chunk.packed();
            packed.logical += logical;
            packed.bytes += bytes;
        };
        let from = chunk_number(first);
        if end <= (u64::from(from) + 1) * CHUNK_BLOCKS {
            // Most changes lie in one chunk: one look-up, no walk through the map.
            self.chunk(from).into_iter().for_each(add);
            return packed;
        }
        for (number, chunk) in self.chunks_from(from) {
            if u64::from(number) * CHUNK_BLOCKS >= end {
                break;
            }
            add(chunk);
        }
        packed
    }

    /// Blocks `first..end` of a chunk become what `piece` maps, which lies within them.
    pub(crate) fn replace_piece(&mut self, number: u32, (first, end): (u64, u64), piece: Chunk) {
        let stored = |chunk: &Chunk| chunk.owners().map(Run::stored).sum::<u64>();
        let chunk = self.chunk_mut(number);
        let before = stored(chunk);
        if chunk.is_empty() {
            *chunk = piece;
        } else {
            chunk.clear(first, end, &mut |_| {});
            for part in piece.pieces(0, CHUNK_BLOCKS) {
                chunk.put(part.run, part.checksums, &mut |_| {});
            }
        }
        let (after, is_empty) = (stored(chunk), chunk.is_empty());
        self.blocks = self.blocks + after - before;
        if is_empty {
            self.remove_chunk(number);
        }
    }

    /// Chunks from number `from` on, in order.
    pub(crate) fn chunks_from(&self, from: u32) -> impl Iterator<Item = (u32, &Chunk)> {
        let (small, large) = match &self.map {
            Map::Small(chunk) => (Some((0, chunk)), None),
            Map::Large(chunks) => (None, Some(chunks.range(from..))),
        };
        let small = small.filter(|(_, chunk)| from == 0 && !chunk.is_empty());
        let large = large.into_iter().flatten().map(|(&number, chunk)| (number, &**chunk));
        small.into_iter().chain(large)
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

    /// Unmaps `first..end` (`u64::MAX`: to the end); `freed` hears what lay there. Returns what is gone.
    pub(crate) fn clear(&mut self, first: u64, end: u64, freed: &mut impl FnMut(Gone)) -> Tally {
        let mut gone = Tally::default();
        if first >= end {
            return gone;
        }
        let mut from = Some(chunk_number(first));
        while let Some((number, _)) = from.and_then(|from| self.chunks_from(from).next()) {
            let start = u64::from(number) * CHUNK_BLOCKS;
            if start >= end {
                break;
            }
            let chunk = self.chunk_mut(number);
            chunk.clear(
                first.saturating_sub(start),
                (end - start).min(CHUNK_BLOCKS),
                &mut |part| {
                    gone.add(part);
                    freed(part);
                },
            );
            if chunk.is_empty() {
                self.remove_chunk(number);
            }
            // None follows the last chunk there can be.
            from = number.checked_add(1);
        }
        self.blocks -= gone.stored;
        gone
    }

    /// Maps blocks; `freed` hears what lay there before. Returns what is gone.
    pub(crate) fn set(&mut self, mapping: &Mapping<'_>, freed: &mut impl FnMut(Gone)) -> Tally {
        let Mapping { block, blocks, home, checksums } = *mapping;
        let mut gone = Tally::default();
        let mut done = 0;
        while done < blocks {
            let number = chunk_number(block + done);
            let within = (block + done) % CHUNK_BLOCKS;
            let count = (blocks - done).min(CHUNK_BLOCKS - within);
            // A packed group lies in one chunk.
            let run = Run::new(within, count, Home { place: home.place + done, ..home });
            let from = if home.written { crate::bytes::index(done) } else { 0 };
            let sums = &checksums[from..from + crate::bytes::index(run.checksums())];
            self.chunk_mut(number).set(run, sums, &mut |part| {
                gone.add(part);
                freed(part);
            });
            self.blocks += run.stored();
            done += count;
        }
        self.blocks -= gone.stored;
        gone
    }

    /// The chunk of this number.
    pub(crate) fn chunk(&self, number: u32) -> Option<&Chunk> {
        match &self.map {
            Map::Small(chunk) => Some(chunk).filter(|chunk| number == 0 && !chunk.is_empty()),
            Map::Large(chunks) => chunks.get(&number).map(|chunk| &**chunk),
        }
    }

    /// The chunk with this number, a new one if there is none.
    fn chunk_mut(&mut self, number: u32) -> &mut Chunk {
        if number > 0
            && let Map::Small(chunk) = &mut self.map
        {
            let first = std::mem::take(chunk);
            let first = Some(first).filter(|chunk| !chunk.is_empty());
            let chunks = first.map(|chunk| (0, Box::new(chunk))).into_iter().collect();
            self.map = Map::Large(chunks);
        }
        match &mut self.map {
            Map::Small(chunk) => chunk,
            Map::Large(chunks) => chunks.entry(number).or_default(),
        }
    }

    fn remove_chunk(&mut self, number: u32) {
        match &mut self.map {
            Map::Small(chunk) => *chunk = Chunk::default(),
            Map::Large(chunks) => drop(chunks.remove(&number)),
        }
    }
}

impl PackedRuns {
    pub(crate) fn add(&mut self, other: Self) {
        self.logical += other.logical;
        self.bytes += other.bytes;
    }

    pub(crate) fn remove(&mut self, other: Self) {
        self.logical -= other.logical;
        self.bytes -= other.bytes;
    }
}

impl Tally {
    fn add(&mut self, gone: Gone) {
        self.logical += gone.logical;
        self.stored += gone.blocks;
    }
}

impl<'a> ObjectPiece<'a> {
    /// Device blocks it lies in.
    pub(crate) fn stored(&self) -> u64 {
        if self.packing.is_plain() { self.blocks } else { self.packing.stored() }
    }

    /// CRC32C of each stored block; none if it is not written.
    pub(crate) fn raw_checksums(&self, object: Fid) -> impl Iterator<Item = u32> + use<'a> {
        let binding = Binding::new(object, self.generation);
        // Those of a packed group are counted from the group's first block; a plain piece begins with itself.
        let first = self.block - self.packing.first();
        (first..).zip(self.checksums).map(move |(block, &sum)| binding.bind(sum, block))
    }

    fn of(start: u64, piece: Piece<'a>) -> Self {
        Self {
            block: start + piece.run.first(),
            blocks: piece.run.blocks(),
            place: piece.run.place(),
            written: piece.run.is_written(),
            generation: piece.run.generation(),
            packing: piece.run.packing(),
            checksums: piece.checksums,
        }
    }
}

/// Number of the chunk that maps `block`; blocks are below [`crate::request::OBJECT_BYTES_MAX`], the end of all behind it.
fn chunk_number(block: u64) -> u32 {
    u32::try_from(block / CHUNK_BLOCKS).unwrap_or(u32::MAX)
}

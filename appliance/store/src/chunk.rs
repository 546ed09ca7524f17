//! The map of 256 consecutive blocks (1 MiB) of an object.
//!
//! Invariants: runs are sorted, do not overlap and are merged where they could be; there is one checksum for each block of a
//! written run, in order.

use smallvec::SmallVec;

use crate::bytes::index;

/// Blocks of an object that one chunk maps.
pub(crate) const CHUNK_BLOCKS: u64 = 256;

/// Consecutive blocks of a chunk that lie consecutively on the device, packed into 64 bits as memory and checkpoint hold
/// them.
///
/// | bits   | field     | meaning                                                    |
/// |--------|-----------|------------------------------------------------------------|
/// | 0..8   | first     | block in the chunk                                         |
/// | 8..16  | blocks    | count less one                                             |
/// | 16     | unwritten | reserved: reads as zeros, has no checksums                 |
/// | 17..64 | place     | first block, counted from the zone's start                 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run(u64);

const UNWRITTEN: u64 = 1 << 16;
const PLACE_SHIFT: u32 = 17;

impl Run {
    pub(crate) fn new(first: u64, blocks: u64, place: u64, written: bool) -> Self {
        assert!(blocks > 0 && first + blocks <= CHUNK_BLOCKS, "a run lies in a chunk");
        let flag = if written { 0 } else { UNWRITTEN };
        Self(first | (blocks - 1) << 8 | flag | place << PLACE_SHIFT)
    }

    /// A run as stored; None if it leaves the chunk.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let run = Self(bits);
        (run.end() <= CHUNK_BLOCKS).then_some(run)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn first(self) -> u64 {
        self.0 & 0xff
    }

    pub(crate) const fn blocks(self) -> u64 {
        (self.0 >> 8 & 0xff) + 1
    }

    pub(crate) const fn end(self) -> u64 {
        self.first() + self.blocks()
    }

    pub(crate) const fn is_written(self) -> bool {
        self.0 & UNWRITTEN == 0
    }

    pub(crate) const fn place(self) -> u64 {
        self.0 >> PLACE_SHIFT
    }

    const fn checksums(self) -> u64 {
        if self.is_written() { self.blocks() } else { 0 }
    }

    /// The part within `first..end`, which it must overlap.
    fn cut(self, first: u64, end: u64) -> Self {
        let start = self.first().max(first);
        let end = self.end().min(end);
        Self::new(start, end - start, self.place() + (start - self.first()), self.is_written())
    }

    fn joins(self, next: Self) -> bool {
        self.end() == next.first()
            && self.is_written() == next.is_written()
            && self.place() + self.blocks() == next.place()
    }

    fn join(self, next: Self) -> Self {
        Self::new(self.first(), self.blocks() + next.blocks(), self.place(), self.is_written())
    }
}

/// A piece of a chunk as a reader sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    /// The run, cut to what was asked for.
    pub(crate) run: Run,
    /// Checksums of its blocks; empty if it is unwritten.
    pub(crate) checksums: &'a [u32],
}

/// The map of one chunk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunk {
    runs: Runs,
    checksums: Checksums,
}

/// Runs in order. Two lie in the chunk itself, in the room of a `Vec`'s three words: a small object is one allocation.
pub(crate) type Runs = SmallVec<[Run; 2]>;
/// Checksums in order; four lie in the chunk itself.
pub(crate) type Checksums = SmallVec<[u32; 4]>;

const _: () = assert!(size_of::<Chunk>() == 48, "as large as two Vecs");

impl Chunk {
    /// A chunk as stored; None if it is not one.
    pub(crate) fn from_parts(runs: Runs, checksums: Checksums) -> Option<Self> {
        let sorted = runs.windows(2).all(|pair| pair[0].end() <= pair[1].first());
        let needed: u64 = runs.iter().map(|run| run.checksums()).sum();
        (sorted && needed == checksums.len() as u64).then_some(Self { runs, checksums })
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(crate) fn checksums(&self) -> &[u32] {
        &self.checksums
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Blocks mapped, reserved ones included.
    pub(crate) fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.blocks()).sum()
    }

    /// The mapped pieces within `first..end`, in order.
    pub(crate) fn pieces(&self, first: u64, end: u64) -> impl Iterator<Item = Piece<'_>> {
        let from = self.runs.partition_point(|run| run.end() <= first);
        let mut at = self.checksums_before(from);
        self.runs[from..].iter().take_while(move |run| run.first() < end).map(move |&run| {
            let cut = run.cut(first, end);
            let start = at + (cut.first() - run.first());
            at += run.checksums();
            let checksums = if run.is_written() {
                &self.checksums[index(start)..index(start + cut.blocks())]
            } else {
                &[]
            };
            Piece { run: cut, checksums }
        })
    }

    /// Checksums of the runs before run number `at`.
    fn checksums_before(&self, at: usize) -> u64 {
        if self.checksums.len() as u64 == CHUNK_BLOCKS {
            // Every block is written, so a block's checksum stands at its own number.
            return self.runs.get(at).map_or(CHUNK_BLOCKS, |run| run.first());
        }
        self.runs[..at].iter().map(|run| run.checksums()).sum()
    }

    /// Unmaps `first..end`; `freed` hears what lay there.
    pub(crate) fn clear(&mut self, first: u64, end: u64, freed: &mut impl FnMut(Run)) {
        self.replace(first, end, None, &[], freed);
    }

    /// Maps `run`, whose checksums are given if it is written; `freed` hears what lay there before.
    pub(crate) fn set(&mut self, run: Run, checksums: &[u32], freed: &mut impl FnMut(Run)) {
        assert!(run.checksums() == checksums.len() as u64, "one checksum for each written block");
        self.replace(run.first(), run.end(), Some(run), checksums, freed);
    }

    fn replace(
        &mut self,
        first: u64,
        end: u64,
        new: Option<Run>,
        checksums: &[u32],
        freed: &mut impl FnMut(Run),
    ) {
        let from = self.runs.partition_point(|run| run.end() <= first);
        let mut sums_from = self.checksums_before(from);
        let mut sums_to = sums_from;
        let mut to = from;
        let (mut left, mut right) = (None, None);
        while to < self.runs.len() && self.runs[to].first() < end {
            let run = self.runs[to];
            freed(run.cut(first, end));
            if run.first() < first {
                let kept = run.cut(run.first(), first);
                sums_from += kept.checksums();
                left = Some(kept);
            }
            sums_to += run.checksums();
            if run.end() > end {
                let kept = run.cut(end, run.end());
                sums_to -= kept.checksums();
                right = Some(kept);
            }
            to += 1;
        }
        self.replace_checksums(index(sums_from), index(sums_to), checksums);
        self.replace_runs(from, to, [left, new, right]);
    }

    fn replace_checksums(&mut self, from: usize, to: usize, new: &[u32]) {
        if to - from == new.len() {
            self.checksums[from..to].copy_from_slice(new);
        } else {
            replace(&mut self.checksums, from, to, new);
        }
    }

    /// Puts up to three runs in place of `from..to`, merged with each other and their neighbours where they join.
    fn replace_runs(&mut self, mut from: usize, mut to: usize, new: [Option<Run>; 3]) {
        let mut runs = [Run(0); 5];
        let mut count = 0;
        let before = from.checked_sub(1).map(|at| self.runs[at]);
        let after = self.runs.get(to).copied();
        let [a, b, c] = new;
        for run in [before, a, b, c, after].into_iter().flatten() {
            if count > 0 && runs[count - 1].joins(run) {
                runs[count - 1] = runs[count - 1].join(run);
            } else {
                runs[count] = run;
                count += 1;
            }
        }
        from -= usize::from(before.is_some());
        to += usize::from(after.is_some());
        if to - from == count {
            self.runs[from..to].copy_from_slice(&runs[..count]);
        } else {
            replace(&mut self.runs, from, to, &runs[..count]);
        }
    }
}

/// Puts `new` in the place of `list[from..to]`.
fn replace<A>(list: &mut SmallVec<A>, from: usize, to: usize, new: &[A::Item])
where
    A: smallvec::Array,
    A::Item: Copy,
{
    let common = new.len().min(to - from);
    list[from..from + common].copy_from_slice(&new[..common]);
    if common < new.len() {
        list.insert_from_slice(to, &new[common..]);
    } else {
        list.drain(from + common..to);
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// The plain truth: place and checksum of each block.
    type Model = Vec<Option<(u64, Option<u32>)>>;

    fn check(chunk: &Chunk, model: &Model) {
        let mut seen: Model = vec![None; 256];
        for piece in chunk.pieces(0, CHUNK_BLOCKS) {
            for i in 0..piece.run.blocks() {
                let sum = piece.checksums.get(index(i)).copied();
                seen[index(piece.run.first() + i)] = Some((piece.run.place() + i, sum));
            }
        }
        assert_eq!(&seen, model);
        assert!(chunk.runs.windows(2).all(|pair| !pair[0].joins(pair[1])), "{:?}", chunk.runs);
        assert!(Chunk::from_parts(chunk.runs.clone(), chunk.checksums.clone()).is_some());
    }

    #[test]
    fn a_chunk_maps_like_an_array_of_blocks() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..50 {
            let mut chunk = Chunk::default();
            let mut model: Model = vec![None; 256];
            for step in 0..200_u32 {
                let first = next(256);
                let blocks = 1 + next((256 - first).min(9));
                let mut freed = Vec::new();
                let mut hear = |run: Run| {
                    freed.extend((0..run.blocks()).map(|i| run.place() + i));
                };
                let range = index(first)..index(first + blocks);
                let before: Vec<u64> =
                    model[range.clone()].iter().flatten().map(|&(place, _)| place).collect();
                // Small places in steps of one make neighbours that join.
                let place = first + 256 * next(3);
                match next(3) {
                    0 => {
                        chunk.clear(first, first + blocks, &mut hear);
                        model[range].fill(None);
                    }
                    1 => {
                        chunk.set(Run::new(first, blocks, place, false), &[], &mut hear);
                        for (i, block) in (0..).zip(&mut model[range]) {
                            *block = Some((place + i, None));
                        }
                    }
                    _ => {
                        let sums: Vec<u32> = (0..blocks).map(|_| step).collect();
                        chunk.set(Run::new(first, blocks, place, true), &sums, &mut hear);
                        for (i, block) in (0..).zip(&mut model[range]) {
                            *block = Some((place + i, Some(step)));
                        }
                    }
                }
                assert_eq!(freed, before);
                check(&chunk, &model);
            }
        }
    }
}

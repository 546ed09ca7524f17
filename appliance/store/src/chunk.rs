//! The map of 256 consecutive blocks (1 MiB) of an object.
//!
//! Invariants: runs are sorted, do not overlap and are merged where they could be; there is one checksum for each block of a
//! written run, in order, and for a part of a packed group those of all the group's stored blocks; a group's blocks are
//! owned by its parts together and freed with the last of them.

use smallvec::SmallVec;

use crate::bytes::index;
pub(crate) use crate::run::Run;

/// Blocks of an object that one chunk maps.
pub(crate) const CHUNK_BLOCKS: u64 = 256;

/// A piece of a chunk as a reader sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    /// The run, cut to what was asked for.
    pub(crate) run: Run,
    /// Checksums of its blocks, of a packed one all of its group's; empty if it is unwritten.
    pub(crate) checksums: &'a [u32],
}

/// What is not mapped any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    /// Blocks of the object.
    pub(crate) logical: u64,
    /// Where they lay.
    pub(crate) place: u64,
    /// Blocks there that nothing maps now; none while parts of a packed group are left.
    pub(crate) blocks: u64,
}

/// The map of one chunk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunk {
    runs: Runs,
    checksums: Checksums,
    /// Whether it ever held a packed run since it was empty.
    packed: bool,
}

/// Runs in order. One lies in the chunk itself, in the room of a `Vec`'s three words: a small object is one allocation.
pub(crate) type Runs = SmallVec<[Run; 1]>;
/// Checksums in order; four lie in the chunk itself.
pub(crate) type Checksums = SmallVec<[u32; 4]>;

const _: () = assert!(size_of::<Chunk>() == 56, "as large as two Vecs and a flag");

impl Chunk {
    /// A chunk as stored; None if it is not one.
    pub(crate) fn from_parts(runs: Runs, checksums: Checksums) -> Option<Self> {
        let sorted = runs.windows(2).all(|pair| pair[0].end() <= pair[1].first());
        let needed: u64 = runs.iter().map(|run| run.checksums()).sum();
        let packed = runs.iter().any(|run| run.is_packed());
        (sorted && needed == checksums.len() as u64).then_some(Self { runs, checksums, packed })
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Blocks of the object mapped, reserved ones included.
    pub(crate) fn logical(&self) -> u64 {
        self.runs.iter().map(|run| run.blocks()).sum()
    }

    /// The runs that own device blocks, of each packed group its first part.
    pub(crate) fn owners(&self) -> impl Iterator<Item = Run> + use<'_> {
        let owns = |&(at, &run): &(usize, &Run)| !run.is_packed() || !self.has_part_before(at, run);
        self.runs.iter().enumerate().filter(owns).map(|(_, &run)| run)
    }

    /// Device blocks that nothing would own any more if `first..end` were not mapped; those of unwritten runs are not counted.
    pub(crate) fn owned_within(&self, first: u64, end: u64) -> u64 {
        let from = self.position(first);
        let touched = self.runs[from..].iter().take_while(|run| run.first() < end);
        touched
            .enumerate()
            .map(|(at, &run)| {
                if !run.is_written() {
                    0
                } else if !run.is_packed() {
                    run.cut(first, end).blocks()
                } else if run.first() < first
                    || run.end() > end
                    || self.has_part_before(from + at, run)
                    || self.parts_behind(from + at, run).any(|part| part.end() > end)
                {
                    0
                } else {
                    run.stored()
                }
            })
            .sum()
    }

    /// Blocks of the object that packed runs map, and the bytes of these runs in a checkpoint.
    pub(crate) fn packed(&self) -> (u64, u64) {
        if !self.packed {
            return (0, 0);
        }
        let packed = self.runs.iter().filter(|run| run.is_packed());
        packed.fold((0, 0), |(logical, bytes), run| {
            (logical + run.blocks(), bytes + size_of::<Run>() as u64 + 4 * run.stored())
        })
    }

    /// Whether a part of `run`'s group lies before run number `at`.
    fn has_part_before(&self, at: usize, run: Run) -> bool {
        let start = run.window().0;
        let mut near = self.runs[..at].iter().rev().take_while(|other| other.end() > start);
        near.any(|other| other.same_group(run))
    }

    /// The parts of `run`'s group behind run number `at`.
    fn parts_behind(&self, at: usize, run: Run) -> impl Iterator<Item = Run> + use<'_> {
        let end = run.window().1;
        let near = self.runs[at + 1..].iter().take_while(move |other| other.first() < end);
        near.copied().filter(move |other| other.same_group(run))
    }

    /// The mapped pieces within `first..end`, in order.
    pub(crate) fn pieces(&self, first: u64, end: u64) -> impl Iterator<Item = Piece<'_>> {
        let from = self.position(first);
        let mut at = self.checksums_before(from);
        self.runs[from..].iter().take_while(move |run| run.first() < end).map(move |&run| {
            let cut = run.cut(first, end);
            let is_plain = run.is_written() && !run.is_packed();
            let skipped = if is_plain { cut.first() - run.first() } else { 0 };
            let start = at + skipped;
            at += run.checksums();
            let checksums = &self.checksums[index(start)..index(start + cut.checksums())];
            Piece { run: cut, checksums }
        })
    }

    /// Number of the first run that ends behind block `first`.
    ///
    /// Looked for where it stands if runs lie evenly, as they do in a chunk that is written at random: one or two cache lines,
    /// where halving the list would touch one for each of its steps.
    fn position(&self, first: u64) -> usize {
        let chunk = index(CHUNK_BLOCKS);
        let guess = self.runs.len() * index(first).min(chunk) / chunk;
        partition_near(&self.runs, guess, |run| run.end() <= first)
    }

    /// Checksums of the runs before run number `at`.
    fn checksums_before(&self, at: usize) -> u64 {
        if self.checksums.len() as u64 == CHUNK_BLOCKS && !self.packed {
            // Every block is written, so a block's checksum stands at its own number.
            return self.runs.get(at).map_or(CHUNK_BLOCKS, |run| run.first());
        }
        self.runs[..at].iter().map(|run| run.checksums()).sum()
    }

    /// Unmaps `first..end`; `freed` hears what lay there.
    pub(crate) fn clear(&mut self, first: u64, end: u64, freed: &mut impl FnMut(Gone)) {
        self.replace(first, end, None, &[], freed);
    }

    /// Maps `run`, which is plain or a whole group, and whose checksums are given if it is written; `freed` hears what lay
    /// there before.
    pub(crate) fn set(&mut self, run: Run, checksums: &[u32], freed: &mut impl FnMut(Gone)) {
        assert!(!run.is_packed() || run.window() == (run.first(), run.end()), "a whole group");
        self.put(run, checksums, freed);
    }

    /// Maps `run`, which may be a part of a packed group whose other parts are mapped, or will be.
    pub(crate) fn put(&mut self, run: Run, checksums: &[u32], freed: &mut impl FnMut(Gone)) {
        assert!(run.checksums() == checksums.len() as u64, "one checksum for each stored block");
        self.replace(run.first(), run.end(), Some(run), checksums, freed);
        self.packed |= run.is_packed();
    }

    fn replace(
        &mut self,
        first: u64,
        end: u64,
        new: Option<Run>,
        checksums: &[u32],
        freed: &mut impl FnMut(Gone),
    ) {
        let from = self.position(first);
        let sums_from = self.checksums_before(from);
        let mut sums_to = sums_from;
        let mut to = from;
        let (mut left, mut right) = (None, None);
        while to < self.runs.len() && self.runs[to].first() < end {
            let run = self.runs[to];
            freed(self.gone(to, from, (first, end)));
            if run.first() < first {
                left = Some(run.cut(run.first(), first));
            }
            sums_to += run.checksums();
            if run.end() > end {
                right = Some(run.cut(end, run.end()));
            }
            to += 1;
        }
        self.replace_sums(index(sums_from), index(sums_to), [left, right], checksums);
        self.replace_runs(from, to, [left, new, right]);
    }

    /// What of run number `at` is gone when `first..end` is not mapped any more, the first run of which is number `from`.
    fn gone(&self, at: usize, from: usize, (first, end): (u64, u64)) -> Gone {
        let run = self.runs[at];
        let cut = run.cut(first, end);
        if !run.is_packed() {
            return Gone { logical: cut.blocks(), place: cut.place(), blocks: cut.blocks() };
        }
        // The last part to go frees the group: none is left beside it, before the range or behind (or later in it).
        let is_left = cut.blocks() < run.blocks()
            || self.has_part_before(from, run)
            || self.starts_before(from, at, first, run)
            || self.parts_behind(at, run).next().is_some();
        let blocks = if is_left { 0 } else { run.stored() };
        Gone { logical: cut.blocks(), place: run.place(), blocks }
    }

    /// Whether the part of `run`'s group that is run number `from`, itself before `at`, keeps blocks before `first`.
    fn starts_before(&self, from: usize, at: usize, first: u64, run: Run) -> bool {
        let earliest = self.runs[from];
        from < at && earliest.first() < first && earliest.same_group(run)
    }

    /// Puts the checksums of what is kept at the left, of the new run, and of what is kept at the right in place of
    /// `from..to`.
    fn replace_sums(&mut self, from: usize, to: usize, kept: [Option<Run>; 2], new: &[u32]) {
        let [left, right] = kept.map(|run| run.map_or(0, |run| index(run.checksums())));
        let is_packed = |run: &Option<Run>| run.is_some_and(Run::is_packed);
        if is_packed(&kept[0]) && is_packed(&kept[1]) && to - from < left + right {
            // One part of a group was cut in two: each half keeps the checksums of all of it.
            let twice: SmallVec<[u32; 16]> = SmallVec::from_slice(&self.checksums[from..to]);
            replace(&mut self.checksums, to, to, &twice);
            replace(&mut self.checksums, to, to, new);
            return;
        }
        let (from, to) = (from + left, to - right);
        if to - from == new.len() {
            self.checksums[from..to].copy_from_slice(new);
        } else {
            replace(&mut self.checksums, from, to, new);
        }
    }

    /// Puts up to three runs in place of `from..to`, merged with each other and their neighbours where they join.
    fn replace_runs(&mut self, mut from: usize, mut to: usize, new: [Option<Run>; 3]) {
        let mut runs = [Run::NONE; 5];
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

/// As `partition_point`, by steps that double away from `guess`.
fn partition_near<T>(list: &[T], guess: usize, is_before: impl Fn(&T) -> bool) -> usize {
    let (mut low, mut high, mut step) = (guess + 1, list.len(), 1);
    if list.get(guess).is_some_and(&is_before) {
        while low + step <= high && is_before(&list[low + step - 1]) {
            low += step;
            step *= 2;
        }
        high = high.min(low + step);
    } else {
        high = high.min(guess);
        while step <= high && !is_before(&list[high - step]) {
            high -= step;
            step *= 2;
        }
        low = high.saturating_sub(step);
    }
    low + list[low..high].partition_point(is_before)
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
    use sheen_types::Codec;

    use super::*;

    #[test]
    fn the_search_finds_the_same_place_from_wherever_it_begins() {
        for length in 0..40_usize {
            let list: Vec<usize> = (0..length).map(|at| 3 * at + at % 2).collect();
            for wanted in 0..130 {
                let expected = list.partition_point(|&value| value < wanted);
                for guess in 0..=length {
                    let found = partition_near(&list, guess, |&value| value < wanted);
                    assert_eq!(found, expected, "{wanted} from {guess} of {length}");
                }
            }
        }
    }
    use crate::run::{Home, PACK_BLOCKS, Packing};

    /// Place and checksum of a plain block; place, block and first checksum of a packed one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Block {
        Plain(u64, Option<u32>),
        Packed(u64, u64, u32),
    }

    /// The plain truth.
    type Model = Vec<Option<Block>>;

    struct Chance(u64);

    impl Chance {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    fn check(chunk: &Chunk, model: &Model) {
        let mut seen: Model = vec![None; 256];
        for piece in chunk.pieces(0, CHUNK_BLOCKS) {
            let run = piece.run;
            for i in 0..run.blocks() {
                seen[index(run.first() + i)] = Some(if run.is_packed() {
                    assert_eq!(piece.checksums.len() as u64, run.stored());
                    Block::Packed(run.place(), run.packing().first() + i, piece.checksums[0])
                } else {
                    Block::Plain(run.place() + i, piece.checksums.get(index(i)).copied())
                });
            }
        }
        assert_eq!(&seen, model);
        assert!(chunk.runs.windows(2).all(|pair| !pair[0].joins(pair[1])), "{:?}", chunk.runs);
        assert!(Chunk::from_parts(chunk.runs.clone(), chunk.checksums.clone()).is_some());
        let mut places: Vec<u64> = model.iter().flatten().map(place_of).collect();
        places.sort_unstable();
        places.dedup();
        let mut owned: Vec<u64> = chunk
            .owners()
            .flat_map(|run| {
                let blocks = if run.is_packed() { 1 } else { run.blocks() };
                (0..blocks).map(move |i| run.place() + i)
            })
            .collect();
        owned.sort_unstable();
        owned.dedup();
        assert_eq!(owned, places);
    }

    fn place_of(block: &Block) -> u64 {
        match *block {
            Block::Plain(place, _) | Block::Packed(place, ..) => place,
        }
    }

    /// Places that nothing maps once `range` does not: of a packed group its first.
    fn freed_by(model: &Model, range: &std::ops::Range<usize>) -> Vec<u64> {
        let mut freed = Vec::new();
        for block in model[range.clone()].iter().flatten() {
            let others = || model[..range.start].iter().chain(&model[range.end..]);
            let is_packed = matches!(block, Block::Packed(..));
            let is_left =
                is_packed && others().flatten().any(|other| place_of(other) == place_of(block));
            let is_noted = is_packed && freed.contains(&place_of(block));
            if !is_left && !is_noted {
                freed.push(place_of(block));
            }
        }
        freed.sort_unstable();
        freed
    }

    /// A range and how to map it, of the kind the number says.
    fn random_run(kind: u64, step: u32, chance: &mut Chance) -> (u64, u64, Home) {
        let mut first = chance.below(256);
        let mut blocks = 1 + chance.below((256 - first).min(9));
        // Small places in steps of one make neighbours that join.
        let mut place = first + 256 * chance.below(3);
        let mut packing = Packing::PLAIN;
        let mut generation = u32::from(chance.below(20) == 0);
        if kind > 2 {
            let window = u64::from(PACK_BLOCKS);
            let within = chance.below(window - 1);
            blocks = 2 + chance.below(window - 1 - within);
            first = first / window * window + within;
            place = 10_000 + 16 * u64::from(step);
            generation = step;
            let stored = u16::try_from(1 + chance.below(blocks - 1)).unwrap();
            packing = Packing::new(Codec::Lz4, stored, u16::try_from(blocks).unwrap());
        }
        (first, blocks, Home { place, written: kind > 1, generation, packing })
    }

    #[test]
    fn a_chunk_maps_like_an_array_of_blocks() {
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        for round in 0..40 {
            let mut chunk = Chunk::default();
            let mut model: Model = vec![None; 256];
            for step in 1..200_u32 {
                // Every other round without packed groups.
                let kind = chance.below(3 + 2 * (round % 2));
                let (first, blocks, home) = random_run(kind, step, &mut chance);
                let range = index(first)..index(first + blocks);
                let expected = freed_by(&model, &range);
                let (mut freed, mut logical) = (Vec::new(), 0);
                let mut owned = 0;
                let unwritten = |block: &&Block| matches!(block, Block::Plain(_, None));
                let unwritten = model[range.clone()].iter().flatten().filter(unwritten).count();
                let mut hear = |gone: Gone| {
                    logical += gone.logical;
                    owned += gone.blocks;
                    let packed = gone.place >= 10_000;
                    let blocks = if packed { gone.blocks.min(1) } else { gone.blocks };
                    freed.extend((0..blocks).map(|i| gone.place + i));
                };
                let within = chunk.owned_within(first, first + blocks);
                if kind == 0 {
                    chunk.clear(first, first + blocks, &mut hear);
                } else {
                    let run = Run::new(first, blocks, home);
                    let sums: Vec<u32> = (0..run.checksums()).map(|_| step).collect();
                    chunk.set(run, &sums, &mut hear);
                }
                assert_eq!(within + unwritten as u64, owned);
                freed.sort_unstable();
                assert_eq!(freed, expected);
                assert_eq!(logical, model[range.clone()].iter().flatten().count() as u64);
                for (i, block) in (0..).zip(&mut model[range]) {
                    *block = match kind {
                        0 => None,
                        1 => Some(Block::Plain(home.place + i, None)),
                        2 => Some(Block::Plain(home.place + i, Some(step))),
                        _ => Some(Block::Packed(home.place, i, step)),
                    };
                }
                check(&chunk, &model);
            }
        }
    }
}

//! A run: consecutive blocks of a chunk that lie together on the device, plain or as part of a packed group.

use sheen_types::Codec;

use crate::chunk::CHUNK_BLOCKS;

/// Most blocks of a packed group, and the alignment of the window it lies in: 64 KiB.
pub const PACK_BLOCKS: u16 = 16;

/// How a run is packed: 0 is plain. A *packed group* is `whole` blocks of an object, stored compressed in fewer; a run is
/// all of it or, once others were replaced, a part.
///
/// | bits   | field  | meaning                                      |
/// |--------|--------|----------------------------------------------|
/// | 0..8   | codec  | 1 LZ4, 2 zstd                                |
/// | 8..16  | stored | device blocks of the group                   |
/// | 16..24 | first  | block of the group the run begins with       |
/// | 24..32 | whole  | blocks of the group, 2..=16                  |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Packing(u32);

impl Packing {
    pub(crate) const PLAIN: Self = Self(0);

    /// A whole group.
    pub(crate) fn new(codec: Codec, stored: u16, whole: u16) -> Self {
        let packing = Self(
            u32::from(codec.number())
                | u32::from(stored & 0xff) << 8
                | u32::from(whole & 0xff) << 24,
        );
        assert!(packing.stored() == u64::from(stored) && packing.whole() == u64::from(whole));
        assert!(packing.is_sound(), "{stored} blocks for {whole}");
        packing
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    pub(crate) const fn is_plain(self) -> bool {
        self.0 == 0
    }

    /// None if it is plain, or of a newer release.
    pub(crate) const fn codec(self) -> Option<Codec> {
        Codec::from_number(self.0.to_le_bytes()[0])
    }

    pub(crate) const fn stored(self) -> u64 {
        (self.0 >> 8 & 0xff) as u64
    }

    pub(crate) const fn first(self) -> u64 {
        (self.0 >> 16 & 0xff) as u64
    }

    pub(crate) const fn whole(self) -> u64 {
        (self.0 >> 24) as u64
    }

    /// Stored blocks, the block of the group the run begins with, blocks of the group.
    pub(crate) fn counts(self) -> [u16; 3] {
        let [_, stored, first, whole] = self.0.to_le_bytes();
        [stored, first, whole].map(u16::from)
    }

    /// Whether it is plain, or a group as there can be one.
    pub(crate) const fn is_sound(self) -> bool {
        self.is_plain()
            || (self.codec().is_some()
                && self.stored() > 0
                && self.stored() < self.whole()
                && self.whole() <= PACK_BLOCKS as u64
                && self.first() < self.whole())
    }

    /// The part `blocks` blocks further on.
    const fn further(self, blocks: u64) -> Self {
        if self.is_plain() {
            return self;
        }
        #[expect(clippy::cast_possible_truncation, reason = "within a group of at most 16 blocks")]
        let blocks = blocks as u32;
        Self(self.0 + (blocks << 16))
    }
}

/// A run, as memory and checkpoint hold it: 16 bytes.
///
/// | bits    | field      | meaning                                                              |
/// |---------|------------|----------------------------------------------------------------------|
/// | 0..8    | first      | block in the chunk                                                   |
/// | 8..16   | blocks     | count less one                                                       |
/// | 16      | unwritten  | reserved: reads as zeros, has no checksums                           |
/// | 17..64  | place      | first block, counted from the zone's start; of a part: the group's   |
/// | 64..96  | generation | the store's when it was mapped                                       |
/// | 96..128 | packing    | see [`Packing`]                                                      |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    word: u64,
    generation: u32,
    packing: Packing,
}

const _: () = assert!(size_of::<Run>() == 16);

const UNWRITTEN: u64 = 1 << 16;
const PLACE_SHIFT: u32 = 17;

/// Where blocks lie, and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    /// First block, counted from the zone's start.
    pub(crate) place: u64,
    pub(crate) written: bool,
    pub(crate) generation: u32,
    pub(crate) packing: Packing,
}

impl Run {
    pub(crate) fn new(first: u64, blocks: u64, home: Home) -> Self {
        let Home { place, written, generation, packing } = home;
        assert!(blocks > 0 && first + blocks <= CHUNK_BLOCKS, "a run lies in a chunk");
        let flag = if written { 0 } else { UNWRITTEN };
        let word = first | (blocks - 1) << 8 | flag | place << PLACE_SHIFT;
        Self { word, generation, packing }
    }

    /// No run: what an array is filled with before its runs are known.
    pub(crate) const NONE: Self = Self { word: 0, generation: 0, packing: Packing::PLAIN };

    /// A run as stored; None if it leaves the chunk or its group.
    pub(crate) fn from_words(word: u64, generation: u32, packing: u32) -> Option<Self> {
        let run = Self { word, generation, packing: Packing(packing) };
        let packing = run.packing;
        let fits = packing.is_plain()
            || (packing.is_sound()
                && run.is_written()
                && packing.first() + run.blocks() <= packing.whole()
                && packing.first() <= run.first()
                && fits_window(run.first() - packing.first(), packing.whole()));
        (run.end() <= CHUNK_BLOCKS && fits).then_some(run)
    }

    pub(crate) const fn words(self) -> (u64, u32, u32) {
        (self.word, self.generation, self.packing.bits())
    }

    pub(crate) const fn first(self) -> u64 {
        self.word & 0xff
    }

    pub(crate) const fn blocks(self) -> u64 {
        (self.word >> 8 & 0xff) + 1
    }

    pub(crate) const fn end(self) -> u64 {
        self.first() + self.blocks()
    }

    pub(crate) const fn is_written(self) -> bool {
        self.word & UNWRITTEN == 0
    }

    pub(crate) const fn place(self) -> u64 {
        self.word >> PLACE_SHIFT
    }

    pub(crate) const fn generation(self) -> u32 {
        self.generation
    }

    pub(crate) const fn packing(self) -> Packing {
        self.packing
    }

    pub(crate) const fn is_packed(self) -> bool {
        !self.packing.is_plain()
    }

    /// Blocks on the device, those of the whole group for a part.
    pub(crate) const fn stored(self) -> u64 {
        if self.is_packed() { self.packing.stored() } else { self.blocks() }
    }

    pub(crate) const fn checksums(self) -> u64 {
        if self.is_written() { self.stored() } else { 0 }
    }

    /// First and end block, in the chunk, of a packed run's group.
    pub(crate) const fn window(self) -> (u64, u64) {
        let first = self.first() - self.packing.first();
        (first, first + self.packing.whole())
    }

    /// Whether two packed runs are parts of one group.
    pub(crate) fn same_group(self, other: Self) -> bool {
        self.is_packed()
            && self.place() == other.place()
            && self.generation == other.generation
            && self.packing.0 & !0xff_0000 == other.packing.0 & !0xff_0000
            && self.window() == other.window()
    }

    /// The part within `first..end`, which it must overlap.
    pub(crate) fn cut(self, first: u64, end: u64) -> Self {
        let start = self.first().max(first);
        let end = self.end().min(end);
        let skipped = start - self.first();
        let place = if self.is_packed() { self.place() } else { self.place() + skipped };
        let (written, generation) = (self.is_written(), self.generation);
        let packing = self.packing.further(skipped);
        Self::new(start, end - start, Home { place, written, generation, packing })
    }

    pub(crate) fn joins(self, next: Self) -> bool {
        self.end() == next.first()
            && self.is_written() == next.is_written()
            && self.generation == next.generation
            && self.packing.is_plain()
            && next.packing.is_plain()
            && self.place() + self.blocks() == next.place()
    }

    pub(crate) fn join(self, next: Self) -> Self {
        let blocks = self.blocks() + next.blocks();
        Self { word: self.word & !0xff00 | (blocks - 1) << 8, ..self }
    }
}

/// Whether blocks `first..first + whole` lie in one window, as those of a group must.
pub(crate) const fn fits_window(first: u64, whole: u64) -> bool {
    first % PACK_BLOCKS as u64 + whole <= PACK_BLOCKS as u64
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_part_of_a_group_keeps_its_place_and_knows_where_it_begins() {
        let packing = Packing::new(Codec::Zstd, 3, 10);
        let home = Home { place: 77, written: true, generation: 5, packing };
        let run = Run::new(20, 10, home);
        let part = run.cut(24, 27);
        assert_eq!((part.first(), part.blocks(), part.place()), (24, 3, 77));
        assert_eq!((part.packing().first(), part.stored(), part.window()), (4, 3, (20, 30)));
        assert!(part.same_group(run) && !part.joins(run.cut(27, 30)));
        let (word, generation, packing) = part.words();
        assert_eq!(Run::from_words(word, generation, packing), Some(part));
    }

    #[test]
    fn what_cannot_be_a_group_is_no_run() {
        let plain = Run::new(
            20,
            10,
            Home { place: 77, written: true, generation: 5, packing: Packing::PLAIN },
        );
        let (word, ..) = plain.words();
        let sound = Packing::new(Codec::Lz4, 3, 10).bits();
        assert!(Run::from_words(word, 5, sound).is_some());
        for (flaw, packing) in [
            ("codec", 3 | 3 << 8 | 10 << 24),
            ("nothing stored", 1 | 10 << 24),
            ("as many stored", 1 | 10 << 8 | 10 << 24),
            ("longer than the group", 1 | 3 << 8 | 9 << 24),
            ("behind the group", 1 | 3 << 8 | 1 << 16 | 10 << 24),
            ("too large", 1 | 3 << 8 | 17 << 24),
            ("across a window", 1 | 3 << 8 | 13 << 24),
        ] {
            assert_eq!(Run::from_words(word, 5, packing), None, "{flaw}");
        }
        assert_eq!(Run::from_words(word | UNWRITTEN, 5, sound), None, "unwritten and packed");
    }
}

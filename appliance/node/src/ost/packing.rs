//! Compression: what a write covers whole is packed window by window, where that saves at least a block.
//!
//! Path: D7 (pack), D10 (unpack). A window is 16 object blocks (64 KiB), aligned; a write packs of each what it covers whole,
//! if that is two blocks or more, into a *group*: fewer blocks, which hold a length, the codec's bytes and zeros
//! (`docs/formats/packing.md`). Owns the codecs' memory and what it remembers of objects that do not shrink. Deliberately
//! absent: where blocks lie, checksums of what lies on a device (see `sheen-store`).
//!
//! What does not shrink costs little: a sample of 4 KiB is tried first, and an object whose samples fail is not looked at
//! again for a while (see [`Reluctance`]).

use std::ops::Range;

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};
use sheen_store::Packed;
use sheen_types::{BLOCK_BYTES, Codec, Fid, checksum::crc32c};

use super::reluctance::Reluctance;

/// Blocks of a window: the most that is packed in one.
pub const WINDOW_BLOCKS: usize = 16;
/// Bytes of a window.
pub const WINDOW_BYTES: usize = WINDOW_BLOCKS * BLOCK_BYTES;
/// Bytes of the length in front of the codec's.
const HEADER_BYTES: usize = 4;
/// zstd's level: 1, 0.7 GB/s a core at a ratio of 2.6 for text, where level 3 takes twice the time for a tenth less space.
const ZSTD_LEVEL: i32 = 1;
/// Bytes of a sample, and of each of its pieces: one of each quarter of the window.
const SAMPLE_BYTES: usize = 4096;
const SAMPLE_PIECE_BYTES: usize = 1024;
/// A sample that shrinks to this promises nothing: of 16 blocks one would have to go.
const SAMPLE_WORTH_BYTES: usize = SAMPLE_BYTES / 16 * 15;

/// What is to be packed.
#[derive(Clone, Debug)]
pub struct Job {
    /// How.
    pub codec: Codec,
    /// Of which object.
    pub object: Fid,
    /// The block of the object that the image begins with.
    pub first: u64,
    /// Blocks of the image that may be packed.
    pub whole: Range<u64>,
}

/// Why stored blocks are no packed group. Their checksum was right, so they were written so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnpackError {
    /// The length is none, or not one that takes this many blocks.
    Length(u32),
    /// Behind the codec's bytes lies something.
    Padding,
    /// The codec's bytes are damaged, or give more than the group has.
    Codec,
    /// They give fewer bytes.
    Short(usize),
}

impl std::fmt::Display for UnpackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length(found) => write!(f, "a length of {found} bytes"),
            Self::Padding => f.write_str("something behind the end"),
            Self::Codec => f.write_str("bytes that are not compressed"),
            Self::Short(bytes) => write!(f, "content of only {bytes} bytes"),
        }
    }
}

impl std::error::Error for UnpackError {}

/// zstd's contexts; they take their memory, about 1 MiB, the first time each is used.
struct Zstd {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

/// The codecs of a service.
pub struct Packer {
    table: CompressTable,
    sample_table: CompressTable,
    zstd: Option<Zstd>,
    /// What a codec wrote.
    output: Box<[u8]>,
    sample: Box<[u8]>,
    /// A group of which a part is wanted.
    window: Box<[u8]>,
    reluctance: Reluctance,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("reluctance", &self.reluctance).finish_non_exhaustive()
    }
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            table: CompressTable::large(),
            sample_table: CompressTable::small(),
            zstd: None,
            output: vec![0; get_maximum_output_size(WINDOW_BYTES)].into(),
            sample: vec![0; SAMPLE_BYTES].into(),
            window: vec![0; WINDOW_BYTES].into(),
            reluctance: Reluctance::default(),
        }
    }
}

/// The groups a write may pack: of each window what `whole`, a range of blocks of the object, has of it, if two or more.
pub fn windows(whole: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let unit = WINDOW_BLOCKS as u64;
    let numbers =
        if whole.is_empty() { 0..0 } else { whole.start / unit..whole.end.div_ceil(unit) };
    numbers
        .map(move |number| (number * unit).max(whole.start)..((number + 1) * unit).min(whole.end))
        .filter(|window| window.end - window.start >= 2)
}

/// Blocks that hold `bytes` codec bytes.
fn blocks_for(bytes: usize) -> usize {
    (HEADER_BYTES + bytes).div_ceil(BLOCK_BYTES)
}

impl Packer {
    /// Packs what shrinks of an image, in place. `checksums` has one for each block, before and after; groups are added to
    /// `groups` in order. Returns the blocks the image has now.
    ///
    /// # Panics
    /// If the image is not one block for each checksum, or `job` names blocks it does not have.
    pub fn pack_image(
        &mut self,
        job: &Job,
        image: &mut [u8],
        checksums: &mut Vec<u32>,
        groups: &mut Vec<Packed>,
    ) -> usize {
        let Job { codec, object, first, ref whole } = *job;
        assert_eq!(image.len(), checksums.len() * BLOCK_BYTES, "a checksum for each block");
        let place = |block: u64| usize::try_from(block).expect("an image is at most a slab");
        // Up to `taken` blocks were looked at, of which `kept` are left.
        let (mut taken, mut kept) = (0, 0);
        for window in windows(first + whole.start..first + whole.end) {
            let range = place(window.start - first)..place(window.end - first);
            let bytes = &image[range.start * BLOCK_BYTES..range.end * BLOCK_BYTES];
            if !self.reluctance.allows(object) {
                continue;
            }
            let Some(length) = self.try_pack(codec, bytes) else {
                self.reluctance.failed(object);
                continue;
            };
            self.reluctance.succeeded(object);
            let stored = blocks_for(length);
            move_blocks(image, checksums, taken..range.start, kept);
            kept += range.start - taken;
            let room = &mut image[kept * BLOCK_BYTES..(kept + stored) * BLOCK_BYTES];
            lay_out(&self.output[..length], room);
            for (block, sum) in room.chunks(BLOCK_BYTES).zip(&mut checksums[kept..]) {
                *sum = crc32c(block);
            }
            groups.push(packed(&range, stored, codec));
            kept += stored;
            taken = range.end;
        }
        let all = checksums.len();
        move_blocks(image, checksums, taken..all, kept);
        kept += all - taken;
        checksums.truncate(kept);
        kept
    }

    /// Compresses into the output if that saves a block; returns the codec's bytes.
    fn try_pack(&mut self, codec: Codec, bytes: &[u8]) -> Option<usize> {
        let length = match codec {
            _ if !self.is_promising(codec, bytes) => None,
            Codec::Lz4 => compress_into_with_table(bytes, &mut self.output, &mut self.table).ok(),
            Codec::Zstd => {
                // What does not fit saves no block.
                let room = bytes.len() - BLOCK_BYTES - HEADER_BYTES;
                let output = &mut self.output[..room];
                let zstd = zstd_of(&mut self.zstd)?;
                zstd.compressor.compress_to_buffer(bytes, output).ok()
            }
        }?;
        (blocks_for(length) < bytes.len() / BLOCK_BYTES).then_some(length)
    }

    /// Whether a sample shrinks. Two kilobytes or four, from all over the window, so that a header in front of text, or
    /// text in front of a picture, does not decide.
    fn is_promising(&mut self, codec: Codec, bytes: &[u8]) -> bool {
        let pieces = SAMPLE_BYTES / SAMPLE_PIECE_BYTES;
        let stride = bytes.len() / pieces;
        for (number, piece) in self.sample.chunks_mut(SAMPLE_PIECE_BYTES).enumerate() {
            piece.copy_from_slice(&bytes[number * stride..][..SAMPLE_PIECE_BYTES]);
        }
        let table = &mut self.sample_table;
        let shrunk = compress_into_with_table(&self.sample, &mut self.output, table);
        shrunk.is_ok_and(|length| length < SAMPLE_WORTH_BYTES)
            || codec == Codec::Zstd && is_uneven(&self.sample)
    }

    /// Fills `content` with what `stored` blocks hold.
    ///
    /// # Errors
    /// [`UnpackError`]; `content` is then of no use.
    pub fn unpack(
        &mut self,
        codec: Codec,
        stored: &[u8],
        content: &mut [u8],
    ) -> Result<(), UnpackError> {
        let (header, rest) = stored.split_first_chunk().ok_or(UnpackError::Length(0))?;
        let length = u32::from_le_bytes(*header);
        let bytes = usize::try_from(length).map_err(|_| UnpackError::Length(length))?;
        if bytes == 0 || bytes > rest.len() || blocks_for(bytes) != stored.len() / BLOCK_BYTES {
            return Err(UnpackError::Length(length));
        }
        let (packed, padding) = rest.split_at(bytes);
        if padding.iter().any(|&byte| byte != 0) {
            return Err(UnpackError::Padding);
        }
        let found = match codec {
            Codec::Lz4 => decompress_into(packed, content).map_err(|_| UnpackError::Codec)?,
            Codec::Zstd => {
                let zstd = zstd_of(&mut self.zstd).ok_or(UnpackError::Codec)?;
                let found = zstd.decompressor.decompress_to_buffer(packed, content);
                found.map_err(|_| UnpackError::Codec)?
            }
        };
        if found == content.len() { Ok(()) } else { Err(UnpackError::Short(found)) }
    }
}

impl Packer {
    /// Fills `part` with blocks of a group of `whole` blocks, from its block `first` on.
    ///
    /// # Errors
    /// [`UnpackError`]; `part` is then of no use.
    ///
    /// # Panics
    /// If the group is larger than a window, or has not so many blocks.
    pub fn unpack_part(
        &mut self,
        codec: Codec,
        stored: &[u8],
        (first, whole): (usize, usize),
        part: &mut [u8],
    ) -> Result<(), UnpackError> {
        assert!(whole <= WINDOW_BLOCKS, "a group of {whole} blocks");
        let bytes = whole * BLOCK_BYTES;
        if part.len() == bytes {
            return self.unpack(codec, stored, part);
        }
        let mut window = std::mem::take(&mut self.window);
        let result = self.unpack(codec, stored, &mut window[..bytes]);
        let start = first * BLOCK_BYTES;
        part.copy_from_slice(&window[start..start + part.len()]);
        self.window = window;
        result
    }

    /// What was learned of the object's content does not count: it is stored anew as a whole.
    pub(crate) fn try_again(&mut self, object: Fid) {
        self.reluctance.try_again(object);
    }

    /// An object's packed blocks could not be placed: its next windows, those of a whole slab at least, stay plain.
    pub(crate) fn refuse(&mut self, object: Fid) {
        self.reluctance.refuse(object);
    }
}

/// A group of an image's blocks.
fn packed(blocks: &Range<usize>, stored: usize, codec: Codec) -> Packed {
    let number = |count: usize| u16::try_from(count).expect("at most a window");
    Packed {
        first: u32::try_from(blocks.start).expect("an image is at most a slab"),
        blocks: number(blocks.len()),
        stored: number(stored),
        codec,
    }
}

/// The contexts, made when first needed. None: no memory for them.
fn zstd_of(zstd: &mut Option<Zstd>) -> Option<&mut Zstd> {
    if zstd.is_none() {
        let compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?;
        let decompressor = zstd::bulk::Decompressor::new().ok()?;
        *zstd = Some(Zstd { compressor, decompressor });
    }
    zstd.as_mut()
}

/// Whether some bytes are so much more frequent than others that coding them by frequency alone saves a sixteenth: the
/// chance that two bytes of the sample are equal is that of evenly spread ones and a half, or more (Rényi's entropy of
/// order 2 is at most Shannon's, so the estimate is on the generous side).
fn is_uneven(sample: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    for &byte in sample {
        counts[usize::from(byte)] += 1;
    }
    let pairs: u64 = counts.iter().map(|&n| u64::from(n) * u64::from(n.saturating_sub(1))).sum();
    let all = sample.len() as u64 * (sample.len() as u64 - 1);
    pairs * 256 * 2 >= all * 3
}

/// Moves blocks and their checksums forward to block `target`.
fn move_blocks(image: &mut [u8], checksums: &mut [u32], blocks: Range<usize>, target: usize) {
    if blocks.start != target {
        let bytes = blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES;
        image.copy_within(bytes, target * BLOCK_BYTES);
        checksums.copy_within(blocks, target);
    }
}

/// Length, codec's bytes, zeros.
fn lay_out(packed: &[u8], room: &mut [u8]) {
    let length = u32::try_from(packed.len()).expect("at most a window");
    let (header, rest) = room.split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&length.to_le_bytes());
    let (bytes, padding) = rest.split_at_mut(packed.len());
    bytes.copy_from_slice(packed);
    padding.fill(0);
}

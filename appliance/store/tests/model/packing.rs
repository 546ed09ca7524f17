//! A toy codec: a group packs if each of its blocks is one word over and over, as the blocks of a history's writes are.

use sheen_store::{PACK_BLOCKS, Packed};
use sheen_types::{Codec, checksum::crc32c};

use crate::{chance::Chance, device::BLOCK};

/// The groups packed, and the image with them.
pub(crate) struct Packer {
    pub(crate) packed: Vec<Packed>,
    pub(crate) image: Vec<u8>,
    pub(crate) checksums: Vec<u32>,
}

impl Packer {
    /// Packs some of the groups there could be of `image`, which begins at block `origin`; only blocks `whole` may be
    /// packed, counted from the image's start.
    pub(crate) fn new(
        image: &[u8],
        origin: u64,
        whole: std::ops::Range<u64>,
        chance: &mut Chance,
    ) -> Self {
        let mut packer = Self { packed: Vec::new(), image: Vec::new(), checksums: Vec::new() };
        let end = (image.len() / BLOCK) as u64;
        let mut at = 0;
        while at < end {
            let window = u64::from(PACK_BLOCKS);
            let most = (window - (origin + at) % window).min(whole.end.saturating_sub(at));
            let blocks = if whole.contains(&at) && most >= 2 && chance.one_in(2) {
                if chance.one_in(3) { 2 + chance.below(most - 1) } else { most }
            } else {
                1
            };
            packer.add(image, at, blocks, chance);
            at += blocks;
        }
        packer.checksums = packer.image.chunks(BLOCK).map(crc32c).collect();
        packer
    }

    fn add(&mut self, image: &[u8], at: u64, blocks: u64, chance: &mut Chance) {
        let (from, count) = (at as usize * BLOCK, blocks as usize);
        let bytes = &image[from..from + count * BLOCK];
        let words = words_of(bytes).filter(|_| count > 1);
        let Some(words) = words else {
            self.image.extend_from_slice(bytes);
            return;
        };
        let stored = 1 + chance.below(blocks - 1);
        let codec = if chance.one_in(2) { Codec::Lz4 } else { Codec::Zstd };
        for block in 0..stored {
            let mut bytes = vec![block as u8; BLOCK];
            for (out, word) in bytes.chunks_mut(4).zip(&words) {
                out.copy_from_slice(&word.to_le_bytes());
            }
            bytes[BLOCK - 1] = codec.number();
            self.image.extend(bytes);
        }
        let (first, blocks, stored) = (at as u32, blocks as u16, stored as u16);
        self.packed.push(Packed { first, blocks, stored, codec });
    }
}

/// The word each block consists of; None if one is of several.
fn words_of(bytes: &[u8]) -> Option<Vec<u32>> {
    let blocks = bytes.chunks(BLOCK);
    let word = |block: &[u8]| {
        let same = block[4..] == block[..BLOCK - 4];
        same.then(|| u32::from_le_bytes([block[0], block[1], block[2], block[3]]))
    };
    blocks.map(word).collect()
}

/// The blocks of a group.
pub(crate) fn unpack(stored: &[u8], whole: u16, codec: Codec) -> Vec<u8> {
    for (number, block) in stored.chunks(BLOCK).enumerate() {
        assert_eq!(block[BLOCK - 1], codec.number());
        assert_eq!(block[BLOCK - 2], number as u8);
        assert_eq!(block[..usize::from(whole) * 4], stored[..usize::from(whole) * 4]);
    }
    let words = stored.chunks(4).take(usize::from(whole));
    words.map(|word| word.repeat(BLOCK / 4)).collect::<Vec<_>>().concat()
}

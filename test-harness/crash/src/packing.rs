//! A toy codec: blocks that one write filled are known by the write's tag and their place, so that is what is stored.
//!
//! Each stored block names what it is of, and is filled up with noise that follows from that, so that no two are alike and
//! a torn one is not whole.

use std::ops::Range;

use sheen_store::{PACK_BLOCKS, Packed};
use sheen_types::Codec;

use crate::{chance::Chance, image::BLOCK};

/// A write's image with some of its blocks packed.
#[derive(Debug, Default)]
pub struct Packer {
    /// The groups.
    pub packed: Vec<Packed>,
    /// The image.
    pub image: Vec<u8>,
}

impl Packer {
    /// Packs some of the groups there could be of `plain`, which begins at object block `origin` and was filled by `tag`;
    /// only blocks `whole`, counted from the image's start, may be packed.
    #[must_use]
    pub fn new(plain: &[u8], origin: usize, whole: &Range<usize>, tag: u32) -> Self {
        let mut chance = Chance::new(u64::from(tag));
        let mut packer = Self::default();
        let mut at = 0;
        while at * BLOCK < plain.len() {
            let window = usize::from(PACK_BLOCKS);
            let most = (window - (origin + at) % window).min(whole.end.saturating_sub(at));
            if whole.contains(&at) && most >= 2 && !chance.one_in(3) {
                let blocks = if chance.one_in(3) { 2 + chance.below(most - 1) } else { most };
                let stored = 1 + chance.below(blocks - 1);
                packer.pack(at, origin + at, (blocks, stored), tag, &mut chance);
                at += blocks;
            } else {
                packer.image.extend_from_slice(&plain[at * BLOCK..(at + 1) * BLOCK]);
                at += 1;
            }
        }
        packer
    }

    fn pack(
        &mut self,
        at: usize,
        block: usize,
        (blocks, stored): (usize, usize),
        tag: u32,
        chance: &mut Chance,
    ) {
        let codec = if chance.one_in(2) { Codec::Lz4 } else { Codec::Zstd };
        for number in 0..stored {
            self.image.extend(stored_block(tag, block, number, codec));
        }
        let small = "a group is small";
        self.packed.push(Packed {
            first: u32::try_from(at).expect(small),
            blocks: u16::try_from(blocks).expect(small),
            stored: u16::try_from(stored).expect(small),
            codec,
        });
    }
}

fn stored_block(tag: u32, block: usize, number: usize, codec: Codec) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    let words = [u64::from(tag), block as u64, number as u64, u64::from(codec.number())];
    for word in words {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let mut noise = Chance::new(words.into_iter().fold(0, |sum, word| sum * 31 + word));
    while bytes.len() < BLOCK {
        bytes.extend_from_slice(&noise.draw().to_le_bytes());
    }
    bytes
}

/// Who filled the group and its first block; None if the stored blocks are not those of one group in order.
#[must_use]
pub fn unpack(stored: &[u8], codec: Codec) -> Option<(u32, usize)> {
    let word = |at: usize| Some(u64::from_le_bytes(stored.get(at..at + 8)?.try_into().ok()?));
    let (tag, block) = (u32::try_from(word(0)?).ok()?, usize::try_from(word(8)?).ok()?);
    let whole = stored
        .chunks(BLOCK)
        .enumerate()
        .all(|(number, bytes)| bytes == stored_block(tag, block, number, codec));
    whole.then_some((tag, block))
}

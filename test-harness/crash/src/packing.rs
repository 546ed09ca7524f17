//! A toy codec: blocks that one write filled are known by the write's tag and their place, so that is what is stored.
//!
//! Each stored block names what it is of, and is filled up with noise that follows from that, so that no two are alike and
//! a torn one is not whole.

use sheen_store::{PACK_BLOCKS, Packed};
use sheen_types::Codec;

use crate::{chance::Chance, image::BLOCK};

/// An image with some of its blocks packed.
#[derive(Debug, Default)]
pub struct Packer {
    /// The groups.
    pub packed: Vec<Packed>,
    /// The image.
    pub image: Vec<u8>,
}

/// A block of a range to pack.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    /// Counted from the range's first block.
    pub at: usize,
    /// Who filled it, if it was one change and the block may be packed.
    pub tag: Option<u32>,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl Packer {
    /// Packs some of the groups there could be of a range that begins at object block `origin`.
    #[must_use]
    pub fn new(blocks: &[Plain<'_>], origin: usize, mut chance: Chance) -> Self {
        let mut packer = Self::default();
        let mut rest = blocks;
        while let Some(first) = rest.first() {
            let window = usize::from(PACK_BLOCKS) - (origin + first.at) % usize::from(PACK_BLOCKS);
            let alike = |(number, block): &(usize, &Plain<'_>)| {
                block.at == first.at + number && block.tag == first.tag
            };
            let most = rest.iter().enumerate().take_while(alike).count().min(window);
            let group = first.tag.filter(|_| most >= 2 && !chance.one_in(3));
            let count = match group {
                Some(tag) => {
                    let count = if chance.one_in(3) { 2 + chance.below(most - 1) } else { most };
                    packer.pack(first.at, origin + first.at, count, tag, &mut chance);
                    count
                }
                None => {
                    packer.image.extend_from_slice(first.bytes);
                    1
                }
            };
            rest = &rest[count..];
        }
        packer
    }

    fn pack(&mut self, at: usize, block: usize, blocks: usize, tag: u32, chance: &mut Chance) {
        let stored = 1 + chance.below(blocks - 1);
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

//! Packed groups: a length (u32), the codec's bytes, zeros. `appliance/docs/formats/packing.md`.

use sheen_store::{PACK_BLOCKS, Packed};
use sheen_types::{BLOCK_BYTES, Codec};

const LENGTH_BYTES: usize = 4;

/// Packs each aligned window of an image that begins with block `first` of its object, where that saves a block. What packs is
/// told in `packed`.
pub fn pack(codec: Codec, first: u64, image: &[u8], packed: &mut Vec<Packed>) -> Vec<u8> {
    let mut out = Vec::with_capacity(image.len());
    let blocks = image.len() / BLOCK_BYTES;
    let mut at = 0;
    while at < blocks {
        let window = PACK_BLOCKS as u64;
        let room = usize::try_from(window - (first + at as u64) % window).unwrap_or(1);
        let count = room.min(blocks - at);
        let plain = &image[at * BLOCK_BYTES..(at + count) * BLOCK_BYTES];
        match group(codec, plain) {
            Some(group) if count >= 2 => {
                let fits = |count| u16::try_from(count).unwrap_or(u16::MAX);
                packed.push(Packed {
                    first: u32::try_from(at).unwrap_or(u32::MAX),
                    blocks: fits(count),
                    stored: fits(group.len() / BLOCK_BYTES),
                    codec,
                });
                out.extend_from_slice(&group);
            }
            Some(_) | None => out.extend_from_slice(plain),
        }
        at += count;
    }
    out
}

fn group(codec: Codec, plain: &[u8]) -> Option<Vec<u8>> {
    let bytes = match codec {
        Codec::Lz4 => lz4_flex::block::compress(plain),
        Codec::Zstd => zstd::bulk::compress(plain, 1).ok()?,
    };
    let length = u32::try_from(bytes.len()).ok()?;
    let mut group = [&length.to_le_bytes()[..], &bytes].concat();
    group.resize(group.len().next_multiple_of(BLOCK_BYTES), 0);
    (group.len() < plain.len()).then_some(group)
}

/// The `whole` blocks of a group; None if it is none.
#[must_use]
pub fn unpack(codec: Codec, stored: &[u8], whole: usize) -> Option<Vec<u8>> {
    let length = usize::try_from(u32::from_le_bytes(*stored.first_chunk()?)).ok()?;
    let bytes = stored.get(LENGTH_BYTES..LENGTH_BYTES.checked_add(length)?)?;
    let room = whole * BLOCK_BYTES;
    let plain = match codec {
        Codec::Lz4 => lz4_flex::block::decompress(bytes, room).ok()?,
        Codec::Zstd => zstd::bulk::decompress(bytes, room).ok()?,
    };
    (plain.len() == room).then_some(plain)
}

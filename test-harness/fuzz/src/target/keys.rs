//! The key block, and the packed groups that data blocks may hold.

use sheen_keys::{KEY_BLOCK_LBAS, KeyBlock, KeySource, Slot};
use sheen_node::ost::packing::Packer;
use sheen_store::PACK_BLOCKS;
use sheen_types::{BLOCK_BYTES, Codec, checksum::crc32c};

use crate::{framing::put, packing};

/// The block's bytes, with magic, version, home and checksum made good unless the first byte is odd.
pub(super) fn run_block(data: &[u8]) {
    let Some((&raw, data)) = data.split_first() else { return };
    let mut block = [0; BLOCK_BYTES];
    let length = data.len().min(BLOCK_BYTES);
    block[..length].copy_from_slice(&data[..length]);
    let home = KEY_BLOCK_LBAS[1];
    if raw % 2 == 0 {
        put(&mut block, 4, &1_u32.to_le_bytes());
        put(&mut block, 8, b"SHEENKEY");
        put(&mut block, 16, &home.0.to_le_bytes());
        let sum = crc32c(&block[4..]);
        put(&mut block, 0, &sum.to_le_bytes());
    }
    if let Ok(found) = KeyBlock::decode(&block, home) {
        assert_eq!(KeyBlock::decode(&found.encode(home), home), Ok(found));
    }
}

pub(super) fn block_seeds() -> Vec<Vec<u8>> {
    let slot = |text: &str| Slot {
        source: text.parse::<KeySource>().expect("a source as the documents write it"),
        wrapped: vec![7; 72],
    };
    let whole = KeyBlock {
        generation: 2,
        uuid: *b"0123456789abcdef",
        check: [9; _],
        slots: vec![slot("file:/etc/sheen/key"), slot("kms:alias/sheen?region=eu-west-1")],
    };
    [0, 1].map(|raw| [&[raw][..], &whole.encode(KEY_BLOCK_LBAS[1])].concat()).into()
}

/// Codec, blocks of content, and what a group's device blocks hold, cut or filled up to whole blocks.
pub(super) fn run_group(data: &[u8]) {
    let [codec, whole, first, stored @ ..] = data else { return };
    let codec = if codec % 2 == 0 { Codec::Lz4 } else { Codec::Zstd };
    let whole = 2 + usize::from(*whole) % usize::from(PACK_BLOCKS - 1);
    let mut stored = stored.to_vec();
    stored.truncate((whole - 1) * BLOCK_BYTES);
    stored.resize(stored.len().next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES), 0);
    let mut packer = Packer::default();
    let mut content = vec![0; whole * BLOCK_BYTES];
    let all = packer.unpack(codec, &stored, &mut content);
    let first = usize::from(*first) % whole;
    let mut part = vec![0; BLOCK_BYTES];
    let one = packer.unpack_part(codec, &stored, (first, whole), &mut part);
    assert_eq!(all.is_ok(), one.is_ok(), "a part is had if the whole is");
    if all.is_ok() {
        assert_eq!(part, content[first * BLOCK_BYTES..][..BLOCK_BYTES], "and is a part of it");
    }
}

pub(super) fn group_seeds() -> Vec<Vec<u8>> {
    let text = b"names and numbers, numbers and names; ".repeat(4 * BLOCK_BYTES / 38 + 1);
    [(0, Codec::Lz4), (1, Codec::Zstd)]
        .map(|(number, codec)| {
            let stored = packing::pack(codec, 0, &text[..4 * BLOCK_BYTES], &mut Vec::new());
            [&[number, 2, 1][..], &stored].concat()
        })
        .into()
}

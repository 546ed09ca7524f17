//! The device's superblock.

use sheen_node::device::{
    Superblock, ZoneEntry, ZoneKind,
    superblock::{SUPERBLOCK_MAGIC, SUPERBLOCK_VERSION},
};
use sheen_types::{BLOCK_BYTES, Lba, checksum::crc32c};

use crate::framing::put;

/// The block's bytes, with magic, version, home and checksum made good unless the first byte is odd.
pub(super) fn run(data: &[u8]) {
    let Some((&raw, data)) = data.split_first() else { return };
    let mut block = [0; BLOCK_BYTES];
    let length = data.len().min(BLOCK_BYTES);
    block[..length].copy_from_slice(&data[..length]);
    let home = Lba(128);
    if raw % 2 == 0 {
        put(&mut block, 4, &SUPERBLOCK_VERSION.to_le_bytes());
        put(&mut block, 8, &SUPERBLOCK_MAGIC);
        put(&mut block, 16, &home.0.to_le_bytes());
        let sum = crc32c(&block[4..]);
        put(&mut block, 0, &sum.to_le_bytes());
    }
    if let Ok(found) = Superblock::decode(&block, home) {
        assert!(found.zones.is_sorted_by_key(|zone| zone.first), "{found:?}");
        assert_eq!(Superblock::decode(&found.encode(home), home), Ok(found));
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let zone = |kind, first, blocks| ZoneEntry { kind, first: Lba(first), blocks, identity: first };
    let whole = Superblock {
        generation: 2,
        complete: true,
        encrypted: true,
        uuid: *b"0123456789abcdef",
        device_blocks: 100_000,
        created_seconds: 1_800_000_000,
        name: "node0".into(),
        zones: vec![
            zone(ZoneKind::Mdt, 256, 20_000),
            zone(ZoneKind::Ost(0), 20_256, 30_000),
            zone(ZoneKind::Ost(1), 50_256, 49_744),
        ],
    };
    // Cut behind the zone table: what follows is zeros.
    [0, 1].map(|raw| [&[raw][..], &whole.encode(Lba(128))[..480]].concat()).into()
}

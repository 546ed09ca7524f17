//! Checksums of payloads from checksums of their blocks.
//!
//! Joining two CRC32C is linear in the first one, so for a fixed length of the second it is four table look-ups; that
//! spares the second pass over a payload whose blocks were summed already.

use std::sync::OnceLock;

use sheen_types::{
    BLOCK_BYTES,
    checksum::{crc32c, crc32c_combine},
    units::BLOCK_BYTES_U64,
};

type Tables = [[u32; 256]; 4];

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Box<Tables>> = OnceLock::new();
    TABLES.get_or_init(|| {
        let mut tables = Box::new([[0; 256]; 4]);
        for (position, table) in tables.iter_mut().enumerate() {
            for (value, entry) in (0_u32..).zip(table.iter_mut()) {
                *entry = crc32c_combine(value << (8 * position), 0, BLOCK_BYTES_U64);
            }
        }
        tables
    })
}

/// CRC32C of A‖B where B is one block, from those of both.
pub(crate) fn append_block(first: u32, block: u32) -> u32 {
    let tables = tables();
    let bytes = first.to_le_bytes();
    bytes.iter().zip(tables).fold(block, |sum, (&byte, table)| sum ^ table[usize::from(byte)])
}

/// CRC32C of `image[skip .. skip + length]`, given that of every block of the image. `block` gives the bytes of a block;
/// only the first and last are looked at, if they are not wholly inside.
pub(crate) fn payload_checksum<'a>(
    checksums: &[u32],
    skip: usize,
    length: usize,
    block: impl Fn(usize) -> &'a [u8],
) -> u32 {
    let end = skip + length;
    let mut sum = 0;
    for (index, &checksum) in checksums.iter().enumerate() {
        let from = skip.saturating_sub(index * BLOCK_BYTES).min(BLOCK_BYTES);
        let to = end.saturating_sub(index * BLOCK_BYTES).min(BLOCK_BYTES);
        if from >= to {
            continue;
        }
        sum = if to - from == BLOCK_BYTES {
            append_block(sum, checksum)
        } else {
            crc32c_combine(sum, crc32c(&block(index)[from..to]), (to - from) as u64)
        };
    }
    sum
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_sum_of_the_parts_is_the_sum_of_the_whole() {
        let image: Vec<u8> = (0..BLOCK_BYTES * 5).map(|i| (i * i % 253).to_le_bytes()[0]).collect();
        let block = |index: usize| &image[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
        let checksums: Vec<u32> = (0..5).map(|index| crc32c(block(index))).collect();
        for skip in [0, 1, 4095, 4096, 5000] {
            for length in [0, 1, 95, 4096, 4097, 8191, 12_000, BLOCK_BYTES * 5 - skip] {
                if skip + length <= image.len() {
                    let found = payload_checksum(&checksums, skip, length, block);
                    assert_eq!(found, crc32c(&image[skip..skip + length]), "{length} at {skip}");
                }
            }
        }
    }
}

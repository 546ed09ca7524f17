//! What a change writes: bytes that tell whose they are and where they belong.
//!
//! A cell begins with its tag; the words behind it follow from tag and place. So a cell of two changes, or of another
//! place, is not whole.

use crate::{image::BLOCK, reading::ReadFault, reference::CELL};

/// Words behind a cell's first, which is its tag: they tell cell and word.
fn word(tag: u32, cell: usize, at: usize) -> u32 {
    let place = u32::try_from(cell * (CELL / 4) + at).unwrap_or(u32::MAX);
    tag.rotate_left(16) ^ place
}

/// Content of cells from number `first` on.
pub(crate) fn pattern(first: usize, tags: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (cell, tag) in (first..).zip(tags) {
        if tag == 0 {
            bytes.resize(bytes.len() + CELL, 0);
            continue;
        }
        bytes.extend_from_slice(&tag.to_le_bytes());
        for at in 1..CELL / 4 {
            bytes.extend_from_slice(&word(tag, cell, at).to_le_bytes());
        }
    }
    bytes
}

/// The tag of each cell, if every cell is whole.
pub(crate) fn tags(bytes: &[u8]) -> Result<Vec<u32>, ReadFault> {
    let mut tags = Vec::with_capacity(bytes.len() / CELL);
    for (number, cell) in bytes.chunks(CELL).enumerate() {
        let words = cell.chunks(4).map(|word| {
            word.try_into().map(u32::from_le_bytes).map_err(|_| ReadFault::Cell(number))
        });
        let mut tag = 0;
        for (at, found) in words.enumerate() {
            let found = found?;
            let expected = match at {
                0 => found,
                _ if tag == 0 => 0,
                _ => word(tag, number, at),
            };
            if found != expected {
                return Err(ReadFault::Cell(number));
            }
            tag = if at == 0 { found } else { tag };
        }
        tags.push(tag);
    }
    Ok(tags)
}

/// Bytes of whole blocks that one change filled.
pub(crate) fn filled(block: usize, blocks: usize, tag: u32) -> Vec<u8> {
    let (from, bytes) = (block * BLOCK, blocks * BLOCK);
    let first = from / CELL;
    let cells = (from + bytes).div_ceil(CELL) - first;
    let content = pattern(first, (0..cells).map(|_| tag));
    let skip = from - first * CELL;
    content[skip..skip + bytes].to_vec()
}

/// The tag of the change that filled a block all by itself.
pub(crate) fn filled_by(bytes: &[u8], block: usize) -> Option<u32> {
    // The first cell that begins in the block begins with its tag.
    let begin = (block * BLOCK).next_multiple_of(CELL) - block * BLOCK;
    let tag = u32::from_le_bytes(bytes.get(begin..begin + 4)?.try_into().ok()?);
    (tag != 0 && bytes == filled(block, 1, tag)).then_some(tag)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_cell_of_two_changes_or_of_another_place_is_torn() {
        let mut bytes = pattern(0, [7, 7, 0, 9].into_iter());
        assert_eq!(tags(&bytes), Ok(vec![7, 7, 0, 9]));
        bytes[CELL + 400..CELL + 404].copy_from_slice(&[0; 4]);
        assert_eq!(tags(&bytes), Err(ReadFault::Cell(1)));
        assert_eq!(tags(&pattern(1, [7].into_iter())), Err(ReadFault::Cell(0)));
        bytes = pattern(0, [0, 5].into_iter());
        bytes[8] = 1;
        assert_eq!(tags(&bytes), Err(ReadFault::Cell(0)));
    }
}

//! How a command points to its buffer: PRP entries, a PRP list, or one SGL descriptor [NVMe-2.0c §4.1.1, §4.1.2].
//!
//! Each slot has 2 KiB of DMA memory: a PRP list of 256 entries, which covers 1 MiB that does not start at a page, or the ranges
//! of a discard. Lists are aligned to their size, so none crosses a page and none needs a pointer to a next one.

use sheen_dma::{Arena, Buffer, DeviceCells, Hold};
use sheen_types::{BLOCK_BYTES, units::TRANSFER_BYTES_MAX};

use crate::spec::entry::{DsmRange, PSDT_PRP, PSDT_SGL, SglTail};

/// Words of a slot's list.
const LIST_WORDS: u32 = 256;
const _: () = assert!(
    TRANSFER_BYTES_MAX / BLOCK_BYTES <= LIST_WORDS as usize,
    "a list covers the largest transfer, whose first page is in the command itself"
);
/// Ranges of a discard in a slot's list: two words each.
pub(crate) const RANGES_MAX: u32 = LIST_WORDS / 2;
const _: () = assert!(DsmRange::BYTES == 16, "a range is two words");

/// DPTR and PSDT of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataPointer {
    pub(crate) words: [u64; 2],
    pub(crate) psdt: u8,
}

/// Lists for every slot of a queue pair.
#[derive(Debug)]
pub(crate) struct Lists {
    cells: DeviceCells<u64>,
    page_bytes: u64,
    /// Whether one SGL descriptor may take the place of a list.
    sgl: bool,
}

impl Lists {
    /// Lists for `slots` slots. None: there is no memory.
    pub(crate) fn new(arena: &Arena, slots: u32, page_bytes: u64, sgl: bool) -> Option<Self> {
        let cells = DeviceCells::new(arena, slots as usize * LIST_WORDS as usize)?;
        Some(Self { cells, page_bytes, sgl })
    }

    pub(crate) fn hold(&self) -> Hold {
        self.cells.hold()
    }

    /// Points to all of `buffer`, which does not end in its first page.
    #[inline(never)]
    pub(crate) fn point_to(&mut self, slot: u32, buffer: &Buffer) -> DataPointer {
        let iova = buffer.iova().0;
        let bytes = buffer.len() as u64;
        let in_first = self.page_bytes - (iova & (self.page_bytes - 1));
        let is_contiguous = buffer.is_contiguous();
        if bytes <= in_first {
            return DataPointer { words: [iova, 0], psdt: PSDT_PRP };
        }
        if bytes - in_first <= self.page_bytes {
            let second = if is_contiguous { iova + in_first } else { address(buffer, in_first) };
            return DataPointer { words: [iova, second], psdt: PSDT_PRP };
        }
        if self.sgl && is_contiguous {
            let length = crate::spec::layout::low32(bytes);
            let tail = SglTail::default().with_length(length);
            return DataPointer { words: [iova, tail.0], psdt: PSDT_SGL };
        }
        let first = slot * LIST_WORDS;
        let mut offset = in_first;
        let mut cell = first;
        // At most LIST_WORDS turns: a transfer is at most 1 MiB.
        while offset < bytes {
            let entry = if is_contiguous { iova + offset } else { address(buffer, offset) };
            self.cells.write(cell, entry);
            offset += self.page_bytes;
            cell += 1;
        }
        DataPointer { words: [iova, self.cells.iova_at(first).0], psdt: PSDT_PRP }
    }

    /// Writes the ranges of a discard and points to them. Returns how many there are; None: too many.
    pub(crate) fn ranges(
        &mut self,
        slot: u32,
        slba: u64,
        blocks: u64,
    ) -> Option<(DataPointer, u32)> {
        let each = u64::from(u32::MAX);
        let count = u32::try_from(blocks.div_ceil(each)).ok().filter(|&n| n <= RANGES_MAX)?;
        let first = slot * LIST_WORDS;
        for range in 0..count {
            let done = u64::from(range) * each;
            let length = (blocks - done).min(each);
            self.cells.write(first + 2 * range, length << 32);
            self.cells.write(first + 2 * range + 1, slba + done);
        }
        let words = [self.cells.iova_at(first).0, 0];
        Some((DataPointer { words, psdt: PSDT_PRP }, count))
    }
}

fn address(buffer: &Buffer, offset: u64) -> u64 {
    let offset = usize::try_from(offset).expect("an offset in a buffer");
    buffer.iova_at(offset).0
}

#[cfg(test)]
mod test {
    use super::*;

    fn lists(sgl: bool) -> (Arena, Lists) {
        let arena = Arena::anonymous(8 << 20).unwrap();
        let lists = Lists::new(&arena, 4, 4096, sgl).unwrap();
        (arena, lists)
    }

    #[test]
    fn two_pages_are_two_entries_and_more_a_list() {
        let (arena, mut lists) = lists(false);
        let mut buffer = arena.allocate(4 << 20).unwrap();
        let _behind = buffer.split_off((1 << 20) + 512);
        let mut odd = buffer.split_off(512);
        let pointer = lists.point_to(0, &buffer);
        assert_eq!(pointer, DataPointer { words: [buffer.iova().0, 0], psdt: 0 });
        let at = odd.iova().0;
        let list = lists.cells.iova_at(LIST_WORDS).0;
        assert_eq!(lists.point_to(1, &odd).words, [at, list]);
        assert!(list.is_multiple_of(2048));
        let entries: Vec<u64> = (0..256).map(|cell| lists.cells.read(LIST_WORDS + cell)).collect();
        let expected: Vec<u64> = (1..=256).map(|page| at - 512 + page * 4096).collect();
        assert_eq!(entries, expected);
        odd.truncate(4096);
        assert_eq!(lists.point_to(1, &odd).words, [at, at - 512 + 4096]);
    }

    #[test]
    fn a_contiguous_buffer_is_one_descriptor_where_those_are_understood() {
        let (arena, mut lists) = lists(true);
        let buffer = arena.allocate(1 << 20).unwrap();
        let pointer = lists.point_to(2, &buffer);
        assert_eq!(pointer, DataPointer { words: [buffer.iova().0, 1 << 20], psdt: PSDT_SGL });
    }

    #[test]
    fn a_discard_of_more_than_a_range_holds_is_several_ranges() {
        let (_arena, mut lists) = lists(false);
        let most = u64::from(u32::MAX);
        let (pointer, count) = lists.ranges(3, 8, most + 5).unwrap();
        assert_eq!((count, pointer.words[0]), (2, lists.cells.iova_at(3 * LIST_WORDS).0));
        let words: Vec<u64> = (0..4).map(|word| lists.cells.read(3 * LIST_WORDS + word)).collect();
        assert_eq!(words, [most << 32, 8, 5 << 32, 8 + most]);
        assert!(lists.ranges(0, 0, u64::MAX).is_none());
    }
}

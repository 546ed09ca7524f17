//! A buddy allocator over numbered blocks: powers of two, merged on release.
//!
//! Free runs of one size are a list whose links stand in a table with a place for each block, so that taking and giving back
//! allocates nothing and takes the same few steps however much is free. What came back last goes out first: its bytes are
//! most likely in a cache.

/// In place of a block: none.
const NONE: u32 = u32::MAX;

/// What the table says of a block.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Neighbours in the list of free runs of its size, if a free run begins here.
    next: u32,
    previous: u32,
    /// Order of the free run that begins here.
    free: Option<u8>,
}

/// Free runs of blocks.
#[derive(Debug)]
pub(crate) struct Buddy {
    /// By order k: a free run of 2^k blocks, the first of its list.
    heads: Box<[u32]>,
    table: Box<[Entry]>,
    free_blocks: usize,
}

impl Buddy {
    /// All of `blocks` (a power of two) free.
    pub(crate) fn new(blocks: usize) -> Self {
        let top = blocks.trailing_zeros() as usize;
        let empty = Entry { next: NONE, previous: NONE, free: None };
        let heads = vec![NONE; top + 1].into_boxed_slice();
        let table = vec![empty; blocks].into_boxed_slice();
        let mut buddy = Self { heads, table, free_blocks: blocks };
        buddy.insert(0, top);
        buddy
    }

    /// Takes a run of `blocks` (a power of two).
    pub(crate) fn allocate(&mut self, blocks: usize) -> Option<usize> {
        let order = blocks.trailing_zeros() as usize;
        let from = (order..self.heads.len()).find(|&k| self.heads[k] != NONE)?;
        let start = self.heads[from] as usize;
        self.remove(start, from);
        for k in order..from {
            self.insert(start + (1 << k), k);
        }
        self.free_blocks -= blocks;
        Some(start)
    }

    /// Gives a run back that [`Buddy::allocate`] gave out.
    pub(crate) fn release(&mut self, start: usize, blocks: usize) {
        assert!(self.table[start].free.is_none(), "block {start} was released twice");
        self.free_blocks += blocks;
        let mut start = start;
        let mut order = blocks.trailing_zeros() as usize;
        while order + 1 < self.heads.len() {
            let other = start ^ (1 << order);
            if self.table[other].free.map(usize::from) != Some(order) {
                break;
            }
            self.remove(other, order);
            start &= !(1 << order);
            order += 1;
        }
        self.insert(start, order);
    }

    /// Blocks not handed out.
    pub(crate) fn free_blocks(&self) -> usize {
        self.free_blocks
    }

    fn insert(&mut self, start: usize, order: usize) {
        let number = u32::try_from(start).expect("an arena is far below 16 TiB");
        let next = std::mem::replace(&mut self.heads[order], number);
        if let Some(after) = self.table.get_mut(next as usize) {
            after.previous = number;
        }
        let free = u8::try_from(order).ok();
        self.table[start] = Entry { next, previous: NONE, free };
    }

    fn remove(&mut self, start: usize, order: usize) {
        let Entry { next, previous, .. } = self.table[start];
        self.table[start].free = None;
        match self.table.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.heads[order] = next,
        }
        if let Some(after) = self.table.get_mut(next as usize) {
            after.previous = previous;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn runs_never_overlap_and_merge_to_the_whole_again() {
        let mut state = 11_u64;
        let mut next = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % bound
        };
        let blocks = 256;
        let mut buddy = Buddy::new(blocks);
        let mut used = vec![false; blocks];
        let mut held: Vec<(usize, usize)> = Vec::new();
        for _ in 0..if cfg!(miri) { 300 } else { 20_000 } {
            if next(2) == 0 {
                let want = 1 << next(6);
                let free = used.iter().filter(|&&used| !used).count();
                assert_eq!(buddy.free_blocks(), free);
                if let Some(start) = buddy.allocate(want) {
                    assert_eq!(start % want, 0, "a run is aligned to its size");
                    for used in &mut used[start..start + want] {
                        assert!(!std::mem::replace(used, true));
                    }
                    held.push((start, want));
                } else {
                    let runs = used.chunks(want).filter(|run| run.iter().all(|&used| !used));
                    assert_eq!(runs.count(), 0, "a free run of {want} blocks is found");
                }
            } else if !held.is_empty() {
                let (start, want) = held.swap_remove(next(held.len()));
                used[start..start + want].fill(false);
                buddy.release(start, want);
            }
        }
        held.into_iter().for_each(|(start, want)| buddy.release(start, want));
        assert_eq!(buddy.allocate(blocks), Some(0));
    }

    #[test]
    #[should_panic(expected = "block 4 was released twice")]
    fn a_run_given_back_twice_stops() {
        let mut buddy = Buddy::new(8);
        let runs = [buddy.allocate(4).unwrap(), buddy.allocate(4).unwrap()];
        assert_eq!(runs, [0, 4]);
        buddy.release(4, 4);
        buddy.release(4, 4);
    }
}

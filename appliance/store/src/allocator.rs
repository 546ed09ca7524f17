//! Which data blocks are free: one bit each, with one bit above each 64 that tells a word without a free block, and one above
//! each 64 of those.
//!
//! Policy: lone blocks take the lowest free one. So what is overwritten block by block moves down, the low end stays
//! dense and the high end drains, however long the store ages: free space stays in long runs. All others look for one run, from
//! where the last was found and round, for a bounded while; only if none turns up they take pieces, the lowest first.
//! The device is often a sparse file, so blocks that were used before are preferred to untouched ones: above the high-water
//! mark is looked last.
//!
//! Owns no address: block 0 is the first data block. Knows nothing of who uses a block.

use crate::bytes::index;

const WORD: u64 = 64;
/// Words looked at for a run before the mark rises or pieces are taken: 1 GiB of blocks.
const SEARCH_WORDS: u64 = 4096;
/// Runs looked at for a short one: an aged store has thousands in the words above, most of one block.
const SEARCH_RUNS: u64 = 32;

/// Blocks that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) blocks: u64,
}

impl Span {
    pub(crate) const fn end(self) -> u64 {
        self.first + self.blocks
    }
}

/// The free map.
#[derive(Debug)]
pub(crate) struct Allocator {
    /// A set bit is a used block; bits behind the last block are set.
    used: Vec<u64>,
    /// A set bit is a word of `used` with all bits set.
    full: Vec<u64>,
    /// A set bit is a word of `full` with all bits set.
    dense: Vec<u64>,
    blocks: u64,
    free: u64,
    /// No block at or behind it was ever used.
    high_water: u64,
    /// Free blocks below the mark.
    free_below: u64,
    /// Where the search for a run begins.
    cursor: u64,
    /// No block below it is free.
    lowest: u64,
    /// Blocks that ever came back.
    releases: u64,
    /// Words and runs ever looked at: what searching costs.
    looks: u64,
}

impl Allocator {
    pub(crate) fn new(blocks: u64) -> Self {
        let words = index(blocks.div_ceil(WORD));
        let mut allocator = Self {
            used: vec![0; words],
            full: vec![0; words.div_ceil(64)],
            dense: vec![0; words.div_ceil(64 * 64)],
            blocks,
            free: blocks,
            high_water: 0,
            free_below: 0,
            cursor: 0,
            lowest: 0,
            releases: 0,
            looks: 0,
        };
        if !blocks.is_multiple_of(WORD) {
            allocator.used[words - 1] = u64::MAX << (blocks % WORD);
        }
        allocator
    }

    /// Blocks free.
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    /// Marks blocks found in use at start; false if one already was, or is outside.
    pub(crate) fn claim(&mut self, span: Span) -> bool {
        if span.blocks > self.blocks || span.first > self.blocks - span.blocks {
            return false;
        }
        self.raise_mark(span.end());
        let mut sound = true;
        for_words(span, |word, mask| {
            sound &= self.used[word] & mask == 0;
            self.used[word] |= mask;
            self.note_word(word);
        });
        self.free = self.free.saturating_sub(span.blocks);
        self.free_below = self.free_below.saturating_sub(span.blocks);
        sound
    }

    /// Takes `blocks` blocks in as few spans as the policy finds, pushed to `out`; false (and nothing) if so many are not free.
    pub(crate) fn allocate(&mut self, blocks: u64, out: &mut Vec<Span>) -> bool {
        if blocks > self.free {
            return false;
        }
        let mut left = blocks;
        if blocks > 1
            && let Some(span) = self.allocate_run(blocks)
        {
            out.push(span);
            return true;
        }
        while left > 0 {
            let span = match self.next_below_mark(left) {
                Some(span) => span,
                None => self.rise(left),
            };
            self.take(span);
            out.push(span);
            left -= span.blocks;
        }
        true
    }

    /// Takes `blocks` blocks in one piece, if the search finds one.
    pub(crate) fn allocate_run(&mut self, blocks: u64) -> Option<Span> {
        let span = self.find_run(blocks).or_else(|| self.run_above_mark(blocks))?;
        self.take(span);
        self.cursor = span.end();
        Some(span)
    }

    /// Gives blocks back.
    ///
    /// # Panics
    /// When one of them is free already.
    pub(crate) fn release(&mut self, span: Span) {
        assert!(span.end() <= self.high_water, "only blocks given out come back");
        self.clear(span);
        self.free += span.blocks;
        self.free_below += span.blocks;
        self.releases += span.blocks;
    }

    /// Blocks that ever came back.
    pub(crate) fn releases(&self) -> u64 {
        self.releases
    }

    /// Takes a span if every block of it is free. It is given back by [`Self::release_unwritten`].
    pub(crate) fn try_take(&mut self, span: Span) -> bool {
        let mut free = true;
        for_words(span, |word, mask| free &= self.used[word] & mask == 0);
        if !free {
            return false;
        }
        for_words(span, |word, mask| {
            self.used[word] |= mask;
            self.note_word(word);
        });
        self.free -= span.blocks;
        self.free_below -= self.below_mark(span);
        true
    }

    /// Gives a span back that [`Self::try_take`] took: nothing was written to it.
    pub(crate) fn release_unwritten(&mut self, span: Span) {
        self.clear(span);
        self.free += span.blocks;
        self.free_below += self.below_mark(span);
    }

    /// How much of a span lies below the high-water mark.
    fn below_mark(&self, span: Span) -> u64 {
        self.high_water.clamp(span.first, span.end()) - span.first
    }

    fn clear(&mut self, span: Span) {
        for_words(span, |word, mask| {
            assert!(self.used[word] & mask == mask, "a block is freed once");
            self.used[word] &= !mask;
            self.full[word / 64] &= !(1 << (word % 64));
            self.dense[word / 4096] &= !(1 << (word / 64 % 64));
        });
        self.lowest = self.lowest.min(span.first);
    }

    fn take(&mut self, span: Span) {
        self.raise_mark(span.end());
        for_words(span, |word, mask| {
            assert!(self.used[word] & mask == 0, "a block is given out once");
            self.used[word] |= mask;
            self.note_word(word);
        });
        self.free -= span.blocks;
        self.free_below -= span.blocks;
    }

    fn note_word(&mut self, word: usize) {
        if self.used[word] == u64::MAX {
            self.full[word / 64] |= 1 << (word % 64);
            if self.full[word / 64] == u64::MAX {
                self.dense[word / 4096] |= 1 << (word / 64 % 64);
            }
        }
    }

    fn raise_mark(&mut self, end: u64) {
        if end > self.high_water {
            let span = Span { first: self.high_water, blocks: end - self.high_water };
            for_words(span, |word, mask| {
                self.free_below += u64::from((!self.used[word] & mask).count_ones());
            });
            self.high_water = end;
        }
    }

    /// The untouched run at the mark, at most `blocks` long. Called when nothing below is free but something is.
    fn rise(&self, blocks: u64) -> Span {
        // Blocks above the mark may be held by a discard.
        let first = self.next_free(self.high_water, self.blocks);
        let first = first.expect("a free block is either below the mark or above");
        let end = self.run_end(first, (first + blocks).min(self.blocks));
        Span { first, blocks: end - first }
    }

    fn run_above_mark(&self, blocks: u64) -> Option<Span> {
        let mut at = self.high_water;
        // As many times as there are discards, and once more.
        while let Some(first) = self.next_free(at, self.blocks) {
            at = self.run_end(first, (first + blocks).min(self.blocks));
            if at - first == blocks {
                return Some(Span { first, blocks });
            }
        }
        None
    }

    /// The lowest free span below the mark, at most `blocks` long.
    fn next_below_mark(&mut self, blocks: u64) -> Option<Span> {
        if self.free_below == 0 {
            return None;
        }
        let from = self.lowest;
        let first = self.next_free(from, self.high_water)?;
        self.lowest = first;
        // The words between are full: 64 × 64 of them are one step.
        self.looks += 1 + (first - from) / (WORD * 64 * 64);
        let end = self.run_end(first, (first + blocks).min(self.high_water));
        Some(Span { first, blocks: end - first })
    }

    /// A free run of `blocks` below the mark, if one turns up within the search bound. If not, the next search begins where
    /// this one ended.
    fn find_run(&mut self, blocks: u64) -> Option<Span> {
        if self.free_below < blocks {
            return None;
        }
        let bound = SEARCH_WORDS * WORD;
        let far = self.cursor.saturating_add(bound).min(self.high_water);
        let wrapped = (self.cursor + bound).saturating_sub(far).min(self.cursor);
        let found = self
            .find_short_run(self.cursor, far, blocks)
            .or_else(|| self.find_short_run(0, wrapped, blocks))
            .or_else(|| self.find_run_with_word(self.cursor, far, blocks))
            .or_else(|| self.find_run_with_word(0, wrapped, blocks));
        if found.is_none() {
            self.cursor = if wrapped > 0 { wrapped } else { far };
        }
        found
    }

    /// A run among the next few.
    fn find_short_run(&mut self, from: u64, to: u64, blocks: u64) -> Option<Span> {
        if blocks >= 2 * WORD {
            return None;
        }
        let mut at = from;
        for _ in 0..SEARCH_RUNS {
            self.looks += 1;
            let first = self.next_free(at, to)?;
            let end = self.run_end(first, (first + blocks).min(self.high_water));
            if end - first == blocks {
                return Some(Span { first, blocks });
            }
            at = end;
        }
        None
    }

    /// A run with a word that is wholly free, as long ones have; only such words are looked at.
    fn find_run_with_word(&mut self, from: u64, to: u64, blocks: u64) -> Option<Span> {
        let mut word = from.div_ceil(WORD);
        while word * WORD < to {
            self.looks += 1;
            if self.used[index(word)] != 0 {
                word += 1;
                continue;
            }
            let before = match word.checked_sub(1) {
                Some(before) if (word - 1) * WORD >= from => self.used[index(before)],
                Some(_) | None => u64::MAX,
            };
            let first = word * WORD - u64::from(before.leading_zeros());
            let end = self.run_end(first, (first + blocks).min(self.high_water));
            if end - first == blocks {
                return Some(Span { first, blocks });
            }
            word = end.div_ceil(WORD).max(word + 1);
        }
        None
    }

    /// First free block in `from..to`.
    fn next_free(&self, from: u64, to: u64) -> Option<u64> {
        let mut at = from;
        while at < to {
            let word = index(at / WORD);
            let free = !self.used[word] & (u64::MAX << (at % WORD));
            if free != 0 {
                let found = word as u64 * WORD + u64::from(free.trailing_zeros());
                return (found < to).then_some(found);
            }
            at = self.next_word_not_full(word as u64 + 1) * WORD;
        }
        None
    }

    /// First word from `word` on with a free block, as far as the summary's word tells.
    fn next_word_not_full(&self, word: u64) -> u64 {
        let summary = index(word / 64);
        let Some(&bits) = self.full.get(summary) else {
            return self.used.len() as u64;
        };
        let open = !bits & (u64::MAX << (word % 64));
        if open == 0 {
            return self.next_summary_not_full(summary as u64 + 1) * 64;
        }
        summary as u64 * 64 + u64::from(open.trailing_zeros())
    }

    /// First word of the summary from `summary` on with a bit that is not set, or one behind the last.
    fn next_summary_not_full(&self, summary: u64) -> u64 {
        let mut at = summary;
        while let Some(&bits) = self.dense.get(index(at / 64)) {
            let open = !bits & (u64::MAX << (at % 64));
            if open != 0 {
                return at - at % 64 + u64::from(open.trailing_zeros());
            }
            at = at - at % 64 + 64;
        }
        at
    }

    /// End of the free run that begins at `from`, at most `to`.
    fn run_end(&self, from: u64, to: u64) -> u64 {
        let mut at = from;
        while at < to {
            let used = self.used[index(at / WORD)] & (u64::MAX << (at % WORD));
            if used != 0 {
                return (at - at % WORD + u64::from(used.trailing_zeros())).min(to);
            }
            at = at - at % WORD + WORD;
        }
        to
    }
}

/// Calls `f` with each word a span touches and the mask of its bits there.
fn for_words(span: Span, mut f: impl FnMut(usize, u64)) {
    let mut at = span.first;
    while at < span.end() {
        let bit = at % WORD;
        let count = (WORD - bit).min(span.end() - at);
        let mask = if count == WORD { u64::MAX } else { ((1 << count) - 1) << bit };
        f(index(at / WORD), mask);
        at += count;
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_block_is_given_out_once_and_all_can_be() {
        let mut state = 7_u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        for blocks in [1_u64, 63, 64, 65, 5000, 10_007] {
            let mut allocator = Allocator::new(blocks);
            let mut owned: Vec<Span> = Vec::new();
            let mut used = vec![false; index(blocks)];
            for _ in 0..2000 {
                if next(2) == 0 {
                    let most = if next(4) == 0 { 300 } else { 4 };
                    let want = 1 + next(most);
                    let free = used.iter().filter(|&&used| !used).count() as u64;
                    assert_eq!(allocator.free(), free);
                    let before = owned.len();
                    assert_eq!(allocator.allocate(want, &mut owned), want <= free);
                    let got: u64 = owned[before..].iter().map(|span| span.blocks).sum();
                    assert_eq!(got, if want <= free { want } else { 0 });
                    for span in &owned[before..] {
                        for block in span.first..span.end() {
                            assert!(!std::mem::replace(&mut used[index(block)], true));
                        }
                    }
                } else if !owned.is_empty() {
                    let at = index(next(owned.len() as u64));
                    let span = owned.swap_remove(at);
                    used[index(span.first)..index(span.end())].fill(false);
                    allocator.release(span);
                }
            }
        }
    }

    #[test]
    fn freed_blocks_are_used_before_untouched_ones() {
        let mut allocator = Allocator::new(1 << 20);
        let mut spans = Vec::new();
        assert!(allocator.allocate(1000, &mut spans));
        allocator.release(Span { first: 100, blocks: 50 });
        spans.clear();
        assert!(allocator.allocate(4, &mut spans));
        assert_eq!(spans, [Span { first: 100, blocks: 4 }]);
        spans.clear();
        assert!(allocator.allocate(256, &mut spans));
        assert_eq!(spans, [Span { first: 1000, blocks: 256 }], "a large one wants one run");
    }

    /// Ages an allocator: 95 % full with holes anywhere, then each block given back and taken anew ten times on average, in any
    /// order, coming back some time after the next was taken, as behind a flush.
    #[test]
    fn an_aged_store_is_searched_as_fast_and_its_free_blocks_come_together() {
        const BLOCKS: u64 = 1 << 18;
        let mut state = 3_u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        let mut allocator = Allocator::new(BLOCKS);
        let mut spans = Vec::new();
        assert!(allocator.allocate(BLOCKS, &mut spans));
        let mut places: Vec<u64> = (0..BLOCKS).collect();
        while places.len() as u64 > BLOCKS / 20 * 19 {
            let first = places.swap_remove(index(next(places.len() as u64)));
            allocator.release(Span { first, blocks: 1 });
        }
        let whole = |allocator: &Allocator| {
            let free = allocator.used.chunks(4).filter(|words| words.iter().all(|&word| word == 0));
            free.count() as u64 * 4 * WORD
        };
        assert_eq!(whole(&allocator), 0, "no mebibyte is free to begin with");
        let mut waiting = Vec::new();
        let (mut most, before) = (0, allocator.looks);
        let rounds = 10 * places.len();
        for _ in 0..rounds {
            let block = index(next(places.len() as u64));
            let looks = allocator.looks;
            spans.clear();
            assert!(allocator.allocate(1, &mut spans));
            most = most.max(allocator.looks - looks);
            waiting.push(std::mem::replace(&mut places[block], spans[0].first));
            if waiting.len() == 2048 {
                waiting.drain(..).for_each(|first| allocator.release(Span { first, blocks: 1 }));
            }
        }
        waiting.drain(..).for_each(|first| allocator.release(Span { first, blocks: 1 }));
        let together = whole(&allocator) as f64 / allocator.free() as f64;
        println!("{:.0} % of what is free lies in whole mebibytes", together * 100.0);
        assert!(together > 0.7, "{together}");
        let mean = (allocator.looks - before) as f64 / rounds as f64;
        println!("{mean:.2} words and runs looked at for a block, {most} at most");
        assert!(mean < 2.0 && most <= 1 + BLOCKS / (WORD * 64), "{mean}, {most}");

        for blocks in [2, 16, 32, 256] {
            let looks = allocator.looks;
            spans.clear();
            assert!(allocator.allocate(blocks, &mut spans));
            let looks = allocator.looks - looks;
            println!("{looks} looked at for {blocks} blocks, in {} pieces", spans.len());
            assert!(looks <= SEARCH_WORDS + 2 * SEARCH_RUNS + blocks, "{looks}");
            assert_eq!(spans.len(), 1, "there are long runs");
        }
    }

    #[test]
    fn a_long_run_is_found_wherever_it_begins() {
        for first in [0, 1, 63, 64, 65, 1000, 4000 - 300] {
            let mut allocator = Allocator::new(4000);
            let mut spans = Vec::new();
            assert!(allocator.allocate(4000, &mut spans));
            allocator.release(Span { first, blocks: 300 });
            for blocks in [17, 127, 128, 300] {
                let span = allocator.allocate_run(blocks);
                assert_eq!(span.map(|span| span.blocks), Some(blocks), "{blocks} at {first}");
                allocator.release(span.unwrap());
            }
            assert_eq!(allocator.allocate_run(301), None);
        }
    }
}
